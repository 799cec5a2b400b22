"""What the steps' order rests on: dependencies before dependents.

Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from graphlib import TopologicalSorter

from sandboxrun.model.declared import DeclaredSandbox
from sandboxrun.plan.decide import Decision


def levels(sandboxes: Iterable[DeclaredSandbox]) -> Iterator[tuple[str, ...]]:
    """The addresses of the sandboxes, level by level: each depends on those of earlier levels only."""
    by_address = {sandbox.address: sandbox for sandbox in sandboxes}
    sorter = TopologicalSorter({a: [o for o in s.depends_on if o in by_address] for a, s in by_address.items()})
    sorter.prepare()
    while sorter.is_active():
        yield (ready := sorter.get_ready())
        sorter.done(*ready)


def by_dependency(decisions: Iterable[Decision]) -> list[Decision]:
    """The decisions of declared sandboxes, dependencies before dependents. The profile has no cycles."""
    by_address = {d.declared.address: d for d in decisions if d.declared is not None}
    sorter: TopologicalSorter[str] = TopologicalSorter()
    for address, decision in by_address.items():
        needed = decision.declared.depends_on if decision.declared is not None else ()
        sorter.add(address, *(other for other in needed if other in by_address))
    return [by_address[address] for address in sorter.static_order()]
