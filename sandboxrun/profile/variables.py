"""The `variables:` block, the types of variables, and their values: from whom, in which order, checked.

Owns masking nothing: it says which values are sensitive.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from msgspec import field, structs

from sandboxrun.data import Data
from sandboxrun.errors import (
    MASK,
    ListNode,
    MapNode,
    Node,
    Problems,
    Scalar,
    SourceFile,
    Span,
    did_you_mean,
    is_null,
    node_of,
    walk,
)
from sandboxrun.profile.files import read_source
from sandboxrun.profile.sandbox import looks_like_dotenv, parse_dotenv
from sandboxrun.profile.templates import check_keys, for_others, is_template, texts_of
from sandboxrun.profile.yaml import is_text, parse_yaml, resolve
from sandboxrun.spec.types import describe, refuse, span_of

# -- Regular expressions that a profile's author wrote, matched in linear time

_LARGEST = 1 << 20  # bytes of the compiled expression
LONGEST = 1000  # characters


def compile_pattern(pattern: str) -> Callable[[str], bool] | None:
    """Whether a text matches `pattern` whole; None when that is no pattern of the engine's kind."""
    import jsonschema_rs

    if len(pattern) > LONGEST:
        return None
    options = jsonschema_rs.RegexOptions(size_limit=_LARGEST, dfa_size_limit=_LARGEST)
    try:
        for text in (pattern, f"^(?:{pattern})$"):
            schema = {"type": "string", "pattern": text}
            validator = jsonschema_rs.Draft7Validator(schema, pattern_options=options)
    except jsonschema_rs.ValidationError:
        return None
    matches: Callable[[str], bool] = validator.is_valid
    return matches


# -- The types of variables: values from YAML nodes, and from the texts of the command line and the environment

SCALARS = ("string", "integer", "number", "boolean")
TYPES = (*SCALARS, "array", "object")
LONGEST_VALUE = 64 * 1024  # characters
MOST_ITEMS = 1000
_INTEGER = re.compile(r"[-+]?[0-9]{1,19}")


class VariableRules(Data, unshown=("matches",), uncompared=("matches",)):
    """A type with its rules; `items` is the type of what an array holds. An object holds strings."""

    type: str
    items: str = "string"
    enum: tuple[Any, ...] | None = None
    pattern: str | None = None
    matches: Callable[[str], bool] | None = None
    least: float | int | None = None
    most: float | int | None = None
    shortest: int | None = None
    longest: int | None = None


class Key(Data, kw_only=False):
    """What a variable's declaration may say: in words, as a schema, by example, and for which types."""

    description: str
    schema: Mapping[str, Any]
    example: Any
    types: tuple[str, ...] = TYPES


_COUNT = {"type": "integer", "minimum": 0}
_NUMBERS = ("integer", "number")
_ITEM = {"type": {"enum": list(SCALARS), "description": "The type of each item.", "examples": ["string"]}}
_ITEMS = {"type": "object", "properties": _ITEM, "required": ["type"], "additionalProperties": False}


KEYS: Mapping[str, Key] = {
    "type": Key("string, integer, number, boolean, array or object", {"enum": list(TYPES)}, "string"),
    "items": Key("what an array holds: {type: …}", _ITEMS, {"type": "string"}, ("array",)),
    "default": Key("the value when none is given", {}, "main"),
    "required": Key("whether a value must be given", {"type": "boolean"}, True),
    "enum": Key(
        "the values it may have", {"type": "array", "minItems": 1}, ["fast", "thorough"], ("string", *_NUMBERS)
    ),
    "pattern": Key(
        "a regular expression that the whole text matches",
        {"type": "string", "maxLength": LONGEST},
        "^[a-z]+$",
        ("string",),
    ),
    "description": Key("what it is for", {"type": "string"}, "The revision to review."),
    "sensitive": Key("whether it is masked wherever it is shown", {"type": "boolean"}, True),
    "minimum": Key("the least number", {"type": "number"}, 1, _NUMBERS),
    "maximum": Key("the greatest number", {"type": "number"}, 8, _NUMBERS),
    "minLength": Key("the least number of characters", _COUNT, 1, ("string",)),
    "maxLength": Key("the greatest number of characters", _COUNT, 100, ("string",)),
    "minItems": Key("the least number of items", _COUNT, 1, ("array",)),
    "maxItems": Key("the greatest number of items", _COUNT, 10, ("array",)),
}


