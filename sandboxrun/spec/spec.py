"""The spec of one sandbox: every option, as rows.

Owns the list of options, the keys of Compose that are not offered with what to do instead, and what options
imply of each other. The rows themselves stand by theme in process, resources, security and placing. Pure.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any

import attrs

from sandboxrun.errors import Problems
from sandboxrun.source import MapNode, Span
from sandboxrun.spec import types as units
from sandboxrun.spec.checks import faults_of
from sandboxrun.spec.items import ANY, item_spans, name_of
from sandboxrun.spec.option import VARIABLES, Record, Row, rows, to_plain
from sandboxrun.spec.option_types import CLOSED, PUBLIC, Egress
from sandboxrun.spec.options import (
    CONFIGS_AT,
    SECRETS_AT,
    PlaceOptions,
    ProcessOptions,
    ResourceOptions,
    SecurityOptions,
)
from sandboxrun.spec.types import freeze, span_of

NOT_OFFERED: Mapping[str, str] = freeze(
    {
        "build": "build and push the image in an earlier step, then name it by digest in image:",
        "ports": "a sandbox publishes no ports; read results as evidence, or use sandboxrun exec",
        "expose": "sandboxes do not reach each other; leave it out",
        "privileged": "a privileged container is not a sandbox; list single capabilities in cap_add:",
        "container_name": "containers are named after project and sandbox; set name: at the top level",
        "deploy": "set mem_limit, cpus and pids_limit on the sandbox; for several of one kind use for_each",
        "scale": "use for_each",
        "links": "use networks",
        "external_links": "use networks",
        "volumes_from": "name each volume under volumes:",
        "pid": "the PID namespace is always the sandbox's own",
        "uts": "the UTS namespace is always the sandbox's own",
        "cgroup": "the cgroup namespace is always the sandbox's own",
        "cgroup_parent": "limits are set on the sandbox itself",
        "oom_kill_disable": "a sandbox beyond its memory limit is ended and reported as OOM",
        "device_cgroup_rules": "name each device under devices:",
        "credential_spec": "it is for Windows containers",
        "isolation": "it is for Windows containers",
        "develop": "it is for development with Compose",
        "profiles": "use when:",
        "provider": "it is for Compose's plug-ins",
        "mac_address": "the engine chooses it",
        "cpu_period": "use cpus:",
        "cpu_quota": "use cpus:",
        "cpu_count": "use cpus:",
        "cpu_percent": "use cpus:",
        "cpu_rt_runtime": "use cpus:",
        "cpu_rt_period": "use cpus:",
        "mem_swappiness": "use memswap_limit:",
        "blkio_config": "engines before API 1.55 take it and ignore it",
        "attach": "use sandboxrun logs",
        "label_file": "use labels:",
        "domainname": "use hostname:",
        "post_start": "make it part of the command",
        "pre_stop": "make it part of the command",
    }
)


@attrs.frozen(kw_only=True, slots=False)
class SandboxSpec(PlaceOptions, SecurityOptions, ResourceOptions, ProcessOptions):  # attrs takes the last base first
    """Everything that one sandbox is; `SandboxSpec()` is the default sandbox with all that is silent closed.

    Build it with keyword arguments in the model's own units (bytes, nanoseconds), or from a profile's
    values with `parse_spec`.
    """

    @cached_property
    def plain(self) -> Mapping[str, Any]:
        """The spec as canonical JSON data, defaults included. Made once: not to be changed."""
        return to_plain(self, defaults=True)

    @cached_property
    def digest(self) -> str:
        """`sha256:…` of the canonical JSON: equal for equal specs, whatever they were written like."""
        return digest_of(self.plain)

    @property
    def digests(self) -> frozenset[str]:
        """The digest, and the one that versions recorded that kept an image's `:latest` apart from none."""
        untagged = {**self.plain, "image": self.image.removesuffix(":latest")}
        return frozenset((self.digest, digest_of(untagged)))


