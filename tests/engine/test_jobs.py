"""Several jobs on one project at once, in one checkout and in several: a task runs once, and every job learns how."""

from __future__ import annotations

import json
import os
import re
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import docker
import pytest
from msgspec import structs

from sandboxrun import SandboxService, Settings
from sandboxrun.data import Data
from sandboxrun.evidence.store import STAGING, Store
from sandboxrun.lifecycle import apply as converge
from sandboxrun.lifecycle.job import apply_and_wait
from sandboxrun.lifecycle.watch import AT_ONCE, Watch
from sandboxrun.spec.state import How
from tests.conftest import Cli, Ran, until
from tests.engine.world import World, change

TASK = "echo hi; sleep 0.5; exit 3"
LONGER = f"echo hi; sleep {AT_ONCE + 0.5}; exit 3"  # others get the lock meanwhile, and join those who wait
ENDLESS = "trap 'exit 7' TERM; while :; do sleep 0.1; done"


class Starts:
    """The addresses of the project's sandboxes, each as often as the engine started it."""

    def __init__(self, client: docker.DockerClient, project: str, image: str) -> None:
        self.addresses: list[str] = []
        self._client, self._project, self._image, self._mark = client, project, image, f"{project}-mark"
        self._marked = threading.Event()
        filters = {"label": f"sandboxrun.project={project}", "event": ["start", "create"], "type": "container"}
        self._stream = client.api.events(decode=True, filters=filters, since=int(time.time()))
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        for event in self._stream:
            told = event["Actor"]["Attributes"]
            if event["Action"] == "start":
                self.addresses.append(told["sandboxrun.sandbox"])
            elif told["name"] == self._mark:
                self._marked.set()

    def close(self) -> list[str]:
        """All of them until now: what the stream has brought before it brings the making of one more container."""
        if not self._marked.is_set():
            labels = {"sandboxrun.project": self._project}
            self._client.containers.create(self._image, name=self._mark, labels=labels).remove()
            assert self._marked.wait(120), "the engine's events do not come"
            self._stream.close()
        return sorted(self.addresses)


@pytest.fixture
def starts(engine_client: docker.DockerClient, project: str, busybox: str) -> Iterator[Starts]:
    counted = Starts(engine_client, project, busybox)
    yield counted
    counted.close()


class Checkouts(Data):
    """Folders with the same profile, and the jobs started in them."""

    cli: Cli
    folders: tuple[Path, ...]

    def start(self, *arguments: str, count: int) -> list[subprocess.Popen[str]]:
        """That many jobs at once, one checkout after the other in turn."""
        return [self.cli.start(*arguments, cwd=self.folders[n % len(self.folders)]) for n in range(count)]

    def finish(self, jobs: Sequence[subprocess.Popen[str]]) -> list[Ran]:
        return [self.cli.finish(job) for job in jobs]

    def runs(self) -> list[str]:
        """The sandboxes whose evidence is kept in any of them, each as often as it is; none is staged any more."""
        lines = [line for f in self.folders for line in _lines(f / ".sandboxrun/evidence/chain.jsonl")]
        entries = [json.loads(line) for line in lines]
        staged = Path(os.environ["XDG_STATE_HOME"], "sandboxrun", STAGING)
        assert not [e["run"] for e in entries if (staged / e["run"]).exists()]
        return sorted(e["sandbox"] for e in entries)


def _lines(file: Path) -> list[str]:
    return file.read_text().splitlines() if file.exists() else []


def checkouts(cli: Cli, project: str, sandboxes: str, *, count: int) -> Checkouts:
    folders = tuple(cli.cwd / f"checkout{n}" for n in range(count))
    for folder in folders:
        folder.mkdir()
        (folder / "sandbox.yaml").write_text(f"name: {project}\nsandboxes:\n{sandboxes}")
    return Checkouts(cli=cli, folders=folders)


