"""Escapes by the kernel's own interfaces: its calls, sockets and devices."""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import socket
import stat
import struct
import time

from tests.attacks.inside.reasons import NO_CALL, NO_CAPABILITY
from tests.attacks.inside.record import ESCAPE, attack, call, held, name_of, taken, won

OTHER_ENTRY = "seccomp: a call through a non-native entry ends the program"


@attack(ESCAPE, NO_CALL, "EPERM")
def io_uring() -> str:
    """use io_uring, whose operations no system call filter sees"""
    return won(f"a ring, descriptor {call('io_uring_setup', 1, ctypes.create_string_buffer(120))}")


@attack(ESCAPE, NO_CALL, "EPERM")
def page_faults() -> str:
    """userfaultfd, to win races in the kernel"""
    return won(f"descriptor {call('userfaultfd', 0)}")


@attack(ESCAPE, NO_CALL, "EPERM")
def kernel_program() -> str:
    """load a map and a program into the kernel by bpf"""
    return taken("bpf", 0, struct.pack("=5I", 2, 4, 4, 1, 0) + bytes(52), 72)


@attack(ESCAPE, NO_CALL, "EPERM")
def performance_counters() -> str:
    """perf_event_open, to watch what others on the machine do"""
    return taken("perf_event_open", struct.pack("=IIQ", 1, 112, 0) + bytes(96), 0, -1, -1, 0)


@attack(ESCAPE, NO_CALL, "EPERM")
def kernel_keys() -> str:
    """leave a key in the kernel's key rings, which namespaces don't separate"""
    return won(f"key {call('add_key', b'user', b'x', b'y', 1, -2)}")


@attack(ESCAPE, f"{NO_CALL}; {NO_CAPABILITY}", "EPERM")
def other_kernel() -> str:
    """load another kernel by kexec"""
    return taken("kexec_load", 0, 1 << 20, None, 0)


@attack(ESCAPE, f"{NO_CALL}; {NO_CAPABILITY}", "EPERM")
def kernel_module() -> str:
    """load a module into the kernel"""
    return taken("init_module", b"none", 4, b"")


@attack(ESCAPE, f"{NO_CALL}; {NO_CAPABILITY}", "EPERM")
def kernel_log() -> str:
    """read the kernel's log for addresses and for what others do"""
    return won(f"{call('syslog', 10, None, 0)} bytes of it")


@attack(ESCAPE, f"{NO_CALL}; {NO_CAPABILITY}", "EPERM")
def host_clock() -> str:
    """set the clock, which is the host's"""
    return taken("clock_settime", 0, struct.pack("=qq", 0, -1))


@attack(ESCAPE, f"{NO_CALL}; {NO_CAPABILITY}", "EPERM")
def power_off() -> str:
    """reboot the machine"""
    return taken("reboot", 1, 2, 3, None)  # numbers that no kernel follows


@attack(ESCAPE, f"{NO_CALL}; {NO_CAPABILITY}", "EPERM")
def swap_and_accounting() -> str:
    """turn on swap, and process accounting into its own file"""
    try:
        return taken("swapon", b"/no/such", 0)
    except OSError:
        return taken("acct", b"/no/such")


@attack(ESCAPE, f"{NO_CALL}; {NO_CAPABILITY}", "EPERM")
def watch_all_files() -> str:
    """fanotify, which reports on every mount of a file system"""
    return won(f"descriptor {call('fanotify_init', 0, 0)}")


@attack(ESCAPE, NO_CALL, "EPERM")
def pages_into_pipes() -> str:
    """vmsplice pages into a pipe, the first step of several kernel exploits"""
    _, writing = os.pipe()
    buffer = ctypes.create_string_buffer(b"x" * 64)
    return won(f"{call('vmsplice', writing, struct.pack('=QQ', ctypes.addressof(buffer), 8), 1, 0)} bytes")


@attack(ESCAPE, NO_CALL, "EPERM")
def attach_to_a_process() -> str:
    """ptrace another process of the same user"""
    child = os.fork()
    if child == 0:
        time.sleep(5)
        os._exit(0)
    try:
        call("ptrace", 16, child, 0, 0)
        return won("attached")
    finally:
        os.kill(child, signal.SIGKILL)


