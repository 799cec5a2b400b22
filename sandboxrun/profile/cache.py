"""The verdict cache: what was valid before, byte for byte, is valid now.

Owns a directory of empty files, each named by the digest of everything a verdict rests on: this version of
sandboxrun, its own source, every file that was read, and the inputs. Never trusted for anything but speed: it can
only skip the work of saying "valid" again, never decide what a profile means. Must not import what it saves
(yaml, jinja2, jsonschema).
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sandboxrun import __version__
from sandboxrun.profile.regular import read_regular

if TYPE_CHECKING:  # source imports attrs
    from sandboxrun.source import SourceFile

MOST_ENTRIES = 1000
_LARGEST = 1024 * 1024
_FAILURES = (OSError, ValueError, TypeError, KeyError, AttributeError)


class VerdictCache:
    """The verdicts of one user. Every failure to read or write it counts as "not known"."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        base = environment.get("XDG_CACHE_HOME") or ""
        if not os.path.isabs(base):
            base = os.path.join(os.path.expanduser("~"), ".cache")
        self.directory = Path(base) / "sandboxrun" / "verdicts"

    def knows(self, paths: Sequence[Path], inputs: str) -> tuple[str, ...] | None:
        """The addresses that these files declared when they were last found valid with these inputs, or None.

        `inputs` is `inputs_key` of what was given.
        """
        try:
            record = self._record(paths, inputs)
            if all(_digest(Path(path)) == digest for path, digest in record["files"].items()):
                return tuple(map(str, record["addresses"]))
        except _FAILURES:
            pass
        return None

    def covers(self, paths: Sequence[Path], inputs: str, read: Mapping[Path, SourceFile | None]) -> bool:
        """Whether just what was `read` was found valid before: told by the texts themselves, not by the files."""
        try:
            return self._record(paths, inputs)["files"] == _digests(read)
        except _FAILURES:
            return False

    def _record(self, paths: Sequence[Path], inputs: str) -> dict[str, Any]:
        """What was learned; raises one of `_FAILURES` when that is nothing, or not to be trusted."""
        entry = self._entry(paths, inputs)
        if not self._trusted(paths):
            raise OSError("not to be trusted")
        record: dict[str, Any] = json.loads(read_regular(entry, _LARGEST))
        return record

    def learn(
        self, paths: Sequence[Path], inputs: str, read: Mapping[Path, SourceFile | None], addresses: Sequence[str]
    ) -> None:
        """Remember that the profile is valid; `read` are all files that it took (None: looked for, and not there)."""
        try:
            if not self.directory.is_absolute():
                return
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not self._trusted(paths):
                return
            self._bound()
            files = _digests(read)
            entry = self._entry(paths, inputs)
            part = entry.with_suffix(f".{os.getpid()}")
            part.write_text(json.dumps({"files": files, "addresses": list(addresses)}), encoding="utf-8")
            os.replace(part, entry)
        except OSError:
            pass

    def _entry(self, paths: Sequence[Path], inputs: str) -> Path:
        named = json.dumps([__version__, _own_code(), [os.path.abspath(path) for path in paths], inputs])
        return self.directory / hashlib.sha256(named.encode("utf-8", "surrogateescape")).hexdigest()

    def _trusted(self, paths: Sequence[Path]) -> bool:
        """Whether nobody but this user can have written there: nor whoever wrote the directory of a profile."""
        if not self.directory.is_absolute():  # no HOME
            return False
        found, real = os.lstat(self.directory), Path(os.path.realpath(self.directory))
        if any(real.is_relative_to(os.path.realpath(path.parent)) for path in paths):
            return False
        return stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & 0o077

    def _bound(self) -> None:
        entries = sorted(self.directory.iterdir(), key=lambda path: path.stat().st_mtime)
        for path in entries[: max(0, len(entries) - MOST_ENTRIES)]:
            path.unlink(missing_ok=True)


def inputs_key(
    vars: Sequence[str], var_files: Sequence[Path], environment: Mapping[str, str], directory: Path | None
) -> str:
    """A digest of what is given beside the files; of the environment, what variables are read from."""
    own = sorted((name, value) for name, value in environment.items() if name.startswith("SANDBOXRUN_VAR_"))
    given = [list(vars), [os.path.abspath(path) for path in var_files], own, str(directory or ""), os.getcwd()]
    return hashlib.sha256(json.dumps(given).encode("utf-8", "surrogateescape")).hexdigest()


_ABSENT = "absent"
_MARK = b"\xef\xbb\xbf"  # the byte order mark, which is no part of a file's text


def _digest(path: Path) -> str:
    try:
        return hashlib.sha256(read_regular(path, _LARGEST).removeprefix(_MARK)).hexdigest()
    except FileNotFoundError:
        return _ABSENT


def _digests(read: Mapping[Path, SourceFile | None]) -> dict[str, str]:
    return {os.path.abspath(path): _digest_of(file) for path, file in read.items()}


def _digest_of(file: SourceFile | None) -> str:
    """The same of a text that was read: what was judged, even where the file has changed since."""
    return _ABSENT if file is None else hashlib.sha256(file.text.encode()).hexdigest()


def _own_code() -> str:
    """Changes whenever the code that judges does: a checkout's version stays the same while it is worked on."""
    package = Path(__file__).resolve().parent.parent
    stamps = []
    for room in (package, package / "spec", package / "profile"):
        with os.scandir(room) as found:
            stamps += [(entry.name, entry.stat().st_mtime_ns) for entry in found if entry.name.endswith(".py")]
    return hashlib.sha256(json.dumps(sorted(stamps)).encode()).hexdigest()
