"""Every call of the client on a real engine, over each way there is to reach one."""

from __future__ import annotations

import contextlib
import io
import itertools
import os
import select
import ssl
import subprocess
import sys
import tarfile
import textwrap
import threading
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from sandboxrun.backend.docker.client import Engine, connect
from sandboxrun.backend.docker.facts import engine_facts
from sandboxrun.backend.errors import (
    EngineError,
    EngineTimeout,
    EngineUnreachable,
    NameConflict,
    NotFound,
    RegistryError,
    Unsupported,
)
from tests.conftest import until
from tests.engine.forwarders import certificates, ssh_command, tcp_forwarder
from tests.engine.own_engine import OwnEngine
from tests.engine.registry import LocalRegistry

ROUTES = ("unix", "tcp", "tls", "ssh")
Make = Callable[..., str]


@pytest.fixture(scope="session")
def socket_path(engine_host: str) -> str:
    """The engine's socket: the other routes lead there."""
    assert engine_host.startswith("unix://"), "these tests need an engine behind a local socket"
    return engine_host.removeprefix("unix://")


@pytest.fixture(scope="session")
def certificate_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("certificates")
    certificates(folder)
    return folder


@contextlib.contextmanager
def route_to(route: str, path: str, certs: Path, tmp: Path) -> Iterator[dict[str, str]]:
    """The environment that leads over `route`."""
    with contextlib.ExitStack() as stack:
        match route:
            case "unix":
                yield {"DOCKER_SOCKET": path}
            case "tcp":
                yield {"DOCKER_HOST": f"tcp://{stack.enter_context(tcp_forwarder(path))}"}
            case "tls":
                context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(certs / "ca.pem"))
                context.verify_mode = ssl.CERT_REQUIRED
                context.load_cert_chain(certs / "server-cert.pem", certs / "server-key.pem")
                address = stack.enter_context(tcp_forwarder(path, context))
                yield {
                    "DOCKER_HOST": f"tcp://{address}",
                    "DOCKER_TLS_VERIFY": "1",
                    "DOCKER_CERT_PATH": str(certs),
                }
            case "ssh":
                os.environ["PATH"] = f"{ssh_command(tmp / 'bin', path)}:{os.environ['PATH']}"
                yield {"DOCKER_HOST": "ssh://me@engine.example.com"}


@pytest.fixture(params=ROUTES)
def client(
    request: pytest.FixtureRequest,
    socket_path: str,
    certificate_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Engine]:
    """The engine under test, over each route."""
    monkeypatch.setenv("PATH", os.environ["PATH"])
    with route_to(request.param, socket_path, certificate_folder, tmp_path) as env, connect(env=env) as engine:
        yield engine


@pytest.fixture
def local(socket_path: str) -> Iterator[Engine]:
    """The engine under test, over its socket."""
    with connect(env={"DOCKER_SOCKET": socket_path}) as engine:
        yield engine


@pytest.fixture
def make(local: Engine, project: str, labels: Mapping[str, str], busybox: str) -> Iterator[Make]:
    """Makes containers of a test: make("sh", "-c", "…", start=True, Tty=True, HostConfig=…) gives an id."""
    made: list[str] = []

    def make(*command: str, start: bool = False, **payload: Any) -> str:
        name = f"{project}-{len(made)}"
        made.append(
            local.create_container(name, {"Image": busybox, "Cmd": list(command), "Labels": dict(labels), **payload}).id
        )
        if start:
            local.start_container(made[-1])
        return made[-1]

    yield make
    for id in made:
        local.remove_container(id, force=True, volumes=True)


def tar_of(**files: bytes) -> io.BytesIO:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    buffer.seek(0)
    return buffer


def text(output: Iterator[tuple[int, bytes]], stream: int) -> bytes:
    return b"".join(data for number, data in output if number == stream)


# Everything over every route


def test_the_engine_itself(client: Engine) -> None:
    version = client.version()
    assert tuple(map(int, client.api_version.split("."))) >= (1, 41)
    assert version["Version"] == client.info()["ServerVersion"]
    assert abs(client.clock() - datetime.now(UTC)).total_seconds() < 600
    facts = engine_facts(version, client.info(), client.networks())
    assert facts.version == version["Version"]
    assert facts.default_runtime in facts.runtimes
    assert facts.limits.memory


