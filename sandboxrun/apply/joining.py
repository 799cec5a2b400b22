"""Networks: makes and removes them, attaches and detaches sandboxes. No decisions."""

from __future__ import annotations

from sandboxrun.apply.session import Session
from sandboxrun.engine.errors import NotFound
from sandboxrun.errors import ApplyError
from sandboxrun.model.objects import decode_network, network_payload
from sandboxrun.model.placements import endpoint
from sandboxrun.plan import operations as op


def create_network(step: op.CreateNetwork, session: Session) -> None:
    """Make a network, and read back what isolates its sandboxes."""
    payload = network_payload(step.key, step.spec, session.profile.names)
    network = session.engine.create_network(payload)
    session.networks_made[payload["Name"]] = network
    live = decode_network(session.engine.network(network) or {})
    lost = {k: v for k, v in step.spec.driver_opts.items() if live.driver_opts.get(k) != v}
    if lost or live.internal != step.spec.internal:
        raise ApplyError(
            f"the engine did not take the options of the network {payload['Name']}: {lost or 'internal'}",
            help="see `sandboxrun doctor`",
        )


def remove_network(step: op.RemoveNetwork, session: Session) -> None:
    """Remove a network; one that is gone already is fine."""
    try:
        session.engine.remove_network(step.network)
    except NotFound:
        return


def connect(step: op.ConnectNetwork, session: Session) -> None:
    """Attach a container."""
    container = step.container or session.made[step.address].id
    session.engine.connect_network(step.network, container, endpoint(step.attachment))


def disconnect(step: op.DisconnectNetwork, session: Session) -> None:
    """Detach a container; one that is detached or gone already is fine."""
    try:
        session.engine.disconnect_network(step.network, step.container, force=True)
    except NotFound:
        return
