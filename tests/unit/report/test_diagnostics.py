"""Diagnostics as text, JSON and annotations."""

from __future__ import annotations

import re

import pytest

from sandboxrun.cli.output import without_commands
from sandboxrun.errors import Diagnostic, SourceFile, Span
from sandboxrun.report.diagnostics import (
    annotation,
    annotations_text,
    diagnostic_text,
    diagnostics_json,
)

FILE = SourceFile(name="sandbox.yaml", text="name: review\nsandboxes:\n\ta: {mem_limt: 1}\n")
FAULT = Diagnostic(
    message='unknown key "mem_limt"',
    span=Span(file=FILE, line=3, column=6, length=8),
    help='did you mean "mem_limit"?',
)
PLAIN = Diagnostic(message="no engine answers", severity="warning")
HOSTILE = Diagnostic(
    message="a\x1b[2J\r\n::error::x", span=Span(file=SourceFile(name="::a\n", text=""), line=1, column=1)
)


def test_text() -> None:
    assert diagnostic_text(PLAIN) == "warning: no engine answers"
    assert diagnostic_text(FAULT).split("\n") == [
        'sandbox.yaml:3:6: error: unknown key "mem_limt"',
        "  3 | \ta: {mem_limt: 1}",
        "    | \t    ^^^^^^^^",
        '  help: did you mean "mem_limit"?',
    ]


@pytest.mark.parametrize("diagnostic", [FAULT, PLAIN, HOSTILE, Diagnostic(message="x", severity="notice")])
def test_colours_change_nothing_but_the_colour(diagnostic: Diagnostic) -> None:
    coloured = diagnostic_text(diagnostic, colour=True)
    assert re.sub(r"\x1b\[[0-9;]*m", "", coloured) == diagnostic_text(diagnostic)
    assert coloured != diagnostic_text(diagnostic)


def test_severity_and_caret_are_coloured() -> None:
    lines = diagnostic_text(FAULT, colour=True).split("\n")
    assert "\x1b[1;31merror\x1b[0m" in lines[0]
    assert "\x1b[1;32m^^^^^^^^\x1b[0m" in lines[2]
    assert "\x1b[1;33mwarning\x1b[0m" in diagnostic_text(PLAIN, colour=True)


def test_json() -> None:
    told = diagnostics_json([FAULT, PLAIN])
    assert (told["valid"], told["error_count"], told["warning_count"]) == (False, 1, 1)
    assert told["diagnostics"][0] == {
        "severity": "error",
        "summary": 'unknown key "mem_limt"',
        "detail": 'did you mean "mem_limit"?',
        "range": {
            "filename": "sandbox.yaml",
            "start": {"line": 3, "column": 6},
            "end": {"line": 3, "column": 14},
        },
        "snippet": {
            "context": None,
            "code": "\ta: {mem_limt: 1}",
            "start_line": 3,
            "highlight_start_offset": 5,
            "highlight_end_offset": 13,
        },
    }
    assert told["diagnostics"][1] == {"severity": "warning", "summary": "no engine answers", "detail": ""}
    assert diagnostics_json([]) == {
        "format_version": "1.0", "valid": True, "error_count": 0, "warning_count": 0, "diagnostics": [],
    }  # fmt: skip


def test_annotations() -> None:
    assert annotations_text([FAULT, PLAIN]).split("\n") == [
        "::error title=sandboxrun,file=sandbox.yaml,line=3,col=6,endColumn=14::"
        'unknown key "mem_limt"%0Adid you mean "mem_limit"?',
        "::warning title=sandboxrun::no engine answers",
    ]
    told = annotation(HOSTILE)
    assert "\n" not in told and "\r" not in told and "\x1b" not in told
    assert told.startswith("::error title=sandboxrun,file=%3A%3Aa%0A,line=1")
    assert annotation(Diagnostic(message="x", severity="notice")).startswith("::notice ")


@pytest.mark.parametrize("line", ["::error::x", "  ::set-output name=a::b", "x ##[error]y", "##[add-mask]z"])
def test_what_an_agent_wrote_is_no_command(line: str) -> None:
    shown = without_commands(line)
    assert not shown.strip().startswith("::") and "##[" not in shown
    assert shown.replace("\u2060", "") == line


def test_other_lines_stay_as_they_are() -> None:
    assert without_commands("a :: b # [c]") == "a :: b # [c]"
