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


def need(value: Any, what: str, *types: type) -> Any:
    """`value`, which must be of `types`. Raises TemplateError saying `what` was expected."""
    if isinstance(value, Missing):
        raise value.error()
    if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
        raise TemplateError(f"expected {what}, found {kind(value)}")
    return value


def as_text(value: Any) -> str:
    """A value that must be a text. Raises TemplateError."""
    return str(need(value, "a text", str))


def _list(value: Any) -> list[Any]:
    value = need(value, "a list", list, dict)
    return list(value)


def sized(value: Any) -> Any:
    """A value that has a length. Raises TemplateError."""
    return need(value, "a text, a list or a mapping", str, list, dict)


def _number(value: Any) -> Any:
    return need(value, "a number", int, float)


def _default(work: Work, value: Any, default: Any = "", boolean: bool = False) -> Any:
    absent = value is None or isinstance(value, Missing) or (boolean and not value)
    return default if absent else value


def replaced(work: Work, value: Any, old: Any, new: Any, count: Any = None) -> str:
    """The filter `replace`; what it may make is counted first."""
    text, gone, made = text_of(value, work), as_text(old), as_text(new)
    limit: int = -1 if count is None else need(count, "an integer", int)
    work.text(len(text) + text.count(gone) * max(0, len(made) - len(gone)))
    return text.replace(gone, made, limit)


def joined(work: Work, value: Any, separator: Any = "") -> str:
    """The filter `join`; what it makes is counted first."""
    between = as_text(separator)
    parts = [text_of(item, work) for item in _list(value)]
    work.text(sum(map(len, parts)) + len(between) * len(parts))
    return between.join(parts)


def _int(work: Work, value: Any, default: Any = None, base: int = 10) -> int:
    try:
        if isinstance(value, str):
            if len(value) > 40:
                raise ValueError(value)
            return integer(int(value, base) if base != 10 else int(value))
        return integer(int(need(value, "a number or a text", int, float, bool)))
    except ValueError:
        if default is None:
            raise TemplateError(f'"{str(value)[:40]}" is not an integer', help="give a default: | int(0)") from None
        return integer(need(default, "an integer", int))


def _float(work: Work, value: Any, default: Any = None) -> float:
    try:
        number = float(value if isinstance(value, str) else need(value, "a number or a text", int, float, bool))
        if number - number != 0:  # infinity and not-a-number are no profile's values
            raise ValueError(value)
        return number
    except ValueError:
        if default is None:
            raise TemplateError(f'"{str(value)[:40]}" is not a number', help="give a default: | float(0)") from None
        return float(_number(default))


def _at(index: int) -> Callable[..., Any]:
    def pick(work: Work, value: Any) -> Any:
        items = sized(value)
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
    work.items(len(sized(value)) // 16)
    return value[::-1] if isinstance(value, str) else _list(value)[::-1]


def listed(work: Work, value: Any) -> list[Any]:
    """The filter `list`, its items counted."""
    work.items(len(sized(value)))
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
    if indent is not None and not 0 <= need(indent, "an integer", int) <= 8:
        raise TemplateError("indent goes from 0 to 8")
    made = json.dumps(value, ensure_ascii=False, sort_keys=True, indent=indent)
    work.text(len(made))
    return made


def pairs_of(work: Work, value: Any) -> list[Any]:
    """A mapping's keys and values as pairs, counted."""
    mapping = need(value, "a mapping", dict)
    work.items(len(mapping))
    return [[key, item] for key, item in mapping.items()]


def _round(work: Work, value: Any, precision: Any = 0, method: Any = "common") -> float:
    digits = need(precision, "an integer", int)
    if method != "common" or not 0 <= digits <= 15:
        raise TemplateError("round takes a precision from 0 to 15 and no method but common")
    return float(round(_number(value), digits))


def _simple(method: Callable[..., str]) -> Callable[..., str]:
    def apply(work: Work, value: Any) -> str:
        text = text_of(value, work)
        return method(text)

    return apply


def _trim(work: Work, value: Any, chars: Any = None) -> str:
    return text_of(value, work).strip(None if chars is None else as_text(chars))


Function = Callable[..., Any]
FILTERS: Mapping[str, Function] = {
    "abs": lambda work, value: abs(_number(value)),
    "capitalize": _simple(str.capitalize),
    "count": lambda work, value: len(sized(value)),
    "d": _default,
    "default": _default,
    "dictsort": lambda work, value: _ordered(work, pairs_of(work, value), lambda pair: _folded(pair[0])),
    "first": _at(0),
    "float": _float,
    "int": _int,
    "items": pairs_of,
    "join": joined,
    "last": _at(-1),
    "length": lambda work, value: len(sized(value)),
    "list": listed,
    "lower": _simple(str.lower),
    "max": _extreme(True),
    "min": _extreme(False),
    "replace": replaced,
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
