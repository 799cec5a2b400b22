"""`lifetime.idle`: a sandbox that falls silent is ended by whatever watches it, one that goes on writing is not; and
`lifetime.ttl`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.conftest import Cli


@pytest.fixture
def profile(project: str, busybox: str, tmp_path: Path) -> Path:
    sandbox = {"image": busybox, "network_mode": "none", "lifetime": {"idle": "3s"}}
    silent = {**sandbox, "command": ["sh", "-c", "echo begun; sleep 600"]}
    busy = {**sandbox, "command": ["sh", "-c", "timeout 8 sh -c 'while :; do :; done'; exit 0"]}
    lively = {**sandbox, "command": ["sh", "-c", "for i in 1 2 3 4 5 6 7 8; do echo $i; sleep 1; done"]}
    path = tmp_path / "sandbox.yaml"
    path.write_text(json.dumps({"name": project, "sandboxes": {"silent": silent, "lively": lively, "busy": busy}}))
    return path


@pytest.mark.parametrize("command", [("run",), ("apply", "--wait", "--yes")], ids=["run", "apply"])
def test_silence_ends_a_sandbox(command: tuple[str, ...], profile: Path, cli: Cli) -> None:
    ran = cli(*command)
    assert ran.code == 124, ran.err
    assert "silent: stopped: no output and no CPU use for 3s (exit 124)" in ran.out + ran.err
    assert "no output and no CPU use for 3s" in ran.out + ran.err
    assert "lively: completed (exit 0)" in ran.out + ran.err
    assert "busy: completed (exit 0)" in ran.out + ran.err
    shown = cli("evidence", "show", "silent")
    assert shown.out.startswith("silent: stopped: no output and no CPU use for as long as its idle says (exit 124)")
    (log,) = (profile.parent / ".sandboxrun" / "evidence").glob("*-silent-*/stdout.log")
    assert log.read_text() == "begun\n"


def test_wait_ends_it_too(profile: Path, cli: Cli) -> None:
    assert cli("apply", "--yes").code == 0
    waited = cli("wait")
    assert waited.code != 0 and "silent" in waited.out
    destroyed = cli("destroy", "--yes")
    assert destroyed.code == 0, destroyed.err


@pytest.mark.parametrize("command", ["run", "apply --wait --yes", "wait"])
def test_the_ttl_ends_a_sandbox(command: str, project: str, busybox: str, tmp_path: Path, cli: Cli) -> None:
    sandbox = {"image": busybox, "network_mode": "none", "command": ["sleep", "600"], "lifetime": {"ttl": "3s"}}
    (tmp_path / "sandbox.yaml").write_text(json.dumps({"name": project, "sandboxes": {"agent": sandbox}}))
    if command == "wait":
        assert cli("apply", "--yes").code == 0
    ran = cli(*command.split())
    assert ran.code == 124, ran.err
    if command == "wait":
        collected = cli("apply", "--yes")
        assert collected.code == 0 and "agent: stopped after its ttl (exit 124)" in collected.out + collected.err
    else:
        assert "agent: stopped after its ttl of 3s (exit 124)" in ran.out + ran.err
    assert cli("evidence", "show", "agent").out.startswith("agent: stopped after its ttl (exit 124)")
