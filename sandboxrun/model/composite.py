"""Option types made of others: lists, commands, pairs, mappings, and records that may be written short.

As in `types.py`: `parse` notes what is wrong, `schema` is what an editor checks, `plain` the canonical form. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import attrs

from sandboxrun.errors import Problems
from sandboxrun.model.types import INVALID, OptionType, Schema, Text, describe, freeze, refuse
from sandboxrun.source import ListNode, MapNode, Node, Scalar, Span


@attrs.frozen(kw_only=True, eq=False, repr=False)
class ListOf:
    """A tuple of items. `single`: one item may stand without the list. `unique`: twice is an error. `ordered` False:
    their order means nothing, so they are kept sorted."""

    item: OptionType
    single: bool = False
    unique: bool = False
    ordered: bool = True
    key: Callable[[Any], Any] | None = None  # what makes two items the same thing (a mount's target)

    def parse(self, node: Node, problems: Problems) -> Any:
        match node:
            case ListNode():
                nodes = node.items
            case Scalar() if self.single and node.value is not None:
                nodes = (node,)
            case _:
                return refuse(problems, node, "a list")
        before = len(problems)
        values = [self.item.parse(item, problems) for item in nodes]
        if self.unique:
            self._check_unique(nodes, values, problems)
        if len(problems) > before:
            return INVALID
        return tuple(values) if self.ordered else tuple(sorted(values, key=self.key))

    def _check_unique(self, nodes: tuple[Node, ...], values: list[Any], problems: Problems) -> None:
        seen: set[Any] = set()
        for node, value in zip(nodes, values, strict=True):
            identity = self.key(value) if self.key and value is not INVALID else value
            if identity is not INVALID and identity in seen:
                problems.add(f'"{identity}" stands here twice', node.span, "remove one of them")
            seen.add(identity)

    def schema(self) -> Schema:
        item = self.item.schema()
        many: Schema = {"type": "array", "items": item}
        if self.unique and self.key is None:
            many["uniqueItems"] = True
        return {"anyOf": [many, item]} if self.single else many

    def plain(self, value: Any) -> Any:
        return [self.item.plain(item) for item in value]


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Command:
    """A command line: a list of words, or one text that is split as a shell splits words (no shell runs)."""

    def parse(self, node: Node, problems: Problems) -> Any:
        match node:
            case ListNode():
                words = [_WORD.parse(item, problems) for item in node.items]
                return INVALID if INVALID in words else tuple(words)
            case Scalar(value=str() as text):
                import shlex

                try:
                    return tuple(shlex.split(text))
                except ValueError as error:
                    problems.add(f"the command can't be split into words: {error}", node.span, "write it as a list")
                    return INVALID
        return refuse(problems, node, "a command: a list of words, or one text")

    def schema(self) -> Schema:
        return {"anyOf": [{"type": "string"}, {"type": "array", "items": _WORD.schema()}]}

    def plain(self, value: Any) -> Any:
        return list(value)


_WORD = Text(numbers=True, empty=True, hint="a word of the command")


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Pairs:
    """Names with values, as a mapping or a list of `NAME<separator>value`; a read-only mapping of texts.

    `bare` admits a name without a value (environment: taken from the caller), kept as None.
    """

    separators: str = "="
    bare: bool = False
    name: Text = Text(pattern=r"[^=\x00\s]+", hint="a name")
    reserved: str | None = None  # a prefix that is ours

    def parse(self, node: Node, problems: Problems) -> Any:
        match node:
            case MapNode():
                pairs = [(key, value) for key, value in node.entries]
            case ListNode():
                pairs = [pair for item in node.items if (pair := self._split(item, problems)) is not None]
                if len(pairs) != len(node.items):
                    return INVALID
            case _:
                return refuse(problems, node, "a mapping, or a list of texts")
        return self._build(pairs, problems)

    def _split(self, item: Node, problems: Problems) -> tuple[Scalar, Node] | None:
        if not isinstance(item, Scalar) or not isinstance(item.value, str):
            refuse(problems, item, f"a text of the form NAME{self.separators[0]}value")
            return None
        at = min((i for c in self.separators if (i := item.value.find(c)) >= 0), default=-1)
        if at < 0:
            if not self.bare:
                refuse(problems, item, f"a text of the form NAME{self.separators[0]}value")
                return None
            return attrs.evolve(item, text=item.value), Scalar(value=None, span=item.span)
        name, value = item.value[:at], item.value[at + 1 :]
        return Scalar(value=name, text=name, span=item.span), Scalar(value=value, text=value, span=item.span)

    def _build(self, pairs: list[tuple[Scalar, Node]], problems: Problems) -> Any:
        values: dict[str, str | None] = {}
        before = len(problems)
        for key, node in pairs:
            name = self.name.parse(key, problems)
            if name is INVALID:
                continue
            if self.reserved and name.startswith(self.reserved):
                problems.add(f'names that begin with "{self.reserved}" are sandboxrun\'s own', key.span, "use another")
            if name in values:
                problems.add(f'"{name}" stands here twice', key.span, "remove one of them")
            values[name] = self._value(node, problems)
        return freeze(values) if len(problems) == before else INVALID

    def _value(self, node: Node, problems: Problems) -> Any:
        match node:
            case Scalar(value=None):
                return None if self.bare else ""
            case Scalar(value=bool()):
                return refuse(problems, node, "a text or a number", 'put it in quotes: "true"')
            case Scalar(value=str() as text) if "\0" not in text:
                return text
            case Scalar(value=int() | float()):
                return node.text
        return refuse(problems, node, "a text or a number")

    def schema(self) -> Schema:
        value = {"type": ["string", "number", "null"]}
        name = f"^(?:{self.name.pattern})$"
        item: Schema = {"type": "string"}
        if not self.bare:
            item["pattern"] = f"[{re.escape(self.separators)}]"
        return {
            "anyOf": [
                {"type": "object", "propertyNames": {"pattern": name}, "additionalProperties": value},
                {"type": "array", "items": item, "uniqueItems": True},
            ]
        }

    def plain(self, value: Any) -> Any:
        return dict(value)


@attrs.frozen(kw_only=True, eq=False, repr=False)
class MapOf:
    """A mapping from names to values of one type; read-only."""

    item: OptionType
    name: Text = Text(pattern=r"[A-Za-z0-9][A-Za-z0-9_.-]*", hint="a name of letters, digits, _ . and -")

    def parse(self, node: Node, problems: Problems) -> Any:
        if not isinstance(node, MapNode):
            return refuse(problems, node, "a mapping")
        values = {}
        for key, value in node.entries:
            name = self.name.parse(key, problems)
            values[name] = INVALID if name is INVALID else self.item.parse(value, problems)
        return INVALID if INVALID in values.values() else freeze(values)

    def schema(self) -> Schema:
        names = {"pattern": f"^(?:{self.name.pattern})$"}
        return {"type": "object", "propertyNames": names, "additionalProperties": self.item.schema()}

    def plain(self, value: Any) -> Any:
        return {name: self.item.plain(item) for name, item in value.items()}


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Short:
    """A record that may also be written short, as one text (or number): `read` turns that into a value.

    `read` raises ValueError with a clause for the message; `pattern` is the short form for the schema.
    """

    record: OptionType
    read: Callable[[str], Any]
    expected: str
    pattern: str = ".+"

    def parse(self, node: Node, problems: Problems) -> Any:
        if isinstance(node, MapNode):
            return self.record.parse(node, problems)
        if not isinstance(node, Scalar) or node.value is None or isinstance(node.value, bool | float):
            return refuse(problems, node, self.expected)
        try:
            return self.read(str(node.value) if isinstance(node.value, str) else node.text)
        except ValueError as error:
            problems.add(f"expected {self.expected}, found {describe(node)}: {error}", node.span)
            return INVALID

    def schema(self) -> Schema:
        return {
            "anyOf": [
                {"type": "string", "pattern": f"^(?:{self.pattern})$"},
                {"type": "integer"},
                self.record.schema(),
            ]
        }

    def plain(self, value: Any) -> Any:
        return self.record.plain(value)


def span_of(node: MapNode, key: str) -> Span | None:
    """Where `key` stands in `node`, or the node itself."""
    found = node.key(key)
    return found.span if found is not None else node.span
