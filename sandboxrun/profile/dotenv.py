"""Dotenv files: `NAME=value` lines, as Compose reads them, less interpolation.

Owns the format. Where Compose would fill in `$NAME`, this refuses: a value must not depend on who reads it.
"""

from __future__ import annotations

import re

from sandboxrun.errors import Problems
from sandboxrun.source import Scalar, SourceFile, Span

_LINE = re.compile(r"\s*(?:export\s+)?(?P<name>[^\s=#]+)\s*=[ \t]*(?P<value>.*)$")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")
_ESCAPES = {"n": "\n", "r": "\r", "t": "\t", '"': '"', "\\": "\\", "$": "$"}
_VARIABLE = re.compile(r"(?<!\\)\$(?:\{|[A-Za-z_])")
MOST_LINES = 10_000

Pair = tuple[Scalar, Scalar]


def parse_dotenv(file: SourceFile, problems: Problems) -> list[Pair]:
    """The names and values in the file's order, a later one of the same name replacing the earlier."""
    pairs: dict[str, Pair] = {}
    lines = file.text.splitlines()
    if len(lines) > MOST_LINES:
        problems.add(f"more than {MOST_LINES} lines", Span(file=file, line=MOST_LINES, column=1), "split the file")
        return []
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        if (pair := _pair(file, number, line, problems)) is not None:
            pairs[str(pair[0].value)] = pair
    return list(pairs.values())


def looks_like_dotenv(text: str) -> bool:
    """Whether the first line that says anything is `NAME=…`."""
    first = next((line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")), "")
    return re.match(r"\s*(?:export\s+)?[A-Za-z_][\w.-]*\s*=", first) is not None


def _pair(file: SourceFile, number: int, line: str, problems: Problems) -> Pair | None:
    match = _LINE.match(line)
    if match is None:
        column = len(line) - len(line.lstrip()) + 1
        span = Span(file=file, line=number, column=column, length=len(line.strip()))
        problems.add("a line that is not NAME=value", span, "write NAME=value, or begin a comment with #")
        return None
    name = match["name"]
    at = Span(file=file, line=number, column=match.start("name") + 1, length=len(name))
    if not _NAME.fullmatch(name):
        problems.add(f'"{name}" is no name for a variable', at, "use letters, digits and _")
        return None
    rest = match["value"]
    span = Span(file=file, line=number, column=match.start("value") + 1, length=max(1, len(rest.rstrip())))
    try:
        value = _value(rest)
    except ValueError as error:
        problems.add(str(error), span, _HELP.get(str(error)))
        return None
    return Scalar(value=name, text=name, span=at), Scalar(value=value, text=value, span=span)


_UNCLOSED = "the quoted value is not closed"
_INTERPOLATED = "a value can't be filled in from another variable"
_HELP = {
    _UNCLOSED: "add the closing quote on the same line; for a line break write \\n in double quotes",
    _INTERPOLATED: "write it out, or put it in single quotes if the $ is meant",
}


def _value(rest: str) -> str:
    """The value of what follows `=`. Raises ValueError with a clause."""
    quote = rest[:1]
    if quote == "'":
        end = rest.find("'", 1)
        return _closed(rest, end, rest[1:end])
    if quote == '"':
        match = re.compile(r'"((?:[^"\\]|\\.)*)"').match(rest)
        inner = match[1] if match else ""
        value = _closed(rest, match.end() - 1 if match else -1, inner)
        _no_variable(value)
        return re.sub(r"\\(.)", lambda m: _ESCAPES.get(m[1], m[0]), value)
    value = re.split(r"(?:^|\s)#", rest, maxsplit=1)[0].rstrip()
    _no_variable(value)
    return value


def _closed(rest: str, end: int, inner: str) -> str:
    after = rest[end + 1 :].strip()
    if end < 0:
        raise ValueError(_UNCLOSED)
    if after and not after.startswith("#"):
        raise ValueError("something stands after the closing quote")
    return inner


def _no_variable(text: str) -> None:
    if _VARIABLE.search(text):
        raise ValueError(_INTERPOLATED)
