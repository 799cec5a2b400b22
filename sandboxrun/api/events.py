"""What a program is told of its sandboxes while they live: `on_event`, as a function or a coroutine function.

Owns the events, and that a callback that fails is reported and disturbs nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from sandboxrun.data import Data
from sandboxrun.errors import UsageError

_REMEMBERED = 100  # failures of a callback


class _Event(Data):
    name: str  # the sandbox's
    run: str
    container_id: str


class SandboxCreated(_Event):
    """Its container was made, and is not started."""


class SandboxStarted(_Event):
    """It runs."""


class SandboxEnded(_Event):
    """Its command has ended. `exit_code` is None where the engine tells none."""

    exit_code: int | None


class SandboxCaptured(_Event):
    """Its evidence was saved in `folder`."""

    folder: Path | None


class SandboxKept(_Event):
    """It stays, stopped, as its lifetime says, as the container `container`."""

    container: str


class SandboxRemoved(_Event):
    """It is gone."""


class SandboxReaped(_Event):
    """It was left by a process that is gone, or its ttl was over: its evidence was saved in `folder`."""

    folder: Path | None


SandboxEvent = (
    SandboxCreated | SandboxStarted | SandboxEnded | SandboxCaptured | SandboxKept | SandboxRemoved | SandboxReaped
)
OnEvent = Callable[[SandboxEvent], Awaitable[None] | None]


class Notifier:
    """Hands events on to a program's callback: a function in the thread where it happens, a coroutine function on the
    event loop that ran when this was made. What it raises is in `errors`; the next event is told all the same."""

    def __init__(self, on_event: OnEvent | None) -> None:
        """Raises UsageError for a coroutine function outside of a running event loop."""
        self._on_event, self._loop = on_event, None
        self._errors: list[BaseException] = []
        self._table = threading.Lock()
        if inspect.iscoroutinefunction(on_event):
            try:
                self._loop = asyncio.get_running_loop()
            except RuntimeError:
                help = "make it in a coroutine, or pass a plain function"
                raise UsageError("on_event is a coroutine function, and no event loop runs", help=help) from None

    @property
    def errors(self) -> tuple[BaseException, ...]:
        """What the callback raised, the first hundred."""
        with self._table:
            return tuple(self._errors)

    def __call__(self, event: SandboxEvent) -> None:
        """Tell it. Never raises an Exception."""
        if self._on_event is None:
            return
        try:
            told: Any = self._on_event(event)
            if self._loop is not None:
                self._schedule(told)
        except Exception as error:
            self._failed(error)

    def _schedule(self, coroutine: Any) -> None:
        assert self._loop is not None
        try:
            future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        except RuntimeError:  # the loop was closed
            coroutine.close()
            raise
        future.add_done_callback(lambda done: self._failed(None if done.cancelled() else done.exception()))

    def _failed(self, error: BaseException | None) -> None:
        with self._table, contextlib.suppress(MemoryError):
            if error is not None and len(self._errors) < _REMEMBERED:
                self._errors.append(error)
