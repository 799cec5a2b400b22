"""The Docker backend knows how to do every step that a plan may have."""

from __future__ import annotations

from typing import get_args

from sandboxrun.backend.docker.perform import HANDLERS
from sandboxrun.plan.operations import Operation


def test_every_step_has_its_handler() -> None:
    assert set(get_args(Operation)) == HANDLERS.keys()
