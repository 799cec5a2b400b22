"""Host paths in a profile: where relative ones start.

Owns the rule: at the project's directory, but in a file reached by `extends` at that file's own. Must not look at
the disk.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import attrs

from sandboxrun.source import Span


@attrs.frozen(kw_only=True)
class Places:
    """The project's directory (absolute), and the directories of files that have their own, by the file's name."""

    root: Path
    directories: Mapping[str, Path]

    def directory(self, span: Span | None) -> Path:
        """Where relative paths written at `span` start."""
        return self.root if span is None else self.directories.get(span.file.name, self.root)

    def absolute(self, text: str, span: Span | None) -> Path:
        """The path, absolute and without `..`; links are left as they are. `~` is the caller's home."""
        return Path(os.path.normpath(self.directory(span) / os.path.expanduser(text)))

    def relative(self, path: Path) -> str:
        """How the path is shown and digested: from the project's directory where it lies below."""
        if path == self.root:
            return "."
        return f"./{path.relative_to(self.root)}" if path.is_relative_to(self.root) else str(path)
