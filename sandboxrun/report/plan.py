"""A plan as Markdown, for a pull request's comment, and as JSON in the shape of OpenTofu's, for policy tools."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from msgspec import to_builtins

from sandboxrun import __version__
from sandboxrun.errors import mask, redact
from sandboxrun.plan import text
from sandboxrun.plan.changes import Action, Change, Plan, Reason
from sandboxrun.report.diagnostics import diagnostic_json
from sandboxrun.report.markdown import Page, code, cut, escaped, fenced
from sandboxrun.spec.option import Effect

# -- A plan as Markdown, for a pull request's comment


def plan_markdown(plan: Plan) -> str:
    """The comment: counts, a table of changes, drift, and the options behind `<details>`; within LIMIT characters.

    Its first line is a comment that names the project, by which a pipeline finds its own comment to replace it.
    """
    title = [
        f"<!-- sandboxrun plan {re.sub('-{2,}', '-', plan.project)} -->",
        f"### {escaped('sandboxrun plan')}: {code(plan.project)}",
        "",
        f"**{escaped(redact(text.summary(plan), plan.sensitive))}**",
        "",
    ]
    page = Page("\n".join([*title, ""]), whole="the whole plan")
    told = [c for c in plan.changes if c.action is not Action.NONE or c.reason in (Reason.DONE, Reason.KEPT)]
    if told and not plan.refresh_only:
        page.add("| | Resource | What happens | Why |\n| --- | --- | --- | --- |\n")
        page.add_each((_row(change, plan) for change in told), "of the changes' lines")
        page.add("\n")
    for head, lines, of_what in (
        ("More open than the defaults", text.openings(plan), "of what is open"),
        ("Widens what sandboxes may do", text.widenings(plan), "of the widenings"),
        ("Warnings", [warning.message for warning in text.warnings(plan)], "of the warnings"),
    ):
        listed = [f"- {escaped(cut(redact(line, plan.sensitive), 600))}\n" for line in lines]
        page.add_each([f"\n#### {head}\n\n", *listed, "\n"] if listed else [], of_what)
    drifted = [
        f"\n{_name(text.label(change, plan.sensitive))}\n\n"
        + fenced(_coloured(text.drift_lines(change, plan.sensitive)))
        for change in plan.changes
        if change.drift
    ]
    drifted[:1] = [f"\n#### Changed outside sandboxrun since the last apply\n{first}" for first in drifted[:1]]
    page.add_each(drifted, "of the resources that drifted")
    details = [
        f"\n<details><summary>{_name(f'{text.SYMBOL[change.action]} {text.label(change, plan.sensitive)}')} "
        f"{text.verb(change)}</summary>\n\n{fenced(_coloured(lines))}\n</details>\n"
        for change in plan.pending
        if (lines := text.option_lines(change, plan.sensitive))
    ]
    page.add_each(details, "of the changes' options")
    page.add(f"<sub>{code(plan.digest)}</sub>\n")
    return page.text


def _name(named: str) -> str:
    return code(cut(named, 300))


def _row(change: Change, plan: Plan) -> str:
    done = change.reason is Reason.DONE
    reason = text.why(change, plan.sensitive)
    forcing = [d.key for d in change.differences if d.effect is Effect.REPLACE]
    if change.action is Action.REPLACE and forcing:
        reason = "; ".join(filter(None, (reason, f"{', '.join(forcing)} forces replacement")))
    elif not reason:
        changed = ", ".join(d.key for d in change.differences)
        reason = changed or ("declared, and not there" if change.reason is Reason.NEW else "")
    sign, happens = (
        ("", "has run already" if done else "is kept")
        if change.action is Action.NONE
        else (code(text.SYMBOL[change.action]), text.verb(change))
    )
    return f"| {sign} | {_name(text.label(change, plan.sensitive))} | {happens} | {escaped(cut(reason, 300))} |\n"


def _coloured(lines: Iterable[str]) -> list[str]:
    """The sign at the line's start, and `!` for a change: what a `diff` block has colours for."""
    return [re.sub("^( *)([-+!])", r"\2\1", re.sub("^( *)~", r"\1!", line)) for line in lines]


# -- A plan as JSON in the shape of OpenTofu's plan representation, for programs and policy tools

FORMAT_VERSION = "1.2"  # of OpenTofu's format; what is our own is under `sandboxrun`, or is an additional key
PROVIDER = "sandboxrun"
ACTIONS: Mapping[Action, tuple[str, ...]] = {
    Action.NONE: ("no-op",),
    Action.CREATE: ("create",),
    Action.UPDATE: ("update",),
    Action.REPLACE: ("delete", "create"),
    Action.DELETE: ("delete",),
    Action.KEEP: ("forget",),  # what it is for is over, and it is not destroyed
}
_ADDRESS = re.compile(r'(?P<name>.*?)(?:\["(?P<each>.*)"\])?(?: \(run (?P<run>[^()]*)\))?', re.DOTALL)
_UNREMARKABLE = (Reason.NEW, Reason.BUILD, Reason.CHANGED, Reason.UP_TO_DATE)  # OpenTofu gives no reason here


