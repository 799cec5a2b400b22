"""What one apply works with: the engine, the evidence store, what it has made so far; what it tells meanwhile; and what
is done alike on every engine: dependencies waited for, evidence saved, host paths that must stay in place.

The steps' handlers read and write it from several threads. Owns the rule that nothing is removed before its evidence
is kept. Asks the engine by the seam's words only.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import islice
from pathlib import Path
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from msgspec import Struct, field, structs

from sandboxrun.backend.errors import DependencyFailed, EngineTimeout, NotFound
from sandboxrun.backend.owner import clock_mark, decode, this_process
from sandboxrun.data import Data, DataType
from sandboxrun.errors import ApplyError, Diagnostic, SandboxrunError
from sandboxrun.evidence.store import Watched
from sandboxrun.plan import operations as op
from sandboxrun.plan.decide import record_of
from sandboxrun.plan.operations import Operation, companions_of, held_parts, shares
from sandboxrun.profile.files import below, sources_of
from sandboxrun.spec import labels
from sandboxrun.spec.names import GATEWAY, KEEPER, WORKSPACE, companion
from sandboxrun.spec.option import OwnAddresses, to_plain
from sandboxrun.spec.project import DeclaredSandbox, Profile
from sandboxrun.spec.spec import SandboxSpec
from sandboxrun.spec.state import (
    GOING,
    Created,
    Ended,
    ImageConfig,
    ObservedSandbox,
    Running,
    Snapshot,
    State,
    StoppedBy,
    own_labels,
    rfc3339,
)
from sandboxrun.threads import Aside

if TYPE_CHECKING:
    from sandboxrun.backend.base import Changes, Endings
    from sandboxrun.evidence.store import Captured, Store
    from sandboxrun.spec.ci import CiJob


# -- What is told: one event a step's beginning, progress and end


class Planned(Data):
    """A plan is about to be carried out: the steps to come. One command may carry out several, one after another."""

    operations: tuple[Operation, ...]


class StepStarted(Data):
    """A step begins."""

    step: Operation


class StepProgress(Data):
    """A step that takes long says how far it is: a layer pulled, a condition waited for."""

    step: Operation
    text: str


class StepDone(Data):
    """A step ended well, after `seconds`."""

    step: Operation
    seconds: float
    note: str = ""


class StepFailed(Data):
    """A step failed."""

    step: Operation
    error: SandboxrunError


class StepSkipped(Data):
    """A step was not done: one that it needs `failed`, None where that is a dependency's end, no fault of ours."""

    step: Operation
    failed: Operation | None


class Undone(Data):
    """What this apply had made and could not finish was removed again."""

    address: str
    what: str


class Alive(Data):
    """A sandbox that runs: for how many seconds, its memory and the limit of that in bytes where they are known, and
    the last line that it wrote, as it wrote it."""

    address: str
    seconds: float
    memory: int | None = None
    limit: int | None = None
    line: str = ""


class StillRunning(Data):
    """What is waited for, from time to time."""

    sandboxes: tuple[Alive, ...]


LOOK = 0.1  # seconds between looks at what another process or the engine is doing
ITS_RUN = 5.0  # seconds that it may take to do so

Event = Planned | StepStarted | StepProgress | StepDone | StepFailed | StepSkipped | Undone | StillRunning
Listener = Callable[[Event], None]


def silent(event: Event) -> None:
    """A listener that does nothing."""


def guarded(listener: Listener) -> Listener:
    """The listener, unable to raise: whoever listens must not stop an apply, nor leave its workers waiting."""

    def tell(event: Event) -> None:
        with contextlib.suppress(Exception):
            listener(event)

    return tell


# -- The session

GONE = Ended(exit_code=None, oom=False, started=None, finished=None)  # one that somebody removed: it ended somehow


class Made(Data, uncompared=("at",)):
    """A container that this apply made, and when (time.monotonic)."""

    id: str
    run: str
    at: float = field(default_factory=monotonic)


