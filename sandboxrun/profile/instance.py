"""One sandbox, from its layers to what is declared: render, merge, parse, settle.

Owns the order of these steps and the origin of each value. Must not look at other sandboxes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs

from sandboxrun.errors import Problems, did_you_mean
from sandboxrun.model.declared import DeclaredSandbox, Provenance
from sandboxrun.model.items import identity, item_span, item_spans, name_of
from sandboxrun.model.names import address, container_name
from sandboxrun.model.option import Row, values_of
from sandboxrun.model.records import Mount
from sandboxrun.model.seccomp import NAMES as SECCOMP_NAMES
from sandboxrun.model.spec import BY_KEY, NOT_OFFERED, ROWS, SandboxSpec, parse_spec
from sandboxrun.model.types import INVALID, freeze
from sandboxrun.model.workspace import Workspace
from sandboxrun.profile.document import Document
from sandboxrun.profile.environment import EnvFiles, pass_through
from sandboxrun.profile.extends import Layer
from sandboxrun.profile.foreach import Each
from sandboxrun.profile.merge import merge_option
from sandboxrun.profile.paths import Places
from sandboxrun.profile.seccomp import checked_seccomp, read_seccomp
from sandboxrun.profile.template import Renderer, Scope, is_template
from sandboxrun.source import ListNode, MapNode, Node, Scalar, Span, walk

OWN_KEYS = ("extends", "for_each", "when", "env_file")  # the profile's, beside the model's rows
MOST_NODES = 500_000  # over all instances of a profile


@attrs.frozen(kw_only=True)
class Composed:
    """A sandbox before rendering: its name, where it stands, its layers (the lowest first)."""

    name: str
    span: Span | None
    layers: tuple[Layer, ...]

    def top(self, key: str) -> Node | None:
        """The highest layer's value of a key that is not merged."""
        return next((v for layer in reversed(self.layers) if (v := layer.node.get(key)) is not None), None)

    @property
    def size(self) -> int:
        """The number of nodes in all layers."""
        return sum(1 for layer in self.layers for _ in walk(layer.node))


@attrs.frozen(kw_only=True)
class Made:
    """One instance: what is declared, and its options as rendered nodes (for the schema's check)."""

    sandbox: DeclaredSandbox
    node: MapNode


def check_keys(composed: Composed, problems: Problems) -> None:
    """Note keys that no sandbox has, with what to do instead."""
    for layer in composed.layers:
        for key, _ in layer.node.entries:
            word = str(key.value)
            settable = word in BY_KEY and BY_KEY[word].settable
            if settable or word in OWN_KEYS or word.startswith("x-"):
                continue
            if is_template(key):
                problems.add("a key can't be a template", key.span, "write the key out; only values are rendered")
            elif word in NOT_OFFERED:
                problems.add(f'"{word}" is not offered', key.span, NOT_OFFERED[word])
            else:
                known = [row.key for row in ROWS if row.settable] + list(OWN_KEYS)
                help = did_you_mean(word, known) or "the options are listed by: sandboxrun explain"
                problems.add(f'unknown key "{word}" in a sandbox', key.span, help)


