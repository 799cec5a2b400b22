"""What is removed, what stays, and what the chain says of it; a kill at any moment, others at work meanwhile."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import shutil
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from msgspec import structs

from sandboxrun.evidence import store as chain
from sandboxrun.evidence.checking import check, verify_chain
from sandboxrun.evidence.errors import EvidenceError
from sandboxrun.evidence.folder import Folder
from sandboxrun.evidence.retention import Retention, fate, hold, prune, release, select
from sandboxrun.evidence.store import ChainEntry, Notice, NoticeKind, Store, notices, recorded
from sandboxrun.spec.state import How
from tests.unit.evidence.stores import record

NEWEST = Retention()  # all but the newest of each project goes


@pytest.fixture
def store(tmp_path: Path) -> Store:
    (tmp_path / "project").mkdir()
    return Store(project_directory=tmp_path / "project")


def runs(store: Store, count: int, **how: str) -> list[ChainEntry]:
    return [record(store, f"run-{how.get('project', '')}{n}", **how) for n in range(count)]  # type: ignore[arg-type]


def gone(store: Store, kept: Retention, **how: object) -> list[str]:
    return [removal.entry.run for removal in prune(store, kept, **how).removed]  # type: ignore[arg-type]


def another_user(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "another"))


def test_a_removed_run_leaves_its_line_and_the_reason(store: Store) -> None:
    one, two = runs(store, 2)
    pruned = prune(store, NEWEST)
    assert [removal.entry for removal in pruned.removed] == [one] and pruned.failed == () and pruned.bytes > 0
    assert {path.name for path in store.path.iterdir()} == {two.folder, chain.NAME}
    assert store.entries() == (one, two)
    (notice,) = notices(store.chain())
    assert (notice.action, notice.run, notice.exit_code, notice.workspace) == ("removed", one.run, 0, "sha256:w")
    assert notice.reason == "project demo has 1 newer run" and store.is_own(notice)
    checked = check(store)
    assert (checked.problems, checked.runs, checked.removed, checked.sealed) == ((), 1, 1, 3)
    assert prune(store, NEWEST).removed == ()


def test_a_line_that_somebody_repeats_is_no_newer_run(store: Store) -> None:
    one, _, three = runs(store, 3)
    with (store.path / chain.NAME).open("ab") as file:
        file.write(three.to_line() * 5)
    assert gone(store, Retention(keep=2)) == [one.run]


def test_verify_accepts_exactly_that(store: Store) -> None:
    one, two = runs(store, 2)
    shutil.copytree(store.path / one.folder, store.path.parent / "aside")
    prune(store, NEWEST)
    shutil.copytree(store.path.parent / "aside", store.path / one.folder)
    assert [(p.folder, p.problem) for p in verify_chain(store)] == [
        (one.folder, "its removal was interrupted: `sandboxrun evidence prune` completes it")
    ]
    assert gone(store, NEWEST) == [one.run] and verify_chain(store) == ()
    shutil.rmtree(store.path / two.folder)
    assert [p.problem for p in verify_chain(store)] == ["the folder is missing"]


def _forged(store: Store, entry: ChainEntry, action: NoticeKind) -> None:
    """A line that fits the chain, by whoever can write to it, but not seal it."""
    with store.open_root() as root, chain.opened_chain(root) as opened:
        opened.append(
            lambda previous: Notice(
                action=action, run=entry.run, project=entry.project, sandbox=entry.sandbox, folder=entry.folder,
                index_sha256=entry.index_sha256, reason="old", at="2026-01-01T00:00:00Z", by="x", exit_code=0,
                workspace="", previous=previous, seal="0" * 64,
            )
        )  # fmt: skip


def test_a_removal_or_a_release_that_another_wrote_counts_for_nothing(store: Store) -> None:
    one, two, three = runs(store, 3)
    hold(store, two, "audit")
    _forged(store, one, NoticeKind.REMOVED)
    _forged(store, two, NoticeKind.RELEASED)
    assert store.removed() == {} and fate(store, one).removed is None and fate(store, two).held is not None
    assert [p.problem.split(" ", 2)[2] for p in verify_chain(store) if p.problem.startswith("line")] == [
        "is not sealed with this user's key: it was changed, or is another user's"
    ] * 2
    assert gone(store, NEWEST) == [one.run]
    assert (store.path / two.folder).exists() and (store.path / three.folder).exists()


def test_a_hold_keeps_a_run_until_it_is_released(store: Store) -> None:
    one, two, three = runs(store, 3)
    assert hold(store, one, "for the\nauditor") == hold(store, one, "for the\nauditor")
    assert fate(store, one).held.reason == "for the\\nauditor"  # type: ignore[union-attr]
    selection = select(store, NEWEST, datetime.now(UTC))
    assert ([removal.entry for removal in selection.removals], selection.held) == ([two], 1)
    assert gone(store, NEWEST) == [two.run]
    with pytest.raises(EvidenceError, match="was removed on"):
        hold(store, two, "too late")
    with pytest.raises(EvidenceError, match="is not held"):
        release(store, three)
    release(store, one)
    assert gone(store, NEWEST) == [one.run]
    assert verify_chain(store) == ()


@pytest.mark.parametrize("reason", ["", "  \n", "x" * 501])
def test_a_hold_needs_a_reason(store: Store, reason: str) -> None:
    (one,) = runs(store, 1)
    with pytest.raises(EvidenceError, match="the reason must have 1 to 500 characters"):
        hold(store, one, reason)
    assert len(store.chain().splitlines()) == 1


def test_anybodys_hold_counts_and_what_another_user_saved_stays(
    store: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    one, two = runs(store, 2)
    with monkeypatch.context() as patched:
        another_user(patched, tmp_path)
        record(store, "theirs-1")
        record(store, "theirs-2")
        hold(store, one, "theirs")
        assert select(store, NEWEST, datetime.now(UTC)).others == 2
        assert gone(store, NEWEST) == ["theirs-1"]
    selection = select(store, NEWEST, datetime.now(UTC))
    assert (selection.empty, selection.held, selection.others) == (True, 1, 2)
    release(store, one, "not theirs to hold")
    assert gone(store, NEWEST) == [one.run]
    assert (store.path / two.folder).exists()


def test_the_newest_of_each_project_stay(store: Store) -> None:
    runs(store, 3, project="a")
    runs(store, 3, project="b")
    far = datetime.now(UTC) + timedelta(days=400)
    assert gone(store, Retention(keep=2)) == ["run-a0", "run-b0"]
    assert gone(store, Retention(older_than=86400, keep=3), now=far) == []
    assert gone(store, Retention(older_than=86400, max_bytes=0), now=far) == ["run-a1", "run-b1"]
    assert {entry.run for entry in store.entries() if (store.path / entry.folder).exists()} == {"run-a2", "run-b2"}


def test_age_and_size_select_the_oldest(store: Store) -> None:
    every = [record(store, f"run-{n}", text=b"x" * 100_000) for n in range(4)]
    now = datetime.now(UTC)
    assert select(store, Retention(older_than=3600), now).empty
    old = select(store, Retention(older_than=3600), now + timedelta(hours=2))
    assert [(r.entry, r.reason) for r in old.removals] == [(e, "older than 1 hour") for e in every[:3]]
    each = old.removals[0].bytes
    assert each >= 100_000
    selection = select(store, Retention(max_bytes=3 * each), now)
    assert [removal.entry for removal in selection.removals] == every[:1] and selection.over == 0
    assert select(store, Retention(max_bytes=4 * each), now).empty
    selection = select(store, Retention(max_bytes=each // 2), now)
    assert [removal.entry for removal in selection.removals] == every[:3] and selection.over == each - each // 2


def test_only_what_was_shown_is_removed(store: Store) -> None:
    _, two, three = runs(store, 3)
    assert gone(store, NEWEST, only={two.run, three.run}) == [two.run]


def test_what_is_not_as_it_was_recorded_stays_and_is_told(store: Store) -> None:
    one, _ = runs(store, 2)
    (store.path / one.folder / "index.json").write_bytes(b"{}")
    pruned = prune(store, NEWEST)
    assert pruned.removed == () and [folder for folder, _ in pruned.failed] == [one.folder]
    assert "is not the index that was recorded" in pruned.failed[0][1]
    assert (store.path / one.folder).exists() and fate(store, one).removed is None


def test_a_folder_that_can_t_be_removed_is_told_and_tried_again(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    one, _ = runs(store, 2)

    def refuse(self: Folder, name: str) -> None:
        raise PermissionError(13, "Permission denied", name)

    with monkeypatch.context() as patched:
        patched.setattr(Folder, "remove", refuse)
        pruned = prune(store, NEWEST)
    assert pruned.removed == () and pruned.failed == ((one.folder, f"{one.folder}: Permission denied"),)
    assert gone(store, NEWEST) == [one.run] and verify_chain(store) == ()


def test_a_removed_run_is_still_known_to_have_run(store: Store) -> None:
    one = record(store, "run-1", how=How.FAILED)
    record(store, "run-2")
    prune(store, NEWEST)
    found = recorded(store, one.run)
    assert found is not None and found.entry == one and found.index is not None and found.folder is None
    assert (found.index.ending.how, found.index.ending.exit_code) == (How.FAILED, 0)
    assert "removed on" in found.index.missing[0].reason
    assert record(store, one.run) == one  # and is not captured again


def test_what_was_planted_in_place_of_a_folder_is_not_followed(store: Store, tmp_path: Path) -> None:
    one, _ = runs(store, 2)
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").touch()
    shutil.copy(store.path / one.folder / "index.json", outside)
    shutil.rmtree(store.path / one.folder)
    (store.path / one.folder).symlink_to(outside)
    (failed,) = prune(store, NEWEST).failed
    assert failed[0] == one.folder and "is a symlink or a file, not a directory" in failed[1]
    assert (outside / "precious").exists()


def test_there_is_nothing_to_remove_without_a_store(store: Store) -> None:
    assert select(store, NEWEST, datetime.now(UTC)).empty and prune(store, NEWEST).removed == ()
    assert not store.path.exists()


# -- A kill at any moment


class Killed(BaseException):
    """As a SIGKILL, but that the test goes on."""


def _killed_at(step: int, monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """Kills before the `step`-th change on the disk; the function given back says how many there were."""
    count = itertools.count(1)
    reached = [0]

    def before(real: Callable[..., object]) -> Callable[..., object]:
        def call(*arguments: object, **named: object) -> object:
            reached[0] = next(count)
            if reached[0] == step:
                raise Killed
            return real(*arguments, **named)

        return call

    for name in ("write", "fsync", "unlink", "rmdir"):
        monkeypatch.setattr(os, name, before(getattr(os, name)))
    return lambda: reached[0]


def _steps() -> Iterator[int]:
    yield from itertools.count(1)


def test_a_kill_at_any_step_leaves_what_the_next_one_completes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for step in _steps():
        project = tmp_path / f"project-{step}"
        project.mkdir()
        store = Store(project_directory=project)
        one, two, three = runs(store, 3)
        with monkeypatch.context() as patched:
            reached = _killed_at(step, patched)
            try:
                prune(store, NEWEST)
            except Killed:
                pass
            else:
                assert reached() < step and step > 8
                break
        assert {p.problem for p in verify_chain(store)} <= {
            "its removal was interrupted: `sandboxrun evidence prune` completes it",
            "the last line of the chain is torn (a writer was killed)",
        }
        again = gone(store, NEWEST)
        assert set(again) <= {one.run, two.run} and verify_chain(store) == (), step
        assert {path.name for path in store.path.iterdir()} == {three.folder, chain.NAME}


# -- Others at work


def _prune_while(directory: Path, begin: int) -> None:
    store = Store(project_directory=directory)
    for number in range(begin, begin + 6):
        record(store, f"run-{number}")
        pruned = prune(store, Retention(keep=2))
        assert pruned.failed == ()


def test_captures_and_prunes_go_on_side_by_side(store: Store) -> None:
    chain.seal_of(b"makes the key")
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_prune_while, args=(store.project_directory, begin)) for begin in (0, 10, 20)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert verify_chain(store) == ()
    assert len(store.entries()) == 18 and len(store.removed()) >= 16 - 2
    assert all((store.path / entry.folder).exists() for entry in store.entries()[-2:])


def test_a_line_of_the_chain_survives_being_read(store: Store) -> None:
    (one,) = runs(store, 1)
    notice = hold(store, one, 'a "reason"')
    read = chain.line_of(notice.to_line())
    assert read == notice and store.is_own(notice)
    assert not store.is_own(structs.replace(notice, reason="another"))
    with pytest.raises(ValueError):
        ChainEntry.from_line(notice.to_line())
