"""Threads: one whose failure is never lost, and the same call for many objects on a few.

Owns the threads. Written with plain ones: importing concurrent.futures costs more than a hundred inspects.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import TypeVar

A = TypeVar("A")
B = TypeVar("B")


def begin(work: Callable[[], object], *, name: str, failed: Callable[[BaseException], object]) -> threading.Thread:
    """Start `work` in a daemon thread. Whatever it raises goes to `failed`: no thread ends unnoticed.

    Every thread of this package starts here.
    """

    def run() -> None:
        try:
            work()
        except BaseException as error:
            failed(error)

    thread = threading.Thread(target=run, name=name, daemon=True)
    thread.start()
    return thread


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
