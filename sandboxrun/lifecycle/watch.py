"""Watches one sandbox from its start to its end: output, usage, timeout, signals.

Owns the threads of a watch, and how output is kept and handed on. A watch ends a sandbox only for a reason it was
given, and takes no evidence: it says what it saw, and asks an engine early for what evidence needs.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
from collections import deque
from collections.abc import Callable, Iterator
from datetime import timedelta
from functools import partial
from itertools import groupby, islice
from time import monotonic, sleep
from typing import TYPE_CHECKING, BinaryIO

from msgspec import Struct, structs

from sandboxrun.backend.base import Backend, Changes, Events, News, Output, Terminal
from sandboxrun.backend.errors import EngineError, EngineTimeout, EngineUnreachable
from sandboxrun.backend.session import Alive, Made
from sandboxrun.data import Data
from sandboxrun.errors import BUG, ApplyError, Diagnostic, ExitCode, printable
from sandboxrun.evidence.errors import EvidenceError, reason_of
from sandboxrun.evidence.store import STDERR, STDOUT, USAGE, Watched
from sandboxrun.spec.project import DeclaredSandbox
from sandboxrun.spec.state import (
    PAST_TTL,
    SLACK,
    Document,
    Ended,
    History,
    Running,
    Sample,
    left_alone,
    parse_time,
    reached,
)
from sandboxrun.spec.types import SECOND, format_duration
from sandboxrun.threads import Aside, begin
from sandboxrun.tracing import Opened, open_span

if TYPE_CHECKING:
    from contextvars import Context
    from datetime import datetime

    from sandboxrun.evidence.store import Store


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


# -- A copy of a sandbox's output in its run's staging folder, as it comes


class KeptOutput:
    """Up to one byte more than `limit` of each stream, which tells the capture that it was cut."""

    def __init__(self, store: Store, run: str, engine: str, limit: int) -> None:
        self.failure: str | None = None
        self.seen = {1: 0, 2: 0}  # bytes of each stream, kept or not
        self._most = limit + 1
        self._files: dict[int, BinaryIO] = {}
        self._closing = contextlib.ExitStack()
        try:
            staging = self._closing.enter_context(store.staging(run, engine=engine))
            for stream, name in ((1, STDOUT), (2, STDERR)):
                self._files[stream] = self._closing.enter_context(contextlib.closing(staging.append(name)))
        except (OSError, EvidenceError) as error:
            self._fail(error)

    def write(self, stream: int, data: bytes) -> None:
        left = memoryview(data)[: max(0, self._most - self.seen[stream])]
        self.seen[stream] += len(data)
        try:
            while left and self.failure is None:
                left = left[self._files[stream].write(left) :]
        except OSError as error:
            self._fail(error)

    def close(self) -> None:
        try:
            self._closing.close()
        except OSError as error:
            self._fail(error)

    def _fail(self, error: BaseException) -> None:
        """Half a copy is of no use, and others need the room."""
        self.failure = self.failure or reason_of(error)
        for file in self._files.values():
            with contextlib.suppress(OSError, ValueError):
                file.truncate(0)


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
        self._stop, self._turn = threading.Event(), threading.Lock()
        self.failure: str | None = None
        self.failed_at = 0.0  # by `time.monotonic`
        begin(self._work, name=f"usage of {container[:12]}", failed=self._note)

    def stop(self, *, wait: float = 5.0) -> None:
        """End, waiting at most `wait` seconds for a sample to be written down. One that is being taken is not waited
        for: some engines take a second over it. May be called again."""
        self._stop.set()
        if self._turn.acquire(timeout=wait):
            self._turn.release()

    def _work(self) -> None:
        while not self._stop.is_set() and self._sample():
            self._stop.wait(self._every)

    def _sample(self) -> bool:
        """One sample; False when the container does not run (any more)."""
        sample = self._engine.usage(self._container)
        with self._turn:
            if sample is None or self._stop.is_set():
                return False
            self._seen(sample)
            if self._file is not None:
                self._file.write(json.dumps(sample.to_json(), separators=(",", ":")).encode() + b"\n")
                self._file.flush()
        return True

    def _note(self, error: BaseException) -> None:
        if isinstance(error, EngineError | OSError):
            self.failure, self.failed_at = reason_of(error), monotonic()
        else:
            self._failed(error)


# -- The watch

AT_ONCE = 2.0  # seconds that who makes sandboxes keeps the project's lock: what ends by then is collected under it
SHORTEST = 0.1  # seconds between samples; each is an engine call
LOOK = 0.5  # seconds between looks at the clock while nothing happens
NOTICE = 10.0  # seconds until a watch has noticed that its sandbox was stopped
_ROUNDED = timedelta(seconds=2)  # by which an engine's clock, asked for, may be ahead of the times that it notes
LAST_GONE = 256  # containers that were removed, by somebody else maybe, before anybody asked how they ended
TOLD = 1.0  # seconds after an end until the engine has told of it, at most
_LAST = 1.0  # seconds between the last output of a command and its end, at most: else it goes on without, or unheard
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
    held: bool = False  # whether its own PID 1 ends it at its timeout
    expires: float | None = None  # when its ttl is over (time.monotonic), where it was made before
    owned: bool = False  # whether who made it lives, and ends it at its ttl
    ended: Callable[[int | None], None] = lambda code: None  # is told its exit code once it has ended; must not raise
    events: Events | None = None  # that tell of its end, where they are followed since before its start
    look_back: bool = False  # ask for what evidence needs as soon as it has ended: it is taken at once, by nobody else


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
        self._beyond = left_alone(self.spec, held=how.owned)  # seconds that its ttl is left to others
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
        self._read = self._cut = False  # its output: all that came, or what came in time
        self._written: dict[int, int] | None = None
        self._missing: list[tuple[str, str]] = []
        self.left: Document | None = None  # the engine's answer about it since it ended
        self.changes: Aside[Changes] | None = None

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
            live_logs=self._live and not self._cut,
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
        try:
            stop.reached = self._engine.stop(self.container, timeout=seconds)
        except EngineError as error:
            stop.unanswered = isinstance(error, EngineTimeout)

    def close(self) -> None:
        """Wait for the rest of what the engine has of its output, and give everything back. The consumer of the output
        may still be behind: see `relay`."""
        if self._sampler is not None:
            self._sampler.stop()
            if self._sampler.failure is not None and self._sampler.failed_at < self._ended_at - LOOK:
                self._missing.append(("usage", f"sampling ended early: {self._sampler.failure}"))
        for thread in self._threads if self.ended else ():  # of one that runs on there is no end to wait for
            thread.join(DRAIN)
        if self.ended and self.relay is not None and not self._read:
            # The connection carries nothing and does not end, as when a network went away: the engine's log has all.
            self._cut = True
            self._missing.append(("logs", "the engine did not end the output; what came after is as it kept it"))
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

        if not self._engine.counts_usage:
            self._missing.append(("usage", "the engine has no control groups, which count it"))
            return
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
            if self._how.look_back:
                self._look_back()
            self._ended.set()
            if self.relay is not None:
                self.relay.ending(over=True)

    def _look_back(self) -> None:
        """What it changed takes an engine longest, which says nothing else about it meanwhile: the answer about it is
        asked for before the thread for that gets its turn."""
        if self.exit_code is None or self.spec.restart != "no":
            return
        if self.spec.evidence.filesystem_changes:
            ask = partial(self._engine.changes, self.container)
            self.changes = Aside(ask, name=f"changes of {self.address}")
        with contextlib.suppress(EngineError):  # who takes its evidence asks again, and tells of it
            self.left = self._engine.document(self.container)

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
                except EngineUnreachable:  # this connection broke, which is no end of a sandbox that runs on
                    sleep(LOOK)
                    if not isinstance(self._engine.state(self.container), Running):
                        raise
            if self.result.stopped_by == "itself":
                self._stops += [*self._foregone()]
        except EngineError as error:
            # Containers of one that is away may have ended with it: what code they show later is not their own.
            self.error, self._lost = error, isinstance(error, EngineUnreachable)

    def _enforce(self) -> None:
        idle, over = self.spec.lifetime.idle, next((stop for left, stop in self._deadlines() if left <= 0), None)
        joined = over is not None and over.by == "expired" and self._how.expires is not None
        if joined and not self._beyond and self._engine.is_ending(self.container, left_alone(self.spec, held=True)):
            # a reaper, or another that waits, was first
            self._beyond = monotonic() - (self._expires or 0.0) + left_alone(self.spec, held=True)
        elif over is not None:
            self.end(over.by, over.note)
        elif idle is not None and self._idleness.lasts(idle / 1e9):
            self.end("idle", f"no output and no CPU use for {format_duration(idle)}")
        if self._stops and self._stops[-1].unanswered:
            self._engine.state(self.container)  # an engine that answers nothing at all is not waited for

    def _deadlines(self) -> Iterator[tuple[float, _Stop]]:
        """In how many seconds it is to be ended at the latest, and for what."""
        if self._limit is not None:
            left = self._limit + left_alone(self.spec, held=self._how.held) - self._ran()
            yield left, _Stop(by="timeout", note=_past("timeout", self._limit))
        if self._expires is not None:
            left, ttl = self._expires - monotonic() + self._beyond, self.spec.lifetime.ttl
            yield left, _Stop(by="expired", note=PAST_TTL if ttl is None else _past("ttl", ttl / SECOND))

    def _foregone(self) -> Iterator[_Stop]:
        """What others ended it for just before this watch would have: its own PID 1, or a reaper."""
        code, ran = self.exit_code, self._ran()
        held = code == ExitCode.TIMEOUT and self._limit is not None and reached(ran, self._limit)
        yield from (stop for _, stop in self._deadlines() if stop.by == "timeout" and held)
        if code in _STOPPED:
            yield from (
                stop for left, stop in self._deadlines() if stop.by == "expired" and left - self._beyond <= SLACK
            )

    def _listen(self) -> None:
        """Notice output, for its idle time; the engine's own log keeps it."""
        try:
            with self._engine.attach(self.container, tty=self.spec.tty) as self._stream:
                for _ in self._stream:
                    self._idleness.wrote()
            if self._ended.wait(_LAST):
                return
            # as in `_read_on`: what it goes on to write is in the engine's log
            with self._engine.logs(self.container, follow=True, tty=self.spec.tty, tail=0) as self._stream:
                for _ in self._stream:
                    self._idleness.wrote()
        except EngineError:
            self._idleness.deaf = True

    def _read_on(self, kept: KeptOutput, take: Callable[[int, bytes], None]) -> bool:
        """The output came to its end. Where the sandbox runs on, either its command has closed it, or the connection
        broke, as with a proxy in between: the engine's log has what is missing in `kept`. Whether there was more.
        Raises EngineError where the engine is away."""
        more = False
        while not self._ended.wait(_LAST) and isinstance(self._engine.state(self.container), Running):
            if self._stream is not None:
                self._stream.close()
            seen, before = dict(kept.seen), sum(kept.seen.values())
            try:
                with self._engine.logs(self.container, follow=True, tty=self.spec.tty) as self._stream:
                    for stream, data in self._stream:
                        left = data[seen[stream] :]
                        seen[stream] -= len(data) - len(left)
                        if left:
                            take(stream, left)
                if sum(kept.seen.values()) == before:
                    break
                more = True
            except (EngineUnreachable, EngineTimeout):
                more = True
            except EngineError:
                self._idleness.deaf = True  # there is no log, or none that can be read: what came is all there is
                break
        return more

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
            whole = not self._read_on(kept, take)
            kept.close()
            # Where the copy failed, the engine's own log has it all, unless it is too long for that.
            self._live, self._written = whole and kept.failure is None, kept.seen
        except EngineError as error:
            self.error, self._idleness.deaf = self.error or error, True
        finally:
            self._read = True
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
    unanswered: bool = False  # the engine gave no answer in time


