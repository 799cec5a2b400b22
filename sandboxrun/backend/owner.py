"""Who holds a lock: a process, named so that another one on the same machine can tell whether it still runs.

Owns the identity and the check. Linux tells it; elsewhere nothing is known of other processes, and only leases count.
"""

from __future__ import annotations

import json
import os
import re
import select
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

from msgspec import structs

from sandboxrun.data import Data

_STEADY = 2.0


class Owner(Data):
    """A process: `kernel` names the running kernel and pid namespace its `pid` counts in ("" when not known).

    The machine's id is no part of it: clones share one, and a lock must not be taken from a living holder.
    """

    kernel: str
    pid: int
    started: int
    who: str

    def encode(self) -> str:
        """As a label's value."""
        return json.dumps(structs.asdict(self), sort_keys=True)

    @property
    def is_gone(self) -> bool:
        """True when it certainly does not run any more; False also when that cannot be known from here."""
        if not self.kernel or self.kernel != _kernel():
            return False
        try:
            os.kill(self.pid, 0)  # not /proc: it may hide other users' processes
        except ProcessLookupError:
            return True
        except OSError:
            pass
        found = _state(self.pid)
        return found is not None and (found[0] in "ZX" or found[1] != self.started)

    @property
    def is_alive(self) -> bool:
        """True when it certainly still runs; False also when that cannot be known from here."""
        return bool(self.kernel) and self.kernel == _kernel() and not self.is_gone

    def wait_until_gone(self) -> bool:
        """Wait for its end, as long as that takes. False at once where it can't be waited for from here."""
        if not self.kernel or self.kernel != _kernel() or not hasattr(os, "pidfd_open"):
            return self.is_gone
        try:
            fd = os.pidfd_open(self.pid)
        except OSError:
            return self.is_gone
        try:
            if not self.is_gone:  # the pid is still its own: so is the descriptor
                select.select([fd], [], [])
        finally:
            os.close(fd)
        return True


def this_process() -> Owner:
    """The owner that this process is."""
    import socket

    found = _state(os.getpid())
    user = os.environ.get("USER") or os.environ.get("LOGNAME") or f"uid {os.getuid()}"
    who = f"{user}@{socket.gethostname()}"
    return Owner(kernel=_kernel() if found else "", pid=os.getpid(), started=found[1] if found else 0, who=who)


def process_began() -> float:
    """When this process began, as a UNIX time; now, where the system does not tell."""
    found = _state(os.getpid())
    if found is None:
        return time.time()
    return time.time() - (time.clock_gettime(time.CLOCK_BOOTTIME) - found[1] / os.sysconf("SC_CLK_TCK"))


def clock_mark(now: datetime) -> str:
    """How far an engine's clock, which says `now`, is ahead of the time since this machine's boot, which nobody sets,
    as a label's value; "" where the system does not tell."""
    boot = _kernel().partition("/")[0]
    return f"{boot} {now.timestamp() - time.clock_gettime(time.CLOCK_BOOTTIME):.3f}" if boot else ""


def clock_set_since(mark: str, clock: Callable[[], datetime]) -> float:
    """By how many seconds the engine's clock was set ahead since the mark was made; 0 where that is not known from
    here, and for what an engine that tells whole seconds, on a machine that is busy, may differ by."""
    boot, _, then = mark.partition(" ")
    if not boot or not re.fullmatch(r"-?[0-9]{1,12}\.[0-9]{3}", then):
        return 0.0
    here, _, now = clock_mark(clock()).partition(" ")
    set_ahead = float(now) - float(then) if here == boot else 0.0
    return set_ahead if abs(set_ahead) > _STEADY else 0.0


def decode(text: str) -> Owner | None:
    """An owner from a label's value; None for anything else."""
    try:
        value: Any = json.loads(text)
        owner = Owner(
            kernel=str(value["kernel"]), pid=int(value["pid"]), started=int(value["started"]), who=str(value["who"])
        )
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return None
    return owner if 0 < owner.pid < 2**31 else None


def _kernel() -> str:
    """The boot's random id and the pid namespace's inode, both from the running kernel."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
        return f"{boot}/{os.stat('/proc/self/ns/pid').st_ino}"
    except OSError:
        return ""


def _state(pid: int) -> tuple[str, int] | None:
    """A process's state letter and start time in clock ticks since boot (proc(5), fields 3 and 22)."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace").rpartition(")")[2].split()
        return fields[0], int(fields[19])
    except (OSError, ValueError, IndexError):
        return None
