"""Files that the code of an earlier commit made, laid out as a user would have them: tests/baselines/before."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

_BEFORE = Path(__file__).parent / "baselines" / "before"


def project(to: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The project's directory with its evidence; the state directory with the key becomes the user's."""
    state = to / "state" / "sandboxrun"
    state.mkdir(parents=True, mode=0o700)
    shutil.copyfile(_BEFORE / "state" / "seal.key", state / "seal.key")
    (state / "seal.key").chmod(0o600)
    monkeypatch.setenv("XDG_STATE_HOME", str(state.parent))
    there = to / "project"
    shutil.copytree(_BEFORE / "project", there, ignore=shutil.ignore_patterns("evidence"))
    shutil.copytree(_BEFORE / "project" / "evidence", there / ".sandboxrun" / "evidence")
    return there


def plan(to: Path) -> Path:
    """The saved plan, beside a copy of its profile."""
    shutil.copytree(_BEFORE / "plan", to / "plan")
    return to / "plan" / "saved.plan"


def running(project: str) -> tuple[str, dict[str, str]]:
    """The profile and the labels of a running sandbox, under the name of another project."""
    profile, labels = ((_BEFORE / "running" / name).read_text() for name in ("sandbox.yaml", "labels.json"))
    return profile.replace("house-running", project), json.loads(labels.replace("house-running", project))
