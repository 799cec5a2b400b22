"""What is said of a workspace's revision, of repositories in every state, and that nothing of theirs is run."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from sandboxrun.evidence.index import Revision
from sandboxrun.evidence.revision import revision_of

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="there is no git")


@pytest.fixture(autouse=True)
def _identity(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{name}_NAME", "a")
        monkeypatch.setenv(f"GIT_{name}_EMAIL", "a@example.com")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)


def git(at: Path, *arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(at), *arguments], check=True, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """One commit on `main`, nothing else."""
    top = tmp_path / "repository"
    (top / "part").mkdir(parents=True)
    for name in ("file", "part/other"):
        (top / name).write_text(f"{name}\n")
    (top / ".gitignore").write_text("*.log\n")
    git(top, "init", "-q", "-b", "main")
    git(top, "add", "-A")
    git(top, "commit", "-q", "-m", "first")
    return top


def clean(repository: Path) -> Revision:
    return Revision(commit=git(repository, "rev-parse", "HEAD"), branch="main", dirty=False, untracked=False)


def test_a_clean_tree(repository: Path) -> None:
    (repository / "ignored.log").touch()
    os.utime(repository / "file")  # looks changed, and is not
    assert revision_of(repository) == revision_of(repository / "part") == clean(repository)


@pytest.mark.parametrize(
    ("change", "dirty", "untracked"),
    [
        (lambda top: (top / "file").write_text("other\n"), True, False),
        (lambda top: (top / "file").unlink(), True, False),
        (lambda top: (top / "new").touch(), False, True),
        (lambda top: git(top, "rm", "-q", "--cached", "file"), True, True),
        (lambda top: ((top / "file").write_text("staged\n"), git(top, "add", "file")), True, False),
    ],
    ids=["changed", "removed", "new", "untracked", "staged"],
)
def test_a_tree_with_changes(repository: Path, change: Callable[[Path], object], dirty: bool, untracked: bool) -> None:
    change(repository)
    found = revision_of(repository)
    assert found is not None and (found.dirty, found.untracked) == (dirty, untracked)
    assert revision_of(repository / "part") == clean(repository)  # of the workspace's own part alone


def test_heads_in_every_form(repository: Path, tmp_path: Path) -> None:
    commit = clean(repository).commit
    git(repository, "pack-refs", "--all")
    assert revision_of(repository) == clean(repository)
    git(repository, "checkout", "-q", "-b", "a/b")
    assert revision_of(repository).branch == "a/b"  # type: ignore[union-attr]
    git(repository, "worktree", "add", "-q", str(tmp_path / "tree"), "-b", "beside")
    assert revision_of(tmp_path / "tree") == Revision(commit=commit, branch="beside", dirty=False, untracked=False)
    git(repository, "checkout", "-q", "--detach")
    assert revision_of(repository) == Revision(commit=commit, branch=None, dirty=False, untracked=False)
    git(repository, "checkout", "-q", "--orphan", "empty")
    assert revision_of(repository) == Revision(branch="empty")
    git(repository, "clone", "-q", "--bare", ".", str(tmp_path / "bare"))
    assert revision_of(tmp_path / "bare") is None and revision_of(tmp_path) is None


def test_nothing_that_the_repository_names_is_run(repository: Path, tmp_path: Path) -> None:
    """Filters, fsmonitor, hooks, an included file: as a checkout that was packed with its `.git` would bring them."""
    ran = tmp_path / "ran"
    program = tmp_path / "program"
    program.write_text(f"#!/bin/sh\ntouch {ran}\ncat\n")
    program.chmod(0o755)
    (tmp_path / "more").write_text(f'[filter "evil"]\n\tclean = {program}\n\tprocess = {program}\n')
    for key, value in (
        ("filter.evil.clean", program), ("filter.evil.smudge", program), ("filter.evil.required", "true"),
        ("core.fsmonitor", program), ("core.hooksPath", tmp_path), ("include.path", tmp_path / "more"),
        ("core.pager", program), ("diff.external", program), ("core.worktree", tmp_path), ("core.sshCommand", program),
    ):  # fmt: skip
        git(repository, "config", key, str(value))
    (repository / ".git/info/attributes").write_text("* filter=evil diff=evil\n")
    (repository / "file").write_text("evil\n")
    os.utime(repository / "part/other")
    found = revision_of(repository)
    assert found is not None and found.dirty is True and found.branch == "main"
    assert not ran.exists()


def test_nothing_is_written_to_the_repository(repository: Path) -> None:
    (repository / "file").write_text("other\n")
    before = {path: path.stat().st_mtime_ns for path in (repository / ".git").rglob("*")}
    revision_of(repository)
    assert {path: path.stat().st_mtime_ns for path in (repository / ".git").rglob("*")} == before


def test_switches_of_the_configuration_count(repository: Path) -> None:
    git(repository, "config", "core.fileMode", "false")
    (repository / "file").chmod(0o755)
    assert revision_of(repository) == clean(repository)


def test_a_repository_of_sha256(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q", "-b", "main", "--object-format=sha256")
    (tmp_path / "file").touch()
    git(tmp_path, "add", "file")
    git(tmp_path, "commit", "-q", "-m", "x")
    assert revision_of(tmp_path) == clean(tmp_path) and len(clean(tmp_path).commit or "") == 64


@pytest.mark.parametrize(
    ("break_it", "expected"),
    [
        (lambda git: (git / "HEAD").write_text("ref: refs/heads/../../../etc/passwd\n"), Revision()),
        (lambda git: (git / "HEAD").write_bytes(b"\xff\x00"), Revision()),
        (lambda git: ((git / "HEAD").unlink(), os.mkfifo(git / "HEAD")), Revision()),
        (lambda git: ((git / "HEAD").unlink(), (git / "HEAD").symlink_to("/dev/zero")), Revision()),
        (lambda git: (git / "refs/heads/main").write_text("not a commit"), Revision(branch="main")),
        (lambda git: (git.rename(git.parent / "moved"), git.symlink_to(git.parent / "moved")), None),
        (lambda git: (git.rename(git.parent / "moved"), git.write_text("gitdir: /nonexistent\n")), Revision()),
    ],
    ids=["above", "bytes", "fifo", "link", "no commit", "linked directory", "nowhere"],
)
def test_what_is_broken_is_not_known(
    repository: Path, break_it: Callable[[Path], object], expected: Revision | None
) -> None:
    break_it(repository / ".git")
    assert revision_of(repository) == expected


@pytest.mark.parametrize("how", ["giant", "nonsense", "no objects", "no git"])
def test_the_commit_is_known_where_files_can_t_be_compared(
    repository: Path, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = clean(repository).commit
    match how:
        case "giant":
            os.truncate(repository / ".git/index", 1 << 40)
        case "nonsense":
            (repository / ".git/index").write_bytes(b"DIRC" + b"\xff" * 1000)
        case "no objects":
            shutil.rmtree(repository / ".git/objects")
        case _:
            monkeypatch.setenv("PATH", "/nonexistent")
    found = revision_of(repository)
    assert found is not None and (found.commit, found.branch, found.dirty) == (commit, "main", None)
