"""Compose files as one set of services: interpolation, overrides, `include` and `extends`, with positions kept.

Owns how Compose puts files together. Reads nothing by itself: the caller says what a path holds (`Reader`).
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Iterator, Mapping, Sequence

import msgspec

from sandboxrun.data import Data
from sandboxrun.errors import Diagnostic, ListNode, MapNode, Node, Problems, Scalar, SourceFile, is_null
from sandboxrun.profile.yaml import OVERRIDE, RESET, parse_documents

DEEPEST = 10
MOST_FILES = 100
MOST_INCLUDES = 200  # of one load: a file that is included twice is taken twice
MOST_TEXT = 4 << 20  # characters of all files
EMPTY = MapNode(entries=())
REMOTE = re.compile(r"^(?:https?|git|ssh|oci)://|^git@|^github\.com/|\.git(?:#|$)")

Reader = Callable[[str], SourceFile | None]  # a path from where the command runs → its text; None: not readable


class MissingFile(Data):
    """What could not be taken into account, and why."""

    what: str
    why: str
    file: str = ""


class Services(Data):
    """All files of one Compose project, put together. `free` are the variables that each option of a service is made
    of; `remote` what its files fetch from elsewhere."""

    services: Mapping[str, tuple[Scalar, MapNode]]
    top: Mapping[str, MapNode]  # networks, volumes, secrets, configs
    files: tuple[SourceFile, ...]
    directory: str
    remote: tuple[tuple[str, str, Scalar], ...] = ()
    missing: tuple[MissingFile, ...] = ()
    faults: tuple[Diagnostic, ...] = ()
    read: Reader = lambda path: None


_VARIABLE = re.compile(
    r"\$(?:(?P<escaped>\$)|(?P<named>[A-Za-z_]\w*)|\{(?P<braced>[A-Za-z_]\w*)(?:(?P<op>:?[-?+])(?P<rest>(?:[^{}]|\{[^{}]*\})*))?\})"
)


def interpolate(text: str, values: Mapping[str, str], depth: int = 0) -> str:
    """A text with its variables filled in from `values`, or their defaults. What has neither stays as it is written."""

    def fill(found: re.Match[str]) -> str:
        if found["escaped"]:
            return "$"
        name, op, rest = found["named"] or found["braced"], found["op"] or "", found["rest"] or ""
        value = values.get(name)
        given = value is not None and (value != "" or not op.startswith(":"))
        match op.lstrip(":"):
            case "-":
                return str(value) if given else interpolate(rest, values, depth + 1) if depth < 5 else rest
            case "+":
                return interpolate(rest, values, depth + 1) if given and depth < 5 else ""
        return str(value) if value is not None else found[0]

    return _VARIABLE.sub(fill, text) if "$" in text else text


def variables_in(node: Node | None) -> tuple[str, ...]:
    """The names that a node's texts interpolate."""
    match node:
        case Scalar(value=str() as text) if "$" in text:
            return tuple(m["named"] or m["braced"] for m in _VARIABLE.finditer(text) if not m["escaped"])
        case ListNode():
            return tuple(name for item in node.items for name in variables_in(item))
        case MapNode():
            return tuple(name for _, value in node.entries for name in variables_in(value))
    return ()


def filled(node: Node, values: Mapping[str, str]) -> Node:
    """The node with every text interpolated; `text` of a scalar stays what the file says."""
    match node:
        case Scalar(value=str() as text) if "$" in text:
            return msgspec.structs.replace(node, value=interpolate(text, values), text=text)
        case ListNode():
            return msgspec.structs.replace(node, items=tuple(filled(item, values) for item in node.items))
        case MapNode():
            return msgspec.structs.replace(
                node, entries=tuple((key, filled(value, values)) for key, value in node.entries)
            )
    return node


def dotenv(file: SourceFile | None) -> Sequence[tuple[Scalar, Scalar]]:
    """The names and values of an environment file; what is no pair in it is left out."""
    if file is None:
        return ()
    from sandboxrun.profile.sandbox import parse_dotenv  # what makes sandboxes, and imports all options

    return parse_dotenv(file, Problems())