class InputRefused(Exception):
    """A value that the rules do not take: a clause, and a help."""

    def __init__(self, message: str, help: str | None = None) -> None:
        self.message, self.help = message, help
        super().__init__(message)


def from_node(node: Node, rules: VariableRules) -> Any:
    """The value of a node as plain data: a list for an array, a dict for an object. Raises InputRefused."""
    value: Any
    match rules.type, node:
        case "array", ListNode():
            _few(node.items)
            value = [_plain(item, rules.items) for item in node.items]
        case "object", MapNode():
            _few(node.entries)
            value = {str(key.value): _plain(item, "string") for key, item in node.entries}
        case "array" | "object", _:
            raise InputRefused(f"expected an {rules.type}, found {describe(node)}")
        case _:
            value = _plain(node, rules.type)
    check(value, rules)
    return value


def _declared(node: Node, rules: VariableRules, problems: Problems) -> Any:
    """A value in the declaration itself; None with the reason noted."""
    try:
        return from_node(node, rules)
    except InputRefused as refused:
        problems.add(refused.message, node.span, refused.help)
        return None


def from_text(text: str, rules: VariableRules) -> Any:
    """The value that a text means. Raises InputRefused."""
    if len(text) > LONGEST_VALUE:
        raise InputRefused(f"the value is longer than {LONGEST_VALUE // 1024} KiB")
    if "\0" in text or not is_text(text):
        raise InputRefused("the value holds a NUL, or bytes that are not UTF-8")
    match rules.type:
        case "array":
            value: Any = [_scalar(part, rules.items) for part in _parts(text, "[")]
        case "object":
            value = {}
            parts = _parts(text, "{")
            for part in parts:
                name, equals, given = (part, "=", parts[part]) if isinstance(parts, dict) else part.partition("=")
                if not equals or (not name and isinstance(parts, list)):
                    raise InputRefused(f"expected name=value, found {_shown(part)}", "write a=1,b=2, or JSON")
                value[name] = _scalar(given, "string")
        case _:
            value = _scalar(text, rules.type)
    check(value, rules)
    return value


def check(value: Any, rules: VariableRules) -> None:
    """Raises InputRefused where a typed value breaks a rule."""
    if rules.enum is not None and value not in rules.enum:
        allowed = ", ".join(map(_shown, rules.enum))
        raise InputRefused(f"{_shown(value)} is none of: {allowed}", did_you_mean(str(value), map(str, rules.enum)))
    if rules.matches is not None and not rules.matches(value):
        raise InputRefused(f"{_shown(value)} does not match the pattern {rules.pattern}")
    if rules.least is not None and value < rules.least:
        raise InputRefused(f"{value} is below the minimum of {rules.least}")
    if rules.most is not None and value > rules.most:
        raise InputRefused(f"{value} is above the maximum of {rules.most}")
    if isinstance(value, str | list):
        unit = "characters" if isinstance(value, str) else "items"
        if rules.shortest is not None and len(value) < rules.shortest:
            raise InputRefused(f"the value has {len(value)} {unit}, and needs {rules.shortest}")
        if rules.longest is not None and len(value) > rules.longest:
            raise InputRefused(f"the value has {len(value)} {unit}, and may have {rules.longest}")


def _shown(value: Any) -> str:
    text = str(value)
    short = text if len(text) <= 60 else text[:57] + "..."
    return f'"{short}"' if isinstance(value, str) else short


def _few(items: Collection[Any]) -> None:
    if len(items) > MOST_ITEMS:
        raise InputRefused(f"the value has more than {MOST_ITEMS} items")


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
    raise InputRefused(f"expected {article} {kind}, found {describe(node)}", "put it in quotes" if quoted else None)


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
    raise InputRefused(f"expected {article}, found {_shown(text)}")


