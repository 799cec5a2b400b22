"""The methods of texts and mappings that a template may call, and `range`.

Owns the closed list: no other attribute of a Python object is within reach.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from sandboxrun.profile.bounds import TemplateError, Work
from sandboxrun.profile.template_functions import Function, as_text, joined, listed, need, pairs_of, replaced


def _split(right: bool) -> Function:
    def split(work: Work, text: str, separator: Any = None, most: Any = -1) -> list[str]:
        separator = None if separator is None else as_text(separator)
        if separator == "":
            raise TemplateError("nothing can't separate: give split a text")
        limit = need(most, "an integer", int)
        parts = text.rsplit(separator, limit) if right else text.split(separator, limit)
        work.items(len(parts))
        return parts

    return split


def _strip(method: Callable[..., str]) -> Function:
    return lambda work, text, chars=None: method(text, None if chars is None else as_text(chars))


def _lines(work: Work, text: str) -> list[str]:
    lines = text.splitlines()
    work.items(len(lines))
    return lines


TEXT_METHODS: Mapping[str, Function] = {
    "capitalize": lambda work, text: text.capitalize(),
    "endswith": lambda work, text, part: text.endswith(as_text(part)),
    "isdigit": lambda work, text: text.isdigit(),
    "join": lambda work, text, items: joined(work, items, text),
    "lower": lambda work, text: text.lower(),
    "lstrip": _strip(str.lstrip),
    "removeprefix": lambda work, text, part: text.removeprefix(as_text(part)),
    "removesuffix": lambda work, text, part: text.removesuffix(as_text(part)),
    "replace": replaced,
    "rsplit": _split(True),
    "rstrip": _strip(str.rstrip),
    "split": _split(False),
    "splitlines": _lines,
    "startswith": lambda work, text, part: text.startswith(as_text(part)),
    "strip": _strip(str.strip),
    "upper": lambda work, text: text.upper(),
}
MAP_METHODS: Mapping[str, Function] = {
    "get": lambda work, mapping, key, default=None: mapping.get(as_text(key), default),
    "items": pairs_of,
    "keys": lambda work, mapping: listed(work, mapping),
    "values": lambda work, mapping: listed(work, list(mapping.values())),
}


def make_range(work: Work, *bounds: Any) -> list[int]:
    """`range(stop)`, `range(start, stop[, step])` as a list, within the bound on lists."""
    if not 1 <= len(bounds) <= 3:
        raise TemplateError("range takes one to three integers")
    numbers = [need(bound, "an integer", int) for bound in bounds]
    if len(numbers) == 3 and numbers[2] == 0:
        raise TemplateError("the step of range must not be zero")
    made = range(*numbers)
    work.items(min(len(made), 10**9) if max(map(abs, numbers)) < 2**62 else 10**9)
    return list(made)
