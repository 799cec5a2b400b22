"""A plan as JSON in the shape of OpenTofu's plan representation, for programs and policy tools.

Owns the format (`schemas/plan.schema.json`). Sensitive values are masked. Pure: the same plan gives the same
document, so there is no timestamp in it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from sandboxrun import __version__
from sandboxrun.model.option import Effect
from sandboxrun.plan.changes import Action, Change, Plan, Reason
from sandboxrun.plan.text import MASK, mask, redact, warnings
from sandboxrun.profile.inputs import MASK as INPUT_MASK
from sandboxrun.report.diagnostics import diagnostic_json

FORMAT_VERSION = "1.2"  # of OpenTofu's format; what is our own stands under `sandboxrun`, or is an additional key
PROVIDER = "sandboxrun"
ACTIONS: Mapping[Action, tuple[str, ...]] = {
    Action.NONE: ("no-op",),
    Action.CREATE: ("create",),
    Action.UPDATE: ("update",),
    Action.REPLACE: ("delete", "create"),
    Action.DELETE: ("delete",),
}
_ADDRESS = re.compile(r'(?P<name>.*?)(?:\["(?P<each>.*)"\])?(?: \(run (?P<run>[^()]*)\))?', re.DOTALL)
_UNREMARKABLE = frozenset(
    {Reason.NEW, Reason.BUILD, Reason.CHANGED, Reason.UP_TO_DATE}
)  # OpenTofu gives no reason here


def plan_json(plan: Plan) -> dict[str, Any]:
    """The document, as plain data."""
    declared = {_parts(c.address)["name"] for c in plan.changes if c.kind == "sandbox" and c.after is not None}
    add, change, destroy = plan.counts
    return {
        "format_version": FORMAT_VERSION,
        "sandboxrun_version": __version__,
        "variables": {name: {"value": _input(value, plan)} for name, value in plan.inputs.items()},
        "planned_values": {"root_module": {"resources": [_planned(c, plan) for c in plan.changes if _stays(c)]}},
        "resource_changes": [_resource_change(c, plan, declared) for c in plan.changes],
        "resource_drift": [_drift(c, plan) for c in plan.changes if c.drift],
        "applyable": not plan.empty,
        "complete": not plan.targeted,
        "errored": False,
        "summary": {"add": add, "change": change, "destroy": destroy},
        "sandboxrun": {
            "project": plan.project,
            "digest": plan.digest,
            "profile_digest": plan.profile_digest,
            "inputs_digest": plan.inputs_digest,
            "engine_id": plan.engine_id,
            "mode": "destroy" if plan.destroy else "refresh-only" if plan.refresh_only else "apply",
            "steps": [_step(step, plan) for step in plan.operations],
            "warnings": [diagnostic_json(warning) for warning in warnings(plan)],
        },
    }


def resource_of(kind: str, address: str) -> dict[str, Any]:
    """What names a resource: address, type, name, and index for one of a `for_each`.

    A container of `run` that lives beside the declared one is told from it by `deposed`, the run's id.
    """
    resource: dict[str, Any] = {"address": address, "mode": "managed", "type": f"sandboxrun_{kind}"}
    if kind != "sandbox":
        return {**resource, "name": address.removeprefix(f"{kind}."), "provider_name": PROVIDER}
    parts = _parts(address)
    resource["name"] = parts["name"]
    if parts["each"] is not None:
        resource["index"] = re.sub(r"\\(.)", r"\1", parts["each"], flags=re.DOTALL)
    resource["provider_name"] = PROVIDER
    if parts["run"] is not None:
        resource["address"] = address[: address.rindex(" (run ")]
        resource["deposed"] = parts["run"]
    return resource


def sensitive_parts(value: Any, masked: Any) -> Any:
    """The shape of `value` with true where it was masked, all else left out; False where nothing was."""
    match value:
        case Mapping():
            inner = {key: sensitive_parts(item, masked[key]) for key, item in value.items()}
            return {key: item for key, item in inner.items() if item not in (False, {}, [])}
        case list() | tuple():
            parts = [sensitive_parts(item, other) for item, other in zip(value, masked, strict=True)]
            return parts if any(part not in (False, {}, []) for part in parts) else []
    return masked == MASK and value != MASK


def _parts(address: str) -> dict[str, Any]:
    match = _ADDRESS.fullmatch(address)
    return match.groupdict() if match is not None else {"name": address, "each": None, "run": None}


def _input(value: Any, plan: Plan) -> Any:
    return MASK if value == INPUT_MASK else mask(value, plan.sensitive)


def _stays(change: Change) -> bool:
    return change.after is not None and change.action is not Action.DELETE


def _named(change: Change, plan: Plan) -> dict[str, Any]:
    return {key: redact(text, plan.sensitive) for key, text in resource_of(change.kind, change.address).items()}


def _planned(change: Change, plan: Plan) -> dict[str, Any]:
    values = mask(change.after, plan.sensitive)
    return {
        **_named(change, plan),
        "schema_version": 0,
        "values": values,
        "sensitive_values": sensitive_parts(change.after, values),
    }


def _resource_change(change: Change, plan: Plan, declared: set[str]) -> dict[str, Any]:
    before, after = change.before, change.after
    if change.action is Action.NONE:
        before = after = after if after is not None else before
    told = {**_named(change, plan), "change": _change(ACTIONS[change.action], before, after, plan)}
    paths = [[d.key] for d in change.differences if d.effect is Effect.REPLACE]
    if change.action is Action.REPLACE and paths:
        told["change"]["replace_paths"] = paths
    if change.reason not in _UNREMARKABLE:
        told["action_reason"] = _reason(change, declared)
    extra = {"engine_name": change.name, "engine_id": change.container, "note": change.note}
    told["sandboxrun"] = {key: redact(text, plan.sensitive) for key, text in extra.items() if text}
    return told


def _reason(change: Change, declared: Iterable[str]) -> str:
    """OpenTofu's word where it has one, ours otherwise."""
    match change.reason:
        case Reason.HALF_MADE:
            return "replace_because_tainted"
        case Reason.UNDECLARED if change.kind == "sandbox":
            parts = _parts(change.address)
            if parts["name"] in declared:
                return "delete_because_each_key" if parts["each"] is not None else "delete_because_wrong_repetition"
        case Reason.IMAGE_MOVED if change.action is Action.UPDATE:
            return "update_because_image_moved"
    return change.reason.value


def _drift(change: Change, plan: Plan) -> dict[str, Any]:
    """From what was applied to what the engine shows now."""
    live = change.before or {}
    applied = {**live, **{d.key: d.after for d in change.drift}}
    before = {key: value for key, value in applied.items() if value is not None}
    return {**_named(change, plan), "change": _change(("update",), before, live, plan)}


def _change(
    actions: Iterable[str], before: Mapping[str, Any] | None, after: Mapping[str, Any] | None, plan: Plan
) -> dict[str, Any]:
    told: dict[str, Any] = {"actions": list(actions)}
    sides = {"before": before, "after": after}
    masked = {side: mask(value, plan.sensitive) for side, value in sides.items()}
    told.update(masked)
    told["after_unknown"] = {}
    for side, value in sides.items():
        told[f"{side}_sensitive"] = sensitive_parts(value, masked[side])
    return told


def _step(step: Any, plan: Plan) -> dict[str, Any]:
    return {
        "id": redact(step.id, plan.sensitive),
        "address": redact(step.address, plan.sensitive),
        "cause": redact(step.cause, plan.sensitive),
        "needs": [redact(need, plan.sensitive) for need in step.needs],
    }
