"""What a template may call: the filters, tests and methods, each a function over plain data.

Owns their meaning, which is Jinja's with two exceptions: what Jinja answers with a silent default (`int` of a
word, `first` of nothing) is an error here, and `default` also stands in for null. Must not reach anything but its
arguments: a template's author is not trusted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from sandboxrun.profile.bounds import TemplateError, Work, integer


class Missing:
    """The value of something that is not there; using it is an error, testing it is not."""

    __slots__ = ("help", "message", "word")

    def __init__(self, message: str, word: str, help: str | None = None) -> None:
        self.message, self.word, self.help = message, word, help

    def error(self) -> TemplateError:
        return TemplateError(self.message, word=self.word, help=self.help)


def kind(value: Any) -> str:
    """The value's type in a profile author's words."""
    match value:
        case None:
            return "null"
        case bool():
            return "a boolean"
        case int():
            return "an integer"
        case float():
            return "a number"
        case str():
            return "a text"
        case list():
            return "a list"
        case dict():
            return "a mapping"
    return "a value"


def text_of(value: Any, work: Work) -> str:
    """How a value stands inside a longer text: booleans as YAML writes them; null, lists and mappings not at all."""
    match value:
        case str():
            text = value
        case bool():
            text = "true" if value else "false"
        case int() | float():
            text = str(value)
        case None:
            raise TemplateError("null can't stand in a text", help="give it a value: {{ name | default('…') }}")
        case Missing():
            raise value.error()
        case _:
            raise TemplateError(f"{kind(value)} can't stand in a text", help="use | join(' ') or | tojson")
    work.text(len(text))
    return text


def _need(value: Any, what: str, *types: type) -> Any:
    if isinstance(value, Missing):
        raise value.error()
    if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
        raise TemplateError(f"expected {what}, found {kind(value)}")
    return value


def _text(value: Any) -> str:
    return str(_need(value, "a text", str))


def _list(value: Any) -> list[Any]:
    value = _need(value, "a list", list, dict)
    return list(value)


def _sized(value: Any) -> Any:
    return _need(value, "a text, a list or a mapping", str, list, dict)


def _number(value: Any) -> Any:
    return _need(value, "a number", int, float)


def _default(work: Work, value: Any, default: Any = "", boolean: bool = False) -> Any:
    absent = value is None or isinstance(value, Missing) or (boolean and not value)
    return default if absent else value


def _replace(work: Work, value: Any, old: Any, new: Any, count: Any = None) -> str:
    text, gone, made = text_of(value, work), _text(old), _text(new)
    limit: int = -1 if count is None else _need(count, "an integer", int)
    work.text(len(text) + text.count(gone) * max(0, len(made) - len(gone)))
    return text.replace(gone, made, limit)


def _join(work: Work, value: Any, separator: Any = "") -> str:
    between = _text(separator)
    parts = [text_of(item, work) for item in _list(value)]
    work.text(sum(map(len, parts)) + len(between) * len(parts))
    return between.join(parts)


def _int(work: Work, value: Any, default: Any = None, base: int = 10) -> int:
    try:
        if isinstance(value, str):
            if len(value) > 40:
                raise ValueError(value)
            return integer(int(value, base) if base != 10 else int(value))
        return integer(int(_need(value, "a number or a text", int, float, bool)))
    except ValueError:
        if default is None:
            raise TemplateError(f'"{str(value)[:40]}" is not an integer', help="give a default: | int(0)") from None
        return integer(_need(default, "an integer", int))


def _float(work: Work, value: Any, default: Any = None) -> float:
    try:
        number = float(value if isinstance(value, str) else _need(value, "a number or a text", int, float, bool))
        if number - number != 0:  # infinity and not-a-number are no profile's values
            raise ValueError(value)
        return number
    except ValueError:
        if default is None:
            raise TemplateError(f'"{str(value)[:40]}" is not a number', help="give a default: | float(0)") from None
        return float(_number(default))


def _at(index: int) -> Callable[..., Any]:
    def pick(work: Work, value: Any) -> Any:
        items = _sized(value)
        if not items:
            raise TemplateError(f"{kind(items)} with nothing in it has no first or last")
        return (list(items) if isinstance(items, dict) else items)[index]

    return pick


def _folded(value: Any) -> Any:
    return value.lower() if isinstance(value, str) else value


def _ordered(work: Work, value: Any, key: Callable[[Any], Any], reverse: bool = False) -> list[Any]:
    items = _list(value)
    work.items(4 * len(items))
    try:
        return sorted(items, key=key, reverse=bool(reverse))
    except TypeError:
        raise TemplateError("values of different types have no order") from None


def _sort(work: Work, value: Any, reverse: bool = False, case_sensitive: bool = False) -> list[Any]:
    return _ordered(work, value, (lambda item: item) if case_sensitive else _folded, reverse)


def _extreme(last: bool) -> Callable[..., Any]:
    def pick(work: Work, value: Any, case_sensitive: bool = False) -> Any:
        ordered = _sort(work, value, case_sensitive=case_sensitive)
        if not ordered:
            raise TemplateError("an empty list has no least or greatest item")
        return ordered[-1 if last else 0]

    return pick


def _unique(work: Work, value: Any, case_sensitive: bool = False) -> list[Any]:
    items = _list(value)
    work.items(len(items))
    seen: dict[Any, Any] = {}
    for item in items:
        if isinstance(item, list | dict):
            raise TemplateError("only plain values can be told apart")
        seen.setdefault((type(item), item if case_sensitive else _folded(item)), item)
    return list(seen.values())


def _reverse(work: Work, value: Any) -> Any:
    work.items(len(_sized(value)) // 16)
    return value[::-1] if isinstance(value, str) else _list(value)[::-1]


def _listed(work: Work, value: Any) -> list[Any]:
    work.items(len(_sized(value)))
    return list(value)


def _sum(work: Work, value: Any, start: Any = 0) -> Any:
    items = _list(value)
    work.items(len(items))
    total = _number(start)
    for item in items:
        total += _number(item)
    return integer(total) if isinstance(total, int) else total


def _tojson(work: Work, value: Any, indent: Any = None) -> str:
    import json

    if isinstance(value, Missing):
        raise value.error()
    if indent is not None and not 0 <= _need(indent, "an integer", int) <= 8:
        raise TemplateError("indent goes from 0 to 8")
    made = json.dumps(value, ensure_ascii=False, sort_keys=True, indent=indent)
    work.text(len(made))
    return made


def _items(work: Work, value: Any) -> list[Any]:
    mapping = _need(value, "a mapping", dict)
    work.items(len(mapping))
    return [[key, item] for key, item in mapping.items()]


def _round(work: Work, value: Any, precision: Any = 0, method: Any = "common") -> float:
    digits = _need(precision, "an integer", int)
    if method != "common" or not 0 <= digits <= 15:
        raise TemplateError("round takes a precision from 0 to 15 and no method but common")
    return float(round(_number(value), digits))


def _simple(method: Callable[..., str]) -> Callable[..., str]:
    def apply(work: Work, value: Any) -> str:
        text = text_of(value, work)
        return method(text)

    return apply


def _trim(work: Work, value: Any, chars: Any = None) -> str:
    return text_of(value, work).strip(None if chars is None else _text(chars))


Function = Callable[..., Any]
FILTERS: Mapping[str, Function] = {
    "abs": lambda work, value: abs(_number(value)),
    "capitalize": _simple(str.capitalize),
    "count": lambda work, value: len(_sized(value)),
    "d": _default,
    "default": _default,
    "dictsort": lambda work, value: _ordered(work, _items(work, value), lambda pair: _folded(pair[0])),
    "first": _at(0),
    "float": _float,
    "int": _int,
    "items": _items,
    "join": _join,
    "last": _at(-1),
    "length": lambda work, value: len(_sized(value)),
    "list": _listed,
    "lower": _simple(str.lower),
    "max": _extreme(True),
    "min": _extreme(False),
    "replace": _replace,
    "reverse": _reverse,
    "round": _round,
    "sort": _sort,
    "string": lambda work, value: text_of(value, work),
    "sum": _sum,
    "tojson": _tojson,
    "trim": _trim,
    "unique": _unique,
    "upper": _simple(str.upper),
}


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
    work.spend(1 + len(_sized(container)) // 8)
    if isinstance(container, str):
        return _text(value) in container
    return value in container


def _divisible(work: Work, value: Any, by: Any) -> bool:
    value, by = _need(value, "an integer", int), _need(by, "an integer", int)
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
    "even": lambda work, value: _need(value, "an integer", int) % 2 == 0,
    "false": lambda work, value: value is False,
    "float": lambda work, value: isinstance(value, float),
    "ge": _AT_LEAST,
    "gt": _MORE,
    "in": _is_in,
    "integer": lambda work, value: isinstance(value, int) and not isinstance(value, bool),
    "iterable": lambda work, value: isinstance(value, list | dict | str),
    "le": _AT_MOST,
    "lower": lambda work, value: _text(value).islower(),
    "lt": _LESS,
    "mapping": lambda work, value: isinstance(value, dict),
    "ne": _DIFFERENT,
    "none": lambda work, value: value is None,
    "number": lambda work, value: isinstance(value, int | float),
    "odd": lambda work, value: _need(value, "an integer", int) % 2 == 1,
    "sequence": lambda work, value: isinstance(value, list | dict | str),
    "string": lambda work, value: isinstance(value, str),
    "true": lambda work, value: value is True,
    "undefined": lambda work, value: isinstance(value, Missing),
    "upper": lambda work, value: _text(value).isupper(),
}


def _split(right: bool) -> Function:
    def split(work: Work, text: str, separator: Any = None, most: Any = -1) -> list[str]:
        separator = None if separator is None else _text(separator)
        if separator == "":
            raise TemplateError("nothing can't separate: give split a text")
        limit = _need(most, "an integer", int)
        parts = text.rsplit(separator, limit) if right else text.split(separator, limit)
        work.items(len(parts))
        return parts

    return split


def _strip(method: Callable[..., str]) -> Function:
    return lambda work, text, chars=None: method(text, None if chars is None else _text(chars))


def _lines(work: Work, text: str) -> list[str]:
    lines = text.splitlines()
    work.items(len(lines))
    return lines


TEXT_METHODS: Mapping[str, Function] = {
    "capitalize": lambda work, text: text.capitalize(),
    "endswith": lambda work, text, part: text.endswith(_text(part)),
    "isdigit": lambda work, text: text.isdigit(),
    "join": lambda work, text, items: _join(work, items, text),
    "lower": lambda work, text: text.lower(),
    "lstrip": _strip(str.lstrip),
    "removeprefix": lambda work, text, part: text.removeprefix(_text(part)),
    "removesuffix": lambda work, text, part: text.removesuffix(_text(part)),
    "replace": _replace,
    "rsplit": _split(True),
    "rstrip": _strip(str.rstrip),
    "split": _split(False),
    "splitlines": _lines,
    "startswith": lambda work, text, part: text.startswith(_text(part)),
    "strip": _strip(str.strip),
    "upper": lambda work, text: text.upper(),
}
MAP_METHODS: Mapping[str, Function] = {
    "get": lambda work, mapping, key, default=None: mapping.get(_text(key), default),
    "items": _items,
    "keys": lambda work, mapping: _listed(work, mapping),
    "values": lambda work, mapping: _listed(work, list(mapping.values())),
}


def make_range(work: Work, *bounds: Any) -> list[int]:
    """`range(stop)`, `range(start, stop[, step])` as a list, within the bound on lists."""
    if not 1 <= len(bounds) <= 3:
        raise TemplateError("range takes one to three integers")
    numbers = [_need(bound, "an integer", int) for bound in bounds]
    if len(numbers) == 3 and numbers[2] == 0:
        raise TemplateError("the step of range must not be zero")
    made = range(*numbers)
    work.items(min(len(made), 10**9) if max(map(abs, numbers)) < 2**62 else 10**9)
    return list(made)
