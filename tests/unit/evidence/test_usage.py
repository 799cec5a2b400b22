from __future__ import annotations

from typing import Any

from sandboxrun.backend.docker.facts import sample_of
from sandboxrun.evidence.index import Usage
from sandboxrun.evidence.parts import summary_of
from sandboxrun.spec.state import Sample

V1: dict[str, Any] = {
    "read": "2026-01-01T00:00:01Z",
    "cpu_stats": {"cpu_usage": {"total_usage": 5_000}, "throttling_data": {"throttled_time": 7}},
    "memory_stats": {
        "usage": 900,
        "max_usage": 1500,
        "limit": 4096,
        "stats": {"total_inactive_file": 100, "inactive_file": 50},
    },
    "pids_stats": {"current": 3},
    "blkio_stats": {
        "io_service_bytes_recursive": [
            {"op": "Read", "value": 10},
            {"op": "Write", "value": 20},
            {"op": "Read", "value": 1},
            {"op": "Total", "value": 31},
        ]
    },
    "networks": {"eth0": {"rx_bytes": 1, "tx_bytes": 2}, "eth1": {"rx_bytes": 10, "tx_bytes": 20}},
}
V2: dict[str, Any] = {
    "read": "2026-01-01T00:00:01Z",
    "cpu_stats": {"cpu_usage": {"total_usage": 5_000}},
    "memory_stats": {"usage": 900, "limit": 4096, "stats": {"inactive_file": 50}},
    "pids_stats": {"current": 3},
    "blkio_stats": {"io_service_bytes_recursive": [{"op": "read", "value": 10}, {"op": "write", "value": 20}]},
}


def test_a_sample_under_cgroup_v1() -> None:
    assert sample_of(V1) == Sample(
        time="2026-01-01T00:00:01Z",
        cpu_ns=5_000,
        throttled_ns=7,
        memory_bytes=800,
        memory_peak_bytes=1500,
        memory_limit_bytes=4096,
        pids=3,
        read_bytes=11,
        write_bytes=20,
        received_bytes=11,
        sent_bytes=22,
    )


def test_a_sample_under_cgroup_v2_without_a_network() -> None:
    found = sample_of(V2)
    assert found is not None
    assert found.to_json() == {
        "time": "2026-01-01T00:00:01Z",
        "cpu_ns": 5_000,
        "memory_bytes": 850,
        "memory_limit_bytes": 4096,
        "pids": 3,
        "read_bytes": 10,
        "write_bytes": 20,
    }


def test_a_container_that_does_not_run_gives_no_sample() -> None:
    assert sample_of({"read": "0001-01-01T00:00:00Z", "memory_stats": {}, "cpu_stats": {}}) is None
    assert sample_of({"memory_stats": None, "blkio_stats": {"io_service_bytes_recursive": None}}) is None


def test_the_summary_holds_the_last_counters_and_the_peaks() -> None:
    samples = [
        {"time": "a", "cpu_ns": 1_500_000_000, "memory_bytes": 500, "pids": 9, "read_bytes": 1},
        {"time": "b", "cpu_ns": 2_500_000_000, "memory_bytes": 300, "memory_peak_bytes": 700, "pids": 2},
    ]
    assert summary_of(samples) == Usage(
        samples=2, cpu_seconds=2.5, memory_peak_bytes=700, memory_peak_by="kernel", pids_peak=9, read_bytes=1
    )
    assert summary_of(samples[:1]) == Usage(
        samples=1, cpu_seconds=1.5, memory_peak_bytes=500, memory_peak_by="samples", pids_peak=9, read_bytes=1
    )
    assert summary_of([]) is None