class Session(Struct, metaclass=DataType, frozen=False, kw_only=True, unshown=("files", "masked")):
    """One apply. `stop` is set to end it cleanly; `guard` raises when the project's lock was lost; `files` are the
    contents of secrets and configs, `masked` the values that no evidence may hold."""

    engine: Any  # the backend's own client; only its own steps use it
    profile: Profile
    snapshot: Snapshot
    store: Store
    plan_digest: str
    files: Mapping[tuple[str, str], bytes] = field(default_factory=dict)
    masked: tuple[str, ...] = ()
    places: Mapping[str, str] = field(default_factory=dict)  # host paths → where they led when the apply began
    events: Endings | None = None  # how the project's sandboxes end, where somebody follows it
    listener: Listener = silent
    guard: Callable[[], None] = lambda: None
    extra_labels: Mapping[str, str] = field(default_factory=dict)
    leases: Mapping[str, str] = field(default_factory=dict)  # address → the lease of who waits for it
    before_start: list[Callable[[DeclaredSandbox, Made], object]] = field(default_factory=list)  # called in this order
    after_start: list[Callable[[DeclaredSandbox, Made], object]] = field(default_factory=list)
    stop: threading.Event = field(default_factory=threading.Event)
    job: CiJob | None = None  # the CI job that this is a part of
    probing: bool = False  # start what does not hold, to look at it from inside
    wanted: frozenset[str] = frozenset()  # the addresses that all is done for: when none can start, the rest is left
    abandoned: set[str] = field(default_factory=set)  # the addresses that can't be started any more
    made: dict[str, Made] = field(default_factory=dict)
    watched: dict[str, Watched] = field(default_factory=dict)  # by run
    stopped: dict[str, bool] = field(default_factory=dict)  # container → whether our stop found it running
    changes: dict[str, Aside[Changes]] = field(default_factory=dict)  # container → what it changed, asked for already
    captured: dict[str, Captured] = field(default_factory=dict)  # run → its evidence
    given_up: dict[str, str] = field(default_factory=dict)  # address → where the evidence is of one that was replaced
    networks_made: dict[str, str] = field(default_factory=dict)  # engine name → id
    own_addresses: dict[str, OwnAddresses] = field(
        default_factory=dict
    )  # address → addresses on the sandbox's own network
    private_networks: dict[str, str] = field(default_factory=dict)  # address → id, of those made here
    # address → role → id, of those made here
    companions: dict[str, dict[str, str]] = field(default_factory=lambda: defaultdict(dict))
    plotting: threading.Lock = field(default_factory=threading.Lock)
    providing: threading.Lock = field(default_factory=threading.Lock)  # guards init_volume while it is looked for
    init_volume: str | None = None  # that has the init of sandboxes with a timeout, once it is known
    volumes_made: set[str] = field(default_factory=set)
    volumes_asked: dict[str, Mapping[str, Any]] = field(default_factory=dict)  # by name, of those made
    put: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))  # address → paths that were filled
    images: dict[str, ImageConfig] = field(default_factory=dict)
    _began: float = field(default_factory=monotonic)
    _runs: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.listener = guarded(self.listener)

    def run_of(self, address: str) -> str:
        """The id of the run that this apply makes for `address`: its volumes and its container carry the same."""
        return self._runs.setdefault(address, uuid4().hex)

    def observed(self, container: str) -> ObservedSandbox:
        """The container as the plan saw it."""
        return next(o for o in self.snapshot.sandboxes if o.id == container)

    def container(self, step: Any) -> str:
        """The container that a step is about: the one it names, else the one made here for its sandbox."""
        return getattr(step, "container", None) or self.made[step.address].id

    def image(self, reference: str) -> ImageConfig:
        """What `reference` means on the engine now. Raises ApplyError when it is not there."""
        found = self.images.get(reference)
        if found is None:
            found = self.engine.image_config(reference)
            if found is None:
                raise ApplyError(
                    f"the image {reference} is not on the engine",
                    help="pull it first, or set pull_policy: missing",
                )
            self.images[reference] = found
        return found

    @property
    def home(self) -> dict[str, str]:
        """The labels that say where something was made, and by whom."""
        directory = labels.directory(str(self.profile.directory))
        return {labels.DIRECTORY: directory, labels.OWNER: this_process().encode()}

    def labels(self, sandbox: DeclaredSandbox) -> dict[str, str]:
        """The labels of a container to be made."""
        extra = {
            labels.BASE: sandbox.name,
            **self.home,
            labels.PLAN_DIGEST: self.plan_digest,
            labels.PROFILE_DIGEST: self.profile.digest,
            labels.INPUTS_DIGEST: self.profile.inputs_digest,
            **self.extra_labels,
        }
        if (lease := self.leases.get(sandbox.address)) is not None:
            extra[labels.LEASE] = lease
        if self.job is not None:
            extra[labels.JOB] = self.job.to_label()
        if sandbox.spec.lifetime.timeout is not None and (mark := clock_mark(self.engine.clock())):
            extra[labels.CLOCK] = mark
        ttl = sandbox.spec.lifetime.ttl
        if ttl is not None:
            extra[labels.DEADLINE] = rfc3339(self.now() + timedelta(microseconds=ttl / 1000))
        return own_labels(
            project=self.profile.project,
            address=sandbox.address,
            run=self.run_of(sandbox.address),
            spec=sandbox.spec,
            extra=extra,
        )

    def as_gone(self, sandbox: DeclaredSandbox) -> ObservedSandbox:
        """One that it made and somebody removed since, as it was made."""
        made, own = self.made[sandbox.address], self.labels(sandbox)
        return ObservedSandbox(
            id=made.id,
            name=sandbox.name,
            address=sandbox.address,
            run=made.run,
            state=GONE,
            spec=sandbox.spec,
            applied=sandbox.spec,
            image_id="",
            deadline=None,
            one_off=labels.ONE_OFF in own,
            owner=own[labels.OWNER],
            labels=own,
            document={},
        )

    def now(self) -> datetime:
        """The engine's time: what the snapshot said, and what has passed since."""
        return datetime.fromtimestamp(self.snapshot.taken.timestamp() + monotonic() - self._began, UTC)


