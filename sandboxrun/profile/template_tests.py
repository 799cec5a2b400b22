"""The tests and comparisons that a template may use: `is defined`, `==`, `in` and the like.

Owns their meaning, which is Jinja's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from sandboxrun.profile.bounds import TemplateError, Work
from sandboxrun.profile.template_functions import Function, Missing, as_text, kind, need, sized


def _compare(check: Callable[[Any, Any], bool]) -> Function:
    def test(work: Work, value: Any, other: Any) -> bool:
        if isinstance(value, list | dict):
            work.tree(value)
        try:
            return bool(check(value, other))
        except TypeError:
            raise TemplateError(f"{kind(value)} and {kind(other)} can't be compared") from None

    return test


def _is_in(work: Work, value: Any, container: Any) -> bool:
    return contains(work, container, value)


def contains(work: Work, container: Any, value: Any) -> bool:
    """`value in container`; a text holds texts only."""
    work.spend(1 + len(sized(container)) // 8)
    if isinstance(container, str):
        return as_text(value) in container
    return value in container


def _divisible(work: Work, value: Any, by: Any) -> bool:
    value, by = need(value, "an integer", int), need(by, "an integer", int)
    if by == 0:
        raise TemplateError("nothing is divisible by zero")
    return bool(value % by == 0)


_EQUAL = _compare(lambda a, b: a == b)
_DIFFERENT = _compare(lambda a, b: a != b)
_LESS, _AT_MOST = _compare(lambda a, b: a < b), _compare(lambda a, b: a <= b)
_MORE, _AT_LEAST = _compare(lambda a, b: a > b), _compare(lambda a, b: a >= b)
COMPARISONS: Mapping[str, Function] = {
    "eq": _EQUAL, "ne": _DIFFERENT, "lt": _LESS, "lteq": _AT_MOST, "gt": _MORE, "gteq": _AT_LEAST,
}  # fmt: skip
TESTS: Mapping[str, Function] = {
    "boolean": lambda work, value: isinstance(value, bool),
    "defined": lambda work, value: not isinstance(value, Missing),
    "divisibleby": _divisible,
    "eq": _EQUAL,
    "equalto": _EQUAL,
    "even": lambda work, value: need(value, "an integer", int) % 2 == 0,
    "false": lambda work, value: value is False,
    "float": lambda work, value: isinstance(value, float),
    "ge": _AT_LEAST,
    "gt": _MORE,
    "in": _is_in,
    "integer": lambda work, value: isinstance(value, int) and not isinstance(value, bool),
    "iterable": lambda work, value: isinstance(value, list | dict | str),
    "le": _AT_MOST,
    "lower": lambda work, value: as_text(value).islower(),
    "lt": _LESS,
    "mapping": lambda work, value: isinstance(value, dict),
    "ne": _DIFFERENT,
    "none": lambda work, value: value is None,
    "number": lambda work, value: isinstance(value, int | float),
    "odd": lambda work, value: need(value, "an integer", int) % 2 == 1,
    "sequence": lambda work, value: isinstance(value, list | dict | str),
    "string": lambda work, value: isinstance(value, str),
    "true": lambda work, value: value is True,
    "undefined": lambda work, value: isinstance(value, Missing),
    "upper": lambda work, value: as_text(value).isupper(),
}
