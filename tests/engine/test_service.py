"""`SandboxService` on a real engine."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import docker
import pytest

from sandboxrun import Sandbox, SandboxService, Settings, Verdict
from sandboxrun.api.sandbox import ExecTimeout
from sandboxrun.backend.docker.client import Engine
from sandboxrun.backend.docker.lock import LABEL
from sandboxrun.backend.errors import EngineUnreachable, NotFound
from sandboxrun.errors import ApplyError, PlanError, ProfileError, UsageError
from sandboxrun.evidence.checking import verify_chain
from sandboxrun.evidence.index import EvidenceError
from sandboxrun.lifecycle import apply as converge
from sandboxrun.lifecycle.job import WaitTimeout
from sandboxrun.profile.loader import load_data
from sandboxrun.spec.labels import LEASE
from sandboxrun.spec.state import How
from tests.conftest import until
from tests.engine.chaos import killed_at

SLEEP = ["sleep", "600"]
Make = Callable[..., SandboxService]


@pytest.fixture
def service(_nothing_left: None, settings: Settings, project: str, tmp_path: Path) -> Iterator[SandboxService]:
    """A service with a project of its own; what a failed test leaves in it is removed."""
    home = tmp_path / "home"
    home.mkdir()
    with SandboxService(settings, project=project, directory=home) as made:
        yield made
        for left in made.list():
            left.remove(force=True)
        made.collect()


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """A directory that the sandbox's user owns."""
    made = tmp_path / "work"
    made.mkdir()
    (made / "file").write_text("one\n")
    if os.getuid() == 0:
        os.chown(made, 1000, 1000)
    return made


def sleeper(service: SandboxService, name: str = "a", **options: Any) -> Sandbox:
    """A sandbox that runs until it is stopped."""
    made = service.create(name, command=SLEEP, **options)
    made.start()
    return made


# -- a life ------------------------------------------------------------------------------------------------------


def test_create_start_stop_remove(service: SandboxService, engine_client: docker.DockerClient) -> None:
    made = service.create("a", command=["sh", "-c", "echo out; echo err >&2; exec sleep 600"])
    assert made.state == "created"
    container = engine_client.containers.get(made.container_id)
    assert container.labels["sandboxrun.project"] == service.project
    assert container.labels["sandboxrun.sandbox"] == "a"
    assert container.labels["sandboxrun.one-off"] == "1"
    assert str(os.getpid()) in container.labels["sandboxrun.owner"]
    assert container.attrs["HostConfig"]["AutoRemove"] is False

    made.start()
    assert made.state == "running"
    with pytest.raises(UsageError, match="a still runs"):
        made.remove()
    made.stop()
    assert made.state == "exited"

    captured = made.remove()
    assert made.state == "removed"
    assert captured is not None and captured is made.evidence
    assert captured.index is not None and captured.folder is not None
    assert captured.index.ending.how is How.KILLED
    assert (captured.folder / "stdout.log").read_bytes() == b"out\n"
    assert (captured.folder / "stderr.log").read_bytes() == b"err\n"
    assert made.remove() is captured
    with pytest.raises(docker.errors.NotFound):
        engine_client.containers.get(made.container_id)
    with pytest.raises(UsageError, match="a was removed"):
        made.wait()


def test_one_never_started_leaves_no_evidence(service: SandboxService) -> None:
    made = service.create("a", command=["true"])
    with pytest.raises(UsageError, match="never started"):
        made.wait()
    assert made.remove() is None
    assert service.list() == ()


def test_what_somebody_removed_leaves_the_evidence_that_was_seen_and_nothing_else(
    service: SandboxService, workspace: Path, engine_client: docker.DockerClient
) -> None:
    ran, never = (service.create(name, command=SLEEP, workspace=workspace, access="copy") for name in ("a", "b"))
    ran.start()
    for made in (ran, never):
        engine_client.api.remove_container(made.container_id, force=True)
    captured = ran.remove()
    assert captured is not None and captured.index is not None
    assert (captured.index.ending.how, captured.index.ending.exit_code) == (How.KILLED, 137)
    assert never.remove() is None
    assert not engine_client.api.volumes(filters={"label": [f"sandboxrun.project={service.project}"]})["Volumes"]


