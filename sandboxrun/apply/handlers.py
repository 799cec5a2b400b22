"""The handler of each step. Each is one engine call, or the few that belong together.

Owns the match over the union of operations; the handlers stand in make, teardown and joining.
"""

from __future__ import annotations

from typing import assert_never

from sandboxrun.apply import gateways, joining, keepers, make, teardown, waiting
from sandboxrun.apply.session import Session
from sandboxrun.plan import operations as op


def carry_out(step: op.Operation, session: Session) -> str | None:  # noqa: C901 - one case a class
    """Do one step; a note for its progress line, if any. Raises SandboxrunError."""
    match step:
        case op.PullImage():
            return make.pull_image(step, session)
        case op.BuildHelper():
            return gateways.build_helper(step, session)
        case op.CreateNetwork():
            joining.create_network(step, session)
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
            joining.connect(step, session)
        case op.DisconnectNetwork():
            joining.disconnect(step, session)
        case op.AwaitSandbox():
            waiting.await_condition(step, session)
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
            joining.remove_network(step, session)
        case op.RemoveVolume():
            teardown.remove_volume(step, session)
        case op.RemoveCourier():
            teardown.remove_courier(step, session)
        case _:
            assert_never(step)
    return None
