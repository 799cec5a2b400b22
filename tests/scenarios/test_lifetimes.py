"""Lifetimes on the engine in memory: whose a sandbox is, how long it stays, and who is told."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sandboxrun.backend.errors import EngineTimeout
from sandboxrun.backend.fake import Fake, Killed, World
from sandboxrun.backend.fake_process import BoxOutput, text_of
from sandboxrun.backend.owner import decode, this_process
from sandboxrun.backend.session import Event, StepDone
from sandboxrun.errors import ApplyError, ProfileError
from sandboxrun.evidence.index import Index
from sandboxrun.lifecycle import watch
from sandboxrun.lifecycle.apply import ApplySettings
from sandboxrun.lifecycle.job import Waited, apply_and_wait, wait_for
from sandboxrun.lifecycle.reap import Homes, Scope, reap
from sandboxrun.lifecycle.run import RunOptions, run
from sandboxrun.plan.changes import Action, Reason
from sandboxrun.profile.loader import load_data
from sandboxrun.report.plan import plan_json
from sandboxrun.spec import labels
from sandboxrun.spec.ci import CiJob
from sandboxrun.spec.state import PAST_TTL, Ended, How, Running, State, parse_time
from tests.conftest import until
from tests.scenarios.world import IMAGE, Job, new_world, read

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


# -- a connection that carries nothing any more, and does not end


class Stalled(BoxOutput):
    """Output of which the first piece comes."""

    def __iter__(self) -> Iterator[tuple[int, bytes]]:
        yield next(iter(super().__iter__()))
        with self._box.changed:
            while not self._closed:
                self._box.changed.wait()


class Stalling(Fake):
    def attach(self, id: str, *, tty: bool | None = None) -> BoxOutput:
        box = super().attach(id, tty=tty)._box
        return Stalled(box, len(box.output), follow=True)


def test_output_that_stalls_is_kept_as_the_engine_has_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "DRAIN", 0.2)
    said = ["sh", "-c", "echo one; sleep 0.2; echo two"]
    job = Job.of(Stalling(new_world()), read(tmp_path, {"agent": {"command": said}}), tmp_path / "evidence")
    options = RunOptions(output=lambda address, stream, data: None)
    (result,) = run(job.backend, job.profile, job.store, job.profile.sandboxes, options=options)
    assert result.evidence is not None and result.evidence.folder is not None and result.evidence.index is not None
    assert (result.evidence.folder / "stdout.log").read_bytes() == b"one\ntwo\n"
    (reason,) = (missing.reason for missing in result.evidence.index.missing if missing.part == "logs")
    assert reason == "the engine did not end the output; what came after is as it kept it"


class Hanging(Fake):
    """An engine that accepts what it is asked, and does not answer."""

    def wait(self, id: str, *, timeout: float | None = None) -> int:
        time.sleep(min(0.05, timeout or 0.05))
        raise EngineTimeout("waiting for the container", "no answer in time")

    def stop(self, id: str, *, timeout: int) -> bool:
        raise EngineTimeout("stopping the container", "no answer in time")

    def state(self, id: str) -> State:
        raise EngineTimeout("inspecting the container", "no answer in time")


def test_an_engine_that_does_not_answer_is_not_waited_for_past_the_deadline(tmp_path: Path) -> None:
    job = Job.of(
        Hanging(new_world()), read(tmp_path, {"agent": {"init": False, "lifetime": {"timeout": "1s"}}}), tmp_path
    )
    errors: list[BaseException] = []

    def go() -> None:
        try:
            run(job.backend, job.profile, job.store, job.profile.sandboxes)
        except BaseException as error:
            errors.append(error)

    running = threading.Thread(target=go, daemon=True)
    running.start()
    until(lambda: not running.is_alive())
    assert "no answer in time" in str(errors)


# -- a clock that is set while it runs


def set_back(world: World, hours: float) -> None:
    """The wall clock is set back while the only sandbox runs, which has ended since."""
    (box,) = world.boxes.values()
    box.wait(60)
    boot, _, ahead = box.labels[labels.CLOCK].partition(" ")
    box.labels[labels.CLOCK] = f"{boot} {float(ahead) + hours * 3600:.3f}"
    finished = parse_time(box.finished)
    assert finished is not None
    box.finished = text_of(finished.timestamp() - hours * 3600)


@pytest.mark.parametrize("booted", [False, True])
def test_a_timeout_that_nobody_watched_counts_if_it_is_known_how_the_clock_was_set(
    tmp_path: Path, booted: bool
) -> None:
    world = new_world()
    sandbox = {"command": ["sleep", "1000"], "lifetime": {"timeout": "0.2s"}}
    job = Job.of(Fake(world), read(tmp_path, {"agent": sandbox}), tmp_path / "evidence")
    job.apply()
    set_back(world, 1)
    if booted:
        (box,) = world.boxes.values()
        box.labels[labels.CLOCK] = f"another {box.labels[labels.CLOCK].partition(' ')[2]}"
    reap(Fake(world), Scope())
    (entry,) = job.store.entries("tale")
    ending = job.store.index(entry).ending
    assert (ending.how, ending.exit_code) == (How.UNKNOWN if booted else How.TIMEOUT, 124)
    assert ("the clock was set meanwhile" in (ending.detail or "")) == booted


@pytest.mark.parametrize("held", [True, False])
@pytest.mark.parametrize("hours", [2, -2])
def test_a_set_clock_ends_nothing_early_or_late(tmp_path: Path, hours: float, held: bool) -> None:
    """Neither who reaps, nor a plan, nor who joins the wait for it."""
    world = new_world()
    own = {"command": ["sleep", "1000"], "init": None if held else False}
    sandboxes = {
        "young": {**own, "lifetime": {"timeout": "1h"}},
        "old": {**own, "lifetime": {"timeout": "5h"}},
    }
    job = Job.of(Fake(world), read(tmp_path, sandboxes), tmp_path / "evidence")
    job.apply()
    for box in world.boxes.values():
        boot, _, ahead = box.labels[labels.CLOCK].partition(" ")
        started = parse_time(box.started)
        assert started is not None
        ran = 6 if box.labels[labels.SANDBOX] == "old" else 0
        box.labels[labels.CLOCK] = f"{boot} {float(ahead) - hours * 3600:.3f}"
        box.started = text_of(started.timestamp() - (hours + ran) * 3600)
    changes = {change.address: (change.action, change.reason) for change in job.plan().changes}
    assert changes == {"young": (Action.NONE, Reason.UP_TO_DATE), "old": (Action.DELETE, Reason.TIMEOUT)}
    for dry_run in (True, False):
        found = reap(Fake(world), Scope(), dry_run=dry_run)
        assert [(one.address, one.reason) for one in found.reaped] == [("old", Reason.TIMEOUT)]
    assert isinstance(job.observed("young").state, Running)


def test_a_timeout_that_was_watched_is_one_whatever_the_clock_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world, back = new_world(), [0.0]
    clock = SimpleNamespace(time=lambda: time.time() - back[0], sleep=time.sleep)
    monkeypatch.setattr("sandboxrun.backend.fake_process.time", clock)
    sandbox = {"command": ["sleep", "1000"], "lifetime": {"timeout": "0.5s"}}
    job = Job.of(Fake(world), read(tmp_path, {"agent": sandbox}), tmp_path / "evidence")
    options = RunOptions(started=lambda container: back.__setitem__(0, 3600.0))
    (result,) = run(job.backend, job.profile, job.store, job.profile.sandboxes, options=options)
    assert result.evidence is not None and result.evidence.index is not None
    index = result.evidence.index
    assert index.ran_seconds == 0  # by the engine's clock it ended before it began
    assert (index.ending.how, result.exit_code) == (How.TIMEOUT, 124)


def test_a_run_knows_who_ended_its_sandbox_though_the_engine_forgets(tmp_path: Path) -> None:
    world = new_world()
    world.remembers = 1
    job = Job.of(Fake(world), read(tmp_path, {"agent": {"command": ["sleep", "1000"]}}), tmp_path / "evidence")
    options = RunOptions(started=lambda container: world.boxes[container].send(15))
    (result,) = run(job.backend, job.profile, job.store, job.profile.sandboxes, options=options)
    assert (result.ending and result.ending.how, result.exit_code) == (How.KILLED, 143)


@pytest.mark.parametrize("remembers", [None, 1])
def test_a_run_keeps_what_it_saw_of_a_sandbox_that_somebody_removed(tmp_path: Path, remembers: int | None) -> None:
    world = new_world()
    world.remembers = remembers or world.remembers
    work = tmp_path / "work"
    work.mkdir()
    (work / "a.txt").write_text("a")
    copied = {"source": str(work), "access": "copy", "target": "/workspace"}
    sandbox = {"command": ["sh", "-c", "echo hello; sleep 1000"], "workspace": copied}
    other = {"command": ["true"]}
    job = Job.of(Fake(world), read(tmp_path, {"agent": sandbox, "other": other}), tmp_path / "evidence")

    def removed(event: Event) -> None:
        if isinstance(event, StepDone) and event.step.id == "start agent":
            (container,) = (box.id for box in world.boxes.values() if box.labels[labels.SANDBOX] == "agent")
            until(lambda: bool(world.boxes[container].output))
            Fake(world)._remove(container)

    settings = ApplySettings(listener=removed)
    result, _ = run(job.backend, job.profile, job.store, job.profile.sandboxes, settings=settings)
    assert result.evidence is not None and result.evidence.index is not None and result.evidence.folder is not None
    index = result.evidence.index
    assert (index.ending.how, result.exit_code) == (How.KILLED, 137)
    assert (result.evidence.folder / "stdout.log").read_bytes() == b"hello\n"
    removed_first = "its container was removed before its evidence was saved"
    assert {m.part for m in index.missing if m.reason == removed_first} == {"inspect", "changes", "workspace"}
    assert index.container_name.startswith("tale-agent-run-") and index.labels == {}
    assert not world.volumes and not world.boxes  # what it left is gone
    assert sorted(entry.sandbox for entry in job.store.entries("tale")) == ["agent", "other"]


@pytest.mark.parametrize("command", ["run", "apply"])
def test_whoever_waits_for_a_sandbox_ends_it_once_its_ttl_is_over(tmp_path: Path, command: str) -> None:
    world = new_world()
    sandboxes = {"agent": {"lifetime": {"ttl": "2s", "timeout": "1h"}}, "other": {"command": ["true"]}}
    job = Job.of(Fake(world), read(tmp_path, sandboxes), tmp_path / "evidence")
    if command == "apply":
        results = apply_and_wait(job.backend, job.profile, job.store).results
    else:
        results = run(job.backend, job.profile, job.store, job.profile.sandboxes)
    assert [(r.exit_code, r.note) for r in results] == [(124, "past its ttl of 2s"), (0, "")]
    (entry,) = (entry for entry in job.store.entries("tale") if entry.sandbox == "agent")
    ending = job.store.index(entry).ending
    assert (ending.how, ending.detail) == (How.TIMEOUT, PAST_TTL)


def test_a_wait_ends_one_once_its_ttl_is_over(tmp_path: Path) -> None:
    world = new_world()
    job = Job.of(Fake(world), read(tmp_path, {"agent": {"lifetime": {"ttl": "2s"}}}), tmp_path / "evidence")
    job.apply()
    assert wait_for(job.backend, job.profile, job.store, job.profile.sandboxes) == {"agent": 143}
    observed = job.observed("agent")
    assert observed.expired and isinstance(observed.state, Ended)


@pytest.mark.parametrize("signal", [15, None], ids=["stopped", "by itself"])
def test_one_that_a_reaper_stopped_at_its_ttl_is_past_it(tmp_path: Path, signal: int | None) -> None:
    """A reaper's clock is another one: it may be a moment ahead of who waits."""
    world = new_world()
    sandbox = {"lifetime": {"ttl": "2s"}, "command": ["sleep", "1000" if signal else "0.1"]}
    job = Job.of(Fake(world), read(tmp_path, {"agent": sandbox}), tmp_path / "evidence")
    options = RunOptions(started=lambda container: world.boxes[container].send(signal) if signal else None)
    (result,) = run(job.backend, job.profile, job.store, job.profile.sandboxes, options=options)
    expected = (How.TIMEOUT, PAST_TTL, 124) if signal else (How.EXITED, None, 0)
    assert result.ending and (result.ending.how, result.ending.detail, result.exit_code) == expected


