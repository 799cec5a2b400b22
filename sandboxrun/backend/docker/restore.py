"""Gives sandboxes that run back what a change took from them and could not replace: limits, networks.

Owns these engine calls. What fails here is reported and left: the next apply sees how the sandbox is then.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from functools import partial

from sandboxrun.backend.events import Undone
from sandboxrun.backend.session import Session
from sandboxrun.errors import SandboxrunError
from sandboxrun.plan import operations as op
from sandboxrun.plan.operations import Operation
from sandboxrun.spec.codec import encode_update
from sandboxrun.spec.fields import endpoint
from sandboxrun.spec.project import network_payload
from sandboxrun.spec.records import Attachment


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
