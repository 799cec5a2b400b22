"""`plan --offline`: everything would be created, and no engine is asked."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from .conftest import Say

PROFILE = """\
name: demo
sandboxes:
  a: {image: example, networks: [default]}
  b: {image: example, network_mode: none, depends_on: [a], pull_policy: never}
  c: {image: example, egress: {allow: ["example.com:443"]}, when: false}
"""
_WARNED = "warning: a: on default it has no gateway: it reaches everything that the engine's host reaches"


@pytest.fixture(autouse=True)
def _no_engine(monkeypatch: pytest.MonkeyPatch, here: Path) -> None:
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere/engine.sock")
    (here / "sandbox.yaml").write_text(PROFILE)


def test_everything_would_be_created(say: Say) -> None:
    said = say("plan", "--offline", "--json", "--detailed-exitcode")
    assert said.code == 2 and _WARNED in said.err
    actions = {change["address"]: change["change"]["actions"] for change in json.loads(said.out)["resource_changes"]}
    created = ["image.example:latest", "network.default", "a", "b"]
    assert actions == {address: ["create"] for address in created}


def test_it_is_the_same_each_time(say: Say) -> None:
    once = say("plan", "--offline")
    assert once.code == 0 and _WARNED in once.err and once.err.count("warning") == 1
    assert "+ sandbox a will be created" in once.out
    assert once == say("plan", "--offline")


@pytest.mark.parametrize("other", [["--destroy"], ["--refresh-only"], ["--replace", "a"], ["--out", "plan.json"]])
def test_what_depends_on_the_engine_is_refused(say: Say, here: Path, other: list[str]) -> None:
    said = say("plan", "--offline", *other)
    assert said.code != 0
    assert "--offline cannot be combined with" in said.err
    assert not (here / "plan.json").exists()


def test_without_it_an_engine_is_needed(say: Say) -> None:
    assert say("plan").code == 1
