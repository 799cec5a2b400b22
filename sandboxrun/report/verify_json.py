"""A verification as JSON, for programs. Owns the format (`schemas/verify.schema.json`). Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from sandboxrun import __version__
from sandboxrun.probe.findings import Finding
from sandboxrun.report.verify import Report, counts

FORMAT_VERSION = "1.0"


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
                "sandbox": report.told(name),
                "verified": all(finding.verdict.passes for finding in found),
                "summary": _summary(found),
                "findings": [_finding(finding, report) for finding in found],
            }
            for name, found in report.sandboxes.items()
        ],
    }


def _summary(findings: Iterable[Finding]) -> dict[str, int]:
    return {_word(verdict.value): count for verdict, count in counts(findings).items()}


def _word(text: str) -> str:
    return text.replace(" ", "_")


def _finding(finding: Finding, report: Report) -> dict[str, str]:
    return {
        "control": report.told(finding.control),
        "title": report.told(finding.title),
        "field": report.told(finding.field),
        "expected": report.told(finding.expected),
        "seen": report.told(finding.seen),
        "verdict": _word(finding.verdict.value),
        "note": report.told(finding.note),
        "advice": report.advice(finding),
    }
