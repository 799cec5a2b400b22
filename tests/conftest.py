"""Fixtures of all tests: a clean environment, hypothesis' settings, and the command line in a process of its own."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from msgspec import field

from sandboxrun.data import Data
from sandboxrun.spec.ci import MARKS

# A slow machine is no fault of the code: no test may fail by the clock. `make check` asks for the quick profile.
hypothesis.settings.register_profile("sandboxrun", deadline=None, print_blob=True, max_examples=100)
hypothesis.settings.register_profile("quick", hypothesis.settings.get_profile("sandboxrun"), max_examples=25)
hypothesis.settings.load_profile("sandboxrun")

# Files whose tests share what is costly to make: it is made once, not once a worker.
ON_ONE_WORKER = (
    "tests/test_house.py",
    "tests/attacks/",
    "tests/engine/test_clients.py",
    "tests/engine/test_gateway.py",
    "tests/engine/test_gvisor.py",
    "tests/engine/test_machine.py",
    "tests/engine/test_probes.py",
    "tests/engine/test_seccomp.py",
    "tests/unit/gateway/test_bypasses.py",
)

_STEERING = ("SANDBOXRUN_", "SANDBOX_", "OTEL_", "TRACE", "NO_COLOR", "FORCE_COLOR", "CLICOLOR", "COLUMNS")


def pytest_configure() -> None:
    """What the caller's shell says of Python must not make every test slow, or fail.

    Without bytecode each process that a test starts would compile the program anew: three times the CPU of a `plan`. A
    script's background job ignores SIGINT, and so would all that the tests start.
    """
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    sys.dont_write_bytecode = False
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_finish() -> None:
    """What is imported and collected stays to the end: the garbage collector need not walk it again and again."""
    gc.freeze()


def examples(most: int, **more: Any) -> hypothesis.settings:
    """For a test that does not take a hundred random examples, but `most`; fewer where the profile is the quick one."""
    return hypothesis.settings(max_examples=max(5, most * hypothesis.settings.default.max_examples // 100), **more)


@pytest.fixture(scope="session", autouse=True)
def _state_of_the_session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The user's own key and caches are left alone, and other workers', also by what is made once a session."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.getbasetemp() / "state"))
        yield


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """xdist's own, but that the files named above are not divided. Its `xdist_group` does nothing under pytest 9.2."""
    from xdist.scheduler import LoadScopeScheduling

    class Scheduling(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return nodeid.partition("::")[0] if nodeid.startswith(ON_ONE_WORKER) else nodeid

    return Scheduling(config, log)


@pytest.fixture(autouse=True)
def _no_steering_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the caller's environment says about sandboxrun and its output must not decide a test."""
    for name in list(os.environ):
        if name in MARKS or (name.startswith(_STEERING) and not name.startswith("SANDBOXRUN_DEV_")):
            monkeypatch.delenv(name)


def until(holds: Callable[[], object], what: str = "it did not come true", *, seconds: float = 120) -> None:
    """Wait for something that must come, however slow the machine is. A test that waits for a while instead of for
    what it needs fails on the day that the machine is busy."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


class Ran(Data):
    """How a process ended. `code` is negative where a signal ended it, as subprocess has it."""

    code: int
    out: str
    err: str


class Cli(Data):
    """Runs `python -m sandboxrun` in a process of its own, below `cwd`; coverage follows it there."""

    cwd: Path
    _started: list[subprocess.Popen[str]] = field(default_factory=list)

    def __call__(
        self,
        *arguments: str | Path,
        input: str | None = None,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        timeout: float = 120,
    ) -> Ran:
        """Run it to its end. Standard input is empty unless `input` is given; `env` is added to the environment."""
        process = self.start(*arguments, env=env, cwd=cwd)
        return self.finish(process, input=input, timeout=timeout)

    def start(
        self, *arguments: str | Path, env: Mapping[str, str] | None = None, cwd: Path | None = None
    ) -> subprocess.Popen[str]:
        """Start it in a process group of its own, for tests that signal it; killed at the test's end if need be."""
        process = subprocess.Popen(
            [sys.executable, "-m", "sandboxrun", *map(str, arguments)],
            cwd=cwd or self.cwd,
            env={**os.environ, **(env or {})},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            errors="surrogateescape",
            start_new_session=True,
        )
        self._started.append(process)
        return process

    def finish(self, process: subprocess.Popen[str], *, input: str | None = None, timeout: float = 120) -> Ran:
        """Wait for a started one. A test fails where it takes longer than `timeout` seconds."""
        try:
            out, err = process.communicate(input, timeout=timeout)
        except subprocess.TimeoutExpired:
            _kill(process)
            out, err = process.communicate()
            pytest.fail(f"{process.args} took longer than {timeout} s\nstdout:\n{out}\nstderr:\n{err}")
        return Ran(code=process.returncode, out=out, err=err)

    def close(self) -> None:
        """Kill what still runs, and show what it said: whoever waited in vain for what it was to do has not read it."""
        for process in self._started:
            _kill(process)
            if process.stdout is not None and not process.stdout.closed:
                with contextlib.suppress(OSError, ValueError, subprocess.TimeoutExpired):
                    print(process.args, *process.communicate(timeout=10), sep="\n")
            process.wait()
            for stream in filter(None, (process.stdin, process.stdout, process.stderr)):
                with contextlib.suppress(OSError):  # input that a process now gone never took
                    stream.close()


def _kill(process: subprocess.Popen[str]) -> None:
    """The whole group: what the command line started itself must go too."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)


@pytest.fixture
def cli(tmp_path: Path) -> Iterator[Cli]:
    """The command line, run in the test's own folder."""
    runner = Cli(cwd=tmp_path)
    yield runner
    runner.close()
