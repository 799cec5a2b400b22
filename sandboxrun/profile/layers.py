"""A file's parts; `extends`, merging and `for_each`: a sandbox as the layers it is made of, combined option by option,
as often as it is wanted; and what a file has that only Compose would read.
"""

from __future__ import annotations

import functools
import os
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from msgspec import field, structs

from sandboxrun.data import Data
from sandboxrun.errors import (
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
    node_of,
    plain_of,
    walk,
)
from sandboxrun.profile.files import bases, read_source
from sandboxrun.profile.templates import Renderer, TemplateScope, check_keys, is_template, is_template_key, literal
from sandboxrun.profile.yaml import parse_yaml
from sandboxrun.spec.names import KEY
from sandboxrun.spec.option import Row, RowData, to_plain
from sandboxrun.spec.spec import ROWS
from sandboxrun.spec.types import INVALID, Entry, ListOf, Text, describe, name_of, refuse, span_of

# -- One file of a profile, split into its parts

OBJECTS = ("networks", "volumes", "secrets", "configs")
TOP_KEYS = ("name", "variables", "sandboxes", *OBJECTS)
_REFUSED = {
    "services": "this is a Compose file: here they are called sandboxes:",
    "version": "remove it: Compose no longer reads it either",
    "include": "use extends: {file: …, sandbox: …} in a sandbox",
    "models": "give the sandbox a network and a secret instead",
}
MOST_SANDBOXES = 1000
_NAME = Text(pattern=KEY, hint="a name of letters, digits, _ . and -")
EMPTY = MapNode(entries=())


class ProfileDocument(Data):
    """A file's parts. `directory` is where its relative paths start; `base` names a built-in base."""

    file: SourceFile | None
    directory: Path
    base: str | None = None
    name: Node | None = None
    variables: Node | None = None
    sandboxes: Mapping[str, tuple[Scalar, MapNode]] = field(default_factory=dict)
    objects: Mapping[str, MapNode] = field(default_factory=dict)  # networks, volumes, secrets, configs
    has_sandboxes: bool = False


def read_document(
    path: Path, name: str, directory: Path, problems: Problems, *, base: str | None = None, asked_at: Span | None = None
) -> ProfileDocument | None:
    """The file at `path` as a document; None, with the reason noted, when it is none."""
    file = read_source(path, name, problems, asked_at=asked_at)
    if file is None:
        return None
    node, faults = _parsed(file.name, file.text)
    problems.extend(faults)
    return None if node is None else split_document(node, file, directory, problems, base=base)


@functools.lru_cache(maxsize=8)
def _parsed(name: str, text: str) -> tuple[Node | None, tuple[Diagnostic, ...]]:
    """A text's root node: a review loads a profile with one value of its variables after the other, a project of many
    the same bases."""
    problems = Problems()
    return parse_yaml(SourceFile(name=name, text=text), problems), problems.diagnostics


def split_document(
    node: Node, file: SourceFile | None, directory: Path, problems: Problems, *, base: str | None = None
) -> ProfileDocument | None:
    """A root node as a document."""
    if is_null(node):
        problems.add("the profile is empty", node.span, "begin with sandboxes: {agent: {image: …}}")
        return None
    if not isinstance(node, MapNode):
        refuse(problems, node, "a profile", f"its keys are {', '.join(TOP_KEYS)}")
        return None
    help = f"a profile has: {', '.join(TOP_KEYS)}, and x-… of your own"
    check_keys(node, TOP_KEYS, "the profile", help, problems, _REFUSED)
    listed = node.get("sandboxes") or node.get("services")  # whose faults are told in the same round
    entries = _object_map(listed, "sandboxes", problems).entries
    if len(entries) > MOST_SANDBOXES and listed is not None:
        problems.add(f"more than {MOST_SANDBOXES} sandboxes", listed.span, "use for_each")
        entries = ()
    sandboxes: dict[str, tuple[Scalar, MapNode]] = {}
    for key, value in entries:
        value = MapNode(entries=(), span=key.span) if is_null(value) else value
        if isinstance(value, MapNode):
            sandboxes[str(key.value)] = (key, value)
        else:
            refuse(problems, value, "a sandbox", "write image: … below it")
    return ProfileDocument(
        file=file,
        directory=directory,
        base=base,
        name=node.get("name"),
        variables=node.get("variables"),
        sandboxes=sandboxes,
        objects={kind: _object_map(node.get(kind), kind, problems) for kind in OBJECTS},
        has_sandboxes=listed is not None,
    )


