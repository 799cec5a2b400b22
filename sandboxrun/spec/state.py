"""What the engine shows: sandboxes, networks, volumes and images of one project, at one moment.

Owns the snapshot's types. Pure: reading the engine is its backend's.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from msgspec import structs

from sandboxrun.data import Data
from sandboxrun.errors import ExitCode
from sandboxrun.spec import labels
from sandboxrun.spec.ci import CiJob
from sandboxrun.spec.codec import ImageConfig
from sandboxrun.spec.names import kept_name
from sandboxrun.spec.project import NetworkSpec
from sandboxrun.spec.spec import SandboxSpec
from sandboxrun.spec.types import freeze

if TYPE_CHECKING:
    from sandboxrun.spec.outcome import History


SLACK = 2.0  # seconds from a start until an engine has noted it: PID 1 counts them, the engine does not


_STEADY = 1.0  # seconds: a clock that differs by less was not set
_LATE = 10.0  # seconds by which a busy engine may note a start after the end


def reached(ran: float, limit: float) -> bool:
    """Whether what ran so many seconds, by somebody else's clock, can have come to the limit of its PID 1."""
    return ran >= limit - min(SLACK, limit / 2)


class Created(Data):
    """Made, never started: the apply that made it did not live to start it."""


class Running(Data):
    """Running (or paused, or being restarted) since `started`."""

    started: datetime
    paused: bool = False
    health: str | None = None  # starting, healthy, unhealthy; None without a health check
    oom: bool = False  # whether something in it was killed for memory
    limit: float | None = None  # seconds after which its PID 1 ends it, whoever watches


class Ended(Data):
    """Ran and ended. `how` is what the engine says of its end (the words of the evidence's `ending.how`) and `detail`
    a sentence of it where there is more to say; None where the engine was not asked."""

    exit_code: int | None  # None where the engine tells none
    oom: bool
    started: datetime | None
    finished: datetime | None
    error: str = ""
    how: str | None = None
    detail: str = ""
    limit: float | None = None  # seconds after which its PID 1 would have ended it
    set_ahead: float = 0.0  # seconds by which the clock that `started` and `finished` are of was set since it was made

    @property
    def marked(self) -> bool:
        """Whether its code is the one that its PID 1 gives a timeout, which anybody can exit with."""
        return self.limit is not None and self.exit_code == ExitCode.TIMEOUT

    @property
    def held(self) -> bool:
        """Whether its PID 1 ended it for its timeout: the times must agree."""
        return self.marked and set(self._reached()) == {True}

    @property
    def untimed(self) -> bool:
        """Whether it may have been ended so, and the clock was set meanwhile, so that nobody can tell."""
        return self.marked and (len(set(self._reached())) > 1 or self._ran < -_LATE)

    @property
    def _ran(self) -> float:
        known = self.started is not None and self.finished is not None
        return (self.finished - self.started).total_seconds() if known else 0.0  # type: ignore[operator]

    def _reached(self) -> tuple[bool, ...]:
        """Whether it ran up to its limit, whether the clock was set before its start, after its end, or in between."""
        if self.limit is None or self.started is None or self.finished is None:
            return (False,)
        set_ahead = self.set_ahead if abs(self.set_ahead) > _STEADY else 0.0
        return reached(self._ran, self.limit), reached(self._ran - set_ahead, self.limit)

    @property
    def out_of_memory(self) -> bool:
        """Whether the main process was killed for memory; one that coped with the death of another was not."""
        return self.how == "oom" if self.how is not None else self.oom and self.exit_code == 137

    @property
    def ending(self) -> str:
        """How it ended, as a clause: `exited with 3`."""
        if self.out_of_memory:
            return "was killed for exceeding its memory limit"
        if self.error:
            return f"could not be started: {self.error}"
        why = f" ({self.detail})" if self.detail else ""
        match self.how:
            case "killed":
                return f"was {self.detail or 'stopped before its end'}"
            case "engine_lost":
                return f"was lost{why}"
            case "unknown":
                return f"ended for an unknown reason{why}"
        return f"exited with {self.exit_code}"

    @property
    def succeeded(self) -> bool:
        """Whether it ended by itself with 0, as far as is known."""
        return self.exit_code == 0 and self.how in (None, "exited")


State = Created | Running | Ended


class Document(Data, unshown=("raw",), uncompared=("raw",)):
    """An engine's own answer about one sandbox, or what runs beside it. `raw` is opaque: evidence keeps it whole.

    Times are texts as the engine writes them, None for what never happened; `labels` may hold anything. `replaces`:
    its log has U+FFFD in place of bytes that are not UTF-8.
    """

    id: str
    name: str
    image: str
    state: State
    labels: Mapping[str, Any]
    tty: bool = False
    replaces: bool = False
    created: str | None = None
    started: str | None = None
    finished: str | None = None
    raw: Mapping[str, Any]


