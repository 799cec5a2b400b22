"""Whatever is changed in a store is found and named; whatever a checkout brings is read within bounds."""

from __future__ import annotations

import contextlib
import itertools
import json
import multiprocessing
import os
import resource
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given
from hypothesis import strategies as st
from msgspec import structs

from sandboxrun.evidence import store as chain
from sandboxrun.evidence.checking import Checked, CheckLimits, check, verify_chain
from sandboxrun.evidence.errors import EvidenceError
from sandboxrun.evidence.retention import Retention, hold, prune
from sandboxrun.evidence.store import ChainEntry, Store
from tests.conftest import examples
from tests.unit.evidence.stores import record

Change = Callable[[Path, st.DataObject], str]  # changes the store in that directory, and says what must be named


class Whole:
    """A store with four runs, one that was removed and one that is held, its last line, and copies to change."""

    def __init__(self, top: Path) -> None:
        self.store = Store(project_directory=top / "project")
        (top / "project").mkdir()
        every = [record(self.store, f"run-{n}", text=b"log %d\n" % n) for n in range(5)]
        assert len(prune(self.store, Retention(keep=4)).removed) == 1
        hold(self.store, every[1], "for an audit")
        self.entries = every[1:]
        self.last = chain.last_line(self.store)
        self._top, self._numbers = top, itertools.count()

    @contextlib.contextmanager
    def copy(self) -> Iterator[Store]:
        directory = self._top / f"copy-{next(self._numbers)}"
        shutil.copytree(self._top / "project", directory)
        try:
            yield Store(project_directory=directory)
        finally:
            shutil.rmtree(directory)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Whole]:
    top = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("XDG_STATE_HOME", str(top / "state"))
        yield Whole(top)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(project_directory=tmp_path)


def said(checked: Checked) -> str:
    return "\n".join(map(str, checked.problems))


# -- What is changed


def _files(root: Path) -> list[Path]:
    return sorted(path for path in root.rglob("*") if path.is_file())


def _folders(root: Path) -> list[Path]:
    return sorted(path for path in root.iterdir() if path.is_dir())


def _named(path: Path, root: Path) -> str:
    """What of a changed file's path the problem must name."""
    parts = path.relative_to(root).parts
    return "" if parts == (chain.NAME,) else parts[0]


