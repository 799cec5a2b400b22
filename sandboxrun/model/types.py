"""The types that options have: how a node is read, what its JSON Schema is, how a value is written again.

Each type is one small class with three methods. `parse` notes what is wrong in `problems` and returns
INVALID; `schema` is what an editor checks; `plain` is the canonical JSON form that plans, labels and
`render` show, and `parse(node_of(plain(value))) == value` holds for every valid value. Pure.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Protocol

import attrs

from sandboxrun.errors import Problems, did_you_mean
from sandboxrun.model import units
from sandboxrun.source import ListNode, MapNode, Node, Scalar


class _Invalid:
    """The value of a node that was refused; the reason stands in the problems."""

    def __repr__(self) -> str:
        return "INVALID"


INVALID: Any = _Invalid()
Schema = dict[str, Any]


class OptionType(Protocol):
    """What every type can do."""

    def parse(self, node: Node, problems: Problems) -> Any: ...

    def schema(self) -> Schema: ...

    def plain(self, value: Any) -> Any: ...


def freeze(items: Mapping[str, Any]) -> Mapping[str, Any]:
    """A read-only copy."""
    return MappingProxyType(dict(items))


def describe(node: Node) -> str:
    """What a node is, for a message: `a list`, `a mapping`, `the text "x"` …"""
    match node:
        case ListNode():
            return "a list"
        case MapNode():
            return "a mapping"
        case Scalar(value=None):
            return "nothing"
        case Scalar(value=bool()):
            return f"the boolean {node.text or str(node.value).lower()}"
        case Scalar(value=str()):
            shown = str(node.value)
            return f'the text "{shown if len(shown) <= 60 else shown[:57] + "..."}"'
    return f"the number {node.text or node.value}"


def refuse(problems: Problems, node: Node, expected: str, help: str | None = None) -> Any:
    """Note that `node` is not what was expected."""
    problems.add(f"expected {expected}, found {describe(node)}", node.span, help)
    return INVALID


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Text:
    """A string, optionally matching `pattern` whole (`hint` says what it means in words), kept in its canonical form
    (one of forms.py) where it has several."""

    pattern: str | None = None
    form: Callable[[str], str] = str
    hint: str = "text"
    numbers: bool = False  # Compose takes `user: 1000` and environment numbers as text
    empty: bool = False

    def parse(self, node: Node, problems: Problems) -> Any:
        match node:
            case Scalar(value=str() as text):
                pass
            case Scalar(value=bool() | None):
                return refuse(problems, node, self.hint, "put it in quotes if the text is meant")
            case Scalar() if self.numbers:
                text = node.text
            case _:
                quoted = isinstance(node, Scalar)
                return refuse(problems, node, self.hint, "put it in quotes if the text is meant" if quoted else None)
        if "\0" in text:
            return refuse(problems, node, f"{self.hint} without NUL characters")
        if not text and not self.empty:
            return refuse(problems, node, self.hint, "the value is empty")
        if self.pattern is not None and not re.fullmatch(self.pattern, text, re.ASCII):
            return refuse(problems, node, self.hint)
        try:
            return self.form(text)
        except ValueError as error:
            return refuse(problems, node, self.hint, str(error))

    def schema(self) -> Schema:
        text: Schema = {"type": "string"}
        if self.pattern is not None:
            text["pattern"] = f"^(?:{self.pattern})$"
        elif not self.empty:
            text["minLength"] = 1
        if not self.numbers:
            return text
        return {"anyOf": [text, {"type": "number"}]}

    def plain(self, value: Any) -> Any:
        return value


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Flag:
    """true or false."""

    def parse(self, node: Node, problems: Problems) -> Any:
        match node:
            case Scalar(value=bool() as flag):
                return flag
        return refuse(problems, node, "true or false")

    def schema(self) -> Schema:
        return {"type": "boolean"}

    def plain(self, value: Any) -> Any:
        return value


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Integer:
    """A whole number between `least` and `most`, both included."""

    least: int = 0
    most: int = 2**63 - 1

    def parse(self, node: Node, problems: Problems) -> Any:
        match node:
            case Scalar(value=bool()):
                pass
            case Scalar(value=int() as number):
                if self.least <= number <= self.most:
                    return number
                return refuse(problems, node, self._range())
            case Scalar(value=str() as text) if re.fullmatch(r"-?(0|[1-9][0-9]{0,18})", text):
                # "{{ n }}pids" style templates and quoted numbers give text; Compose takes it too.
                if self.least <= int(text) <= self.most:
                    return int(text)
                return refuse(problems, node, self._range())
        return refuse(problems, node, "a whole number")

    def _range(self) -> str:
        if self.most == 2**63 - 1:
            return f"a whole number of at least {self.least}"
        return f"a whole number from {self.least} to {self.most}"

    def schema(self) -> Schema:
        number: Schema = {"type": "integer", "minimum": self.least}
        if self.most != 2**63 - 1:
            number["maximum"] = self.most
        return {"anyOf": [number, {"type": "string", "pattern": r"^-?(0|[1-9][0-9]{0,18})$"}]}

    def plain(self, value: Any) -> Any:
        return value


_CPUS = r"[0-9]{1,6}(\.[0-9]{0,9})?|\.[0-9]{1,9}"
_UNLIMITED = ("-1", "unlimited")


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Cpus:
    """A number of CPUs, in thousandths at the finest; 0 is unlimited."""

    def parse(self, node: Node, problems: Problems) -> Any:
        number: float
        match node:
            case Scalar(value=bool()):
                return refuse(problems, node, "a number of CPUs, such as 1.5")
            case Scalar(value=int() | float() as value):
                number = float(value)
            case Scalar(value=str() as text) if re.fullmatch(_CPUS, text):
                number = float(text)
            case _:
                return refuse(problems, node, "a number of CPUs, such as 1.5")
        if not math.isfinite(number) or number < 0 or number > 65536:
            return refuse(problems, node, "a number of CPUs from 0 to 65536")
        if 0 < number < 0.01:
            return refuse(problems, node, "at least 0.01 CPUs", "the engine refuses less")
        return round(number, 9)  # the engine counts billionths

    def schema(self) -> Schema:
        return {
            "anyOf": [
                {"type": "number", "minimum": 0, "maximum": 65536},
                {"type": "string", "pattern": f"^({_CPUS})$"},
            ]
        }

    def plain(self, value: Any) -> Any:
        return int(value) if float(value).is_integer() else value


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Size:
    """Bytes, as an integer or with a unit (`512m`). `unlimited` admits -1, or that word."""

    unlimited: bool = False

    def parse(self, node: Node, problems: Problems) -> Any:
        expected = "a size, such as 512m, 1.5g or a number of bytes"
        match node:
            case Scalar(value=bool()):
                return refuse(problems, node, expected)
            case Scalar(value=int() as size):
                if size == -1 and self.unlimited:
                    return size
                return size if 0 <= size <= units.LARGEST else refuse(problems, node, expected)
            case Scalar(value=str() as text):
                if text in _UNLIMITED and self.unlimited:
                    return -1
                try:
                    return units.parse_size(text)
                except ValueError:
                    return refuse(problems, node, expected, "units are b, k, m, g and t, in powers of 1024")
        return refuse(problems, node, expected)

    def schema(self) -> Schema:
        least = -1 if self.unlimited else 0
        text = r"^\s*([0-9]+(\.[0-9]+)?)\s*([bB]|[kKmMgGtT]([iI]?[bB])?)?\s*$"
        also = [{"enum": list(_UNLIMITED)}] if self.unlimited else []
        return {"anyOf": [{"type": "integer", "minimum": least}, {"type": "string", "pattern": text}, *also]}

    def plain(self, value: Any) -> Any:
        return -1 if value == -1 else units.format_size(value)


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Duration:
    """Nanoseconds, written `30s` or `1h30m`; at least `least`."""

    least: int = 0

    def parse(self, node: Node, problems: Problems) -> Any:
        match node:
            case Scalar(value=str() as text):
                try:
                    found = units.parse_duration(text)
                except ValueError:
                    pass
                else:
                    if found >= self.least:
                        return found
                    return refuse(problems, node, f"a duration of at least {units.format_duration(self.least)}")
            case Scalar(value=int() | float()) if not isinstance(node.value, bool):
                return refuse(problems, node, "a duration", f'give it a unit: "{node.text}s" for seconds')
        return refuse(problems, node, "a duration, such as 30s, 10m or 1h30m", "units are ms, s, m, h and d")

    def schema(self) -> Schema:
        return {"type": "string", "pattern": r"^\s*(0|([0-9]+(\.[0-9]+)?(d|h|m|s|ms|us|µs|ns))+)\s*$"}

    def plain(self, value: Any) -> Any:
        return units.format_duration(value)


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Choice:
    """One of `values`. `refused` are others that somebody may write, with what to do instead."""

    values: tuple[str, ...]
    refused: Mapping[str, str] = attrs.field(factory=dict)

    def parse(self, node: Node, problems: Problems) -> Any:
        allowed = ", ".join(self.values[:-1]) + f" or {self.values[-1]}" if len(self.values) > 1 else self.values[0]
        match node:
            case Scalar(value=str() as text):
                if text in self.values:
                    return text
                return refuse(problems, node, allowed, self.refused.get(text) or did_you_mean(text, self.values))
        return refuse(problems, node, allowed)

    def schema(self) -> Schema:
        return {"enum": list(self.values)}

    def plain(self, value: Any) -> Any:
        return value
