"""Whatever a file holds, the review ends with a verdict: no rule, reader, format or fix raises."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sandboxrun.audit.judge import ReviewTerms
from sandboxrun.compose.service import KNOWN
from sandboxrun.lifecycle.fixing import edited
from sandboxrun.lifecycle.review import review, targets
from sandboxrun.report import audit as forms
from sandboxrun.report.sarif import verdict_sarif
from tests.unit.audit.reviewing import TODAY

WORDS = st.sampled_from(
    ["host", "ALL", "/etc", "../..", "${A:-b}", "$HOME/.ssh", "80:80",
     "a:b:c", "[::1]:1:2", "seccomp=x", "1g", "-1", ":",
     "", "0", "true", "~", "*", "{{ x }}", "a=b", "${", "$",
     "/var/run/docker.sock:/x", "::", "\u2028", "1e9", "c 1:* rw"]
)  # fmt: skip
SCALARS = st.one_of(
    WORDS, st.integers(-5, 2**40), st.booleans(), st.none(), st.floats(allow_nan=False, allow_infinity=False)
)
KEYS = st.sampled_from(
    ["source", "target", "type", "path", "service", "limits", "hard", "mode", "external", "user", "a"]
)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3), max_leaves=6
)
SERVICES = st.dictionaries(st.sampled_from(sorted(KNOWN)), VALUES, max_size=6)
FILES = st.fixed_dictionaries(
    {"services": st.dictionaries(st.sampled_from(["a", "b"]), st.one_of(SERVICES, VALUES), max_size=2)},
    optional=dict.fromkeys(("networks", "volumes", "secrets", "configs", "include"), VALUES),
)


@given(FILES)
@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_compose_file_has_a_verdict(tmp_path: Path, data: Any) -> None:
    file = tmp_path / "compose.yaml"
    file.write_text(json.dumps(data, indent=2))
    every, gaps = targets([file])
    verdict = review(every, ReviewTerms(today=TODAY, strict=True), gaps=gaps)
    for made in (
        forms.verdict_text,
        forms.verdict_json,
        forms.verdict_markdown,
        forms.verdict_junit,
        forms.verdict_github,
    ):
        assert made(verdict)
    assert verdict_sarif(verdict, str(tmp_path), "1")
    for finding in verdict.open:
        edited(file.read_text(), finding)


@given(SERVICES)
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_profile_has_a_verdict(tmp_path: Path, data: Any) -> None:
    file = tmp_path / "sandbox.yaml"
    file.write_text(json.dumps({"sandboxes": {"a": {"image": "x", **data}}}, indent=2))
    every, gaps = targets([file])
    assert review(every, ReviewTerms(today=TODAY, strict=True), gaps=gaps)


LONG: dict[str, dict[str, Any]] = {
    "scheme": {"environment": {"X": "a." * 32_000}},
    "scheme in a command": {"command": "a." * 32_000},
    "fragment": {"build": "https://x" + "#" * 60_000},
    "default": {"environment": {"X": "${A:-" * 12_000}},
    "name": {"environment": ["_KEY" * 10_000 + ".=x"]},
    "words": {"command": "mysql " * 10_000},
    "mount": {"volumes": ["{:" * 30_000]},
    "port": {"ports": [":." * 30_000]},
    "path": {"volumes": ["/.." * 20_000 + ":/x"]},
    "digits": {"cpus": "9" * 60_000, "mem_limit": "9" * 60_000},
}


@pytest.mark.parametrize("name", LONG)
def test_long_texts_are_read_in_linear_time(name: str, tmp_path: Path) -> None:
    """What would need seconds or minutes with a pattern that tries every way, as some did."""
    file = tmp_path / "compose.yaml"
    file.write_text(json.dumps({"services": {"a": {"image": "x", **LONG[name]}}}))
    every, gaps = targets([file])
    assert review(every, ReviewTerms(today=TODAY, strict=True), gaps=gaps).findings
