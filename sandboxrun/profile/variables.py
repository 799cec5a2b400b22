"""The `variables:` block, the types of variables, and their values: from whom, in which order, checked.

Owns masking nothing: it says which values are sensitive.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from msgspec import field, structs

from sandboxrun.data import Data
from sandboxrun.errors import MASK, Problems, did_you_mean
from sandboxrun.profile.files import read_source
from sandboxrun.profile.sandbox import looks_like_dotenv, parse_dotenv
from sandboxrun.profile.templates import for_others, is_template
from sandboxrun.profile.yaml import is_text, parse_yaml, resolve
from sandboxrun.source import ListNode, MapNode, Node, Scalar, SourceFile, Span, node_of, walk
from sandboxrun.spec.types import describe, span_of

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


class Rules(Data, unshown=("matches",), uncompared=("matches",)):
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


class InputRefused(Exception):
    """A value that the rules do not take: a clause, and a help."""

    def __init__(self, message: str, help: str | None = None) -> None:
        self.message, self.help = message, help
        super().__init__(message)


def coerce(node: Node, rules: Rules, problems: Problems, *, span: Span | None = None) -> Any:
    """The value of a node (plain data: list for array, dict for object); None with the reason noted."""
    try:
        value = _typed(node, rules)
        check(value, rules)
    except InputRefused as refused:
        problems.add(refused.message, node.span or span, refused.help)
        return None
    return value


def from_text(text: str, rules: Rules) -> Any:
    """The value that a text stands for. Raises InputRefused."""
    if len(text) > LONGEST_VALUE:
        raise InputRefused(f"the value is longer than {LONGEST_VALUE // 1024} KiB")
    if "\0" in text or not is_text(text):
        raise InputRefused("the value holds a NUL, or bytes that are not UTF-8")
    match rules.type:
        case "array":
            value: Any = [_scalar(part, rules.items) for part in _parts(text)]
        case "object":
            value = _pairs(text)
        case _:
            value = _scalar(text, rules.type)
    check(value, rules)
    return value


def check(value: Any, rules: Rules) -> None:
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


def _typed(node: Node, rules: Rules) -> Any:
    match rules.type, node:
        case "array", ListNode():
            _few(len(node.items))
            return [_plain(item, rules.items) for item in node.items]
        case "object", MapNode():
            _few(len(node.entries))
            return {str(key.value): _plain(value, "string") for key, value in node.entries}
        case "array" | "object", _:
            article = "an array" if rules.type == "array" else "an object"
            raise InputRefused(f"expected {article}, found {describe(node)}")
    return _plain(node, rules.type)


def _few(count: int) -> None:
    if count > MOST_ITEMS:
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


def _parts(text: str) -> list[Any]:
    if text.lstrip().startswith("["):
        made: list[Any] = _json(text, list)
        _few(len(made))
        return made
    parts = [part.strip() for part in text.split(",")] if text.strip() else []
    _few(len(parts))
    return parts


def _pairs(text: str) -> dict[str, str]:
    if text.lstrip().startswith("{"):
        made = _json(text, dict)
        _few(len(made))
        return {key: _scalar(value, "string") for key, value in made.items()}
    pairs: dict[str, str] = {}
    for part in _parts(text):
        name, equals, value = part.partition("=")
        if not equals or not name:
            raise InputRefused(f"expected name=value, found {_shown(part)}", "write a=1,b=2, or JSON")
        pairs[name] = value
    return pairs


def _json(text: str, type_: type[list[Any]] | type[dict[str, Any]]) -> Any:
    import json

    try:
        made: Any = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputRefused(f"the value is not JSON: {getattr(error, 'msg', 'nested too deeply').lower()}") from None
    if not isinstance(made, type_):
        raise InputRefused("the value is JSON of another type")
    items = made.values() if isinstance(made, dict) else made
    if any(isinstance(item, list | dict) for item in items):
        raise InputRefused("the value's items must be plain values")
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
    rules: Rules
    default: Any = None
    required: bool = False
    description: str | None = None
    sensitive: bool = False
    span: Span | None = None


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
    return structs.replace(rules, enum=_enum(node.get("enum"), rules, problems))


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
            "this is not a supported regular expression",
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
    """The typed values by name, who gave each, and which names are sensitive."""

    values: Mapping[str, Any]
    origins: Mapping[str, str]
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
        return frozenset(text for name in self.sensitive for text in _texts(self.values.get(name)))


def _texts(value: Any) -> list[str]:
    match value:
        case None | bool() | "":
            return []
        case list():
            return [text for item in value for text in _texts(item)]
        case dict():
            return [text for item in value.values() for text in _texts(item)]
    return [str(value)]


def resolve_values(
    declared: Mapping[str, Variable], inputs: Inputs, problems: Problems
) -> tuple[Values, dict[Path, SourceFile]]:
    """Every declared variable's value, and the files read for them; faults, the missing ones among them, are noted."""
    found: dict[str, tuple[Any, str]] = {
        name: (variable.default, "default") for name, variable in declared.items() if not variable.required
    }
    found.update(_from_environment(declared, inputs.environment, problems))
    files: dict[Path, SourceFile] = {}
    for path in inputs.var_files:
        file = read_source(path, str(path), problems)
        if file is not None:
            files[path] = file
            found.update(_from_file(declared, file, path, problems))
    found.update(_from_options(declared, inputs.vars, problems))
    found.update(_from_python(declared, inputs.values, problems))
    _missing(declared, found, problems)
    values = {name: found[name][0] for name in declared if name in found}
    origins = {name: found[name][1] for name in declared if name in found}
    sensitive = frozenset(name for name, variable in declared.items() if variable.sensitive)
    made = Values(values=MappingProxyType(values), origins=MappingProxyType(origins), sensitive=sensitive)
    return made, files


