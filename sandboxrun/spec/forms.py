"""One canonical form for each text that can be written in several ways: `INT`, `2` and `SIGINT` are one signal.

Each function returns the canonical form, of that form itself too, and raises ValueError, with a clause for the
message, for a text that has none. Option types apply them to what is written, placements to what an engine shows, so
that both compare equal. Pure.
"""

from __future__ import annotations

import ipaddress
import posixpath
import re
from collections.abc import Callable, Mapping

Form = Callable[[str], str]

# -- images ------------------------------------------------------------------------------------------------------

_DOMAIN = r"(?:[A-Za-z0-9]|[A-Za-z0-9][A-Za-z0-9-]*[A-Za-z0-9])"
_REGISTRY = rf"{_DOMAIN}(?:\.{_DOMAIN})*(?::[0-9]+)?/"
_PART = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
IMAGE = rf"(?:{_REGISTRY})?{_PART}(?:/{_PART})*(?::[A-Za-z0-9_][A-Za-z0-9_.-]{{0,127}})?(?:@sha256:[0-9a-f]{{64}})?"
_ID = re.compile(r"sha256:[0-9a-f]+|[0-9a-f]{12,64}")


def image_parts(reference: str) -> tuple[str, str, str]:
    """An image's name, tag and digest, "" for what its reference lacks. A colon before the last slash is a port's."""
    named, _, digest = reference.partition("@")
    tag = named.rpartition(":")[2] if ":" in named.rpartition("/")[2] else ""
    return named.removesuffix(f":{tag}"), tag, digest


def image(text: str) -> str:
    """`x` is `x:latest`, a digest makes a tag meaningless, and `library/` is where names without a path are."""
    if _ID.fullmatch(text) or not re.fullmatch(IMAGE, text):
        return text  # an image's id has no tag; what is no reference is reported as it is written
    name, tag, digest = image_parts(text)
    name = name.removeprefix("library/") if name.count("/") == 1 else name
    return f"{name}@{digest}" if digest else f"{name}:{tag or 'latest'}"


_SAME = {"x86_64": "amd64", "x86-64": "amd64", "aarch64": "arm64", "i386": "386", "i686": "386"}
_VARIANTS = {
    "amd64/v1": "amd64",
    "arm64/v8": "arm64",
    "arm64/8": "arm64",
    "armhf": "arm/v7",
    "armel": "arm/v6",
    "arm": "arm/v7",
    **{f"arm/{version}": f"arm/v{version}" for version in range(5, 9)},
}
_KNOWN = ("386", "amd64", "arm", "arm64", "loong64", "mips64", "mips64le", "ppc64le", "riscv64", "s390x")


def platform(text: str) -> str:
    """`linux/x86_64` and `amd64` are `linux/amd64`; `linux` alone is the engine's own architecture."""
    text = text.lower()
    system, slash, rest = text.partition("/")
    if system == "linux":
        return f"linux/{_architecture(rest)}" if slash else system
    architecture = _architecture(text)
    if architecture.partition("/")[0] in _KNOWN:
        return f"linux/{architecture}"
    if not slash:
        raise ValueError("it is neither a known system nor a known architecture")
    return text


def _architecture(text: str) -> str:
    name, slash, variant = text.partition("/")
    whole = f"{_SAME.get(name, name)}{slash}{variant}"
    return _VARIANTS.get(whole, whole)


# -- signals -----------------------------------------------------------------------------------------------------

_NAMES = (
    "HUP INT QUIT ILL TRAP ABRT BUS FPE KILL USR1 SEGV USR2 PIPE ALRM TERM STKFLT CHLD CONT STOP TSTP TTIN TTOU URG "
    "XCPU XFSZ VTALRM PROF WINCH IO PWR SYS"
).split()
_ALSO = {"IOT": "ABRT", "CLD": "CHLD", "POLL": "IO", "UNUSED": "SYS", "RTMIN": "RTMIN+0", "RTMAX": "RTMAX-0"}
_FIRST, _LAST = 34, 64  # the real-time signals that a C library leaves to programs


def signal(text: str) -> str:
    """`INT`, `int` and `2` are `SIGINT`."""
    if text.isdecimal():
        number = int(text)
        if 0 < number <= len(_NAMES):
            return f"SIG{_NAMES[number - 1]}"
        return _real_time(number)
    name = text.upper().removeprefix("SIG")
    name = _ALSO.get(name, name)
    if name in _NAMES:
        return f"SIG{name}"
    match = re.fullmatch(r"RT(MIN\+|MAX-)([0-9]{1,2})", name)
    if match is None:
        raise ValueError("see signal(7)")
    return _real_time(_FIRST + int(match[2]) if match[1] == "MIN+" else _LAST - int(match[2]))


def _real_time(number: int) -> str:
    if not _FIRST <= number <= _LAST:
        raise ValueError("see signal(7)")
    middle = (_FIRST + _LAST) // 2
    offset = f"MIN+{number - _FIRST}" if number <= middle else f"MAX-{_LAST - number}"
    return f"SIGRT{offset}".removesuffix("+0").removesuffix("-0")


# -- numbers and sets of them ------------------------------------------------------------------------------------


def cpus(text: str) -> str:
    """A set of CPUs as the kernel writes it: `0,1` and `1,0` are `0-1`."""
    spans = []
    for part in text.split(","):
        low, _, high = part.partition("-")
        spans.append((int(low), int(high or low)))
        if spans[-1][0] > spans[-1][1]:
            raise ValueError(f"{part} ends before it begins")
    joined: list[tuple[int, int]] = []
    for first, last in sorted(spans):
        if joined and first <= joined[-1][1] + 1:
            joined[-1] = (joined[-1][0], max(last, joined[-1][1]))
        else:
            joined.append((first, last))
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in joined)


