"""What means the same is the same; what was written several times is there as often, from the file to the engine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from sandboxrun.backend.docker.codec import decode, encode
from sandboxrun.backend.docker.fields import SHOWN
from sandboxrun.profile.loader import effective, load_data
from sandboxrun.spec.option import OwnAddresses, value_of
from sandboxrun.spec.project import DeclaredSandbox, Profile, config_digest
from sandboxrun.spec.spec import BY_KEY, ROWS, SandboxSpec, digest_of
from sandboxrun.spec.state import ImageConfig, own_labels, without_inherited
from tests.spellings import MANY, ONE_FORM, SPELLINGS, Many, Spelling
from tests.unit.spec.echo import as_inspect

SETTABLE = {row.key for row in ROWS if row.settable}
RECORDED = {row.key for row in ROWS} - SHOWN.keys()


def load(key: str, value: Any, given: Spelling | Many, directory: Path) -> Profile:
    (directory / "sub").mkdir(exist_ok=True)
    (directory / "a.json").write_text('{"defaultAction": "SCMP_ACT_ALLOW"}')
    others = {name: {"network_mode": "none"} for name in ("other", "third")}
    sandboxes = {"a": {**given.also, key: value}, **others}
    return load_data({"name": "p", "sandboxes": sandboxes, **given.top}, directory=directory)


def declared(key: str, value: Any, given: Spelling | Many, directory: Path) -> DeclaredSandbox:
    found = load(key, value, given, directory).sandbox("a")
    assert found is not None
    return found


def inspected(sandbox: DeclaredSandbox, profile: Profile) -> tuple[dict[str, Any], dict[str, Any]]:
    """The create payload, and what an engine answers to an inspect then."""
    own = own_labels(project="p", address="a", run="r", spec=sandbox.spec)
    own_addresses = OwnAddresses.of("10.231.0.8/29")
    body = encode(sandbox.spec, name=sandbox.name, names=profile.names, own_labels=own, own_addresses=own_addresses)
    return body, as_inspect(body, sandbox.spec, name=sandbox.name, names=profile.names)


def compared(shown: dict[str, Any], sandbox: DeclaredSandbox, profile: Profile) -> tuple[SandboxSpec, SandboxSpec]:
    """What was asked and what is there, as a plan compares them, where the image sets nothing."""
    live = decode(shown, profile.names, sandbox.spec)
    if sandbox.spec.runtime is None:
        live = structs.replace(live, runtime=None)  # the engine's own
    return without_inherited(sandbox.spec, ImageConfig()), without_inherited(live, ImageConfig())


def test_every_option_is_spelled_or_has_one_form() -> None:
    assert SPELLINGS.keys() | ONE_FORM.keys() == SETTABLE
    assert not SPELLINGS.keys() & ONE_FORM.keys()


CASES = [pytest.param(key, one, id=f"{key}-{n}") for key, every in SPELLINGS.items() for n, one in enumerate(every)]


@pytest.mark.parametrize(("key", "spelling"), CASES)
def test_all_spellings_of_a_meaning_are_one_spec(key: str, spelling: Spelling, tmp_path: Path) -> None:
    first = declared(key, spelling.same[0], spelling, tmp_path)
    for value in spelling.same[1:]:
        again = declared(key, value, spelling, tmp_path)
        assert value_of(again.spec, BY_KEY[key]) == value_of(first.spec, BY_KEY[key]), value
        assert again == first and again.spec.digest == first.spec.digest, value
    for value in spelling.others:
        other = declared(key, value, spelling, tmp_path).spec
        assert other != first.spec and other.digest != first.spec.digest, value


@pytest.mark.parametrize(("key", "spelling"), [case for case in CASES if case.values[1].shown])
def test_what_an_engine_shows_is_read_in_that_form(key: str, spelling: Spelling, tmp_path: Path) -> None:
    """A container may have been made by a version that sent what was written."""
    profile = load(key, spelling.same[0], spelling, tmp_path)
    sandbox = declared(key, spelling.same[0], spelling, tmp_path)
    _, shown = inspected(sandbox, profile)
    for field, written in spelling.shown.items():
        (part,) = (part for part in (shown["Config"], shown["HostConfig"]) if field in part)
        assert part[field] != written or key == "dns"
        part[field] = written
    asked, live = compared(shown, sandbox, profile)
    assert value_of(live, BY_KEY[key]) == value_of(asked, BY_KEY[key])


def test_every_option_that_holds_several_is_walked() -> None:
    """Lists, and mappings of any names; mappings of given keys are records."""

    def holds_several(schema: dict[str, Any]) -> bool:
        forms = schema.get("anyOf", [schema])
        return any(form.get("type") == "array" or isinstance(form.get("additionalProperties"), dict) for form in forms)

    assert {row.key for row in ROWS if row.settable and holds_several(row.type.schema())} == MANY.keys()


@pytest.mark.parametrize(("key", "many"), MANY.items())
def test_no_value_is_lost_between_the_file_and_the_engine(key: str, many: Many, tmp_path: Path) -> None:
    profile, sandbox = load(key, many.value, many, tmp_path), declared(key, many.value, many, tmp_path)
    assert_has(effective(profile)["sandboxes"]["a"][key], many.words)
    assert_has(sandbox.spec.plain[key], many.words)
    body, shown = inspected(sandbox, profile)
    body["Labels"] = {name: text for name, text in body["Labels"].items() if not name.startswith("sandboxrun.spec")}
    if key == "networks":  # the second is connected by a step of its own
        body = {**body, "others": [value.aliases for value in sandbox.spec.networks.values()], "names": ["one", "two"]}
    if key not in RECORDED:
        assert_has(body, many.words)
    asked, live = compared(shown, sandbox, profile)
    assert value_of(live, BY_KEY[key]) == value_of(asked, BY_KEY[key])
    assert_has(BY_KEY[key].plain(value_of(live, BY_KEY[key])), many.words)


def assert_has(data: Any, words: tuple[str, ...]) -> None:
    """Each word as often as it is listed, at least."""
    text = json.dumps(data, default=list)
    for word in words:
        assert text.count(word) >= words.count(word), f"{word} is not in {text}"


def test_a_subnet_has_one_form_and_a_network_that_has_it_is_not_replaced(tmp_path: Path) -> None:
    specs = [
        load_data({"name": "p", "networks": {"n": {"subnet": subnet}}, "sandboxes": {}}, directory=tmp_path).networks[
            "n"
        ]
        for subnet in ("fd00::/64", "FD00:0::/64", "fd00::5/64")
    ]
    assert len({config_digest(spec) for spec in specs}) == 1
    assert {spec.subnet for spec in specs} == {"fd00::/64"}


def test_a_record_of_an_image_without_its_tag_still_counts(tmp_path: Path) -> None:
    """Versions that kept `x` and `x:latest` apart recorded a digest of each."""
    tagged = load_data({"name": "p", "sandboxes": {"a": {"image": "x"}}}, directory=tmp_path).sandboxes[0].spec
    before = digest_of({**tagged.plain, "image": "x"})
    assert tagged.digests == {tagged.digest, before} and len(tagged.digests) == 2
