"""Usage: python -m benchmarks.soak [--runs N]

Several hundred short runs in one process, and what they leave, as numbers: on the engine, in the state directory, open
files, and how much its memory grows. All but the last should be 0, and that should be flat.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from uuid import uuid4

from sandboxrun.backend.docker.client import Engine, connect
from sandboxrun.evidence.store import Store
from sandboxrun.lifecycle.reap import Scope, reap
from sandboxrun.lifecycle.run import run
from sandboxrun.profile.loader import load_data
from sandboxrun.spec import labels
from scripts import engine as under_test

IMAGE = "sandboxrun/busybox:latest"
WARM = 30  # runs until caches and pools are full
KINDS: tuple[Mapping[str, Any], ...] = (
    {"network_mode": "none"},
    {"network_mode": "none", "lifetime": {"timeout": "1h"}},
    {"networks": ["default"]},
    {"network_mode": "none", "workspace": {"source": ".", "target": "/work", "access": "copy"}},
)


def main() -> int:
    """Run them and print; 1 if anything is left."""
    parser = argparse.ArgumentParser(prog="benchmarks.soak")
    parser.add_argument("--runs", type=int, default=300)
    runs: int = parser.parse_args().runs
    with tempfile.TemporaryDirectory(prefix="sandboxrun-soak-") as folder:
        os.environ["XDG_STATE_HOME"] = f"{folder}/state"
        directory = Path(folder, "project")
        directory.mkdir()
        (directory / "file").write_text("content\n")
        files = _open_files()
        with connect(under_test.endpoint()) as engine:
            left, growth = _soak(engine, directory, f"soak-{uuid4().hex[:8]}", runs)
            staged = Path(folder, "state", "sandboxrun", "staging")
            left["staging folders"] = len(list(staged.iterdir())) if staged.exists() else 0
        left["open files"] = max(0, _open_files() - files)  # the connections that are kept for the next run are closed
    for name, count in left.items():
        print(f"{name:<24} {count}")
    print(f"{'memory grown':<24} {growth / 1e6:.1f} MB in {runs} runs")
    return 1 if any(left.values()) else 0


def _soak(engine: Engine, directory: Path, project: str, runs: int) -> tuple[dict[str, int], int]:
    store, memory = Store(project_directory=directory), 0
    for number in range(WARM + runs):
        if number == WARM:
            memory = _memory()
        sandbox = {"image": IMAGE, "command": ["true"], **KINDS[number % len(KINDS)]}
        profile = load_data({"name": project, "sandboxes": {"s": sandbox}}, directory=directory)
        run(engine, profile, store, profile.sandboxes)
        if number % 50 == 49:
            reap(engine, Scope(project=project))
            print(f"{number + 1} of {WARM + runs}", file=sys.stderr, flush=True)
    own = {labels.PROJECT: project}
    left = {
        "containers": len(engine.containers(labels=own)),
        "networks": len(engine.networks(labels=own)),
        "volumes": len(engine.volumes(labels=own)),
        "runs without evidence": WARM + runs - len(store.entries(project)),
    }
    return left, _memory() - memory


def _open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def _memory() -> int:
    """Bytes that are resident now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    sys.exit(main())
