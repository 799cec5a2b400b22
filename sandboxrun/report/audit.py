"""A review's verdict as text, JSON, Markdown, JUnit, SARIF and annotations of GitHub and GitLab; a privilege diff as
text, JSON and Markdown, and as findings at the changed lines for all other formats.

Owns these forms. What a file says is untrusted in all of them.
"""

from __future__ import annotations

import hashlib
import json
import os
import textwrap
from collections.abc import Callable, Iterator, Sequence
from html import escape
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote

from sandboxrun.audit.finding import AuditFinding, Rule, Severity, fingerprint_of
from sandboxrun.audit.judge import AuditVerdict
from sandboxrun.audit.rules import by_id
from sandboxrun.audit.rules.meta import WIDENED
from sandboxrun.errors import Diagnostic, amount, few, one_line, printable
from sandboxrun.report.diagnostics import annotation, diagnostic_text
from sandboxrun.report.markdown import Page, code, escaped, place_of

if TYPE_CHECKING:
    from sandboxrun.audit.diff import PrivilegeDiff


def message_of(finding: AuditFinding) -> str:
    """What was found, with the sandboxes it is about and the values it is so for."""
    names = few(finding.subjects, 3)
    when = f", when {finding.when}" if finding.when else ""
    return one_line(f"{names}: {finding.message}{when}" if names else f"{finding.message}{when}")


def _diagnostic(finding: AuditFinding) -> Diagnostic:
    via = f" (from {finding.via})" if finding.via.startswith("base ") else ""
    return Diagnostic(
        message=f"{message_of(finding)}{via}",
        span=finding.span,
        help=finding.help or None,
        severity=f"{finding.severity.word}[{finding.rule}]",
    )


def verdict_text(verdict: AuditVerdict, *, colour: bool = False, verbose: bool = False) -> str:
    """What a person reads: each open finding with its line, what was not audited, and a summary. `verbose`: those
    waived or in the baseline as well."""
    parts = [diagnostic_text(_diagnostic(finding), colour=colour) for finding in verdict.open]
    if verbose:
        for finding in verdict.findings:
            if finding.status:
                why = f"waived: {one_line(finding.reason)}" if finding.status == "waived" else "in the baseline"
                parts.append(f"{diagnostic_text(_diagnostic(finding), colour=colour)}\n  note: {why}")
    parts += [f"not audited: {one_line(gap.what)}: {one_line(gap.why)}" for gap in verdict.gaps]
    return "\n\n".join([*parts, summary(verdict)]) + "\n"


def summary(verdict: AuditVerdict) -> str:
    """The last line: how much was looked at, and what was found."""
    found = ", ".join(f"{count} {word}" for word, count in verdict.counts.items() if count) or "nothing found"
    files = sum(not name.startswith("shipped:") for name in verdict.files)  # the built-in bases are nobody's to review
    told = f"{amount(files, 'file')}, {amount(len(verdict.subjects), 'sandbox', 'es')}: {found}"
    for status, words in (("waived", "waived"), ("baseline", "in the baseline")):
        count = _count(verdict, status)
        told += f"; {count} {words}" if count else ""
    gaps = len(verdict.gaps)
    return f"{told}; {gaps} not audited" if gaps else told


# -- JSON


def verdict_json(verdict: AuditVerdict) -> dict[str, Any]:
    """The verdict as data; `schemas/audit.schema.json` describes it."""
    return {
        "format_version": "1.0",
        "complete": not verdict.gaps,
        "summary": {**verdict.counts, "waived": _count(verdict, "waived"), "baseline": _count(verdict, "baseline")},
        "files": list(verdict.files),
        "sandboxes": list(verdict.subjects),
        "findings": [finding_json(finding) for finding in verdict.findings],
        "not_audited": [{"what": gap.what, "why": gap.why, "file": gap.file} for gap in verdict.gaps],
    }


def _count(verdict: AuditVerdict, status: str) -> int:
    return sum(finding.status == status for finding in verdict.findings)


def finding_json(finding: AuditFinding) -> dict[str, Any]:
    """One finding."""
    told: dict[str, Any] = {
        "rule": finding.rule,
        "title": finding.title,
        "severity": finding.severity.word,
        "message": printable(finding.message),
        "sandboxes": list(finding.subjects),
        "option": finding.key,
        "item": finding.item,
        "help": printable(finding.help),
        "references": [str(reference) for reference in finding.references],
        "fingerprint": finding.fingerprint,
        "status": finding.status or "open",
    }
    for key, text in (("when", finding.when), ("reason", finding.reason), ("from", finding.via)):
        if text:
            told[key] = printable(text)
    if finding.span is not None:
        span = finding.span
        told["place"] = {"file": span.file.name, "line": span.line, "column": span.column, "length": span.length}
    return told


