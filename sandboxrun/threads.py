"""Threads: one whose failure is never lost, and the same call for many objects on a few.

Owns the threads. Written with plain ones: importing concurrent.futures costs more than a hundred inspects.
"""

from __future__ import annotations

import contextlib
import math
import os
import threading
import weakref
from collections.abc import Callable, Sequence
from contextvars import copy_context
from time import monotonic
from types import MethodType
from typing import Any, ClassVar, Generic, Self, TypeVar

_IDLE = 2.0  # seconds after which a thread without work ends
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
        self._over = threading.Lock()  # held until then
        self._over.acquire()
        context = copy_context()

        def work() -> None:
            try:
                self._results.append(context.run(call))
            except BaseException as error:
                self._failures.append(error)
            finally:
                self._over.release()

        _Helper.begin(work, name)

    @property
    def alive(self) -> bool:
        """Whether it is still under way."""
        return self._over.locked()

    def _wait(self, seconds: float) -> None:
        if self._over.acquire(timeout=seconds):
            self._over.release()

    def result(self, until: float = math.inf) -> B:
        """What the call gave, or raises what it raised; TimeoutError after `until` (a `time.monotonic` value)."""
        while self.alive and (left := until - monotonic()) > 0:
            self._wait(min(left, _SLICE))
        if self._failures:
            raise self._failures[0]
        if not self._results:
            raise TimeoutError("not done in time")
        return self._results[0]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        while self.alive:
            self._wait(_SLICE)


class _Helper:
    """A thread that makes one call after the other: most take less time than a new thread. There are always as many as
    there are calls under way."""

    _idle: ClassVar[list[_Helper]] = []  # the last one that was busy is asked first

    def __init__(self, work: Callable[[], None], name: str) -> None:
        self._work, self._name = work, name
        self._called = threading.Lock()  # held until there is work
        self._called.acquire()
        begin(self._run, name=name, failed=lambda error: None)

    @classmethod
    def begin(cls, work: Callable[[], None], name: str) -> None:
        try:
            helper = cls._idle.pop()
        except IndexError:
            cls(work, name)
            return
        helper._work, helper._name = work, name
        helper._called.release()

    def _run(self) -> None:
        while True:
            threading.current_thread().name = self._name
            self._work()
            self._idle.append(self)
            if not self._called.acquire(timeout=_IDLE):
                with contextlib.suppress(ValueError):
                    self._idle.remove(self)
                    return
                self._called.acquire()  # there is work after all


os.register_at_fork(after_in_child=_Helper._idle.clear)


_anew: weakref.WeakKeyDictionary[object, Callable[[Any], None]] = weakref.WeakKeyDictionary()  # as they were told


def after_fork(method: Callable[[], None]) -> None:
    """Have a bound method called in a process forked from this one, while its object lives. A fork copies locks as they
    are, and not the threads that hold them: what is used there as well makes its own ones again."""
    assert isinstance(method, MethodType)
    _anew[method.__self__] = method.__func__


def _forked() -> None:
    for one, begin_again in tuple(_anew.items()):
        begin_again(one)


os.register_at_fork(after_in_child=_forked)


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
