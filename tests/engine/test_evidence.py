"""Evidence of real containers."""

from __future__ import annotations

import io
import json
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from msgspec import structs

from sandboxrun.backend.docker.client import Engine, connect
from sandboxrun.evidence.capture import CaptureRequest, capture
from sandboxrun.evidence.checking import verify_chain
from sandboxrun.evidence.export import ExportLimits
from sandboxrun.evidence.folder import OWNER
from sandboxrun.evidence.parts import CaptureLimits
from sandboxrun.evidence.store import SETTLED, USAGE, Captured, Store, Watched
from sandboxrun.evidence.workspace import open_workspace, stage_workspace
from sandboxrun.lifecycle.watch import Sampler
from sandboxrun.spec.state import How, Sample
from tests.conftest import Cli

from .own_engine import OwnEngine

SCHEMA = json.loads(Path(__file__, "../../../schemas/evidence.schema.json").resolve().read_bytes())


@pytest.fixture
def engine(engine_host: str) -> Iterator[Engine]:
    with connect(engine_host) as opened:
        yield opened


@pytest.fixture
def store(tmp_path: Path) -> Store:
    base = tmp_path / "project"
    base.mkdir()
    return Store(project_directory=base)


@pytest.fixture
def request_of(project: str) -> CaptureRequest:
    return CaptureRequest(run=f"{project}-run", project=project, sandbox="agent")


Make = Callable[..., str]


@pytest.fixture
def make(engine: Engine, project: str, labels: Mapping[str, str], busybox: str) -> Iterator[Make]:
    """Create a container that runs a shell script; removed after the test."""
    made: list[str] = []

    def create(script: str, *, host: Mapping[str, Any] | None = None, **config: Any) -> str:
        payload = {
            "Image": busybox,
            "Cmd": ["sh", "-c", script],
            "Labels": dict(labels),
            "HostConfig": {"NetworkMode": "none", **(host or {})},
            **config,
        }
        made.append(engine.create_container(f"{project}-{len(made)}", payload).id)
        return made[-1]

    yield create
    for container in made:
        engine.remove_container(container, force=True, volumes=True)


def run(engine: Engine, container: str) -> str:
    engine.start_container(container)
    engine.wait_container(container, timeout=60)
    return container


def content(store: Store, captured: Captured, path: str) -> bytes:
    assert captured.entry is not None
    with store.open(captured.entry, path) as file:
        return file.read()


def checked(store: Store, captured: Captured) -> None:
    """The index on the disk is what was told, fits its schema, and the store holds."""
    assert captured.failure is None and captured.entry is not None and captured.index is not None
    jsonschema.Draft202012Validator(SCHEMA).validate(json.loads(content(store, captured, "index.json")))
    assert store.index(captured.entry) == captured.index
    assert verify_chain(store) == ()


def test_a_run_that_fails(engine: Engine, store: Store, make: Make, request_of: CaptureRequest) -> None:
    script = "printf 'out \\000\\377 hunter22\\n'; echo err hunter22 >&2; mkdir /r; echo x > /r/report; exit 3"
    logging = {"LogConfig": {"Type": "local", "Config": {}}}
    container = run(engine, make(script, Env=["TOKEN=hunter22", "PIN=42"], host=logging))
    request = structs.replace(
        request_of, secrets=("hunter22", "42"), artifacts=("/r", "/nothing"), profile="image: x\n# hunter22\n"
    )
    captured = capture(engine, container, request, store)
    checked(store, captured)
    index = captured.index
    assert index is not None
    assert (index.ending.how, index.ending.exit_code) == (How.FAILED, 3)
    assert [kept.path for kept in index.kept] == [
        "artifacts/r/report",
        "changes.json",
        "inspect.json",
        "profile.yaml",
        "stderr.log",
        "stdout.log",
    ]
    assert content(store, captured, "stdout.log") == b"out \0\xff ***\n"
    assert content(store, captured, "stderr.log") == b"err ***\n"
    assert content(store, captured, "artifacts/r/report") == b"x\n"
    assert {"path": "/r/report", "kind": "added"} in json.loads(content(store, captured, "changes.json"))
    inspect = json.loads(content(store, captured, "inspect.json"))
    assert inspect["Id"] == container and {"TOKEN=***", "PIN=***"} <= set(inspect["Config"]["Env"])
    assert [missing.part for missing in index.missing] == ["usage", "artifact /nothing"]
    assert index.missing[0].reason == "no samples: nothing watched it while it ran"
    assert index.missing[1].reason == "it does not exist"
    assert index.digests.image.startswith("sha256:") and index.engine["version"]
    assert index.ran_seconds is not None and index.started_at is not None and index.usage is None
    again = capture(engine, container, request, store)
    assert again.already and again.entry == captured.entry and again.index == index


