"""The user's state directory: where it is, and what makes it the user's alone."""

from __future__ import annotations

import errno
import os
import resource
import signal
from pathlib import Path

import pytest
from msgspec import structs

from sandboxrun.backend.docker.observe import record_update
from sandboxrun.evidence import store as chain
from sandboxrun.evidence.checking import verify_chain
from sandboxrun.evidence.errors import EvidenceError
from sandboxrun.evidence.folder import Folder, open_state, state_fault, state_path
from sandboxrun.evidence.store import ChainEntry, Store, is_sealed, seal_of
from sandboxrun.evidence.workspace import stage_workspace
from tests.unit.evidence.test_store import record


def test_it_is_where_xdg_says_or_below_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/user")
    monkeypatch.setenv("XDG_STATE_HOME", "/var/state")
    assert state_path() == Path("/var/state/sandboxrun")
    for other in ("", "state", "./state"):
        monkeypatch.setenv("XDG_STATE_HOME", other)
        assert state_path() == Path("/home/user/.local/state/sandboxrun")


@pytest.mark.parametrize("home", ["", ".", "home", None])
def test_without_an_absolute_home_there_is_none(home: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would lie in the current directory, which may be a checkout."""
    monkeypatch.delenv("XDG_STATE_HOME")
    if home is not None:
        monkeypatch.setenv("HOME", home)
    else:
        monkeypatch.delenv("HOME")
        monkeypatch.setattr("pwd.getpwuid", lambda uid: {}[uid])  # a container whose user has no account
    with pytest.raises(EvidenceError, match="no state directory: neither XDG_STATE_HOME nor HOME is an absolute path"):
        open_state(create=True)


def test_a_state_directory_that_takes_no_more_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may be on another disk than the workspace that is copied and the evidence that is saved."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    project = tmp_path / "project"
    project.mkdir()
    (project / "large").write_bytes(bytes(100_000))
    store = Store(project_directory=project)
    with store.staging("early", engine="e"):
        pass
    steps = (
        lambda: seal_of(b"x"),
        lambda: stage_workspace(store, "early", project, uid=0, gid=0, engine="e"),
        lambda: stage_workspace(store, "late", project, uid=0, gid=0, engine="e"),
        lambda: record_update(store, "early", "spec", engine="e"),
    )
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    for step in steps:
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (1, before[1]))
            with pytest.raises(EvidenceError) as raised:
                step()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert (
            raised.value.diagnostics[0].message == f"the state directory {state_path()} can't be used: File too large"
        )
    full = state_fault(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
    assert full.diagnostics[0].help == "make room there"


def test_what_others_may_write_to_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "new/state"))
    seal = seal_of(b"x")
    path = state_path()
    assert path.stat().st_mode & 0o777 == 0o700 and is_sealed(b"x", seal)
    path.chmod(0o750)
    with pytest.raises(EvidenceError, match=f"^error: the state directory {path} is open to other users\n"):
        open_state()
    path.chmod(0o700)
    path.rename(path.with_name("moved"))
    path.symlink_to("moved")
    with pytest.raises(EvidenceError, match="is a symlink or a file, not a directory"):
        open_state(create=True)
    if os.geteuid() == 0:
        path.unlink()
        path.mkdir(0o700)
        os.chown(path, 1000, 1000)
        with pytest.raises(EvidenceError, match="belongs to user 1000"):
            open_state(create=True)


def test_a_place_that_is_no_directory_or_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "absent"))
    with pytest.raises(FileNotFoundError):
        open_state("staging")
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file/below"))
    with pytest.raises(EvidenceError, match=r"the state directory .* can't be used: Not a directory"):
        open_state(create=True)


def test_one_that_somebody_removes_as_empty_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another job collects what is empty just when it was made."""
    opened, removed = os.open, 0

    def late(path: str, *given: int, dir_fd: int | None = None) -> int:
        nonlocal removed
        if path == "staging" and removed < 3:
            removed += 1
            os.rmdir(path, dir_fd=dir_fd)
        return opened(path, *given, dir_fd=dir_fd)

    with Folder.at(tmp_path) as folder:
        monkeypatch.setattr(os, "open", late)
        with folder.enter("staging", create=True) as made:
            assert removed == 3 and made.names() == []
        with pytest.raises(FileNotFoundError):
            folder.enter("other")


def test_the_project_must_not_hold_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "project").mkdir()
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "project/state"))
    store = Store(project_directory=tmp_path / "project")
    with pytest.raises(EvidenceError, match=r"lies in the project's directory .*, where a checkout can bring it"):
        store.check()
    assert not (tmp_path / "project/state").exists()
    (entry,) = [chain.ChainEntry.from_line(_line(tmp_path / "project", "r1"))]
    assert is_sealed(entry.body, entry.seal) and not store.is_own(entry)


