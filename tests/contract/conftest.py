"""The two sides that must not differ: the fake engine, and the real one under test."""

from __future__ import annotations

import abc
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from sandboxrun.backend.base import Backend
from sandboxrun.backend.docker.client import connect
from sandboxrun.backend.fake import Fake
from scripts import engine
from tests.engine.leftovers import sweep
from tests.scenarios.world import IMAGE, Job, new_world, read


class Side(abc.ABC):
    """One kind of engine. Each `job` has a connection and a checkout's evidence of its own."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.project = f"contract-{uuid.uuid4().hex[:10]}"
        self._jobs = 0

    @abc.abstractmethod
    def connected(self) -> Backend:
        """Another connection to it."""

    @abc.abstractmethod
    def stranger(self, name: str) -> None:
        """Somebody else makes a container of that name."""

    def job(self, **sandboxes: dict[str, Any]) -> Job:
        self._jobs += 1
        profile = read(self.directory, sandboxes, self.project)
        return Job.of(self.connected(), profile, self.directory / f"evidence-{self._jobs}")


class FakeSide(Side):
    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self._world = new_world()

    def connected(self) -> Backend:
        return Fake(self._world)

    def stranger(self, name: str) -> None:
        self._world.stranger("container", name)


class RealSide(Side):
    def __init__(self, directory: Path, stack: ExitStack) -> None:
        super().__init__(directory)
        self._stack = stack

    def connected(self) -> Backend:
        return self._stack.enter_context(connect(engine.endpoint()))

    def stranger(self, name: str) -> None:
        with connect(engine.endpoint()) as other:
            other.create_container(name, {"Image": IMAGE, "Cmd": ["true"]})


@pytest.fixture(params=["fake", pytest.param("engine", marks=pytest.mark.engine)])
def side(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Side]:
    """An engine; nothing is left on a real one."""
    if request.param == "fake":
        yield FakeSide(tmp_path)
        return
    with ExitStack() as stack:
        made = RealSide(tmp_path, stack)
        yield made
        client = engine.client()
        sweep(client, made.project)
        client.close()
