"""What the engine shows: sandboxes, networks, volumes and images of one project, at one moment; how a run ended; and a
spec as the text of its label and back.

Owns the snapshot's types, and the decision how a run ended, from what the engine says of it and what we did to it: what
a caller did counts only where it reached the main process, and what nobody can know is `unknown`, and such a run does
not count as done. Pure: reading the engine is its backend's.
"""

from __future__ import annotations

import enum
import json
import signal as signals
from collections.abc import Collection, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from msgspec import structs

from sandboxrun.data import Data
from sandboxrun.errors import ExitCode, Problems, node_of
from sandboxrun.spec import forms, labels
from sandboxrun.spec.ci import CiJob
from sandboxrun.spec.names import kept_name
from sandboxrun.spec.option import Row, value_of
from sandboxrun.spec.project import NetworkSpec
from sandboxrun.spec.spec import ROWS, SandboxSpec, parse_spec
from sandboxrun.spec.types import freeze

# -- a spec as its label's text, less what its image gives, and what an engine is too old for: loops over the rows


class ImageConfig(Data):
    """What an image sets by itself: `id` is its content digest, the rest what its config holds."""

    id: str = ""
    architecture: str = ""  # as the engine names it (amd64, arm64/v8 ...)
    digests: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    entrypoint: tuple[str, ...] = ()
    working_dir: str | None = None
    environment: Mapping[str, str | None] = freeze({})
    labels: Mapping[str, str] = freeze({})
    healthcheck: Any = None
    stop_signal: str | None = "SIGTERM"
    volumes: tuple[str, ...] = ()
    reserved: tuple[str, ...] = ()  # labels that only sandboxrun itself may set; `labels` are the others


_INHERITED = tuple(row for row in ROWS if row.inherited)


def without_inherited(spec: SandboxSpec, image: ImageConfig | None) -> SandboxSpec:
    """The spec less what the image says by itself: a value equal to the image's is no difference.

    An entry point that is set leaves nothing of the image's command, whatever else is equal. A platform without an
    architecture is the engine's own, and that of the image.
    """
    if spec.entrypoint and spec.command is None:
        spec = structs.replace(spec, command=())
    if image is None:
        return spec
    changed: dict[str, Any] = {}
    if spec.platform == "linux" and image.architecture:
        changed["platform"] = forms.platform(f"linux/{image.architecture}")
    for row in _INHERITED:
        mine, theirs = value_of(spec, row), getattr(image, row.key)
        if mine is None:
            continue
        if isinstance(mine, Mapping):
            kept = {key: value for key, value in mine.items() if key not in theirs or theirs[key] != value}
            if len(kept) != len(mine):
                changed[row.key] = freeze(kept)
        elif mine == theirs:
            changed[row.key] = None
    return structs.replace(spec, **changed) if changed else spec


def from_label(text: str | None) -> SandboxSpec | None:
    """A label's text as a spec; None when there is none or it is not ours to read (another version, tampered)."""
    try:
        plain = json.loads(text or "null")
        if not isinstance(plain, dict):
            return None
        problems = Problems()
        spec = parse_spec(node_of(plain), problems)
    except (ValueError, RecursionError):
        return None
    return None if problems else spec


def unsupported(spec: SandboxSpec, api_version: str) -> tuple[Row, ...]:
    """The rows that are set away from their default and that an engine of this API version does not know."""

    def version(text: str) -> tuple[int, ...]:
        return tuple(map(int, text.split(".")))

    have, recent = version(api_version), (row for row in ROWS if row.since is not None)
    return tuple(row for row in recent if version(row.since or "") > have and value_of(spec, row) != row.default)


def lacking(spec: SandboxSpec, options: Collection[str] | None) -> tuple[str, ...]:
    """The keys of what the spec asks for that is not among `options` (None: all are). Nothing, 0 and off ask for
    nothing; a default asks where it closes something."""
    return tuple(
        row.key
        for row in ROWS
        if options is not None and row.key not in options
        if (value := value_of(spec, row)) not in (None, 0, "", (), {})
        if row.always or not row.settable or value != row.default
    )


