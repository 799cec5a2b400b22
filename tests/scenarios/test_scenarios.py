"""Whole commands on an engine in memory: what converges, what a failure, a stop or a kill leaves, jobs side by side."""

from __future__ import annotations

import itertools
import socket
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from sandboxrun.backend.errors import EngineUnreachable
from sandboxrun.backend.fake import Fake, Killed, World
from sandboxrun.backend.owner import this_process
from sandboxrun.errors import ApplyError, PlanError, SandboxrunError
from sandboxrun.lifecycle import job as job_room
from sandboxrun.lifecycle.apply import ApplySettings
from sandboxrun.lifecycle.job import apply_and_wait
from sandboxrun.lifecycle.reap import Homes, Scope, reap
from sandboxrun.lifecycle.run import Runner, RunOptions, run
from sandboxrun.lifecycle.verify import clear_killed
from sandboxrun.plan import operations as op
from sandboxrun.plan.changes import Action
from sandboxrun.plan.planner import Options
from sandboxrun.probe import program
from sandboxrun.spec import labels
from sandboxrun.spec.project import FileSpec
from sandboxrun.spec.records import FileRef
from sandboxrun.spec.spec import settle
from sandboxrun.spec.state import Offers
from sandboxrun.spec.types import freeze
from tests.conftest import examples
from tests.scenarios.world import Job, new_world, read

WIDE: dict[str, dict[str, Any]] = {
    "base": {"network_mode": None, "networks": ["default", "inner"]},
    "agent": {"network_mode": None, "networks": ["default"], "depends_on": ["base"]},
    "alone": {},
    "wired": {"network_mode": None, "egress": {"allow": ["example.com:443"]}},
}


def job_on(world: World, directory: Path, sandboxes: dict[str, dict[str, Any]] | None = None, n: int = 0) -> Job:
    profile = read(directory, WIDE if sandboxes is None else sandboxes)
    return Job.of(Fake(world), profile, directory / f"evidence-{n}")


def steps_of(directory: Path) -> list[str]:
    """The steps of the first apply of WIDE."""
    return [step.id for step in job_on(new_world(), directory).plan().operations]


COUNT = 19  # of them; a test says so


def test_the_scenarios_have_every_step(tmp_path: Path) -> None:
    assert len(steps_of(tmp_path)) == COUNT


# -- convergence

OPTIONS = st.fixed_dictionaries(
    {},
    optional={
        "mem_limit": st.sampled_from(["32m", "64m"]),
        "pids_limit": st.sampled_from([64, 128]),
        "cpus": st.sampled_from([0.5, 1]),
        "environment": st.dictionaries(st.sampled_from("AB"), st.sampled_from(["1", "2"])),
        "network_mode": st.sampled_from(["none", "bridge"]),
        "read_only": st.booleans(),
        "labels": st.dictionaries(st.sampled_from("xy"), st.sampled_from(["1", "2"])),
    },
)
PROFILES = st.dictionaries(st.sampled_from(["a", "b", "c"]), OPTIONS, max_size=3, min_size=1)


@examples(30)
@given(st.lists(PROFILES, min_size=1, max_size=3))
def test_after_an_apply_nothing_is_left_to_do(profiles: list[dict[str, dict[str, Any]]]) -> None:
    world = new_world()
    with tempfile.TemporaryDirectory() as folder:
        for sandboxes in profiles:  # each replaces the one before
            job = job_on(world, Path(folder), sandboxes)
            job.apply()
            assert job.plan().empty, str(job.plan())
            assert {box.labels["sandboxrun.sandbox"] for box in world.boxes.values()} == sandboxes.keys()
        job.destroy()
    assert (world.boxes, world.networks, world.volumes) == ({}, {}, {})


# -- failures


