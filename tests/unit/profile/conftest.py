"""Helpers of the profile room's tests: a profile from text, in a directory of its own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sandboxrun.profile.loader import load
from sandboxrun.profile.variables import Inputs
from sandboxrun.spec.project import Profile

Load = Callable[..., Profile]


@pytest.fixture
def load_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Load:
    """Load a profile from its text, as `sandbox.yaml` in an empty directory."""
    monkeypatch.chdir(tmp_path)

    def load_it(text: str, *more: str, **inputs: Any) -> Profile:
        paths = []
        for number, content in enumerate((text, *more)):
            path = Path(f"sandbox{number or ''}.yaml")
            path.write_text(content)
            paths.append(path)
        return load(paths, inputs=Inputs(**inputs))

    return load_it
