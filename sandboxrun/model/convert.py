"""How single values are written for the engine and read back: pairs of small functions, one direction each.

Owns no placement: which field a value goes to is said in `placements.py` and by the rows. Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from sandboxrun.model import forms, seccomp
from sandboxrun.model.records import Device, Healthcheck, Logging, Ulimit, device_target
from sandboxrun.model.security_opt import join_security, split_security
from sandboxrun.model.types import freeze
from sandboxrun.model.units import SECOND


def number(value: Any) -> int:
    """null is 0."""
    return int(value or 0)


def pids(value: Any) -> int:
    """null, 0 and -1 all mean unlimited; we write 0."""
    return max(0, int(value or 0))


def text(value: Any) -> str:
    """null is ""."""
    return str(value or "")


def text_or_none(value: Any) -> str | None:
    """ "" is not set."""
    return str(value) if value else None


def form(of: forms.Form, empty: str | None = None) -> Callable[[Any], str | None]:
    """A text in its canonical form; `empty` where none is set."""
    return lambda value: forms.shown(of, value) if value else empty


def words_in(of: forms.Form) -> Callable[[Any], tuple[str, ...]]:
    """Texts in their canonical form, in their order; null is ()."""
    return lambda value: tuple(forms.shown(of, item) for item in value or ())


def words(value: Any) -> tuple[str, ...]:
    """null is ()."""
    return tuple(value or ())


def words_or_none(value: Any) -> tuple[str, ...] | None:
    """null and [] are not set."""
    return tuple(value) if value else None


def resolver_options(value: Any) -> tuple[str, ...]:
    """Options of resolv.conf, sorted by name; null is ()."""
    return tuple(sorted(value or (), key=forms.resolver_option))


def names(value: Any) -> tuple[str, ...]:
    """A set of names, or those in a mapping, sorted; null is ()."""
    return tuple(sorted(value or ()))


def mapping(value: Any) -> Mapping[str, str]:
    """null is {}."""
    return freeze(value or {})


def flag(value: Any) -> bool:
    """null is false."""
    return bool(value)


def capabilities(value: Any) -> tuple[str, ...]:
    """Sorted, without the CAP_ prefix; Podman adds it."""
    return tuple(sorted(str(item).upper().removeprefix("CAP_") for item in value or ()))


def cpus_to_nano(value: float) -> int:
    """CPUs to billionths."""
    return round(value * 1_000_000_000)


def nano_to_cpus(value: Any) -> float:
    """Billionths to CPUs."""
    return int(value or 0) / 1_000_000_000


def seconds(value: int | None) -> int | None:
    """Nanoseconds to whole seconds, rounded up: the engine counts a stop timeout in seconds."""
    return None if value is None else -(-value // 1_000_000_000)


def nanoseconds(value: Any) -> int | None:
    """Whole seconds to nanoseconds."""
    return None if value is None else int(value) * 1_000_000_000


def to_ulimits(value: Mapping[str, Ulimit]) -> list[dict[str, Any]]:
    """Limits by name to the engine's list."""
    return [{"Name": name, "Soft": limit.soft, "Hard": limit.hard} for name, limit in sorted(value.items())]


def from_ulimits(value: Any) -> Mapping[str, Ulimit]:
    """The engine's list to limits by name; Podman writes RLIMIT_NOFILE."""
    named = {str(i["Name"]).removeprefix("RLIMIT_").lower(): i for i in value or ()}
    return freeze({name: Ulimit(soft=int(i["Soft"]), hard=int(i["Hard"])) for name, i in sorted(named.items())})


def to_equals(value: Mapping[str, str | None]) -> list[str]:
    """A mapping as NAME=value."""
    return [name if item is None else f"{name}={item}" for name, item in value.items()]


def from_equals(value: Any) -> Mapping[str, str | None]:
    """NAME=value as a mapping."""
    pairs = (str(item).partition("=") for item in value or ())
    return freeze({name: item if equals else None for name, equals, item in pairs})


