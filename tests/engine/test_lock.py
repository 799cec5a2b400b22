"""One holder at a time, whatever happens to the others."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from sandboxrun.backend.docker.client import Engine, connect
from sandboxrun.backend.docker.lock import LABEL, ProjectLock, project_lock
from sandboxrun.backend.errors import EngineError, LockHeld, LockLost
from sandboxrun.backend.owner import this_process
from sandboxrun.spec.labels import PROJECT
from tests.engine.own_engine import OwnEngine

# Contends for the lock `rounds` times. While it holds it, it writes a file that no other may write, and counts on.
_CONTENDER = """
import sys, time
sys.path[:0] = {path!r}
from pathlib import Path
from sandboxrun.backend.docker.client import connect
from sandboxrun.backend.docker.lock import project_lock
folder = Path({folder!r})
with connect({host!r}) as engine:
    for _ in range({rounds}):
        with project_lock(engine, {project!r}, wait=120) as lock:
            (folder / "held").touch(exist_ok=False)
            count = int((folder / "count").read_text())
            time.sleep(0.02)
            (folder / "count").write_text(str(count + 1))
            lock.check()
            (folder / "held").unlink()
"""

_HOLDER = """
import sys, time
sys.path[:0] = {path!r}
from sandboxrun.backend.docker.client import connect
from sandboxrun.backend.docker.lock import project_lock
with project_lock(connect({host!r}), {project!r}, wait=0, lease={lease}):
    print("held", flush=True)
    for _ in range(6000):
        time.sleep(0.1)  # a signal that comes just before a long sleep would be seen after it
"""


@pytest.fixture
def client(engine_host: str) -> Iterator[Engine]:
    with connect(engine_host) as engine:
        yield engine


@pytest.fixture
def start(engine_host: str, project: str) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts one of the programs above; what still runs at the end is killed."""
    with contextlib.ExitStack() as stack:

        def start(program: str, **values: object) -> subprocess.Popen[str]:
            source = textwrap.dedent(program).format(path=sys.path, host=engine_host, project=project, **values)
            process = subprocess.Popen(
                [sys.executable, "-c", source], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
            )
            stack.enter_context(process)
            stack.callback(process.kill)
            return process

        yield start


def held(start: Callable[..., subprocess.Popen[str]], lease: int = 60) -> subprocess.Popen[str]:
    holder = start(_HOLDER, lease=lease)
    assert holder.stdout is not None and holder.stdout.readline() == "held\n"
    return holder


def volumes(engine: Engine, project: str) -> list[str]:
    return [v["Name"] for v in engine.volumes(labels={LABEL: project})]


def test_the_lock_is_a_volume_and_goes(client: Engine, project: str) -> None:
    with project_lock(client, project, wait=0) as lock:
        [name] = volumes(client, project)
        assert name.startswith(f"sandboxrun-lock-{project}-")
        assert not lock.lost
        lock.check()
    assert volumes(client, project) == []


def test_a_volume_with_the_labels_of_a_lock_is_somebody_elses(client: Engine, project: str) -> None:
    gone = structs.replace(this_process(), started=1).encode()
    name = f"{project}-data"
    client.create_volume({"Name": name, "Labels": {PROJECT: project, LABEL: project, f"{LABEL}.owner": gone}})
    try:
        with project_lock(client, project, wait=0):
            assert client.volume(name) is not None
        assert volumes(client, project) == [name]
    finally:
        client.remove_volume(name)


def test_a_lock_that_nobody_can_see_is_none(client: Engine, project: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """`docker volume prune` removes what no container uses, a lock too: another job would take it as well."""
    create = Engine.create_volume

    def pruned(engine: Engine, payload: dict[str, Any]) -> dict[str, Any]:
        made = create(engine, payload)
        engine.remove_volume(str(made["Name"]))
        return made

    with monkeypatch.context() as patch:
        patch.setattr(Engine, "create_volume", pruned)
        with pytest.raises(EngineError, match="is gone"), project_lock(client, project, wait=0):
            pytest.fail("it was held")
    with project_lock(client, project, wait=0):
        assert len(volumes(client, project)) == 1


@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt])
def test_it_goes_also_after_a_failure(client: Engine, project: str, kind: type[BaseException]) -> None:
    with pytest.raises(kind), project_lock(client, project, wait=0):
        raise kind
    assert volumes(client, project) == []


def test_two_projects_do_not_meet(client: Engine, project: str) -> None:
    with project_lock(client, project, wait=0), project_lock(client, f"{project}-b", wait=0):
        assert len(volumes(client, project)) == 1


