"""What an agent leaves for its reader: nothing in the evidence bites, and what would is told by name."""

from __future__ import annotations

import json
import os
import stat
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from sandboxrun.evidence.checking import verify_chain
from sandboxrun.evidence.store import RunResult
from sandboxrun.lifecycle.job import apply_and_wait
from sandboxrun.report.evidence import evidence_text
from tests.engine.world import World, open_world

SECRET = "hunter2-hunter2"


@pytest.fixture
def world(engine_host: str, project: str, tmp_path: Path, busybox: str) -> Iterator[World]:
    home = tmp_path / "home"
    (home / ".github/workflows").mkdir(parents=True)
    (home / "Makefile").write_text("all:\n")
    (home / "code").write_text("1\n")
    (home / "sandbox.yaml").write_text("")
    with open_world(engine_host, project, home, busybox) as opened:
        opened.environment["KEY"] = SECRET
        yield opened


def left_by(world: World, script: str, **options: Any) -> tuple[Path, Mapping[str, Any], str]:
    """What an agent leaves: the folder of its evidence, the index, and what a person is told of it."""
    command = ["sh", "-c", f"cd /workspace && {script}"]
    more = {"workspace": ".", "secrets": ["key"], "command": command, **options}
    profile = world.profile({"a": more}, secrets={"key": {"environment": "KEY"}})
    waited = apply_and_wait(world.engine, profile, world.store, settings=world._settings())
    (result,) = waited.results
    assert result.evidence is not None and result.evidence.folder is not None
    folder = result.evidence.folder
    assert verify_chain(world.store) == ()
    for path in folder.rglob("*"):
        mode = path.lstat().st_mode
        assert stat.S_ISDIR(mode) or (stat.S_ISREG(mode) and not mode & 0o7177), path
    told = evidence_text([RunResult(address="a", evidence=result.evidence)])
    return folder, json.loads((folder / "index.json").read_text()), told


def kept(folder: Path) -> set[str]:
    return {str(path.relative_to(folder / "artifacts")) for path in (folder / "artifacts").rglob("*") if path.is_file()}


HOSTILE = """
mkdir -p r/.git r/.GIT. r/sub/bare/objects r/sub/bare/refs r/deep
printf '[core]\\n\\tfsmonitor = "touch MARK; false"\\n' > r/.git/config
cp r/.git/config r/.GIT./config; cp r/.git/config r/sub/bare/config
echo 'ref: refs/heads/main' > r/.git/HEAD; cp r/.git/HEAD r/sub/bare/HEAD; cp r/.git/HEAD r/sub/bare/head
echo 1 > r/Case; echo 2 > r/case; echo 1 > "r/caf$(printf '\\303\\251')"; echo 2 > "r/cafe$(printf '\\314\\201')"
ln -s /etc/passwd r/link; ln -s ../../../.. r/up; ln r/Case r/hard; mkfifo r/fifo
echo x > r/suid; chmod 4755 r/suid
echo x > "r/$(cat /run/secrets/key)"
echo x > "r/new
line"
dd if=/dev/zero of=r/giant bs=1 count=0 seek=400M 2>/dev/null
d=r/deep; for i in $(seq 40); do d=$d/d; done; mkdir -p $d; echo x > $d/x
"""


def git_status(directory: Path) -> None:
    subprocess.run(["git", "-c", "safe.directory=*", "status"], cwd=directory, check=False, capture_output=True)


