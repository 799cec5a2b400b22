from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from sandboxrun.backend.docker.codec import NEVER, read_state
from sandboxrun.backend.docker.history import history_of
from sandboxrun.spec.state import PAST_TTL, WAS_IDLE, Ended, Ending, History, How, StoppedBy, decide

RAN = {"Status": "exited", "StartedAt": "2026-01-01T00:00:00Z", "ExitCode": 0, "OOMKilled": False, "Error": ""}
START, DIE = {"Action": "start"}, {"Action": "die"}


def sent(signal: str) -> dict[str, Any]:
    return {"Action": "kill", "Actor": {"Attributes": {"signal": signal}}}


KILL = sent("9")


@pytest.mark.parametrize(
    ("state", "known", "expected"),
    [
        ({}, {}, Ending(how=How.EXITED, exit_code=0)),
        ({"ExitCode": 3}, {}, Ending(how=How.FAILED, exit_code=3)),
        ({"ExitCode": 139}, {}, Ending(how=How.FAILED, exit_code=139, signal=11)),
        ({"ExitCode": 137, "OOMKilled": True}, {}, Ending(how=How.OOM, exit_code=137, signal=9, oom_killed=True)),
        (
            {"ExitCode": 1, "OOMKilled": True},
            {},
            Ending(how=How.FAILED, exit_code=1, oom_killed=True, detail="a process in it was killed for memory"),
        ),
        (
            {"ExitCode": 0},
            {"history": history_of([{"Action": "oom"}])},
            Ending(how=How.EXITED, exit_code=0, oom_killed=True, detail="a process in it was killed for memory"),
        ),
        (
            {"ExitCode": 143},
            {"stopped_by": StoppedBy.TIMEOUT},
            Ending(how=How.TIMEOUT, exit_code=143, signal=15),
        ),
        (
            {"ExitCode": 143},
            {"stopped_by": StoppedBy.EXPIRED},
            Ending(how=How.TIMEOUT, exit_code=143, signal=15, detail=PAST_TTL),
        ),
        (
            {"ExitCode": 143},
            {"stopped_by": StoppedBy.IDLE},
            Ending(how=How.TIMEOUT, exit_code=143, signal=15, detail=WAS_IDLE),
        ),
        (
            {"ExitCode": 137, "OOMKilled": True},
            {"stopped_by": StoppedBy.TIMEOUT},
            Ending(
                how=How.TIMEOUT,
                exit_code=137,
                signal=9,
                oom_killed=True,
                detail="a process in it had been killed for memory",
            ),
        ),
        ({"ExitCode": 0}, {"stopped_by": StoppedBy.KILLED}, Ending(how=How.KILLED, exit_code=0)),
        (
            {"ExitCode": 143},
            {"stopped_by": StoppedBy.RUN_ENDED},
            Ending(how=How.KILLED, exit_code=143, signal=15, detail="the run ended"),
        ),
        (
            {"ExitCode": 137},
            {"history": history_of([KILL, DIE])},
            Ending(how=How.KILLED, exit_code=137, signal=9, detail="stopped by somebody else"),
        ),
        (
            {"ExitCode": 255},
            {},
            Ending(
                how=How.ENGINE_LOST,
                exit_code=255,
                detail="exit code 255 and no observed exit: the engine was lost while it was running",
            ),
        ),
        (
            {"ExitCode": 137},
            {"stopped_by": StoppedBy.ENGINE},
            Ending(how=How.ENGINE_LOST, exit_code=137, signal=9),
        ),
        ({"ExitCode": 255}, {"watched": True}, Ending(how=How.FAILED, exit_code=255)),
        ({"ExitCode": 255}, {"history": history_of([DIE])}, Ending(how=How.FAILED, exit_code=255)),
        (
            {"Status": "created", "StartedAt": NEVER, "ExitCode": 127, "Error": "no such program"},
            {},
            Ending(how=How.NOT_STARTED, exit_code=127, detail="no such program"),
        ),
        ({"Status": "created", "StartedAt": NEVER}, {}, Ending(how=How.NOT_STARTED)),
        ({"Status": "exited", "StartedAt": NEVER, "ExitCode": 128}, {}, Ending(how=How.NOT_STARTED, exit_code=128)),
        ({"Status": "dead", "ExitCode": 0}, {}, Ending(how=How.EXITED, exit_code=0)),
        (
            {"Status": "running", "Running": True},
            {},
            Ending(how=How.KILLED, detail="was still running when evidence was taken"),
        ),
    ],
)
def test_how_it_ended(state: dict[str, Any], known: dict[str, Any], expected: Ending) -> None:
    assert decide(read_state({**RAN, **state}), **known) == expected


