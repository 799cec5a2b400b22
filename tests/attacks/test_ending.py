"""How runs end that would rather be told otherwise: by the evidence, the command line, and what is left behind."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import sys
from collections.abc import Mapping
from pathlib import Path

import docker
import pytest

from sandboxrun.evidence.checking import verify_chain
from sandboxrun.evidence.index import Index
from sandboxrun.spec.state import How
from tests.attacks.cages import Cages, Ran
from tests.attacks.inside.ending import ALONE
from tests.attacks.shipping import COMMAND
from tests.conftest import Cli

BASE = {"egress": "none", "stop_grace_period": "1s"}
IN_TIME = {"timeout": "12s"}  # on a busy machine the attack has to be under way by then
ENDS: Mapping[str, Mapping[str, object]] = {
    "stubborn": {"lifetime": IN_TIME},
    "stopped": {"lifetime": IN_TIME},
    "flood": {"evidence": {"logs_limit": "1m"}},
    "memory": {"mem_limit": "64m"},
}


def alone(cage: str) -> Mapping[str, object]:
    """A sandbox whose command is the attack itself."""
    return {**BASE, "command": [*COMMAND, "alone", ALONE[cage]], **ENDS.get(cage, {})}


@pytest.fixture(scope="module")
def ended(cages: Cages) -> Mapping[str, Ran]:
    """All of them, run at once."""
    return cages.run({cage: alone(cage) for cage in ALONE})


def index(ran: Ran) -> Index:
    assert ran.captured.index is not None
    return ran.captured.index


def test_every_attack_has_its_sandbox() -> None:
    assert len(ALONE) == 11


@pytest.mark.parametrize("code", [137, 124, 255])
def test_ends_as_if(code: int, ended: Mapping[str, Ran]) -> None:
    """The code is kept, and taken for nothing else; the endings that have these codes are told apart below."""
    ending = index(ended[f"code-{code}"]).ending
    assert (ending.how, ending.exit_code, ending.oom_killed) == (How.FAILED, code, False)


def test_ends_by_memory(ended: Mapping[str, Ran]) -> None:
    ending = index(ended["memory"]).ending
    assert (ending.how, ending.oom_killed) == (How.OOM, True)
    assert ended["memory"].output == b"what it did before\n"


@pytest.mark.parametrize("cage", ["stubborn", "stopped"])
def test_is_gone_when_its_time_is_over(cage: str, ended: Mapping[str, Ran]) -> None:
    assert index(ended[cage]).ending.how is How.TIMEOUT
    assert ended[cage].result.exit_code == 124
    assert ended[cage].output in (b"it ignores\n", b"it stops\n")


def test_leaves_nobody_behind(ended: Mapping[str, Ran], cages: Cages, engine_client: docker.DockerClient) -> None:
    """Its mark is an argument of what it left: no process of this machine has it, nor the engine a container."""
    assert index(ended["daemon"]).ending.how is How.EXITED
    assert (
        engine_client.containers.list(
            all=True, filters={"label": f"sandboxrun.project={cages.project}"}, ignore_removed=True
        )
        == []
    )
    assert [path for path in Path("/proc").glob("[0-9]*/cmdline") if cages.project.encode() in _read(path)] == []


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes() if path.parent.name != str(os.getpid()) else b""
    except OSError:
        return b""


def test_goes_on_unheard(ended: Mapping[str, Ran]) -> None:
    ran = ended["silent"]
    assert (index(ran).ending.exit_code, ran.output) == (7, b"the last words\n")
    seconds = index(ran).ran_seconds
    assert seconds is not None and seconds > 1


def test_floods_the_log(ended: Mapping[str, Ran]) -> None:
    (kept,) = [one for one in index(ended["flood"]).kept if one.path == "stdout.log"]
    assert kept.truncated and kept.bytes <= 1 << 20
    assert ended["flood"].output.startswith(b"the first words\n")
    assert index(ended["flood"]).ending.exit_code == 3


def test_records_of_its_own(ended: Mapping[str, Ran]) -> None:
    """They are in its output, as it wrote them, and nowhere else."""
    ran = ended["forger"]
    assert b"forged.example.net" in ran.output
    assert index(ran).egress is None and index(ran).ending.exit_code == 4
    others = [one.path for one in index(ran).kept if one.path not in ("stdout.log", "profile.yaml", "inspect.json")]
    assert [path for path in others if b"forged" in ran.kept(path)] == []


def test_commands_for_the_terminal(ended: Mapping[str, Ran], cages: Cages, cli: Cli) -> None:
    """A pipe gets what the agent wrote, less the commands that a job's log would follow; a terminal gets text."""
    raw = b"\x1b]52;c;aGFjaw==\x07\x1b[2J\x1b[H\n::add-mask::x\n::set-env name=PATH::/tmp\n"
    assert ended["escapes"].output == raw
    cages.profile({"escapes": alone("escapes")})
    ran = cli("run", "-f", "sandbox.yaml", "escapes", cwd=cages.directory, env={"GITHUB_ACTIONS": "true"})
    assert ran.code == 0, ran.err
    assert "aGFjaw==" in ran.out
    assert not [line for line in (ran.out + ran.err).splitlines() if line.startswith("::")]
    shown = _on_a_terminal("run", "-f", "sandbox.yaml", "escapes", cwd=cages.directory)
    assert b"\x1b" not in shown and b"\x07" not in shown and b"aGFjaw==" in shown


def _on_a_terminal(*arguments: str, cwd: Path) -> bytes:
    """All that the command line writes to its terminal."""
    process, terminal = pty.fork()
    if process == 0:
        os.chdir(cwd)
        command = [sys.executable, "-m", "sandboxrun", *arguments]
        os.execve(sys.executable, command, {**os.environ, "NO_COLOR": "1", "TERM": "dumb"})
    seen = b""
    with contextlib.suppress(OSError):  # how the end of a terminal shows
        while piece := os.read(terminal, 65536):
            seen += piece
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 0, seen
    return seen


def test_the_evidence_holds_after_all_of_them(ended: Mapping[str, Ran], cages: Cages) -> None:
    assert verify_chain(cages.store) == ()
    lines = (cages.store.path / "chain.jsonl").read_bytes().splitlines()
    assert len(lines) >= len(ended) and all(json.loads(line) for line in lines)
