"""`AgentSpawner` on a real engine, and with plain processes."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest
from msgspec import structs

from sandboxrun import AgentResult, AgentSession, AgentSpawner, SandboxService, Settings
from sandboxrun.api.processes import ProcessFailed
from sandboxrun.api.service import (
    SandboxCaptured,
    SandboxCreated,
    SandboxEnded,
    SandboxEvent,
    SandboxRemoved,
    SandboxStarted,
)
from sandboxrun.backend.errors import EngineUnreachable
from sandboxrun.errors import ApplyError, UsageError
from sandboxrun.lifecycle.job import WaitTimeout
from sandboxrun.spec.state import How
from tests.conftest import until
from tests.engine.own_engine import OwnEngine

PATIENCE = 120  # seconds; no test needs them


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Where the evidence goes."""
    (made := tmp_path / "home").mkdir()
    return made


@pytest.fixture
def spawner(_nothing_left: None, settings: Settings, project: str, home: Path) -> Iterator[AgentSpawner]:
    """A spawner with a project of its own."""
    with AgentSpawner(settings, project=project, directory=home) as made:
        yield made


@pytest.fixture
def plain(settings: Settings, home: Path) -> Iterator[AgentSpawner]:
    """A spawner of plain processes."""
    with AgentSpawner(structs.replace(settings, sandbox_enabled=False), directory=home) as made:
        yield made


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """A directory that the sandbox's user owns."""
    made = tmp_path / "work"
    made.mkdir()
    if os.getuid() == 0:
        os.chown(made, 1000, 1000)
    return made


def runs(pid: int) -> bool:
    """Whether a process runs (and is no zombie)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def runs_by_now(session: AgentSession) -> bool:
    """Whether it runs; one that could not be run fails the test by its own error, not by a wait for what won't come."""
    if session.done:
        session.result(0)
    assert not session.done, f"it ended at once: {session}"
    return session.state == "running"


def file_of(path: Path) -> str:
    """A file's text, once there is any."""
    until(lambda: path.exists() and path.read_text().endswith("\n"))
    return path.read_text()


# -- in sandboxes --------------------------------------------------------------------------------------------------


def test_an_agent_works_on_its_workspace(
    spawner: AgentSpawner, workspace: Path, engine_client: docker.DockerClient
) -> None:
    seen: list[tuple[int, bytes]] = []
    command = ["sh", "-c", 'pwd; echo err >&2; echo "$A" > made']
    session = spawner.spawn(
        command, workspace=workspace, environment={"A": "x"}, on_output=lambda stream, data: seen.append((stream, data))
    )
    result = session.result(PATIENCE)
    assert (result.exit_code, result.how, result.ok) == (0, How.EXITED, True)
    assert (result.stdout, result.stderr, result.truncated) == (b"/workspace\n", b"err\n", False)
    assert sorted(seen) == [(1, b"/workspace\n"), (2, b"err\n")]
    assert (workspace / "made").read_text() == "x\n"
    assert result.patch is None
    assert session.state == "completed" and session.done
    assert session.pid is None and session.container_id is not None
    assert result.evidence is not None and (result.evidence / "index.json").is_file()
    with pytest.raises(docker.errors.NotFound):
        engine_client.containers.get(session.container_id)
    session.kill()  # too late for anything
    assert session.state == "completed"


def test_a_copied_workspace_comes_back_as_a_patch(spawner: AgentSpawner, workspace: Path) -> None:
    (workspace / "file").write_text("one\n")
    session = spawner.spawn(["sh", "-c", "echo two >> file; exit 3"], workspace=workspace, access="copy")
    result = session.result(PATIENCE)
    assert (result.exit_code, result.how, session.state) == (3, How.FAILED, "failed")
    assert result.patch is not None and b"+two" in result.patch
    assert (workspace / "file").read_text() == "one\n"