# -- what becomes of it once it has ended

FAILS, WORKS = ["sh", "-c", "exit 3"], ["sh", "-c", "exit 0"]
GATED = {"network_mode": None, "egress": {"allow": ["example.com:443"]}}


class Tale:
    """One project on one engine, seen from one checkout or several."""

    def __init__(self, directory: Path) -> None:
        self.world, self.directory = new_world(), directory

    def job(self, *, checkout: int = 0, command: list[str] = FAILS, env: str = "1", **more: Any) -> Job:
        lifetime = {"on_complete": "keep", **more.pop("lifetime", {})}
        sandbox = {"command": command, "lifetime": lifetime, "environment": {"A": env}, **more}
        profile = read(self.directory, {"agent": sandbox})
        return Job.of(Fake(self.world), profile, self.directory / f"evidence-{checkout}")

    def wait(self, job: Job) -> Waited:
        return apply_and_wait(job.backend, job.profile, job.store)

    @property
    def names(self) -> list[str]:
        """The names of the sandboxes' containers, in the order in which they were made."""
        boxes = sorted(self.world.boxes.values(), key=lambda box: box.created)
        return [box.name for box in boxes if "sandboxrun.role" not in box.labels]

    def end(self) -> None:
        """Until no sandbox runs."""
        for box in list(self.world.boxes.values()):
            if "sandboxrun.role" not in box.labels:
                assert box.wait(30)

    def later(self, hours: float) -> None:
        """What has ended did so hours earlier."""
        for box in self.world.boxes.values():
            if box.finished is not None:
                ended = parse_time(box.finished)
                assert ended is not None
                box.finished = (ended - timedelta(hours=hours)).isoformat()


