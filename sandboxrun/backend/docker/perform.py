"""The handler of each step, and those of the smaller ones: networks, attachments, ends, removals. Each is one engine
call, or the few that belong together; each is fine when it was done already. And what takes back an apply's steps that
could not be finished.

Owns the rule that nothing is removed before its evidence is kept. No decisions.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from time import monotonic, sleep
from typing import Any

from sandboxrun.backend.docker import companions as gateways
from sandboxrun.backend.docker import making as make
from sandboxrun.backend.docker.codec import encode_update, network_payload, observe
from sandboxrun.backend.docker.companions import remove_companions
from sandboxrun.backend.docker.fields import endpoint
from sandboxrun.backend.docker.observe import record_update
from sandboxrun.backend.errors import EngineError, NotFound
from sandboxrun.backend.session import (
    ITS_RUN,
    LOOK,
    WIRING,
    Session,
    Undone,
    await_condition,
    capture_evidence,
    check_unstarted,
    settle,
    stop_sandbox,
    take_away,
    unstage,
)
from sandboxrun.errors import SandboxrunError
from sandboxrun.plan import operations as op
from sandboxrun.plan.operations import Operation
from sandboxrun.spec import labels
from sandboxrun.spec.names import PARTS, part_volume
from sandboxrun.spec.records import Attachment
from sandboxrun.spec.state import ObservedSandbox
from sandboxrun.threads import together

_SIDE_BY_SIDE = 4  # removals of one sandbox's own

# -- Networks: made and removed, sandboxes attached and detached


def create_network(step: op.CreateNetwork, session: Session) -> None:
    """Make a network of the profile's."""
    payload = network_payload(step.key, step.spec, session.profile.names)
    session.networks_made[payload["Name"]] = make.create_network(session.engine, payload)


def disconnect(step: op.DisconnectNetwork, session: Session) -> None:
    """Detach a container."""
    with suppress(NotFound):
        session.engine.disconnect_network(step.network, step.container, force=True)


# -- Ends of sandboxes: stop and removal


def remove_sandbox(step: op.RemoveSandbox, session: Session) -> None:
    """Remove the container and what is its own: all containers side by side, and then what they used."""
    containers = (step.container, *step.companions)
    if check_unstarted(step.container, session):
        _remove_container(step.container, session, unstarted=True)
        containers = step.companions
    together(partial(_remove_container, session=session), containers, workers=len(containers))
    removals: list[Callable[[], None]] = [partial(session.engine.remove_volume, volume) for volume in step.volumes]
    if step.network is not None:
        removals.insert(0, partial(session.engine.remove_network, step.network))
    together(lambda remove: remove(), removals, workers=_SIDE_BY_SIDE)
    unstage(step.container, session)


def keep_sandbox(step: op.KeepSandbox, session: Session) -> str:
    """Take away what runs beside it, and only then give it the name of one that is kept: whoever is killed in between
    leaves one that is not kept yet."""
    remove_companions(step.companions, step.network, session)
    if (session.observed(step.container).spec.restart or "no") != "no":
        session.engine.update_container(step.container, {"RestartPolicy": {"Name": "no", "MaximumRetryCount": 0}})
    session.engine.rename_container(step.container, step.name)
    settle(step.container, session)
    return f"as {step.name}"


def _remove_container(container: str, session: Session, *, unstarted: bool = False) -> None:
    """Remove it, or wait until whoever is removing it already has done so; one that is `unstarted`, unless it was
    started by now."""
    until = monotonic() + ITS_RUN
    while True:
        try:
            session.engine.remove_container(container, force=not unstarted, volumes=True)
            return
        except EngineError as error:
            if unstarted:
                check_unstarted(container, session)
            if error.status != 409 or monotonic() >= until:
                raise
            sleep(LOOK)


# -- The handler of each step

HANDLERS: Mapping[type[Operation], Callable[[Any, Session], str | None]] = {
    op.PullImage: make.pull_image,
    op.BuildHelper: gateways.build_helper,
    op.CreateNetwork: create_network,
    op.CreatePrivateNetwork: gateways.create_private_network,
    op.CreateGateway: gateways.create_gateway,
    op.StartGateway: gateways.start_gateway,
    op.ReloadGateway: gateways.reload_gateway,
    op.CreateVolume: make.create_volume,
    op.CreatePart: make.create_part,
    op.StartKeeper: make.start_keeper,
    op.CreateSandbox: make.create_sandbox,
    op.CheckSandbox: lambda step, session: make.read_back(
        step.sandbox, session.container(step), session, step.image_id
    ),
    op.RenameSandbox: lambda step, session: session.engine.rename_container(session.container(step), step.name),
    op.UploadWorkspace: make.upload_workspace,
    op.UploadFiles: make.upload_files,
    op.GiveVolume: make.give_volume,
    op.ConnectNetwork: lambda step, session: session.engine.connect_network(
        step.network, session.container(step), endpoint(step.attachment)
    ),
    op.DisconnectNetwork: disconnect,
    op.AwaitSandbox: await_condition,
    op.StartSandbox: make.start_sandbox,
    op.UpdateSandbox: make.update_sandbox,
    op.ResumeSandbox: make.resume_sandbox,
    op.RecordSpec: lambda step, session: record_update(
        session.store, step.run, step.sandbox.spec.label, engine=session.engine.identity
    ),
    op.StopSandbox: stop_sandbox,
    op.CaptureEvidence: capture_evidence,
    op.RemoveSandbox: remove_sandbox,
    op.KeepSandbox: keep_sandbox,
    op.RemoveNetwork: lambda step, session: session.engine.remove_network(step.network),
    op.RemoveVolume: lambda step, session: session.engine.remove_volume(step.name),
    op.RemoveLeftover: lambda step, session: _remove_container(step.container, session),
}