@pytest.mark.parametrize("nth", range(COUNT))
def test_a_step_that_fails_leaves_nothing_half_made_and_the_next_apply_converges(tmp_path: Path, nth: int) -> None:
    world, wanted = new_world(), steps_of(tmp_path)[nth]

    def fail(job: Fake, step: Any) -> None:
        if step.id == wanted:
            raise ApplyError("it went wrong")

    world.before = fail
    job = job_on(world, tmp_path)
    with pytest.raises(ApplyError, match="it went wrong"):
        job.apply()
    assert wanted not in world.performed
    assert not [box.name for box in world.boxes.values() if box.status == "created"]
    world.before = lambda job, step: None
    job.apply()
    assert job.plan().empty
    job.destroy()
    assert (world.boxes, world.networks, world.volumes) == ({}, {}, {})


CLEARED: dict[str, dict[str, dict[str, Any]]] = {
    "not declared": {"old": {"command": ["false"]}},
    "beside": {"agent": {"mem_limit": "32m"}},  # it runs until the new one does
}


@pytest.mark.parametrize("step", ["evidence", "remove"])
@pytest.mark.parametrize("how", CLEARED)
def test_who_waits_waits_for_what_was_started_though_an_earlier_run_stays(tmp_path: Path, how: str, step: str) -> None:
    world, command = new_world(), ["sh", "-c", "sleep 0.3; exit 5"]
    job_on(world, tmp_path, CLEARED[how]).apply()

    def fail(job: Fake, one: Any) -> None:
        if one.id.startswith(f"{step} ") and one.container == box:
            raise ApplyError("it went wrong")

    world.before, (box,) = fail, [*world.boxes]
    job = job_on(world, tmp_path, {"agent": {"command": command}, "other": {"command": ["true"]}})
    waited = apply_and_wait(job.backend, job.profile, job.store)
    assert [(result.address, result.exit_code) for result in waited.results] == [("agent", 5), ("other", 0)]
    assert waited.exit_code == 125 and "it went wrong" in str(waited.failed)
    assert [*world.boxes] == [box]
    world.before = lambda job, step: None
    again = apply_and_wait(job.backend, job.profile, job.store)
    assert (again.exit_code, again.failed, world.boxes) == (5, None, {})


def test_what_an_earlier_run_is_in_the_way_of_was_not_started(tmp_path: Path) -> None:
    world, command = new_world(), ["sh", "-c", "exit 4"]
    job = job_on(world, tmp_path, {"agent": {"command": ["false"]}})
    job.apply()
    (box,) = world.boxes

    def fail(job: Fake, one: Any) -> None:
        if one.id == "remove agent":
            raise ApplyError("it went wrong")

    world.before = fail
    needs = {"command": ["true"], "depends_on": ["agent"]}
    job = job_on(world, tmp_path, {"agent": {"command": ["true"]}, "needs": needs, "other": {"command": command}})
    waited = apply_and_wait(job.backend, job.profile, job.store)
    assert [(result.address, result.blocked, result.note) for result in waited.results] == [
        ("agent", True, "not started: its earlier run could not be cleared away"),
        ("needs", True, "not started: agent was not started"),
        ("other", False, ""),
    ]
    assert (waited.exit_code, waited.codes, [*world.boxes]) == (125, (4,), [box])


@pytest.mark.parametrize(("nth", "when"), list(itertools.product(range(COUNT), ["before", "after"])))
@pytest.mark.parametrize("then", ["apply", "destroy"])
def test_a_kill_at_any_step_is_repaired_by_the_next_command(tmp_path: Path, nth: int, when: str, then: str) -> None:
    world, wanted = new_world(), steps_of(tmp_path)[nth]

    def kill(job: Fake, step: Any) -> None:
        if step.id == wanted:
            job.kill()

    setattr(world, when, kill)
    with pytest.raises((Killed, ApplyError)):
        job_on(world, tmp_path).apply()
    setattr(world, when, lambda job, step: None)
    job = job_on(world, tmp_path)
    if then == "apply":
        job.apply()
        assert job.plan().empty
    job.destroy()
    assert (world.boxes, world.networks, world.volumes) == ({}, {}, {})


