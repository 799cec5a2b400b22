"""Values for a profile's variables: from whom, in which order, and typed.

Owns the precedence: given by the Python API, then --var, then --var-file (a later one wins), then
SANDBOXRUN_VAR_<NAME>, then the default. An unknown name is an error except in the environment, which may be
shared by several profiles (OpenTofu does the same).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import attrs

from sandboxrun.errors import Problems, did_you_mean
from sandboxrun.model.types import describe
from sandboxrun.profile.dotenv import looks_like_dotenv, parse_dotenv
from sandboxrun.profile.files import read_source
from sandboxrun.profile.variable_types import Refused, coerce, from_text
from sandboxrun.profile.variables import Variable
from sandboxrun.profile.yaml_nodes import parse_yaml
from sandboxrun.source import MapNode, Node, Scalar, SourceFile, Span, node_of

PREFIX = "SANDBOXRUN_VAR_"
MASK = "(sensitive)"


@attrs.frozen(kw_only=True)
class Inputs:
    """What the caller gives beside the profile.

    `vars` are `NAME=value` texts in the order of the command line; `var_files` YAML or dotenv files; `environment`
    is the process's (for SANDBOXRUN_VAR_* and for bare names in `environment:`); `values` are typed ones.
    """

    vars: tuple[str, ...] = ()
    var_files: tuple[Path, ...] = ()
    environment: Mapping[str, str] = attrs.field(factory=dict, repr=False)
    values: Mapping[str, Any] = attrs.field(factory=dict, repr=False)


@attrs.frozen(kw_only=True)
class Values:
    """The typed values by name, who gave each, and which names are sensitive."""

    values: Mapping[str, Any] = attrs.field(repr=False)
    origins: Mapping[str, str]
    sensitive: frozenset[str]

    @property
    def masked(self) -> Mapping[str, Any]:
        """The values to show: sensitive ones replaced."""
        return MappingProxyType({k: MASK if k in self.sensitive else v for k, v in self.values.items()})

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
    except Refused as refused:
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
