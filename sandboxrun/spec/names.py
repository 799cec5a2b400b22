"""Names: what sandboxrun's objects are called on the engine, and back.

Owns the naming scheme: containers `<project>-<sandbox>[-<each>]`, networks and volumes `<project>_<key>`,
a sandbox's own volumes `<container>.<part>`. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping

from msgspec import field

from sandboxrun.data import Data
from sandboxrun.errors import Diagnostic, UsageError, did_you_mean, quoted

PROJECT = r"[a-z0-9][a-z0-9_-]{0,62}"  # Compose's rule for project names
KEY = r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}"
ENGINE = "engine:"  # before the name of a network or volume that is none of the project's: no key looks like it
WORKSPACE, SECRETS, CONFIGS = "workspace", "secrets", "configs"
RULES = "rules"  # of the sandbox's gateway
PARTS = (WORKSPACE, SECRETS, CONFIGS, RULES)
EGRESS = "egress"  # the key of the network on which a project's gateways reach the outside
GATEWAY, KEEPER = "gateway", "keeper"
PROFILES = ("sandbox.yaml", "sandbox.yml")  # what a profile is called where none is named
POLICY, WAIVERS, BASELINE = "sandboxrun-policy.yaml", "sandboxrun-waivers.yaml", "sandboxrun-baseline.json"
JUDGING = (POLICY, WAIVERS, BASELINE)  # in the root of a project
TAKEN_UP = (*JUDGING, *PROFILES)  # what commands take up that are given no names
_NAMED = 1_000  # in a fault: the evidence that a checkout brings may name half a million
COMPANIONS = (GATEWAY, KEEPER)  # containers that live and go with one sandbox


def address(sandbox: str, each: str | None = None) -> str:
    """How plans and `--target` name a sandbox: `reviewer`, or `reviewer["lint"]` for one of a `for_each`."""
    if each is None:
        return sandbox
    escaped = each.replace("\\", "\\\\").replace('"', '\\"')
    return f'{sandbox}["{escaped}"]'


def matches(address: str, names: Collection[str]) -> bool:
    """Whether one of the names means this address: itself, or the sandbox that it is an instance of."""
    return address in names or address.partition("[")[0] in names


def check_names(names: Iterable[str], addresses: Iterable[str], left_out: Collection[str] = ()) -> None:
    """Raise UsageError for names that mean none of the addresses. `left_out` are the sandboxes that are declared, and
    of which a `when` or a `for_each` leaves none."""
    known = sorted({name for address in addresses for name in (address, address.partition("[")[0])})
    faults = [
        Diagnostic(
            message=f"sandbox {quoted(name)} is left out by its when or its for_each",
            help="check the variables that they depend on",
        )
        if name in left_out
        else Diagnostic(
            message=f"there is no sandbox {quoted(name)}",
            help=did_you_mean(name, known[:_NAMED]) or f"there are: {', '.join(known[:_NAMED]) or 'none'}",
        )
        for name in names
        if name not in known
    ]
    if faults:
        raise UsageError(*faults)


def container_name(project: str, sandbox: str, each: str | None = None) -> str:
    """The container's name. Where `each` is no name by itself, a digest keeps two of them apart."""
    if each is None:
        return f"{project}-{sandbox}"
    slug = re.sub(r"[^A-Za-z0-9_.]+", "-", each).strip("-.")[:40]
    if slug == each:
        return f"{project}-{sandbox}-{each}"
    import hashlib

    digest = hashlib.sha256(each.encode()).hexdigest()[:8]
    return f"{project}-{sandbox}-{slug}-{digest}" if slug else f"{project}-{sandbox}-{digest}"


def part_volume(container: str, part: str) -> str:
    """The volume that holds a sandbox's `part` (workspace, secrets, configs)."""
    return f"{container}.{part}"


def is_part_volume(name: str) -> bool:
    """Whether a volume's name is that of what one sandbox alone has, of whatever project."""
    container, _, part = name.rpartition(".")
    return bool(container) and part in PARTS


def companion(container: str, role: str) -> str:
    """The container beside a sandbox's that has the `role` (gateway, keeper)."""
    return f"{container}.{role}"


def kept_name(container: str, run: str) -> str:
    """The name of a container that is kept after its end: its sandbox's own name is free for the next run."""
    return f"{container}.kept-{run[:12]}"


def next_name(container: str, other: str) -> str:
    """The name of a container that is made while another one, of the id `other`, has its sandbox's name."""
    return f"{container}.next-{other[:12]}"


def own_name(base: str) -> str:
    """The name that a container has or gets which was made under `base`, whatever it was renamed to since."""
    return re.sub(r"\.next-[0-9a-f]{12}$", "", base)


class Names(Data):
    """Keys of a profile's networks and volumes as engine names. `given` maps those with a name of their own
    (`name:` or `external:`); all others are `<project>_<key>`.
    """

    project: str
    given_networks: Mapping[str, str] = field(default_factory=dict)
    given_volumes: Mapping[str, str] = field(default_factory=dict)

    def network(self, key: str) -> str:
        """The engine's name of the network `key`."""
        return _name(self.project, self.given_networks, key)

    def volume(self, key: str) -> str:
        """The engine's name of the volume `key`."""
        return _name(self.project, self.given_volumes, key)

    def network_key(self, name: str) -> str:
        """The key whose engine name is `name`; `engine:<name>` where that is none of ours."""
        return _key(self.project, self.given_networks, name)

    def volume_key(self, name: str) -> str:
        """The key whose engine name is `name`; `engine:<name>` where that is none of ours."""
        return _key(self.project, self.given_volumes, name)


def _name(project: str, given: Mapping[str, str], key: str) -> str:
    return key.removeprefix(ENGINE) if key.startswith(ENGINE) else given.get(key, f"{project}_{key}")


def _key(project: str, given: Mapping[str, str], name: str) -> str:
    for key, engine_name in given.items():
        if engine_name == name:
            return key
    ours = name.startswith(f"{project}_")
    return name.removeprefix(f"{project}_") if ours else f"{ENGINE}{name}"