def test_a_container_from_creation_to_removal(
    client: Engine, project: str, labels: Mapping[str, str], busybox: str
) -> None:
    payload = {"Image": busybox, "Cmd": ["sh", "-c", "echo hello; echo bad >&2; exit 3"], "Labels": dict(labels)}
    created = client.create_container(project, payload)
    with contextlib.closing(client.attach(created.id)) as output:
        client.start_container(created.id)
        live = list(output)
    assert client.wait_container(created.id) == 3
    assert (text(iter(live), 1), text(iter(live), 2)) == (b"hello\n", b"bad\n")
    logged = list(client.logs(created.id))
    assert (text(iter(logged), 1), text(iter(logged), 2)) == (b"hello\n", b"bad\n")
    assert text(client.logs(created.id, tail=0, tty=False), 1) == b""
    assert client.inspect_container(created.id)["State"]["ExitCode"] == 3
    with pytest.raises(NameConflict, match=f"creating container {project}: Conflict"):
        client.create_container(project, payload)
    client.remove_container(created.id)
    with pytest.raises(NotFound, match=f"inspecting container {created.id[:12]}: No such container"):
        client.inspect_container(created.id)


def test_lists_by_label_and_name(client: Engine, make: Make, project: str, labels: Mapping[str, str]) -> None:
    first, second = make("true"), make("true")
    assert {c["Id"] for c in client.containers(labels=labels)} == {first, second}
    assert {c["Id"] for c in client.containers(labels=dict.fromkeys(labels))} >= {first, second}
    assert [c["Id"] for c in client.containers(names=[f"{project}-0"])] == [first]
    assert client.containers(names=[project]) == ()
    assert client.containers(labels={**labels, "sandboxrun.none": "x"}) == ()


def test_many_inspects(client: Engine, make: Make) -> None:
    ids = [make("true") for _ in range(6)]
    asked = [*ids[:3], "0" * 64, *ids[3:]]
    assert [c["Id"] for c in client.inspect_containers(asked)] == ids


def test_signals_pauses_and_stops(client: Engine, make: Make) -> None:
    id = make("sh", "-c", "trap 'exit 9' USR1; while :; do sleep 0.1; done", start=True)
    client.start_container(id)  # running already: no error
    client.pause_container(id)
    assert client.inspect_container(id)["State"]["Paused"]
    client.unpause_container(id)
    client.kill_container(id, "USR1")
    assert client.wait_container(id) == 9
    client.stop_container(id, timeout=1)  # not running: no error
    with pytest.raises(EngineError, match="is not running") as raised:
        client.kill_container(id)
    assert raised.value.status in (409, 500)


def test_stopping_with_a_grace_period(client: Engine, make: Make) -> None:
    id = make("sh", "-c", "trap '' TERM; while :; do sleep 0.1; done", start=True)
    client.stop_container(id, timeout=0)
    assert client.wait_container(id) == 137


def test_waiting_gives_up_in_time(client: Engine, make: Make) -> None:
    id = make("sleep", "600", start=True)
    with pytest.raises(EngineTimeout, match=f"waiting for container {id[:12]}"):
        client.wait_container(id, timeout=0.3)


def test_updates_and_names(client: Engine, make: Make, project: str) -> None:
    id = make("sleep", "600", start=True)
    assert client.update_container(id, {"Memory": 64 << 20, "MemorySwap": 64 << 20}) == ()
    client.rename_container(id, f"{project}-renamed")
    found = client.inspect_container(f"{project}-renamed")
    assert (found["Id"], found["HostConfig"]["Memory"]) == (id, 64 << 20)


def test_usage_and_changes(client: Engine, make: Make) -> None:
    id = make("sh", "-c", "echo x > /made; exec sleep 600", start=True)
    assert client.stats(id)["memory_stats"]["usage"] > 0
    until(lambda: ("/made", "added") in client.changes(id))
    client.kill_container(id)
    assert ("/made", "added") in client.changes(id)


def test_following_logs(client: Engine, make: Make) -> None:
    id = make("sh", "-c", "echo one; read line; echo two", OpenStdin=True, AttachStdin=True, Tty=True)
    client.start_container(id)
    with client.attach_terminal(id) as terminal, client.logs(id, follow=True) as followed:
        output = iter(followed)
        seen = b""
        while b"one" not in seen:
            seen += next(output)[1]
        terminal.send(b"\n")
        assert b"two" in b"".join(data for _, data in output)


