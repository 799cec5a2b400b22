"""Metrics of a reaper that keeps running, as OpenMetrics text: served on an address, or written to a file.

Owns their names. Needs prometheus-client, an optional extra.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

from sandboxrun.errors import UsageError
from sandboxrun.report.reap import Connected, Lost, ProjectLooked, ReaperEvent, reason_word

_STATES = ("created", "running", "paused", "ended")
_BUCKETS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)  # seconds


class Metrics:
    """Counts what a reaper tells. Raises UsageError for an address or a file that can't be used."""

    def __init__(self, endpoint: str | None = None, file: Path | None = None) -> None:
        try:
            import prometheus_client as prometheus
            from prometheus_client.openmetrics.exposition import generate_latest
        except ImportError as error:
            help = "install the extra: pip install 'sandboxrun[metrics]'"
            raise UsageError("metrics need the package prometheus-client", help=help) from error
        self._file, self._generate = file, cast("Callable[[Any], bytes]", generate_latest)
        self._sandboxes: dict[str, Mapping[str, int]] = {}  # by project
        registry = self._registry = prometheus.CollectorRegistry()
        self._there = prometheus.Gauge("sandboxrun_sandboxes", "Sandboxes on the engine.", ["state"], registry=registry)
        self._reaped = prometheus.Counter(
            "sandboxrun_reaped", "Sandboxes that were reaped.", ["reason"], registry=registry
        )
        self._swept = prometheus.Counter(
            "sandboxrun_swept", "Objects without a sandbox that were removed.", ["kind"], registry=registry
        )
        self._failed = prometheus.Counter(
            "sandboxrun_reap_failures", "Times that a sandbox or project could not be reaped.", registry=registry
        )
        self._lost = prometheus.Counter(
            "sandboxrun_engine_lost", "Times that the engine could not be followed.", registry=registry
        )
        self._connected = prometheus.Gauge(
            "sandboxrun_engine_connected", "Whether the engine is followed.", registry=registry
        )
        self._seconds = prometheus.Histogram(
            "sandboxrun_reap_seconds", "Time to reap what is due of a project.", buckets=_BUCKETS, registry=registry
        )
        for state in _STATES:
            self._there.labels(state)
        if endpoint is not None:
            self._serve(endpoint, prometheus)
        self._write()

    def __call__(self, told: ReaperEvent) -> None:
        """Count it."""
        match told:
            case Connected():
                self._connected.set(1)
                self._sandboxes.clear()
            case Lost():
                self._connected.set(0)
                self._lost.inc()
            case ProjectLooked(project=project, result=result, states=states):
                if states is not None:
                    self._sandboxes[project] = states
                for state in _STATES:
                    self._there.labels(state).set(sum(one.get(state, 0) for one in self._sandboxes.values()))
                for reaped in result.reaped:
                    self._reaped.labels(reason_word(reaped)).inc()
                for swept in result.swept:
                    self._swept.labels(swept.kind).inc()
                self._failed.inc(len(result.left))
                if result.reaped or result.swept or result.left:
                    self._seconds.observe(result.seconds)
        self._write()

    def text(self) -> bytes:
        """All of it, as OpenMetrics text."""
        return self._generate(self._registry)

    def _serve(self, endpoint: str, prometheus: Any) -> None:
        host, colon, port = endpoint.rpartition(":")
        if not colon or not port.isdecimal() or int(port) > 65535:
            raise UsageError(f"--metrics {endpoint}: write HOST:PORT, as in 127.0.0.1:9464")
        try:
            prometheus.start_http_server(int(port), addr=host.strip("[]") or "127.0.0.1", registry=self._registry)
        except OSError as error:
            raise UsageError(f"--metrics {endpoint}: {error.strerror or error}") from error

    def _write(self) -> None:
        """In one step: whoever reads it sees one state."""
        if self._file is None:
            return
        draft = self._file.with_name(f"{self._file.name}.{os.getpid()}.tmp")
        try:
            draft.write_bytes(self.text())
            draft.replace(self._file)
        except OSError as error:
            raise UsageError(f"--metrics-file {self._file}: {error.strerror or error}") from error
