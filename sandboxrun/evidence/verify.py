"""Checks a store against its chain: is everything that was recorded still there, and nothing else.

Owns the check. Must not repair anything.
"""

from __future__ import annotations

import hashlib
import stat
from collections.abc import Iterator

import attrs

from sandboxrun.evidence import chain
from sandboxrun.evidence.chain import Entry
from sandboxrun.evidence.errors import EvidenceError, reason_of
from sandboxrun.evidence.folder import Folder, is_name
from sandboxrun.evidence.index import Index
from sandboxrun.evidence.runfolder import INDEX
from sandboxrun.evidence.store import Store

_CHUNK = 1 << 20
_OLD_STAGING = ".staging"  # where runs waited to be captured before that lay in the state directory; never read


@attrs.frozen(kw_only=True)
class ChainProblem:
    """One thing that is not as it was recorded. `folder` is "" when it concerns the chain itself."""

    folder: str
    problem: str

    def __str__(self) -> str:
        return f"{self.folder}: {self.problem}" if self.folder else self.problem


def verify_chain(store: Store) -> tuple[ChainProblem, ...]:
    """Everything that is not as recorded, in the chain's order; empty for a store that holds (or is not there)."""
    try:
        with store.open_root() as root:
            return tuple(_problems(root))
    except FileNotFoundError:
        return ()


def _problems(root: Folder) -> Iterator[ChainProblem]:
    complete, torn = chain.lines_of(chain.read(root))
    previous, folders, runs = None, set[str](), set[str]()
    for number, line in enumerate(complete, 1):
        try:
            entry = Entry.from_line(line)
        except ValueError:
            yield ChainProblem(folder="", problem=f"line {number} of the chain cannot be read")
        else:
            if entry.previous != previous:
                yield ChainProblem(folder=entry.folder, problem=f"line {number} does not follow the line before it")
            if entry.run in runs or entry.folder in folders:
                yield ChainProblem(folder=entry.folder, problem=f"line {number} records a run a second time")
            runs.add(entry.run)
            folders.add(entry.folder)
            yield from (ChainProblem(folder=entry.folder, problem=text) for text in _run_problems(root, entry))
        previous = chain.digest_of(line)
    if torn:
        yield ChainProblem(folder="", problem="the last line of the chain is torn (a writer was killed)")
    for name in root.names():
        if name not in folders and name not in (chain.NAME, _OLD_STAGING):
            yield ChainProblem(folder=name, problem="not recorded in the chain (an unfinished capture, or put there)")


def _run_problems(root: Folder, entry: Entry) -> Iterator[str]:
    if not is_name(entry.folder):
        yield "not a folder's name"
        return
    try:
        with root.enter(entry.folder) as folder:
            yield from _folder_problems(folder, entry)
    except FileNotFoundError:
        yield "the folder is missing"
    except EvidenceError as error:
        yield reason_of(error)


def _folder_problems(folder: Folder, entry: Entry) -> Iterator[str]:
    try:
        with folder.open(INDEX) as file:
            data = file.read()
        if hashlib.sha256(data).hexdigest() != entry.index_sha256:
            yield f"{INDEX} was changed"
            return
        index = Index.from_json(data)
    except (FileNotFoundError, EvidenceError) as error:
        yield f"{INDEX} is missing" if isinstance(error, FileNotFoundError) else f"{INDEX}: {reason_of(error)}"
        return
    found = dict(_files(folder, ""))
    for kept in index.kept:
        if kept.path not in found:
            yield f"{kept.path} is missing"
        elif found.pop(kept.path) != kept.sha256:
            yield f"{kept.path} was changed"
    yield from (f"{path} is not in the index" for path in sorted(found) if path != INDEX)
    if index.run != entry.run or index.previous != entry.previous:
        yield f"{INDEX} is that of another run"


def _files(folder: Folder, above: str) -> Iterator[tuple[str, str]]:
    """Path and SHA-256 of everything in it; what is neither a regular file nor a folder has the digest ""."""
    for name in folder.names():
        path, kind = f"{above}{name}", folder.kind(name)
        if kind == stat.S_IFDIR:
            with folder.enter(name) as below:
                yield from _files(below, f"{path}/")
        elif kind == stat.S_IFREG:
            yield path, _sha256(folder, name)
        else:
            yield path, ""


def _sha256(folder: Folder, name: str) -> str:
    digest = hashlib.sha256()
    with folder.open(name) as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def last_line(store: Store) -> str | None:
    """The SHA-256 of the chain's last complete line, to be kept elsewhere; None for an empty chain."""
    try:
        with store.open_root() as root:
            complete, _ = chain.lines_of(chain.read(root))
    except FileNotFoundError:
        return None
    return chain.digest_of(complete[-1]) if complete else None
