"""The command line, in this process, on an engine in memory."""

from __future__ import annotations

import errno
import io
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from sandboxrun import __version__
from sandboxrun.backend.fake import Fake, World
from sandboxrun.cli.main import main
from sandboxrun.errors import ApplyError
from sandboxrun.evidence import retention
from sandboxrun.lifecycle.job import Job
from sandboxrun.spec import labels
from tests.conftest import Ran
from tests.scenarios.world import IMAGE

PROFILE = f"""\
name: tale
sandboxes:
  agent: {{image: "{IMAGE}", network_mode: none, command: [sh, -c, "echo a; exit 3"]}}
"""
Say = Callable[..., tuple[int, str]]


@pytest.fixture
def say(in_process: Callable[..., Ran], here: Path) -> Say:
    """Runs a command; its code and what it printed."""
    (here / "sandbox.yaml").write_text(PROFILE)

    def run(*arguments: str) -> tuple[int, str]:
        ran = in_process(*arguments)
        return ran.code, ran.out

    return run


def test_a_run_prints_the_output_and_exits_with_the_agents_code(say: Say, world: World) -> None:
    assert say("run", "agent") == (3, "a\n")
    assert world.boxes == {}


@pytest.mark.parametrize(
    ("words", "advice"),
    [
        (("echo", "hi"), "for a command write: sandboxrun run -- echo hi"),
        (("agent", "ls", "/"), "for a command write: sandboxrun run agent -- ls /"),
        (("agnt",), 'did you mean "agent"?'),
    ],
)
def test_words_of_a_command_without_its_dashes(
    in_process: Callable[..., Ran], say: Say, world: World, words: tuple[str, ...], advice: str
) -> None:
    ran = in_process("run", *words)
    wrong = next(word for word in words if word != "agent")
    assert (ran.code, ran.err) == (125, f'error: there is no sandbox "{wrong}"\n  help: {advice}\n')
    assert world.boxes == {}


def test_an_artifact_that_is_not_there_is_missing(in_process: Callable[..., Ran], say: Say, here: Path) -> None:
    (here / "sandbox.yaml").write_text(PROFILE.replace("network_mode", "evidence: {artifacts: [/r]}, network_mode"))
    assert "artifact /r (it does not exist)" in in_process("run").err


def test_what_an_engine_counts_of_the_whole_machine_is_no_sandboxs_usage(
    in_process: Callable[..., Ran], world: World, here: Path
) -> None:
    """Rootless, under control groups of version 1, it has none."""
    world.offers = structs.replace(world.offers, usage=False)
    (here / "sandbox.yaml").write_text(PROFILE.replace("exit 3", "sleep 1; exit 3"))
    said = in_process("run").err
    assert "missing:  usage (the engine has no control groups, which count it)" in said and "memory" not in said


def test_whom_a_user_inside_is_on_the_host_is_not_guessed(
    in_process: Callable[..., Ran], world: World, here: Path
) -> None:
    (here / "ws").mkdir(mode=0o755)
    (here / "sandbox.yaml").write_text(
        PROFILE.replace("network_mode", "workspace: {source: ws, access: rw}, network_mode")
    )
    warned = "warning: agent: the sandbox's user 1000:1000 can't write to the workspace"
    assert warned in in_process("plan").err
    world.offers = structs.replace(world.offers, maps_users=True)
    assert warned not in in_process("plan").err


@pytest.mark.parametrize("command", [("plan",), ("run",), ("apply", "-y"), ("apply", "-y", "--wait")])
def test_who_joins_a_network_without_a_gateway_is_warned(
    command: tuple[str, ...], in_process: Callable[..., Ran], here: Path
) -> None:
    (here / "sandbox.yaml").write_text(PROFILE.replace("network_mode: none", "networks: [default]"))
    warned = "warning: agent: on default it has no gateway: it reaches everything that the engine's host reaches"
    assert in_process(*command).err.count(warned) == 1


def test_apply_with_wait_runs_it_once(say: Say, world: World) -> None:
    assert say("plan", "--detailed-exitcode")[0] == 2
    assert say("apply", "-y", "--wait")[0] == 3
    assert say("plan", "--detailed-exitcode")[0] == 0
    assert say("apply", "-y", "--wait")[0] == 3  # by the record
    assert len(world.removed) == 1


def test_apply_with_wait_tells_how_it_ended_and_what_could_not_be_cleared_away(
    in_process: Callable[..., Ran], world: World, here: Path
) -> None:
    (here / "sandbox.yaml").write_text(PROFILE.replace("agent:", "old:"))
    assert in_process("apply", "-y").code == 0
    (here / "sandbox.yaml").write_text(PROFILE)

    def fail(fake: Fake, step: Any) -> None:
        if step.id == "remove old":
            raise ApplyError("it went wrong")

    world.before = fail
    ran = in_process("apply", "-y", "--wait")
    assert ran.code == 125 and ran.err.endswith("error: old: it went wrong\n")
    assert "\nagent: failed with exit 3" in ran.out
    assert [box.labels["sandboxrun.sandbox"] for box in world.boxes.values()] == ["old"]


