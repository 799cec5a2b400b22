"""Where the files of a profile are and how they are read: paths from where relative ones start, bounds, the shipped
bases; and which of them an `rw` workspace keeps read-only.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from msgspec import structs

from sandboxrun.data import Data
from sandboxrun.errors import MapNode, Problems, Scalar, SourceFile, Span
from sandboxrun.spec.guard import GUARDS, guarded, mounts_of, parents
from sandboxrun.spec.names import JUDGING, POLICY, PROFILES, TAKEN_UP
from sandboxrun.spec.types import size_told

if TYPE_CHECKING:
    from sandboxrun.spec.project import DeclaredSandbox, FileSpec

# -- Host paths in a profile: where relative ones start


class Places(Data):
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
        return Path(os.path.normpath(self.directory(span) / _at_home(text)))

    def checked(self, text: str, span: Span | None, what: str, problems: Problems) -> Path:
        """The same; a path that leads out of the project (absolute, by `..`, `~` or a link) is noted as a fault.

        `what` names it in the message, as in "the workspace".
        """
        path = self.absolute(text.replace("\0", ""), span)
        if "\0" in text:
            problems.add(f'{what} "{text}" has a NUL character, which no path has', span, "remove it")
        elif not self.allows(path):
            problems.add(
                f'{what} "{text}" is outside of the project',
                span,
                "use a path below the project's directory, or allow others if you trust the profile",
                option="--allow-outside",
                argument="allow_outside=True",
            )
        return path

    def allows(self, path: Path) -> bool:
        """Whether an absolute path may be used: it lies in the project, links followed, or the caller allows others."""
        return self.allow_outside or _real(path).is_relative_to(_real(self.root))

    def relative(self, path: Path) -> str:
        """How the path is shown and digested: from the project's directory where it lies below."""
        if path == self.root:
            return "."
        return f"./{path.relative_to(self.root)}" if path.is_relative_to(self.root) else str(path)


def _at_home(text: str) -> str:
    """The path with a home directory in the place of its `~`; as it is where no such user can be."""
    try:
        return os.path.expanduser(text)
    except ValueError:  # a NUL character, or half of a surrogate pair
        return text


def _real(path: Path) -> Path:
    """The path with links followed as far as they go; of one that can't be followed, as it is written."""
    try:
        return Path(os.path.realpath(path))
    except ValueError:  # a NUL character
        return path


# -- The one way to read a file that a profile, a checkout or the caller names: regular, bounded, without waiting

_CHUNK = 1 << 20
_instead: ContextVar[Mapping[Path, bytes]] = ContextVar("instead", default=MappingProxyType({}))


@contextmanager
def instead(texts: Mapping[str, str]) -> Iterator[None]:
    """Within it files are read as if they held these texts: what an edit gives, before it is written."""
    token = _instead.set({_real(Path(name)): text.encode() for name, text in texts.items()})
    try:
        yield
    finally:
        _instead.reset(token)


def read_regular(path: Path, most: int) -> bytes:
    """All of a regular file of at most `most` bytes.

    A fifo, a device or a directory is refused at once: opening one may wait, and reading one may never end. Raises
    OSError and nothing else; `reason` says why in a clause.
    """
    if (edited := _instead.get()) and (data := edited.get(_real(path))) is not None:
        return data
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    except ValueError:  # a NUL character, or half of a surrogate pair
        raise OSError(errno.EINVAL, "not a valid path") from None
    except OSError as error:
        if error.errno in (errno.ENXIO, errno.ENODEV):  # a socket, or a device without a driver
            raise OSError(errno.EINVAL, "not a regular file") from None
        raise
    try:
        mode = os.fstat(handle).st_mode
        if stat.S_ISDIR(mode):
            raise OSError(errno.EISDIR, "it is a directory")
        if not stat.S_ISREG(mode):
            raise OSError(errno.EINVAL, "not a regular file")
        chunks, left = [], most + 1
        while left > 0 and (chunk := os.read(handle, min(left, _CHUNK))):
            chunks.append(chunk)
            left -= len(chunk)
    finally:
        os.close(handle)
    if left <= 0:
        raise OSError(errno.EFBIG, f"larger than {size_told(most)}")
    return b"".join(chunks)