Found = dict[str, tuple[Any, str]]


def _missing(declared: Mapping[str, Variable], found: Found, problems: Problems) -> None:
    for name, variable in declared.items():
        if name not in found:
            purpose = f" ({variable.description})" if variable.description else ""
            problems.add(
                f'the variable "{name}" has no value{purpose}',
                variable.span,
                f"give it: --var {name}=…, a --var-file, or {PREFIX}{name}",
            )


def _unknown(name: str, declared: Mapping[str, Variable], where: str, span: Span | None, problems: Problems) -> None:
    known = f"declared are: {', '.join(declared)}" if declared else "the profile declares none"
    problems.add(f'{where} gives "{name}", which is not declared', span, did_you_mean(name, declared) or known)


def _text(variable: Variable, text: str, where: str, problems: Problems, span: Span | None = None) -> Any:
    try:
        return from_text(text, variable.rules)
    except InputRefused as refused:
        if variable.sensitive:  # neither the value nor the line that holds it is shown
            place = "" if span is None else f"{span}: "
            problems.add(f'{place}{where} for "{variable.name}" breaks the variable\'s rules', variable.span)
        else:
            problems.add(f'{where} for "{variable.name}": {refused.message}', span or variable.span, refused.help)
        return None


def _from_environment(declared: Mapping[str, Variable], environment: Mapping[str, str], problems: Problems) -> Found:
    found: Found = {}
    for name, variable in declared.items():
        spellings = [name] if name.upper() in declared else [name, name.upper()]
        key = next((PREFIX + spelling for spelling in spellings if PREFIX + spelling in environment), None)
        if key is not None:
            found[name] = (_text(variable, environment[key], key, problems), key)
    return found


def _from_options(declared: Mapping[str, Variable], given: tuple[str, ...], problems: Problems) -> Found:
    found: Found = {}
    for option in given:
        name, equals, text = option.partition("=")
        if not equals or not name:
            problems.add(f'--var "{option}" is not NAME=value', None, "write --var NAME=value")
        elif name not in declared:
            _unknown(name, declared, "--var", None, problems)
        else:
            found[name] = (_text(declared[name], text, "--var", problems), "--var")
    return found


def _from_python(declared: Mapping[str, Variable], given: Mapping[str, Any], problems: Problems) -> Found:
    found: Found = {}
    for name, value in given.items():
        if name not in declared:
            _unknown(name, declared, "the caller", None, problems)
        else:
            found[name] = (coerce(node_of(value), declared[name].rules, problems, span=declared[name].span), "caller")
    return found


def _from_file(declared: Mapping[str, Variable], file: SourceFile, path: Path, problems: Problems) -> Found:
    found: Found = {}
    where = file.name
    if _is_dotenv(path, file.text):
        for key, value in parse_dotenv(file, problems):
            name = str(key.value)
            if name not in declared:
                _unknown(name, declared, "this file", key.span, problems)
            else:
                text = str(value.value)
                found[name] = (_text(declared[name], text, "the value", problems, value.span), where)
        return found
    for key, node in _entries(parse_yaml(file, problems), problems):
        name = str(key.value)
        if name not in declared:
            _unknown(name, declared, "this file", key.span, problems)
        else:
            found[name] = (_from_node(declared[name], node, problems), where)
    return found


def _from_node(variable: Variable, node: Node, problems: Problems) -> Any:
    if isinstance(node, Scalar) and node.value is None and not variable.required:
        return variable.default
    if not variable.sensitive:
        return coerce(node, variable.rules, problems)
    quiet = Problems()
    value = coerce(node, variable.rules, quiet)
    if quiet:  # said without its place: the line that would be quoted holds the secret
        problems.add(f'{node.span}: the value of "{variable.name}" breaks the variable\'s rules', variable.span)
    return value


def _entries(node: Node | None, problems: Problems) -> tuple[tuple[Scalar, Node], ...]:
    match node:
        case None | Scalar(value=None):
            return ()
        case MapNode():
            return node.entries
    problems.add(f"expected a mapping of values, found {describe(node)}", node.span, "write NAME: value, a line each")
    return ()


def _is_dotenv(path: Path, text: str) -> bool:
    if path.suffix in (".yaml", ".yml", ".json"):
        return False
    return path.suffix == ".env" or path.name.startswith(".env") or looks_like_dotenv(text)