def test_an_end_is_told_with_the_limit_it_had(say: Say, tmp_path: Path) -> None:
    limits = PROFILE.replace("exit 3", "tail /dev/zero").replace("command:", "mem_limit: 64m, command:")
    (tmp_path / "sandbox.yaml").write_text(limits)
    assert say("apply", "-y")[0] == 0
    (tmp_path / "sandbox.yaml").write_text(limits.replace("64m", "128m"))
    code, text = say("apply", "-y")
    assert code == 0 and "agent: killed for exceeding its memory limit of 64m (exit 137)" in text


def test_what_was_not_started_is_listed_as_that(say: Say, tmp_path: Path) -> None:
    path = tmp_path / "sandbox.yaml"
    path.write_text(PROFILE.replace("[sh,", "[nothere,").replace("command:", "lifetime: {timeout: 1h}, command:"))
    assert say("apply", "-y")[0] == 0
    assert say("ps")[1].splitlines()[1].split()[:3] == ["agent", "not", "started"]


def test_destroy_leaves_nothing(say: Say, world: World) -> None:
    say("apply", "-y")
    assert say("destroy", "-y")[0] == 0
    assert (world.boxes, world.volumes, world.networks) == ({}, {}, {})


def test_a_project_is_listed_and_destroyed_without_its_profile(say: Say, world: World, tmp_path: Path) -> None:
    (tmp_path / "sandbox.yaml").write_text(PROFILE.replace("exit 3", "sleep 60"))
    say("apply", "-y")
    (tmp_path / "sandbox.yaml").unlink()
    code, text = say("ps", "--all-projects")
    assert (code, [line.split()[:3] for line in text.splitlines()[1:]]) == (0, [["tale", "agent", "running"]])
    (one,) = json.loads(say("ps", "--all-projects", "--json")[1])
    assert (one["project"], one["address"], one["state"]) == ("tale", "agent", "running")
    assert say("destroy", "-y", "--project", "Tale")[0] == 2
    assert say("destroy", "-y", "--project", "other")[1].startswith("Nothing to destroy.")
    assert len(world.boxes) == 1
    assert say("destroy", "-y", "--project", "tale")[0] == 0
    assert (world.boxes, world.volumes, world.networks) == ({}, {}, {})
    assert len(list((tmp_path / ".sandboxrun/evidence").glob("*-tale-agent-*"))) == 1
    assert say("ps", "--all-projects") == (0, "")


class Answering(io.StringIO):
    """A terminal at which somebody has typed."""

    def isatty(self) -> bool:
        return True