def test_both_parts_of_the_changes_come_back(spawner: AgentSpawner, workspace: Path) -> None:
    for words in (
        ["init", "-q"],
        ["add", "."],
        ["-c", "user.name=a", "-c", "user.email=a", "commit", "-q", "--allow-empty", "-m", "a"],
    ):
        subprocess.run(["git", "-c", "safe.directory=*", *words], cwd=workspace, check=True)
    (workspace / "notes.txt").write_text("one\n")  # which git does not track
    session = spawner.spawn(["sh", "-c", "echo new > added; echo two >> notes.txt"], workspace=workspace, access="copy")
    result = session.result(PATIENCE)
    assert result.patch is not None and b"+new" in result.patch and b"notes" not in result.patch
    assert result.untracked_patch is not None and b"+two" in result.untracked_patch


def test_a_program_is_told_what_happens_to_its_agents(
    _nothing_left: None, settings: Settings, project: str, home: Path, workspace: Path
) -> None:
    told: list[SandboxEvent] = []
    with AgentSpawner(settings, project=project, directory=home, on_event=told.append) as agents:
        session = agents.spawn(["sh", "-c", "exit 3"], name="agent", workspace=workspace)
        result = session.result(PATIENCE)
    kinds = [SandboxCreated, SandboxStarted, SandboxEnded, SandboxCaptured, SandboxRemoved]
    assert [type(event) for event in told] == kinds
    assert {event.container_id for event in told} == {session.container_id}
    ended, captured = told[2], told[3]
    assert isinstance(ended, SandboxEnded) and ended.exit_code == 3
    assert isinstance(captured, SandboxCaptured) and captured.folder == result.evidence


def test_a_coroutine_is_told_on_its_loop(
    _nothing_left: None, settings: Settings, project: str, home: Path, workspace: Path
) -> None:
    async def main() -> list[str]:
        removed, told = asyncio.Event(), []

        async def hear(event: SandboxEvent) -> None:
            told.append(type(event).__name__)
            if isinstance(event, SandboxRemoved):
                removed.set()

        async with AgentSpawner(settings, project=project, directory=home, on_event=hear) as agents:
            await agents.spawn(["true"], workspace=workspace)
            await asyncio.wait_for(removed.wait(), PATIENCE)
        return told

    # each is scheduled where it happens, in a thread of its own kind: the loop may begin neighbours in either order
    assert set(asyncio.run(main())) == {
        "SandboxCreated", "SandboxStarted", "SandboxEnded", "SandboxCaptured", "SandboxRemoved"
    }  # fmt: skip


def test_output_beyond_the_limit_is_cut_in_the_result_only(spawner: AgentSpawner, workspace: Path) -> None:
    session = spawner.spawn(["sh", "-c", "yes | head -c 5000"], workspace=workspace, output_limit=100)
    result = session.result(PATIENCE)
    assert (len(result.stdout), result.truncated) == (100, True)
    assert result.evidence is not None and (result.evidence / "stdout.log").stat().st_size == 5000


def test_memory_is_enforced_and_told(spawner: AgentSpawner, workspace: Path) -> None:
    session = spawner.spawn(
        ["sh", "-c", "sleep 1; tail /dev/zero; sleep 1; exit 137"], workspace=workspace, mem_limit="16m"
    )
    result = session.result(PATIENCE)
    assert (result.how, result.exit_code, session.state) == (How.OOM, 137, "failed")


def test_kill(spawner: AgentSpawner, workspace: Path) -> None:
    seen = threading.Event()
    command = ["sh", "-c", "echo begun; exec sleep 600"]
    session = spawner.spawn(command, workspace=workspace, on_output=lambda *_: seen.set())
    until(lambda: seen.is_set() and runs_by_now(session))
    session.kill()
    result = session.result(PATIENCE)
    assert (result.how, session.state) == (How.KILLED, "killed")
    assert result.stdout == b"begun\n" and result.evidence is not None and result.started
    assert spawner.sessions == ()


