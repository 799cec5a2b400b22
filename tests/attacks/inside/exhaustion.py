"""Exhaustion: more processes, memory, disk, descriptors and time than the sandbox has. Each is bounded by itself too:
it stops a little past the limits that the tests set, whatever the sandbox does.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import resource
import signal
import threading
import time
from pathlib import Path

from tests.attacks.inside.record import EXHAUSTION, attack, call, held, name_of, won

MIB = 1 << 20
# What the tests give the closed sandbox; a step past each is enough.
PIDS, MEMORY, TMPFS, SHM, FILES = 100, 192 * MIB, 16 * MIB, 8 * MIB, 256
COUNTED = "the kernel counts it to the sandbox's memory (mem_limit), and kills within the sandbox"


def _until_refused(most: int, step: object) -> str:
    """Do a step again and again; won if nothing stops it."""
    for done in range(most):
        try:
            step()  # type: ignore[operator]
        except (OSError, RuntimeError) as error:
            return held(f"{name_of(error) if isinstance(error, OSError) else error} after {done}")
    return won(f"{most} times")


@attack(EXHAUSTION, "pids_limit", "EAGAIN after [0-9]+")
def processes() -> str:
    """fork until no process can be started"""
    children: list[int] = []

    def fork() -> None:
        child = os.fork()
        if child == 0:
            time.sleep(15)
            os._exit(0)
        children.append(child)

    try:
        return _until_refused(PIDS + 20, fork)
    finally:
        for child in children:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)


@attack(EXHAUSTION, "pids_limit counts threads too", "can't start new thread after [0-9]+")
def threads() -> str:
    """the same with threads"""
    stop = threading.Event()
    try:
        return _until_refused(PIDS + 20, lambda: threading.Thread(target=stop.wait, args=(15,), daemon=True).start())
    finally:
        stop.set()


def _touched(amount: int) -> None:
    """Memory that is really there."""
    kept = []
    for _ in range(amount // (4 * MIB)):
        kept.append(bytearray(b"x") * (4 * MIB))


@attack(EXHAUSTION, "mem_limit: the kernel kills within the sandbox; no swap beyond it (memswap_limit)", "SIGKILL")
def memory() -> str:
    """allocate more memory than allowed"""
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")  # what is killed is this, not who tells of it
    _touched(MEMORY + 32 * MIB)
    return won(f"{MEMORY // MIB + 32} MiB")


@attack(EXHAUSTION, "a sized tmpfs", "ENOSPC after [0-9]+")
def temporary_files() -> str:
    """fill /tmp"""
    path = Path("/tmp/big")
    try:
        with path.open("wb", buffering=0) as file:
            return _until_refused(TMPFS // MIB + 2, lambda: file.write(bytes(MIB)) == MIB or _full())
    finally:
        path.unlink()


def _full() -> None:
    raise OSError(errno.ENOSPC, "written in part")


@attack(EXHAUSTION, "shm_size", "ENOSPC after [0-9]+")
def shared_memory_files() -> str:
    """fill /dev/shm"""
    descriptor = os.open("/dev/shm/big", os.O_RDWR | os.O_CREAT)
    os.unlink("/dev/shm/big")
    at = iter(range(1 << 20))
    return _until_refused(SHM // MIB + 2, lambda: os.posix_fallocate(descriptor, next(at) * MIB, MIB))


@attack(EXHAUSTION, "a sized tmpfs has a limited number of files, and the kernel's memory for them counts",
        "ENOSPC after|SIGKILL", cage="files")  # fmt: skip
def countless_files() -> str:
    """create empty files until the kernel's memory for them runs out"""
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")
    folder = Path("/tmp/many")
    folder.mkdir()
    names = iter(range(1 << 30))
    try:
        return _until_refused(60_000, lambda: os.close(os.open(f"/tmp/many/{next(names):x}", os.O_CREAT)))
    finally:
        import shutil

        shutil.rmtree(folder)


@attack(EXHAUSTION, "read_only: none of the host's disk is writable", "EROFS|EACCES")
def the_root_disk() -> str:
    """fill the host's disk through the sandbox's root"""
    path = Path("/home/agent/big")
    try:
        with path.open("wb", buffering=0) as file:
            return _until_refused(2, lambda: file.write(bytes(MIB)))
    finally:
        path.unlink(missing_ok=True)


