"""The reaper on an engine in memory: what goes and what stays, where evidence goes, and what kills, rivals and failures
leave."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import pytest
from msgspec import structs

from sandboxrun.backend.errors import EngineError
from sandboxrun.backend.fake import Fake, Killed, World
from sandboxrun.backend.owner import Owner, this_process
from sandboxrun.errors import SandboxrunError
from sandboxrun.evidence.store import Store
from sandboxrun.lifecycle import reap as reaping
from sandboxrun.lifecycle.apply import ApplySettings
from sandboxrun.lifecycle.job import apply_and_wait
from sandboxrun.lifecycle.reap import Homes, ProjectReaper, Reaper, Scope, is_over, reap
from sandboxrun.lifecycle.run import RunOptions, run
from sandboxrun.plan.changes import Reason
from sandboxrun.plan.planner import Options
from sandboxrun.report.reap import (
    Lost,
    ProjectLooked,
    ReaperEvent,
    Result,
    left_diagnostics,
    reap_plain,
    reap_text,
    reaped_lines,
)
from sandboxrun.spec import labels
from sandboxrun.spec.ci import CiJob
from sandboxrun.spec.state import History, ObservedVolume, Snapshot
from sandboxrun.threads import Aside, begin, together
from tests.conftest import until
from tests.scenarios.world import Job, new_world, read

QUICK = {"command": ["sh", "-c", "exit 3"]}
WIRED = {"network_mode": None, "egress": {"allow": ["example.com:443"]}}


def job_on(world: World, directory: Path, sandboxes: dict[str, dict[str, Any]], project: str = "tale") -> Job:
    directory.mkdir(exist_ok=True)
    return Job.of(Fake(world), read(directory, sandboxes, project), directory / "evidence")


def ended(world: World) -> None:
    """Wait until no sandbox's command runs that ends by itself."""
    for box in world.boxes.values():
        if box.spec.command == ("sh", "-c", "exit 3"):
            box.wait(10)


def long_ago(world: World) -> None:
    """Let the time of all be over that has one."""
    for box in world.boxes.values():
        if box.spec.lifetime.timeout is not None:
            box.started, box.limit = "2020-01-01T00:00:00Z", None  # no PID 1 has ended it
        if labels.DEADLINE in box.labels:
            box.labels[labels.DEADLINE] = "2020-01-01T00:00:00Z"


def reaped(result: Result) -> dict[str, Reason]:
    return {one.address: one.reason for one in result.reaped}


def empty(world: World) -> bool:
    return not (world.boxes or world.networks or world.volumes)


def orphan(world: World, directory: Path, **sandbox: Any) -> Job:
    """A job whose `run` was killed while its sandbox ran."""
    job = job_on(world, directory, {"agent": sandbox})
    job.apply()
    for box in world.boxes.values():
        if labels.ROLE not in box.labels:
            box.labels |= {labels.ONE_OFF: "1"}
        box.job = Fake(world)
        box.job.dead = True
    return job


def test_what_has_ended_is_reaped_and_what_runs_stays(tmp_path: Path) -> None:
    world = new_world()
    job = job_on(world, tmp_path, {"quick": QUICK, "slow": {}})
    job.apply()
    ended(world)
    result = reap(Fake(world), Scope(project="tale"))
    assert (reaped(result), left_diagnostics(result)) == ({"quick": Reason.FAILED}, ())
    assert [box.labels[labels.SANDBOX] for box in world.boxes.values()] == ["slow"]
    (entry,) = job.store.entries("tale")
    assert (entry.sandbox, entry.outcome.value) == ("quick", "failed")
    assert reaped(reap(Fake(world), Scope())) == {}


def test_a_run_that_lives_collects_its_own(tmp_path: Path) -> None:
    world = new_world()
    job = job_on(world, tmp_path, {"agent": QUICK})
    job.apply()
    ended(world)
    (box,) = world.boxes.values()
    box.labels |= {labels.ONE_OFF: "1"}
    assert reaped(reap(Fake(world), Scope())) == {}
    job.backend.dead = True  # type: ignore[attr-defined]
    assert reaped(reap(Fake(world), Scope())) == {"agent": Reason.ORPHANED}


def test_an_orphan_is_ended_and_its_evidence_says_so(tmp_path: Path) -> None:
    world = new_world()
    job = orphan(world, tmp_path, **WIRED)
    assert world.networks and world.volumes
    result = reap(Fake(world), Scope())
    assert reaped(result) == {"agent": Reason.ORPHANED} and empty(world)
    (entry,) = job.store.entries("tale")
    assert entry.outcome.value == "killed" and job.store.is_own(entry)


