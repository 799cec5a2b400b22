"""What the tests of the review share: texts as files, reviewed."""

from __future__ import annotations

from datetime import date
from pathlib import Path

from sandboxrun.audit.finding import Rule
from sandboxrun.audit.judge import AuditVerdict, ReviewTerms
from sandboxrun.lifecycle.review import review, targets

TODAY = date(2027, 1, 15)


def whole(text: str) -> tuple[str, str]:
    """An example as a whole file, with the name that it has."""
    top = {line.partition(":")[0] for line in text.splitlines() if line and not line[0].isspace()}
    if "services" in top:
        return "compose.yaml", text + "\n"
    if "sandboxes" in top:
        return "sandbox.yaml", text + "\n"
    blocks = {"secrets": "api_key api_token key", "networks": "out"}
    beside = "".join(
        f"{key}:\n"
        + "".join(
            f"  {name}: {{environment: X}}\n" if key == "secrets" else f"  {name}: {{}}\n" for name in names.split()
        )
        for key, names in blocks.items()
    )
    body = "".join(f"    {line}\n" for line in text.splitlines())
    return "sandbox.yaml", f"name: example\n{beside}sandboxes:\n  agent:\n{body}"


def reviewed(directory: Path, text: str, name: str | None = None, terms: ReviewTerms | None = None) -> AuditVerdict:
    """The verdict on a text."""
    called, content = whole(text) if name is None else (name, text)
    (directory / called).write_text(content, encoding="utf-8")
    found, gaps = targets([directory / called])
    return review(found, terms or ReviewTerms(today=TODAY, strict=True), gaps=gaps)


def rules_of(verdict: AuditVerdict) -> list[str]:
    """The rules that found something."""
    return sorted({finding.rule for finding in verdict.findings})


def names(rule: Rule) -> str:
    """A rule's id, for parametrized tests."""
    return rule.id