@attack(EXHAUSTION, "ulimits: nofile", "EMFILE after [0-9]+")
def descriptors() -> str:
    """open files without end"""
    with contextlib.suppress(ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (FILES * 2, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    kept: list[int] = []
    try:
        return _until_refused(FILES + 20, lambda: kept.append(os.open("/dev/null", os.O_RDONLY)))
    finally:
        for one in kept:
            os.close(one)


@attack(EXHAUSTION, "ulimits: the hard limit holds, and needs a capability to be raised", "hard limit")
def raise_the_limits() -> str:
    """raise the limit of open files"""
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (FILES * 2, FILES * 2))
    except ValueError:
        return held("the hard limit holds")
    return won("raised")


@attack(EXHAUSTION, "cgroups are mounted read-only", "EROFS|EACCES")
def raise_its_own_memory() -> str:
    """write to the sandbox's own cgroup, to lift its limits"""
    for mount in ("/sys/fs/cgroup/memory", "/sys/fs/cgroup"):
        with contextlib.suppress(OSError):
            call("mount", None, mount.encode(), None, 32 | 4096, None)
    last = errno.ENOENT
    for path in ("memory/memory.limit_in_bytes", "memory.max", "pids/pids.max"):
        try:
            os.close(os.open(f"/sys/fs/cgroup/{path}", os.O_WRONLY))
            return won(f"{path} opens for writing")
        except OSError as error:
            last = error.errno if error.errno != errno.ENOENT else last
    return held(errno.errorcode[last or 0])


@attack(EXHAUSTION, "it needs a capability", "EACCES|EPERM",
        control="it needs a capability (SYS_RESOURCE) that many engines do not have themselves")  # fmt: skip
def never_be_killed() -> str:
    """lower its own oom_score_adj, so that the kernel kills others for memory"""
    path = Path("/proc/self/oom_score_adj")
    path.write_text(str(max(-1000, int(path.read_text()) - 1)))
    return won("lowered")


@attack(EXHAUSTION, "it needs a capability", "EACCES|EPERM")
def priority() -> str:
    """take the processor before all others on the machine (nice -20)"""
    os.setpriority(os.PRIO_PROCESS, 0, -20)
    os.setpriority(os.PRIO_PROCESS, 0, 0)
    return won("nice -20")


@attack(EXHAUSTION, "it needs a capability; real-time groups have no time", "EPERM",
        control="where the host's kernel groups real-time tasks, no container gets any")  # fmt: skip
def real_time() -> str:
    """run as a real-time task, which nothing interrupts"""
    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
    return won("real time")


@attack(EXHAUSTION, f"{COUNTED}; segments end with the sandbox's IPC namespace", "SIGKILL|ENOMEM|EINVAL|ENOSPC")
def system_v_memory() -> str:
    """shared memory segments of System V, which outlive the process"""
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")
    libc = ctypes.CDLL(None, use_errno=True)
    libc.shmat.restype = ctypes.c_void_p
    kept: list[int] = []

    def take() -> None:
        kept.append(call("shmget", 0, 16 * MIB, 0o1600))
        address = libc.shmat(kept[-1], None, 0)
        libc.shmctl(kept[-1], 0, None)  # goes with its last user
        ctypes.memset(address, 1, 16 * MIB)

    return _until_refused((MEMORY + 32 * MIB) // (16 * MIB), take)


@attack(EXHAUSTION, "seccomp: no semaphores and messages of System V", "EPERM")
def system_v_messages() -> str:
    """message queues of System V, whose memory older kernels charge to no one"""
    libc = ctypes.CDLL(None)
    queue = call("msgget", 0, 0o1600)
    libc.msgctl(queue, 0, None)
    return won("a queue")


@attack(EXHAUSTION, "seccomp: no POSIX message queues", "EPERM")
def posix_messages() -> str:
    """POSIX message queues, counted by user over all sandboxes"""
    os.close(call("mq_open", b"attack", os.O_RDWR | os.O_CREAT, 0o600, None))
    ctypes.CDLL("librt.so.1").mq_unlink(b"/attack")
    return won("a queue")


@attack(EXHAUSTION, "seccomp: no legacy asynchronous I/O", "EPERM")
def asynchronous_slots() -> str:
    """use up the slots of asynchronous I/O, which are counted for the whole host"""
    context = ctypes.create_string_buffer(8)
    call("io_setup", 1, context)
    return won("slots")


@attack(EXHAUSTION, COUNTED, "SIGKILL|EMFILE|EPERM")
def pipes() -> str:
    """fill the buffers of pipes, which are the kernel's memory"""
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")

    def fill() -> None:
        _, writing = os.pipe()
        os.set_blocking(writing, False)
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(writing, bytes(1 << 16))

    return _until_refused(FILES, fill)


@attack(EXHAUSTION, "cpus: the kernel throttles the sandbox", "throttled", cage="slow")
def processor_time() -> str:
    """run on all processors at once"""
    before = _throttled()
    until = time.monotonic() + 3
    children = []
    for _ in range(2):
        child = os.fork()
        if child == 0:
            while time.monotonic() < until:
                pass
            os._exit(0)
        children.append(child)
    while time.monotonic() < until and _throttled() == before:
        time.sleep(0.05)
    for child in children:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    return held("throttled") if _throttled() > before else won("never throttled")


def _throttled() -> int:
    for path in ("/sys/fs/cgroup/cpu/cpu.stat", "/sys/fs/cgroup/cpu.stat"):
        with contextlib.suppress(OSError):
            return next((int(line.split()[1]) for line in Path(path).read_text().splitlines()
                         if line.startswith("nr_throttled")), 0)  # fmt: skip
    return 0
