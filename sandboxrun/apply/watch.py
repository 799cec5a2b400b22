"""Watches one sandbox from its start to its end: output, usage, timeout, signals.

Owns the threads of one watch. It ends a sandbox only for a reason it was given (its lifetime, a caller's word), and
takes no evidence: it says what it saw, and teardown keeps it.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterable
from time import monotonic
from typing import TYPE_CHECKING, BinaryIO

import attrs

from sandboxrun.apply.session import Watched
from sandboxrun.engine.client import Engine
from sandboxrun.engine.errors import EngineError, EngineTimeout, EngineUnreachable
from sandboxrun.model.spec import SandboxSpec
from sandboxrun.model.units import SECOND, format_duration

if TYPE_CHECKING:
    from sandboxrun.engine.streams import LogStream, Terminal
    from sandboxrun.evidence.sampler import Sampler
    from sandboxrun.evidence.store import Store

LOOK = 0.5  # seconds between looks at the clock while nothing happens
NOTICE = 10.0  # seconds until a watch has noticed that its sandbox was stopped
DRAIN = 5.0  # seconds that the rest of the output may take once the sandbox has ended

Output = Callable[[str, int, bytes], None]  # address, stream (1 stdout, 2 stderr), data
Pump = Callable[["Terminal", Callable[[bytes], None]], None]  # moves a terminal's bytes; tells what came out


@attrs.frozen(kw_only=True)
class Watching:
    """What a watch does beside waiting: `output` gets what the sandbox prints (and it is kept in the staging folder),
    `sample` reads usage, `pump` gives it a terminal. `timeout` in seconds goes before the profile's."""

    output: Output | None = None
    sample: bool = True
    pump: Pump | None = None
    timeout: float | None = None
    elapsed: float = 0.0  # how long it runs already


