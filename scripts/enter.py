"""Run a program with another system's /usr and /etc: in a mount and a network namespace of its own.

Usage: python scripts/enter.py SYSTEM SCRATCH [--keep-network] [--without MOUNT] -- PROGRAM [ARGUMENT...]

SYSTEM is a folder with a Debian of whatever release; it is never written to: /run lies in SCRATCH, and so do changes
of /etc; a program that is started again finds both as they were. With --keep-network the network is the caller's. All
else is this machine's, at the same paths: an engine started so sees the files that its users see, and its root folder
is theirs. Not chroot: an engine leaves that for its host's root, and what it does in containers would land there. Not
another root by pivot_root: a bind mount would be of other files than the user meant.

The program takes this process's place and its id, and gets SIGTERM when its parent dies; the namespaces go with the
last process in them. Standard library only, and run as a file: no working directory is asked for.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import shutil
import signal
import socket
import struct
import sys
from pathlib import Path

_LIBC = ctypes.CDLL(None, use_errno=True)
_CLONE_NEWNS, _CLONE_NEWNET = 0x20000, 0x40000000
_BIND, _RECURSIVE, _SLAVE, _DETACH = 4096, 16384, 1 << 19, 2
_READ_ONLY_BIND = 1 | 32 | _BIND  # read-only, remount
_PR_SET_PDEATHSIG = 1
_UP = 0x1
_SIOCGIFFLAGS, _SIOCSIFFLAGS = 0x8913, 0x8914
_CGROUPS = "/sys/fs/cgroup"
_OF_ENGINES = ("overlay", "nsfs")
NAME_SERVER = "198.51.100.2"  # of a network namespace of its own, in which nothing else would answer either


def enter(root: Path, scratch: Path, *, keep_network: bool, without: str | None) -> None:
    """Put this process on the system below `root`."""
    _check(_LIBC.unshare(_CLONE_NEWNS | (0 if keep_network else _CLONE_NEWNET)), "unshare")
    _bring_loopback_up()
    _mount(None, "/", None, _RECURSIVE | _SLAVE)
    for mount in _mounts_of_engines():
        _LIBC.umount2(mount.encode(), _DETACH)  # one whose container ended meanwhile is gone already
    if without is not None:
        _check(_LIBC.umount2(without.encode(), _DETACH), f"unmounting {without}")
    _own_sysfs()
    (scratch / "run").mkdir(parents=True, exist_ok=True)
    _mount(f"{scratch}/run", "/run", None, _BIND)
    _own_etc(root, scratch)
    if not keep_network:
        Path("/etc/resolv.conf").write_text(f"nameserver {NAME_SERVER}\n")
    _mount(f"{root}/usr", "/usr", None, _BIND)
    _mount(None, "/usr", None, _READ_ONLY_BIND)


def _own_sysfs() -> None:
    """It shows the network interfaces of the namespace that it is mounted in. The control groups stay."""
    groups = os.open(_CGROUPS, os.O_PATH)
    _mount("sysfs", "/sys", "sysfs")
    _mount(f"/proc/self/fd/{groups}", _CGROUPS, None, _BIND | _RECURSIVE)
    os.close(groups)


def _own_etc(root: Path, scratch: Path) -> None:
    upper, work = scratch / "etc", scratch / "work"
    for folder in (upper, work):
        folder.mkdir(parents=True, exist_ok=True)
    for name in ("hosts", "resolv.conf"):
        if Path("/etc", name).exists():
            shutil.copyfile(Path("/etc", name), upper / name)
    _mount("overlay", "/etc", "overlay", data=f"lowerdir={root}/etc,upperdir={upper},workdir={work}")


def _mounts_of_engines() -> list[str]:
    """Those of containers that run on this machine now, innermost first: held here, they could not be removed there."""
    lines = [line.split() for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    found = [words[4] for words in lines if words[words.index("-") + 1] in _OF_ENGINES and words[4] != "/"]
    return sorted(found, key=len, reverse=True)


def _mount(source: str | None, target: str, kind: str | None, flags: int = 0, data: str | None = None) -> None:
    words = [None if word is None else word.encode() for word in (source, target, kind, data)]
    _check(_LIBC.mount(words[0], words[1], words[2], ctypes.c_ulong(flags), words[3]), f"mounting {target}")


def _check(result: int, what: str) -> None:
    if result != 0:
        sys.exit(f"{what}: {os.strerror(ctypes.get_errno())}")


def _bring_loopback_up() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        request = struct.pack("16sh14x", b"lo", 0)
        (flags,) = struct.unpack_from("h", fcntl.ioctl(control, _SIOCGIFFLAGS, request), 16)
        fcntl.ioctl(control, _SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", flags | _UP))


def main(arguments: list[str]) -> None:
    """Enter and become the program."""
    separator = arguments.index("--")
    (root, scratch, *rest), program = arguments[:separator], arguments[separator + 1 :]
    parent = os.getppid()
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        sys.exit("the parent is gone already")
    without = rest[rest.index("--without") + 1] if "--without" in rest else None
    enter(Path(root), Path(scratch), keep_network="--keep-network" in rest, without=without)
    os.execvp(program[0], program)


if __name__ == "__main__":
    main(sys.argv[1:])