def _object_map(node: Node | None, key: str, problems: Problems) -> MapNode:
    match node:
        case None | Scalar(value=None):
            return EMPTY
        case MapNode():
            entries = (entry for entry in node.entries if not is_template_key(entry[0], problems))
            named = tuple(entry for entry in entries if isinstance(_NAME.parse(entry[0], problems), str))
            return structs.replace(node, entries=named)
    refuse(problems, node, f"a mapping of {key}", f"write {key}: {{NAME: {{…}}}}")
    return EMPTY


# -- `extends`: a sandbox as the layers it is made of, the lowest first

DEEPEST = 10
MOST_FILES = 50


class Layer(Data):
    """One sandbox mapping of one document."""

    node: MapNode
    document: ProfileDocument


class _Step(Data, kw_only=False):
    document: ProfileDocument
    sandbox: str

    def __str__(self) -> str:
        return f"{self.document.base or (self.document.file.name if self.document.file else 'profile')}:{self.sandbox}"


class Bases:
    """Finds the layers of sandboxes; reads each base's file once. `root` is the project's directory."""

    def __init__(self, root: Path, problems: Problems) -> None:
        self.root = Path(os.path.realpath(root))
        self.problems = problems
        self.documents: dict[Path, ProfileDocument | None] = {}
        self._circles: set[frozenset[str]] = set()

    def layers(self, document: ProfileDocument, sandbox: str, chain: tuple[_Step, ...] = ()) -> list[Layer]:
        """The layers of a sandbox of `document`, its own last; faults are noted and their base left out."""
        _, node = document.sandboxes[sandbox]
        own = Layer(node=node.without("extends"), document=document)
        extends = node.get("extends")
        if extends is None or is_null(extends):
            return [own]
        step = _Step(document, sandbox)
        span = span_of(node, "extends")
        target = self._target(extends, document)
        if target is None:
            return [own]
        seen = (*chain, step)
        if target in seen:
            steps = seen[seen.index(target) :]
            members = frozenset(map(str, steps))
            if members not in self._circles:  # each of its members leads into it
                self._circles.add(members)
                shown = " -> ".join(map(str, (*steps, steps[0])))
                self.problems.add(f"extends goes in a circle: {shown}", span, "remove one of them")
            return [own]
        if len(seen) >= DEEPEST:
            self.problems.add(f"more than {DEEPEST} sandboxes extend each other", span, "flatten the bases")
            return [own]
        return [*self.layers(target.document, target.sandbox, seen), own]

    def _target(self, node: Node, document: ProfileDocument) -> _Step | None:
        other: ProfileDocument | None = document
        match node:
            case Scalar(value=str() as name, span=span) if not is_template(node):
                known = bases()
                if name not in known:
                    help = did_you_mean(name, known) or f"shipped are: {', '.join(known)}"
                    if name in document.sandboxes:
                        help = f"for a sandbox of this file write extends: {{sandbox: {name}}}"
                    elif name.endswith((".yaml", ".yml")):
                        help = f"for a sandbox of another file write extends: {{file: {name}, sandbox: …}}"
                    self.problems.add(f'there is no built-in base "{name}"', span, help)
                    return None
                path = known[name]
                # a base's own paths start at the project, so it has no directory of its own
                if path not in self.documents:
                    told = f"shipped:{path.name}"
                    self.documents[path] = read_document(path, told, self.root, self.problems, base=name)
                other = self.documents[path]
            case MapNode():
                words = self._words(node)
                if words is None:
                    return None
                name, span = str(words["sandbox"].value), words["sandbox"].span
                if "file" in words:
                    other = self._file(str(words["file"].value), words["file"].span, document)
            case _:
                what = "a template" if is_template(node) else describe(node)
                help = "write the name of a built-in base, or {file: …, sandbox: …}"
                self.problems.add(f"expected a base, found {what}", node.span, help)
                return None
        if other is None or name in other.sandboxes:
            return None if other is None else _Step(other, name)
        help = did_you_mean(name, other.sandboxes) or f"it has: {', '.join(other.sandboxes) or 'none'}"
        where = other.file.name if other.file else "the profile"
        self.problems.add(f'{where} has no sandbox "{name}"', span, help)
        return None

    def _words(self, node: MapNode) -> dict[str, Scalar] | None:
        """The values of a reference to a sandbox of this file or of another one."""
        words: dict[str, Scalar] = {}
        for key, value in node.entries:
            if key.value not in _KEYS:
                help = 'the key is "sandbox"' if key.value == "service" else did_you_mean(str(key.value), _KEYS)
                self.problems.add(f'unknown key "{key.value}" in extends', key.span, help or "it has file and sandbox")
                return None
            if not isinstance(value, Scalar) or not isinstance(value.value, str) or is_template(value):
                refuse(self.problems, value, "a text", "templates can't name a base")
                return None
            words[str(key.value)] = value
        if "sandbox" in words:
            return words
        self.problems.add('extends lacks "sandbox"', node.span, "say which sandbox of the file")
        return None

    def _file(self, text: str, span: Span | None, document: ProfileDocument) -> ProfileDocument | None:
        path = inside(self.root, document.directory, text)
        if path is None:
            self.problems.add(f'the file "{text}" is outside of the project', span, OUTSIDE)
            return None
        if path not in self.documents:
            if len(self.documents) >= MOST_FILES:
                self.problems.add(f"more than {MOST_FILES} files", span, "put several bases into one file")
                return None
            name = os.path.normpath(os.path.join(os.path.dirname(document.file.name if document.file else ""), text))
            self.documents[path] = read_document(path, name, path.parent, self.problems, asked_at=span)
        return self.documents[path]


