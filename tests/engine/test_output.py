"""What agents write, on its way out: byte for byte; whatever becomes of its readers, the evidence is whole."""

from __future__ import annotations

import contextlib
import json
import os
import select
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import docker
import pytest

from sandboxrun import SandboxService, Settings
from sandboxrun.backend.docker.client import Engine, connect
from sandboxrun.errors import ApplyError
from sandboxrun.evidence.store import RunResult, Store
from sandboxrun.lifecycle import run as oneoff
from sandboxrun.lifecycle.watch import KeptOutput, Sampler, Watch
from sandboxrun.profile.loader import load
from tests.conftest import Cli, until
from tests.engine.forwarders import Cutting

SLOW = "for i in 1 2 3 4; do echo line $i; sleep 0.3; done"
BIG = "seq 400000"
BIG_TEXT = "".join(f"{n}\n" for n in range(1, 400001))
EVER = "trap '' TERM INT; while :; do echo and on and on; done"


@pytest.fixture
def profile(tmp_path: Path, project: str, agent_image: str) -> Callable[..., Path]:
    """Writes a profile of one sandbox, `a`, with this command."""

    def write(command: str, more: str = "") -> Path:
        argv = json.dumps(["bash", "-c", command])
        (tmp_path / "sandbox.yaml").write_text(
            f"name: {project}\nsandboxes:\n  a:\n    image: {agent_image}\n    egress: none\n"
            f"    stop_grace_period: 1s\n    command: {argv}\n{more}"
        )
        return tmp_path

    return write


@pytest.fixture
def gone(engine_client: docker.DockerClient, project: str, cli: Cli) -> Iterator[None]:
    """After the test nothing is left on the engine, or what is was said to be and can be removed."""
    yield
    cli("destroy", "-y", "-q")


def shell(line: str, cwd: Path, seconds: float = 180) -> tuple[int, str]:
    """A shell line in which `sandboxrun` is this one: the exit code of its first command, and all of stderr."""
    command = f"{shlex.quote(sys.executable)} -m sandboxrun"
    script = f'{line.replace("sandboxrun", command)}; exit "${{PIPESTATUS[0]}}"'
    with subprocess.Popen(
        ["bash", "-c", script], cwd=cwd, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        start_new_session=True, text=True,
    ) as process:  # fmt: skip
        try:
            _, err = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            pytest.fail(f"{line} did not end within {seconds} seconds")
    return process.returncode, err


def evidence(home: Path) -> tuple[dict[str, Any], str, str]:
    """The newest run's index and logs. A run may be too short for a sample of its usage."""
    folder = max((home / ".sandboxrun/evidence").glob("*/index.json"), key=lambda p: p.stat().st_mtime_ns).parent
    index = json.loads((folder / "index.json").read_text())
    index["missing"] = [m for m in index["missing"] if m["reason"] != "it ended before the first sample"]
    return index, (folder / "stdout.log").read_text(), (folder / "stderr.log").read_text()


GONE = "error: stdout was closed before everything was written\n  help: the evidence has all of it\n"
FULL = "error: cannot write to stdout: No space left on device\n  help: the evidence has all of it\n"


@pytest.mark.parametrize(
    ("line", "code", "said"),
    [
        ("sandboxrun run | head -1", 141, GONE),
        ("sandboxrun run >&-", 141, GONE),
        ("sandboxrun run >/dev/full", 125, FULL),
        ("sandboxrun run >&- 2>&- <&-", 141, ""),
        ("sandboxrun run >/dev/full 2>/dev/full", 125, ""),
        ("sandboxrun run --json 2>/dev/null | true", 141, ""),
    ],
)
@pytest.mark.parametrize(("command", "text"), [(SLOW, "line 1\nline 2\nline 3\nline 4\n"), (BIG, BIG_TEXT)])
def test_whoever_reads_goes_away_and_the_evidence_is_whole(
    line: str, code: int, said: str, command: str, text: str, profile: Callable[..., Path]
) -> None:
    home = profile(command)
    got, err = shell(line, home)
    index, out, _ = evidence(home)
    assert (got, index["missing"], index["ending"]["how"]) == (code, [], "exited")
    assert out == text
    assert err.endswith(said) and "Traceback" not in err


def test_stderr_that_is_lost_is_a_failure_too(profile: Callable[..., Path]) -> None:
    home = profile("echo out; echo err >&2")
    assert shell("sandboxrun run 2>/dev/full", home)[0] == 125
    assert evidence(home)[1:] == ("out\n", "err\n")
    assert shell("sandboxrun run -q 2>&-", home)[0] == 141
    assert shell("sandboxrun run 2>&-", profile("echo out"))[0] == 0  # nothing of the agent's was lost