@pytest.fixture
def tale(tmp_path: Path) -> Tale:
    return Tale(tmp_path)


def kept_name(tale: Tale, nth: int = 0) -> str:
    box = sorted(tale.world.boxes.values(), key=lambda box: box.created)[nth]
    return f"tale-agent.kept-{box.labels['sandboxrun.run'][:12]}"


@pytest.mark.parametrize(
    ("policy", "command", "kept"),
    [
        ("remove", FAILS, False),
        ("keep", FAILS, True),
        ("keep", WORKS, True),
        ("keep_on_failure", FAILS, True),
        ("keep_on_failure", WORKS, False),
    ],
)
@pytest.mark.parametrize("how", ["run", "apply --wait", "apply"])
def test_what_is_kept(tale: Tale, how: str, policy: str, command: list[str], kept: bool) -> None:
    job = tale.job(command=command, lifetime={"on_complete": policy})
    code = 3 if command is FAILS else 0
    if how == "run":
        (result,) = run(job.backend, job.profile, job.store, job.profile.sandboxes)
        assert (result.exit_code, bool(result.kept)) == (code, kept)
    elif how == "apply --wait":
        waited = tale.wait(job)
        assert (waited.exit_code, bool(waited.results[0].kept)) == (code, kept)
    else:
        job.apply()
        tale.end()
        job.apply()
    assert len(job.store.entries("tale")) == 1
    assert len(tale.names) == kept
    if kept:
        assert ".kept-" in tale.names[0]
    assert job.plan().empty, str(job.plan())
    job.destroy()
    assert (tale.world.boxes, tale.world.networks, tale.world.volumes) == ({}, {}, {})
    assert len(job.store.entries("tale")) == 1, "its evidence is taken once"


