"""Compose files as one set of services: interpolation, overrides, `include` and `extends`, with positions kept.

Owns how Compose puts files together. Reads nothing by itself: the caller says what a path holds (`Reader`).
"""

from __future__ import annotations

import posixpath
import re
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import msgspec

from sandboxrun.data import Data
from sandboxrun.errors import Diagnostic, ListNode, MapNode, Node, Problems, Scalar, SourceFile, Span, is_null
from sandboxrun.profile.yaml import OVERRIDE, RESET, parse_documents
from sandboxrun.spec.types import freeze

DEEPEST = 10
MOST_FILES = 100
MOST_INCLUDES = 200  # of one load: a file that is included twice is taken twice
MOST_TEXT = 4 << 20  # characters of all files; of all that variables are made of; of all that they make of texts
LONGEST = 1 << 18  # characters that a text may have with its variables filled in
EMPTY = MapNode(entries=())
_BESIDE = ("networks", "volumes", "secrets", "configs")  # the services
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
    project: str = ""  # its name, where a file says it: what volumes and networks on the engine begin with
    read: Reader = lambda path: None
    leads: Callable[[str], str | None] = lambda path: None


_VARIABLE = re.compile(
    r"\$(?:(?P<escaped>\$)|(?P<named>[A-Za-z_]\w*)|\{(?P<braced>[A-Za-z_]\w*)(?:(?P<op>:?[-?+])|(?=\})))", re.ASCII
)
_TOKEN = re.compile(rf"{_VARIABLE.pattern}|(?P<brace>[{{}}])", re.ASCII)
# What every caller's environment has, and rules know: no default counts, nor what a file of the project says.
CALLERS = frozenset("HOME PWD SSH_AUTH_SOCK XDG_RUNTIME_DIR DBUS_SESSION_BUS_ADDRESS".split())


class _Open(msgspec.Struct):
    """A `${NAME:-` whose end has not been found yet: where it begins, and what of its rest was filled in."""

    start: int
    name: str
    op: str
    depth: int = 1
    parts: list[str] = msgspec.field(default_factory=list)


def interpolate(text: str, values: Mapping[str, str]) -> str:
    """A text with its variables filled in from `values`, or their defaults, at any depth. What has neither stays as it
    is written; of `${NAME:+text}` the text counts where nothing is known of the variable. A text that would become too
    long for any use stays as it is."""
    if "$" not in text:
        return text
    opened = [_Open(0, "", "")]
    at = length = 0
    for found in _TOKEN.finditer(text):
        if found.start() < at:
            continue
        if length > LONGEST:
            return text
        last = opened[-1]
        last.parts.append(text[at : found.start()])
        at = found.end()
        if found["braced"] and found["op"]:
            opened.append(_Open(found.start(), found["braced"], found["op"]))
        elif name := found["named"] or found["braced"]:
            at += found["named"] is None  # the brace
            last.parts.append(values.get(name, text[found.start() : at]))
            length += len(last.parts[-1])
        elif found["escaped"]:
            last.parts.append("$")
        else:
            last.depth += 1 if found["brace"] == "{" else -1
            if last.depth == 0 and len(opened) > 1:
                opened.pop()
                opened[-1].parts.append(_value(last, text[last.start : at], values))
                length += len(values.get(last.name, ""))
            else:
                last.parts.append(found["brace"])
    if len(opened) > 1:  # one that does not end is no variable
        return "".join(opened[0].parts) + text[opened[1].start :]
    return "".join([*opened[0].parts, text[at:]])


def _value(variable: _Open, written: str, values: Mapping[str, str]) -> str:
    """What becomes of `${NAME:-rest}` and its kin."""
    value, rest = values.get(variable.name), "".join(variable.parts)
    given = value is not None and (value != "" or not variable.op.startswith(":"))
    match variable.op.lstrip(":"):
        case "-" if variable.name in CALLERS:
            return f"${{{variable.name}}}"
        case "-":
            return str(value) if given else rest
        case "+":
            return rest if given or value is None else ""
    return written if value is None else value


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


_NAME = re.compile(r"(?:export[ \t]+)?(?P<name>[A-Za-z0-9_.\[\]-]+)[ \t]*(?:(?P<set>[=:])[ \t]*|(?=[\r\n]|\Z))")
_QUOTED = {"'": re.compile(r"'((?:[^'\\]|\\.)*)'", re.DOTALL), '"': re.compile(r'"((?:[^"\\]|\\.)*)"', re.DOTALL)}
_BLANK = re.compile(r"\s*(?:#[^\n]*)?")


