"""A job's sandboxes: each watched from its start to its end (output, usage, timeout, signals), collected, and how it
ended. `run`, `apply --wait` and `wait` are orders of these verbs; making sandboxes is `apply.carry_out`.

Owns the threads of a watch, and how output is kept and handed on. A watch ends a sandbox only for a reason it was
given, and takes no evidence: it says what it saw.
"""

from __future__ import annotations

import contextlib
import json
import threading
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from itertools import groupby, islice
from time import monotonic
from typing import TYPE_CHECKING, BinaryIO

from msgspec import Struct, structs

from sandboxrun.backend.base import Backend, Events, Output, Terminal
from sandboxrun.backend.completed import ending_of, taken_by_others
from sandboxrun.backend.errors import EngineError, EngineTimeout, EngineUnreachable
from sandboxrun.backend.session import Alive, Made, Session, Watched
from sandboxrun.data import Data
from sandboxrun.errors import BUG, ApplyError, Diagnostic, ExitCode, SandboxrunError, printable
from sandboxrun.evidence.errors import EvidenceError, reason_of
from sandboxrun.evidence.workspace import USAGE, KeptOutput
from sandboxrun.lifecycle.apply import ApplySettings, carry_out, locked
from sandboxrun.plan import operations as owned
from sandboxrun.plan.operations import KeepSandbox
from sandboxrun.plan.planner import make_collect_plan
from sandboxrun.spec import labels
from sandboxrun.spec.project import DeclaredSandbox, Profile
from sandboxrun.spec.state import (
    PAST_TTL,
    SLACK,
    Ended,
    Ending,
    How,
    ObservedSandbox,
    Running,
    Sample,
    parse_time,
    reached,
)
from sandboxrun.spec.types import SECOND, format_duration
from sandboxrun.threads import begin
from sandboxrun.tracing import Opened, here, open_span, span

if TYPE_CHECKING:
    from contextvars import Context
    from datetime import datetime

    from sandboxrun.evidence.store import Captured, Store


# -- Hands a sandbox's output on to its consumer, in a thread of its own

ROOM = 1 << 20  # bytes that may wait for the consumer while the sandbox runs
BATCH = 1 << 16  # bytes that the consumer gets at once, or a piece more
LULL = 0.005  # seconds that a consumer who has caught up waits for more to come, up to FILL bytes: woken for each of
FILL = 1 << 19  # many small pieces, it and whoever puts them in would take twice the CPU time
STUCK = 2.0  # seconds without progress after which a consumer counts as stuck once the sandbox is to end


