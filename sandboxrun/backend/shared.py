"""What is done alike on every engine: dependencies waited for, evidence saved, host paths that must stay in place.

Owns the rule that nothing is removed before its evidence is kept. Asks the engine by the seam's words only.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from time import monotonic, sleep
from typing import TYPE_CHECKING

from msgspec import structs

from sandboxrun.backend.errors import DependencyFailed, NotFound
from sandboxrun.backend.owner import decode, this_process
from sandboxrun.backend.session import Session, StepProgress, Watched
from sandboxrun.errors import ApplyError, Diagnostic, SandboxrunError
from sandboxrun.plan import operations as op
from sandboxrun.plan.decide import record_of
from sandboxrun.plan.operations import companions_of, held_parts, shares
from sandboxrun.profile.files import below, sources_of
from sandboxrun.spec import labels
from sandboxrun.spec.names import GATEWAY, KEEPER, WORKSPACE, companion
from sandboxrun.spec.option import to_plain
from sandboxrun.spec.project import DeclaredSandbox
from sandboxrun.spec.records import Workspace
from sandboxrun.spec.spec import SandboxSpec
from sandboxrun.spec.state import Created, Ended, ObservedSandbox, Running, State
from sandboxrun.threads import Aside

if TYPE_CHECKING:
    from sandboxrun.evidence.capture import CaptureRequest

LOOK = 0.1  # seconds between looks at what another process or the engine is doing
ITS_RUN = 5.0  # seconds that it may take to do so

# -- Waits for what another sandbox must have reached: `depends_on`. No decisions


def await_condition(step: op.AwaitSandbox, session: Session) -> None:
    """Wait until the condition holds. Raises ApplyError when it no longer can."""
    container = _container(step, session)
    if container is None:
        return _by_record(step, session)
    if isinstance(container, Ended):  # torn down in this very apply, perhaps already
        _holds(step, container)
        return None
    session.listener(StepProgress(step=step, text=""))
    while not _holds(step, session.engine.state(container)):
        if step.address in session.abandoned:
            return None  # nothing waits for it any more: the failure is that of the step that kept it from starting
        if session.stop.is_set():
            raise ApplyError(f"stopped while waiting for {step.dependency}")
        sleep(LOOK)
    return None


def _container(step: op.AwaitSandbox, session: Session) -> str | Ended | None:
    """The container to look at; the state it had when the plan was made if it had ended by then."""
    made = session.made.get(step.dependency)
    if made is not None:
        return made.id
    for observed in session.snapshot.sandboxes:
        if observed.address == step.dependency and not observed.apart:
            return observed.state if isinstance(observed.state, Ended) else observed.id
    return None


def _by_record(step: op.AwaitSandbox, session: Session) -> None:
    """The dependency ran in an earlier run and is gone: the record says how it ended."""
    declared = session.profile.sandbox(step.dependency)
    record = record_of(declared, session.snapshot) if declared is not None else None
    if record is None:
        what = f"{step.address} needs {step.dependency}, which is not there"
        raise ApplyError(what, help="run it again", option="--rerun", argument="Options(rerun=True)")
    if step.condition == "service_completed_successfully" and not record.succeeded:
        raise DependencyFailed(
            step.address,
            step.dependency,
            f"{record.ending} in an earlier run",
            help="run it again",
            option="--rerun=failed",
            argument='Options(rerun="failed")',
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


# -- Keeps what a sandbox leaves


def capture_evidence(step: op.CaptureEvidence, session: Session) -> str:
    """Keep what it leaves. Raises ApplyError when nothing to rely on was kept: then it must not be removed."""
    observed = session.observed(step.container)
    if _taken_by_its_run(observed, session):
        return "saved by the run that made it"
    watched = session.watched.get(step.run, Watched())
    reached = session.stopped.get(step.container)
    unseen = watched.stopped_by == "itself" or (reached and watched.stopped_by == "engine")
    if step.how is not None and unseen and (reached is not False or _had_timed_out(step, observed, session)):
        # our stop found it running; or the plan knows what it was stopped for
        watched = structs.replace(watched, stopped_by=step.how)
    folder = keep(observed, watched, session, known=step.run in session.watched, gateway=step.gateway)
    if step.replaced:
        session.given_up[step.address] = folder
    return folder


def _had_timed_out(step: op.CaptureEvidence, observed: ObservedSandbox, session: Session) -> bool:
    """Whether one that our stop came too late for had run out of its time: whoever stopped it did it for that, maybe a
    job that was killed while the engine went on."""
    if step.how != "timeout":
        return False
    try:
        return structs.replace(observed, state=session.engine.state(observed.id)).timed_out
    except NotFound:
        return False


def _taken_by_its_run(observed: ObservedSandbox, session: Session) -> bool:
    """Whether the `run` that made it saved its evidence and removed it: without anything shared it does so without the
    project's lock, and two at once would take from each other what is not saved yet."""
    owner = decode(observed.owner or "") if observed.one_off else None
    if owner is None or owner == this_process() or shares(observed.applied or observed.spec):
        return False
    until = monotonic() + ITS_RUN
    while True:
        over = owner.is_gone or monotonic() >= until  # before the look: it may end once it has removed it
        try:
            session.engine.state(observed.id)
        except NotFound:
            return True
        if over:
            return False
        sleep(LOOK)


def ask_ahead(steps: Iterable[op.Operation], session: Session, *, most: int) -> None:
    """Ask what sandboxes that have ended changed in their file systems, of `most` of them: of all that evidence needs
    it takes an engine longest, and who takes the evidence has to prepare that meanwhile."""
    for step in steps:
        if len(session.changes) == most:
            return
        if isinstance(step, op.CaptureEvidence):
            observed = session.observed(step.container)
            spec = observed.applied or observed.spec
            if _is_over(observed, spec) and spec.evidence.filesystem_changes:
                asked = Aside(partial(session.engine.changes, observed.id), name=f"changes of {step.address}")
                session.changes[observed.id] = asked