@attack(ESCAPE, NO_CALL, "EPERM")
def read_a_process() -> str:
    """read another process's memory (process_vm_readv)"""
    there = ctypes.create_string_buffer(b"something")
    child = os.fork()
    if child == 0:
        time.sleep(5)
        os._exit(0)
    here = ctypes.create_string_buffer(16)
    local, remote = (struct.pack("=QQ", ctypes.addressof(b), 8) for b in (here, there))
    try:
        call("process_vm_readv", child, local, 1, remote, 1, 0)
        return won(here.value)
    finally:
        os.kill(child, signal.SIGKILL)


@attack(ESCAPE, NO_CALL, "EPERM")
def take_a_descriptor() -> str:
    """take an open file out of another process (pidfd_getfd)"""
    return won(f"descriptor {call('pidfd_getfd', call('pidfd_open', os.getppid(), 0), 1, 0)}")


@attack(ESCAPE, "seccomp: only the usual personality is allowed", "EPERM")
def no_randomisation() -> str:
    """turn address randomisation off by the personality"""
    try:
        return won(f"was {call('personality', 0x0040000)}")
    finally:
        call("personality", 0)


@attack(ESCAPE, OTHER_ENTRY, "SIGSYS|ENOSYS|EPERM", x86=True)
def calls_of_32_bit() -> str:
    """call the kernel by its 32-bit entry, whose numbers a filter may have missed"""
    import mmap

    code = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    code.write(b"\x53\xb8\x14\x00\x00\x00\xcd\x80\x5b\xc3")  # push rbx; mov eax, getpid; int 0x80; pop rbx; ret
    function = ctypes.CFUNCTYPE(ctypes.c_long)(ctypes.addressof(ctypes.c_char.from_buffer(code)))
    found = int(function())
    return won(f"getpid gave {found}") if found == os.getpid() else held(errno.errorcode.get(-found, found))


@attack(
    ESCAPE,
    OTHER_ENTRY,
    "SIGSYS|ENOSYS|EPERM",
    control="most kernels are built without the x32 entry: then it fails everywhere",
    x86=True,
)
def calls_of_x32() -> str:
    """call the kernel by its x32 numbers"""
    return won(call(0x40000000 | 39))


def _family(family: int, kind: int, protocol: int = 0) -> str:
    """Won if the kernel looked for the family at all: it loads modules for that."""
    try:
        with socket.socket(family, kind, protocol):
            return won("a socket")
    except OSError as error:
        if error.errno in (errno.EPERM, errno.EACCES):
            raise
        return won(f"the kernel looked for the family ({name_of(error)})")


@attack(ESCAPE, "seccomp: sockets of local and internet families only", "EPERM")
def hypervisor_socket() -> str:
    """AF_VSOCK, to the hypervisor and past every network rule"""
    return _family(40, socket.SOCK_STREAM)


@attack(ESCAPE, "seccomp: sockets of local and internet families only", "EPERM")
def cipher_socket() -> str:
    """AF_ALG, the kernel's own ciphers"""
    return _family(38, socket.SOCK_SEQPACKET)


@attack(ESCAPE, "seccomp: of netlink, the route protocol only", "EPERM")
def firewall_socket() -> str:
    """netlink to the firewall (nftables), where many exploits begin"""
    return _family(socket.AF_NETLINK, socket.SOCK_RAW, 12)


@attack(ESCAPE, "seccomp: sockets of local and internet families only", "EPERM")
def odd_protocols() -> str:
    """open sockets whose protocol the kernel would load a module for (TIPC, SCTP)"""
    try:
        return _family(30, socket.SOCK_STREAM)
    except OSError:
        return _family(socket.AF_INET, socket.SOCK_STREAM, 132)


@attack(ESCAPE, f"seccomp: mknod of fifos and plain files only; {NO_CAPABILITY}", "EPERM")
def disk_by_mknod() -> str:
    """make a device node for the host's disk"""
    os.mknod("/tmp/disk", stat.S_IFBLK | 0o600, os.makedev(8, 0))
    os.unlink("/tmp/disk")
    return won("a node")
