"""What attacks do to workspaces: one that is the host's own directory, and copies; each beside a weak sandbox."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import docker

from sandboxrun.backend.docker.client import Engine
from sandboxrun.data import Data
from sandboxrun.lifecycle import apply as converge
from sandboxrun.plan.planner import Options
from tests.attacks.cages import Cages, Ran
from tests.attacks.left import OUTCOMES, Kept
from tests.attacks.shipping import controlled, said_by
from tests.attacks.weak import SECRET, beside_a_host, run_weak

AGENT = 1000
PROTECTED = (".git", "Makefile", "sandbox.yaml", "agent.env", "attacks.pyz")
STAND_INS = (".vscode", ".envrc", ".github", ".claude", ".mcp.json", "GNUmakefile", "makefile")


class Bench(Data):
    """Where attacks run: an engine, an image, a name that marks all that is made."""

    engine: Engine
    client: docker.DockerClient
    image: str
    mark: str
    labels: Mapping[str, str]


class Shared(Data):
    """What the attacks of `rw` said, caged and weak; what is kept of the directory, before and after."""

    said: Mapping[str, str]
    weak: Mapping[str, str]
    before: Mapping[str, bytes]
    after: Mapping[str, bytes]


class Copied(Data):
    """What the attacks in copies said, by cage; what the weak sandbox left, as the engine gives it out; the plan."""

    said: Mapping[str, Mapping[str, str]]
    ran: Mapping[str, Ran]
    weak: Mapping[str, str]
    archive: bytes
    plan: str
    project: Path

    def kept(self, cage: str) -> Kept:
        """A cage's evidence."""
        return Kept(ran=self.ran[cage], project=self.project)


def look_at_shared(bench: Bench, directory: Path) -> Shared:
    """Run the attacks on a workspace of access rw, and on a plain bind of the same."""
    home, plain = directory / "home", directory / "plain"
    _furnish(home)
    cages = Cages(engine=bench.engine, project=f"{bench.mark}-rw", directory=home, image=bench.image)
    options = {"egress": "none", "workspace": {"source": ".", "access": "rw"}, "env_file": ["agent.env"]}
    cages.profile({"rw": options})
    _give(home)
    shutil.copytree(home, plain)
    (plain / ".sandboxrun/evidence").mkdir(parents=True)
    before = _kept(home)
    ran = cages.run({"rw": options})["rw"]
    names = [one.name for one in controlled("rw")]
    with beside_a_host(bench.client, bench.image, f"{bench.mark}-rw", bench.labels) as host:
        binds = [f"{plain}:/workspace"]
        weak = run_weak(host, bench.image, f"{bench.mark}-rw", bench.labels, names, binds=binds)
    return Shared(said=said_by(ran.output), weak=weak, before=before, after=_kept(home))


def _furnish(home: Path) -> None:
    (home / ".git/hooks").mkdir(parents=True)
    (home / ".git/config").write_text("[core]\n")
    (home / "Makefile").write_text("all:\n")
    (home / "agent.env").write_text("A=1\n")


def _give(directory: Path) -> None:
    """All of it to the agent's user: nothing but the guards keeps it from writing there."""
    for above, folders, files in os.walk(directory):
        for name in (".", *folders, *files):
            os.chown(os.path.join(above, name), AGENT, AGENT)


def _kept(home: Path) -> Mapping[str, bytes]:
    """What must not change: the contents of what is protected, and which stand-ins there are."""
    files = [path for name in PROTECTED for path in (home / name, *(home / name).rglob("*")) if path.is_file()]
    found = {str(path.relative_to(home)): path.read_bytes() for path in files}
    return {**found, **{name: b"there" for name in STAND_INS if (home / name).exists()}}


def look_at_copied(bench: Bench, directory: Path) -> Copied:
    """Run the attacks that leave something behind, and make the same in a weak sandbox."""
    (work := directory / "work").mkdir()
    (work / "src").mkdir()
    (work / "src/code").write_text("code\n")
    (work / ".git/hooks").mkdir(parents=True)
    mark = f"{bench.mark}-copy"
    cages = Cages(
        engine=bench.engine, project=mark, directory=directory, image=bench.image,
        environment={"KEY": SECRET, "OTHER": "another-secret-3301"},
    )  # fmt: skip
    profile = cages.profile(_copies(), secrets=_SECRETS)
    plan = str(converge.plan_changes(bench.engine, profile, cages.store, Options()))
    ran = cages.run(_copies(), secrets=_SECRETS)
    names = [name for name, outcome in OUTCOMES.items() if outcome.real] + ["a_secret_by_the_environment"]
    archives: list[bytes] = []

    def fetch(weak: Any) -> None:
        archives.append(b"".join(weak.get_archive("/workspace/report")[0]))

    with beside_a_host(bench.client, bench.image, mark, bench.labels) as host:
        weak = run_weak(host, bench.image, mark, bench.labels, names, files={"workspace": None}, then=fetch)
    said = {name: said_by(one.output) for name, one in ran.items()}
    return Copied(said=said, ran=ran, weak=weak, archive=archives[0], plan=plan, project=directory)


_SECRETS = {"key": {"environment": "KEY"}, "other": {"environment": "OTHER"}}


def _copies() -> Mapping[str, Any]:
    base = {
        "egress": "none",
        "workspace": {"source": "work", "access": "copy"},
        "evidence": {"artifacts": ["/workspace/report", "/workspace/gate"], "artifacts_limit": "8m"},
    }
    return {"copy": {**base, "secrets": ["key"]}, "giant": base, "many": base, "bottomless": base}