def test_kill_does_not_wait_for_one_that_will_not_end(spawner: AgentSpawner, workspace: Path) -> None:
    command = ["sh", "-c", "trap '' TERM; echo deaf; while :; do sleep 1; done"]
    seen = threading.Event()
    session = spawner.spawn(command, workspace=workspace, on_output=lambda *_: seen.set())
    assert seen.wait(PATIENCE)
    session.kill(grace=0)
    assert session.result(PATIENCE).exit_code == 137


def test_kill_at_any_moment_of_the_making_leaves_nothing(spawner: AgentSpawner, workspace: Path) -> None:
    for pause in (0.0, 0.02, 0.05, 0.1, 0.2, 0.3):
        session = spawner.spawn(["sleep", "600"], workspace=workspace, access="copy")
        time.sleep(pause)
        session.kill(grace=1)
        result = session.result(PATIENCE)
        assert result.how is How.KILLED and session.state == "killed"
        assert result.started is (result.evidence is not None)
    assert spawner.service.list() == ()


def test_timeout(spawner: AgentSpawner, workspace: Path) -> None:
    session = spawner.spawn(["sleep", "600"], workspace=workspace, timeout=0.3)
    result = session.result(PATIENCE)
    assert (result.exit_code, result.how, session.state) == (124, How.TIMEOUT, "timed_out")
    with pytest.raises(UsageError, match="timeout must be greater than 0, not 0"):
        spawner.spawn(["true"], workspace=workspace, timeout=0)


def test_a_session_that_could_not_be_run(spawner: AgentSpawner, workspace: Path) -> None:
    session = spawner.spawn(["true"], workspace=workspace, image="example.invalid/none:1")
    with pytest.raises(ApplyError, match=r"example\.invalid/none"):
        session.result(PATIENCE)
    assert session.state == "failed" and session.wait(0)
    missing = spawner.spawn(["no-such-program"], workspace=workspace).result(PATIENCE)
    assert (missing.how, missing.exit_code) == (How.NOT_STARTED, 125)


def test_result_gives_up_and_the_agent_runs_on(spawner: AgentSpawner, workspace: Path) -> None:
    session = spawner.spawn(["sleep", "600"], workspace=workspace)
    with pytest.raises(WaitTimeout, match="has not ended after"):
        session.result(0.05)
    assert not session.wait(0) and not session.done
    assert spawner.sessions == (session,)


def test_wrong_arguments_are_refused_at_once(spawner: AgentSpawner, workspace: Path) -> None:
    with pytest.raises(UsageError, match="list of words"):
        spawner.spawn("true", workspace=workspace)
    with pytest.raises(UsageError, match='"memory" is not offered'):
        spawner.spawn(["true"], workspace=workspace, memory="1g")
    with pytest.raises(UsageError, match="not a directory"):
        spawner.spawn(["true"], workspace=workspace / "none")


def test_a_function_that_fails_is_not_called_again_and_stops_nothing(spawner: AgentSpawner, workspace: Path) -> None:
    calls: list[bytes] = []

    def failing(stream: int, data: bytes) -> None:
        calls.append(data)
        raise KeyError(data)

    session = spawner.spawn(["sh", "-c", "echo a; sleep 0.3; echo b"], workspace=workspace, on_output=failing)
    assert session.result(PATIENCE).stdout == b"a\nb\n"
    assert calls == [b"a\n"]
    assert isinstance(session.output_error, KeyError)


def test_no_more_than_max_parallel_run_at_once(
    settings: Settings, project: str, home: Path, workspace: Path, _nothing_left: None
) -> None:
    with AgentSpawner(settings, project=project, directory=home, max_parallel=2) as spawner:
        command = ["sh", "-c", "touch up-$0; while [ ! -e go ]; do sleep 0.1; done; exit $0"]
        sessions = [spawner.spawn([*command, str(n)], workspace=workspace) for n in range(4)]
        until(lambda: [s.state for s in sessions].count("running") == 2)
        until(lambda: len(list(workspace.glob("up-*"))) == 2)
        waiting = [s for s in sessions if s.state == "pending"]
        assert len(waiting) == 2
        waiting[-1].kill()
        (workspace / "go").touch()
        codes = [s.result(PATIENCE).exit_code for s in sessions]
    assert [s.state for s in sessions].count("killed") == 1
    assert sorted(codes)[:2] == [0, 1] and codes[-1] == 143
    with pytest.raises(UsageError, match="was closed"):
        spawner.spawn(["true"], workspace=workspace)
    with pytest.raises(UsageError, match="max_parallel is 0"):
        AgentSpawner(settings, max_parallel=0)