def test_the_plan_shows_what_is_kept_and_for_how_long(tale: Tale) -> None:
    job = tale.job(lifetime={"keep_for": "2h"})
    job.apply()
    tale.end()
    plan = job.plan()
    assert "  . sandbox agent (run" in str(plan) and "will be kept, stopped (exited with 3)" in str(plan)
    assert str(plan).endswith("Plan: 0 to add, 0 to change, 0 to destroy, 1 to keep.")
    assert [change["change"]["actions"] for change in plan_json(plan)["resource_changes"]] == [["forget"]]
    job.apply()
    plan = job.plan()
    assert plan.empty
    assert re.search(
        r"sandbox agent \(run \w{12}\): exited with 3; kept until 20\d\d-\d\d-\d\d \d\d:\d\d UTC", str(plan)
    )


def test_a_kept_one_goes_with_the_next_apply_after_keep_for(tale: Tale) -> None:
    job = tale.job(lifetime={"keep_for": "2h"})
    tale.wait(job)
    tale.later(1.9)
    assert job.plan().empty
    tale.later(0.2)
    plan = job.plan()
    assert "was kept for as long as its keep_for says" in str(plan)
    job.apply()
    assert tale.names == []
    assert len(job.store.entries("tale")) == 1


def test_a_ttl_ends_keeping_too(tale: Tale) -> None:
    job = tale.job(lifetime={"ttl": "1h"})
    tale.wait(job)
    for box in tale.world.boxes.values():
        box.labels["sandboxrun.ttl-deadline"] = "2020-01-01T00:00:00Z"
    assert "past its ttl" in str(job.plan())
    job.apply()
    assert tale.names == []


