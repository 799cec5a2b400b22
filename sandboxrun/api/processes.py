"""Plain processes, for a spawner whose sandbox option is off: a group each, that does not outlive its spawner.

Owns starting and ending them. A process here is not isolated from anything: only its end is seen to.

A process that is killed cannot clean up, so two others do: the kernel kills each agent's first process with the thread
that started it (PR_SET_PDEATHSIG), and one guard process a spawner, which notices that the spawner is gone by the end
of its pipe, kills the groups. An agent's command begins only when the guard knows its group. Out of reach is what
leaves its group and session by itself.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from time import monotonic, sleep
from typing import TYPE_CHECKING

from sandboxrun.api.sandbox import BoundedOutput
from sandboxrun.errors import SandboxrunError
from sandboxrun.threads import after_fork, begin

if TYPE_CHECKING:
    import subprocess

_PASSED = ("PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "TZ", "TMPDIR", "TERM")
_PIECE = 64 * 1024
_DRAIN = 5.0  # seconds that the rest of the output may take once the group has ended

# Reads "+GROUP" and "-GROUP" lines; at the end of its input it kills the groups that are left.
_GUARD = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.SIG_IGN)
groups = set()
for line in sys.stdin:
    (groups.add if line[0] == "+" else groups.discard)(int(line[1:]))
    sys.stdout.write("k"); sys.stdout.flush()
for group in groups:
    try: os.killpg(group, signal.SIGKILL)
    except OSError: pass
"""

# Becomes the command: argv is spawner's pid, gate's descriptor, report's descriptor, command. What hinders it is told.
_LAUNCHER = """
import ctypes, os, signal, sys
gate, report = int(sys.argv[2]), int(sys.argv[3])
try:
    if ctypes.CDLL(None, use_errno=True).prctl(1, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl")
    if os.getppid() != int(sys.argv[1]) or os.read(gate, 1) != b"g":
        os._exit(125)
    os.close(gate)
    os.set_inheritable(report, False)
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    os.execvp(sys.argv[4], sys.argv[4:])
except OSError as error:
    os.write(report, (error.strerror or str(error)).encode())
    os._exit(127)
"""


class ProcessFailed(SandboxrunError):
    """A plain process could not be started."""