def test_a_container_that_is_gone() -> None:
    assert decide(None).how is How.ENGINE_LOST


BEGAN = datetime(2026, 1, 1, tzinfo=UTC)  # when RAN was started
LATER = BEGAN + timedelta(seconds=10)
ENDED = {"FinishedAt": "2026-01-01T00:00:05Z"}
ENDED_LATER = {"FinishedAt": "2026-01-01T00:00:15Z"}
KILLED, TIMEOUT, ENGINE = StoppedBy.KILLED, StoppedBy.TIMEOUT, StoppedBy.ENGINE


@pytest.mark.parametrize(
    ("code", "events", "about", "stopped_by", "how"),
    [
        # a stop that found it ended already
        (0, [START, DIE], {}, KILLED, How.EXITED),
        (143, [START, DIE], {}, TIMEOUT, How.FAILED),
        (137, [DIE], {}, StoppedBy.ITSELF, How.FAILED),
        (0, [START, sent("15"), DIE], {}, KILLED, How.KILLED),
        (0, [START, sent("15"), DIE], {}, TIMEOUT, How.TIMEOUT),
        # the engine has forgotten: the stop found it running
        (137, [], {"began": BEGAN}, TIMEOUT, How.TIMEOUT),
        (143, [DIE], {"began": BEGAN}, KILLED, How.KILLED),
        # signals from others
        (0, [START, sent("15"), DIE], {}, StoppedBy.ITSELF, How.KILLED),
        (0, [START, sent("10"), DIE], {}, StoppedBy.ITSELF, How.EXITED),
        (138, [START, sent("10"), DIE], {}, StoppedBy.ITSELF, How.KILLED),
        (3, [START, DIE, sent("15")], {}, StoppedBy.ITSELF, How.FAILED),
        (0, [START, sent("15"), DIE, START, DIE], {}, StoppedBy.ITSELF, How.EXITED),  # started again by hand
        (7, [START, sent("nonsense"), {"Action": "kill"}, {"Action": "kill", "Actor": 3}, DIE], {}, KILLED, How.FAILED),
        (0, [START, {"Action": "stop"}, {"Action": "died"}], {"silent": True}, StoppedBy.ITSELF, How.KILLED),
        (143, [START, {"Action": "died"}], {"silent": True, "outlives": True}, KILLED, How.KILLED),
        # an engine that was restarted
        (0, [sent("15"), DIE], {"began": LATER}, StoppedBy.ITSELF, How.ENGINE_LOST),
        (143, [], {"began": LATER}, StoppedBy.ITSELF, How.UNKNOWN),
        (0, [], {"began": LATER}, StoppedBy.ITSELF, How.UNKNOWN),
        (0, [], {"began": LATER}, ENGINE, How.ENGINE_LOST),
        (255, [], {"began": LATER}, StoppedBy.ITSELF, How.ENGINE_LOST),
        (0, [], {"began": LATER, "outlives": True}, StoppedBy.ITSELF, How.EXITED),
        (255, [], {"began": LATER, "outlives": True}, StoppedBy.ITSELF, How.ENGINE_LOST),
        (255, [DIE], {"began": LATER, "outlives": True}, StoppedBy.ITSELF, How.ENGINE_LOST),  # as newer engines tell it
        (255, [DIE], {"outlives": True}, StoppedBy.ITSELF, How.ENGINE_LOST),
        (0, [], {"known": False}, StoppedBy.ITSELF, How.UNKNOWN),
        (0, [START, DIE], {"known": False}, ENGINE, How.EXITED),
        # one that was there all the time
        (0, [], {"began": BEGAN}, ENGINE, How.EXITED),
        (255, [], {"began": BEGAN}, StoppedBy.ITSELF, How.FAILED),
        (3, [], {"began": BEGAN}, StoppedBy.ITSELF, How.FAILED),
        (143, [], {"began": BEGAN}, StoppedBy.ITSELF, How.UNKNOWN),  # the end is forgotten, and whoever sent what
        (137, [], {"began": BEGAN}, StoppedBy.ITSELF, How.UNKNOWN),
        (137, [START, DIE], {"began": BEGAN}, StoppedBy.ITSELF, How.FAILED),
    ],
)
def test_how_it_ended_by_what_the_engine_remembers(
    code: int, events: list[dict[str, Any]], about: dict[str, Any], stopped_by: StoppedBy, how: How
) -> None:
    state = {**RAN, **ENDED, "ExitCode": code}
    ending = decide(read_state(state), stopped_by=stopped_by, history=history_of(events, **about))
    assert (ending.how, ending.exit_code) == (how, code)


