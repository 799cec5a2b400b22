"""A review's verdict as SARIF 2.1.0, as code-scanning services read it.

Owns that form: one-line regions, paths from the repository's root, results that are waived or in the baseline left
out, a fix where one is known.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import quote

from sandboxrun.audit.finding import AuditFinding, Rule, Severity
from sandboxrun.audit.judge import AuditVerdict
from sandboxrun.audit.rules import by_id
from sandboxrun.errors import one_line, printable
from sandboxrun.report.audit import WORDS, message_of, relative
from sandboxrun.source import Span

SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
MOST_RESULTS = 5000  # services refuse more than that a run, or show them no more

# What replaces which lines of a file: its name, the first and last line that go (last < first: nothing), the new text.
Replacement = tuple[str, int, int, str]
Fixes = Callable[[AuditFinding], Sequence[tuple[str, Replacement]]]


def no_fixes(finding: AuditFinding) -> Sequence[tuple[str, Replacement]]:
    """Where nothing is known of fixes."""
    return ()


def verdict_sarif(verdict: AuditVerdict, root: str, version: str, fixes: Fixes = no_fixes) -> dict[str, Any]:
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
    result: dict[str, Any] = {
        "ruleId": finding.rule,
        "ruleIndex": index,
        "level": WORDS[finding.severity].sarif,
        "message": {"text": message_of(finding)},
        "locations": [{"physicalLocation": _place(finding.shown, verdict, root)}],
        "partialFingerprints": {
            "primaryLocationLineHash": _line_hash(finding),
            "sandboxrun/v1": finding.fingerprint,
        },
    }
    made = [
        {"description": {"text": sentence}, "artifactChanges": [_change(change, root)]}
        for sentence, change in fixes(finding)
    ]
    if made:
        result["fixes"] = made
    return result


def _place(span: Span | None, verdict: AuditVerdict, root: str) -> dict[str, Any]:
    """One line of a file of the repository; its first file's first line for what has no place."""
    name = span.file.name if span is not None else (verdict.files or (".",))[0]
    region: dict[str, Any] = {"startLine": 1}
    if span is not None:
        region = {
            "startLine": span.line,
            "startColumn": span.column,
            "endLine": span.line,
            "endColumn": span.column + max(1, span.length),
        }
        region["snippet"] = {"text": printable(span.file.line(span.line))}
    return {"artifactLocation": _location(name, root), "region": region}


def _location(name: str, root: str) -> dict[str, str]:
    return {"uri": quote(relative(name, root)), "uriBaseId": "%SRCROOT%"}


def _line_hash(finding: AuditFinding) -> str:
    """Of the line's text, so that an alert stays the same while lines above it come and go."""
    span = finding.shown
    text = span.file.line(span.line).strip() if span is not None else ""
    parts = f"{finding.rule}\0{text}\0{finding.item or ''}\0{finding.when}"
    return f"{hashlib.sha256(parts.encode(errors='surrogatepass')).hexdigest()[:16]}:1"


def _change(change: Replacement, root: str) -> dict[str, Any]:
    name, first, last, text = change
    region: dict[str, Any] = {"startLine": first, "startColumn": 1, "endLine": last + 1, "endColumn": 1}
    return {
        "artifactLocation": _location(name, root),
        "replacements": [{"deletedRegion": region, "insertedContent": {"text": text}}],
    }
