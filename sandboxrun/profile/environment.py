"""`env_file` and bare names in `environment:`: values that come from outside the profile.

Owns reading both. An env file lies inside the project; a bare name takes the caller's value, and is left out where
the caller has none, as in Compose.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import attrs

from sandboxrun.errors import Problems, did_you_mean
from sandboxrun.model.spec import SandboxSpec
from sandboxrun.model.types import describe, freeze
from sandboxrun.profile.dotenv import Pair, parse_dotenv
from sandboxrun.profile.extends import inside
from sandboxrun.profile.files import read_source
from sandboxrun.profile.paths import Places
from sandboxrun.profile.regular import is_missing
from sandboxrun.profile.scalars import is_text
from sandboxrun.source import ListNode, MapNode, Node, Scalar, SourceFile, Span

SHORTEST_SECRET = 4  # characters; masking shorter texts would shred the output


class EnvFiles:
    """Reads env files, each once."""

    def __init__(self, places: Places, problems: Problems) -> None:
        self.places, self.problems = places, problems
        self._root = Path(os.path.realpath(places.root))
        self._read: dict[Path, list[Pair]] = {}
        self.files: dict[Path, SourceFile | None] = {}  # None: not there, and not required

    def entries(self, node: Node) -> list[Pair]:
        """The variables of a rendered `env_file`: a path, a list of them, or mappings of path and required."""
        found: dict[str, Pair] = {}
        for item in node.items if isinstance(node, ListNode) else (node,):
            for pair in self._item(item):
                found[str(pair[0].value)] = pair
        return list(found.values())

    def _item(self, item: Node) -> list[Pair]:
        required = True
        path: Node | None = item
        if isinstance(item, MapNode):
            for key, _ in item.entries:
                if key.value not in ("path", "required"):
                    help = did_you_mean(str(key.value), ("path", "required")) or "it has path and required"
                    self.problems.add(f'unknown key "{key.value}" in env_file', key.span, help)
            path, flag = item.get("path"), item.get("required")
            required = not (isinstance(flag, Scalar) and flag.value is False)
        if not isinstance(path, Scalar) or not isinstance(path.value, str):
            self.problems.add(
                f"expected a path, found {describe(path or item)}", item.span, "write env_file: [agent.env]"
            )
            return []
        return self._file(path.value, path.span, required)

    def _file(self, text: str, span: Span | None, required: bool) -> list[Pair]:
        path = inside(self._root, self.places.directory(span), text)
        if path is None:
            help = "only files below the project's directory are read: no absolute path, no .., no link that leads out"
            self.problems.add(f'the file "{text}" is outside of the project', span, help)
            return []
        if path not in self._read:
            if not required and is_missing(path):
                self.files[path] = None
                return []
            file = self.files[path] = read_source(path, self._name(text, span), self.problems, asked_at=span)
            self._read[path] = parse_dotenv(file, self.problems) if file is not None else []
        return self._read[path]

    def _name(self, text: str, span: Span | None) -> str:
        """The file's name as it is shown: from the current directory, as those of profiles are."""
        own = span is not None and span.file.name in self.places.directories
        directory = os.path.dirname(span.file.name) if span is not None and own else os.path.relpath(self.places.root)
        return os.path.normpath(os.path.join(directory, text))


def pass_through(
    spec: SandboxSpec, environment: Mapping[str, str], secrets: set[str], places: Mapping[str, Span], problems: Problems
) -> SandboxSpec:
    """The spec with bare names given the caller's values, which are noted as secrets: they may well be."""
    if None not in spec.environment.values():
        return spec
    filled = {}
    for name, value in spec.environment.items():
        taken = environment.get(name) if value is None else value
        if taken is None:
            continue
        if not is_text(taken):
            problems.add(f"the caller's {name} is not UTF-8", places.get(name), "give it by a secret with file:")
            continue
        if value is None and len(taken) >= SHORTEST_SECRET:
            secrets.add(taken)
        filled[name] = taken
    return attrs.evolve(spec, environment=freeze(filled))