def test_what_a_killed_reaper_was_stopping_has_ended_for_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine goes on with a stop whose caller is gone: the next one sees it running, and stops what has ended."""
    world = new_world()
    job = job_on(world, tmp_path, {"agent": {"lifetime": {"timeout": "1h"}}})
    job.apply()
    long_ago(world)
    stop = Fake.stop

    def after_another(self: Fake, id: str, *, timeout: int) -> bool:
        stop(self, id, timeout=timeout)
        return stop(self, id, timeout=timeout)

    monkeypatch.setattr(Fake, "stop", after_another)
    assert reaped(reap(Fake(world), Scope())) == {"agent": Reason.TIMEOUT}
    assert [entry.outcome.value for entry in job.store.entries("tale")] == ["timeout"]


@pytest.mark.parametrize("lifetime", [{"timeout": "1h"}, {"ttl": "1h"}])
def test_what_is_past_its_time_is_ended_by_it(tmp_path: Path, lifetime: dict[str, str]) -> None:
    world = new_world()
    job = job_on(world, tmp_path, {"agent": {"lifetime": lifetime}})
    job.apply()
    assert reaped(reap(Fake(world), Scope())) == {}
    long_ago(world)
    result = reap(Fake(world), Scope())
    assert reaped(result) == {"agent": Reason.TIMEOUT if "timeout" in lifetime else Reason.EXPIRED}
    assert [entry.outcome.value for entry in job.store.entries("tale")] == ["timeout"]
    (one,) = result.reaped
    assert one.captured is not None and one.captured.index is not None
    assert one.captured.index.ending.detail == (None if "timeout" in lifetime else "past its ttl")


def test_what_a_sandbox_that_is_gone_left_is_swept_and_a_profiles_volumes_stay(tmp_path: Path) -> None:
    world = new_world()
    job_on(world, tmp_path, {"agent": WIRED}).apply()
    world.volumes["tale_cache"] = ObservedVolume(name="tale_cache", key="cache", config="sha256:" + "0" * 64)
    world.whose["tale_cache"] = "tale"
    for id in [id for id, box in world.boxes.items() if labels.ROLE not in box.labels]:
        world.removed[id] = world.boxes.pop(id)
    result = reap(Fake(world), Scope(project="tale"))
    assert {one.kind for one in result.swept} == {"container", "network", "volume"}
    assert (world.boxes, world.networks, [*world.volumes]) == ({}, {}, ["tale_cache"])


def test_evidence_goes_to_the_checkout_that_made_the_run(tmp_path: Path) -> None:
    world = new_world()
    jobs = [job_on(world, tmp_path / name, {name: QUICK}) for name in ("one", "two")]
    jobs[0].apply()
    ended(world)
    (first,) = world.boxes.values()
    del world.boxes[first.id]
    jobs[1].apply()
    ended(world)
    world.boxes[first.id] = first
    other = Store(project_directory=tmp_path)
    result = reap(Fake(world), Scope(project="tale"), homes=Homes(own=other, elsewhere=tmp_path / "elsewhere"))
    assert len(result.reaped) == 2 and empty(world)
    assert [[entry.sandbox for entry in job.store.entries()] for job in jobs] == [["one"], ["two"]]
    assert not (tmp_path / "elsewhere").exists() and not other.path.exists()


@pytest.fixture
def strange(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """A world where another user's sandbox has ended."""
    world = new_world()
    job_on(world, tmp_path / "theirs", {"agent": QUICK}).apply()
    ended(world)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state-of-this-user"))
    return world


def test_what_has_no_place_for_its_evidence_stays_and_is_a_failure(strange: World, tmp_path: Path) -> None:
    here = Store(project_directory=tmp_path)
    result = reap(Fake(strange), Scope(), homes=Homes(own=here))
    assert (result.reaped, len(strange.boxes)) == ((), 1)
    (fault,) = left_diagnostics(result)
    assert fault.message == (
        f"could not reap tale/agent: nothing here shows where the evidence of this run belongs: "
        f"it was made in {tmp_path / 'theirs'} by {this_process().who}"
    )
    assert fault.option == "--evidence-dir DIR" and not here.path.exists()


def test_a_place_that_is_named_takes_it(strange: World, tmp_path: Path) -> None:
    homes = Homes(elsewhere=tmp_path / "kept")
    result = reap(Fake(strange), Scope(), homes=homes)
    assert (reaped(result), result.left, empty(strange)) == ({"agent": Reason.FAILED}, (), True)
    assert homes.store_elsewhere is not None
    assert [entry.sandbox for entry in homes.store_elsewhere.entries()] == ["agent"]
    assert (tmp_path / "kept" / "chain.jsonl").exists()


def test_the_directory_that_it_was_made_in_is_its_place(strange: World, tmp_path: Path) -> None:
    own = Store(project_directory=tmp_path / "theirs")
    assert reaped(reap(Fake(strange), Scope(), homes=Homes(own=own))) == {"agent": Reason.FAILED}
    assert [entry.sandbox for entry in own.entries()] == ["agent"]


