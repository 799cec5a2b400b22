"""The last steps of a replacement: start the new container, end the old one, and give the new one its name.

Owns which of the two comes first. By then all of the new one is made and read back, beside the old one. It is started
first: when it can't be, the old one has not been touched. Only where both would have hold of the same thing at once is
the old one ended before. Pure.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterator

from sandboxrun.model import forms
from sandboxrun.model.declared import DeclaredSandbox
from sandboxrun.model.observed import ObservedSandbox
from sandboxrun.model.spec import SandboxSpec
from sandboxrun.plan import operations as op
from sandboxrun.plan.decide import Decision
from sandboxrun.plan.down import teardown
from sandboxrun.plan.draft import Draft, Ids


def start(draft: Draft, sandbox: DeclaredSandbox, needs: Ids, cause: str) -> str:
    """Start what was made."""
    address = sandbox.address
    step = op.StartSandbox(id=f"start {address}", address=address, cause=cause, needs=needs, sandbox=sandbox)
    draft.started[address] = draft.add(step)
    return step.id


def take_over(draft: Draft, sandbox: DeclaredSandbox, decision: Decision, ready: Ids, cause: str) -> None:
    """The new one, once it is `ready`, in place of the old one."""
    observed = decision.observed
    assert observed is not None
    after = ready if excludes(observed, sandbox) else (start(draft, sandbox, ready, cause),)
    teardown(draft, decision, after)
    renamed = rename(draft, decision, None, (draft.removed[observed.id],))
    if after is ready:
        start(draft, sandbox, (*ready, renamed), cause)


def rename(draft: Draft, decision: Decision, container: str | None, needs: Ids) -> str:
    """Give a container, or the one that the plan makes, the name that is declared."""
    declared, change = decision.declared, decision.change
    assert declared is not None
    step = op.RenameSandbox(
        id=f"rename {change.address}",
        address=change.address,
        cause=change.note or change.reason.value,
        needs=needs,
        container=container,
        name=declared.name,
    )
    return draft.add(step)


def excludes(old: ObservedSandbox, new: DeclaredSandbox) -> bool:
    """Whether the two can't run side by side: one may write to what the other one has mounted, or both have the same
    fixed address, or devices."""
    mounts = any(_clash(one, other) for one in _mounts(old.spec) for other in _mounts(new.spec))
    devices = all(spec.devices or spec.gpus for spec in (old.spec, new.spec))
    return mounts or devices or bool(_addresses(old.spec) & _addresses(new.spec))


Place = tuple[str, str, bool]  # type, source, whether it is read-only


def _mounts(spec: SandboxSpec) -> Iterator[Place]:
    for mount in spec.volumes:
        yield mount.type, mount.source or "", mount.read_only
    if spec.workspace is not None and spec.workspace.access != "copy":
        yield "bind", spec.workspace.source, spec.workspace.access == "ro"


def _clash(one: Place, other: Place) -> bool:
    if one[0] != other[0] or (one[2] and other[2]):
        return False
    if one[0] != "bind":
        return one[1] == other[1]
    paths = [forms.path(place[1]) for place in (one, other)]
    return posixpath.commonpath(paths) in paths


def _addresses(spec: SandboxSpec) -> set[str]:
    return {at.ipv4_address for at in spec.networks.values() if at.ipv4_address}
