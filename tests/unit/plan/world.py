"""Hand-made profiles and snapshots for the planner's and the reports' tests: no engine, no files."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from msgspec import structs

from sandboxrun.spec.names import Names, address, container_name
from sandboxrun.spec.project import DeclaredSandbox, NetworkSpec, Profile
from sandboxrun.spec.records import Attachment
from sandboxrun.spec.spec import SandboxSpec, settle
from sandboxrun.spec.state import (
    Completed,
    Ended,
    Helper,
    Image,
    ImageConfig,
    ObservedNetwork,
    ObservedSandbox,
    Offers,
    Running,
    Snapshot,
    State,
)
from sandboxrun.spec.types import freeze

PROJECT = "review"
NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
STARTED = datetime(2026, 3, 1, 11, 59, tzinfo=UTC)
NODE = "sha256:" + "a" * 64
RUNNING = Running(started=STARTED)
HELPER = Helper(reference="sandboxrun/gateway:0123456789ab", id="sha256:" + "e" * 64, base="python:3.13-alpine")


def ended(code: int = 0, *, oom: bool = False, error: str = "") -> Ended:
    return Ended(exit_code=code, oom=oom, started=STARTED, finished=NOW, error=error)


def spec(**options: Any) -> SandboxSpec:
    """On the network `default`, unless the options say what it reaches."""
    if not options.keys() & {"network_mode", "networks", "egress"}:
        options["networks"] = freeze({"default": Attachment()})
    return settle(SandboxSpec(**options))


def declared(name: str, each: str | None = None, **options: Any) -> DeclaredSandbox:
    return DeclaredSandbox(
        address=address(name, each),
        sandbox=name,
        name=container_name(PROJECT, name, each),
        spec=spec(**options),
    )


def profile(*sandboxes: DeclaredSandbox, **rest: Any) -> Profile:
    known: dict[str, Any] = {
        "project": PROJECT,
        "directory": Path("/project"),
        "sandboxes": sandboxes,
        "names": Names(project=PROJECT),
        "digested": lambda: "sha256:profile",
        "inputs_digest": "sha256:inputs",
    }
    return Profile(**{**known, **rest})


def observed(
    like: DeclaredSandbox,
    state: State = RUNNING,
    *,
    applied: SandboxSpec | None = None,
    run: str = "0123456789abcdef",
    one_off: bool = False,
    image_id: str = NODE,
    **changed: Any,
) -> ObservedSandbox:
    """A container made from `like`; `changed` options are what it really has."""
    return ObservedSandbox(
        id=f"{like.name:c<64}" if not one_off else f"{like.name}-run{'c' * 40}",
        name=like.name if not one_off else f"{like.name}-run",
        address=like.address,
        run=run,
        state=state,
        spec=structs.replace(like.spec, **changed) if changed else like.spec,
        applied=applied or like.spec,
        image_id=image_id,
        deadline=None,
        one_off=one_off,
        owner=None,
        labels=freeze({}),
        document=freeze({}),
    )


def network(key: str = "default", **options: Any) -> ObservedNetwork:
    return ObservedNetwork(id=f"{key:d<64}", name=f"{PROJECT}_{key}", key=key, config="", spec=NetworkSpec(**options))


def snapshot(
    *sandboxes: ObservedSandbox,
    networks: tuple[ObservedNetwork, ...] = (network(),),
    images: Mapping[str, Image] | None = None,
    completed: Mapping[str, Mapping[str, Completed]] | None = None,
    **rest: Any,
) -> Snapshot:
    known = {"node:20-alpine": Image(config=ImageConfig(id=NODE))}
    return Snapshot(
        taken=rest.pop("taken", NOW),
        offers=Offers(api_version="1.41"),
        sandboxes=sandboxes,
        networks=networks,
        images=freeze(dict(images if images is not None else known)),
        completed=freeze(dict(completed or {})),
        **rest,
    )
