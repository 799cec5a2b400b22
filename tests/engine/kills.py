"""Random SIGKILLs over several projects, then one apply and destroy each: nothing may be left anywhere.

Usage: python -m tests.engine.kills [--kills 200] [--seed N] [--projects 3] [--name PREFIX]

Kills `run`, `apply`, `apply --wait`, `destroy` and `verify` at random moments, sometimes two of them side by side. The
sandboxes have gateways, secrets, and workspaces of both kinds; their profiles change meanwhile. Ends with a line of
figures, and with exit code 1 and a list where something is left on the engine, in the projects, in the user's state or
in TMPDIR. `make chaos` and `make test-full` run it; `make test` does not, for it takes a quarter of an hour.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from msgspec import Struct, field

from sandboxrun.data import Data
from sandboxrun.evidence.checking import verify_chain
from sandboxrun.evidence.store import Store
from scripts import engine
from scripts.image import BUSYBOX
from tests.engine.leftovers import sweep

PROFILE = """
name: {project}
sandboxes:
  copied:
    image: {image}
    command: [sh, -c, "echo {word}; sleep 1"]
    workspace: {{source: src}}
    egress: {{allow: ["{host}:443"]}}
    secrets: [token]
  direct:
    image: {image}
    command: [sh, -c, "echo {word}; sleep 2"]
    user: "0:0"
    network_mode: none
    mem_limit: {memory}
    workspace: {{source: direct, access: rw}}
  sized:
    image: {image}
    command: [sh, -c, "sleep 3; exit 3"]
    network_mode: none
    mem_limit: {memory}
    workspace: {{source: src, size: 32m}}
    secrets: [token]
  plain: {{image: {image}, command: ["true"], network_mode: none}}
secrets:
  token: {{environment: TOKEN}}
