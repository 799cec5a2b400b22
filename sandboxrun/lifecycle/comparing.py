"""Comparing what two profiles, Compose files, revisions, or a profile and what runs allow.

Owns loading both sides alike. A side that cannot be loaded is an error: no comparison passes because of it.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec

from sandboxrun.audit import declared
from sandboxrun.audit.diff import (
    NOBODY,
    Parties,
    PrivilegeChange,
    PrivilegeDiff,
    declared_parties,
    difference,
    privilege_diff,
    service_parties,
)
from sandboxrun.data import Data
from sandboxrun.errors import ProfileError, Span, UsageError
from sandboxrun.lifecycle.declaring import alternatives, load_target, other_ways
from sandboxrun.lifecycle.git import Repository
from sandboxrun.lifecycle.review import Target, load_services, targets
from sandboxrun.plan.changes import Action, Plan, Reason
from sandboxrun.plan.text import spec_shown
from sandboxrun.profile.files import repositories
from sandboxrun.profile.loader import Loaded
from sandboxrun.profile.variables import Inputs
from sandboxrun.spec.privilege import Way
from sandboxrun.spec.project import DeclaredSandbox, Profile
from sandboxrun.spec.spec import settle

MOST_LOADS = 100


class Pair(Data):
    """A profile or Compose project before and after. None: it is not there."""

    name: str
    old: Target | None
    new: Target | None


def compared(pairs: Sequence[Pair], inputs: Inputs | None = None) -> PrivilegeDiff:
    """The differences of all pairs, under the values given and under all others that their variables may have."""
    found = [_pair(pair, inputs or Inputs()) for pair in pairs]
    changes = sorted((change for one in found for change in one.changes), key=lambda change: change.order)
    sandboxes = dict.fromkeys(name for one in found for name in one.sandboxes)
    return PrivilegeDiff(changes=tuple(changes), sandboxes=tuple(sandboxes))


class _Loaded(Data):
    """One of the two. `profile` is None for a Compose project, whose `unknown` is what could not be read of it."""

    parties: Parties
    profile: Loaded | None = None
    unknown: tuple[PrivilegeChange, ...] = ()


def _load(target: Target | None, inputs: Inputs) -> _Loaded:
    if target is None:
        return _Loaded(parties=NOBODY)
    if target.kind == "profile":
        loaded = load_target(target, inputs)
        return _Loaded(parties=_parties(loaded.profile), profile=loaded)
    services, made = load_services(target)
    if services.faults:
        raise ProfileError(*services.faults)
    names = tuple(subject.name for subject in made.subjects)
    unknown = tuple(
        PrivilegeChange(axis="files", way=Way.MAYBE, witness=f"{one.what} was not compared: {one.why}", sandboxes=names)
        for one in made.missing
    )
    return _Loaded(parties=service_parties(made.subjects, made.variables, services.project), unknown=unknown)


def _parties(profile: Profile | None) -> Parties:
    disk = declared.Disk(real=os.path.realpath)
    return declared_parties(profile, declared.subjects(profile, disk) if profile is not None else ())


def _pair(pair: Pair, inputs: Inputs) -> PrivilegeDiff:
    if pair.new is None:  # what is not there any more allows nothing, whether it could be read or not
        try:
            names = tuple(_load(pair.old, inputs).parties) or (pair.name,)
        except ProfileError:
            names = (pair.name,)
        witness = f"is no longer declared: {pair.name} is gone"
        gone = (PrivilegeChange(axis="sandbox", way=Way.NARROWED, witness=witness, sandboxes=(n,)) for n in names)
        return PrivilegeDiff(changes=tuple(gone), sandboxes=names)
    old, new = _load(pair.old, inputs), _load(pair.new, inputs)
    found = difference(old.parties, new.parties)
    changes = [*{change.witness: change for change in (*old.unknown, *new.unknown)}.values(), *found.changes]
    if new.profile is not None and new.profile.written.variables:
        known = {(change.axis, change.witness, change.sandboxes) for change in changes}
        for change, words in _varied(pair, old, new.profile, inputs):
            if (change.axis, change.witness, change.sandboxes) not in known:
                known.add((change.axis, change.witness, change.sandboxes))
                changes.append(msgspec.structs.replace(change, witness=f"{change.witness}, when {words}"))
    return msgspec.structs.replace(found, changes=tuple(changes))


def _varied(pair: Pair, old: _Loaded, new: Loaded, inputs: Inputs) -> Iterator[tuple[PrivilegeChange, str]]:
    """The differences under other values of the new profile's variables, each with the values in words."""
    for count, other in enumerate(alternatives(new)):
        if count >= MOST_LOADS and len(other.values) == 1:
            raise ProfileError(f"{pair.name}: its variables have too many values to compare")
        after = other.loaded(new, inputs)
        if after is None:
            continue
        before = other.loaded(old.profile, inputs) if old.profile is not None else None
        base = _parties(before) if before is not None else old.parties
        yield from ((change, other.words) for change in difference(base, _parties(after)).changes)
    choosing, complete = other_ways(new, inputs)
    if not complete:
        raise ProfileError(f"{pair.name}: its templates choose in too many ways to compare")
    before_too = set[tuple[object, ...]]()  # what those of before could choose, nobody has to review again
    if choosing and (was := old.profile) is not None:
        changes = (_otherwise(old.parties, other.loaded(was, inputs)) for other in other_ways(was, inputs)[0])
        before_too = {(change.axis, change.witness, change.sandboxes) for each in changes for change in each}
    for other in choosing:
        for change in _otherwise(old.parties, other.loaded(new, inputs)):
            if (change.axis, change.witness, change.sandboxes) not in before_too:
                yield change, other.words


