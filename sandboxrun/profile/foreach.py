"""`for_each` and `when`: how often a sandbox stands.

Owns both keys. `for_each` is a list of unique plain values (`each` is the value) or a mapping (`each.key`,
`each.value`), literal or made by a template; `when` is a boolean and nothing that is merely like one.
"""

from __future__ import annotations

from typing import Any

import attrs

from sandboxrun.errors import Problems
from sandboxrun.model.types import describe
from sandboxrun.profile.template import Renderer, Scope, is_template
from sandboxrun.source import ListNode, MapNode, Node, Scalar, plain_of

MOST = 1000
LONGEST_KEY = 200


@attrs.frozen(kw_only=True)
class Each:
    """One instance: its key as the address shows it, and what `each` is in templates."""

    key: str | None
    value: Any = None


def instances(node: Node | None, renderer: Renderer, scope: Scope, problems: Problems) -> list[Each]:
    """The instances; a single one without a key where there is no `for_each`."""
    if node is None or (isinstance(node, Scalar) and node.value is None):
        return [Each(key=None)]
    rendered: Node | None
    if isinstance(node, Scalar) and is_template(node):
        rendered = renderer.scalar(node, scope, mapping=True)
    else:
        rendered = renderer.render(node, scope)
    if rendered is None:
        return []
    pairs = _pairs(rendered, problems)
    if len(pairs) > MOST:
        problems.add(f"for_each has more than {MOST} items", node.span, "split it into several sandboxes")
        return []
    return _unique(pairs, problems)


def _pairs(node: Node, problems: Problems) -> list[tuple[Scalar, Any]]:
    match node:
        case ListNode():
            found: list[tuple[Scalar, Any]] = []
            for item in node.items:
                if isinstance(item, Scalar) and item.value is not None:
                    found.append((item, item.value))
                else:
                    help = "for more than a name use a mapping, and each.key and each.value"
                    problems.add(f"expected a plain value, found {describe(item)}", item.span, help)
            return found
        case MapNode():
            return [(key, {"key": str(key.value), "value": plain_of(value)}) for key, value in node.entries]
    problems.add(f"for_each takes a list or a mapping, found {describe(node)}", node.span, "write for_each: [a, b]")
    return []


def _unique(pairs: list[tuple[Scalar, Any]], problems: Problems) -> list[Each]:
    found: dict[str, Each] = {}
    for node, value in pairs:
        key = ("true" if node.value else "false") if isinstance(node.value, bool) else str(node.value)
        if not key or len(key) > LONGEST_KEY or not key.isprintable():
            help = f"it names the sandbox: 1 to {LONGEST_KEY} characters that can be printed"
            problems.add("this item of for_each can't be a name", node.span, help)
        elif key in found:
            problems.add(f'for_each holds "{key}" twice', node.span, "each item makes one sandbox: remove one")
        else:
            found[key] = Each(key=key, value=value)
    return list(found.values())


def holds(node: Node | None, renderer: Renderer, scope: Scope, problems: Problems) -> bool:
    """Whether `when` lets the sandbox stand; True where there is none."""
    if node is None or (isinstance(node, Scalar) and node.value is None):
        return True
    rendered = renderer.render(node, scope)
    if rendered is None:
        return False
    if isinstance(rendered, Scalar) and isinstance(rendered.value, bool):
        return rendered.value
    help = "compare: {{ name == 'value' }}, or write true or false"
    problems.add(f"when takes true or false, found {describe(rendered)}", node.span, help)
    return False