# -- How the sandboxes of a process that lives long ended


class Heard:
    """What an engine tells of the ends of a project's sandboxes, followed from the first that is started; it forgets
    soon. Of those that are gone only the last are known. Usable from several threads."""

    def __init__(self, project: str) -> None:
        self._project = project
        self._know_nothing()

    def _know_nothing(self) -> None:
        self._process, self._changed = os.getpid(), threading.Condition()
        self._engine: Backend | None = None
        self._news: News | None = None
        self._since: datetime | None = None
        self._found: dict[str, History | None] = {}  # container → None until its end is told
        self._gone: deque[str] = deque()

    def follow(self, engine: Backend) -> None:
        """From now on, and again where the engine was away. Of what it does not tell it is asked afterwards."""
        if self._process != os.getpid():  # forked: the thread that listened is the parent's
            self._know_nothing()
        with self._changed:
            if self._news is not None:
                return
            with contextlib.suppress(EngineError):
                self._engine, self._since = engine, engine.clock() - _ROUNDED
                self._news = news = engine.news(self._project)
                begin(partial(self._take, news), name="engine events", failed=lambda error: self._end(news))

    def history(self, id: str, ended: Ended) -> History | None:
        """See `Endings`."""
        with self._changed:
            since, engine = self._since, self._engine
            if engine is None or since is None or (ended.started is not None and ended.started < since):
                return None
            self._changed.wait_for(lambda: self._news is None or self._found.get(id) is not None, TOLD)
            found = self._found.get(id)
        if found is not None and not found.explains(ended.exit_code):
            with contextlib.suppress(EngineError):  # that it died of memory may be told after its end
                asked = engine.histories({id: ended}).get(id, found)
                found = structs.replace(found, oom=found.oom or asked.oom)
        return found

    def close(self) -> None:
        """Follow it no more."""
        if (news := self._news) is not None:
            self._end(news)
            news.close()

    def _take(self, news: News) -> None:
        for one in news:
            with self._changed:
                if one.action == "destroy":
                    self._gone.append(one.id)
                    while len(self._gone) > LAST_GONE:
                        self._found.pop(self._gone.popleft(), None)
                else:
                    self._found[one.id] = one.history
                self._changed.notify_all()
        self._end(news)

    def _end(self, news: News) -> None:
        with self._changed:
            if self._news is news:
                self._news, self._since = None, None
                self._found.clear()
                self._gone.clear()
                self._changed.notify_all()
