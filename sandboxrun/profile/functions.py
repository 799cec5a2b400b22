"""What a template may call: filters, tests, methods, each a function over plain data. Pure."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from sandboxrun.profile.templates import LARGEST_INTEGER, Allowance, TemplateError


def integer(value: int) -> int:
    """`value`, if the engine could count it."""
    if abs(value) > LARGEST_INTEGER:
        raise TemplateError("this template makes a number that is too large")
    return value


# -- The tests and comparisons that a template may use: `is defined`, `==`, `in` and the like


def _compared(check: Callable[[Any, Any], Any], work: Allowance, value: Any, other: Any) -> bool:
    if isinstance(value, list | dict):
        work.tree(value)
    try:
        return bool(check(value, other))
    except TypeError:
        raise TemplateError(f"{kind(value)} and {kind(other)} can't be compared") from None


def contains(work: Allowance, container: Any, value: Any) -> bool:
    """`value in container`; a text holds texts only."""
    work.spend(1 + len(sized(container)) // 8)
    if isinstance(container, str):
        return as_text(value) in container
    return value in container


def _divisible(work: Allowance, value: Any, by: Any) -> bool:
    value, by = need(value, "an integer", int), need(by, "an integer", int)
    if by == 0:
        raise TemplateError("nothing is divisible by zero")
    return bool(value % by == 0)


_COMPARED = {n: partial(_compared, getattr(operator, n)) for n in ("eq", "ne", "lt", "le", "gt", "ge")}
COMPARISONS: Mapping[str, Function] = {  # by Jinja's names of operators
    {"le": "lteq", "ge": "gteq"}.get(name, name): compared for name, compared in _COMPARED.items()
}
TESTS: Mapping[str, Function] = {
    **_COMPARED,
    "boolean": lambda work, value: isinstance(value, bool),
    "defined": lambda work, value: not isinstance(value, Undefined),
    "divisibleby": _divisible,
    "equalto": _COMPARED["eq"],
    "even": lambda work, value: need(value, "an integer", int) % 2 == 0,
    "false": lambda work, value: value is False,
    "float": lambda work, value: isinstance(value, float),
    "in": lambda work, value, container: contains(work, container, value),
    "integer": lambda work, value: isinstance(value, int) and not isinstance(value, bool),
    "iterable": lambda work, value: isinstance(value, list | dict | str),
    "lower": lambda work, value: as_text(value).islower(),
    "mapping": lambda work, value: isinstance(value, dict),
    "none": lambda work, value: value is None,
    "number": lambda work, value: isinstance(value, int | float),
    "odd": lambda work, value: need(value, "an integer", int) % 2 == 1,
    "sequence": lambda work, value: isinstance(value, list | dict | str),
    "string": lambda work, value: isinstance(value, str),
    "true": lambda work, value: value is True,
    "undefined": lambda work, value: isinstance(value, Undefined),
    "upper": lambda work, value: as_text(value).isupper(),
}


# -- What a template may call: the filters, tests and methods, each a function over plain data


class Undefined(TemplateError):
    """The value of something that is not there; using it raises it, testing it does not."""


def kind(value: Any) -> str:
    """The value's type in a profile author's words."""
    return _KINDS.get(type(value), "a value")


_KINDS: dict[type, str] = {
    type(None): "null", bool: "a boolean", int: "an integer", float: "a number", str: "a text", list: "a list",
    dict: "a mapping",
}  # fmt: skip


def text_of(value: Any, work: Allowance) -> str:
    """How a value appears inside a longer text: booleans as YAML writes them; null, lists and mappings not at all."""
    match value:
        case str():
            text = value
        case bool():
            text = "true" if value else "false"
        case int() | float():
            text = str(value)
        case None:
            raise TemplateError("null can't be used in a string", help="set a default: {{ name | default('…') }}")
        case Undefined():
            raise value
        case _:
            raise TemplateError(f"{kind(value)} can't be used in a string", help="use | join(' ') or | tojson")
    work.text(len(text))
    return text


def need(value: Any, what: str, *types: type) -> Any:
    """`value`, which must be of `types`. Raises TemplateError saying `what` was expected."""
    if isinstance(value, Undefined):
        raise value
    if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
        raise TemplateError(f"expected {what}, found {kind(value)}")
    return value


def as_text(value: Any) -> str:
    """A value that must be a text. Raises TemplateError."""
    return str(need(value, "a text", str))


def _list(value: Any) -> list[Any]:
    return list(need(value, "a list", list, dict))


def sized(value: Any) -> Any:
    """A value that has a length. Raises TemplateError."""
    return need(value, "a text, a list or a mapping", str, list, dict)


def _number(value: Any) -> Any:
    return need(value, "a number", int, float)


def _default(work: Allowance, value: Any, default: Any = "", boolean: bool = False) -> Any:
    absent = value is None or isinstance(value, Undefined) or (boolean and not value)
    return default if absent else value


def replaced(work: Allowance, value: Any, old: Any, new: Any, count: Any = None) -> str:
    """The filter `replace`; what it may make is counted first."""
    text, gone, made = text_of(value, work), as_text(old), as_text(new)
    limit: int = -1 if count is None else need(count, "an integer", int)
    work.text(len(text) + text.count(gone) * max(0, len(made) - len(gone)))
    return text.replace(gone, made, limit)


def joined(work: Allowance, value: Any, separator: Any = "") -> str:
    """The filter `join`; what it makes is counted first."""
    between = as_text(separator)
    parts = [text_of(item, work) for item in _list(value)]
    work.text(sum(map(len, parts)) + len(between) * len(parts))
    return between.join(parts)


def _converted(
    to: Callable[..., Any], what: str, work: Allowance, value: Any, default: Any = None, base: int = 10
) -> Any:
    """A number made by `to`, which is `int` or `float`."""
    try:
        given = value if isinstance(value, str) else need(value, "a number or a text", int, float, bool)
        if to is int and isinstance(value, str) and len(value) > 40:
            raise ValueError(value)
        number = to(given, base) if base != 10 and isinstance(value, str) else to(given)
        if number - number != 0:  # infinity and not-a-number are no profile's values
            raise ValueError(value)
    except ValueError:
        if default is None:
            help = f"give a default: | {to.__name__}(0)"
            raise TemplateError(f'"{str(value)[:40]}" is not {what}', help=help) from None
        number = to(need(default, what, int) if to is int else _number(default))
    return integer(number) if to is int else number


def _item(index: int, work: Allowance, value: Any) -> Any:
    items = sized(value)
    if not items:
        raise TemplateError(f"{kind(items)} with nothing in it has no first or last")
    return (list(items) if isinstance(items, dict) else items)[index]


def _folded(value: Any) -> Any:
    return value.lower() if isinstance(value, str) else value


def _ordered(work: Allowance, value: Any, key: Callable[[Any], Any], reverse: bool = False) -> list[Any]:
    items = _list(value)
    work.items(4 * len(items))
    try:
        return sorted(items, key=key, reverse=bool(reverse))
    except TypeError:
        raise TemplateError("values of different types have no order") from None


def _sort(work: Allowance, value: Any, reverse: bool = False, case_sensitive: bool = False) -> list[Any]:
    return _ordered(work, value, (lambda item: item) if case_sensitive else _folded, reverse)


def _extreme(index: int, work: Allowance, value: Any, case_sensitive: bool = False) -> Any:
    ordered = _sort(work, value, case_sensitive=case_sensitive)
    if not ordered:
        raise TemplateError("an empty list has no least or greatest item")
    return ordered[index]


def _unique(work: Allowance, value: Any, case_sensitive: bool = False) -> list[Any]:
    items = _list(value)
    work.items(len(items))
    seen: dict[Any, Any] = {}
    for item in items:
        if isinstance(item, list | dict):
            raise TemplateError("only plain values can be compared")
        seen.setdefault((type(item), item if case_sensitive else _folded(item)), item)
    return list(seen.values())


def listed(work: Allowance, value: Any) -> list[Any]:
    """The filter `list`, its items counted."""
    work.items(len(sized(value)))
    return list(value)


def _sum(work: Allowance, value: Any, start: Any = 0) -> Any:
    items = _list(value)
    work.items(len(items))
    total = sum(map(_number, items), _number(start))
    return integer(total) if isinstance(total, int) else total


def _tojson(work: Allowance, value: Any, indent: Any = None) -> str:
    import json

    if isinstance(value, Undefined):
        raise value
    if indent is not None and not 0 <= need(indent, "an integer", int) <= 8:
        raise TemplateError("indent goes from 0 to 8")
    made = json.dumps(value, ensure_ascii=False, sort_keys=True, indent=indent)
    work.text(len(made))
    return made


def pairs_of(work: Allowance, value: Any) -> list[Any]:
    """A mapping's keys and values as pairs, counted."""
    mapping = need(value, "a mapping", dict)
    work.items(len(mapping))
    return [[key, item] for key, item in mapping.items()]


