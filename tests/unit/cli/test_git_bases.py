"""Revisions to compare with and to trust, in every kind of repository; and what a hostile one makes git do: nothing."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sandboxrun.lifecycle import git as reading

from .conftest import Say

NARROW = "name: p\nsandboxes:\n  agent:\n    image: busybox:1\n    egress: none\n"
WIDE = NARROW.replace("none", "open")
WIDENED = "+ WIDENED  network: agent may now reach every public host, was nothing"


def git(directory: Path, *arguments: str) -> str:
    """What git prints, run as the tests' own user."""
    names = ["-c", "user.name=t", "-c", "user.email=t@example.com", "-c", "protocol.file.allow=always"]
    done = subprocess.run(["git", *names, "-C", directory, *arguments], check=True, capture_output=True, text=True)
    return done.stdout.strip()


def commit(directory: Path, text: str | None = None) -> None:
    """A commit with everything that lies there, the profile with this text."""
    if text is not None:
        (directory / "sandbox.yaml").write_text(text)
    git(directory, "add", "-A")
    git(directory, "commit", "-q", "--allow-empty", "-m", "x")


def history(directory: Path, *arguments: str) -> Path:
    """A repository of two revisions: the second one opens the network."""
    directory.mkdir(parents=True, exist_ok=True)
    git(directory, "init", "-q", "-b", "main", *arguments)
    commit(directory, NARROW)
    commit(directory, WIDE)
    return directory


# -- kinds of repositories


def plain(top: Path) -> Path:
    return history(top / "plain")


def sha256(top: Path) -> Path:
    return history(top / "sha256", "--object-format=sha256")


def packed(top: Path) -> Path:
    made = history(top / "packed")
    git(made, "gc", "-q", "--aggressive")
    git(made, "pack-refs", "--all")
    assert not (made / ".git/refs/heads/main").exists()
    return made


def worktree(top: Path) -> Path:
    git(history(top / "main"), "worktree", "add", "-q", str(top / "tree"), "-b", "other")
    return top / "tree"


def alternates(top: Path) -> Path:
    history(top / "lender")
    git(top, "clone", "-q", "--shared", str(top / "lender"), str(top / "borrower"))
    assert (top / "borrower/.git/objects/info/alternates").is_file()
    return top / "borrower"


def submodule(top: Path) -> Path:
    history(top / "inner")
    outer = history(top / "outer")
    git(outer, "submodule", "add", "-q", str(top / "inner"), "part")
    commit(outer)
    return outer / "part"


def deep(top: Path) -> Path:
    history(top / "deep")
    git(top, "clone", "-q", "--depth", "2", f"file://{top}/deep", str(top / "shallow"))
    return top / "shallow"


def separate(top: Path) -> Path:
    return history(top / "separate", f"--separate-git-dir={top}/elsewhere.git")


KINDS = (plain, sha256, packed, worktree, alternates, submodule, deep, separate)


