"""Capabilities as the kernel numbers them, and what the engine leaves of them. Pure.

Sources: capability.h of Linux 5.9 and later for the numbers; the engine's documented default set.
"""

from __future__ import annotations

from collections.abc import Iterable

ORDER = tuple(
    (
        "CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE "
        "NET_BIND_SERVICE NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT "
        "SYS_PTRACE SYS_PACCT SYS_ADMIN SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE "
        "AUDIT_WRITE AUDIT_CONTROL SETFCAP MAC_OVERRIDE MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ "
        "PERFMON BPF CHECKPOINT_RESTORE"
    ).split()
)
DEFAULT = frozenset(
    (
        "CHOWN DAC_OVERRIDE FSETID FOWNER MKNOD NET_RAW SETGID SETUID SETFCAP SETPCAP NET_BIND_SERVICE SYS_CHROOT "
        "KILL AUDIT_WRITE"
    ).split()
)


def mask(names: Iterable[str]) -> int:
    """The bits of capabilities by name, without `CAP_`."""
    return sum(1 << ORDER.index(name) for name in set(names))


def names(mask: int) -> tuple[str, ...]:
    """The names of the bits; one that has none is told by its number."""
    numbers = (n for n in range(mask.bit_length()) if mask >> n & 1)
    return tuple(ORDER[n] if n < len(ORDER) else f"capability {n}" for n in numbers)


def allowed(add: Iterable[str], drop: Iterable[str]) -> int:
    """The most that a container with these options may hold, as the engine works it out."""
    added, dropped = set(add), set(drop)
    base = set(ORDER) if "ALL" in added else set() if "ALL" in dropped else set(DEFAULT)
    if "ALL" not in dropped:
        base -= dropped
    return mask(base | (added - {"ALL"}))