@pytest.mark.parametrize("again", ["rerun", "changed"])
@pytest.mark.parametrize("gated", [False, True])
def test_the_next_run_is_made_beside_a_kept_one(tale: Tale, again: str, gated: bool) -> None:
    more: dict[str, Any] = {**(GATED if gated else {}), "secrets": None}
    for n in range(3):
        job = tale.job(env=str(n) if again == "changed" else "1", **more)
        job.apply(rerun=n > 0 and again == "rerun")
        assert tale.names[-1] == "tale-agent"
        assert len([name for name in tale.names if ".kept-" in name]) == n
        tale.end()
        if n == 1:
            job.apply()  # kept by an apply of its own, not by the one that makes the next
    assert job.plan().kept == 1
    job.apply()
    assert [name for name in tale.names if name != "tale-agent" and ".kept-" not in name] == []
    assert len(tale.names) == 3, tale.names
    assert len(job.store.entries("tale")) == 3
    assert job.plan().empty, str(job.plan())
    job.destroy()
    assert (tale.world.boxes, tale.world.networks, tale.world.volumes) == ({}, {}, {})


def test_what_ran_beside_a_kept_one_is_gone(tale: Tale) -> None:
    job = tale.job(**GATED)
    tale.wait(job)
    assert [box.name for box in tale.world.boxes.values()] == [kept_name(tale)]
    assert tale.world.networks == {}


def test_volumes_that_a_kept_one_has_stay(tale: Tale, tmp_path: Path) -> None:
    agent = {"image": IMAGE, "network_mode": "none", "command": FAILS, "volumes": ["data:/data"]}
    declared = {"sandboxes": {"agent": {**agent, "lifetime": {"on_complete": "keep"}}}, "volumes": {"data": {}}}
    profile = load_data({"name": "tale", **declared}, directory=tmp_path)
    tale.wait(Job.of(Fake(tale.world), profile, tmp_path / "evidence-0"))
    assert [*tale.world.volumes] == ["tale_data"]
    without = tale.job()
    assert [c for c in without.plan().changes if c.kind == "volume" and c.action is Action.DELETE] == []


