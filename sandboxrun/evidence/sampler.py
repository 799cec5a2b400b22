"""Reads a running container's usage at an interval and writes it down, one line a sample.

Owns the thread. A sampler whose engine or disk fails stops, and never disturbs the run it watches.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, BinaryIO

from sandboxrun.engine.errors import EngineError
from sandboxrun.engine.together import begin
from sandboxrun.evidence.errors import reason_of
from sandboxrun.evidence.usage import sample_of

if TYPE_CHECKING:
    from sandboxrun.engine.client import Engine

USAGE = "usage.jsonl"  # its name in a run's staging folder
SHORTEST = 0.1  # seconds; each sample is an engine call


class Sampler:
    """Samples a container from `start` to `stop`; also a context manager. The file stays the caller's to close."""

    def __init__(
        self,
        engine: Engine,
        container_id: str,
        file: BinaryIO,
        *,
        every: float = 1.0,
        failed: Callable[[BaseException], object] | None = None,
    ) -> None:
        """`every` in seconds (at least 0.1); `file` is appended to, and each line flushed. `failed` gets what nobody
        expects; what can happen to an engine or a disk is in `failure`."""
        self._engine, self._id, self._file = engine, container_id, file
        self._every = max(every, SHORTEST)
        self._stop = threading.Event()
        self._failed = failed
        self._thread: threading.Thread | None = None
        self.samples = 0
        self.failure: str | None = None
        self.failed_at = 0.0  # by `time.monotonic`

    def start(self) -> None:
        """Begin with a sample at once."""
        self._thread = begin(self._run, name=f"usage of {self._id[:12]}", failed=self._note)

    def stop(self, *, wait: float = 5.0) -> None:
        """End, waiting at most `wait` seconds for a sample that is being taken. May be called again."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(wait)

    def _run(self) -> None:
        while not self._stop.is_set() and self._sample():
            self._stop.wait(self._every)

    def _note(self, error: BaseException) -> None:
        if isinstance(error, EngineError | OSError) or self._failed is None:
            self.failure, self.failed_at = reason_of(error), time.monotonic()
        else:
            self._failed(error)

    def _sample(self) -> bool:
        """One sample; False when the container does not run (any more)."""
        sample = sample_of(self._engine.stats(self._id))
        if sample is None:
            return False
        if not self._stop.is_set():
            self._file.write(json.dumps(sample.to_json(), separators=(",", ":")).encode() + b"\n")
            self._file.flush()
            self.samples += 1
        return True

    def __enter__(self) -> Sampler:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
