"""`AgentSpawner` and `AgentSession`: agents side by side, each in a sandbox or, with the sandbox option off, as a
plain process.
"""

from __future__ import annotations

import atexit
import contextlib
import enum
import os
import signal
import threading
import weakref
from collections import deque
from collections.abc import Callable, Generator, Mapping, Sequence
from functools import partial
from pathlib import Path
from time import monotonic
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypedDict, Unpack
from uuid import uuid4

from sandboxrun.api.processes import PlainProcess, ProcessGuard
from sandboxrun.api.settings import Settings, check_seconds, workspace_option
from sandboxrun.data import Closing, Data
from sandboxrun.errors import ExitCode, SandboxrunError, UsageError
from sandboxrun.evidence.parts import PATCH, UNTRACKED
from sandboxrun.evidence.store import STDERR, STDOUT
from sandboxrun.spec.state import How
from sandboxrun.spec.types import format_duration
from sandboxrun.threads import after_fork, begin

if TYPE_CHECKING:
    from concurrent.futures import Future

    from sandboxrun.api.sandbox import Sandbox
    from sandboxrun.api.service import OnEvent, SandboxService
    from sandboxrun.api.settings import Declared
    from sandboxrun.evidence.store import Captured


# -- One agent being run, in a sandbox or as a plain process: the steps from its start to its result

OnOutput = Callable[[int, bytes], None]
KILL_GRACE = 10.0  # seconds that a plain process has to end by itself after SIGTERM


class AgentResult(Data, unshown=("stdout", "stderr", "patch", "untracked_patch")):
    """How an agent ended.

    `exit_code` is the agent's own; 124 for a timeout, 125 when it never ran or nothing is known of its end, 137 for
    memory, 143 for one that was killed, where it has none of its own. `how` is `exited`, `failed`, `oom`, `timeout`,
    `killed`, `engine_lost`, `unknown` or `not_started`. `stdout` and `stderr` hold the beginning of each stream up to
    the output limit, `truncated` says that there was more (the evidence has it). `evidence` is the folder of what was
    kept, None for a plain process and for one that was not `started`. `duration` is seconds from its start to its end.
    `patch` is what it changed in a copied workspace, as `git apply` takes it; None without a copy. `untracked_patch` is
    the same of files that git ignores or doesn't track, to be applied after it; None where there is nothing of these.
    """

    exit_code: int
    how: How
    stdout: bytes
    stderr: bytes
    truncated: bool = False
    evidence: Path | None = None
    duration: float = 0.0
    patch: bytes | None = None
    untracked_patch: bytes | None = None
    started: bool = True

    @property
    def ok(self) -> bool:
        """Whether it ended by itself with 0."""
        return self.how is How.EXITED and self.exit_code == 0


NEVER_RAN = AgentResult(exit_code=ExitCode.TERMINATED, how=How.KILLED, stdout=b"", stderr=b"", started=False)


