"""What each shipped base reports is in docs/audit.md; SANDBOXRUN_DEV_UPDATE=1 writes it anew."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from sandboxrun.audit.finding import Severity
from sandboxrun.audit.judge import AuditVerdict, ReviewTerms
from sandboxrun.profile.files import bases
from tests.unit.audit.reviewing import TODAY, reviewed

PAGE = Path(__file__).parents[3] / "docs" / "audit.md"
PLACE = re.compile(r"(<!-- bases: [^\n]*-->\n).*?(<!-- end of bases -->)", re.DOTALL)
PROFILE = """\
name: example
sandboxes:
  agent: {{extends: {base}, image: "registry.example.com/agent:1@sha256:{digest}"}}
"""


def verdict_of(base: str, directory: Path) -> AuditVerdict:
    """The review of a sandbox that adds nothing to a base."""
    text = PROFILE.format(base=base, digest="0" * 64)
    return reviewed(directory, text, "sandbox.yaml", ReviewTerms(today=TODAY, strict=True))


def test_the_page_says_what_each_base_reports(tmp_path: Path) -> None:
    lines = ["", "| base | severity | rule | what |", "| --- | --- | --- | --- |"]
    for base in bases():
        found = sorted(verdict_of(base, tmp_path).open, key=lambda one: (-one.severity, one.rule))
        lines += [f"| `{base}` | {one.severity.word} | {one.rule} | {one.message} |" for one in found]
    text = PAGE.read_text(encoding="utf-8")
    table = "\n".join(lines)
    made = PLACE.sub(lambda match: f"{match[1]}{table}\n\n{match[2]}", text)
    if os.environ.get("SANDBOXRUN_DEV_UPDATE"):
        PAGE.write_text(made, encoding="utf-8")
    assert made == PAGE.read_text(encoding="utf-8"), "SANDBOXRUN_DEV_UPDATE=1 writes the table of docs/audit.md"


@pytest.mark.parametrize("base", ["hardened", "offline"])
def test_a_closed_base_reports_nothing_at_medium(base: str, tmp_path: Path) -> None:
    assert verdict_of(base, tmp_path).at_least(Severity.MEDIUM) == ()