def test_closing_kills_what_runs_with_evidence(
    settings: Settings, project: str, home: Path, workspace: Path, _nothing_left: None
) -> None:
    with AgentSpawner(settings, project=project, directory=home) as spawner:
        sessions = [spawner.spawn(["sleep", "600"], workspace=workspace) for _ in range(2)]
        until(lambda: all(runs_by_now(s) for s in sessions))
    assert [s.state for s in sessions] == ["killed", "killed"]
    assert all(s.result(0).evidence is not None for s in sessions)


def test_a_given_service_is_shared_and_stays_open(
    settings: Settings, project: str, home: Path, workspace: Path, _nothing_left: None
) -> None:
    with SandboxService(settings, project=project, directory=home) as service:
        with AgentSpawner(service=service) as spawner, spawner.spawn(["sleep", "600"], workspace=workspace) as session:
            until(lambda: runs_by_now(session))
            assert [one.container_id for one in service.list()] == [session.container_id]
        assert session.state == "killed"
        assert service.list() == ()
        with pytest.raises(UsageError, match="project: the given service has them"):
            AgentSpawner(service=service, project="other")


# -- asyncio -------------------------------------------------------------------------------------------------------


def test_several_agents_in_asyncio(spawner: AgentSpawner, workspace: Path) -> None:
    async def main() -> list[AgentResult]:
        command = ["sh", "-c", "echo $0; exit $0"]
        return list(await asyncio.gather(*(spawner.spawn([*command, str(n)], workspace=workspace) for n in range(4))))

    results = asyncio.run(main())
    assert [(r.exit_code, r.stdout) for r in results] == [(n, f"{n}\n".encode()) for n in range(4)]


def test_cancelling_a_wait_leaves_the_agent_and_leaving_the_block_ends_it(
    spawner: AgentSpawner, workspace: Path
) -> None:
    async def main() -> AgentSession:
        async with spawner.spawn(["sleep", "600"], workspace=workspace) as session:
            while session.state != "running":
                await asyncio.sleep(0.02)
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(session.result_async(), 0.1)
            assert session.state == "running"
        return session

    session = asyncio.run(main())
    assert session.state == "killed"


def test_a_spawner_closes_in_asyncio(
    settings: Settings, project: str, home: Path, workspace: Path, _nothing_left: None
) -> None:
    async def main() -> AgentSession:
        async with AgentSpawner(settings, project=project, directory=home) as spawner:
            return spawner.spawn(["sleep", "600"], workspace=workspace)

    assert asyncio.run(main()).state == "killed"


def test_errors_reach_whoever_awaits(spawner: AgentSpawner, workspace: Path) -> None:
    async def main() -> None:
        await spawner.spawn(["true"], workspace=workspace, image="example.invalid/none:1")

    with pytest.raises(ApplyError, match=r"example\.invalid/none"):
        asyncio.run(main())


# -- a spawner that is killed --------------------------------------------------------------------------------------

PROGRAM = textwrap.dedent(
    """
    import os, signal, sys, time
    from pathlib import Path
    from sandboxrun import AgentSpawner, Settings
    host, image, project, home, workspace, sandbox, how = sys.argv[1:]
    settings = Settings(docker_host=host, default_image=image, network_mode="none", sandbox_enabled=sandbox == "yes")
    spawner = AgentSpawner(settings, project=project, directory=Path(home))
    command = ["sh", "-c", "sleep 601 & echo $! > child; echo lost; echo $$ > up; wait"]
    session = spawner.spawn(command, workspace=Path(workspace))
    while not (Path(workspace) / "up").exists():
        time.sleep(0.02)
    if how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    """
)