def test_a_sandbox_starts_once(service: SandboxService) -> None:
    made = sleeper(service)
    with pytest.raises(UsageError, match="started before"):
        made.start()
    made.remove(force=True)
    with pytest.raises(UsageError, match="started before"):
        made.start()


def test_the_context_manager_ends_it_also_after_an_error(service: SandboxService) -> None:
    with pytest.raises(KeyError), service.sandbox("a", command=SLEEP) as made:
        raise KeyError
    assert made.state == "removed"
    assert made.evidence is not None and made.evidence.folder is not None
    assert service.list() == ()


def test_names_are_unique_and_found(service: SandboxService, settings: Settings) -> None:
    made = sleeper(service)
    with pytest.raises(UsageError, match="there is a sandbox a of project"):
        service.create("a", command=SLEEP)
    assert service.get("a").id == made.id
    assert [one.id for one in service.list()] == [made.id]
    with pytest.raises(UsageError, match='has no sandbox "b"'):
        service.get("b")
    with SandboxService(settings, project=service.project, directory=service.directory) as other:
        found = other.get("a")
        assert found.spec == made.spec
        assert found.exec(["echo", "hi"]).stdout == b"hi\n"
        found.stop(timeout=0)
        assert found.wait() == made.wait()
        assert found.remove() is not None
    assert made.state == "removed"
    assert made.remove() is not None  # that somebody else took the evidence is no reason to lose it
    assert made.evidence is not None and made.evidence.already


def test_a_second_service_starts_what_another_made(service: SandboxService, settings: Settings) -> None:
    service.create("a", command=["sh", "-c", "exit 5"])
    with SandboxService(settings, project=service.project, directory=service.directory) as other:
        found = other.get("a")
        found.start()
        assert found.wait(60) == 5


def test_a_start_that_fails_leaves_nothing(service: SandboxService) -> None:
    made = service.create("a", command=["no-such-program"], init=False)
    with pytest.raises(ApplyError, match="no-such-program"):
        made.start()
    assert made.state == "removed"
    assert service.list() == ()


def test_an_image_that_is_not_there_leaves_nothing(service: SandboxService) -> None:
    with pytest.raises(ApplyError, match=r"example\.invalid/none"):
        service.create("a", image="example.invalid/none:1", command=SLEEP, network_mode="bridge")
    assert service.list() == ()
    assert service.engine.networks(labels={"sandboxrun.project": service.project}) == ()


def test_wrong_arguments_are_refused_before_anything_is_made(service: SandboxService, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match='"memory" is not offered'):
        service.create("a", memory="1g")
    with pytest.raises(UsageError, match="mem_limit: expected a size"):
        service.create("a", mem_limit="much")
    with pytest.raises(ProfileError):
        service.create("no name", command=SLEEP)
    with pytest.raises(UsageError, match="not a directory"):
        service.create("a", workspace=tmp_path / "none")
    with pytest.raises(UsageError, match='no access "write"'):
        service.create("a", workspace=tmp_path, access="write")


def test_an_engine_that_is_not_there(tmp_path: Path) -> None:
    service = SandboxService(Settings(docker_socket=tmp_path / "none.sock"), directory=tmp_path)
    with pytest.raises(EngineUnreachable, match=r"none\.sock"):
        service.create("a", command=SLEEP)
    service.close()
    with pytest.raises(UsageError, match="was closed"):
        service.list()


def test_the_given_host_goes_before_the_settings(
    service: SandboxService, engine_host: str, project: str, tmp_path: Path
) -> None:
    wrong = Settings(docker_socket=tmp_path / "none.sock")
    with SandboxService(wrong, project=project, directory=tmp_path, host=engine_host) as other:
        assert other.list() == ()


# -- what is in it -----------------------------------------------------------------------------------------------


def test_exec(service: SandboxService) -> None:
    made = sleeper(service)
    done = made.exec(["sh", "-c", 'echo "$A in $PWD"; echo err >&2; exit 3'], environment={"A": "x"}, workdir="/tmp")
    assert (done.exit_code, done.stdout, done.stderr, done.truncated) == (3, b"x in /tmp\n", b"err\n", False)
    assert made.exec(["id", "-u"]).stdout == b"1000\n"
    assert made.exec(["id", "-u"], user="65534:65534").stdout == b"65534\n"
    cut = made.exec(["sh", "-c", "yes | head -c 100000"], limit=1000)
    assert (len(cut.stdout), cut.truncated) == (1000, True)
    with pytest.raises(UsageError, match="list of words"):
        made.exec("ls")


