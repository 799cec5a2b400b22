"""Diagnostics as text, as JSON and as annotations of GitHub Actions.

Owns these forms; what a diagnostic says is in `errors`. Prints nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from sandboxrun.errors import Diagnostic, printable

_SHADES = {"error": "\x1b[1;31m", "warning": "\x1b[1;33m", "notice": "\x1b[1;36m"}
_CARET, _DIM, _RESET = "\x1b[1;32m", "\x1b[2m", "\x1b[0m"


def diagnostic_text(diagnostic: Diagnostic, *, colour: bool = False) -> str:
    """One: its place, the source line with a caret, the help. With `colour`, escape sequences for a terminal."""
    text = str(diagnostic.on_command_line)
    if not colour:
        return text
    place = f"{printable(str(diagnostic.span))}: " if diagnostic.span is not None else ""
    head, *rest = text[len(place) :].removeprefix(f"{diagnostic.severity}: ").split("\n")
    shade = _SHADES.get(diagnostic.severity, _SHADES["notice"])
    told = f"{_DIM}{place}{_RESET}" if place else ""
    return "\n".join([f"{told}{shade}{diagnostic.severity}{_RESET}: {head}", *map(_coloured, rest)])


def _coloured(line: str) -> str:
    caret = re.fullmatch(r"( +\| *\t*[ \t]*)(\^+)", line)
    if caret is not None:
        return f"{_DIM}{caret[1]}{_RESET}{_CARET}{caret[2]}{_RESET}"
    if line.startswith("  help: "):
        return f"  {_CARET}help{_RESET}: {line.removeprefix('  help: ')}"
    return line


def diagnostics_json(diagnostics: Iterable[Diagnostic]) -> dict[str, Any]:
    """The shape of OpenTofu's `validate -json`: whether all is valid, the counts, the diagnostics."""
    told = [diagnostic_json(diagnostic) for diagnostic in diagnostics]
    errors = sum(item["severity"] == "error" for item in told)
    return {
        "format_version": "1.0",
        "valid": not errors,
        "error_count": errors,
        "warning_count": sum(item["severity"] == "warning" for item in told),
        "diagnostics": told,
    }


def diagnostic_json(diagnostic: Diagnostic) -> dict[str, Any]:
    """One: severity, summary, detail (the help), and the place as `range` and `snippet`; columns count from 1."""
    diagnostic = diagnostic.on_command_line
    told: dict[str, Any] = {
        "severity": diagnostic.severity,
        "summary": printable(diagnostic.message),
        "detail": printable(diagnostic.help or ""),
    }
    span = diagnostic.span
    if span is not None:
        end = span.column + max(1, span.length)
        told["range"] = {
            "filename": span.file.name,
            "start": {"line": span.line, "column": span.column},
            "end": {"line": span.line, "column": end},
        }
        told["snippet"] = {
            "context": None,
            "code": printable(span.file.line(span.line)),
            "start_line": span.line,
            "highlight_start_offset": span.column - 1,
            "highlight_end_offset": end - 1,
        }
    return told


def annotation(diagnostic: Diagnostic) -> str:
    """One as a workflow command, which GitHub Actions shows beside the line in the pull request."""
    diagnostic, properties = diagnostic.on_command_line, {"title": "sandboxrun"}
    span = diagnostic.span
    if span is not None:
        properties |= {"file": span.file.name, "line": str(span.line), "col": str(span.column)}
        properties |= {"endColumn": str(span.column + max(1, span.length))}
    message = diagnostic.message + (f"\n{diagnostic.help}" if diagnostic.help else "")
    told = {key: _data(value).replace(":", "%3A").replace(",", "%2C") for key, value in properties.items()}
    named = ",".join(f"{key}={value}" for key, value in told.items())
    command = diagnostic.severity if diagnostic.severity in ("error", "warning") else "notice"
    return f"::{command} {named}::{_data(message)}"


def annotations_text(diagnostics: Iterable[Diagnostic]) -> str:
    """All of them, a line each."""
    return "\n".join(annotation(diagnostic) for diagnostic in diagnostics)


def _data(text: str) -> str:
    return printable(text).replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