def own_labels(
    *, project: str, address: str, run: str, spec: SandboxSpec, extra: Mapping[str, str] | None = None
) -> dict[str, str]:
    """The labels that every sandbox carries from its creation."""
    return {
        labels.PROJECT: project,
        labels.SANDBOX: address,
        labels.RUN: run,
        labels.SPEC: spec.label,
        labels.SPEC_DIGEST: spec.digest,
        **(extra or {}),
    }


# -- what the engine shows

SLACK = 2.0  # seconds from a start until an engine has noted it: PID 1 counts them, the engine does not
GOING = 5.0  # seconds that ending one may take, beyond its grace period

_STEADY = 1.0  # seconds: a clock that differs by less was not set
_LATE = 10.0  # seconds by which a busy engine may note a start after the end


def reached(ran: float, limit: float) -> bool:
    """Whether what ran so many seconds, by somebody else's clock, can have come to the limit of its PID 1."""
    return ran >= limit - min(SLACK, limit / 2)


def left_alone(spec: SandboxSpec, *, held: bool) -> float:
    """For how many seconds after its time one is left to who `held` it: its PID 1 for its timeout, who made it for its
    ttl. The command is to get one signal, since many programs take a second one for "at once" and drop what they do at
    the first."""
    return spec.stop_grace_period / 1e9 + GOING if held else 0.0


def _steady(set_ahead: float) -> float:
    return set_ahead if abs(set_ahead) > _STEADY else 0.0


class Created(Data):
    """Made, never started: the apply that made it did not live to start it."""


class Running(Data):
    """Running (or paused, or being restarted) since `started`."""

    started: datetime
    paused: bool = False
    health: str | None = None  # starting, healthy, unhealthy; None without a health check
    oom: bool = False  # whether something in it was killed for memory
    limit: float | None = None  # seconds after which its PID 1 ends it, whoever watches
    set_ahead: float = 0.0  # seconds by which the clock that `started` is of was set since it was made

    @property
    def began(self) -> datetime:
        """When it was started, as the clock has it now: what it has run so far counts from here."""
        return self.started + timedelta(seconds=_steady(self.set_ahead))

    def overdue_at(self, timeout: int, spec: SandboxSpec) -> datetime:
        """When whoever looks ends it for its timeout, in nanoseconds: it was made with this spec."""
        return self.began + timedelta(seconds=timeout / 1e9 + left_alone(spec, held=self.limit is not None))


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
        return self.marked and len(set(self._reached())) > 1

    @property
    def _ran(self) -> float:
        known = self.started is not None and self.finished is not None
        return (self.finished - self.started).total_seconds() if known else 0.0  # type: ignore[operator]

    def _reached(self) -> tuple[bool, ...]:
        """Whether it ran up to its limit, whether the clock was set before its start, after its end, or in between."""
        if self.limit is None or self.started is None or self.finished is None:
            return (False,)
        in_between = reached(self._ran - _steady(self.set_ahead), self.limit)
        if self._ran < -_LATE:  # it was certainly set in between; by how much may be known
            return (in_between,) if self.set_ahead < -_LATE else (True, False)
        return reached(self._ran, self.limit), in_between

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
        """Whether it has ended and its lifetime says that it is to be kept then. `stopped_by` (state.StoppedBy) is
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
    def expired(self) -> bool:
        """Whether its ttl was over when it ended: if it was stopped, it was for that."""
        finished = self.state.finished if isinstance(self.state, Ended) else None
        return self.deadline is not None and finished is not None and finished >= self.deadline

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
    role: str
    run: str
    running: bool
    started: bool = True  # ever; one that was not may lack its place on a network
    placed: bool = True  # whether a gateway is on the two networks that it stands between, and on no other

    @property
    def serving(self) -> bool:
        """Whether a gateway can do its work."""
        return self.running and self.placed


class ObservedVolume(Data):
    """One volume of ours; `key` is the profile's, or `<container>.<part>` for a sandbox's own."""

    name: str
    key: str
    config: str | None
    run: str | None = None
    directory: str | None = None  # of the project that made one of the profile's
    owner: str | None = None


class Image(Data):
    """What a reference to one means on the engine now. `digest` is the registry's, where one was asked."""

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
    help: str = ""  # what to do, where it is not what is usual


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
    usage: bool = True  # it tells what each container uses; without control groups it tells what the machine does
    maps_users: bool = False  # user ids inside are others on the host
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

    taken: datetime
    offers: Offers
    engine_id: str = ""
    sandboxes: tuple[ObservedSandbox, ...] = ()
    networks: tuple[ObservedNetwork, ...] = ()
    volumes: tuple[ObservedVolume, ...] = ()
    images: Mapping[str, Image] = freeze({})
    foreign: tuple[Foreign, ...] = ()
    orphaned: frozenset[str] = frozenset()  # ids of awaited ones whose owner is gone, and that nobody else waits for
    owned: frozenset[str] = frozenset()  # ids of awaited ones whose owner lives, or has a lease
    lapsed: frozenset[str] = frozenset()  # ids of awaited ones whose lease ran out; of any others nothing is known
    joined_by: frozenset[str] = frozenset()  # who else waits for what an owner left that is gone, as labels have owners
    leftovers: tuple[str, ...] = ()  # ids of upload containers left by an apply that was killed
    companions: tuple[Companion, ...] = ()
    helper: Helper | None = None  # the image of gateways and keepers; None where no sandbox needs one
    completed: Mapping[str, Mapping[str, Completed]] = freeze({})  # address → spec digest

    def expires_at(self, observed: ObservedSandbox) -> datetime | None:
        """When whoever looks ends or collects one of its sandboxes for its ttl; None for one that has none."""
        owned = observed.id in self.owned and isinstance(observed.state, Running)
        beyond = left_alone(observed.applied or observed.spec, held=owned)
        return observed.deadline + timedelta(seconds=beyond) if observed.deadline is not None else None

    def expired(self, observed: ObservedSandbox) -> bool:
        """Whether that is now, or was."""
        at = self.expires_at(observed)
        return at is not None and self.taken >= at

    def companion(self, run: str, role: str) -> Companion | None:
        """The companion of that role of the sandbox of that run."""
        return next((c for c in self.companions if c.run == run and c.role == role), None)


