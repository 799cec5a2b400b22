"""The schema: fresh, complete, usable by another validator, and of one mind with the typed parse."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jsonschema
import pytest

from sandboxrun.errors import Problems, ProfileError, SourceFile, node_of, plain_of
from sandboxrun.profile import loader as gate
from sandboxrun.profile.files import bases
from sandboxrun.profile.render import profile_schema, schema_text
from sandboxrun.profile.yaml import parse_yaml
from sandboxrun.spec.option import rows
from sandboxrun.spec.project import Profile
from sandboxrun.spec.spec import SandboxSpec, SpecType

ROOT = Path(__file__).parents[3]
PROFILES = [*sorted((ROOT / "tests" / "profiles" / "good").glob("*.yaml")), *bases().values()]
SCHEMA = profile_schema()


def test_the_committed_schema_is_fresh() -> None:
    assert (ROOT / "schemas" / "sandbox.schema.json").read_text() == schema_text()


def test_it_is_a_schema() -> None:
    jsonschema.Draft7Validator.check_schema(SCHEMA)


def described(schema: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every property of the schema, however deep."""
    if isinstance(schema, dict):
        for key, value in schema.get("properties", {}).items():
            yield f"{path}/{key}", value
        for key, value in schema.items():
            if key != "examples":
                yield from described(value, f"{path}/{key}")
    elif isinstance(schema, list):
        for value in schema:
            yield from described(value, path)


def test_every_key_has_a_description_and_an_example() -> None:
    found = dict(described(SCHEMA))
    assert len(found) > 100
    lacking = [path for path, value in found.items() if not value.get("description") or not value.get("examples")]
    assert lacking == []


def test_every_example_is_what_its_option_takes() -> None:
    for row in rows(SandboxSpec):
        if row.settable:
            problems = Problems()
            row.type.parse(node_of(row.example), problems)
            assert not problems, row.key
            jsonschema.validate(row.example, row.type.schema())


@pytest.mark.parametrize("path", PROFILES, ids=lambda path: path.name)
def test_good_profiles_pass_in_an_editor(path: Path) -> None:
    node = parse_yaml(SourceFile(name=path.name, text=path.read_text()), Problems())
    assert node is not None
    jsonschema.Draft7Validator(SCHEMA).validate(plain_of(node))


@pytest.mark.parametrize(
    "text",
    [
        "sandboxes: {agent: {mem_limt: 1g}}",
        "sandboxes: {agent: {mem_limit: lots}}",
        "sandboxes: {agent: {extends: hardend}}",
        "sandboxes: {agent: {when: 1}}",
        "sandboxes: {agent: {build: .}}",
        "services: {}",
        "variables: {a: {type: text}}",
        "variables: {a: {}}",
    ],
)
def test_faults_are_seen_in_an_editor(text: str) -> None:
    node = parse_yaml(SourceFile(name="f", text=text), Problems())
    assert node is not None
    assert not jsonschema.Draft7Validator(SCHEMA).is_valid(plain_of(node))


def test_templates_may_stand_where_values_do() -> None:
    sandbox = {row.key: "{{ x }}" for row in rows(SandboxSpec) if row.settable}
    nested = {"healthcheck": {"interval": "{{ x }}"}, "environment": {"A": "{{ x }}"}, "ulimits": {"nproc": "{{ x }}"}}
    mappings = {"healthcheck", "logging", "lifetime", "evidence", "ulimits"}
    plain = {key: value for key, value in sandbox.items() if key not in mappings}
    jsonschema.validate({"sandboxes": {"agent": plain, "other": nested}}, SCHEMA)
    for key in mappings:
        assert not jsonschema.Draft7Validator(SCHEMA).is_valid({"sandboxes": {"agent": {key: "{{ x }}"}}}), key


def test_what_only_the_schema_refuses_is_refused_with_its_place(
    load_text: Callable[..., Profile], monkeypatch: pytest.MonkeyPatch
) -> None:
    stricter = json.loads(json.dumps(SpecType.schema()))
    stricter["properties"]["image"] = {"const": "other"}
    monkeypatch.setattr(gate, "SpecType", SimpleNamespace(schema=lambda keys: stricter))
    gate._validator.cache_clear()
    try:
        with pytest.raises(ProfileError) as raised:
            load_text("sandboxes:\n  agent:\n    image: node\n")
    finally:
        monkeypatch.undo()
        gate._validator.cache_clear()
    (diagnostic,) = raised.value.diagnostics
    assert str(diagnostic.span) == "sandbox.yaml:3:12"
    assert diagnostic.message.startswith("the schema does not accept this value of image")
