"""`depends_on` between sandboxes: from names to addresses, and no circles.

Owns the graph's checks. A dependency on a sandbox with `for_each` is one on each of its instances.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import attrs

from sandboxrun.errors import Problems, did_you_mean
from sandboxrun.model.declared import DeclaredSandbox
from sandboxrun.model.records import Dependency
from sandboxrun.model.types import freeze
from sandboxrun.profile.instance import Made


def with_dependencies(
    made: Sequence[Made], known: Sequence[str], faulty: Collection[str], problems: Problems
) -> tuple[DeclaredSandbox, ...]:
    """The sandboxes with their dependencies by address. `known` are all names, also those that `when` left out;
    `faulty` those that could not be made, whose faults are noted already."""
    by_name: dict[str, list[str]] = {}
    for one in made:
        by_name.setdefault(one.sandbox.sandbox, []).append(one.sandbox.address)
    found = []
    for one in made:
        dependencies: dict[str, Dependency] = {}
        for name, dependency in one.sandbox.spec.depends_on.items():
            if name in by_name:
                dependencies.update(dict.fromkeys(by_name[name], dependency))
            elif dependency.required and name not in faulty:
                _absent(name, one, known, problems)
        found.append(attrs.evolve(one.sandbox, depends_on=freeze(dependencies)))
    _check_circles(made, problems)
    return tuple(found)


def _absent(name: str, one: Made, known: Sequence[str], problems: Problems) -> None:
    span = one.sandbox.place("depends_on", name)
    if name in known:
        message = f'"{name}" is not there: its when or its for_each leaves it out'
        problems.add(message, span, "add required: false to this dependency, or give both the same when")
        return
    help = did_you_mean(name, known) or f"the sandboxes are: {', '.join(known)}"
    problems.add(f'depends_on names "{name}", which is no sandbox', span, help)


def _check_circles(made: Sequence[Made], problems: Problems) -> None:
    edges: dict[str, tuple[str, ...]] = {}
    first: dict[str, Made] = {}
    for one in made:
        first.setdefault(one.sandbox.sandbox, one)
        edges[one.sandbox.sandbox] = tuple(one.sandbox.spec.depends_on)
    while circle := find_circle(edges):
        one = first[circle[0]]
        shown = " -> ".join((*circle, circle[0]))
        span = one.sandbox.place("depends_on", circle[1 % len(circle)])
        problems.add(f"depends_on goes in a circle: {shown}", span, "remove one of them")
        edges = {name: others for name, others in edges.items() if name not in circle}


def find_circle(edges: Mapping[str, Sequence[str]]) -> tuple[str, ...] | None:
    """The first circle, from the name that stands first in `edges`; None where there is none."""
    done: set[str] = set()
    for start in edges:
        path: list[str] = []
        waiting: list[tuple[str, bool]] = [(start, False)]
        while waiting:
            name, leaving = waiting.pop()
            if leaving:
                done.add(path.pop())
            elif name in path:
                return _from_first(tuple(path[path.index(name) :]), edges)
            elif name not in done and name in edges:
                path.append(name)
                waiting.append((name, True))
                waiting.extend((other, False) for other in reversed(edges[name]))
    return None


def _from_first(circle: tuple[str, ...], edges: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    order = list(edges)
    at = min(range(len(circle)), key=lambda i: order.index(circle[i]))
    return circle[at:] + circle[:at]
