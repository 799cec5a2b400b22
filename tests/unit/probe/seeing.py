"""Contexts and sights to judge: a sandbox with everything that any control looks at, and what one showed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sandboxrun.probe.verdicts import Comparison, Context, Control, Seen
from sandboxrun.spec.option_types import PUBLIC, Egress
from sandboxrun.spec.records import FileRef, Lifetime, Ulimit, Workspace
from sandboxrun.spec.spec import SandboxSpec, settle
from sandboxrun.spec.types import freeze

GATEWAY = "10.231.0.2"


def spec(**changed: Any) -> SandboxSpec:
    """A closed sandbox that has a secret, a workspace of the host's, and a gateway with a list."""
    full: dict[str, Any] = {
        "egress": Egress(allow=("api.example.com:443",)),
        "secrets": (FileRef(source="key"),),
        "workspace": Workspace(source="/srv/project", access="rw"),
        "lifetime": Lifetime(timeout=10**9),
        "ulimits": freeze({"nofile": Ulimit(soft=100, hard=200), "core": Ulimit(soft=0, hard=0)}),
    }
    return settle(SandboxSpec(**{**full, **changed}))


def context(**changed: Any) -> Context:
    """Its context; `spec` may be given as a mapping of changes."""
    given = changed.pop("spec", {})
    made = spec(**given) if isinstance(given, Mapping) else given
    return Context(**{"spec": made, "gateway": GATEWAY, "host_cpus": 8, **changed})


OPEN = spec(
    user="0:0",
    read_only=False,
    cap_add=("ALL",),
    security_opt=freeze({"no-new-privileges": "false", "seccomp": "unconfined"}),
    egress=PUBLIC,
    mem_limit=0,
    cpus=0.0,
    pids_limit=0,
    ulimits=freeze({}),
    secrets=(),
    workspace=None,
)


def seen(**probes: Mapping[str, str]) -> Seen:
    """What the program printed; `_` in a probe's name stands for a point."""
    return freeze({name.replace("_", "."): freeze(dict(values)) for name, values in probes.items()})


def told(one: Control, what: Seen, given: Context) -> Comparison:
    """What a control that is not left out makes of what was seen."""
    answer = one.look(what, given)
    assert isinstance(answer, Comparison), answer
    return answer


def left_out(one: Control, given: Context) -> str | None:
    """Why there is nothing to look for; None where there is."""
    answer = one.look({}, given)
    return answer if isinstance(answer, str) else None
