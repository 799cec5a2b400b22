"""The steps that take away: stop, evidence, removal, then what nothing uses any more. Evidence comes first. Pure."""

from __future__ import annotations

from typing import Any

from sandboxrun.model.names import GATEWAY
from sandboxrun.model.observed import Ended, ObservedSandbox, Running
from sandboxrun.plan import operations as op
from sandboxrun.plan.belongings import own_companions, own_network, own_volumes
from sandboxrun.plan.changes import Action, Change
from sandboxrun.plan.decide import Decision
from sandboxrun.plan.draft import Draft, Ids


def remove_courier(draft: Draft, container: str) -> str:
    """Remove what an apply that was killed left; the step."""
    step = op.RemoveCourier(id=f"courier {container[:12]}", address="", cause="left over", container=container)
    return draft.add(step)


def teardown(draft: Draft, decision: Decision, after: Ids = ()) -> None:
    """Stop it if it runs, keep its evidence, remove it with all that is its own. `after`: what must be done first."""
    observed, change = decision.observed, decision.change
    assert observed is not None
    last = after
    common: dict[str, Any] = {"address": change.address, "cause": change.note or change.reason.value}
    if isinstance(observed.state, Running):
        spec = observed.applied or observed.spec
        grace = -(-spec.stop_grace_period // 1_000_000_000)
        stop = op.StopSandbox(
            id=f"stop {change.address}",
            **common,
            needs=last,
            container=observed.id,
            grace=grace,
            how=decision.how or "killed",
            replaced=decision.beside,
        )
        last = (draft.add(stop),)
    if isinstance(observed.state, Running | Ended):
        how = decision.how or ("killed" if isinstance(observed.state, Running) else None)
        capture = op.CaptureEvidence(
            id=f"evidence {change.address}",
            **common,
            needs=last,
            container=observed.id,
            name=observed.name,
            run=observed.run,
            how=how,
            gateway=_gateway(draft, observed),
            replaced=decision.beside,
        )
        last = (draft.add(capture),)
    remove = op.RemoveSandbox(
        id=f"remove {change.address}",
        **common,
        needs=(*last, *draft.couriers),  # a courier holds the volumes that go with the container
        container=observed.id,
        name=observed.name,
        volumes=own_volumes(observed.base, draft.snapshot),
        companions=own_companions(observed.run, draft.snapshot),
        network=own_network(observed.base, draft.snapshot),
        replaced=decision.beside,
    )
    draft.removed[observed.id] = draft.add(remove)


def _gateway(draft: Draft, observed: ObservedSandbox) -> str | None:
    found = draft.snapshot.companion(observed.run, GATEWAY)
    return found.id if found is not None else None


def remove_surroundings(draft: Draft, networks: list[Change], volumes: list[Change]) -> None:
    """Networks and volumes that go, once nothing is on them."""
    after = (*draft.removed.values(), *draft.couriers)
    moved = tuple(s.id for s in draft.steps if isinstance(s, op.DisconnectNetwork | op.ConnectNetwork))
    for change in networks:
        if change.action is Action.DELETE and change.container is not None:
            step = op.RemoveNetwork(
                id=f"remove {change.address}",
                address=change.address,
                cause=change.note,
                needs=(*after, *moved),
                network=change.container,
                name=change.name,
            )
            draft.add(step)
    for change in volumes:
        if change.action is Action.DELETE:
            gone = op.RemoveVolume(
                id=f"remove {change.name}", address=change.address, cause=change.note, needs=after, name=change.name
            )
            draft.add(gone)