def parse_time(text: str | None) -> datetime | None:
    """The engine's RFC 3339 time (nanoseconds, zero meaning never) in UTC."""
    if not text or text.startswith("0001-"):
        return None
    try:
        return datetime.fromisoformat(text).astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def rfc3339(when: datetime, timespec: str = "seconds") -> str:
    """A time in UTC as its text."""
    return when.isoformat(timespec=timespec).replace("+00:00", "Z")


def state_word(state: State) -> str:
    """A state in a word: created, running, paused, ended."""
    return "paused" if isinstance(state, Running) and state.paused else type(state).__name__.lower()


# -- how a run ended


class How(enum.StrEnum):
    """The ways a run can end. It is the main process's end: what else was killed in it is `Ending.oom_killed`."""

    EXITED = "exited"  # by itself, with 0
    FAILED = "failed"  # by itself, with another code or by a signal of its own
    OOM = "oom"  # the kernel killed it for exceeding the memory limit
    TIMEOUT = "timeout"  # we stopped it: its time was over
    KILLED = "killed"  # we or somebody else stopped it
    ENGINE_LOST = "engine_lost"  # the engine stopped while it was running
    UNKNOWN = "unknown"  # it ended, and nothing shows whether by itself
    NOT_STARTED = "not_started"  # the engine could not start it, or nobody did


class StoppedBy(enum.StrEnum):
    """Who stopped it, as far as the caller knows."""

    ITSELF = "itself"
    TIMEOUT = "timeout"
    IDLE = "idle"
    EXPIRED = "expired"
    KILLED = "killed"
    ENGINE = "engine"  # the connection to the engine broke while it ran
    RUN_ENDED = "run_ended"  # it ran for others, which have ended


PAST_TTL = "past its ttl"  # these two are the detail of what was not stopped for its timeout
WAS_IDLE = "no output and no CPU use for as long as its idle says"
RUN_ENDED = "the run ended"  # the detail of what a run stopped because nothing needed it any more


