"""Run a program on another system's files: in a mount and a network namespace of its own, entered by pivot_root.

Usage: python scripts/pivot.py ROOT SCRATCH SHARED[:SHARED...] [--without MOUNT] -- PROGRAM [ARGUMENT...]

ROOT, a folder, is the system; it is never written to: what the program writes goes to SCRATCH. Each SHARED folder is
seen there as it is here, at the same path, and so are /dev and the control groups. The program takes this process's
place and its id, and gets SIGTERM when its parent dies; the namespaces go with the last process in them.

Not chroot: an engine leaves that for its host's root, and what it does in containers would land there. Standard library
only, and run as a file: no working directory is asked for.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import platform
import signal
import socket
import struct
import sys
from pathlib import Path

_LIBC = ctypes.CDLL(None, use_errno=True)
_CLONE_NEWNS, _CLONE_NEWNET = 0x20000, 0x40000000
_BIND, _RECURSIVE, _PRIVATE, _DETACH = 4096, 16384, 1 << 18, 2
_PR_SET_PDEATHSIG = 1
_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
_UP = 0x1
_SIOCGIFFLAGS, _SIOCSIFFLAGS = 0x8913, 0x8914
_CGROUPS = "/sys/fs/cgroup"


def enter(root: Path, scratch: Path, shared: list[str], without: str | None) -> None:
    """Put this process on the system below `root`."""
    _check(_LIBC.unshare(_CLONE_NEWNS | _CLONE_NEWNET), "unshare")
    _bring_loopback_up()
    _mount(None, "/", None, _RECURSIVE | _PRIVATE)
    if without is not None:
        _check(_LIBC.umount2(without.encode(), _DETACH), f"unmounting {without}")
    new = _overlay(root, scratch)
    _mount("proc", f"{new}/proc", "proc")
    _mount("sysfs", f"{new}/sys", "sysfs")  # a new one: it shows the network interfaces of its namespace
    _mount("tmpfs", f"{new}/run", "tmpfs", data="mode=755")
    for path in ("/dev", _CGROUPS, *shared):
        Path(f"{new}{path}").mkdir(parents=True, exist_ok=True)
        _mount(path, f"{new}{path}", None, _BIND | _RECURSIVE)
    os.chdir(new)
    _check(_LIBC.syscall(_PIVOT_ROOT[platform.machine()], b".", b"."), "pivot_root")
    _check(_LIBC.umount2(b".", _DETACH), "unmounting the old root")  # it lies above the new one, on the same point
    os.chdir("/")


def _overlay(root: Path, scratch: Path) -> str:
    new, upper, work = (scratch / name for name in ("root", "upper", "work"))
    for folder in (new, upper, work):
        folder.mkdir(parents=True, exist_ok=True)
    _mount("overlay", str(new), "overlay", data=f"lowerdir={root},upperdir={upper},workdir={work}")
    return str(new)


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
    (root, scratch, shared, *rest), program = arguments[:separator], arguments[separator + 1 :]
    parent = os.getppid()
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        sys.exit("the parent is gone already")
    enter(Path(root), Path(scratch), shared.split(":"), rest[1] if rest[:1] == ["--without"] else None)
    os.execvp(program[0], program)


if __name__ == "__main__":
    main(sys.argv[1:])