def test_exec_ends_what_takes_too_long_with_its_children(service: SandboxService) -> None:
    made = sleeper(service)
    with pytest.raises(ExecTimeout, match=r"sh in a ran longer than 5 seconds") as caught:
        made.exec(["sh", "-c", "echo begun; sleep 111 & sleep 222"], timeout=5)
    assert caught.value.stdout == b"begun\n"
    assert caught.value.killed
    processes = made.exec(["ps", "-o", "args"]).stdout
    assert b"sleep 111" not in processes and b"sleep 222" not in processes
    assert b"sleep 600" in processes


def test_logs_and_wait(service: SandboxService) -> None:
    made = service.create("a", command=["sh", "-c", "echo out; echo err >&2; sleep 0.5; echo end; exit 7"])
    seen: list[tuple[int, bytes]] = []
    made.start(on_output=lambda stream, data: seen.append((stream, data)))
    followed = list(made.logs(follow=True))
    assert (b"".join(d for n, d in followed if n == 1), b"".join(d for n, d in followed if n == 2)) == (
        b"out\nend\n",
        b"err\n",
    )
    assert made.wait(60) == 7
    assert b"".join(data for _, data in made.logs(tail=1)) in (b"end\n", b"err\n")
    captured = made.remove()
    assert captured is not None and captured.index is not None
    assert (captured.index.ending.how, captured.index.ending.exit_code) == (How.FAILED, 7)
    assert b"".join(data for stream, data in seen if stream == 1) == b"out\nend\n"


def test_wait_gives_up_and_the_sandbox_runs_on(service: SandboxService) -> None:
    made = sleeper(service)
    with pytest.raises(WaitTimeout, match=r"a still runs after 0\.2 seconds"):
        made.wait(0.2)
    assert made.state == "running"


def test_put_and_get_in_a_copied_workspace(service: SandboxService, workspace: Path, tmp_path: Path) -> None:
    made = sleeper(service, workspace=workspace)
    made.put({"new": "text", "deep/er/raw": b"\0\xff"}, "/workspace")
    assert made.get("/workspace/deep/er/raw") == b"\0\xff"
    assert made.exec(["stat", "-c", "%u:%g %a", "deep/er/raw"]).stdout == b"1000:1000 644\n"
    made.exec(["sh", "-c", "echo more >> new; ln -s /etc/passwd link; mkfifo pipe"])
    done = made.get("/workspace", into=tmp_path / "out")
    assert sorted(kept.path for kept in done.kept) == [
        f"out/workspace/{name}" for name in ("deep/er/raw", "file", "new")
    ]
    assert sorted((r.path, r.reason) for r in done.refused) == [
        ("workspace/link", "a symlink"),
        ("workspace/pipe", "a fifo"),
    ]
    assert (tmp_path / "out/workspace/new").read_text() == "textmore\n"
    assert (workspace / "file").read_text() == "one\n" and not (workspace / "new").exists()
    captured = made.remove(force=True)
    assert captured is not None and captured.folder is not None
    assert "+textmore" in (captured.folder / "workspace.patch").read_text()


def test_put_takes_files_and_directories_before_the_start_too(
    service: SandboxService, workspace: Path, tmp_path: Path
) -> None:
    source = tmp_path / "source"
    (source / "sub").mkdir(parents=True)
    (source / "sub/run").write_text("#!/bin/sh\necho ran\n")
    (source / "sub/run").chmod(0o755)
    single = tmp_path / "single"
    single.write_text("s")
    made = service.create("a", command=["sh", "-c", "/workspace/sub/run; cat single"], workspace=workspace)
    made.put(source, "/workspace")
    made.put(single, "/workspace")
    made.start()
    assert made.wait(60) == 0
    assert b"".join(data for _, data in made.logs()) == b"ran\ns"
    with pytest.raises(UsageError, match="no file or directory"):
        made.put(tmp_path / "none", "/workspace")
    with pytest.raises(UsageError, match="below the target"):
        made.put({"../x": b""}, "/workspace")


