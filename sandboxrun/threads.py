"""Threads: one whose failure is never lost, and the same call for many objects on a few.

Owns the threads. Written with plain ones: importing concurrent.futures costs more than a hundred inspects.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Sequence
from contextvars import copy_context
from time import monotonic
from typing import Generic, Self, TypeVar

_SLICE = 0.2  # seconds of waiting, so that signal handlers run in between
A = TypeVar("A")
B = TypeVar("B")


def begin(work: Callable[[], object], *, name: str, failed: Callable[[BaseException], object]) -> threading.Thread:
    """Start `work` in a daemon thread. Whatever it raises goes to `failed`: no thread ends unnoticed. It has the
    context variables of who starts it.

    Every thread of this package starts here.
    """

    def run() -> None:
        try:
            work()
        except BaseException as error:
            failed(error)

    thread = threading.Thread(target=copy_context().run, args=(run,), name=name, daemon=True)
    thread.start()
    return thread


class Aside(Generic[B]):
    """A call in a thread of its own, which begins at once. As a context, its end is waited for."""

    def __init__(self, call: Callable[[], B], *, name: str) -> None:
        self._results: list[B] = []
        self._failures: list[BaseException] = []
        self._thread = begin(lambda: self._results.append(call()), name=name, failed=self._failures.append)

    @property
    def alive(self) -> bool:
        """Whether it is still under way."""
        return self._thread.is_alive()

    def result(self, until: float = math.inf) -> B:
        """What the call gave, or raises what it raised; TimeoutError after `until` (a `time.monotonic` value)."""
        while self.alive and (left := until - monotonic()) > 0:
            self._thread.join(min(left, _SLICE))
        if self._failures:
            raise self._failures[0]
        if not self._results:
            raise TimeoutError("not done in time")
        return self._results[0]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        while self.alive:
            self._thread.join(_SLICE)


def together(call: Callable[[A], B], items: Sequence[A], *, workers: int) -> tuple[B, ...]:
    """`call` of each item, in the items' order. After a failure nothing more is begun, and the first is raised."""
    if len(items) <= 1 or workers <= 1:
        return tuple(call(item) for item in items)
    results: dict[int, B] = {}
    failures: list[BaseException] = []
    numbers = iter(range(len(items)))
    lock = threading.Lock()

    def work() -> None:
        while not failures:
            with lock:
                number = next(numbers, None)
            if number is None:
                return
            results[number] = call(items[number])

    threads = [begin(work, name="together", failed=failures.append) for _ in range(min(workers, len(items)))]
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    return tuple(results[number] for number in range(len(items)))
