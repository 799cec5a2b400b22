"""What is declared beside sandboxes (networks, volumes, secrets, configs), their contents, and `depends_on`."""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any

from msgspec import structs

from sandboxrun.data import Data
from sandboxrun.errors import Diagnostic, Problems, did_you_mean
from sandboxrun.profile.files import Places, read_regular, reason
from sandboxrun.profile.layers import OBJECTS, ProfileDocument
from sandboxrun.profile.sandbox import Made
from sandboxrun.profile.templates import Renderer, Scope
from sandboxrun.source import MapNode, Node, Scalar
from sandboxrun.spec.names import EGRESS, Names
from sandboxrun.spec.option import Record
from sandboxrun.spec.project import (
    ConfigType,
    DeclaredSandbox,
    FileSpec,
    NetworkSpec,
    NetworkType,
    SecretType,
    VolumeSpec,
    VolumeType,
)
from sandboxrun.spec.records import Dependency, FileRef
from sandboxrun.spec.types import INVALID, freeze

# -- What secrets and configs hold: read from the caller's environment, from files, or from the profile itself

LARGEST = 1 << 20  # bytes of one secret or config


def content_of(what: str, spec: FileSpec, directory: Path, environment: Mapping[str, str]) -> bytes | Diagnostic:
    """The content, or why there is none; `what` names it, as in "the config settings"."""
    if spec.content is not None:
        return spec.content.encode()
    if spec.environment is not None:
        value = environment.get(spec.environment)
        if value is None:
            message = f"{what}: the variable {spec.environment} is not set"
            return Diagnostic(message=message, help="set it and try again")
        return value.encode("utf-8", "surrogateescape")
    path = directory / (spec.file or "")
    try:
        return read_regular(path, LARGEST)
    except OSError as error:
        return Diagnostic(message=f"{what}: {path.name} can't be read: {reason(error)}", help="check its path")


def placed(fault: Diagnostic, sandbox: DeclaredSandbox, part: str, ref: FileRef) -> Diagnostic:
    """A fault of `content_of` where a sandbox names the secret or config; `part` is "secrets" or "configs"."""
    return structs.replace(
        fault, message=f"{sandbox.address}: {fault.message}", span=sandbox.place(part, ref.file_name)
    )


def digest(content: bytes) -> str:
    """`sha256:…` of a content."""
    return "sha256:" + hashlib.sha256(content).hexdigest()


def with_digests(
    sandboxes: Collection[DeclaredSandbox],
    configs: Mapping[str, FileSpec],
    directory: Path,
    environment: Mapping[str, str],
    sensitive: Collection[str],
) -> tuple[DeclaredSandbox, ...]:
    """The sandboxes with the digest of each config's content in its reference: it is a part of what they are.

    Secrets have none, nor has a config that holds a sensitive value: a short one could be guessed from it. One that
    can't be read has none either; an apply that needs it says why.
    """
    named = {ref.source for sandbox in sandboxes for ref in sandbox.spec.configs}
    known: dict[str, str] = {}
    for name in named & configs.keys():
        content = content_of("", configs[name], directory, environment)
        if isinstance(content, bytes):
            text = content.decode("utf-8", "surrogateescape")
            if not any(secret and secret in text for secret in sensitive):
                known[name] = digest(content)

    def with_own(sandbox: DeclaredSandbox) -> DeclaredSandbox:
        refs = tuple(structs.replace(ref, digest=known.get(ref.source)) for ref in sandbox.spec.configs)
        return structs.replace(sandbox, spec=structs.replace(sandbox.spec, configs=refs)) if refs else sandbox

    return tuple(map(with_own, sandboxes))


# -- `depends_on` between sandboxes: from names to addresses, and no circles


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
                span = one.sandbox.place("depends_on", name)
                if name in known:
                    message = f'"{name}" is not there: its when or its for_each leaves it out'
                    help = "add required: false to this dependency, or give both the same when"
                else:
                    message = f'depends_on names "{name}", which is not a sandbox'
                    help = did_you_mean(name, known) or f"the sandboxes are: {', '.join(known)}"
                problems.add(message, span, help)
        found.append(structs.replace(one.sandbox, depends_on=freeze(dependencies)))
    first = {one.sandbox.sandbox: one.sandbox for one in reversed(made)}
    for circle in circles({one.sandbox.sandbox: tuple(one.sandbox.spec.depends_on) for one in made}):
        span = first[circle[0]].place("depends_on", circle[1 % len(circle)])
        shown = " -> ".join((*circle, circle[0]))
        problems.add(f"depends_on goes in a circle: {shown}", span, "remove one of them")
    return tuple(found)


def circles(edges: Mapping[str, Collection[str]]) -> Iterator[tuple[str, ...]]:
    """Circles without a common name, each from its name that is first in `edges`."""
    left = dict(edges)
    while True:
        try:
            TopologicalSorter({name: [other for other in left[name] if other in left] for name in left}).prepare()
        except CycleError as error:  # of which each is followed by one that depends on it
            circle = tuple(reversed(error.args[1][1:]))
            at = min(range(len(circle)), key=lambda i: list(edges).index(circle[i]))
            yield circle[at:] + circle[:at]
            left = {name: others for name, others in left.items() if name not in circle}
        else:
            return


# -- What a profile declares besides sandboxes (networks, volumes, secrets, configs), and what sandboxes name of it

_TYPES: Mapping[str, Record] = {
    "networks": NetworkType,
    "volumes": VolumeType,
    "secrets": SecretType,
    "configs": ConfigType,
}


