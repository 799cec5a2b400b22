"""The folder of one run while its evidence is being written.

Owns the list of what is kept. Must not decide what goes in.
"""

from __future__ import annotations

import hashlib
import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from sandboxrun.evidence.errors import EvidenceError
from sandboxrun.evidence.folder import PARTIAL, Folder, sync

if TYPE_CHECKING:
    from sandboxrun.evidence.index import Kept

INDEX = "index.json"


class RunFolder:
    """A run's folder. Usable from several threads; after `close_parts` nothing more can be added."""

    def __init__(self, folder: Folder, name: str) -> None:
        self.folder = folder
        self.name = name
        self._lock = threading.Lock()
        self._kept: dict[str, Kept] = {}
        self._open = True
        self._unsynced = False

    @property
    def path(self) -> Path:
        """Where it is."""
        return self.folder.path

    def writer(self, path: str, *, durable: bool = True) -> Writer:
        """A new file at `path` ("logs/out"), folders on the way made. EvidenceError when it is there already.

        `durable=False`: not flushed to the disk one by one but with all others, for parts of many files.
        """
        *folders, name = path.split("/")
        if path in self._kept:
            raise EvidenceError(f"{path} is there already")
        return Writer(self, self.folder.walk_to(tuple(folders), create=True), path, name, durable)

    def write(self, path: str, data: bytes, *, truncated: bool = False) -> Kept:
        """A file of known content."""
        with self.writer(path) as writer:
            writer.write(data)
            return writer.commit(truncated=truncated)

    def put_in_place(self, place: Folder, partial: str, name: str, kept: Kept, durable: bool) -> Kept:
        """Rename a finished file and note it; refused once the index is being written."""
        with self._lock:
            if not self._open:
                raise EvidenceError(f"{kept.path} came too late")
            place.rename(partial, name)
            self._kept[kept.path] = kept
            self._unsynced = self._unsynced or not durable
        return kept

    def close_parts(self) -> tuple[Kept, ...]:
        """All that is kept, by path; whoever still writes is shut out, and what they left half-written removed."""
        with self._lock:
            self._open = False
        for place, _, files, fd in os.fwalk(".", dir_fd=self.folder.fd, follow_symlinks=False):
            del place
            for name in files:
                if name.startswith(PARTIAL):
                    os.unlink(name, dir_fd=fd)
        if self._unsynced:
            os.sync()
        return tuple(self._kept[path] for path in sorted(self._kept))

    def close(self) -> None:
        """Let go of the folder."""
        self.folder.close()


class Writer:
    """A file being written. Nothing is there under its name before `commit`."""

    def __init__(self, run: RunFolder, place: Folder, path: str, name: str, durable: bool) -> None:
        self._run, self._place, self.path, self._name, self._durable = run, place, path, name, durable
        self._partial = f"{PARTIAL}{os.urandom(8).hex()}"
        self._hash = hashlib.sha256()
        self.bytes = 0
        try:
            self._file: BinaryIO = os.fdopen(place.create(self._partial), "wb")
        except OSError:
            place.close()
            raise
        self._done = False

    def write(self, data: bytes) -> None:
        """Add to it."""
        self._hash.update(data)
        self.bytes += len(data)
        self._file.write(data)

    def commit(self, *, truncated: bool = False, sensitive: bool = False) -> Kept:
        """Put it in place, whole."""
        from sandboxrun.evidence.index import Kept

        if self._durable:
            sync(self._file)
        self._file.close()
        kept = Kept(
            path=self.path, sha256=self._hash.hexdigest(), bytes=self.bytes, truncated=truncated, sensitive=sensitive
        )
        self._run.put_in_place(self._place, self._partial, self._name, kept, self._durable)
        self._done = True
        return kept

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        if not self._done:
            self._place.unlink(self._partial)
        self._place.close()
