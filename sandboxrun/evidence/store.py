"""The evidence store: a folder a run, written crash-safely, its index last, and the chain over all of them.

Owns where evidence lies. Must not know what is in it beyond the index.
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import os
import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import attrs

from sandboxrun.evidence import chain
from sandboxrun.evidence.chain import Entry
from sandboxrun.evidence.errors import EvidenceError
from sandboxrun.evidence.folder import Folder, is_name, locked
from sandboxrun.evidence.outcome import How
from sandboxrun.evidence.runfolder import INDEX, RunFolder
from sandboxrun.evidence.seal import is_sealed, seal_of
from sandboxrun.evidence.state import check_apart, is_apart, open_state, signed

if TYPE_CHECKING:
    from sandboxrun.evidence.index import Index

HOME = ".sandboxrun"
STAGING = "staging"  # in the state directory: what is needed of runs until they are captured
_LARGEST_INDEX = 64 << 20  # bytes
ENDED = frozenset({How.EXITED, How.FAILED, How.OOM, How.TIMEOUT})  # the ends of a run that had its chance
_SHORT = 12
_DIFFER = f"the ids of runs must differ in their first {_SHORT} characters"


@attrs.frozen(kw_only=True)
class Store:
    """The store of a project. Making one touches nothing; folders are made when something is written.

    `project_directory` must exist. `root` is the place given by the user, relative to it; None for
    `.sandboxrun/evidence`. Inside the project's directory no symlink is followed; a root outside it is the
    user's own choice and only its last component may not be one.
    """

    project_directory: Path
    root: Path | None = None

    @property
    def path(self) -> Path:
        """Where runs are kept."""
        return self.project_directory / (self.root if self.root is not None else Path(HOME, "evidence"))

    def check(self) -> None:
        """Make the folders, before anything runs whose evidence could not be kept then. Raises EvidenceError."""
        try:
            with self.state(STAGING, create=True), self.open_root(create=True) as root:
                chain.read(root)
        except OSError as error:
            what = f"evidence can't be kept in {self.path}: {error.strerror or error}"
            raise EvidenceError(what, help="make it writable, or name another place: --evidence DIR") from error

    @contextlib.contextmanager
    def recording(self, run: str, name: str, *, wait: float = 60.0) -> Iterator[RunFolder | Entry]:
        """The empty folder to write a run's evidence to, held against others; its Entry when it is captured.

        A folder that a killed capture of the same run left is emptied and used again. Raises EvidenceError,
        OSError.
        """
        with self.open_root(create=True) as root:
            with chain.opened(root, wait=wait) as opened:
                entry = self._own(opened.data, run)
                place = None if entry else self._place(root, run, name)
            if entry or place is None:
                yield _found(entry, run)
                return
            with place, locked(place.fd, place.path, wait=wait):
                recorded = chain.read(root)
                if captured := self._own(recorded, run):
                    yield captured
                    return
                if any(other.folder == place.path.name for other in chain.entries(recorded, place.path.name)):
                    raise EvidenceError(f"another run's evidence is in {place.path}", help=_DIFFER)
                place.clear()
                yield RunFolder(place, place.path.name)

    def finish(self, folder: RunFolder, index_after: Callable[[str | None], Index], *, wait: float = 60.0) -> Entry:
        """Write the index (made from the digest of the chain's last line) and the chain's line. Raises EvidenceError
        where the line can't be sealed: nobody could rely on it."""
        check_apart(self.project_directory)
        with self.open_root(create=True) as root, chain.opened(root, wait=wait) as opened:

            def entry_after(previous: str | None) -> Entry:
                index = index_after(previous)
                data = index.to_json()
                folder.folder.write(INDEX, data)
                folder.folder.sync()
                root.sync()
                entry = _entry(index, folder.name, data, previous)
                return attrs.evolve(entry, seal=seal_of(entry.body))

            return opened.append(entry_after)

    def entries(self, project: str | None = None) -> tuple[Entry, ...]:
        """All runs that were captured (of one project), oldest first; anybody's, for showing them: see `is_own`."""
        found = chain.entries(self._chain(), project or "")
        return tuple(entry for entry in found if project is None or entry.project == project)

    def entry(self, run: str) -> Entry | None:
        """A run's entry, where this user captured it."""
        return self._own(self._chain(), run)

    def is_own(self, entry: Entry) -> bool:
        """Whether this user's sandboxrun wrote the entry."""
        return is_apart(self.project_directory) and is_sealed(entry.body, entry.seal)

    def _own(self, data: bytes, run: str) -> Entry | None:
        """A line that says a run was captured has its container removed: none but this user's own counts."""
        return next((entry for entry in chain.entries(data, run) if entry.run == run and self.is_own(entry)), None)

    def index(self, entry: Entry) -> Index:
        """A run's index. Raises EvidenceError when it is gone or not the one that was chained."""
        from sandboxrun.evidence.index import Index

        with self.open(entry, INDEX) as file:
            data = file.read(_LARGEST_INDEX)
        if hashlib.sha256(data).hexdigest() != entry.index_sha256:
            raise EvidenceError(f"{self.path / entry.folder / INDEX} is not the index that was recorded")
        return Index.from_json(data)

    def open(self, entry: Entry, path: str) -> BinaryIO:
        """A file of a run's evidence, by its `Kept.path`. Raises EvidenceError."""
        *folders, name = (entry.folder, *path.split("/"))
        if not all(map(is_name, (*folders, name))):
            raise EvidenceError(f"not a path in the evidence: {entry.folder}/{path}")
        try:
            with self.open_root() as root, root.walk_to(tuple(folders)) as place:
                return place.open(name)
        except FileNotFoundError as error:
            raise EvidenceError(f"{self.path / entry.folder / path} is not there") from error

    @contextlib.contextmanager
    def staging(self, run: str, *, engine: str | None = None) -> Iterator[Folder]:
        """The folder for what is needed until a run is captured (baseline, live logs, usage).

        It is made for a run on the engine of that `identity`; without, FileNotFoundError is raised when there is none.
        """
        opened = partial(self.state, STAGING, safe_name(run), create=engine is not None)
        with opened() if engine is None else signed(opened, engine) as folder:
            yield folder

    def unstage(self, run: str) -> None:
        """Remove a run's staging folder; fine when there is none."""
        with contextlib.suppress(FileNotFoundError), self.state(STAGING) as staging:
            staging.remove(safe_name(run))

    def state(self, *parts: str, create: bool = False) -> Folder:
        """The user's state directory or one below it; see `open_state`. No project may hold it."""
        check_apart(self.project_directory)
        return open_state(*parts, create=create)

    def _chain(self) -> bytes:
        try:
            with self.open_root() as root:
                return chain.read(root)
        except FileNotFoundError:
            return b""

    def open_root(self, *, create: bool = False) -> Folder:
        """The root, opened. Raises FileNotFoundError when it is not there and not to be made."""
        parts = _inside(self.path, self.project_directory)
        if parts is None:
            if create:
                self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not self.path.parent.is_dir():
                raise FileNotFoundError(self.path.parent)
            with Folder.at(self.path.parent) as parent:
                return parent.enter(self.path.name, create=create)
        with Folder.at(self.project_directory) as project:
            if create and parts[:1] == (HOME,):
                with project.enter(HOME, create=True) as home:
                    _ignore(home)
            return project.walk_to(parts, create=create)

    def _place(self, root: Folder, run: str, name: str) -> Folder:
        """The run's folder: the one a killed capture began, or a new one named by the time."""
        tail = f"-{safe_name(name)}-{safe_name(run)[:_SHORT]}"
        recorded = {entry.folder: entry for entry in chain.entries(chain.read(root), tail[1:])}
        begun = [n for n in root.names() if re.fullmatch(r"\d{8}T\d{6}Z" + re.escape(tail), n) and n not in recorded]
        now = datetime.datetime.now(datetime.UTC)
        while (fresh := f"{now:%Y%m%dT%H%M%SZ}{tail}") in recorded and not begun:
            if self.is_own(recorded[fresh]):
                raise EvidenceError(f"another run's evidence is in {root.path / fresh}", help=_DIFFER)
            now += datetime.timedelta(seconds=1)  # whoever wrote that line can't take the place of this run
        return root.enter(begun[-1] if begun else fresh, create=True)


def _found(entry: Entry | None, run: str) -> Entry:
    if entry is None:
        raise EvidenceError(f"run {run} is not recorded")
    return entry


def _entry(index: Index, folder: str, data: bytes, previous: str | None) -> Entry:
    return Entry(
        run=index.run,
        project=index.project,
        sandbox=index.sandbox,
        folder=folder,
        index_sha256=hashlib.sha256(data).hexdigest(),
        previous=previous,
        spec=index.digests.spec,
        inputs=index.digests.inputs,
        outcome=index.ending.how,
        finished_at=index.finished_at,
    )


def _ignore(home: Folder) -> None:
    """Keep git from seeing what we write."""
    if not home.kind(".gitignore"):
        home.write(".gitignore", b"*\n")


def safe_name(text: str) -> str:
    """`text` as part of a folder's name: labels may hold anything."""
    return re.sub(r"[^A-Za-z0-9_.-]", "_", text)[:100].lstrip(".") or "_"


def _inside(path: Path, base: Path) -> tuple[str, ...] | None:
    """The steps from `base` down to `path`; None when it lies elsewhere. By name only, nothing is looked up."""
    full, top = os.path.abspath(path), os.path.abspath(base)
    steps = tuple(os.path.relpath(full, top).split(os.sep))
    return None if steps[0] in (os.pardir, os.curdir) else steps