# -- Markdown, for a comment on a pull request


def verdict_markdown(verdict: AuditVerdict) -> str:
    """A table of the open findings, the worst first, and what was not audited; as long as a comment may be."""
    page = Page(f"### sandboxrun audit\n\n**{escaped(summary(verdict))}**\n\n", whole="sandboxrun audit")
    rows = [
        f"| {finding.severity.word} | {finding.rule} | {place_of(finding.shown)} | {escaped(message_of(finding))} |\n"
        for finding in sorted(verdict.open, key=lambda finding: (-finding.severity, finding.order))
    ]
    if rows:
        page.add("| severity | rule | where | what |\n| --- | --- | --- | --- |\n")
        page.add_each(rows, "of the findings")
    gaps = [f"- {code(gap.what)}: {escaped(gap.why)}\n" for gap in verdict.gaps]
    page.add_each(["\n**Not audited:**\n\n", *gaps] if gaps else [], "of what was not audited")
    return page.text


# -- JUnit


def verdict_junit(verdict: AuditVerdict) -> str:
    """A test case a finding, failed where it is open; what was not audited is an error."""
    cases = []
    for finding in verdict.findings:
        span = finding.shown
        name = _quoted(f"{finding.rule} {message_of(finding)}")
        place = f' file={_quoted(span.file.name)} line="{span.line}"' if span is not None else ""
        head = f'    <testcase classname="sandboxrun.{finding.rule}" name={name}{place}'
        if finding.status:
            cases.append(f"{head}><skipped message={_quoted(finding.reason or finding.status)}/></testcase>")
        else:
            body = escape(f"{message_of(finding)}\n{printable(finding.help)}")
            kind = f'<failure type="{finding.severity.word}" message={_quoted(finding.title)}>'
            cases.append(f"{head}>{kind}{body}</failure></testcase>")
    for gap in verdict.gaps:
        name, why = _quoted(f"not audited: {one_line(gap.what)}"), _quoted(one_line(gap.why))
        cases.append(f'    <testcase classname="sandboxrun.audit" name={name}><error message={why}/></testcase>')
    if not cases:
        cases.append('    <testcase classname="sandboxrun.audit" name="nothing found"/>')
    failed, broken = len(verdict.open), len(verdict.gaps)
    head = f'  <testsuite name="sandboxrun audit" tests="{len(cases)}" failures="{failed}" errors="{broken}">'
    return "\n".join(
        ['<?xml version="1.0" encoding="UTF-8"?>', "<testsuites>", head, *cases, "  </testsuite>", "</testsuites>", ""]
    )


def _quoted(text: str) -> str:
    return f'"{escape(one_line(text))}"'


# -- annotations


class Words(NamedTuple):
    """A severity in the words of others. Services sort by `score`: above 9.0 is critical, from 7.0 high, from 4.0
    medium."""

    github: str
    gitlab: str
    sarif: str
    score: str


WORDS = {
    Severity.CRITICAL: Words("error", "blocker", "error", "9.5"),
    Severity.HIGH: Words("error", "critical", "error", "8.0"),
    Severity.MEDIUM: Words("warning", "major", "warning", "5.5"),
    Severity.LOW: Words("notice", "minor", "note", "2.5"),
    Severity.INFO: Words("notice", "info", "note", "0.5"),
}


def verdict_github(verdict: AuditVerdict) -> str:
    """Workflow commands, which GitHub Actions shows beside the lines."""
    lines = []
    for finding in verdict.open:
        message = f"{finding.rule} {message_of(finding)}"
        told = Diagnostic(
            message=message, span=finding.shown, help=finding.help or None, severity=WORDS[finding.severity].github
        )
        lines.append(annotation(told))
    for gap in verdict.gaps:
        lines.append(annotation(Diagnostic(message=f"not audited: {gap.what}: {gap.why}")))
    return "\n".join([*lines, summary(verdict)]) + "\n"


