"""Ends sandboxes and takes back what an apply could not finish: stop, evidence, removal; each is fine when it was
done already.

Owns the rule that nothing is removed before its evidence is kept.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Sequence
from functools import partial
from time import monotonic, sleep

from sandboxrun.backend import shared
from sandboxrun.backend.docker.codec import encode_update, network_payload, observe
from sandboxrun.backend.docker.companions import remove_companions
from sandboxrun.backend.docker.fields import endpoint
from sandboxrun.backend.errors import EngineError, NotFound
from sandboxrun.backend.session import Session, Undone, Watched
from sandboxrun.backend.shared import ITS_RUN, LOOK, WIRING, unfinished
from sandboxrun.errors import SandboxrunError
from sandboxrun.plan import operations as op
from sandboxrun.plan.operations import Operation
from sandboxrun.spec import labels
from sandboxrun.spec.names import PARTS, part_volume
from sandboxrun.spec.records import Attachment

# -- Ends sandboxes: stop, evidence, removal; each is fine when it was done already


def stop_sandbox(step: op.StopSandbox, session: Session) -> None:
    """Ask it to end; the engine kills it after its grace period. It may have ended by itself since the plan."""
    session.stopped[step.container] = False
    with contextlib.suppress(NotFound):
        session.stopped[step.container] = session.engine.stop_container(step.container, timeout=step.grace)


def remove_sandbox(step: op.RemoveSandbox, session: Session) -> None:
    """Remove the container and what is its own."""
    _remove_container(step.container, session)
    remove_companions(step.companions, step.network, session)
    for volume in step.volumes:
        _remove_volume(volume, session)


def _remove_container(container: str, session: Session) -> None:
    """Remove it, or wait until whoever is removing it already has done so."""
    until = monotonic() + ITS_RUN
    while True:
        try:
            session.engine.remove_container(container, force=True, volumes=True)
        except NotFound:
            return
        except EngineError as error:
            if error.status != 409 or monotonic() >= until:
                raise
            sleep(LOOK)
        else:
            return


def remove_volume(step: op.RemoveVolume, session: Session) -> None:
    """Remove a volume."""
    _remove_volume(step.name, session)


def _remove_volume(name: str, session: Session) -> None:
    try:
        session.engine.remove_volume(name)
    except NotFound:
        return


def remove_courier(step: op.RemoveCourier, session: Session) -> None:
    """Remove a container that carried files and was never started."""
    _remove_container(step.container, session)


def discard(address: str, session: Session) -> str:
    """Take away a sandbox that this apply made and could not finish: its evidence first, where it had started."""
    made = session.made[address]
    try:
        inspect = session.engine.inspect_container(made.id)
    except NotFound:
        return "was gone"
    observed = observe(inspect, session.profile.names, None)
    started = (inspect.get("State") or {}).get("StartedAt", "").startswith("0001-") is False
    if started:
        reached = session.engine.stop_container(made.id, timeout=1)
        gateway = session.gateways.get(address)
        ended = Watched(stopped_by="killed" if reached else "itself")
        shared.keep(observed, ended, session, known=True, gateway=gateway)
    session.engine.remove_container(made.id, force=True, volumes=True)
    session.store.unstage(made.run)
    remove_companions(session.companions.get(address, ()), session.private_networks.get(address), session)
    for part in PARTS:
        _remove_volume(part_volume(observed.base, part), session)
    return "evidence saved, removed" if started else "removed"


# -- Takes back what an apply had made and could not finish, so that nothing is left half-made


def undo(session: Session, failed: Sequence[Operation], skipped: Sequence[Operation]) -> None:
    """Remove the sandboxes whose making did not come to its end, then volumes and networks that nothing uses."""
    for address in sorted(unfinished(failed, skipped) & session.made.keys()):
        try:
            what = discard(address, session)
        except SandboxrunError as error:
            what = f"could not be removed: {error}"
        session.listener(Undone(address=address, what=what + _lost(address, session)))
    for step in (*failed, *skipped):
        if isinstance(step, op.CreatePart | op.CreateSandbox | WIRING):
            _part(step, session)
    if failed or skipped:
        _volumes(session)
        _networks(session)


def _lost(address: str, session: Session) -> str:
    """What is no more, of one that had to end before the other was started."""
    kept = session.given_up.get(address)
    return f"; the container it was to replace had been stopped, its evidence is in {kept}" if kept else ""


def _part(step: op.CreatePart | op.CreateSandbox | WIRING, session: Session) -> None:
    """What was made for a sandbox whose container was never made; or a gateway for one that runs, and did not serve."""
    if step.address in session.made:
        return
    with contextlib.suppress(SandboxrunError):
        containers = session.companions.get(step.address, ())
        remove_companions(containers, session.private_networks.get(step.address), session)
    if isinstance(step, WIRING) and getattr(step, "run", None) is not None:
        return  # a running sandbox's: its volumes stay
    for part in PARTS:
        with contextlib.suppress(SandboxrunError):
            _part_volume(part_volume(step.sandbox.name, part), session.run_of(step.address), session)


def _part_volume(name: str, run: str, session: Session) -> None:
    """One that this apply made; one of that name which stood in its way may be anybody's."""
    found = session.engine.volume(name) or {}
    if labels.read(found.get("Labels")).get(labels.RUN) == run:
        session.engine.remove_volume(name)


