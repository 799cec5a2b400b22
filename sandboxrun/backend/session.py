"""What one apply works with: the engine, the evidence store, what it has made so far; and what it tells meanwhile.

Owns no decision and no engine call of its own; the steps' handlers read and write it from several threads.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from time import monotonic
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from msgspec import Struct, field

from sandboxrun.backend.owner import clock_mark, this_process
from sandboxrun.data import Data, DataType
from sandboxrun.errors import ApplyError, SandboxrunError
from sandboxrun.plan.operations import Operation
from sandboxrun.spec import labels
from sandboxrun.spec.codec import ImageConfig, own_labels
from sandboxrun.spec.option import OwnAddresses
from sandboxrun.spec.project import DeclaredSandbox, Profile
from sandboxrun.spec.state import ObservedSandbox, Snapshot

if TYPE_CHECKING:
    from sandboxrun.backend.base import Changes, Events
    from sandboxrun.evidence.store import Captured, Store
    from sandboxrun.spec.ci import CiJob
    from sandboxrun.threads import Aside


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
    """A step was not done: one that it needs failed. `why` is "" where that is a dependency's end, no fault of ours."""

    step: Operation
    why: str


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


class Made(Data):
    """A container that this apply made."""

    id: str
    run: str


class Watched(Data):
    """What the caller knows of a run that it watched to its end: who stopped it (outcome.StoppedBy),
    whether its output was kept while it ran, its exit code, which counts where somebody else removed it, how many bytes
    it wrote to each stream where that is known, and what its evidence will lack (part, reason)."""

    stopped_by: str = "itself"
    live_logs: bool = False
    note: str = ""
    exit_code: int | None = None
    written: Mapping[int, int] | None = None
    missing: tuple[tuple[str, str], ...] = ()


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
    events: Events | None = None  # what happens to the project's sandboxes, where somebody follows it
    listener: Listener = silent
    guard: Callable[[], None] = lambda: None
    extra_labels: Mapping[str, str] = field(default_factory=dict)
    leases: Mapping[str, str] = field(default_factory=dict)  # address → the lease of who waits for it
    before_start: Callable[[DeclaredSandbox, Made], None] = lambda sandbox, made: None
    after_start: Callable[[DeclaredSandbox, Made], None] = lambda sandbox, made: None
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
    gateways: dict[str, str] = field(default_factory=dict)  # address → id, of those made here
    keepers: dict[str, str] = field(default_factory=dict)  # address → id, of those made here
    companions: dict[str, list[str]] = field(default_factory=dict)  # address → ids, of those made here
    plotting: threading.Lock = field(default_factory=threading.Lock)
    providing: threading.Lock = field(default_factory=threading.Lock)  # guards init_volume while it is looked for
    init_volume: str | None = None  # that has the init of sandboxes with a timeout, once it is known
    volumes_made: set[str] = field(default_factory=set)
    _images: dict[str, ImageConfig] = field(default_factory=dict)
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

    def image(self, reference: str) -> ImageConfig:
        """What `reference` means on the engine now. Raises ApplyError when it is not there."""
        found = self._images.get(reference)
        if found is None:
            found = self.engine.image_config(reference)
            if found is None:
                raise ApplyError(
                    f"the image {reference} is not on the engine",
                    help="pull it first, or set pull_policy: missing",
                )
            self._images[reference] = found
        return found

    def know_image(self, reference: str, config: ImageConfig) -> None:
        """Take `config` for what `reference` means, instead of asking."""
        self._images[reference] = config

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
        if sandbox.spec.lifetime.timeout is not None and (mark := clock_mark()):
            extra[labels.CLOCK] = mark
        ttl = sandbox.spec.lifetime.ttl
        if ttl is not None:
            extra[labels.DEADLINE] = rfc3339(self.now().timestamp() + ttl / 1e9)
        return own_labels(
            project=self.profile.project,
            address=sandbox.address,
            run=self.run_of(sandbox.address),
            spec=sandbox.spec,
            extra=extra,
        )

    def now(self) -> datetime:
        """The engine's time: what the snapshot said, and what has passed since."""
        return datetime.fromtimestamp(self.snapshot.taken.timestamp() + monotonic() - self._began, UTC)

    def part_labels(self, address: str, name: str, part: str) -> dict[str, Any]:
        """The labels of a volume that is a sandbox's own."""
        return {
            labels.PROJECT: self.profile.project,
            labels.SANDBOX: address,
            labels.VOLUME: f"{name}.{part}",
            labels.RUN: self.run_of(address),
        }


def rfc3339(seconds: float) -> str:
    """Seconds since the epoch as the text that labels hold."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