def test_put_says_where_it_cannot(service: SandboxService, workspace: Path) -> None:
    made = service.create("a", command=SLEEP, workspace=workspace)
    with pytest.raises(UsageError, match="nothing can be put to /etc in a: it is on a read-only root") as caught:
        made.put({"x": b""}, "/etc")
    assert caught.value.diagnostics[0].help is not None and "put goes to /workspace" in caught.value.diagnostics[0].help
    with pytest.raises(UsageError, match="it is on a tmpfs"):
        made.put({"x": b""}, "/tmp/deep")
    with pytest.raises(UsageError, match="absolute target"):
        made.put({"x": b""}, "/workspace/../etc")
    open_root = service.create("b", command=SLEEP, read_only=False)
    open_root.put({"x": b"1"}, "/home/agent")
    assert open_root.get("/home/agent/x") == b"1"


def test_get_refuses_what_is_no_file_or_too_large(service: SandboxService) -> None:
    made = service.create("a", command=SLEEP)
    with pytest.raises(EvidenceError, match="/etc is a directory"):
        made.get("/etc")
    with pytest.raises(EvidenceError, match="/bin/cat is a symlink"):
        made.get("/bin/cat")
    with pytest.raises(EvidenceError, match="larger than 10 bytes"):
        made.get("/etc/passwd", limit=10)
    with pytest.raises(NotFound):
        made.get("/no/such")
    with pytest.raises(UsageError, match="absolute path"):
        made.get("etc/passwd")


def test_secrets_are_files_and_reach_no_evidence(service: SandboxService) -> None:
    script = "cat /run/secrets/key; ls -l /run/secrets"
    made = service.create("a", command=["sh", "-c", script], secrets={"key": "hunter2-hunter2"})
    made.start()
    assert made.wait(60) == 0
    assert b"hunter2-hunter2" in b"".join(data for _, data in made.logs())
    captured = made.remove()
    assert captured is not None and captured.folder is not None
    for path in captured.folder.rglob("*"):
        assert path.is_dir() or b"hunter2" not in path.read_bytes(), path
    assert b"-r--------" in (captured.folder / "stdout.log").read_bytes()


# -- what is enforced --------------------------------------------------------------------------------------------


def test_the_default_is_closed(service: SandboxService) -> None:
    made = sleeper(service, mem_limit="64m", cpus=0.5)
    status = made.exec(["cat", "/proc/self/status"]).stdout.decode()
    assert "\nUid:\t1000\t1000\t1000\t1000" in status
    assert "\nCapEff:\t0000000000000000" in status and "\nNoNewPrivs:\t1" in status
    assert made.exec(["ls", "/sys/class/net"]).stdout == b"lo\n"
    assert made.exec(["touch", "/x"]).exit_code != 0
    answer = service.engine.inspect_container(made.id)
    assert (answer["HostConfig"]["Memory"], answer["HostConfig"]["NanoCpus"]) == (64 * 1024**2, 500_000_000)
    assert answer["HostConfig"]["RestartPolicy"]["Name"] in ("", "no")


def test_memory_is_enforced_and_told(service: SandboxService) -> None:
    made = service.create("a", command=["sh", "-c", "sleep 1; tail /dev/zero; sleep 1; exit 137"], mem_limit="16m")
    made.start()
    assert made.wait(120) == 137
    captured = made.remove()
    assert captured is not None and captured.index is not None
    assert captured.index.ending.how is How.OOM


def test_a_timeout_is_enforced_without_anyone_waiting(service: SandboxService) -> None:
    made = sleeper(service, lifetime={"timeout": "500ms"})
    assert made.wait(60) != 0
    captured = made.remove()
    assert captured is not None and captured.index is not None
    assert captured.index.ending.how is How.TIMEOUT