class Relay:
    """Calls `output` (stream, data) for what is put in, in order. After a failure it drops the rest."""

    def __init__(self, name: str, output: Callable[[int, bytes], None]) -> None:
        self._output = output
        self._queue: deque[tuple[int, bytes]] = deque()
        self._waiting = 0  # bytes put in and not yet taken by the consumer
        self._ending = self._over = self._closed = False
        self._changed = threading.Condition()
        self._moved = monotonic()
        self.failure: BaseException | None = None
        self.dropped = 0
        self._thread = begin(self._work, name=f"output of {name}", failed=self._failed)

    def put(self, stream: int, data: bytes) -> None:
        """Queue `data`. Waits while too much waits already, but never for a consumer that failed or is stuck."""
        with self._changed:
            while self._waiting >= ROOM and self.failure is None and not self._over:
                if self._ending and self.stuck_for > STUCK:
                    break
                self._changed.wait(0.2 if self._ending else None)
            if self.failure is not None or (self._waiting >= ROOM and not self._over):
                self.dropped += len(data)
                return
            self._queue.append((stream, data))
            self._waiting += len(data)
            if len(self._queue) == 1 or self._waiting >= FILL:
                self._changed.notify_all()

    def ending(self, *, over: bool = False) -> None:
        """The sandbox is to end; `over`: it has ended. What then still comes is what the engine holds, a few MB."""
        with self._changed:
            self._ending = True
            self._over = self._over or over
            self._changed.notify_all()

    def close(self) -> None:
        """Nothing more will be put in."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def wait(self, timeout: float) -> bool:
        """Wait at most `timeout` seconds for the consumer to have taken everything; whether it has."""
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def give_up(self) -> None:
        """Stop waiting for the consumer: what it has not taken is dropped."""
        with self._changed:
            self._closed = self._over = True
            self._drop()

    @property
    def stuck_for(self) -> float:
        """Seconds since the consumer last took something."""
        return monotonic() - self._moved

    def _work(self) -> None:
        while batch := self._take():
            for stream, data in batch:
                self._output(stream, data)
                with self._changed:
                    self._waiting -= len(data)
                    self._moved = monotonic()
                    self._changed.notify_all()

    def _take(self) -> list[tuple[int, bytes]]:
        """Some of what waits, neighbours of one stream joined; nothing at the end."""
        with self._changed:
            if not self._queue:
                self._changed.wait_for(lambda: self._queue or self._closed)
                self._changed.wait_for(lambda: self._waiting >= FILL or self._closed or self._over, LULL)
            pieces: list[tuple[int, bytes]] = []
            size = 0
            while self._queue and size < BATCH:
                pieces.append(self._queue.popleft())
                size += len(pieces[-1][1])
            self._moved = monotonic()
        joined = groupby(pieces, lambda piece: piece[0])
        return [(stream, b"".join(data for _, data in part)) for stream, part in joined]

    def _failed(self, error: BaseException) -> None:
        with self._changed:
            self.failure = error
            self._drop()

    def _drop(self) -> None:
        self.dropped += self._waiting
        self._queue.clear()
        self._changed.notify_all()


# -- Since when a sandbox does nothing: it writes nothing, and uses next to no CPU time

# An agent that waits for an answer, with an event loop, timers and a runtime's own threads, uses up to some tenths of a
# per cent of one CPU; one that computes, compiles or reads uses several. What is above this counts as use.
BUSY = 0.01  # of one CPU, between two samples


class Idleness:
    """What is known of one sandbox's silence. CPU time that nobody could read, or not yet, counts as use: then only the
    timeout ends it."""

    def __init__(self) -> None:
        self._active = monotonic()  # when it last did something, as far as is known
        self._sampled = 0.0  # up to when its use is known
        self._last: tuple[datetime, int] | None = None  # the engine's time and CPU time of the last sample
        self.deaf = False  # whether nothing can be known of its output

    def wrote(self) -> None:
        self._active = monotonic()

    def used(self, sample: Sample) -> None:
        """How much CPU time it has used by now."""
        at, now = parse_time(sample.time), monotonic()
        if at is None or sample.cpu_ns is None:
            return
        seconds = (at - self._last[0]).total_seconds() if self._last is not None else 0
        # nothing to compare it with: it is the first one, or the engine's clock was set
        if self._last is None or seconds <= 0 or sample.cpu_ns - self._last[1] > BUSY * seconds * SECOND:
            self._active = max(self._active, now)
        self._last, self._sampled = (at, sample.cpu_ns), now

    def lasts(self, seconds: float) -> bool:
        """Whether it has certainly done nothing for so long."""
        return not self.deaf and min(self._sampled, monotonic()) >= self._active + seconds


# -- Its usage, at an interval


class Sampler:
    """Samples a container from now to `stop`, `every` so many seconds, and writes each sample down: a line in `file`,
    which the caller closes. `seen` gets each sample, `failed` what nobody expects: what can happen to an engine or a
    disk is in `failure`."""

    def __init__(
        self,
        engine: Backend,
        container: str,
        file: BinaryIO | None,
        *,
        every: float,
        seen: Callable[[Sample], object],
        failed: Callable[[BaseException], object],
    ) -> None:
        self._engine, self._container, self._file = engine, container, file
        self._every, self._seen, self._failed = max(every, SHORTEST), seen, failed
        self._stop = threading.Event()
        self.failure: str | None = None
        self.failed_at = 0.0  # by `time.monotonic`
        self._thread = begin(self._work, name=f"usage of {container[:12]}", failed=self._note)

    def stop(self, *, wait: float = 5.0) -> None:
        """End, waiting at most `wait` seconds for a sample that is being taken. May be called again."""
        self._stop.set()
        self._thread.join(wait)

    def _work(self) -> None:
        while not self._stop.is_set() and self._sample():
            self._stop.wait(self._every)

    def _sample(self) -> bool:
        """One sample; False when the container does not run (any more)."""
        sample = self._engine.usage(self._container)
        if sample is not None and not self._stop.is_set():
            self._seen(sample)
            if self._file is not None:
                self._file.write(json.dumps(sample.to_json(), separators=(",", ":")).encode() + b"\n")
                self._file.flush()
        return sample is not None

    def _note(self, error: BaseException) -> None:
        if isinstance(error, EngineError | OSError):
            self.failure, self.failed_at = reason_of(error), monotonic()
        else:
            self._failed(error)


# -- Watches one sandbox from its start to its end: output, usage, timeout, signals

SHORTEST = 0.1  # seconds between samples; each is an engine call
LOOK = 0.5  # seconds between looks at the clock while nothing happens
NOTICE = 10.0  # seconds until a watch has noticed that its sandbox was stopped
DRAIN = 5.0  # seconds that the rest of the output may take once the sandbox has ended

_HURRIED = {"timeout", "idle", "expired", "killed"}  # ends after which nobody waits for who is stuck with the output
_STOPPED = (128 + 9, 128 + 15)  # exit codes of what was stopped

Consumer = Callable[[str, int, bytes], None]  # address, stream (1 stdout, 2 stderr), data
Pump = Callable[["Terminal", Callable[[bytes], None]], None]  # moves a terminal's bytes; tells what came out


class Watching(Data):
    """What a watch does beside waiting.

    `output` gets what the sandbox prints, in a thread of its own; it is kept in the staging folder whatever becomes of
    `output`. `sample` reads usage, `pump` gives it a terminal.
    """

    output: Consumer | None = None
    sample: bool = True
    pump: Pump | None = None
    elapsed: float = 0.0  # how long it runs already
    expires: float | None = None  # when its ttl is over (time.monotonic), where it was made before
    ended: Callable[[int | None], None] = lambda code: None  # is told its exit code once it has ended; must not raise
    events: Events | None = None  # that tell of its end, where they are followed since before its start


class Watch:
    """One sandbox being watched. `before_start`, then `begin` once it runs, then `wait` for the result."""

    def __init__(
        self, engine: Backend, store: Store, sandbox: DeclaredSandbox, made: Made, how: Watching, within: Context | None
    ) -> None:
        """`within` is where its span belongs."""
        self.address, self.spec, self.container, self.run = sandbox.address, sandbox.spec, made.id, made.run
        self.exit_code: int | None = None
        self.error: EngineError | None = None
        self.failure: ApplyError | None = None  # a part of this watch that ended before its time
        self.relay: Relay | None = None
        self._engine, self._store, self._how, self._within = engine, store, how, within
        self._stops: list[_Stop] = []  # what was done to end it
        self._lost = False  # whether the connection to the engine broke while it ran
        self._limit = timeout / 1e9 if (timeout := self.spec.lifetime.timeout) is not None else None  # seconds
        ttl = self.spec.lifetime.ttl
        self._expires = how.expires if ttl is None or how.expires is not None else made.at + ttl / SECOND
        self._began, self._idleness = monotonic(), Idleness()
        self._span = Opened()
        self._paused: float | None = None  # since when, if it is paused by us
        self._ended = threading.Event()
        self._ended_at = monotonic()
        self._cleanup = contextlib.ExitStack()
        self._threads: list[threading.Thread] = []
        self._sampler: Sampler | None = None
        self._used: Sample | None = None  # the last sample
        self._stream: Output | None = None
        self._terminal: Terminal | None = None
        self._live = False
        self._written: dict[int, int] | None = None
        self._missing: list[tuple[str, str]] = []

    @property
    def ended(self) -> bool:
        return self._ended.is_set()

    @property
    def begun(self) -> bool:
        """Whether it was started: of one that could not be, no end will come."""
        return bool(self._threads)

    def faults(self) -> Iterator[Diagnostic]:
        """What of this watch failed, and what of the output could not be handed on."""
        if self.failure is not None:
            yield from self.failure.diagnostics
        lost = ""
        if self.relay is not None and (error := self.relay.failure) is not None:
            lost = f"handing on its output failed: {type(error).__name__}: {printable(str(error))}"
        elif self.relay is not None and (dropped := self.relay.dropped):
            lost = f"up to {dropped} bytes of its output were not written: nothing reads them"
        if lost:
            yield Diagnostic(message=f"{self.address}: {lost}", help="the evidence has all of it")

    @property
    def overdue(self) -> bool:
        """Whether it was ended from outside, or its time is over by now."""
        late = any(left <= 0 for left, _ in self._deadlines())
        return late or self.result.stopped_by in _HURRIED

    @property
    def result(self) -> Watched:
        """What teardown needs to know of it."""
        stop = next((stop for stop in reversed(self._stops) if stop.reached), _Stop(by="itself"))
        return Watched(
            stopped_by="engine" if self._lost else stop.by,
            live_logs=self._live,
            note=stop.note,
            exit_code=self.exit_code,
            written=self._written,
            missing=tuple(self._missing),
        )

    def before_start(self) -> None:
        """Attach, so that nothing it prints is lost. Raises EngineError."""
        if self._how.pump is not None:
            self._terminal = self._engine.attach_terminal(self.container)
        elif self._how.output is not None:
            self._stream = self._engine.attach(self.container, tty=self.spec.tty)

    def begin(self) -> None:
        """It runs: read, sample and wait, each in a thread of its own. Raises EngineError, EvidenceError, OSError."""
        about = {"sandbox": self.address, "run": self.run, "image": self.spec.image}
        try:
            self._began = monotonic() - self._how.elapsed
            self._span = open_span("sandbox", within=self._within, **about)
            self._span.set({"container.id": self.container})
            if self._how.output is not None:
                self.relay = Relay(self.address, partial(self._how.output, self.address))
                self._thread("reading the output", self._read_output, "logs")
            elif self.spec.lifetime.idle is not None:
                self._thread("listening for output", self._listen)
            if self._how.sample or self.spec.lifetime.idle is not None:
                self._start_sampler()
            self._thread("waiting for the end", self._until_end)
        except BaseException:
            self._ended.set()  # nobody waits for it: whoever waited would wait for ever
            raise

    @contextlib.contextmanager
    def pausing(self) -> Iterator[None]:
        """While it is paused by us: that time does not count."""
        self._paused = monotonic()
        try:
            yield
        finally:
            self._began += monotonic() - self._paused
            self._paused = None

    def _ran(self) -> float:
        """How many seconds of its timeout are over."""
        return (self._paused or monotonic()) - self._began

    def glance(self, *, line: bool) -> Alive:
        """How it is; with `line`, the last one that it wrote, where the engine has that."""
        said = b""
        if line:
            asked = partial(self._engine.logs, self.container, tty=self.spec.tty, tail=1)
            with contextlib.suppress(EngineError), asked() as output:
                said = b"".join(data for _, data in islice(output, 2))
        last = next((text for text in reversed(said.decode("utf-8", "replace").splitlines()) if text.strip()), "")
        used, limit = self._used.memory_bytes if self._used is not None else None, self.spec.mem_limit or None
        return Alive(address=self.address, seconds=self._ran(), memory=used, limit=limit, line=last.strip())

    def wait(self, timeout: float | None = None) -> bool:
        """Wait at most `timeout` seconds; whether it has ended."""
        return self._ended.wait(timeout)

    def send(self, signal: str) -> None:
        """Forward a signal to its command: if it ends then, it was killed, whatever its code."""
        self._stops.append(stop := _Stop(by="killed"))
        try:
            self._engine.signal(self.container, signal)
        except EngineError as error:
            stop.reached = error.status not in (404, 409)  # it had ended; of any other failure nobody knows

    def end(self, stopped_by: str, note: str = "", *, grace: int | None = None) -> None:
        """End it now, within its grace period."""
        if self.ended:
            return
        self._stops.append(stop := _Stop(by=stopped_by, note=note))
        if self.relay is not None and stopped_by in _HURRIED:
            self.relay.ending()
        seconds = -(-self.spec.stop_grace_period // 10**9) if grace is None else grace
        with contextlib.suppress(EngineError):
            stop.reached = self._engine.stop(self.container, timeout=seconds)

    def close(self) -> None:
        """Wait for the rest of what the engine has of its output, and give everything back. The consumer of the output
        may still be behind: see `relay`."""
        if self._sampler is not None:
            self._sampler.stop()
            if self._sampler.failure is not None and self._sampler.failed_at < self._ended_at - LOOK:
                self._missing.append(("usage", f"sampling ended early: {self._sampler.failure}"))
        for thread in self._threads if self.ended else ():  # of one that runs on there is no end to wait for
            thread.join(DRAIN)
        for stream in (self._stream, self._terminal):
            if stream is not None:
                stream.close()
        if self.relay is not None:
            self.relay.close()
        self._cleanup.close()

    # -- threads ----------------------------------------------------------------------------------------------

    def _thread(self, what: str, target: Callable[[], None], part: str | None = None) -> None:
        """A part of this watch; `part` of the evidence suffers where it fails."""
        failed = partial(self._failed, what, part)
        self._threads.append(begin(target, name=f"{what} of {self.address}", failed=failed))

    def _failed(self, what: str, part: str | None, error: BaseException) -> None:
        """A part of this watch failed: what it was to guard can't be left to itself."""
        reason = f"{what} failed: {type(error).__name__}: {printable(str(error))}"
        if self.failure is None:
            self.failure = ApplyError(f"{self.address} was stopped: {reason}", help=BUG)
            self.failure.__cause__ = error
        if part is not None:
            self._missing.append((part, f"{reason}; what came after is as the engine kept it"))
        self.end("killed", f"sandboxrun failed: {reason}")

    def _start_sampler(self) -> None:
        file: BinaryIO | None = None

        def seen(sample: Sample) -> None:
            self._used = sample
            self._idleness.used(sample)

        try:
            if self._how.sample:
                staging = self._cleanup.enter_context(self._store.staging(self.run, engine=self._engine.identity))
                file = self._cleanup.enter_context(contextlib.closing(staging.append(USAGE)))
        except (OSError, EvidenceError) as error:
            self._missing.append(("usage", reason_of(error)))
            if self.spec.lifetime.idle is None:
                return
        every = self.spec.evidence.usage_every / 1e9
        failed = partial(self._failed, "sampling the usage", "usage")
        self._sampler = Sampler(self._engine, self.container, file, every=every, seen=seen, failed=failed)

    def _until_end(self) -> None:
        try:
            self._await_exit()
        except Exception as error:
            self._failed("waiting for the end", None, error)
        finally:
            self._ended_at = monotonic()
            self._span.note(exit_code=self.exit_code, stopped_by=self.result.stopped_by)
            if self.exit_code != 0:
                self._span.fail(self.error or str(self.exit_code))
            self._span.end()
            self._how.ended(self.exit_code)
            self._ended.set()
            if self.relay is not None:
                self.relay.ending(over=True)

    def _await_exit(self) -> None:
        def patience(longest: float) -> float:
            return max(0.01, min([longest, *(left for left, _ in self._deadlines())]))

        longest = LOOK if self.spec.lifetime.idle is not None else 3600.0
        try:
            if self._how.events is not None and self.spec.restart == "no":  # most ends are seen without a call
                self.exit_code = self._how.events.exit_code(self.container, patience(min(longest, AT_ONCE)))
            while self.exit_code is None:
                try:
                    self.exit_code = self._engine.wait(self.container, timeout=patience(longest))
                except EngineTimeout:
                    self._enforce()
            if self.result.stopped_by == "itself":
                self._stops += [*self._foregone()]
        except EngineError as error:
            # Containers of one that is away may have ended with it: what code they show later is not their own.
            self.error, self._lost = error, isinstance(error, EngineUnreachable)

    def _enforce(self) -> None:
        idle, over = self.spec.lifetime.idle, next((stop for left, stop in self._deadlines() if left <= 0), None)
        if over is not None:
            self.end(over.by, over.note)
        elif idle is not None and self._idleness.lasts(idle / 1e9):
            self.end("idle", f"no output and no CPU use for {format_duration(idle)}")

    def _deadlines(self) -> Iterator[tuple[float, _Stop]]:
        """In how many seconds it is to be ended at the latest, and for what."""
        if self._limit is not None:
            yield self._limit - self._ran(), _Stop(by="timeout", note=_past("timeout", self._limit))
        if self._expires is not None:
            left, ttl = self._expires - monotonic(), self.spec.lifetime.ttl
            yield left, _Stop(by="expired", note=PAST_TTL if ttl is None else _past("ttl", ttl / SECOND))

    def _foregone(self) -> Iterator[_Stop]:
        """What others ended it for just before this watch would have: its own PID 1, or a reaper."""
        code, ran = self.exit_code, self._ran()
        held = code == ExitCode.TIMEOUT and self._limit is not None and reached(ran, self._limit)
        yield from (stop for _, stop in self._deadlines() if stop.by == "timeout" and held)
        if code in _STOPPED:
            yield from (stop for left, stop in self._deadlines() if stop.by == "expired" and left <= SLACK)

    def _listen(self) -> None:
        """Notice output, for its idle time; the engine's own log keeps it."""
        try:
            with self._engine.attach(self.container, tty=self.spec.tty) as self._stream:
                for _ in self._stream:
                    self._idleness.wrote()
        except EngineError:
            self._idleness.deaf = True

    def _read_output(self) -> None:
        kept = KeptOutput(self._store, self.run, self._engine.identity, self.spec.evidence.logs_limit)
        relay = self.relay
        assert relay is not None

        def take(stream: int, data: bytes) -> None:
            self._idleness.wrote()
            kept.write(stream, data)
            relay.put(stream, data)

        try:
            if self._terminal is not None and self._how.pump is not None:
                self._how.pump(self._terminal, partial(take, 1))
            elif self._stream is not None:
                for stream, data in self._stream:
                    take(stream, data)
            kept.close()
            # Where the copy failed, the engine's own log has it all, unless it is too long for that.
            self._live, self._written = kept.failure is None, kept.seen
        except EngineError as error:
            self.error = self.error or error
        finally:
            kept.close()
            relay.close()
            for open_still in (self._stream, self._terminal):  # nobody reads it any more: the engine must not wait
                if open_still is not None:
                    open_still.close()


