"""A verification's findings: counted, in order, masked, with what to do; as a table, as JSON, as Markdown.

Pure.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from msgspec import structs

from sandboxrun import __version__
from sandboxrun.data import Data
from sandboxrun.errors import one_line, redact
from sandboxrun.plan.text import opened
from sandboxrun.probe.outside import OPEN
from sandboxrun.probe.verdicts import Finding, Verdict
from sandboxrun.report.markdown import Page, code, cut, escaped
from sandboxrun.report.table import columns, table
from sandboxrun.spec.project import Profile

# -- A verification's findings, ready to be shown: counted, in order, masked, and with what to do

LONGEST = 1000  # characters of what was seen: the rest is in nobody's interest but an attacker's
_TEXTS = ("control", "title", "field", "expected", "seen")  # of a finding
# What matters first.
ORDER = (Verdict.FAILS, Verdict.INCONCLUSIVE, Verdict.HOLDS, Verdict.NOT_APPLICABLE)
_WORDS = {
    Verdict.HOLDS: ("holds", "hold"),
    Verdict.FAILS: ("does not hold", "do not hold"),
    Verdict.INCONCLUSIVE: ("inconclusive", "inconclusive"),
    Verdict.NOT_APPLICABLE: ("not applicable", "not applicable"),
}


class Part(Data):
    """One sandbox of a report: what was found, that first which matters most, and of what holds that which the profile
    itself opens; `opened` is what it opens that the defaults don't, a sentence each."""

    sandbox: str
    findings: tuple[Finding, ...]
    opened: tuple[str, ...]


class Report(Data):
    """What a verification found of a project, by sandbox, as it may be shown: masked, each text on one line, bounded.
    `running`: live sandboxes were looked at from outside; else the probe ran in each."""

    project: str
    parts: tuple[Part, ...]
    running: bool

    @classmethod
    def of(cls, profile: Profile, findings: Iterable[Finding], *, running: bool) -> Report:
        """What was found of a profile's sandboxes, in the order of the first finding of each."""

        def shown(text: str) -> str:
            text = redact(text, profile.sensitive)  # whole: a part of what is sensitive would not be found
            return one_line(text if len(text) <= LONGEST else f"{text[:LONGEST]}… ({len(text)} characters)")

        named: dict[str, list[Finding]] = {}
        for finding in findings:
            named.setdefault(finding.sandbox, []).append(finding)
        parts = []
        for name, found in named.items():
            found.sort(key=lambda f: (ORDER.index(f.verdict), not f.note.startswith(OPEN)))
            told = (
                structs.replace(f, **{key: shown(getattr(f, key)) for key in ("sandbox", *_TEXTS, "note")})
                for f in found
            )
            declared = profile.sandbox(_address(name))
            opens = map(shown, opened(declared.spec)) if declared is not None else ()
            parts.append(Part(sandbox=shown(name), findings=tuple(told), opened=tuple(opens)))
        return cls(project=profile.project, parts=tuple(parts), running=running)

    @property
    def findings(self) -> tuple[Finding, ...]:
        """All of them."""
        return tuple(finding for part in self.parts for finding in part.findings)

    @property
    def verified(self) -> bool:
        """Whether all holds: what is inconclusive does not count, and nothing found is nothing verified."""
        return bool(self.parts) and not self.faults

    @property
    def faults(self) -> tuple[Finding, ...]:
        """Those that do not hold or are inconclusive."""
        return tuple(finding for finding in self.findings if not finding.verdict.passes)

    @property
    def opened(self) -> tuple[str, ...]:
        """What the profile opens, with the sandbox that it opens it for."""
        return tuple(f"{part.sandbox} {said}" for part in self.parts for said in part.opened)

    def advice(self, finding: Finding) -> str:
        """What to do about one that does not hold or is inconclusive; "" for others."""
        if finding.verdict.passes:
            return ""
        seen = f"{finding.control} is seen"
        if finding.verdict is Verdict.INCONCLUSIVE:
            return f"what is unknown counts as not enforced; docs/verify.md explains how {seen}"
        if self.running:
            name = _address(finding.sandbox)
            return f"what runs does not match the profile: run `sandboxrun apply --replace {name}` to replace it"
        return f"the engine does not enforce it: `sandboxrun doctor` shows what it offers, docs/verify.md how {seen}"


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

    opened = [painted(f"  ! {said}", "\x1b[1;33m") for said in report.opened]
    blocks = ["\n".join([painted(_OPENED, _BOLD), *opened])] if opened else []
    for part in report.parts:
        found = part.findings
        cells = [(*map(_cut, (f.control, f.field, f.expected, f.seen)), _cut(_verdict(f), 2 * _CELL)) for f in found]
        head, *rows = table(_HEADS, cells).split("\n")
        listed = width is not None and max(map(columns, (head, *rows))) > width
        body = [] if listed else [painted(head, _DIM)]
        for f, row in zip(found, rows, strict=True):
            line = f"{_MARKS[f.verdict]} {f.control}: {_verdict(f)}" if listed else row
            body.append(painted(line, _SHADES.get(f.verdict, _DIM)))
            if listed and f.verdict is not Verdict.NOT_APPLICABLE:
                body.append(f"    expected {f.expected or '-'}, seen {f.seen or '-'}")
        blocks.append("\n".join([painted(f"{part.sandbox}: {counted(found)}", _BOLD), *body]))
    lines = []  # what is wrong, whole, and what to do
    for f in report.faults:
        lines.append(f"{f.sandbox}, {f.control}: {f.verdict.value} ({f.title})")
        lines.append(f"    expected: {f.expected or '-'}")
        lines.append(f"    seen:     {f.seen or '-'}")
        lines += [f"    note:     {f.note}"] if f.note else []
        lines.append(f"    to do:    {report.advice(f)}")
    blocks += ["\n".join(lines)] if lines else []
    blocks.append(painted(ended(report), _SHADES[Verdict.HOLDS if report.verified else Verdict.FAILS]))
    return "\n\n".join(blocks)