class DeclaredObjects(Data):
    """The four blocks, parsed. `names` is what the keys are called on the engine."""

    networks: Mapping[str, NetworkSpec]
    volumes: Mapping[str, VolumeSpec]
    secrets: Mapping[str, FileSpec]
    configs: Mapping[str, FileSpec]
    names: Names


def merged_objects(documents: Sequence[ProfileDocument]) -> dict[str, dict[str, tuple[Scalar, Node]]]:
    """The blocks of several files as one: a later file's mapping is merged over the earlier's, key by key."""
    found: dict[str, dict[str, tuple[Scalar, Node]]] = {kind: {} for kind in OBJECTS}
    for document in documents:
        for kind, node in document.objects.items():
            for key, value in node.entries:
                name = str(key.value)
                earlier = found[kind].get(name)
                if earlier is not None and isinstance(earlier[1], MapNode) and isinstance(value, MapNode):
                    names = {k.value for k, _ in value.entries}
                    kept = tuple(entry for entry in earlier[1].entries if entry[0].value not in names)
                    value = structs.replace(value, entries=(*kept, *value.entries))
                found[kind][name] = (key, value)
    return found


def parse_objects(
    project: str,
    documents: Sequence[ProfileDocument],
    renderer: Renderer,
    scope: Scope,
    places: Places,
    problems: Problems,
) -> DeclaredObjects:
    """All four blocks; faulty entries are left out, with the reason noted."""
    parsed: dict[str, dict[str, Any]] = {}
    given: dict[str, dict[str, str]] = {}  # names of their own; an external one without a name is called by its key
    for kind, entries in merged_objects(documents).items():
        parsed[kind], given[kind] = {}, {}
        for name, (key, node) in entries.items():
            if kind == "networks" and name == EGRESS:
                problems.add(f"the network {EGRESS} is the gateways' own", key.span, "choose another name for yours")
            rendered = renderer.render(node, scope)
            if isinstance(rendered, Scalar) and rendered.value is None:
                rendered = MapNode(entries=(), span=key.span)
            value = INVALID if rendered is None else _TYPES[kind].parse(rendered, problems)
            if value is INVALID:
                continue
            if isinstance(value, FileSpec):
                if value.file is not None:
                    at = node.get("file") if isinstance(node, MapNode) else None
                    path = places.checked(value.file, (at or node).span, f"the {kind[:-1]}'s file", problems)
                    value = structs.replace(value, file=str(path))
            elif value.name is not None or value.external:
                given[kind][name] = value.name or name
            parsed[kind][name] = value
    names = Names(project=project, given_networks=given["networks"], given_volumes=given["volumes"])
    return DeclaredObjects(names=names, **{kind: freeze(values) for kind, values in parsed.items()})


def with_default_network(objects: DeclaredObjects, made: Sequence[Made]) -> DeclaredObjects:
    """The objects with the network `default`, if a sandbox joins it and nobody declares it."""
    if "default" in objects.networks or not any("default" in one.sandbox.spec.networks for one in made):
        return objects
    return structs.replace(objects, networks=freeze({"default": NetworkSpec(), **objects.networks}))


def check_references(
    made: Sequence[Made], documents: Sequence[ProfileDocument], bases: Sequence[ProfileDocument], problems: Problems
) -> None:
    """Note what sandboxes name and nobody declares in the profile's own documents."""
    declared = merged_objects(documents)  # faulty ones too
    profile = next((document.file.name for document in documents if document.file is not None), "the profile")
    for sandbox in (one.sandbox for one in made):
        volumes = [mount for mount in sandbox.spec.volumes if mount.type == "volume" and mount.source is not None]
        named = [
            *(("networks", name, name) for name in sandbox.spec.networks),
            *(("volumes", str(mount.source), mount.target) for mount in volumes),
            *(("secrets", ref.source, ref.file_name) for ref in sandbox.spec.secrets),
            *(("configs", ref.source, ref.file_name) for ref in sandbox.spec.configs),
        ]
        for kind, name, item in named:
            if name in declared[kind] or (kind == "networks" and name == "default"):
                continue
            message = f'"{name}" is not declared under {kind}'
            help = did_you_mean(name, declared[kind]) or f"declare it at the top level: {kind}: {{{name}: …}}"
            base = next((b for b in bases if b.file is not None and b.objects[kind].get(name) is not None), None)
            if base is not None and base.file is not None:  # as in Compose
                message += f" in {profile}"
                help = f"{base.file.name} declares it, but extends inherits only sandboxes: declare it in {profile}"
            problems.add(message, sandbox.place(kind, item), help)


def check_addresses(made: Sequence[Made], networks: Mapping[str, NetworkSpec], problems: Problems) -> None:
    """Note fixed addresses that their network can't give."""
    for one in made:
        for name, attachment in one.sandbox.spec.networks.items():
            network, address = networks.get(name, NetworkSpec()), attachment.ipv4_address
            if address is None or network.external:
                continue
            span = one.sandbox.place("networks", name)
            with suppress(ValueError):  # which is noted with the option itself
                ipaddress.ip_address(address)
                if network.subnet is None:
                    help = f"set networks: {{{name}: {{subnet: …}}}}"
                    problems.add(f"ipv4_address {address} needs a subnet of the network {name}", span, help)
                elif ipaddress.ip_address(address) not in ipaddress.ip_network(network.subnet, strict=False):
                    message = f"ipv4_address {address} is not within {network.subnet}, the subnet of {name}"
                    problems.add(message, span, "choose another address")