_KEYS = ("file", "sandbox")
OUTSIDE = "only files below the project's directory are read: no absolute paths, no .., no symlinks that point outside"


def inside(root: Path, directory: Path, text: str) -> Path | None:
    """The real path of `text`, relative to `directory`, if it lies below `root`; else None."""
    if "\0" in text or os.path.isabs(text):
        return None
    path = Path(os.path.realpath(directory / text))
    return path if path.is_relative_to(root) else None


# -- Merging the layers of a sandbox, option by option, as Compose does


@cache
def closed_defaults() -> dict[str, Node]:
    """The lowest layer: the defaults of options that are merged."""
    merged = [row for row in ROWS if row.settable and row.merge != "replace" and row.default]
    records = {row.key: to_plain(row.default) for row in merged if isinstance(row.default, RowData)}
    return {row.key: node_of(records.get(row.key) or row.type.plain(row.default)) for row in merged}


def merge_option(row: Row, values: Sequence[Node]) -> Node | None:
    """One option's values, the lowest layer first, as one; None where it is reset to its default."""
    start = max((i + 1 for i, value in enumerate(values) if is_null(value)), default=0)
    kept = list(values[start:])
    if not kept:
        return None
    if row.key in closed_defaults():
        kept.insert(0, closed_defaults()[row.key])
    merge = {"append": _append, "target": _append, "map": _map}.get(row.merge)
    return kept[-1] if merge is None else functools.reduce(functools.partial(merge, row), kept)


