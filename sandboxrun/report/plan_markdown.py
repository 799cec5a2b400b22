"""A plan as Markdown, for a pull request's comment.

Owns the layout, the bound on its length and the escaping: nothing that a profile or an agent wrote can close a
table, a code block or a `<details>`, start a link, or mention anybody. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from sandboxrun.plan.changes import Action, Change, Plan, Reason
from sandboxrun.plan.text import SYMBOL, drift_lines, label, one_line, option_lines, redact, summary, verb, why

LIMIT = 60_000  # characters; GitHub refuses a comment of more than 65 536
_LINE = 2_500  # characters of one option: two values that were cut already fit, and none crowds out the rest
_NOTES = 600  # kept for what says that something was cut
_PLAIN = re.compile(r"[A-Za-z0-9 ,=-]")


def plan_markdown(plan: Plan, *, title: str = "sandboxrun plan") -> str:
    """The comment: counts, a table of changes, drift, and the options behind `<details>`; within LIMIT characters.

    Its first line is a comment that names the project, by which a pipeline finds its own comment to replace it.
    """
    head = [
        f"<!-- sandboxrun plan {re.sub('-{2,}', '-', plan.project)} -->",
        f"### {escaped(title)}: {_code(plan.project)}",
        "",
        f"**{escaped(redact(summary(plan), plan.sensitive))}**",
        "",
    ]
    page = _Page("\n".join([*head, ""]))
    rows = _rows(plan)
    if rows:
        page.add("| | Resource | What happens | Why |\n| --- | --- | --- | --- |\n")
        left = page.add_each(rows)
        page.cut(left, "of the changes' lines")
        page.add("\n")
    _blocks(page, _drift_blocks(plan), "of the resources that drifted")
    _blocks(page, _all_details(plan), "of the changes' options")
    page.add(f"<sub>{_code(plan.digest)}</sub>\n")
    return page.text


def escaped(text: str) -> str:
    """`text` as literal text on one line: every character that could mean something is a character reference."""
    return "".join(c if _PLAIN.fullmatch(c) or ord(c) > 127 else _reference(c) for c in one_line(text))


def _reference(character: str) -> str:
    # Comments around it keep e-mail addresses from becoming links: those are looked for after references are read.
    return "<!-- -->&#64;<!-- -->" if character == "@" else f"&#{ord(character)};"


def _code(text: str) -> str:
    """`text` as code. In `<code>` GitHub looks for no mentions, issues or emoji."""
    return f"<code>{escaped(text)}</code>"


class _Page:
    """The text so far, and what still fits into it."""

    def __init__(self, head: str) -> None:
        self.text = head
        self._notes = 0

    def fits(self, more: str) -> bool:
        return len(self.text) + len(more) <= LIMIT - _NOTES

    def add(self, more: str) -> None:
        self.text += more

    def add_each(self, parts: Iterable[str]) -> int:
        """Add those that fit, up to the first that does not; how many were left out."""
        left = 0
        for part in parts:
            if left or not self.fits(part):
                left += 1
            else:
                self.add(part)
        return left

    def cut(self, left: int, of_what: str) -> None:
        if left:
            self.add(
                f"\n> **{left} {of_what} are left out here**: the comment would be too long. See the whole plan.\n"
            )


def _rows(plan: Plan) -> list[str]:
    told = [c for c in plan.changes if c.action is not Action.NONE or c.reason is Reason.DONE]
    return [_row(change, plan) for change in told] if not plan.refresh_only else []


def _row(change: Change, plan: Plan) -> str:
    done = change.reason is Reason.DONE
    name, happens = _code(_cut(label(change, plan.sensitive), 300)), "has run already" if done else verb(change)
    reason = escaped(_cut(_reason(change, plan), 300))
    return f"| {_code(SYMBOL[change.action]) if not done else ''} | {name} | {happens} | {reason} |\n"


def _reason(change: Change, plan: Plan) -> str:
    said = why(change, plan.sensitive)
    forcing = [d.key for d in change.differences if d.effect.value == "replace"]
    if change.action is Action.REPLACE and forcing:
        return "; ".join(filter(None, (said, f"{', '.join(forcing)} forces replacement")))
    changed = ", ".join(d.key for d in change.differences)
    return said or changed or ("declared, and not there" if change.reason is Reason.NEW else "")


def _blocks(page: _Page, blocks: Iterable[str], of_what: str) -> None:
    page.cut(page.add_each(blocks), of_what)


def _drift_blocks(plan: Plan) -> list[str]:
    drifted = [change for change in plan.changes if change.drift]
    if not drifted:
        return []
    blocks = [_drift(change, plan) for change in drifted]
    return [f"\n#### Changed outside sandboxrun since the last apply\n{blocks[0]}", *blocks[1:]]


def _drift(change: Change, plan: Plan) -> str:
    name = _code(_cut(label(change, plan.sensitive), 300))
    return f"\n{name}\n\n{fenced(_coloured(drift_lines(change, plan.sensitive)))}"


def _all_details(plan: Plan) -> list[str]:
    told = [(change, option_lines(change, plan.sensitive)) for change in plan.pending]
    return [_details(change, lines, plan) for change, lines in told if lines]


def _details(change: Change, lines: list[str], plan: Plan) -> str:
    name = _code(_cut(f"{SYMBOL[change.action]} {label(change, plan.sensitive)}", 300))
    summed = f"<summary>{name} {verb(change)}</summary>"
    return f"\n<details>{summed}\n\n{fenced(_coloured(lines))}\n</details>\n"


def _coloured(lines: Iterable[str]) -> list[str]:
    """The sign at the line's start, and `!` for a change: what a `diff` block has colours for."""
    return [re.sub("^( *)([-+!])", r"\2\1", re.sub("^( *)~", r"\1!", line)) for line in lines]


def fenced(lines: Iterable[str]) -> str:
    """A code block that nothing in it can close."""
    cut = [_cut(one_line(line), _LINE) for line in lines]
    longest = max((len(run) for line in cut for run in re.findall("`+", line)), default=0)
    fence = "`" * max(3, longest + 1)
    return "\n".join([f"{fence}diff", *cut, fence, ""])


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else f"{text[:limit]} … ({len(text)} characters, cut here)"
