"""What an earlier commit left is shown by the command line, and replaced, torn down or refused by name."""

from __future__ import annotations

from pathlib import Path

import docker
import pytest

from tests import before
from tests.conftest import Cli


def test_runs_are_listed_and_count_as_done(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    there = before.project(tmp_path, monkeypatch)
    listed = cli("ps", "-a", cwd=there)
    assert [line.split()[:3] for line in listed.out.splitlines()[1:]] == [
        ["plain", "exited", "0"],
        ["copied", "exited", "0"],
        ["failing", "failed", "3"],
    ]
    said = cli("logs", "plain", "failing", cwd=there)
    assert said.out.splitlines() == ["plain   | hello", "failing | it broke"] and "plain   | careful" in said.err
    planned = cli("plan", "--detailed-exitcode", cwd=there)
    assert planned.code == 0 and planned.out.count("--rerun") == 3, planned


def test_a_saved_plan_whose_profile_has_changed_is_refused(cli: Cli, tmp_path: Path) -> None:
    path = before.plan(tmp_path)
    profile = path.parent / "sandbox.yaml"
    profile.write_text(profile.read_text().replace("64m", "65m"))
    ran = cli("apply", "--yes", path.name, cwd=path.parent)
    assert ran.code != 0 and "the saved plan is stale" in ran.err and "the profile has changed" in ran.err, ran


def test_a_running_sandbox_is_shown_planned_and_torn_down(
    cli: Cli, project: str, busybox: str, engine_client: docker.DockerClient
) -> None:
    profile, labels = before.running(project)
    (cli.cwd / "sandbox.yaml").write_text(profile)
    name = f"{project}-waiting"
    engine_client.containers.run(
        busybox, ["sleep", "600"], name=name, labels=labels, detach=True, mem_limit="64m", init=True
    )
    listed = cli("ps")
    assert [line.split()[:2] for line in listed.out.splitlines()[1:]] == [["waiting", "running"]], listed
    planned = cli("plan")  # the container was made by hand: much of it is not as its label says
    assert planned.code == 0 and "sandbox waiting must be replaced" in planned.out, planned
    gone = cli("destroy", "--yes")
    assert gone.code == 0 and "waiting: stopped before its end" in gone.out + gone.err, gone
    assert engine_client.containers.list(all=True, filters={"name": name}, ignore_removed=True) == []