def test_bridge_is_a_network_of_its_own_which_goes_with_it_and_the_way_out_with_the_last(
    service: SandboxService,
) -> None:
    one, two = (sleeper(service, name, network_mode="bridge") for name in ("a", "b"))
    networks = {"a": f"{service.project}-a.net", "b": f"{service.project}-b.net"}
    own, outside = {"sandboxrun.project": service.project}, f"{service.project}_egress"

    def there() -> set[str]:
        return {str(network["Name"]) for network in service.engine.networks(labels=own)}

    assert there() == {*networks.values(), outside}
    assert b"eth0" in one.exec(["ls", "/sys/class/net"]).stdout
    attached = service.engine.inspect_container(two.container_id)["NetworkSettings"]["Networks"]
    address = attached[networks["b"]]["IPAddress"]
    assert one.exec(["ping", "-c", "1", "-W", "1", address]).exit_code != 0
    one.remove(force=True)
    assert there() == {networks["b"], outside}
    two.remove(force=True)
    assert there() == set()


@pytest.mark.skipif(os.getuid() != 0, reason="gives files to other users")
def test_a_workspace_that_is_written_to_belongs_to_the_sandboxs_user(service: SandboxService, workspace: Path) -> None:
    os.chown(workspace, 1234, 1235)
    with service.sandbox("a", command=SLEEP, workspace=workspace, access="rw") as made:
        assert made.exec(["sh", "-c", "id -u; id -g; touch /workspace/new"]).stdout == b"1234\n1235\n"
    assert (workspace / "new").stat().st_uid == 1234
    with service.sandbox("b", command=SLEEP, workspace=workspace, access="ro") as made:
        assert made.exec(["touch", "/workspace/other"]).exit_code != 0
        with pytest.raises(UsageError, match="read-only mount"):
            made.put({"x": b""}, "/workspace")
    os.chown(workspace, 0, 0)
    with pytest.raises(UsageError, match="1000:1000 cannot write to the workspace"):
        service.create("c", workspace=workspace, access="rw")


@pytest.mark.skipif(os.getuid() != 0, reason="gives files to other users")
def test_the_evidence_lies_where_no_agent_can_write(settings: Settings, project: str, workspace: Path) -> None:
    with SandboxService(settings, project=project, directory=workspace) as service:
        os.chown(workspace, 1000, 1000)
        with service.sandbox("a", command=SLEEP, workspace=workspace, access="rw") as made:
            assert made.exec(["touch", "/workspace/new"]).exit_code == 0
            assert made.exec(["touch", "/workspace/.sandboxrun/new"]).exit_code != 0
            assert made.exec(["mv", "/workspace/.sandboxrun", "/workspace/gone"]).exit_code != 0


# -- together with others ------------------------------------------------------------------------------------------


def test_threads_make_and_end_sandboxes_side_by_side(service: SandboxService) -> None:
    codes: dict[str, int] = {}
    errors: list[BaseException] = []

    def work(part: str) -> None:
        try:
            for number in range(3):
                mode = "bridge" if number == 1 else "none"
                made = service.create(f"{part}{number}", command=["sh", "-c", f"exit {number}"], network_mode=mode)
                made.start()
                codes[made.name] = made.wait(120)
                made.remove()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(part,)) for part in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert codes == {f"{part}{number}": number for part in "ab" for number in range(3)}
    assert service.list() == ()


def test_a_fork_beside_busy_threads_can_use_the_service(service: SandboxService) -> None:
    over, errors = threading.Event(), list[BaseException]()

    def work(part: str) -> None:
        try:
            number = 0
            while not over.is_set():
                number += 1
                with service.sandbox(f"{part}{number}", command=SLEEP, stop_grace_period="0s", network_mode="bridge"):
                    pass
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(part,)) for part in "ab"]
    mine = sleeper(service, "mine", stop_grace_period="0s")
    for thread in threads:
        thread.start()
    children = list[int]()
    for number in range(4):
        threading.Event().wait(0.7 + 0.2 * number)
        if (child := os.fork()) == 0:
            code = 1
            try:
                signal.alarm(150)
                with service.sandbox(f"child{number}", command=SLEEP, stop_grace_period="0s") as box:
                    assert box.exec(["true"]).exit_code == 0
                assert (box.state, mine.state) == ("removed", "running")
                with pytest.raises(WaitTimeout):
                    mine.wait(0.1)
                service.close()
                code = 0
            finally:
                os._exit(code)
        children.append(child)
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    over.set()
    for thread in threads:
        thread.join()
    assert (codes, errors) == ([0] * 4, [])
    assert mine.exec(["true"]).exit_code == 0
    mine.remove(force=True)
    assert service.list() == ()


