"""A call in a thread of its own, so that an engine that hangs cannot hold its caller for ever.

Owns the waiting. A call that is given up goes on in its daemon thread; what it writes then is refused by the
run's folder.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Generic, TypeVar

from sandboxrun.engine.together import begin

T = TypeVar("T")


class Call(Generic[T]):
    """Begins at once. `result` may be asked for more than once."""

    def __init__(self, name: str, call: Callable[[], T]) -> None:
        self.name = name
        self._done: list[T] = []
        self._failed: list[BaseException] = []
        work = lambda: self._done.append(call())  # noqa: E731
        self._thread = begin(work, name=f"evidence: {name}", failed=self._failed.append)

    def result(self, until: float) -> T:
        """What the call gave, or raises what it raised; TimeoutError after `until` (a `time.monotonic` value)."""
        self._thread.join(max(0.0, until - time.monotonic()))
        if self._failed:
            raise self._failed[0]
        if not self._done:
            raise TimeoutError("not done in time")
        return self._done[0]
