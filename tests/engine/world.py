"""One project on the engine under test: plan, apply and destroy as the command line does, and a look at what runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import docker
from msgspec import Struct, field

from sandboxrun.backend.docker.client import Engine, connect
from sandboxrun.backend.docker.observe import take_snapshot
from sandboxrun.backend.session import Event
from sandboxrun.evidence.store import Store
from sandboxrun.lifecycle import apply as converge
from sandboxrun.plan.changes import Change, Plan
from sandboxrun.plan.planner import Options
from sandboxrun.profile.loader import load_data
from sandboxrun.spec.project import Profile
from sandboxrun.spec.state import ObservedSandbox, Snapshot


class World(Struct, kw_only=True):
    """`base` are options that every sandbox has unless it says otherwise; `environment` is the caller's."""

    engine: Engine
    project: str
    directory: Path
    store: Store
    base: Mapping[str, Any]
    environment: dict[str, str] = field(default_factory=dict)
    events: list[Event] = field(default_factory=list)

    def profile(self, sandboxes: Mapping[str, Any], **more: Any) -> Profile:
        """A profile of these sandboxes; `more` are further keys of its top level."""
        merged = {name: {**self.base, **options} for name, options in sandboxes.items()}
        return load_data({"name": self.project, "sandboxes": merged, **more}, directory=self.directory)

    def snapshot(self, profile: Profile) -> Snapshot:
        """The engine now."""
        return take_snapshot(self.engine, profile, self.store)

    def plan(self, profile: Profile, **options: Any) -> Plan:
        """What apply would do."""
        return converge.plan_changes(self.engine, profile, self.store, Options(**options))

    def apply(self, profile: Profile, **options: Any) -> Plan:
        """Apply; its plan. Raises what apply raises."""
        expected = options.pop("expected", None)
        outcome = converge.apply(
            self.engine,
            profile,
            self.store,
            options=Options(**options),
            settings=self._settings(),
            expected=expected,
        )
        return outcome.plan

    def destroy(self, profile: Profile, targets: tuple[str, ...] = ()) -> Plan:
        """Destroy; its plan."""
        return converge.destroy(self.engine, profile, self.store, targets=targets, settings=self._settings()).plan

    def _settings(self) -> converge.ApplySettings:
        return converge.ApplySettings(environment=self.environment, listener=self.events.append)

    def observed(self, profile: Profile, address: str) -> ObservedSandbox:
        """What is there of a sandbox."""
        (found,) = [o for o in self.snapshot(profile).sandboxes if o.address == address]
        return found

    def ids(self, profile: Profile) -> dict[str, str]:
        """Container ids by address."""
        return {o.address: o.id for o in self.snapshot(profile).sandboxes}

    def run(self, container: str, *argv: str, user: str | None = None) -> tuple[int, str]:
        """Run a command inside: its exit code and its output."""
        process = self.engine.exec(container, list(argv), user=user)
        output = b"".join(chunk for _, chunk in process)
        return process.exit_code() or 0, output.decode(errors="replace")


@contextmanager
def open_world(host: str, project: str, directory: Path, image: str) -> Iterator[World]:
    """A world whose sandboxes sleep in `image`, without a network and with the shortest of grace periods."""
    base = {"image": image, "command": ["sleep", "600"], "network_mode": "none", "stop_grace_period": "1s"}
    with connect(host) as engine:
        world = World(
            engine=engine, project=project, directory=directory, store=Store(project_directory=directory), base=base
        )
        try:
            yield world
        finally:
            if any(engine.containers(labels={"sandboxrun.project": project})) or _left(engine, project):
                world.destroy(world.profile({"none": {"when": False}}))


def _left(engine: Engine, project: str) -> bool:
    own = {"sandboxrun.project": project}
    return bool(engine.networks(labels=own) or engine.volumes(labels=own))


def change(plan: Plan, address: str) -> Change:
    """The change of one resource."""
    (found,) = [c for c in plan.changes if c.address == address]
    return found


def leads_nowhere(client: docker.DockerClient) -> bool:
    """Whether the engine gives containers on a network without a way out no default route: from Docker 26 on, at the
    latest."""
    return tuple(map(int, client.version()["ApiVersion"].split("."))) >= (1, 45)