# -- Waits for what another sandbox must have reached: `depends_on`. No decisions


def await_condition(step: op.AwaitSandbox, session: Session) -> None:
    """Wait until the condition holds. Raises ApplyError when it no longer can."""
    seen = (o for o in session.snapshot.sandboxes if o.address == step.dependency and not o.apart)
    if (made := session.made.get(step.dependency)) is not None:
        container = made.id
    elif (observed := next(seen, None)) is None:
        return _by_record(step, session)
    elif isinstance(observed.state, Ended):  # torn down in this very apply, perhaps already
        _holds(step, observed.state)
        return None
    else:
        container = observed.id
    session.listener(StepProgress(step=step, text=""))
    while not _holds(step, session.engine.state(container)):
        if step.address in session.abandoned:
            return None  # nothing waits for it any more: the failure is that of the step that kept it from starting
        if session.stop.is_set():
            raise ApplyError(f"stopped while waiting for {step.dependency}")
        sleep(LOOK)
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
            raise ApplyError(
                f"{step.address} needs {step.dependency}, which is unhealthy",
                help=f"check its healthcheck: and its output (`sandboxrun logs {step.dependency}`)",
            )
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


def ask_ahead(engine: Any, sandboxes: Iterable[ObservedSandbox], *, most: int) -> dict[str, Aside[Changes]]:
    """Ask what sandboxes that have ended changed in their file systems, of `most` of them: of all that evidence needs
    it takes an engine longest, and who takes the evidence has to prepare that meanwhile."""

    def is_asked(observed: ObservedSandbox) -> bool:
        spec = observed.applied or observed.spec
        return _is_over(observed, spec) and spec.evidence.filesystem_changes

    return {
        observed.id: Aside(partial(engine.changes, observed.id), name=f"changes of {observed.address}")
        for observed in islice(filter(is_asked, sandboxes), most)
    }