def test_one_that_comes_to_lie_in_the_project_is_found_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However often it was found to lie apart before."""
    for name in ("project", "elsewhere", "apart"):
        (tmp_path / name).mkdir()
    link = tmp_path / "link"
    link.symlink_to("elsewhere")
    monkeypatch.setenv("XDG_STATE_HOME", str(link))
    store = Store(project_directory=tmp_path / "project")
    entry = record(store, "run-1")
    assert store.is_own(entry) and (tmp_path / "elsewhere/sandboxrun").is_dir()
    (tmp_path / "elsewhere").rename(tmp_path / "project/brought")
    link.unlink()
    link.symlink_to("project/brought")
    with pytest.raises(EvidenceError, match="lies in the project's directory"):
        store.state()
    link.unlink()
    link.symlink_to("apart")
    with store.state(create=True) as state:
        assert state.names() == []
    link.unlink()
    link.symlink_to("project/brought")
    with pytest.raises(EvidenceError, match="lies in the project's directory"):
        store.state()
    assert not store.is_own(entry)


def _line(project: Path, run: str) -> bytes:
    """A line of the chain with a good seal."""
    store = Store(project_directory=project.parent / "other")
    store.project_directory.mkdir()
    record(store, run)
    return (store.path / chain.NAME).read_bytes()


def test_a_line_that_is_not_this_users_does_not_say_that_a_run_was_captured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else its container would be removed, and its evidence never kept."""
    store = Store(project_directory=tmp_path / "project")
    store.project_directory.mkdir()
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "attacker"))
    planted = record(store, "run-1", text=b"planted")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "victim"))
    assert store.entry("run-1") is None
    kept = record(store, "run-1", text=b"real")
    assert kept.folder != planted.folder and store.entry("run-1") == kept
    with store.open(kept, "stdout.log") as file:
        assert file.read() == b"real"


@pytest.mark.parametrize("folder", ["..", "a/b", "a\0b", "\ud800", ""])
def test_a_folder_that_has_no_such_name(folder: str, tmp_path: Path) -> None:
    store = Store(project_directory=tmp_path)
    line = record(store, "run-1").to_line()
    entry = ChainEntry.from_line(line)
    planted = structs.replace(entry, run="run-2", folder=folder)
    with (store.path / chain.NAME).open("ab") as file:
        file.write(planted.to_line())
    assert "not a folder's name" in [problem.problem for problem in verify_chain(store)]
    with pytest.raises(EvidenceError, match="not a path in the evidence"):
        store.index(planted)


def test_a_chain_without_end_is_an_error(tmp_path: Path) -> None:
    store = Store(project_directory=tmp_path)
    store.path.mkdir(parents=True)
    (store.path / chain.NAME).touch()
    os.truncate(store.path / chain.NAME, 1 << 40)
    with pytest.raises(EvidenceError, match=r"chain.jsonl is larger than 128 MiB"):
        store.entries()
    with pytest.raises(EvidenceError, match=r"chain.jsonl is larger than 128 MiB"):
        store.check()


@pytest.mark.parametrize("named", [False, True], ids=["unnamed drafts", "named drafts"])
def test_a_file_is_written_whole_or_not_at_all(named: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if named:
        monkeypatch.delattr(os, "O_TMPFILE")
    with Folder.at(tmp_path) as folder:
        folder.write("a", b"1")
        folder.write("a", b"2")
        with pytest.raises(FileExistsError):
            folder.write("a", b"3", replace=False)
        (tmp_path / "directory").mkdir()
        with pytest.raises(OSError):
            folder.write("directory", b"4")
    assert (tmp_path / "a").read_bytes() == b"2" and (tmp_path / "a").stat().st_mode & 0o777 == 0o600
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "directory"]


def test_a_kill_while_a_file_is_written_leaves_nothing(tmp_path: Path) -> None:
    child = os.fork()
    if child == 0:
        os.fsync = lambda fd: os.kill(os.getpid(), signal.SIGKILL)
        try:
            with Folder.at(tmp_path) as folder:
                folder.write("a", b"1")
        finally:
            os._exit(1)
    assert os.WIFSIGNALED(os.waitpid(child, 0)[1])
    assert list(tmp_path.iterdir()) == []
