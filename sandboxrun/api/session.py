"""`AgentSession`: one agent as a program holds it, from threads and from asyncio.

Owns its state and its future. What is done to the agent stands in `agents.py`; when, is the spawner's.
"""

from __future__ import annotations

import contextlib
import enum
import threading
from collections.abc import Generator
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from sandboxrun.api.agents import NEVER_RAN, Agent, AgentResult, Told
from sandboxrun.engine.together import begin
from sandboxrun.errors import Diagnostic
from sandboxrun.evidence.outcome import How

if TYPE_CHECKING:
    from concurrent.futures import Future


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

    def __init__(self, name: str, agent: Agent, told: Told) -> None:
        from concurrent.futures import Future

        self.name = name
        self._agent, self._told = agent, told
        self._lock = threading.Lock()
        self._state = AgentState.PENDING
        self._killed = False
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
        """Whether its end is reached: evidence kept, container or process gone."""
        return self._future.done()

    @property
    def output_error(self) -> Exception | None:
        """What `on_output` raised; it was not called again after that, and the agent ran on."""
        return self._told.error

    def wait(self, timeout: float | None = None) -> bool:
        """Wait at most `timeout` seconds for its end; whether it is reached. Never raises for how it ended."""
        from concurrent.futures import wait

        return bool(wait([self._future], timeout=timeout).done)

    def result(self, timeout: float | None = None) -> AgentResult:
        """Wait for its end: the result. Raises WaitTimeout after `timeout` seconds (it runs on), and SandboxrunError
        when it could not be run, or its evidence could not be kept."""
        from sandboxrun.workflow.waits import WaitTimeout

        if not self.wait(timeout):
            message = f"{self.name} has not ended after {timeout or 0:g} seconds"
            raise WaitTimeout(Diagnostic(message=message, help="wait longer, or kill it"))
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
            self._state = _final(result)
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
        self.kill()
        self.wait()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        self.kill()
        with contextlib.suppress(Exception):
            await self.result_async()


def _final(result: AgentResult) -> AgentState:
    match result.how:
        case How.TIMEOUT:
            return AgentState.TIMED_OUT
        case How.KILLED:
            return AgentState.KILLED
    return AgentState.COMPLETED if result.ok else AgentState.FAILED