def reason(error: OSError) -> str:
    """Why a file could not be read: "no such file or directory"."""
    text = error.strerror or str(error)
    return text[:1].lower() + text[1:]


def is_missing(path: Path) -> bool:
    """Whether there is nothing at `path`: not where it exists and can't be read."""
    try:
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return True
    except (OSError, ValueError):
        return False
    return False


def project_root(path: Path) -> Path:
    """The nearest directory above that is a repository's; the path's own directory where there is none."""
    start = Path(os.path.abspath(path if path.is_dir() else path.parent))
    return next(repositories(start), start)


def repositories(directory: Path) -> Iterator[Path]:
    """The tops of the repositories that an absolute directory is in, the innermost first."""
    return (place for place in (directory, *directory.parents) if is_repository(place))


def is_repository(directory: Path) -> bool:
    """Whether a directory is the top of a repository. An empty `.git` is none, to git neither: it may be what keeps a
    sandbox from making one."""
    place = directory / ".git"
    try:
        return place.exists() and is_there(place)
    except OSError:  # whatever it is
        return True


# -- Reading a profile's files: bytes from disk to a `SourceFile`, within bounds

LARGEST_FILE = 1024 * 1024  # bytes
_PLAIN = re.compile("[\t\n\r\x20-\x7e]*")


# all but what YAML 1.2 (and any sane dotenv file) calls printable, less the byte order mark: a text, since most files
# are plain ASCII, and compiling so wide a set takes longer than reading one
_UNPRINTABLE = "[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]"
# Printable to YAML, and yet not what a reader of the file sees: breaks that end a line, and with it a comment, for the
# parser alone; marks that turn the order of what is shown; what has no width. Joiners stay: scripts and emoji need them
_UNSEEN = (
    "\r(?!\n)|[\x85\u2028\u2029]|"
    "[\xad\u061c\u180e\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\ufff9-\ufffb\U000e0000-\U000e01ef]"
)


def read_source(path: Path, name: str, problems: Problems, *, asked_at: Span | None = None) -> SourceFile | None:
    """The text of the file at `path`, called `name` in messages; None, with the reason noted, when it has none.

    `asked_at` is where another file names it: the place to point at when it can't be read at all.
    """
    try:
        data = read_regular(path, LARGEST_FILE)
    except OSError as error:
        problems.add(f'the file "{name}" can\'t be read: {reason(error)}', asked_at, _HELP.get(error.errno or 0))
        return None
    return source_of(data, name, problems)


_HELP = {
    errno.ENOENT: "check the path; it is relative to the file that names it, or to the current directory for -f",
    errno.ELOOP: "a symlink in the path points back to itself; replace it with the file",
    errno.EFBIG: "split it: a profile with extends, an env_file into a list of files",
}


def source_of(data: bytes, name: str, problems: Problems) -> SourceFile | None:
    """`data` as UTF-8 text of printable characters; None, with the fault noted, when it is something else."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        file = SourceFile(name=name, text=data.decode("utf-8", "replace"))
        wide = data[:2] in (b"\xff\xfe", b"\xfe\xff")
        what = "is UTF-16" if wide else f"is not UTF-8 (byte {data[error.start]:#04x})"
        span = place(file, len(data[: error.start].decode("utf-8-sig", "replace")))
        problems.add(f"the file {what}", span, "save it as UTF-8")
        return None
    file = SourceFile(name=name, text=text)
    if _PLAIN.fullmatch(text) and text.count("\r") == text.count("\r\n"):
        return file
    if (bad := re.search(_UNPRINTABLE, text) or re.search(_UNSEEN, text)) is not None:
        code = f"U+{ord(bad.group()):04X}"
        help = "remove it; a text in double quotes may have it as an escape"
        problems.add(f"the file holds {code}, a character that can't be seen", place(file, bad.start()), help)
        return None
    return file


def place(file: SourceFile, offset: int) -> Span:
    """The span of the character at `offset` of the file's text."""
    lines = f"{file.text[:offset]}.".splitlines()
    return Span(file=file, line=len(lines), column=len(lines[-1]))


