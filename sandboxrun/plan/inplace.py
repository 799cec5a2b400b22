"""The steps that change a sandbox while it runs: limits, its gateway's rules, the networks it is on. Pure."""

from __future__ import annotations

from typing import Any

from sandboxrun.model.declared import DeclaredSandbox
from sandboxrun.model.names import GATEWAY
from sandboxrun.model.observed import ObservedSandbox
from sandboxrun.model.option import Effect
from sandboxrun.plan import operations as op
from sandboxrun.plan.decide import Decision
from sandboxrun.plan.down import remove_courier
from sandboxrun.plan.draft import Draft
from sandboxrun.plan.making import open_gateway
from sandboxrun.plan.replacing import rename


def update(draft: Draft, sandbox: DeclaredSandbox, decision: Decision) -> None:
    """What can be changed without ending it."""
    assert decision.observed is not None
    cause = decision.change.reason.value
    before = len(draft.steps)
    live = tuple(d.key for d in decision.change.differences if d.effect is Effect.LIVE)
    if live:
        step = op.UpdateSandbox(
            id=f"update {sandbox.address}",
            address=sandbox.address,
            cause=cause,
            sandbox=sandbox,
            container=decision.observed.id,
            options=live,
        )
        draft.add(step)
    if any(d.effect is Effect.RENAME for d in decision.change.differences):
        rename(draft, decision, decision.observed.id, draft.gone(sandbox.address))
    if any(d.effect is Effect.RELOAD for d in decision.change.differences):
        _reload(draft, sandbox, decision.observed, cause)
    if any(d.effect is Effect.RECONNECT for d in decision.change.differences):
        _reconnect(draft, sandbox, decision.observed, cause)
    if any(d.effect is Effect.RESUME for d in decision.change.differences):
        resume = op.ResumeSandbox(
            id=f"resume {sandbox.address}",
            address=sandbox.address,
            cause=cause,
            needs=tuple(step.id for step in draft.steps[before:]),
            container=decision.observed.id,
        )
        draft.add(resume)
    if not all(d.drift for d in decision.change.differences):
        record = op.RecordSpec(
            id=f"record {sandbox.address}",
            address=sandbox.address,
            cause=cause,
            needs=tuple(step.id for step in draft.steps[before:]),
            sandbox=sandbox,
            run=decision.observed.run,
        )
        draft.add(record)


def _reload(draft: Draft, sandbox: DeclaredSandbox, observed: ObservedSandbox, cause: str) -> None:
    """Other rules for the gateway that runs; one that does not is started again, one that is gone made anew, and so is
    one that never ran: the apply that made it was killed before it was whole."""
    gateway = draft.snapshot.companion(observed.run, GATEWAY)
    address = sandbox.address
    if gateway is None:
        open_gateway(draft, sandbox, (), cause, run=observed.run)
    elif not gateway.started:
        open_gateway(draft, sandbox, (remove_courier(draft, gateway.id),), cause, run=observed.run)
    elif gateway.running:
        step: op.Operation = op.ReloadGateway(
            id=f"reload {address} {GATEWAY}",
            address=address,
            cause=cause,
            sandbox=sandbox,
            container=gateway.id,
            run=observed.run,
        )
        draft.add(step)
    else:
        step = op.StartGateway(
            id=f"start {address} {GATEWAY}",
            address=address,
            cause=cause,
            sandbox=sandbox,
            container=gateway.id,
            run=observed.run,
        )
        draft.add(step)


def _reconnect(draft: Draft, sandbox: DeclaredSandbox, observed: ObservedSandbox, cause: str) -> None:
    before, after, names = observed.spec.networks, sandbox.spec.networks, draft.profile.names
    common: dict[str, Any] = {"address": sandbox.address, "cause": cause}
    for key, attachment in before.items():
        if after.get(key) != attachment and key not in draft.anew:
            network = names.network(key)
            step = op.DisconnectNetwork(
                id=f"disconnect {sandbox.address} {key}", **common, container=observed.id, network=network
            )
            draft.add(step)
    gone = {s.id for s in draft.steps}
    for key, attachment in after.items():
        if before.get(key) != attachment and not (key in before and key in draft.anew):
            network = names.network(key)
            detached = f"disconnect {sandbox.address} {key}"
            needs = [n for n in (draft.networks.get(network), detached if detached in gone else None) if n]
            join = op.ConnectNetwork(
                id=f"connect {sandbox.address} {key}",
                **common,
                needs=tuple(needs),
                container=observed.id,
                network=network,
                attachment=attachment,
            )
            draft.add(join)
