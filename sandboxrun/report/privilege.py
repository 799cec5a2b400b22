"""A privilege diff as text, JSON and Markdown, and as findings at the changed lines for all other formats.

Owns these forms.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sandboxrun.audit.diff import PrivilegeDiff
from sandboxrun.audit.finding import AuditFinding
from sandboxrun.audit.rules.meta import WIDENED
from sandboxrun.errors import amount, few, one_line, printable
from sandboxrun.report.markdown import Page, escaped, place_of
from sandboxrun.spec.privilege import Way

_MARKS = {Way.WIDENED: "+", Way.MAYBE: "?", Way.NARROWED: "-"}


def diff_text(diff: PrivilegeDiff) -> str:
    """A line a change, the gravest first, with its place and how many sandboxes it is about; then a summary."""
    lines = []
    for change in diff.changes:
        where = f"  {change.span}" if change.span is not None else ""
        count = f" ({len(change.sandboxes)} sandboxes)" if len(change.sandboxes) > 1 else ""
        mark = f"{_MARKS[change.way]} {change.way.value:<8}"
        who = f"{one_line(few(change.sandboxes, 3))}{count}"
        lines.append(f"{mark} {change.axis}: {who} {one_line(change.witness)}{printable(where)}")
    return "\n".join([*lines, summary(diff)]) + "\n"


def summary(diff: PrivilegeDiff) -> str:
    """The last line."""
    if not diff.changes:
        return f"Privileges: unchanged, in {amount(len(diff.sandboxes), 'sandbox', 'es')}."
    counts = {way: sum(change.way is way for change in diff.changes) for way in _MARKS}
    words = {Way.WIDENED: "widened", Way.MAYBE: "maybe", Way.NARROWED: "narrowed"}
    return "Privileges: " + ", ".join(f"{counts[way]} {words[way]}" for way in _MARKS) + "."


def diff_json(diff: PrivilegeDiff) -> dict[str, Any]:
    """The same as data, and the verdict per sandbox and axis."""
    changes = []
    for change in diff.changes:
        told: dict[str, Any] = {
            "verdict": change.way.value,
            "axis": change.axis,
            "witness": printable(change.witness),
            "sandboxes": list(change.sandboxes),
            "option": change.key,
        }
        if change.span is not None:
            told["place"] = {"file": change.span.file.name, "line": change.span.line, "column": change.span.column}
        changes.append(told)
    return {
        "format_version": "1.0",
        "widens": diff.widens,
        "changes": changes,
        "sandboxes": {name: {axis: way.value for axis, way in row.items()} for name, row in diff.by_axis().items()},
    }


def diff_markdown(diff: PrivilegeDiff) -> str:
    """A table for a comment on a pull request, as long as one may be."""
    page = Page(f"### {escaped(summary(diff))}\n\n", whole="sandboxrun diff")
    if diff.changes:
        page.add("| verdict | axis | where | sandboxes | what |\n| --- | --- | --- | --- | --- |\n")
    rows = [
        f"| {c.way.value} | {c.axis} | {place_of(c.span)} | {escaped(few(c.sandboxes, 3))} | {escaped(c.witness)} |\n"
        for c in diff.changes
    ]
    page.add_each(rows, "of the changes")
    return page.text


def widenings(diff: PrivilegeDiff) -> Iterator[AuditFinding]:
    """What widens or may widen, as findings where it is written: for annotations and code scanning."""
    for change in diff.changes:
        if change.way in (Way.WIDENED, Way.MAYBE):
            yield AuditFinding(
                rule=WIDENED.id,
                title=WIDENED.title,
                severity=WIDENED.severity,
                message=f"{change.way.value} {change.axis}: {change.witness}",
                key=change.key,
                subjects=change.sandboxes,
                span=change.span,
                home=change.span,
                help=WIDENED.fix,
            )
