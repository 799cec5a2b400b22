"""One sandbox, from its layers to what is declared (render, merge, parse, settle), and what is declared beside it.

Owns what comes from outside of the profile: `env_file`, bare names in `environment`, seccomp files, the contents of
secrets and configs.
"""

from __future__ import annotations

import hashlib
import ipaddress
import json
import os
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any

from msgspec import structs

from sandboxrun.data import Data
from sandboxrun.errors import (
    SHORTEST,
    Diagnostic,
    ListNode,
    MapNode,
    Node,
    Problems,
    Scalar,
    SourceFile,
    Span,
    did_you_mean,
    is_null,
    walk,
)
from sandboxrun.profile.files import Places, is_missing, read_regular, read_source, reason
from sandboxrun.profile.layers import OBJECTS, OUTSIDE, Each, Layer, ProfileDocument, inside, merge_option
from sandboxrun.profile.templates import Renderer, TemplateScope, check_keys
from sandboxrun.profile.yaml import is_text
from sandboxrun.spec import labels
from sandboxrun.spec.names import EGRESS, Names, address, container_name, is_part_volume
from sandboxrun.spec.option import values_of
from sandboxrun.spec.project import (
    ConfigType,
    DeclaredSandbox,
    FileSpec,
    NetworkSpec,
    NetworkType,
    Provenance,
    SecretType,
    VolumeSpec,
    VolumeType,
)
from sandboxrun.spec.records import Dependency, FileRef
from sandboxrun.spec.seccomp import NAMES as SECCOMP_NAMES
from sandboxrun.spec.seccomp import from_engine as seccomp_from_engine
from sandboxrun.spec.spec import BY_KEY, ROWS, SandboxSpec, parse_rest, parse_spec
from sandboxrun.spec.types import INVALID, describe, freeze, item_span, item_spans, name_of

# -- Dotenv files: `NAME=value` lines, as Compose reads them, less interpolation. python-dotenv is not enough: it
# tells no places, and fills values in from the caller's environment

_LINE = r"\s*(?:export\s+)?(?P<name>[^\s=#]+)\s*=[ \t]*(?P<value>.*)$"
_NAME = r"[A-Za-z_][A-Za-z0-9_.-]*"
_ESCAPES = {"n": "\n", "r": "\r", "t": "\t", '"': '"', "\\": "\\", "$": "$"}
_QUOTED = {"'": r"'([^']*)'(.*)", '"': r'"((?:[^"\\]|\\.)*)"(.*)'}
_VARIABLE = r"(?<!\\)\$(?:\{|[A-Za-z_])"
MOST_LINES = 10_000

Pair = tuple[Scalar, Scalar]


def parse_dotenv(file: SourceFile, problems: Problems) -> list[Pair]:
    """The names and values in the file's order, a later one of the same name replacing the earlier."""
    pairs: dict[str, Pair] = {}
    lines = file.text.splitlines()
    if len(lines) > MOST_LINES:
        problems.add(f"more than {MOST_LINES} lines", Span(file=file, line=MOST_LINES, column=1), "split the file")
        return []
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        match = re.match(_LINE, line)
        if match is None:
            column = len(line) - len(line.lstrip()) + 1
            span = Span(file=file, line=number, column=column, length=len(line.strip()))
            problems.add("a line that is not NAME=value", span, "write NAME=value, or begin a comment with #")
            continue
        name, rest = match["name"], match["value"]
        at = Span(file=file, line=number, column=match.start("name") + 1, length=len(name))
        span = Span(file=file, line=number, column=match.start("value") + 1, length=max(1, len(rest.rstrip())))
        if not re.fullmatch(_NAME, name):
            problems.add(f'"{name}" is not a valid variable name', at, "use letters, digits and _")
            continue
        try:
            value = _value(rest)
        except ValueError as error:
            message, help = error.args
            problems.add(message, span, help)
            continue
        pairs[name] = (Scalar(value=name, text=name, span=at), Scalar(value=value, text=value, span=span))
    return list(pairs.values())


