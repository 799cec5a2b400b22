"""networks, secrets, depends_on: option types that are a list of names or a mapping from names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from sandboxrun.errors import Problems
from sandboxrun.model.composite import MapOf
from sandboxrun.model.names import KEY
from sandboxrun.model.types import INVALID, OptionType, Schema, Text, freeze, refuse
from sandboxrun.source import ListNode, MapNode, Node, Scalar

_NAME = Text(pattern=KEY, hint="a name of letters, digits, _ . and -")


@attrs.frozen(kw_only=True)
class Named:
    """A list of names, or a mapping from names to `item`; a name alone stands for `empty`."""

    item: OptionType
    empty: Any

    def parse(self, node: Node, problems: Problems) -> Mapping[str, Any]:
        match node:
            case ListNode():
                pairs: list[tuple[Node, Node | None]] = [(item, None) for item in node.items]
            case MapNode():
                pairs = [(key, value) for key, value in node.entries]
            case _:
                return refuse(problems, node, "a list of names, or a mapping")
        values: dict[str, Any] = {}
        twice = False
        for key, value in pairs:
            name = _NAME.parse(key, problems)
            if name in values and name is not INVALID:
                twice = True
                problems.add(f'"{name}" stands here twice', key.span, "remove one of them")
            bare = value is None or (isinstance(value, Scalar) and value.value is None)
            values[name] = self.empty if bare or value is None else self.item.parse(value, problems)
        return INVALID if twice or INVALID in values or INVALID in values.values() else freeze(values)

    def schema(self) -> Schema:
        by_name = MapOf(item=self.item, name=_NAME).schema()
        by_name["additionalProperties"] = {"anyOf": [by_name["additionalProperties"], {"type": "null"}]}
        return {"anyOf": [{"type": "array", "items": _NAME.schema(), "uniqueItems": True}, by_name]}

    def plain(self, value: Mapping[str, Any]) -> Any:
        if all(item == self.empty for item in value.values()):
            return list(value)
        return {name: self.item.plain(item) for name, item in value.items()}
