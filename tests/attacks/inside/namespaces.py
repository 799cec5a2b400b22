"""Escapes by namespaces and mounts, and by privileges that a program gains."""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import struct
import time
from pathlib import Path

from tests.attacks.inside.reasons import NO_CALL, NO_CAPABILITY
from tests.attacks.inside.record import ESCAPE, attack, call, held, shell, taken, won

NEWNS, NEWUSER, NEWNET = 0x00020000, 0x10000000, 0x40000000
BIND, REMOUNT, PRIVATE, REC = 4096, 32, 1 << 18, 16384


def _child(work: object, *arguments: object) -> int:
    """Call in a child; its exit code: 0, or the number of the error."""
    child = os.fork()
    if child == 0:
        try:
            work(*arguments)  # type: ignore[operator]
        except OSError as error:
            os._exit(error.errno or 255)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _in_child(work: object, *arguments: object) -> str:
    code = _child(work, *arguments)
    return won("it went through") if code == 0 else held(errno.errorcode.get(code, code))


@attack(ESCAPE, f"{NO_CALL}; {NO_CAPABILITY}", "EPERM")
def mount_over_etc() -> str:
    """mount its own file system over /etc"""
    call("mount", b"none", b"/etc", b"tmpfs", 0, None)
    call("umount2", b"/etc", 0)
    return won("mounted")


@attack(ESCAPE, f"{NO_CALL}; {NO_CAPABILITY}", "EPERM")
def remount_writable() -> str:
    """remount a read-only mount so that it can be written to"""
    call("mount", None, b"/proc/sys" if _mounted("/proc/sys") else b"/etc/hosts", None, REMOUNT | BIND, None)
    return won("remounted")


def _mounted(path: str) -> bool:
    return any(line.split()[1] == path for line in Path("/proc/mounts").read_text().splitlines())


@attack(ESCAPE, f"{NO_CALL}; {NO_CAPABILITY}", "EPERM")
def new_mount_calls() -> str:
    """mount by the newer calls, which old filters don't know (fsopen, open_tree)"""
    try:
        return won(f"open_tree gave {call('open_tree', -100, b'/etc', 1)}")
    except OSError:
        return won(f"fsopen gave {call('fsopen', b'tmpfs', 0)}")


@attack(ESCAPE, f"{NO_CALL}; {NO_CAPABILITY}", "EPERM")
def pivot_the_root() -> str:
    """pivot_root, to end up above the sandbox's root"""
    return taken("pivot_root", b"/no/such", b"/no/such")


@attack(ESCAPE, f"{NO_CALL}; {NO_CAPABILITY}", "EPERM")
def chroot_out() -> str:
    """chroot into a directory, then walk up past the root"""
    call("chroot", b"/tmp")
    return won("chroot")


@attack(ESCAPE, NO_CALL, "EPERM")
def user_namespace() -> str:
    """unshare a user namespace, which grants all capabilities inside"""
    return _in_child(call, "unshare", NEWUSER)


@attack(ESCAPE, f"{NO_CALL}; {NO_CAPABILITY}", "EPERM")
def mount_namespace() -> str:
    """unshare a mount namespace"""
    return _in_child(call, "unshare", NEWNS)


@attack(ESCAPE, "seccomp: clone is allowed only without flags that make namespaces", "EPERM")
def clone_with_namespaces() -> str:
    """clone a child into its own user and network namespace"""
    child = call("clone", NEWUSER | NEWNET | signal.SIGCHLD, 0, 0, 0, 0)
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    return won("a child in namespaces of its own")


@attack(
    ESCAPE, "seccomp: clone3 does not exist (ENOSYS), because its flags are where no filter can read them", "ENOSYS"
)
def clone3_past_the_filter() -> str:
    """the same by clone3, whose flags a filter can't see"""
    child = call("clone3", struct.pack("=8Q", NEWUSER | NEWNET, 0, 0, 0, signal.SIGCHLD, 0, 0, 0), 64)
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    return won("a child in namespaces of its own")


@attack(ESCAPE, f"{NO_CALL}; {NO_CAPABILITY}", "EPERM")
def enter_a_namespace() -> str:
    """setns into a namespace that /proc shows"""
    with open("/proc/self/ns/uts") as file:
        call("setns", file.fileno(), 0)
    return won("entered")


