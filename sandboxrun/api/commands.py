"""A command in a running sandbox, to its end or its timeout, its output within bounds.

Owns the collecting and the ending of what takes too long. What comes out was written by an agent: it is handed on as
bytes, never interpreted.
"""

from __future__ import annotations

import contextlib
import secrets
import threading
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import attrs

from sandboxrun.engine.errors import EngineError
from sandboxrun.errors import Diagnostic, ExitCode, SandboxrunError

if TYPE_CHECKING:
    from sandboxrun.engine.client import Engine
    from sandboxrun.engine.streams import Exec

OUTPUT_LIMIT = 16 << 20  # bytes of each stream that a command's result holds
_MARK = "SANDBOXRUN_EXEC"
_KILLER = (  # by its environment, which its children have inherited; needs a shell in the image
    "for p in /proc/[0-9]*; do "
    f'tr "\\0" "\\n" <"$p/environ" 2>/dev/null | grep -qx "{_MARK}=$1" && kill -9 "${{p#/proc/}}" && n=1; '
    'done; [ -n "$n" ]'
)
_KILLER_TIME = 10.0  # seconds


@attrs.frozen(kw_only=True)
class ExecResult:
    """How a command ended: its exit code, and its output as bytes; `truncated` when a stream was longer than kept."""

    exit_code: int
    stdout: bytes = attrs.field(repr=False)
    stderr: bytes = attrs.field(repr=False)
    truncated: bool = False


class ExecTimeout(SandboxrunError):
    """A command ran longer than it may. `stdout` and `stderr` are what it had written; `killed`: it runs no more."""

    exit_code = ExitCode.TIMEOUT

    def __init__(self, what: str, timeout: float, stdout: bytes, stderr: bytes, *, killed: bool) -> None:
        self.stdout, self.stderr, self.killed = stdout, stderr, killed
        help = None if killed else "it could not be ended from within and may run on: stop the sandbox to end it"
        super().__init__(Diagnostic(message=f"{what} ran longer than {timeout:g} seconds", help=help))


class Output:
    """Two streams being collected, each up to `limit` bytes."""

    def __init__(self, limit: int) -> None:
        self._kept = {1: bytearray(), 2: bytearray()}
        self._limit = limit
        self.truncated = False

    def add(self, stream: int, data: bytes) -> None:
        """Keep what there is room for."""
        kept = self._kept[stream]
        room = self._limit - len(kept)
        self.truncated = self.truncated or len(data) > room
        kept += data[: max(room, 0)]

    @property
    def stdout(self) -> bytes:
        """What came on stream 1."""
        return bytes(self._kept[1])

    @property
    def stderr(self) -> bytes:
        """What came on stream 2."""
        return bytes(self._kept[2])


def run_command(
    engine: Engine,
    container: str,
    name: str,
    argv: Sequence[str],
    *,
    timeout: float | None,
    user: str | None,
    workdir: str | None,
    environment: Mapping[str, str],
    limit: int,
) -> ExecResult:
    """Run it to its end. Raises ExecTimeout after `timeout` seconds, and what the engine answers."""
    token = secrets.token_hex(16)
    env = [f"{key}={value}" for key, value in environment.items()] + [f"{_MARK}={token}"]
    output, late = Output(limit), threading.Event()
    with engine.exec(container, list(argv), user=user, workdir=workdir, env=env) as process:
        timer = _timer(timeout, late, process)
        try:
            for stream, data in process:
                output.add(stream, data)
            code = None if late.is_set() else process.exit_code()
        finally:
            timer.cancel()
    if code is None:
        assert timeout is not None
        killed = _kill(engine, container, token, user)
        what = f"{argv[0]} in {name}"
        raise ExecTimeout(what, timeout, output.stdout, output.stderr, killed=killed)
    return ExecResult(exit_code=code, stdout=output.stdout, stderr=output.stderr, truncated=output.truncated)


def _timer(timeout: float | None, late: threading.Event, process: Exec) -> threading.Timer:
    """Ends the reading after `timeout` seconds: a stream that is closed comes to its end."""

    def expire() -> None:
        late.set()
        process.close()

    timer = threading.Timer(0.0 if timeout is None else timeout, expire)
    timer.daemon = True
    if timeout is not None:
        timer.start()
    return timer


def _kill(engine: Engine, container: str, token: str, user: str | None) -> bool:
    """Kill whatever carries `token` in its environment: the engine itself has no call for it."""
    killing = ["sh", "-c", _KILLER, "sh", token]
    with contextlib.suppress(EngineError), engine.exec(container, killing, user=user) as killer:
        timer = _timer(_KILLER_TIME, threading.Event(), killer)
        try:
            return killer.exit_code(timeout=_KILLER_TIME) == 0
        finally:
            timer.cancel()
    return False
