"""A plan as text, in the conventions of OpenTofu: what a person reads before saying yes.

Owns the wording. Everything shown passes `printable` and the mask. Pure.
"""

from __future__ import annotations

import json
from typing import Any

from sandboxrun.errors import printable
from sandboxrun.model.option import Effect
from sandboxrun.model.spec import SandboxSpec
from sandboxrun.plan.changes import Action, Change, Plan, Reason
from sandboxrun.plan.diff import Difference, spec_plain

SYMBOL = {Action.CREATE: "+", Action.UPDATE: "~", Action.REPLACE: "-/+", Action.DELETE: "-", Action.NONE: " "}
VERB = {
    Action.CREATE: "will be created",
    Action.UPDATE: "will be updated in place",
    Action.REPLACE: "must be replaced",
    Action.DELETE: "will be torn down",
    Action.NONE: "is up to date",
}
MASK = "(sensitive value)"
DEFAULTS = spec_plain(SandboxSpec())
# What a reviewer looks for first, shown even at its default.
ALWAYS = frozenset({"image", "user", "mem_limit", "cpus", "pids_limit", "network_mode"})


def mask(value: Any, sensitive: frozenset[str]) -> Any:
    """`value` with every text that holds a sensitive one masked, at any depth."""
    match value:
        case str():
            return MASK if any(secret in value for secret in sensitive if secret) else value
        case list() | tuple():
            return [mask(item, sensitive) for item in value]
        case dict():
            return {key: mask(item, sensitive) for key, item in value.items()}
    return value


def plan_text(plan: Plan) -> str:
    """The whole plan: drift first, then every change, then the counts."""
    blocks = [_drift_text(plan)] if any(c.drift for c in plan.changes) else []
    if plan.refresh_only:
        return "\n\n".join([*blocks, "No changes are planned: this only looked." if blocks else "No drift."])
    blocks += [_change_text(change, plan) for change in plan.pending]
    done = [c for c in plan.changes if c.reason is Reason.DONE]
    if done:
        blocks.append("\n".join(f"  {c.address}: {c.note}" for c in done))
    blocks.append(summary(plan))
    return printable("\n\n".join(blocks))


def summary(plan: Plan) -> str:
    """The last line."""
    if plan.empty:
        return f"No changes. What runs matches the profile ({plan.project})."
    add, change, destroy = plan.counts
    return f"Plan: {add} to add, {change} to change, {destroy} to destroy."


def _drift_text(plan: Plan) -> str:
    lines = ["Changed outside sandboxrun:"]
    for change in plan.changes:
        if change.drift:
            lines.append(f"  {change.address}")
            lines += [f"      {_pair(d, plan, back=True)}" for d in change.drift]
    return "\n".join(lines)


def _pair(difference: Difference, plan: Plan, *, back: bool = False) -> str:
    before, after = (_show(v, plan) for v in (difference.before, difference.after))
    return f"{difference.key}: {after} -> {before}" if back else f"{difference.key}: {before} -> {after}"


def _change_text(change: Change, plan: Plan) -> str:
    note = f" ({change.note})" if change.note else ""
    lines = [f"  {SYMBOL[change.action]:>3} {change.kind} {change.address} {VERB[change.action]}{note}"]
    if change.differences:
        lines += [_difference_text(d, plan) for d in change.differences]
    elif change.action is Action.CREATE and change.kind == "sandbox":
        after = change.after or {}
        shown = {key: value for key, value in after.items() if key in ALWAYS or value != DEFAULTS.get(key)}
        lines += [f"          + {key}: {_show(value, plan)}" for key, value in shown.items()]
        lines += ["          # everything else at its closed default: sandboxrun render --defaults shows it"]
    return "\n".join(lines)


def _difference_text(difference: Difference, plan: Plan) -> str:
    remarks = ["forces replacement"] if difference.effect is Effect.REPLACE else []
    remarks += [difference.reason] if difference.reason else []
    remark = f"  # {', '.join(remarks)}" if remarks else ""
    return f"          ~ {_pair(difference, plan)}{remark}"


def _show(value: Any, plan: Plan) -> str:
    if value is None:
        return "(not set)"
    masked = mask(value, plan.sensitive)
    return masked if isinstance(masked, str) and masked == MASK else json.dumps(masked, ensure_ascii=False)
