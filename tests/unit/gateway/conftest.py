"""The gateway between two network namespaces."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from scripts.spaces import impossible
from tests.unit.gateway.carried import Carried, open_carried
from tests.unit.gateway.world import World, open_world


def _world(folder: Path) -> Iterator[World]:
    if reason := impossible():
        (pytest.fail if os.environ.get("CI") else pytest.skip)(reason)
    with open_world(folder) as opened:
        yield opened


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """A world of the test's own without a gateway yet: `world.start()` starts it."""
    yield from _world(tmp_path)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """One for all tests of a module that leave its gateway as it is."""
    for opened in _world(tmp_path_factory.mktemp("world")):
        opened.start()
        yield opened


@pytest.fixture
def gateway(shared: World) -> Iterator[World]:
    """A world with a gateway that allows world.ALLOWED, as if nothing had happened in it before."""
    shared.forget()
    yield shared
    assert shared.process is not None and shared.process.poll() is None
    shared.stop_servers()


def carried_world(folder: Path) -> Iterator[Carried]:
    """A sandbox's side, a gateway's and everybody else's."""
    if reason := impossible():
        (pytest.fail if os.environ.get("CI") else pytest.skip)(reason)
    with open_carried(folder) as opened:
        yield opened


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Carried]:
    """A world of the test's own without a gateway yet: `own.start()` starts it."""
    yield from carried_world(tmp_path)