def test_a_fork_that_leaves_its_blocks_gives_back_no_lock_and_no_lease(service: SandboxService) -> None:
    engine, process = service.engine, os.getpid()
    ours = {LABEL: service.project}
    try:
        with engine.lease() as token, service._gate.together() as check:
            engine._leases[process]._renew()
            known = [engine.volumes(labels=ours), engine.volumes(labels={LEASE: token})]
            assert all(known)
            if (child := os.fork()) == 0:
                signal.alarm(60)
                with engine.lease() as own:
                    assert own != token
                sys.exit(7)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
            assert [engine.volumes(labels=ours), engine.volumes(labels={LEASE: token})] == known
            check()
    except BaseException as error:
        if os.getpid() != process:
            os._exit(7 if isinstance(error, SystemExit) else 1)
        raise


def test_a_project_that_a_profile_declares_is_left_alone(service: SandboxService, busybox: str) -> None:
    options = {"image": busybox, "command": SLEEP, "stop_grace_period": "1s", "networks": ["default"]}
    networks = {"default": {"internal": True}}
    data = {"name": service.project, "sandboxes": {"applied": options}, "networks": networks}
    profile = load_data(data, directory=service.directory)
    converge.apply(service.engine, profile, service.store)
    try:
        with service.sandbox("a", command=SLEEP):
            assert [one.name for one in service.list()] == ["a"]
            assert converge.plan_changes(service.engine, profile, service.store).empty
        with pytest.raises(PlanError, match="give the service a project of its own"):
            service.create("b", command=SLEEP, network_mode="bridge", networks=["default"])
        assert service.collect() == ()
        assert converge.plan_changes(service.engine, profile, service.store).empty
    finally:
        converge.destroy(service.engine, profile, service.store)


def test_destroy_of_the_project_takes_them_with_evidence(service: SandboxService) -> None:
    made = sleeper(service)
    profile = load_data({"name": service.project, "sandboxes": {"none": {"when": False}}}, directory=service.directory)
    converge.destroy(service.engine, profile, service.store)
    captured = made.remove()
    assert captured is not None and captured.already


CRASHING = textwrap.dedent(
    """
    import os, signal, sys
    from pathlib import Path
    from sandboxrun import SandboxService, Settings
    settings = Settings(docker_host=sys.argv[1], default_image=sys.argv[2], network_mode="bridge")
    service = SandboxService(settings, project=sys.argv[3], directory=Path(sys.argv[4]))
    running = service.create("running", command=["sh", "-c", "echo lost; echo changed > file; exec sleep 600"],
                             workspace=Path(sys.argv[5]))
    running.start()
    while b"changed" not in running.exec(["cat", "file"]).stdout:
        pass
    service.create("created", command=["true"])
    os.kill(os.getpid(), signal.SIGKILL)
    """
)


def test_the_next_start_collects_what_a_killed_process_left(
    service: SandboxService, settings: Settings, busybox: str, engine_host: str, workspace: Path
) -> None:
    alive = sleeper(service, "alive")
    arguments = [engine_host, busybox, service.project, service.directory, workspace]
    ended = subprocess.run([sys.executable, "-c", CRASHING, *map(str, arguments)], timeout=240)
    assert ended.returncode == -9
    assert sorted(one.name for one in service.list()) == ["alive", "created", "running"]

    with SandboxService(settings, project=service.project, directory=service.directory) as again:
        assert [one.name for one in again.list()] == ["alive"]
    (entry,) = service.store.entries(service.project)
    index = service.store.index(entry)
    assert (index.sandbox, index.ending.how) == ("running", How.KILLED)
    assert (service.store.path / entry.folder / "stdout.log").read_bytes() == b"lost\n"
    assert b"+changed" in (service.store.path / entry.folder / "workspace.patch").read_bytes()
    own = {"sandboxrun.project": service.project}
    assert service.engine.networks(labels=own) == () and service.engine.volumes(labels=own) == ()
    assert alive.state == "running"


