"""What the steps' order rests on: dependencies before dependents, and what is a sandbox's own.

Pure.
"""

from __future__ import annotations

from collections.abc import Iterable
from graphlib import TopologicalSorter

from sandboxrun.model.declared import DeclaredSandbox
from sandboxrun.model.names import CONFIGS, PARTS, SECRETS, WORKSPACE, part_volume
from sandboxrun.model.observed import Snapshot
from sandboxrun.plan.decide import Decision


def by_dependency(decisions: Iterable[Decision]) -> list[Decision]:
    """The decisions of declared sandboxes, dependencies before dependents. The profile has no cycles."""
    by_address = {d.declared.address: d for d in decisions if d.declared is not None}
    sorter: TopologicalSorter[str] = TopologicalSorter()
    for address, decision in by_address.items():
        needed = decision.declared.depends_on if decision.declared is not None else ()
        sorter.add(address, *(other for other in needed if other in by_address))
    return [by_address[address] for address in sorter.static_order()]


def parts_of(sandbox: DeclaredSandbox) -> tuple[str, ...]:
    """The parts of a sandbox that have a volume of their own."""
    has = {
        WORKSPACE: sandbox.workspace is not None,
        SECRETS: bool(sandbox.spec.secrets),
        CONFIGS: bool(sandbox.spec.configs),
    }
    return tuple(part for part in PARTS if has[part])


def own_volumes(name: str, snapshot: Snapshot) -> tuple[str, ...]:
    """The volumes on the engine that belong to the container `name` alone."""
    parts = {part_volume(name, part) for part in PARTS}
    return tuple(volume.name for volume in snapshot.volumes if volume.name in parts)