def _is_over(observed: ObservedSandbox, spec: SandboxSpec) -> bool:
    """Whether the engine showed its end and does not start it again: nothing changes any more."""
    state = observed.state
    return isinstance(state, Ended) and state.finished is not None and spec.restart == "no"


def keep(observed: ObservedSandbox, watched: Watched, session: Session, *, known: bool, gateway: str | None) -> str:
    """Take one container's evidence. `known`: the caller saw it end; `gateway`: the container that has its records."""
    from sandboxrun.evidence.capture import CaptureRequest, capture
    from sandboxrun.evidence.export import ExportLimits
    from sandboxrun.evidence.index import Digests, indented
    from sandboxrun.evidence.parts import CaptureLimits

    spec, own = observed.applied or observed.spec, observed.labels
    ended = _is_over(observed, spec)
    policy, workspace = spec.evidence, spec.workspace
    copied = workspace if workspace is not None and workspace.access == "copy" and policy.patch else None
    source = str(session.profile.directory / copied.source) if copied is not None else ""
    request = CaptureRequest(
        run=observed.run,
        project=session.profile.project,
        sandbox=observed.address,
        name=observed.base,
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
        watched=watched,
        known=known,
        filesystem_changes=policy.filesystem_changes,
        changes=session.changes.pop(observed.id, None),
        artifacts=policy.artifacts,
        workspace=copied.target if copied is not None else None,
        gateway=gateway,
        wired=GATEWAY in companions_of(spec),
        keeper=companion(observed.base, KEEPER) if WORKSPACE in held_parts(spec) else None,
        document=observed.document if ended else None,
        history=observed.history,
        heard=partial(session.events.history, observed.id) if session.events is not None else lambda ended: None,
        # what of the copy the profile depends on: a patch that changes it changes the next sandbox
        own=frozenset(below(source, session.profile.rests_on) if copied is not None else ()),
        limits=CaptureLimits(log_bytes=policy.logs_limit, artifacts=ExportLimits(bytes=policy.artifacts_limit)),
    )
    captured = capture(session.engine, observed.id, request, session.store)
    session.captured[observed.run] = captured
    if captured.entry is None:
        raise ApplyError(
            f"the evidence of {observed.address} could not be saved in {session.store.path}: {captured.failure}",
            help=f"container {observed.name} was not removed: fix the cause, or keep evidence elsewhere",
            option="--evidence DIR",
            argument="Store(root=…)",
        )
    return str(captured.folder or "")


def stop_sandbox(step: op.StopSandbox, session: Session) -> None:
    """Ask it to end; the engine kills it after its grace period. It may have ended by itself since the plan."""
    session.stopped[step.container] = False
    with contextlib.suppress(NotFound):
        if step.how == StoppedBy.EXPIRED and session.engine.is_ending(step.container, step.grace + GOING):
            # who waits for it was first: its command gets no second signal, which many take for "at once"
            with contextlib.suppress(EngineTimeout):
                session.engine.wait(step.container, timeout=step.grace + GOING)
                session.stopped[step.container] = True
                return
        session.stopped[step.container] = session.engine.stop(step.container, timeout=step.grace)


def check_unstarted(container: str, session: Session) -> bool:
    """Whether it had not been started when the plan was made, so that it has no evidence to keep. Raises ApplyError if
    it was since: by the `run` that made it, or by an engine that was asked for it before that one was killed."""
    observed = session.observed(container)
    if not isinstance(observed.state, Created):
        return False
    with contextlib.suppress(NotFound):
        if not isinstance(session.engine.state(container), Created):
            message = "it was started meanwhile, and is not removed before its evidence is saved"
            raise ApplyError(message, help="run the command again")
    return True