class Sample(Data):
    """One moment. Counters (`cpu_ns`, the `*_bytes` of input and output) run from the start of the container.

    `memory_bytes` leaves out the page cache the kernel can drop at once, as `docker stats` does;
    `memory_peak_bytes` is the kernel's own high-water mark, cache included, where it keeps one (cgroup v1).
    """

    time: str
    cpu_ns: int | None = None
    throttled_ns: int | None = None
    memory_bytes: int | None = None
    memory_peak_bytes: int | None = None
    memory_limit_bytes: int | None = None
    pids: int | None = None
    read_bytes: int | None = None
    write_bytes: int | None = None
    received_bytes: int | None = None
    sent_bytes: int | None = None

    def to_json(self) -> dict[str, Any]:
        """The line's fields; what the engine did not say is left out."""
        return {key: value for key, value in structs.asdict(self).items() if value is not None}


class ObservedSandbox(Data, unshown=("document",), uncompared=("document",)):
    """One container of ours. `spec` is what it really is, less what its image gives; `applied` what was asked
    when it was made (None when the label can't be read)."""

    id: str
    name: str
    address: str
    run: str
    state: State
    spec: SandboxSpec
    applied: SandboxSpec | None
    image_id: str
    deadline: datetime | None
    one_off: bool
    owner: str | None
    labels: Mapping[str, str]
    created: str = ""  # when it was made, as the engine writes it
    history: History | None = None  # of one that has ended: what the engine remembers of it, where it was asked
    document: Mapping[str, Any]  # the engine's own answer: its backend's to read

    @property
    def base(self) -> str:
        """What the names of its own volumes, network and companions begin with: the name that it was made under."""
        return self.labels.get(labels.BASE) or self.name

    @property
    def label(self) -> str:
        """How lines about it begin: its address, and the run of one of several."""
        return f"{self.address} (run {self.run[:12]})" if self.one_off else self.address

    @property
    def kept(self) -> bool:
        """Whether it ended and stays on purpose, its evidence saved. Its name says so, for labels can't change."""
        return self.name.endswith(kept_name("", self.run))

    @property
    def awaited(self) -> bool:
        """Whether the process that made it waits for its end: a `run`, the Python API, an `apply --wait`."""
        return labels.awaited(self.labels)

    @property
    def apart(self) -> bool:
        """Whether it is there beside what its address means: of a `run`, or kept after its end."""
        return self.one_off or self.kept

    def to_keep(self, stopped_by: str = "itself") -> bool:
        """Whether it has ended and its lifetime says that it is to be kept then. `stopped_by` (outcome.StoppedBy) is
        what somebody knows who watched it: to be stopped because nothing needed it any more is no failure."""
        policy, state = (self.applied or self.spec).lifetime.on_complete, self.state
        if not isinstance(state, Ended) or state.started is None:  # one that never ran has nothing to look at
            return False
        failed = self.timed_out or not state.succeeded if stopped_by == "itself" else stopped_by != "run_ended"
        return policy == "keep" or (policy == "keep_on_failure" and failed)

    @property
    def kept_until(self) -> datetime | None:
        """When a kept one may go; None where nothing but a command that says so removes it."""
        keep_for = (self.applied or self.spec).lifetime.keep_for
        finished = self.state.finished if isinstance(self.state, Ended) else None
        return finished + timedelta(microseconds=keep_for / 1000) if finished and keep_for is not None else None

    def is_over(self, now: datetime) -> bool:
        """Whether its ttl has passed, or the time that it was kept for."""
        until = self.kept_until if self.kept else None
        return any(end is not None and now >= end for end in (self.deadline, until))

    @property
    def job(self) -> CiJob | None:
        """The CI job that made it."""
        return CiJob.from_label(self.labels.get(labels.JOB))

    @property
    def timed_out(self) -> bool:
        """Whether it ended past its timeout: then it was stopped for that, whatever code it gave.

        Of a one-off nobody can tell: its `run` may have given it another.
        """
        timeout = (self.applied or self.spec).lifetime.timeout
        match self.state:
            case Ended(how=str(how)):
                return how == "timeout"
            case Ended(limit=float()) as ended:
                return ended.held
            case Ended(started=datetime() as started, finished=datetime() as finished, error="") if timeout is not None:
                return not self.one_off and finished - started >= timedelta(microseconds=timeout / 1000)
        return False


class ObservedNetwork(Data):
    """One network of ours."""

    id: str
    name: str
    key: str
    config: str
    spec: NetworkSpec
    run: str | None = None  # of the sandbox whose own it is


class Companion(Data):
    """A container of ours beside a sandbox's: its gateway, its keeper. `run` is the sandbox's."""

    id: str
    name: str
    role: str
    run: str
    running: bool
    started: bool = True  # ever; one that was not may lack its place on a network


class ObservedVolume(Data):
    """One volume of ours; `key` is the profile's, or `<container>.<part>` for a sandbox's own."""

    name: str
    key: str
    config: str | None
    run: str | None = None
    directory: str | None = None  # of the project that made one of the profile's
    owner: str | None = None


