"""What is declared beside sandboxes (networks, volumes, secrets, configs), their contents, and `depends_on`."""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from msgspec import structs

from sandboxrun.data import Data
from sandboxrun.errors import Diagnostic, Problems, did_you_mean
from sandboxrun.profile.document import OBJECTS, Document
from sandboxrun.profile.files import Places, read_regular, reason
from sandboxrun.profile.sandbox import Made
from sandboxrun.profile.templates import Renderer, Scope
from sandboxrun.source import MapNode, Node, Scalar, Span
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
    return _read(what, directory / (spec.file or ""))


def _read(what: str, path: Path) -> bytes | Diagnostic:
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
    sandboxes: Iterable[DeclaredSandbox],
    configs: Mapping[str, FileSpec],
    directory: Path,
    environment: Mapping[str, str],
    sensitive: Collection[str],
) -> tuple[DeclaredSandbox, ...]:
    """The sandboxes with the digest of each config's content in its reference: it is a part of what they are.

    Secrets have none, nor has a config that holds a sensitive value: a short one could be guessed from it. One that
    can't be read has none either; an apply that needs it says why.
    """
    known: dict[str, str | None] = {}

    def reference(ref: FileRef) -> FileRef:
        if ref.source not in known:
            known[ref.source] = _digest_of(configs.get(ref.source), directory, environment, sensitive)
        return structs.replace(ref, digest=known[ref.source])

    return tuple(
        structs.replace(s, spec=structs.replace(s.spec, configs=tuple(map(reference, s.spec.configs))))
        if s.spec.configs
        else s
        for s in sandboxes
    )


def _digest_of(
    spec: FileSpec | None, directory: Path, environment: Mapping[str, str], sensitive: Collection[str]
) -> str | None:
    content = content_of("", spec, directory, environment) if spec is not None else None
    if not isinstance(content, bytes):
        return None
    text = content.decode("utf-8", "surrogateescape")
    return None if any(secret and secret in text for secret in sensitive) else digest(content)


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
                _absent(name, one, known, problems)
        found.append(structs.replace(one.sandbox, depends_on=freeze(dependencies)))
    _check_circles(made, problems)
    return tuple(found)


def _absent(name: str, one: Made, known: Sequence[str], problems: Problems) -> None:
    span = one.sandbox.place("depends_on", name)
    if name in known:
        message = f'"{name}" is not there: its when or its for_each leaves it out'
        problems.add(message, span, "add required: false to this dependency, or give both the same when")
        return
    help = did_you_mean(name, known) or f"the sandboxes are: {', '.join(known)}"
    problems.add(f'depends_on names "{name}", which is not a sandbox', span, help)


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


# -- What stands beside the sandboxes (networks, volumes, secrets, configs), and what sandboxes name of it

_TYPES: Mapping[str, Record] = {
    "networks": NetworkType,
    "volumes": VolumeType,
    "secrets": SecretType,
    "configs": ConfigType,
}


class Objects(Data):
    """The four blocks, parsed. `names` is what the keys are called on the engine."""

    networks: Mapping[str, NetworkSpec]
    volumes: Mapping[str, VolumeSpec]
    secrets: Mapping[str, FileSpec]
    configs: Mapping[str, FileSpec]
    names: Names


class Documents(Data):
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
                    value = structs.replace(value, entries=(*kept, *value.entries))
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
    return structs.replace(value, file=str(path))


def _given(specs: Mapping[str, Any]) -> dict[str, str]:
    """Names of their own; an external one without a name is called by its key."""
    return {key: spec.name or key for key, spec in specs.items() if spec.name is not None or spec.external}


def with_default_network(objects: Objects, made: Sequence[Made]) -> Objects:
    """The objects with the network `default`, if a sandbox joins it and nobody declares it."""
    if "default" in objects.networks or not any("default" in one.sandbox.spec.networks for one in made):
        return objects
    return structs.replace(objects, networks=freeze({"default": NetworkSpec(), **objects.networks}))


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
