"""A verification as text: a table a sandbox, what to do about each fault, the counts.

Owns the layout, and the colours where they are wanted. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable

from sandboxrun.probe.findings import Finding, Verdict
from sandboxrun.report.table import columns, table
from sandboxrun.report.verify import Report, counted, ended

_HEADS = ("CONTROL", "ENGINE FIELD", "EXPECTED", "SEEN", "VERDICT")
_CELL = 48  # columns of one cell of a table; what does not fit is told whole below it, and in the other forms
_SHADES = {Verdict.FAILS: "\x1b[1;31m", Verdict.INCONCLUSIVE: "\x1b[1;33m", Verdict.HOLDS: "\x1b[32m"}
_BOLD, _DIM, _RESET = "\x1b[1m", "\x1b[2m", "\x1b[0m"


def verify_text(report: Report, *, width: int | None = None, colour: bool = False) -> str:
    """The whole report. `width`: columns of the terminal, where there is one: what is wider becomes a list."""
    blocks = [_sandbox(name, found, report, width, colour) for name, found in report.sandboxes.items()]
    if report.faults:
        blocks.append("\n".join(line for fault in report.faults for line in _fault(fault, report)))
    last = ended(report)
    shade = "" if not colour else _SHADES[Verdict.HOLDS] if report.verified else _SHADES[Verdict.FAILS]
    return "\n\n".join([*blocks, f"{shade}{last}{_RESET}" if shade else last])


def _sandbox(name: str, found: tuple[Finding, ...], report: Report, width: int | None, colour: bool) -> str:
    head = f"{report.told(name)}: {counted(found)}"
    rows = [_row(finding, report) for finding in found]
    body = table(_HEADS, rows)
    lines = body.split("\n")
    if width is not None and max(map(columns, lines)) > width:
        lines = [line for finding in found for line in _listed(finding, report)]
        painted = lines if not colour else [_painted_item(line, found) for line in lines]
    else:
        painted = lines if not colour else [f"{_DIM}{lines[0]}{_RESET}", *_painted_rows(lines[1:], found)]
    return "\n".join([f"{_BOLD}{head}{_RESET}" if colour else head, *painted])


def _row(finding: Finding, report: Report) -> tuple[str, ...]:
    cells = (finding.control, finding.field, finding.expected, finding.seen)
    return (*(_cut(report.told(cell)) for cell in cells), _cut(_verdict(finding, report), 2 * _CELL))


def _verdict(finding: Finding, report: Report) -> str:
    note = report.told(finding.note)
    return f"{finding.verdict.value}: {note}" if note else finding.verdict.value


def _cut(text: str, most: int = _CELL) -> str:
    if columns(text) <= most:
        return text
    while columns(text) >= most:
        text = text[:-1]
    return f"{text}…"


def _listed(finding: Finding, report: Report) -> list[str]:
    """A finding on lines of its own, for a terminal that has no room for the table."""
    lines = [f"{_mark(finding)} {report.told(finding.control)}: {_verdict(finding, report)}"]
    if finding.verdict is not Verdict.NOT_APPLICABLE:
        lines.append(f"    expected {report.told(finding.expected) or '-'}, seen {report.told(finding.seen) or '-'}")
    return lines


def _mark(finding: Finding) -> str:
    return {Verdict.HOLDS: "+", Verdict.FAILS: "!", Verdict.INCONCLUSIVE: "?", Verdict.NOT_APPLICABLE: "-"}[
        finding.verdict
    ]


def _painted_rows(lines: Iterable[str], found: Iterable[Finding]) -> list[str]:
    return [_painted(line, finding.verdict) for line, finding in zip(lines, found, strict=True)]


def _painted_item(line: str, found: tuple[Finding, ...]) -> str:
    shown = next((f.verdict for f in found if line.startswith(f"{_mark(f)} ")), None)
    return line if shown is None else _painted(line, shown)


def _painted(line: str, verdict: Verdict) -> str:
    shade = _SHADES.get(verdict, _DIM)
    return f"{shade}{line}{_RESET}"


def _fault(finding: Finding, report: Report) -> list[str]:
    """What is wrong, whole, and what to do."""
    name, control = report.told(finding.sandbox), report.told(finding.control)
    lines = [f"{name}, {control}: {finding.verdict.value} ({report.told(finding.title)})"]
    lines.append(f"    expected: {report.told(finding.expected) or '-'}")
    lines.append(f"    seen:     {report.told(finding.seen) or '-'}")
    if finding.note:
        lines.append(f"    note:     {report.told(finding.note)}")
    return [*lines, f"    to do:    {report.advice(finding)}"]
