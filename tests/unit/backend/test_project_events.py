"""What a followed stream of the engine's events is enough for, and where the engine is asked once more."""

from __future__ import annotations

import contextlib
import queue
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from msgspec import structs

from sandboxrun.backend.docker import history
from sandboxrun.backend.docker.history import ProjectEvents
from sandboxrun.backend.errors import EngineError
from sandboxrun.spec import labels
from sandboxrun.spec.state import Ended, History, How, decide
from tests.conftest import until

OWN, RIVAL = "sandboxrun-lock-p-00000000000000aa-1f", "sandboxrun-lock-p-00000000000000bb-2e"
BEGAN = datetime(2020, 1, 1, tzinfo=UTC)  # the engine
OF_ANOTHER = "sandboxrun-lock-p-b-00000000000000cc-3d"  # the lock of a project p-b


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """However slow the machine is."""
    monkeypatch.setattr(history, "_TOLD", 60)
    monkeypatch.setattr(history, "SOON", 60)


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

    def network(self, name: str) -> Mapping[str, Any]:
        return {"Created": BEGAN.isoformat()}

    def info(self) -> Mapping[str, Any]:
        return {}

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


def volume(action: str, name: str, *, at: float | None = None) -> Mapping[str, Any]:
    actor = {"ID": name, "Attributes": {"driver": "local"}}
    return {"Type": "volume", "Action": action, "Actor": actor, "timeNano": int((at or time.time()) * 1e9)}


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


# -- what a busy engine forgets, and what it tells late


def of(events: ProjectEvents, id: str) -> tuple[bool, frozenset[int], bool] | None:
    found = events.history(id, structs.replace(ENDED, exit_code=137, finished=None))
    return (found.whole, found.signals, found.oom) if found is not None else None


def test_that_one_died_of_memory_may_be_told_after_its_end() -> None:
    engine = Engine()
    with ProjectEvents(engine, "p", time.time()) as events:  # type: ignore[arg-type]
        at = time.time()
        engine.own.tell(happened("start", "a", at=at), happened("die", "a", at=at + 1, exitCode="137"))
        until(lambda: "a" in events._ended)
        found: list[Any] = []
        waiting = history.begin(lambda: found.append(of(events, "a")), name="test", failed=found.append)
        engine.own.tell(happened("oom", "a", at=at + 2))
        waiting.join(60)
    assert found == [(True, frozenset(), True)]


def test_of_what_was_killed_by_nobody_that_is_known_it_is_not_waited_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "SOON", 0.2)
    engine = Engine()
    with ProjectEvents(engine, "p", time.time()) as events:  # type: ignore[arg-type]
        at = time.time()
        engine.own.tell(happened("start", "a", at=at), happened("die", "a", at=at + 1, exitCode="137"))
        until(lambda: "a" in events._ended)
        assert of(events, "a") == (True, frozenset(), False)


def test_what_ended_before_it_is_followed_is_not_waited_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "SOON", 3600.0)
    monkeypatch.setattr(history, "_TOLD", 0.05)
    with ProjectEvents(Engine(), "p", time.time()) as events:  # type: ignore[arg-type]
        assert of(events, "long ago") is None


class Forgetting:
    """An engine that is asked for what it remembers: the events of `told`, oldest first, of which it may have forgotten
    the first; `late` comes after it was asked."""

    def __init__(self, *told: Mapping[str, Any], busy: int = 0, late: tuple[Mapping[str, Any], ...] = ()) -> None:
        others = [volume("create", f"other-{n}") for n in range(busy)]
        self._told, self._late = (*told[:-1], *others, told[-1])[-256:], late

    def clock(self) -> datetime:
        return datetime.now(UTC)

    def version(self) -> Mapping[str, Any]:
        return {}

    def network(self, name: str) -> Mapping[str, Any]:
        return {"Created": "2026-01-01T00:00:00Z"}

    def events(self, *, since: str, until: str, filters: Any = None) -> Any:
        told = (*self._told, *self._late)

        class Answer:
            def __enter__(self) -> Any:
                return self

            def __exit__(self, *error: object) -> None:
                """Nothing to close."""

            def __iter__(self) -> Iterator[Mapping[str, Any]]:
                return iter(e for e in told if filters is None or e["Type"] == "container")

            def within(self, seconds: float) -> Any:
                return contextlib.nullcontext()

        return Answer()


def ended(code: int, at: float) -> Ended:
    started, finished = (datetime.fromtimestamp(when, UTC) for when in (at - 60, at))
    return Ended(exit_code=code, oom=False, started=started, finished=finished)