def sandbox(name: str, image: str, command: str, more: str = "") -> str:
    options = f'image: {image}, network_mode: none, stop_grace_period: 5s, command: [sh, -c, "{command}"]{more}'
    return f"  {name}: {{{options}}}\n"


@pytest.mark.parametrize(("jobs", "places", "task"), [(2, 2, TASK), (5, 1, LONGER), (10, 4, LONGER)])
def test_jobs_that_wait_for_one_task(
    cli: Cli, project: str, busybox: str, starts: Starts, jobs: int, places: int, task: str
) -> None:
    several = checkouts(cli, project, sandbox("a", busybox, task), count=places)
    ran = several.finish(several.start("apply", "--wait", "-y", count=jobs))
    assert [r.code for r in ran] == [3] * jobs, [r.out + r.err for r in ran]
    assert starts.close() == several.runs() == ["a"]
    assert sum("Plan: 1 to add" in r.out for r in ran) == 1


def test_a_task_that_is_done_before_the_next_job_gets_its_turn(
    cli: Cli, project: str, busybox: str, starts: Starts
) -> None:
    several = checkouts(cli, project, sandbox("a", busybox, "exit 4"), count=3)
    ran = several.finish(several.start("apply", "--wait", "-y", count=3))
    assert [r.code for r in ran] == [4] * 3, [r.out + r.err for r in ran]
    assert starts.close() == several.runs() == ["a"]


@pytest.mark.parametrize("places", [1, 3])
def test_jobs_that_wait_for_many_tasks(cli: Cli, project: str, busybox: str, starts: Starts, places: int) -> None:
    each = sandbox("w", busybox, "echo {{ each }}; sleep 0.5", ', for_each: ["1", "2", "3", "4", "5", "6"]')
    several = checkouts(cli, project, each.replace("{{ each }}", "'{{ each }}'"), count=places)
    ran = several.finish(several.start("apply", "--wait", "-y", count=3))
    assert [r.code for r in ran] == [0] * 3, [r.out + r.err for r in ran]
    assert starts.close() == several.runs() == [f'w["{n}"]' for n in range(1, 7)]


def test_jobs_of_every_kind(cli: Cli, project: str, busybox: str, starts: Starts) -> None:
    """`run` runs it for itself; all others share the one."""
    several = checkouts(cli, project, sandbox("a", busybox, "echo hi; sleep 2; exit 3"), count=2)
    first = cli("apply", "-y", cwd=several.folders[0])
    assert first.code == 0, first.err
    jobs = several.start("apply", "--wait", "-y", count=2) + several.start("wait", count=2)
    jobs += several.start("run", "a", count=2) + several.start("apply", "-y", count=2)
    ran = several.finish(jobs)
    assert [r.code for r in ran] == [3] * 6 + [0] * 2, [r.out + r.err for r in ran]
    assert starts.close() == several.runs() == ["a"] * 3


def test_who_waits_for_what_is_destroyed_learns_it_at_once(
    cli: Cli, project: str, busybox: str, starts: Starts
) -> None:
    several = checkouts(cli, project, sandbox("a", busybox, ENDLESS), count=3)
    one, two, three = several.folders
    waiting = [
        *(cli.start("apply", "--wait", "-y", cwd=folder) for folder in (one, one, two)),
        *(cli.start("run", "a", cwd=folder) for folder in (one, two)),
    ]
    until(lambda: len(starts.addresses) == 3)
    for job in waiting[:3]:  # each has its plan: none is still to make it
        assert job.stdout is not None and job.stdout.readline()
    late = [cli.start("wait", "-v", cwd=folder) for folder in (one, two)]
    for job in late:
        assert job.stderr is not None and job.stderr.readline() == "waiting for a\n"
    waiting += late
    assert [job.poll() for job in waiting] == [None] * 7
    destroyed = cli("destroy", "-y", cwd=three)
    ran = several.finish(waiting)
    assert (destroyed.code, [r.code for r in ran]) == (0, [7] * 7), [r.out + r.err for r in ran]
    assert re.search(r"^a: stopped before its end \(exit 7\).*; no evidence here: another job ", ran[2].out, re.M)
    assert starts.close() == ["a"] * 3
    several.runs()