class _Project:
    """One load: what its steps share."""

    def __init__(self, read: Reader) -> None:
        self.read, self.problems = read, Problems()
        self.files: dict[str, SourceFile] = {}
        self.missing: list[MissingFile] = []
        self.remote: list[tuple[str, str, Scalar]] = []
        self.documents: dict[str, tuple[MapNode, ...]] = {}
        self.taken = self.length = 0

    def miss(self, what: str, why: str, file: str = "") -> None:
        """Note what could not be taken into account."""
        self.missing.append(MissingFile(what=what, why=why, file=file))

    def elsewhere(self, key: str, place: Scalar) -> bool:
        """Whether a file is fetched, which is noted; nothing is fetched here."""
        if not REMOTE.search(address := str(place.value)):
            return False
        self.remote.append((key, address, place))
        self.miss(address, "it is fetched from elsewhere")
        return True

    def roots(self, path: str, why: str) -> tuple[MapNode, ...]:
        """The root mappings of a file's documents, parsed once. A later document overrides the earlier ones."""
        path = posixpath.normpath(path)
        if path in self.documents:
            return self.documents[path]
        self.documents[path] = ()
        file = self.read(path) if len(self.documents) <= MOST_FILES else None
        if file is None:
            self.miss(path, why, path)
            return ()
        self.length += len(file.text)
        if self.length > MOST_TEXT:
            self.miss(path, "the files of the project are too long together", path)
            return ()
        self.files[path] = file
        before = len(self.problems)
        nodes = parse_documents(file, self.problems)
        if len(self.problems) > before:
            return ()
        found = tuple(node for node in nodes if isinstance(node, MapNode))
        if not found or any(not isinstance(node, MapNode) and not is_null(node) for node in nodes):
            self.miss(path, "it is not a mapping", file.name)
        self.documents[path] = found
        return found

    def values(self, directory: str, names: Sequence[str] = (".env",)) -> Mapping[str, str]:
        """The variables of the environment files of a directory. The caller's own environment plays no part: the
        review is the same for everybody."""
        found: dict[str, str] = {}
        for name in names:
            file = self.read(posixpath.normpath(posixpath.join(directory, name)))
            found.update({str(key.value): str(value.value) for key, value in dotenv(file)})
        return found


def load(paths: Sequence[str], read: Reader, directory: str | None = None) -> Services:
    """The services of Compose files, later ones merged over earlier ones; relative paths start at the first one's."""
    project = _Project(read)
    base = directory if directory is not None else posixpath.dirname(paths[0])
    services: dict[str, tuple[Scalar, MapNode]] = {}
    top: dict[str, MapNode] = {}
    for path in paths:
        _take(project, path, base, services, top, 0)
    if any(RESET in file.text for file in project.files.values()):
        services = {name: (key, as_map(_without_reset(node))) for name, (key, node) in services.items()}
        top = {name: as_map(_without_reset(node)) for name, node in top.items()}
    return Services(
        services=services,
        top=top,
        files=tuple(project.files.values()),
        directory=base,
        remote=tuple(project.remote),
        missing=tuple(project.missing),
        faults=project.problems.diagnostics,
        read=read,
    )


def as_map(node: Node | None) -> MapNode:
    """A mapping; what is none counts as an empty one."""
    return node if isinstance(node, MapNode) else EMPTY


