"""A plan: what differs (last applied, live, declared), what would change and why, as data.

Owns `Difference`, `Change`, `Plan` and its digest; knows no single option. How a plan is printed is in `text.py` and
in the reports. Pure.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

from msgspec import structs

from sandboxrun.data import Data
from sandboxrun.errors import Diagnostic, one_line
from sandboxrun.plan.operations import Operation
from sandboxrun.spec import labels
from sandboxrun.spec.option import Effect, values_of
from sandboxrun.spec.option_types import same_gateway
from sandboxrun.spec.project import DeclaredSandbox
from sandboxrun.spec.spec import ROWS, SandboxSpec, digest_of
from sandboxrun.spec.state import Image, ObservedSandbox, without_inherited
from sandboxrun.spec.types import freeze

# -- Spec against spec: which options differ, since when, and what each difference asks of the engine


class Difference(Data):
    """One option that is not as declared. `before` and `after` are in the profile's own form."""

    key: str
    before: Any
    after: Any
    effect: Effect
    drift: bool = False  # nobody changed the profile: the container was changed behind our back
    reason: str = ""


def compare(declared: SandboxSpec, observed: ObservedSandbox, image: Image | None) -> tuple[Difference, ...]:
    """All differences of a sandbox, in the rows' order."""
    config = image.config if image is not None else None
    want = without_inherited(declared, config)
    applied = want if observed.applied is declared else None
    if applied is None and observed.applied is not None:
        applied = without_inherited(observed.applied, config)
    names = observed.labels.get(labels.NAMES)
    found = _compare_rows(want, observed.spec, applied, names.split() if names is not None else None)
    return (*_moved(declared, observed, image), *found)


def shown_before(declared: SandboxSpec, differences: tuple[Difference, ...]) -> dict[str, Any]:
    """A sandbox as it is, as plans show it beside what is declared: as declared but for the differences. What the image
    or the engine chose where nobody declared anything is none."""
    shown = dict(declared.shown)
    for difference in differences:
        given, value = shown.get(difference.key), difference.before
        if difference.key == "image" and difference.reason:
            continue  # the same reference, which means another image now
        if isinstance(given, Mapping) and isinstance(difference.after, Mapping) and isinstance(value, Mapping):
            value = {**{key: item for key, item in given.items() if key not in difference.after}, **value}
        shown[difference.key] = value
    return {key: value for key, value in shown.items() if value is not None}


def mismatches(asked: SandboxSpec, live: SandboxSpec) -> tuple[Difference, ...]:
    """The read-back: what the engine made that is not what was asked. Both less what the image gives."""
    return tuple(_compare_rows(asked, live, None))


def _moved(declared: SandboxSpec, observed: ObservedSandbox, image: Image | None) -> Iterator[Difference]:
    """A tag that means another image now: on the engine, or in the registry where the newest is wanted."""
    if image is not None and image.config is not None and declared.image == observed.spec.image:
        newer = image.digest if declared.pull_policy == "always" and not image.current else None
        if newer is not None or image.config.id != observed.image_id:
            yield Difference(
                key="image",
                before=f"{declared.image} ({short(observed.image_id)})",
                after=f"{declared.image} ({short(newer or image.config.id)})",
                effect=Effect.REPLACE,
                reason="the tag has moved to another image",
            )


def short(image_id: str) -> str:
    """The first 12 digits of an image's id."""
    return image_id.removeprefix("sha256:")[:12]


def _compare_rows(
    want: SandboxSpec, have: SandboxSpec, applied: SandboxSpec | None, names: Collection[str] | None = None
) -> Iterator[Difference]:
    """`names` are the hosts that stand in the sandbox's hosts file, where it asks no gateway for them."""
    before = values_of(applied) if applied is not None else (None,) * len(ROWS)
    for row, wanted, live, asked in zip(ROWS, values_of(want), values_of(have), before, strict=True):
        # an option that nobody declares is the engine's to choose, unless it is of security; one that was declared and
        # no longer is has to go
        if wanted == live or (wanted is None and not row.always and asked is None):
            continue
        effect, drift = row.effect, applied is not None and asked == wanted
        if effect is Effect.LIVE and not row.can_clear and not wanted and live:
            effect = Effect.REPLACE  # the engine reads 0 and "" as "unchanged"
        elif effect is Effect.RELOAD and not same_gateway(wanted, live, names):
            effect = Effect.REPLACE  # the sandbox is wired otherwise
        was, becomes = row.plain(live), row.plain(wanted)
        content = "the content has changed" if _less_content(was) == _less_content(becomes) else ""
        reason = "changed on the engine" if drift else content
        yield Difference(key=row.key, before=was, after=becomes, effect=effect, drift=drift, reason=reason)


