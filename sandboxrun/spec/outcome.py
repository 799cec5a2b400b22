"""How a run ended, from what the engine says of it and what we did to it.

Owns the decision; the backend asks the engine for what it is made from. What a caller did counts only where it
reached the main process, and what nobody can know is `unknown`: such a run does not count as done.
"""

from __future__ import annotations

import enum
import signal as signals
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

from sandboxrun.data import Data
from sandboxrun.errors import ExitCode
from sandboxrun.spec.state import Created, Ended, Running, State


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
    """

    started: bool = False
    died: bool = False
    signals: frozenset[int] = frozenset()
    oom: bool = False
    began: datetime | None = None
    outlives: bool = False
    known: bool = True
    silent: bool = False


_LOST = 255  # what an engine gives, at its start, to a container that it had left running and finds ended
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
    if state.held:
        return Ending(how=How.TIMEOUT, exit_code=code, oom_killed=oom, detail=_KILLED_BEFORE if oom else None)
    if state.marked and watched and stopped_by is StoppedBy.TIMEOUT:  # by a clock that nobody sets
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
    if history.started and history.died:
        return None  # one engine, which forgets everything when it stops, saw both
    code, began, started, finished = state.exit_code, history.began, state.started, state.finished
    same = began is not None and started is not None and started >= began
    if not same and not history.outlives and began is not None:
        if history.died or code == _LOST or stopped_by is StoppedBy.ENGINE or (finished and finished >= began):
            return How.ENGINE_LOST, _RESTARTED
        return How.UNKNOWN, "it ended before the engine was restarted, by itself or by the engine's shutdown"
    if stopped_by is StoppedBy.ENGINE and not same and not history.outlives:
        return How.ENGINE_LOST, None
    if code == _LOST and not (watched or history.died or same):
        return How.ENGINE_LOST, "exit code 255 and no observed exit: the engine was lost while it was running"
    if not (history.known or watched or history.died):
        return How.UNKNOWN, "the engine does not report whether it was restarted in the meantime"
    return None


def _how(code: int | None, oom: bool, stopped_by: StoppedBy, watched: bool, history: History) -> tuple[How, str | None]:
    """The end under an engine that was there all the time."""
    memory, signal = _MEMORY if oom else None, _signal_in(code)
    ours = _OURS.get(stopped_by) if stopped_by is not StoppedBy.ENGINE else None
    if ours is not None and (history.signals or history.silent or not history.died):
        return ours, _KILLED_BEFORE if oom else _FOR.get(stopped_by)
    if oom and code == 137 and signals.SIGKILL not in history.signals:
        return How.OOM, None
    if history.signals & (_ENDING | {signal}):
        return How.KILLED, "stopped by somebody else"
    if signal is not None and signal in _ENDING and not (watched or history.died):
        by = signals.Signals(signal).name
        return How.UNKNOWN, f"the exit was not observed, and {by} from outside gives the same exit code"
    return (How.EXITED if code == 0 else How.FAILED), memory


def _signal_in(code: int | None) -> int | None:
    return code - 128 if code is not None and 128 < code <= 128 + _HIGHEST_SIGNAL else None
