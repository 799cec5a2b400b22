"""One agent being run, in a sandbox or as a plain process: the steps from its start to its result.

Owns those steps, for the thread that runs them. How sessions are queued and told is the spawner's.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Protocol

import attrs

from sandboxrun.api.processes import Guard, PlainProcess
from sandboxrun.errors import ExitCode, SandboxrunError
from sandboxrun.evidence.outcome import How

if TYPE_CHECKING:
    from sandboxrun.api.declare import Declared
    from sandboxrun.api.sandbox import Sandbox
    from sandboxrun.evidence.capture import Captured
    from sandboxrun.evidence.store import Store
    from sandboxrun.service import SandboxService

OnOutput = Callable[[int, bytes], None]
KILL_GRACE = 10.0  # seconds that a plain process has to end by itself after SIGTERM


@attrs.frozen(kw_only=True)
class AgentResult:
    """How an agent ended.

    `exit_code` is the agent's own; 124 for a timeout, 125 when it never ran or nothing is known of its end, 137 for
    memory, 143 for one that was killed, where it has none of its own. `how` is `exited`, `failed`, `oom`, `timeout`,
    `killed`, `engine_lost`, `unknown` or `not_started`. `stdout` and `stderr` hold the beginning of each stream up to
    the output limit, `truncated` says that there was more (the evidence has it). `evidence` is the folder of what was
    kept, None for a plain process and for one that was never started. `duration` is seconds from its start to its end.
    `patch` is what it changed in a copied workspace, as `git apply` takes it; None without a copy.
    """

    exit_code: int
    how: How
    stdout: bytes = attrs.field(repr=False)
    stderr: bytes = attrs.field(repr=False)
    truncated: bool = False
    evidence: Path | None = None
    duration: float = 0.0
    patch: bytes | None = attrs.field(default=None, repr=False)

    @property
    def ok(self) -> bool:
        """Whether it ended by itself with 0."""
        return self.how is How.EXITED and self.exit_code == 0


NEVER_RAN = AgentResult(exit_code=ExitCode.TERMINATED, how=How.KILLED, stdout=b"", stderr=b"")


class Agent(Protocol):
    """An agent that `run` carries from its start to its result, in the caller's thread."""

    @property
    def container_id(self) -> str | None:
        """Its container, where it has one and it was made."""
        ...

    @property
    def pid(self) -> int | None:
        """Its process, where it is a plain one and was started."""
        ...

    def run(self, started: Callable[[], None]) -> AgentResult:
        """Run it. `started` is called once it runs. Raises SandboxrunError."""
        ...

    def kill(self, grace: float | None) -> None:
        """End it, within `grace` seconds; from any thread, at any time. Blocks until it was told."""
        ...


class SandboxedAgent:
    """An agent in a sandbox."""

    def __init__(self, service: SandboxService, declared: Declared, *, limit: int, on_output: OnOutput) -> None:
        self._service, self._declared, self._limit, self._on_output = service, declared, limit, on_output
        self._killed = threading.Event()  # also ends the making of it, between two steps
        self._grace: float | None = None
        self._sandbox: Sandbox | None = None
        self.pid: int | None = None

    @property
    def container_id(self) -> str | None:
        """Its container, once it was made."""
        return self._sandbox.container_id if self._sandbox is not None else None

    def run(self, started: Callable[[], None]) -> AgentResult:
        """Make, start, wait, keep the evidence, remove."""
        try:
            sandbox = self._sandbox = self._service.make(self._declared, stop=self._killed)
        except SandboxrunError:
            if self._killed.is_set():
                return NEVER_RAN
            raise
        try:
            self._run(sandbox, started)
        except SandboxrunError:
            if not self._killed.is_set():
                raise
        finally:
            captured = sandbox.remove(force=True)
        return self._result(captured)

    def _run(self, sandbox: Sandbox, started: Callable[[], None]) -> None:
        if self._killed.is_set():
            return
        sandbox.start(on_output=self._on_output)
        started()
        if self._killed.is_set():  # between the last look and the start
            sandbox.stop(self._grace)
        sandbox.wait()

    def kill(self, grace: float | None) -> None:
        """Stop it, or what is being made of it."""
        self._grace = grace
        self._killed.set()
        if self._sandbox is not None and self._sandbox.started:
            self._sandbox.stop(grace)

    def _result(self, captured: Captured | None) -> AgentResult:
        from sandboxrun.workflow.oneoff import exit_code

        if captured is None or captured.index is None or captured.entry is None:
            return NEVER_RAN
        index, store = captured.index, self._service.store
        out, more_out = self._log(store, captured, "stdout.log")
        err, more_err = self._log(store, captured, "stderr.log")
        return AgentResult(
            exit_code=exit_code(captured),
            how=index.ending.how,
            stdout=out,
            stderr=err,
            truncated=more_out or more_err,
            evidence=captured.folder,
            duration=index.ran_seconds or 0.0,
            patch=_kept(store, captured, "workspace.patch", None),
        )

    def _log(self, store: Store, captured: Captured, name: str) -> tuple[bytes, bool]:
        data = _kept(store, captured, name, self._limit + 1) or b""
        cut = any(kept.path == name and kept.truncated for kept in captured.index.kept) if captured.index else False
        return data[: self._limit], cut or len(data) > self._limit