def carry_out(step: Operation, session: Session) -> str | None:
    """Do one step; a note for its progress line, if any. Raises SandboxrunError."""
    return HANDLERS[type(step)](step, session)


# -- Takes back what an apply had made and could not finish, so that nothing is left half-made


def undo(session: Session, failed: Sequence[Operation], skipped: Sequence[Operation]) -> None:
    """Remove the sandboxes whose making did not come to its end, then volumes and networks that nothing uses."""

    def look(id: str) -> ObservedSandbox:
        return observe(session.engine.inspect_container(id), session.profile.names, None)

    take_away(session, failed, skipped, look=look, remove=partial(_remove_made, session))
    for step in (*failed, *skipped):
        if isinstance(step, op.CreatePart | op.CreateSandbox | WIRING) and step.address not in session.made:
            _undo_parts(step, session)
    if not failed and not skipped:
        return
    # What this apply made of the profile's own goes again where no container has it; the engine refuses the others.
    for name in session.volumes_made:
        with suppress(SandboxrunError):
            session.engine.remove_volume(name)
    for name, network in session.networks_made.items():
        with suppress(SandboxrunError):
            if not (session.engine.network(network) or {}).get("Containers"):
                session.engine.remove_network(network)
                session.listener(Undone(address=name, what="removed"))


def _remove_made(session: Session, observed: ObservedSandbox, beside: Iterable[str], network: str | None) -> None:
    session.engine.remove_container(observed.id, force=True, volumes=True)
    remove_companions(beside, network, session)
    for part in PARTS:
        session.engine.remove_volume(part_volume(observed.base, part))


def _undo_parts(step: op.CreatePart | op.CreateSandbox | WIRING, session: Session) -> None:
    """What was made for a sandbox whose container was never made; or a gateway for one that runs, and did not serve."""
    with suppress(SandboxrunError):
        remove_companions(
            session.companions[step.address].values(), session.private_networks.get(step.address), session
        )
    if isinstance(step, WIRING) and getattr(step, "run", None) is not None:
        return  # a running sandbox's: its volumes stay
    for name in (part_volume(step.sandbox.name, part) for part in PARTS):
        with suppress(SandboxrunError):
            # one of that name which stood in its way may be anybody's
            own = labels.read((session.engine.volume(name) or {}).get("Labels"))
            if own.get(labels.RUN) == session.run_of(step.address):
                session.engine.remove_volume(name)


# -- Gives sandboxes that run back what a change took from them and could not replace: limits, networks. What fails here
# is reported and left: the next apply sees how the sandbox is then


def restore(session: Session, steps: Sequence[Operation], done: Collection[str]) -> None:
    """After `steps`, of which those with the ids `done` came to their end."""
    unfinished = {step.address for step in steps if step.id not in done}
    for step in steps:
        if isinstance(step, op.UpdateSandbox) and step.address in unfinished:
            was = encode_update(session.observed(step.container).spec, step.options)
            limits = partial(session.engine.update_container, step.container, was)
            _attempt(session, step.address, "limits restored", limits)
    left = [s for s in steps if isinstance(s, op.DisconnectNetwork) and s.id in done]
    planned = {(s.container, s.network): s for s in steps if isinstance(s, op.ConnectNetwork) and s.container}
    for step in left:
        back = planned.get((step.container, step.network))
        if back.id not in done if back is not None else step.address in unfinished:
            _attempt(session, step.address, f"connected to {step.network} again", partial(_reconnect, step, session))
    for (container, network), step in planned.items():
        if step.id in done and step.address in unfinished and _attachment(session, container or "", network) is None:
            off = partial(session.engine.disconnect_network, network, container or "", force=True)
            _attempt(session, step.address, f"disconnected from {network} again", off)


def _attempt(session: Session, address: str, what: str, call: Callable[[], object]) -> None:
    try:
        call()
    except SandboxrunError as error:
        what = f"could not be {what}: {error}"
    session.listener(Undone(address=address, what=what))


def _reconnect(step: op.DisconnectNetwork, session: Session) -> None:
    """On the network again; on one like it, where that was removed and the other one could not be made."""
    attachment = _attachment(session, step.container, step.network) or Attachment()
    if session.engine.network(step.network) is None:
        was = next(network for network in session.snapshot.networks if network.name == step.network)
        make.create_network(session.engine, network_payload(was.key, was.spec, session.profile.names))
    session.engine.connect_network(step.network, step.container, endpoint(attachment))


def _attachment(session: Session, container: str, network: str) -> Attachment | None:
    """How the container was on the network before; None where it was not. A gateway has no attachment of its own."""
    key = session.profile.names.network_key(network)
    for observed in session.snapshot.sandboxes:
        if observed.id == container:
            return observed.spec.networks.get(key)
    return Attachment()
