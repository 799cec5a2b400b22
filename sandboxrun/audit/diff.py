"""The privilege diff: what sandboxes or services may do that those of before could not, each with a witness.

Owns pairing the sandboxes, flows that only show together, and counting what one change does to many. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import msgspec

from sandboxrun.audit.beside import Grant, compare_grants, grants, side_of_service
from sandboxrun.audit.subject import PlaceOf, Subject, nowhere
from sandboxrun.data import Data
from sandboxrun.source import Span, place_order
from sandboxrun.spec.forms import below
from sandboxrun.spec.option_types import CLOSED
from sandboxrun.spec.privilege import AXES, Side, Step, Way, level, places
from sandboxrun.spec.project import DeclaredSandbox, Profile
from sandboxrun.spec.spec import SandboxSpec, settle
from sandboxrun.spec.types import freeze

_GRAVITY = (Way.WIDENED, Way.MAYBE, Way.NARROWED, Way.UNCHANGED)


class PrivilegeChange(Data):
    """One difference of one axis. `sandboxes` are all that it is about: one cause in a base may be many's."""

    axis: str
    way: Way
    witness: str
    sandboxes: tuple[str, ...]
    key: str = ""
    span: Span | None = None

    @property
    def order(self) -> tuple[object, ...]:
        """The sort key: the gravest first, then by place."""
        return (_GRAVITY.index(self.way), place_order(self.span), self.axis, self.witness, self.sandboxes)


class PrivilegeDiff(Data):
    """All differences, the gravest first."""

    changes: tuple[PrivilegeChange, ...] = ()
    sandboxes: tuple[str, ...] = ()

    @property
    def widens(self) -> bool:
        """Whether something may do more, or nobody can tell."""
        return any(change.way in (Way.WIDENED, Way.MAYBE) for change in self.changes)

    def by_axis(self) -> Mapping[str, Mapping[str, Way]]:
        """Per sandbox and axis, the gravest verdict; UNCHANGED where there is no difference."""
        table = {name: {axis.name: Way.UNCHANGED for axis in AXES} for name in self.sandboxes}
        for change in self.changes:
            for name in change.sandboxes:
                row = table.setdefault(name, {})
                now = row.get(change.axis, Way.UNCHANGED)
                row[change.axis] = min(now, change.way, key=_GRAVITY.index)
        return table


class Party(Data):
    """One sandbox or service of one of the two. `grants` are what no option expresses; `place` says where an option,
    or an item of it, is written."""

    side: Side
    grants: tuple[Grant, ...] = ()
    place: PlaceOf = nowhere
    span: Span | None = None


Parties = Mapping[str, Party]  # by address
NOBODY: Parties = freeze({})


def side_of(sandbox: DeclaredSandbox, profile: Profile) -> Side:
    """A declared sandbox as one side of a comparison."""
    return Side(
        spec=sandbox.spec,
        networks=profile.networks,
        secrets=profile.secrets,
        workspace=_relative(str(sandbox.workspace), profile) if sandbox.workspace else "",
    )


def declared_parties(profile: Profile | None, subjects: Iterable[Subject] = ()) -> Parties:
    """The sandboxes of a profile; `subjects` are the same ones as the rules see them, where that is known."""
    if profile is None:
        return NOBODY
    beside = {subject.name: grants(subject) for subject in subjects}
    return {
        one.address: Party(
            side=_moved(side_of(one, profile), profile),
            grants=beside.get(one.address, ()),
            place=one.place,
            span=one.span,
        )
        for one in profile.sandboxes
    }


def service_parties(subjects: Iterable[Subject], variables: Mapping[str, tuple[str, ...]]) -> Parties:
    """The services of Compose files; `variables` are the options that one decides, as `option=variable`."""
    return {
        one.name: Party(
            side=side_of_service(one),
            grants=grants(one, variables.get(one.name, ())),
            place=one.find,
            span=one.find("", None),
        )
        for one in subjects
    }


def _relative(path: str, profile: Profile) -> str:
    top = str(profile.directory)
    return "." + path[len(top) :] if below(path, top) else path


