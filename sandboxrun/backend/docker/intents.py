"""The Docker Engine as a Backend: the seam's verbs, each handed to the module that knows how."""

from __future__ import annotations

from sandboxrun.backend.docker.leftovers import collect
from sandboxrun.backend.docker.lock import project_lock
from sandboxrun.backend.docker.observe import snapshot_before_run, snapshot_of_these, take_snapshot
from sandboxrun.backend.docker.owned import check_neighbours
from sandboxrun.backend.docker.perform import carry_out
from sandboxrun.backend.docker.project_events import ProjectEvents
from sandboxrun.backend.docker.teardown import restore, undo

__all__ = [
    "ProjectEvents",
    "carry_out",
    "check_neighbours",
    "collect",
    "project_lock",
    "restore",
    "snapshot_before_run",
    "snapshot_of_these",
    "take_snapshot",
    "undo",
]
