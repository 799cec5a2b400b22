"""Profiles and jobs for scenarios and the contract of backends: the same on a fake engine and on a real one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sandboxrun.backend.base import Backend
from sandboxrun.backend.fake import World
from sandboxrun.data import Data
from sandboxrun.evidence.store import Store
from sandboxrun.lifecycle import apply as changing
from sandboxrun.lifecycle.apply import ApplySettings, Outcome
from sandboxrun.plan.changes import Plan
from sandboxrun.plan.planner import Options
from sandboxrun.profile.loader import load_data
from sandboxrun.spec.project import Profile
from sandboxrun.spec.state import ImageConfig, ObservedSandbox

IMAGE = "sandboxrun/busybox:latest"
FOREVER = ["sleep", "1000"]


def new_world(**rest: Any) -> World:
    """A world that has the image."""
    return World(images={IMAGE: ImageConfig(id="sha256:" + "a" * 64)}, **rest)


def read(directory: Path, sandboxes: dict[str, dict[str, Any]], project: str = "tale") -> Profile:
    """The profile of these sandboxes, which reach nothing and end at once when they are told to."""
    base = {"image": IMAGE, "network_mode": "none", "stop_grace_period": "1s", "command": FOREVER}
    merged = {
        name: {key: value for key, value in {**base, **given}.items() if value is not None}
        for name, given in sandboxes.items()
    }
    return load_data(
        {"name": project, "sandboxes": merged, "networks": {"inner": {"internal": True}}}, directory=directory
    )


class Job(Data):
    """One job: its connection to an engine, its profile, and its checkout's evidence."""

    backend: Backend
    profile: Profile
    store: Store

    @classmethod
    def of(cls, backend: Backend, profile: Profile, evidence: Path) -> Job:
        store = Store(project_directory=profile.directory, root=evidence)
        return cls(backend=backend, profile=profile, store=store)

    def plan(self) -> Plan:
        return changing.plan_changes(self.backend, self.profile, self.store)

    def apply(self, settings: ApplySettings | None = None, **options: Any) -> Outcome:
        return changing.apply(self.backend, self.profile, self.store, settings=settings, options=Options(**options))

    def destroy(self) -> Outcome:
        return changing.destroy(self.backend, self.profile, self.store)

    def observed(self, address: str) -> ObservedSandbox:
        found = self.backend.observe(self.profile, self.store).sandboxes
        return next(o for o in found if o.address == address)