@pytest.mark.parametrize(
    ("code", "busy", "how"),
    [
        pytest.param(143, 256, How.UNKNOWN, id="its signal may be forgotten"),
        pytest.param(137, 256, How.UNKNOWN, id="its signal may be forgotten, KILL"),
        pytest.param(143, 100, How.FAILED, id="all is remembered"),
        pytest.param(3, 256, How.FAILED, id="no signal ends it so"),
        pytest.param(0, 256, How.EXITED, id="it ended well"),
    ],
)
def test_an_end_that_a_forgotten_signal_may_have_brought_is_unknown(code: int, busy: int, how: How) -> None:
    at = time.time()
    engine = Forgetting(happened("die", "a", at=at, exitCode=str(code)), busy=busy)
    state = ended(code, at)
    assert decide(state, history=history.histories(engine, {"a": state})["a"]).how is how  # type: ignore[arg-type]


def test_an_end_long_after_what_is_forgotten_is_known() -> None:
    at = time.time()
    before = [volume("create", f"other-{n}", at=at - 60) for n in range(300)]
    engine, state = Forgetting(*before, happened("die", "a", at=at, exitCode="143")), ended(143, at)
    assert decide(state, history=history.histories(engine, {"a": state})["a"]).how is How.FAILED  # type: ignore[arg-type]


def test_an_engine_that_is_asked_may_tell_of_memory_after_the_end() -> None:
    at = time.time()
    start, die = happened("start", "a", at=at - 60), happened("die", "a", at=at, exitCode="137")
    engine, state = Forgetting(start, die, late=(happened("oom", "a", at=at + 0.1),)), ended(137, at)
    assert decide(state, history=history.histories(engine, {"a": state})["a"]).how is How.OOM  # type: ignore[arg-type]


# -- How one that has ended came to its end --------------------------------------------------------------------------

STARTED = datetime(2021, 1, 1, tzinfo=UTC)
FINISHED = STARTED + timedelta(seconds=10)
ENDED = Ended(exit_code=143, oom=False, started=STARTED, finished=FINISHED)


def at(seconds: float, action: str, **own: str) -> Mapping[str, Any]:
    """An event of the container `own`, so long after its start."""
    return happened(action, "own", at=STARTED.timestamp() + seconds, **own)


def heard(engine: Engine, began: float = 0.0, ended: Ended = ENDED) -> History | None:
    with ProjectEvents(engine, "p", began) as events:  # type: ignore[arg-type]
        return events.history("own", ended)


def telling(*events: Mapping[str, Any], podman: bool = False) -> Engine:
    engine = Engine(podman=podman)
    engine.own.tell(*events)
    return engine


WHOLE = (at(0, "start"), at(9, "kill", signal="15"), at(10, "die", exitCode="143"))


def test_of_one_whose_start_was_seen_all_is_known() -> None:
    assert heard(telling(*WHOLE)) == History(started=True, died=True, signals=frozenset({15}))


def test_an_end_before_a_restart_is_not_its_end() -> None:
    engine = telling(at(-20, "start"), at(-10, "die", exitCode="1"), at(0, "start"))
    with ProjectEvents(engine, "p", 0.0) as events:  # type: ignore[arg-type]
        until(lambda: "own" in events._codes)
        found: list[Any] = []
        waiting = history.begin(lambda: found.append(events.history("own", ENDED)), name="test", failed=found.append)
        engine.own.tell(at(10, "die", exitCode="0"))
        waiting.join(60)
    assert found == [History(started=True, died=True)]


def test_what_was_forgotten_before_is_made_up_for_by_the_engines_age() -> None:
    assert heard(telling(*WHOLE[1:])) == History(died=True, signals=frozenset({15}), began=BEGAN)


def test_a_stream_that_began_after_its_start_counts_where_it_tells_of_that() -> None:
    assert heard(telling(*WHOLE), began=time.time()) == heard(telling(*WHOLE))
    assert heard(telling(*WHOLE[1:]), began=time.time()) is None


def test_an_end_by_a_signal_that_was_not_seen_is_not_made_up_for() -> None:
    assert heard(telling(WHOLE[2])) is None


def test_without_its_end_nothing_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "SOON", 0.05)
    assert heard(telling(WHOLE[0])) is None
    assert heard(telling(*WHOLE), ended=Ended(exit_code=127, oom=False, started=None, finished=None)) is None
    assert heard(telling(*WHOLE, podman=True)) is None


def test_a_lost_stream_does_not_count() -> None:
    engine = telling(*WHOLE)
    with ProjectEvents(engine, "p", 0.0) as events:  # type: ignore[arg-type]
        engine.own.close()
        until(lambda: events._lost is not None)
        assert events.history("own", ENDED) is None