class ProcessGuard:
    """Kills the groups it knows when this process ends, however it ends. One a spawner, started when first needed."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._groups: set[int] = set()
        after_fork(self._forget)

    def _forget(self) -> None:
        """In a forked process: the guard must notice the end of the other one, so nobody else has its pipe open."""
        process, self._process, self._lock, self._groups = self._process, None, threading.Lock(), set()
        if process is not None:
            assert process.stdin is not None and process.stdout is not None
            process.stdin.close()
            process.stdout.close()
            process.returncode = 0  # not this process's child, to wait for or to warn about

    def add(self, group: int) -> None:
        """Know a group. Raises ProcessFailed when the guard does not answer: then nothing may be started."""
        import subprocess

        with self._lock:
            new = {group}
            if self._process is None or self._process.poll() is not None:
                self._drop()
                # In a session of its own: a terminal's ^C or hang-up must not end it before this process.
                argv, pipe = [sys.executable, "-I", "-S", "-c", _GUARD], subprocess.PIPE
                self._process = subprocess.Popen(
                    argv, stdin=pipe, stdout=pipe, bufsize=0, start_new_session=True, cwd="/"
                )
                new |= self._groups
            for each in new:
                self._tell(self._process, f"+{each}\n")
            self._groups.add(group)

    def discard(self, group: int) -> None:
        """Forget a group that has ended."""
        with self._lock, contextlib.suppress(ProcessFailed):
            self._groups.discard(group)
            if self._process is not None:
                self._tell(self._process, f"-{group}\n")

    def close(self) -> None:
        """End the guard; it kills what it still knows."""
        with self._lock:
            self._drop()

    def _drop(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            assert process.stdin is not None and process.stdout is not None
            with contextlib.suppress(OSError):
                process.stdin.close()
            process.wait()
            process.stdout.close()

    def _tell(self, process: subprocess.Popen[bytes], line: str) -> None:
        assert process.stdin is not None and process.stdout is not None
        try:
            process.stdin.write(line.encode())
            if process.stdout.read(1) == b"k":
                return
        except OSError:
            pass
        raise ProcessFailed("the guard of plain processes has ended", help="see why: it runs as python -I -S -c")


class PlainProcess:
    """One agent as a plain process. `start`, `wait` and `reap` it in one thread, which lives on; `signal` from any."""

    def __init__(self, guard: ProcessGuard, *, limit: int, on_output: Callable[[int, bytes], None] | None) -> None:
        self.output = BoundedOutput(limit)
        self._guard, self._on_output = guard, on_output
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()
        self._ended = False
        self._failure: BaseException | None = None
        self._readers: list[threading.Thread] = []

    @property
    def pid(self) -> int | None:
        """Its process id, which is its group's too; None before its start."""
        return self._process.pid if self._process is not None else None

    def start(self, argv: Sequence[str], *, cwd: Path, environment: Mapping[str, str | None]) -> None:
        """Start it. Raises ProcessFailed when the command cannot be executed."""
        import subprocess

        gate_out, gate_in = os.pipe()
        report_out, report_in = os.pipe()
        own = [f"{os.getpid()}", f"{gate_out}", f"{report_in}"]
        with contextlib.ExitStack() as ours:
            ours.callback(os.close, gate_in)
            ours.callback(os.close, report_out)
            try:  # the launcher, waiting at its gate, in a session and a group of its own
                process = self._process = subprocess.Popen(
                    [sys.executable, "-I", "-S", "-c", _LAUNCHER, *own, *argv],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    bufsize=0,
                    cwd=cwd,
                    env=process_environment(environment),
                    start_new_session=True,
                    pass_fds=(gate_out, report_in),
                )
            except (OSError, ValueError) as error:  # the directory, or a NUL in a word
                raise _failed(argv[0], getattr(error, "strerror", None) or str(error)) from error
            finally:
                os.close(gate_out)
                os.close(report_in)
            for number, stream in ((1, process.stdout), (2, process.stderr)):
                assert stream is not None
                work = partial(self._pump, number, stream.fileno())
                self._readers.append(begin(work, name=f"output of process {process.pid}", failed=self._fail))
            try:
                self._guard.add(process.pid)
            except SandboxrunError:
                self.reap()
                raise
            with contextlib.suppress(OSError):  # it has ended already: the report or its code says why
                os.write(gate_in, b"g")
            if fault := os.read(report_out, 4096):
                self.reap()
                raise _failed(argv[0], fault.decode(errors="replace"))

    def _fail(self, error: BaseException) -> None:
        """Its output can't be read any more: it would wait for its reader for ever."""
        self._failure = error
        self.signal(signal.SIGKILL)

    def _pump(self, number: int, descriptor: int) -> None:
        with contextlib.suppress(OSError):
            while data := os.read(descriptor, _PIECE):
                self.output.add(number, data)
                if self._on_output is not None:
                    self._on_output(number, data)

    def wait(self, timeout: float | None) -> bool:
        """Wait at most `timeout` seconds; whether its first process has ended. It is not reaped."""
        assert self._process is not None
        return has_ended(self._process.pid, timeout)

    def reap(self) -> int:
        """Kill what is left of its group; the first process's exit code, negative for a signal."""
        assert self._process is not None
        with self._lock:  # the group is ended before its leader is reaped: until then its number is nobody else's
            self._ended = True
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)
            has_ended(self._process.pid, None)
            self._guard.discard(self._process.pid)
            code = self._process.wait()
        for reader, stream in zip(self._readers, (self._process.stdout, self._process.stderr), strict=True):
            reader.join(_DRAIN)
            if stream is not None and not reader.is_alive():  # else a process that left the group still has it open
                stream.close()
        if self._failure is not None:
            what = f"{type(self._failure).__name__}: {self._failure}"
            raise ProcessFailed(f"reading the output of process {self._process.pid} failed: {what}") from self._failure
        return code

    def signal(self, number: int) -> None:
        """Send its group a signal; nothing when it has ended."""
        with self._lock:
            if self._process is not None and not self._ended:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(self._process.pid, number)


def has_ended(pid: int, timeout: float | None) -> bool:
    """Whether a child has ended, without reaping it; waits at most `timeout` seconds."""
    if timeout is None:
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        return True
    until = monotonic() + timeout
    try:
        descriptor = os.pidfd_open(pid)
    except (AttributeError, OSError):  # before Linux 5.3
        while os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is None:
            if monotonic() >= until:
                return False
            sleep(0.02)
        return True
    try:
        import select

        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        return bool(poll.poll(timeout * 1000))
    finally:
        os.close(descriptor)


def process_environment(given: Mapping[str, str | None]) -> dict[str, str]:
    """What a plain process gets: the few variables that programs need to run, and those given.

    Not the spawner's own: what it holds (keys, tokens) is no more an agent's business than in a sandbox.
    """
    env = {name: value for name, value in os.environ.items() if name in _PASSED or name.startswith("LC_")}
    for name, value in given.items():
        if value is None:
            value = os.environ.get(name)
        if value is not None:
            env[name] = value
    return env


def _failed(command: str, why: str) -> ProcessFailed:
    return ProcessFailed(f"{command} could not be started: {why}", help="check the command and its workspace")
