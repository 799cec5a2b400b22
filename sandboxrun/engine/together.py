"""The same call for many objects, on a few threads.

Owns the threads. Written with plain ones: importing concurrent.futures costs more than a hundred inspects.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import TypeVar

A = TypeVar("A")
B = TypeVar("B")


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

    threads = [threading.Thread(target=work, daemon=True) for _ in range(min(workers, len(items)))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    return tuple(results[number] for number in range(len(items)))