def _otherwise(old: Parties, new: Profile | None) -> Iterator[PrivilegeChange]:
    """What may be more where a template chooses otherwise: what would be less is no news."""
    changes = difference(old, _parties(new)).changes if new is not None else ()
    return (change for change in changes if change.way in (Way.WIDENED, Way.MAYBE))


def since(ref: str, named: Sequence[Path], found: Sequence[Target], inputs: Inputs | None = None) -> PrivilegeDiff:
    """What the profiles and Compose files `found` in the paths `named` allow that a revision's did not. What the named
    directories held then, and hold no more, allows nothing now. Raises GitError, ProfileError."""
    # of a directory the repository that it is in, not that of a submodule in which the first profile may lie
    within = [path for path in named[:1] if path.is_dir() and any(repositories(path.resolve()))]
    place = (within[0] if within else found[0].paths[0] if found else named[0]).resolve()
    repository = Repository(place if place.is_dir() else place.parent)
    commit = repository.commit(ref)
    with tempfile.TemporaryDirectory(prefix="sandboxrun-") as name:
        top = Path(os.path.realpath(name)) / repository.name
        unread = repository.export(commit, top)
        pairs, compared_with, unknown = [], set[Path](), []
        for target in found:
            earlier = [top / _in(repository, path) for path in target.paths]
            lost = [sub for sub in unread if any(path.is_relative_to(top / sub) for path in earlier)]
            if lost:
                names = tuple(_load(target, inputs or Inputs()).parties)
                unknown += [
                    PrivilegeChange(
                        axis="files",
                        way=Way.MAYBE,
                        witness=f"was not compared: the submodule {sub} cannot be read: {unread[sub]}",
                        sandboxes=names,
                    )
                    for sub in lost
                ]
                continue
            there = [path for path in earlier if path.is_file()]
            old = Target(kind=target.kind, paths=tuple(there)) if len(there) > 1 else _one(there)
            pairs.append(Pair(name=str(target.paths[0]), old=old, new=target))
            compared_with.update(earlier)
        for directory in (path for path in named if path.is_dir()):
            earlier_one = top / _in(repository, directory)
            before, _ = targets([earlier_one] if earlier_one.is_dir() else [])
            gone = [target for target in before if compared_with.isdisjoint(target.paths)]
            pairs += [Pair(name=str(target.paths[0].relative_to(top)), old=target, new=None) for target in gone]
        with called({top: ref}):
            made = compared(pairs, inputs)
        also = dict.fromkeys((*made.sandboxes, *(name for change in unknown for name in change.sandboxes)))
        return PrivilegeDiff(changes=(*unknown, *made.changes), sandboxes=tuple(also))


def _in(repository: Repository, path: Path) -> Path:
    """Where in a repository a path is."""
    real = Path(os.path.realpath(path))
    if not real.is_relative_to(repository.root):
        raise ProfileError(f"{path} is not in the repository {repository.root}")
    return real.relative_to(repository.root)