def _take(
    project: _Project,
    path: str,
    base: str,
    services: dict[str, tuple[Scalar, MapNode]],
    top: dict[str, MapNode],
    depth: int,
) -> None:
    project.taken += 1
    if depth > DEEPEST or project.taken > MOST_INCLUDES:
        if project.taken <= MOST_INCLUDES + 1:
            project.miss(path, "include goes in a circle, or too deep", path)
        return
    values = project.values(base)
    for root in project.roots(path, "it cannot be read"):
        for included, project_directory in _includes(project, root, base):
            _take(project, included, project_directory, services, top, depth + 1)
        for key in ("networks", "volumes", "secrets", "configs"):
            node = root.get(key)
            if isinstance(node, MapNode):
                top[key] = _maps((key,), top.get(key, EMPTY), as_map(filled(node, values)))
        listed = _listed(project, root, path, depth)
        if listed.tag in (RESET, OVERRIDE):
            services.clear()
        for name, node in listed.entries if listed.tag != RESET else ():
            if not isinstance(node, MapNode) and not is_null(node):
                project.miss(f"the service {name.value}", "it is not a mapping", path)
            own = _extended(project, as_map(node), root, path, base, values, ())
            earlier = services.pop(str(name.value), None)
            if node.tag == RESET:
                continue
            if earlier is not None and node.tag != OVERRIDE:
                own = _maps((), earlier[1], own)
            services[str(name.value)] = (name, own)


def _listed(project: _Project, root: MapNode, path: str, depth: int) -> MapNode:
    """The services of a document. The first format of Compose has them at the top."""
    listed = root.get("services")
    if isinstance(listed, MapNode):
        return listed
    if listed is not None and listed.tag == RESET:
        return msgspec.structs.replace(EMPTY, tag=RESET)
    first = [
        (name, msgspec.structs.replace(node, entries=tuple((_renamed(key), value) for key, value in node.entries)))
        for name, node in root.entries
        if isinstance(node, MapNode) and (node.get("image") or node.get("build"))
    ]
    if listed is None and first and len(first) == len(root.entries):
        return msgspec.structs.replace(root, entries=tuple(first))
    others = any(root.get(key) is not None for key in ("include", "networks", "volumes", "secrets", "configs"))
    if (listed is not None and not is_null(listed)) or (depth == 0 and not others):
        project.miss(path, "its services are not a mapping, or there are none", path)
    return EMPTY


def _renamed(key: Scalar) -> Scalar:
    """What a key of the first format is called now."""
    return msgspec.structs.replace(key, value="network_mode") if key.value == "net" else key


def _without_reset(node: Node) -> Node:
    """The node without what `!reset` took away, which no later file sets again."""
    match node:
        case ListNode():
            items = tuple(_without_reset(item) for item in node.items if item.tag != RESET)
            return msgspec.structs.replace(node, items=items)
        case MapNode():
            entries = tuple((key, _without_reset(value)) for key, value in node.entries if value.tag != RESET)
            return msgspec.structs.replace(node, entries=entries)
    return node


def _includes(project: _Project, root: MapNode, base: str) -> Iterator[tuple[str, str]]:
    listed = root.get("include")
    if listed is not None and not isinstance(listed, ListNode) and not is_null(listed):
        project.miss("include", "it is not a list")
    for item in listed.items if isinstance(listed, ListNode) else ():
        paths = item.get("path") if isinstance(item, MapNode) else item
        own = item.get("project_directory") if isinstance(item, MapNode) else None
        every = paths.items if isinstance(paths, ListNode) else (paths,) if paths is not None else ()
        for one in every:
            if not isinstance(one, Scalar) or not isinstance(one.value, str) or project.elsewhere("include", one):
                continue
            place = posixpath.normpath(posixpath.join(base, one.value))
            if isinstance(own, Scalar) and isinstance(own.value, str):
                yield place, posixpath.normpath(posixpath.join(base, own.value))
            else:
                yield place, posixpath.dirname(place)


def _extended(
    project: _Project,
    node: MapNode,
    root: MapNode,
    path: str,
    base: str,
    values: Mapping[str, str],
    chain: tuple[tuple[str, str], ...],
) -> MapNode:
    """A service with what it extends below it."""
    own = as_map(filled(node.without("extends"), values))
    extends = node.get("extends")
    name: Node | None = extends.get("service") if isinstance(extends, MapNode) else extends
    if not isinstance(name, Scalar) or not isinstance(name.value, str):
        return own
    file = extends.get("file") if isinstance(extends, MapNode) else None
    other_path, other_root = path, root
    if isinstance(file, Scalar) and isinstance(file.value, str):
        if project.elsewhere("extends", file):
            return own
        other_path = posixpath.normpath(posixpath.join(posixpath.dirname(path) or base, file.value))
        found = project.roots(other_path, f"{path} extends it, and it cannot be read")
        if not found:
            return own
        other_root = next((one for one in reversed(found) if _service_of(one, name.value) is not None), found[0])
    step = (other_path, name.value)
    below = _service_of(other_root, name.value)
    if not isinstance(below, MapNode) or step in chain or len(chain) >= DEEPEST:
        why = "it does not exist" if below is None else "extends goes in a circle, or too deep"
        project.miss(f"{other_path}: {name.value}", why, path)
        return own
    lower = _extended(project, below, other_root, other_path, base, values, (*chain, step))
    return _maps((), lower.without("depends_on", "links", "volumes_from"), own)


