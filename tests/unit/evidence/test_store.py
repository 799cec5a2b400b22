from __future__ import annotations

import json
import multiprocessing
import os
import stat
import threading
from pathlib import Path

import pytest

from sandboxrun.evidence import store as chain
from sandboxrun.evidence.checking import verify_chain
from sandboxrun.evidence.errors import EvidenceError
from sandboxrun.evidence.folder import RunFolder
from sandboxrun.evidence.store import ChainEntry, Store, last_line
from sandboxrun.spec.state import How
from tests.unit.evidence.stores import index, record


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(project_directory=tmp_path)


def problems(store: Store) -> list[str]:
    return [problem.problem for problem in verify_chain(store)]


def test_a_store_that_was_never_written_to_is_empty_and_stays_so(store: Store, tmp_path: Path) -> None:
    assert (store.entries(), verify_chain(store), last_line(store)) == ((), (), None)
    store.unstage("nothing")
    assert list(tmp_path.iterdir()) == []


def test_runs_are_kept_chained_and_closed_to_others(store: Store, tmp_path: Path) -> None:
    first, second = record(store, "run-1"), record(store, "run-2", how=How.OOM, spec="t")
    assert store.entries() == (first, second)
    lines = (store.path / "chain.jsonl").read_bytes().splitlines()
    assert first.previous is None and second.previous == chain.digest_of(lines[0])
    assert last_line(store) == chain.digest_of(lines[1])
    assert verify_chain(store) == ()
    assert (tmp_path / ".sandboxrun/.gitignore").read_text() == "*\n"
    modes = {stat.S_IMODE(p.stat().st_mode) for p in (tmp_path / ".sandboxrun").rglob("*")}
    assert modes == {0o600, 0o700}
    assert store.index(second).previous == second.previous
    with store.open(first, "artifacts/deep/x") as file:
        assert file.read() == b"run-1"


def test_a_run_captured_twice_is_one_entry(store: Store) -> None:
    first = record(store, "run-1", text=b"first")
    assert record(store, "run-1", text=b"second") == first
    assert store.entries() == (first,)
    with store.open(first, "stdout.log") as file:
        assert file.read() == b"first"


def test_a_capture_that_was_killed_is_done_again_in_its_folder(store: Store) -> None:
    with pytest.raises(KeyboardInterrupt), store.recording("run-1", "demo-agent") as folder:
        assert isinstance(folder, RunFolder)
        folder.write("half.txt", b"half")
        folder.folder.create(".partial-x")
        raise KeyboardInterrupt
    assert problems(store) == ["not recorded in the chain (an unfinished capture, or put there)"]
    entry = record(store, "run-1")
    assert {p.name for p in store.path.iterdir()} == {entry.folder, "chain.jsonl"}
    assert verify_chain(store) == ()


