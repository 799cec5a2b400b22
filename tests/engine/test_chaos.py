"""An apply that dies anywhere: the next apply, or destroy, converges, and no evidence is lost."""

from __future__ import annotations

import contextlib
import multiprocessing
import threading
import time
from pathlib import Path
from typing import Any

import docker
import pytest

from sandboxrun.backend.docker.client import Engine
from sandboxrun.backend.errors import EngineUnreachable
from sandboxrun.errors import ApplyError
from sandboxrun.evidence.checking import verify_chain
from tests.conftest import until
from tests.engine.chaos import FIRST, RUNNING, SECOND, Project, calls_of, killed_at
from tests.engine.own_engine import OwnEngine

CALLS = 168  # more than the apply makes; what is beyond its last call ends by itself
STEP = 12


def _begin(chaos: Project, client: docker.DockerClient) -> None:
    """One sandbox that has ended, one that will be undeclared, one that will be updated."""
    chaos.write(FIRST)
    chaos.apply()
    until(lambda: client.containers.get(f"{chaos.name}-done").status == "exited", "the sandbox `done` did not end")
    chaos.write(SECOND)


def _containers(chaos: Project, client: docker.DockerClient) -> list[str]:
    found = client.api.containers(all=True, filters={"label": f"sandboxrun.project={chaos.name}"})
    return sorted(c["Names"][0].removeprefix(f"/{chaos.name}-") for c in found)


def _assert_converged(chaos: Project, client: docker.DockerClient) -> None:
    chaos.apply()
    assert chaos.plan().empty, str(chaos.plan())
    names = _containers(chaos, client)
    assert [name for name in names if "." not in name] == list(RUNNING)
    assert "full.gateway" in names and all(name.partition(".")[0] == "full" for name in names if "." in name)
    assert client.containers.get(f"{chaos.name}-kept").attrs["HostConfig"]["Memory"] == 24 * 1024**2
    assert verify_chain(chaos.store) == ()
    kept = {entry.sandbox: entry for entry in chaos.store.entries(chaos.name)}
    assert {"done", "gone"} <= kept.keys(), "evidence of what ran was lost"
    for name, text in (("done", b"finished\n"), ("gone", b"here\n")):
        with chaos.store.open(kept[name], "stdout.log") as log:
            assert log.read() == text


def _assert_nothing_left(chaos: Project, client: docker.DockerClient) -> None:
    label = f"sandboxrun.project={chaos.name}"
    assert _containers(chaos, client) == []
    assert client.networks.list(filters={"label": label}) == []
    assert client.volumes.list(filters={"label": label}) == []
    assert client.volumes.list(filters={"label": f"sandboxrun.lock={chaos.name}"}) == []


def _all_and_some(every: int) -> list[Any]:
    """Every call in twelves, for `make test-full`; every so many of them, for `make test`."""
    twelves = [range(first, first + STEP) for first in range(1, CALLS, STEP)]
    return [range(5, CALLS, every), *(pytest.param(one, marks=pytest.mark.full) for one in twelves)]


@pytest.mark.parametrize("numbers", _all_and_some(19), ids=str)
def test_a_kill_after_any_engine_call_converges(
    chaos: Project, engine_client: docker.DockerClient, numbers: range
) -> None:
    """One call at a time: before the next one the engine is as it is after the last."""
    for number in numbers:
        _begin(chaos, engine_client)
        if not killed_at(number, "after", lambda: chaos.apply(parallelism=1)):
            chaos.destroy()
            break
        if number % 2:
            _assert_converged(chaos, engine_client)
        chaos.destroy()
        _assert_nothing_left(chaos, engine_client)
        assert verify_chain(chaos.store) == ()
        _forget(chaos)


def _forget(chaos: Project) -> None:
    """A new store for the next try: what completed would not run again."""
    (chaos.directory / ".sandboxrun").rename(chaos.directory / f".old-{time.monotonic_ns()}")


def test_every_call_of_the_apply_is_tried(chaos: Project, engine_client: docker.DockerClient) -> None:
    _begin(chaos, engine_client)
    calls = calls_of(lambda: chaos.apply(parallelism=1))
    assert 40 < calls < CALLS