def test_a_terminal(client: Engine, make: Make) -> None:
    id = make("sh", "-c", "stty -echo; echo ready; read line; echo got $line; stty size", OpenStdin=True, Tty=True)
    with client.attach_terminal(id) as terminal:
        client.start_container(id)
        seen = b""
        while b"ready" not in seen:
            seen += terminal.recv(3)
        terminal.resize(11, 22)
        terminal.send(b"it\n")
        while data := terminal.recv():
            seen += data
    assert b"got it\r\n11 22\r\n" in seen


def test_a_terminal_can_be_waited_for(client: Engine, make: Make) -> None:
    id = make("echo", "hello", OpenStdin=True, Tty=True)
    with client.attach_terminal(id) as terminal:
        client.start_container(id)
        seen = b""
        while b"hello" not in seen:
            if not terminal.pending():
                assert select.select([terminal], [], [], 60)[0]
            seen += terminal.recv(4)


def test_commands(client: Engine, make: Make) -> None:
    id = make("sleep", "600", start=True)
    command = ["sh", "-c", 'echo "$A $(id -u) $(pwd)"; echo no >&2; exit 7']
    with client.exec(id, command, user="1000", workdir="/tmp", env=["A=b c"]) as ran:
        output = list(ran)
        assert (text(iter(output), 1), text(iter(output), 2)) == (b"b c 1000 /tmp\n", b"no\n")
        assert ran.exit_code() == 7
    assert client.exec(id, ["sh", "-c", "yes | head -c 1000000"]).exit_code() == 0  # its output is dropped
    assert client.exec(id, ["/nope"]).exit_code() in (126, 127)


def test_commands_with_a_terminal(client: Engine, make: Make) -> None:
    id = make("sleep", "600", start=True)
    with client.exec(id, ["sh", "-c", "stty -echo; read line; echo got $line; stty size; exit 4"], tty=True) as ran:
        assert ran.terminal is not None
        ran.terminal.resize(5, 6)
        ran.terminal.send(b"it\n")
        assert b"got it\r\n5 6\r\n" in text(ran, 1)
        assert ran.exit_code() == 4


def test_commands_with_input(client: Engine, make: Make) -> None:
    id = make("sleep", "600", start=True)
    with client.exec(id, ["sh", "-c", "wc -c; exit 2"], stdin=True) as ran:
        assert ran.terminal is not None
        ran.terminal.send(b"x" * 300_000)
        try:
            ran.terminal.end_input()
        except Unsupported:
            return  # over TLS
        assert text(ran, 1).strip() == b"300000"
        assert ran.exit_code() == 2


def test_files_in_and_out(client: Engine, make: Make) -> None:
    id = make("true")
    data = os.urandom(3_000_000)
    client.put_archive(id, "/tmp", tar_of(big=data, small=b"s"))
    with client.get_archive(id, "/tmp/big") as archive:
        assert (archive.stat["name"], archive.stat["size"]) == ("big", len(data))
        with tarfile.open(fileobj=io.BytesIO(b"".join(archive.stream))) as tar:
            member = tar.extractfile("big")
            assert member is not None and member.read() == data
    with client.get_archive(id, "/tmp/big") as archive:
        next(archive.stream)  # and the rest is dropped
    with pytest.raises(NotFound, match=f"copying into container {id[:12]} at /nope"):
        client.put_archive(id, "/nope", tar_of(big=data))
    with pytest.raises(NotFound, match=f"copying /nope out of container {id[:12]}"):
        client.get_archive(id, "/nope")
    assert client.containers(names=["none"]) == ()  # the connections are still good


def test_images(client: Engine, busybox: str) -> None:
    found = client.image(busybox)
    assert found is not None
    assert client.image(found["Id"]) == found
    assert client.image("sandboxrun/none:1") is None
    with pytest.raises(NotFound, match="No such image") as raised:
        client.create_container("sandboxrun-none", {"Image": "sandboxrun/none:1"})
    assert raised.value.diagnostics[0].help == "pull the image first, or set pull_policy: missing"