def test_out_of_memory(engine: Engine, store: Store, make: Make, request_of: CaptureRequest) -> None:
    memory = {"Memory": 16 << 20, "MemorySwap": 16 << 20}
    own = run(engine, make("sleep 1; exec tail /dev/zero", host=memory))
    captured = capture(engine, own, request_of, store)
    checked(store, captured)
    assert captured.entry is not None and captured.entry.outcome is How.OOM
    # The engine hears of it from the kernel, and no more once the main process has ended: hence the second of waiting.
    child = run(engine, make("sleep 1; tail /dev/zero; sleep 1; exit 5", host=memory))
    captured = capture(engine, child, structs.replace(request_of, run="other"), store)
    assert captured.index is not None
    ending = captured.index.ending
    assert (ending.how, ending.exit_code, ending.oom_killed) == (How.FAILED, 5, True)


def test_a_program_that_is_not_there_and_a_container_nobody_started(
    engine: Engine, store: Store, make: Make, request_of: CaptureRequest
) -> None:
    from sandboxrun.backend.errors import EngineError

    broken = make("", Cmd=["/no/such/program"])
    with pytest.raises(EngineError):
        engine.start_container(broken)
    captured = capture(engine, broken, request_of, store)
    checked(store, captured)
    assert captured.index is not None and captured.index.ending.how is How.NOT_STARTED
    assert "no such" in (captured.index.ending.detail or "")
    idle = capture(engine, make("true"), structs.replace(request_of, run="idle"), store)
    checked(store, idle)
    assert idle.index is not None
    assert (idle.index.ending.how, idle.index.finished_at) == (How.NOT_STARTED, None)


def test_a_timeout_and_usage(engine: Engine, store: Store, make: Make, request_of: CaptureRequest) -> None:
    container = make("while :; do :; done", host={"Init": True})
    engine.start_container(container)
    seen, failed = list[Sample](), list[BaseException]()
    with (
        store.staging(request_of.run, engine=engine.identity) as staging,
        staging.append(USAGE) as file,
    ):
        sampler = Sampler(engine, container, file, every=0.1, seen=seen.append, failed=failed.append)
        end = time.monotonic() + 30
        while len(seen) < 3 and time.monotonic() < end:
            time.sleep(0.02)
        engine.stop_container(container, timeout=1)
        sampler.stop()
    assert (sampler.failure, failed) == (None, [])
    captured = capture(engine, container, structs.replace(request_of, watched=Watched(stopped_by="timeout")), store)
    checked(store, captured)
    assert captured.index is not None
    usage = captured.index.usage
    assert captured.index.ending.how is How.TIMEOUT and usage is not None
    assert usage.samples == len(seen) >= 3
    assert usage.cpu_seconds and usage.memory_peak_bytes and usage.pids_peak
    lines = content(store, captured, USAGE).splitlines()
    assert len(lines) == usage.samples and {"time", "cpu_ns", "memory_bytes", "pids"} <= set(json.loads(lines[0]))
    store.settle(request_of.run)
    with store.staging(request_of.run) as staging:  # what is left says where its evidence is
        assert set(staging.names()) == {OWNER, SETTLED}


def test_a_sampler_of_a_container_that_ends_stops_by_itself(engine: Engine, make: Make) -> None:
    container = run(engine, make("true"))
    seen = list[object]()
    sampler = Sampler(engine, container, io.BytesIO(), every=0.1, seen=seen.append, failed=seen.append)
    sampler.stop(wait=30)
    assert (seen, sampler.failure) == ([], None)
    gone = Sampler(engine, "no-such-container", io.BytesIO(), every=0.1, seen=seen.append, failed=seen.append)
    end = time.monotonic() + 30
    while gone.failure is None and time.monotonic() < end:
        time.sleep(0.01)
    gone.stop()
    assert "o such container" in (gone.failure or "")


