"""One file of a profile, split into its parts.

Owns the keys of the top level. Must not compose files or render anything.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from msgspec import field, structs

from sandboxrun.data import Data
from sandboxrun.errors import Problems, did_you_mean
from sandboxrun.profile.files import read_source
from sandboxrun.profile.templates import is_template
from sandboxrun.profile.yaml import parse_yaml
from sandboxrun.source import MapNode, Node, Scalar, SourceFile, Span, is_null
from sandboxrun.spec.names import KEY
from sandboxrun.spec.types import Text, describe

OBJECTS = ("networks", "volumes", "secrets", "configs")
KEYS = ("name", "variables", "sandboxes", *OBJECTS)
_REFUSED = {
    "services": "here they are called sandboxes:",
    "version": "remove it: Compose no longer reads it either",
    "include": "use extends: {file: …, sandbox: …} in a sandbox",
    "models": "give the sandbox a network and a secret instead",
}
MOST_SANDBOXES = 1000
_NAME = Text(pattern=KEY, hint="a name of letters, digits, _ . and -")
EMPTY = MapNode(entries=())


class Document(Data):
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
    path: Path,
    name: str,
    directory: Path,
    problems: Problems,
    *,
    base: str | None = None,
    asked_at: Span | None = None,
) -> Document | None:
    """The file at `path` as a document; None, with the reason noted, when it is none."""
    file = read_source(path, name, problems, asked_at=asked_at)
    if file is None:
        return None
    node = parse_yaml(file, problems)
    return None if node is None else split_document(node, file, directory, problems, base=base)


def split_document(
    node: Node, file: SourceFile | None, directory: Path, problems: Problems, *, base: str | None = None
) -> Document | None:
    """A root node as a document."""
    if is_null(node):
        problems.add("the profile is empty", node.span, "begin with sandboxes: {agent: {image: …}}")
        return None
    if not isinstance(node, MapNode):
        problems.add(f"expected a profile, found {describe(node)}", node.span, f"its keys are {', '.join(KEYS)}")
        return None
    for key, _ in node.entries:
        word = str(key.value)
        if word in KEYS or word.startswith("x-") or _is_template_key(key, problems):
            continue
        if word in _REFUSED:
            problems.add(f'"{word}" is not offered', key.span, _REFUSED[word])
        else:
            help = did_you_mean(word, KEYS) or f"a profile has: {', '.join(KEYS)}, and x-… of your own"
            problems.add(f'unknown key "{word}" in the profile', key.span, help)
    return Document(
        file=file,
        directory=directory,
        base=base,
        name=node.get("name"),
        variables=node.get("variables"),
        sandboxes=_sandboxes(node.get("sandboxes"), problems),
        objects={key: _object_map(node.get(key), key, problems) for key in OBJECTS},
        has_sandboxes=node.get("sandboxes") is not None,
    )


def _is_template_key(key: Scalar, problems: Problems) -> bool:
    if is_template(key):
        problems.add("a key can't be a template", key.span, "write the key out; only values are rendered")
        return True
    return False


def _object_map(node: Node | None, key: str, problems: Problems) -> MapNode:
    match node:
        case None | Scalar(value=None):
            return EMPTY
        case MapNode():
            entries = (entry for entry in node.entries if not _is_template_key(entry[0], problems))
            named = tuple(entry for entry in entries if isinstance(_NAME.parse(entry[0], problems), str))
            return structs.replace(node, entries=named)
    problems.add(f"expected a mapping of {key}, found {describe(node)}", node.span, f"write {key}: {{NAME: {{…}}}}")
    return EMPTY


def _sandboxes(node: Node | None, problems: Problems) -> dict[str, tuple[Scalar, MapNode]]:
    mapping = _object_map(node, "sandboxes", problems)
    if len(mapping.entries) > MOST_SANDBOXES:
        problems.add(f"more than {MOST_SANDBOXES} sandboxes", mapping.span, "use for_each")
        return {}
    found: dict[str, tuple[Scalar, MapNode]] = {}
    for key, value in mapping.entries:
        match value:
            case MapNode():
                found[str(key.value)] = (key, value)
            case Scalar(value=None):
                found[str(key.value)] = (key, MapNode(entries=(), span=key.span))
            case _:
                problems.add(f"expected a sandbox, found {describe(value)}", value.span, "write image: … below it")
    return found