@attack(ESCAPE, f"{NO_CALL}; {NO_CAPABILITY}", "EPERM")
def file_by_handle() -> str:
    """open the host's files by handle, mounted here or not (open_by_handle_at)"""
    handle = ctypes.create_string_buffer(struct.pack("=Ii", 128, 0) + bytes(128))
    mount = ctypes.create_string_buffer(8)
    call("name_to_handle_at", -100, b"/etc/hosts", handle, mount, 0)
    at = os.open("/etc/hosts", os.O_RDONLY)
    return won(f"opened as {call('open_by_handle_at', at, handle, os.O_RDONLY)}")


@attack(ESCAPE, "user: an ordinary one; setuid needs a capability", "EPERM")
def become_root() -> str:
    """setuid(0)"""
    os.setuid(0)
    return won(f"uid {os.getuid()}")


@attack(ESCAPE, "user: an ordinary one; setgroups needs a capability", "EPERM")
def join_groups() -> str:
    """setgroups to root's and the disk's group"""
    os.setgroups([0, 6])
    return won(os.getgroups())


@attack(ESCAPE, "no-new-privileges: a setuid program runs as the user who started it", "uid 1000")
def setuid_program() -> str:
    """start a setuid program of the image (su) and check whose rights it has"""
    if os.getuid() == 0:
        os.setgid(1000)
        os.setuid(1000)
    reading, _writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.dup2(reading, 0)  # it waits for a password that nobody writes
        os.execv("/usr/bin/su", ["su", "-c", "true"])
    until = time.monotonic() + 10
    while Path(f"/proc/{child}/comm").read_text().strip() != "su" and time.monotonic() < until:
        time.sleep(0.01)
    time.sleep(0.05)
    status = Path(f"/proc/{child}/status").read_text()
    os.kill(child, signal.SIGKILL)
    effective = next(line.split()[2] for line in status.splitlines() if line.startswith("Uid:"))
    return won("uid 0") if effective == "0" else held(f"uid {effective}")


@attack(ESCAPE, NO_CAPABILITY, "EPERM")
def raise_capabilities() -> str:
    """capset every capability into the effective set"""
    header = struct.pack("=Ii", 0x20080522, 0)
    found = ctypes.create_string_buffer(24)
    call("capget", header, found)
    wanted = ctypes.create_string_buffer(struct.pack("=6I", *(0xFFFFFFFF, 0xFFFFFFFF, 0, 0x1FF, 0x1FF, 0)), 24)
    data = found if os.getuid() == 0 else wanted  # root has them: to keep them is all it needs
    call("capset", header, data)
    status = Path("/proc/self/status").read_text()
    return won("capabilities") if "CapEff:\t0000000000000000" not in status else held("none is left")


@attack(ESCAPE, NO_CAPABILITY, "EPERM")
def give_a_program_away() -> str:
    """chown a program to root, to make it setuid then"""
    path = Path("/tmp/root-program")
    path.write_text("x")
    try:
        os.chown(path, 0, 0)
        path.chmod(0o4755)
    finally:
        path.unlink()
    return won("a setuid root program")


@attack(
    ESCAPE, "seccomp, no-new-privileges and the empty capability sets persist across every exec", "all of it went on"
)
def memory_program_sheds_its_cage() -> str:
    """run a program from memory (memfd_create, execveat), past noexec, hoping that it runs without restrictions"""
    program = call("memfd_create", b"x", 0)
    os.write(program, Path("/usr/bin/cat").read_bytes())
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.dup2(writing, 1)
        os.execve(program, ["cat", "/proc/self/status"], {})
    os.close(writing)
    with os.fdopen(reading) as output:
        status = dict(line.split(":\t", 1) for line in output.read().splitlines() if ":\t" in line)
    os.waitpid(child, 0)
    caged = (status["NoNewPrivs"], status["Seccomp"], int(status["CapBnd"], 16)) == ("1", "2", 0)
    return held("it runs, and all of it went on") if caged else won(f"seccomp {status['Seccomp']}")


@attack(ESCAPE, "tmpfs mounts have noexec; the root is read-only", "no place to run from")
def run_what_was_dropped() -> str:
    """drop a program into every writable place and start it"""
    tried = []
    for place in ("/tmp", "/dev/shm", "/var/tmp", "/run", "/dev", "/home/agent"):
        path = Path(place, "dropped")
        try:
            path.write_bytes(Path("/usr/bin/true").read_bytes())
        except OSError:
            continue
        tried.append(place)
        try:
            path.chmod(0o755)
            if shell(str(path)).returncode == 0:
                return won(f"ran from {place}")
        finally:
            path.unlink()
    return held(f"no place to run from; noexec in {' '.join(tried)}")