def _past(what: str, limit: float) -> str:
    return f"past its {what} of {format_duration(round(limit * SECOND))}"


class _Stop(Struct, kw_only=True):
    """Something done to end it; `reached` is false once the engine has said that it did not run any more."""

    by: str
    note: str = ""
    reached: bool = True


# -- The sandboxes of one command

_GO_ON = "they keep running; reap, apply or destroy collects them"
AT_ONCE = 2.0  # seconds that who makes sandboxes keeps the project's lock: what ends by then is collected under it
Making = Callable[[], AbstractContextManager[Callable[[], None]]]


class WaitTimeout(SandboxrunError):
    """Sandboxes still ran when the caller's patience ended; they go on running."""

    exit_code = ExitCode.TIMEOUT


class RunResult(Data):
    """How one sandbox ended. `evidence` is None when it never came to be, or when another job has it: `seen` says how
    it ended then, as far as this one saw it. `named` is false of one that ran only because another depends on it."""

    address: str
    evidence: Captured | None
    note: str = ""
    blocked: bool = False  # not started: what it depends on failed
    named: bool = True
    seen: Ending | None = None
    kept: str = ""  # the name of its container, where that is kept after its end

    @property
    def started(self) -> bool:
        """Whether it was started, as far as is known."""
        return self.ending is not None and self.ending.how is not How.NOT_STARTED

    @property
    def ending(self) -> Ending | None:
        """How it ended, as far as is known."""
        index = self.evidence.index if self.evidence is not None else None
        return self.seen or (index.ending if index is not None else None)

    @property
    def exit_code(self) -> int:
        """The agent's own code; 124 for a timeout, 125 when it did not run or nothing is known of its end."""
        return ExitCode.NOT_RUN if self.ending is None else self.ending.code