def _program(settings: Settings, project: str, home: Path, workspace: Path, sandbox: str, how: str) -> int:
    arguments = [settings.docker_host, settings.default_image, project, home, workspace, sandbox, how]
    return subprocess.run([sys.executable, "-c", PROGRAM, *map(str, arguments)], timeout=240).returncode


def test_the_next_spawner_collects_what_a_killed_one_left(
    settings: Settings, project: str, home: Path, workspace: Path, _nothing_left: None
) -> None:
    assert _program(settings, project, home, workspace, "yes", "kill") == -signal.SIGKILL
    with AgentSpawner(settings, project=project, directory=home) as spawner:
        assert spawner.service.list() == ()
        (entry,) = spawner.service.store.entries(project)
        assert spawner.service.store.index(entry).ending.how is How.KILLED
        assert (spawner.service.store.path / entry.folder / "stdout.log").read_bytes() == b"lost\n"


FORKING = textwrap.dedent(
    """
    import os, signal, sys
    from pathlib import Path
    from sandboxrun import AgentSpawner, Settings
    host, image, project, home, workspace = sys.argv[1:]
    settings = Settings(docker_host=host, default_image=image, network_mode="none")
    with AgentSpawner(settings, project=project, directory=home) as spawner:
        wait = ["sh", "-c", "until [ -e go ]; do sleep 0.1; done"]
        session = spawner.spawn(wait, workspace=workspace)
        with spawner.service.sandbox("box", command=["sleep", "600"]) as box:
            if (child := os.fork()) == 0:
                signal.alarm(120)
                sys.exit(7)  # out of both blocks, and through what is to be done at the end of a program
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
            assert box.exec(["true"]).exit_code == 0
        Path(workspace, "go").touch()
        assert session.result().ok, session.result()
    """
)


def test_a_forked_process_ends_nothing_of_its_parents(
    settings: Settings, project: str, home: Path, workspace: Path, _nothing_left: None
) -> None:
    arguments = [settings.docker_host, settings.default_image, project, home, workspace]
    ran = subprocess.run([sys.executable, "-c", FORKING, *map(str, arguments)], timeout=240, capture_output=True)
    assert ran.returncode == 0, ran.stderr.decode()


def test_a_forked_process_has_agents_of_its_own(spawner: AgentSpawner, workspace: Path) -> None:
    spawner._most = 1
    with spawner.spawn(["sleep", "600"], workspace=workspace, stop_grace_period="0s") as session:
        until(lambda: runs_by_now(session))
        if (child := os.fork()) == 0:
            code = 1
            try:
                signal.alarm(PATIENCE)
                with pytest.raises(UsageError, match="is an agent of process"), session:
                    session.result()
                with spawner:
                    assert spawner.spawn(["true"], workspace=workspace).result().ok
                code = 0
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert runs_by_now(session)


