"""Agents that write much, and for long: in bounded memory, and nothing lost when the engine restarts."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import docker
import pytest

from tests.conftest import Cli, until
from tests.engine.own_engine import OwnEngine

GIGABYTE = 1 << 30
KEPT = 16 << 20
MOST_MEMORY = 300 << 20  # bytes, of which the program itself is some fifty million


@pytest.fixture
def profile(tmp_path: Path, project: str, agent_image: str) -> Callable[[list[str]], Path]:
    """Writes a profile of one sandbox, `a`."""

    def write(command: list[str]) -> Path:
        sandbox = {
            "image": agent_image, "egress": "none", "stop_grace_period": "1s", "command": command,
            "evidence": {"logs_limit": KEPT},
        }  # fmt: skip
        (tmp_path / "sandbox.yaml").write_text(json.dumps({"name": project, "sandboxes": {"a": sandbox}}))
        return tmp_path

    return write


@pytest.mark.full
@pytest.mark.parametrize("end", ["\n", ""], ids=["lines", "one line"])
def test_a_gigabyte_streams_through_in_bounded_memory(end: str, profile: Callable[[list[str]], Path]) -> None:
    block = "x" * (1024 - len(end)) + end
    program = f"import sys\nfor _ in range({GIGABYTE // 1024 // 64}): sys.stdout.write({block!r} * 64)"
    home = profile(["python3", "-c", program])
    read, digest = 0, hashlib.sha256()
    process = subprocess.Popen(
        [sys.executable, "-m", "sandboxrun", "run", "-q"], cwd=home, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    with process.stdout:
        while chunk := process.stdout.read(1 << 20):
            read += len(chunk)
            digest.update(chunk)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    wanted = hashlib.sha256()
    for _ in range(1024):
        wanted.update(block.encode() * 1024)
    assert (process.returncode, read, digest.digest()) == (0, GIGABYTE, wanted.digest())
    assert used.ru_maxrss * 1024 < MOST_MEMORY
    (path,) = (home / ".sandboxrun/evidence").glob("*/index.json")
    index = json.loads(path.read_text())
    kept = {one["path"]: (one["bytes"], one["truncated"]) for one in index["kept"]}
    assert kept["stdout.log"] == (KEPT, True)
    assert [m["reason"] for m in index["missing"] if m["part"] == "logs"] == [
        "longer than 16 MiB; what came after is not kept"
    ]


@pytest.mark.parametrize("how", ["stop", pytest.param("kill", marks=pytest.mark.full)])
def test_what_was_written_is_not_lost_when_the_engine_restarts(
    how: str, cli: Cli, own_engine: OwnEngine, project: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Thousands of lines a second: the evidence has all that the engine has and all that was printed. One that is
    killed may itself have lost what it had read and not yet written; before one that is stopped has ended, the run may
    have taken all."""
    monkeypatch.setenv("DOCKER_HOST", own_engine.host)
    script = "n=0; while :; do n=$((n+1)); echo $n; done"
    sandbox = {
        "image": "sandboxrun/busybox:latest", "network_mode": "none", "stop_grace_period": "1s",
        "command": ["sh", "-c", script], "logging": {"driver": "json-file", "options": {"max-size": "1g"}},
        "evidence": {"logs_limit": "512m"},
    }  # fmt: skip
    (cli.cwd / "sandbox.yaml").write_text(json.dumps({"name": project, "sandboxes": {"a": sandbox}}))
    with (cli.cwd / "printed").open("wb") as printed:
        agent = subprocess.Popen(
            [sys.executable, "-m", "sandboxrun", "run", "-q", "a"], cwd=cli.cwd, stdin=subprocess.DEVNULL,
            stdout=printed, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        until(lambda: (cli.cwd / "printed").stat().st_size > 100_000)
        getattr(own_engine, how)()
        assert agent.wait(120) != 0
    own_engine.start()
    with contextlib.closing(own_engine.client()) as client:
        logged = _log(client, project)
    assert cli("destroy", "-y", "-q").code == 0
    (path,) = (cli.cwd / ".sandboxrun/evidence").glob("*/index.json")
    kept, index = (path.parent / "stdout.log").read_bytes(), json.loads(path.read_text())
    assert index["ending"]["how"] in ("engine_lost", "unknown", "killed")
    printed_lines, kept_lines = (cli.cwd / "printed").read_bytes().rpartition(b"\n")[0].split(), kept.split()
    assert len(kept) > 100_000 and kept_lines[: len(printed_lines)] == printed_lines
    assert kept_lines == [b"%d" % n for n in sorted({*map(int, printed_lines), *map(int, (logged or b"").split())})]
    if how == "stop":
        assert kept_lines == [b"%d" % n for n in range(1, len(kept_lines) + 1)]
    incomplete = logged is not None and kept != logged
    assert [one["part"] for one in index["missing"]].count("logs") == incomplete


def _log(client: docker.DockerClient, project: str) -> bytes | None:
    """What the engine has of it; None where it is gone."""
    found = client.api.containers(all=True, filters={"label": f"sandboxrun.project={project}"})
    return bytes(client.api.logs(found[0]["Id"], stdout=True, stderr=False)) if found else None