def test_yes_is_not_enough_for_what_another_directory_made(
    say: Say, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sandbox.yaml").write_text(PROFILE.replace("exit 3", "sleep 60"))
    assert say("apply", "-y")[0] == 0
    (elsewhere := tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(elsewhere)
    (elsewhere / "sandbox.yaml").write_text(PROFILE)
    before = dict(world.boxes)
    for command in ("apply", "destroy"):
        for options in (["-y"], ["-y", "--json"], [], ["--take-over"]):
            code, text = say(command, *options)
            assert code == (1 if "-y" in options else 2), text
    for answer, code, left in (("n\n", 1, 1), ("y\n", 0, 0)):
        assert world.boxes == before
        monkeypatch.setattr("sys.stdin", Answering(answer))
        assert (say("destroy")[0], len(world.boxes)) == (code, left)


@pytest.mark.parametrize("command", [["apply", "-y", "--take-over"], ["destroy", "-y", "--project", "tale"]])
def test_what_another_directory_made_can_be_named(
    say: Say, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: list[str]
) -> None:
    (tmp_path / "sandbox.yaml").write_text(PROFILE.replace("exit 3", "sleep 60"))
    assert say("apply", "-y")[0] == 0
    (elsewhere := tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(elsewhere)
    (elsewhere / "sandbox.yaml").write_text(PROFILE.replace("agent", "mine"))
    assert say(*command)[0] == 0
    assert "agent" not in [box.labels[labels.SANDBOX] for box in world.boxes.values()]


def test_reap_collects_what_has_ended_and_masks_what_the_profile_knows(
    say: Say, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOKEN", "s3cr3t-value")
    (tmp_path / "sandbox.yaml").write_text(
        PROFILE.replace("echo a;", "echo s3cr3t-value;") + "secrets: {token: {environment: TOKEN}}\n"
    )
    say("apply", "-y")
    for box in world.boxes.values():
        box.wait(10)
    code, out = say("reap")
    assert code == 0 and out.startswith("Reaped tale/agent: failed with exit 3, ")
    (log,) = (tmp_path / ".sandboxrun/evidence").glob("*/stdout.log")
    assert "s3cr3t-value" not in log.read_text() and world.boxes == {}
    assert say("reap", "--project", "tale") == (0, "Nothing to reap.\n")
    assert say("reap", "--project", "Tale")[0] == 2
    assert say("reap", "--project", "tale", "--all")[0] == 2


def test_what_has_run_does_not_run_again_for_its_evidence_was_removed(say: Say, world: World, tmp_path: Path) -> None:
    assert say("apply", "-y", "--wait")[0] == 3
    assert say("run", "agent")[0] == 3  # newer, and so the first one may go
    assert say("evidence", "prune", "--keep", "1", "-y")[0] == 0
    assert len(list((tmp_path / ".sandboxrun/evidence").glob("*/index.json"))) == 1
    assert say("plan", "--detailed-exitcode")[0] == 0
    assert say("evidence", "verify")[0] == 0


@pytest.mark.parametrize("access", ["copy", "ro"])
def test_the_index_says_what_was_run_by_what_and_where(
    say: Say, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, access: str
) -> None:
    commit = "0123456789abcdef" * 2 + "01234567"
    (tmp_path / ".git/refs/heads").mkdir(parents=True)
    (tmp_path / ".git/HEAD").write_text("ref: refs/heads/main\n")
    (tmp_path / ".git/refs/heads/main").write_text(f"{commit}\n")
    monkeypatch.setenv("SANDBOXRUN_JOB", "nightly-4")
    workspace = f"workspace: {{source: ., target: /workspace, access: {access}}}, "
    (tmp_path / "sandbox.yaml").write_text(PROFILE.replace("network_mode", f"{workspace}network_mode"))
    assert say("run", "agent")[0] == 3
    found = json.loads(say("evidence", "show", "last", "--json")[1])["index"]
    assert found["format_version"] == "1.1" and found["tool_version"] == __version__
    assert (found["git"]["commit"], found["git"]["branch"]) == (commit, "main")
    assert found["job"] == {"system": "custom", "id": "nightly-4"}
    shown = say("evidence", "show", "last")[1]
    assert f"    git:      {commit} on main" in shown and "    job:      custom nightly-4" in shown


def test_reap_removes_old_evidence_too(
    say: Say, world: World, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*line: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    for _ in range(3):
        say("run", "agent")
    kept = tmp_path / ".sandboxrun/evidence"
    assert len(list(kept.glob("*-tale-agent-*"))) == 3
    assert say("reap", "--evidence-max-size", "1g")[0] == 0 and len(list(kept.glob("*-tale-agent-*"))) == 3
    code, text = say("reap", "--json", "--evidence-older-than", "0s")
    assert (code, len(json.loads(text)["pruned"][0]["removed"])) == (0, 2)
    assert len(list(kept.glob("*-tale-agent-*"))) == 1  # the newest of a project stays
    capfd.readouterr()
    assert main(["reap", "--evidence-max-size", "1b"]) == 1
    assert f"error: the evidence in {kept} is still " in (said := capfd.readouterr().err)
    assert " larger than its limit\n  help: the newest run of each project stays" in said
    monkeypatch.setattr(retention, "_append", full)
    say("run", "agent")
    capfd.readouterr()
    assert main(["reap", "--evidence-older-than", "0s"]) == 1
    told = capfd.readouterr()
    assert told.out == "Nothing to reap.\n"  # what was reaped is told all the same
    assert told.err == f"error: old evidence in {kept} can't be removed: No space left on device\n"
    assert say("reap", "--all", "--evidence-max-size", "1g")[0] == 2
    assert say("reap", "--dry-run", "--evidence-max-size", "1g")[0] == 2


@pytest.mark.parametrize("command", [("run",), ("apply", "-y", "--wait")])
def test_an_engine_that_went_away_is_reported_with_what_stays_on_it(
    command: tuple[str, ...], in_process: Callable[..., Ran], say: Say, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def vanish(job: Job, *arguments: object, **options: object) -> None:
        job._engine.world.gone = True  # type: ignore[attr-defined]
        job._engine.clock()

    monkeypatch.setattr(Job, "collect", vanish)
    ran = in_process(*command)
    assert ran.code == 125 and len(world.boxes) == 1
    assert ran.err.endswith(
        "error: still on the engine, as far as is known: agent\n"
        "  help: once the engine answers, run `sandboxrun reap`: it saves the evidence, then removes what is left\n"
    )
