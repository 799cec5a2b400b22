"""What a process that lives long has heard of how its sandboxes ended."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec import structs

from sandboxrun.backend.fake import Fake, World
from sandboxrun.backend.fake_process import Box
from sandboxrun.backend.session import GONE
from sandboxrun.lifecycle.watch import Heard
from sandboxrun.spec.state import Ended, History
from tests.conftest import until
from tests.scenarios.world import Job, new_world, read


@pytest.fixture
def heard() -> Iterator[Heard]:
    made = Heard("tale")
    yield made
    made.close()


def begun(world: World, directory: Path, project: str = "tale") -> Box:
    """A sandbox that runs."""
    Job.of(Fake(world), read(directory, {"agent": {}}, project), directory / "evidence").apply()
    return next(box for box in world.boxes.values() if box.running)


def ended(box: Box) -> Ended:
    """It was stopped by somebody."""
    box.send(15)
    assert box.wait(60)
    state = box.state()
    assert isinstance(state, Ended)
    return state


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """However busy the machine is, what was told is heard."""
    monkeypatch.setattr("sandboxrun.lifecycle.watch.TOLD", 60.0)


def test_what_the_engine_forgets_is_known_of_all_that_are_there_and_of_the_last_that_are_gone(
    heard: Heard, patient: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sandboxrun.lifecycle.watch.LAST_GONE", 1)
    world = new_world()
    world.remembers = 1
    heard.follow(Fake(world))
    box = begun(world, tmp_path)
    state = ended(box)
    known = History(started=True, died=True, signals=frozenset({15}))
    assert heard.history(box.id, state) == known
    Fake(world)._remove(box.id)
    until(lambda: heard._gone)
    assert heard.history(box.id, structs.replace(GONE, exit_code=143)) == known
    Fake(world)._remove(begun(world, tmp_path).id)
    until(lambda: box.id not in heard._found)
    assert len(heard._found) == 1


def test_a_forked_process_follows_by_itself(heard: Heard, patient: None, tmp_path: Path) -> None:
    world = new_world()
    heard.follow(Fake(world))
    parents, heard._process = heard._news, -1
    heard.follow(Fake(world))
    assert heard._news is not None and heard._news is not parents
    box = begun(world, tmp_path)
    found = heard.history(box.id, ended(box))
    assert found is not None and found.whole
    assert parents is not None
    parents.close()


def test_it_waits_for_what_is_told_late(heard: Heard, patient: None, tmp_path: Path) -> None:
    world = new_world()
    heard.follow(Fake(world))
    box = begun(world, tmp_path)
    found = heard.history(box.id, ended(box))  # most often before it was read
    assert found is not None and found.whole


def test_nothing_is_known_of_what_began_before_or_while_the_engine_was_away(heard: Heard, tmp_path: Path) -> None:
    world = new_world()
    box = begun(world, tmp_path)
    box.started = "2020-01-01T00:00:00Z"
    heard.follow(Fake(world))
    assert heard.history(box.id, ended(box)) is None
    world.gone = True
    until(lambda: heard._news is None)
    world.gone = False
    heard.follow(Fake(world))
    again = begun(world, tmp_path, "tale2")
    assert heard._news is not None and heard.history(again.id, ended(again)) is None  # another project's