class EnvironmentFile(Data):
    """The names and values of an environment file, and the number of the first line that is neither; None for none."""

    pairs: tuple[tuple[Scalar, Scalar], ...] = ()
    fault: int | None = None


def dotenv(file: SourceFile | None, values: Mapping[str, str]) -> EnvironmentFile:
    """An environment file as Compose reads it: `NAME=value` or `NAME: value`, quotes over several lines, values made of
    `values` and of earlier ones. A name alone takes the caller's value, which nobody knows."""
    if file is None:
        return EnvironmentFile()
    text, at, known, fault, spent = file.text, 0, dict(values), None, 0
    begins = [0, *(found.end() for found in re.finditer("\n", text))]
    found: dict[str, tuple[Scalar, Scalar]] = {}

    def place(start: int, end: int) -> Span:
        line = bisect_right(begins, start)
        return Span(file=file, line=line, column=start - begins[line - 1] + 1, length=max(1, end - start))

    while at < len(text):
        if (blank := _BLANK.match(text, at)) is not None and blank.end() > at:
            at = blank.end()
            continue
        line = bisect_right(begins, at)
        end = begins[line] - 1 if line < len(begins) else len(text)
        if (name := _NAME.match(text, at)) is None:
            fault = fault or line
            at = end
            continue
        if not name["set"]:
            at = end
            continue
        begun, key = name.end(), name["name"]
        if (quote := text[begun : begun + 1]) in _QUOTED:
            if (whole := _QUOTED[quote].match(text, begun)) is None:  # it goes on to the end of the file
                fault = fault or line
                break
            at, end = whole.end(), min(end, whole.end())
            value = interpolate(_unescaped(whole[1]), known) if quote == '"' else whole[1]
        else:
            at = end
            value = interpolate(re.split(r"(?:^|\s)#", text[begun:end], maxsplit=1)[0].rstrip(), known)
        known[key], spent = value, spent + len(value)
        if spent > MOST_TEXT:
            fault = fault or line
            break
        found[key] = (
            Scalar(value=key, text=key, span=place(name.start("name"), name.end("name"))),
            Scalar(value=value, text=value, span=place(begun, begun + len(text[begun:end].rstrip()))),
        )
    return EnvironmentFile(pairs=tuple(found.values()), fault=fault)


def files_named(file: SourceFile) -> tuple[str, ...]:
    """The Compose files that a directory's environment file names in place of those with Compose's own names."""
    said = {str(key.value): str(value.value) for key, value in dotenv(file, {}).pairs}
    named = said.get("COMPOSE_FILE", "")
    return tuple(filter(None, named.split(said.get("COMPOSE_PATH_SEPARATOR") or ":")))


def _unescaped(text: str) -> str:
    return re.sub(r"\\(.)", lambda found: {"n": "\n", "r": "\r", "$": "$$"}.get(found[1], found[1]), text)


EMPTY_VALUES: Mapping[str, str] = freeze({})


_TOO_LONG = "the files of the project are too long together"