class Watch:
    """One sandbox being watched. `before_start`, then `begin` once it runs, then `wait` for the result."""

    def __init__(
        self, engine: Engine, store: Store, *, address: str, container: str, run: str, spec: SandboxSpec, how: Watching
    ) -> None:
        self.address, self.container, self.run, self.spec = address, container, run, spec
        self.exit_code: int | None = None
        self.error: EngineError | None = None
        self._engine, self._store, self._how = engine, store, how
        self._stops: list[_Stop] = []  # what was done to end it
        self._lost = False  # whether the connection to the engine broke while it ran
        self._last_output = monotonic()
        self._ended = threading.Event()
        self._cleanup = contextlib.ExitStack()
        self._threads: list[threading.Thread] = []
        self._sampler: Sampler | None = None
        self._stream: LogStream | None = None
        self._terminal: Terminal | None = None
        self._live = False
        self._deaf = False  # whether nothing can be known of its output, so that silence means nothing

    @property
    def ended(self) -> bool:
        """Whether it has ended."""
        return self._ended.is_set()

    @property
    def begun(self) -> bool:
        """Whether it was started: of one that could not be, no end will come."""
        return bool(self._threads)

    @property
    def result(self) -> Watched:
        """What teardown needs to know of it."""
        stop = next((stop for stop in reversed(self._stops) if stop.reached), _Stop(by="itself"))
        by = "engine" if self._lost else stop.by
        return Watched(stopped_by=by, live_logs=self._live, note=stop.note, exit_code=self.exit_code)

    def before_start(self) -> None:
        """Attach, so that nothing it prints is lost. Raises EngineError."""
        if self._how.pump is not None:
            self._terminal = self._engine.attach_terminal(self.container)
        elif self._how.output is not None:
            self._stream = self._engine.attach(self.container, tty=self.spec.tty)

    def begin(self) -> None:
        """It runs: read, sample and wait, each in a thread of its own. Raises EngineError, EvidenceError, OSError."""
        try:
            self._begin()
        except BaseException:
            self._ended.set()  # nobody waits for it: whoever waited would wait for ever
            raise

    def _begin(self) -> None:
        if self._how.output is not None:
            self._thread(self._read_output)
        elif self.spec.lifetime.idle is not None:
            self._thread(self._listen)
        if self._how.sample:
            self._start_sampler()
        self._thread(self._until_end)

    def wait(self, timeout: float | None = None) -> bool:
        """Wait at most `timeout` seconds; whether it has ended."""
        return self._ended.wait(timeout)

    def send(self, signal: str) -> None:
        """Forward a signal to its command: if it ends then, it was killed, whatever its code."""
        self._stops.append(stop := _Stop(by="killed"))
        try:
            self._engine.kill_container(self.container, signal)
        except EngineError as error:
            stop.reached = error.status not in (404, 409)  # it had ended; of any other failure nobody knows

    def end(self, stopped_by: str, note: str = "", *, grace: int | None = None) -> None:
        """End it now, within its grace period."""
        if self.ended:
            return
        self._stops.append(stop := _Stop(by=stopped_by, note=note))
        seconds = -(-self.spec.stop_grace_period // 10**9) if grace is None else grace
        with contextlib.suppress(EngineError):
            stop.reached = self._engine.stop_container(self.container, timeout=seconds)

    def close(self) -> None:
        """Wait for the output's rest, and give everything back."""
        if self._sampler is not None:
            self._sampler.stop()
        for thread in self._threads if self.ended else ():  # of one that runs on there is no end to wait for
            thread.join(DRAIN)
        for stream in (self._stream, self._terminal):
            if stream is not None:
                stream.close()
        self._cleanup.close()

    # -- threads ----------------------------------------------------------------------------------------------

    def _thread(self, target: Callable[[], None]) -> None:
        thread = threading.Thread(target=target, name=f"{target.__name__} {self.address}", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _start_sampler(self) -> None:
        from sandboxrun.evidence.sampler import USAGE, Sampler

        staging = self._cleanup.enter_context(self._store.staging(self.run, engine=self._engine.identity))
        file = self._cleanup.enter_context(contextlib.closing(staging.append(USAGE)))
        self._sampler = Sampler(self._engine, self.container, file, every=self.spec.evidence.usage_every / 1e9)
        self._sampler.start()

    def _until_end(self) -> None:
        began = monotonic() - self._how.elapsed
        try:
            while self.exit_code is None:
                try:
                    self.exit_code = self._engine.wait_container(self.container, timeout=self._patience(began))
                except EngineTimeout:
                    self._enforce(began)
        except EngineUnreachable as error:
            # Its containers may have ended with it: whatever code they show later is not their own.
            self.error, self._lost = error, True
        except EngineError as error:
            self.error = error
        finally:
            self._ended.set()

    def _limit(self) -> float | None:
        lifetime = self.spec.lifetime.timeout
        return self._how.timeout if self._how.timeout is not None else None if lifetime is None else lifetime / 1e9

    def _patience(self, began: float) -> float:
        """How long to wait before looking at the clock again."""
        limit = self._limit()
        left = LOOK if limit is None else began + limit - monotonic()
        return min(LOOK if self.spec.lifetime.idle is not None else 3600.0, max(left, 0.01) if limit else 3600.0)

    def _enforce(self, began: float) -> None:
        limit, idle = self._limit(), self.spec.lifetime.idle
        if limit is not None and monotonic() >= began + limit:
            self.end("timeout", f"past its timeout of {format_duration(round(limit * SECOND))}")
        elif idle is not None and not self._deaf and monotonic() >= self._last_output + idle / 1e9:
            self.end("timeout", f"no output for {format_duration(idle)}")

    def _listen(self) -> None:
        """Notice output, for its idle time; the engine's own log keeps it."""
        try:
            self._stream = self._engine.attach(self.container, tty=self.spec.tty)
            for _ in self._stream:
                self._last_output = monotonic()
        except EngineError:
            self._deaf = True

    def _read_output(self) -> None:
        with contextlib.ExitStack() as files:
            staging = files.enter_context(self._store.staging(self.run, engine=self._engine.identity))
            from sandboxrun.evidence.staged import STDERR, STDOUT

            limit = self.spec.evidence.logs_limit
            logs = {
                stream: _Log(files.enter_context(contextlib.closing(staging.append(name))), limit)
                for stream, name in ((1, STDOUT), (2, STDERR))
            }
            self._live = True
            try:
                self._pump_or_read(logs)
            except EngineError as error:
                # What came is kept; the engine's own log has the rest, so evidence is read from there.
                self._live = False
                self.error = self.error or error

    def _pump_or_read(self, logs: dict[int, _Log]) -> None:
        if self._terminal is not None and self._how.pump is not None:
            self._how.pump(self._terminal, lambda data: self._take(1, data, logs))
            return
        output: Iterable[tuple[int, bytes]] = self._stream if self._stream is not None else ()
        for stream, data in output:
            self._take(stream, data, logs)

    def _take(self, stream: int, data: bytes, logs: dict[int, _Log]) -> None:
        self._last_output = monotonic()
        logs[stream].write(data)
        if self._how.output is not None:
            self._how.output(self.address, stream, data)


@attrs.define(kw_only=True)
class _Stop:
    """Something done to end it; `reached` is false once the engine has said that it did not run any more."""

    by: str
    note: str = ""
    reached: bool = True


class _Log:
    """A staged log: one byte more than its limit at most, which tells the capture that it was cut."""

    def __init__(self, file: BinaryIO, limit: int) -> None:
        self._file, self._left = file, limit + 1

    def write(self, data: bytes) -> None:
        kept = data[: self._left]
        self._left -= len(kept)
        if kept:
            self._file.write(kept)
