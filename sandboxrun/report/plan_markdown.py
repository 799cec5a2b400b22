"""A plan as Markdown, for a pull request's comment.

Owns the layout. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from sandboxrun.plan.changes import Action, Change, Plan, Reason
from sandboxrun.plan.text import SYMBOL, drift_lines, label, option_lines, redact, summary, verb, warnings, why
from sandboxrun.report.markdown import Page, code, cut, escaped, fenced


def plan_markdown(plan: Plan, *, title: str = "sandboxrun plan") -> str:
    """The comment: counts, a table of changes, drift, and the options behind `<details>`; within LIMIT characters.

    Its first line is a comment that names the project, by which a pipeline finds its own comment to replace it.
    """
    head = [
        f"<!-- sandboxrun plan {re.sub('-{2,}', '-', plan.project)} -->",
        f"### {escaped(title)}: {code(plan.project)}",
        "",
        f"**{escaped(redact(summary(plan), plan.sensitive))}**",
        "",
    ]
    page = Page("\n".join([*head, ""]), whole="the whole plan")
    rows = _rows(plan)
    if rows:
        page.add("| | Resource | What happens | Why |\n| --- | --- | --- | --- |\n")
        left = page.add_each(rows)
        page.cut(left, "of the changes' lines")
        page.add("\n")
    page.cut(page.add_each(_warnings(plan)), "of the warnings")
    _blocks(page, _drift_blocks(plan), "of the resources that drifted")
    _blocks(page, _all_details(plan), "of the changes' options")
    page.add(f"<sub>{code(plan.digest)}</sub>\n")
    return page.text


def _warnings(plan: Plan) -> list[str]:
    told = [f"- {escaped(cut(warning.message, 600))}\n" for warning in warnings(plan)]
    return ["\n#### Warnings\n\n", *told, "\n"] if told else []


def _rows(plan: Plan) -> list[str]:
    told = [c for c in plan.changes if c.action is not Action.NONE or c.reason is Reason.DONE]
    return [_row(change, plan) for change in told] if not plan.refresh_only else []


def _row(change: Change, plan: Plan) -> str:
    done = change.reason is Reason.DONE
    name, happens = code(cut(label(change, plan.sensitive), 300)), "has run already" if done else verb(change)
    reason = escaped(cut(_reason(change, plan), 300))
    return f"| {code(SYMBOL[change.action]) if not done else ''} | {name} | {happens} | {reason} |\n"


def _reason(change: Change, plan: Plan) -> str:
    said = why(change, plan.sensitive)
    forcing = [d.key for d in change.differences if d.effect.value == "replace"]
    if change.action is Action.REPLACE and forcing:
        return "; ".join(filter(None, (said, f"{', '.join(forcing)} forces replacement")))
    changed = ", ".join(d.key for d in change.differences)
    return said or changed or ("declared, and not there" if change.reason is Reason.NEW else "")


def _blocks(page: Page, blocks: Iterable[str], of_what: str) -> None:
    page.cut(page.add_each(blocks), of_what)


def _drift_blocks(plan: Plan) -> list[str]:
    drifted = [change for change in plan.changes if change.drift]
    if not drifted:
        return []
    blocks = [_drift(change, plan) for change in drifted]
    return [f"\n#### Changed outside sandboxrun since the last apply\n{blocks[0]}", *blocks[1:]]


def _drift(change: Change, plan: Plan) -> str:
    name = code(cut(label(change, plan.sensitive), 300))
    return f"\n{name}\n\n{fenced(_coloured(drift_lines(change, plan.sensitive)))}"


def _all_details(plan: Plan) -> list[str]:
    told = [(change, option_lines(change, plan.sensitive)) for change in plan.pending]
    return [_details(change, lines, plan) for change, lines in told if lines]


def _details(change: Change, lines: list[str], plan: Plan) -> str:
    name = code(cut(f"{SYMBOL[change.action]} {label(change, plan.sensitive)}", 300))
    summed = f"<summary>{name} {verb(change)}</summary>"
    return f"\n<details>{summed}\n\n{fenced(_coloured(lines))}\n</details>\n"


def _coloured(lines: Iterable[str]) -> list[str]:
    """The sign at the line's start, and `!` for a change: what a `diff` block has colours for."""
    return [re.sub("^( *)([-+!])", r"\2\1", re.sub("^( *)~", r"\1!", line)) for line in lines]
