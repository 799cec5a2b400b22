"""A verification's findings: counted, in order, masked, with what to do; as a table, as JSON, as Markdown.

Pure.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from itertools import groupby
from typing import Any

from sandboxrun import __version__
from sandboxrun.data import Data
from sandboxrun.errors import one_line, redact
from sandboxrun.plan.text import opened
from sandboxrun.probe.outside import OPEN
from sandboxrun.probe.verdicts import Finding, Verdict
from sandboxrun.report.markdown import Page, code, cut, escaped
from sandboxrun.report.table import columns, table
from sandboxrun.spec.project import Profile
from sandboxrun.spec.types import freeze

# -- A verification's findings, ready to be shown: counted, in order, masked, and with what to do

LONGEST = 1000  # characters of what was seen: the rest is in nobody's interest but an attacker's
# What matters first.
ORDER = (Verdict.FAILS, Verdict.INCONCLUSIVE, Verdict.HOLDS, Verdict.NOT_APPLICABLE)
_WORDS = {
    Verdict.HOLDS: ("holds", "hold"),
    Verdict.FAILS: ("does not hold", "do not hold"),
    Verdict.INCONCLUSIVE: ("inconclusive", "inconclusive"),
    Verdict.NOT_APPLICABLE: ("not applicable", "not applicable"),
}


class Report(Data, unshown=("sensitive",)):
    """What a verification found of a project. `running`: live sandboxes were looked at from outside; else the probe
    ran in each. `opened` is what the profile opens that the defaults don't, a sentence each, by sandbox."""

    project: str
    findings: tuple[Finding, ...]
    running: bool = False
    sensitive: frozenset[str] = frozenset()
    opened: Mapping[str, tuple[str, ...]] = freeze({})

    @classmethod
    def of(cls, profile: Profile, findings: tuple[Finding, ...], *, running: bool) -> Report:
        """What was found of a profile's sandboxes."""
        declared = {name: profile.sandbox(_address(name)) for name in dict.fromkeys(f.sandbox for f in findings)}
        return cls(
            project=profile.project,
            findings=findings,
            running=running,
            sensitive=profile.sensitive,
            opened=freeze({name: opened(one.spec) for name, one in declared.items() if one is not None}),
        )

    @property
    def verified(self) -> bool:
        """Whether all holds: what is inconclusive does not count, and nothing found is nothing verified."""
        return bool(self.findings) and all(finding.verdict.passes for finding in self.findings)

    @property
    def sandboxes(self) -> Mapping[str, tuple[Finding, ...]]:
        """The findings by sandbox, in the order of the first of each; what matters first, and of what holds that which
        the profile itself opens."""
        order = list(dict.fromkeys(finding.sandbox for finding in self.findings))
        named = sorted(
            self.findings, key=lambda f: (order.index(f.sandbox), ORDER.index(f.verdict), not f.note.startswith(OPEN))
        )
        return {name: tuple(group) for name, group in groupby(named, key=lambda f: f.sandbox)}

    @property
    def faults(self) -> tuple[Finding, ...]:
        """Those that do not hold or are inconclusive, by sandbox."""
        return tuple(f for group in self.sandboxes.values() for f in group if not f.verdict.passes)

    def masked(self, text: str) -> str:
        """A text as it may be shown: masked, on one line, bounded."""
        cut = text if len(text) <= LONGEST else f"{text[:LONGEST]}… ({len(text)} characters)"
        return one_line(redact(cut, self.sensitive))

    def advice(self, finding: Finding) -> str:
        """What to do about one that does not hold or is inconclusive; "" for others."""
        control = self.masked(finding.control)
        match finding.verdict:
            case Verdict.HOLDS | Verdict.NOT_APPLICABLE:
                return ""
            case Verdict.INCONCLUSIVE:
                return f"what is unknown counts as not enforced; docs/verify.md explains how {control} is seen"
            case Verdict.FAILS if self.running:
                name = _address(finding.sandbox)
                return self.masked(
                    f"what runs does not match the profile: run `sandboxrun apply --replace {name}` to replace it"
                )
            case _:
                return (
                    f"the engine does not enforce it: `sandboxrun doctor` shows what it offers, docs/verify.md how "
                    f"{control} is seen"
                )


def _address(sandbox: str) -> str:
    """The address of a finding's sandbox, which may be followed by a run."""
    return sandbox.partition(" (run ")[0]