def test_hostile_artifacts(engine: Engine, store: Store, make: Make, request_of: CaptureRequest) -> None:
    script = """
    mkdir -p /r/d && cd /r && echo good > good && ln -s /etc/passwd link && ln -s ../../.. d/up && ln good hard
    mkfifo pipe && cp good suid && chmod 4755 suid && printf x > "$(printf 'bad\\033[2J')"
    dd if=/dev/zero of=giant bs=1k count=1 seek=5000 2>/dev/null
    """
    container = run(engine, make(script))
    limits = CaptureLimits(artifacts=ExportLimits(file_bytes=1 << 20))
    request = structs.replace(request_of, artifacts=("/r", "/r/link", "relative", "/r/../etc"), limits=limits)
    captured = capture(engine, container, request, store)
    checked(store, captured)
    index = captured.index
    assert index is not None and captured.folder is not None
    refused = {refused.path: refused.reason for refused in index.refused}
    # Which of the two names of one file comes second is the engine's choice.
    names = {kept.path for kept in index.kept if kept.path.startswith("artifacts/")}
    assert len(names) == 1 and names < {"artifacts/r/good", "artifacts/r/hard"}
    assert refused == {
        "r/link": "a symlink",
        "link": "a symlink",
        "r/d/up": "a symlink",
        ("r/hard" if "artifacts/r/good" in names else "r/good"): "a hard link",
        "r/pipe": "a fifo",
        "r/suid": "a setuid or setgid file",
        "r/bad\\x1b[2J": "a name with control or undecodable characters",
        "r/giant": "larger than 1 MiB",
    }
    assert index.refused_total == len(index.refused) == 8
    assert {missing.part for missing in index.missing} == {"usage", "artifact relative", "artifact /r/../etc"}
    assert all(not path.is_symlink() for path in captured.folder.rglob("*"))


@pytest.fixture
def source(tmp_path: Path) -> Path:
    base = tmp_path / "source"
    (base / ".git").mkdir(parents=True)
    (base / ".git/config").write_bytes(b"[core]\n")
    (base / "fix me.txt").write_bytes(b"one\ntwo\nthree\n")
    (base / "old").write_bytes(b"gone\n")
    (base / "日本").write_bytes(b"one\n")  # an engine's archive has the name in a record of its own
    (base / "blob").write_bytes(bytes(range(256)))
    return base


AGENT = """
cd /workspace && sed -i s/two/2/ "fix me.txt" && echo two >> 日本 && rm old && printf '\\000new' > blob && mkdir made
echo hunter22 > made/f
chmod +x "fix me.txt" && ln -s made/f inside && ln -s /etc/passwd outside && echo evil >> .git/config
"""


def agent(engine: Engine, store: Store, make: Make, request: CaptureRequest, source: Path, volume: str) -> str:
    """A container with the workspace uploaded into a volume, after the agent has worked on it."""
    stage_workspace(store, request.run, source, uid=1000, gid=1000, engine=engine.identity)
    mount = {"Type": "volume", "Source": volume, "Target": "/workspace"}
    container = make(AGENT, host={"Mounts": [mount]}, User="1000:1000")
    with open_workspace(store, request.run) as tar_file:
        engine.put_archive(container, "/", tar_file)
    return run(engine, container)


@pytest.fixture
def volume(engine: Engine, project: str, labels: Mapping[str, str]) -> Iterator[str]:
    engine.create_volume({"Name": project, "Labels": dict(labels)})
    yield project


@pytest.fixture
def remove_volume(engine: Engine, project: str) -> Iterator[None]:
    """Asked for before `make`, so that it comes after the containers."""
    yield
    engine.remove_volume(project)


def test_a_workspace_comes_back_as_a_patch(
    remove_volume: None, volume: str, engine: Engine, store: Store, make: Make, request_of: CaptureRequest, source: Path
) -> None:
    container = agent(engine, store, make, request_of, source, volume)
    request = structs.replace(request_of, workspace="/workspace", secrets=("hunter22",))
    captured = capture(engine, container, request, store)
    checked(store, captured)
    index = captured.index
    assert index is not None and index.ending.how is How.EXITED, content(store, captured, "stderr.log")
    assert [missing.part for missing in index.missing] == ["usage"]
    assert {refused.path for refused in index.refused} == {"outside"}
    assert [kept.path for kept in index.kept if kept.sensitive] == ["workspace.patch"]
    assert index.patched_paths == 6
    changed = json.loads(content(store, captured, "workspace-git.json"))
    assert [change["path"] for change in changed] == [".git/config"]
    (source / ".git/config").unlink()
    (source / ".git").rmdir()
    patch = content(store, captured, "workspace.patch")
    subprocess.run(["git", "apply", "-"], cwd=source, input=patch, check=True, env={"GIT_CEILING_DIRECTORIES": "/"})
    assert (source / "fix me.txt").read_bytes() == b"one\n2\nthree\n" and (source / "fix me.txt").stat().st_mode & 0o100
    assert not (source / "old").exists() and (source / "blob").read_bytes() == b"\0new"
    assert (source / "日本").read_bytes() == b"one\ntwo\n"
    assert (source / "inside").read_bytes() == b"hunter22\n"