"""
SANDBOXES = ("copied", "direct", "sized", "plain")
COMMANDS = {
    "run": (("run", "copied"), ("run", "direct", "plain"), ("run", "sized")),
    "apply": (("apply", "--yes"),),
    "apply --wait": (("apply", "--yes", "--wait"),),
    "destroy": (("destroy", "--yes"),),
    "verify": (("verify", "direct"), ("verify", "copied")),
}
WEIGHTS = {"run": 4, "apply": 4, "apply --wait": 3, "destroy": 4, "verify": 2}
FILES = {"src/code": "1\n", "src/deep/file": "2\n", "src/large": "x" * 20_000_000, "direct/code": "3\n"}
SIDE_BY_SIDE = 0.3  # how often two commands run at once
PATIENCE = 300.0  # seconds that a command may take that is not killed


class Ground(Data):
    """Where it all happens: below `base` lie the projects, the user's state and TMPDIR."""

    base: Path
    name: str
    projects: tuple[str, ...]

    def directory(self, project: str) -> Path:
        return self.base / "projects" / project

    def make(self) -> None:
        """The directories and their files."""
        for place in ("state", "tmp", "cache"):
            (self.base / place).mkdir(mode=0o700)
        for project in self.projects:
            for path, text in FILES.items():
                (self.directory(project) / path).parent.mkdir(parents=True, exist_ok=True)
                (self.directory(project) / path).write_text(text)
            self.write(project, random.Random(0))

    def write(self, project: str, by: random.Random) -> None:
        """Make the profile one of its forms: what runs is updated, replaced, or as it should be."""
        text = PROFILE.format(
            project=project,
            image=BUSYBOX,
            word=by.choice(("one", "two")),
            host=by.choice(("a.example.com", "b.example.com")),
            memory=by.choice(("48m", "64m")),
        )
        (self.directory(project) / "sandbox.yaml").write_text(text)

    def start(self, project: str, *words: str) -> subprocess.Popen[bytes]:
        """A command of the program in a project's directory; what it says goes to a file beside it."""
        places = {"XDG_STATE_HOME": "state", "XDG_CACHE_HOME": "cache", "TMPDIR": "tmp"}
        with (self.base / "output").open("ab") as output:
            return subprocess.Popen(
                [sys.executable, "-m", "sandboxrun", *words],
                cwd=self.directory(project),
                env={**os.environ, "TOKEN": "a-token-of-chaos", **{k: str(self.base / v) for k, v in places.items()}},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    # -- what is left --------------------------------------------------------------------------------------------

    def left(self) -> Iterator[str]:
        """Everything that is still somewhere, and everything of the user's that is not."""
        yield from (f"engine: {one}" for one in sweep(engine.client(), self.name))
        for place in ("state", "tmp"):
            yield from (f"{place}: {path}" for path in _files(self.base / place) if path != "sandboxrun/seal.key")
        for project in self.projects:
            directory = self.directory(project)
            found = {path for path in _files(directory) if not path.startswith(".sandboxrun/evidence/")}
            wanted = {*FILES, "sandbox.yaml", ".sandboxrun/.gitignore"}
            yield from (f"{project}: {path}" for path in sorted(found - wanted))
            yield from (f"{project}: {path} is gone" for path in sorted(wanted - found))
            yield from (f"{project}: {problem}" for problem in verify_chain(Store(project_directory=directory)))


def _files(top: Path) -> list[str]:
    """All files and empty directories below it, less the directories that the program always has there."""
    every = sorted(path for path in top.rglob("*") if not path.is_dir() or not any(path.iterdir()))
    named = [str(path.relative_to(top)) for path in every]
    return [name for name in named if name not in ("sandboxrun/staging", "sandboxrun/stand-ins", "sandboxrun/verify")]


class Chaos(Struct, kw_only=True):
    """The killing. `by` decides everything; `took` is how long each command has taken at most, in seconds."""

    ground: Ground
    by: random.Random
    took: dict[str, float] = field(default_factory=lambda: dict.fromkeys(COMMANDS, 3.0))
    killed: Counter[str] = field(default_factory=Counter)

    def run(self, kills: int) -> None:
        """Until so many have been killed."""
        while self.killed.total() < kills:
            side_by_side = 2 if self.by.random() < SIDE_BY_SIDE else 1
            begun = [self._begin() for _ in range(side_by_side)]
            for kind, process, at in sorted(begun, key=lambda one: one[2]):
                self._end(kind, process, at)

    def _begin(self) -> tuple[str, subprocess.Popen[bytes], float]:
        """A command under way, and when it is to die."""
        project = self.by.choice(self.ground.projects)
        if self.by.random() < 0.3:
            self.ground.write(project, self.by)
        (kind,) = self.by.choices(list(WEIGHTS), list(WEIGHTS.values()))
        began = time.monotonic()
        process = self.ground.start(project, *self.by.choice(COMMANDS[kind]))
        return kind, process, began + self.by.uniform(0.1, self.took[kind])

    def _end(self, kind: str, process: subprocess.Popen[bytes], at: float) -> None:
        """Kill it then. One that ended before had less to do: it is not counted."""
        try:
            process.wait(max(0.0, at - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            self.killed[kind] += 1

    def measure(self) -> None:
        """How long each command takes when nobody kills it."""
        project = self.ground.projects[0]
        for kind, forms in COMMANDS.items():
            began = time.monotonic()
            self.finish(project, *forms[0], codes=(0, 1, 3))
            self.took[kind] = time.monotonic() - began

    def finish(self, project: str, *words: str, codes: tuple[int, ...] = (0,)) -> None:
        """A command to its end. Raises SystemExit where it fails."""
        process = self.ground.start(project, *words)
        with suppress(subprocess.TimeoutExpired):
            process.wait(PATIENCE)
        if process.poll() is None:
            process.kill()
        if process.wait() not in codes:
            text = (self.ground.base / "output").read_text(errors="replace")[-4000:]
            raise SystemExit(f"{text}\n{project}: `{' '.join(words)}` ended with {process.returncode}")


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--projects", type=int, default=3)
    parser.add_argument("--name", default="sandboxrun-kills")
    given = parser.parse_args()
    seed = given.seed if given.seed is not None else random.SystemRandom().randrange(1 << 32)
    base = Path(tempfile.mkdtemp(prefix="sandboxrun-kills-"))
    name = f"{given.name}-{os.urandom(4).hex()}"
    ground = Ground(base=base, name=name, projects=tuple(f"{name}-{n}" for n in range(given.projects)))
    ground.make()
    os.environ["XDG_STATE_HOME"] = str(base / "state")  # with the key of the seals that are looked at here
    chaos, began = Chaos(ground=ground, by=random.Random(seed)), time.monotonic()
    try:
        chaos.measure()
        chaos.run(given.kills)
        for project in ground.projects:
            chaos.finish(project, "apply", "--yes")
            chaos.finish(project, "destroy", "--yes")
    finally:
        left = list(ground.left())
    for one in left:
        print(one)
    kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(chaos.killed.items()))
    runs = sum(len(Store(project_directory=ground.directory(project)).entries()) for project in ground.projects)
    print(
        f"{chaos.killed.total()} kills ({kinds}) in {time.monotonic() - began:.0f} s, seed {seed}, "
        f"{len(ground.projects)} projects, evidence of {runs} runs: {len(left) or 'nothing'} left"
    )
    if left:
        print(f"the projects, the state and the output are in {base}")
        return 1
    shutil.rmtree(base)
    return 0


if __name__ == "__main__":
    sys.exit(main())
