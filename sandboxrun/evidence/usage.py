"""Resource usage: the engine's statistics in a compact form, and their summary.

Owns the reading of one engine answer, for both cgroup versions. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import attrs


@attrs.frozen(kw_only=True)
class Sample:
    """One moment. Counters (`cpu_ns`, the `*_bytes` of input and output) run from the start of the container.

    `memory_bytes` leaves out the page cache the kernel can drop at once, as `docker stats` does;
    `memory_peak_bytes` is the kernel's own high-water mark, cache included, where it keeps one (cgroup v1).
    """

    time: str
    cpu_ns: int | None = None
    throttled_ns: int | None = None
    memory_bytes: int | None = None
    memory_peak_bytes: int | None = None
    memory_limit_bytes: int | None = None
    pids: int | None = None
    read_bytes: int | None = None
    write_bytes: int | None = None
    received_bytes: int | None = None
    sent_bytes: int | None = None

    def to_json(self) -> dict[str, Any]:
        """The line's fields; what the engine did not say is left out."""
        return attrs.asdict(self, filter=lambda _field, value: value is not None)


@attrs.frozen(kw_only=True)
class Usage:
    """The summary of a run's samples.

    `memory_peak_bytes` is the kernel's own mark where it keeps one (`memory_peak_by` is "kernel"), else the highest
    sample ("samples"): between two it may have been more.
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


def sample_of(stats: Mapping[str, Any]) -> Sample | None:
    """A `GET /containers/{id}/stats` answer as a sample; None for a container that is not running."""
    memory, cpu = _map(stats, "memory_stats"), _map(stats, "cpu_stats")
    cpu_ns = _number(_map(cpu, "cpu_usage"), "total_usage")
    if _number(memory, "usage") is None and not cpu_ns:
        return None
    read, written = _block_io(_map(stats, "blkio_stats").get("io_service_bytes_recursive"))
    received, sent = _network(_map(stats, "networks"))
    return Sample(
        time=str(stats.get("read", "")),
        cpu_ns=cpu_ns,
        throttled_ns=_number(_map(cpu, "throttling_data"), "throttled_time"),
        memory_bytes=_memory(memory),
        memory_peak_bytes=_number(memory, "max_usage") or None,
        memory_limit_bytes=_number(memory, "limit"),
        pids=_number(_map(stats, "pids_stats"), "current"),
        read_bytes=read,
        write_bytes=written,
        received_bytes=received,
        sent_bytes=sent,
    )


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


def _memory(memory: Mapping[str, Any]) -> int | None:
    """Usage less droppable cache: `total_inactive_file` under cgroup v1, `inactive_file` under v2."""
    usage, stats = _number(memory, "usage"), _map(memory, "stats")
    if usage is None:
        return None
    cache = _number(stats, "total_inactive_file")
    cache = _number(stats, "inactive_file") if cache is None else cache
    return usage - cache if cache is not None and cache < usage else usage


def _block_io(entries: Any) -> tuple[int | None, int | None]:
    """Bytes read and written over all devices; the two cgroup versions differ in the case of `op`."""
    if not isinstance(entries, list):
        return None, None
    total = {"read": 0, "write": 0}
    for entry in entries:
        operation = str(entry.get("op", "")).lower() if isinstance(entry, Mapping) else ""
        if operation in total:
            total[operation] += _number(entry, "value") or 0
    return total["read"], total["write"]


def _network(networks: Mapping[str, Any]) -> tuple[int | None, int | None]:
    if not networks:
        return None, None
    cards = [card for card in networks.values() if isinstance(card, Mapping)]
    return sum(_number(c, "rx_bytes") or 0 for c in cards), sum(_number(c, "tx_bytes") or 0 for c in cards)


def _map(value: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    found = value.get(key)
    return found if isinstance(found, Mapping) else {}


def _number(value: Mapping[str, Any], key: str) -> int | None:
    found = value.get(key)
    return found if isinstance(found, int) and not isinstance(found, bool) else None