def test_who_holds_it_is_told(client: Engine, project: str) -> None:
    told: list[str] = []
    with project_lock(client, project, wait=0):
        with pytest.raises(LockHeld) as raised, project_lock(client, project, wait=5, on_wait=told.append):
            pytest.fail("two holders")
        assert len(volumes(client, project)) == 1
    who = f"process {os.getpid()} of {this_process().who}, since "
    assert raised.value.diagnostics[0].message.startswith(f"project {project} is in use by another run: {who}")
    helped = raised.value.diagnostics[0].on_command_line.help
    assert helped is not None and helped.endswith(", or longer for the lock (--lock-timeout 5m)")
    [line] = told
    assert line.startswith(f"waiting for another run of project {project}: {who}")


def test_it_is_waited_for(client: Engine, project: str) -> None:
    order: list[str] = []
    with contextlib.ExitStack() as first:
        first.enter_context(project_lock(client, project, wait=0))
        waiting = threading.Event()

        def wait() -> None:
            with project_lock(client, project, wait=60, on_wait=lambda _: waiting.set()):
                order.append("second")

        thread = threading.Thread(target=wait)
        thread.start()
        assert waiting.wait(30)
        order.append("first")
    thread.join()
    assert order == ["first", "second"]


def test_ten_contenders_hold_it_one_at_a_time(
    client: Engine, project: str, start: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    (tmp_path / "count").write_text("0")
    contenders = [start(_CONTENDER, folder=str(tmp_path), rounds=2) for _ in range(10)]
    for contender in contenders:
        _, err = contender.communicate(timeout=240)
        assert contender.returncode == 0, err
    assert (tmp_path / "count").read_text() == "20"
    assert volumes(client, project) == []


def test_a_killed_holders_lock_is_taken_over_at_once(
    client: Engine, project: str, start: Callable[..., subprocess.Popen[str]]
) -> None:
    holder = held(start)
    with pytest.raises(LockHeld), project_lock(client, project, wait=0):
        pytest.fail("two holders")
    holder.kill()
    os.waitid(os.P_PID, holder.pid, os.WEXITED | os.WNOWAIT)
    with project_lock(client, project, wait=0):
        assert len(volumes(client, project)) == 1


def test_the_lock_of_another_machines_dead_holder_runs_out(
    client: Engine, project: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = structs.replace(this_process(), kernel="another-boot/1", who="somebody@elsewhere")
    monkeypatch.setattr("sandboxrun.backend.docker.lock.this_process", lambda: elsewhere)
    ProjectLock(client, project, 1).create()  # and is never renewed
    with pytest.raises(LockHeld, match="somebody@elsewhere"), project_lock(client, project, wait=0):
        pytest.fail("two holders")
    with project_lock(client, project, wait=60):
        assert len(volumes(client, project)) == 1


def test_a_lease_is_renewed(client: Engine, project: str) -> None:
    with project_lock(client, project, wait=0, lease=6) as lock:
        [first] = volumes(client, project)
        until = time.monotonic() + 120
        while first in volumes(client, project) and time.monotonic() < until:
            assert volumes(client, project)  # never without
            time.sleep(0.05)
        assert first not in volumes(client, project)
        lock.check()


def test_a_holder_that_slept_past_its_lease_has_lost_it(
    client: Engine, project: str, start: Callable[..., subprocess.Popen[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    times = itertools.chain([0.0], itertools.repeat(54.0))
    monkeypatch.setattr("sandboxrun.backend.docker.lock.uptime", lambda: next(times))
    with project_lock(client, project, wait=0) as lock:
        assert lock.lost
        with pytest.raises(LockLost, match=f"the lock of project {project} was lost"):
            lock.check()


def test_a_stopped_holder_loses_its_lock_and_knows(
    client: Engine, project: str, start: Callable[..., subprocess.Popen[str]]
) -> None:
    lock = ProjectLock(client, project, 60)
    assert lock.try_once() == ()
    for name in volumes(client, project):
        client.remove_volume(name)  # as another run does when it takes the holder for dead
    lock.renew()
    assert lock.lost
    lock.release()
    assert volumes(client, project) == []


def test_a_terminated_holder_releases_it(
    client: Engine, project: str, start: Callable[..., subprocess.Popen[str]]
) -> None:
    holder = held(start)
    holder.send_signal(signal.SIGINT)
    holder.communicate(timeout=60)
    assert volumes(client, project) == []


def test_the_engine_goes_away_and_comes_back_while_it_is_held(own_engine: OwnEngine, project: str) -> None:
    with connect(own_engine.host) as engine:
        with project_lock(engine, project, wait=0, lease=30) as lock:
            own_engine.kill()
            own_engine.start()
            lock.check()
            assert len(volumes(engine, project)) == 1
            lock.renew()
            assert not lock.lost
        assert volumes(engine, project) == []