def _round(work: Allowance, value: Any, precision: Any = 0, method: Any = "common") -> float:
    digits = need(precision, "an integer", int)
    if method != "common" or not 0 <= digits <= 15:
        raise TemplateError("round accepts a precision from 0 to 15 and only the method common")
    return float(round(_number(value), digits))


def _changed(method: Callable[..., str], work: Allowance, value: Any) -> str:
    return method(text_of(value, work))


Function = Callable[..., Any]
FILTERS: Mapping[str, Function] = {
    "abs": lambda work, value: abs(_number(value)),
    "capitalize": partial(_changed, str.capitalize),
    "count": lambda work, value: len(sized(value)),
    "d": _default,
    "default": _default,
    "dictsort": lambda work, value: _ordered(work, pairs_of(work, value), lambda pair: _folded(pair[0])),
    "first": partial(_item, 0),
    "float": partial(_converted, float, "a number"),
    "int": partial(_converted, int, "an integer"),
    "items": pairs_of,
    "join": joined,
    "last": partial(_item, -1),
    "length": lambda work, value: len(sized(value)),
    "list": listed,
    "lower": partial(_changed, str.lower),
    "max": partial(_extreme, -1),
    "min": partial(_extreme, 0),
    "replace": replaced,
    "reverse": lambda work, value: value[::-1] if isinstance(value, str) else listed(work, value)[::-1],
    "round": _round,
    "sort": _sort,
    "string": lambda work, value: text_of(value, work),
    "sum": _sum,
    "tojson": _tojson,
    "trim": lambda work, value, chars=None: _strip(str.strip, work, text_of(value, work), chars),
    "unique": _unique,
    "upper": partial(_changed, str.upper),
}


