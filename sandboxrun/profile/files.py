"""Where the files of a profile are and how they are read: paths from where relative ones start, bounds, the shipped
bases.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from pathlib import Path
from types import MappingProxyType

from sandboxrun.data import Data
from sandboxrun.errors import Problems
from sandboxrun.source import SourceFile, Span

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
        return Path(os.path.normpath(self.directory(span) / os.path.expanduser(text)))

    def checked(self, text: str, span: Span | None, what: str, problems: Problems) -> Path:
        """The same; a path that leads out of the project (absolute, by `..`, `~` or a link) is noted as a fault.

        `what` names it in the message, as in "the workspace".
        """
        path = self.absolute(text, span)
        if not self.allows(path):
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
        amount = f"{most >> 20} MiB" if most % (1 << 20) == 0 else f"{most >> 10} KiB"
        raise OSError(errno.EFBIG, f"larger than {amount}")
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
    return next((place for place in (start, *start.parents) if (place / ".git").exists()), start)


# -- Reading a profile's files: bytes from disk to a `SourceFile`, within bounds

LARGEST_FILE = 1024 * 1024  # bytes
_PLAIN = re.compile("[\t\n\r\x20-\x7e]*")


# all but what YAML 1.2 (and any sane dotenv file) calls printable, less the byte order mark: a text, since most files
# are plain ASCII, and compiling so wide a set takes longer than reading one
_UNPRINTABLE = "[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]"


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
    errno.EFBIG: "split it with extends",
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
    if not _PLAIN.fullmatch(text) and (bad := re.search(_UNPRINTABLE, text)) is not None:
        code = f"U+{ord(bad.group()):04X}"
        problems.add(f"the file holds {code}, a character that can't be seen", place(file, bad.start()), "remove it")
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