def _append(row: Row, low: Node, high: Node) -> Node:
    below, above = _items(row, low), _items(row, high)
    if below is None or above is None:
        return high
    replaced = {row.type.identity(item) for item in above} - {INVALID}
    kept = tuple(item for item in below if row.type.identity(item) not in replaced)
    return ListNode(items=(*kept, *above), span=high.span)


def _items(row: Row, node: Node) -> tuple[Node, ...] | None:
    if isinstance(node, ListNode):
        return node.items
    return (node,) if isinstance(row.type, ListOf) and row.type.single and isinstance(node, Scalar) else None


def _map(row: Row, low: Node, high: Node) -> Node:
    below, above = _entries(row, low), _entries(row, high)
    if below is None or above is None:
        return high
    return MapNode(entries=_by_key(below, above), span=high.span)


def _by_key(below: Sequence[Entry], above: Sequence[Entry]) -> tuple[Entry, ...]:
    merged = {name_of(key.value): (key, value) for key, value in below}
    for key, value in above:
        name = name_of(key.value)
        earlier = merged.get(name)
        if earlier is not None and isinstance(earlier[1], MapNode) and isinstance(value, MapNode):
            value = MapNode(entries=_by_key(earlier[1].entries, value.entries), span=value.span)
        merged[name] = (key, value)
    return tuple(merged.values())


def _entries(row: Row, node: Node) -> list[Entry] | None:
    """A mapping's entries, or a list's items split into them; None for what is neither, or says a key twice."""
    entries = row.type.entries(node, problems := Problems())
    return None if problems or len({key.value for key, _ in entries}) < len(entries) else entries


# -- `for_each` and `when`: how many instances a sandbox has

MOST = 1000
LONGEST_KEY = 200


class Each(Data):
    """One instance: its key as the address shows it, and what `each` is in templates."""

    key: str | None
    value: Any = None


def instances(node: Node | None, renderer: Renderer, scope: TemplateScope, problems: Problems) -> list[Each]:
    """The instances; a single one without a key where there is no `for_each`."""
    if node is None or is_null(node):
        return [Each(key=None)]
    rendered = renderer.render(node, scope, mapping=True)
    pairs: list[tuple[Scalar, Any]] = []
    match rendered:
        case None:
            pass
        case ListNode():
            for item in rendered.items:
                if isinstance(item, Scalar) and item.value is not None:
                    pairs.append((item, item.value))
                else:
                    help = "for more than a name use a mapping, and each.key and each.value"
                    refuse(problems, item, "a plain value", help)
        case MapNode():
            pairs = [(key, {"key": str(key.value), "value": plain_of(value)}) for key, value in rendered.entries]
        case _:
            message = f"for_each takes a list or a mapping, found {describe(rendered)}"
            problems.add(message, rendered.span, "write for_each: [a, b]")
    if len(pairs) > MOST:
        problems.add(f"for_each has more than {MOST} items", node.span, "split it into several sandboxes")
        return []
    found: dict[str, Each] = {}
    for item, value in pairs:
        key = ("true" if item.value else "false") if isinstance(item.value, bool) else str(item.value)
        if not key or len(key) > LONGEST_KEY or not key.isprintable():
            help = f"it names the sandbox: 1 to {LONGEST_KEY} characters that can be printed"
            problems.add("this item of for_each can't be a name", item.span, help)
        elif key in found:
            problems.add(f'for_each holds "{key}" twice', item.span, "each item makes one sandbox: remove one")
        else:
            found[key] = Each(key=key, value=value)
    return list(found.values())


def holds(node: Node | None, renderer: Renderer, scope: TemplateScope, problems: Problems) -> bool:
    """Whether `when` keeps the sandbox; True without a `when`."""
    if node is None or is_null(node):
        return True
    rendered = renderer.render(node, scope)
    if rendered is None:
        return False
    if isinstance(rendered, Scalar) and isinstance(rendered.value, bool):
        return rendered.value
    help = "compare: {{ name == 'value' }}, or write true or false"
    problems.add(f"when takes true or false, found {describe(rendered)}", node.span, help)
    return False


