"""The chain: one line a run, each holding the SHA-256 of the line before it.

Owns the line's form, appending and reading. The chain shows that evidence was changed afterwards, and each line's
seal (`seal.py`) that this user wrote it. Who can write the store and read the user's key can still write a whole
new chain: keep its last line elsewhere (a pipeline's log, say) to notice that too.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import attrs

from sandboxrun.evidence.errors import EvidenceError
from sandboxrun.evidence.folder import Folder, locked
from sandboxrun.evidence.outcome import How

NAME = "chain.jsonl"
LARGEST = 128 << 20  # bytes: some 250,000 runs


@attrs.frozen(kw_only=True)
class Entry:
    """One run that was captured. `folder` is a name in the store's root; `previous` None in the first line."""

    run: str
    project: str
    sandbox: str
    folder: str
    index_sha256: str
    previous: str | None
    spec: str
    inputs: str
    outcome: How
    finished_at: str | None
    seal: str | None = None  # None where the user has no place for a key

    @property
    def body(self) -> bytes:
        """What the seal is made of: the line without it."""
        return attrs.evolve(self, seal=None).to_line()

    def to_line(self) -> bytes:
        """The line, with its newline."""
        body = {**attrs.asdict(self), "outcome": self.outcome.value}
        return json.dumps(body, ensure_ascii=True, separators=(",", ":")).encode() + b"\n"

    @classmethod
    def from_line(cls, line: bytes) -> Entry:
        """Read a line; ValueError when it is not one."""
        try:
            body: dict[str, Any] = json.loads(line)
            entry = cls(**{**body, "outcome": How(body["outcome"])})
        except (TypeError, KeyError, RecursionError) as error:
            raise ValueError(f"not a line of the chain: {error}") from error
        fields = ("run", "project", "sandbox", "folder", "index_sha256", "spec", "inputs")
        maybe = (entry.previous, entry.finished_at, entry.seal)
        if not all(isinstance(getattr(entry, field), str) for field in fields) or not all(
            isinstance(value, str | None) for value in maybe
        ):
            raise ValueError("not a line of the chain: a field is not a text")
        return entry


def digest_of(line: bytes) -> str:
    """The SHA-256 by which the next line names `line` (its newline left out)."""
    return hashlib.sha256(line.rstrip(b"\n")).hexdigest()


def lines_of(data: bytes) -> tuple[list[bytes], bytes]:
    """The complete lines, and a torn last one ("" when there is none)."""
    *complete, torn = data.split(b"\n")
    return complete, torn


def read(root: Folder) -> bytes:
    """The chain's bytes; "" when there is none."""
    try:
        with root.open(NAME) as file:
            return _bounded(file, root.path / NAME)
    except FileNotFoundError:
        return b""


def _bounded(file: BinaryIO, path: Path) -> bytes:
    data = file.read(LARGEST + 1)
    if len(data) > LARGEST:
        raise EvidenceError(f"{path} is larger than {LARGEST >> 20} MiB", help="move that directory to another place")
    return data


def entries(data: bytes, containing: str = "") -> Iterator[Entry]:
    """The lines that can be read, in order; only those holding the text `containing` are looked at."""
    needle = json.dumps(containing, ensure_ascii=True)[1:-1].encode()
    for line in lines_of(data)[0]:
        if needle in line:
            with contextlib.suppress(ValueError):
                yield Entry.from_line(line)


class Chain:
    """The chain opened for appending, under its lock."""

    def __init__(self, file: BinaryIO, path: Path) -> None:
        self._file, self._path = file, path

    @property
    def data(self) -> bytes:
        """All of it."""
        self._file.seek(0)
        return _bounded(self._file, self._path)

    def append(self, entry_after: Callable[[str | None], Entry]) -> Entry:
        """Add the entry made from the last line's digest; on the disk, or not at all, when this returns."""
        complete, _ = lines_of(self.data)
        entry = entry_after(digest_of(complete[-1]) if complete else None)
        fd, line = self._file.fileno(), entry.to_line()
        size = os.fstat(fd).st_size
        try:
            written = os.write(fd, line)
            if written != len(line):
                raise OSError(f"only {written} of {len(line)} bytes of {NAME} could be written")
            os.fsync(fd)
        except OSError:
            os.ftruncate(fd, size)
            raise
        return entry

    def mend(self) -> None:
        """A writer was killed in mid-line: a line that lacks only its end is completed, half a line is cut off."""
        _, torn = lines_of(self.data)
        fd = self._file.fileno()
        if not torn:
            return
        try:
            Entry.from_line(torn)
            os.write(fd, b"\n")
        except ValueError:
            os.ftruncate(fd, os.fstat(fd).st_size - len(torn))


@contextlib.contextmanager
def opened(root: Folder, *, wait: float = 60.0) -> Iterator[Chain]:
    """The chain of `root`, locked against other writers; EvidenceError when that takes longer than `wait` s."""
    with (
        root.append(NAME) as file,
        locked(file.fileno(), root.path / NAME, wait=wait),
    ):
        chain = Chain(file, root.path / NAME)
        chain.mend()
        yield chain