def counts(findings: Iterable[Finding]) -> Mapping[Verdict, int]:
    """How many of each verdict."""
    every = [finding.verdict for finding in findings]
    return {verdict: every.count(verdict) for verdict in _WORDS}


def counted(findings: Iterable[Finding]) -> str:
    """The counts in words: `31 hold, 0 do not hold, 1 inconclusive, 4 not applicable`."""
    found = counts(findings)
    return ", ".join(f"{count} {_WORDS[verdict][count != 1]}" for verdict, count in found.items())


def ended(report: Report) -> str:
    """The last line."""
    return f"{counted(report.findings)} ({report.project})"


# -- A verification as text: a table a sandbox, what to do about each fault, the counts

_OPENED = "The profile opens what the defaults close:"
_HEADS = ("CONTROL", "ENGINE FIELD", "EXPECTED", "SEEN", "VERDICT")
_CELL = 48  # columns of one cell of a table; what does not fit is shown whole below it, and in the other forms
_SHADES = {Verdict.FAILS: "\x1b[1;31m", Verdict.INCONCLUSIVE: "\x1b[1;33m", Verdict.HOLDS: "\x1b[32m"}
_MARKS = {Verdict.HOLDS: "+", Verdict.FAILS: "!", Verdict.INCONCLUSIVE: "?", Verdict.NOT_APPLICABLE: "-"}
_BOLD, _DIM, _RESET = "\x1b[1m", "\x1b[2m", "\x1b[0m"


def verify_text(report: Report, *, width: int | None = None, colour: bool = False) -> str:
    """The whole report. `width`: columns of the terminal, where there is one: what is wider becomes a list."""

    def painted(text: str, shade: str) -> str:
        return f"{shade}{text}{_RESET}" if colour else text

    opened = [f"  ! {report.masked(f'{name} {said}')}" for name, every in report.opened.items() for said in every]
    blocks = ["\n".join([painted(_OPENED, _BOLD), *(painted(line, "\x1b[1;33m") for line in opened)])] if opened else []
    for name, found in report.sandboxes.items():
        cells = [[*map(report.masked, (f.control, f.field, f.expected, f.seen))] for f in found]
        last = [_cut(_verdict(finding, report), 2 * _CELL) for finding in found]
        every = [(*map(_cut, row), verdict) for row, verdict in zip(cells, last, strict=True)]
        head, *rows = table(_HEADS, every).split("\n")
        listed = width is not None and max(map(columns, (head, *rows))) > width
        body = [] if listed else [painted(head, _DIM)]
        for finding, row, (control, _, expected, seen) in zip(found, rows, cells, strict=True):
            if listed:
                row = f"{_MARKS[finding.verdict]} {control}: {_verdict(finding, report)}"
            body.append(painted(row, _SHADES.get(finding.verdict, _DIM)))
            if listed and finding.verdict is not Verdict.NOT_APPLICABLE:
                body.append(f"    expected {expected or '-'}, seen {seen or '-'}")
        blocks.append("\n".join([painted(f"{report.masked(name)}: {counted(found)}", _BOLD), *body]))
    lines = []  # what is wrong, whole, and what to do
    for f in report.faults:
        name, control, title = map(report.masked, (f.sandbox, f.control, f.title))
        lines.append(f"{name}, {control}: {f.verdict.value} ({title})")
        lines.append(f"    expected: {report.masked(f.expected) or '-'}")
        lines.append(f"    seen:     {report.masked(f.seen) or '-'}")
        lines += [f"    note:     {report.masked(f.note)}"] if f.note else []
        lines.append(f"    to do:    {report.advice(f)}")
    blocks += ["\n".join(lines)] if lines else []
    blocks.append(painted(ended(report), _SHADES[Verdict.HOLDS if report.verified else Verdict.FAILS]))
    return "\n\n".join(blocks)


def _verdict(finding: Finding, report: Report) -> str:
    note = report.masked(finding.note)
    return f"{finding.verdict.value}: {note}" if note else finding.verdict.value


def _cut(text: str, most: int = _CELL) -> str:
    if columns(text) <= most:
        return text
    while columns(text) >= most:
        text = text[:-1]
    return f"{text}…"


# -- A verification as JSON, for programs. Owns the format (`schemas/verify.schema.json`). Pure

