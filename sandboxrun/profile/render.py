"""The effective profile as YAML with where each value came from, or as JSON, secrets masked; and the JSON Schema of a
profile, derived from the rows: what editors check, and what `schemas/` holds.
"""

from __future__ import annotations

import contextlib
import functools
import json
import re
from collections.abc import Mapping
from typing import Any

from sandboxrun.errors import mask
from sandboxrun.profile.files import bases
from sandboxrun.profile.loader import effective
from sandboxrun.profile.variables import KEYS as VARIABLE_KEYS
from sandboxrun.profile.yaml import resolve
from sandboxrun.spec.names import KEY, PROJECT
from sandboxrun.spec.project import ConfigType, NetworkType, Profile, SecretType, VolumeType
from sandboxrun.spec.spec import SpecType
from sandboxrun.spec.types import Schema

_COLUMN = 60  # where comments begin, when the line is shorter


def render_json(profile: Profile) -> str:
    """The effective profile, its inputs and digests as JSON."""
    plain = {
        **_hidden(profile),
        "inputs": dict(profile.inputs),
        "digest": profile.digest,
        "inputs_digest": profile.inputs_digest,
    }
    return json.dumps(plain, indent=2, ensure_ascii=False) + "\n"


def render_yaml(profile: Profile, *, defaults: bool = True) -> str:
    """The effective profile as YAML, each option with its origin: `# sandbox.yaml:12`, `# base x`, `# default`.

    Without `defaults`, options at a default that nobody wrote are left out.
    """
    plain = _hidden(profile)
    lines = [f"name: {_scalar(plain.pop('name'))}"]
    sandboxes = plain.pop("sandboxes")
    if sandboxes:
        lines.append("sandboxes:")
    for sandbox in profile.sandboxes:
        lines.append(f"  {_scalar(sandbox.address)}:")
        for key, value in sandboxes[sandbox.address].items():
            found = sandbox.provenance.get(key)
            origin = found.via if found is not None else ""
            if found is not None and found.span is not None and not origin.startswith("base "):
                origin = f"{found.span.file.name}:{found.span.line}"
            if origin != "default" or defaults:
                first, *rest = block({key: value}, "    ")
                lines += [f"{first:<{_COLUMN}}  # {origin}" if origin else first, *rest]
    for kind, specs in plain.items():
        lines.append(f"{kind}:")
        lines += block(specs, "  ")
    return "\n".join(lines) + "\n"


def _hidden(profile: Profile) -> dict[str, Any]:
    """The effective profile, with sensitive texts masked; the options' own names are none."""
    plain = effective(profile)
    hide = functools.partial(mask, sensitive=profile.sensitive, whole=False)
    sandboxes = {a: {key: hide(value) for key, value in s.items()} for a, s in plain["sandboxes"].items()}
    return {**hide(plain), "sandboxes": sandboxes}


def block(values: Mapping[str, Any], indent: str = "") -> list[str]:
    """A mapping as lines of YAML: mappings in block style, what is in lists in flow style."""
    lines = []
    for key, value in values.items():
        head = f"{indent}{_scalar(key)}:"
        if isinstance(value, Mapping) and value:
            lines += [head, *block(value, indent + "  ")]
        elif isinstance(value, list | tuple) and any(isinstance(item, Mapping | list) for item in value):
            lines += [head, *(f"{indent}  - {_flow(item)}" for item in value)]
        else:
            lines.append(f"{head} {_flow(value)}")
    return lines


def _flow(value: Any) -> str:
    match value:
        case Mapping():
            return "{" + ", ".join(f"{_scalar(key)}: {_flow(item)}" for key, item in value.items()) + "}"
        case list() | tuple():
            return "[" + ", ".join(map(_flow, value)) + "]"
    return _scalar(value)


_PLAIN = re.compile(r"[A-Za-z_./(][A-Za-z0-9_./@+=()-]*(?::[A-Za-z0-9_./@+=()-]+)*|[0-9]+[a-z]+")
_ESCAPES = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\t": "\\t", "\r": "\\r"}
_YAML_1_1 = frozenset("y n yes no on off".split())


def _scalar(value: Any) -> str:
    """A scalar that reads back as itself, by every YAML reader, those of YAML 1.1 too: in double quotes unless it is
    plainly a word. PyYAML's own quoting is not enough: it leaves characters that can't be seen."""
    if not isinstance(value, str):
        return json.dumps(value)
    if _PLAIN.fullmatch(value) and value.lower() not in _YAML_1_1:
        with contextlib.suppress(ValueError):
            if isinstance(resolve(value), str):
                return value
    quoted = []
    for character in value:
        code = ord(character)
        escaped = f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
        quoted.append(_ESCAPES.get(character) or (character if character.isprintable() else escaped))
    return f'"{"".join(quoted)}"'


# -- The JSON Schema

DRAFT = "http://json-schema.org/draft-07/schema#"
_TEMPLATE = {"$ref": "#/definitions/template"}
_NAMES = {"pattern": f"^(?:{KEY})$"}
_NULL = {"type": "null"}
_SANDBOX = {"$ref": "#/definitions/sandbox"}
_PRIVATE: Schema = {"^x-": {}}


def schema_text() -> str:
    """The schema as the file under `schemas/` holds it."""
    return json.dumps(profile_schema(), indent=2, ensure_ascii=False) + "\n"