def verdict_gitlab(verdict: AuditVerdict, root: str) -> str:
    """A code quality report of GitLab: paths from `root`, the repository."""
    issues = []
    for finding in verdict.open:
        span = finding.shown
        path = relative(span.file.name, root) if span is not None else (verdict.files or (".",))[0]
        issues.append(
            {
                "description": f"{finding.rule}: {message_of(finding)}",
                "check_name": finding.rule,
                "fingerprint": finding.fingerprint,
                "severity": WORDS[finding.severity].gitlab,
                "location": {"path": path, "lines": {"begin": span.line if span is not None else 1}},
            }
        )
    for gap in verdict.gaps:
        where = (gap.file or gap.what).split(":")[0]
        place = {"path": relative(where, root), "lines": {"begin": 1}}
        told = one_line(f"not audited: {gap.what}: {gap.why}")
        issues.append(
            {"description": told, "check_name": "not-audited", "fingerprint": fingerprint_of(told),
             "severity": "critical", "location": place}
        )  # fmt: skip
    return json.dumps(issues, indent=2) + "\n"


def relative(name: str, root: str) -> str:
    """A file's name as it is from the repository's root, with forward slashes."""
    path = os.path.relpath(os.path.abspath(name), root)
    return path.replace(os.sep, "/")


# -- a rule's page


def rule_text(id: str) -> str:
    """What `explain SBX301` prints."""
    rule = by_id()[id]
    lines = [
        f"{rule.id}  {rule.title}",
        "",
        f"  severity    {rule.severity.word}: it gives {rule.gain.value}, {rule.how.value}",
        f"  family      {rule.family}",
        f"  shown       {'to the strict reader (--persona strict)' if rule.strict else 'always'}",
        f"  waivable    {'inline, or in a file' if rule.inline else 'in a file only'}",
        f"  references  {', '.join(map(str, rule.references)) or 'none'}",
        "",
        *_wrapped(rule.why),
        "",
        *_wrapped(f"Fix: {rule.fix}."),
    ]
    for name, example in (("found", rule.bad), ("not found", rule.good)):
        if example:
            lines += ["", f"  {name}:", *(f"    {line}" for line in example.splitlines())]
    return "\n".join(lines) + "\n"


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, 100, initial_indent="  ", subsequent_indent="  ")


def rule_json(id: str) -> dict[str, Any]:
    """The same as data."""
    rule = by_id()[id]
    return {
        "rule": rule.id,
        "title": rule.title,
        "severity": rule.severity.word,
        "gain": rule.gain.value,
        "how": rule.how.value,
        "family": rule.family,
        "strict": rule.strict,
        "inline_waiver": rule.inline,
        "why": rule.why,
        "fix": rule.fix,
        "references": [str(reference) for reference in rule.references],
        "bad": rule.bad,
        "good": rule.good,
    }


# -- SARIF 2.1.0, as code-scanning services read it: one-line regions, paths from the repository's root, results that
# are waived or in the baseline left out, a fix where one is known


SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
MOST_RESULTS = 5000  # services refuse more than that a run, or show them no more

# What replaces which lines of a file: its name, the first and last line that go (last < first: nothing), the new text.
Replacement = tuple[str, int, int, str]
Fixes = Callable[[AuditFinding], Sequence[tuple[str, Replacement]]]


def verdict_sarif(verdict: AuditVerdict, root: str, version: str, fixes: Fixes = lambda finding: ()) -> dict[str, Any]:
    """The log. `root` is the repository's directory; `fixes` gives a finding's fixes, each with a sentence."""
    findings = sorted(verdict.open, key=lambda finding: (-finding.severity, finding.order))[:MOST_RESULTS]
    used = sorted({finding.rule for finding in findings})
    index = {id: number for number, id in enumerate(used)}
    worst = {id: max(f.severity for f in findings if f.rule == id) for id in used}
    run: dict[str, Any] = {
        "tool": {
            "driver": {
                "name": "sandboxrun",
                "semanticVersion": version,
                "rules": [_rule(by_id()[id], worst[id]) for id in used],
            }
        },
        "columnKind": "unicodeCodePoints",
        "originalUriBaseIds": {"%SRCROOT%": {"description": {"text": "The root of the repository."}}},
        "invocations": [
            {
                "executionSuccessful": not verdict.gaps,
                "toolExecutionNotifications": [
                    {"level": "error", "message": {"text": one_line(f"not audited: {gap.what}: {gap.why}")}}
                    for gap in verdict.gaps
                ],
            }
        ],
        "results": [_result(finding, index[finding.rule], verdict, root, fixes) for finding in findings],
    }
    return {"$schema": SCHEMA, "version": "2.1.0", "runs": [run]}


