"""The `variables:` block: what a profile takes as input, each with its type and rules.

Owns the declarations. Where values come from stands in `inputs`. The words for rules are JSON Schema's.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import attrs

from sandboxrun.errors import Problems, did_you_mean
from sandboxrun.model.composite import span_of
from sandboxrun.model.types import describe
from sandboxrun.profile.patterns import compile_pattern
from sandboxrun.profile.template import for_others, is_template
from sandboxrun.profile.variable_types import SCALARS, TYPES, Rules, coerce
from sandboxrun.source import ListNode, MapNode, Node, Scalar, Span, walk

MOST_VARIABLES = 200
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")
_RESERVED = frozenset(
    "each loop range self true false none True False None and or not in is if else elif for set".split()
)


@attrs.frozen(kw_only=True)
class Variable:
    """One declared input. `default` is None where there is none; then it is `required` unless it says otherwise."""

    name: str
    rules: Rules
    default: Any = None
    required: bool = False
    description: str | None = None
    sensitive: bool = False
    span: Span | None = attrs.field(default=None, eq=False, repr=False)


KEYS: Mapping[str, str] = {
    "type": "string, integer, number, boolean, array or object",
    "items": "what an array holds: {type: …}",
    "default": "the value when none is given",
    "required": "whether a value must be given",
    "enum": "the values it may have",
    "pattern": "a regular expression that the whole text matches",
    "description": "what it is for",
    "sensitive": "whether it is masked wherever it is shown",
    "minimum": "the least number",
    "maximum": "the greatest number",
    "minLength": "the least number of characters",
    "maxLength": "the greatest number of characters",
    "minItems": "the least number of items",
    "maxItems": "the greatest number of items",
}
_NEEDS = {
    "items": ("array",),
    "pattern": ("string",),
    "minLength": ("string",),
    "maxLength": ("string",),
    "minimum": ("integer", "number"),
    "maximum": ("integer", "number"),
    "minItems": ("array",),
    "maxItems": ("array",),
    "enum": ("string", "integer", "number"),
}


def parse_variables(node: Node | None, problems: Problems) -> dict[str, Variable]:
    """The declared variables by name, in the file's order; the faulty ones left out with the reason noted."""
    if node is None or (isinstance(node, Scalar) and node.value is None):
        return {}
    if not isinstance(node, MapNode):
        problems.add(
            f"expected a mapping of variables, found {describe(node)}", node.span, "write NAME: {type: string}"
        )
        return {}
    if len(node.entries) > MOST_VARIABLES:
        problems.add(f"more than {MOST_VARIABLES} variables", node.span, "use an array or an object")
        return {}
    found = {}
    for key, value in node.entries:
        variable = _variable(key, value, problems)
        if variable is not None:
            found[variable.name] = variable
    return found


def _variable(key: Scalar, node: Node, problems: Problems) -> Variable | None:
    name = str(key.value)
    before = len(problems)
    if not _NAME.fullmatch(name):
        problems.add(f"\"{name}\" can't be a variable's name", key.span, "use letters, digits and _")
    if name in _RESERVED:
        problems.add(f'"{name}" means something else in templates', key.span, "choose another name")
    if not isinstance(node, MapNode):
        problems.add(f"expected a variable, found {describe(node)}", node.span, f"write {name}: {{type: string}}")
        return None
    for inner in walk(node):
        if is_template(inner):
            help = f"write the value out; where the variable is used: {for_others(str(getattr(inner, 'value', '')))}"
            problems.add("a variable's declaration can't hold a template", inner.span, help)
    for word, _ in node.entries:
        if word.value not in KEYS:
            help = did_you_mean(str(word.value), KEYS) or f"a variable has: {', '.join(KEYS)}"
            problems.add(f'unknown key "{word.value}" in a variable', word.span, help)
    rules = _rules(name, node, key.span, problems)
    if rules is None or len(problems) > before:
        return None
    return _with_value(name, rules, node, key.span, problems)


