"""Choosing sandboxes by name."""

from __future__ import annotations

import pytest

from sandboxrun.errors import UsageError
from sandboxrun.plan.planner import Options, make_plan, select
from tests.unit.plan.world import declared, profile, snapshot

PROFILE = profile(declared("agent"), declared("lint", "a"), declared("lint", "b"))


def test_a_name_means_all_of_a_for_each() -> None:
    assert [s.address for s in select(PROFILE, ("lint",))] == ['lint["a"]', 'lint["b"]']
    assert select(PROFILE, ()) == PROFILE.sandboxes


@pytest.mark.parametrize(
    ("name", "message", "help"),
    [
        ("agnet", 'there is no sandbox "agnet"', 'did you mean "agent"?'),
        ('lint["aa"]', 'there is no sandbox lint["aa"]', 'did you mean lint["a"]?'),
    ],
)
def test_a_name_that_nothing_has(name: str, message: str, help: str) -> None:
    with pytest.raises(UsageError) as raised:
        select(PROFILE, (name,))
    assert [(d.message, d.help) for d in raised.value.diagnostics] == [(message, help)]
    with pytest.raises(UsageError) as raised:
        make_plan(PROFILE, snapshot(), Options(targets=(name,)))
    assert raised.value.diagnostics[0].message == message