# -- Dollars as Compose reads them: `$$`, `${NAME:-x}` and `$NAME` are plain text here, with a message that says so. An
# error where no shell can read the text; in commands, which shells read, a warning for what no correct script has;
# nothing for what a template makes, which is meant as it is

# Compiled with their first use, as few profiles have any.
_BRACES = r"\$\{[A-Za-z_](?:[^{}\n]|\{[^{}\n]*\})*\}?"  # Compose's may hold another: ${A:-${B}}
_ANY = rf"\$\$|{_BRACES}|\$[A-Za-z_]\w*"
_BRACED = rf"\$\$|{_BRACES}|^\$[A-Za-z_]\w*$"
_CONTENT = rf"\$\$(?=[A-Za-z_{{(])|(?<!\$){_BRACES}"
_ESCAPED = r"\$\$(?=[A-Za-z_{(])"  # a shell takes it for its process id, with a name right after it
_PARTS = r"\$\{?(?:var\.)?(\w+)(?::?-([^}]*))?"

_SHELLS = frozenset("sh bash dash ash zsh ksh fish busybox".split())
_CODE = _SHELLS | frozenset("awk gawk mawk nawk sed jq perl envsubst".split())  # give dollars a meaning of their own
_CODE_NEXT = r"-[a-z]*[ce]|-p|--eval|--command|--print"  # what follows is a program's text


def check_layer(layer: Layer, problems: Problems) -> None:
    """Note the dollars in a sandbox of a file."""
    entrypoint = _words_of(layer.node.get("entrypoint"))
    for key, value in layer.node.entries:
        match str(key.value):
            case word if word.startswith("x-"):
                continue
            case "command" | "entrypoint":
                _command(value, entrypoint, problems)
            case "healthcheck" if isinstance(value, MapNode):
                _refused("", value.without("test"), problems)
                test = value.get("test")
                if isinstance(test, ListNode) and _words_of(test)[:1] != ["CMD-SHELL"]:
                    _command(test, (), problems)
                    continue
                for scalar, found in _found(test, _ESCAPED):
                    _warn(scalar, found, "a shell reads it as its process id", problems)
            case word:
                _refused(word, key, problems)
                _refused(word, value, problems)


def check_document(document: ProfileDocument, problems: Problems) -> None:
    """Note the dollars in the rest of a file: its name, its variables, its networks, volumes, secrets and configs."""
    _refused("name", document.name, problems)
    variables = document.variables.entries if isinstance(document.variables, MapNode) else ()
    for _, declared in variables:
        for key in ("default", "enum"):
            value = declared.get(key) if isinstance(declared, MapNode) else None
            for scalar, found in _found(value, _ANY):
                help = "write the value out, or give it from outside, as in SANDBOXRUN_VAR_…"
                problems.warn(f'"{found}" in a variable stays as it is', _at(scalar, found), help)
    for kind, block in document.objects.items():
        for _, node in block.entries:
            value = node
            if kind == "configs" and isinstance(value, MapNode):
                # another program's text: a script's dollars are its own, a template's may be
                content = value.get("content")
                script = isinstance(content, Scalar) and str(content.value).startswith("#!")
                for scalar, found in _found(content, _ESCAPED if script else _CONTENT):
                    if found == "$$":
                        _warn(scalar, found, "Compose writes one $ for it", problems)
                    else:
                        message = f'"{found}" stays as it is: Compose would fill it in'
                        problems.warn(message, _at(scalar, found), f"{_declare(found)}; {_meant(found)}")
                value = value.without("content")
            _refused(kind, value, problems)


def _meant(found: str) -> str:
    return f"if the text is meant, write {{{{ '$' }}}}{found[1:]}"


