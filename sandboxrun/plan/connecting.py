"""The steps of the project's networks: made, or made anew under sandboxes that keep running. Pure."""

from __future__ import annotations

from typing import Any

from sandboxrun.model.names import EGRESS, GATEWAY
from sandboxrun.model.objects import NetworkSpec
from sandboxrun.model.records import Attachment
from sandboxrun.plan import operations as op
from sandboxrun.plan.changes import Action, Change
from sandboxrun.plan.decide import Decision
from sandboxrun.plan.draft import Draft, Ids


def make_networks(draft: Draft, networks: list[Change], decisions: list[Decision]) -> None:
    """The networks that are missing, and those that have to be made anew."""
    for change in networks:
        if change.action is Action.CREATE:
            draft.networks[change.name] = _create_network(draft, change, ())
        elif change.action is Action.REPLACE:
            _replace_network(draft, change, decisions)


def _create_network(draft: Draft, change: Change, needs: Ids) -> str:
    key = change.address.removeprefix("network.")
    spec = draft.profile.networks.get(key, NetworkSpec())
    step = op.CreateNetwork(
        id=f"create {change.address}",
        address=change.address,
        cause=change.reason.value,
        needs=needs,
        key=key,
        spec=spec,
    )
    return draft.add(step)


def _replace_network(draft: Draft, change: Change, decisions: list[Decision]) -> None:
    """Detach everything that stays, make it anew, attach it again: running sandboxes keep running."""
    key = change.address.removeprefix("network.")
    draft.anew.add(key)
    kept = [d for d in decisions if d.observed is not None and d.declared is not None and not d.beside]
    declared = {d.observed.id: d.declared for d in kept if d.observed is not None and d.declared is not None}
    staying = [o for o in draft.snapshot.sandboxes if key in o.spec.networks and o.id not in draft.removed]
    common: dict[str, Any] = {"address": change.address, "cause": change.reason.value}
    on_it = {o.id: o.address for o in staying} | _gateways_on(draft, key)
    detached = tuple(
        draft.add(op.DisconnectNetwork(id=f"disconnect {of} {key}", **common, container=c, network=change.name))
        for c, of in on_it.items()
    )
    assert change.container is not None
    removed = draft.add(
        op.RemoveNetwork(
            id=f"remove {change.address}",
            **common,
            needs=(*detached, *draft.removed.values()),
            network=change.container,
            name=change.name,
        )
    )
    created = _create_network(draft, change, (removed,))
    draft.networks[change.name] = created
    wanted = {o.id: (declared[o.id].spec if o.id in declared else o.spec).networks.get(key) for o in staying}
    for container, of in on_it.items():
        attachment = wanted.get(container, Attachment())
        if attachment is None:
            continue
        step = op.ConnectNetwork(
            id=f"connect {of} {key}",
            **common,
            needs=(created,),
            container=container,
            network=change.name,
            attachment=attachment,
        )
        draft.add(step)


def _gateways_on(draft: Draft, key: str) -> dict[str, str]:
    """The gateways of sandboxes that stay, by id, if `key` is the network they reach the outside on."""
    runs = {o.run: o.address for o in draft.snapshot.sandboxes if o.id not in draft.removed}
    mine = [c for c in draft.snapshot.companions if c.role == GATEWAY and c.run in runs and key == EGRESS]
    return {c.id: f"{runs[c.run]} {GATEWAY}" for c in mine}
