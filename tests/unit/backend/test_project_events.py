"""What a followed stream of the engine's events is enough for, and where the engine is asked once more."""

from __future__ import annotations

import queue
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

import pytest

from sandboxrun.backend.docker import history
from sandboxrun.backend.docker.history import ProjectEvents
from sandboxrun.backend.errors import EngineError
from sandboxrun.spec import labels
from tests.conftest import until

OWN, RIVAL = "sandboxrun-lock-p-00000000000000aa-1f", "sandboxrun-lock-p-00000000000000bb-2e"
OF_ANOTHER = "sandboxrun-lock-p-b-00000000000000cc-3d"  # the lock of a project p-b


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """However slow the machine is."""
    monkeypatch.setattr(history, "_TOLD", 60)


class Held:
    """A project's lock that was taken with the volume OWN."""

    volume = OWN

    def check(self) -> None:
        """It is held."""

    def made(self, volume: str) -> bool:
        return volume == OWN


class Stream:
    """Tells what it is given, until it is closed."""

    def __init__(self, *events: Mapping[str, Any]) -> None:
        self.closed = False
        self._queue: queue.SimpleQueue[Mapping[str, Any] | None] = queue.SimpleQueue()
        self.tell(*events)

    def tell(self, *events: Mapping[str, Any]) -> None:
        for event in events:
            self._queue.put(event)

    def close(self) -> None:
        self.closed = True
        self._queue.put(None)

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __iter__(self) -> Iterator[Mapping[str, Any]]:
        return iter(self._queue.get, None)


class Engine:
    """An engine whose stream tells `events`, and that remembers one end more."""

    def __init__(self, *events: Mapping[str, Any], podman: bool = False) -> None:
        self.stream, self.own, self.asked = Stream(*events), Stream(), 0  # of everything, and of the project's own
        self._podman = podman

    def clock(self) -> datetime:
        return datetime.now(UTC)

    def version(self) -> Mapping[str, Any]:
        return {"Components": [{"Name": "Podman Engine"}]} if self._podman else {}

    def events(self, *, until: str | None = None, filters: Any = None, since: str = "") -> Stream:
        if until is None:
            return self.stream if filters is None else self.own
        self.asked += 1
        remembered = Stream(happened("destroy", "asked"))
        remembered.close()
        return remembered


def happened(action: str, id: str, *, project: str = "p", at: float | None = None, **own: str) -> Mapping[str, Any]:
    actor = {"ID": id, "Attributes": {labels.PROJECT: project, **own}}
    when = time.time() + 60 if at is None else at
    return {"Type": "container", "Action": action, "Actor": actor, "timeNano": int(when * 1e9)}


def volume(action: str, name: str) -> Mapping[str, Any]:
    actor = {"ID": name, "Attributes": {"driver": "local"}}
    return {"Type": "volume", "Action": action, "Actor": actor, "timeNano": time.time_ns()}


def past(engine: Engine, events: ProjectEvents) -> tuple[set[str], int]:
    """Which containers something happened to, and how often the engine was asked for it."""
    return set(events.past(Held())), engine.asked  # type: ignore[arg-type]


def followed(engine: Engine) -> ProjectEvents:
    return ProjectEvents(engine, "p", time.time(), locking=True)  # type: ignore[arg-type]


def test_what_came_before_the_locks_own_volume_is_all_there_is() -> None:
    before = (volume("create", RIVAL), happened("destroy", "theirs"), volume("destroy", RIVAL))
    engine = Engine(*before, volume("create", OF_ANOTHER), volume("create", OWN))
    with followed(engine) as events:
        assert past(engine, events) == ({"theirs"}, 0)


def test_a_rival_that_goes_while_the_lock_is_taken_is_waited_for() -> None:
    engine = Engine(volume("create", RIVAL), volume("create", OWN))
    with followed(engine) as events:
        found: list[Any] = []
        waiting = history.begin(lambda: found.append(past(engine, events)), name="test", failed=found.append)
        until(lambda: OWN in events._locks)
        assert found == []
        engine.stream.tell(happened("destroy", "theirs"), volume("destroy", RIVAL))
        waiting.join(60)
    assert found == [({"theirs"}, 0)]


@pytest.mark.parametrize(
    ("told", "podman"),
    [
        pytest.param((), False, id="nothing"),
        pytest.param((volume("create", RIVAL), volume("create", OWN)), False, id="another holder"),
        pytest.param((volume("create", OWN),), True, id="podman"),
        pytest.param((*[volume("mount", "a")] * 256, volume("create", OWN)), False, id="more than is remembered"),
    ],
)
def test_else_the_engine_is_asked(told: tuple[Any, ...], podman: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "_TOLD", 0.05)
    engine = Engine(*told, podman=podman)
    with followed(engine) as events:
        assert past(engine, events) == ({"asked"}, 1)


def test_it_is_asked_where_nobody_follows_and_where_no_lock_was_taken() -> None:
    engine = Engine(volume("create", OWN))
    assert past(engine, followed(engine)) == ({"asked"}, 1)
    with followed(engine) as events:
        until(lambda: OWN in events._locks)
        assert (set(events.past()), engine.asked) == ({"asked"}, 2)


def test_only_the_projects_own_counts_and_only_what_came_since() -> None:
    foreign = (
        happened("destroy", "other", project="q"),
        happened("destroy", "old", at=time.time() - 30),
        happened("exec_create: true", "busy"),
        {"Type": "network", "Action": "destroy", "Actor": {"ID": "n", "Attributes": {labels.PROJECT: "p"}}},
        {"Type": "container", "Action": "destroy"},
    )
    engine = Engine(*foreign, happened("die", "own", exitCode="3"), volume("create", OWN))
    with followed(engine) as events:
        assert past(engine, events) == ({"own"}, 0)
        assert (events.exit_code("own", 60), events.exit_code("old", 0), events.exit_code("other", 0)) == (
            3,
            None,
            None,
        )


def test_who_waits_for_long_hears_of_the_projects_own_alone() -> None:
    engine = Engine(happened("start", "own"), volume("create", OWN))
    with followed(engine) as events:
        until(lambda: OWN in events._locks)
        events.narrow()
        assert engine.stream.closed and not engine.own.closed
        engine.own.tell(happened("die", "own", exitCode="7"))
        assert events.exit_code("own", 60) == 7
        assert past(engine, events) == ({"own", "asked"}, 1)  # and of locks it hears no more
        engine.own.close()
        until(lambda: events._lost is not None)
        with pytest.raises(EngineError, match="the engine ended the stream"):
            events.past()
    assert engine.own.closed


def test_who_takes_no_lock_hears_of_nobody_else() -> None:
    engine = Engine()
    with ProjectEvents(engine, "p", time.time()) as events:  # type: ignore[arg-type]
        engine.own.tell(happened("die", "own", exitCode="7"))
        assert events.exit_code("own", 60) == 7
        assert past(engine, events) == ({"own", "asked"}, 1)