def _parts(text: str, opening: str) -> Any:
    """The parts of a list (`opening` is "[") or of pairs ("{"): JSON where it begins so, else what commas separate."""
    if not text.lstrip().startswith(opening):
        parts = [part.strip() for part in text.split(",")] if text.strip() else []
        _few(parts)
        return parts
    import json

    try:
        made = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputRefused(f"the value is not JSON: {getattr(error, 'msg', 'nested too deeply').lower()}") from None
    if any(isinstance(item, list | dict) for item in (made.values() if isinstance(made, dict) else made)):
        raise InputRefused("the value's items must be plain values")
    _few(made)
    return made


# -- The `variables:` block: what a profile takes as input, each with its type and rules

MOST_VARIABLES = 200
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")
_RESERVED = frozenset(
    "each loop range self true false none True False None and or not in is if else elif for set".split()
)


class Variable(Data, unshown=("span",), uncompared=("span",)):
    """One declared input. `default` is None where there is none; then it is `required` unless it says otherwise."""

    name: str
    rules: VariableRules
    default: Any = None
    required: bool = False
    description: str | None = None
    sensitive: bool = False
    span: Span | None = None


def parse_variables(node: Node | None, problems: Problems) -> dict[str, Variable]:
    """The declared variables by name, in the file's order; the faulty ones left out with the reason noted."""
    match node:
        case None | Scalar(value=None):
            return {}
        case MapNode() if len(node.entries) > MOST_VARIABLES:
            problems.add(f"more than {MOST_VARIABLES} variables", node.span, "use an array or an object")
            return {}
        case MapNode():
            found = [_variable(key, value, problems) for key, value in node.entries]
            return {variable.name: variable for variable in found if variable is not None}
    refuse(problems, node, "a mapping of variables", "write NAME: {type: string}")
    return {}


def _variable(key: Scalar, node: Node, problems: Problems) -> Variable | None:
    name, before = str(key.value), len(problems)
    if not _NAME.fullmatch(name):
        problems.add(f"\"{name}\" can't be a variable's name", key.span, "use letters, digits and _")
    if name in _RESERVED:
        problems.add(f'"{name}" means something else in templates', key.span, "choose another name")
    if not isinstance(node, MapNode):
        refuse(problems, node, "a variable", f"write {name}: {{type: string}}")
        return None
    for inner in walk(node):
        if is_template(inner):
            help = f"write the value out; where the variable is used: {for_others(str(getattr(inner, 'value', '')))}"
            problems.add("a variable's declaration can't hold a template", inner.span, help)
    check_keys(node, KEYS, "a variable", f"a variable has: {', '.join(KEYS)}", problems)
    rules = _rules(name, node, key.span, problems)
    if rules is None or len(problems) > before:
        return None
    return _with_default(name, rules, node, key.span, problems)


def _with_default(
    name: str, rules: VariableRules, node: MapNode, span: Span | None, problems: Problems
) -> Variable | None:
    given, before = node.get("default"), len(problems)
    sensitive = bool(_given(node, "sensitive", "true or false", (bool,), problems))
    asked = _given(node, "required", "true or false", (bool,), problems)
    default = None
    if given is not None and sensitive:
        help = "its value does not belong in a file; remove it"
        problems.add("a sensitive variable can't have a default", given.span, help)
    elif given is not None and asked:
        problems.add("a variable with a default is never missing", given.span, "remove required, or the default")
    if not sensitive and given is not None and not (isinstance(given, Scalar) and given.value is None):
        default = _declared(given, rules, problems)
    description = _given(node, "description", "a text", (str,), problems)
    if len(problems) > before:
        return None
    return Variable(
        name=name,
        rules=rules,
        default=default,
        required=given is None if asked is None else asked,
        description=description,
        sensitive=sensitive,
        span=span,
    )


def _given(
    node: MapNode, key: str, expected: str, types: tuple[type, ...], problems: Problems, known: tuple[str, ...] = ()
) -> Any:
    """The plain value under a key, one of `known` if there are any; None where there is none, and, with the reason
    noted, where it does not fit."""
    value = node.get(key)
    if value is None:
        return None
    help = "put it in quotes" if key == "pattern" else None
    if isinstance(value, Scalar):
        if type(value.value) in types and (not known or value.value in known):
            return value.value
        collection = _of_terraform(str(value.value)) if known == TYPES else None
        help = collection or did_you_mean(str(value.value), known) if known else help
    refuse(problems, value, expected, help)
    return None