def test_without_its_baseline_the_workspace_is_kept_whole(
    remove_volume: None, volume: str, engine: Engine, store: Store, make: Make, request_of: CaptureRequest, source: Path
) -> None:
    container = agent(engine, store, make, request_of, source, volume)
    store.unstage(request_of.run)
    captured = capture(engine, container, structs.replace(request_of, workspace="/workspace"), store)
    checked(store, captured)
    assert captured.index is not None
    assert [(m.part, m.reason) for m in captured.index.missing if m.part != "usage"] == [
        ("workspace.patch", "its baseline is not on this machine: the workspace is kept whole instead")
    ]
    assert content(store, captured, "workspace/workspace/fix me.txt") == b"one\n2\nthree\n"
    refused = {refused.path for refused in captured.index.refused}
    assert refused == {"workspace/.git", "workspace/inside", "workspace/outside"}


def test_limits_of_logs_and_changes(engine: Engine, store: Store, make: Make, request_of: CaptureRequest) -> None:
    container = run(engine, make("seq 1 5000; seq 1 5000 >&2; for n in 1 2 3 4; do echo > /f$n; done"))
    limits = CaptureLimits(log_bytes=1000, changes=2)
    captured = capture(engine, container, structs.replace(request_of, limits=limits), store)
    checked(store, captured)
    index = captured.index
    assert index is not None
    cut = {kept.path: (kept.bytes, kept.truncated) for kept in index.kept if kept.truncated}
    assert cut["stdout.log"] == cut["stderr.log"] == (1000, True)
    assert content(store, captured, "stdout.log").startswith(b"1\n2\n3\n")
    assert len(json.loads(content(store, captured, "changes.json"))) == 2
    assert {m.part for m in index.missing} == {"logs", "usage", "changes"}


def test_a_log_driver_that_replaces_bytes_is_told(
    engine: Engine, store: Store, make: Make, request_of: CaptureRequest
) -> None:
    container = run(engine, make("printf '\\377'", host={"LogConfig": {"Type": "json-file", "Config": {}}}))
    captured = capture(engine, container, request_of, store)
    checked(store, captured)
    assert captured.index is not None
    assert [(m.part, "json-file" in m.reason) for m in captured.index.missing if m.part != "usage"] == [("logs", True)]


def test_output_the_runner_kept_is_used(engine: Engine, store: Store, make: Make, request_of: CaptureRequest) -> None:
    container = run(engine, make("true", host={"LogConfig": {"Type": "none", "Config": {}}}))
    captured = capture(engine, container, structs.replace(request_of, run="engine"), store)
    assert captured.index is not None and [m.part for m in captured.index.missing if m.part != "usage"] == ["logs"]
    with (
        store.staging(request_of.run, engine=engine.identity) as staging,
        staging.append("stdout.log") as out,
        staging.append("stderr.log") as err,
    ):
        out.write(b"live\n")
        err.write(b"live \xff hunter22 more")
    limits = CaptureLimits(log_bytes=18)
    request = structs.replace(
        request_of, watched=Watched(live_logs=True), limits=limits, secrets=("hunter22",), filesystem_changes=False
    )
    captured = capture(engine, container, request, store)
    checked(store, captured)
    assert captured.index is not None
    assert [m.reason for m in captured.index.missing if m.part != "usage"] == [
        "longer than 18 bytes; what came after is not kept"
    ]
    assert {k.path: k.truncated for k in captured.index.kept if k.path.endswith(".log")} == {
        "stderr.log": True,
        "stdout.log": False,
    }
    assert content(store, captured, "stderr.log") == b"live \xff *** more"
    assert content(store, captured, "stdout.log") == b"live\n"


def test_a_terminal_has_one_log(engine: Engine, store: Store, make: Make, request_of: CaptureRequest) -> None:
    container = run(engine, make("echo both >&2", Tty=True))
    captured = capture(engine, container, request_of, store)
    checked(store, captured)
    assert content(store, captured, "stdout.log") == b"both\r\n"
    assert content(store, captured, "stderr.log") == b""


