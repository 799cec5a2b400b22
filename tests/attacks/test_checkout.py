"""Attacks by what a checkout brings along."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.attacks.checkout import Checkout
from tests.attacks.inside.record import Attack
from tests.attacks.shipping import attacks
from tests.conftest import Cli


@pytest.mark.parametrize("one", attacks("checkout"), ids=lambda one: one.name)
def test_stopped(one: Attack, cli: Cli, project: str, busybox: str, tmp_path: Path) -> None:
    (directory := tmp_path / "project").mkdir()
    said = one.script(Checkout(cli=cli, project=project, image=busybox, directory=directory))
    assert re.search(rf"^held: .*({one.held})", said, re.DOTALL)
