"""Writing to standard streams past Python's buffers.

Owns the writing: whole, also to a descriptor that does not block, and never longer than the caller has patience. A
thread that is stuck in a buffer's own write would hold its lock when the process is to end.
"""

from __future__ import annotations

import os
import select
from typing import TextIO

_SURE = 4096  # bytes that a pipe takes at once when it says that it takes some


def write_all(stream: TextIO, data: bytes, *, patience: float | None = None) -> None:
    """Write all of `data`. Raises OSError, whose `filename` is the stream's name; TimeoutError when nothing could be
    written for `patience` seconds (None: waits as long as it takes)."""
    descriptor = _descriptor(stream)
    if descriptor is None:
        stream.flush()
        stream.buffer.write(data) if hasattr(stream, "buffer") else stream.write(data.decode("utf-8", "replace"))
        stream.flush()
        return
    try:
        if patience is None:
            stream.flush()
        left = memoryview(data)
        while left:
            if patience is not None:
                _wait(descriptor, patience)
            try:
                left = left[os.write(descriptor, left if patience is None else left[:_SURE]) :]
            except BlockingIOError:
                _wait(descriptor, patience)
    except OSError as error:
        name = str(getattr(stream, "name", "output")).strip("<>")
        error.filename = {1: "stdout", 2: "stderr"}.get(descriptor, name)
        raise


def reader_gone(stream: TextIO) -> bool:
    """Whether what reads the stream has closed its end."""
    descriptor = _descriptor(stream)
    return descriptor is not None and any(event & select.POLLERR for _, event in _poll(descriptor, 0, 0.0))


def _wait(descriptor: int, patience: float | None) -> None:
    if not _poll(descriptor, select.POLLOUT, patience):
        raise TimeoutError("nothing reads it")


def _poll(descriptor: int, events: int, patience: float | None) -> list[tuple[int, int]]:
    poll = select.poll()
    poll.register(descriptor, events)
    return poll.poll(None if patience is None else patience * 1000)


def _descriptor(stream: TextIO) -> int | None:
    try:
        return stream.fileno()
    except (OSError, ValueError, AttributeError):  # in memory
        return None
