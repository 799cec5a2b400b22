"""Lays out the steps that carry decisions out, with what each needs before it.

Owns the order: evidence before removal, containers before networks and volumes when tearing down, the reverse
when building up, dependencies before dependents; what runs is given up after what takes its place was made. Pure.
"""

from __future__ import annotations

from sandboxrun.model.declared import Profile
from sandboxrun.model.observed import Snapshot
from sandboxrun.plan import operations as op
from sandboxrun.plan.changes import Action, Change
from sandboxrun.plan.connecting import make_networks
from sandboxrun.plan.decide import Decision
from sandboxrun.plan.down import remove_courier, remove_surroundings, teardown
from sandboxrun.plan.draft import Draft
from sandboxrun.plan.inplace import update
from sandboxrun.plan.making import make, make_volumes, pull
from sandboxrun.plan.order import by_dependency


def lay(
    profile: Profile,
    snapshot: Snapshot,
    decisions: list[Decision],
    *,
    networks: list[Change],
    volumes: list[Change],
    images: list[Change],
) -> tuple[op.Operation, ...]:
    """All steps; those with no needs in common may run side by side."""
    draft = Draft(profile=profile, snapshot=snapshot)
    draft.couriers = tuple(remove_courier(draft, container) for container in snapshot.couriers)
    for decision in decisions:
        if decision.ends and not decision.beside:
            teardown(draft, decision)
    pull(draft, images, decisions)
    make_networks(draft, networks, decisions)
    make_volumes(draft, volumes)
    for decision in by_dependency(decisions):
        if decision.makes and decision.made is not None:
            make(draft, decision.made, decision)
        elif decision.change.action is Action.UPDATE and decision.declared is not None:
            update(draft, decision.declared, decision)
    remove_surroundings(draft, networks, volumes)
    return tuple(draft.steps)