class Maker:
    """Makes the instances of one profile."""

    def __init__(
        self, project: str, places: Places, renderer: Renderer, environment: Mapping[str, str], problems: Problems
    ) -> None:
        self.project, self.places, self.renderer, self.problems = project, places, renderer, problems
        self.environment = environment
        self.env_files = EnvFiles(places, problems)
        self.other_files: list[Path] = []  # beside those, what was read for a sandbox

    def make(self, composed: Composed, each: Each, scope: Scope) -> Made | None:
        """The instance. With faults, what is left of it, so that paths and dependencies are checked in the same run."""
        node = self._options(composed, scope)
        spec = parse_spec(node, self.problems) or parse_spec(_sound(node), Problems())
        if spec is None:
            return None
        places = item_spans(BY_KEY["environment"].type, node.get("environment"))
        spec = pass_through(spec, self.environment, self.renderer.secrets, places, self.problems)
        spec = self._seccomp(spec, node)
        spec, workspace = self._paths(spec, node)
        sandbox = DeclaredSandbox(
            address=address(composed.name, each.key),
            sandbox=composed.name,
            each=each.key,
            name=container_name(self.project, composed.name, each.key),
            spec=spec,
            workspace=workspace,
            provenance=freeze(dict(_origins(spec, node, composed))),
            span=composed.span,
        )
        return Made(sandbox=sandbox, node=node)

    def _options(self, composed: Composed, scope: Scope) -> MapNode:
        """The options, merged; those that could not be rendered are left out, so that the others are checked too."""
        given: dict[str, list[tuple[Scalar, Node]]] = {}
        for layer in composed.layers:
            for key, value in layer.node.entries:
                if str(key.value) in BY_KEY or key.value == "env_file":
                    given.setdefault(str(key.value), []).append((key, value))
        entries = []
        from_files = self._env_file([value for _, value in given.pop("env_file", [])], scope)
        if from_files is not None:
            key = Scalar(value="environment", text="environment", span=from_files.span)
            given["environment"] = [(key, from_files), *given.get("environment", [])]
        for name, pairs in given.items():
            merged = self._merged(BY_KEY[name], [value for _, value in pairs], scope)
            if merged is not None:
                entries.append((pairs[-1][0], merged))
        return self._yielding(MapNode(entries=tuple(entries), span=composed.span))

    def _merged(self, row: Row, values: list[Node], scope: Scope) -> Node | None:
        wanted = values[-1:] if row.merge == "replace" else values
        rendered = [self.renderer.render(value, scope) for value in wanted]
        if any(value is None for value in rendered):
            return None
        return merge_option(row, [value for value in rendered if value is not None])

    def _env_file(self, values: list[Node], scope: Scope) -> MapNode | None:
        pairs: dict[str, tuple[Scalar, Node]] = {}
        span = None
        for value in values:
            rendered = self.renderer.render(value, scope)
            if rendered is None:
                continue
            if isinstance(rendered, Scalar) and rendered.value is None:
                pairs.clear()
                continue
            span = rendered.span
            pairs.update({str(pair[0].value): pair for pair in self.env_files.entries(rendered)})
        return MapNode(entries=tuple(pairs.values()), span=span) if pairs else None

    def _yielding(self, node: MapNode) -> MapNode:
        """/tmp, where it is a tmpfs by default only, gives way to a mount that is declared in its place."""
        tmpfs = node.get("tmpfs")
        taken = set(_targets(node))
        if not taken:
            return node
        if tmpfs is None and "/tmp" in taken:
            empty = ListNode(items=(), span=node.span)
            return attrs.evolve(node, entries=(*node.entries, (Scalar(value="tmpfs", text="tmpfs"), empty)))
        if not isinstance(tmpfs, MapNode):
            return node
        kept = tuple(e for e in tmpfs.entries if e[0].span is not None or e[0].value not in taken)
        entries = tuple((k, attrs.evolve(tmpfs, entries=kept) if k.value == "tmpfs" else v) for k, v in node.entries)
        return attrs.evolve(node, entries=entries)

    def _seccomp(self, spec: SandboxSpec, node: MapNode) -> SandboxSpec:
        """A seccomp profile named by its file, as its content: the engine knows no path of ours."""
        given = spec.security_opt.get("seccomp")
        if given is None or given in SECCOMP_NAMES:
            return spec
        span = item_span(BY_KEY["security_opt"].type, node.get("security_opt"), "seccomp")
        if given.lstrip().startswith("{"):
            content = checked_seccomp(given, span, self.problems)
        else:
            before = len(self.problems)
            path = self.places.checked(given, span, "the seccomp profile", self.problems)
            if len(self.problems) > before:
                return spec
            self.other_files.append(path)
            content = read_seccomp(path, given, span, self.problems)
        options = freeze({**spec.security_opt, "seccomp": content})
        return attrs.evolve(spec, security_opt=options)

    def _paths(self, spec: SandboxSpec, node: MapNode) -> tuple[SandboxSpec, Any]:
        """Host paths made absolute; a copied workspace's directory stands beside the spec, which stays movable."""
        changed: dict[str, Any] = {}
        spans = _mount_spans(node)
        if any(mount.type == "bind" for mount in spec.volumes):
            changed["volumes"] = tuple(self._bind(mount, spans) for mount in spec.volumes)
        directory = None
        if spec.workspace is not None:
            span = _workspace_span(node)
            directory = self.places.checked(spec.workspace.source, span, "the workspace", self.problems)
            changed["workspace"] = self._workspace(spec.workspace, directory)
        copied = directory if spec.workspace is not None and spec.workspace.access == "copy" else None
        return (attrs.evolve(spec, **changed) if changed else spec), copied

    def _bind(self, mount: Mount, spans: Mapping[str, Span | None]) -> Mount:
        if mount.type != "bind" or mount.source is None:
            return mount
        span = spans.get(name_of(mount.target))
        return attrs.evolve(mount, source=str(self.places.checked(mount.source, span, "the bind", self.problems)))

    def _workspace(self, workspace: Workspace, directory: Any) -> Workspace:
        source = self.places.relative(directory) if workspace.access == "copy" else str(directory)
        return attrs.evolve(workspace, source=source)


