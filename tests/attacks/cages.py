"""The sandboxes that attacks run in, as profiles; run as `sandboxrun run` does it, and read from their evidence."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from msgspec import field

from sandboxrun.backend.docker.client import Engine
from sandboxrun.data import Data
from sandboxrun.evidence.store import Captured, RunResult, Store
from sandboxrun.lifecycle.apply import ApplySettings
from sandboxrun.lifecycle.run import RunOptions, run
from sandboxrun.profile.loader import load
from sandboxrun.spec.project import Profile
from tests.attacks.inside import exhaustion
from tests.attacks.shipping import COMMAND, NAME, archive

_CLOSED: Mapping[str, Any] = {
    "network_mode": "none",
    "mem_limit": exhaustion.MEMORY,
    "pids_limit": exhaustion.PIDS,
    "tmpfs": [f"/tmp:size={exhaustion.TMPFS}"],
    "shm_size": exhaustion.SHM,
    "ulimits": {"nofile": exhaustion.FILES},
}
CLOSED: Mapping[str, Any] = {
    "closed": _CLOSED,
    "slow": {**_CLOSED, "cpus": 0.1},
    "files": {**_CLOSED, "mem_limit": "48m"},
}


class Ran(Data):
    """One sandbox's end: its evidence, and all that it wrote to stdout."""

    result: RunResult
    output: bytes
    captured: Captured
    store: Store

    def kept(self, path: str) -> bytes:
        """A file of the evidence."""
        assert self.captured.entry is not None
        with self.store.open(self.captured.entry, path) as file:
            return file.read()


class Cages(Data):
    """A project of sandboxes that run attacks. `directory` is the project's."""

    engine: Engine
    project: str
    directory: Path
    image: str
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def store(self) -> Store:
        return Store(project_directory=self.directory)

    def profile(self, sandboxes: Mapping[str, Any], **more: Any) -> Profile:
        """A profile whose sandboxes run the attacks of the cage that they are named after, unless told otherwise."""
        packed, path = self.directory / NAME, self.directory / "sandbox.yaml"
        packed.write_bytes(archive())
        made = {name: self._sandbox(name, options) for name, options in sandboxes.items()}
        configs = {"attacks": {"file": NAME}}
        path.write_text(json.dumps({"name": self.project, "sandboxes": made, "configs": configs, **more}))
        if os.geteuid() == 0:
            owner = self.directory.stat()
            for made_here in (packed, path):
                os.chown(made_here, owner.st_uid, owner.st_gid)
        return load([path])

    def _sandbox(self, name: str, options: Mapping[str, Any]) -> Mapping[str, Any]:
        return {
            "image": self.image,
            "command": [*COMMAND, name],
            "configs": [{"source": "attacks", "target": NAME}],
            "environment": {"HOST_SOCKET": self.project, "MARK": self.project},
            "lifetime": {"timeout": "4m"},
            **options,
        }

    def run(self, sandboxes: Mapping[str, Any], **more: Any) -> Mapping[str, Ran]:
        """Run them all at once, to their ends; what became of each."""
        profile = self.profile(sandboxes, **more)
        store, settings = self.store, ApplySettings(environment=self.environment)
        results = run(self.engine, profile, store, profile.sandboxes, settings=settings, options=RunOptions())
        return {name: self._ran(result, store) for name, result in zip(sandboxes, results, strict=True)}

    def _ran(self, result: RunResult, store: Store) -> Ran:
        captured = result.evidence
        assert captured is not None and captured.entry is not None, result
        with store.open(captured.entry, "stdout.log") as file:
            return Ran(result=result, output=file.read(), captured=captured, store=store)


def until(condition: Any, seconds: float = 120) -> None:
    """Wait for it."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)