def _service_of(root: MapNode, name: str) -> Node | None:
    return as_map(root.get("services")).get(name)


# -- merging, as Compose does

_REPLACED = {("command",), ("entrypoint",), ("healthcheck", "test"), ("image",)}
_BY_NAME = "environment labels args extra_hosts sysctls annotations ulimits networks depends_on".split()
_BY_TARGET = ("volumes", "devices", "secrets", "configs")


def merge(path: tuple[str, ...], low: Node, high: Node) -> Node:
    """Two values of one key, the higher file's second."""
    if path in _REPLACED:
        return high
    last = path[-1] if path else ""
    if last in _BY_NAME:
        below, above = by_name(low), by_name(high)
        if below is not None and above is not None:
            return _maps(path, below, above)
    match low, high:
        case MapNode(), MapNode():
            return _maps(path, low, high)
        case ListNode(), ListNode():
            if last in _BY_TARGET:
                taken = {target_of(item) for item in high.items}
                kept = tuple(item for item in low.items if target_of(item) not in taken)
                return msgspec.structs.replace(high, items=(*kept, *high.items))
            return msgspec.structs.replace(high, items=(*low.items, *high.items))
    return high


def _maps(path: tuple[str, ...], low: MapNode, high: MapNode) -> MapNode:
    merged = {str(key.value): (key, value) for key, value in low.entries}
    for key, value in high.entries:
        name = str(key.value)
        earlier = merged.get(name) if value.tag not in (RESET, OVERRIDE) else None
        merged[name] = (key, merge((*path, name), earlier[1], value) if earlier is not None else value)
    return MapNode(entries=tuple(merged.values()), span=high.span)


def by_name(node: Node | None) -> MapNode | None:
    """A mapping, or a list of `NAME=value` (or `name:value`, or bare names) as one; None for something else."""
    match node:
        case MapNode():
            return node
        case ListNode():
            entries = []
            for item in node.items:
                if not isinstance(item, Scalar):
                    return None
                text = str(item.value)
                name, separator, rest = text.partition("=" if "=" in text else ":")
                value = rest if separator else None
                key = Scalar(value=name, text=name, span=item.span)
                raw = item.text.partition("=")[2] if "=" in item.text else value
                entries.append((key, Scalar(value=value, text=raw or "", span=item.span)))
            return MapNode(entries=tuple(entries), span=node.span)
    return None


def target_of(item: Node) -> str:
    """What a mount, device, secret or config is inside."""
    match item:
        case MapNode():
            found = item.get("target") or item.get("source")
            return str(found.value) if isinstance(found, Scalar) else ""
        case Scalar(value=str() as text):
            parts = split_mount(text)
            return parts[1] if len(parts) > 1 else parts[0]
    return ""


def split_mount(text: str) -> list[str]:
    """The parts of `source:target:mode`: a Windows drive, and a `${NAME:-default}`, are left whole."""
    parts, depth, begun = [], 0, 0
    for at, character in enumerate(text):
        depth += (character == "{") - (character == "}")
        drive = at == begun + 1 and text[begun].isalpha() and text[at + 1 : at + 2] in ("\\", "/") and character == ":"
        if character == ":" and depth == 0 and not (drive and begun == 0 and at == 1):
            parts.append(text[begun:at])
            begun = at + 1
    return [*parts, text[begun:]]