def _refused(option: str, node: Node | None, problems: Problems) -> None:
    mappings = [inner for inner in walk(node) if isinstance(inner, MapNode)] if node else []
    keys = {id(key) for mapping in mappings for key, _ in mapping.entries}
    for scalar, found in _found(node, _ANY):
        if found == "$$":
            help = "write one $; if two are meant, write {{ '$$' }}"
            problems.add('"$$" stays "$$" here: it is not read as one "$"', _at(scalar, found), help)
            continue
        whole = str(scalar.value).partition("=")[2] or str(scalar.value)
        passes = option == "environment" and whole == found
        passed = f"to pass the caller's {_named(found)[0]}, leave the value out; else " if passes else ""
        help = f"{passed}{_declare(found)}; {_meant(found)}"
        if id(scalar) in keys:
            help = "write the key out: only values are filled in"
        problems.add(f'nothing is filled in from "{found}"', _at(scalar, found), help)


def _named(found: str) -> tuple[str, str]:
    """The name of a variable, and its default."""
    match = re.match(_PARTS, found)
    return (match[1], match[2] or "") if match is not None else ("", "")


def _declare(found: str) -> str:
    name, default = _named(found)
    own = name.lower()
    rules = "type: string" + (f", default: {default}" if re.fullmatch(r"[\w./-]+", default) else "")
    own_directory = 'for the project\'s directory write "."; else ' if name == "PWD" else ""
    return f"{own_directory}declare a variable, variables: {{{own}: {{{rules}}}}}, and write {{{{ {own} }}}}"


def _command(node: Node, entrypoint: Sequence[str], problems: Problems) -> None:
    words = _words_of(node)
    coded = any(os.path.basename(word) in _CODE for word in (*entrypoint, *words))
    items = node.items if isinstance(node, ListNode) else (node,)
    before = ""
    for item in items:
        code = coded or re.fullmatch(_CODE_NEXT, before) is not None
        pattern = _ESCAPED if code else _BRACED if isinstance(node, ListNode) else _ANY
        for scalar, found in _found(item, pattern):
            reads = "a shell reads it as its process id" if code else "no shell reads this command"
            _warn(scalar, found, reads, problems)
        before = str(item.value) if isinstance(item, Scalar) else ""


def _words_of(node: Node | None) -> list[str]:
    if isinstance(node, ListNode):
        return [str(item.value) for item in node.items if isinstance(item, Scalar)]
    text = str(node.value) if isinstance(node, Scalar) and isinstance(node.value, str) else ""
    try:
        return shlex.split(text)
    except ValueError:
        return text.split()


def _warn(scalar: Scalar, found: str, why: str, problems: Problems) -> None:
    if found == "$$":
        help = "write one $ for what Compose writes $$; if two are meant, write {{ '$$' }}"
        problems.warn(f'"$$" stays "$$" here: {why}', _at(scalar, found), help)
    else:
        help = f"{_declare(found)}, or run it by a shell: [sh, -c, …]"
        problems.warn(f'nothing is filled in from "{found}": {why}', _at(scalar, found), help)


def _found(node: Node | None, pattern: str) -> Iterator[tuple[Scalar, str]]:
    """The texts below a node, keys too, with each different match of `pattern` that a file has literally."""
    match node:
        case Scalar(value=str() as text) if "$" in text and node.span is not None:
            yield from ((node, found) for found in dict.fromkeys(re.findall(pattern, literal(text))))
        case ListNode():
            for item in node.items:
                yield from _found(item, pattern)
        case MapNode():
            for key, value in node.entries:
                yield from _found(key, pattern)
                yield from _found(value, pattern)


def _at(scalar: Scalar, found: str) -> Span | None:
    """Where `found` is in the file: the first line from the scalar's on that has it."""
    span = scalar.span
    if span is None:
        return None
    for number in range(span.line, span.line + str(scalar.value).count("\n") + 2):
        at = span.file.line(number).find(found, span.column - 1 if number == span.line else 0)
        if at >= 0:
            return Span(file=span.file, line=number, column=at + 1, length=len(found))
    return span