def _sound(node: MapNode) -> MapNode:
    """The options that are right by themselves."""
    entries = tuple(
        (key, value)
        for key, value in node.entries
        if BY_KEY[str(key.value)].type.parse(value, Problems()) is not INVALID
    )
    return attrs.evolve(node, entries=entries)


def _targets(node: MapNode) -> Iterator[str]:
    volumes, workspace = node.get("volumes"), node.get("workspace")
    for item in volumes.items if isinstance(volumes, ListNode) else ():
        yield str(identity(BY_KEY["volumes"].type, item))
    if isinstance(workspace, MapNode) and isinstance(target := workspace.get("target"), Scalar):
        yield str(target.value)


def _mount_spans(node: MapNode) -> dict[str, Span | None]:
    """Where the source of each mount is written, by its target."""
    volumes = node.get("volumes")
    items = volumes.items if isinstance(volumes, ListNode) else ()
    return {name_of(identity(BY_KEY["volumes"].type, item)): _source_span(item) for item in items}


def _workspace_span(node: MapNode) -> Span | None:
    workspace = node.get("workspace")
    return None if workspace is None else _source_span(workspace)


def _source_span(node: Node) -> Span | None:
    """Where a mapping's `source` stands: in the file that its path is relative to."""
    source = node.get("source") if isinstance(node, MapNode) else None
    return (source or node).span


def _origins(spec: SandboxSpec, node: MapNode, composed: Composed) -> Iterator[tuple[str, Provenance]]:
    names = {layer.document.file.name: layer.document for layer in composed.layers if layer.document.file is not None}
    given = {str(key.value): (key, value) for key, value in node.entries}
    for row, value in zip(ROWS, values_of(spec), strict=True):
        if not row.settable or value is None:
            continue
        if row.key in given:
            key, found = given[row.key]
            span = found.span or key.span
            yield row.key, Provenance(span=span, via=_via(span, names), items=item_spans(row.type, found))
        elif value != row.default and row.key in _IMPLIED:
            yield row.key, Provenance(via=f"implied by {_IMPLIED[row.key]}")
        else:
            yield row.key, _BY_DEFAULT


_BY_DEFAULT = Provenance(via="default")
_IMPLIED = {
    "memswap_limit": "mem_limit",
    "working_dir": "workspace.target",
    "egress": "network_mode",
    "network_mode": "egress",
}


def _via(span: Span | None, documents: Mapping[str, Document]) -> str:
    document = documents.get(span.file.name) if span is not None else None
    return f"base {document.base}" if document is not None and document.base else ""
