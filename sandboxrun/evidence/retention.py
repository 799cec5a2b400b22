"""How long evidence is kept: what may be removed, by age, number and size; what is held; and the removal itself.

Owns the decision and its record: each hold, release and removal is a line of the chain. The newest run of a project
stays, and so does whatever is held or was not saved by this user.
"""

from __future__ import annotations

import contextlib
import datetime
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping

from msgspec import structs

from sandboxrun.backend.owner import this_process
from sandboxrun.data import Data
from sandboxrun.errors import one_line
from sandboxrun.evidence.errors import EvidenceError, reason_of
from sandboxrun.evidence.folder import Folder, check_apart, locked
from sandboxrun.evidence.store import (
    Chain,
    ChainEntry,
    Notice,
    NoticeKind,
    Store,
    entries,
    notices,
    opened_chain,
    seal_of,
)
from sandboxrun.spec.types import size_told

LONGEST_REASON = 500  # characters
_AT_ONCE = 500  # removals recorded under one lock, which captures wait for
_WAIT = 60.0  # seconds for another process that removes a folder
_BLOCK = 512  # bytes of a stat block
_SAVED = "%Y%m%dT%H%M%SZ"  # what a folder's name begins with


# -- What became of runs' evidence, by the chain


class Fate(Data):
    """What became of a run's evidence: the line that holds it, the one that says it was removed."""

    held: Notice | None = None
    removed: Notice | None = None


def fates(store: Store, data: bytes, runs: Collection[str]) -> Mapping[str, Fate]:
    """Of these runs, from the chain's bytes. Anybody's hold counts; a release or a removal only where this user sealed
    it."""
    found, own = dict[str, Fate](), store.own()
    for notice in notices(data, *(runs if len(runs) == 1 else ())):
        if notice.run not in runs:
            continue
        now = found.get(notice.run, Fate())
        match notice.action:
            case NoticeKind.HELD:
                found[notice.run] = Fate(held=notice, removed=now.removed)
            case NoticeKind.RELEASED if own(notice):
                found[notice.run] = Fate(removed=now.removed)
            case NoticeKind.REMOVED if own(notice):
                found[notice.run] = Fate(held=now.held, removed=notice)
    return found


def fate(store: Store, entry: ChainEntry) -> Fate:
    """What became of one run's evidence."""
    return fates(store, store.chain(), {entry.run}).get(entry.run, Fate())


def hold(store: Store, entry: ChainEntry, reason: str) -> Notice:
    """Keep a run's evidence until it is released. Raises EvidenceError where it was removed, or for a bad reason."""
    text = one_line(reason.strip())
    if not 0 < len(text) <= LONGEST_REASON:
        raise EvidenceError(f"the reason must have 1 to {LONGEST_REASON} characters")
    with _changing(store) as opened:
        now = fates(store, opened.data, {entry.run}).get(entry.run, Fate())
        if now.removed is not None:
            raise EvidenceError(f"the evidence of run {entry.run} was removed on {now.removed.at}")
        if now.held is not None and now.held.reason == text:
            return now.held
        return _append(opened, NoticeKind.HELD, entry, text)


def release(store: Store, entry: ChainEntry, reason: str = "") -> Notice:
    """End a hold, whoever's it is. Raises EvidenceError where there is none."""
    with _changing(store) as opened:
        if fates(store, opened.data, {entry.run}).get(entry.run, Fate()).held is None:
            raise EvidenceError(f"the evidence of run {entry.run} is not held")
        return _append(opened, NoticeKind.RELEASED, entry, one_line(reason.strip())[:LONGEST_REASON])


@contextlib.contextmanager
def _changing(store: Store) -> Iterator[Chain]:
    check_apart(store.project_directory)
    with store.open_root() as root, opened_chain(root) as opened:
        yield opened