def shares(sandboxes: Iterable[DeclaredSandbox]) -> bool:
    """Whether any of the sandboxes needs the project's lock."""
    return any(owned.shares(s.spec) for s in sandboxes)


class Job:
    """The sandboxes that one command is about, by address: those it starts, and those it found."""

    def __init__(
        self, engine: Backend, profile: Profile, store: Store, settings: ApplySettings, events: Events | None = None
    ) -> None:
        self._engine, self._profile, self._store = engine, profile, store
        self._settings, self._events = settings, events
        self.session: Session | None = None
        self._found: dict[str, Made] = {}
        self._started: dict[str, datetime | None] = {}  # of those that were found
        self._collected: dict[str, Captured] = {}  # by run
        self._kept: dict[str, str] = {}  # container → its name now
        self._table = threading.Lock()
        self._within = here()
        self._joined = contextlib.ExitStack()  # leases of others that wait for the same sandboxes, or did
        self.watches: dict[str, Watch] = {}

    def watch_from_start(self, session: Session, how: Callable[[DeclaredSandbox], Watching]) -> None:
        """Have all that the session starts watched."""

        def attach(sandbox: DeclaredSandbox, made: Made) -> None:
            watch = self._watch(sandbox, made, how(sandbox))
            watch.before_start()
            with self._table:
                self.watches[sandbox.address] = watch

        session.before_start = attach
        session.after_start = lambda sandbox, made: self.watches[sandbox.address].begin()
        self.session = session

    def find(self, sandbox: DeclaredSandbox, observed: ObservedSandbox) -> Made:
        """Take in one that was there before."""
        return self._found.setdefault(sandbox.address, Made(id=observed.id, run=observed.run))

    def join(self, sandbox: DeclaredSandbox, observed: ObservedSandbox, now: datetime, *, sample: bool = True) -> None:
        """Take in one that was started before, and watch it."""
        found, state, ran = self.find(sandbox, observed), observed.state, 0.0
        self._started[sandbox.address] = state.started if isinstance(state, Running | Ended) else None
        if isinstance(state, Running):
            ran = max(0.0, (now - state.began).total_seconds())
        if lease := observed.labels.get(labels.LEASE):  # who made it may be gone before it ends, or already
            self._joined.enter_context(self._engine.lease(lease))
        left = (observed.deadline - now).total_seconds() if observed.deadline is not None else None
        expires = monotonic() + left if left is not None else None
        how = Watching(sample=sample, elapsed=ran, expires=expires)
        self.watches[sandbox.address] = watch = self._watch(sandbox, found, how)
        watch.begin()

    @property
    def made(self) -> Mapping[str, Made]:
        """All that was started or found, by address."""
        return {**(self.session.made if self.session is not None else {}), **self._found}

    @property
    def captured(self) -> Mapping[str, Captured]:
        """The evidence that was taken, by run."""
        return {**(self.session.captured if self.session is not None else {}), **self._collected}

    def kept(self, container: str) -> str:
        """The name of a container that was kept after its end; "" of one that was not."""
        return self._kept.get(container, "")

    def _watch(self, sandbox: DeclaredSandbox, made: Made, how: Watching) -> Watch:
        return Watch(self._engine, self._store, sandbox, made, how, self._within)

    def wait(
        self,
        addresses: Collection[str],
        patience: float | None = None,
        stop: threading.Event | None = None,
        late: Callable[[], None] = lambda: None,
    ) -> bool:
        """Until all of these that were started have ended; whether that was at once, else `late` was called meanwhile.
        Raises WaitTimeout after `patience` seconds, or once `stop` is set."""
        began, at_once = monotonic(), True
        watches = [w for w in self.watches.values() if w.begun and w.address in addresses]
        while running := [watch for watch in watches if not watch.ended]:
            names = ", ".join(watch.address for watch in running)
            if stop is not None and stop.is_set():
                raise WaitTimeout(f"stopped while waiting for {names}", help=_GO_ON)
            if patience is not None and monotonic() >= began + patience:
                message = f"after {patience:g} seconds these still run: {names}"
                raise WaitTimeout(message, help="wait longer, or destroy them")
            if at_once and monotonic() >= began + AT_ONCE:
                at_once = False
                late()
            running[0].wait(0.1)  # bounded, so that signal handlers run
        return at_once

    def close(self) -> None:
        """Give back what watching took."""
        for watch in self.watches.values():
            watch.close()
        self._joined.close()

    def collect(
        self,
        sandboxes: Iterable[DeclaredSandbox],
        *,
        own: bool,
        whole: bool,
        making: Making | None = None,
        gone: tuple[ObservedSandbox, ...] = (),
        keep: bool = True,
    ) -> None:
        """Save the evidence of what is there of this job, and remove it, or keep it where its lifetime says so (never
        without `keep`): nothing else. With `whole`, also networks that nothing uses then. Where nothing is shared,
        nothing else is looked at.

        Of one that is the job's `own` nobody else takes the evidence, so that the project's lock is needed for what is
        shared only, and it goes whatever its state. `gone` are those that somebody else removed, as they were: what is
        known of them is kept. Raises ApplyError.
        """
        if not self.made:
            return
        profile, together = self._profile, whole and shares(sandboxes)
        settings = structs.replace(self._settings, stop=threading.Event()) if own else self._settings
        runs, ids = {made.run for made in self.made.values()}, [made.id for made in self.made.values()]
        with self.making(locks=together or not own, making=making) as guard:
            with span("observe", project=profile.project):
                if together:
                    snapshot = self._engine.observe(profile, self._store)
                else:
                    snapshot = self._engine.observe_these(profile, self._store, ids)
            snapshot = structs.replace(snapshot, sandboxes=(*snapshot.sandboxes, *gone))
            mine = [o for o in snapshot.sandboxes if o.run in runs and (own or isinstance(o.state, Ended))]
            leftovers = whole and not own
            watched = {watch.run: watch.result for watch in self.watches.values() if own or watch.ended}
            stopped = {run: result.stopped_by for run, result in watched.items()}
            plan = make_collect_plan(
                profile, snapshot, mine, networks=together, leftovers=leftovers, keep=keep, stopped=stopped
            )
            engine, store, events = self._engine, self._store, self._events
            outcome = carry_out(plan, snapshot, engine, profile, store, settings, guard, watched=watched, events=events)
        outcome.applied.check()
        self._collected |= outcome.session.captured
        self._kept |= {step.container: step.name for step in plan.operations if isinstance(step, KeepSandbox)}

    def making(self, *, locks: bool, making: Making | None = None) -> AbstractContextManager[Callable[[], None]]:
        """The project's lock, where it is needed; `making` replaces it if the caller holds it."""
        if not locks:
            return nullcontext(lambda: None)
        return making() if making is not None else locked(self._engine, self._profile, self._settings)

    def result(self, address: str, *, named: bool = True) -> RunResult:
        """How one that was made or found ended, whoever took its evidence."""
        watch, captured = self.watches.get(address), self.captured.get(self.made[address].run)
        note, seen = watch.result.note if watch is not None else "", None
        if captured is None and watch is not None and watch.begun:
            events = self._events or self._engine.follow(self._profile.project, self._settings.began)
            captured, past = taken_by_others(self._store, events, watch.run, watch.container)
            if captured is None:
                by, started = watch.result.stopped_by, self._started.get(address)
                seen = ending_of(past, watch.exit_code, watch.spec, by, started)
            if captured is None and seen is None and watch.error is not None:
                note = note or str(watch.error)
        kept = self.kept(self.made[address].id)
        return RunResult(address=address, evidence=captured, note=note, named=named, seen=seen, kept=kept)
