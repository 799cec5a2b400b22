"""A plan's steps while they are being laid, and what later steps have to know of earlier ones.

Owns that state. Which steps there are is for `down`, `connecting`, `making` and `inplace` to say.
"""

from __future__ import annotations

import attrs

from sandboxrun.model.declared import Profile
from sandboxrun.model.observed import Snapshot
from sandboxrun.plan import operations as op
from sandboxrun.plan.changes import Reason

Ids = tuple[str, ...]


@attrs.define(kw_only=True)
class Draft:
    """The steps so far. The mappings lead to the id of a step: by container id, engine name, key, or address."""

    profile: Profile
    snapshot: Snapshot
    steps: list[op.Operation] = attrs.field(factory=list)
    removed: dict[str, str] = attrs.field(factory=dict)  # container id → the step that removes it
    couriers: Ids = ()  # the steps that remove what was left over
    networks: dict[str, str] = attrs.field(factory=dict)  # engine name → the step that makes it
    anew: set[str] = attrs.field(factory=set)  # keys of networks that are replaced
    volumes: dict[str, str] = attrs.field(factory=dict)  # key → the step that makes it
    given: dict[str, str] = attrs.field(factory=dict)  # volume key → the step that gives it to a sandbox's user
    pulls: dict[str, str] = attrs.field(factory=dict)  # image reference → the step that fetches or builds it
    started: dict[str, str] = attrs.field(factory=dict)  # address → the step that starts it

    def add(self, step: op.Operation) -> str:
        """Take a step; its id."""
        self.steps.append(step)
        return step.id

    def gone(self, address: str) -> Ids:
        """The steps that remove the containers of a sandbox that go before anything is made of it."""
        mine = [o.id for o in self.snapshot.sandboxes if o.address == address and not o.one_off]
        return tuple(self.removed[id] for id in mine if id in self.removed)

    def helper(self) -> tuple[str, Ids]:
        """The image of gateways and keepers, and the step that builds it first, if it is not there."""
        helper = self.snapshot.helper
        assert helper is not None  # the snapshot was taken for these sandboxes
        if helper.id is not None:
            return helper.id, ()
        if helper.reference not in self.pulls:
            step = op.BuildHelper(
                id=f"build {helper.reference}",
                address=f"image.{helper.reference}",
                cause=Reason.BUILD.value,
                reference=helper.reference,
                base=helper.base,
            )
            self.pulls[helper.reference] = self.add(step)
        return helper.reference, (self.pulls[helper.reference],)