def test_a_kept_one_that_is_no_longer_declared_stays(tale: Tale) -> None:
    tale.wait(tale.job())
    other = Job.of(Fake(tale.world), read(tale.directory, {"other": {}}), tale.directory / "evidence-0")
    other.apply()
    assert tale.names == [kept_name(tale), "tale-other"]
    other.destroy()
    assert tale.names == []


def test_another_checkout_takes_no_evidence_of_a_kept_one_and_does_not_run_it_again(tale: Tale) -> None:
    tale.wait(tale.job())
    other = tale.job(checkout=1)
    assert other.plan().empty, str(other.plan())
    assert tale.wait(other).exit_code == 3
    other.destroy()
    assert tale.names == []
    assert other.store.entries("tale") == ()


def test_a_running_one_past_its_timeout_is_kept(tale: Tale) -> None:
    job = tale.job(command=["sleep", "1000"], lifetime={"timeout": "1h"})
    job.apply()
    for box in tale.world.boxes.values():
        box.started = "2026-01-01T00:00:00Z"
    assert "will be kept, stopped (past its timeout of 1h)" in str(job.plan())
    job.apply()
    (entry,) = job.store.entries("tale")
    assert entry.outcome is How.TIMEOUT
    assert tale.names == [kept_name(tale)]


def test_a_dependency_that_a_run_stopped_did_not_fail(tale: Tale, tmp_path: Path) -> None:
    lifetime = {"lifetime": {"on_complete": "keep_on_failure"}}
    profile = read(tmp_path, {"base": lifetime, "agent": {**lifetime, "command": WORKS, "depends_on": ["base"]}})
    job = Job.of(Fake(tale.world), profile, tmp_path / "evidence-0")
    run(job.backend, profile, job.store, (profile.sandboxes[-1],))
    assert tale.names == []


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("wanted", ["evidence", "keep", "rename", "start"])
@pytest.mark.parametrize("then", ["apply", "destroy"])
def test_a_kill_while_it_is_kept_is_repaired(tale: Tale, wanted: str, when: str, then: str) -> None:
    first = tale.job(**GATED)
    first.apply()
    tale.end()

    def kill(backend: Fake, step: Any) -> None:
        if step.id.startswith(f"{wanted} agent"):
            backend.kill()

    setattr(tale.world, when, kill)
    with pytest.raises((Killed, ApplyError)):
        tale.job(env="2", **GATED).apply()
    setattr(tale.world, when, lambda backend, step: None)
    job = tale.job(env="2", **GATED)
    if then == "apply":
        job.apply()
        tale.end()
        job.apply()
        assert job.plan().empty, str(job.plan())
        assert len(tale.names) == 2 and all(".kept-" in name for name in tale.names), tale.names
        assert len(job.store.entries("tale")) == 2
    job.destroy()
    assert (tale.world.boxes, tale.world.networks, tale.world.volumes) == ({}, {}, {})
    entries = [entry.run for entry in job.store.entries("tale")]
    assert len(entries) == len(set(entries)) >= 1


def test_an_orphan_that_is_to_be_kept_is_kept(tale: Tale) -> None:
    job = tale.job()
    tale.world.before = lambda backend, step: backend.kill() if step.id.startswith("evidence") else None
    with pytest.raises((Killed, ApplyError)):
        run(job.backend, job.profile, job.store, job.profile.sandboxes)
    tale.world.before = lambda backend, step: None
    after = tale.job(command=WORKS)
    after.apply()
    assert sum(".kept-" in name for name in tale.names) == 1
    assert len(after.store.entries("tale")) == 1


def test_keep_for_without_keeping_is_an_error(tale: Tale) -> None:
    with pytest.raises(ProfileError, match="keep_for needs a container that is kept"):
        tale.job(lifetime={"on_complete": "remove", "keep_for": "1h"})


