"""A command in this process, on an engine in memory."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest

from sandboxrun.backend.fake import Fake, Killed, World
from sandboxrun.cli import options as project
from sandboxrun.cli.main import main
from tests.conftest import Ran
from tests.scenarios.world import new_world


@pytest.fixture(scope="session", autouse=True)
def _threads_of_the_killed() -> Iterator[None]:
    """A killed job's threads end with it, wherever they are: nothing to warn of."""
    told = threading.excepthook

    def tell(args: threading.ExceptHookArgs) -> None:
        if not isinstance(args.exc_value, Killed):
            told(args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(threading, "excepthook", tell)
        yield


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
