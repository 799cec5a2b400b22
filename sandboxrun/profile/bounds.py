"""How much a profile's templates may do: steps, text and lists, each a number of its own.

Owns the numbers and their counting. Time is never measured: the same profile must be accepted or refused alike
on every machine.
"""

from __future__ import annotations

import re
from typing import Any

import attrs

MARKS = re.compile(r"\{\{|\{%|\{#")  # what makes a scalar a template
LONGEST_TEXT = 64 * 1024  # characters that one value may have, on the way or at its end
LONGEST_LIST = 10_000
LARGEST_INTEGER = 2**63 - 1
STEPS_A_SCALAR = 50_000
STEPS_A_PROFILE = 2_000_000
DEEPEST_EXPRESSION = 60
LONGEST_TEMPLATE = 16 * 1024  # characters of source


CLOSING = {"{{": "}}", "{%": "%}", "{#": "#}"}


class TemplateError(Exception):
    """A fault in a template: a clause, its line in the scalar (0: not known yet), the word to point at, a help."""

    def __init__(self, message: str, *, line: int = 0, word: str = "", help: str | None = None) -> None:
        self.message, self.line, self.word, self.help = message, line, word, help
        super().__init__(message)


@attrs.define
class Work:
    """Counts the steps of all templates of one profile."""

    left: int = STEPS_A_PROFILE
    here: int = STEPS_A_SCALAR

    def begin(self) -> None:
        """Another scalar: its own count starts anew, the profile's goes on."""
        self.here = STEPS_A_SCALAR

    def spend(self, steps: int = 1) -> None:
        """Raises TemplateError when the scalar or the profile has none left."""
        self.here -= steps
        self.left -= steps
        if self.here < 0:
            raise TemplateError("this template does too much work", help="shorten its loops")
        if self.left < 0:
            raise TemplateError("the templates of this profile do too much work together", help="shorten their loops")

    def text(self, length: int) -> None:
        """Raises TemplateError when a text of `length` characters must not be made; else pays for it."""
        self.fits(length)
        self.spend(1 + length // 64)

    @staticmethod
    def fits(length: int) -> None:
        """Raises TemplateError when a text of `length` characters must not be made."""
        if length > LONGEST_TEXT:
            raise TemplateError(f"this template makes a text longer than {LONGEST_TEXT // 1024} KiB")

    def items(self, count: int) -> None:
        """The same for a list of `count` items."""
        if count > LONGEST_LIST:
            raise TemplateError(f"this template makes a list longer than {LONGEST_LIST} items")
        self.spend(1 + count // 8)

    def tree(self, value: Any) -> None:
        """The same for all that a list or a mapping holds, written out: one list may stand in it many times."""
        count, waiting = 0, [value]
        while waiting:
            node = waiting.pop()
            parts = node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
            waiting.extend(parts)
            count += 1 + len(parts)
            if count > 2 * LONGEST_LIST:
                self.items(count)
        self.items(count // 2)


def integer(value: int) -> int:
    """`value`, if the engine could count it."""
    if abs(value) > LARGEST_INTEGER:
        raise TemplateError("this template makes a number that is too large")
    return value
