"""The project's containers as the commands on running sandboxes see them: by name, without a plan.

Owns the matching of names to containers. Asks the engine as little as it can.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from sandboxrun.backend.docker.owned import own_sandboxes
from sandboxrun.errors import UsageError, did_you_mean, quoted
from sandboxrun.spec.state import ObservedSandbox

if TYPE_CHECKING:
    from sandboxrun.backend.docker.client import Engine
    from sandboxrun.spec.project import Profile


def matches(address: str, names: Iterable[str]) -> bool:
    """Whether one of the names means this address: itself, or the sandbox that it is an instance of."""
    return address in names or address.partition("[")[0] in names


def observed(engine: Engine, profile: Profile) -> tuple[ObservedSandbox, ...]:
    """The project's containers, in the profile's order, those it does not declare last."""
    seen = own_sandboxes(engine, profile.names)
    order = {sandbox.address: n for n, sandbox in enumerate(profile.sandboxes)}
    return tuple(sorted(seen, key=lambda o: (order.get(o.address, len(order)), o.address, o.one_off, o.created)))


def check_names(names: tuple[str, ...], addresses: Iterable[str]) -> None:
    """Raise UsageError for names that mean no sandbox."""
    from sandboxrun.errors import Diagnostic

    known = sorted({name for a in addresses for name in (a, a.partition("[")[0])})
    faults = [
        Diagnostic(
            message=f"there is no sandbox {quoted(name)}",
            help=did_you_mean(name, known) or f"there are: {', '.join(known) or 'none'}",
        )
        for name in names
        if name not in known
    ]
    if faults:
        raise UsageError(*faults)