def flip(root: Path, data: st.DataObject) -> str:
    path = data.draw(st.sampled_from([path for path in _files(root) if path.stat().st_size]))
    content = bytearray(path.read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    path.write_bytes(content)
    return _named(path, root)


def cut(root: Path, data: st.DataObject) -> str:
    path = data.draw(st.sampled_from([path for path in _files(root) if path.stat().st_size]))
    os.truncate(path, data.draw(st.integers(0, path.stat().st_size - 1)))
    return _named(path, root)


def insert(root: Path, data: st.DataObject) -> str:
    path = data.draw(st.sampled_from(_files(root)))
    content = path.read_bytes()
    at = data.draw(st.integers(0, len(content)))
    path.write_bytes(content[:at] + data.draw(st.binary(min_size=1, max_size=3)) + content[at:])
    return _named(path, root)


def remove(root: Path, data: st.DataObject) -> str:
    path = data.draw(st.sampled_from([path for path in _files(root) if path.name != chain.NAME]))
    path.unlink()
    return _named(path, root)


def add(root: Path, data: st.DataObject) -> str:
    path = data.draw(st.sampled_from(_folders(root))) / data.draw(st.sampled_from(["x", "artifacts/y", "z/deep/z"]))
    path.parent.mkdir(parents=True, exist_ok=True)
    match data.draw(st.sampled_from(["file", "symlink", "fifo"])):
        case "file":
            path.write_bytes(b"")
        case "symlink":
            path.symlink_to("stdout.log")
        case _:
            os.mkfifo(path)
    return _named(path, root)


def replace_by_link(root: Path, data: st.DataObject) -> str:
    path = data.draw(st.sampled_from([path for path in _files(root) if path.name != chain.NAME]))
    os.rename(path, root.parent / "elsewhere")
    path.symlink_to(root.parent / "elsewhere")
    return _named(path, root)


def drop_folder(root: Path, data: st.DataObject) -> str:
    path = data.draw(st.sampled_from(_folders(root)))
    shutil.rmtree(path)
    return path.name


def swap_folders(root: Path, data: st.DataObject) -> str:
    one, other = data.draw(st.permutations(_folders(root)))[:2]
    os.rename(one, root / "aside")
    os.rename(other, one)
    os.rename(root / "aside", other)
    return one.name


def repeat_folder(root: Path, data: st.DataObject) -> str:
    path = data.draw(st.sampled_from(_folders(root)))
    shutil.copytree(path, root / f"{path.name}0")
    return f"{path.name}0"


def _lines(root: Path, change: Callable[[list[bytes]], None]) -> str:
    lines = (root / chain.NAME).read_bytes().splitlines(keepends=True)
    change(lines)
    (root / chain.NAME).write_bytes(b"".join(lines))
    return ""


def drop_line(root: Path, data: st.DataObject) -> str:
    return _lines(root, lambda lines: lines.__delitem__(data.draw(st.integers(0, len(lines) - 1))))


def swap_lines(root: Path, data: st.DataObject) -> str:
    def swap(lines: list[bytes]) -> None:
        one, other = data.draw(st.permutations(range(len(lines))))[:2]
        lines[one], lines[other] = lines[other], lines[one]

    return _lines(root, swap)


def repeat_line(root: Path, data: st.DataObject) -> str:
    places = st.integers(0, 6)
    return _lines(root, lambda lines: lines.insert(data.draw(places), lines[data.draw(places)]))


def drop_the_end(root: Path, data: st.DataObject) -> str:
    """The last runs, with their folders, as if they had never been."""
    count = data.draw(st.integers(1, 7))
    gone = [json.loads(line)["folder"] for line in (root / chain.NAME).read_bytes().splitlines()[-count:]]
    for folder in gone:
        shutil.rmtree(root / folder, ignore_errors=True)
    return _lines(root, lambda lines: lines.__delitem__(slice(-count, None)))


CHANGES: tuple[Change, ...] = (
    flip, cut, insert, remove, add, replace_by_link, drop_folder, swap_folders, repeat_folder, drop_line, swap_lines,
    repeat_line, drop_the_end,
)  # fmt: skip


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
@examples(15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_whatever_is_changed_is_found_and_named(whole: Whole, change: Change, data: st.DataObject) -> None:
    with whole.copy() as store:
        named = change(store.path, data)
        checked = check(store, last_line=whole.last)
        assert checked.problems
        assert named in said(checked)


def test_nothing_is_found_where_nothing_was_changed(whole: Whole) -> None:
    with whole.copy() as store:
        checked = check(store, last_line=whole.last)
    assert checked == Checked(
        runs=4,
        removed=1,
        files=8,
        bytes=sum(6 + len(entry.run) for entry in whole.entries),
        sealed=7,
        last_line=whole.last,
    )


def test_the_tail_is_missed_by_a_digest_kept_elsewhere_alone(store: Store) -> None:
    entries = [record(store, f"run-{n}") for n in range(3)]
    last = chain.last_line(store)
    shutil.rmtree(store.path / entries[-1].folder)
    _lines(store.path, lambda lines: lines.__delitem__(-1))
    assert check(store).problems == ()
    assert said(check(store, last_line=last)) == (
        f"no line of the chain has the digest {last}: its end is missing, or it was rewritten"
    )
    record(store, "run-9")
    assert check(store, last_line=entries[2].previous).problems == ()  # it has grown since


@pytest.mark.parametrize(
    "field", ["run", "project", "sandbox", "index_sha256", "previous", "spec", "inputs", "finished_at"]
)
def test_the_last_line_is_bound_to_its_index_where_there_is_no_key(
    whole: Whole, field: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    with whole.copy() as store:
        path = store.path / chain.NAME
        *rest, last = path.read_bytes().splitlines(keepends=True)[:5]
        changed = structs.replace(ChainEntry.from_line(last), **{field: "other"})
        path.write_bytes(b"".join([*rest, changed.to_line()]))
        checked = check(store)
    assert checked.problems and (checked.sealed, checked.unsealed) == (0, 5)


def test_seals_are_not_asked_for_where_the_user_says_so_or_a_checkout_could_have_brought_the_key(
    whole: Whole, monkeypatch: pytest.MonkeyPatch
) -> None:
    with whole.copy() as store:
        checked = check(store, seals=False)
        assert (checked.sealed, checked.unsealed, checked.problems) == (0, 7, ())
        shutil.copytree(os.environ["XDG_STATE_HOME"], store.project_directory / "state")
        monkeypatch.setenv("XDG_STATE_HOME", str(store.project_directory / "state"))
        assert check(store).unsealed == 7


def test_another_users_seals_are_problems(whole: Whole, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    chain.seal_of(b"makes the key")
    with whole.copy() as store:
        assert said(check(store)).count("is not sealed with this user's key") == 7


def test_only_the_files_of_the_runs_that_are_asked_for_are_compared(whole: Whole) -> None:
    with whole.copy() as store:
        (store.path / whole.entries[0].folder / "stdout.log").write_bytes(b"other")
        checked = check(store, only={whole.entries[1].run})
        assert (checked.runs, checked.files, checked.problems) == (1, 2, ())
        assert check(store, only={whole.entries[0].run}).problems


def test_a_capture_under_way_is_no_problem(whole: Whole) -> None:
    with whole.copy() as store, store.recording("run-8", "demo") as folder:
        checked = check(store)
        assert checked.problems == () and checked.unfinished == (folder.path.name,)  # type: ignore[union-attr]


def test_a_directory_without_a_chain_is_an_error(store: Store) -> None:
    with pytest.raises(EvidenceError, match="there is no evidence in"):
        check(store)
    store.path.mkdir(parents=True)
    (store.path / "20260101T000000Z-x-y").mkdir()
    with pytest.raises(EvidenceError, match=r"has no chain\.jsonl: nothing in it can be checked"):
        check(store)
    assert [problem.folder for problem in verify_chain(store)] == [""]


def test_the_newest_of_a_sandbox_an_id_and_the_last_are_found(store: Store) -> None:
    one = record(store, "aaaaaaaa1", sandbox='agent["a"]')
    two = record(store, "bbbbbbbb2", sandbox="plain")
    three = record(store, "cccccccc3", sandbox="plain")
    for name, entry in (
        ("last", three), ("plain", three), ("agent", one), ('agent["a"]', one), ("bbbbbb", two), (two.run, two),
        (two.folder, two),
    ):  # fmt: skip
        assert store.find(name) == entry
    for name, text in (("plian", 'no run "plian" is recorded'), ("bbb", "no run"), ("", "no run")):
        with pytest.raises(EvidenceError, match=text):
            store.find(name)
    record(store, "dddddddd4", sandbox='agent["b"]')
    with pytest.raises(EvidenceError, match=r'"agent" is ambiguous: agent\["a"\] of project demo, agent\["b"\]'):
        store.find("agent")


# -- What a checkout may bring


def _sparse(path: Path, size: int) -> None:
    with path.open("ab") as file:
        file.truncate(size)


@pytest.mark.parametrize("name", [chain.NAME, "index.json", "stdout.log"])
def test_a_sparse_giant_is_not_read(store: Store, name: str) -> None:
    entry = record(store, "run-1")
    _sparse(store.path / name if name == chain.NAME else store.path / entry.folder / name, 1 << 42)
    if name == chain.NAME:
        with pytest.raises(EvidenceError, match="larger than 128 MiB"):
            check(store)
    else:
        assert said(check(store)) == f"{entry.folder}: {name} was changed"


def test_a_sparse_giant_that_its_index_claims_is_not_compared(
    store: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As a checkout would bring it: all of it fits together, but for the seal."""
    entry = record(store, "run-1")
    folder = store.path / entry.folder
    body = json.loads((folder / "index.json").read_bytes())
    body["kept"][1]["bytes"] = 1 << 42
    _sparse(folder / "stdout.log", 1 << 42)
    (folder / "index.json").write_text(json.dumps(body))
    digest = chain.digest_of((folder / "index.json").read_bytes())
    (store.path / chain.NAME).write_bytes(structs.replace(entry, index_sha256=digest).to_line())
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "other"))
    assert said(check(store)) == (
        f"{entry.folder}: stdout.log was not compared: the runs without this user's seal are too large"
    )


@pytest.mark.parametrize(
    "line", [b"[" * 60_000, b'{"action":' * 6_000, b'{"run":"' + b"x" * 70_000 + b'"}', b"", b"\xff\x00", b"[[],[]]"]
)
def test_a_line_of_nonsense_is_named(store: Store, line: bytes) -> None:
    store.path.mkdir(parents=True)
    (store.path / chain.NAME).write_bytes(line + b"\n")
    assert said(check(store)) == "line 1 of the chain cannot be read"


def test_problems_are_counted_up_to_a_bound(store: Store) -> None:
    store.path.mkdir(parents=True)
    (store.path / chain.NAME).write_bytes(b"{}\n" * 100_000)
    checked = check(store, limits=CheckLimits(problems=10))
    assert len(checked.problems) == 10 and checked.more


def _check_within(directory: Path, memory: int) -> None:
    # beyond what is there: a worker that has run thousands of tests has much address space
    there = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (there + memory, there + memory))
    store = Store(project_directory=directory)
    with pytest.raises(EvidenceError, match="longer than 524288 lines"):
        check(store)
    with pytest.raises(EvidenceError, match="longer than 524288 lines"):
        store.entries()


def test_millions_of_lines_take_no_memory(store: Store, tmp_path: Path) -> None:
    store.path.mkdir(parents=True)
    (store.path / chain.NAME).write_bytes(b"\n" * (100 << 20))
    process = multiprocessing.get_context("fork").Process(target=_check_within, args=(tmp_path, 2 << 30))
    process.start()
    process.join()
    assert process.exitcode == 0


@pytest.mark.parametrize("kind", ["symlink", "fifo", "deep", "many"])
def test_what_lies_in_a_runs_folder_is_walked_within_bounds(store: Store, kind: str) -> None:
    entry = record(store, "run-1")
    folder = store.path / entry.folder
    match kind:
        case "symlink":
            (folder / "stdout.log").unlink()
            (folder / "stdout.log").symlink_to("/dev/zero")
        case "fifo":
            (folder / "stdout.log").unlink()
            os.mkfifo(folder / "stdout.log")
        case "deep":
            (folder / "/".join("d" * 300)).mkdir(parents=True)
        case _:
            for number in range(20):
                (folder / f"more-{number}").touch()
    text = said(check(store, limits=CheckLimits(more_files=10)))
    assert {
        "symlink": "stdout.log is not a regular file",
        "fifo": "stdout.log is not a regular file",
        "deep": "is nested too deeply",
        "many": "there are too many files that are not in the index",
    }[kind] in text


@pytest.mark.parametrize("body", [b"[" * 500_000, b'{"format_version":"1.0","x":' + b"[[]," * 500_000])
def test_an_index_of_nonsense_is_named(store: Store, body: bytes) -> None:
    entry = record(store, "run-1")
    (store.path / entry.folder / "index.json").write_bytes(body)
    line = structs.replace(entry, index_sha256=chain.digest_of(body))
    (store.path / chain.NAME).write_bytes(line.to_line())
    assert "index.json: not an evidence index" in said(check(store, seals=False))
