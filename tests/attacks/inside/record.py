"""An attack as a record, and what runs them inside a sandbox.

Shipped into sandboxes: it and the attacks beside it need nothing but Python's own library, and say what they did in
one line each. An attack returns `won(...)`, `held(...)` or `left(...)`; an OSError means held, by its name.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import platform
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass

ESCAPE, EXFILTRATION, EXHAUSTION, TAMPERING = "escape", "exfiltration", "exhaustion", "tampering"
SECONDS = 60.0
ELSEWHERE = "not on this machine"
Script = Callable[..., str]


@dataclass(frozen=True, kw_only=True)
class Attack:
    """`stopped_by` says which control stops it; `held` is a regular expression for what the attack itself sees of that.

    `cage` is the sandbox it runs in. In the weak sandbox the same script must win; where it can't be run there,
    `control` says why, or what shows instead that the attack is real. `x86` attacks need that machine's instructions.
    """

    name: str
    family: str
    title: str
    stopped_by: str
    held: str
    cage: str
    script: Script
    control: str = ""
    x86: bool = False


ATTACKS: dict[str, Attack] = {}


def attack(
    family: str, stopped_by: str, held: str, *, cage: str = "closed", control: str = "", x86: bool = False
) -> Callable[[Script], Script]:
    """Makes a function an attack; its name and the first line of its docstring become the record's."""

    def add(script: Script) -> Script:
        title = (script.__doc__ or "").partition("\n")[0].rstrip(".")
        record = Attack(
            name=script.__name__, family=family, title=title, stopped_by=stopped_by, held=held, cage=cage,
            script=script, control=control, x86=x86,
        )  # fmt: skip
        assert title and record.name not in ATTACKS, record.name
        ATTACKS[record.name] = record
        return script

    return add


def won(what: object) -> str:
    """The attack had its way."""
    return f"won: {what}"


def held(why: object) -> str:
    """It had not."""
    return f"held: {why}"


def left(what: object) -> str:
    """Something is left behind: whether it does harm is seen later, from outside."""
    return f"left: {what}"


# -- system calls ---------------------------------------------------------------------------------------------------

_libc = ctypes.CDLL(None, use_errno=True)
_X86 = {
    "personality": 135, "ptrace": 101, "process_vm_readv": 310, "io_uring_setup": 425, "userfaultfd": 323, "bpf": 321,
    "perf_event_open": 298, "add_key": 248, "kexec_load": 246, "init_module": 175, "mount": 165, "umount2": 166,
    "pivot_root": 155, "chroot": 161, "unshare": 272, "setns": 308, "clone": 56, "clone3": 435, "fsopen": 430,
    "open_tree": 428, "name_to_handle_at": 303, "open_by_handle_at": 304, "syslog": 103, "sethostname": 170,
    "clock_settime": 227, "reboot": 169, "swapon": 167, "acct": 163, "fanotify_init": 300, "semget": 64, "msgget": 68,
    "mq_open": 240, "memfd_create": 319, "execveat": 322, "capset": 126, "capget": 125, "modify_ldt": 154, "iopl": 172,
    "vmsplice": 278, "pidfd_open": 434, "pidfd_getfd": 438, "delete_module": 176, "io_setup": 206, "shmget": 29,
    "quotactl": 179,
}  # fmt: skip
_ARM = {
    "personality": 92, "ptrace": 117, "process_vm_readv": 270, "io_uring_setup": 425, "userfaultfd": 282, "bpf": 280,
    "perf_event_open": 241, "add_key": 217, "kexec_load": 104, "init_module": 105, "mount": 40, "umount2": 39,
    "pivot_root": 41, "chroot": 51, "unshare": 97, "setns": 268, "clone": 220, "clone3": 435, "fsopen": 430,
    "open_tree": 428, "name_to_handle_at": 264, "open_by_handle_at": 265, "syslog": 116, "sethostname": 161,
    "clock_settime": 112, "reboot": 142, "swapon": 224, "acct": 89, "fanotify_init": 262, "semget": 190, "msgget": 186,
    "mq_open": 180, "memfd_create": 279, "execveat": 281, "capset": 91, "capget": 90, "vmsplice": 75,
    "pidfd_open": 434, "pidfd_getfd": 438, "delete_module": 106, "io_setup": 0, "shmget": 194, "quotactl": 60,
}  # fmt: skip
NUMBERS = _X86 if platform.machine() == "x86_64" else _ARM


def call(name: str | int, *arguments: int | bytes | ctypes.Array[ctypes.c_char] | None) -> int:
    """A system call without a library in between. Raises OSError."""
    number = NUMBERS[name] if isinstance(name, str) else name
    found = int(_libc.syscall(number, *(ctypes.c_long(a) if isinstance(a, int) else a for a in arguments)))
    if found < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return found


def taken(name: str | int, *arguments: int | bytes | ctypes.Array[ctypes.c_char] | None) -> str:
    """Make a call whose arguments can't do any harm: won if the kernel got as far as to look at them."""
    try:
        return won(f"the kernel took the call ({call(name, *arguments)})")
    except OSError as error:
        if error.errno in (errno.EPERM, errno.EACCES):
            raise
        return won(f"the kernel took the call ({name_of(error)})")


def name_of(error: OSError) -> str:
    """EPERM and the like."""
    return errno.errorcode.get(error.errno or 0, str(error))


# -- in the sandbox -------------------------------------------------------------------------------------------------


def run(one: Attack) -> str:
    """The attack in a process group of its own, within its time; the last thing that it said."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.setsid()
        os.close(reading)
        _say(writing, one.script)
    os.close(writing)
    try:
        said = _read(reading, time.monotonic() + SECONDS)
    finally:
        _end(child)
    ended = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    os.close(reading)
    return said or held(f"ended by {signal.Signals(-ended).name}" if ended < 0 else f"silent, exit {ended}")


def _say(writing: int, script: Script) -> None:
    try:
        said = script()
    except OSError as error:
        said = held(name_of(error))
    except BaseException:
        said = f"error: {traceback.format_exc()}"
    os.write(writing, said.encode("utf-8", "replace")[:4096])
    os._exit(0)


def _read(reading: int, until: float) -> str:
    import select

    while (left := until - time.monotonic()) > 0:
        if select.select([reading], [], [], left)[0]:
            return os.read(reading, 4096).decode("utf-8", "replace")
    return held("out of time")


def _end(child: int) -> None:
    """Its whole group; it has one once it has begun."""
    try:
        os.killpg(child, signal.SIGKILL)
    except ProcessLookupError:
        os.kill(child, signal.SIGKILL)


def shell(script: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """A shell script, with both outputs in one."""
    environment = {**os.environ, **variables}
    return subprocess.run(
        ["sh", "-c", script], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env=environment, errors="replace", check=False,
    )  # fmt: skip


def main(cage: str, *names: str) -> None:
    """Run the attacks named, or all of a cage; one JSON object a line. `alone`: one, as the sandbox's own command."""
    if cage == "alone":
        print(ATTACKS[names[0]].script())
        return
    for one in list(ATTACKS.values()):
        if (one.name in names) if names else one.cage == cage:
            began = time.monotonic()
            said = held(ELSEWHERE) if one.x86 and platform.machine() != "x86_64" else run(one)
            took = round(time.monotonic() - began, 2)
            print(json.dumps({"attack": one.name, "said": said, "seconds": took}), flush=True)
    print(json.dumps({"attack": "", "said": "all done"}), flush=True)
    sys.stdout.flush()