def test_networks(client: Engine, make: Make, project: str, labels: Mapping[str, str]) -> None:
    id = client.create_network({"Name": project, "Labels": dict(labels), "Internal": True})
    try:
        with pytest.raises(NameConflict, match=f"creating network {project}"):
            client.create_network({"Name": project})
        assert [n["Id"] for n in client.networks(labels=labels)] == [id]
        container = make("sleep", "600", start=True)
        client.connect_network(project, container, {"Aliases": ["other"]})
        found = client.network(project)
        assert found is not None and list(found["Containers"]) == [container]
        with pytest.raises(EngineError, match=f"removing network {id[:12]}: .*active endpoints"):
            client.remove_network(id)
        client.disconnect_network(id, container)
    finally:
        client.remove_network(id)
    assert client.network(id) is None


def test_a_network_is_not_found_by_the_beginning_of_an_id(client: Engine) -> None:
    bridge = client.network("bridge")
    assert bridge is not None
    assert client.network(bridge["Id"][:5]) is None


def test_volumes(client: Engine, project: str, labels: Mapping[str, str]) -> None:
    made = client.create_volume({"Name": project, "Labels": dict(labels)})
    assert [v["Name"] for v in client.volumes(labels=labels)] == [project]
    assert client.volume(project) == made
    client.remove_volume(project)
    assert client.volume(project) is None
    client.remove_volume(project)  # what is gone is fine
    client.remove_network(project)
    client.remove_container(project)


def test_events_of_one_project(client: Engine, make: Make, labels: Mapping[str, str]) -> None:
    since = str(int(client.clock().timestamp()) - 1)
    filters = {"type": ["container"], "label": [f"{k}={v}" for k, v in labels.items()]}
    with client.events(filters=filters, since=since) as events:
        id = make("true", start=True)
        seen = list(itertools.islice(events, 3))
    assert [e["Action"] for e in seen] == ["create", "start", "die"]
    assert {e["Actor"]["ID"] for e in seen} == {id}


def test_a_quiet_stream_ends_when_another_thread_closes_it(client: Engine, make: Make) -> None:
    id = make("sleep", "600", start=True)
    for stream in (
        client.events(filters={"label": ["sandboxrun.none"]}),
        client.attach(id),
        client.logs(id, follow=True),
    ):
        threading.Timer(0.1, stream.close).start()
        assert list(stream) == []


def test_from_several_threads(client: Engine, make: Make) -> None:
    id = make("true")
    failures: list[BaseException] = []

    def work() -> None:
        try:
            for _ in range(20):
                assert client.inspect_container(id)["Id"] == id
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_a_pull_from_a_registry(client: Engine, registry: LocalRegistry, project: str) -> None:
    digest = registry.publish(project, "one", files={"new": os.urandom(1000)})
    ref = registry.ref(project, "one")
    assert client.registry_digest(ref) == digest
    progress: list[Mapping[str, Any]] = []
    client.pull(ref, progress=progress.append)
    assert any(entry.get("progressDetail") for entry in progress)
    found = client.image(ref)
    assert found is not None and found["RepoDigests"] == [f"{ref.rpartition(':')[0]}@{digest}"]
    client.pull(f"{ref}@{digest}")


def test_what_a_registry_does_not_have(client: Engine, registry: LocalRegistry, project: str) -> None:
    registry.publish(project, "one")
    assert client.registry_digest(registry.ref(project, "two")) is None
    with pytest.raises(EngineError, match=r"pulling image .*two: .*(not found|manifest unknown)"):
        client.pull(registry.ref(project, "two"))


def test_a_registry_that_is_not_there(client: Engine) -> None:
    with pytest.raises(RegistryError, match=r"asking the registry about image 127\.0\.0\.1:1/a: .*refused"):
        client.registry_digest("127.0.0.1:1/a")
    with pytest.raises(EngineError, match=r"pulling image 127\.0\.0\.1:1/a: .*refused"):
        client.pull("127.0.0.1:1/a")


# What one route has of its own


def test_tls_is_checked(socket_path: str, certificate_folder: Path, tmp_path: Path) -> None:
    with route_to("tls", socket_path, certificate_folder, tmp_path) as env:
        stranger = tmp_path / "stranger"
        stranger.mkdir()
        certificates(stranger)
        with pytest.raises(EngineUnreachable, match=r"connecting to the engine at tcp://.* \(from DOCKER_HOST\): TLS"):
            connect(env={**env, "DOCKER_CERT_PATH": str(stranger)})
        (stranger / "key.pem").unlink()
        with pytest.raises(Unsupported, match=r"of cert\.pem and key\.pem one is missing"):
            connect(env={**env, "DOCKER_CERT_PATH": str(stranger)})