def plan_json(plan: Plan) -> dict[str, Any]:
    """The document, as plain data."""
    declared = {_parts(c.address)["name"] for c in plan.changes if c.kind == "sandbox" and c.after is not None}
    planned = [
        {
            **_named(change, plan),
            "schema_version": 0,
            "values": _masked(change.after, plan),
            "sensitive_values": sensitive_parts(change.after, plan.sensitive),
        }
        for change in plan.changes
        if change.after is not None and change.action is not Action.DELETE
    ]
    add, change, destroy = plan.counts
    return {
        "format_version": FORMAT_VERSION,
        "sandboxrun_version": __version__,
        "variables": {name: {"value": mask(value, plan.sensitive)} for name, value in plan.inputs.items()},
        "planned_values": {"root_module": {"resources": planned}},
        "resource_changes": [_resource_change(c, plan, declared) for c in plan.changes],
        "resource_drift": [_drift_plan_json(c, plan) for c in plan.changes if c.drift],
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
            "steps": [
                {
                    **{key: redact(getattr(step, key), plan.sensitive) for key in ("id", "address", "cause")},
                    "needs": [redact(need, plan.sensitive) for need in step.needs],
                }
                for step in plan.operations
            ],
            "warnings": [diagnostic_json(warning) for warning in text.warnings(plan)],
            "widenings": [mask(to_builtins(widened), plan.sensitive, whole=False) for widened in text.widened_by(plan)],
        },
    }


def resource_of(kind: str, address: str) -> dict[str, Any]:
    """What names a resource: address, type, name, and index for one of a `for_each`.

    A container of `run` that lives beside the declared one is distinguished from it by `deposed`, the run's id.
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


def sensitive_parts(value: Any, sensitive: frozenset[str]) -> Any:
    """The shape of `value` with true where it is masked, all else left out; False where nothing is."""
    match value:
        case Mapping():
            inner = {redact(str(key), sensitive): sensitive_parts(item, sensitive) for key, item in value.items()}
            return {key: item for key, item in inner.items() if item not in (False, {}, [])}
        case list() | tuple():
            parts = [sensitive_parts(item, sensitive) for item in value]
            return parts if any(part not in (False, {}, []) for part in parts) else []
    return mask(value, sensitive) != value


def _masked(options: Mapping[str, Any] | None, plan: Plan) -> dict[str, Any] | None:
    """Options with their sensitive values masked. Their own names are never hidden: a policy reads them."""
    return None if options is None else {key: mask(value, plan.sensitive) for key, value in options.items()}


def _parts(address: str) -> dict[str, Any]:
    match = _ADDRESS.fullmatch(address)
    return match.groupdict() if match is not None else {"name": address, "each": None, "run": None}


def _named(change: Change, plan: Plan) -> dict[str, Any]:
    return {key: redact(value, plan.sensitive) for key, value in resource_of(change.kind, change.address).items()}


def _resource_change(change: Change, plan: Plan, declared: set[str]) -> dict[str, Any]:
    before, after = change.before, change.after
    if change.action is Action.NONE:
        before = after = after if after is not None else before
    told = {**_named(change, plan), "change": _change(ACTIONS[change.action], before, after, plan)}
    paths = [[d.key] for d in change.differences if d.effect is Effect.REPLACE]
    if change.action is Action.REPLACE and paths:
        told["change"]["replace_paths"] = paths
    if change.reason not in _UNREMARKABLE:
        told["action_reason"] = _reason_plan_json(change, declared)
    extra = {"engine_name": change.name, "engine_id": change.container, "note": change.note}
    told["sandboxrun"] = {key: redact(value, plan.sensitive) for key, value in extra.items() if value}
    return told


def _reason_plan_json(change: Change, declared: Iterable[str]) -> str:
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


def _drift_plan_json(change: Change, plan: Plan) -> dict[str, Any]:
    """From what was applied to what the engine shows now."""
    live = change.before or {}
    applied = {**live, **{d.key: d.after for d in change.drift}}
    before = {key: value for key, value in applied.items() if value is not None}
    return {**_named(change, plan), "change": _change(("update",), before, live, plan)}


def _change(
    actions: Iterable[str], before: Mapping[str, Any] | None, after: Mapping[str, Any] | None, plan: Plan
) -> dict[str, Any]:
    return {
        "actions": list(actions),
        "before": _masked(before, plan),
        "after": _masked(after, plan),
        "after_unknown": {},
        "before_sensitive": sensitive_parts(before, plan.sensitive),
        "after_sensitive": sensitive_parts(after, plan.sensitive),
    }
