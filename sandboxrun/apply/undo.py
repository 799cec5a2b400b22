"""Takes back what an apply had made and could not finish, so that nothing is left half-made.

Owns that cleanup. What fails here is told and left: the next apply or destroy finds it by its labels.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

from sandboxrun.apply.events import Undone
from sandboxrun.apply.gateways import remove_companions
from sandboxrun.apply.session import Session
from sandboxrun.apply.teardown import discard
from sandboxrun.errors import SandboxrunError
from sandboxrun.model import labels
from sandboxrun.model.names import PARTS, part_volume
from sandboxrun.plan import operations as op
from sandboxrun.plan.operations import Operation

_FILLING = op.UploadWorkspace | op.UploadFiles | op.GiveVolume
_WIRING = op.CreatePrivateNetwork | op.CreateGateway | op.StartGateway | op.StartKeeper
_MAKING = op.CreatePart | op.CreateSandbox | op.CheckSandbox | _FILLING | op.ConnectNetwork | op.StartSandbox | _WIRING


def undo(session: Session, failed: Sequence[Operation], skipped: Sequence[Operation]) -> None:
    """Remove the sandboxes whose making did not come to its end, then volumes and networks that nothing uses."""
    unfinished = {s.address for s in (*failed, *skipped) if isinstance(s, _MAKING | op.AwaitSandbox)}
    # one that runs beside the container it was to replace, which has not been stopped
    unfinished |= {s.address for s in (*failed, *skipped) if isinstance(s, op.StopSandbox) and s.replaced}
    for address in sorted(unfinished & session.made.keys()):
        try:
            what = discard(address, session)
        except SandboxrunError as error:
            what = f"could not be removed: {error}"
        session.listener(Undone(address=address, what=what + _lost(address, session)))
    for step in (*failed, *skipped):
        if isinstance(step, op.CreatePart | op.CreateSandbox | _WIRING):
            _part(step, session)
    if failed or skipped:
        _volumes(session)
        _networks(session)


def _lost(address: str, session: Session) -> str:
    """What is no more, of one that had to end before the other was started."""
    kept = session.given_up.get(address)
    return f"; the container it was to replace had been stopped, its evidence is in {kept}" if kept else ""


def _part(step: op.CreatePart | op.CreateSandbox | _WIRING, session: Session) -> None:
    """What was made for a sandbox whose container was never made; or a gateway for one that runs, and did not serve."""
    if step.address in session.made:
        return
    with contextlib.suppress(SandboxrunError):
        containers = session.companions.get(step.address, ())
        remove_companions(containers, session.private_networks.get(step.address), session)
    if isinstance(step, _WIRING) and getattr(step, "run", None) is not None:
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
