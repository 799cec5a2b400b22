"""What stands beside the sandboxes (networks, volumes, secrets, configs), and what sandboxes name of it.

Owns parsing the four blocks and the checks of references. Compose's rule: what is used is declared, less the
network `default`.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import attrs

from sandboxrun.errors import Problems, did_you_mean
from sandboxrun.model.names import EGRESS, Names
from sandboxrun.model.objects import (
    ConfigType,
    FileSpec,
    NetworkSpec,
    NetworkType,
    SecretType,
    VolumeSpec,
    VolumeType,
)
from sandboxrun.model.option import Record
from sandboxrun.model.types import INVALID, freeze
from sandboxrun.profile.document import OBJECTS, Document
from sandboxrun.profile.instance import Made
from sandboxrun.profile.paths import Places
from sandboxrun.profile.template import Renderer, Scope
from sandboxrun.source import MapNode, Node, Scalar, Span

_TYPES: Mapping[str, Record] = {
    "networks": NetworkType,
    "volumes": VolumeType,
    "secrets": SecretType,
    "configs": ConfigType,
}


@attrs.frozen(kw_only=True)
class Objects:
    """The four blocks, parsed. `names` is what the keys are called on the engine."""

    networks: Mapping[str, NetworkSpec]
    volumes: Mapping[str, VolumeSpec]
    secrets: Mapping[str, FileSpec]
    configs: Mapping[str, FileSpec]
    names: Names


@attrs.frozen(kw_only=True)
class Documents:
    """The profile's own files, and those that its sandboxes extend."""

    own: Sequence[Document]
    bases: Sequence[Document]

    @property
    def profile(self) -> str:
        """What the profile is called in messages."""
        files = [document.file.name for document in self.own if document.file is not None]
        return files[0] if files else "the profile"

    def declaring(self, kind: str, name: str) -> str | None:
        """A base's file that declares something of that name."""
        for document in self.bases:
            block = document.objects.get(kind)
            if block is not None and document.file is not None and block.get(name) is not None:
                return document.file.name
        return None


def merged_objects(documents: Sequence[Document]) -> dict[str, dict[str, tuple[Scalar, Node]]]:
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
                    value = attrs.evolve(value, entries=(*kept, *value.entries))
                found[kind][name] = (key, value)
    return found


def parse_objects(
    project: str, documents: Sequence[Document], renderer: Renderer, scope: Scope, places: Places, problems: Problems
) -> Objects:
    """All four blocks; faulty entries are left out, with the reason noted."""
    parsed: dict[str, dict[str, Any]] = {}
    for kind, entries in merged_objects(documents).items():
        parsed[kind] = {}
        for name, (key, node) in entries.items():
            if kind == "networks" and name == EGRESS:
                problems.add(f"the network {EGRESS} is the gateways' own", key.span, "choose another name for yours")
            value = _parse(_TYPES[kind], key, node, renderer, scope, problems)
            if value is not INVALID:
                parsed[kind][name] = _placed(value, node, f"the {kind.removesuffix('s')}", places, problems)
    names = Names(project=project, given_networks=_given(parsed["networks"]), given_volumes=_given(parsed["volumes"]))
    return Objects(names=names, **{kind: freeze(values) for kind, values in parsed.items()})


def _parse(type_: Record, key: Scalar, node: Node, renderer: Renderer, scope: Scope, problems: Problems) -> Any:
    rendered = renderer.render(node, scope)
    if rendered is None:
        return INVALID
    if isinstance(rendered, Scalar) and rendered.value is None:
        rendered = MapNode(entries=(), span=key.span)
    return type_.parse(rendered, problems)


def _placed(value: Any, node: Node, what: str, places: Places, problems: Problems) -> Any:
    if not isinstance(value, FileSpec) or value.file is None:
        return value
    at = node.get("file") if isinstance(node, MapNode) else None
    path = places.checked(value.file, (at or node).span, f"{what}'s file", problems)
    return attrs.evolve(value, file=str(path))


def _given(specs: Mapping[str, Any]) -> dict[str, str]:
    """Names of their own; an external one without a name is called by its key."""
    return {key: spec.name or key for key, spec in specs.items() if spec.name is not None or spec.external}


def with_default_network(objects: Objects, made: Sequence[Made]) -> Objects:
    """The objects with the network `default`, if a sandbox joins it and nobody declares it."""
    if "default" in objects.networks or not any("default" in one.sandbox.spec.networks for one in made):
        return objects
    return attrs.evolve(objects, networks=freeze({"default": NetworkSpec(), **objects.networks}))


def check_references(
    made: Sequence[Made], declared: Mapping[str, Any], documents: Documents, problems: Problems
) -> None:
    """Note what sandboxes name and nobody declares. `declared` are the keys of the four blocks, faulty ones too."""
    for one in made:
        for kind, name, span in _references(one):
            if name in declared[kind] or (kind == "networks" and name == "default"):
                continue
            message, base = f'"{name}" is not declared under {kind}', documents.declaring(kind, name)
            help = did_you_mean(name, declared[kind]) or f"declare it at the top level: {kind}: {{{name}: …}}"
            if base is not None:  # as in Compose
                message += f" in {documents.profile}"
                help = f"{base} declares it, but extends takes over sandboxes only: declare it in {documents.profile}"
            problems.add(message, span, help)


def check_addresses(made: Sequence[Made], networks: Mapping[str, NetworkSpec], problems: Problems) -> None:
    """Note fixed addresses that their network can't give."""
    for one in made:
        for name, attachment in one.sandbox.spec.networks.items():
            network, address = networks.get(name, NetworkSpec()), attachment.ipv4_address
            if address is None or network.external:
                continue
            span = one.sandbox.place("networks", name)
            if network.subnet is None:
                help = f"set networks: {{{name}: {{subnet: …}}}}"
                problems.add(f"ipv4_address {address} needs a subnet of the network {name}", span, help)
            elif not _is_within(address, network.subnet):
                message = f"ipv4_address {address} is not within {network.subnet}, the subnet of {name}"
                problems.add(message, span, "choose another address")


def _is_within(address: str, subnet: str) -> bool:
    try:
        return ipaddress.ip_address(address) in ipaddress.ip_network(subnet, strict=False)
    except ValueError:
        return True  # which is noted with the option itself


def _references(one: Made) -> Iterator[tuple[str, str, Span | None]]:
    sandbox, spec = one.sandbox, one.sandbox.spec
    for name in spec.networks:
        yield "networks", name, sandbox.place("networks", name)
    for mount in spec.volumes:
        if mount.type == "volume" and mount.source is not None:
            yield "volumes", mount.source, sandbox.place("volumes", mount.target)
    for ref in spec.secrets:
        yield "secrets", ref.source, sandbox.place("secrets", ref.file_name)
    for ref in spec.configs:
        yield "configs", ref.source, sandbox.place("configs", ref.file_name)
