"""The JSON Schema of a profile, derived from the rows, and the last check of rendered options against it."""

from __future__ import annotations

import json
from typing import Any

from sandboxrun.profile.files import bases
from sandboxrun.profile.variables import KEYS as VARIABLE_KEYS
from sandboxrun.spec.names import KEY, PROJECT
from sandboxrun.spec.project import ConfigType, NetworkType, SecretType, VolumeType
from sandboxrun.spec.spec import SpecType
from sandboxrun.spec.types import Schema

# -- The JSON Schema of a profile, derived from the rows: what editors check, and what `schemas/` holds

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