def _one(paths: Sequence[Path]) -> Target | None:
    """What a file is, by what it holds, with the override file that Compose takes; None where there is none. Raises
    ProfileError for one that is neither."""
    if not paths:
        return None
    found, gaps = targets(paths)
    if gaps or paths[0].is_dir():
        why = gaps[0].why if gaps else "it is a directory"
        raise ProfileError(f"{paths[0]} cannot be compared: {why}")
    return found[0]


def between(
    one: tuple[str | None, Path], other: tuple[str | None, Path], inputs: Inputs | None = None
) -> PrivilegeDiff:
    """Two profiles or Compose files, each on the disk or in a revision (its name, or None)."""
    with tempfile.TemporaryDirectory(prefix="sandboxrun-") as name:
        repositories = [Repository(_above(path)) if ref is not None else None for ref, path in (one, other)]
        tops = [
            Path(os.path.realpath(name), str(number), repository.name if repository is not None else "")
            for number, repository in enumerate(repositories)
        ]
        with called({top: ref for top, (ref, _) in zip(tops, (one, other), strict=True) if ref is not None}) as told:
            sides = [
                _side(*side, repository, top)
                for side, repository, top in zip((one, other), repositories, tops, strict=True)
            ]
            if sides == [None, None]:
                raise UsageError(f"neither revision has its file: {one[1]}, {other[1]}", help="check the paths")
            found = compared([Pair(name=str(other[1]), old=sides[0], new=sides[1])], inputs)
            changes = (msgspec.structs.replace(change, span=told(change.span)) for change in found.changes)
            return msgspec.structs.replace(found, changes=tuple(changes))


@contextmanager
def called(revisions: Mapping[Path, str]) -> Iterator[Callable[[Span | None], Span | None]]:
    """A function that gives a place in a revision's files, which are below a directory meanwhile, as REVISION:FILE. So
    are the places in errors."""

    def told(span: Span | None) -> Span | None:
        if span is None or (name := said(span.file.name)) == span.file.name:
            return span
        return msgspec.structs.replace(span, file=msgspec.structs.replace(span.file, name=name))

    def said(text: str) -> str:
        for top, ref in revisions.items():
            text = text.replace(f"{top}{os.sep}", f"{ref}:")
        return text

    try:
        yield told
    except ProfileError as error:
        replace = msgspec.structs.replace
        raise ProfileError(
            *(replace(fault, message=said(fault.message), span=told(fault.span)) for fault in error.diagnostics)
        ) from error


def _above(path: Path) -> Path:
    """The nearest directory above a path that is there."""
    real = Path(os.path.realpath(path))
    return next(place for place in real.parents if place.is_dir())


def _side(ref: str | None, path: Path, repository: Repository | None, into: Path) -> Target | None:
    if ref is None or repository is None:
        return _one([path])
    repository.export(repository.commit(ref), into)
    earlier = into / _in(repository, Path(os.path.realpath(path)))
    return _one([earlier] if earlier.is_file() else [])


def with_running(plan: Plan, profile: Profile, *, running_is_new: bool = False) -> PrivilegeDiff:
    """What a profile's sandboxes may do that those which its plan found could not, or the other way round.

    What cannot be compared, because another version made it, is MAYBE.
    """
    found, unknown = [], []
    for change in plan.changes:
        if change.kind != "sandbox" or change.before is None:
            continue
        if change.action is Action.KEEP or change.reason in (Reason.KEPT, Reason.KEEP_OVER):
            continue  # it has ended, and may do nothing any more
        spec = spec_shown(change.before)
        if spec is None:
            unknown.append(change.address)
            continue
        at, sandbox = change.address, change.address.partition("[")[0]
        undeclared = DeclaredSandbox(address=at, sandbox=sandbox, name=change.name, spec=spec)
        found.append(msgspec.structs.replace(profile.sandbox(at) or undeclared, spec=settle(spec)))
    running = msgspec.structs.replace(profile, sandboxes=tuple(found))
    told = tuple(one for one in profile.sandboxes if one.address not in unknown)
    declared_side = msgspec.structs.replace(profile, sandboxes=told)
    made = privilege_diff(*((declared_side, running) if running_is_new else (running, declared_side)))
    witness = "was made by another version: nobody can tell"
    maybe = [PrivilegeChange(axis="sandbox", way=Way.MAYBE, witness=witness, sandboxes=(name,)) for name in unknown]
    return PrivilegeDiff(changes=(*maybe, *made.changes), sandboxes=(*unknown, *made.sandboxes))
