"""What verifying asks a backend, and no plan does: how the engine's machine and a live sandbox look. Pure data."""

from __future__ import annotations

from collections.abc import Mapping

from sandboxrun.data import Data
from sandboxrun.spec.types import freeze


class EngineTerms(Data):
    """The engine's own names of what is verified, for whoever looks it up there: by control (seen from inside), by
    check (seen from outside), by option; `shown` is how many options it shows."""

    controls: Mapping[str, str] = freeze({})
    checks: Mapping[str, str] = freeze({})
    options: Mapping[str, str] = freeze({})
    shown: int = 0


class Machine(Data):
    """The engine's machine. `runtime` is the default one; `addresses` are its own that must not be reached, less those
    of networks that come and go; `pid` the engine's process where its processes can be seen from here: 0 where only
    that one can't, None where none can."""

    runtime: str
    cgroup: int
    cpus: int
    addresses: tuple[str, ...] = ()
    pid: int | None = None


class Accounts(Data):
    """A user as numbers, and the groups that it may have beside its own."""

    uid: int
    gid: int
    groups: frozenset[int] = frozenset()


class HostView(Data):
    """Where a sandbox is on this host: `id` is in the names of its cgroups, `pid` its first process, 0 if the engine
    tells none; `engine` the engine's own. `unseen` says why nothing of it can be seen. `volumes`: where the image
    declares some."""

    id: str
    pid: int = 0
    engine: int = 0
    unseen: str = ""
    volumes: frozenset[str] = frozenset()


class GatewayView(Data):
    """The gateway of a live sandbox. `status` is "running", or what else the engine calls it.

    `between`: what is wrong with the network between the two, None where it is not there. Of a running one: `said` is
    the digest of the rules that it last said to serve by, `rules` its file of them, `lost` the options that it was
    made with and does not have, None where that is unknown for want of the network; `host` where it is on this host.
    """

    status: str
    between: tuple[str, ...] | None
    image: str = ""
    said: str = ""
    rules: bytes = b""
    lost: tuple[str, ...] | None = None
    host: HostView | None = None
