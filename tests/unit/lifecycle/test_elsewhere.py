"""What of another job's runs is certain enough to count, by the engine's events."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

import pytest

from sandboxrun.backend.completed import completed_elsewhere, ending_of
from sandboxrun.backend.docker.history import ProjectEvents
from sandboxrun.spec import labels
from sandboxrun.spec.project import DeclaredSandbox
from sandboxrun.spec.records import Lifetime
from sandboxrun.spec.state import How
from sandboxrun.spec.types import SECOND
from tests.unit.plan.world import declared

AGENT = declared("agent", lifetime=Lifetime(timeout=10 * SECOND))
SPEC = AGENT.spec.label
OWN = {labels.PROJECT: "p", labels.RUN: "r1", labels.SANDBOX: "agent", labels.SPEC: SPEC, "name": AGENT.name}


def event(action: str, at: float, container: str = "c1", **attributes: str) -> dict[str, Any]:
    actor = {"ID": container, "Attributes": {**OWN, **attributes}}
    return {"Type": "container", "Action": action, "Actor": actor, "timeNano": int(at * 1e9)}


class Remembering:
    """An engine that answers with these events, whatever it is asked; they come in any order and twice."""

    def __init__(self, *events: Mapping[str, Any]) -> None:
        self._told = events

    def clock(self) -> datetime:
        return datetime.now(UTC)

    def events(self, **asked: Any) -> Any:
        told = self._told

        class Stream:
            def __enter__(self) -> Iterator[Mapping[str, Any]]:
                return iter((*reversed(told), *told))

            def __exit__(self, *args: object) -> None:
                pass

        return Stream()


def pasts(*events: Mapping[str, Any], began: float = 0.0) -> ProjectEvents:
    return ProjectEvents(Remembering(*events), "p", began)  # type: ignore[arg-type]


def completed(
    *events: Mapping[str, Any], sandbox: DeclaredSandbox = AGENT, content: str = "", began: float = 0.0
) -> list[tuple[str, int | None, str]]:
    past = pasts(*events, began=began)
    found = completed_elsewhere(past, [sandbox], lambda sandbox, told: told != content)
    return [(record.outcome, record.exit_code, record.run) for record in found.values()]


RAN = (event("create", 1), event("start", 2), event("die", 5, exitCode="3"), event("destroy", 6))


def test_a_run_that_ended_by_itself_and_is_gone_counts() -> None:
    assert completed(*RAN) == [("failed", 3, "r1")]


def test_one_that_was_stopped_after_its_timeout_counts() -> None:
    ended = (event("kill", 12, signal="15"), event("die", 12.1, exitCode="143"), event("destroy", 13))
    assert completed(*RAN[:2], *ended) == [("timeout", 143, "r1")]


@pytest.mark.parametrize(
    "events",
    [
        RAN[:2],
        RAN[:3],  # it is there: the snapshot shows it, and how it ended
        (*RAN, event("kill", 4, signal="15")),
        (event("die", 5, exitCode="143"), event("destroy", 6)),
        (*RAN, event("update", 3)),
        (*RAN[:2], event("die", 5, exitCode="137"), event("start", 6), event("destroy", 7)),
        (*RAN[:2], event("die", 5), event("destroy", 6)),
        (*RAN[:2], event("die", 5, exitCode="x"), event("destroy", 6)),
        ({}, {"Action": "die", "Actor": {}}),
        (),
    ],
    ids=[
        "runs",
        "there",
        "stopped",
        "maybe stopped",
        "updated",
        "began again",
        "no code",
        "odd code",
        "odd",
        "nothing",
    ],
)
def test_what_is_not_certain_does_not_count(events: tuple[Mapping[str, Any], ...]) -> None:
    assert completed(*events) == []


def test_one_that_was_stopped_before_it_is_followed_and_ended_since_does_not_count() -> None:
    """As by a `destroy` that waits for it to end, beside which an `apply` begins."""
    assert completed(*RAN, began=4) == [("failed", 3, "r1")]
    assert completed(*RAN, event("kill", 3, signal="15"), began=4) == []
    assert completed(*RAN, began=7) == []


@pytest.mark.parametrize(
    "other",
    [
        {"name": "somebody-else"},
        {labels.SANDBOX: "other"},
        {labels.SPEC: declared("agent").spec.label},
        {labels.SPEC: "{}"},
        {labels.ONE_OFF: "1"},
    ],
)
def test_another_sandbox_does_not_count(other: Mapping[str, str]) -> None:
    gone = [{**e, "Actor": {"ID": "c1", "Attributes": {**e["Actor"]["Attributes"], **other}}} for e in RAN]
    assert completed(*gone) == []


def test_the_workspace_must_be_the_same() -> None:
    carried = event("create", 1.5, "courier", **{labels.CONTENT: "d1"})
    assert completed(*RAN, carried, content="d1") == [("failed", 3, "r1")]
    assert completed(*RAN, carried, content="d2") == completed(*RAN, content="d1") == []


@pytest.mark.parametrize(
    ("code", "stopped_by", "events", "how", "exit_code"),
    [
        (0, "itself", (), How.EXITED, 0),
        (3, "timeout", (), How.TIMEOUT, 3),
        (None, "itself", RAN, How.FAILED, 3),
        (143, "itself", (event("kill", 3, signal="15"), event("die", 4, exitCode="143")), How.KILLED, 143),
        (137, "itself", (event("oom", 3), event("die", 4, exitCode="137")), How.OOM, 137),
        (None, "itself", RAN[:2], None, None),
        (None, "itself", (), None, None),
    ],
)
def test_how_a_watched_run_ended(
    code: int | None, stopped_by: str, events: tuple[Mapping[str, Any], ...], how: How | None, exit_code: int | None
) -> None:
    past = pasts(*events).past().get("c1")
    ending = ending_of(past, code, AGENT.spec, stopped_by)
    assert (ending and ending.how, ending and ending.exit_code) == (how, exit_code)


def test_one_that_ran_before_the_events_began_is_known_to_be_past_its_timeout() -> None:
    past = pasts(event("kill", 99, signal="15"), event("die", 100, exitCode="0"), event("destroy", 101)).past()["c1"]
    started = datetime.fromtimestamp(80, UTC)
    assert (ending := ending_of(past, 0, AGENT.spec, "itself", started)) and ending.how is How.TIMEOUT
