"""What a plan's steps are called while an apply works. Owns the words. Pure."""

from __future__ import annotations

from typing import assert_never

from sandboxrun.plan import operations as op
from sandboxrun.plan.operations import Operation
from sandboxrun.plan.text import one_line

_UNTIL = {
    "service_started": "to start",
    "service_healthy": "to be healthy",
    "service_completed_successfully": "to complete",
}


def resource(address: str) -> str:
    """An address as the first word of a line: `reviewer["lint"]`, `network default`, `image node:20-alpine`."""
    kind, dot, key = address.partition(".")
    return one_line(f"{kind} {key}" if dot and kind in ("network", "volume", "image") else address or "leftovers")


def doing(step: Operation, how_far: str = "") -> str:
    """The step as something that goes on, with how far it is."""
    words = _words(step)[0]
    return one_line(f"{words}: {how_far}" if how_far else words)


def done(step: Operation, note: str = "") -> str:
    """The step as something done, with what its handler noted of it where a person wants to know."""
    said = _words(step)[1]
    return one_line(f"{said} ({note})" if note and isinstance(step, op.UploadWorkspace) else said)


_MINOR = (
    op.CreatePart
    | op.RecordSpec
    | op.GiveVolume
    | op.CreatePrivateNetwork
    | op.CreateGateway
    | op.StartGateway
    | op.StartKeeper
    | op.CheckSandbox
    | op.RenameSandbox
)


def minor(step: Operation) -> bool:
    """Whether the step is a part of another one in a person's eyes: told with -v only."""
    return isinstance(step, _MINOR)


def _words(step: Operation) -> tuple[str, str]:  # noqa: C901 - one case a class
    match step:
        case op.PullImage():
            return "pulling", "pulled"
        case op.BuildHelper():
            return "building", "built"
        case op.StartKeeper():
            return f"making room in memory for {' and '.join(step.parts)}", "room in memory made"
        case op.CreateNetwork() | op.CreateVolume() | op.CreateSandbox():
            return "creating", "created"
        case op.CreatePrivateNetwork():
            return "making its network", "network made"
        case op.CreateGateway():
            return "making its gateway", "gateway made"
        case op.StartGateway():
            return "starting its gateway", "gateway serves"
        case op.ReloadGateway():
            return "giving its gateway other rules", "gateway serves by other rules"
        case op.CheckSandbox():
            return "reading it back", "read back"
        case op.RenameSandbox():
            return "renaming", "renamed"
        case op.RemoveSandbox(replaced=True):
            return "removing the old container", "old container removed"
        case op.RemoveNetwork() | op.RemoveVolume() | op.RemoveSandbox():
            return "removing", "removed"
        case op.RemoveCourier():
            return "removing what an apply left behind", "removed"
        case op.CreatePart():
            return f"making the {step.part} volume", f"{step.part} volume made"
        case op.UploadWorkspace():
            return "copying the workspace in", "workspace copied in"
        case op.UploadFiles():
            return f"putting {step.part} in place", f"{step.part} in place"
        case op.GiveVolume():
            return f"giving the volume {step.key} to its user", f"volume {step.key} given to its user"
        case op.ConnectNetwork():
            return f"connecting to {step.network}", f"connected to {step.network}"
        case op.DisconnectNetwork():
            return f"disconnecting from {step.network}", f"disconnected from {step.network}"
        case op.AwaitSandbox():
            return f"waiting for {step.dependency} {_UNTIL[step.condition]}", f"waited for {step.dependency}"
        case op.StartSandbox():
            return "starting", "started"
        case op.UpdateSandbox():
            return f"updating {', '.join(step.options)}", f"updated {', '.join(step.options)}"
        case op.ResumeSandbox():
            return "unpausing", "unpaused"
        case op.RecordSpec():
            return "recording what it was told to be", "recorded"
        case op.StopSandbox(replaced=True):
            return "stopping the old container", "old container stopped"
        case op.StopSandbox():
            return "stopping", "stopped"
        case op.CaptureEvidence():
            return "keeping evidence", "evidence kept"
    assert_never(step)