def cpu_numbers(text: str) -> frozenset[int]:
    """The CPUs of a set, of a long span the first ones."""
    spans = [part.partition("-") for part in text.split(",")]
    return frozenset(n for low, _, high in spans for n in range(int(low), min(int(high or low), int(low) + 4096) + 1))


def below(path: str, top: str) -> bool:
    """Whether a path is `top` or lies below it."""
    return path == top or path.startswith(f"{top.rstrip('/')}/")


def account(text: str) -> str:
    """A user or group, or both with a colon: numbers have no zeros in front."""
    return ":".join(str(int(part)) if part.isdecimal() else part for part in text.split(":"))


def restart(text: str) -> str:
    """A restart policy: a count of 0 is no bound."""
    name, _, count = text.partition(":")
    return f"{name}:{int(count)}" if int(count or 0) else name


def path(text: str) -> str:
    """An absolute path in a sandbox: without doubled or trailing slashes, `.` and `..`."""
    return "/" + posixpath.normpath(text).lstrip("/")


def permissions(text: str) -> str:
    """What may be done with a device: `mrw` is `rwm`."""
    return "".join(letter for letter in "rwm" if letter in text)


# -- the network -------------------------------------------------------------------------------------------------


def address(text: str) -> str:
    """An IP address: `fd00:0::5` is `fd00::5`."""
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        raise ValueError("it is not a valid address") from None


def subnet(text: str) -> str:
    """A range of addresses, its host bits zero."""
    try:
        return str(ipaddress.ip_network(text, strict=False))
    except ValueError:
        raise ValueError("it is not a valid subnet") from None


def domain(text: str) -> str:
    """A name that is looked up in the DNS: in lower case, and without the dot at its end."""
    return text.lower().removesuffix(".") or "."


def covers(listed: str, destination: str) -> bool:
    """Whether a destination of a list, `host:port` or `*.domain:port`, allows all that another one does."""
    host, _, port = listed.rpartition(":")
    other, _, wanted = destination.rpartition(":")
    if port not in ("*", wanted):
        return False
    return host in ("*", other) or (host.startswith("*.") and other.removeprefix("*").endswith(host[1:]))


def resolver_option(text: str) -> str:
    """The name of an option of resolv.conf."""
    return text.partition(":")[0]


def sysctl(text: str) -> str:
    """A kernel parameter: `net/ipv4/ip_forward` is `net.ipv4.ip_forward`, where no name in it has a dot."""
    return text if "." in text else text.replace("/", ".")


def shown(form: Form, text: object) -> str:
    """The canonical form of what an engine shows; as it is where it has none."""
    try:
        return form(str(text))
    except ValueError:
        return str(text)


# -- security_opt --------------------------------------------------------------------------------------------------

LABEL_PART = "label="


def split_security(item: str) -> tuple[str, str]:
    """`name=value`, `name:value` or a bare `no-new-privileges`, as a pair. A label's name holds which part it sets:
    `label=user:root` is ("label=user", "root")."""
    at = min((i for c in "=:" if (i := item.find(c)) >= 0), default=-1)
    name, value = (item, "true") if at < 0 else (item[:at], item[at + 1 :])
    if name != "label" or ":" not in value:
        return name, value
    part, _, value = value.partition(":")
    return f"{LABEL_PART}{part}", value


def join_security(name: str, value: str) -> str:
    """The pair as one text: `label=user:root`, `seccomp=debug`."""
    return f"{name}:{value}" if name.startswith(LABEL_PART) else f"{name}={value}"


# File systems that show the host's kernel, whatever is mounted where: what they are where every host has them.
_OF_THE_KERNEL = {
    "proc": "/proc", "sysfs": "/sys", "devtmpfs": "/dev", "cgroup": "/sys/fs/cgroup", "cgroup2": "/sys/fs/cgroup",
    "debugfs": "/sys/kernel/debug", "tracefs": "/sys/kernel/tracing", "securityfs": "/sys/kernel/security",
    "bpf": "/sys/fs/bpf", "configfs": "/sys/kernel/config", "pstore": "/sys/fs/pstore", "efivarfs": "/sys/firmware/efi",
}  # fmt: skip


def volume_shows(options: Mapping[str, str], driver: str = "") -> str:
    """What a volume shows that is not the engine's own, by the options of its driver: a path of the host, or a file
    system by its type and device. "" for a directory of the engine's, and for memory."""
    kind, device, words = options.get("type", ""), options.get("device", ""), options.get("o", "").split(",")
    if driver not in ("", "local", "default"):
        return f"{driver}:{device}"
    if kind in _OF_THE_KERNEL:
        return _OF_THE_KERNEL[kind]
    if device.startswith("/") or {"bind", "rbind"} & set(words):
        return device or "/"
    if kind in ("", "none", "tmpfs"):
        return ""
    layers = (word.partition("=")[2].split(":")[0] for word in words if word.startswith(("upperdir=", "lowerdir=")))
    return next(layers, "") or f"{kind}:{device}"


def is_of_the_host(shown: str) -> bool:
    """Whether what a volume shows is a path: no share of the network, nor what a plug-in has."""
    return shown.startswith((".", "/", "~", "$")) and not shown.startswith("//")
