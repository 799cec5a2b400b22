"""Kills an apply at one engine call: the hook, and the project that it is tried on.

The hook stands at `Engine.request`, which every call goes through. The killed apply is a forked child, so that the
engine sees what it would of any process that dies: connections that end, and no farewell.
"""

from __future__ import annotations

import os
import signal
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sandboxrun.backend.docker.client import Engine, connect
from sandboxrun.data import Data
from sandboxrun.evidence.store import Store
from sandboxrun.lifecycle import apply as converge
from sandboxrun.profile.loader import load

FIRST = """
name: {project}
sandboxes:
  done: {{image: {image}, command: [sh, -c, "echo finished; exit 3"], network_mode: none}}
  gone: {{image: {image}, command: [sh, -c, "echo here; sleep 300"], network_mode: none}}
  kept: {{image: {image}, command: [sleep, "300"], network_mode: none, mem_limit: 16m}}
"""
SECOND = """
name: {project}
sandboxes:
  done: {{image: {image}, command: [sh, -c, "echo finished; exit 3"], network_mode: none}}
  kept: {{image: {image}, command: [sleep, "300"], network_mode: none, mem_limit: 24m}}
  full:
    image: {image}
    command: [sleep, "300"]
    workspace: {{source: src}}
    secrets: [token]
  also: {{image: {image}, command: [sleep, "300"], networks: [default]}}
secrets:
  token: {{environment: TOKEN}}
"""
PATIENCE = 60.0  # seconds that a child may take
RUNNING = ("also", "full", "kept")


class Project(Data):
    """A project on an engine, in a directory of its own."""

    name: str
    directory: Path
    host: str
    image: str

    @property
    def store(self) -> Store:
        return Store(project_directory=self.directory)

    def write(self, text: str) -> None:
        """Make `text` the profile."""
        (self.directory / "src").mkdir(exist_ok=True)
        (self.directory / "src" / "file").write_text("content\n")
        (self.directory / "sandbox.yaml").write_text(text.format(project=self.name, image=self.image))

    def settings(self, parallelism: int) -> converge.ApplySettings:
        return converge.ApplySettings(parallelism=parallelism, environment={"TOKEN": "chaos-token-value"})

    def apply(self, *, parallelism: int = 4) -> converge.Outcome:
        with connect(self.host) as engine:
            return converge.apply(engine, self._load(), self.store, settings=self.settings(parallelism))

    def plan(self) -> Any:
        with connect(self.host) as engine:
            return converge.plan_changes(engine, self._load(), self.store)

    def destroy(self, *, parallelism: int = 4) -> None:
        with connect(self.host) as engine:
            converge.destroy(engine, self._load(), self.store, settings=self.settings(parallelism))

    def _load(self) -> Any:
        return load([self.directory / "sandbox.yaml"])


@contextmanager
def hooked(before: Callable[[int], None], after: Callable[[int], None]) -> Iterator[None]:
    """Call `before` and `after` around every request to an engine, with its number, counted from 1."""
    real, count = Engine.request, iter(range(1, 100_000))

    def request(self: Engine, *rest: Any, **more: Any) -> Any:
        number = next(count)
        before(number)
        answer = real(self, *rest, **more)
        after(number)
        return answer

    Engine.request = request  # type: ignore[method-assign]
    try:
        yield
    finally:
        Engine.request = real  # type: ignore[method-assign]


def calls_of(work: Callable[[], Any]) -> int:
    """How many requests `work` makes."""
    numbers: list[int] = []
    with hooked(numbers.append, lambda number: None):
        work()
    return len(numbers)


def killed_at(number: int, when: str, work: Callable[[], Any]) -> bool:
    """Run `work` in a child that gets SIGKILL before or after its request `number`; whether it came that far."""

    def die(at: int) -> None:
        if at == number:
            os.kill(os.getpid(), signal.SIGKILL)

    child = os.fork()
    if child == 0:
        try:
            with hooked(*((die, _pass) if when == "before" else (_pass, die))):
                work()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    status = _end_of(child)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0, "the apply failed instead of being killed"
    return os.WIFSIGNALED(status)


def _end_of(child: int) -> int:
    """The child's wait status. A fork beside other threads can inherit a lock that nobody will open again: such a child
    is killed where it stands, which is one more moment to die at."""
    deadline = time.monotonic() + PATIENCE
    while True:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid == child:
            return status
        if time.monotonic() > deadline:
            os.kill(child, signal.SIGKILL)
            deadline = float("inf")
        time.sleep(0.005)


def _pass(number: int) -> None:
    """Nothing to do at this end of the call."""
