"""What probing is made of: what was seen, what it is judged by. Pure data."""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping

import attrs

from sandboxrun.model import wiring
from sandboxrun.model.egress import Egress
from sandboxrun.model.objects import NetworkSpec
from sandboxrun.model.spec import SandboxSpec
from sandboxrun.model.types import freeze

Seen = Mapping[str, Mapping[str, str]]  # the name of a probe: its values, as the program printed them
GVISOR = "runsc"


class Phase(enum.StrEnum):
    """One start of the program. What may end the sandbox has a start of its own."""

    BATTERY = "battery"  # all that only looks and tries
    PROCESSES = "processes"  # forks until it can't: gVisor ends a sandbox at its limit
    MEMORY = "memory"  # takes memory until it is killed
    STUBBORN = "stubborn"  # ignores TERM and outlives its deadline, if it is let


@attrs.frozen(kw_only=True)
class Context:
    """What expectations depend on. `spec` is settled, and the sandbox's own, also where a weak one is judged.

    `architecture` is the image's (x86_64, aarch64); `runtime` the OCI runtime's name; `cgroup` 1 or 2; `gateway` the
    gateway's address where it has one; `hosts` and `neighbours` addresses that must not be reached, beside those that
    the program finds itself; `networks` what the spec's networks are; `host_namespaces` the host's own namespaces as
    `/proc/self/ns` names them ("pid" to "pid:[4026531836]"), empty where nobody can tell; `host_cpus` how many CPUs
    the engine has, 0 if unknown.
    """

    spec: SandboxSpec
    architecture: str = "x86_64"
    runtime: str = "runc"
    cgroup: int = 2
    gateway: str | None = None
    hosts: tuple[str, ...] = ()
    neighbours: tuple[str, ...] = ()
    networks: Mapping[str, NetworkSpec] = attrs.field(factory=lambda: freeze({}))
    host_namespaces: Mapping[str, str] = attrs.field(factory=lambda: freeze({}))
    host_cpus: int = 0

    @property
    def gvisor(self) -> bool:
        """Whether another kernel than the host's answers inside."""
        return self.runtime.startswith(GVISOR)

    @property
    def egress(self) -> Egress | None:
        """What it reaches through a gateway; None where its networks say."""
        return self.spec.egress

    @property
    def proxy(self) -> str | None:
        """The gateway's address and port."""
        return f"{self.gateway}:{wiring.PORT}" if self.gateway is not None else None


@attrs.frozen(kw_only=True)
class Control:
    """One thing that must hold, and how it is told.

    `field` is the engine's; `applies` gives the reason where there is nothing to look for; `holds` is None where what
    was seen does not tell. `meaning`, `how` and `weak` are for the documentation: what it means, how it is seen, and
    what its negative control is. `negative` says whether that failed as it must, from what the sandbox and the weak
    one showed: by default the weak one must not hold. `moot` gives the reason where it shows
    that there was nothing to look for after all (a kernel without that call). `exempt` is the reason why nothing can be
    weakened.
    """

    id: str
    title: str
    field: str
    meaning: str
    how: str
    weak: str
    expected: Callable[[Context], str]
    seen: Callable[[Seen], str]
    holds: Callable[[Seen, Context], bool | None]
    applies: Callable[[Context], str | None] = lambda context: None
    phase: Phase = Phase.BATTERY
    negative: Callable[[Seen, Seen, Context], bool] | None = None
    moot: Callable[[Seen, Seen, Context], str | None] = lambda strong, weak, context: None
    exempt: str = ""
