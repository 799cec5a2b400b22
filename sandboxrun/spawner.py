"""`AgentSpawner`: runs agents side by side, each in a sandbox or, with the sandbox option off, as a plain process.

Owns the sessions' threads and their queue, and that none is forgotten. What is done to an agent stands in
`api/agents.py`, how a session is told in `api/session.py`.
"""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from sandboxrun.api.agents import Agent, AgentResult, OnOutput, PlainAgent, SandboxedAgent, Told
from sandboxrun.api.session import AgentSession, AgentState
from sandboxrun.engine.together import begin
from sandboxrun.errors import Diagnostic, UsageError
from sandboxrun.settings import Settings

if TYPE_CHECKING:
    from sandboxrun.service import SandboxService

__all__ = ["AgentResult", "AgentSession", "AgentSpawner", "AgentState"]

OUTPUT_LIMIT = 8 << 20  # bytes of each stream that a result holds
MAX_PARALLEL = 32
_TTL_SLACK = 3600  # seconds beyond its timeout after which anyone may collect what a lost spawner left


class AgentSpawner:
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
        **service_options: Any,
    ) -> None:
        """`service` is one to use, and stays open; else one is made with `service_options` (project, directory, host,
        evidence). With the sandbox option off no engine is needed. Raises UsageError, EngineError, ApplyError."""
        from sandboxrun.api.processes import Guard
        from sandboxrun.service import SandboxService

        if max_parallel < 1:
            raise UsageError(f"max_parallel is {max_parallel}", help="one agent at least must be able to run")
        if service is not None and service_options:
            raise UsageError(f"{', '.join(service_options)}: the given service has them", help="leave them out")
        self.settings = settings or (service.settings if service is not None else Settings.from_environment())
        self._own = service is None
        self.service = service if service is not None else SandboxService(self.settings, **service_options)
        self._guard = Guard()
        self._most = max_parallel
        self._lock = threading.Lock()
        self._waiting: deque[AgentSession] = deque()
        self._running: set[AgentSession] = set()
        self._count = 0
        self._closed = False
        if collect and self.settings.sandbox_enabled:
            self.service.collect()
        _close_at_exit(self)

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

        In a sandbox (`sandbox` True, or None and the settings say so) the workspace stands at /workspace: `access`
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
        if timeout is not None and timeout <= 0:
            raise UsageError(f"a timeout of {timeout:g} seconds has no sense", help="give seconds above 0, or None")
        wanted = self.settings.sandbox_enabled if sandbox is None else sandbox
        name = name or self._name()
        told = Told(on_output)
        agent: Agent
        if wanted:
            limits = {} if timeout is None else {"lifetime": _lifetime(timeout, options.pop("lifetime", None))}
            declared = self.service.declare(
                name,
                command=list(command),
                workspace=workspace,
                access=access,
                environment=environment,
                **{**options, **limits},
            )
            agent = SandboxedAgent(self.service, declared, limit=output_limit, on_output=told)
        else:
            directory = _plain_workspace(workspace, access, options)
            agent = PlainAgent(
                self._guard,
                list(command),
                directory,
                environment or {},
                timeout=timeout,
                limit=output_limit,
                on_output=told,
            )
        return self._enqueue(AgentSession(name, agent, told))

    def _name(self) -> str:
        from uuid import uuid4

        return f"agent-{uuid4().hex[:10]}"

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
        """Kill what still runs or waits, and wait until its evidence is kept and it is gone."""
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

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        import asyncio

        await asyncio.to_thread(self.close)


def _lifetime(timeout: float, given: Mapping[str, Any] | None) -> dict[str, Any]:
    """The timeout as the sandbox's own, and a time after which anyone may collect it, if this process is lost."""
    from sandboxrun.model.units import format_duration

    nanoseconds = max(1_000_000, round(timeout * 1000) * 1_000_000)
    ttl = format_duration(nanoseconds + _TTL_SLACK * 10**9)
    return {"ttl": ttl, **(given or {}), "timeout": format_duration(nanoseconds)}


def _plain_workspace(workspace: Path | str, access: str, options: Mapping[str, Any]) -> Path:
    """The directory of a plain process. Raises UsageError for what only a sandbox could give."""
    from sandboxrun.api.declare import workspace_option

    directory = Path(workspace_option(workspace, access, "/workspace")["source"])
    faults = [f"workspace access {access}"] if access != "rw" else []
    faults += ["secrets"] if options.get("secrets") else []
    if faults:
        raise UsageError(
            Diagnostic(
                message=f"a plain process cannot have {' and '.join(faults)}",
                help="turn the sandbox on (SANDBOX_ENABLED), or leave that out",
            )
        )
    return directory


def _close_at_exit(spawner: AgentSpawner) -> None:
    """A program that ends without closing its spawner leaves nothing behind either."""
    import atexit
    import weakref

    reference = weakref.ref(spawner)

    def close() -> None:
        if (found := reference()) is not None and found.sessions:
            with contextlib.suppress(RuntimeError):  # newer Pythons begin no threads any more: the next start collects
                found.close()

    atexit.register(close)