def _of_terraform(word: str) -> str | None:
    """What a collection's type in Terraform is here; None of other words."""
    match word.partition("(")[0]:
        case "list" | "set" | "tuple":
            return "write {type: array, items: {type: string}}"
        case "map" | "object":
            return "write {type: object}, which holds texts"
    return None


def _rules(name: str, node: MapNode, span: Span | None, problems: Problems) -> VariableRules | None:
    expected = f"{', '.join(TYPES[:-1])} or {TYPES[-1]}"
    kind = _given(node, "type", expected, (str,), problems, TYPES)
    if kind is None:
        if node.get("type") is None:
            problems.add(f'the variable "{name}" has no type', span, f"add type: {', '.join(TYPES)}")
        return None
    for word, key in KEYS.items():
        if node.get(word) is not None and kind not in key.types:
            help = f"it is for {' and '.join(key.types)}"
            problems.add(f'"{word}" means nothing for type {kind}', span_of(node, word), help)
            return None
    items, kept = node.get("items"), None
    if items is not None and (not isinstance(items, MapNode) or [key.value for key, _ in items.entries] != ["type"]):
        problems.add("items takes one key, type", items.span, "write items: {type: string}")
    elif isinstance(items, MapNode):
        expected = f"{', '.join(SCALARS[:-1])} or {SCALARS[-1]}"
        kept = _given(items, "type", expected, (str,), problems, SCALARS)
    given = node.get("pattern")
    pattern = _given(node, "pattern", "a pattern", (str,), problems)
    matches = compile_pattern(pattern) if pattern is not None else None
    if pattern is not None and matches is None:
        help = f"look-around and back-references are not known, and {LONGEST} characters are the most"
        problems.add("this is not a supported regular expression", given.span if given else None, help)
    bounds = {}
    for word in ("minimum", "maximum", "minLength", "maxLength", "minItems", "maxItems"):
        number = bounds[word] = _given(node, word, "a number", (int, float), problems)
        if number is not None and word not in ("minimum", "maximum") and not (type(number) is int and number >= 0):
            problems.add(f"{word} takes a whole number, zero or more", span_of(node, word))
    unit = "Length" if kind == "string" else "Items"
    rules = VariableRules(
        type=kind,
        items=kept or "string",
        pattern=pattern,
        matches=matches,
        least=bounds["minimum"],
        most=bounds["maximum"],
        shortest=bounds[f"min{unit}"],
        longest=bounds[f"max{unit}"],
    )
    enum = node.get("enum")
    if isinstance(enum, ListNode) and enum.items:
        return structs.replace(rules, enum=tuple(_declared(item, rules, problems) for item in enum.items))
    if enum is not None:
        problems.add("enum takes a list of values", enum.span, "write enum: [a, b]")
    return rules


# -- Values for a profile's variables: from whom, in which order, and typed

PREFIX = "SANDBOXRUN_VAR_"