def test_killed_between_index_and_chain_is_done_again(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(ChainEntry, "to_line", killed)
        record(store, "run-1")
    record(store, "run-0")
    record(store, "run-1")
    assert verify_chain(store) == () and len(store.entries()) == 2


@pytest.mark.parametrize("cut", [1, 30])
def test_a_torn_last_line_is_told_and_mended(store: Store, cut: int) -> None:
    record(store, "run-1")
    record(store, "run-2")
    path = store.path / "chain.jsonl"
    path.write_bytes(path.read_bytes()[:-cut])
    assert "the last line of the chain is torn (a writer was killed)" in problems(store)
    record(store, "run-2")
    record(store, "run-3")
    assert [entry.run for entry in store.entries()] == ["run-1", "run-2", "run-3"]
    assert verify_chain(store) == ()


def test_a_line_that_cannot_be_written_whole_is_taken_back(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    record(store, "run-1")
    before = (store.path / "chain.jsonl").read_bytes()
    real = os.fsync

    def full(fd: int) -> None:
        if stat.S_ISREG(os.fstat(fd).st_mode) and os.fstat(fd).st_size > len(before):
            raise OSError(28, "No space left on device")
        real(fd)

    with monkeypatch.context() as patched, pytest.raises(OSError, match="No space"):
        patched.setattr(os, "fsync", full)
        with chain.opened_chain(store.open_root()) as opened:
            opened.append(lambda previous: ChainEntry.from_line(before.rstrip()))
    assert (store.path / "chain.jsonl").read_bytes() == before


@pytest.mark.parametrize("part", ["stdout.log", "index.json"])
def test_what_does_not_reach_the_disk_is_not_recorded(store: Store, part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.fsync

    def failing(fd: int) -> None:
        if os.readlink(f"/proc/self/fd/{fd}").endswith(f"/{part}"):
            raise OSError(5, "Input/output error")
        real(fd)

    with monkeypatch.context() as patched, pytest.raises(OSError, match="Input/output"):
        patched.setattr(os, "fsync", failing)
        record(store, "run-1")
    assert store.entries() == ()
    record(store, "run-1")
    assert verify_chain(store) == () and len(store.entries()) == 1


def test_an_index_that_is_there_is_whole(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    real, seen = os.fsync, list[int]()

    def looking(fd: int) -> None:
        for path in store.path.glob("*/index.json"):
            seen.append(len(json.loads(path.read_bytes())))
        real(fd)

    monkeypatch.setattr(os, "fsync", looking)
    record(store, "run-1")
    assert seen and all(seen)


def test_what_was_changed_is_found(store: Store) -> None:
    one, two, three, four = (record(store, f"run-{n}") for n in range(1, 5))
    (store.path / one.folder / "stdout.log").write_bytes(b"other")
    (store.path / one.folder / "more").write_bytes(b"")
    os.symlink("/etc/passwd", store.path / one.folder / "link")
    (store.path / two.folder / "artifacts/deep/x").unlink()
    body = json.loads((store.path / three.folder / "index.json").read_bytes())
    (store.path / three.folder / "index.json").write_text(json.dumps({**body, "run": "x"}))
    for path in sorted((store.path / four.folder).rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    (store.path / four.folder).rmdir()
    (store.path / "foreign").mkdir()
    assert [(p.folder, p.problem) for p in verify_chain(store)] == [
        (one.folder, "stdout.log was changed"),
        (one.folder, "link is not in the index"),
        (one.folder, "more is not in the index"),
        (two.folder, "artifacts/deep/x is missing"),
        (three.folder, "index.json was changed"),
        (four.folder, "the folder is missing"),
        ("foreign", "not recorded in the chain (an unfinished capture, or put there)"),
    ]


def test_a_chain_that_was_rewritten_is_found(store: Store) -> None:
    for run in ("run-1", "run-2", "run-3"):
        record(store, run)
    path = store.path / "chain.jsonl"
    one, two, three = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(one + three)
    assert problems(store)[0] == "line 2 does not follow the line before it"
    path.write_bytes(one.replace(b'"exited"', b'"failed"') + two + three)
    assert problems(store) == [
        "line 1 is not sealed with this user's key: it was changed, or is another user's",
        "its line in the chain differs from index.json in outcome",
        "line 2 does not follow the line before it",
    ]
    path.write_bytes(one + b"nonsense\n" + two)
    assert problems(store)[:2] == ["line 2 of the chain cannot be read", "line 3 does not follow the line before it"]
    path.write_bytes(one + one)
    assert "line 2 records a run a second time" in problems(store)
    assert [entry.run for entry in store.entries()] == ["run-1", "run-1"]
    evil = {**json.loads(one), "folder": "../x"}
    path.write_text(json.dumps(evil) + "\n")
    assert "not a folder's name" in problems(store)


def test_threads_record_side_by_side(store: Store) -> None:
    threads = [threading.Thread(target=record, args=(store, f"run-{n % 6}")) for n in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(entry.run for entry in store.entries()) == [f"run-{n}" for n in range(6)]
    assert verify_chain(store) == ()


def _record_many(base: Path, begin: int) -> None:
    for number in range(begin, begin + 4):
        record(Store(project_directory=base), f"run-{number}")


def test_processes_record_side_by_side(store: Store, tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_record_many, args=(tmp_path, begin)) for begin in (0, 2, 4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert sorted(entry.run for entry in store.entries()) == sorted(f"run-{n}" for n in range(8))
    assert verify_chain(store) == ()


def test_a_lock_that_is_never_released_is_an_error(store: Store) -> None:
    record(store, "run-1")
    with (
        store.open_root() as root,
        chain.opened_chain(root),
        pytest.raises(EvidenceError, match=r"locked .* for 0\.05 s"),
        store.recording("run-2", "x", wait=0.05),
    ):
        raise AssertionError("not reached")


@pytest.mark.parametrize("planted", [".sandboxrun", ".sandboxrun/evidence"])
def test_a_planted_symlink_is_refused_and_nothing_written_through_it(tmp_path: Path, planted: str) -> None:
    outside, project = tmp_path / "outside", tmp_path / "project"
    outside.mkdir()
    (project / planted).parent.mkdir(parents=True)
    os.symlink(outside, project / planted)
    store = Store(project_directory=project)
    with pytest.raises(EvidenceError, match="is a symlink or a file, not a directory"):
        record(store, "run-1")
    assert list(outside.iterdir()) == []


@pytest.mark.parametrize("kind", ["symlink", "fifo", "directory"])
def test_a_planted_chain_is_refused(store: Store, tmp_path: Path, kind: str) -> None:
    store.path.mkdir(parents=True)
    path, outside = store.path / "chain.jsonl", tmp_path / "outside"
    outside.write_bytes(b"")
    match kind:
        case "symlink":
            os.symlink(outside, path)
        case "fifo":
            os.mkfifo(path)
        case _:
            path.mkdir()
    with pytest.raises(EvidenceError, match=r"chain\.jsonl is not a regular file"):
        record(store, "run-1")
    assert outside.read_bytes() == b""


def test_a_planted_gitignore_is_left_alone(store: Store, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    (tmp_path / ".sandboxrun").mkdir()
    os.symlink(outside, tmp_path / ".sandboxrun/.gitignore")
    record(store, "run-1")
    assert not outside.exists()


def test_the_store_can_be_elsewhere(tmp_path: Path) -> None:
    project = tmp_path / "project"
    project.mkdir()
    inside = Store(project_directory=project, root=Path("out/evidence"))
    elsewhere = Store(project_directory=project, root=tmp_path / "a" / "b")
    for store in (inside, elsewhere):
        assert store.entries() == ()
        record(store, "run-1")
        assert verify_chain(store) == ()
    assert elsewhere.path == tmp_path / "a" / "b" and inside.path == project / "out/evidence"
    os.symlink(tmp_path, project / "link")
    with pytest.raises(EvidenceError, match="is a symlink or a file, not a directory"):
        record(Store(project_directory=project, root=Path("link/evidence")), "run-1")


def test_names_from_labels_make_harmless_folders(store: Store) -> None:
    with store.recording("../../x\n", "../evil name") as folder:
        assert isinstance(folder, RunFolder)
        assert folder.path.parent == store.path and folder.name.endswith("Z-_evil_name-_.._x_")


def test_two_runs_never_share_a_folder(store: Store) -> None:
    entry = record(store, "abcdefabcdef-1")
    with pytest.raises(EvidenceError, match="another run's evidence"):
        for _ in range(3):  # the folder's name holds the second
            record(store, "abcdefabcdef-2")
            entry = record(store, "abcdefabcdef-3")
    assert entry.folder in {p.name for p in store.path.iterdir()} and verify_chain(store) == ()


def test_paths_out_of_the_evidence_are_not_opened(store: Store) -> None:
    entry = record(store, "run-1")
    for path in ("../x", "/etc/passwd", "a//b", "."):
        with pytest.raises(EvidenceError, match="not a path in the evidence"):
            store.open(entry, path)
    with pytest.raises(EvidenceError, match="is not there"):
        store.open(entry, "nothing")


def test_who_comes_too_late_is_shut_out(store: Store) -> None:
    with store.recording("run-1", "demo") as folder:
        assert isinstance(folder, RunFolder)
        late = folder.writer("late.log")
        late.write(b"x")
        store.finish(folder, lambda previous: index("run-1", folder, previous))
        with pytest.raises(EvidenceError, match="came too late"), late:
            late.commit()
        with pytest.raises(EvidenceError, match="came too late"):
            folder.write("more", b"")
    assert verify_chain(store) == ()


def test_a_file_is_written_once(store: Store) -> None:
    with store.recording("run-1", "demo") as folder:
        assert isinstance(folder, RunFolder)
        folder.write("a", b"1")
        with pytest.raises(EvidenceError, match="a is there already"):
            folder.write("a", b"2")


@pytest.mark.parametrize("line", [b"[]", b"{}", b"null", b'{"outcome": "x"}', b"\xff", b"[" * 5000])
def test_lines_that_are_none(line: bytes) -> None:
    with pytest.raises(ValueError):
        ChainEntry.from_line(line)


def _record_for_ever(base: Path, runs: int) -> None:
    for number in range(runs):
        record(Store(project_directory=base), f"run-{number}")


@pytest.mark.parametrize("after", [0.002, 0.005, 0.01, 0.02, 0.03, 0.05])
def test_a_writer_killed_at_any_moment_leaves_a_store_that_goes_on(store: Store, tmp_path: Path, after: float) -> None:
    context = multiprocessing.get_context("fork")
    process = context.Process(target=_record_for_ever, args=(tmp_path, 50))
    process.start()
    process.join(after)
    process.kill()
    process.join()
    captured = store.entries()
    _record_for_ever(tmp_path, len(captured) + 2)
    assert verify_chain(store) == ()
    assert store.entries()[: len(captured)] == captured
    assert [entry.run for entry in store.entries()] == [f"run-{n}" for n in range(len(captured) + 2)]


def test_a_place_that_cannot_be_kept_in_is_told_before_anything_runs(tmp_path: Path) -> None:
    (tmp_path / "good").mkdir()
    Store(project_directory=tmp_path / "good").check()
    assert [path.name for path in (tmp_path / "good/.sandboxrun").iterdir() if path.is_dir()] == ["evidence"]
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad/.sandboxrun").symlink_to(tmp_path / "good")
    with pytest.raises(EvidenceError, match="is a symlink or a file, not a directory"):
        Store(project_directory=tmp_path / "bad").check()
    (tmp_path / "bad/file").touch()
    with pytest.raises(EvidenceError):
        Store(project_directory=tmp_path / "bad", root=Path("file/below")).check()
    (tmp_path / "good/.sandboxrun/evidence/chain.jsonl").mkdir()
    with pytest.raises(EvidenceError, match=r"chain.jsonl is not a regular file"):
        Store(project_directory=tmp_path / "good").check()


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="needs a directory that nobody can write to, root included")
def test_a_directory_that_is_there_and_read_only_is_told_before_anything_runs(tmp_path: Path) -> None:
    with pytest.raises(EvidenceError, match="evidence can't be kept in /proc/") as error:
        Store(project_directory=tmp_path, root=Path(f"/proc/{os.getpid()}")).check()
    assert error.value.diagnostics[0].option == "--evidence DIR"
