"""A workspace's copy is what is on the disk, or plan and run say how it is not; its patch applies there."""

from __future__ import annotations

import json
import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import Cli

GIT = ["git", "-c", "user.name=x", "-c", "user.email=x@example.org", "-c", "init.defaultBranch=main"]


@pytest.fixture
def source(tmp_path: Path) -> Iterator[Path]:
    """A repository with everything odd that one may hold."""
    source = tmp_path / "ws"
    (source / "deep/er").mkdir(parents=True)
    (source / "empty").mkdir()
    (source / "notes.md").write_text("draft\n")
    (source / "run.sh").write_text("#!/bin/sh\n")
    (source / "run.sh").chmod(0o755)
    (source / "key").write_text("k\n")
    (source / "key").chmod(0o600)
    os.link(source / "notes.md", source / "deep/second-name")
    links = {"lint": "/opt/tools/lint", "shared": "../../../../../shared", "current": "/workspace/notes.md"}
    links |= {"deep/er/up": "../../../../../../../etc", "loop": "loop", "gone": "gone/too", "chain": "lint"}
    for name, target in links.items():
        (source / name).symlink_to(target)
    for name in (b"new\nline", b"\xff-not-utf-8", b"esc\x1b[1m", b"Case", b"case", "ü".encode()):
        (source / os.fsdecode(name)).write_text("1\n")
    for words in (["init", "-q"], ["add", "-A"], ["commit", "-qm1"]):
        subprocess.run([*GIT, *words], cwd=source, check=True)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(source / ".git/ipc"))
        os.mkfifo(source / "deep/pipe")
        yield source


def profile(cli: Cli, project: str, image: str, script: str, workspace: str = "{source: ws}", more: str = "") -> None:
    command = json.dumps(["sh", "-c", script])
    (cli.cwd / "sandbox.yaml").write_text(
        f"name: {project}\nsandboxes:\n  a:\n    image: {image}\n    egress: none\n    {more}\n"
        f"    workspace: {workspace}\n    command: {command}\n"
    )


def evidence(cli: Cli) -> Path:
    (folder,) = (cli.cwd / ".sandboxrun/evidence").glob("*-a-*")
    return folder


SAID = """\
sandbox.yaml:7:16: notice: a: workspace ./ws: not copied: .git/ipc (socket), deep/pipe (fifo)
  7 |     workspace: {source: ws}
    |                ^^^^^^^^^^^^
"""


def test_a_copy_is_what_is_on_the_disk(cli: Cli, project: str, agent_image: str, source: Path, tmp_path: Path) -> None:
    script = (
        "git status --porcelain; readlink lint shared current deep/er/up loop gone chain; stat -c '%n %a' run.sh key"
        "; rm shared; mkdir shared; echo 1 > shared/x; ln -sfn notes.md current; rm lint; echo own > lint; rm chain"
        "; echo fixed > notes.md; rmdir empty; echo 1 > empty; rm -r deep; echo 1 > deep; ln -s /etc out"
    )
    profile(cli, project, agent_image, script)
    planned = cli("plan")
    assert SAID in planned.err and "which resolve in the container: chain" not in planned.err
    ran = cli("run")
    assert SAID in ran.err and ran.code == 0
    assert ran.out == (
        "/opt/tools/lint\n../../../../../shared\n/workspace/notes.md\n../../../../../../../etc\nloop\ngone/too\nlint\n"
        "run.sh 755\nkey 600\n"
    )
    index = json.loads((evidence(cli) / "index.json").read_text())
    assert index["not_copied"] == [".git/ipc (socket)", "deep/pipe (fifo)"]
    assert "not copied: .git/ipc (socket), deep/pipe (fifo)" in ran.err
    assert {entry["path"]: entry["reason"] for entry in index["refused"]} == {
        "deep": "the source has a directory of that name, not all of which is in the copy or the patch",
        "out": "a symlink to an absolute path",
    }
    for check in (["--check"], []):
        subprocess.run(["git", "apply", *check, evidence(cli) / "workspace.patch"], cwd=source, check=True)
    assert (source / "lint").read_text() == "own\n" and (source / "shared/x").read_text() == "1\n"
    assert os.readlink(source / "current") == "notes.md" and not os.path.lexists(source / "chain")
    assert (source / "empty").read_text() == "1\n" and (source / "deep/pipe").is_fifo()
    assert (source / "notes.md").read_text() == "fixed\n" and not (source / "deep/second-name").exists()