def _rule(rule: Rule, severity: Severity) -> dict[str, Any]:
    level = WORDS[severity].sarif
    references = "\n".join(f"- {reference}" for reference in rule.references)
    markdown = f"{rule.why}\n\n**Fix:** {rule.fix}.\n\n" + (f"**See:**\n{references}\n" if references else "")
    if rule.bad:
        markdown += f"\n**Found:**\n\n```yaml\n{rule.bad}\n```\n\n**Not found:**\n\n```yaml\n{rule.good}\n```\n"
    return {
        "id": rule.id,
        "name": "".join(word.capitalize() for word in rule.title.replace("-", " ").replace("'", "").split()),
        "shortDescription": {"text": rule.title},
        "fullDescription": {"text": rule.why},
        "help": {"text": f"{rule.why}\n\nFix: {rule.fix}.", "markdown": markdown},
        "defaultConfiguration": {"level": level},
        "properties": {
            "tags": ["security", rule.family, *(reference.tag for reference in rule.references)][:20],
            "precision": "high" if rule.how.name == "DIRECT" else "medium",
            "security-severity": WORDS[severity].score,
            "problem.severity": "recommendation" if level == "note" else level,
        },
    }


def _result(finding: AuditFinding, index: int, verdict: AuditVerdict, root: str, fixes: Fixes) -> dict[str, Any]:
    span = finding.shown
    line, name = "", (verdict.files or (".",))[0]  # its first file's first line, for what has no place
    region: dict[str, Any] = {"startLine": 1}
    if span is not None:
        line, name = span.file.line(span.line), span.file.name
        ends = {"endLine": span.line, "endColumn": span.column + max(1, span.length)}
        region = {"startLine": span.line, "startColumn": span.column, **ends, "snippet": {"text": printable(line)}}
    parts = f"{finding.rule}\0{line.strip()}\0{finding.item or ''}\0{finding.when}"
    result: dict[str, Any] = {
        "ruleId": finding.rule,
        "ruleIndex": index,
        "level": WORDS[finding.severity].sarif,
        "message": {"text": message_of(finding)},
        "locations": [{"physicalLocation": {"artifactLocation": _location(name, root), "region": region}}],
        "partialFingerprints": {
            # of the line's text, so that an alert stays the same while lines above it come and go
            "primaryLocationLineHash": f"{hashlib.sha256(parts.encode(errors='surrogatepass')).hexdigest()[:16]}:1",
            "sandboxrun/v1": finding.fingerprint,
        },
    }
    made = []
    for sentence, (name, first, last, text) in fixes(finding):
        region = {"startLine": first, "startColumn": 1, "endLine": last + 1, "endColumn": 1}
        new = {"deletedRegion": region, "insertedContent": {"text": text}}
        change = {"artifactLocation": _location(name, root), "replacements": [new]}
        made.append({"description": {"text": sentence}, "artifactChanges": [change]})
    return {**result, "fixes": made} if made else result


def _location(name: str, root: str) -> dict[str, str]:
    path = relative(name, root).encode("utf-8", "surrogateescape")  # which may be no UTF-8
    return {"uri": quote(path), "uriBaseId": "%SRCROOT%"}


# -- A privilege diff


_WAYS = {"WIDENED": ("+", "widened"), "MAYBE": ("?", "maybe"), "NARROWED": ("-", "narrowed")}


def diff_text(diff: PrivilegeDiff) -> str:
    """A line a change, the gravest first, with its place and how many sandboxes it is about; then a summary."""
    lines = []
    for change in diff.changes:
        where = f"  {change.span}" if change.span is not None else ""
        count = f" ({len(change.sandboxes)} sandboxes)" if len(change.sandboxes) > 1 else ""
        mark = f"{_WAYS[change.way.name][0]} {change.way.value:<8}"
        who = f"{one_line(few(change.sandboxes, 3))}{count}"
        lines.append(f"{mark} {change.axis}: {who} {one_line(change.witness)}{printable(where)}")
    return "\n".join([*lines, diff_summary(diff)]) + "\n"


def diff_summary(diff: PrivilegeDiff) -> str:
    """The last line."""
    if not diff.changes:
        return f"Privileges: unchanged, in {amount(len(diff.sandboxes), 'sandbox', 'es')}."
    ways = [change.way.name for change in diff.changes]
    return "Privileges: " + ", ".join(f"{ways.count(way)} {word}" for way, (_, word) in _WAYS.items()) + "."


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
    page = Page(f"### {escaped(diff_summary(diff))}\n\n", whole="sandboxrun diff")
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
        if change.way.name in ("WIDENED", "MAYBE"):
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
