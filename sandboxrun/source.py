"""Where things are in a file: source texts, spans, and the nodes a YAML document is parsed to.

Owns positions. Knows no YAML, options or engine: the same nodes are built from plain Python
values by :func:`node_of`, which is how the Python API reaches the parsers of the model.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

from msgspec import structs

from sandboxrun.data import Data


@lru_cache(16)
def _lines(text: str) -> list[str]:
    """Every finding and fault asks for a line."""
    return text.splitlines()


class SourceFile(Data, unshown=("text",)):
    """A text that was read: `name` as the user would type it, `text` whole."""

    name: str
    text: str

    def line(self, number: int) -> str:
        """The text of line `number` (1-based), without its line end; "" past the end of the file."""
        lines = _lines(self.text)
        return lines[number - 1] if 0 < number <= len(lines) else ""


class Span(Data, eq=False):
    """A place in a file: 1-based `line` and `column`; `length` characters on that line (at least 1)."""

    file: SourceFile
    line: int
    column: int
    length: int = 1

    def __str__(self) -> str:
        return f"{self.file.name}:{self.line}:{self.column}"


def place_order(span: Span | None) -> tuple[str, int, int]:
    """The sort key of a place: file, line, column; what has none comes last."""
    return ("\U0010ffff", 0, 0) if span is None else (span.file.name, span.line, span.column)


Plain = str | int | float | bool | None


class Scalar(Data, unshown=("span",), uncompared=("span",)):
    """One value. `text` is what the file said (so that `3.10` can be quoted back as it was written)."""

    value: Plain
    text: str = ""
    span: Span | None = None
    tag: str = ""  # one of Compose's, where those were asked for


class ListNode(Data, unshown=("span",), uncompared=("span",)):
    """A sequence of nodes."""

    items: tuple[Node, ...]
    span: Span | None = None
    tag: str = ""


class MapNode(Data, unshown=("span",), uncompared=("span",)):
    """A mapping, in the file's order; keys are unique scalars whose values are strings."""

    entries: tuple[tuple[Scalar, Node], ...]
    span: Span | None = None
    tag: str = ""

    def get(self, key: str) -> Node | None:
        """The value under `key`, or None."""
        return next((value for name, value in self.entries if name.value == key), None)

    def key(self, key: str) -> Scalar | None:
        """The key node of `key`: the place to point at when the entry as a whole is wrong."""
        return next((name for name, _ in self.entries if name.value == key), None)

    def without(self, *keys: str) -> MapNode:
        """The same mapping less `keys`."""
        return structs.replace(self, entries=tuple(e for e in self.entries if e[0].value not in keys))


Node = Scalar | ListNode | MapNode


def is_null(node: Node) -> bool:
    """Whether a node is null, which a missing value is as well."""
    return isinstance(node, Scalar) and node.value is None


def node_of(value: Any, span: Span | None = None) -> Node:
    """Plain Python data (str, int, float, bool, None, list, tuple, mapping) as nodes, all at `span`."""
    match value:
        case str() | bool() | int() | float() | None:
            return Scalar(value=value, text=value if isinstance(value, str) else str(value), span=span)
        case Mapping():
            entries = tuple((Scalar(value=str(k), text=str(k), span=span), node_of(v, span)) for k, v in value.items())
            return MapNode(entries=entries, span=span)
        case Sequence() | set() | frozenset():
            return ListNode(items=tuple(node_of(item, span) for item in value), span=span)
    raise TypeError(f"{type(value).__name__} has no form in a profile: {value!r}")


def plain_of(node: Node) -> Any:
    """The node as plain data: dict, list and scalars."""
    match node:
        case Scalar():
            return node.value
        case ListNode():
            return [plain_of(item) for item in node.items]
        case MapNode():
            return {str(key.value): plain_of(value) for key, value in node.entries}


def walk(node: Node) -> Iterator[Node]:
    """The node and everything below it, keys left out, in the file's order."""
    yield node
    match node:
        case ListNode():
            for item in node.items:
                yield from walk(item)
        case MapNode():
            for _, value in node.entries:
                yield from walk(value)
