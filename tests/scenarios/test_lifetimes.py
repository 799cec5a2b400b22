"""Lifetimes on the engine in memory: whose a sandbox is, how long it stays, and who is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from sandboxrun.backend.fake import Fake, Killed
from sandboxrun.backend.owner import decode, this_process
from sandboxrun.lifecycle.run import run
from sandboxrun.spec.ci import CiJob
from sandboxrun.spec.state import parse_time
from tests.scenarios.world import Job, new_world, read

# -- whose it is


@pytest.mark.parametrize("command", ["apply", "run"])
@pytest.mark.parametrize("named", ["nightly", ""])
def test_a_sandbox_says_who_made_it(command: str, named: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SANDBOXRUN_JOB", named)
    world = new_world()
    job = Job.of(Fake(world), read(tmp_path, {"agent": {"lifetime": {"ttl": "2h"}}}), tmp_path / "evidence")
    world.after = lambda backend, step: backend.kill() if step.id == "start agent" else None
    with pytest.raises(Killed):
        if command == "apply":
            job.apply()
        else:
            run(job.backend, job.profile, job.store, job.profile.sandboxes)
    world.after = lambda backend, step: None
    observed = Job.of(Fake(world), job.profile, tmp_path / "evidence").observed("agent")
    assert decode(observed.owner or "") == this_process()
    assert observed.job == (CiJob(system="custom", id="nightly") if named else None)
    assert observed.one_off == (command == "run")
    created = parse_time(observed.created)
    assert created is not None and observed.deadline is not None
    assert 7190 < (observed.deadline - created).total_seconds() < 7210
