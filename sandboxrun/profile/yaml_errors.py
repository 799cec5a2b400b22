"""YAML syntax errors in our own words, with what to do.

Owns the wording only. The parser's own clause is kept where nothing better is known.
"""

from __future__ import annotations

import re
from typing import Any

from sandboxrun.errors import Diagnostic
from sandboxrun.source import SourceFile, Span

QUOTE_TEMPLATE = (
    'a template is quoted as a whole: "{{ … }}"; braces meant for another program are: "{% raw %}{{ … }}{% endraw %}"'
)
# What the parser says, our message, our help; the first whose pattern is found is taken.
_KNOWN: tuple[tuple[str, str, str | None], ...] = (
    (
        "mapping values are not allowed",
        'a ":" can\'t stand here',
        'quote a value that holds ": ", or check the indentation',
    ),
    ("block sequence entries are not allowed", 'a "-" can\'t begin an item here', "begin the list on a new line"),
    ("did not find expected '-' indicator", "the list ends here without being outdented", "check the indentation"),
    ("did not find expected ',' or ']'", "the list that began with [ is not closed", "close it with ]"),
    ("did not find expected ',' or '}'", "the mapping that began with { is not closed", "close it with }"),
    ("while scanning a quoted scalar.*unexpected end", "the quoted text is not closed", "add the closing quote"),
    (
        "unknown escape character",
        "unknown escape in a double-quoted text",
        "write \\\\ for a backslash, or use single quotes",
    ),
    ("Unicode character escape|hexdecimal|hexadecimal", "an escape that names no character", None),
    (
        "undefined tag handle",
        "unknown tag",
        "remove it: only !!str, !!int, !!float, !!bool, !!null, !!map and !!seq are known",
    ),
    ("incompatible YAML document", "unknown YAML version", "remove the %YAML line"),
    ("could not find expected ':'", 'a ":" is missing after this key', "write KEY: VALUE"),
    (
        "while scanning a block scalar",
        "the block text's header is wrong",
        "write | or >, then the text on the next lines",
    ),
    (
        "while scanning an alias|while scanning an anchor",
        "an anchor's name is missing",
        "write &name and *name; quote a text that begins with & or *",
    ),
    (
        "did not find expected key",
        "this line fits nothing above it",
        "check the indentation, and quote what begins with a special character",
    ),
    ("did not find expected <document start>", "this line fits nothing above it", "check the indentation"),
    ("unexpected end of stream", "the file ends in the middle of a value", None),
)


def syntax_error(error: Exception, file: SourceFile) -> Diagnostic:
    """The diagnostic for an exception of the YAML parser. Any other exception of its code gets a general one."""
    mark: Any = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    span = mark_span(file, mark) if mark is not None else Span(file=file, line=1, column=1)
    problem = str(getattr(error, "problem", None) or getattr(error, "reason", None) or error or type(error).__name__)
    said = f"{getattr(error, 'context', None) or ''} {problem}"
    if template := _unquoted_template(file, span):
        return Diagnostic(message="an unquoted template is not YAML", span=template, help=QUOTE_TEMPLATE)
    if "cannot start any token" in said:
        return _bad_start(file, span)
    for pattern, message, help in _KNOWN:
        if re.search(pattern, said, re.DOTALL):
            if message.endswith("not closed") and getattr(error, "context_mark", None) is not None:
                span = mark_span(file, error.context_mark)  # type: ignore[attr-defined]
            return Diagnostic(message=message, span=span, help=help)
    return Diagnostic(message=f"this is not YAML: {problem}", span=span, help="check the indentation and the quotes")


def mark_span(file: SourceFile, mark: Any) -> Span:
    """A parser's mark (0-based) as a span; past the end of the file it is the end of the last line."""
    lines = file.text.count("\n") + 1
    if mark.line < lines and (mark.line + 1 < lines or file.line(lines) or lines == 1):
        return Span(file=file, line=mark.line + 1, column=mark.column + 1)
    last = lines if file.line(lines) else max(1, lines - 1)
    return Span(file=file, line=last, column=len(file.line(last)) + 1)


def _bad_start(file: SourceFile, span: Span) -> Diagnostic:
    found = file.line(span.line)[span.column - 1 : span.column]
    if found == "\t":
        return Diagnostic(message="a tab can't indent", span=span, help="indent with spaces")
    if found == "%":
        return Diagnostic(
            message='a value can\'t begin with "%"',
            span=span,
            help="quote it; template statements stand only inside a quoted or block text",
        )
    return Diagnostic(message=f'a value can\'t begin with "{found}"', span=span, help="quote it")


def _unquoted_template(file: SourceFile, span: Span) -> Span | None:
    """Where a `{{` opens a value without a quote, on the line of the error or the one before."""
    for number in (span.line, span.line - 1):
        if found := re.match(r"(\s*(?:- +)*(?:[\w.-]+: +)?)(\{\{.*)", file.line(number)):
            return Span(file=file, line=number, column=len(found[1]) + 1, length=len(found[2].rstrip()))
    return None