def test_a_copy_in_memory_has_the_links_too(cli: Cli, project: str, busybox: str, tmp_path: Path) -> None:
    (tmp_path / "ws").mkdir()
    (tmp_path / "ws/out").symlink_to("../../../../../../etc/passwd")
    profile(cli, project, busybox, "readlink out; head -c4 out", "{source: ws, size: 4m}")
    ran = cli("run")
    assert (ran.code, ran.out) == (0, "../../../../../../etc/passwd\nroot")


def test_nothing_is_made_of_a_workspace_that_cannot_be_copied(cli: Cli, project: str, busybox: str) -> None:
    deep = cli.cwd / "ws"
    for _ in range(103):
        deep = deep / "d"
    deep.mkdir(parents=True)
    profile(cli, project, busybox, "true")
    for words, code in ((["plan"], 1), (["run"], 125), (["apply", "-y"], 1)):
        ran = cli(*words)
        assert (ran.code, "the workspace is nested too deep" in ran.err) == (code, True), ran.err
        assert "creat" not in ran.err


def test_a_worktree_is_reported_by_plan_in_every_form(cli: Cli, project: str, busybox: str) -> None:
    for words in (["init", "-q", "main"], ["-C", "main", "commit", "-q", "--allow-empty", "-m1"]):
        subprocess.run([*GIT, *words], cwd=cli.cwd, check=True)
    subprocess.run(["git", "-C", "main", "worktree", "add", "-q", "../ws", "-b", "side"], cwd=cli.cwd, check=True)
    profile(cli, project, busybox, "true")
    said = (
        f"a: workspace ./ws: .git is a file that points to {cli.cwd}/main/.git/worktrees/ws, which is not copied: "
        "git will not work inside"
    )
    assert f"sandbox.yaml:7:16: warning: {said}\n" in cli("plan").err
    assert f"::warning title=sandboxrun,file=sandbox.yaml,line=7,col=16,endColumn=28::{said}" in cli(
        "plan", "--format", "github"
    ).out.replace("%0Ause a clone", "\n")
    assert "#### Warnings" in cli("plan", "--format", "markdown").out
    (warning,) = json.loads(cli("plan", "--json").out)["sandboxrun"]["warnings"]
    assert (warning["severity"], warning["summary"]) == ("warning", said)
    lines = [json.loads(line) for line in cli("apply", "-y", "--wait", "--json").out.splitlines()]
    assert [one["diagnostic"]["summary"] for one in lines if one["type"] == "diagnostic"] == [said]
    profile(cli, project, busybox, "true", "{source: ws, access: ro}")
    assert f"warning: {said.replace('./ws', str(cli.cwd / 'ws')).replace('copied', 'mounted')}\n" in cli("run").err
    assert "git will not" not in cli("run", "-q").err


def test_a_saved_plan_does_not_rest_on_its_warnings(cli: Cli, project: str, busybox: str) -> None:
    (cli.cwd / "ws").mkdir()
    profile(cli, project, busybox, "true")
    assert cli("plan", "--out", "p").code == 0
    os.mkfifo(cli.cwd / "ws/pipe")
    ran = cli("apply", "p", "-y", "--wait")
    assert (ran.code, "not copied: pipe (fifo)" in ran.err) == (0, True)


def test_an_artifact_that_is_a_socket_is_refused_by_name(cli: Cli, project: str, agent_image: str) -> None:
    (cli.cwd / "ws").mkdir()
    script = "python3 -c 'import socket; socket.socket(socket.AF_UNIX).bind(\"s\")'"
    profile(cli, project, agent_image, script, more="evidence: {artifacts: [/workspace/s]}")
    assert cli("run").code == 0
    index = json.loads((evidence(cli) / "index.json").read_text())
    assert index["refused"] == [{"part": "artifact /workspace/s", "path": "/workspace/s", "reason": "a socket"}]
