"""The gateway between network namespaces."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from scripts.spaces import impossible
from tests.unit.gateway.world import World, open_world


def fresh_world(folder: Path) -> Iterator[World]:
    """A sandbox's side, a gateway's and everybody else's."""
    if reason := impossible():
        (pytest.fail if os.environ.get("CI") else pytest.skip)(reason)
    with open_world(folder) as opened:
        yield opened


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What starts HAProxy waits for seconds of its own: `make check` leaves it out."""
    for item in items:
        if {"own", "shared"} & set(getattr(item, "fixturenames", ())) and Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.haproxy)


@pytest.fixture
def own(tmp_path: Path) -> Iterator[World]:
    """A world of the test's own without a gateway yet: `own.start()` starts it."""
    yield from fresh_world(tmp_path)
