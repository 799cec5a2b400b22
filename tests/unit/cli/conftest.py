"""Fixtures of the command line's pure tests: `main` called in this process, in a folder of the test's own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from sandboxrun.cli.main import main
from sandboxrun.data import Data


class Said(Data):
    """What a call came to."""

    code: int
    out: str
    err: str


Say = Callable[..., Said]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty project folder as the current directory; caches and logs go elsewhere."""
    project = tmp_path / "demo"
    project.mkdir()
    monkeypatch.chdir(project)
    for name in ("CACHE", "STATE", "CONFIG"):
        monkeypatch.setenv(f"XDG_{name}_HOME", str(tmp_path / name.lower()))
    monkeypatch.setenv("COLUMNS", "100")
    return project


@pytest.fixture
def say(here: Path, capfd: pytest.CaptureFixture[str]) -> Say:
    """Runs the command line with these arguments."""

    def run(*arguments: str | Path) -> Said:
        capfd.readouterr()
        code = main([str(a) for a in arguments])
        out, err = capfd.readouterr()
        return Said(code=code, out=out, err=err)

    return run