def test_evidence_that_cannot_be_saved_keeps_its_sandbox_and_no_other(tmp_path: Path) -> None:
    world = new_world()
    for name in ("good", "bad"):
        job_on(world, tmp_path / name, {name: QUICK}, name).apply()
    ended(world)
    chain = tmp_path / "bad" / "evidence" / "chain.jsonl"
    chain.mkdir()
    result = reap(Fake(world), Scope())
    assert reaped(result) == {"good": Reason.FAILED}
    (left,) = result.left
    assert (left.project, left.address) == ("bad", "bad") and str(chain) in left.faults[0].message
    chain.rmdir()
    assert reaped(reap(Fake(world), Scope())) == {"bad": Reason.FAILED} and empty(world)


def test_an_engine_that_goes_away_leaves_the_sandbox(tmp_path: Path) -> None:
    world = new_world()
    job_on(world, tmp_path, {"agent": QUICK}).apply()
    ended(world)

    def vanish(job: Fake, step: Any) -> None:
        world.gone = True

    world.before = vanish
    result = reap(Fake(world), Scope())
    assert (result.reaped, len(world.boxes)) == ((), 1) and result.left
    world.gone, world.before = False, lambda job, step: None
    assert reaped(reap(Fake(world), Scope())) == {"agent": Reason.FAILED}


def test_only_what_is_old_enough(tmp_path: Path) -> None:
    world = new_world()
    job_on(world, tmp_path, {"old": QUICK, "new": QUICK}).apply()
    ended(world)
    next(b for b in world.boxes.values() if b.labels[labels.SANDBOX] == "old").created = "2020-01-01T00:00:00Z"
    assert reaped(reap(Fake(world), Scope(older_than=3600))) == {"old": Reason.FAILED}


def test_a_job_that_is_over_leaves_nothing_running(tmp_path: Path) -> None:
    world = new_world()
    for name in ("mine", "other"):
        job_on(world, tmp_path / name, {name: WIRED}, name).apply(ApplySettings(job=CiJob(system="ci", id=name)))
    assert reaped(reap(Fake(world), Scope(job="mine"))) == {"mine": Reason.JOB_OVER}
    assert {box.labels[labels.PROJECT] for box in world.boxes.values()} == {"other"}
    box = next(box for box in world.boxes.values() if labels.ROLE not in box.labels)
    box.labels |= {labels.ONE_OFF: "1"}  # its owner lives
    assert reaped(reap(Fake(world), Scope(job="other"))) == {}


def test_a_dry_run_says_the_same_and_changes_nothing(tmp_path: Path) -> None:
    world = new_world()
    orphan(world, tmp_path, **WIRED)
    before = len(world.boxes)
    told = reap(Fake(world), Scope(), dry_run=True)
    assert len(world.boxes) == before and told.planned
    done = reap(Fake(world), Scope())
    assert reaped(told) == reaped(done)
    assert {(s.kind, s.name) for s in told.swept} == {(s.kind, s.name) for s in done.swept}


# -- kills and rivals

MANY = {"wired": {**WIRED, **QUICK}, "plain": QUICK, "slow": {"lifetime": {"timeout": "1h"}, "init": False}}


# of each reaper of MANY: a stop, the evidence and the removal of three, a network
CALLS = [(n, when) for when in ("before", "after") for n in range(8)]


@pytest.mark.parametrize(("nth", "when"), CALLS)
def test_a_kill_at_any_step_is_repaired_by_the_next_reaper(tmp_path: Path, nth: int, when: str) -> None:
    world, steps = new_world(), list[str]()
    job = job_on(world, tmp_path, MANY)
    job.apply()
    ended(world)
    long_ago(world)

    def kill(reaper: Fake, step: Any) -> None:
        steps.append(step.id)
        if len(steps) == nth + 1:
            reaper.kill()

    setattr(world, when, kill)
    with pytest.raises((Killed, SandboxrunError)):
        reap(Fake(world), Scope())
    setattr(world, when, lambda job, step: None)
    result = reap(Fake(world), Scope())
    assert not result.left and empty(world)
    found = [(entry.sandbox, entry.outcome.value) for entry in job.store.entries("tale")]
    assert sorted(found) == [("plain", "failed"), ("slow", "timeout"), ("wired", "failed")]


def test_the_kills_are_at_all_steps(tmp_path: Path) -> None:
    world, steps = new_world(), list[tuple[str, str]]()
    job_on(world, tmp_path, MANY).apply()
    ended(world)
    long_ago(world)
    world.before = lambda job, step: steps.append((step.id, "before"))
    world.after = lambda job, step: steps.append((step.id, "after"))
    reap(Fake(world), Scope())
    assert sorted(when for _, when in steps) == sorted(when for _, when in CALLS)


def test_reapers_side_by_side_share_fifty_sandboxes(tmp_path: Path) -> None:
    world = new_world()
    job = job_on(world, tmp_path, {f"s{n}": QUICK for n in range(50)})
    job.apply()
    ended(world)
    results = together(lambda n: reap(Fake(world), Scope()), range(3), workers=3)
    assert not any(result.left for result in results) and empty(world)
    assert sorted(one.address for result in results for one in result.reaped) == sorted(f"s{n}" for n in range(50))
    assert len(job.store.entries("tale")) == 50