def test_a_guard_notices_the_end_of_a_process_although_a_forked_one_lives(plain: AgentSpawner, workspace: Path) -> None:
    with plain.spawn(["sleep", "600"], workspace=workspace) as session:
        until(lambda: runs_by_now(session))
        guard = plain._guard._process
        assert guard is not None and guard.stdin is not None
        pipe = os.readlink(f"/proc/self/fd/{guard.stdin.fileno()}")
        if (child := os.fork()) == 0:
            own = [f"/proc/self/fd/{fd}" for fd in os.listdir("/proc/self/fd")]
            os._exit(1 if pipe in [os.readlink(fd) for fd in own if os.path.lexists(fd)] else 0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_spawner_collects_unless_told_not_to(
    settings: Settings, project: str, home: Path, workspace: Path, _nothing_left: None
) -> None:
    assert _program(settings, project, home, workspace, "yes", "kill") == -signal.SIGKILL
    with AgentSpawner(settings, project=project, directory=home, collect=False) as spawner:
        assert len(spawner.service.list()) == 1
    with AgentSpawner(settings, project=project, directory=home) as spawner:
        assert spawner.service.list() == ()


def test_a_program_that_ends_without_closing_leaves_nothing(
    settings: Settings, project: str, home: Path, workspace: Path, _nothing_left: None
) -> None:
    assert _program(settings, project, home, workspace, "yes", "end") == 0
    with SandboxService(settings, project=project, directory=home) as service:
        assert len(service.store.entries(project)) == 1


@pytest.mark.parametrize("how", ["kill", "end"])
def test_plain_processes_do_not_outlive_their_spawner(
    settings: Settings, project: str, home: Path, workspace: Path, how: str
) -> None:
    assert _program(settings, project, home, workspace, "no", how) == (-signal.SIGKILL if how == "kill" else 0)
    agent, child = (int(file_of(workspace / name)) for name in ("up", "child"))
    until(lambda: not runs(agent) and not runs(child))


def test_an_engine_that_goes_away_loses_no_evidence(
    own_engine: OwnEngine, settings: Settings, project: str, home: Path, workspace: Path
) -> None:
    there = structs.replace(settings, docker_host=own_engine.host)
    with AgentSpawner(there, project=project, directory=home) as spawner:
        seen = threading.Event()
        command = ["sh", "-c", "echo begun; exec sleep 600"]
        session = spawner.spawn(command, workspace=workspace, on_output=lambda *_: seen.set())
        until(lambda: seen.is_set() and runs_by_now(session))
        own_engine.kill()
        with pytest.raises(EngineUnreachable):
            session.result(PATIENCE)
        assert session.state == "failed"
        own_engine.start()
        (captured,) = spawner.service.collect()
        assert captured.index is not None and captured.folder is not None
        assert (captured.index.ending.how, captured.index.sandbox) == (How.ENGINE_LOST, session.name)
        assert (captured.folder / "stdout.log").read_bytes() == b"begun\n"
        assert spawner.service.list() == ()


# -- plain processes -------------------------------------------------------------------------------------------------


def test_a_plain_process(plain: AgentSpawner, workspace: Path) -> None:
    seen: list[tuple[int, bytes]] = []
    script = 'pwd; echo "$A" >&2; exit 3'
    session = plain.spawn(
        ["sh", "-c", script],
        workspace=workspace,
        environment={"A": "x"},
        on_output=lambda stream, data: seen.append((stream, data)),
    )
    result = session.result(PATIENCE)
    assert (result.exit_code, result.how, session.state) == (3, How.FAILED, "failed")
    assert (result.stdout, result.stderr) == (f"{workspace}\n".encode(), b"x\n")
    assert sorted(seen) == [(1, result.stdout), (2, result.stderr)]
    assert (session.container_id, result.evidence, result.patch) == (None, None, None)
    assert session.pid is not None and not runs(session.pid)
    assert plain.spawn(["true"], workspace=workspace).result(PATIENCE).ok


def test_a_plain_process_does_not_get_the_spawners_secrets(
    plain: AgentSpawner, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPAWNER_TOKEN", "hunter2")
    monkeypatch.setenv("NAMED", "given")
    result = plain.spawn(["env"], workspace=workspace, environment={"NAMED": None}).result(PATIENCE)
    assert b"hunter2" not in result.stdout
    assert b"NAMED=given\n" in result.stdout and b"PATH=" in result.stdout


def test_a_plain_process_is_killed_with_its_group(plain: AgentSpawner, workspace: Path) -> None:
    session = plain.spawn(["sh", "-c", "sleep 602 & echo $! > child; wait"], workspace=workspace)
    child = int(file_of(workspace / "child"))
    session.kill()
    result = session.result(PATIENCE)
    assert (result.how, result.exit_code, session.state) == (How.KILLED, 143, "killed")
    until(lambda: not runs(child))


def test_a_plain_process_that_ignores_the_signal_is_killed_all_the_same(plain: AgentSpawner, workspace: Path) -> None:
    command = ["sh", "-c", "trap '' TERM; echo $$ > up; while :; do sleep 0.1; done"]
    session = plain.spawn(command, workspace=workspace)
    file_of(workspace / "up")
    session.kill(grace=0.1)
    assert session.result(PATIENCE).exit_code == 137


def test_what_a_plain_process_leaves_behind_is_ended(plain: AgentSpawner, workspace: Path) -> None:
    session = plain.spawn(["sh", "-c", "sleep 603 >/dev/null 2>&1 & echo $! > child"], workspace=workspace)
    assert session.result(PATIENCE).ok
    child = int(file_of(workspace / "child"))
    until(lambda: not runs(child))


def test_a_plain_process_has_a_timeout(plain: AgentSpawner, workspace: Path) -> None:
    session = plain.spawn(["sleep", "600"], workspace=workspace, timeout=0.2)
    result = session.result(PATIENCE)
    assert (result.exit_code, result.how, session.state) == (124, How.TIMEOUT, "timed_out")


def test_a_plain_process_by_a_signal_of_its_own(plain: AgentSpawner, workspace: Path) -> None:
    result = plain.spawn(["sh", "-c", "kill -ABRT $$"], workspace=workspace).result(PATIENCE)
    assert (result.exit_code, result.how) == (134, How.FAILED)


def test_a_plain_process_that_cannot_be_started(plain: AgentSpawner, workspace: Path) -> None:
    session = plain.spawn(["no-such-program"], workspace=workspace)
    with pytest.raises(ProcessFailed, match="no-such-program could not be started: No such file or directory"):
        session.result(PATIENCE)
    assert session.state == "failed"


def test_what_only_a_sandbox_gives_is_refused(plain: AgentSpawner, workspace: Path) -> None:
    with pytest.raises(UsageError, match="plain process cannot have workspace access copy and secrets"):
        plain.spawn(["true"], workspace=workspace, access="copy", secrets={"key": "x"})


def test_the_option_can_be_overridden_for_one_agent(
    spawner: AgentSpawner, workspace: Path, engine_client: docker.DockerClient
) -> None:
    inside = spawner.spawn(["cat", "/proc/1/comm"], workspace=workspace).result(PATIENCE)
    outside = spawner.spawn(["sh", "-c", "echo $PPID"], workspace=workspace, sandbox=False).result(PATIENCE)
    assert b"init" in inside.stdout
    assert int(outside.stdout) == os.getpid()


def test_no_engine_is_needed_for_plain_processes_and_one_is_for_sandboxes(tmp_path: Path, workspace: Path) -> None:
    nowhere = Settings(docker_socket=tmp_path / "none.sock", sandbox_enabled=False)
    with AgentSpawner(nowhere, directory=tmp_path) as spawner:
        assert spawner.spawn(["true"], workspace=workspace).result(PATIENCE).ok
    with pytest.raises(EngineUnreachable, match=r"none\.sock"):
        AgentSpawner(structs.replace(nowhere, sandbox_enabled=True), directory=tmp_path)


def test_many_plain_processes_from_many_threads(plain: AgentSpawner, workspace: Path) -> None:
    sessions: list[AgentSession] = []

    def work(part: int) -> None:
        for n in range(5):
            sessions.append(plain.spawn(["sh", "-c", f"exit {part * 5 + n}"], workspace=workspace))

    threads = [threading.Thread(target=work, args=(part,)) for part in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(s.result(PATIENCE).exit_code for s in sessions) == list(range(15))
    assert all(s.pid is not None and not runs(s.pid) for s in sessions)


def test_a_guard_that_was_killed_is_replaced_and_knows_all_groups(plain: AgentSpawner, workspace: Path) -> None:
    first = plain.spawn(["sleep", "604"], workspace=workspace)
    until(lambda: runs_by_now(first))
    guard = plain._guard._process
    assert guard is not None
    os.kill(guard.pid, signal.SIGKILL)
    guard.wait()
    second = plain.spawn(["sleep", "605"], workspace=workspace)
    until(lambda: runs_by_now(second))
    assert plain._guard._process is not guard
    plain._guard.close()  # as the end of this process would
    assert first.result(PATIENCE).exit_code == second.result(PATIENCE).exit_code == 137