def test_a_container_that_is_gone_is_recorded_as_such(engine: Engine, store: Store, request_of: CaptureRequest) -> None:
    request = structs.replace(request_of, artifacts=("/x",), workspace="/workspace", profile="p")
    captured = capture(engine, "f" * 64, request, store)
    checked(store, captured)
    index = captured.index
    assert index is not None and index.ending.how is How.ENGINE_LOST and index.container_id == "f" * 64
    assert [missing.part for missing in index.missing] == ["inspect", "logs", "changes", "artifacts", "workspace"]
    assert [kept.path for kept in index.kept] == ["profile.yaml"]


def test_no_time_at_all(engine: Engine, store: Store, make: Make, request_of: CaptureRequest) -> None:
    container = run(engine, make("echo x > /r; seq 1 9999"))
    limits = CaptureLimits(seconds=0.0)
    captured = capture(engine, container, structs.replace(request_of, artifacts=("/r",), limits=limits), store)
    checked(store, captured)
    assert captured.index is not None
    assert {"logs", "artifact /r"} <= {missing.part for missing in captured.index.missing}


def test_a_store_that_cannot_be_written_is_told_not_raised(
    engine: Engine, make: Make, request_of: CaptureRequest, tmp_path: Path
) -> None:
    container = run(engine, make("true"))
    missing = capture(engine, container, request_of, Store(project_directory=tmp_path / "nothing"))
    assert missing.entry is None and "cannot open the directory" in (missing.failure or "")
    (tmp_path / ".sandboxrun").write_bytes(b"")
    blocked = capture(engine, container, request_of, Store(project_directory=tmp_path))
    assert blocked.entry is None and "is a symlink or a file, not a directory" in (blocked.failure or "")


def test_captures_of_one_run_side_by_side_give_one_entry(
    engine: Engine, store: Store, make: Make, request_of: CaptureRequest
) -> None:
    container = run(engine, make("echo once"))
    done: list[Captured] = []
    threads = [
        threading.Thread(target=lambda: done.append(capture(engine, container, request_of, store))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({captured.entry for captured in done}) == 1 and len(store.entries()) == 1
    assert sorted(captured.already for captured in done) == [False, True, True, True]
    checked(store, done[0])


def test_an_engine_that_was_killed(
    own_engine: OwnEngine, store: Store, request_of: CaptureRequest, busybox: str
) -> None:
    """While it is away nothing is recorded; at its next start what ran has ended without anybody seeing it."""
    with connect(own_engine.host) as engine:
        payload = {"Image": busybox, "Cmd": ["sh", "-c", "sleep 300"], "HostConfig": {"NetworkMode": "none"}}
        container = engine.create_container("lost", payload).id
        engine.start_container(container)
        own_engine.kill()
        away = capture(engine, container, request_of, store)
        assert away.entry is None and away.failure and store.entries() == ()
        own_engine.start()
        engine.wait_container(container, timeout=60)
        back = capture(engine, container, structs.replace(request_of, watched=Watched(stopped_by="engine")), store)
    checked(store, back)
    assert back.index is not None and back.index.ending.how is How.ENGINE_LOST


@pytest.mark.parametrize("home", ["relative", "in the project", "not writable"])
def test_without_a_state_directory_nothing_is_made(
    home: str, cli: Cli, project: str, busybox: str, tmp_path: Path
) -> None:
    """No command that needs it begins; those that do not need it work."""
    (tmp_path / "sandbox.yaml").write_text(
        f"name: {project}\nsandboxes:\n  s: {{image: {busybox}, network_mode: none, command: ['true']}}\n"
    )
    env, said = {
        "relative": ({"XDG_STATE_HOME": "", "HOME": "here"}, "neither XDG_STATE_HOME nor HOME is an absolute path"),
        "in the project": ({"XDG_STATE_HOME": str(tmp_path / "state")}, "lies in the project's directory"),
        "not writable": ({"XDG_STATE_HOME": "/proc"}, "the state directory /proc/sandboxrun can't be used"),
    }[home]
    for words, code in ((("run", "s"), 125), (("apply", "-y"), 1)):
        ran = cli(*words, env=env)
        assert (ran.code, said in ran.err, "set XDG_STATE_HOME" in ran.err) == (code, True, True)
    assert cli("plan", "--detailed-exitcode", env=env).code == 2
    assert cli("destroy", "-y", env=env).code == 0
    assert [path.name for path in tmp_path.iterdir()] == ["sandbox.yaml"]
