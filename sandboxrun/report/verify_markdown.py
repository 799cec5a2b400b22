"""A verification as Markdown, for a pull request's comment.

Owns the layout. Escaping and the bound on the length are those of a plan's comment. Pure.
"""

from __future__ import annotations

import re

from sandboxrun.probe.findings import Finding, Verdict
from sandboxrun.report.markdown import Page, code, cut, escaped
from sandboxrun.report.verify import Report, counted, ended

_CELL = 300
_HEAD = "| | Control | Engine field | Expected | Seen |\n| --- | --- | --- | --- | --- |\n"
_SIGNS = {Verdict.HOLDS: "holds", Verdict.FAILS: "**does not hold**", Verdict.INCONCLUSIVE: "**inconclusive**"}


def verify_markdown(report: Report) -> str:
    """The comment: the counts, what does not hold and what to do, and every control behind `<details>`.

    Its first line is a comment that names the project, by which a pipeline finds its own comment to replace it.
    """
    outcome = "all that was looked at holds" if report.verified else "not verified"
    head = [
        f"<!-- sandboxrun verify {re.sub('-{2,}', '-', report.project)} -->",
        f"### {escaped('sandboxrun verify --running' if report.running else 'sandboxrun verify')}: "
        f"{code(report.project)}",
        "",
        f"**{escaped(outcome)}**: {escaped(ended(report))}",
        "",
    ]
    page = Page("\n".join([*head, ""]), whole="the job's log")
    if report.faults:
        page.add("| | Sandbox | Control | Expected | Seen | What to do |\n| --- | --- | --- | --- | --- | --- |\n")
        page.cut(page.add_each(_fault(fault, report) for fault in report.faults), "of the faults' lines")
        page.add("\n")
    blocks = [_details(name, found, report) for name, found in report.sandboxes.items()]
    page.cut(page.add_each(blocks), "of the sandboxes' tables")
    return page.text


def _cell(text: str, report: Report) -> str:
    told = cut(report.told(text), _CELL)
    return escaped(told) if told else ""


def _fault(finding: Finding, report: Report) -> str:
    cells = [_cell(text, report) for text in (finding.expected, finding.seen)]
    do = "; ".join(filter(None, (report.told(finding.note), report.advice(finding))))
    name, control = code(cut(report.told(finding.sandbox), _CELL)), code(cut(report.told(finding.control), _CELL))
    return f"| {_SIGNS[finding.verdict]} | {name} | {control} | {' | '.join(cells)} | {escaped(cut(do, 600))} |\n"


def _details(name: str, found: tuple[Finding, ...], report: Report) -> str:
    rows = "".join(_row(finding, report) for finding in found)
    summary = f"<summary>{code(cut(report.told(name), _CELL))}: {escaped(counted(found))}</summary>"
    return f"\n<details>{summary}\n\n{_HEAD}{rows}\n</details>\n"


def _row(finding: Finding, report: Report) -> str:
    sign = _SIGNS.get(finding.verdict, finding.verdict.value)
    texts = (finding.field, finding.expected, "; ".join(filter(None, (finding.seen, finding.note))))
    cells = " | ".join(_cell(text, report) for text in texts)
    return f"| {sign} | {code(cut(report.told(finding.control), _CELL))} | {cells} |\n"