def profile_schema() -> Schema:
    """The schema of a whole profile file, templates allowed."""
    name = "The project: it names and labels every object. The directory's name when left out."
    variables = {name: _told(key.description, key.example, **key.schema) for name, key in VARIABLE_KEYS.items()}
    secrets, settings = {"api_key": {"environment": "AGENT_API_KEY"}}, {"settings": {"file": "./settings.json"}}
    return {
        "$schema": DRAFT,
        "title": "sandboxrun profile",
        "description": "A project of sandboxes for agents: what runs in each, and what it may do.",
        "type": "object",
        "properties": {
            "name": _told(name, "review", **_templated({"type": "string", "pattern": f"^(?:{PROJECT})$"})),
            "variables": _told(
                "The inputs of the templates, each typed.",
                {"ref": {"type": "string", "default": "main"}},
                type="object",
                propertyNames={"pattern": "^[A-Za-z_][A-Za-z0-9_]{0,63}$"},
                additionalProperties=_record("type", **variables),
            ),
            "sandboxes": _map("The sandboxes by name.", {"agent": {"image": "node:20-alpine"}}, _SANDBOX),
            "networks": _objects(NetworkType, "The project's networks by key.", {"default": {"internal": True}}),
            "volumes": _objects(VolumeType, "The project's volumes by key.", {"cache": {}}),
            "secrets": _objects(SecretType, "Secrets by key.", secrets),
            "configs": _objects(ConfigType, "Configuration files by key.", settings),
        },
        "patternProperties": _PRIVATE,
        "additionalProperties": False,
        "definitions": {
            "template": _told(
                "A template: its value is made of variables.", "{{ name }}", type="string", pattern=r"\{\{|\{%|\{#"
            ),
            "sandbox": _sandbox(),
        },
    }


def _told(description: str, /, *examples: Any, **schema: Any) -> Schema:
    return {"description": description, "examples": list(examples), **schema}


def _map(description: str, example: Any, value: Schema) -> Schema:
    """A mapping of names."""
    inner = {"anyOf": [value, _NULL]}
    return _told(description, example, type="object", propertyNames=_NAMES, additionalProperties=inner)


def _objects(type_: Any, description: str, example: Any) -> Schema:
    return _map(description, example, _loose(type_.schema()))


def _record(needed: str, /, **properties: Schema) -> Schema:
    return {"type": "object", "properties": properties, "required": [needed], "additionalProperties": False}


def _sandbox() -> Schema:
    schema = _loose(SpecType.schema())
    text = {"type": "string", "minLength": 1}
    base = _record(
        "sandbox",
        file=_told("A file in the project; this one when left out.", "bases.yaml", **text),
        sandbox=_told("The sandbox to build on.", "agent", **text),
    )
    path = _record(
        "path",
        path=_told("The file.", "agent.env", **text),
        required=_told("Whether it must exist.", False, type="boolean"),
    )
    items = {"type": "array", "items": {"type": ["string", "number", "boolean"]}, "maxItems": 1000}
    own = {
        "extends": _told(
            "What this sandbox builds on: a built-in base, or a sandbox of a file in the project.",
            "hardened",
            {"file": "bases.yaml", "sandbox": "agent"},
            anyOf=[{"enum": list(bases())}, base, _NULL],
        ),
        "for_each": _told(
            "One sandbox for each item; templates see it as each, or each.key and each.value.",
            ["lint", "tests"],
            "{{ tasks }}",
            anyOf=[items, {"type": "object", "maxProperties": 1000}, _TEMPLATE, _NULL],
        ),
        "when": _told(
            "Whether the sandbox exists at all.", "{{ ref != 'skip' }}", anyOf=[{"type": "boolean"}, _TEMPLATE, _NULL]
        ),
        "env_file": _told(
            "Files of NAME=value lines for the environment; `environment` overrides them.",
            ["agent.env"],
            anyOf=[text, {"type": "array", "items": {"anyOf": [text, path]}}, _NULL],
        ),
    }
    properties = {**own, **schema["properties"]}
    return {**schema, "description": "One sandbox.", "properties": properties, "patternProperties": _PRIVATE}


# -- templates where a value may be ------------------------------------------------------------------------------


def _templated(schema: Schema) -> Schema:
    """`schema`, or a template in its place. A template can't make a mapping, so one that takes only mappings stays."""
    loose = _loose(schema)
    if loose.get("type") == "object":
        return loose
    words: Schema = {key: loose.pop(key) for key in ("description", "default", "examples") if key in loose}
    forms = loose.pop("anyOf") if set(loose) == {"anyOf"} else [loose]
    if all(form.get("type") in ("object", "null") for form in forms):
        return {**words, "anyOf": forms}
    return {**words, "anyOf": [*forms, _TEMPLATE]}


def _loose(schema: Schema) -> Schema:
    """`schema` with templates allowed in what it holds."""
    loose = dict(schema)
    if "properties" in loose:
        loose["properties"] = {key: _templated(value) for key, value in loose["properties"].items()}
    if isinstance(loose.get("additionalProperties"), dict):
        loose["additionalProperties"] = _templated(loose["additionalProperties"])
    if isinstance(loose.get("items"), dict):
        loose["items"] = _templated(loose["items"])
    if "anyOf" in loose:
        loose["anyOf"] = [_loose(form) for form in loose["anyOf"]]
    return loose