class Ending(Data):
    """How it ended. `exit_code` is None where there is none; `signal` is the number in a code above 128."""

    how: How
    exit_code: int | None = None
    signal: int | None = None
    oom_killed: bool = False
    detail: str | None = None

    @property
    def code(self) -> int:
        """Its exit code."""
        return code_of(self.how, self.exit_code)


def code_of(how: How, code: int | None) -> int:
    """The exit code of one that ended so: its own; 124 for a timeout, 125 where nothing is known of its end."""
    match how:
        case How.TIMEOUT:
            return ExitCode.TIMEOUT
        case How.ENGINE_LOST | How.UNKNOWN | How.NOT_STARTED:
            return ExitCode.NOT_RUN
        case How.OOM:
            return code or 137
        case How.KILLED:
            return code or ExitCode.TERMINATED
        case How.EXITED | How.FAILED:
            return code if code is not None else ExitCode.NOT_RUN


def first_failure(codes: Iterable[int | None], *, blocked: bool = False) -> int:
    """The exit code of several: the first that is not 0, None counting as not run. With `blocked`, one was not started
    for another's failure: 125 where all else is 0."""
    every = (ExitCode.NOT_RUN if code is None else code for code in codes)
    return next((code for code in every if code != 0), ExitCode.NOT_RUN if blocked else 0)


class History(Data):
    """What an engine remembers of a container's last start: whether that `started` and its end (`died`) are among its
    events, the `signals` it sent in between, and whether it noticed `oom`.

    `began`: when the engine itself started; `outlives`: its containers run on without it. `known` is false where the
    engine tells neither: then it may have been restarted meanwhile. `silent`: its stops leave no signal in the events.
    `forgets`: so much has happened on it that a signal of just before the end may be forgotten.
    """

    started: bool = False
    died: bool = False
    signals: frozenset[int] = frozenset()
    oom: bool = False
    began: datetime | None = None
    outlives: bool = False
    known: bool = True
    silent: bool = False
    forgets: bool = False

    @property
    def whole(self) -> bool:
        """Whether all of its signals are known: a busy engine may have forgotten all but its end."""
        return self.started and self.died

    def explains(self, code: int | None) -> bool:
        """Whether it says who sent a signal that the exit code stands for, where somebody outside may have."""
        signal = _signal_in(code)
        return signal not in _ENDING or signal in self.signals or (self.oom and signal == signals.SIGKILL)


_RESTORING = timedelta(seconds=30)  # after an engine's start, at most, in which it finds what it had left running
LOST = 255  # what an engine gives, at its start, to a container that it had left running and finds ended
_HIGHEST_SIGNAL = 64
_ENDING = frozenset({signals.SIGINT, signals.SIGQUIT, signals.SIGKILL, signals.SIGTERM})  # sent to end a program
_MEMORY, _KILLED_BEFORE = "a process in it was killed for memory", "a process in it had been killed for memory"
_UNTIMED = "the clock was set meanwhile: its exit code is that of a timeout, and its times do not tell whether it was"
_RESTARTED = "the engine was restarted while it ran"


def seen(code: int, *, ran: float | None = None, limit: float | None = None) -> State:
    """The state of one that somebody saw end with `code`, where it can't be asked any more: after `ran` seconds of
    `limit`, where that is known."""
    began = datetime.fromtimestamp(0, UTC)
    finished = None if ran is None else began + timedelta(seconds=ran)
    return Ended(exit_code=code, oom=False, started=began, finished=finished, limit=limit)


