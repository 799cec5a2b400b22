"""What the steps' order rests on: dependencies before dependents.

Pure.
"""

from __future__ import annotations

from collections.abc import Iterable
from graphlib import TopologicalSorter

from sandboxrun.plan.decide import Decision


def by_dependency(decisions: Iterable[Decision]) -> list[Decision]:
    """The decisions of declared sandboxes, dependencies before dependents. The profile has no cycles."""
    by_address = {d.declared.address: d for d in decisions if d.declared is not None}
    sorter: TopologicalSorter[str] = TopologicalSorter()
    for address, decision in by_address.items():
        needed = decision.declared.depends_on if decision.declared is not None else ()
        sorter.add(address, *(other for other in needed if other in by_address))
    return [by_address[address] for address in sorter.static_order()]