class SandboxedAgent:
    """An agent in a sandbox. Like a plain one it is `run` in the caller's thread, and may be killed from any."""

    def __init__(self, service: SandboxService, declared: Declared, *, limit: int, on_output: OnOutput) -> None:
        self._service, self._declared, self._limit, self._on_output = service, declared, limit, on_output
        self._killed = threading.Event()  # also ends the making of it, between two steps
        self._grace: float | None = None
        self._sandbox: Sandbox | None = None
        self.pid: int | None = None

    @property
    def container_id(self) -> str | None:
        return self._sandbox.container_id if self._sandbox is not None else None

    def run(self, started: Callable[[], None]) -> AgentResult:
        try:
            sandbox = self._sandbox = self._service.make(self._declared, stop=self._killed)
        except SandboxrunError:
            if self._killed.is_set():
                return NEVER_RAN
            raise
        try:
            if not self._killed.is_set():
                sandbox.start(on_output=self._on_output)
                started()
                if self._killed.is_set():  # between the last look and the start
                    sandbox.stop(self._grace)
                sandbox.wait()
        except SandboxrunError:
            if not self._killed.is_set():
                raise
        finally:
            captured = sandbox.finish(force=True)
        return self._result(captured)

    def kill(self, grace: float | None) -> None:
        self._grace = grace
        self._killed.set()
        if self._sandbox is not None and self._sandbox.started:
            self._sandbox.stop(grace)

    def _result(self, captured: Captured | None) -> AgentResult:
        if captured is None or captured.index is None or captured.entry is None:
            return NEVER_RAN
        index, entry = captured.index, captured.entry
        files = {kept.path: kept for kept in index.kept}

        def kept(name: str, limit: int = -1) -> bytes | None:
            """A file of the evidence; None when it was not kept."""
            if name not in files:
                return None
            with self._service.store.open(entry, name) as file:
                return file.read(limit)

        logs = {name: kept(name, self._limit + 1) or b"" for name in (STDOUT, STDERR)}
        return AgentResult(
            exit_code=index.ending.code,
            how=index.ending.how,
            stdout=logs[STDOUT][: self._limit],
            stderr=logs[STDERR][: self._limit],
            truncated=any(n in files and (files[n].truncated or len(log) > self._limit) for n, log in logs.items()),
            evidence=captured.folder,
            duration=index.ran_seconds or 0.0,
            patch=kept(PATCH),
            untracked_patch=kept(UNTRACKED),
            started=index.ending.how is not How.NOT_STARTED,
        )


class PlainAgent:
    """An agent as a plain process: no isolation, no limits, no evidence beyond its output."""

    def __init__(
        self,
        process: PlainProcess,
        argv: Sequence[str],
        workspace: Path,
        environment: Mapping[str, str | None],
        timeout: float | None,
    ) -> None:
        self._process = process
        self._argv, self._workspace, self._environment, self._timeout = argv, workspace, environment, timeout
        self._how: How | None = None
        self._ended = threading.Event()
        self.container_id: str | None = None

    @property
    def pid(self) -> int | None:
        return self._process.pid

    def run(self, started: Callable[[], None]) -> AgentResult:
        try:
            if self._how is not None:
                return NEVER_RAN
            began = monotonic()
            self._process.start(self._argv, cwd=self._workspace, environment=self._environment)
            started()
            if self._how is not None:  # killed while it was being started
                self._process.signal(signal.SIGTERM)
            if not self._process.wait(self._timeout):
                self._how = self._how or How.TIMEOUT
                self._process.signal(signal.SIGTERM)
                self._process.wait(KILL_GRACE)
            code, output = self._process.reap(), self._process.output
            shell = code if code >= 0 else 128 - code
            how = self._how or (How.EXITED if code == 0 else How.FAILED)
            own = {How.TIMEOUT: ExitCode.TIMEOUT, How.KILLED: shell or ExitCode.TERMINATED}
            return AgentResult(
                exit_code=own.get(how, shell),
                how=how,
                stdout=output.stdout,
                stderr=output.stderr,
                truncated=output.truncated,
                duration=monotonic() - began,
            )
        finally:
            self._ended.set()

    def kill(self, grace: float | None) -> None:
        """Ask its group to end; kill it `grace` seconds (10 when left out) later."""
        if self._ended.is_set():
            return
        self._how = self._how or How.KILLED
        self._process.signal(signal.SIGTERM)
        if not self._ended.wait(KILL_GRACE if grace is None else grace):
            self._process.signal(signal.SIGKILL)


class OutputRelay:
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


Agent = SandboxedAgent | PlainAgent


# -- `AgentSession`: one agent as a program holds it, from threads and from asyncio


