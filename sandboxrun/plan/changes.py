"""A plan: what would change and why, as data.

Owns `Change`, `Plan` and its digest. How a plan is printed is in `text.py` and in the reports. Pure data.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Any

from sandboxrun.data import Data
from sandboxrun.errors import Diagnostic
from sandboxrun.plan.diff import Difference
from sandboxrun.plan.operations import Operation, describe
from sandboxrun.spec.spec import digest_of
from sandboxrun.spec.types import freeze


class Action(enum.Enum):
    """What happens to one resource."""

    NONE = "no-op"
    CREATE = "create"
    UPDATE = "update"
    REPLACE = "replace"
    DELETE = "delete"


class Reason(enum.Enum):
    """Why. The value is what the JSON plan says as `action_reason`."""

    NEW = "create_because_declared"
    BUILD = "create_because_needed"
    RERUN = "create_because_rerun"
    WORKSPACE_CHANGED = "create_because_workspace_changed"
    CHANGED = "update_because_changed"
    DRIFTED = "update_because_drift"
    CANNOT_UPDATE = "replace_because_cannot_update"
    REQUESTED = "replace_by_request"
    IMAGE_MOVED = "replace_because_image_moved"
    HALF_MADE = "replace_because_half_made"
    ENDED_CHANGED = "replace_because_ended_and_changed"
    COMPLETED = "delete_because_completed"
    FAILED = "delete_because_failed"
    OOM = "delete_because_oom_killed"
    KILLED = "delete_because_killed"
    LOST = "delete_because_end_unknown"
    TIMEOUT = "delete_because_timeout"
    EXPIRED = "delete_because_expired"
    ORPHANED = "delete_because_owner_gone"
    JOB_OVER = "delete_because_job_over"
    UNDECLARED = "delete_because_no_resource_config"
    SECOND = "delete_because_replaced"
    UNUSED = "delete_because_unused"
    DESTROY = "delete_because_destroy"
    UP_TO_DATE = "none_because_up_to_date"
    DONE = "none_because_completed"


class Change(Data, unshown=("before", "after")):
    """One resource: `kind` is sandbox, network, volume or image; `address` is unique in a plan.

    `before` and `after` are options in the profile's form, None where the resource does not exist.
    """

    kind: str
    address: str
    name: str
    action: Action
    reason: Reason
    note: str = ""
    before: Mapping[str, Any] | None = None
    after: Mapping[str, Any] | None = None
    differences: tuple[Difference, ...] = ()
    container: str | None = None

    @property
    def drift(self) -> tuple[Difference, ...]:
        """The differences that nobody declared."""
        return tuple(d for d in self.differences if d.drift)


class Plan(Data, unshown=("sensitive",), uncompared=("warnings",)):
    """What apply would do. `sensitive` are values that no output may show; `observed` binds a saved plan to
    the containers it was made for: id and state of each."""

    project: str
    changes: tuple[Change, ...]
    operations: tuple[Operation, ...]
    profile_digest: str
    inputs_digest: str
    engine_id: str = ""
    observed: tuple[tuple[str, str], ...] = ()
    inputs: Mapping[str, Any] = freeze({})
    sensitive: frozenset[str] = frozenset()
    refresh_only: bool = False
    destroy: bool = False
    targeted: bool = False  # a part of the project only
    warnings: tuple[Diagnostic, ...] = ()  # of what to know first; not in the digest

    def __str__(self) -> str:
        from sandboxrun.plan.text import plan_text

        return plan_text(self)

    @property
    def pending(self) -> tuple[Change, ...]:
        """The changes that do something."""
        return tuple(change for change in self.changes if change.action is not Action.NONE)

    @property
    def making(self) -> frozenset[str]:
        """The addresses of the sandboxes that it makes."""
        return frozenset(c.address for c in self.changes if c.action in (Action.CREATE, Action.REPLACE))

    @property
    def counts(self) -> tuple[int, int, int]:
        """(to add, to change, to destroy), where a replacement counts as an addition and a destruction."""
        actions = [change.action for change in self.pending if change.kind != "image"]
        replaced = actions.count(Action.REPLACE)
        return (
            actions.count(Action.CREATE) + replaced,
            actions.count(Action.UPDATE),
            actions.count(Action.DELETE) + replaced,
        )

    @property
    def empty(self) -> bool:
        """Whether there is nothing to do."""
        return not self.pending

    @property
    def digest(self) -> str:
        """`sha256:…` of what the plan depends on and what it does; a saved plan is stale when it differs."""
        return digest_of(
            {
                "project": self.project,
                "profile": self.profile_digest,
                "inputs": self.inputs_digest,
                "engine": self.engine_id,
                "observed": [list(pair) for pair in self.observed],
                "operations": [describe(operation) for operation in self.operations],
            }
        )