def settle(container: str, session: Session) -> None:
    """A sandbox is kept after its end: what was needed until its evidence was taken goes."""
    with contextlib.suppress(OSError, SandboxrunError):
        session.store.settle(session.observed(container).run)


def unstage(container: str, session: Session) -> None:
    """A sandbox is gone: nothing of its run waits to be captured any more. What stays, the next command collects."""
    with contextlib.suppress(OSError, SandboxrunError):
        session.store.unstage(session.observed(container).run)


# -- Host paths that sandboxes are given: each must still be what it was when the profile was read


def note_revision(sandbox: DeclaredSandbox, run: str, session: Session) -> None:
    """Keep the git revision that a new sandbox's workspace is at, for its evidence."""
    if sandbox.spec.workspace is not None:
        from sandboxrun.evidence.revision import stage_revision

        source = sandbox.workspace or Path(sandbox.spec.workspace.source)
        stage_revision(session.store, run, source, engine=session.engine.identity)


def check_places(sandbox: DeclaredSandbox, places: Mapping[str, str]) -> None:
    """Raise ApplyError for each that leads elsewhere now. One that was made by another process is not known of."""
    faults = []
    for key, item, path in sources_of(sandbox):
        if os.path.realpath(path) != places.get(str(path), os.path.realpath(path)):
            message = f"{sandbox.address}: {path} now resolves to a different directory than when this command started"
            help = "check what replaced it with a symlink"
            faults.append(Diagnostic(message=message, span=sandbox.place(key, item), help=help))
    if faults:
        raise ApplyError(*faults)


# -- What an apply had made and could not finish

WIRING = op.CreatePrivateNetwork | op.CreateGateway | op.StartGateway | op.StartKeeper
_FILLING = op.UploadWorkspace | op.UploadFiles | op.GiveVolume
_MAKING = op.CreatePart | op.CreateSandbox | op.CheckSandbox | _FILLING | op.ConnectNetwork | op.StartSandbox | WIRING


Remove = Callable[[ObservedSandbox, Iterable[str], str | None], None]  # one, what is beside it, and its own network


def take_away(
    session: Session,
    failed: Iterable[op.Operation],
    skipped: Iterable[op.Operation],
    *,
    look: Callable[[str], ObservedSandbox],
    remove: Remove,
) -> None:
    """Remove the sandboxes whose making did not come to its end, the evidence of what had started first; `look` shows
    one by its id."""
    left = (*failed, *skipped)
    found = {step.address for step in left if isinstance(step, _MAKING | op.AwaitSandbox)}
    # one that runs beside the container it was to replace, which has not been stopped
    found |= {step.address for step in left if isinstance(step, op.StopSandbox) and step.replaced}
    for address in sorted(found & session.made.keys()):
        try:
            what = _discard(address, session, look, remove)
        except SandboxrunError as error:
            what = f"could not be removed: {error}"
        if kept := session.given_up.get(address):
            what += f"; the container it was to replace had been stopped, its evidence is in {kept}"
        session.listener(Undone(address=address, what=what))


def _discard(address: str, session: Session, look: Callable[[str], ObservedSandbox], remove: Remove) -> str:
    made = session.made[address]
    try:
        observed = look(made.id)
    except NotFound:
        return "was gone"
    started = getattr(observed.state, "started", None) is not None
    if started:
        reached = session.engine.stop(made.id, timeout=1)
        ended = Watched(stopped_by="killed" if reached else "itself")
        keep(observed, ended, session, known=True, gateway=session.companions[address].get(GATEWAY))
    remove(observed, session.companions[address].values(), session.private_networks.get(address))
    session.store.unstage(made.run)
    return "evidence saved, removed" if started else "removed"