def test_a_reaper_keeps_what_is_to_be_kept_and_reaps_it_when_its_time_is_over(tale: Tale) -> None:
    job = tale.job(lifetime={"keep_for": "2h"})
    homes = Homes(own=job.store)
    job.apply()
    tale.end()
    assert not reap(job.backend, Scope(), homes=homes).left
    assert tale.names == [kept_name(tale)]
    again = reap(job.backend, Scope(), homes=homes)
    assert not (again.reaped or again.swept or again.left)
    tale.later(2.1)
    (_,) = reap(job.backend, Scope(), homes=homes).reaped
    assert tale.names == []
    assert len(job.store.entries("tale")) == 1, "its evidence is taken once"


# -- the copy of the output that a killed run left


@pytest.mark.parametrize(
    ("copy", "kept", "missing"),
    [
        (
            b"one\ntwo\nthree\n",
            b"one\ntwo\nthree\n",
            "the copy made while it ran had 6 bytes more, and may lack the end",
        ),
        (b"one\n", b"one\ntwo\n", None),
        (b"one\ntwo\n", b"one\ntwo\n", None),
        (b"", b"one\ntwo\n", None),
        (b"zero\none\ntwo\n", b"one\ntwo\n", "5 bytes of what it wrote are missing; only the rest was kept"),
        (b"one\nor\ntwo\n", b"one\nor\ntwo\n", "3 bytes are from the copy made while it ran, and there may be more"),
        (b"one\ntoo\n", b"one\ntoo\ntwo\n", "4 bytes are from the copy made while it ran, and there may be more"),
    ],
    ids=[
        "longer",
        "shorter",
        "equal",
        "empty",
        "lost its beginning",
        "its middle",
        "and its end",
    ],
)
def test_lines_that_the_engine_lost_come_from_the_copy(
    tmp_path: Path, copy: bytes, kept: bytes, missing: str | None
) -> None:
    job = Job.of(
        Fake(new_world()), read(tmp_path, {"agent": {"command": ["sh", "-c", "echo one; echo two"]}}), tmp_path
    )
    job.apply()
    agent = job.observed("agent")
    job.backend.wait(agent.id, timeout=30)
    with job.store.staging(agent.run, engine=job.backend.identity) as staging:
        staging.write("stdout.log", copy)
        staging.write("stderr.log", b"")
    job.destroy()
    (path,) = tmp_path.glob("*/index.json")
    index = Index.from_json(path.read_bytes())
    assert (path.parent / "stdout.log").read_bytes() == kept
    reasons = [one.reason for one in index.missing if one.part == "logs"]
    assert [reason.partition(": ")[2] or reason for reason in reasons] == ([missing] if missing else [])
    assert {one.path: one.truncated for one in index.kept}["stdout.log"] == bool(missing)


# -- what is asked before its evidence is taken


def test_what_ended_ones_changed_is_asked_ahead_and_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = {f"done{n}": {"command": ["true"], "restart": "no"} for n in range(6)}
    given |= {"runs": {}, "again": {"command": ["true"], "restart": "on-failure"}}
    given |= {"silent": {"command": ["true"], "evidence": {"filesystem_changes": False}}}
    world, asked, ahead, changes = new_world(), list[str](), list[str](), Fake.changes
    looking = threading.Lock()
    job = Job.of(Fake(world), read(tmp_path, given), tmp_path / "evidence")
    job.apply()
    until(lambda: sum(not box.running for box in world.boxes.values()) == len(given) - 1)
    names = {box.id: box.name for box in world.boxes.values()}

    def counted(self: Fake, id: str) -> Any:
        asked.append(names[id])
        return changes(self, id)

    def first(backend: Fake, step: Any) -> None:
        with looking:  # every worker, before its first step
            if not ahead:
                until(lambda: len(asked) == 4)  # as many as there are workers
                ahead.extend(asked)

    monkeypatch.setattr(Fake, "changes", counted)
    world.before = first
    job.destroy()
    assert len(ahead) == 4 and all("done" in name for name in ahead)
    assert sorted(asked) == sorted(f"tale-{name}" for name in given if name != "silent")