def test_nothing_at_a_tcp_address() -> None:
    with pytest.raises(
        EngineUnreachable, match=r"at tcp://127\.0\.0\.1:1 \(from the host given\): no connection \(Connection ref"
    ):
        connect("tcp://127.0.0.1:1")


def test_no_ssh(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(EngineUnreachable, match="ssh cannot be run"):
        connect("ssh://engine.example.com")
    (tmp_path / "ssh").write_text("#!/bin/sh\nexit 255\n")
    (tmp_path / "ssh").chmod(0o755)
    with pytest.raises(
        EngineUnreachable, match=r"ssh://engine\.example\.com \(from the host given\): .*\n.*system dial-stdio"
    ):
        connect("ssh://engine.example.com")


def test_an_engine_that_is_killed_and_comes_back(own_engine: OwnEngine, busybox: str) -> None:
    with connect(own_engine.host) as engine:
        events = engine.events()
        own_engine.kill()
        with pytest.raises(EngineUnreachable, match="following the engine's events: the connection ended"):
            list(events)
        with pytest.raises(EngineUnreachable):
            engine.info()
        own_engine.start()
        assert engine.info()["ServerVersion"]


# Whether a path means the same to the engine


def test_the_filesystem_is_shared_on_one_machine(local: Engine) -> None:
    assert local.shares_filesystem(), local.filesystem_reason()
    assert local.filesystem_reason() == "the engine runs on this machine, with the same root folder"


def test_the_filesystem_check_leaves_nothing(local: Engine, engine_client: Any) -> None:
    local.shares_filesystem()
    names = [n for c in engine_client.api.containers(all=True) for n in c["Names"]]
    assert not [n for n in names if "sandboxrun-check" in n]


@pytest.mark.parametrize("told", ["0", "1"])
def test_the_user_can_say_whether_it_is_shared(local: Engine, monkeypatch: pytest.MonkeyPatch, told: str) -> None:
    monkeypatch.setenv("SANDBOXRUN_SHARED_FILESYSTEM", told)
    assert local.shares_filesystem() is (told == "1")
    assert local.filesystem_reason() == f"SANDBOXRUN_SHARED_FILESYSTEM={told} says so"


@pytest.mark.parametrize("route", ["tcp", "ssh"])
def test_the_filesystem_of_a_remote_engine_is_not_shared(
    route: str, socket_path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", os.environ["PATH"])
    with route_to(route, socket_path, tmp_path, tmp_path) as env, connect(env=env) as engine:
        assert not engine.shares_filesystem()
        assert engine.filesystem_reason().startswith("the engine is reached over")


_ASK = """
import sys
sys.path[:0] = {path!r}
from sandboxrun.backend.docker.client import connect
engine = connect({host!r})
print(engine.shares_filesystem(), engine.filesystem_reason(), sep=": ")
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="making namespaces needs root")
@pytest.mark.parametrize(
    ("enter", "reason"),
    [
        (["unshare", "--pid", "--fork", "--mount-proc"], "the engine runs outside this container: its socket was"),
        # Another root in the same pid namespace, as a container with the host's has it.
        (["unshare", "--mount", "sh", "-c", 'mount --rbind / {root} && exec chroot {root} "$@"', "sh"], None),
        (["unshare", "--mount", "sh", "-c", '{tmpfs} && exec chroot {root} "$@"', "sh"], "the engine's root folder"),
        (["unshare", "--uts", "sh", "-c", 'hostname elsewhere && exec "$@"', "sh"], "the engine runs on another"),
    ],
)
def test_the_filesystem_of_a_container_with_the_socket_in_it(
    enter: list[str], reason: str | None, engine_host: str, tmp_path: Path
) -> None:
    root = tmp_path / "root"
    root.mkdir()
    folders = " ".join(f"/{p}" for p in os.listdir("/") if p not in ("proc", "lost+found") and os.path.isdir(f"/{p}"))
    bind = f"mkdir -p {root}$f && mount --rbind $f {root}$f"
    tmpfs = f"mount -t tmpfs none {root} && for f in {folders} /proc; do {bind}; done"
    command = [part.format(root=root, tmpfs=tmpfs) if "{" in part else part for part in enter]
    program = _ASK.format(path=sys.path, host=engine_host)
    ran = subprocess.run([*command, sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    if reason is None:
        assert ran.stdout.startswith("True: ")
    else:
        assert ran.stdout.startswith(f"False: {reason}")
