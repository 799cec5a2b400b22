"""A copy of a sandbox's output in its run's staging folder, as it comes.

Owns the two files. Must not raise: a copy that fails (a full disk) is given up, and says why; the engine's own log
takes its place.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, BinaryIO

from sandboxrun.evidence.errors import EvidenceError, reason_of
from sandboxrun.evidence.staged import STDERR, STDOUT

if TYPE_CHECKING:
    from sandboxrun.evidence.store import Store


class KeptOutput:
    """Up to one byte more than `limit` of each stream, which tells the capture that it was cut."""

    def __init__(self, store: Store, run: str, engine: str, limit: int) -> None:
        self.failure: str | None = None
        self.seen = {1: 0, 2: 0}  # bytes of each stream, kept or not
        self._most = limit + 1
        self._files: dict[int, BinaryIO] = {}
        self._closing = contextlib.ExitStack()
        try:
            staging = self._closing.enter_context(store.staging(run, engine=engine))
            for stream, name in ((1, STDOUT), (2, STDERR)):
                self._files[stream] = self._closing.enter_context(contextlib.closing(staging.append(name)))
        except (OSError, EvidenceError) as error:
            self._fail(error)

    def write(self, stream: int, data: bytes) -> None:
        """Add to a stream's file."""
        left = memoryview(data)[: max(0, self._most - self.seen[stream])]
        self.seen[stream] += len(data)
        if self.failure is not None:
            return
        try:
            while left:
                left = left[self._files[stream].write(left) :]
        except OSError as error:
            self._fail(error)

    def close(self) -> None:
        """Close the files."""
        try:
            self._closing.close()
        except OSError as error:
            self._fail(error)

    def _fail(self, error: BaseException) -> None:
        """Half a copy is of no use, and others need the room."""
        self.failure = self.failure or reason_of(error)
        for file in self._files.values():
            with contextlib.suppress(OSError, ValueError):
                file.truncate(0)
