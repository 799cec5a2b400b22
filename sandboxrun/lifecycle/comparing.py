"""Comparing what two profiles, revisions or a profile and what runs allow.

Owns loading both sides alike. A side that cannot be loaded is an error: no comparison passes because of it.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import msgspec

from sandboxrun.audit.diff import Change, PrivilegeDiff, privilege_diff
from sandboxrun.data import Data
from sandboxrun.errors import ProfileError
from sandboxrun.lifecycle.declaring import alternatives, load_target, load_under
from sandboxrun.lifecycle.git import Repository
from sandboxrun.lifecycle.review import Target
from sandboxrun.plan.changes import Plan
from sandboxrun.plan.text import spec_shown
from sandboxrun.profile.loader import Loaded
from sandboxrun.profile.variables import Inputs
from sandboxrun.spec.privilege import Way
from sandboxrun.spec.project import DeclaredSandbox, Profile
from sandboxrun.spec.spec import settle

MOST_LOADS = 100


class Pair(Data):
    """A profile before and after. None: it is not there."""

    name: str
    old: Target | None
    new: Target | None


def compared(pairs: Sequence[Pair], inputs: Inputs | None = None) -> PrivilegeDiff:
    """The differences of all pairs, under the values given and under all others that their variables may have."""
    given = inputs or Inputs()
    changes: list[Change] = []
    sandboxes: list[str] = []
    for pair in pairs:
        found = _pair(pair, given)
        changes += found.changes
        sandboxes += found.sandboxes
    return PrivilegeDiff(
        changes=tuple(sorted(changes, key=lambda change: change.order)), sandboxes=tuple(dict.fromkeys(sandboxes))
    )


def _pair(pair: Pair, inputs: Inputs) -> PrivilegeDiff:
    old = load_target(pair.old, inputs) if pair.old is not None else None
    new = load_target(pair.new, inputs) if pair.new is not None else None
    found = privilege_diff(old.profile if old else None, new.profile if new else None)
    if new is None or pair.new is None or not new.variables:
        return found
    changes = list(found.changes)
    known = {(change.axis, change.witness, change.sandboxes) for change in changes}
    for count, other in enumerate(alternatives(pair.new, new)):
        if count >= MOST_LOADS:
            raise ProfileError(f"{pair.name}: its variables have too many values to compare")
        after = _under(pair.new, inputs, other.name, other.value)
        if after is None:
            continue
        before = _under(pair.old, inputs, other.name, other.value) if pair.old is not None else None
        base = before if before is not None else old.profile if old is not None else None
        for change in privilege_diff(base, after).changes:
            if (change.axis, change.witness, change.sandboxes) not in known:
                known.add((change.axis, change.witness, change.sandboxes))
                changes.append(msgspec.structs.replace(change, witness=f"{change.witness}, when {other.words}"))
    return msgspec.structs.replace(found, changes=tuple(changes))


def _under(target: Target, inputs: Inputs, name: str, value: object) -> Profile | None:
    """The profile with one variable at a value; None where it refuses it."""
    try:
        loaded: Loaded = load_under(target, inputs, name, value)
    except ProfileError:
        return None
    return loaded.profile


def since(ref: str, targets: Sequence[Target], inputs: Inputs | None = None) -> PrivilegeDiff:
    """What the profiles on the disk allow that those of a revision did not. Raises GitError, ProfileError.

    Profiles that the revision had and that are gone are in it as narrower, where their directory was asked for.
    """
    profiles = [target for target in targets if target.kind == "profile"]
    if not profiles:
        return PrivilegeDiff()
    repository = Repository(profiles[0].paths[0].resolve().parent)
    commit = repository.commit(ref)
    with tempfile.TemporaryDirectory(prefix="sandboxrun-") as name:
        top = Path(os.path.realpath(name))
        repository.export(commit, top)
        pairs = []
        for target in profiles:
            path = Path(os.path.realpath(target.paths[0]))
            if not path.is_relative_to(repository.root):
                raise ProfileError(f"{target.paths[0]} is not in the repository {repository.root}")
            earlier = top / path.relative_to(repository.root)
            old = Target(kind="profile", paths=(earlier,)) if earlier.is_file() else None
            pairs.append(Pair(name=str(target.paths[0]), old=old, new=target))
        return compared(pairs, inputs)


def between(
    one: tuple[str | None, Path], other: tuple[str | None, Path], inputs: Inputs | None = None
) -> PrivilegeDiff:
    """Two profiles, each on the disk or in a revision (its name, or None)."""
    with tempfile.TemporaryDirectory(prefix="sandboxrun-") as name:
        sides = [
            _side(ref, path, Path(os.path.realpath(name)) / str(number))
            for number, (ref, path) in enumerate((one, other))
        ]
        return compared([Pair(name=str(other[1]), old=sides[0], new=sides[1])], inputs)


def _side(ref: str | None, path: Path, into: Path) -> Target | None:
    if ref is None:
        return Target(kind="profile", paths=(path,))
    real = Path(os.path.realpath(path))
    start = next(place for place in (real.parent, *real.parents) if place.is_dir())
    repository = Repository(start)
    into.mkdir()
    repository.export(repository.commit(ref), into)
    earlier = into / real.relative_to(repository.root)
    return Target(kind="profile", paths=(earlier,)) if earlier.is_file() else None


def with_running(plan: Plan, profile: Profile, *, running_is_new: bool = False) -> PrivilegeDiff:
    """What a profile's sandboxes may do that those which its plan found could not, or the other way round.

    What cannot be compared, because another version made it, is MAYBE.
    """
    found, unknown = [], []
    for change in plan.changes:
        if change.kind != "sandbox" or change.before is None:
            continue
        declared = profile.sandbox(change.address)
        spec = spec_shown(change.before)
        if spec is None:
            unknown.append(change.address)
        elif declared is not None:
            found.append(msgspec.structs.replace(declared, spec=settle(spec)))
        else:
            sandbox = change.address.partition("[")[0]
            found.append(
                DeclaredSandbox(address=change.address, sandbox=sandbox, each=None, name=change.name, spec=settle(spec))
            )
    running = msgspec.structs.replace(profile, sandboxes=tuple(found))
    told = tuple(one for one in profile.sandboxes if one.address not in unknown)
    declared_side = msgspec.structs.replace(profile, sandboxes=told)
    made = privilege_diff(*((declared_side, running) if running_is_new else (running, declared_side)))
    maybe = [
        Change(axis="sandbox", way=Way.MAYBE, witness="was made by another version: nobody can tell", sandboxes=(name,))
        for name in unknown
    ]
    return PrivilegeDiff(changes=(*maybe, *made.changes), sandboxes=(*unknown, *made.sandboxes))
