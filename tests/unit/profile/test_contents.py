"""The digests of configs: a part of the spec, kept in labels, that no profile can set."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from sandboxrun.backend.docker.codec import decode, encode
from sandboxrun.errors import ProfileError
from sandboxrun.plan.planner import make_plan
from sandboxrun.profile.loader import load, load_data
from sandboxrun.profile.sandbox import digest
from sandboxrun.profile.variables import Inputs
from sandboxrun.spec.project import Profile
from sandboxrun.spec.state import from_label
from tests.unit.plan.world import observed, snapshot

HELLO = digest(b"hello")


def profile(directory: Path, configs: Mapping[str, Any], **more: Any) -> Profile:
    data = {
        "name": "review",
        "sandboxes": {"a": {"image": "x", "network_mode": "none", "configs": list(configs), **more.pop("options", {})}},
        "configs": configs,
    }
    inputs = Inputs(environment={"A": "hello"}, values=more.pop("values", {}))
    return load_data({**data, **more}, directory=directory, inputs=inputs)


def digests(made: Profile) -> list[str | None]:
    return [ref.digest for ref in made.sandboxes[0].spec.configs]


def test_every_source_gives_the_contents_digest(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("hello")
    sources = {"a": {"file": "./file"}, "b": {"environment": "A"}, "c": {"content": "hello"}}
    assert HELLO == "sha256:2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"
    assert digests(profile(tmp_path, sources)) == [HELLO] * 3


def test_what_cannot_be_read_has_none(tmp_path: Path) -> None:
    (tmp_path / "large").write_bytes(b"x" * ((1 << 20) + 1))
    sources = {"a": {"file": "./gone"}, "b": {"environment": "UNSET"}, "c": {"file": "./large"}, "d": {"file": "."}}
    assert digests(profile(tmp_path, sources)) == [None] * 4


def test_a_secret_has_none_nor_what_holds_a_sensitive_value(tmp_path: Path) -> None:
    more = {
        "variables": {"pin": {"type": "string", "sensitive": True}},
        "secrets": {"key": {"environment": "A"}},
        "options": {"secrets": ["key"]},
        "values": {"pin": "1234"},
    }
    made = profile(tmp_path, {"c": {"content": "pin={{ pin }}"}}, **more)
    assert digests(made) == [None]
    assert [ref.digest for ref in made.sandboxes[0].spec.secrets] == [None]


def test_it_survives_the_label_and_the_engine(tmp_path: Path) -> None:
    made = profile(tmp_path, {"c": {"content": "hello"}})
    spec = made.sandboxes[0].spec
    assert from_label(spec.label) == spec
    body = encode(spec, name="review-a", names=made.names, own_labels={})
    mount = {"Type": "volume", "Name": "review-a.configs", "Destination": "/run/configs", "RW": False}
    labels = body.get("Labels", {})
    seen = {"Name": "/review-a", "Mounts": [mount], "Config": {"Labels": labels}, "HostConfig": {}}
    assert decode(seen, made.names, spec).configs == spec.configs
    for hostile in ('[["c"]]', '["c", 1]', "{}", "[null]"):
        seen["Config"] = {"Labels": {"sandboxrun.configs": hostile}}
        assert decode(seen, made.names, spec).configs == ()


def test_a_changed_config_is_a_replace_and_says_why(tmp_path: Path) -> None:
    was, now = profile(tmp_path, {"c": {"content": "hello"}}), profile(tmp_path, {"c": {"content": "hallo"}})
    assert was.sandboxes[0].spec.digest != now.sandboxes[0].spec.digest
    live = snapshot(observed(was.sandboxes[0]), networks=())
    assert make_plan(was, live).empty
    (change,) = make_plan(now, live).pending
    assert change.action.value == "replace"
    assert [(d.key, d.reason) for d in change.differences] == [("configs", "the content has changed")]
    assert "# forces replacement, the content has changed" in str(make_plan(now, live))


@pytest.mark.parametrize("kind", ["configs", "secrets"])
def test_no_profile_can_set_it(tmp_path: Path, kind: str) -> None:
    text = f"""
        name: review
        sandboxes: {{a: {{image: x, {kind}: [{{source: c, digest: "{HELLO}"}}]}}}}
        {kind}: {{c: {{environment: A}}}}
    """
    (tmp_path / "sandbox.yaml").write_text(text)
    with pytest.raises(ProfileError, match='unknown key "digest" in a file reference'):
        load([tmp_path / "sandbox.yaml"])
    data = {"sandboxes": {"a": {"image": "x", kind: [{"source": "c", "digest": HELLO}]}}, kind: {"c": {"file": "f"}}}
    with pytest.raises(ProfileError, match="digest"):
        load_data({"name": "review", **data}, directory=tmp_path)