def _is_over(observed: ObservedSandbox, spec: SandboxSpec) -> bool:
    """Whether the engine showed its end and does not start it again: nothing changes any more."""
    state = observed.state
    return isinstance(state, Ended) and state.finished is not None and spec.restart == "no"


def keep(observed: ObservedSandbox, watched: Watched, session: Session, *, known: bool, gateway: str | None) -> str:
    """Take one container's evidence. `known`: the caller saw it end; `gateway`: the container that has its records."""
    from sandboxrun.evidence.capture import capture

    request = structs.replace(_request(observed, watched, session, known=known), gateway=gateway)
    captured = capture(session.engine, observed.id, request, session.store)
    session.captured[observed.run] = captured
    if captured.entry is None:
        raise ApplyError(
            f"the evidence of {observed.address} could not be saved: {captured.failure}",
            help=f"container {observed.name} was not removed: fix the cause, or keep evidence elsewhere",
            option="--evidence DIR",
            argument="Store(root=…)",
        )
    return str(captured.folder or "")


def _request(observed: ObservedSandbox, watched: Watched, session: Session, *, known: bool) -> CaptureRequest:
    from sandboxrun.evidence.capture import CaptureRequest
    from sandboxrun.evidence.export import ExportLimits
    from sandboxrun.evidence.index import Digests, MissingPart, indented
    from sandboxrun.evidence.parts import CaptureLimits
    from sandboxrun.spec.outcome import StoppedBy

    spec, own = observed.applied or observed.spec, observed.labels
    ended = _is_over(observed, spec)
    heard = session.events.history(observed.id) if ended and session.events is not None else None
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
        profile=indented(to_plain(spec), sort_keys=True, ensure_ascii=False),
        memory_limit=spec.mem_limit,
        secrets=session.masked,
        stopped_by=StoppedBy(watched.stopped_by),
        watched=known,
        live_logs=watched.live_logs,
        exit_code=watched.exit_code,
        written=watched.written,
        missing=tuple(MissingPart(part=part, reason=reason) for part, reason in watched.missing),
        filesystem_changes=policy.filesystem_changes,
        changes=session.changes.pop(observed.id, None),
        artifacts=policy.artifacts,
        workspace=workspace.target if copied and workspace is not None else None,
        wired=GATEWAY in companions_of(spec),
        keeper=companion(observed.base, KEEPER) if WORKSPACE in held_parts(spec) else None,
        document=observed.document if ended else None,
        history=observed.history if heard is None else heard,
        own=frozenset(_rests_on(workspace, session)) if copied and workspace is not None else frozenset(),
        limits=CaptureLimits(log_bytes=policy.logs_limit, artifacts=ExportLimits(bytes=policy.artifacts_limit)),
    )


def _rests_on(workspace: Workspace, session: Session) -> Iterator[str]:
    """What of a copied workspace the profile depends on: a patch that changes it changes the next sandbox."""
    profile = session.profile
    return below(str(profile.directory / workspace.source), profile.rests_on)


def unstage(container: str, session: Session) -> None:
    """A sandbox is gone: nothing of its run waits to be captured any more. What stays, the next command collects."""
    with contextlib.suppress(OSError, SandboxrunError):
        session.store.unstage(session.observed(container).run)


# -- Host paths that sandboxes are given: each must still be what it was when the apply began


def note_revision(sandbox: DeclaredSandbox, run: str, session: Session) -> None:
    """Keep the git revision that a new sandbox's workspace is at, for its evidence."""
    if sandbox.spec.workspace is not None:
        from sandboxrun.evidence.revision import stage_revision

        source = sandbox.workspace or Path(sandbox.spec.workspace.source)
        stage_revision(session.store, run, source, engine=session.engine.identity)


def real_places(sandboxes: Iterable[DeclaredSandbox]) -> Mapping[str, str]:
    """Where the host paths of the sandboxes lead now, links followed."""
    return {str(path): os.path.realpath(path) for sandbox in sandboxes for _, _, path in sources_of(sandbox)}


def check_places(sandbox: DeclaredSandbox, places: Mapping[str, str]) -> None:
    """Raise ApplyError for each that leads elsewhere now. One that was made by another process is not known of."""
    faults = []
    for key, item, path in sources_of(sandbox):
        if os.path.realpath(path) != places.get(str(path), os.path.realpath(path)):
            message = f"{sandbox.address}: {path} now resolves to a different directory than when this apply started"
            help = "check what replaced it with a symlink"
            faults.append(Diagnostic(message=message, span=sandbox.place(key, item), help=help))
    if faults:
        raise ApplyError(*faults)


# -- What an apply had made and could not finish

WIRING = op.CreatePrivateNetwork | op.CreateGateway | op.StartGateway | op.StartKeeper
_FILLING = op.UploadWorkspace | op.UploadFiles | op.GiveVolume
_MAKING = op.CreatePart | op.CreateSandbox | op.CheckSandbox | _FILLING | op.ConnectNetwork | op.StartSandbox | WIRING


def unfinished(failed: Iterable[op.Operation], skipped: Iterable[op.Operation]) -> set[str]:
    """The addresses of sandboxes whose making did not come to its end."""
    left = (*failed, *skipped)
    found = {step.address for step in left if isinstance(step, _MAKING | op.AwaitSandbox)}
    # one that runs beside the container it was to replace, which has not been stopped
    return found | {step.address for step in left if isinstance(step, op.StopSandbox) and step.replaced}
