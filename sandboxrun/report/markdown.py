"""Markdown for a pull request's comment: literal text, code, blocks, and a page that is never too long.

Owns the bound on a comment's length and the escaping: nothing that a profile or an agent wrote can close a table, a
code block or a `<details>`, start a link, or mention anybody. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from sandboxrun.errors import Span, one_line

LIMIT = 60_000  # characters; GitHub refuses a comment of more than 65 536
_LINE = 2_500  # characters of one option: two values that were cut already fit, and none crowds out the rest
_NOTES = 600  # kept for what says that something was cut
_PLAIN = re.compile(r"[A-Za-z0-9 ,=-]")


def escaped(text: str) -> str:
    """`text` as literal text on one line: every character that could mean something is a character reference."""
    references = (c if _PLAIN.fullmatch(c) or ord(c) > 127 else f"&#{ord(c)};" for c in one_line(text))
    # Comments around it keep e-mail addresses from becoming links: those are looked for after references are read.
    return "".join(references).replace("&#64;", "<!-- -->&#64;<!-- -->")


def code(text: str) -> str:
    """`text` as code. In `<code>` GitHub looks for no mentions, issues or emoji."""
    return f"<code>{escaped(text)}</code>"


def place_of(span: Span | None) -> str:
    """A file and line, or nothing."""
    return f"{code(span.file.name)}:{span.line}" if span is not None else ""


class Page:
    """The text so far, and what still fits into it. `whole` names what to look at where it was cut."""

    def __init__(self, head: str, *, whole: str) -> None:
        self.text = head
        self._whole = whole

    def add(self, more: str) -> None:
        self.text += more

    def add_each(self, parts: Iterable[str], of_what: str) -> None:
        """Add those that fit, up to the first that does not, and say how many are left out."""
        left = 0
        for part in parts:
            if left or len(self.text) + len(part) > LIMIT - _NOTES:
                left += 1
            else:
                self.add(part)
        if left:
            why = f"the comment would be too long. See {self._whole}."
            self.add(f"\n> **{left} {of_what} are left out here**: {why}\n")


def fenced(lines: Iterable[str]) -> str:
    """A code block that nothing in it can close."""
    short = [cut(one_line(line), _LINE) for line in lines]
    longest = max((len(run) for line in short for run in re.findall("`+", line)), default=0)
    fence = "`" * max(3, longest + 1)
    return "\n".join([f"{fence}diff", *short, fence, ""])


def cut(text: str, limit: int) -> str:
    """`text`, or its beginning and how long it is."""
    return text if len(text) <= limit else f"{text[:limit]} … ({len(text)} characters, cut here)"
