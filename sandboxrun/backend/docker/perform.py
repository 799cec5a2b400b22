"""The handler of each step, and the smaller ones: networks, attachments, waiting for a dependency. No decisions."""

from __future__ import annotations

from time import sleep
from typing import assert_never

from sandboxrun.backend.docker import companions as gateways
from sandboxrun.backend.docker import making as keepers
from sandboxrun.backend.docker import making as make
from sandboxrun.backend.docker import teardown
from sandboxrun.backend.errors import NotFound
from sandboxrun.backend.events import StepProgress
from sandboxrun.backend.session import Session
from sandboxrun.errors import ApplyError
from sandboxrun.plan import operations as op
from sandboxrun.spec.fields import endpoint
from sandboxrun.spec.project import decode_network, network_payload
from sandboxrun.spec.state import Completed, Created, Ended, Running, State, read_state

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


# -- Waits for what another sandbox must have reached: `depends_on`. No decisions

EVERY = 0.1  # seconds between looks


class DependencyFailed(ApplyError):
    """What a sandbox waits for can't come any more: `dependency` (an address) has ended, and `ending` says how."""

    def __init__(self, address: str, dependency: str, ending: str, *, help: str | None = None) -> None:
        super().__init__(f"{address} needs {dependency}, which {ending}", help=help)
        self.address, self.dependency, self.ending = address, dependency, ending


def await_condition(step: op.AwaitSandbox, session: Session) -> None:
    """Wait until the condition holds. Raises ApplyError when it no longer can."""
    container = _container(step, session)
    if container is None:
        return _by_record(step, session)
    if isinstance(container, Ended):  # torn down in this very apply, perhaps already
        _holds(step, container)
        return None
    session.listener(StepProgress(step=step, text=""))
    while not _holds(step, read_state(session.engine.inspect_container(container).get("State") or {})):
        if step.address in session.abandoned:
            return None  # nothing waits for it any more: the failure is that of the step that kept it from starting
        if session.stop.is_set():
            raise ApplyError(f"stopped while waiting for {step.dependency}")
        sleep(EVERY)
    return None


def _container(step: op.AwaitSandbox, session: Session) -> str | Ended | None:
    """The container to look at; the state it had when the plan was made if it had ended by then."""
    made = session.made.get(step.dependency)
    if made is not None:
        return made.id
    for observed in session.snapshot.sandboxes:
        if observed.address == step.dependency and not observed.one_off:
            return observed.state if isinstance(observed.state, Ended) else observed.id
    return None


def _by_record(step: op.AwaitSandbox, session: Session) -> None:
    """The dependency ran in an earlier run and is gone: the record says how it ended."""
    declared = session.profile.sandbox(step.dependency)
    digest = declared.spec.digest if declared is not None else ""
    record: Completed | None = session.snapshot.completed.get(step.dependency, {}).get(digest)
    if record is None:
        raise ApplyError(f"{step.address} needs {step.dependency}, which is not there", help="--rerun runs it again")
    if step.condition == "service_completed_successfully" and not record.succeeded:
        raise DependencyFailed(
            step.address, step.dependency, f"{record.ending} in an earlier run", help="--rerun runs it again"
        )


def _holds(step: op.AwaitSandbox, state: State) -> bool:
    match step.condition, state:
        case _, Created():
            return False
        case "service_started", _:
            return True
        case "service_healthy", Running(health="healthy"):
            return True
        case "service_healthy", Running(health=None):
            raise ApplyError(
                f"{step.address} waits for {step.dependency} to be healthy, which has no healthcheck",
                help="give it a healthcheck:, or use condition: service_started",
            )
        case "service_healthy", Running(health="unhealthy"):
            raise ApplyError(f"{step.address} needs {step.dependency}, which is unhealthy")
        case "service_completed_successfully", Ended(succeeded=True):
            return True
        case _, Ended() as ended:
            raise DependencyFailed(step.address, step.dependency, ended.ending)
    return False


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
            await_condition(step, session)
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
            return teardown.capture_evidence(step, session)
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
