"""Host paths in a profile: where relative ones start.

Owns the rules: relative ones start at the project's directory, but in a file reached by `extends` at that file's own;
and none leads out of the project unless the caller allows it, for whoever wrote the profile must not reach the files
of whoever runs it. Looks at the disk for symbolic links only.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import attrs

from sandboxrun.errors import Problems
from sandboxrun.source import Span


@attrs.frozen(kw_only=True)
class Places:
    """The project's directory (absolute), and the directories of files that have their own, by the file's name.
    `allow_outside`: paths may lead out of the project."""

    root: Path
    directories: Mapping[str, Path]
    allow_outside: bool = False

    def directory(self, span: Span | None) -> Path:
        """Where relative paths written at `span` start."""
        return self.root if span is None else self.directories.get(span.file.name, self.root)

    def absolute(self, text: str, span: Span | None) -> Path:
        """The path, absolute and without `..`; links are left as they are. `~` is the caller's home."""
        return Path(os.path.normpath(self.directory(span) / os.path.expanduser(text)))

    def checked(self, text: str, span: Span | None, what: str, problems: Problems) -> Path:
        """The same; a path that leads out of the project (absolute, by `..`, `~` or a link) is noted as a fault.

        `what` names it in the message, as in "the workspace".
        """
        path = self.absolute(text, span)
        if not self.allows(path):
            help = "use a path below the project's directory, or allow it with --allow-outside if you trust the profile"
            problems.add(f'{what} "{text}" is outside of the project', span, help)
        return path

    def allows(self, path: Path) -> bool:
        """Whether an absolute path may be used: it lies in the project, links followed, or the caller allows others."""
        return self.allow_outside or _real(path).is_relative_to(_real(self.root))

    def relative(self, path: Path) -> str:
        """How the path is shown and digested: from the project's directory where it lies below."""
        if path == self.root:
            return "."
        return f"./{path.relative_to(self.root)}" if path.is_relative_to(self.root) else str(path)


def _real(path: Path) -> Path:
    """The path with links followed as far as they go; of one that can't be followed, as it is written."""
    try:
        return Path(os.path.realpath(path))
    except ValueError:  # a NUL character
        return path