# -- The built-in bases: where their files are

_PACKAGE = Path(__file__).resolve().parent.parent


@cache
def bases() -> dict[str, Path]:
    """The built-in bases' files by name, sorted."""
    return {path.stem: path for path in sorted(data_directory("profiles").glob("*.yaml"))}


def data_directory(name: str) -> Path:
    """The directory of data files called `name` (`profiles`, `schemas`)."""
    inside = _PACKAGE / "data" / name
    return inside if inside.is_dir() else _PACKAGE.parent / name


# -- What each `rw` workspace keeps read-only: what the host runs (`spec/guard.py`), and every file that decides what
# the sandbox is. What can't be kept is whatever a link stands for: the disk is looked at for links only

_COPY = "use access: copy"


def own_files(read: Iterable[Path], *files: Mapping[str, FileSpec]) -> frozenset[Path]:
    """All that decides what sandboxes are, as written and as it really lies: `read` for the profile, and the files of
    its secrets and configs."""
    named = [Path(spec.file) for group in files for spec in group.values() if spec.file is not None]
    every = [Path(os.path.abspath(path)) for path in (*read, *named)]
    return frozenset((*every, *(Path(os.path.realpath(path)) for path in every)))


def is_there(path: Path) -> bool:
    """Whether there is anything in a place for a profile, a policy, waivers, a baseline or git. An empty directory is
    what keeps the place while a sandbox may write beside it."""
    try:
        return os.path.lexists(path) and not (path.is_dir() and not path.is_symlink() and not any(path.iterdir()))
    except OSError:  # it can't be looked into
        return True


def taken_up(directory: Path) -> Iterator[Path]:
    """The files that the next command takes up without being given their names, also where they are not there: what
    writes one decides about the next sandbox. A profile of the second name is none beside one of the first."""
    roots = _roots(directory)
    yield from (root / name for root in roots for name in JUDGING)
    for place in dict.fromkeys((directory, *roots)):
        there = [place / name for name in PROFILES if is_there(place / name)]
        yield from there or [place / name for name in PROFILES]


def _roots(directory: Path) -> tuple[Path, ...]:
    """Where what judges a profile of that directory lies: the project's root, and the repositories around it."""
    return tuple(repositories(directory)) or (directory,)


def greatest_profiles(directory: Path) -> Iterator[Path]:
    """The `max_profile` that each policy names by which a profile of that directory is judged."""
    from sandboxrun.profile.yaml import parse_yaml

    for root in _roots(directory):
        policy = read_source(root / POLICY, POLICY, Problems()) if (root / POLICY).is_file() else None
        node = parse_yaml(policy, Problems()) if policy is not None else None
        greatest = node.get("max_profile") if isinstance(node, MapNode) else None
        if isinstance(greatest, Scalar) and isinstance(greatest.value, str) and "\0" not in greatest.value:
            yield Path(os.path.normpath(root / greatest.value))


def may_be_written(sandbox: DeclaredSandbox, paths: frozenset[Path]) -> Iterator[tuple[str, str | None, Path]]:
    """Those of the files that the sandbox may write to or replace, as they lie on this machine, each with the option
    and its item that let it."""
    workspace = sandbox.spec.workspace
    if workspace is not None and workspace.access == "rw":
        kept = frozenset(workspace.protected)
        for inner in sorted(below(workspace.source, paths)):
            if kept.isdisjoint((inner, *parents(inner))):
                yield "workspace", None, Path(workspace.source, inner)
    for mount in sandbox.spec.volumes:
        if mount.type == "bind" and not mount.read_only and mount.source is not None:
            yield from (("volumes", mount.target, Path(mount.source, i)) for i in sorted(below(mount.source, paths)))