def test_a_code_that_an_engine_gives_at_its_start_may_be_a_programs_own_later() -> None:
    state = {**RAN, "FinishedAt": "2026-01-01T00:05:00Z", "ExitCode": 255}
    ending = decide(read_state(state), history=history_of([DIE], began=LATER, outlives=True))
    assert (ending.how, ending.exit_code) == (How.FAILED, 255)


def test_an_end_after_the_engines_start_is_the_engines() -> None:
    ending = decide(read_state({**RAN, **ENDED_LATER}), history=History(began=LATER))
    assert (ending.how, ending.detail) == (How.ENGINE_LOST, "the engine was restarted while it ran")


@pytest.mark.parametrize("sent_to_it", [[], [sent("9")]])
def test_memory_and_a_kill_side_by_side(sent_to_it: list[dict[str, Any]]) -> None:
    """Of two kills the one that the engine was asked for counts, and the other one stands beside it."""
    state = {**RAN, "ExitCode": 137, "OOMKilled": True}
    ending = decide(read_state(state), stopped_by=StoppedBy.KILLED, history=history_of([START, *sent_to_it, DIE]))
    assert (ending.how, ending.oom_killed) == (How.KILLED if sent_to_it else How.OOM, True)


HOUR = 3600.0


def ended(minutes: float, *, set_ahead: float = 0.0, code: int = 124) -> Ended:
    """One whose PID 1 ends it after an hour, and that seems to have run for so long."""
    start = datetime(2026, 1, 1, tzinfo=UTC)
    finish = start + timedelta(minutes=minutes)
    return Ended(exit_code=code, oom=False, started=start, finished=finish, limit=HOUR, set_ahead=set_ahead)


@pytest.mark.parametrize(
    ("state", "how"),
    [
        (ended(60), How.TIMEOUT),
        (ended(60, set_ahead=0.5), How.TIMEOUT),  # a clock that is being adjusted
        (ended(30), How.FAILED),  # anybody can exit with 124
        (ended(30, set_ahead=0.5), How.FAILED),
        (ended(30, set_ahead=-1800), How.UNKNOWN),  # set back by half an hour: meanwhile, or afterwards
        (ended(30, set_ahead=-600), How.FAILED),  # by too little
        (ended(-0.05), How.FAILED),  # a busy engine notes a start late
        (ended(-30), How.UNKNOWN),  # set back, though nobody else has seen it
        (ended(-30, set_ahead=-5400), How.TIMEOUT),  # it can only have been set meanwhile
        (ended(-30, set_ahead=-3600), How.FAILED),
        (ended(90, set_ahead=3600), How.UNKNOWN),  # set ahead: it may have ended by itself after half an hour
        (ended(90, set_ahead=1800), How.TIMEOUT),
        (ended(30, set_ahead=-1800, code=3), How.FAILED),
    ],
)
def test_a_clock_that_was_set_hides_no_timeout_and_makes_none(state: Ended, how: How) -> None:
    seen = History(started=True, died=True)
    ending = decide(state, history=seen)
    assert (ending.how, ending.exit_code) == (how, state.exit_code)
    assert (how is How.UNKNOWN) == ("the clock was set" in (ending.detail or ""))
    watched = decide(state, stopped_by=StoppedBy.TIMEOUT, watched=True, history=seen)
    assert watched.how is (How.TIMEOUT if state.exit_code == 124 else How.FAILED)
