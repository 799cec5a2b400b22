"""Runs programs in turns and compares what they took.

Owns the measuring. Two programs are never measured one after the other but A B A B: what else the machine does then
falls on both alike.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from sandboxrun.data import Data


class BenchmarkError(Exception):
    """A program that is measured failed: its time would mean nothing."""


class Took(Data):
    """One run of a program: seconds by the clock, seconds of CPU (its own, not the engine's), bytes at its peak."""

    wall: float
    cpu: float
    peak: int


class Program(Data):
    """A program that is measured: how tables name it, and its command line."""

    name: str
    argv: tuple[str, ...]
    env: Mapping[str, str]
    directory: Path
    expected: tuple[int, ...] = (0,)
    sink: str = "null"  # what its stdout is: null, a pipe or a terminal; somebody reads it to its end

    def run(self) -> Took:
        """Run it once, its output thrown away. Raises BenchmarkError when it fails."""
        reading, writing = _sink(self.sink)
        began = time.perf_counter()
        with subprocess.Popen(
            self.argv, env=dict(self.env), cwd=self.directory, stdout=writing, stderr=subprocess.PIPE
        ) as process:
            os.close(writing)
            reader = threading.Thread(target=_read, args=(reading,))
            reader.start()
            assert process.stderr is not None
            said = process.stderr.read()
            _, status, used = os.wait4(process.pid, 0)
            reader.join()
            took = time.perf_counter() - began
            process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode not in self.expected:
            text = said.decode("utf-8", "replace").strip()[-2000:]
            raise BenchmarkError(f"{' '.join(self.argv)}: exit code {process.returncode}\n{text}")
        return Took(wall=took, cpu=used.ru_utime + used.ru_stime, peak=used.ru_maxrss * 1024)


def _sink(kind: str) -> tuple[int | None, int]:
    """Where its output is read, if anybody reads it, and where it writes."""
    match kind:
        case "pipe":
            return os.pipe()
        case "terminal":
            return os.openpty()
        case _:
            return None, os.open(os.devnull, os.O_WRONLY)


def _read(source: int | None) -> None:
    if source is None:
        return
    with contextlib.suppress(OSError):  # a terminal's end is an error
        while os.read(source, 1 << 16):
            pass
    os.close(source)


class Times(Data):
    """What several runs of a program took."""

    name: str
    runs: tuple[Took, ...]

    @property
    def wall(self) -> float:
        """The median, in seconds."""
        return statistics.median(run.wall for run in self.runs)

    @property
    def least(self) -> float:
        """The quickest, in seconds: on a busy machine the steadiest figure."""
        return min(run.wall for run in self.runs)

    @property
    def cpu(self) -> float:
        """The median of its own CPU seconds."""
        return statistics.median(run.cpu for run in self.runs)

    @property
    def peak(self) -> int:
        """The highest, in bytes."""
        return max(run.peak for run in self.runs)


def in_turns(programs: Sequence[Program], rounds: int, *, warm: bool = True) -> list[Times]:
    """The programs' times, each run once in every round. `warm`: one round before, which does not count."""
    runs: list[list[Took]] = [[] for _ in programs]
    for number in range(rounds + warm):
        for program, seen in zip(programs, runs, strict=True):
            took = program.run()
            if number >= warm:
                seen.append(took)
    return [Times(name=p.name, runs=tuple(seen)) for p, seen in zip(programs, runs, strict=True)]
