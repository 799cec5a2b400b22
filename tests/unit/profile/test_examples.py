"""Whole profiles: every file under tests/profiles is found, and compared with what stands beside it.

A bad one has the exact text of its diagnostics (`.txt`), a good one its effective rendering (`.json`). Values are
given by a first line `# given: --var name=value …`. SANDBOXRUN_DEV_UPDATE=1 writes what stands beside them anew.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from sandboxrun.errors import Problems, ProfileError, SourceFile, plain_of
from sandboxrun.profile.loader import load
from sandboxrun.profile.render import render_json, render_yaml
from sandboxrun.profile.variables import Inputs
from sandboxrun.profile.yaml import parse_yaml

PROFILES = Path(__file__).parents[2] / "profiles"
BAD = sorted(path.name for path in (PROFILES / "bad").glob("*.yaml"))
GOOD = sorted(path.name for path in (PROFILES / "good").glob("*.yaml"))


def given(path: Path) -> Inputs:
    first = path.read_text().partition("\n")[0]
    words = first.removeprefix("# given:").split() if first.startswith("# given:") else []
    return Inputs(vars=tuple(word for word in words if word != "--var"))


def compare(expected: Path, found: str) -> None:
    if os.environ.get("SANDBOXRUN_DEV_UPDATE"):
        expected.write_text(found)
    assert found == expected.read_text()


@pytest.mark.parametrize("name", BAD)
def test_a_bad_profile_gives_exactly_these_diagnostics(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(PROFILES / "bad")
    path = Path(name)
    with pytest.raises(ProfileError) as raised:
        load([path], inputs=given(path))
    compare(path.with_suffix(".txt"), str(raised.value) + "\n")


@pytest.mark.parametrize("name", GOOD)
def test_a_good_profile_has_exactly_this_meaning(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(PROFILES / "good")
    path = Path(name)
    profile = load([path], inputs=given(path))
    compare(path.with_suffix(".json"), render_json(profile))
    shown = parse_yaml(SourceFile(name="rendered", text=render_yaml(profile)), problems := Problems())
    assert not problems and shown is not None
    as_json = json.loads(render_json(profile))
    assert plain_of(shown) == {key: as_json[key] for key in plain_of(shown)}


def test_both_kinds_are_found() -> None:
    assert len(BAD) > 20 and len(GOOD) > 3