@pytest.mark.parametrize("kind", KINDS)
def test_a_base_in_every_kind_of_repository(
    kind: Callable[[Path], Path], say: Say, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(kind(tmp_path))
    said = say("audit", "--base", "HEAD~1", "--fail-on", "never")
    assert said.code == 0, said.err
    assert said.out.startswith(WIDENED)
    assert say("diff", "HEAD~1:sandbox.yaml", "HEAD:sandbox.yaml").out.startswith(WIDENED)
    (Path.cwd() / "sandboxrun-policy.yaml").write_text("rules: {'SBX*': off}\n")
    assert say("audit", "--fail-on", "medium").code == 0
    assert say("audit", "--fail-on", "medium", "--trust-ref", "HEAD").code == 1


def test_a_submodule_is_compared_with_its_commit_of_the_base(
    say: Say, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the repository's own directory, wherever the first profile lies; and in a submodule of a submodule."""
    part = submodule(tmp_path)
    inner = submodule(tmp_path / "more")
    git(part, "checkout", "-q", "HEAD~1")
    git(part, "submodule", "add", "-q", str(tmp_path / "more/inner"), "deeper")
    git(part / "deeper", "checkout", "-q", "HEAD~1")
    commit(part)
    outer = part.parent
    (outer / "sandbox.yaml").unlink()
    (outer / "z").mkdir()
    (outer / "z/sandbox.yaml").write_text(NARROW)
    commit(outer)
    monkeypatch.chdir(outer)
    assert inner.is_dir() and say("audit", "--base", "HEAD", ".", "--fail-on-widening", "--fail-on", "never").code == 0
    (part / "sandbox.yaml").write_text(WIDE)
    (part / "deeper/sandbox.yaml").write_text(WIDE)
    said = say("audit", "--base", "HEAD", ".", "--fail-on-widening", "--fail-on", "never")
    assert said.code == 1
    told = [line.partition("  ")[2].strip() for line in said.out.splitlines() if "WIDENED" in line]
    words = "network: agent may now reach every public host, was nothing"
    assert told == [f"{words}  part/deeper/sandbox.yaml:5:13", f"{words}  part/sandbox.yaml:5:13"]


def no_checkout(part: Path) -> None:
    """Its files are the outer repository's own now."""
    (part / ".git").unlink()


def objects_of_ones_own(part: Path) -> None:
    """What a sandbox can do that writes to a working tree: point it to a repository with other objects of that name."""
    git(part.parent, "clone", "-q", str(part), str(part.parent / ".venv"))  # no directory that is looked through
    (part / ".git").write_text("gitdir: ../.venv/.git\n")


def lost_objects(part: Path) -> None:
    """A shallow one."""
    git(part, "checkout", "-q", "--orphan", "other")
    git(part, "commit", "-q", "-m", "x")
    git(part, "branch", "-D", "main", "-q")
    git(part, "remote", "remove", "origin")
    git(part, "reflog", "expire", "--expire=now", "--all")
    git(part, "gc", "-q", "--prune=now")


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (no_checkout, "it is not checked out"),
        (objects_of_ones_own, "its objects are not in"),
        (lost_objects, "the repository cannot be read: "),
    ],
)
def test_a_submodule_that_cannot_be_compared_is_named(
    change: Callable[[Path], None], why: str, say: Say, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = submodule(tmp_path)
    change(part)
    monkeypatch.chdir(part.parent)
    said = say("audit", "--base", "HEAD", ".", "--fail-on-widening", "--fail-on", "never")
    assert said.code == 1, said.err
    assert f"? MAYBE    files: agent was not compared: the submodule part cannot be read: {why}" in said.out
    assert "is new" not in said.out


# -- what is not there


def test_a_partial_clone_is_named_and_fetches_nothing(
    say: Say, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    origin = history(tmp_path / "origin")
    git(origin, "config", "uploadpack.allowFilter", "true")
    clone = tmp_path / "clone"
    git(tmp_path, "clone", "-q", "--filter=blob:none", f"file://{origin}", str(clone))
    mark = tmp_path / "fetched"
    git(clone, "config", "remote.origin.uploadpack", f"touch {mark}; git-upload-pack")
    monkeypatch.chdir(clone)
    said = say("audit", "--base", "HEAD~1")
    assert said.code == 3
    assert "this clone is partial" in said.err
    assert not mark.exists()
    for command in (["--trust-ref", "HEAD~1"], ["--base", "HEAD~1", "--trust-ref", "HEAD~1"]):
        assert say("audit", *command).code == 3
    assert not mark.exists()


def test_a_shallow_clone_is_named(say: Say, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    history(tmp_path / "deep")
    git(tmp_path, "clone", "-q", "--depth", "1", f"file://{tmp_path}/deep", str(tmp_path / "shallow"))
    monkeypatch.chdir(tmp_path / "shallow")
    for option in ("--base", "--trust-ref"):
        said = say("audit", option, "HEAD~1")
        assert said.code == 3
        assert "this clone is shallow" in said.err


def test_a_lender_that_is_gone_is_an_error(say: Say, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(alternates(tmp_path))
    (tmp_path / "lender").rename(tmp_path / "away")
    said = say("audit", "--base", "HEAD~1")
    assert said.code == 3
    assert "bug" not in said.err


def test_a_worktree_whose_repository_is_gone_is_an_error(
    say: Say, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(worktree(tmp_path))
    (tmp_path / "main").rename(tmp_path / "away")
    said = say("audit", "--base", "HEAD~1")
    assert said.code == 3
    assert "not a git repository" in said.err


# -- what is gone since


@pytest.mark.parametrize("keep", [True, False])
def test_a_file_that_is_gone_is_narrower(keep: bool, say: Say, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    top = history(tmp_path / "plain")
    (top / "more").mkdir()
    (top / "more/compose.yaml").write_text("services: {web: {image: busybox:1}}\n")
    (top / "more/broken.yaml").write_text("sandboxes: {b: {imag: x}}\n")
    (top / "more/kept.yaml").write_text("sandboxes: {k: {image: busybox:1}}\n")
    commit(top)
    for name in ("compose.yaml", "broken.yaml", *(() if keep else ("kept.yaml",))):
        (top / "more" / name).unlink()
    monkeypatch.chdir(top)
    said = say("audit", "--base", "HEAD", "more" if keep else ".", "--fail-on", "never", "--fail-on-widening")
    assert said.code == 0, said.err
    gone = [line for line in said.out.splitlines() if line.startswith("-")]
    assert gone == [
        "- NARROWED sandbox: more/broken.yaml is no longer declared: more/broken.yaml is gone",
        "- NARROWED sandbox: web is no longer declared: more/compose.yaml is gone",
        *([] if keep else ["- NARROWED sandbox: k is no longer declared: more/kept.yaml is gone"]),
    ]


def test_the_only_file_that_is_gone(say: Say, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    top = history(tmp_path / "plain")
    (top / "sandbox.yaml").unlink()
    monkeypatch.chdir(top)
    said = say("audit", "--base", "HEAD")
    assert (said.code, said.out.splitlines()[0]) == (
        0,
        "- NARROWED sandbox: agent is no longer declared: sandbox.yaml is gone",
    )


# -- names


@pytest.mark.parametrize("kind", ["tag", "branch"])
def test_a_name_that_somebody_else_took_is_refused(
    kind: str, say: Say, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """git takes a tag before a branch of that name, and both before one of a remote."""
    history(tmp_path / "origin")
    git(tmp_path, "clone", "-q", str(tmp_path / "origin"), str(tmp_path / "clone"))
    git(tmp_path / "clone", kind, "origin/main", "HEAD")
    monkeypatch.chdir(tmp_path / "clone")
    for name in ("origin/main", "origin/main~1", "origin/main^{commit}"):
        said = say("audit", "--trust-ref", name)
        assert said.code == 3
        assert "has several meanings" in said.err
    assert say("audit", "--trust-ref", "refs/remotes/origin/main", "--fail-on", "never").code == 0


def test_a_branch_called_like_a_commit_is_refused(say: Say, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    top = history(tmp_path / "plain")
    short = git(top, "rev-parse", "--short=8", "HEAD~1")
    monkeypatch.chdir(top)
    assert say("audit", "--base", short, "--fail-on", "never").code == 0
    git(top, "branch", short, "HEAD")
    assert "has several meanings" in say("audit", "--base", short).err


@pytest.mark.parametrize(
    "name", ["--help", "-h", "", "a\nb", "HEAD:sandbox.yaml", "HEAD^{tree}", "*", "refs/*", "@{-1}"]
)
def test_what_is_no_commit(name: str, say: Say, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(history(tmp_path / "plain"))
    said = say("audit", "--base", name)
    assert said.code == 3
    assert "Traceback" not in said.err
    assert "is not a revision" in said.err or "has no revision" in said.err


# -- a hostile repository


def configuration(repository: Path, mark: Path) -> None:
    """All that git could be told to run, by the repository's own configuration and by files that it includes."""
    run = f"touch {mark}; true"
    more = repository / ".git/more"
    keys = (
        "core.fsmonitor core.sshCommand core.pager core.editor core.askPass core.gitProxy core.alternateRefsCommand "
        "diff.external diff.x.command diff.x.textconv filter.x.smudge filter.x.clean filter.x.process "
        "credential.helper gpg.program uploadpack.packObjectsHook receive.procReceiveRefs alias.rev-parse "
        "alias.cat-file alias.ls-tree trace2.eventTarget pager.ls-tree interactive.diffFilter"
    )
    more.write_text("")
    for key in keys.split():
        git(repository, "config", "--file", str(more), key, f"!{run}" if key.startswith("alias") else run)
    git(repository, "config", "include.path", str(more))
    git(repository, "config", "extensions.partialClone", "origin")
    git(repository, "config", "core.repositoryFormatVersion", "1")
    git(repository, "config", "remote.origin.url", f"ext::sh -c touch% {mark}")
    git(repository, "config", "remote.origin.promisor", "true")
    (repository / ".gitattributes").write_text("* filter=x diff=x\n")
    hooks = repository / ".git/hooks"
    hooks.mkdir(exist_ok=True)
    for name in ("post-checkout", "reference-transaction", "post-index-change", "fsmonitor-watchman"):
        (hooks / name).write_text(f"#!/bin/sh\n{run}\n")
        (hooks / name).chmod(0o755)


def lose_objects(repository: Path) -> None:
    """Take the contents of all files away, which git would fetch from where its configuration says."""
    for line in git(repository, "cat-file", "--batch-all-objects", "--batch-check").splitlines():
        name, kind, _ = line.split()
        if kind == "blob":
            (repository / ".git/objects" / name[:2] / name[2:]).unlink()


@pytest.mark.parametrize(
    ("lost", "kind"), [(False, plain), (False, sha256), (False, worktree), (False, submodule), (True, plain)]
)
def test_no_configuration_runs_anything(
    lost: bool, kind: Callable[[Path], Path], say: Say, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, mark = kind(tmp_path), tmp_path / "ran"
    shown = Path(git(here, "rev-parse", "--git-common-dir"))
    directory = shown if shown.is_absolute() else here / shown
    shell = tmp_path / "shell"
    shell.mkdir()
    (shell / ".git").symlink_to(directory.resolve())
    if lost:
        lose_objects(here)
    configuration(shell, mark)
    mark.unlink(missing_ok=True)
    monkeypatch.chdir(here)
    said = say("audit", "--base", "HEAD~1", "--trust-ref", "HEAD~1", "--fail-on", "never")
    assert said.code == (3 if lost else 0), said.err
    assert not mark.exists()


@pytest.mark.parametrize(
    "name", ["HEAD", "config", "packed-refs", "objects/info/alternates", "refs/heads/main", "commondir", "shallow"]
)
def test_a_fifo_in_a_repository_ends(name: str, say: Say, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """git waits for somebody who writes to it: for a while."""
    monkeypatch.setattr(reading, "_TIMEOUT", 0.5)
    here = history(tmp_path / "plain")
    place = here / ".git" / name
    place.unlink(missing_ok=True)
    os.mkfifo(place)
    monkeypatch.chdir(here)
    said = say("audit", "--base", "main~1")
    assert "bug" not in said.err
    if said.code != 3:  # a git that does not look at this one
        assert said.out


def loop_of_alternates(repository: Path) -> None:
    (repository / ".git/objects/info/alternates").write_text(f"{repository}/.git/objects\n" * 1000)


def rubbish(repository: Path) -> None:
    for path in (repository / ".git/objects").rglob("*"):
        if path.is_file():
            path.chmod(0o644)
            path.write_bytes(b"x" * 1000)


def no_head(repository: Path) -> None:
    (repository / ".git/HEAD").write_text("ref: refs/heads/../../../../../etc/passwd\n")


def links(repository: Path) -> None:
    (repository / ".git/refs/heads/main").unlink()
    (repository / ".git/refs/heads/main").symlink_to("/etc/passwd")


def huge_reference(repository: Path) -> None:
    (repository / ".git/refs/heads/main").write_text("a" * 10_000_000)


def other_format(repository: Path) -> None:
    (repository / ".git/config").write_text("[core]\n\trepositoryformatversion = 99\n")


def broken_configuration(repository: Path) -> None:
    (repository / ".git/config").write_bytes(b"[\xff\x00" * 1000)


BROKEN = (loop_of_alternates, rubbish, no_head, links, huge_reference, other_format, broken_configuration)
HARMLESS = (loop_of_alternates, no_head)  # for a revision that is named otherwise


@pytest.mark.parametrize("broken", BROKEN)
def test_a_broken_repository_is_an_error_by_name(
    broken: Callable[[Path], Any], say: Say, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = history(tmp_path / "plain")
    broken(here)
    monkeypatch.chdir(here)
    said = say("audit", "--base", "main~1", "--fail-on", "never")
    assert said.code == 3 or said.out.startswith(WIDENED)
    assert (said.code == 0) is (broken in HARMLESS), said.err
    assert "bug" not in said.err
    assert "/etc/passwd" not in said.err


def test_replaced_objects_are_not_believed(say: Say, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = history(tmp_path / "plain")
    old, new = git(here, "rev-parse", "HEAD~1:sandbox.yaml"), git(here, "rev-parse", "HEAD:sandbox.yaml")
    git(here, "replace", old, new)
    git(here, "replace", git(here, "rev-parse", "HEAD~1"), git(here, "rev-parse", "HEAD"))
    monkeypatch.chdir(here)
    assert say("audit", "--base", "HEAD~1", "--fail-on", "never").out.startswith(WIDENED)


def test_links_of_a_revision_are_not_followed(say: Say, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = submodule(tmp_path).parent
    (here / "sandbox.yaml").unlink()
    (here / "sandbox.yaml").symlink_to(tmp_path / "inner/sandbox.yaml")
    (here / "directory").symlink_to("/etc")
    commit(here)
    for path in (here / "sandbox.yaml", here / "directory"):
        path.unlink()
    (here / "sandbox.yaml").write_text(WIDE)
    monkeypatch.chdir(here)
    said = say("audit", "--base", "HEAD", "sandbox.yaml", "--fail-on", "never")
    assert "+ WIDENED  sandbox: agent is new  sandbox.yaml" in said.out


@pytest.mark.parametrize("path", ["../escape.yaml", ".git/config.yaml", ".GIT/x.yaml", "a/../b.yaml", "a//b.yaml"])
def test_a_tree_with_paths_that_no_checkout_has(
    path: str, say: Say, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = history(tmp_path / "plain")
    blob = git(here, "rev-parse", "HEAD:sandbox.yaml")
    first, *rest = path.split("/", 1)
    inner = _tree(here, {rest[0]: ("100644", blob)}) if rest else blob
    made = git(here, "commit-tree", "-m", "x", _tree(here, {first: ("40000", inner)}))
    monkeypatch.chdir(here)
    said = say("audit", "--base", made)
    assert said.code == 3
    assert "a path that no checkout would have" in said.err or "cannot be read" in said.err
    assert not (tmp_path / "escape.yaml").exists()


def _tree(here: Path, entries: dict[str, tuple[str, str]]) -> str:
    """A tree object written as it is, whatever its names."""
    data = b"".join(
        f"{mode} {name}".encode() + b"\0" + bytes.fromhex(object_id) for name, (mode, object_id) in entries.items()
    )
    command = ["git", "-C", str(here), "hash-object", "-t", "tree", "-w", "--stdin", "--literally"]
    return subprocess.run(command, input=data, check=True, capture_output=True).stdout.decode().strip()
