"""The items of options that are lists or mappings: what names each, and where it is.

Owns how an item of a list is named: a mount by its target, a variable by its name, anything else by its value. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from sandboxrun.errors import Problems
from sandboxrun.source import ListNode, MapNode, Node, Scalar, Span
from sandboxrun.spec import forms
from sandboxrun.spec.option_types import Capabilities, Hosts, Named, SecurityOpts, Tmpfs, split_security
from sandboxrun.spec.types import INVALID, ListOf, OptionType, Pairs

Entry = tuple[Scalar, Node]
ANY: OptionType = Pairs(bare=True)  # of a list of which no more is known


def entry_of(type_: OptionType, item: Node) -> Entry | None:
    """A text of a list as the key and value that a mapping would have; None where it is neither."""
    if not isinstance(item, Scalar) or not isinstance(item.value, str):
        return None
    text = item.value
    name, value = text, None
    match type_:
        case Pairs(separators=separators, bare=bare):
            at = min((i for c in separators if (i := text.find(c)) >= 0), default=-1)
            if at < 0 and not bare:
                return None
            name, value = (text[:at], text[at + 1 :]) if at >= 0 else (text, None)
        case Tmpfs():
            name, colon, options = text.partition(":")
            value = options if colon else None
        case SecurityOpts():
            name, value = split_security(text)
        case Hosts():
            name = re.split("[=:]", text, maxsplit=1)[0]
        case Named():
            pass
        case _:
            return None
    key = Scalar(value=name, text=name, span=item.span)
    return key, Scalar(value=value, text=value or "", span=item.span)


def name_of(name: Any) -> str:
    """What an item is looked up by: paths without what an engine drops of them."""
    text = str(name)
    return forms.path(text) if text.startswith("/") else text


def item_spans(type_: OptionType, node: Node | None) -> Mapping[str, Span]:
    """Where each item of an option's value is, by `name_of`."""
    form = type_.name.form if isinstance(type_, Pairs) else str
    found = reversed([*_items(type_, node)])
    return {name_of(forms.shown(form, name)): item.span for name, item in found if item.span is not None}


def item_span(type_: OptionType, node: Node | None, name: Any) -> Span | None:
    """Where the item of that name is; the whole value's place where it has none of its own."""
    return item_spans(type_, node).get(name_of(name), node.span if node is not None else None)


def _items(type_: OptionType, node: Node | None) -> Iterator[tuple[Any, Node]]:
    if isinstance(node, MapNode):
        yield from ((key.value, key if key.span is not None else value) for key, value in node.entries)
        return
    for item in node.items if isinstance(node, ListNode) else () if node is None else (node,):
        if (name := identity(type_, item)) is not INVALID:
            yield name, item


def identity(type_: OptionType, item: Node) -> Any:
    """What names an item of a list, however it is written; INVALID for one that can't be read."""
    match type_:
        case ListOf(item=inner, key=key):
            value = inner.parse(item, Problems())
            return key(value) if key is not None and value is not INVALID else value
        case Capabilities(item=inner):
            return inner.parse(item, Problems())
    entry = entry_of(type_, item)
    return INVALID if entry is None else entry[0].value