@pytest.mark.parametrize("then", ["destroy", "reap"])
def test_what_is_started_while_it_is_to_be_removed_keeps_its_evidence(tmp_path: Path, then: str) -> None:
    """An engine starts what it was asked to start though its owner was killed meanwhile; a living `run` does too."""
    world, both = new_world(), {"one": {}, "other": {}}

    def kill(job: Fake, step: Any) -> None:
        if isinstance(step, op.StartSandbox):
            job.kill()

    def start(job: Fake, step: Any) -> None:
        if isinstance(step, op.RemoveSandbox) and world.boxes[step.container].status == "created":
            world.boxes[step.container].start()

    def again() -> bool:
        """Whether all went well."""
        job = job_on(world, tmp_path, both)
        if then == "reap":
            return not reap(Fake(world), Scope(), homes=Homes(own=job.store)).left
        try:
            job.destroy()
        except ApplyError as error:
            assert "was started meanwhile, and is not removed before its evidence is saved" in str(error)
            return False
        return True

    world.before = kill
    with pytest.raises((Killed, ApplyError)):
        job_on(world, tmp_path, both).apply()
    made = {box.labels[labels.RUN] for box in world.boxes.values() if box.status == "created"}
    for box in world.boxes.values():
        box.labels |= {labels.ONE_OFF: "1", labels.OWNER: structs.replace(this_process(), started=1).encode()}
    world.before = start
    assert made and not again()
    assert made <= {box.labels[labels.RUN] for box in world.boxes.values()}
    world.before = lambda job, step: None
    assert again()
    kept = {entry.run for entry in job_on(world, tmp_path, both).store.entries("tale")}
    assert made <= kept and not made & {box.labels[labels.RUN] for box in world.boxes.values()}


def test_an_option_that_the_engine_ignores_is_an_error_and_leaves_nothing(tmp_path: Path) -> None:
    world = new_world(ignored={"pids_limit": -1})
    with pytest.raises(ApplyError, match="the engine did not apply pids_limit: declared 256"):
        job_on(world, tmp_path, {"agent": {}}).apply()
    assert world.boxes == {}


def test_an_update_that_the_engine_ignores_is_an_error_and_is_taken_back(tmp_path: Path) -> None:
    world = new_world()
    job_on(world, tmp_path, {"agent": {}}).apply()
    world.ignored = {"mem_limit": 1 << 30}
    changed = job_on(world, tmp_path, {"agent": {"mem_limit": "64m"}})
    with pytest.raises(ApplyError, match="did not apply mem_limit"):
        changed.apply()
    world.ignored = {}
    assert job_on(world, tmp_path, {"agent": {}}).plan().empty
    changed.apply()
    assert changed.plan().empty


def test_a_backend_without_an_option_refuses_it_by_name(tmp_path: Path) -> None:
    world = new_world(offers=Offers(api_version="1.51", pids=False))
    with pytest.raises(PlanError, match="can't enforce process limits"):
        job_on(world, tmp_path, {"agent": {"pids_limit": 10}}).plan()


def test_names_in_the_hosts_file_stay_as_they_were_made(tmp_path: Path) -> None:
    """Where the engine asks no gateway for names: other ports of the same hosts are other rules, other hosts another
    sandbox, and wildcards are refused before anything goes."""
    world = new_world(offers=Offers(api_version="1.45", hands_names=False))

    def job(*allow: str) -> Job:
        return job_on(world, tmp_path, {"agent": {"network_mode": None, "egress": {"allow": list(allow)}}})

    job("a.example.com:443").apply()
    (first,) = (box.id for box in world.boxes.values() if "sandboxrun.role" not in box.labels)
    assert job("a.example.com:443").plan().empty
    (change,) = [c for c in job("a.example.com:8443").plan().changes if c.kind == "sandbox"]
    assert change.action is Action.UPDATE
    job("a.example.com:8443").apply()
    assert first in world.boxes and job("a.example.com:8443").plan().empty
    (change,) = [c for c in job("b.example.com:443").plan().changes if c.kind == "sandbox"]
    assert change.action is Action.REPLACE
    with pytest.raises(PlanError, match=r"\*.example.com:443 can't work"):
        job("*.example.com:443").apply()
    assert first in world.boxes
    job("b.example.com:443").apply()
    assert first not in world.boxes and job("b.example.com:443").plan().empty