def digest_of(plain: Any) -> str:
    """`sha256:…` of JSON data in its canonical form: keys sorted, no white space."""
    text = json.dumps(plain, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


def _check(spec: SandboxSpec, node: MapNode, problems: Problems) -> None:
    """What must hold between options."""
    _check_network(spec, node, problems)
    memory, both = spec.mem_limit, spec.memswap_limit
    if both is not None and both > 0 and memory == 0:
        problems.add("memswap_limit needs a mem_limit", span_of(node, "memswap_limit"))
    if both is not None and 0 < both < memory:
        problems.add(
            "memswap_limit counts memory and swap together, so it can't be below mem_limit",
            span_of(node, "memswap_limit"),
            "leave it out for no swap",
        )
    if spec.mem_reservation > memory > 0:
        problems.add("mem_reservation is above mem_limit", span_of(node, "mem_reservation"))
    if 0 < memory < 6 * 1024**2:
        problems.add("mem_limit is below 6m", span_of(node, "mem_limit"), "the engine refuses less")
    size = spec.workspace.size if spec.workspace is not None else None
    if size is not None and 0 < memory <= size:
        message = "workspace.size is not below mem_limit, and what is written there counts against that"
        problems.add(message, span_of(node, "workspace"), "raise mem_limit, or take a smaller size")
    if spec.entrypoint == () and spec.command == ():
        problems.add("entrypoint and command are both empty: nothing would run", span_of(node, "command"), "set one")
    if both == 0 < memory:
        help = "leave it out for no swap; -1 is unlimited"
        problems.add("a memswap_limit of 0 leaves the choice to the engine", span_of(node, "memswap_limit"), help)
    _check_targets(spec, node, problems)
    for fault in faults_of(spec):
        problems.add(fault.message, _place(node, *fault.path), fault.help)


def _check_network(spec: SandboxSpec, node: MapNode, problems: Problems) -> None:
    """One of the three ways to say what it reaches; two would contradict each other."""
    if spec.network_mode == "none" and spec.networks:
        problems.add("network_mode: none has no networks", span_of(node, "networks"), "remove one of the two")
    span = span_of(node, "egress")
    if spec.networks and spec.egress is not None:
        help = "remove networks: egress uses a network of its own, so nothing can bypass the gateway"
        problems.add("egress and networks cannot be combined", span, help)
    if spec.network_mode == "none" and spec.egress is not None and spec.egress.has_gateway:
        problems.add("network_mode: none reaches nothing", span, "remove network_mode, or write egress: none")
    wired = _egress(spec)
    if wired is None or not wired.has_gateway:
        return
    if spec.dns:
        help = "the gateway resolves names: set egress.resolvers"
        problems.add("dns cannot be combined with egress", span_of(node, "dns"), help)
    for name in VARIABLES:
        if name in spec.environment:
            problems.add(f"egress sets {name}", _place(node, "environment", name), "remove it: it names the gateway")


def _egress(spec: SandboxSpec) -> Egress | None:
    """What it reaches, said or implied; None where that is its networks' to say."""
    if spec.egress is not None:
        return spec.egress
    if spec.network_mode == "none":
        return CLOSED
    return None if spec.networks else PUBLIC


def _check_targets(spec: SandboxSpec, node: MapNode, problems: Problems) -> None:
    """Each mount point once."""
    targets = [("secrets", SECRETS_AT)] if spec.secrets else []
    targets += [("configs", CONFIGS_AT)] if spec.configs else []
    targets += [("tmpfs", path) for path in spec.tmpfs]
    targets += [("workspace", spec.workspace.target)] if spec.workspace else []
    targets += [("volumes", mount.target) for mount in spec.volumes]
    taken: dict[str, str] = {}
    for key, path in targets:
        for message, help in _target_faults(key, path, taken):
            problems.add(message, _place(node, key, "target" if key == "workspace" else path), help)
        taken[path] = key


def _target_faults(key: str, path: str, taken: Mapping[str, str]) -> Iterator[tuple[str, str | None]]:
    if path == "/":
        yield "nothing can be mounted over /", None
    if path == "/dev" or f"{path}/".startswith("/proc/"):
        yield f"nothing can be mounted over {path}", "the runtime needs what is there; choose another path"
    if (other := taken.get(path)) is not None:
        yield f"{path} is mounted by {other} and by {key}", "choose another path"


def _place(node: MapNode, key: str, *path: str) -> Span | None:
    """Where an item of an option is written, or what is below it; what holds it where none has this name."""
    span, inner, type_ = span_of(node, key), node.get(key), BY_KEY[key].type
    for step in path:
        span = item_spans(type_, inner).get(name_of(step), span)
        inner, type_ = (inner.get(step) if isinstance(inner, MapNode) else None), ANY
    return span


SpecType = Record(cls=SandboxSpec, title="a sandbox", refused=NOT_OFFERED, check=_check)


def settle(spec: SandboxSpec) -> SandboxSpec:
    """The spec with what its options imply written out: no swap, the default network, the workspace as directory,
    whole seconds of grace.

    Idempotent. Plans, payloads and labels hold settled specs only.
    """
    implied: dict[str, Any] = {**_settled_network(spec), **_settled_files(spec)}
    if spec.memswap_limit is None:
        implied["memswap_limit"] = spec.mem_limit
    if spec.working_dir is None and spec.workspace is not None:
        implied["working_dir"] = spec.workspace.target
    if spec.stop_grace_period % units.SECOND:  # the engine counts it in seconds
        implied["stop_grace_period"] = -(-spec.stop_grace_period // units.SECOND) * units.SECOND
    if spec.pids_limit == -1:
        implied["pids_limit"] = 0
    if spec.entrypoint and spec.command == ():  # which is what it implies
        implied["command"] = None
    if spec.pull_policy == "if_not_present":
        implied["pull_policy"] = "missing"
    return attrs.evolve(spec, **implied) if implied else spec


def _settled_network(spec: SandboxSpec) -> dict[str, Any]:
    """What it reaches, written out."""
    implied: dict[str, Any] = {}
    if spec.egress is None:
        implied["egress"] = _egress(spec)
    if spec.egress == CLOSED:
        implied["network_mode"] = "none"
    if spec.network_mode == "bridge" and spec.networks:
        implied["networks"] = freeze(dict(sorted(spec.networks.items())))
    return implied


def _settled_files(spec: SandboxSpec) -> dict[str, Any]:
    """Mounts, devices and files: in one order, each with the place that it has."""
    implied: dict[str, Any] = {}
    if spec.volumes:
        implied["volumes"] = tuple(sorted(spec.volumes, key=lambda mount: mount.target))
    if any(device.target is None for device in spec.devices):
        implied["devices"] = tuple(
            attrs.evolve(device, target=device.target or device.source) for device in spec.devices
        )
    for key in ("secrets", "configs"):
        refs = getattr(spec, key)
        if any(ref.target == ref.source for ref in refs):
            implied[key] = tuple(attrs.evolve(r, target=None if r.target == r.source else r.target) for r in refs)
    return implied


def parse_spec(node: Any, problems: Problems) -> SandboxSpec | None:
    """A node as a settled spec, or None with the reasons in `problems`."""
    spec = SpecType.parse(node, problems)
    return settle(spec) if isinstance(spec, SandboxSpec) else None


ROWS: tuple[Row, ...] = rows(SandboxSpec)
BY_KEY: Mapping[str, Row] = freeze({row.key: row for row in ROWS})