def _volumes(session: Session) -> None:
    """A volume of the profile's that this apply made goes again when no container has it; the engine refuses others."""
    for name in session.volumes_made:
        with contextlib.suppress(SandboxrunError):
            session.engine.remove_volume(name)


def _networks(session: Session) -> None:
    """A network that this apply made goes again when no container is on it; the engine refuses the others."""
    for name, network in session.networks_made.items():
        with contextlib.suppress(SandboxrunError):
            if not (session.engine.network(network) or {}).get("Containers"):
                session.engine.remove_network(network)
                session.listener(Undone(address=name, what="removed"))


# -- Gives sandboxes that run back what a change took from them and could not replace: limits, networks. What fails here
# is reported and left: the next apply sees how the sandbox is then


def restore(session: Session, steps: Sequence[Operation], done: Collection[str]) -> None:
    """After `steps`, of which those with the ids `done` came to their end."""
    unfinished = {step.address for step in steps if step.id not in done}
    for step in steps:
        if isinstance(step, op.UpdateSandbox) and step.address in unfinished:
            _attempt(session, step.address, "limits restored", partial(_limits, step, session))
    left = [s for s in steps if isinstance(s, op.DisconnectNetwork) and s.id in done]
    planned = {(s.container, s.network): s for s in steps if isinstance(s, op.ConnectNetwork) and s.container}
    for step in left:
        back = planned.get((step.container, step.network))
        if back.id not in done if back is not None else step.address in unfinished:
            _attempt(session, step.address, f"connected to {step.network} again", partial(_back, step, session))
    for (container, network), step in planned.items():
        if step.id in done and step.address in unfinished and _attachment(session, container or "", network) is None:
            text = f"disconnected from {network} again"
            _attempt(session, step.address, text, partial(_off, container or "", network, session))


def _attempt(session: Session, address: str, what: str, call: Callable[[], None]) -> None:
    try:
        call()
    except SandboxrunError as error:
        what = f"could not be {what}: {error}"
    session.listener(Undone(address=address, what=what))


def _limits(step: op.UpdateSandbox, session: Session) -> None:
    session.engine.update_container(step.container, encode_update(session.observed(step.container).spec, step.options))


def _back(step: op.DisconnectNetwork, session: Session) -> None:
    """On the network again; on one like it, where that was removed and the other one could not be made."""
    attachment = _attachment(session, step.container, step.network) or Attachment()
    if session.engine.network(step.network) is None:
        was = next(network for network in session.snapshot.networks if network.name == step.network)
        session.engine.create_network(network_payload(was.key, was.spec, session.profile.names))
    session.engine.connect_network(step.network, step.container, endpoint(attachment))


def _off(container: str, network: str, session: Session) -> None:
    session.engine.disconnect_network(network, container, force=True)


def _attachment(session: Session, container: str, network: str) -> Attachment | None:
    """How the container was on the network before; None where it was not. A gateway has no attachment of its own."""
    key = session.profile.names.network_key(network)
    for observed in session.snapshot.sandboxes:
        if observed.id == container:
            return observed.spec.networks.get(key)
    return Attachment()
