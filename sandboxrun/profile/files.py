"""Reading a profile's files: bytes from disk to a `SourceFile`, within bounds.

Owns what a text must be. Must not parse it; `regular` opens the file.
"""

from __future__ import annotations

import errno
import re
from functools import cache
from pathlib import Path

from sandboxrun.errors import Problems
from sandboxrun.profile.regular import read_regular, reason
from sandboxrun.source import SourceFile, Span

LARGEST_FILE = 1024 * 1024  # bytes
_PLAIN = re.compile("[\t\n\r\x20-\x7e]*")


@cache
def _unprintable() -> re.Pattern[str]:
    """All but what YAML 1.2 (and any sane dotenv file) calls printable, less the byte order mark.

    Compiling so wide a set takes longer than reading a profile, and most are plain ASCII.
    """
    return re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]")


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
    if not _PLAIN.fullmatch(text) and (bad := _unprintable().search(text)) is not None:
        code = f"U+{ord(bad.group()):04X}"
        problems.add(f"the file holds {code}, a character that can't be seen", place(file, bad.start()), "remove it")
        return None
    return file


def place(file: SourceFile, offset: int) -> Span:
    """The span of the character at `offset` of the file's text."""
    before = file.text[:offset].splitlines(keepends=True)
    if not before:
        return Span(file=file, line=1, column=1)
    if before[-1].splitlines() != [before[-1]]:  # the last line has ended: the character begins the next one
        return Span(file=file, line=len(before) + 1, column=1)
    return Span(file=file, line=len(before), column=len(before[-1]) + 1)