def _rules(name: str, node: MapNode, span: Span | None, problems: Problems) -> Rules | None:
    kind = _word(node, "type", TYPES, problems)
    if kind is None:
        if node.get("type") is None:
            problems.add(f'the variable "{name}" has no type', span, f"add type: {', '.join(TYPES)}")
        return None
    for word, needed in _NEEDS.items():
        if node.get(word) is not None and kind not in needed:
            help = f"it is for {' and '.join(needed)}"
            problems.add(f'"{word}" means nothing for type {kind}', span_of(node, word), help)
            return None
    items = _items(inner, problems) if (inner := node.get("items")) is not None else None
    unit = "Length" if kind == "string" else "Items"
    pattern, matches = _pattern(node.get("pattern"), problems)
    rules = Rules(
        type=kind,
        items=items or "string",
        pattern=pattern,
        matches=matches,
        least=_number(node, "minimum", problems),
        most=_number(node, "maximum", problems),
        shortest=_count(node, f"min{unit}", problems),
        longest=_count(node, f"max{unit}", problems),
    )
    return attrs.evolve(rules, enum=_enum(node.get("enum"), rules, problems))


def _items(node: Node, problems: Problems) -> str | None:
    if not isinstance(node, MapNode) or [key.value for key, _ in node.entries] != ["type"]:
        problems.add("items takes one key, type", node.span, "write items: {type: string}")
        return None
    return _word(node, "type", SCALARS, problems)


def _word(node: MapNode, key: str, known: tuple[str, ...], problems: Problems) -> str | None:
    value = node.get(key)
    if value is None:
        return None
    if isinstance(value, Scalar) and value.value in known:
        return str(value.value)
    help = did_you_mean(str(value.value), known) if isinstance(value, Scalar) else None
    problems.add(f"expected {', '.join(known[:-1])} or {known[-1]}, found {describe(value)}", value.span, help)
    return None


def _number(node: MapNode, key: str, problems: Problems) -> float | int | None:
    value = node.get(key)
    match value:
        case None:
            return None
        case Scalar(value=bool()):
            pass
        case Scalar(value=int() | float() as number):
            return number
    problems.add(f"expected a number, found {describe(value)}", value.span)
    return None


def _count(node: MapNode, key: str, problems: Problems) -> int | None:
    number = _number(node, key, problems)
    if number is None or (isinstance(number, int) and number >= 0):
        return number
    problems.add(f"{key} takes a whole number, zero or more", span_of(node, key))
    return None


def _pattern(node: Node | None, problems: Problems) -> tuple[str | None, Any]:
    if node is None:
        return None, None
    if not isinstance(node, Scalar) or not isinstance(node.value, str):
        problems.add(f"expected a pattern, found {describe(node)}", node.span, "put it in quotes")
        return None, None
    matches = compile_pattern(node.value)
    if matches is None:
        problems.add(
            "this is no regular expression that can be used",
            node.span,
            "look-around and back-references are not known, and 1000 characters are the most",
        )
    return node.value, matches


def _enum(node: Node | None, rules: Rules, problems: Problems) -> tuple[Any, ...] | None:
    if node is None:
        return None
    if not isinstance(node, ListNode) or not node.items:
        problems.add("enum takes a list of values", node.span, "write enum: [a, b]")
        return None
    return tuple(coerce(item, rules, problems) for item in node.items)


def _flag(node: MapNode, key: str, default: bool, problems: Problems) -> bool:
    value = node.get(key)
    if value is None:
        return default
    if isinstance(value, Scalar) and isinstance(value.value, bool):
        return value.value
    problems.add(f"expected true or false, found {describe(value)}", value.span)
    return default


def _with_value(name: str, rules: Rules, node: MapNode, span: Span | None, problems: Problems) -> Variable | None:
    before = len(problems)
    given = node.get("default")
    sensitive = _flag(node, "sensitive", False, problems)
    required = _flag(node, "required", given is None, problems)
    if given is not None and sensitive:
        problems.add(
            "a sensitive variable can't have a default", given.span, "its value does not belong in a file; remove it"
        )
    elif given is not None and node.get("required") is not None and required:
        problems.add("a variable with a default is never missing", given.span, "remove required, or the default")
    default = None
    if given is not None and not sensitive and not (isinstance(given, Scalar) and given.value is None):
        default = coerce(given, rules, problems)
    words = node.get("description")
    if words is not None and not (isinstance(words, Scalar) and isinstance(words.value, str)):
        problems.add(f"expected a text, found {describe(words)}", words.span)
    if len(problems) > before:
        return None
    return Variable(
        name=name,
        rules=rules,
        default=default,
        required=required,
        description=str(words.value) if isinstance(words, Scalar) else None,
        sensitive=sensitive,
        span=span,
    )