def _kept(store: Store, captured: Captured, name: str, limit: int | None) -> bytes | None:
    """A file of the evidence; None when it was not kept."""
    assert captured.entry is not None and captured.index is not None
    if all(kept.path != name for kept in captured.index.kept):
        return None
    with store.open(captured.entry, name) as file:
        return file.read() if limit is None else file.read(limit)


class PlainAgent:
    """An agent as a plain process: no isolation, no limits, no evidence beyond its output."""

    def __init__(
        self,
        guard: Guard,
        argv: Sequence[str],
        workspace: Path,
        environment: Mapping[str, str | None],
        *,
        timeout: float | None,
        limit: int,
        on_output: OnOutput,
    ) -> None:
        self._process = PlainProcess(guard, limit=limit, on_output=on_output)
        self._argv, self._workspace, self._environment, self._timeout = argv, workspace, environment, timeout
        self._how: How | None = None
        self._ended = threading.Event()
        self.container_id: str | None = None

    @property
    def pid(self) -> int | None:
        """Its process id, once it was started."""
        return self._process.pid

    def run(self, started: Callable[[], None]) -> AgentResult:
        """Start, wait, end its group."""
        try:
            return NEVER_RAN if self._how is not None else self._run(started)
        finally:
            self._ended.set()

    def _run(self, started: Callable[[], None]) -> AgentResult:
        began = monotonic()
        self._process.start(self._argv, cwd=self._workspace, environment=self._environment)
        started()
        if self._how is not None:  # killed while it was being started
            self._process.signal(signal.SIGTERM)
        if not self._process.wait(self._timeout):
            self._how = self._how or How.TIMEOUT
            self._process.signal(signal.SIGTERM)
            self._process.wait(KILL_GRACE)
        return self._result(self._process.reap(), monotonic() - began)

    def kill(self, grace: float | None) -> None:
        """Ask its group to end; kill it `grace` seconds (10 when left out) later."""
        if self._ended.is_set():
            return
        self._how = self._how or How.KILLED
        self._process.signal(signal.SIGTERM)
        if not self._ended.wait(KILL_GRACE if grace is None else grace):
            self._process.signal(signal.SIGKILL)

    def _result(self, code: int, duration: float) -> AgentResult:
        shell = code if code >= 0 else 128 - code
        how = self._how or (How.EXITED if code == 0 else How.FAILED)
        own = {How.TIMEOUT: ExitCode.TIMEOUT, How.KILLED: shell or ExitCode.TERMINATED}
        output = self._process.output
        return AgentResult(
            exit_code=own.get(how, shell),
            how=how,
            stdout=output.stdout,
            stderr=output.stderr,
            truncated=output.truncated,
            duration=duration,
        )


class Told:
    """Hands output on to a caller's function. One that fails is not called again, and never stops the agent."""

    def __init__(self, on_output: OnOutput | None) -> None:
        self._on_output = on_output
        self.error: Exception | None = None

    def __call__(self, stream: int, data: bytes) -> None:
        if self._on_output is None:
            return
        try:
            self._on_output(stream, data)
        except Exception as error:
            self.error, self._on_output = error, None


__all__ = ["AgentResult", "PlainAgent", "SandboxedAgent", "Told"]
