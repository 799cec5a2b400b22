"""How values that the program printed are read and told. Pure."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterable, Iterator, Mapping

from sandboxrun.probe.types import Seen

OK = "ok"
NOTHING: Mapping[str, str] = {}
# What a call gives that a filter or the kernel refuses. 31: the signal of a filter that kills.
REFUSED = frozenset({f"errno:{errno.EPERM}", f"errno:{errno.ENOSYS}", "signal:31"})
# What one gives that this kernel does not have at all; 11: an entry that it does not have.
MISSING = frozenset(
    {f"errno:{number}" for number in (errno.ENOSYS, errno.EAFNOSUPPORT, errno.EPROTONOSUPPORT, errno.ESOCKTNOSUPPORT)}
    | {"signal:11"}
)
UNKNOWN = frozenset({"timeout", "unrun", ""})


def value(seen: Seen, probe: str, key: str) -> str:
    """One value; "" where it was not printed."""
    return seen.get(probe, NOTHING).get(key, "")


def number(text: str) -> int | None:
    """A decimal number; None for anything else."""
    return int(text) if re.fullmatch(r"-?[0-9]{1,20}", text) else None


def numbered(seen: Seen, probe: str) -> Iterator[Mapping[str, str]]:
    """The lines `probe.0`, `probe.1` and so on."""
    index = 0
    while f"{probe}.{index}" in seen:
        yield seen[f"{probe}.{index}"]
        index += 1


def result(text: str) -> str:
    """How a call ended, in words: `EPERM`, `worked`, `killed by signal 31`, `no answer in time`."""
    kind, _, rest = text.partition(":")
    match kind:
        case "errno":
            return errno.errorcode.get(number(rest) or 0, f"error {rest}")
        case "signal":
            return f"killed by signal {rest}"
        case "timeout":
            return "no answer in time"
        case "ok":
            return "worked"
    return "not tried"


def results(values: Mapping[str, str], keys: Iterable[str] | None = None) -> str:
    """How several calls ended, those that ended alike together: `EPERM: mount, umount2; worked: chroot`."""
    groups: dict[str, list[str]] = {}
    for key in values if keys is None else keys:
        groups.setdefault(result(values.get(key, "")), []).append(key)
    return "; ".join(f"{how}: {', '.join(names)}" for how, names in groups.items())


def fails(text: str, *names: str) -> bool:
    """Whether a call failed with one of these errors, given by name."""
    return text in {f"errno:{getattr(errno, name)}" for name in names}


def every(answers: Iterable[bool | None]) -> bool | None:
    """True if all are; False if one is; else, or if there is none, None."""
    found = list(answers)
    if False in found:
        return False
    return None if None in found or not found else True
