"""Merging the layers of a sandbox, option by option, as Compose does.

Owns the rules, which the rows name: `replace` (the highest layer's value), `append` (lists one after another), `map`
(by key, in either form, mappings inside mappings too) and `target` (mounts, by where they stand). `null` resets an
option to its default. Below all layers lie the closed defaults of the options that merge, so that adding a tmpfs does
not lose /tmp, and setting one ulimit does not lose the others. Works on rendered nodes.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import attrs

from sandboxrun.model.composite import ListOf
from sandboxrun.model.hosts import Hosts, by_name
from sandboxrun.model.items import Entry, entry_of, identity, name_of
from sandboxrun.model.option import Row, to_plain
from sandboxrun.model.spec import ROWS
from sandboxrun.model.tmpfs import Tmpfs
from sandboxrun.model.types import INVALID
from sandboxrun.source import ListNode, MapNode, Node, Scalar, node_of


@cache
def closed_defaults() -> dict[str, Node]:
    """The lowest layer: the defaults of options that are merged."""
    return {row.key: node_of(_plain(row)) for row in ROWS if row.settable and row.merge != "replace" and row.default}


def _plain(row: Row) -> Any:
    if attrs.has(type(row.default)):
        return to_plain(row.default, defaults=True)
    return row.type.plain(row.default)


def merge_option(row: Row, values: Sequence[Node]) -> Node | None:
    """One option's values, the lowest layer first, as one; None where it is reset to its default."""
    start = max((i + 1 for i, value in enumerate(values) if _is_null(value)), default=0)
    kept = list(values[start:])
    if not kept:
        return None
    if row.key in closed_defaults():
        kept.insert(0, closed_defaults()[row.key])
    merged = kept[0]
    for value in kept[1:]:
        merged = _pair(row, merged, value)
    return merged


def _pair(row: Row, low: Node, high: Node) -> Node:
    match row.merge:
        case "append" | "target":
            return _append(row, low, high)
        case "map":
            return _map(row, low, high)
    return high


def _is_null(node: Node) -> bool:
    return isinstance(node, Scalar) and node.value is None


def _append(row: Row, low: Node, high: Node) -> Node:
    below, above = _items(row, low), _items(row, high)
    if below is None or above is None:
        return high
    replaced = {identity(row.type, item) for item in above} - {INVALID}
    kept = tuple(item for item in below if identity(row.type, item) not in replaced)
    return ListNode(items=(*kept, *above), span=high.span)


def _items(row: Row, node: Node) -> tuple[Node, ...] | None:
    if isinstance(node, ListNode):
        return node.items
    return (node,) if isinstance(row.type, ListOf) and row.type.single and isinstance(node, Scalar) else None


def _map(row: Row, low: Node, high: Node) -> Node:
    below, above = _entries(row, low), _entries(row, high)
    if below is None or above is None:
        return high
    return MapNode(entries=_by_key(below, above), span=high.span)


def _by_key(below: Sequence[Entry], above: Sequence[Entry]) -> tuple[Entry, ...]:
    merged = {name_of(key.value): (key, value) for key, value in below}
    for key, value in above:
        name = name_of(key.value)
        earlier = merged.get(name)
        if earlier is not None and isinstance(earlier[1], MapNode) and isinstance(value, MapNode):
            value = MapNode(entries=_by_key(earlier[1].entries, value.entries), span=value.span)
        merged[name] = (key, value)
    return tuple(merged.values())


def _entries(row: Row, node: Node) -> list[Entry] | None:
    """A mapping's entries, or a list's items split into them; None for what is neither, or says a key twice."""
    match node:
        case MapNode() | ListNode() if isinstance(row.type, Hosts):
            return by_name(node)
        case MapNode():
            return list(node.entries)
        case ListNode():
            items: tuple[Node, ...] = node.items
        case Scalar(value=str()) if isinstance(row.type, Tmpfs):
            items = (node,)
        case _:
            return None
    entries = [entry for item in items if (entry := entry_of(row.type, item)) is not None]
    names = {entry[0].value for entry in entries}
    return entries if len(entries) == len(items) == len(names) else None
