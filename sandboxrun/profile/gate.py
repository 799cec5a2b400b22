"""The last check: the rendered options against the JSON Schema that the rows derive.

Owns nothing but the comparison. The typed parse has the better messages and comes first; a profile that only the
schema refuses is refused all the same, since editors and other programs go by the schema.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

from sandboxrun.errors import Problems
from sandboxrun.model.spec import SpecType
from sandboxrun.model.types import Schema
from sandboxrun.profile.instance import Made
from sandboxrun.source import ListNode, MapNode, Node, Span, plain_of


@cache
def _validator() -> Any:
    import jsonschema_rs

    return jsonschema_rs.Draft7Validator(_schema())


def _schema() -> Schema:
    return SpecType.schema()


def check_schema(made: Sequence[Made], problems: Problems) -> None:
    """Note each option that the schema refuses, with its place."""
    validator = _validator()
    seen: set[int] = set()
    for one in made:
        if id(one.node) in seen:
            continue
        seen.add(id(one.node))
        plain = plain_of(one.node)
        if validator.is_valid(plain):
            continue
        for error in validator.iter_errors(plain):
            span, option = _place(one.node, error.instance_path)
            message = f"the schema does not take this value of {option}: {str(error.message)[:200]}"
            problems.add(message, span or one.sandbox.span, "see sandboxrun schema for the forms it takes")


def _place(node: Node, path: Sequence[str | int]) -> tuple[Span | None, str]:
    span = node.span
    for step in path:
        child: Node | None = None
        match node:
            case MapNode():
                child = node.get(str(step))
            case ListNode() if isinstance(step, int):
                child = node.items[step]
        if child is None:
            break
        node, span = child, child.span or span
    return span, str(path[0]) if path else "the sandbox"
