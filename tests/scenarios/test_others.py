"""Two directories with one project name: what one makes the other changes only if it says so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sandboxrun.backend.fake import Fake, World
from sandboxrun.errors import PlanError
from sandboxrun.lifecycle.apply import ApplySettings
from sandboxrun.lifecycle.job import apply_and_wait
from sandboxrun.plan.planner import Options
from sandboxrun.profile.loader import load_data
from sandboxrun.spec import labels
from tests.conftest import until
from tests.scenarios.world import FOREVER, IMAGE, Job, new_world, read

OTHER = {"command": ["sleep", "9"]}
CHANGES = {
    "undeclared": ({"mine": {}}, "removes a, volume.data"),
    "replaced": ({"a": OTHER}, "removes volume.data and replaces a"),
    "updated": ({"a": {"mem_limit": "64m"}}, "removes volume.data and changes a"),
}


@pytest.fixture
def theirs(tmp_path: Path) -> World:
    """A world in which another directory's project of this name has a sandbox that runs, and a volume."""
    world, there = new_world(), tmp_path / "theirs"
    there.mkdir()
    keeps = {"image": IMAGE, "network_mode": "none", "command": ["true"], "volumes": ["data:/data"]}
    runs = {"image": IMAGE, "network_mode": "none", "command": FOREVER, "stop_grace_period": "1s"}
    source = {"name": "tale", "sandboxes": {"a": runs, "b": keeps}, "volumes": {"data": {}}}
    job = Job.of(Fake(world), load_data(source, directory=there), there / "evidence")
    waited = apply_and_wait(job.backend, job.profile, job.store, options=Options(targets=("b",)))
    assert waited.exit_code == 0
    job.apply(targets=("a",))
    assert len(world.boxes) == len(world.volumes) == 1
    return world


def job_in(world: World, directory: Path, sandboxes: dict[str, dict[str, Any]]) -> Job:
    return Job.of(Fake(world), read(directory, sandboxes), directory / "evidence")


@pytest.mark.parametrize(("declared", "told"), CHANGES.values(), ids=CHANGES)
def test_what_another_directory_made_is_changed_only_by_who_says_so(
    theirs: World, tmp_path: Path, declared: dict[str, dict[str, Any]], told: str
) -> None:
    job, before = job_in(theirs, tmp_path, declared), dict(theirs.boxes)
    with pytest.raises(
        PlanError, match=f"this plan {told}, which w.* made from the directory {tmp_path}/theirs by "
    ) as refused:
        job.apply()
    assert "(ApplySettings(take_over=True))" in str(refused.value) and "--" not in str(refused.value)
    assert theirs.boxes == before and len(theirs.volumes) == 1
    job.apply(ApplySettings(take_over=True))
    assert not theirs.volumes
    assert [box.labels[labels.SANDBOX] for box in theirs.boxes.values()] == list(declared)


def test_destroy_asks_too_and_takes_what_it_declares_as_it_is(theirs: World, tmp_path: Path) -> None:
    job = job_in(theirs, tmp_path, {"mine": {}})
    with pytest.raises(PlanError, match=r"this plan removes a, volume\.data, which were made"):
        job.destroy()
    assert len(theirs.boxes) == 1
    same = job_in(theirs, tmp_path, {"a": {}})
    with pytest.raises(PlanError, match=r"this plan removes volume\.data, which was made"):
        same.destroy()
    theirs.volumes.clear()
    same.destroy()
    assert not theirs.boxes


def test_what_is_over_is_collected_wherever_it_was_made(theirs: World, tmp_path: Path) -> None:
    """By its own ttl: nobody waits for it. Another profile's timeout is none of its own."""
    theirs.volumes.clear()
    short = job_in(theirs, tmp_path, {"a": {**OTHER, "lifetime": {"timeout": "1s"}}})
    until(lambda: "past its timeout" in str(short.plan()))
    with pytest.raises(PlanError, match="this plan removes a, which was made"):
        short.apply()
    there = job_in(theirs, tmp_path / "theirs", {"a": {}, "b": {"lifetime": {"ttl": "1s"}}})
    there.apply()
    ours = job_in(theirs, tmp_path, {"a": {}})
    until(lambda: ours.plan().others == ())
    ours.apply()
    assert len(theirs.boxes) == 1
