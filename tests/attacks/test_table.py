"""The attacks as a whole: how many, of which kinds, each with its control; and their table in the docs."""

from __future__ import annotations

import os

from tests.attacks.inside.record import ATTACKS
from tests.attacks.table import FAMILIES, FILE, text


def test_there_are_at_least_sixty_of_four_families() -> None:
    assert len(ATTACKS) >= 60
    assert {one.family for one in ATTACKS.values()} == set(FAMILIES)
    assert all(one.title and one.stopped_by and one.held for one in ATTACKS.values())


def test_the_docs_have_them_all() -> None:
    if os.environ.get("SANDBOXRUN_DEV_UPDATE") == "1":
        FILE.write_text(text())
    assert FILE.read_text() == text()
