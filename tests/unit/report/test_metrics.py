"""Metrics of a reaper: what each thing that it tells is counted as, the text, the address and the file."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from urllib.request import Request, urlopen

import pytest

from sandboxrun.errors import Diagnostic, SandboxrunError, UsageError
from sandboxrun.plan.changes import Reason
from sandboxrun.report.reap import Connected, Left, Lost, Metrics, ProjectLooked, Reaped, Result, Swept
from sandboxrun.spec.spec import SandboxSpec

parser = pytest.importorskip("prometheus_client.openmetrics.parser")


def look(**states: int) -> ProjectLooked:
    return ProjectLooked(project="tale", result=Result(), states=states)


def test_everything_that_is_told_is_counted(tmp_path: Path) -> None:
    file = tmp_path / "metrics.prom"
    metrics = Metrics(file=file)
    reaped = Reaped(project="tale", address="a", run="1", reason=Reason.ORPHANED, why="", spec=SandboxSpec(image="x"))
    left = Left(project="tale", address="b", faults=(Diagnostic(message="no"),))
    swept = Swept(project="tale", kind="network", name="tale_default")
    metrics(Connected())
    metrics(ProjectLooked(project="other", result=Result(), states={"running": 2}))
    metrics(look(running=1, ended=4))
    done = Result(reaped=(reaped,), swept=(swept,), left=(left,), seconds=0.2)
    metrics(ProjectLooked(project="tale", result=done, states={"running": 1}))
    text = file.read_text()
    assert text.endswith("# EOF\n") and list(parser.text_string_to_metric_families(text))
    for line in (
        'sandboxrun_sandboxes{state="running"} 3.0',
        'sandboxrun_sandboxes{state="ended"} 0.0',
        'sandboxrun_reaped_total{reason="owner_gone"} 1.0',
        'sandboxrun_swept_total{kind="network"} 1.0',
        "sandboxrun_reap_failures_total 1.0",
        "sandboxrun_reap_seconds_count 1.0",
        "sandboxrun_engine_connected 1.0",
    ):
        assert line in text.splitlines()
    metrics(Lost(error=SandboxrunError(Diagnostic(message="gone"))))
    assert (
        "sandboxrun_engine_connected 0.0" in file.read_text() and "sandboxrun_engine_lost_total 1.0" in file.read_text()
    )


def test_they_are_served() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UsageError, match="Address already in use"):
            Metrics(f"127.0.0.1:{port}")
    Metrics(f"127.0.0.1:{port}")
    asked = Request(f"http://127.0.0.1:{port}/metrics", headers={"Accept": "application/openmetrics-text"})
    with urlopen(asked) as answer:
        assert "openmetrics" in answer.headers["Content-Type"] and b"sandboxrun_sandboxes" in answer.read()


def test_what_can_not_be_used_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="write HOST:PORT"):
        Metrics("9464")
    with pytest.raises(UsageError, match="No such file"):
        Metrics(file=tmp_path / "nowhere" / "file")


def test_nothing_is_written_through_what_others_put_beside_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another user may write to the directory, as to one that an exporter reads."""
    file, theirs = tmp_path / "metrics.prom", tmp_path / "theirs"
    theirs.write_text("kept")
    (tmp_path / f"metrics.prom.{os.getpid()}.tmp").symlink_to(theirs)  # what could be guessed
    file.symlink_to(theirs)
    Metrics(file=file)
    assert theirs.read_text() == "kept" and not file.is_symlink() and file.read_text().endswith("# EOF\n")
    monkeypatch.setattr(os, "urandom", bytes)
    (tmp_path / f"metrics.prom.{bytes(8).hex()}.tmp").symlink_to(theirs)  # and by chance
    with pytest.raises(UsageError, match="File exists"):
        Metrics(file=file)
    assert theirs.read_text() == "kept"
