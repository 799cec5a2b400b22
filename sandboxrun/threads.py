"""Threads: one whose failure is never lost, and the same call for many objects on a few.

Owns the threads. Written with plain ones: importing concurrent.futures costs more than a hundred inspects, and its
pools make who comes last wait for a call that hangs.
"""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from contextvars import Context, copy_context
from functools import partial
from time import monotonic
from typing import Generic, Self, TypeVar

_SLICE = 0.2  # seconds of waiting, so that signal handlers run in between
_IDLE = 32  # threads that are kept for the next calls
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


class _Idle:
    """A thread that waits for its next call: starting one takes as long as many a call."""

    def __init__(self) -> None:
        self._given = threading.Lock()
        self._given.acquire()
        self._work: Callable[[], object] = int

    def give(self, work: Callable[[], object]) -> None:
        """What it does next."""
        self._work = work
        self._given.release()

    def run(self) -> None:
        """Begun by a call, it waits for others as long as there are not too many that do."""
        self._given.acquire()
        while True:
            self._work()
            self._work = int  # a thread that waits holds nothing of its last call
            if len(_idle) >= _IDLE:
                return
            _idle.append(self)
            self._given.acquire()


_idle: list[_Idle] = []
os.register_at_fork(after_in_child=_idle.clear)  # a new process has none of the threads


def _set_aside(work: Callable[[], object], name: str) -> None:
    """Have `work`, which must not raise, done by a thread that does nothing else, begun for it or idle until now."""
    context = copy_context()

    def named() -> None:
        threading.current_thread().name = name
        context.run(work)

    try:
        thread = _idle.pop()
    except IndexError:
        thread = _Idle()
        Context().run(partial(begin, thread.run, name=name, failed=lambda error: None))  # it outlives the call
    thread.give(named)


class Aside(Generic[B]):
    """A call in a thread of its own, which begins at once. As a context, its end is waited for."""

    def __init__(self, call: Callable[[], B], *, name: str) -> None:
        self._results: list[B] = []
        self._failures: list[BaseException] = []
        self._running = threading.Lock()
        self._running.acquire()
        self.alive = True  # whether it is still under way

        def work() -> None:
            try:
                self._results.append(call())
            except BaseException as error:
                self._failures.append(error)
            finally:
                self.alive = False
                self._running.release()

        _set_aside(work, name)

    def result(self, until: float = math.inf) -> B:
        """What the call gave, or raises what it raised; TimeoutError after `until` (a `time.monotonic` value)."""
        while self.alive and (left := until - monotonic()) > 0:
            self._wait(min(left, _SLICE))
        if self._failures:
            raise self._failures[0]
        if not self._results:
            raise TimeoutError("not done in time")
        return self._results[0]

    def _wait(self, seconds: float) -> None:
        if self._running.acquire(timeout=seconds):
            self._running.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        while self.alive:
            self._wait(_SLICE)


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
            try:
                results[number] = call(items[number])
            except BaseException as error:
                failures.append(error)

    with ExitStack() as waiting:
        for _ in range(min(workers, len(items))):
            waiting.enter_context(Aside(work, name="together"))
    if failures:
        raise failures[0]
    return tuple(results[number] for number in range(len(items)))
