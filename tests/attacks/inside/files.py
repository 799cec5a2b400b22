"""Escapes by the files and switches of the host that /proc, /sys and sockets show."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import signal
import socket
import stat
import time
from pathlib import Path

from tests.attacks.inside.reasons import NO_CALL, NO_CAPABILITY, SEALED
from tests.attacks.inside.record import ESCAPE, TAMPERING, attack, call, held, name_of, won

BIND, REMOUNT = 4096, 32


def _opens(*paths: str) -> str:
    """Open for writing, and write nothing."""
    last = "ENOENT"
    for path in paths:
        try:
            os.close(os.open(path, os.O_WRONLY))
            return won(f"{path} opens for writing")
        except OSError as error:
            last = name_of(error) if error.errno != errno.ENOENT else last
    return held(last)


@attack(ESCAPE, SEALED, "EROFS|EACCES")
def core_pattern() -> str:
    """name a program that the host's kernel runs at the next crash (core_pattern)"""
    return _opens("/proc/sys/kernel/core_pattern")


@attack(ESCAPE, SEALED, "EROFS|EACCES")
def kernel_settings() -> str:
    """change the kernel's settings (modprobe's path, address hiding)"""
    return _opens("/proc/sys/kernel/modprobe", "/proc/sys/kernel/kptr_restrict")


@attack(ESCAPE, SEALED, "EROFS|EACCES")
def the_machines_switches() -> str:
    """write to sysrq-trigger, which restarts the machine, and to the switches of its memory"""
    return _opens("/proc/sysrq-trigger", "/proc/sys/vm/overcommit_memory", "/proc/sys/vm/drop_caches")


@attack(ESCAPE, f"{SEALED}; they can't be remounted", "EROFS|EACCES")
def devices_by_sysfs() -> str:
    """write to /sys, once it is remounted: uevent_helper and other files there"""
    for flags in (REMOUNT, REMOUNT | BIND):
        with contextlib.suppress(OSError):
            call("mount", b"none", b"/sys", None, flags, None)
    names = ("uevent_helper", "mm/transparent_hugepage/enabled", "profiling", "rcu_normal")
    return _opens(*(f"/sys/kernel/{name}" for name in names))


@attack(ESCAPE, f"{NO_CALL}; {NO_CAPABILITY}; cgroups are mounted read-only", "EPERM")
def release_agent() -> str:
    """mount a cgroup hierarchy, to name a release agent that the host runs"""
    where = Path("/tmp/cgroup")
    where.mkdir()
    last = OSError(errno.ENOENT, "")
    try:
        for kind, options in ((b"cgroup", b"memory"), (b"cgroup2", None)):
            try:
                call("mount", b"none", bytes(where), kind, 0, options)
                call("umount2", bytes(where), 0)
                return won("mounted")
            except OSError as error:
                last = error
    finally:
        where.rmdir()
    raise last


@attack(ESCAPE, SEALED, "nothing is told")
def masked_files() -> str:
    """read kernel data in /proc: its memory, keys, timers"""
    told = []
    for name in ("kcore", "keys", "timer_list", "sched_debug", "interrupts-x", "acpi/x", "scsi/scsi", "latency_stats"):
        try:
            with open(f"/proc/{name}", "rb") as file:
                told += [name] if file.read(4) else []
        except OSError:
            continue
    return won(told) if told else held("nothing is told")


@attack(ESCAPE, "read_only: the root is read-only, whoever owns the file", "EROFS")
def own_files_in_the_root() -> str:
    """write to a file the user owns: a startup file in its home directory"""
    path = Path("/home/agent/.bashrc")
    path.write_text("")
    path.unlink()
    return won(path)


@attack(ESCAPE, "read_only, and an ordinary user", "EROFS|EACCES")
def preload_a_library() -> str:
    """write /etc/ld.so.preload, so that any process entering the sandbox runs it"""
    path = Path("/etc/ld.so.preload")
    path.write_text("")
    path.unlink()
    return won(path)


@attack(ESCAPE, "read_only, and an ordinary user", "EROFS|EACCES")
def replace_a_program() -> str:
    """replace the shell with a link to the program that enters the sandbox (/proc/self/exe)"""
    os.symlink("/proc/self/exe", "/usr/bin/sh-new")
    os.unlink("/usr/bin/sh-new")
    return won("a link beside the shell")