class Image(Data):
    """What a reference means on the engine now. `digest` is the registry's, where one was asked."""

    reference: str
    config: ImageConfig | None
    digest: str | None = None
    note: str | None = None  # why the registry could not say

    @property
    def current(self) -> bool:
        """Whether the engine has what the registry has under the tag. False while the registry did not say."""
        digests = self.config.digests if self.config is not None else ()
        return self.digest is not None and any(known.endswith(f"@{self.digest}") for known in digests)

    @property
    def unknown(self) -> str:
        """Why the registry's digest is not known, as a clause."""
        return f"the registry could not be asked: {self.note}" if self.note else "its registry does not know it"


class Helper(Data):
    """The image of gateways and keepers: its reference, its id on the engine (None: it is to be built), and what it is
    built from. `haproxy` is the version that it says it has; `unfit` why gateways can't run from it, None where they
    can."""

    reference: str
    id: str | None
    base: str
    haproxy: str = ""
    unfit: str | None = None


class Foreign(Data):
    """An object that has a name we need and is not ours."""

    kind: str  # container, network, volume
    name: str
    id: str
    whose: str  # "no labels of sandboxrun", or the other project's name


class Completed(Data):
    """One entry of the record: a spec that ran to its end and was torn down."""

    outcome: str  # exited, failed, oom, timeout
    exit_code: int | None
    run: str
    workspace_changed: bool = False  # its workspace copy would be another now

    @property
    def ending(self) -> str:
        """How it ended, as a clause: `exited with 3`, `timed out`."""
        code = "" if self.exit_code is None else f" with {self.exit_code}"
        known = {
            "timeout": "timed out",  # or was idle, or past its ttl
            "oom": f"was killed for exceeding its memory limit{f' (exit {self.exit_code})' if code else ''}",
        }
        return known.get(self.outcome) or f"exited{code}"

    @property
    def succeeded(self) -> bool:
        """Whether it ended by itself with 0."""
        return self.outcome == "exited" and self.exit_code == 0


class Offers(Data):
    """What the engine can enforce; an option that needs more is refused at plan time, by name."""

    api_version: str
    options: frozenset[str] | None = None  # the keys of those that the backend has a place for; None: all of them
    shares_filesystem: bool = True
    filesystem_note: str = ""
    runtimes: tuple[str, ...] | None = None  # None: the engine was not asked
    memory: bool = True
    swap: bool = True
    cpu: bool = True
    cpuset: bool = True
    pids: bool = True
    seccomp: bool = True
    hands_names: bool = True  # to a sandbox on an internal network, the name server it was given
    low_ports_closed: str | None = None  # why gateways can't listen below 1024; None: they can, or nobody tried
    podman: bool = False  # Podman, by its Docker API, which drops some of what it is asked for
    architecture: str = ""  # as the engine names it; "": it was not asked
    quota: bool = True  # storage_opt size
    apparmor: bool = True
    selinux: bool = True
    cpus: int | None = None  # how many the engine may give; None: it was not asked
    default_runtime: str = ""
    runc: str = ""  # its version, "" where the engine does not say


class Snapshot(Data):
    """All that the planner looks at. `taken` is by the engine's clock, UTC."""

    project: str
    taken: datetime
    offers: Offers
    engine_id: str = ""
    sandboxes: tuple[ObservedSandbox, ...] = ()
    networks: tuple[ObservedNetwork, ...] = ()
    volumes: tuple[ObservedVolume, ...] = ()
    images: Mapping[str, Image] = freeze({})
    foreign: tuple[Foreign, ...] = ()
    orphaned: frozenset[str] = frozenset()  # ids of awaited ones whose owner is gone, and that nobody else waits for
    owned: frozenset[str] = frozenset()  # ids of one-offs whose owner lives, or has a lease
    lapsed: frozenset[str] = frozenset()  # ids of awaited ones whose lease ran out; of any others nothing is known
    leftovers: tuple[str, ...] = ()  # ids of upload containers left by an apply that was killed
    companions: tuple[Companion, ...] = ()
    helper: Helper | None = None  # the image of gateways and keepers; None where no sandbox needs one
    completed: Mapping[str, Mapping[str, Completed]] = freeze({})  # address → spec digest

    def companion(self, run: str, role: str) -> Companion | None:
        """The companion of that role of the sandbox of that run."""
        return next((c for c in self.companions if c.run == run and c.role == role), None)


def parse_time(text: str | None) -> datetime | None:
    """The engine's RFC 3339 time (nanoseconds, zero meaning never) in UTC."""
    if not text or text.startswith("0001-"):
        return None
    head, _, rest = text.partition(".")
    if rest:
        digits = "".join(c for c in rest.split("Z")[0].split("+")[0].split("-")[0] if c.isdigit())
        zone = rest[len(digits) :]
        text = f"{head}.{digits[:6]:0<6}{zone}"
    try:
        return datetime.fromisoformat(text.replace("Z", "+00:00")).astimezone(UTC)
    except (ValueError, OverflowError):
        return None