class Inputs(Data, unshown=("environment", "values")):
    """What the caller gives beside the profile.

    `vars` are `NAME=value` texts in the order of the command line; `var_files` YAML or dotenv files; `environment`
    is the process's (for SANDBOXRUN_VAR_* and for bare names in `environment:`); `values` are typed ones.
    """

    vars: tuple[str, ...] = ()
    var_files: tuple[Path, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    values: Mapping[str, Any] = field(default_factory=dict)


class Values(Data, unshown=("values",)):
    """The typed values by name, and which names are sensitive."""

    values: Mapping[str, Any]
    sensitive: frozenset[str]

    @property
    def masked(self) -> Mapping[str, Any]:
        """The values to show: sensitive ones replaced."""
        return MappingProxyType({k: MASK if k in self.sensitive else v for k, v in self.values.items()})

    @property
    def digested(self) -> dict[str, Any]:
        """What the inputs' digest is of: not of sensitive values, since a short one could be guessed. Its format."""
        return {k: "(sensitive)" if k in self.sensitive else v for k, v in self.values.items()}

    @property
    def secrets(self) -> frozenset[str]:
        """The texts of the sensitive values and of their parts."""
        return frozenset(text for name in self.sensitive for text in texts_of(self.values.get(name)))


def resolve_values(
    declared: Mapping[str, Variable], inputs: Inputs, problems: Problems
) -> tuple[Values, dict[Path, SourceFile]]:
    """Every declared variable's value, and the files read for them; faults, the missing ones among them, are noted.

    Later sources replace earlier ones: defaults, the environment, files, options, the caller.
    """
    found: dict[str, Any] = {n: variable.default for n, variable in declared.items() if not variable.required}
    files: dict[Path, SourceFile] = {}
    for given in _given_values(declared, inputs, files, problems):
        variable = declared.get(given.name)
        if variable is not None:
            found[given.name] = _value(variable, given, problems)
            continue
        known = f"declared are: {', '.join(declared)}" if declared else "the profile declares none"
        help = did_you_mean(given.name, declared) or known
        problems.add(f'{given.giver} sets "{given.name}", which is not declared', given.span, help)
    for name, variable in declared.items():
        if name not in found:
            purpose = f" ({variable.description})" if variable.description else ""
            problems.add(
                f'the variable "{name}" has no value{purpose}',
                variable.span,
                f"give it one, in a file of variables or as {PREFIX}{name}",
                option=f"--var {name}=…, --var-file FILE",
                argument=f'Inputs(values={{"{name}": …}})',
            )
    made = Values(
        values=MappingProxyType({name: found[name] for name in declared if name in found}),
        sensitive=frozenset(name for name, variable in declared.items() if variable.sensitive),
    )
    return made, files


class _Given(Data, kw_only=False):
    """A value that is given: a text, or a node. `giver` and `what` name its source and the value in messages, `span` is
    where the name is, `at` where the value is."""

    name: str
    value: str | Node
    giver: str
    what: str
    span: Span | None = None
    at: Span | None = None


def _given_values(
    declared: Mapping[str, Variable], inputs: Inputs, files: dict[Path, SourceFile], problems: Problems
) -> Iterator[_Given]:
    """All that is given, later sources after earlier ones. Notes each file in `files`."""
    for name in declared:
        spellings = [name] if name.upper() in declared else [name, name.upper()]
        key = next((PREFIX + spelling for spelling in spellings if PREFIX + spelling in inputs.environment), None)
        if key is not None:
            yield _Given(name, inputs.environment[key], key, key)
    for path in inputs.var_files:
        file = read_source(path, str(path), problems)
        if file is not None:
            files[path] = file
            yield from _from_file(file, path, problems)
    for option in inputs.vars:
        name, equals, text = option.partition("=")
        if equals and name:
            yield _Given(name, text, f"{name}=…", "the value")
        else:
            problems.add(f'"{option}" is not NAME=value', None, "pass a name and a value", option="--var NAME=value")
    for name, value in inputs.values.items():
        yield _Given(name, node_of(value), "the caller", "the value")


def _from_file(file: SourceFile, path: Path, problems: Problems) -> Iterator[_Given]:
    dotenv = path.suffix == ".env" or path.name.startswith(".env") or looks_like_dotenv(file.text)
    if dotenv and path.suffix not in (".yaml", ".yml", ".json"):
        for key, text in parse_dotenv(file, problems):
            yield _Given(str(key.value), str(text.value), "this file", "the value", key.span, text.span)
        return
    match parse_yaml(file, problems):
        case None | Scalar(value=None):
            pass
        case MapNode(entries=entries):
            for key, node in entries:
                yield _Given(str(key.value), node, "this file", "the value", key.span, node.span)
        case root:
            refuse(problems, root, "a mapping of values", "write NAME: value, a line each")


def _value(variable: Variable, given: _Given, problems: Problems) -> Any:
    """The typed value; None with the reason noted. Of a sensitive one neither the value nor the line that holds it is
    shown."""
    value, at, what = given.value, given.at, f'{given.what} for "{variable.name}"'
    try:
        if isinstance(value, str):
            return from_text(value, variable.rules)
        if at is not None and is_null(value) and not variable.required:
            return variable.default
        what = f'the value of "{variable.name}"'
        return from_node(value, variable.rules)
    except InputRefused as refused:
        if variable.sensitive:
            place = "" if at is None else f"{at}: "
            problems.add(f"{place}{what} breaks the variable's rules", variable.span)
        else:
            before = f"{what}: " if isinstance(value, str) else ""
            problems.add(f"{before}{refused.message}", at or variable.span, refused.help)
        return None
