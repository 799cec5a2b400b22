"""Hands a sandbox's output on to its consumer, in a thread of its own.

Owns the queue between the two. A consumer that is slow makes the reader wait; one that is stuck or fails never keeps
the engine's stream from being read to its end.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from time import monotonic

from sandboxrun.engine.together import begin

ROOM = 1 << 20  # bytes that may wait for the consumer while the sandbox runs
BATCH = 1 << 16  # bytes that the consumer gets at once, or a piece more
STUCK = 2.0  # seconds without progress after which a consumer counts as stuck once the sandbox is to end


class Relay:
    """Calls `output` (stream, data) for what is put in, in order. After a failure it drops the rest."""

    def __init__(self, name: str, output: Callable[[int, bytes], None]) -> None:
        self._output = output
        self._queue: deque[tuple[int, bytes]] = deque()
        self._waiting = 0  # bytes put in and not yet taken by the consumer
        self._ending = self._over = self._closed = False
        self._changed = threading.Condition()
        self._moved = monotonic()
        self.failure: BaseException | None = None
        self.dropped = 0
        self._thread = begin(self._work, name=f"output of {name}", failed=self._failed)

    def put(self, stream: int, data: bytes) -> None:
        """Queue `data`. Waits while too much waits already, but never for a consumer that failed or is stuck."""
        with self._changed:
            while self._waiting >= ROOM and self.failure is None and not self._over:
                if self._ending and self.stuck_for > STUCK:
                    break
                self._changed.wait(0.2 if self._ending else None)
            if self.failure is not None or (self._waiting >= ROOM and not self._over):
                self.dropped += len(data)
                return
            self._queue.append((stream, data))
            self._waiting += len(data)
            self._changed.notify_all()

    def ending(self, *, over: bool = False) -> None:
        """The sandbox is to end; `over`: it has ended. What then still comes is what the engine holds, a few MB."""
        with self._changed:
            self._ending = True
            self._over = self._over or over
            self._changed.notify_all()

    def close(self) -> None:
        """Nothing more will be put in."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def wait(self, timeout: float) -> bool:
        """Wait at most `timeout` seconds for the consumer to have taken everything; whether it has."""
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def give_up(self) -> None:
        """Stop waiting for the consumer: what it has not taken is dropped."""
        with self._changed:
            self.dropped += self._waiting
            self._queue.clear()
            self._closed = self._over = True
            self._changed.notify_all()

    @property
    def stuck_for(self) -> float:
        """Seconds since the consumer last took something."""
        return monotonic() - self._moved

    def _work(self) -> None:
        while batch := self._take():
            for stream, data in batch:
                self._output(stream, data)
                with self._changed:
                    self._waiting -= len(data)
                    self._moved = monotonic()
                    self._changed.notify_all()

    def _take(self) -> list[tuple[int, bytes]]:
        """Some of what waits, neighbours of one stream joined; nothing at the end."""
        with self._changed:
            while not self._queue and not self._closed:
                self._changed.wait()
            pieces: list[tuple[int, bytes]] = []
            size = 0
            while self._queue and size < BATCH:
                pieces.append(self._queue.popleft())
                size += len(pieces[-1][1])
            self._moved = monotonic()
        batch: list[tuple[int, list[bytes]]] = []
        for stream, data in pieces:
            if batch and batch[-1][0] == stream:
                batch[-1][1].append(data)
            else:
                batch.append((stream, [data]))
        return [(stream, b"".join(parts)) for stream, parts in batch]

    def _failed(self, error: BaseException) -> None:
        with self._changed:
            self.failure = error
            self.dropped += self._waiting
            self._queue.clear()
            self._changed.notify_all()
