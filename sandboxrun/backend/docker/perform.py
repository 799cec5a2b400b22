"""The handler of each step, and the smaller ones: networks, attachments. No decisions."""

from __future__ import annotations

from typing import assert_never

from sandboxrun.backend import shared
from sandboxrun.backend.docker import companions as gateways
from sandboxrun.backend.docker import making as keepers
from sandboxrun.backend.docker import making as make
from sandboxrun.backend.docker import teardown
from sandboxrun.backend.docker.codec import decode_network, network_payload
from sandboxrun.backend.docker.fields import endpoint
from sandboxrun.backend.errors import NotFound
from sandboxrun.backend.session import Session
from sandboxrun.errors import ApplyError
from sandboxrun.plan import operations as op

# -- Networks: makes and removes them, attaches and detaches sandboxes. No decisions


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


# -- The handler of each step. Each is one engine call, or the few that belong together


def carry_out(step: op.Operation, session: Session) -> str | None:  # noqa: C901 - one case a class
    """Do one step; a note for its progress line, if any. Raises SandboxrunError."""
    match step:
        case op.PullImage():
            return make.pull_image(step, session)
        case op.BuildHelper():
            return gateways.build_helper(step, session)
        case op.CreateNetwork():
            create_network(step, session)
        case op.CreatePrivateNetwork():
            return gateways.create_private_network(step, session)
        case op.CreateGateway():
            return gateways.create_gateway(step, session)
        case op.StartGateway():
            return gateways.start_gateway(step, session)
        case op.ReloadGateway():
            return gateways.reload_gateway(step, session)
        case op.CreateVolume():
            make.create_volume(step, session)
        case op.CreatePart():
            make.create_part(step, session)
        case op.StartKeeper():
            return keepers.start_keeper(step, session)
        case op.CreateSandbox():
            return make.create_sandbox(step, session)
        case op.CheckSandbox():
            make.check_sandbox(step, session)
        case op.RenameSandbox():
            make.rename_sandbox(step, session)
        case op.UploadWorkspace():
            return make.upload_workspace(step, session)
        case op.UploadFiles():
            make.upload_files(step, session)
        case op.GiveVolume():
            make.give_volume(step, session)
        case op.ConnectNetwork():
            connect(step, session)
        case op.DisconnectNetwork():
            disconnect(step, session)
        case op.AwaitSandbox():
            shared.await_condition(step, session)
        case op.StartSandbox():
            return make.start_sandbox(step, session)
        case op.UpdateSandbox():
            return make.update_sandbox(step, session)
        case op.ResumeSandbox():
            make.resume_sandbox(step, session)
        case op.RecordSpec():
            make.record_spec(step, session)
        case _:
            return _take_away(step, session)
    return None


_Removal = (
    op.StopSandbox | op.CaptureEvidence | op.RemoveSandbox | op.RemoveNetwork | op.RemoveVolume | op.RemoveCourier
)


def _take_away(step: _Removal, session: Session) -> str | None:
    match step:
        case op.StopSandbox():
            teardown.stop_sandbox(step, session)
        case op.CaptureEvidence():
            return shared.capture_evidence(step, session)
        case op.RemoveSandbox():
            teardown.remove_sandbox(step, session)
        case op.RemoveNetwork():
            remove_network(step, session)
        case op.RemoveVolume():
            teardown.remove_volume(step, session)
        case op.RemoveCourier():
            teardown.remove_courier(step, session)
        case _:
            assert_never(step)
    return None