def _append(
    opened: Chain, action: NoticeKind, entry: ChainEntry, reason: str, exit_code: int | None = None, workspace: str = ""
) -> Notice:
    def notice_after(previous: str | None) -> Notice:
        notice = Notice(
            action=action,
            run=entry.run,
            project=entry.project,
            sandbox=entry.sandbox,
            folder=entry.folder,
            index_sha256=entry.index_sha256,
            reason=reason,
            at=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
            by=this_process().who,
            exit_code=exit_code,
            workspace=workspace,
            previous=previous,
        )
        return structs.replace(notice, seal=seal_of(notice.body))

    return opened.append(notice_after)


# -- What may be removed


class Retention(Data):
    """What is kept. `older_than` seconds since it was saved, and `max_bytes` on the disk in all, say what goes, the
    oldest first; without either, all but the newest goes. `keep` is how many of each project stay in any case."""

    older_than: float | None = None
    max_bytes: int | None = None
    keep: int = 1


class Removal(Data):
    """A run whose evidence goes, its size on the disk, and why."""

    entry: ChainEntry
    bytes: int
    reason: str


class Selection(Data):
    """What would go: `removals`, the oldest first, and `interrupted` ones, which a killed process left half done.

    `over` is how much of what this user saved is above the limit afterwards; `held` and `others` count the runs that
    stay because they are held, or saved by another user.
    """

    removals: tuple[Removal, ...] = ()
    interrupted: tuple[Removal, ...] = ()
    over: int = 0
    held: int = 0
    others: int = 0

    @property
    def empty(self) -> bool:
        return not self.removals and not self.interrupted


def select(store: Store, kept: Retention, now: datetime.datetime) -> Selection:
    """What the rules remove at that time. Changes nothing. Raises EvidenceError, OSError."""
    try:
        root = store.open_root()
    except FileNotFoundError:
        return Selection()
    with root:
        data = store.chain()
        is_own, first = store.own(), dict[str, ChainEntry]()
        others, held, interrupted = 0, 0, list[Removal]()
        for entry in entries(data):
            if not is_own(entry):
                others += 1
            else:  # somebody may have put a line there once more: it is no newer run
                first.setdefault(entry.run, entry)
        known, own = fates(store, data, first.keys()), list[ChainEntry]()
        for entry in first.values():
            found = known.get(entry.run, Fate())
            if found.removed is None:
                own.append(entry)
            elif root.kind(entry.folder):
                interrupted.append(Removal(entry=entry, bytes=_size(root, entry), reason=found.removed.reason))
        free, seen = list[ChainEntry](), Counter[str]()  # how many of a project are as new or newer
        for entry in reversed(own):
            seen[entry.project] += 1
            if known.get(entry.run, Fate()).held is not None:
                held += 1
            elif seen[entry.project] > max(1, kept.keep):
                free.append(entry)
        free.reverse()
        sizes = {entry.run: _size(root, entry) for entry in (own if kept.max_bytes is not None else free)}
    left, removals = sum(sizes.values()), list[Removal]()
    for entry in free:  # the oldest come first, and the size counts what age has removed
        if (reason := _reason(entry, left, kept, now)) is not None:
            left -= sizes[entry.run]
            removals.append(Removal(entry=entry, bytes=sizes[entry.run], reason=reason))
    over = max(0, left - kept.max_bytes) if kept.max_bytes is not None else 0
    return Selection(removals=tuple(removals), interrupted=tuple(interrupted), over=over, held=held, others=others)


def _reason(entry: ChainEntry, left: int, kept: Retention, now: datetime.datetime) -> str | None:
    """Why it goes, while `left` bytes are left; None for one that stays."""
    if kept.older_than is not None and (age := _age(entry, now)) is not None and age > kept.older_than:
        return f"older than {_days(kept.older_than)}"
    if kept.older_than is None and kept.max_bytes is None:
        return f"project {entry.project} has {kept.keep} newer {'run' if kept.keep == 1 else 'runs'}"
    if kept.max_bytes is not None and left > kept.max_bytes:
        return f"more than {size_told(kept.max_bytes)} of evidence"
    return None


