"""Ends sandboxes and takes back what an apply could not finish: stop, evidence, removal; each is fine when it was
done already.

Owns the rule that nothing is removed before its evidence is kept.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from time import monotonic, sleep
from typing import TYPE_CHECKING

import attrs

from sandboxrun.backend.docker.companions import remove_companions
from sandboxrun.backend.errors import EngineError, NotFound
from sandboxrun.backend.owner import decode, this_process
from sandboxrun.backend.session import Session, Watched
from sandboxrun.errors import ApplyError
from sandboxrun.plan import operations as op
from sandboxrun.plan.belongings import companions_of, held_parts, shares
from sandboxrun.profile.guarding import inside
from sandboxrun.spec import labels
from sandboxrun.spec.names import GATEWAY, KEEPER, PARTS, WORKSPACE, companion, part_volume
from sandboxrun.spec.option import to_plain
from sandboxrun.spec.records import Workspace
from sandboxrun.spec.state import ObservedSandbox, observe

if TYPE_CHECKING:
    from sandboxrun.evidence.capture import CaptureRequest


from collections.abc import Sequence

from sandboxrun.backend.events import Undone
from sandboxrun.errors import SandboxrunError
from sandboxrun.plan.operations import Operation

# -- Ends sandboxes: stop, evidence, removal; each is fine when it was done already

_LOOK = 0.1  # seconds between looks at what another process is doing
_ITS_RUN = 5.0  # seconds that it may take to do so


def stop_sandbox(step: op.StopSandbox, session: Session) -> None:
    """Ask it to end; the engine kills it after its grace period. It may have ended by itself since the plan."""
    session.stopped[step.container] = False
    with contextlib.suppress(NotFound):
        session.stopped[step.container] = session.engine.stop_container(step.container, timeout=step.grace)


def capture_evidence(step: op.CaptureEvidence, session: Session) -> str:
    """Keep what it leaves. Raises ApplyError when nothing to rely on was kept: then it must not be removed."""
    observed = session.observed(step.container)
    if _taken_by_its_run(observed, session):
        return "saved by the run that made it"
    watched = session.watched.get(step.run, Watched())
    reached = session.stopped.get(step.container)
    unseen = watched.stopped_by == "itself" or (reached and watched.stopped_by == "engine")
    if step.how is not None and reached is not False and unseen:
        # our stop found it running; or the plan knows what it was stopped for
        watched = attrs.evolve(watched, stopped_by=step.how)
    folder = keep(observed, watched, session, known=step.run in session.watched, gateway=step.gateway)
    if step.replaced:
        session.given_up[step.address] = folder
    return folder


def _taken_by_its_run(observed: ObservedSandbox, session: Session) -> bool:
    """Whether the `run` that made it saved its evidence and removed it: without anything shared it does so without the
    project's lock, and two at once would take from each other what is not saved yet."""
    owner = decode(observed.owner or "") if observed.one_off else None
    if owner is None or owner == this_process() or shares(observed.applied or observed.spec):
        return False
    until = monotonic() + _ITS_RUN
    while True:
        over = owner.is_gone or monotonic() >= until  # before the look: it may end once it has removed it
        try:
            session.engine.inspect_container(observed.id)
        except NotFound:
            return True
        if over:
            return False
        sleep(_LOOK)


def keep(observed: ObservedSandbox, watched: Watched, session: Session, *, known: bool, gateway: str | None) -> str:
    """Take one container's evidence. `known`: the caller saw it end; `gateway`: the container that has its records."""
    from sandboxrun.evidence.capture import capture

    request = attrs.evolve(_request(observed, watched, session, known=known), gateway=gateway)
    captured = capture(session.engine, observed.id, request, session.store)
    session.captured[observed.run] = captured
    if captured.entry is None:
        raise ApplyError(
            f"the evidence of {observed.address} could not be kept: {captured.failure}",
            help=f"container {observed.name} was not removed: fix the cause, or pass --evidence DIR, and run destroy",
        )
    return str(captured.folder or "")


def _request(observed: ObservedSandbox, watched: Watched, session: Session, *, known: bool) -> CaptureRequest:
    from sandboxrun.evidence.capture import CaptureRequest
    from sandboxrun.evidence.export import ExportLimits
    from sandboxrun.evidence.index import Digests, Missing
    from sandboxrun.evidence.parts import CaptureLimits
    from sandboxrun.spec.outcome import StoppedBy

    spec, own = observed.applied or observed.spec, observed.labels
    policy, workspace = spec.evidence, spec.workspace
    copied = workspace is not None and workspace.access == "copy" and policy.patch
    return CaptureRequest(
        run=observed.run,
        project=session.profile.project,
        sandbox=observed.address,
        digests=Digests(
            # not the label: an update in place leaves it as it was, and what ran to its end is the updated spec
            spec=observed.applied.digest if observed.applied is not None else own.get(labels.SPEC_DIGEST, ""),
            inputs=own.get(labels.INPUTS_DIGEST, ""),
            profile=own.get(labels.PROFILE_DIGEST, ""),
            plan=own.get(labels.PLAN_DIGEST, ""),
        ),
        profile=json.dumps(to_plain(spec, defaults=True), indent=2, sort_keys=True, ensure_ascii=False) + "\n",
        secrets=session.masked,
        stopped_by=StoppedBy(watched.stopped_by),
        watched=known,
        live_logs=watched.live_logs,
        exit_code=watched.exit_code,
        written=watched.written,
        missing=tuple(Missing(part=part, reason=reason) for part, reason in watched.missing),
        filesystem_changes=policy.filesystem_changes,
        artifacts=policy.artifacts,
        workspace=workspace.target if copied and workspace is not None else None,
        wired=GATEWAY in companions_of(spec),
        keeper=companion(observed.base, KEEPER) if WORKSPACE in held_parts(spec) else None,
        own=frozenset(_rests_on(workspace, session)) if copied and workspace is not None else frozenset(),
        limits=CaptureLimits(log_bytes=policy.logs_limit, artifacts=ExportLimits(bytes=policy.artifacts_limit)),
    )


def _rests_on(workspace: Workspace, session: Session) -> Iterator[str]:
    """What of a copied workspace the profile rests on: a patch that changes it changes the next sandbox."""
    profile = session.profile
    return inside(str(profile.directory / workspace.source), profile.rests_on)


def remove_sandbox(step: op.RemoveSandbox, session: Session) -> None:
    """Remove the container and what is its own."""
    _remove_container(step.container, session)
    remove_companions(step.companions, step.network, session)
    for volume in step.volumes:
        _remove_volume(volume, session)


def _remove_container(container: str, session: Session) -> None:
    """Remove it, or wait until whoever is removing it already has done so."""
    until = monotonic() + _ITS_RUN
    while True:
        try:
            session.engine.remove_container(container, force=True, volumes=True)
        except NotFound:
            return
        except EngineError as error:
            if error.status != 409 or monotonic() >= until:
                raise
            sleep(_LOOK)
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
        keep(observed, ended, session, known=True, gateway=gateway)
    session.engine.remove_container(made.id, force=True, volumes=True)
    session.store.unstage(made.run)
    remove_companions(session.companions.get(address, ()), session.private_networks.get(address), session)
    for part in PARTS:
        _remove_volume(part_volume(observed.base, part), session)
    return "evidence kept, removed" if started else "removed"


# -- Takes back what an apply had made and could not finish, so that nothing is left half-made

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