def _verdict(finding: Finding) -> str:
    return f"{finding.verdict.value}: {finding.note}" if finding.note else finding.verdict.value


def _cut(text: str, most: int = _CELL) -> str:
    if columns(text) <= most:
        return text
    while columns(text) >= most:
        text = text[:-1]
    return f"{text}…"


# -- A verification as JSON, for programs. Owns the format (`schemas/verify.schema.json`). Pure

FORMAT_VERSION = "1.1"


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
                "sandbox": part.sandbox,
                "verified": all(finding.verdict.passes for finding in part.findings),
                "summary": _summary(part.findings),
                "opened": list(part.opened),
                "findings": [
                    {
                        **{key: getattr(finding, key) for key in _TEXTS},
                        "verdict": _word(finding.verdict.value),
                        "note": finding.note,
                        "advice": report.advice(finding),
                    }
                    for finding in part.findings
                ],
            }
            for part in report.parts
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
    if report.opened:
        page.add(f"{_OPENED}\n\n")
        page.add_each((f"- {_cell(said)}\n" for said in report.opened), "of what the profile opens")
        page.add("\n")
    faults = []
    for f in report.faults:
        cells = " | ".join(_cell(text) for text in (f.expected, f.seen))
        do = "; ".join(filter(None, (f.note, report.advice(f))))
        named = " | ".join(code(cut(text, _LONG_CELL)) for text in (f.sandbox, f.control))
        faults.append(f"| {_SIGNS[f.verdict]} | {named} | {cells} | {escaped(cut(do, 600))} |\n")
    if faults:
        page.add("| | Sandbox | Control | Expected | Seen | What to do |\n| --- | --- | --- | --- | --- | --- |\n")
        page.add_each(faults, "of the faults' lines")
        page.add("\n")
    page.add_each(map(_details, report.parts), "of the sandboxes' tables")
    return page.text


def _cell(text: str) -> str:
    return escaped(cut(text, _LONG_CELL))


def _details(part: Part) -> str:
    rows = []
    for finding in part.findings:
        sign = _SIGNS.get(finding.verdict, finding.verdict.value)
        texts = (finding.field, finding.expected, "; ".join(filter(None, (finding.seen, finding.note))))
        cells = " | ".join(_cell(text) for text in texts)
        rows.append(f"| {sign} | {code(cut(finding.control, _CELL))} | {cells} |\n")
    summary = f"<summary>{code(cut(part.sandbox, _CELL))}: {escaped(counted(part.findings))}</summary>"
    return f"\n<details>{summary}\n\n{_HEAD}{''.join(rows)}\n</details>\n"
