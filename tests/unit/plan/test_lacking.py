"""A backend that has no place for an option refuses each profile that asks for it, by the option's name."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec import structs

from sandboxrun.errors import PlanError
from sandboxrun.plan.planner import make_plan
from sandboxrun.spec.project import Profile
from sandboxrun.spec.spec import ROWS
from sandboxrun.spec.state import Snapshot
from tests.unit.plan.world import declared, profile, snapshot


class Toy:
    """A backend that knows all options but one."""

    def __init__(self, lacks: str) -> None:
        self.places = {row.key: row.description for row in ROWS if row.key != lacks}

    def observe(self, profile: Profile, store: Any = None) -> Snapshot:
        """Nothing runs on it."""
        found = snapshot(networks=())
        return structs.replace(found, offers=structs.replace(found.offers, options=frozenset(self.places)))


def refusals(lacks: str, **options: Any) -> list[str]:
    wanted = profile(declared("a", **options))
    try:
        make_plan(wanted, Toy(lacks).observe(wanted))
    except PlanError as error:
        return [fault.message for fault in error.diagnostics]
    return []


@pytest.mark.parametrize(
    ("lacks", "options"),
    [
        ("pids_limit", {"pids_limit": 64}),
        ("pids_limit", {}),  # the closed default is a limit too
        ("cap_drop", {}),
        ("read_only", {}),
        ("cgroup", {}),  # no profile can change it
        ("tty", {"tty": True}),
        ("shm_size", {"shm_size": 2**20}),
    ],
)
def test_what_the_backend_lacks_is_refused_by_name(lacks: str, options: dict[str, Any]) -> None:
    assert refusals(lacks, **options) == [f"a: the engine can't enforce {lacks}"]


@pytest.mark.parametrize(
    ("lacks", "options"),
    [("pids_limit", {"pids_limit": 0}), ("read_only", {"read_only": False}), ("tty", {}), ("privileged", {})],
)
def test_what_asks_for_nothing_is_not_refused(lacks: str, options: dict[str, Any]) -> None:
    assert refusals(lacks, **options) == []