def with_protected(
    sandboxes: Iterable[DeclaredSandbox], own: frozenset[Path], places: Places, problems: Problems
) -> tuple[DeclaredSandbox, ...]:
    """The sandboxes with what their workspaces keep read-only written out; what can't be kept is noted."""
    found = []
    for sandbox in sandboxes:
        for mount in sandbox.spec.volumes:
            if mount.type != "bind" or mount.read_only or mount.source is None or not places.allows(Path(mount.source)):
                continue  # one that is outside is reported already
            inside = (path for path in own if path.is_relative_to(os.path.realpath(mount.source)))
            decisive = sorted(path for path in inside if path.name not in TAKEN_UP or is_there(path))
            if decisive:
                what = f"{decisive[0].name}, which the profile depends on"
                message = f"the bind {mount.target} lets the sandbox write to {what}"
                help = "mount it with :ro, or as the workspace with access: rw, which keeps such files"
                problems.add(message, sandbox.place("volumes", mount.target), help)
        found.append(_guarded(sandbox, own, problems))
    _check_apart(found, problems)
    return tuple(found)


def _check_apart(sandboxes: Sequence[DeclaredSandbox], problems: Problems) -> None:
    """No sandbox starts from a place that another one may move: it could put a link to any host path there."""
    writers: dict[tuple[Path, tuple[str, ...]], list[str]] = {}  # a place and what of it can't be moved → who writes
    for sandbox in sandboxes:
        workspace = sandbox.spec.workspace
        if workspace is not None and workspace.access == "rw":
            writers.setdefault((Path(workspace.source), workspace.protected), []).append(sandbox.address)
        for mount in sandbox.spec.volumes:
            if mount.type == "bind" and not mount.read_only:
                writers.setdefault((Path(mount.source or ""), ()), []).append(sandbox.address)
    can_move = cache(_can_move)
    for sandbox in sandboxes if writers else ():
        done = {a for a, waits in sandbox.depends_on.items() if waits.condition == "service_completed_successfully"}
        for key, item, place in sources_of(sandbox):
            for (top, fixed), addresses in writers.items():
                other = next((one for one in addresses if one != sandbox.address and one not in done), None)
                if other is not None and can_move(top, fixed, place):
                    message = f"{place.name} lies where {other} may write: it could put a link in its place"
                    help = "give each a directory of its own, or depend on it: service_completed_successfully"
                    problems.add(message, sandbox.place(key, item), help)


def _can_move(top: Path, fixed: tuple[str, ...], place: Path) -> bool:
    """Whether who writes to `top` can put another thing where `place` is. A mount can't be moved."""
    real, above = Path(os.path.realpath(place)), Path(os.path.realpath(top))
    if real == above or not real.is_relative_to(above):
        return False
    mounts, inner = dict(mounts_of(fixed)), str(real.relative_to(above))
    return not (inner in mounts or any(mounts.get(step) for step in parents(inner)))


def sources_of(sandbox: DeclaredSandbox) -> Iterator[tuple[str, str | None, Path]]:
    """The options, their items, and the host paths in them, that a sandbox is given when it starts."""
    workspace = sandbox.spec.workspace
    if workspace is not None:
        yield "workspace", None, sandbox.workspace or Path(workspace.source)
    for mount in sandbox.spec.volumes:
        if mount.type == "bind" and mount.source is not None:
            yield "volumes", mount.target, Path(mount.source)


def real_places(sandboxes: Iterable[DeclaredSandbox]) -> Mapping[str, str]:
    """Where the host paths of the sandboxes lead now, links followed."""
    paths = {str(path) for sandbox in sandboxes for _, _, path in sources_of(sandbox)}
    return {path: os.path.realpath(path) for path in paths}