@pytest.mark.parametrize("stderr", [subprocess.DEVNULL, subprocess.STDOUT], ids=["", "2>&1"])
def test_a_reader_that_does_not_read_does_not_outlast_the_timeout(stderr: int, profile: Callable[..., Path]) -> None:
    """It ends although the pipe is open and full to the end of the test."""
    home = profile(EVER, "    lifetime: {timeout: 5s}\n")
    command = [sys.executable, "-m", "sandboxrun", "run", "-v"]
    with subprocess.Popen(command, cwd=home, stdout=subprocess.PIPE, stderr=stderr, start_new_session=True) as process:
        try:
            code = process.wait(180)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    index, out, _ = evidence(home)
    assert (code, index["ending"]["how"], index["missing"]) == (124, "timeout", [])
    assert out.startswith("and on and on\n")


def full(process: subprocess.Popen[str]) -> bool:
    """Whether the pipe that nobody reads takes no more. By its other end: one of many small writes is full of pages,
    not of bytes."""
    assert process.stdout is not None
    end = os.open(f"/proc/self/fd/{process.stdout.fileno()}", os.O_WRONLY | os.O_NONBLOCK)
    try:
        return not select.select([], [end], [], 0)[1]
    finally:
        os.close(end)


@pytest.mark.parametrize("signals", [1, 2])
def test_signals_end_a_run_whose_output_nobody_reads(signals: int, cli: Cli, profile: Callable[..., Path]) -> None:
    home = profile(EVER if signals > 1 else EVER.removeprefix("trap '' TERM INT; "))
    process = cli.start("run", cwd=home)
    until(lambda: full(process))
    process.send_signal(signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(1 if signals > 1 else 90)
    if signals > 1 and process.poll() is None:
        process.send_signal(signal.SIGTERM)
    assert process.wait(90) in (137, 143)
    index, out, _ = evidence(home)
    assert (index["ending"]["how"], index["missing"]) == ("killed", []) and out.startswith("and on")


def test_a_slow_reader_gets_everything(cli: Cli, profile: Callable[..., Path]) -> None:
    process = cli.start("run", "-q", cwd=profile(BIG, "    lifetime: {timeout: 60s}\n"))
    until(lambda: full(process))
    assert process.stdout is not None
    assert process.stdout.read() == BIG_TEXT
    assert process.wait(90) == 0


def test_logs_and_exec_end_with_their_reader(cli: Cli, profile: Callable[..., Path], gone: None) -> None:
    home = profile("echo one; sleep 600")
    assert cli("apply", "-y", "-q").code == 0
    assert shell("sandboxrun logs -f | head -1", home) == (141, "")  # although nothing more is written
    assert shell("sandboxrun exec a yes | head -1", home) == (141, "")
    for command in ("logs", "exec a echo x", "exec a yes", "ps"):
        code, err = shell(f"sandboxrun {command} >/dev/full", home)
        assert (code in (1, 125), err) == (True, "error: cannot write to stdout: No space left on device\n")


@pytest.mark.parametrize("command", ["apply -y --wait", "apply -y --wait --json", "destroy -y --json"])
@pytest.mark.parametrize(("to", "codes"), [("| true", {141}), (">/dev/full", {1, 125}), (">&-", {141})])
def test_results_that_nobody_gets_are_a_failure(
    command: str, to: str, codes: set[int], profile: Callable[..., Path], gone: None
) -> None:
    home = profile("echo one")
    code, err = shell(f"sandboxrun {command} {to}", home)
    assert code in codes and "Traceback" not in err and "bug" not in err


def test_output_is_what_the_agent_wrote(cli: Cli, profile: Callable[..., Path], gone: None) -> None:
    program = "import sys; o = sys.stdout.buffer; o.write(bytes(range(256)) + b'x' * 200010 + b'\\r\\n\\x1b[2J\\nend')"
    home = profile(f'python3 -c "{program}"; echo err >&2; sleep 1', "    lifetime: {idle: 60s}\n")
    wanted = bytes(range(256)) + b"x" * 200010 + b"\r\n\x1b[2J\nend"
    sandboxrun = [sys.executable, "-m", "sandboxrun"]
    ran = subprocess.run([*sandboxrun, "run", "-q"], cwd=home, capture_output=True, check=True)
    assert (ran.stdout, ran.stderr) == (wanted, b"err\n")
    with (home / "out").open("wb") as file:
        subprocess.run([*sandboxrun, "run", "-q"], cwd=home, stdout=file, stderr=subprocess.DEVNULL, check=True)
    assert (home / "out").read_bytes() == wanted
    old = subprocess.run([*sandboxrun, "logs", "-q"], cwd=home, capture_output=True, check=True)
    assert (old.stdout, old.stderr) == (wanted, b"err\n")  # from the evidence
    assert cli("apply", "-y", "-q").code == 0
    live = subprocess.run([*sandboxrun, "logs", "-f", "-q"], cwd=home, capture_output=True, check=True)
    assert (live.stdout, live.stderr) == (wanted, b"err\n")  # from the engine
    profile("sleep 600")
    assert cli("apply", "-y", "-q").code == 0
    inside = ["exec", "a", "--", "python3", "-c", program]
    assert subprocess.run([*sandboxrun, *inside], cwd=home, capture_output=True, check=True).stdout == wanted


# -- parts that fail


def run_here(engine: Engine, home: Path, **options: Any) -> tuple[RunResult, ...]:
    profile = load([home / "sandbox.yaml"])
    store = Store(project_directory=home)
    return oneoff.run(engine, profile, store, profile.sandboxes, options=oneoff.RunOptions(**options))


@pytest.fixture
def engine(engine_host: str) -> Iterator[Engine]:
    with connect(engine_host) as made:
        yield made


def boom(*_: Any, **__: Any) -> Any:
    raise RuntimeError("boom")


@pytest.mark.parametrize(
    ("owner", "method", "what"),
    [
        (KeptOutput, "write", "reading the output"),
        (Watch, "_await_exit", "waiting for the end"),
        (Sampler, "_sample", "sampling the usage"),
    ],
)
def test_a_part_that_fails_ends_the_run_by_name(
    owner: type,
    method: str,
    what: str,
    engine: Engine,
    engine_client: docker.DockerClient,
    project: str,
    profile: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    home = profile("trap 'exit 3' TERM; while :; do echo on; sleep 0.1; done")

    def boom_later(*_: Any, **__: Any) -> Any:
        """Once the agent is at work: a shell that has just begun dies of a signal that it is to catch."""
        [made] = engine_client.containers.list(filters={"label": f"sandboxrun.project={project}"}, ignore_removed=True)
        until(made.logs)
        boom()

    monkeypatch.setattr(owner, method, boom_later)
    with pytest.raises(oneoff.RunFailed) as caught:
        run_here(engine, home)
    said = [d.message for d in caught.value.diagnostics]
    assert said == [f"a was stopped: {what} failed: RuntimeError: boom"] and caught.value.exit_code == 3  # its own
    [result] = caught.value.results
    assert result.note == f"sandboxrun failed: {what} failed: RuntimeError: boom"
    index, out, _ = evidence(home)
    assert index["ending"]["how"] == "killed" and out.startswith("on\n")
    if what != "waiting for the end":
        part = "usage" if "usage" in what else "logs"
        assert any(m["part"] == part and "boom" in m["reason"] for m in index["missing"])


def test_a_consumer_that_fails_is_reported_and_stops_nothing(engine: Engine, profile: Callable[..., Path]) -> None:
    home = profile(BIG)
    with pytest.raises(oneoff.RunFailed, match="a: handing on its output failed: RuntimeError: boom"):
        run_here(engine, home, output=boom)
    index, out, _ = evidence(home)
    assert (index["ending"]["how"], index["missing"], out) == ("exited", [], BIG_TEXT)


def test_on_output_that_fails_is_raised_by_wait(
    _nothing_left: None, engine_host: str, agent_image: str, project: str, tmp_path: Path
) -> None:
    settings = Settings(docker_host=engine_host, default_image=agent_image, network_mode="none")
    with SandboxService(settings, project=project, directory=tmp_path) as service:
        sandbox = service.create("a", command=["bash", "-c", BIG])
        sandbox.start(on_output=boom)
        with pytest.raises(ApplyError, match="a: handing on its output failed: RuntimeError: boom"):
            sandbox.wait(60)
        sandbox.remove()
        pieces: list[bytes] = []
        other = service.create("b", command=["bash", "-c", BIG])
        other.start(on_output=lambda stream, data: pieces.append(data))
        assert other.wait(60) == 0 and b"".join(pieces).decode() == BIG_TEXT
        other.remove()
        stuck = threading.Event()
        third = service.create("c", command=["bash", "-c", BIG])
        called = threading.Event()

        def sticking(stream: int, data: bytes) -> None:
            called.set()
            stuck.wait(120)

        third.start(on_output=sticking)
        assert called.wait(120)
        captured = third.remove(force=True)
        stuck.set()
        assert (
            captured is not None
            and captured.index is not None
            and {m.part for m in captured.index.missing} <= {"usage"}
        )


# -- disks that are full


@contextlib.contextmanager
def small_disk(path: Path, size: str) -> Iterator[None]:
    """A disk of this size at `path`."""
    path.mkdir(parents=True)
    options = f"size={size},mode=0700"
    if os.getuid() != 0 or subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", path]).returncode:
        pytest.skip("needs the right to mount")
    try:
        yield
    finally:
        subprocess.run(["umount", path], check=True)


@pytest.fixture
def state(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the state directory of this test's commands is to be: what is staged lies there."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
    return Path(os.environ["XDG_STATE_HOME"]) / "sandboxrun"


@pytest.mark.parametrize("size", [pytest.param("128k", marks=pytest.mark.full), "1m"])
def test_a_full_disk_below_the_staging_folder(size: str, state: Path, cli: Cli, profile: Callable[..., Path]) -> None:
    home = profile(BIG)
    with small_disk(state, size):
        ran = cli("run", "-q", cwd=home)
    index, out, _ = evidence(home)
    assert (ran.code, ran.out, out) == (0, BIG_TEXT, BIG_TEXT), ran.err
    assert {m["part"] for m in index["missing"]} <= {"usage"}


def test_a_full_disk_below_the_evidence(cli: Cli, profile: Callable[..., Path], gone: None) -> None:
    home = profile(BIG)
    with small_disk(home / ".sandboxrun/evidence", "1m"):
        ran = cli("run", "-q", cwd=home)
        assert (ran.code, ran.out) == (125, BIG_TEXT)
        assert f"evidence of a could not be saved in {home}/.sandboxrun/evidence: No space left on device\n" in ran.err
        waited = cli("apply", "--wait", "-y", "-q", cwd=home)
        assert waited.code == 125
        assert "a: completed (exit 0); its evidence could not be saved: No space left on device\n" in waited.out
        assert cli("destroy", "-y", "-q", cwd=home).code == 1  # nothing is removed whose log can't be kept
        assert cli("destroy", "-y", "-q", "--evidence", str(home / "elsewhere"), cwd=home).code == 0
    log, other = (home / "elsewhere").glob("*/stdout.log")
    assert log.read_bytes() == other.read_bytes()
    assert log.read_text() == BIG_TEXT


@pytest.fixture
def cutting(engine_host: str) -> Iterator[Cutting]:
    """A way to the engine whose connections can be cut."""
    forwarder = Cutting(engine_host.removeprefix("unix://"))
    yield forwarder
    forwarder.close()


@pytest.mark.parametrize(
    ("command", "words", "more"),
    [
        ("run", [b"/attach"], ""),
        ("run", [b"/wait"], ""),
        ("run", [b"/wait", b"/attach", b"/events"], ""),
        ("run", [b"/attach", b"/logs"], ""),
        ("run", [b"/attach"], "    lifetime: {idle: 3s}\n"),
        ("apply", [b"/wait"], ""),
        ("apply", [b"/attach"], "    lifetime: {idle: 3s}\n"),
    ],
)
def test_a_connection_that_is_cut_ends_nothing(
    command: str, words: list[bytes], more: str, cutting: Cutting, cli: Cli, profile: Callable[..., Path]
) -> None:
    """The sandbox runs on: it is waited for, and what it wrote meanwhile is shown and kept, once."""
    home = profile("for i in $(seq 12); do echo line $i; echo err $i >&2; sleep 0.5; done; exit 3", more)
    text, errors = ("".join(f"{what} {n}\n" for n in range(1, 13)) for what in ("line", "err"))
    arguments = ("run", "-q") if command == "run" else ("apply", "-y", "--wait")
    process = cli.start(*arguments, "--host", f"tcp://{cutting.address}", cwd=home)
    assert process.stdout is not None
    shown = ""
    while command == "run" and not shown.endswith("line 2\n"):  # what is cut earlier was never begun
        shown += process.stdout.readline()
    if command == "apply":
        until(lambda: cli("ps", "-q", cwd=home).out)
    until(lambda: cutting.cut(words[0]))
    for word in words[1:]:
        until(partial(cutting.cut, word))
    ran = cli.finish(process)
    assert ran.code == 3, ran.err
    index, out, err = evidence(home)
    assert (out, err, index["missing"], index["ending"]["how"]) == (text, errors, [], "failed")
    if command == "run":
        assert (shown + ran.out, ran.err) == (text, errors)


@pytest.mark.parametrize("options", [(), ("-i",)])
@pytest.mark.parametrize("code", [0, 7])
def test_an_exec_whose_connection_is_cut_says_so(
    options: tuple[str, ...],
    code: int,
    cutting: Cutting,
    cli: Cli,
    profile: Callable[..., Path],
    gone: None,
    engine_client: docker.DockerClient,
) -> None:
    """The engine gives it the code of a command that could not be started, and says nothing."""
    home = profile("sleep 60")
    assert cli("apply", "-y", "-q", cwd=home).code == 0
    words = ("sh", "-c", f"echo hi; sleep 1; echo ho; exit {code}")
    process = cli.start("exec", *options, "--host", f"tcp://{cutting.address}", "a", "--", *words, cwd=home)
    assert process.stdout is not None and process.stdout.readline() == "hi\n"
    assert cutting.cut(b"")
    ran = cli.finish(process)
    if ran.code == code and engine_client.api.api_version != "1.41":
        pytest.skip("this engine gives the command's own code: nobody is told")
    assert (ran.code, ran.out) == (125, "")
    assert f"the connection was cut, and the rest of its output is lost; it ended with exit code {code}\n" in ran.err


@pytest.mark.parametrize("said", ["", "ho\n"])
def test_an_exec_whose_own_code_is_126_says_nothing_more(
    said: str, cli: Cli, profile: Callable[..., Path], gone: None
) -> None:
    home = profile("sleep 60")
    assert cli("apply", "-y", "-q", cwd=home).code == 0
    ran = cli("exec", "a", "--", "sh", "-c", f"printf '{said}'; exit 126", cwd=home)
    assert (ran.code, ran.out, ran.err) == (126, said, "")


def test_a_command_that_closes_its_output_is_heard_to_the_end(cli: Cli, profile: Callable[..., Path]) -> None:
    home = profile("echo first; exec >&- 2>&-; sleep 3; exit 4")
    ran = cli("run", "-q", cwd=home)
    index, out, err = evidence(home)
    assert (ran.code, ran.out, out, err, index["missing"]) == (4, "first\n", "first\n", "", [])


@pytest.mark.parametrize(("pages", "access"), [(1, "copy"), (2, "copy"), (1, None), (2, None)])
def test_a_full_disk_below_the_state_directory_is_named(
    pages: int, access: str | None, state: Path, cli: Cli, profile: Callable[..., Path], gone: None
) -> None:
    """It is another disk than that of the evidence and of the workspace, whose names would send somebody astray."""
    home = profile("echo hi", "    workspace: {access: copy}\n" if access else "")
    with small_disk(state, f"{pages * os.sysconf('SC_PAGE_SIZE')}"):
        ran = cli("run", "-q", cwd=home)
        assert ran.code == 125
        assert f"the state directory {state} can't be used: No space left on device\n" in ran.err
        assert "this is a bug" not in ran.err and "cannot be read" not in ran.err
    state.chmod(0o700)
    assert cli("destroy", "-y", "-q", cwd=home).code == 0


def test_an_engine_log_that_is_too_short_is_said(state: Path, cli: Cli, profile: Callable[..., Path]) -> None:
    home = profile(BIG, "    logging: {driver: local, options: {max-size: 100k, max-file: '2'}}\n")
    with small_disk(state, "1m"):
        ran = cli("run", "-q", cwd=home)
    index, out, _ = evidence(home)
    assert (ran.code, ran.out) == (0, BIG_TEXT) and BIG_TEXT.endswith(out)
    [missing] = [m["reason"] for m in index["missing"] if m["part"] == "logs"]
    assert missing == f"{len(BIG_TEXT) - len(out)} bytes of what it wrote are missing; only the rest was kept"


def test_what_a_secret_holds_is_masked_wherever_its_output_is_shown(
    profile: Callable[..., Path], cli: Cli, gone: None
) -> None:
    """Other bytes stay as they are, and so does all with --raw."""
    here = profile(
        r"printf 'a\377 %s\n' $(cat /run/secrets/key)", "    secrets: [key]\nsecrets: {key: {file: ./key}}\n"
    )
    (here / "key").write_text("s3cr3t-of-the-file\n")
    masked, whole = b"a\xff (sensitive value)\n", b"a\xff s3cr3t-of-the-file\n"
    command = f"{shlex.quote(sys.executable)} -m sandboxrun"

    def printed(arguments: str) -> bytes:
        return subprocess.run(["sh", "-c", f"{command} {arguments}"], cwd=here, capture_output=True, timeout=180).stdout

    assert printed("run a") == masked
    assert printed("run --raw a") == whole
    assert cli("apply", "-y", "--rerun").code == 0
    until(lambda: "exited" in cli("ps").out)
    assert printed("logs a") == masked
    assert printed("logs --raw a") == whole
