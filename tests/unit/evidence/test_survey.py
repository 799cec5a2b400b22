"""What is said of a workspace before a sandbox has it."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from msgspec import structs

from sandboxrun.evidence.errors import EvidenceError
from sandboxrun.evidence.survey import View, survey_bind, survey_copy, survey_mount
from sandboxrun.evidence.workspace import WorkspaceLimits

VIEW = View(target="/workspace")
GIT = {"GIT_CONFIG_NOSYSTEM": "1", "HOME": "/nonexistent", "PATH": os.environ["PATH"]}
GIT |= {f"GIT_{who}_{what}": "x@example.org" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
CLONE = "use a clone as the workspace: `git clone --no-local SOURCE DIRECTORY`"


def git(*words: str, at: Path) -> None:
    subprocess.run(
        ["git", "-c", "init.defaultBranch=main", "-c", "protocol.file.allow=always", *words],
        cwd=at,
        check=True,
        env=GIT,
    )


def repository(at: Path) -> Path:
    at.mkdir()
    git("init", "-q", at=at)
    (at / "a").write_text("1\n")
    git("add", "-A", at=at)
    git("commit", "-qm1", at=at)
    return at


@contextmanager
def listening(path: Path) -> Iterator[None]:
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(str(path))
        yield


def copied(source: Path, view: View = VIEW, exclude: tuple[str, ...] = ()) -> list[str]:
    return [f"{note.severity}: {note.message}" for note in survey_copy(source, view, exclude, exclude)]


def mounted(source: Path, view: View = VIEW) -> list[str]:
    return [f"{note.severity}: {note.message}" for note in survey_mount(source, view)]


def test_a_plain_directory_has_nothing_to_say(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("1")
    (tmp_path / "to").symlink_to("a")
    (tmp_path / "back").symlink_to("/workspace/a")
    (tmp_path / ".sandboxrun").mkdir()
    assert copied(tmp_path) == mounted(tmp_path) == []


def test_what_does_not_go_along_is_listed(tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "deep").mkdir(parents=True)
    os.mkfifo(source / "deep/pipe")
    for n in range(8):
        (source / f"{n}.log").write_text("")
    (source / "tool").write_text("")
    (source / "tool").chmod(0o4755)
    for name, target in {"abs": "/etc/passwd", "deep/up": "../../x", "esc\x1b": "/e", "fine": "deep/../tool"}.items():
        (source / name).symlink_to(target)
    with listening(source / "sock"):
        assert copied(source, exclude=("*.log",)) == [
            "notice: excluded: 0.log, 1.log, 2.log, 3.log, 4.log and 3 more",
            "notice: not copied: deep/pipe (fifo), sock (socket)",
            "notice: symlinks to places outside of the workspace, which resolve in the container: "
            "abs -> /etc/passwd, deep/up -> ../../x, esc\\x1b -> /e",
            "notice: copied without their setuid and setgid bits: tool",
        ]
        assert mounted(source) == [
            "warning: sockets, fifos or devices, and the sandbox may reach the programs behind them: deep/pipe, sock"
        ]
        assert [note.message for note in survey_bind(source)] == [
            "sockets, fifos or devices, and the sandbox may reach the programs behind them: deep/pipe, sock"
        ]
        assert survey_bind(source / "tool") == []


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        (WorkspaceLimits(files=1), "the workspace {} holds more than 1 files"),
        (WorkspaceLimits(bytes=3), "the workspace {} holds more than 3 bytes"),
    ],
)
def test_what_cannot_be_copied_is_an_error_before_anything_is_made(
    limits: WorkspaceLimits, message: str, tmp_path: Path
) -> None:
    (tmp_path / "a").write_text("12")
    (tmp_path / ".git").write_text("12")  # a file, as in a worktree, and as large as any
    with pytest.raises(EvidenceError) as caught:
        survey_copy(tmp_path, VIEW, (), (), limits)
    assert [d.message for d in caught.value.diagnostics] == [message.format(tmp_path)]


def test_a_file_that_cannot_be_read_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").write_text("12")
    monkeypatch.setattr(os, "access", lambda *_, **__: False)
    with pytest.raises(EvidenceError, match="a cannot be read: Permission denied"):
        survey_copy(tmp_path, VIEW, (), ())


def worktree(tmp: Path) -> tuple[Path, str]:
    git("worktree", "add", "-q", "../tree", "-b", "side", at=repository(tmp / "main"))
    return tmp / "tree", f".git is a file that points to {tmp}/main/.git/worktrees/tree"


def separate(tmp: Path) -> tuple[Path, str]:
    git("init", "-q", f"--separate-git-dir={tmp}/away", str(tmp / "it"), at=tmp)
    return tmp / "it", f".git is a file that points to {tmp}/away"


def submodule(tmp: Path) -> tuple[Path, str]:
    repository(tmp / "sub")
    git("submodule", "--quiet", "add", str(tmp / "sub"), "in/sub", at=repository(tmp / "main"))
    return tmp / "main/in/sub", ".git is a file that points to ../../.git/modules/in/sub"


def linked(tmp: Path) -> tuple[Path, str]:
    repository(tmp / "main").joinpath(".git").rename(tmp / "moved")
    (tmp / "main/.git").symlink_to("../moved")
    return tmp / "main", ".git is a symlink that points to ../moved"


def shared(tmp: Path) -> tuple[Path, str]:
    git("clone", "-q", "--shared", str(repository(tmp / "main")), str(tmp / "clone"), at=tmp)
    return tmp / "clone", f".git borrows objects from {tmp}/main/.git/objects"


def moved_worktree(tmp: Path) -> tuple[Path, str]:
    git("config", "core.worktree", str(tmp), at=repository(tmp / "main"))
    return tmp / "main", f"core.worktree in .git/config is {tmp}"


def common(tmp: Path) -> tuple[Path, str]:
    (repository(tmp / "main") / ".git/commondir").write_text("../../other\n")
    return tmp / "main", ".git belongs to ../../other"


@pytest.mark.parametrize("make", [worktree, separate, submodule, linked, shared, moved_worktree, common])
def test_a_repository_that_needs_something_from_outside(
    make: Callable[[Path], tuple[Path, str]], tmp_path: Path
) -> None:
    source, what = make(tmp_path)
    assert copied(source) == [f"warning: {what}, which is not copied: git will not work inside"]
    assert mounted(source) == [f"warning: {what}, which is not mounted: git will not work inside"]
    there = View(target="/workspace", mounts=("/", "/moved"))
    assert mounted(source, structs.replace(VIEW, mounts=(str(tmp_path), "/"))) == copied(source, there) == []


def test_a_repository_that_is_whole(tmp_path: Path) -> None:
    repository(tmp_path / "sub")
    main = repository(tmp_path / "main")
    git("submodule", "--quiet", "add", str(tmp_path / "sub"), "in/sub", at=main)
    git("config", "core.hooksPath", ".githooks", at=main)
    assert copied(main) == mounted(main) == []
    git("clone", "-q", "--depth=1", f"file://{main}", str(tmp_path / "shallow"), at=tmp_path)
    assert copied(tmp_path / "shallow") == []
    assert copied(main, exclude=(".git/modules",)) == [
        "notice: excluded: .git/modules",
        "warning: in/sub/.git is a file that points to ../../.git/modules/in/sub, which is not copied: "
        "git will not work inside",
    ]
    (main / ".git").rename(tmp_path / "gone")
    assert copied(main / "in", exclude=("sub",)) == ["notice: excluded: sub"]


def test_less_than_git_itself(tmp_path: Path) -> None:
    main = repository(tmp_path / "main")
    (main / ".gitattributes").write_text("*.bin filter=lfs diff=lfs -text\n*.x filter=own\n")
    (main / ".git/config").write_text(
        '[core]\n\thooksPath = ~/hooks ; mine\n[filter "own"] clean = cat\n[remote "origin"]\n\tpromisor = true\n'
    )
    assert copied(main) == [
        "notice: core.hooksPath in .git/config is ~/hooks, which is not copied: no hooks run inside",
        "notice: .git is a partial clone: git inside fetches objects that are missing, and fails without a network",
        "notice: .gitattributes names the git filter lfs, which .git/config does not define: "
        "without it git inside shows such files as modified",
    ]
    (main / "part").mkdir()
    assert copied(main / "part") == [
        f"notice: part of the git repository {main}, whose .git is not copied: git does not work inside"
    ]
    assert [note.help for note in survey_copy(main / "part", VIEW, (), ())] == [
        "apply a patch of it from there with `git apply --directory=part`"
    ]


def test_git_refuses_what_belongs_to_another_user(tmp_path: Path) -> None:
    main = repository(tmp_path / "main")
    owner = os.getuid()
    assert mounted(main, structs.replace(VIEW, uid=owner)) == mounted(main, VIEW) == []
    other = structs.replace(VIEW, uid=owner + 1)
    assert mounted(main, other) == [
        f"warning: .git belongs to user {owner} and the sandbox's user is {owner + 1}: git inside refuses it"
    ]
    assert copied(main, other) == mounted(main, structs.replace(other, trusting=True)) == []


@pytest.mark.parametrize("content", ["", "gitdir:", "gitdir: \0", "nothing", "\xff" * 5000])
def test_a_hostile_git_is_read_with_bounds(content: str, tmp_path: Path) -> None:
    (tmp_path / ".git").write_text(content)
    assert copied(tmp_path) == []
    (tmp_path / ".git").unlink()
    (tmp_path / ".git").mkdir()
    os.mkfifo(tmp_path / ".git/config")
    (tmp_path / ".git/commondir").symlink_to("/dev/zero")
    assert [note for note in copied(tmp_path) if "git will not" in note] == []