# -- what another checkout's job completed


def test_what_another_checkout_completed_counts_for_who_began_before(world: World, tmp_path: Path) -> None:
    profile = world.profile({"a": {"command": ["sh", "-c", TASK]}})
    began, elsewhere = time.time(), Store(project_directory=tmp_path, root=Path("elsewhere"))
    assert apply_and_wait(world.engine, profile, elsewhere).exit_code == 3
    waited = apply_and_wait(world.engine, profile, world.store, settings=converge.ApplySettings(began=began))
    assert (waited.exit_code, waited.outcome.plan.empty) == (3, True)
    (done,) = waited.outcome.plan.changes
    assert done.note.startswith("exited with 3 in run ") and done.again == "failed"
    later = apply_and_wait(world.engine, profile, world.store)
    assert [str(c.action.value) for c in later.outcome.plan.changes] == ["create"]


@pytest.mark.parametrize(("content", "done"), [("one", True), ("two", False)])
def test_another_checkouts_workspace_must_be_the_same(world: World, tmp_path: Path, content: str, done: bool) -> None:
    began, profiles, stores = time.time(), [], []
    for name, text in (("first", "one"), ("second", content)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(text)
        options = {"command": ["true"], "workspace": {"source": "."}}
        here = structs.replace(world, directory=tmp_path / name)
        profiles.append(here.profile({"a": options}))
        stores.append(Store(project_directory=tmp_path / name))
    assert apply_and_wait(world.engine, profiles[0], stores[0]).exit_code == 0
    second = apply_and_wait(world.engine, profiles[1], stores[1], settings=converge.ApplySettings(began=began))
    assert (second.exit_code, second.outcome.plan.empty, len(stores[1].entries())) == (0, done, int(not done))


def test_what_another_job_destroyed_is_not_done(world: World, tmp_path: Path) -> None:
    began, profile = time.time(), world.profile({"a": {}})
    world.apply(profile)
    world.destroy(profile)
    elsewhere = Store(project_directory=tmp_path, root=Path("elsewhere"))
    outcome = converge.apply(world.engine, profile, elsewhere, settings=converge.ApplySettings(began=began))
    assert change(outcome.plan, "a").action.value == "create"


def test_a_wait_collects_only_what_it_waited_for(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not what another job made meanwhile under the same name."""
    waiting, really = threading.Event(), Watch._await_exit
    monkeypatch.setattr(Watch, "_await_exit", lambda watch: (waiting.set(), really(watch))[1])
    profile = world.profile({"a": {}})
    world.apply(profile)
    waited = threading.Thread(target=apply_and_wait, args=(world.engine, profile, world.store))
    waited.start()
    assert waiting.wait(120)
    other = world.profile({"a": {"command": ["sleep", "601"]}})
    world.apply(other)
    waited.join()
    assert world.observed(other, "a").spec.command == ("sleep", "601")


def test_a_service_learns_how_one_ended_that_another_checkout_destroyed(
    world: World, engine_host: str, busybox: str, tmp_path: Path
) -> None:
    settings = Settings(docker_host=engine_host, default_image=busybox, network_mode="none")
    with SandboxService(settings, project=world.project, directory=tmp_path) as service:
        made = service.create("a", command=["sh", "-c", ENDLESS], stop_grace_period="5s")
        made.start()
        elsewhere = structs.replace(world, store=Store(project_directory=tmp_path, root=Path("elsewhere")))
        elsewhere.destroy(world.profile({"none": {"when": False}}))
        captured = made.remove()
    assert captured is not None and captured.index is not None
    assert captured.index.ending.how in (How.FAILED, How.KILLED) and captured.index.ending.exit_code == 7