# -- The methods of texts and mappings that a template may call, and `range`


def _split(method: Callable[..., Any], work: Allowance, text: str, separator: Any = None, most: Any = -1) -> list[str]:
    separator = None if separator is None else as_text(separator)
    if separator == "":
        raise TemplateError("the separator is empty: pass split a text")
    parts: list[str] = method(text, separator, need(most, "an integer", int))
    work.items(len(parts))
    return parts


def _strip(method: Callable[..., str], work: Allowance, text: str, chars: Any = None) -> str:
    return method(text, None if chars is None else as_text(chars))


TEXT_METHODS: Mapping[str, Function] = {
    "capitalize": lambda work, text: text.capitalize(),
    "endswith": lambda work, text, part: text.endswith(as_text(part)),
    "isdigit": lambda work, text: text.isdigit(),
    "join": lambda work, text, items: joined(work, items, text),
    "lower": lambda work, text: text.lower(),
    "lstrip": partial(_strip, str.lstrip),
    "removeprefix": lambda work, text, part: text.removeprefix(as_text(part)),
    "removesuffix": lambda work, text, part: text.removesuffix(as_text(part)),
    "replace": replaced,
    "rsplit": partial(_split, str.rsplit),
    "rstrip": partial(_strip, str.rstrip),
    "split": partial(_split, str.split),
    "splitlines": lambda work, text: listed(work, text.splitlines()),
    "startswith": lambda work, text, part: text.startswith(as_text(part)),
    "strip": partial(_strip, str.strip),
    "upper": lambda work, text: text.upper(),
}
MAP_METHODS: Mapping[str, Function] = {
    "get": lambda work, mapping, key, default=None: mapping.get(as_text(key), default),
    "items": pairs_of,
    "keys": lambda work, mapping: listed(work, mapping),
    "values": lambda work, mapping: listed(work, list(mapping.values())),
}


def make_range(work: Allowance, *bounds: Any) -> list[int]:
    """`range(stop)`, `range(start, stop[, step])` as a list, within the bound on lists."""
    if not 1 <= len(bounds) <= 3:
        raise TemplateError("range takes one to three integers")
    numbers = [need(bound, "an integer", int) for bound in bounds]
    if len(numbers) == 3 and numbers[2] == 0:
        raise TemplateError("the step of range must not be zero")
    made = range(*numbers)
    work.items(min(len(made), 10**9) if max(map(abs, numbers)) < 2**62 else 10**9)
    return list(made)
