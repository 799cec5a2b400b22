"""The types of variables: values from YAML nodes, and from the texts of the command line and the environment.

Owns typing and the rules' messages. A text becomes an array as JSON (`["a","b"]`) or as a comma list (`a,b`), an
object as JSON or as `name=value,name=value`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import attrs

from sandboxrun.errors import Problems, did_you_mean
from sandboxrun.model.types import describe
from sandboxrun.profile.scalars import is_text, resolve
from sandboxrun.source import ListNode, MapNode, Node, Scalar, Span

SCALARS = ("string", "integer", "number", "boolean")
TYPES = (*SCALARS, "array", "object")
LONGEST_VALUE = 64 * 1024  # characters
MOST_ITEMS = 1000
_INTEGER = re.compile(r"[-+]?[0-9]{1,19}")


@attrs.frozen(kw_only=True)
class Rules:
    """A type with its rules; `items` is the type of what an array holds. An object holds strings."""

    type: str
    items: str = "string"
    enum: tuple[Any, ...] | None = None
    pattern: str | None = None
    matches: Callable[[str], bool] | None = attrs.field(default=None, eq=False, repr=False)
    least: float | int | None = None
    most: float | int | None = None
    shortest: int | None = None
    longest: int | None = None


class Refused(Exception):
    """A value that the rules do not take: a clause, and a help."""

    def __init__(self, message: str, help: str | None = None) -> None:
        self.message, self.help = message, help
        super().__init__(message)


def coerce(node: Node, rules: Rules, problems: Problems, *, span: Span | None = None) -> Any:
    """The value of a node (plain data: list for array, dict for object); None with the reason noted."""
    try:
        value = _typed(node, rules)
        check(value, rules)
    except Refused as refused:
        problems.add(refused.message, node.span or span, refused.help)
        return None
    return value


def from_text(text: str, rules: Rules) -> Any:
    """The value that a text stands for. Raises Refused."""
    if len(text) > LONGEST_VALUE:
        raise Refused(f"the value is longer than {LONGEST_VALUE // 1024} KiB")
    if "\0" in text or not is_text(text):
        raise Refused("the value holds a NUL, or bytes that are not UTF-8")
    match rules.type:
        case "array":
            value: Any = [_scalar(part, rules.items) for part in _parts(text)]
        case "object":
            value = _pairs(text)
        case _:
            value = _scalar(text, rules.type)
    check(value, rules)
    return value


def check(value: Any, rules: Rules) -> None:
    """Raises Refused where a typed value breaks a rule."""
    if rules.enum is not None and value not in rules.enum:
        allowed = ", ".join(map(_shown, rules.enum))
        raise Refused(f"{_shown(value)} is none of: {allowed}", did_you_mean(str(value), map(str, rules.enum)))
    if rules.matches is not None and not rules.matches(value):
        raise Refused(f"{_shown(value)} does not match the pattern {rules.pattern}")
    if rules.least is not None and value < rules.least:
        raise Refused(f"{value} is below the minimum of {rules.least}")
    if rules.most is not None and value > rules.most:
        raise Refused(f"{value} is above the maximum of {rules.most}")
    if isinstance(value, str | list):
        unit = "characters" if isinstance(value, str) else "items"
        if rules.shortest is not None and len(value) < rules.shortest:
            raise Refused(f"the value has {len(value)} {unit}, and needs {rules.shortest}")
        if rules.longest is not None and len(value) > rules.longest:
            raise Refused(f"the value has {len(value)} {unit}, and may have {rules.longest}")


def _shown(value: Any) -> str:
    text = str(value)
    short = text if len(text) <= 60 else text[:57] + "..."
    return f'"{short}"' if isinstance(value, str) else short


def _typed(node: Node, rules: Rules) -> Any:
    match rules.type, node:
        case "array", ListNode():
            _few(len(node.items))
            return [_plain(item, rules.items) for item in node.items]
        case "object", MapNode():
            _few(len(node.entries))
            return {str(key.value): _plain(value, "string") for key, value in node.entries}
        case "array" | "object", _:
            article = "an array" if rules.type == "array" else "an object"
            raise Refused(f"expected {article}, found {describe(node)}")
    return _plain(node, rules.type)


def _few(count: int) -> None:
    if count > MOST_ITEMS:
        raise Refused(f"the value has more than {MOST_ITEMS} items")


def _plain(node: Node, kind: str) -> Any:
    """A YAML scalar as `kind`; a number is taken as a string just as it was written."""
    match kind, node:
        case "string", Scalar(value=str() as text):
            return text
        case "string", Scalar(value=int() | float()) if not isinstance(node.value, bool):
            return node.text
        case "boolean", Scalar(value=bool() as flag):
            return flag
        case "integer", Scalar(value=int() as number) if not isinstance(number, bool):
            return number
        case "number", Scalar(value=int() | float() as real) if not isinstance(real, bool):
            return real
    article = "an" if kind == "integer" else "a"
    quoted = isinstance(node, Scalar) and kind == "string" and node.value is not None
    raise Refused(f"expected {article} {kind}, found {describe(node)}", "put it in quotes" if quoted else None)


def _scalar(text: Any, kind: str) -> Any:
    """A text of the command line as `kind`; JSON may have typed it already."""
    if not isinstance(text, str):
        return _plain(Scalar(value=text, text=str(text)), kind)
    match kind:
        case "string":
            return text
        case "boolean" if text in ("true", "false"):
            return text == "true"
        case "integer" if _INTEGER.fullmatch(text):
            return int(text)
        case "number":
            try:
                value = resolve(text)
            except ValueError:
                value = text
            if isinstance(value, int | float) and not isinstance(value, bool):
                return value
    article = "an integer" if kind == "integer" else "true or false" if kind == "boolean" else "a number"
    raise Refused(f"expected {article}, found {_shown(text)}")


def _parts(text: str) -> list[Any]:
    if text.lstrip().startswith("["):
        made: list[Any] = _json(text, list)
        _few(len(made))
        return made
    parts = [part.strip() for part in text.split(",")] if text.strip() else []
    _few(len(parts))
    return parts


def _pairs(text: str) -> dict[str, str]:
    if text.lstrip().startswith("{"):
        made = _json(text, dict)
        _few(len(made))
        return {key: _scalar(value, "string") for key, value in made.items()}
    pairs: dict[str, str] = {}
    for part in _parts(text):
        name, equals, value = part.partition("=")
        if not equals or not name:
            raise Refused(f"expected name=value, found {_shown(part)}", "write a=1,b=2, or JSON")
        pairs[name] = value
    return pairs


def _json(text: str, type_: type[list[Any]] | type[dict[str, Any]]) -> Any:
    import json

    try:
        made: Any = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Refused(f"the value is not JSON: {getattr(error, 'msg', 'nested too deeply').lower()}") from None
    if not isinstance(made, type_):
        raise Refused("the value is JSON of another type")
    items = made.values() if isinstance(made, dict) else made
    if any(isinstance(item, list | dict) for item in items):
        raise Refused("the value's items must be plain values")
    return made