class AgentState(enum.StrEnum):
    """Where a session is. All but the first two are final."""

    PENDING = "pending"  # not started yet: waits for its turn, or is being made
    RUNNING = "running"
    COMPLETED = "completed"  # exited with 0
    FAILED = "failed"  # exited otherwise, ran out of memory, or could not be run
    KILLED = "killed"
    TIMED_OUT = "timed_out"


class AgentSession:
    """One agent. From threads: `wait`, `result`, `kill`; in asyncio: `await session`, `async with`.

    Leaving a `with` or `async with` block kills the agent if it still runs, and waits until its evidence is kept and
    its container is gone.
    """

    def __init__(self, name: str, agent: Agent, told: OutputRelay) -> None:
        from concurrent.futures import Future

        self.name = name
        self._agent, self._told = agent, told
        self._lock = threading.Lock()
        self._state = AgentState.PENDING
        self._killed = False
        self._process = os.getpid()
        self._future: Future[AgentResult] = Future()
        self._future.set_running_or_notify_cancel()  # a waiter that is cancelled cancels its waiting only

    def __repr__(self) -> str:
        return f"<AgentSession {self.name} {self.state}>"

    @property
    def container_id(self) -> str | None:
        """The engine's id of its container; None until it was made, and always for a plain process."""
        return self._agent.container_id

    @property
    def pid(self) -> int | None:
        """The id of a plain process, which is its group's too; None until its start, and for one in a sandbox."""
        return self._agent.pid

    @property
    def state(self) -> AgentState:
        """Where it is now."""
        return self._state

    @property
    def done(self) -> bool:
        """Whether its end is reached: evidence saved, container or process gone."""
        return self._future.done()

    @property
    def output_error(self) -> Exception | None:
        """What `on_output` raised; it was not called again after that, and the agent ran on."""
        return self._told.error

    def wait(self, timeout: float | None = None) -> bool:
        """Wait at most `timeout` seconds for its end; whether it is reached. Never raises for how it ended, but
        UsageError in a process that was forked from its own."""
        from concurrent.futures import wait

        check_seconds("timeout", timeout)
        if self._process != os.getpid():  # its thread is not here, and what it knows may be old
            raise UsageError(f"{self.name} is an agent of process {self._process}", help="wait for it there")
        return bool(wait([self._future], timeout=timeout).done)

    def result(self, timeout: float | None = None) -> AgentResult:
        """Wait for its end: the result. Raises WaitTimeout after `timeout` seconds (it runs on), and SandboxrunError
        when it could not be run, or its evidence could not be kept."""
        from sandboxrun.lifecycle.job import WaitTimeout

        if not self.wait(timeout):
            message = f"{self.name} has not ended after {timeout or 0:g} seconds"
            raise WaitTimeout(message, help="wait longer, or kill it")
        return self._future.result()

    async def result_async(self) -> AgentResult:
        """`result` for asyncio; holds no thread while it waits. Cancelling it leaves the agent running."""
        import asyncio

        return await asyncio.shield(asyncio.wrap_future(self._future))

    def __await__(self) -> Generator[Any, None, AgentResult]:
        return self.result_async().__await__()

    def kill(self, grace: float | None = None) -> None:
        """End it; returns at once. It has `grace` seconds after SIGTERM (its stop_grace_period, 10, when left out).

        Its evidence is kept as ever: `result` comes when that is done. No error when it has ended.
        """
        check_seconds("grace", grace)
        with self._lock:
            if self.done:
                return
            self._killed = True
        # What hinders the stopping hinders the removal as well, and that error is the session's result.
        begin(lambda: self._agent.kill(grace), name=f"kill {self.name}", failed=lambda error: None)

    # -- for the spawner ---------------------------------------------------------------------------------------

    def run(self) -> None:
        """Carry it to its end, in the calling thread. Never raises."""
        try:
            result = NEVER_RAN if self._killed else self._agent.run(self._started)
        except BaseException as error:
            self.fail(error)
        else:
            ended = AgentState.COMPLETED if result.ok else AgentState.FAILED
            self._state = {How.TIMEOUT: AgentState.TIMED_OUT, How.KILLED: AgentState.KILLED}.get(result.how, ended)
            self._future.set_result(result)

    def fail(self, error: BaseException) -> None:
        """Its thread could not carry it to its end."""
        if not self._future.done():
            self._state = AgentState.FAILED
            self._future.set_exception(error)

    def _started(self) -> None:
        self._state = AgentState.RUNNING

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._process != os.getpid():  # in one forked from it, the agent is not its own
            return
        self.kill()
        self.wait()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        if self._process != os.getpid():
            return
        self.kill()
        with contextlib.suppress(Exception):
            await self.result_async()


