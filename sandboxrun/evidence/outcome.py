"""How a run ended, from what the engine says of it and what we did to it.

Owns the decision. Pure: must not ask the engine anything.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from typing import Any

import attrs


class How(enum.StrEnum):
    """The ways a run can end."""

    EXITED = "exited"  # by itself, with 0
    FAILED = "failed"  # by itself, with another code or by a signal of its own
    OOM = "oom"  # the kernel killed it, or a process in it, for exceeding the memory limit
    TIMEOUT = "timeout"  # we stopped it: its time was over
    KILLED = "killed"  # we or somebody else stopped it
    ENGINE_LOST = "engine_lost"  # the engine went away while it ran
    NOT_STARTED = "not_started"  # the engine could not start it, or nobody did


class StoppedBy(enum.StrEnum):
    """Who stopped it, as far as the caller knows."""

    ITSELF = "itself"
    TIMEOUT = "timeout"
    KILLED = "killed"
    ENGINE = "engine"  # the connection to the engine broke while it ran
    RUN_ENDED = "run_ended"  # it ran for others, which have ended


RUN_ENDED = "the run ended"  # the detail of what a run stopped because nothing needed it any more


@attrs.frozen(kw_only=True)
class Ending:
    """How it ended. `exit_code` is None where there is none; `signal` is the number in a code above 128."""

    how: How
    exit_code: int | None = None
    signal: int | None = None
    oom_killed: bool = False
    detail: str | None = None


NEVER = "0001-01-01T00:00:00Z"  # the engine's zero time
_LOST = 255  # what an engine gives, at its start, to a container that it had left running and finds ended
_HIGHEST_SIGNAL = 64


def decide(
    state: Mapping[str, Any] | None,
    *,
    stopped_by: StoppedBy = StoppedBy.ITSELF,
    watched: bool = False,
    events: Sequence[Mapping[str, Any]] = (),
) -> Ending:
    """How a run ended.

    `state` is `State` of the engine's inspect answer, None when the container is gone. `watched` is true when
    somebody was connected to the engine at the moment of the exit (a `wait` that answered, a `die` event):
    only then can the exit code 255 be the program's own, because an engine that was killed gives that code to
    what ended meanwhile. What still runs at its next start it stops in an orderly way (20.10), with any code:
    that only somebody who was connected can tell (`StoppedBy.ENGINE`). `events` are the engine's for this container.
    """
    if state is None:
        return Ending(how=How.ENGINE_LOST, detail="the container is not on the engine any more")
    actions = frozenset(str(event.get("Action", "")) for event in events)
    oom = bool(state.get("OOMKilled")) or "oom" in actions
    error = str(state.get("Error") or "") or None
    if _never_started(state):
        return Ending(how=How.NOT_STARTED, exit_code=_code(state) or None, detail=error)
    if state.get("Running") or state.get("Status") in ("running", "paused", "restarting"):
        return Ending(
            how=_stopped(stopped_by) or How.KILLED, oom_killed=oom, detail="was still running when evidence was taken"
        )
    code = _code(state)
    signal = code - 128 if code is not None and 128 < code <= 128 + _HIGHEST_SIGNAL else None
    how, detail = _how(code, oom, stopped_by, watched or "die" in actions, "kill" in actions)
    return Ending(how=how, exit_code=code, signal=signal, oom_killed=oom, detail=error or detail)


def _how(code: int | None, oom: bool, stopped_by: StoppedBy, watched: bool, killed: bool) -> tuple[How, str | None]:
    if ours := _stopped(stopped_by):
        why = RUN_ENDED if stopped_by is StoppedBy.RUN_ENDED else None
        return ours, "a process in it had been killed for memory" if oom else why
    if oom:
        return How.OOM, None if code == 137 else "a process in it was killed for memory"
    if code == _LOST and not watched:
        return How.ENGINE_LOST, "exit code 255 and nobody saw the exit: the engine was lost while it ran"
    if killed and code != 0:
        return How.KILLED, "stopped by somebody else"
    return (How.EXITED if code == 0 else How.FAILED), None


def _stopped(stopped_by: StoppedBy) -> How | None:
    return {
        StoppedBy.TIMEOUT: How.TIMEOUT,
        StoppedBy.KILLED: How.KILLED,
        StoppedBy.RUN_ENDED: How.KILLED,
        StoppedBy.ENGINE: How.ENGINE_LOST,
    }.get(stopped_by)


def _never_started(state: Mapping[str, Any]) -> bool:
    return state.get("Status") == "created" or state.get("StartedAt") in (NEVER, "", None)


def _code(state: Mapping[str, Any]) -> int | None:
    code = state.get("ExitCode")
    return code if isinstance(code, int) else None