def looks_like_dotenv(text: str) -> bool:
    """Whether the first line that says anything is `NAME=…`."""
    first = next((line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")), "")
    return re.match(r"\s*(?:export\s+)?[A-Za-z_][\w.-]*\s*=", first) is not None


def _value(rest: str) -> str:
    """The value of what follows `=`. Raises ValueError with a clause and a help."""
    quote = rest[:1]
    if quote in _QUOTED:
        match = re.match(_QUOTED[quote], rest)
        if match is None:
            help = "add the closing quote on the same line; for a line break write \\n in double quotes"
            raise ValueError("the quoted value is not closed", help)
        value, after = match[1], match[2].strip()
        if after and not after.startswith("#"):
            raise ValueError("there is text after the closing quote", None)
    else:
        value = re.split(r"(?:^|\s)#", rest, maxsplit=1)[0].rstrip()
    if quote != "'" and re.search(_VARIABLE, value):
        help = "write it out, or put it in single quotes if the $ is meant"
        raise ValueError("a value can't be filled in from another variable", help)
    return re.sub(r"\\(.)", lambda m: _ESCAPES.get(m[1], m[0]), value) if quote == '"' else value


# -- A seccomp profile, written as the one line that the engine takes

LARGEST_SECCOMP = 256 * 1024  # bytes; the engine's own profile is a tenth of that


def seccomp_text(content: str | bytes, what: str, span: Span | None, problems: Problems) -> str:
    """A profile's JSON without white space; "{}" after a fault, which is noted. `what` names it in messages."""

    def no_number(name: str) -> Any:
        raise ValueError(f"{name} is not a number of JSON")

    try:
        parsed = json.loads(content, parse_constant=no_number)
        text = json.dumps(parsed, separators=(",", ":"), ensure_ascii=False)
    except (ValueError, RecursionError) as error:
        problems.add(f"{what} is not JSON: {error}", span)
        return "{}"
    if not isinstance(parsed, dict) or not isinstance(parsed.get("defaultAction"), str):
        problems.add(f"{what} has no defaultAction", span, "see the OCI runtime specification")
    elif not is_text(text):
        problems.add(f"{what} holds half of a surrogate pair, which is not a character", span)
    else:
        return text
    return "{}"


# -- One sandbox, from its layers to what is declared: render, merge, parse, settle

MOST_NODES = 500_000  # over all instances of a profile


class ComposedSandbox(Data):
    """A sandbox before rendering: its name, its place, its layers (the lowest first)."""

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


class MadeSandbox(Data):
    """One instance: what is declared, and its options as rendered nodes (for the schema's check)."""

    sandbox: DeclaredSandbox
    node: MapNode


class Maker:
    """Makes the instances of one profile."""

    def __init__(
        self, project: str, places: Places, renderer: Renderer, environment: Mapping[str, str], problems: Problems
    ) -> None:
        self.project, self.places, self.renderer, self.problems = project, places, renderer, problems
        self.environment = environment
        self.files: dict[Path, SourceFile | None] = {}  # of `env_file`; None: not there, and not required
        self.other_files: list[Path] = []  # beside those, what was read for a sandbox
        self.passed: set[str] = set()  # the caller's values that bare names of `environment` were given
        self._root = Path(os.path.realpath(places.root))
        self._dotenv: dict[Path, list[Pair]] = {}

    def make(self, composed: ComposedSandbox, each: Each, scope: TemplateScope) -> MadeSandbox | None:
        """The instance. With faults, what is left of it, so that paths and dependencies are checked in the same run."""
        node = self._options(composed, scope)
        spec = parse_spec(node, self.problems)
        if spec is None:
            spec = parse_rest(node, self.problems)
        if spec is None:
            return None
        spec = self._seccomp(self._passed_through(spec, node), node)
        spec, workspace = self._paths(spec, node)
        sandbox = DeclaredSandbox(
            address=address(composed.name, each.key),
            sandbox=composed.name,
            name=container_name(self.project, composed.name, each.key),
            spec=spec,
            workspace=workspace,
            provenance=freeze(dict(_origins(spec, node, composed))),
            span=composed.span,
        )
        return MadeSandbox(sandbox=sandbox, node=node)

    def _options(self, composed: ComposedSandbox, scope: TemplateScope) -> MapNode:
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
            row = BY_KEY[name]
            wanted = pairs[-1:] if row.merge == "replace" else pairs
            rendered = [new for _, value in wanted if (new := self.renderer.render(value, scope)) is not None]
            merged = merge_option(row, rendered) if len(rendered) == len(wanted) else None
            if merged is not None:
                entries.append((pairs[-1][0], merged))
        return _yielding(MapNode(entries=tuple(entries), span=composed.span))

    def _env_file(self, values: list[Node], scope: TemplateScope) -> MapNode | None:
        """The variables of the layers' env files."""
        pairs: dict[str, tuple[Scalar, Node]] = {}
        span = None
        for value in values:
            rendered = self.renderer.render(value, scope)
            if rendered is None:
                continue
            if is_null(rendered):
                pairs.clear()
                continue
            span = rendered.span
            for item in rendered.items if isinstance(rendered, ListNode) else (rendered,):
                pairs |= {str(pair[0].value): pair for pair in self._dotenv_of(item)}
        return MapNode(entries=tuple(pairs.values()), span=span) if pairs else None

    def _dotenv_of(self, item: Node) -> list[Pair]:
        """The variables of one file, a path or a mapping of path and required; each file is read once."""
        given: Node = item
        required = True
        if isinstance(item, MapNode):
            check_keys(item, ("path", "required"), "env_file", "it has path and required", self.problems)
            flag, given = item.get("required"), item.get("path") or item
            required = not (isinstance(flag, Scalar) and flag.value is False)
        if not isinstance(given, Scalar) or not isinstance(given.value, str):
            self.problems.add(f"expected a path, found {describe(given)}", item.span, "write env_file: [agent.env]")
            return []
        text, span = given.value, given.span
        real = inside(self._root, self.places.directory(span), text)
        if real is None:
            self.problems.add(f'the file "{text}" is outside of the project', span, OUTSIDE)
            return []
        if real not in self._dotenv:
            if not required and is_missing(real):
                self.files[real] = None
                return []
            # shown from the current directory, as the names of profiles are
            own = span is not None and span.file.name in self.places.directories
            directory = os.path.dirname(span.file.name) if span and own else os.path.relpath(self.places.root)
            name = os.path.normpath(os.path.join(directory, text))
            file = self.files[real] = read_source(real, name, self.problems, asked_at=span)
            self._dotenv[real] = parse_dotenv(file, self.problems) if file is not None else []
        return self._dotenv[real]

    def _passed_through(self, spec: SandboxSpec, node: MapNode) -> SandboxSpec:
        """Bare names in the environment with the caller's values, which are noted as secrets: they may well be."""
        spans = item_spans(BY_KEY["environment"].type, node.get("environment"))
        filled = {}
        for name, value in spec.environment.items():
            taken = self.environment.get(name) if value is None else value
            if taken is not None and not is_text(taken):
                message = f"the caller's {name} is not UTF-8"
                self.problems.add(message, spans.get(name), "give it by a secret with file:")
            elif taken is not None:
                filled[name] = taken
                if value is None and len(taken) >= SHORTEST:
                    self.passed.add(taken)
        return structs.replace(spec, environment=freeze(filled)) if filled != spec.environment else spec

    def _seccomp(self, spec: SandboxSpec, node: MapNode) -> SandboxSpec:
        """A seccomp profile named by its file, as its content: the engine knows no path of ours."""
        given = spec.security_opt.get("seccomp")
        if given is None or given in SECCOMP_NAMES:
            return spec
        span = item_span(BY_KEY["security_opt"].type, node.get("security_opt"), "seccomp")
        if given.lstrip().startswith("{"):
            content = seccomp_text(given, "the seccomp profile", span, self.problems)
        else:
            before, what = len(self.problems), f'the seccomp profile "{given}"'
            path = self.places.checked(given, span, "the seccomp profile", self.problems)
            if len(self.problems) > before:
                return spec
            self.other_files.append(path)
            try:
                content = seccomp_text(read_regular(path, LARGEST_SECCOMP), what, span, self.problems)
            except OSError as error:
                names = ", ".join(SECCOMP_NAMES)
                help = did_you_mean(given, SECCOMP_NAMES) or f"check the path; without a file there are {names}"
                self.problems.add(f"{what} can't be read: {reason(error)}", span, help)
                return spec
        content = seccomp_from_engine(content)  # one of ours under its name: what an engine has is read so as well
        return structs.replace(spec, security_opt=freeze({**spec.security_opt, "seccomp": content}))

    def _paths(self, spec: SandboxSpec, node: MapNode) -> tuple[SandboxSpec, Any]:
        """Host paths made absolute; a copied workspace's directory is kept beside the spec, which stays movable."""
        listed, place = node.get("volumes"), node.get("workspace")
        items = listed.items if isinstance(listed, ListNode) else ()
        spans = {name_of(BY_KEY["volumes"].type.identity(item)): _source_span(item) for item in items}
        volumes = []
        for mount in spec.volumes:
            if mount.type == "bind" and mount.source is not None:
                path = self._given(mount.source, spans.get(name_of(mount.target)), "the bind")
                mount = structs.replace(mount, source=str(path))
            volumes.append(mount)
        spec = structs.replace(spec, volumes=tuple(volumes))
        if spec.workspace is None:
            return spec, None
        span = None if place is None else _source_span(place)
        copied, written = spec.workspace.access == "copy", spec.workspace.source
        if copied:
            directory = self.places.checked(written, span, "the workspace", self.problems)
        else:
            directory = self._given(written, span, "the workspace")
        source = self.places.relative(directory) if copied else str(directory)
        spec = structs.replace(spec, workspace=structs.replace(spec.workspace, source=source))
        return spec, directory if copied else None

    def _given(self, text: str, span: Span | None, what: str) -> Path:
        """A host path that an engine is told."""
        path = self.places.checked(text, span, what, self.problems)
        if not is_text(str(path)):
            help = "give the directories above it other names"
            self.problems.add(f"{what} is in {path}, whose name is not UTF-8: no engine can be told it", span, help)
        return path


def _yielding(node: MapNode) -> MapNode:
    """/tmp, where it is a tmpfs by default only, gives way to a mount that is declared in its place."""
    tmpfs, volumes, workspace = node.get("tmpfs"), node.get("volumes"), node.get("workspace")
    mounts = volumes.items if isinstance(volumes, ListNode) else ()
    taken = {str(BY_KEY["volumes"].type.identity(item)) for item in mounts}
    if isinstance(workspace, MapNode) and isinstance(target := workspace.get("target"), Scalar):
        taken.add(str(target.value))
    if tmpfs is None and "/tmp" in taken:
        empty = ListNode(items=(), span=node.span)
        return structs.replace(node, entries=(*node.entries, (Scalar(value="tmpfs", text="tmpfs"), empty)))
    if not taken or not isinstance(tmpfs, MapNode):
        return node
    kept = tuple(e for e in tmpfs.entries if e[0].span is not None or e[0].value not in taken)
    entries = tuple((k, structs.replace(tmpfs, entries=kept) if k.value == "tmpfs" else v) for k, v in node.entries)
    return structs.replace(node, entries=entries)


def _source_span(node: Node) -> Span | None:
    """Where a mapping's `source` is: in the file that its path is relative to."""
    source = node.get("source") if isinstance(node, MapNode) else None
    return (source or node).span


def _origins(spec: SandboxSpec, node: MapNode, composed: ComposedSandbox) -> Iterator[tuple[str, Provenance]]:
    documents = [layer.document for layer in composed.layers]
    bases = {document.file.name: document.base for document in documents if document.file is not None}
    given = {str(key.value): (key, value) for key, value in node.entries}
    # a tmpfs may be written as a volume
    mounts = item_spans(BY_KEY["volumes"].type, given["volumes"][1]) if "volumes" in given and spec.tmpfs else {}
    for row, value in zip(ROWS, values_of(spec), strict=True):
        if not row.settable or value is None:
            continue
        if row.key in given:
            key, found = given[row.key]
            span = found.span or key.span
            base = bases.get(span.file.name) if span is not None else None
            via = f"base {base}" if base is not None else ""
            items = item_spans(row.type, found)
            yield row.key, Provenance(span=span, via=via, items={**mounts, **items} if row.key == "tmpfs" else items)
        elif row.key in _IMPLIED and value != row.default:
            items = mounts if row.key == "tmpfs" else {}
            yield row.key, Provenance(via=f"implied by {_IMPLIED[row.key]}", items=items)
        else:
            yield row.key, _BY_DEFAULT


_BY_DEFAULT = Provenance(via="default")
_IMPLIED = {
    "memswap_limit": "mem_limit", "working_dir": "workspace.target", "egress": "network_mode",
    "network_mode": "egress", "tmpfs": "volumes",
}  # fmt: skip


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

    found = []
    for sandbox in sandboxes:
        refs = tuple(structs.replace(ref, digest=known.get(ref.source)) for ref in sandbox.spec.configs)
        found.append(structs.replace(sandbox, spec=structs.replace(sandbox.spec, configs=refs)) if refs else sandbox)
    return tuple(found)


# -- `depends_on` between sandboxes: from names to addresses, and no circles


def with_dependencies(
    made: Sequence[MadeSandbox], known: Sequence[str], faulty: Collection[str], problems: Problems
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

_TYPES = dict(zip(OBJECTS, (NetworkType, VolumeType, SecretType, ConfigType), strict=True))


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
    scope: TemplateScope,
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
                parsed[kind][name] = value
                continue
            if isinstance(value, VolumeSpec) and value.bound and not places.allow_outside:
                at = node.get("driver_opts") if isinstance(node, MapNode) else None
                problems.add(
                    f"the volume {name} mounts {value.bound}, which is outside the project",
                    at.span if at is not None else key.span,
                    "mount a directory of the project, as in ./data:/data, or allow others if you trust the profile",
                    option="--allow-outside",
                    argument="allow_outside=True",
                )
            if value.name is not None or value.external:
                given[kind][name] = value.name or name
            if isinstance(value, VolumeSpec):
                _check_volume(given[kind].get(name, f"{project}_{name}"), key, problems)
            parsed[kind][name] = value
    names = Names(project=project, given_networks=given["networks"], given_volumes=given["volumes"])
    return DeclaredObjects(names=names, **{kind: freeze(values) for kind, values in parsed.items()})


def _check_volume(name: str, key: Scalar, problems: Problems) -> None:
    """Note a volume that no profile has: what one sandbox has for itself, such as secrets, and what all share."""
    own = next((prefix for prefix in labels.OWN_VOLUMES if name.startswith(prefix)), None)
    if own is not None:
        problems.add(f"volumes named {own}… are sandboxrun's own", key.span, "use another one")
    elif is_part_volume(name):
        what = f".{name.rpartition('.')[2]}"
        problems.add(f"{name}: volumes whose names end with {what} are sandboxes' own", key.span, "use another one")


def check_references(
    made: Sequence[MadeSandbox],
    documents: Sequence[ProfileDocument],
    bases: Sequence[ProfileDocument],
    problems: Problems,
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


def check_addresses(made: Sequence[MadeSandbox], networks: Mapping[str, NetworkSpec], problems: Problems) -> None:
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