# what ended by itself, as the engine's events told a watching reaper: the evidence and the removal of two
TOLD = [(n, when) for when in ("before", "after") for n in range(4)]


def told_ended(world: World, job: Job) -> Callable[[Fake], Result]:
    """A reaper of two that have ended, named by the engine's events."""
    job.apply()
    ended(world)
    ids: dict[str, History | None] = {box.id: None for box in world.boxes.values() if box.status == "exited"}

    def by(backend: Fake) -> Result:
        work = ProjectReaper(backend, job.profile.names, Scope(), Homes(), ApplySettings())
        return work.reap_ended(ids)

    return by


@pytest.mark.parametrize(("nth", "when"), TOLD)
def test_a_kill_at_any_step_of_what_was_told_is_repaired(tmp_path: Path, nth: int, when: str) -> None:
    world, steps = new_world(), list[str]()
    job = job_on(world, tmp_path, {"one": {**WIRED, **QUICK}, "two": QUICK, "slow": {}})
    reaper = told_ended(world, job)

    def kill(killed: Fake, step: Any) -> None:
        steps.append(step.id)
        if len(steps) == nth + 1:
            killed.kill()

    setattr(world, when, kill)
    with pytest.raises((Killed, SandboxrunError)):
        reaper(Fake(world))
    setattr(world, when, lambda job, step: None)
    assert not reap(Fake(world), Scope()).left
    assert [box.labels[labels.SANDBOX] for box in world.boxes.values()] == ["slow"]
    assert not world.networks and not world.volumes
    assert sorted((e.sandbox, e.outcome.value) for e in job.store.entries()) == [("one", "failed"), ("two", "failed")]


def test_two_reapers_that_are_told_the_same_share_it(tmp_path: Path) -> None:
    world = new_world()
    job = job_on(world, tmp_path, {"one": QUICK, "two": QUICK, "slow": {}})
    reaper = told_ended(world, job)
    results = together(lambda n: reaper(Fake(world)), range(2), workers=2)
    assert not any(result.left for result in results)
    assert sorted(one.address for result in results for one in result.reaped) == ["one", "two"]
    assert [box.labels[labels.SANDBOX] for box in world.boxes.values()] == ["slow"]
    assert len(job.store.entries()) == 2


def test_what_was_told_to_have_ended_and_runs_again_stays(tmp_path: Path) -> None:
    world = new_world()
    job = job_on(world, tmp_path, {"agent": {}})
    job.apply()
    (box,) = world.boxes.values()
    work = ProjectReaper(Fake(world), job.profile.names, Scope(), Homes(), ApplySettings())
    result = work.reap_ended({box.id: None, "0" * 64: None})
    assert result == structs.replace(Result(), seconds=result.seconds)
    assert [*world.boxes] == [box.id]


def test_only_what_nobody_collects_is_surely_over(tmp_path: Path) -> None:
    world = new_world()
    sandboxes = {"plain": QUICK, "again": {**QUICK, "restart": "on-failure:1"}}
    job_on(world, tmp_path, sandboxes).apply()
    own = {box.labels[labels.SANDBOX]: dict(box.labels) for box in world.boxes.values()}
    dead = structs.replace(this_process(), started=1).encode()
    one_off = {**own["plain"], labels.ONE_OFF: "1"}
    assert is_over(own["plain"]) and is_over({**one_off, labels.OWNER: dead})
    far = structs.replace(this_process(), kernel="another/1").encode()
    for other in (
        own["again"],
        one_off,
        {**one_off, labels.OWNER: far},
        {**one_off, labels.OWNER: "{}"},
        {**own["plain"], labels.SPEC: "[]"},
        {},
    ):
        assert not is_over(other)


# -- words


def test_what_is_printed(tmp_path: Path) -> None:
    world = new_world()
    orphan(world, tmp_path)
    result = reap(Fake(world), Scope())
    first, where, last = reap_text(result).splitlines()
    assert first.startswith("Reaped tale/agent: the run that made it is gone, ")
    assert where.startswith("    evidence: ") and last == "Reaped 1 sandbox."
    plain = json.loads(json.dumps(reap_plain(result)))
    assert plain["reaped"][0]["reason"] == "owner_gone" and plain["reaped"][0]["outcome"] == "killed"
    assert reap_text(reap(Fake(world), Scope())) == "Nothing to reap."


# -- a reaper that keeps running


