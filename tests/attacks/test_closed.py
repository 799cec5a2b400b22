"""Attacks on a sandbox without a network: each is stopped there, and each wins where nothing stops it."""

from __future__ import annotations

import re
from collections.abc import Mapping

import pytest

from tests.attacks.cages import CLOSED
from tests.attacks.inside.record import ELSEWHERE, Attack
from tests.attacks.shipping import attacks, controlled


@pytest.mark.parametrize("one", attacks(*CLOSED), ids=lambda one: one.name)
def test_stopped(one: Attack, caged: Mapping[str, str]) -> None:
    said = caged.get(one.name, "never ran")
    if said.endswith(ELSEWHERE):
        pytest.skip(said)
    assert re.search(rf"^held: .*({one.held})", said)


@pytest.mark.parametrize("one", controlled(*CLOSED), ids=lambda one: one.name)
def test_wins_in_the_weak_sandbox(one: Attack, uncaged: Mapping[str, str]) -> None:
    if uncaged.get(one.name, "").endswith(ELSEWHERE):
        pytest.skip(ELSEWHERE)
    assert uncaged.get(one.name, "never ran").startswith("won: ")


def test_the_sandbox_outlived_all_of_them(caged: Mapping[str, str]) -> None:
    assert caged[""] == "all done"
