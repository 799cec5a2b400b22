"""A command in this process, on an engine in memory."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pytest

from sandboxrun.backend.fake import Fake, World
from sandboxrun.cli import options as project
from sandboxrun.cli.main import main
from tests.conftest import Ran
from tests.scenarios.world import new_world


@pytest.fixture
def world() -> World:
    return new_world()


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory that the command is run in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def in_process(
    world: World, here: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[..., Ran]:
    """Runs a command as a job of its own."""
    monkeypatch.setattr(project, "open_engine", lambda *args, **rest: nullcontext(Fake(world)))

    def run(*arguments: str) -> Ran:
        capfd.readouterr()
        code = main(list(arguments))
        printed = capfd.readouterr()
        return Ran(code=code, out=printed.out, err=printed.err)

    return run