def test_artifacts_hold_nothing_that_bites(world: World, tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    script = HOSTILE.replace("MARK", str(mark))
    folder, index, told = left_by(world, script, evidence={"artifacts": ["/workspace/r"], "artifacts_limit": "8m"})
    reasons = {entry["path"]: entry["reason"] for entry in index["refused"] if entry["part"].startswith("artifact")}
    assert reasons.pop("r/fifo") == "a fifo" and reasons.pop("r/giant").startswith("larger than")
    assert reasons.pop("r/link") == reasons.pop("r/up") == "a symlink"
    assert reasons.pop("r/suid") == "a setuid or setgid file"
    assert reasons.pop("r/***") == "a name that holds a secret"
    assert reasons.pop("r/new\\nline") == "a name with control or undecodable characters"
    repository = "a repository: git on the host would run what is in it"
    for name in ("r/.git", "r/.GIT.", "r/sub/bare/HEAD", "r/sub/bare/head"):
        assert reasons.pop(name) == repository
    clash = "a name that some file systems treat as equal to another one here"
    clashes = [name for name, reason in reasons.items() if reason == clash]
    assert len(clashes) == 2
    rest = {name: reason for name, reason in reasons.items() if name not in clashes}
    assert set(rest.values()) <= {"nested too deep", "a hard link"} and len(rest) >= 2
    found = kept(folder)
    assert len([name for name in found if name.lower() == "workspace/r/case"]) == 1
    assert not any(".git" in name.lower() or name.lower().endswith("head") for name in found)
    assert SECRET not in (folder / "index.json").read_text() and SECRET not in told
    for above, _, _ in os.walk(folder):
        git_status(Path(above))
    assert not mark.exists()
    subprocess.run(["git", "init", "-q", tmp_path / "control"], check=True)
    (tmp_path / "control/.git/config").write_text(f'[core]\n\tfsmonitor = "touch {mark}; false"\n')
    git_status(tmp_path / "control")
    assert mark.exists()  # so that is what it would have been


def test_a_patch_that_changes_what_the_host_runs_says_so(world: World) -> None:
    script = (
        "echo evil > .github/workflows/x.yml; echo evil >> Makefile; chmod +x Makefile; mkdir -p app/.VSCode"
        "; echo evil > app/.VSCode/tasks.json; echo 2 > code; mkdir .git; echo evil > .git/config"
        "; ln -s /etc/passwd out; ln -s ../.. up; ln -s code fine"
    )
    folder, index, told = left_by(world, script)
    touched = [".github/workflows/x.yml", "Makefile", "app/.VSCode/tasks.json"]
    assert index["protected_paths_touched"] == touched
    assert f"the patch changes what the host runs: {', '.join(touched)}" in told
    assert {entry["path"] for entry in index["refused"]} == {"out", "up"}
    patch = (folder / "workspace.patch").read_text()
    assert "+2\n" in patch and ".git/config" not in patch and "passwd" not in patch
    assert json.loads((folder / "workspace-git.json").read_text())[0]["path"] == ".git/config"
    subprocess.run(["git", "apply", "--check", str(folder / "workspace.patch")], cwd=world.directory, check=True)


def test_a_patch_of_code_alone_has_nothing_to_say(world: World) -> None:
    _, index, told = left_by(world, "echo 2 > code")
    assert index["protected_paths_touched"] == [] and "careful" not in told


def test_secrets_are_masked_in_all_that_is_text_however_they_are_written(world: World) -> None:
    script = (
        "k=$(cat /run/secrets/key); echo plain $k; echo $k | base64; printf x$k | base64; echo $k | rev; "
        "printf $k | od -An -tx1 | tr -d ' \\n'; echo; touch /tmp/$k; mkdir -p /workspace/$k"
    )
    folder, _, _ = left_by(world, script)
    log = (folder / "stdout.log").read_text()
    assert log.startswith("plain ***\n***") and log.count("***") >= 5
    texts = "".join(path.read_text() for path in folder.iterdir() if path.is_file())
    for form in (SECRET, SECRET[::-1], SECRET.encode().hex()):
        assert form not in texts


RACE = """
cd /v; mkdir -p d; while true; do
  echo more >> d/grows; : > d/shrinks; dd if=/dev/zero of=d/shrinks bs=64k count=8 2>/dev/null
  rm -rf e; mv d e; ln -sfn /etc d; rm -f d; mv e d; ln -f d/grows d/hard; rm -f d/hard; mkfifo d/fifo; rm -f d/fifo
done
"""


def test_files_that_change_while_they_are_read_break_nothing(world: World) -> None:
    """Another sandbox goes on writing to the volume that the artifacts come from."""
    shared = {"volumes": ["v:/v"]}
    profile = world.profile(
        {
            "racer": {**shared, "command": ["sh", "-c", RACE]},
            "a": {**shared, "command": ["sleep", "1"], "evidence": {"artifacts": ["/v/d", "/v/d/grows", "/v"]},
                  "depends_on": ["racer"]},
        },
        volumes={"v": {}},
    )  # fmt: skip
    folders = []
    for _ in range(4):
        world.apply(profile, rerun=True)
        container = world.ids(profile)["a"]
        world.engine.wait_container(container)
        world.apply(profile)
        entry = [entry for entry in world.store.entries(world.project) if entry.sandbox == "a"][-1]
        index, folder = world.store.index(entry), world.store.path / entry.folder
        folders.append(folder)
        for path in (folder / "artifacts").rglob("*") if (folder / "artifacts").exists() else ():
            assert stat.S_ISDIR(path.lstat().st_mode) or stat.S_ISREG(path.lstat().st_mode)
            assert path.name in ("artifacts", "v", "d", "e", "grows", "shrinks", "hard"), path
        assert not any(kept.path.endswith(("passwd", "hostname")) for kept in index.kept)
    assert any((folder / "artifacts").exists() for folder in folders)
    assert len(set(folders)) == 4 and verify_chain(world.store) == ()