class Watching:
    """A reaper that watches in a thread, and what it tells."""

    def __init__(self, world: World, **rest: Any) -> None:
        self.told: list[ReaperEvent] = []
        self.settings = ApplySettings()
        reaper = Reaper(Fake(world), Scope(), Homes(), self.settings, self.told.append, **rest)
        self._thread = begin(reaper.run, name="reaper", failed=self._failed)
        self._error: list[BaseException] = []

    def _failed(self, error: BaseException) -> None:
        self._error.append(error)

    def until(self, holds: Callable[[], object]) -> None:
        deadline = time.monotonic() + 60
        while not holds():
            assert time.monotonic() < deadline and not self._error, (self.told, self._error)
            time.sleep(0.005)

    @property
    def reaped(self) -> dict[str, Reason]:
        looks = [told for told in self.told if isinstance(told, ProjectLooked)]
        return {one.address: one.reason for look in looks for one in look.result.reaped}

    def __enter__(self) -> Watching:
        self.until(lambda: self.told)
        return self

    def __exit__(self, *error: object) -> None:
        self.settings.stop.set()
        self._thread.join(10)
        assert not self._thread.is_alive()


def test_a_watching_reaper_collects_what_ends(tmp_path: Path) -> None:
    world = new_world()
    job = job_on(world, tmp_path, {f"s{n}": QUICK for n in range(50)})
    with Watching(world) as watching:
        job.apply()
        watching.until(lambda: len(watching.reaped) == 50)
        watching.until(lambda: empty(world))
    assert len(job.store.entries("tale")) == 50


def test_a_watching_reaper_looks_at_nothing_else_when_one_ends(tmp_path: Path) -> None:
    """It knows from the events which one, and how."""
    world = new_world()
    job = job_on(world, tmp_path, {"agent": {"command": ["sh", "-c", "sleep 1000"]}, "slow": {}})
    job.apply()
    with Watching(world) as watching:
        watching.until(lambda: any(isinstance(told, ProjectLooked) for told in watching.told))
        box = next(box for box in world.boxes.values() if box.labels[labels.SANDBOX] == "agent")
        box.send(9)
        watching.until(lambda: watching.reaped)
        looks = [told for told in [*watching.told] if isinstance(told, ProjectLooked)]
        (look,) = (look for look in looks if look.result.reaped)
        assert look.states is None
        watching.until(
            lambda: any(isinstance(told, ProjectLooked) and told.states == {"running": 1} for told in watching.told)
        )
    assert [entry.outcome.value for entry in job.store.entries("tale")] == ["killed"]


@pytest.mark.parametrize("more", [False, True], ids=["one", "others start meanwhile"])
def test_a_watching_reaper_remembers_what_a_busy_engine_forgets(tmp_path: Path, more: bool) -> None:
    world = new_world()
    job = job_on(world, tmp_path, {name: {"command": ["sh", "-c", "sleep 1000"]} for name in ("agent", "other")})
    with Watching(world) as watching:
        job.apply(targets=("agent",))
        (box,) = world.boxes.values()
        watching.until(lambda: any(isinstance(told, ProjectLooked) and told.states for told in watching.told))
        world.remembers = 1
        with job.backend.lock("tale", wait=1):
            box.send(9)
        if more:
            job.apply(targets=("other",))
        watching.until(lambda: watching.reaped)
    assert [entry.outcome.value for entry in job.store.entries("tale")] == ["killed"]


