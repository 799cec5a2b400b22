from __future__ import annotations

from typing import Any

import pytest

from sandboxrun.evidence.outcome import NEVER, Ending, How, StoppedBy, decide

RAN = {"Status": "exited", "StartedAt": "2026-01-01T00:00:00Z", "ExitCode": 0, "OOMKilled": False, "Error": ""}


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
            Ending(how=How.OOM, exit_code=1, oom_killed=True, detail="a process in it was killed for memory"),
        ),
        (
            {"ExitCode": 0},
            {"events": [{"Action": "oom"}]},
            Ending(how=How.OOM, exit_code=0, oom_killed=True, detail="a process in it was killed for memory"),
        ),
        (
            {"ExitCode": 143},
            {"stopped_by": StoppedBy.TIMEOUT},
            Ending(how=How.TIMEOUT, exit_code=143, signal=15),
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
            {"events": [{"Action": "kill"}, {"Action": "die"}]},
            Ending(how=How.KILLED, exit_code=137, signal=9, detail="stopped by somebody else"),
        ),
        (
            {"ExitCode": 255},
            {},
            Ending(
                how=How.ENGINE_LOST,
                exit_code=255,
                detail="exit code 255 and nobody saw the exit: the engine was lost while it ran",
            ),
        ),
        (
            {"ExitCode": 137},
            {"stopped_by": StoppedBy.ENGINE},
            Ending(how=How.ENGINE_LOST, exit_code=137, signal=9),
        ),
        ({"ExitCode": 255}, {"watched": True}, Ending(how=How.FAILED, exit_code=255)),
        ({"ExitCode": 255}, {"events": [{"Action": "die"}]}, Ending(how=How.FAILED, exit_code=255)),
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
    assert decide({**RAN, **state}, **known) == expected


def test_a_container_that_is_gone() -> None:
    assert decide(None).how is How.ENGINE_LOST