def _moved(side: Side, profile: Profile) -> Side:
    """Host paths below the project's directory from there: two revisions lie in different places."""
    spec = side.spec
    volumes = tuple(
        msgspec.structs.replace(mount, source=_relative(mount.source, profile))
        if mount.type == "bind" and mount.source
        else mount
        for mount in spec.volumes
    )
    workspace = spec.workspace
    if workspace is not None and workspace.access != "copy":
        workspace = msgspec.structs.replace(workspace, source=_relative(workspace.source, profile))
    return msgspec.structs.replace(side, spec=msgspec.structs.replace(spec, volumes=volumes, workspace=workspace))


NOTHING = Side(spec=settle(SandboxSpec(egress=CLOSED)))


def compare(old: Side, new: Side) -> Iterator[tuple[str, Step]]:
    """The steps between two sides, with their axes, and with what makes them worse together."""
    found = [(axis.name, step) for axis in AXES for step in axis.compare(old, new)]
    for axis, step in found:
        yield axis, msgspec.structs.replace(step, witness=step.witness + _together(axis, step, new))


def _together(axis: str, step: Step, new: Side) -> str:
    """What a widening means with what the sandbox holds besides."""
    if step.way is not Way.WIDENED:
        return ""
    held = [f"the secret {ref.source}" for ref in new.spec.secrets[:2]]
    if axis == "network":
        data = ["the workspace"] if new.spec.workspace is not None and places(new) else []
        parts = [f"holding {' and '.join(held)}" if held else "", f"reading {data[0]}" if data else ""]
        words = " and ".join(part for part in parts if part)
        return f" while {words}" if words else ""
    if axis == "secrets" and level(new) != "nothing":
        allowed = new.spec.egress.allow if new.spec.egress is not None else ()
        where = ", ".join(allowed[:2]) + (" and others" if len(allowed) > 2 else "") if allowed else level(new)
        return f" while {where} can be reached"
    if axis == "mounts" and held and level(new) != "nothing":
        return f" while {level(new)} can be reached"
    return ""


def privilege_diff(old: Profile | None, new: Profile | None) -> PrivilegeDiff:
    """What the sandboxes of `new` may do that those of `old` could not. None has no sandboxes."""
    return difference(declared_parties(old), declared_parties(new))


def difference(old: Parties, new: Parties) -> PrivilegeDiff:
    """What those of `new` may do that those of `old` could not."""
    found: list[PrivilegeChange] = []
    for address in dict.fromkeys((*old, *new)):
        found += _of(address, old.get(address), new.get(address))
    return PrivilegeDiff(changes=_counted(found), sandboxes=tuple(dict.fromkeys((*old, *new))))


def _of(address: str, before: Party | None, after: Party | None) -> Iterator[PrivilegeChange]:
    if after is None:
        yield PrivilegeChange(axis="sandbox", way=Way.NARROWED, witness="is no longer declared", sandboxes=(address,))
        return
    if before is None:
        yield PrivilegeChange(
            axis="sandbox", way=Way.WIDENED, witness="is new", sandboxes=(address,), key="", span=after.span
        )
    earlier = before or Party(side=NOTHING)
    steps = (*compare(earlier.side, after.side), *compare_grants(earlier.grants, after.grants))
    for axis, step in steps:
        if before is not None or step.way is Way.WIDENED:
            yield PrivilegeChange(
                axis=axis,
                way=step.way,
                witness=step.witness,
                sandboxes=(address,),
                key=step.key,
                span=after.place(step.key, step.item),
            )


def _counted(changes: Iterable[PrivilegeChange]) -> tuple[PrivilegeChange, ...]:
    """One cause at one place as one change, with all sandboxes that have it."""
    merged: dict[tuple[object, ...], PrivilegeChange] = {}
    for change in changes:
        place = str(change.span) if change.span is not None else change.sandboxes
        key = (change.axis, change.way, change.witness, place)
        earlier = merged.get(key)
        if earlier is not None:
            change = msgspec.structs.replace(earlier, sandboxes=(*earlier.sandboxes, *change.sandboxes))
        merged[key] = change
    return tuple(sorted(merged.values(), key=lambda change: change.order))


def exceeding(greatest: Side, given: Side) -> Iterator[tuple[str, Step]]:
    """In what a sandbox exceeds the greatest one that a policy allows."""
    return ((axis, step) for axis, step in compare(greatest, given) if step.way in (Way.WIDENED, Way.MAYBE))