def test_a_watching_reaper_may_be_told_of_ends_in_a_project_that_was_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever made them removed the first one before the reaper could look."""
    world = new_world()
    job_on(world, tmp_path, {name: {"command": ["sh", "-c", "sleep 1000"]} for name in ("one", "two")}).apply()
    one, two = world.boxes.values()
    projects = Fake.projects
    monkeypatch.setattr(Fake, "projects", lambda self, only=None: ())
    with Watching(world) as watching:
        before = len(watching.told)
        one.send(9)
        watching.until(lambda: len(watching.told) > before)
        monkeypatch.setattr(Fake, "projects", projects)
        two.send(9)
        watching.until(lambda: len(watching.reaped) == 2)


def test_a_watching_reaper_leaves_what_a_living_run_collects(tmp_path: Path) -> None:
    world = new_world()
    job = job_on(world, tmp_path, {"agent": {"command": ["sh", "-c", "sleep 1000"]}, "other": QUICK})
    job.apply(targets=("agent",))
    (box,) = world.boxes.values()
    box.labels |= {labels.ONE_OFF: "1"}
    with Watching(world) as watching:
        watching.until(lambda: any(isinstance(told, ProjectLooked) for told in watching.told))
        box.send(9)
        job.apply(targets=("other",))
        watching.until(lambda: "other" in watching.reaped)
        assert "agent" not in watching.reaped and [*world.boxes] == [box.id]


def test_a_watching_reaper_tidies_once_it_has_reaped(tmp_path: Path) -> None:
    world = new_world()
    job_on(world, tmp_path, {"agent": QUICK}).apply()
    ended(world)
    there: list[int] = []
    with Watching(world, tidy=lambda: there.append(len(world.boxes))) as watching:
        watching.until(lambda: there)
    assert there == [0]


def test_it_ends_what_is_due_by_the_clock_alone(tmp_path: Path) -> None:
    world = new_world()
    job = job_on(world, tmp_path, {"agent": {"lifetime": {"timeout": "300ms"}}})
    with Watching(world) as watching:
        job.apply()
        watching.until(lambda: watching.reaped == {"agent": Reason.TIMEOUT})
    assert [entry.outcome.value for entry in job.store.entries("tale")] == ["timeout"]


def test_it_looks_at_everything_after_the_engine_was_away(tmp_path: Path) -> None:
    world = new_world()
    job = job_on(world, tmp_path, {"agent": {"command": ["sh", "-c", "sleep 1000"]}})
    job.apply()
    with Watching(world) as watching:
        world.gone = True
        watching.until(lambda: any(isinstance(told, Lost) for told in watching.told))
        (box,) = world.boxes.values()
        box.send(9)
        box.wait(10)
        world.gone = False
        watching.until(lambda: "agent" in watching.reaped)
    assert [entry.outcome.value for entry in job.store.entries("tale")] == ["killed"]


@contextmanager
def owned_elsewhere(directory: Path) -> Iterator[tuple[World, subprocess.Popen[bytes]]]:
    """A world with a sandbox that another process of this machine waits for, and that process."""
    world = new_world()
    job_on(world, directory, {"agent": {}}).apply()
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]) as owner:
        try:
            (box,) = world.boxes.values()
            box.job = Fake(world)
            box.labels |= {labels.ONE_OFF: "1", labels.OWNER: _owner_of(owner.pid).encode()}
            yield world, owner
        finally:
            owner.kill()


def test_it_is_told_of_the_end_of_a_process_that_owns_a_sandbox(tmp_path: Path) -> None:
    with owned_elsewhere(tmp_path) as (world, owner), Watching(world) as watching:
        watching.until(lambda: any(isinstance(told, ProjectLooked) for told in watching.told))
        assert watching.reaped == {}
        owner.kill()
        owner.wait()
        watching.until(lambda: watching.reaped == {"agent": Reason.ORPHANED})


def test_the_owner_that_ends_while_its_project_is_looked_at_is_noticed_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with owned_elsewhere(tmp_path) as (world, owner):
        look_ahead = ProjectReaper._look_ahead

        def ending(self: ProjectReaper, snapshot: Snapshot) -> None:
            owner.kill()
            owner.wait()
            look_ahead(self, snapshot)

        monkeypatch.setattr(ProjectReaper, "_look_ahead", ending)
        monkeypatch.setattr(reaping, "_JOINED", 3600.0)
        with Watching(world) as watching:
            watching.until(lambda: watching.reaped == {"agent": Reason.ORPHANED})


def _owner_of(pid: int) -> Owner:
    started = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    return structs.replace(this_process(), pid=pid, started=started)


def test_a_project_that_somebody_works_in_is_left_until_that_is_done(tmp_path: Path) -> None:
    world = new_world()
    job = job_on(world, tmp_path, {"agent": QUICK})
    job.apply()
    ended(world)
    with job.backend.lock("tale", wait=1), Watching(world) as watching:
        watching.until(lambda: any(isinstance(told, ProjectLooked) for told in watching.told))
        assert watching.reaped == {} and len(world.boxes) == 1
    looks = [told for told in watching.told if isinstance(told, ProjectLooked)]
    assert not any(told.result.left for told in looks) and looks[0].states == {"ended": 1}


def test_what_could_not_be_reaped_is_told_and_stays(strange: World) -> None:
    with Watching(strange) as watching:
        watching.until(lambda: any(told.result.left for told in watching.told if isinstance(told, ProjectLooked)))
    assert len(strange.boxes) == 1


def test_a_lease_that_cannot_be_removed_keeps_nothing_from_being_reaped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def in_use(self: Fake) -> None:
        raise EngineError("removing volume lease", "volume is in use", status=409)

    monkeypatch.setattr(Fake, "sweep_leases", in_use)
    world = new_world()
    job = job_on(world, tmp_path, {"agent": QUICK})
    with Watching(world) as watching:
        job.apply()
        watching.until(lambda: watching.reaped == {"agent": Reason.FAILED})
    left = [told.result.left for told in watching.told if isinstance(told, ProjectLooked) and told.result.left]
    assert [one.faults[0].message for (one,) in left] == ["removing volume lease: volume is in use"]
    assert not any(isinstance(told, Lost) for told in watching.told)


# -- leases: owners on other machines


def elsewhere(tmp_path: Path) -> tuple[World, Job]:
    """A world of jobs on other machines, one of which has made a sandbox and renews its lease."""
    world = new_world(elsewhere=True)
    job = job_on(world, tmp_path, {"agent": {}})
    job.apply()
    (box,) = world.boxes.values()
    box.labels |= {labels.ONE_OFF: "1", labels.LEASE: "token"}
    world.leases["token"] = cast(Fake, job.backend)
    return world, job


def test_a_lease_keeps_what_runs_and_what_has_ended(tmp_path: Path) -> None:
    world, _ = elsewhere(tmp_path)
    assert reaped(reap(Fake(world), Scope(), doubt=0)) == {}
    (box,) = world.boxes.values()
    box.send(9)
    box.wait(10)
    assert reaped(reap(Fake(world), Scope(), doubt=0)) == {}


def test_a_lease_that_ran_out_makes_an_orphan(tmp_path: Path) -> None:
    world, job = elsewhere(tmp_path)
    world.leases.clear()
    assert reaped(reap(Fake(world), Scope(), dry_run=True)) == {"agent": Reason.ORPHANED}
    assert reaped(reap(Fake(world), Scope(), doubt=0)) == {"agent": Reason.ORPHANED}
    assert [entry.outcome.value for entry in job.store.entries("tale")] == ["killed"] and empty(world)


def test_an_engine_clock_that_is_set_kills_nobody(tmp_path: Path) -> None:
    """Every lease looks as if it had run out, until its owner renews it."""
    world, job = elsewhere(tmp_path)
    world.leases.clear()
    settings = ApplySettings(on_wait=lambda text: world.leases.update(token=cast(Fake, job.backend)))
    assert reaped(reap(Fake(world), Scope(), settings=settings, doubt=0)) == {} and len(world.boxes) == 1


def test_without_a_lease_nothing_is_known_of_an_owner_elsewhere(tmp_path: Path) -> None:
    world, _ = elsewhere(tmp_path)
    world.elsewhere = False
    (box,) = world.boxes.values()
    box.labels[labels.OWNER] = structs.replace(this_process(), kernel="another/1").encode()
    del box.labels[labels.LEASE]
    assert reaped(reap(Fake(world), Scope(), doubt=0)) == {} and len(world.boxes) == 1


def test_a_watching_reaper_gives_the_owner_time_to_renew(tmp_path: Path) -> None:
    world, _ = elsewhere(tmp_path)
    with Watching(world, doubt=0.2) as watching:
        watching.until(lambda: any(isinstance(told, ProjectLooked) for told in watching.told))
        world.leases.clear()
        other = job_on(world, tmp_path, {"other": {}})
        other.apply()  # an event
        looks = len(watching.told)
        watching.until(lambda: len(watching.told) > looks)
        watching.until(lambda: watching.reaped == {"agent": Reason.ORPHANED})


def test_a_run_holds_a_lease(tmp_path: Path) -> None:
    world = new_world(elsewhere=True)
    job = job_on(world, tmp_path, {"agent": {"command": ["sleep", "1000"]}})
    seen: list[int] = []

    def started(container: str) -> None:
        assert world.boxes[container].labels[labels.LEASE] in world.leases
        assert reaped(reap(Fake(world), Scope(), doubt=0)) == {}
        seen.append(1)
        world.boxes[container].send(9)

    run(job.backend, job.profile, job.store, job.profile.sandboxes, options=RunOptions(started=started))
    assert (seen, world.leases, world.boxes) == ([1], {}, {})


# -- containers that are kept after their end


def test_what_is_to_be_kept_is_kept_until_its_time_is_over(tmp_path: Path) -> None:
    world = new_world()
    lifetime = {"on_complete": "keep", "keep_for": "1h"}
    job = job_on(world, tmp_path, {"agent": {**QUICK, "lifetime": lifetime}})
    job.apply()
    ended(world)
    (told,) = reap(Fake(world), Scope(), dry_run=True).reaped
    (one,) = reap(Fake(world), Scope()).reaped
    assert told.kept and one.kept and one.captured is not None and len(world.boxes) == 1
    assert "\n".join(reaped_lines(one)).startswith("Kept tale/agent: failed with exit 3")
    assert reaped(reap(Fake(world), Scope())) == {}
    (box,) = world.boxes.values()
    box.finished = "2020-01-01T00:00:00Z"
    assert reaped(reap(Fake(world), Scope())) == {"agent": Reason.KEEP_OVER} and empty(world)
    assert len(job.store.entries("tale")) == 1


# -- What an `apply --wait` made belongs to the process that waits


def waiting(job: Job) -> Aside[Any]:
    """An `apply --wait` in a thread, once its sandbox runs."""
    begun = Aside(lambda: apply_and_wait(job.backend, job.profile, job.store), name="apply --wait")
    boxes = cast(Fake, job.backend).world.boxes
    until(lambda: not begun.alive or any(box.running and box.labels.get(labels.LEASE) for box in boxes.values()))
    return begun


def killed(job: Job) -> None:
    """As SIGKILL has it: it calls no engine any more."""
    cast(Fake, job.backend).dead = True


def test_what_a_killed_apply_made_that_waited_is_reaped_at_once(tmp_path: Path) -> None:
    world = new_world()
    job = job_on(world, tmp_path, {"agent": WIRED})
    waiting(job)
    assert reaped(reap(Fake(world), Scope())) == {}  # its owner lives
    assert reaped(reap(Fake(world), Scope(job="other"))) == {}
    killed(job)
    result = reap(Fake(world), Scope())
    assert (reaped(result), left_diagnostics(result)) == ({"agent": Reason.ORPHANED}, ())
    assert "the process that waited for it is gone" in reap_text(result)
    assert [entry.outcome.value for entry in job.store.entries("tale")] == ["killed"] and empty(world)


def test_what_an_apply_made_that_does_not_wait_is_nobodys(tmp_path: Path) -> None:
    world = new_world()
    job = job_on(world, tmp_path, {"agent": {}})
    job.apply()
    killed(job)
    assert reaped(reap(Fake(world), Scope())) == {} and len(world.boxes) == 1


def test_only_what_is_waited_for_is_owned(tmp_path: Path) -> None:
    world = new_world()
    job = job_on(world, tmp_path, {"base": {}, "agent": {"depends_on": ["base"], "command": ["sh", "-c", "exit 3"]}})
    waited = apply_and_wait(job.backend, job.profile, job.store, options=Options(targets=("agent",)))
    assert waited.exit_code == 3
    (left,) = world.boxes.values()
    assert left.labels[labels.SANDBOX] == "base" and labels.LEASE not in left.labels
    killed(job)
    assert reaped(reap(Fake(world), Scope())) == {}


def test_who_waits_too_keeps_what_a_killed_one_made(tmp_path: Path) -> None:
    world = new_world()
    first, second = (job_on(world, tmp_path / name, {"agent": {}}) for name in ("first", "second"))
    waiting(first)
    also = Aside(lambda: apply_and_wait(second.backend, second.profile, second.store), name="second")
    until(lambda: not also.alive or any("+" in lease for lease in world.leases))
    killed(first)
    (left,) = world.boxes.values()
    left.labels[labels.OWNER] = structs.replace(this_process(), started=1).encode()
    work = ProjectReaper(Fake(world), first.profile.names, Scope(), Homes(), ApplySettings())
    assert reaped(work.reap()) == {} and len(world.boxes) == 1
    assert this_process() in work.owners and work.next_look is not None
    killed(second)
    assert reaped(reap(Fake(world), Scope())) == {"agent": Reason.ORPHANED} and empty(world)


def test_a_watching_reaper_notices_at_once_that_the_last_one_who_waited_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sandboxrun.lifecycle.reap._JOINED", 3600.0)
    world = new_world()
    first, second = (job_on(world, tmp_path / name, {"agent": {}}) for name in ("first", "second"))
    with subprocess.Popen(["sleep", "1000"]) as process:
        started = int(Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[19])
        cast(Fake, second.backend).process = structs.replace(this_process(), pid=process.pid, started=started)
        waiting(first)
        also = Aside(lambda: apply_and_wait(second.backend, second.profile, second.store), name="second")
        until(lambda: not also.alive or any("+" in lease for lease in world.leases))
        killed(first)
        (left,) = world.boxes.values()
        left.labels[labels.OWNER] = structs.replace(this_process(), started=1).encode()
        with Watching(world) as reaper:
            reaper.until(lambda: any(isinstance(told, ProjectLooked) for told in reaper.told))
            assert reaper.reaped == {}
            killed(second)
            process.kill()
            reaper.until(lambda: reaper.reaped)
            assert reaper.reaped == {"agent": Reason.ORPHANED} and empty(world)


def test_the_next_apply_that_waits_goes_on_with_what_a_killed_one_left(tmp_path: Path) -> None:
    world = new_world()
    job = job_on(world, tmp_path, {"agent": {"command": ["sh", "-c", "sleep 0.4; exit 3"]}})
    waiting(job)
    killed(job)
    (left,) = world.boxes
    again = Job.of(Fake(world), job.profile, tmp_path / "evidence")
    assert apply_and_wait(again.backend, again.profile, again.store).exit_code == 3
    assert list(world.removed) == [left] and empty(world) and not any("+" in lease for lease in world.leases)


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("step", ["create agent", "start agent"])
def test_an_apply_that_waits_is_killed_while_it_makes(tmp_path: Path, step: str, when: str) -> None:
    world = new_world()
    job = job_on(world, tmp_path, {"agent": {}})
    setattr(world, when, lambda backend, at: backend.kill() if at.id == step and backend is job.backend else None)
    with pytest.raises((Killed, SandboxrunError)):
        apply_and_wait(job.backend, job.profile, job.store)
    result = reap(Fake(world), Scope())
    assert not result.left and empty(world)
    assert [entry.outcome.value for entry in job.store.entries("tale")] == ["killed"] * (
        step == "start agent" and when == "after"
    )


def test_elsewhere_the_lease_of_an_apply_that_waits_counts(tmp_path: Path) -> None:
    world = new_world(elsewhere=True)
    job = job_on(world, tmp_path, {"agent": {}})
    waiting(job)
    assert reaped(reap(Fake(world), Scope(), doubt=0.0)) == {}
    killed(job)
    world.leases.clear()  # it ran out
    assert reaped(reap(Fake(world), Scope(), doubt=0.0)) == {"agent": Reason.ORPHANED} and empty(world)