@attack(
    ESCAPE,
    "the engine mounts its init read-only; the runtime starts from a sealed copy of itself",
    "EROFS|EACCES|ETXTBSY|EPERM",
    control="what it opens is the host's own program",
)
def overwrite_the_runtime() -> str:
    """write to the host's program behind process 1, through /proc/1/exe"""
    os.close(os.open("/proc/1/exe", os.O_WRONLY))
    return won("opens for writing")


@attack(
    ESCAPE,
    "the engine's runtime closes its descriptors; doctor checks its minimum version",
    "no directory",
    control="the search must first find a directory opened on purpose",
)
def leaked_descriptors() -> str:
    """walk up from directories that the runtime left open (/proc/self/fd, /proc/1/fd)"""
    own = os.open("/", os.O_RDONLY)
    found = _directories()
    if f"/proc/self/fd/{own}" not in found:
        return "error: the search finds nothing"
    os.close(own)
    found = _directories()
    return won(found) if found else held("no directory is open")


def _directories() -> list[str]:
    found = []
    for process in ("self", "1"):
        try:
            numbers = os.listdir(f"/proc/{process}/fd")
        except PermissionError:  # an init of sandboxrun's own shows nothing of itself
            continue
        for number in numbers:
            path = f"/proc/{process}/fd/{number}"
            try:
                scanning = os.readlink(path).endswith(f"/{os.getpid()}/fd")  # what lists it is open while it does
                if stat.S_ISDIR(os.stat(path).st_mode) and not scanning:
                    found.append(path)
            except OSError:
                continue
    return found


@attack(ESCAPE, "its own pid namespace, never the host's", "only the sandbox's own")
def other_roots() -> str:
    """reach another file system through /proc/N/root of a process outside"""
    own = os.stat("/")
    for number in filter(str.isdigit, os.listdir("/proc")):
        try:
            there = os.stat(f"/proc/{number}/root/")
        except OSError:
            continue
        if (there.st_dev, there.st_ino) != (own.st_dev, own.st_ino):
            return won(f"/proc/{number}/root")
    return held("only the sandbox's own processes are there")


@attack(ESCAPE, "nothing of the host is mounted; the engine's socket can't be named in a profile", "no socket")
def engine_socket() -> str:
    """look for the engine's socket in every place it may be, and ask it"""
    for place in ("/var/run", "/run", "/tmp", "/"):
        for above, _, names in os.walk(place):
            if above.startswith(("/proc", "/sys")):
                continue
            for name in names:
                path = os.path.join(above, name)
                if _is_socket(path):
                    return won(path)
    return held("no socket anywhere")


def _is_socket(path: str) -> bool:
    try:
        return stat.S_ISSOCK(os.lstat(path).st_mode)
    except OSError:
        return False


@attack(ESCAPE, "its own network namespace, which abstract sockets belong to", "ECONNREFUSED")
def abstract_socket() -> str:
    """connect to a local socket of the host by its abstract name, which is in no file system"""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(f"\0{os.environ['HOST_SOCKET']}")
    return won("connected")


@attack(ESCAPE, "seccomp: the host's name belongs to a capability; its own UTS namespace", "EPERM")
def rename_the_machine() -> str:
    """rename the machine"""
    name = socket.gethostname().encode()
    call("sethostname", name, len(name))
    return won("renamed")


@attack(ESCAPE, "ulimits: core 0, and the hard limit holds", "ValueError|EPERM|no core")
def core_dump() -> str:
    """raise the limit of core files, which the host's handler would get"""
    try:
        resource.setrlimit(resource.RLIMIT_CORE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    except ValueError:
        return held("no core file: the limit can't be raised")
    return won("core files without limit")


@attack(
    TAMPERING,
    "the engine's init is process 1 (init: true), and a namespace's first process ignores SIGKILL from inside",
    "it is there",
    control="the same signal ends another process of the same user",
)
def end_the_first_process() -> str:
    """kill and stop process 1, so that no process reaps the others and reports the end"""
    child = os.fork()
    if child == 0:
        time.sleep(10)
        os._exit(0)
    os.kill(child, signal.SIGKILL)
    if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) != -signal.SIGKILL:
        return "error: the signal ends nobody"
    for number in (signal.SIGKILL, signal.SIGSTOP):
        os.kill(1, number)
    time.sleep(0.2)
    state = Path("/proc/1/stat").read_text().rpartition(")")[2].split()[0]
    return held("it is there, and at work") if state in "SR" else won(f"its state is {state}")
