"""Files into a sandbox and out of it.

Owns what may go where: into its mounts, or into a root that may be written; and out of it regular files and
directories only, under limits, for an agent wrote them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING

from sandboxrun.errors import Diagnostic, UsageError, printable
from sandboxrun.evidence.errors import EvidenceError
from sandboxrun.evidence.export import Exported, ExportLimits, export
from sandboxrun.evidence.folder import Folder
from sandboxrun.evidence.runfolder import RunFolder
from sandboxrun.evidence.tarstream import Kind, TarError, TarReader
from sandboxrun.model.spec import SandboxSpec

if TYPE_CHECKING:
    import tarfile

    from sandboxrun.engine.client import Engine

GET_LIMIT = 64 << 20  # bytes of one file that is read into memory
_SPOOLED = 8 << 20

Source = Path | str | Mapping[str, bytes | str]


def check_target(name: str, spec: SandboxSpec, target: str) -> None:
    """Raise UsageError where nothing can be put. Mounts count by the longest path; a tmpfs is out of the engine's
    reach, and what is put beneath one would not be seen."""
    path = PurePosixPath(target)
    if not path.is_absolute() or ".." in path.parts:
        raise UsageError(f"put needs an absolute target without .., not {target}")
    places = {m.target: "read-only mount" if m.read_only else "" for m in spec.volumes}
    places |= dict.fromkeys(spec.tmpfs, "tmpfs, which the engine cannot reach")
    if spec.workspace is not None:
        places[spec.workspace.target] = "read-only mount" if spec.workspace.access == "ro" else ""
    above = [at for at in places if path.is_relative_to(at)]
    fault = places[max(above, key=len)] if above else "read-only root" if spec.read_only else ""
    if fault:
        open_to = sorted(at for at, why in places.items() if not why)
        where = f"put goes to {', '.join(open_to)}" if open_to else "give it a workspace or a volume"
        raise UsageError(
            Diagnostic(
                message=f"nothing can be put to {target} in {name}: it is on a {fault}",
                help=f"{where}; or write it with exec, or declare read_only=False",
            )
        )


@contextmanager
def packed(source: Source, uid: int, gid: int) -> Iterator[IO[bytes]]:
    """A tar of `source`, rewound: its files as they shall lie in the target, owned by `uid` and `gid`.

    A mapping holds relative paths and contents; a directory gives what is in it, a file itself. Links are kept as
    links; sockets, devices and fifos are left out.
    """
    import tarfile
    import tempfile

    with tempfile.SpooledTemporaryFile(max_size=_SPOOLED) as spool:
        with tarfile.open(fileobj=spool, mode="w", format=tarfile.GNU_FORMAT) as tar:
            if isinstance(source, Mapping):
                _add_contents(tar, source, uid, gid)
            else:
                _add_path(tar, Path(source), uid, gid)
        spool.seek(0)
        yield spool


def _add_contents(tar: tarfile.TarFile, contents: Mapping[str, bytes | str], uid: int, gid: int) -> None:
    import io
    import tarfile
    import time

    made: set[str] = set()
    now = int(time.time())
    for name, content in contents.items():
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or not path.parts:
            raise UsageError(f"put needs paths below the target, not {name!r}")
        for above in reversed(path.parents[:-1]):
            if str(above) not in made:
                made.add(str(above))
                folder = tarfile.TarInfo(str(above))
                folder.type, folder.mode, folder.uid, folder.gid = tarfile.DIRTYPE, 0o755, uid, gid
                folder.mtime = now
                tar.addfile(folder)
        data = content.encode() if isinstance(content, str) else content
        entry = tarfile.TarInfo(str(path))
        entry.size, entry.mode, entry.uid, entry.gid, entry.mtime = len(data), 0o644, uid, gid, now
        tar.addfile(entry, io.BytesIO(data))


def _add_path(tar: tarfile.TarFile, source: Path, uid: int, gid: int) -> None:
    def owned(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
        if not (entry.isreg() or entry.isdir() or entry.issym() or entry.islnk()):
            return None
        entry.uid, entry.gid, entry.uname, entry.gname = uid, gid, "", ""
        entry.mode &= 0o777
        return entry

    if source.is_dir():
        for name in sorted(os.listdir(source)):
            tar.add(source / name, arcname=name, filter=owned)
    elif source.is_file():
        tar.add(source, arcname=source.name, filter=owned)
    else:
        raise UsageError(f"there is no file or directory {source} to put")


def read_file(engine: Engine, container: str, path: str, limit: int) -> bytes:
    """A regular file's bytes. Raises NotFound, EvidenceError for anything else or what is larger than `limit`."""
    shown = printable(path)
    with engine.get_archive(container, path) as archive:
        try:
            reader = TarReader(archive.stream)
            member = next(iter(reader), None)
            if member is None or member.kind is not Kind.FILE:
                what = member.kind.value if member is not None else "nothing"
                raise EvidenceError(f"{shown} is a {what}", help="name a regular file, or give into= for a directory")
            if member.size > limit:
                raise EvidenceError(f"{shown} is larger than {limit} bytes", help="give into= or a larger limit=")
            return b"".join(reader.content())
        except TarError as error:
            raise EvidenceError(f"{shown} could not be read: {error}") from error


def read_into(engine: Engine, container: str, path: str, into: Path, limits: ExportLimits | None) -> Exported:
    """`path`'s regular files, below `into/<its name>`. Links, devices and the like are refused and told.

    Raises NotFound, and EvidenceError when not all could be taken (a limit, an unreadable stream).
    """
    into = Path(os.path.abspath(into))
    into.parent.mkdir(parents=True, exist_ok=True)
    folder = RunFolder(Folder.at(into.parent), into.name)
    try:
        with engine.get_archive(container, path) as archive:
            done = export(archive.stream, folder, part=path, under=into.name, limits=limits)
    finally:
        folder.close()
    if done.missing:
        raise EvidenceError(*(Diagnostic(message=f"{printable(path)}: {m.reason}") for m in done.missing))
    return done