FORMAT_VERSION = "1.1"
_SHOWN = ("control", "title", "field", "expected", "seen")


def verify_json(report: Report) -> dict[str, Any]:
    """The document, as plain data. Control characters of what was seen are written out: it may be printed."""
    return {
        "format_version": FORMAT_VERSION,
        "sandboxrun_version": __version__,
        "project": report.project,
        "mode": "running" if report.running else "probe",
        "verified": report.verified,
        "summary": _summary(report.findings),
        "sandboxes": [
            {
                "sandbox": report.masked(name),
                "verified": all(finding.verdict.passes for finding in found),
                "summary": _summary(found),
                "opened": [report.masked(said) for said in report.opened.get(name, ())],
                "findings": [
                    {
                        **{key: report.masked(getattr(finding, key)) for key in _SHOWN},
                        "verdict": _word(finding.verdict.value),
                        "note": report.masked(finding.note),
                        "advice": report.advice(finding),
                    }
                    for finding in found
                ],
            }
            for name, found in report.sandboxes.items()
        ],
    }


def _summary(findings: Iterable[Finding]) -> dict[str, int]:
    return {_word(verdict.value): count for verdict, count in counts(findings).items()}


def _word(text: str) -> str:
    return text.replace(" ", "_")


# -- A verification as Markdown, for a pull request's comment

_LONG_CELL = 300
_HEAD = "| | Control | Engine field | Expected | Seen |\n| --- | --- | --- | --- | --- |\n"
_SIGNS = {Verdict.HOLDS: "holds", Verdict.FAILS: "**does not hold**", Verdict.INCONCLUSIVE: "**inconclusive**"}


def verify_markdown(report: Report) -> str:
    """The comment: the counts, what does not hold and what to do, and every control behind `<details>`.

    Its first line is a comment that names the project, by which a pipeline finds its own comment to replace it.
    """
    outcome = "everything checked holds" if report.verified else "not verified"
    head = [
        f"<!-- sandboxrun verify {re.sub('-{2,}', '-', report.project)} -->",
        f"### {escaped('sandboxrun verify --running' if report.running else 'sandboxrun verify')}: "
        f"{code(report.project)}",
        "",
        f"**{escaped(outcome)}**: {escaped(ended(report))}",
        "",
    ]
    page = Page("\n".join([*head, ""]), whole="the job's log")
    opened = [f"{name} {said}" for name, every in report.opened.items() for said in every]
    if opened:
        page.add(f"{_OPENED}\n\n")
        page.add_each((f"- {_cell(said, report)}\n" for said in opened), "of what the profile opens")
        page.add("\n")
    faults = []
    for f in report.faults:
        cells = " | ".join(_cell(text, report) for text in (f.expected, f.seen))
        do = "; ".join(filter(None, (report.masked(f.note), report.advice(f))))
        named = " | ".join(code(cut(report.masked(text), _LONG_CELL)) for text in (f.sandbox, f.control))
        faults.append(f"| {_SIGNS[f.verdict]} | {named} | {cells} | {escaped(cut(do, 600))} |\n")
    if faults:
        page.add("| | Sandbox | Control | Expected | Seen | What to do |\n| --- | --- | --- | --- | --- | --- |\n")
        page.add_each(faults, "of the faults' lines")
        page.add("\n")
    blocks = [_details(name, found, report) for name, found in report.sandboxes.items()]
    page.add_each(blocks, "of the sandboxes' tables")
    return page.text


def _cell(text: str, report: Report) -> str:
    told = cut(report.masked(text), _LONG_CELL)
    return escaped(told) if told else ""


def _details(name: str, found: tuple[Finding, ...], report: Report) -> str:
    rows = []
    for finding in found:
        sign = _SIGNS.get(finding.verdict, finding.verdict.value)
        texts = (finding.field, finding.expected, "; ".join(filter(None, (finding.seen, finding.note))))
        cells = " | ".join(_cell(text, report) for text in texts)
        rows.append(f"| {sign} | {code(cut(report.masked(finding.control), _CELL))} | {cells} |\n")
    summary = f"<summary>{code(cut(report.masked(name), _CELL))}: {escaped(counted(found))}</summary>"
    return f"\n<details>{summary}\n\n{_HEAD}{''.join(rows)}\n</details>\n"
