"""Resource usage: samples of a running sandbox at an interval, in a compact form, and their summary."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, BinaryIO

from msgspec import structs

from sandboxrun.backend.errors import EngineError
from sandboxrun.data import Data
from sandboxrun.evidence.errors import reason_of
from sandboxrun.threads import begin

if TYPE_CHECKING:
    from sandboxrun.backend.base import Backend
    from sandboxrun.spec.state import Sample


# -- The summary of a run's samples


class Usage(Data):
    """The summary of a run's samples.

    `memory_peak_bytes` is the kernel's own mark where it keeps one (`memory_peak_by` is "kernel"), else the highest
    sample ("samples"): between two it may have been more. "limit": it was killed at its memory limit.
    """

    samples: int
    cpu_seconds: float | None = None
    memory_peak_bytes: int | None = None
    memory_peak_by: str | None = None
    pids_peak: int | None = None
    read_bytes: int | None = None
    write_bytes: int | None = None
    received_bytes: int | None = None
    sent_bytes: int | None = None


def summary_of(samples: Iterable[Mapping[str, Any]]) -> Usage | None:
    """The summary of samples in their JSON form, in order; None when there is none."""
    count = 0
    peak: dict[str, int] = {}
    for sample in samples:
        count += 1
        for key, value in sample.items():
            if isinstance(value, int) and not isinstance(value, bool):
                peak[key] = max(peak.get(key, 0), value)
    if not count:
        return None
    memory = [peak[key] for key in ("memory_bytes", "memory_peak_bytes") if key in peak]
    counters = ("read_bytes", "write_bytes", "received_bytes", "sent_bytes")
    return Usage(
        samples=count,
        cpu_seconds=round(peak["cpu_ns"] / 1e9, 6) if "cpu_ns" in peak else None,
        memory_peak_bytes=max(memory, default=None),
        memory_peak_by=("kernel" if "memory_peak_bytes" in peak else "samples") if memory else None,
        pids_peak=peak.get("pids"),
        **{key: peak.get(key) for key in counters},
    )


def reaching(usage: Usage | None, limit: int | None) -> Usage | None:
    """The summary of a sandbox that the kernel killed at its memory limit: it had that much, whatever was sampled."""
    if not limit or (usage is not None and (usage.memory_peak_bytes or 0) >= limit):
        return usage
    return structs.replace(usage or Usage(samples=0), memory_peak_bytes=limit, memory_peak_by="limit")


# -- Reads a running container's usage at an interval and writes it down, one line a sample

USAGE = "usage.jsonl"  # its name in a run's staging folder
SHORTEST = 0.1  # seconds; each sample is an engine call


class Sampler:
    """Samples a container from `start` to `stop`; also a context manager. The file stays the caller's to close."""

    def __init__(
        self,
        engine: Backend,
        container_id: str,
        file: BinaryIO | None,
        *,
        every: float = 1.0,
        seen: Callable[[Sample], object] = lambda sample: None,
        failed: Callable[[BaseException], object] | None = None,
    ) -> None:
        """`every` in seconds (at least 0.1); `file` is appended to, and each line flushed; `seen` gets each sample.
        `failed` gets what nobody expects; what can happen to an engine or a disk is in `failure`."""
        self._engine, self._id, self._file, self._seen = engine, container_id, file, seen
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
        sample = self._engine.usage(self._id)
        if sample is None:
            return False
        if not self._stop.is_set():
            self._seen(sample)
            if self._file is not None:
                self._file.write(json.dumps(sample.to_json(), separators=(",", ":")).encode() + b"\n")
                self._file.flush()
            self.samples += 1
        return True

    def __enter__(self) -> Sampler:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