class _Project:
    """One load: what its steps share."""

    def __init__(self, read: Reader, directory: str) -> None:
        self.read, self.problems, self.directory = read, Problems(), directory
        self.files: dict[str, SourceFile] = {}
        self.missing: list[MissingFile] = []
        self.remote: list[tuple[str, str, Scalar]] = []
        self.documents: dict[str, tuple[MapNode, ...]] = {}
        self.taken = self.length = self.made = 0
        self.name = ""

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
            self.miss(path, _TOO_LONG, path)
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

    def filled(self, node: Node, values: Mapping[str, str]) -> Node:
        """The node with every text interpolated; `text` of a scalar stays what the file says."""
        match node:
            case Scalar(value=str() as text) if "$" in text:
                if self.made > MOST_TEXT:
                    return node
                made = interpolate(text, values)
                self.made += len(made)
                if self.made > MOST_TEXT:
                    self.miss(text[:40], "the variables of the project make texts that are too long together")
                return msgspec.structs.replace(node, value=made, text=text)
            case ListNode():
                return msgspec.structs.replace(node, items=tuple(self.filled(item, values) for item in node.items))
            case MapNode():
                entries = tuple((key, self.filled(value, values)) for key, value in node.entries)
                return msgspec.structs.replace(node, entries=entries)
        return node

    def values(self, paths: Iterable[str], outer: Mapping[str, str] = EMPTY_VALUES) -> Mapping[str, str]:
        """The variables of environment files, which those of the files that include them come before. The caller's own
        environment plays no part: the review is the same for everybody."""
        found: dict[str, str] = {}
        for path in map(posixpath.normpath, paths):
            source = self.read(path)
            self.length += len(source.text) if source is not None else 0
            if self.length > MOST_TEXT:  # one that many includes name is read for each of them
                self.miss(path, _TOO_LONG, path)
                break
            file = dotenv(source, {**found, **outer})
            if file.fault is not None:
                self.miss(f"{path}:{file.fault}", "it is not NAME=value")
            found.update({str(key.value): str(value.value) for key, value in file.pairs if key.value not in CALLERS})
        return {**found, **outer}

    def way(self, base: str) -> str:
        """The way from the project's directory to another one, by which relative paths there are told here: "." for
        none, and absolute for one that lies elsewhere."""
        found = posixpath.relpath(base or ".", self.directory or ".")
        return base if found.startswith("..") and posixpath.isabs(base) else found


def load(
    paths: Sequence[str],
    read: Reader,
    directory: str | None = None,
    leads: Callable[[str], str | None] = lambda path: None,
) -> Services:
    """The services of Compose files, later ones merged over earlier ones; relative paths start at the first one's."""
    base = directory if directory is not None else posixpath.dirname(paths[0])
    project = _Project(read, base)
    services: dict[str, tuple[Scalar, MapNode]] = {}
    top: dict[str, MapNode] = {}
    values = project.values([posixpath.join(base, ".env")])
    for path in paths:
        _take(project, path, base, values, services, top, 0)
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
        project=project.name or values.get("COMPOSE_PROJECT_NAME", ""),
        read=read,
        leads=leads,
    )


def as_map(node: Node | None) -> MapNode:
    """A mapping; what is none counts as an empty one."""
    return node if isinstance(node, MapNode) else EMPTY


def _take(
    project: _Project,
    path: str,
    base: str,
    values: Mapping[str, str],
    services: dict[str, tuple[Scalar, MapNode]],
    top: dict[str, MapNode],
    depth: int,
) -> None:
    project.taken += 1
    if depth > DEEPEST or project.taken > MOST_INCLUDES:
        if project.taken <= MOST_INCLUDES + 1:
            project.miss(path, "include goes in a circle, or too deep", path)
        return
    way = project.way(base)
    for root in project.roots(path, "it cannot be read"):
        for included, project_directory, files in _includes(project, root, base, values):
            inner = project.values(files, values)
            for one in included:
                _take(project, one, project_directory, inner, services, top, depth + 1)
        name = root.get("name")
        if depth == 0 and isinstance(name, Scalar) and isinstance(filled := project.filled(name, values), Scalar):
            project.name = str(filled.value or "") or project.name  # the last file's counts
        for key in _BESIDE:
            if isinstance(node := root.get(key), MapNode):
                top[key] = _maps((key,), top.get(key, EMPTY), as_map(_moved((key,), project.filled(node, values), way)))
        listed = _listed(project, root, path, depth)
        if listed.tag in (RESET, OVERRIDE):
            services.clear()
        for name, node in listed.entries if listed.tag != RESET else ():
            if not isinstance(node, MapNode) and not is_null(node):
                project.miss(f"the service {name.value}", "it is not a mapping", path)
            own = _extended(project, as_map(node), root, path, base, values, ())
            _add(services, name, node.tag, own)


def _add(services: dict[str, tuple[Scalar, MapNode]], name: Scalar, tag: str, own: MapNode) -> None:
    """Put a service over the one of its name in an earlier file."""
    earlier = services.pop(str(name.value), None)
    if tag == RESET:
        return
    if earlier is not None and tag != OVERRIDE:
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
    others = any(root.get(key) is not None for key in ("include", *_BESIDE))
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