def _guarded(sandbox: DeclaredSandbox, own: frozenset[Path], problems: Problems) -> DeclaredSandbox:
    workspace = sandbox.spec.workspace
    if workspace is None or workspace.access != "rw":
        return sandbox
    span = sandbox.place("workspace")
    also: tuple[Path, ...] = ()
    top = Path(workspace.source)
    try:
        also = tuple(taken_up(top)) if is_repository(top) else ()
        also += () if ".git" in workspace.writable else tuple(configured(top))
    except OSError as error:
        if os.path.isdir(workspace.source):
            message = f"the workspace's .git/config can't be read: {reason(error)}: what git runs of it is not known"
            problems.add(message, span, f"make it a readable file, or {_COPY}")
        else:
            problems.add(f"the workspace can't be read: {reason(error)}", span, "fix the path, or what is there")
    every = guarded(workspace.writable, below(workspace.source, own | frozenset(also)))
    volumes = [("volumes", mount.target) for mount in sandbox.spec.volumes]
    beside = [*volumes, *(("tmpfs", path) for path in sandbox.spec.tmpfs)]
    inside = f"{workspace.target.rstrip('/')}/"
    mounts = [(os.path.relpath(p, workspace.target), key, p) for key, p in beside if p.rstrip("/").startswith(inside)]
    covered = {inner for inner, _, _ in mounts}
    # what lies under another mount at the top is out of reach, and the mount can't be moved
    paths = tuple(path for path in every if path.split("/")[0] not in covered)
    taken = {*paths, *(above for path in paths for above in parents(path))}
    for inner, key, target in mounts:
        if inner in taken:
            message = f"{key}: {target} would hide files of the workspace that are kept read-only"
            problems.add(message, sandbox.place(key, target), "give it another target")
    for path in paths:
        link = next((at for at in (*parents(path), path) if os.path.islink(os.path.join(workspace.source, at))), None)
        if link is not None:
            name = path.split("/")[0]
            opened = f'open it by writable: ["{name}"]' if path in GUARDS else "name the file itself"
            message = f"{link} in the workspace is a link: {'it' if link == path else path} can't be kept read-only"
            problems.add(message, span, f"{_COPY}, or {opened}")
    from sandboxrun.profile.yaml import is_text  # who has a sandbox has read it

    for path in (path for path in paths if not is_text(path)):
        message = f"{path} in the workspace can't be kept read-only: its name is not UTF-8"
        problems.add(message, span, f"correct .git/config, or {_COPY}")
    spec = structs.replace(sandbox.spec, workspace=structs.replace(workspace, protected=paths))
    return structs.replace(sandbox, spec=spec)


_SETTING = re.compile(
    rb"^[ \t]*(?:\[[^\]\n]*\][ \t]*)?(hookspath|path)[ \t]*=[ \t]*([^\n]*)", re.IGNORECASE | re.MULTILINE
)
_LARGEST = 1 << 20  # bytes of git's configuration


def configured(top: Path) -> Iterator[Path]:
    """Where git's configuration of the directory leads: the directory of its hooks, and files that it includes.

    More is found than git may follow, and never less of what is written in the file itself. Raises OSError where it is
    there and can't be read.
    """
    try:
        text = read_regular(top / ".git/config", _LARGEST)
    except (FileNotFoundError, NotADirectoryError):
        return
    for key, value in _SETTING.findall(text):
        written = re.split(rb"[ \t]+[#;]", value.strip())[0].replace(b'"', b"")
        place = _at_home(os.fsdecode(written.replace(b"\\\\", b"\\")))
        start = top if key.lower() == b"hookspath" else top / ".git"
        if place and "\0" not in place:
            yield Path(os.path.normpath(start / place))


def below(source: str, own: frozenset[Path]) -> Iterator[str]:
    """Those of the files that lie below the workspace, from there."""
    tops = {Path(source), Path(os.path.realpath(source))}
    for path in own:
        for top in tops:
            if path != top and path.is_relative_to(top):
                yield str(path.relative_to(top))