def test_collect_takes_what_is_past_its_ttl(service: SandboxService) -> None:
    made = sleeper(service, lifetime={"ttl": "1s"})
    captured: tuple[Any, ...] = ()
    while not captured:
        captured = service.collect()
    assert [one.index.ending.how for one in captured] == [How.TIMEOUT]
    assert made.state == "removed"


def _whole_life(settings: Settings, project: str, home: Path, workspace: Path) -> None:
    """All calls that there are: a network, volumes, upload containers, a start, evidence, removal."""
    service = SandboxService(settings, project=project, directory=home)
    options: dict[str, Any] = {"workspace": workspace, "secrets": {"key": "x"}, "network_mode": "bridge"}
    made = service.create("a", command=["sh", "-c", "echo ran"], **options)
    made.start()
    made.wait()
    made.remove()
    service.close()


def _changing(monkeypatch: pytest.MonkeyPatch, work: Callable[[], None]) -> list[int]:
    """The numbers of the requests by which `work` changes something: between two of them nothing new can be left."""
    methods: list[str] = []
    real = Engine.request

    def request(self: Engine, method: str, *rest: Any, **more: Any) -> Any:
        methods.append(method)
        return real(self, method, *rest, **more)

    with monkeypatch.context() as patch:
        patch.setattr(Engine, "request", request)
        work()
    return [number for number, method in enumerate(methods, 1) if method != "GET"]


@pytest.mark.parametrize("every", [pytest.param(1, marks=pytest.mark.full), 5])
def test_a_kill_after_any_change_leaves_nothing_after_the_next_start(
    _nothing_left: None,
    settings: Settings,
    project: str,
    tmp_path: Path,
    workspace: Path,
    monkeypatch: pytest.MonkeyPatch,
    engine_client: docker.DockerClient,
    every: int,
) -> None:
    (home := tmp_path / "home").mkdir()

    def life() -> None:
        _whole_life(settings, project, home, workspace)

    numbers = _changing(monkeypatch, life)
    assert len(numbers) > 15
    for number in numbers[::every]:
        killed_at(number, "after", life)
        until(lambda: not _left_by_a_start(settings, project, home, engine_client))


def _left_by_a_start(settings: Settings, project: str, home: Path, client: docker.DockerClient) -> set[str]:
    """What is there after the next start. All that was there before it is gone; something else may be what the engine
    was still at for the killed one: a network takes it a while."""
    before = _of_project(client, project)
    try:
        with SandboxService(settings, project=project, directory=home) as service:
            after = _of_project(client, project)
            assert verify_chain(service.store) == ()
    except ApplyError as error:  # or a container that came with it, after the start had looked
        assert "volume is in use" in str(error)
        return before
    assert not before & after
    return after


def _of_project(client: docker.DockerClient, project: str) -> set[str]:
    own, lock = ({"label": f"sandboxrun.{name}={project}"} for name in ("project", "lock"))
    volumes = client.volumes.list(filters=own) + client.volumes.list(filters=lock)
    return {
        one.id
        for one in (
            *client.containers.list(all=True, filters=own, ignore_removed=True),
            *client.networks.list(filters=own),
            *volumes,
        )
    }


def test_verify_what_runs_and_what_is_declared(service: SandboxService, engine_client: docker.DockerClient) -> None:
    made = sleeper(service)
    found = service.verify(made)
    assert found and all(finding.verdict.passes for finding in found), [f for f in found if not f.verdict.passes]
    engine_client.containers.get(made.id).update(mem_limit="1g", memswap_limit="1g")
    wrong = {finding.control for finding in service.verify(made) if finding.verdict is Verdict.FAILS}
    assert wrong == {"option mem_limit", "option memswap_limit", "memory-limit", "swap-limit"}
    made.remove(force=True)
    with pytest.raises(UsageError, match="a does not run"):
        service.verify(made)
    found = service.verify(service.declare("b", command=SLEEP))
    assert len(found) > 40 and all(finding.verdict.passes for finding in found)
    assert service.list() == () and service.store.entries() != ()  # the evidence of `a` alone
    assert {entry.sandbox for entry in service.store.entries()} == {"a"}