def _includes(
    project: _Project, root: MapNode, base: str, values: Mapping[str, str]
) -> Iterator[tuple[Sequence[str], str, Sequence[str]]]:
    """The files of each include, of which later ones override the first; its directory, and its environment files."""
    listed = root.get("include")
    if listed is not None and not isinstance(listed, ListNode) and not is_null(listed):
        project.miss("include", "it is not a list")
    for item in listed.items if isinstance(listed, ListNode) else ():
        item = project.filled(item, values)
        given = item if isinstance(item, MapNode) else MapNode(entries=((Scalar(value="path"), item),))
        places = [
            posixpath.normpath(posixpath.join(base, str(one.value)))
            for one in _strings(given.get("path"))
            if not project.elsewhere("include", one)
        ]
        if not places:
            continue
        own = next(_strings(given.get("project_directory")), None)
        directory = posixpath.dirname(places[0])
        if own is not None:
            directory = posixpath.normpath(posixpath.join(base, str(own.value)))
        files = [posixpath.join(base, str(one.value)) for one in _strings(given.get("env_file"))]
        yield places, directory, files or [posixpath.join(directory, ".env")]


def _strings(node: Node | None) -> Iterator[Scalar]:
    """The texts of a list, or of one text."""
    for one in node.items if isinstance(node, ListNode) else (node,):
        if isinstance(one, Scalar) and isinstance(one.value, str):
            yield one


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
    own = as_map(_moved(("services",), project.filled(node.without("extends"), values), project.way(base)))
    extends = node.get("extends")
    extends = project.filled(extends, values) if extends is not None else None
    name: Node | None = extends.get("service") if isinstance(extends, MapNode) else extends
    if not isinstance(name, Scalar) or not isinstance(name.value, str):
        return own
    file = extends.get("file") if isinstance(extends, MapNode) else None
    other_path, other_root = path, root
    if isinstance(file, Scalar) and isinstance(file.value, str):
        if project.elsewhere("extends", file):
            return own
        other_path = posixpath.normpath(posixpath.join(base, file.value))
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
    beside = base if other_path == path else posixpath.dirname(other_path)
    return _maps((), _extended(project, below, other_root, other_path, beside, values, (*chain, step)), own)


# Where a path of the host is relative to the directory of its own file: of a service, and of what stands beside them.
_PATHS = {
    ("services", "env_file"), ("services", "env_file", "path"), ("services", "label_file"), ("services", "build"),
    ("services", "build", "context"), ("services", "develop", "watch", "path"), ("secrets", "*", "file"),
    ("configs", "*", "file"), ("volumes", "*", "driver_opts", "device"), ("services", "volumes", "bind"),
    ("services", "build", "additional_contexts", "*"),
}  # fmt: skip
_CONTEXTS = ("services", "build", "additional_contexts")
_MOUNTS = {("services", "volumes"), ("services", "volumes", "source")}


def _moved(path: tuple[str, ...], node: Node, way: str) -> Node:
    """The node with its relative paths as they are from the project's directory, which `way` leads from to theirs."""
    if way == ".":
        return node
    match node:
        case Scalar(value=str() as text) if path in _MOUNTS:
            source, *rest = split_mount(text) if path[-1] == "volumes" else [text]
            if not source.startswith("."):
                return node
            return msgspec.structs.replace(node, value=":".join([_joined(way, source), *rest]))
        case Scalar(value=str() as text) if path in _PATHS and not text.startswith(("/", "~", "$")):
            is_path = text.startswith(".") if path[-1] == "device" else not REMOTE.search(text)
            return msgspec.structs.replace(node, value=_joined(way, text)) if is_path else node
        case ListNode():
            return msgspec.structs.replace(node, items=tuple(_moved(path, item, way) for item in node.items))
        case MapNode():
            names = (len(path) == 1 and path != ("services",)) or path == _CONTEXTS  # and no keys stand below these
            bound = path == ("services", "volumes") and any(one.value == "bind" for one in _strings(node.get("type")))
            steps = (
                "*" if names else "bind" if bound and key.value == "source" else key.value for key, _ in node.entries
            )
            moved = (
                (key, _moved((*path, str(step)), value, way))
                for step, (key, value) in zip(steps, node.entries, strict=True)
            )
            return msgspec.structs.replace(node, entries=tuple(moved))
    return node


def _joined(way: str, path: str) -> str:
    """A relative path by the way to its directory, in a spelling that no name has."""
    found = posixpath.normpath(posixpath.join(way, path))
    return found if found.startswith(("/", "..", "~", "$")) else f"./{found}"


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
