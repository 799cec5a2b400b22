"""`extends`: a sandbox as the layers it is made of, the lowest first.

Owns finding bases: a shipped one by its name, or a sandbox of a file inside the project. A file outside of the
project (by an absolute path, `..` or a symbolic link) is never read. Must not merge: that needs rendered values.
"""

from __future__ import annotations

import os
from pathlib import Path

import attrs

from sandboxrun.errors import Problems, did_you_mean
from sandboxrun.model.composite import span_of
from sandboxrun.model.types import describe
from sandboxrun.profile.document import Document, read_document
from sandboxrun.profile.shipped import bases
from sandboxrun.profile.template import is_template
from sandboxrun.source import MapNode, Node, Scalar, SourceFile, Span

DEEPEST = 10
MOST_FILES = 50


@attrs.frozen(kw_only=True)
class Layer:
    """One sandbox mapping of one document."""

    node: MapNode
    document: Document


@attrs.frozen
class _Step:
    document: Document
    sandbox: str

    def __str__(self) -> str:
        return f"{self.document.base or (self.document.file.name if self.document.file else 'profile')}:{self.sandbox}"


class Bases:
    """Finds the layers of sandboxes; reads each base's file once. `root` is the project's directory."""

    def __init__(self, root: Path, problems: Problems) -> None:
        self.root = Path(os.path.realpath(root))
        self.problems = problems
        self.documents: dict[Path, Document | None] = {}
        self._circles: set[frozenset[str]] = set()

    def layers(self, document: Document, sandbox: str, chain: tuple[_Step, ...] = ()) -> list[Layer]:
        """The layers of a sandbox of `document`, its own last; faults are noted and their base left out."""
        _, node = document.sandboxes[sandbox]
        own = Layer(node=node.without("extends"), document=document)
        extends = node.get("extends")
        if extends is None or (isinstance(extends, Scalar) and extends.value is None):
            return [own]
        step = _Step(document, sandbox)
        span = span_of(node, "extends")
        target = self._target(extends, document)
        if target is None:
            return [own]
        seen = (*chain, step)
        if target in seen:
            self._circle(seen[seen.index(target) :], span)
            return [own]
        if len(seen) >= DEEPEST:
            self.problems.add(f"more than {DEEPEST} sandboxes extend each other", span, "flatten the bases")
            return [own]
        return [*self.layers(target.document, target.sandbox, seen), own]

    def _circle(self, steps: tuple[_Step, ...], span: Span | None) -> None:
        """Note a circle, once: each of its members leads into it."""
        members = frozenset(map(str, steps))
        if members not in self._circles:
            self._circles.add(members)
            shown = " -> ".join(map(str, (*steps, steps[0])))
            self.problems.add(f"extends goes in a circle: {shown}", span, "remove one of them")

    def _target(self, node: Node, document: Document) -> _Step | None:
        match node:
            case Scalar(value=str() as name) if not is_template(node):
                return self._shipped(name, node.span, document)
            case MapNode():
                return self._other(node, document)
        what = "a template" if is_template(node) else describe(node)
        help = "write the name of a shipped base, or {file: …, sandbox: …}"
        self.problems.add(f"expected a base, found {what}", node.span, help)
        return None

    def _shipped(self, name: str, span: Span | None, document: Document) -> _Step | None:
        known = bases()
        if name not in known:
            help = did_you_mean(name, known) or f"shipped are: {', '.join(known)}"
            if name in document.sandboxes:
                help = f"for a sandbox of this file write extends: {{sandbox: {name}}}"
            self.problems.add(f'there is no shipped base "{name}"', span, help)
            return None
        path = known[name]
        if path not in self.documents:
            # a base's own paths start at the project, so it has no directory of its own
            self.documents[path] = read_document(path, f"shipped:{path.name}", self.root, self.problems, base=name)
        return self._step(self.documents[path], name, span)

    def _other(self, node: MapNode, document: Document) -> _Step | None:
        words: dict[str, str] = {}
        for key, value in node.entries:
            if key.value not in ("file", "sandbox"):
                help = 'the key is "sandbox"' if key.value == "service" else did_you_mean(str(key.value), _KEYS)
                self.problems.add(f'unknown key "{key.value}" in extends', key.span, help or "it has file and sandbox")
                return None
            if not isinstance(value, Scalar) or not isinstance(value.value, str) or is_template(value):
                self.problems.add(
                    f"expected a text, found {describe(value)}", value.span, "templates can't name a base"
                )
                return None
            words[str(key.value)] = value.value
        if "sandbox" not in words:
            self.problems.add('extends lacks "sandbox"', node.span, "say which sandbox of the file")
            return None
        spans = {str(key.value): value.span for key, value in node.entries}
        other = self._file(words["file"], spans["file"], document) if "file" in words else document
        return None if other is None else self._step(other, words["sandbox"], spans["sandbox"])

    def _step(self, document: Document | None, sandbox: str, span: Span | None) -> _Step | None:
        if document is None:
            return None
        if sandbox not in document.sandboxes:
            help = did_you_mean(sandbox, document.sandboxes) or f"it has: {', '.join(document.sandboxes) or 'none'}"
            where = document.file.name if document.file else "the profile"
            self.problems.add(f'{where} has no sandbox "{sandbox}"', span, help)
            return None
        return _Step(document, sandbox)

    def _file(self, text: str, span: Span | None, document: Document) -> Document | None:
        path = inside(self.root, document.directory, text)
        if path is None:
            self.problems.add(f'the file "{text}" is outside of the project', span, _OUTSIDE)
            return None
        if path not in self.documents:
            if len(self.documents) >= MOST_FILES:
                self.problems.add(f"more than {MOST_FILES} files", span, "put several bases into one file")
                return None
            name = os.path.normpath(os.path.join(os.path.dirname(document.file.name if document.file else ""), text))
            self.documents[path] = read_document(path, name, path.parent, self.problems, asked_at=span)
        return self.documents[path]

    @property
    def files(self) -> dict[Path, SourceFile]:
        """The texts of all bases that were read."""
        return {path: document.file for path, document in self.documents.items() if document and document.file}


_KEYS = ("file", "sandbox")
_OUTSIDE = "only files below the project's directory are read: no absolute path, no .., no link that leads out"


def inside(root: Path, directory: Path, text: str) -> Path | None:
    """The real path of `text`, relative to `directory`, if it lies below `root`; else None."""
    if "\0" in text or os.path.isabs(text):
        return None
    path = Path(os.path.realpath(directory / text))
    return path if path.is_relative_to(root) else None