def to_hosts(value: Mapping[str, tuple[str, ...]]) -> list[str]:
    """Names and addresses as NAME:address, a line for each address."""
    return [f"{name}:{address}" for name, addresses in value.items() for address in addresses]


def from_hosts(value: Any) -> Mapping[str, tuple[str, ...]]:
    """NAME:address as a mapping; an address may hold colons, and a name have several."""
    found: dict[str, list[str]] = {}
    for name, _, address in (str(item).partition(":") for item in value or ()):
        found.setdefault(name, []).append(address)
    return freeze({name: tuple(addresses) for name, addresses in found.items()})


def to_security(value: Mapping[str, str]) -> list[str]:
    """Security options by name to the engine's list; a seccomp profile of ours goes as its content."""
    sent = {name: seccomp.to_engine(item) if name == "seccomp" else item for name, item in value.items()}
    return [join_security(name, item) for name, item in sent.items() if item is not None]


def from_security(value: Any) -> Mapping[str, str]:
    """The engine's list, in either spelling, to options by name; a seccomp profile that is ours gets its name back."""
    options = dict(split_security(str(item)) for item in value or ())
    return freeze({**options, "seccomp": seccomp.from_engine(options.get("seccomp"))})


def to_restart(value: str) -> dict[str, Any]:
    """`on-failure:3` to the engine's policy."""
    name, _, count = value.partition(":")
    return {"Name": name, "MaximumRetryCount": int(count or 0)}


def from_restart(value: Any) -> str:
    """The engine's policy to `on-failure:3`."""
    name, count = (value or {}).get("Name") or "no", (value or {}).get("MaximumRetryCount") or 0
    return f"{name}:{count}" if count else str(name)


def to_health(value: Healthcheck) -> dict[str, Any]:
    """A health check to Config.Healthcheck, all of it: the engine takes what is left out from the image's."""
    if value.disable:
        return {"Test": ["NONE"]}
    return {
        "Test": list(value.test or ()),
        "Interval": value.interval,
        "Timeout": value.timeout,
        "Retries": value.retries,
        "StartPeriod": value.start_period,
    }


def from_health(value: Any) -> Healthcheck | None:
    """Config.Healthcheck to a health check; the engine's own defaults for what an image leaves out."""
    if not value:
        return None
    if value.get("Test") == ["NONE"]:
        return Healthcheck(disable=True)
    return Healthcheck(
        test=words_or_none(value.get("Test")),
        interval=value.get("Interval") or 30 * SECOND,
        timeout=value.get("Timeout") or 30 * SECOND,
        retries=value.get("Retries") or 3,
        start_period=value.get("StartPeriod") or 0,
    )


def to_logging(value: Logging) -> dict[str, Any]:
    """Logging to HostConfig.LogConfig."""
    return {"Type": value.driver, "Config": dict(value.options)}


def from_logging(value: Any) -> Logging:
    """HostConfig.LogConfig to logging."""
    value = value or {}
    return Logging(driver=str(value.get("Type") or ""), options=freeze(value.get("Config") or {}))


def to_devices(value: tuple[Device, ...]) -> list[dict[str, str]]:
    """Devices to the engine's list."""
    return [
        {"PathOnHost": d.source, "PathInContainer": d.target or d.source, "CgroupPermissions": d.permissions}
        for d in value
    ]


def from_devices(value: Any) -> tuple[Device, ...]:
    """The engine's list to devices."""
    found = (
        Device(
            source=d["PathOnHost"],
            target=d["PathInContainer"],
            permissions=forms.permissions(d["CgroupPermissions"]),
        )
        for d in value or ()
    )
    return tuple(sorted(found, key=device_target))


def to_gpus(value: int | None) -> list[dict[str, Any]]:
    """A number of GPUs (-1: all) to a device request."""
    return [] if value is None else [{"Driver": "", "Count": value, "Capabilities": [["gpu"]]}]


def from_gpus(value: Any) -> int | None:
    """A device request to a number of GPUs."""
    requests = [r for r in value or () if ["gpu"] in (r.get("Capabilities") or ())]
    return int(requests[0].get("Count") or 0) if requests else None