def _age(entry: ChainEntry, now: datetime.datetime) -> float | None:
    """Seconds since it was saved, by the name of its folder."""
    try:
        saved = datetime.datetime.strptime(entry.folder[:16], _SAVED).replace(tzinfo=datetime.UTC)
    except ValueError:
        return None
    return (now - saved).total_seconds()


def _days(seconds: float) -> str:
    for unit, length in (("day", 86400), ("hour", 3600)):
        if seconds >= length and not seconds % length:
            return f"{seconds // length:g} {unit}{'' if seconds == length else 's'}"
    return f"{seconds:g} seconds"


def _size(root: Folder, entry: ChainEntry) -> int:
    """What the run's folder takes on the disk; 0 for what is no such folder, which its removal reports."""
    with contextlib.suppress(FileNotFoundError, EvidenceError), root.enter(entry.folder) as folder:
        return sum(found.st_blocks * _BLOCK for _, found in folder.walk())
    return 0


# -- The removal


class Pruned(Data):
    """What was removed, and of what could not be, the folder and why."""

    removed: tuple[Removal, ...] = ()
    failed: tuple[tuple[str, str], ...] = ()
    selection: Selection = Selection()

    @property
    def bytes(self) -> int:
        """How much room that made."""
        return sum(removal.bytes for removal in self.removed)


def prune(
    store: Store,
    kept: Retention,
    *,
    only: Collection[str] | None = None,
    now: datetime.datetime | None = None,
) -> Pruned:
    """Remove what the rules select; with `only`, no run besides these. Each removal is recorded before its folder goes,
    so that a kill at any moment leaves what the next one completes. What can't be removed is reported, nothing raised
    for it. Raises EvidenceError where the chain can't be read or written."""
    removed, failed = list[Removal](), list[tuple[str, str]]()
    try:
        selection = select(store, kept, now or datetime.datetime.now(datetime.UTC))
        wanted = [removal for removal in selection.removals if only is None or removal.entry.run in only]
        if selection.interrupted:
            _erase(store, selection.interrupted, removed, failed)
        for at in range(0, len(wanted), _AT_ONCE):
            recorded = list(_record(store, wanted[at : at + _AT_ONCE], failed))
            _erase(store, recorded, removed, failed)
    except OSError as error:
        raise EvidenceError(f"old evidence in {store.path} can't be removed: {reason_of(error)}") from error
    return Pruned(removed=tuple(removed), failed=tuple(failed), selection=selection)


def _erase(store: Store, recorded: Iterable[Removal], removed: list[Removal], failed: list[tuple[str, str]]) -> None:
    """Remove the folders of runs whose removal is recorded. Another process may be at it, too: it is waited for."""
    with store.open_root() as root:
        for removal in recorded:
            name = removal.entry.folder
            try:
                with root.enter(name) as folder, locked(folder.fd, folder.path, wait=_WAIT):
                    root.remove(name)
            except FileNotFoundError:
                pass  # the other process was first
            except (OSError, EvidenceError) as error:
                failed.append((name, reason_of(error)))
                continue
            removed.append(removal)


def _record(store: Store, removals: Collection[Removal], failed: list[tuple[str, str]]) -> Iterator[Removal]:
    """Write the lines of those that nobody has held or removed meanwhile, and whose index is as it was recorded."""
    with _changing(store) as opened:
        known = fates(store, opened.data, {removal.entry.run for removal in removals})
        for removal in removals:
            entry, found = removal.entry, known.get(removal.entry.run, Fate())
            if found.held is not None or found.removed is not None:
                continue
            try:
                index = store.index(entry)
            except EvidenceError as error:
                failed.append((entry.folder, reason_of(error)))
                continue
            code, workspace = index.ending.exit_code, index.digests.workspace
            _append(opened, NoticeKind.REMOVED, entry, removal.reason, code, workspace)
            yield removal