def test_an_engine_that_goes_away_in_the_middle_is_reported_and_repaired(tmp_path: Path) -> None:
    world, wanted = new_world(), steps_of(tmp_path)[COUNT // 2]

    def leave(job: Fake, step: Any) -> None:
        world.gone = world.gone or step.id == wanted

    world.before = leave
    with pytest.raises(SandboxrunError, match="does not answer"):
        job_on(world, tmp_path).apply()
    world.gone, world.before = False, lambda job, step: None
    with pytest.raises(EngineUnreachable):
        world.gone = True
        job_on(world, tmp_path).plan()
    world.gone = False
    world.holders.clear()  # the lease of whoever could not give it back
    job = job_on(world, tmp_path)
    job.apply()
    assert job.plan().empty


def test_nothing_is_changed_once_the_lock_was_lost(tmp_path: Path) -> None:
    world = new_world()

    def lose(job: Fake, step: Any) -> None:
        if len(world.performed) == 3:
            world.holders["tale"] = Fake(world)

    world.before = lose
    with pytest.raises(ApplyError, match="lock of project tale was lost"):
        job_on(world, tmp_path).apply(ApplySettings(parallelism=1))
    assert len(world.performed) == 4  # the one under way is finished


# -- stops


@pytest.mark.parametrize("nth", range(0, COUNT - 1, 3))
def test_a_stop_ends_it_cleanly_and_the_next_apply_goes_on(tmp_path: Path, nth: int) -> None:
    world, stop = new_world(), threading.Event()

    def halt(job: Fake, step: Any) -> None:
        if len(world.performed) == nth:
            stop.set()

    world.before = halt
    with pytest.raises(ApplyError, match="stopped"):
        job_on(world, tmp_path).apply(ApplySettings(stop=stop, parallelism=1))
    assert not [box.name for box in world.boxes.values() if box.status == "created"]
    job = job_on(world, tmp_path)
    job.apply()
    assert job.plan().empty


def test_a_run_hands_its_code_on_and_leaves_nothing(tmp_path: Path) -> None:
    world = new_world()
    job = job_on(world, tmp_path, {"agent": {"command": ["sh", "-c", "echo a; exit 3"]}})
    (result,) = run(job.backend, job.profile, job.store, job.profile.sandboxes)
    assert (result.exit_code, world.boxes) == (3, {})
    assert result.evidence is not None and result.evidence.folder is not None
    assert (result.evidence.folder / "stdout.log").read_bytes() == b"a\n"


@pytest.mark.parametrize("then", ["apply", "destroy"])
@pytest.mark.parametrize("kind", ["CreateSandbox", "StartSandbox", "CaptureEvidence", "RemoveSandbox"])
def test_what_a_killed_run_left_is_collected(tmp_path: Path, kind: str, then: str) -> None:
    world = new_world()

    def kill(job: Fake, step: Any) -> None:
        if type(step).__name__ == kind:
            job.kill()

    world.before = kill
    job = job_on(world, tmp_path, {"agent": {"command": ["true"]}})
    with pytest.raises((Killed, SandboxrunError)):
        run(job.backend, job.profile, job.store, job.profile.sandboxes)
    world.before = lambda job, step: None
    after = job_on(world, tmp_path, {"agent": {}})
    getattr(after, then)()
    after.destroy()
    assert world.boxes == {}


def killed_run(world: World, job: Job, kind: str) -> None:
    """A `run` of the job's sandboxes that is killed before the first step of this kind."""

    def kill(dead: Fake, step: Any) -> None:
        if type(step).__name__ == kind:
            dead.kill()

    world.before = kill
    with pytest.raises((Killed, SandboxrunError)):
        run(Fake(world), job.profile, job.store, job.profile.sandboxes)
    world.before = lambda dead, step: None


@pytest.mark.parametrize("by", ["run", "verify"])
def test_what_a_killed_verify_keeps_in_a_workspace_goes_with_the_next_command(tmp_path: Path, by: str) -> None:
    """Its sandboxes are removed whatever they do, without evidence; one of a killed run stays, and that is told."""
    world = new_world()
    (tmp_path / "ws").mkdir()
    sandbox = {"workspace": {"source": "./ws", "access": "rw"}, "command": ["true"]}
    job = job_on(world, tmp_path, {"agent": sandbox})
    (agent,) = job.profile.sandboxes
    spec = settle(structs.replace(agent.spec, configs=(FileRef(source=program.CONFIG),)))
    probing = structs.replace(
        job.profile,
        configs=freeze({program.CONFIG: FileSpec(content="x")}),
        sandboxes=(structs.replace(agent, spec=spec),),
    )
    probe = structs.replace(job, profile=probing)
    killed_run(world, job, "CaptureEvidence")
    ((left, box),) = world.boxes.items()
    for kind in ("CaptureEvidence", "StartSandbox", "StartSandbox"):
        killed_run(world, probe, kind)
    running = [*world.boxes.values()][-1]
    running.spec = structs.replace(running.spec, command=("sleep", "1000"))
    running.start()
    assert [one.status for one in world.boxes.values()] == ["exited", "exited", "created", "running"]

    if by == "run":
        runner = Runner(job.backend, job.profile, job.store, ApplySettings(), RunOptions())
        runner.run(job.profile.sandboxes)
        told = runner.notices
    else:
        told = clear_killed(job.backend, job.profile, ApplySettings())
    assert [*world.boxes] == [left]
    assert [(notice.message, notice.help) for notice in told] == [
        (
            "what sandboxrun created in a workspace stays there for sandboxes of killed commands: "
            f"agent (run {box.labels[labels.RUN][:12]}); `reap`, `apply` or `destroy` collects them",
            None,
        )
    ]
    assert len(job.store.entries()) == (1 if by == "run" else 0)
    job.destroy()
    assert world.boxes == {} and clear_killed(job.backend, job.profile, ApplySettings()) == ()


def test_a_verify_that_lives_keeps_what_it_has_and_who_is_at_work_is_not_waited_for(tmp_path: Path) -> None:
    world = new_world()
    (tmp_path / "ws").mkdir()
    job = job_on(world, tmp_path, {"agent": {"workspace": {"source": "./ws", "access": "rw"}}})
    killed_run(world, job, "StartSandbox")
    (box,) = world.boxes.values()
    spec = settle(structs.replace(box.spec, configs=(FileRef(source=program.CONFIG),)))
    box.spec, box.applied, box.labels[labels.SPEC] = spec, spec, spec.label
    box.job.dead = False
    assert (clear_killed(job.backend, job.profile, ApplySettings()), len(world.boxes)) == ((), 1)
    box.job.dead = True
    with Fake(world).lock("tale", wait=0):
        (notice,) = clear_killed(job.backend, job.profile, ApplySettings())
    assert "agent (run " in notice.message and len(world.boxes) == 1
    assert (clear_killed(job.backend, job.profile, ApplySettings()), world.boxes) == ((), {})


# -- jobs side by side


@pytest.mark.parametrize("count", [2, 5, 10])
@pytest.mark.parametrize("kept", [0.0, job_room.AT_ONCE], ids=["joined", "collected by its maker"])
def test_jobs_on_one_project_run_an_agent_once(
    tmp_path: Path, count: int, kept: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_room, "AT_ONCE", kept)
    world = new_world(latency=0.002)
    agents = {"agent": {"command": ["sh", "-c", "sleep 0.1; exit 5"]}}
    jobs = [job_on(world, tmp_path, agents, n) for n in range(count)]
    codes: list[int] = []
    began = time.time()  # of all: what ended since counts for the later ones too

    def work(job: Job) -> None:
        how = ApplySettings(began=began)
        codes.append(apply_and_wait(job.backend, job.profile, job.store, settings=how).exit_code)

    threads = [threading.Thread(target=work, args=(job,)) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert codes == [5] * count
    assert len(world.removed) == 1
    assert len({entry.run for job in jobs for entry in job.store.entries("tale")}) == 1


class Locking(Fake):
    """Counts how often it takes the lock."""

    locks = 0

    def lock(self, *args: Any, **options: Any) -> Any:
        self.locks += 1
        return super().lock(*args, **options)


@pytest.mark.parametrize(("seconds", "locks"), [(0.0, 1), (0.5, 2)])
def test_what_ends_at_once_is_collected_under_the_lock_it_was_made_under(
    tmp_path: Path, seconds: float, locks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What takes longer keeps nobody from the project: it is made, and another job takes its turn meanwhile."""
    monkeypatch.setattr(job_room, "AT_ONCE", 60.0 if locks == 1 else 0.0)
    backend = Locking(new_world())
    agents = {"agent": {"command": ["sh", "-c", f"sleep {seconds}; exit 4"]}}
    job = Job.of(backend, read(tmp_path, agents), tmp_path / "evidence")
    codes: list[int] = []
    waiting = threading.Thread(
        target=lambda: codes.append(apply_and_wait(backend, job.profile, job.store).exit_code), daemon=True
    )
    waiting.start()
    other = job_on(backend.world, tmp_path, agents, 1)
    until = time.monotonic() + 60
    while locks == 2 and not backend.world.boxes and time.monotonic() < until:
        time.sleep(0.01)
    if locks == 2:
        assert other.apply(ApplySettings(lock_wait=60)).plan.empty
    waiting.join(60)
    assert (codes, backend.locks, backend.world.boxes) == ([4], locks, {})


def test_a_job_with_targets_keeps_the_lock_from_nobody(tmp_path: Path) -> None:
    backend = Locking(new_world())
    job = Job.of(backend, read(tmp_path, {"agent": {"command": ["true"]}}), tmp_path / "evidence")
    waited = apply_and_wait(backend, job.profile, job.store, options=Options(targets=("agent",)))
    assert (waited.exit_code, backend.locks) == (0, 2)


# -- snapshots


@pytest.mark.parametrize(("sandboxes", "most"), [({"alone": {}}, 1), (WIDE, 2)], ids=["nothing shared", "all"])
def test_apply_and_wait_takes_two_snapshots_at_most(
    tmp_path: Path, sandboxes: dict[str, dict[str, Any]], most: int
) -> None:
    class Counting(Fake):
        snapshots = 0

        def observe(self, *args: Any, **options: Any) -> Any:
            self.snapshots += 1
            return super().observe(*args, **options)

    ending = {name: {**given, "command": ["true"]} for name, given in sandboxes.items()}
    backend, profile = Counting(new_world()), read(tmp_path, ending)
    waited = apply_and_wait(backend, profile, Job.of(backend, profile, tmp_path / "evidence").store)
    assert waited.exit_code == 0 and len(waited.results) == len(ending)
    assert backend.snapshots == most
    assert not backend.world.boxes


def test_a_plan_says_whose_sandboxes_it_removes(tmp_path: Path) -> None:
    """Two directories with one project name: each takes the other's sandboxes for its own, no longer declared."""
    world, ours, theirs = new_world(), tmp_path / "ours", tmp_path / "theirs"
    for directory in (ours, theirs):
        directory.mkdir()
    job_on(world, theirs, {"theirs": {}, "both": {}}).apply()
    (warned,) = job_on(world, ours, {"both": {}, "ours": {}}).plan().warnings
    assert warned.message.startswith(f"this plan removes theirs, which was made from the directory {theirs} by ")
    assert warned.message.endswith(f"@{socket.gethostname()}")
    (replaced,) = job_on(world, ours, {"theirs": {}, "both": {"command": ["sleep", "9"]}}).plan().warnings
    assert replaced.message.startswith("this plan replaces both, which was made from the directory")
    assert job_on(world, theirs, {"both": {}}).plan().warnings == ()