@pytest.mark.parametrize("every", [pytest.param(1, marks=pytest.mark.full), 9])
def test_a_kill_after_any_engine_call_of_destroy_converges(
    chaos: Project, engine_client: docker.DockerClient, every: int
) -> None:
    for number in range(1, 90, every):
        _begin(chaos, engine_client)
        done = not killed_at(number, "after", lambda: chaos.destroy(parallelism=1))
        chaos.destroy()
        _assert_nothing_left(chaos, engine_client)
        kept = {entry.sandbox for entry in chaos.store.entries(chaos.name)}
        assert {"done", "gone", "kept"} <= kept, "evidence of what ran was lost"
        if done:
            return
        _forget(chaos)
    pytest.fail("a destroy makes more calls than were tried")


WHOLE = """
name: {project}
sandboxes:
  full:
    image: {image}
    command: [sleep, "300"]
    workspace: {{source: src, size: 8m}}
    secrets: [token]
    volumes: ["data:/data"]
secrets:
  token: {{environment: TOKEN}}
volumes:
  data: {{}}
"""


def test_what_was_made_and_whose_answer_was_lost_is_removed_again(
    chaos: Project, engine_client: docker.DockerClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sandboxes, keepers, gateways, upload containers, networks and volumes: each is known by its name and labels."""
    chaos.write(WHOLE)
    real, made, lost = Engine.request, list[str](), 0

    def request(self: Engine, method: str, path: str, operation: str, **more: Any) -> Any:
        answer = real(self, method, path, operation, **more)
        if method == "POST" and path.endswith("/create") and "sandboxrun-" not in operation:
            made.append(operation)
            if len(made) == lost:
                answer.read()
                raise EngineUnreachable(operation, "the connection was lost", maybe_done=True)
        return answer

    monkeypatch.setattr(Engine, "request", request)
    while True:
        lost += 1
        made.clear()
        try:
            chaos.apply(parallelism=1)
        except ApplyError as error:
            assert "the connection was lost" in str(error)
            _assert_nothing_left(chaos, engine_client)
        else:
            break
    kinds = {name.rpartition(".")[2] for name in made}
    assert {"keeper", "gateway", "courier-workspace", "courier-volume-data", "net", "workspace", "secrets"} <= kinds
    assert lost == len(made) + 1 > 10 and chaos.plan().empty


def _apply_quietly(chaos: Project, gate: object) -> None:
    gate.wait()  # type: ignore[attr-defined]
    chaos.apply(parallelism=2)


def test_ten_concurrent_applies_make_one_container_a_sandbox(
    chaos: Project, engine_client: docker.DockerClient
) -> None:
    chaos.write(SECOND.replace('command: [sh, -c, "echo finished; exit 3"]', 'command: [sleep, "300"]'))
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, "sandboxrun.lifecycle.apply"])  # imported once, not ten times
    gate = context.Barrier(10)
    workers = [context.Process(target=_apply_quietly, args=(chaos, gate)) for _ in range(10)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(180)
    assert [worker.exitcode for worker in workers] == [0] * 10
    names = [name for name in _containers(chaos, engine_client) if "." not in name]
    assert names == ["also", "done", "full", "kept"]
    assert chaos.plan().empty


def test_an_engine_that_stops_and_starts_in_mid_apply(project: str, tmp_path: Path, own_engine: OwnEngine) -> None:
    chaos = Project(name=project, directory=tmp_path, host=own_engine.host, image="sandboxrun/busybox:latest")
    names = [f"s{n}" for n in range(30)]  # far more than are made while the engine stops
    one = "{{image: {image}, command: [sleep, '300'], network_mode: none, mem_limit: 16m}}"
    chaos.write("name: {project}\nsandboxes:\n" + "".join(f"  {n}: {one}\n" for n in names))
    failed: list[BaseException] = []

    def apply() -> None:
        try:
            chaos.apply(parallelism=1)
        except Exception as error:
            failed.append(error)

    worker = threading.Thread(target=apply)
    worker.start()
    with contextlib.closing(own_engine.client()) as client:
        own = {"label": f"sandboxrun.project={project}"}
        until(lambda: client.api.containers(filters=own), "no sandbox was started")
    own_engine.stop()
    worker.join(120)
    assert not worker.is_alive()
    assert failed and "Traceback" not in str(failed[0])
    own_engine.start()
    with contextlib.closing(own_engine.client()) as client:
        chaos.apply()
        # What the stopped engine ended has run: its evidence is kept, and it is not run a second time.
        ran = {entry.sandbox for entry in chaos.store.entries(project)}
        running = {name for name in _containers(chaos, client) if name in names}
        assert ran | running == set(names)
        chaos.destroy()
        assert _containers(chaos, client) == []