def _less_content(plain: Any) -> Any:
    """An option's plain value without the digests of contents in it."""
    if not isinstance(plain, list):
        return plain
    return [
        {key: value for key, value in item.items() if key != "digest"} if isinstance(item, Mapping) else item
        for item in plain
    ]


# -- The plan


class Action(enum.Enum):
    """What happens to one resource."""

    NONE = "no-op"
    CREATE = "create"
    UPDATE = "update"
    REPLACE = "replace"
    DELETE = "delete"
    KEEP = "keep"  # it has ended: its evidence is saved, and its container stays beside


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
    KEEP_OVER = "delete_because_keep_for_over"
    UNUSED = "delete_because_unused"
    DESTROY = "delete_because_destroy"
    UP_TO_DATE = "none_because_up_to_date"
    DONE = "none_because_completed"
    KEEP = "keep_because_ended"
    KEPT = "none_because_kept"


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
    again: str = ""  # of one that has run: which rerun runs it again, "all" or "failed"

    @property
    def drift(self) -> tuple[Difference, ...]:
        """The differences that nobody declared."""
        return tuple(d for d in self.differences if d.drift)


class Other(Data):
    """One thing of another directory, and what becomes of it; `who` is a user and host, "" where that is not known."""

    address: str
    action: Action
    directory: str
    who: str = ""

    @property
    def home(self) -> str:
        """Where it was made, and by whom."""
        return f"{one_line(self.directory)}{f' by {one_line(self.who)}' if self.who else ''}"


class Plan(Data, unshown=("sensitive", "digested"), uncompared=("warnings", "digested")):
    """What apply would do. `sensitive` are values that no output may show; `observed` binds a saved plan to
    the containers it was made for: id and state of each."""

    project: str
    changes: tuple[Change, ...]
    operations: tuple[Operation, ...]
    digested: Callable[[], str]  # works out the profile's digest
    inputs_digest: str
    engine_id: str = ""
    observed: tuple[tuple[str, str], ...] = ()
    inputs: Mapping[str, Any] = freeze({})
    sensitive: frozenset[str] = frozenset()
    refresh_only: bool = False
    destroy: bool = False
    targeted: bool = False  # a part of the project only
    warnings: tuple[Diagnostic, ...] = ()  # of what to know first; not in the digest
    others: tuple[Other, ...] = ()  # what it changes that was made from another directory; not in the digest
    led: Mapping[str, str] = freeze({})  # where links lead that host paths of what it makes go through

    def __str__(self) -> str:
        from sandboxrun.plan.text import plan_text

        return plan_text(self)

    @property
    def pending(self) -> tuple[Change, ...]:
        """The changes that do something."""
        return tuple(change for change in self.changes if change.action is not Action.NONE)

    @property
    def kept(self) -> int:
        """How many containers it keeps that have ended."""
        return sum(change.action is Action.KEEP for change in self.changes)

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
    def profile_digest(self) -> str:
        """The digest of the profile that it was made for."""
        return self.digested()

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
                "operations": [
                    {"kind": type(step).__name__, **{k: _plain(v) for k, v in structs.asdict(step).items()}}
                    for step in self.operations
                ],
                **({"led": dict(self.led)} if self.led else {}),
            }
        )


def _plain(value: Any) -> Any:
    """What an operation has, as data for the digest."""
    match value:
        case DeclaredSandbox():
            return {"name": value.name, "spec": value.spec.digest}
        case str() | int() | bool() | None:
            return value
        case tuple():
            return [str(item) for item in value]
    return str(value)