# -- `AgentSpawner`: runs agents side by side, each in a sandbox or, with the sandbox option off, as a plain …

OUTPUT_LIMIT = 8 << 20  # bytes of each stream that a result holds
MAX_PARALLEL = 32
_TTL_SLACK = 3600  # seconds beyond its timeout after which anyone may collect what a lost spawner left


class ServiceOptions(TypedDict, total=False):
    """What `AgentSpawner` hands on to the SandboxService that it makes."""

    project: str
    directory: Path | str | None
    host: str | None
    evidence: Path | str | None
    policy: Path | str | None
    parallelism: int
    on_event: OnEvent | None


class AgentSpawner(Closing):
    """Spawns agents. Usable from several threads and from asyncio; a context manager of both kinds.

    At its start it collects what a spawner that was killed has left in the project, evidence first (`collect` False
    leaves that to a call of `service.collect()`). All sessions share the service's engine connections; at most
    `max_parallel` run at once, the others wait as `pending`. Closing it kills what still runs and waits for it.
    """

    def __init__(
        self,
        settings: Settings | None = None,
        *,
        service: SandboxService | None = None,
        max_parallel: int = MAX_PARALLEL,
        collect: bool = True,
        **service_options: Unpack[ServiceOptions],
    ) -> None:
        """`service` is one to use, and stays open; else one is made with `service_options` (project, directory, host,
        evidence). With the sandbox option off no engine is needed. Raises UsageError, EngineError, ApplyError."""
        from sandboxrun.api.service import SandboxService

        if max_parallel < 1:
            raise UsageError(f"max_parallel is {max_parallel}", help="one agent at least must be able to run")
        if service is not None and service_options:
            raise UsageError(f"{', '.join(service_options)}: the given service has them", help="leave them out")
        self.settings = settings or (service.settings if service is not None else Settings.from_environment())
        self._own = service is None
        self.service = service if service is not None else SandboxService(self.settings, **service_options)
        self._most = max_parallel
        self._closed = False
        self._begin()
        after_fork(self._begin)
        if collect and self.settings.sandbox_enabled:
            self.service.collect()
        # a program that ends without closing its spawner leaves nothing behind either
        reference = weakref.ref(self)

        def close() -> None:
            found = reference()
            if found is not None and found.sessions:
                with contextlib.suppress(RuntimeError):  # newer Pythons begin no threads any more: the next collects
                    found.close()

        atexit.register(close)

    def _begin(self) -> None:
        """Without agents: as made, and in a forked process, whatever those of the other one do."""
        self._guard = ProcessGuard()
        self._lock = threading.Lock()
        self._waiting: deque[AgentSession] = deque()
        self._running: set[AgentSession] = set()

    @property
    def sessions(self) -> tuple[AgentSession, ...]:
        """Those that have not ended."""
        with self._lock:
            return (*self._running, *self._waiting)

    def spawn(
        self,
        command: Sequence[str],
        *,
        workspace: Path | str,
        name: str | None = None,
        sandbox: bool | None = None,
        access: str = "rw",
        timeout: float | None = None,
        environment: Mapping[str, str | None] | None = None,
        on_output: OnOutput | None = None,
        output_limit: int = OUTPUT_LIMIT,
        **options: Any,
    ) -> AgentSession:
        """Start an agent with `workspace` as its working directory; returns at once.

        In a sandbox (`sandbox` True, or None and the settings say so) the workspace is at /workspace: `access`
        `rw` is the directory itself, written to by the sandbox as its owner; `copy` keeps it as it is and gives the
        changes back as `AgentResult.patch`; `ro` lets it only be read. `timeout` in seconds. `environment` is all it
        gets beside what the image has; a name with None takes the settings' value. `on_output` gets (1 stdout or 2
        stderr, bytes) from another thread. `options` are those of `SandboxService.create` (image, mem_limit,
        network_mode, secrets, …). As a plain process it has no limits at all and `options` mean nothing to it; what it
        would miss, secrets and a workspace that is `copy` or `ro`, is refused. Raises UsageError and ProfileError for
        what makes no sense; whatever fails later is the session's result.
        """
        if isinstance(command, str) or not command:
            raise UsageError("an agent's command is a list of words", help='such as ["node", "/agent/run.js"]')
        check_seconds("timeout", timeout)
        if timeout is not None and timeout <= 0:
            raise UsageError(
                f"timeout must be greater than 0, not {timeout:g}", help="pass seconds, or None for no timeout"
            )
        wanted = self.settings.sandbox_enabled if sandbox is None else sandbox
        name = name or f"agent-{uuid4().hex[:10]}"
        told = OutputRelay(on_output)
        agent: Agent
        if wanted:
            if timeout is not None:  # its own, and a time after which anyone may collect it, if this process is lost
                nanoseconds = max(1_000_000, round(timeout * 1000) * 1_000_000)
                limits = {"ttl": format_duration(nanoseconds + _TTL_SLACK * 10**9), **(options.get("lifetime") or {})}
                options["lifetime"] = {**limits, "timeout": format_duration(nanoseconds)}
            options |= {"workspace": workspace, "access": access, "environment": environment}
            declared = self.service.declare(name, command=list(command), **options)
            agent = SandboxedAgent(self.service, declared, limit=output_limit, on_output=told)
        else:
            directory = Path(workspace_option(workspace, access, "/workspace")["source"])
            faults = [f"workspace access {access}"] if access != "rw" else []
            faults += ["secrets"] if options.get("secrets") else []
            if faults:
                message = f"a plain process cannot have {' and '.join(faults)}"
                raise UsageError(message, help="turn the sandbox on (SANDBOX_ENABLED), or leave that out")
            process = PlainProcess(self._guard, limit=output_limit, on_output=told)
            agent = PlainAgent(process, list(command), directory, environment or {}, timeout)
        return self._enqueue(AgentSession(name, agent, told))

    # -- threads -----------------------------------------------------------------------------------------------

    def _enqueue(self, session: AgentSession) -> AgentSession:
        with self._lock:
            if self._closed:
                raise UsageError("this AgentSpawner was closed", help="make another one")
            self._waiting.append(session)
        self._next()
        return session

    def _next(self) -> None:
        """Begin sessions while there is room. One thread each: the kernel ties a plain process to it."""
        with self._lock:
            while self._waiting and len(self._running) < self._most:
                session = self._waiting.popleft()
                self._running.add(session)
                begin(partial(self._run, session), name=session.name, failed=session.fail)

    def _run(self, session: AgentSession) -> None:
        try:
            session.run()
        finally:
            with self._lock:
                self._running.discard(session)
            self._next()

    def close(self, grace: float | None = None) -> None:
        """Kill what still runs or waits, and wait until its evidence is kept and it is gone. In a process forked from
        the spawner's these are its own agents only."""
        with self._lock:
            self._closed = True
        sessions = self.sessions
        for session in sessions:
            session.kill(grace)
        for session in sessions:
            session.wait()
        self._guard.close()
        if self._own:
            self.service.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        import asyncio

        await asyncio.to_thread(self.close)