def decide(
    state: State | None,
    *,
    stopped_by: StoppedBy = StoppedBy.ITSELF,
    watched: bool = False,
    history: History | None = None,
) -> Ending:
    """How a run ended.

    `state` is what the engine shows, None when the container is gone. `stopped_by` is what the caller tried: it counts
    unless the engine saw the end and had sent no signal. `watched`: somebody was connected to the engine at the moment
    of the exit (a `wait` that answered).
    """
    history = history or History()
    match state:
        case None:
            return Ending(how=How.ENGINE_LOST, detail="the container is not on the engine any more")
        case Created():
            return Ending(how=How.NOT_STARTED)
        case Running(oom=oom):
            still = "was still running when evidence was taken"
            return Ending(how=_OURS.get(stopped_by, How.KILLED), oom_killed=oom or history.oom, detail=still)
        case Ended(started=None):
            return Ending(how=How.NOT_STARTED, exit_code=state.exit_code or None, detail=state.error or None)
    code, oom = state.exit_code, state.oom or history.oom
    if state.held or (state.marked and watched and stopped_by is StoppedBy.TIMEOUT):  # by a clock that nobody sets
        return Ending(how=How.TIMEOUT, exit_code=code, oom_killed=oom, detail=_KILLED_BEFORE if oom else None)
    if state.untimed and not watched:
        return Ending(how=How.UNKNOWN, exit_code=code, oom_killed=oom, detail=_UNTIMED)
    lost = _engine_lost(state, stopped_by, watched, history)
    how, detail = lost or _how(code, oom, stopped_by, watched and stopped_by is not StoppedBy.ENGINE, history)
    return Ending(how=how, exit_code=code, signal=_signal_in(code), oom_killed=oom, detail=state.error or detail)


_OURS = {
    StoppedBy.TIMEOUT: How.TIMEOUT,
    StoppedBy.IDLE: How.TIMEOUT,
    StoppedBy.EXPIRED: How.TIMEOUT,
    StoppedBy.KILLED: How.KILLED,
    StoppedBy.RUN_ENDED: How.KILLED,
    StoppedBy.ENGINE: How.ENGINE_LOST,
}

_FOR = {StoppedBy.IDLE: WAS_IDLE, StoppedBy.EXPIRED: PAST_TTL, StoppedBy.RUN_ENDED: RUN_ENDED}


def _engine_lost(state: Ended, stopped_by: StoppedBy, watched: bool, history: History) -> tuple[How, str | None] | None:
    """The end where the engine was away meanwhile, or may have been. An engine ends what it finds running when it
    starts, as an orderly stop of it does, and any code may come of that."""
    if history.whole:
        return None  # one engine, which forgets everything when it stops, saw both
    code, began, started, finished = state.exit_code, history.began, state.started, state.finished
    same = began is not None and started is not None and started >= began
    if not same and not history.outlives and began is not None:
        if history.died or code == LOST or stopped_by is StoppedBy.ENGINE or (finished and finished >= began):
            return How.ENGINE_LOST, _RESTARTED
        return How.UNKNOWN, "it ended before the engine was restarted, by itself or by the engine's shutdown"
    if stopped_by is StoppedBy.ENGINE and not same and not history.outlives:
        return How.ENGINE_LOST, None
    soon = began is None or finished is None or finished <= began + _RESTORING
    restored = soon and history.outlives and not history.silent  # and so told as an end
    if code == LOST and not (watched or same or (history.died and not restored)):
        return How.ENGINE_LOST, "exit code 255 and no observed exit: the engine was lost while it was running"
    if not (history.known or watched or history.died):
        return How.UNKNOWN, "the engine does not report whether it was restarted in the meantime"
    return None


def _how(code: int | None, oom: bool, stopped_by: StoppedBy, watched: bool, history: History) -> tuple[How, str | None]:
    """The end under an engine that was there all the time."""
    memory, signal = _MEMORY if oom else None, _signal_in(code)
    ours = _OURS.get(stopped_by) if stopped_by is not StoppedBy.ENGINE else None
    if ours is not None and (history.signals or history.silent or not history.whole):
        return ours, _KILLED_BEFORE if oom else _FOR.get(stopped_by)
    if oom and code == 137 and signals.SIGKILL not in history.signals:
        return How.OOM, None
    if history.signals & (_ENDING | {signal}):
        return How.KILLED, "stopped by somebody else"
    if signal in _ENDING and (history.forgets or not (watched or history.died)):
        by = signals.Signals(signal).name
        unseen = "the engine has forgotten which signals it sent" if history.died else "the exit was not observed"
        return How.UNKNOWN, f"{unseen}, and {by} from outside gives the same exit code"
    return (How.EXITED if code == 0 else How.FAILED), memory


def _signal_in(code: int | None) -> int | None:
    return code - 128 if code is not None and 128 < code <= 128 + _HIGHEST_SIGNAL else None
