"""The one way to read a file that a profile, a checkout or the caller names: regular, bounded, without waiting.

Owns the opening. Light: the verdict cache imports it before anything else of the room.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

_CHUNK = 1 << 20


def read_regular(path: Path, most: int) -> bytes:
    """All of a regular file of at most `most` bytes.

    A fifo, a device or a directory is refused at once: opening one may wait, and reading one may never end. Raises
    OSError and nothing else; `reason` says why in a clause.
    """
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    except ValueError:  # a NUL character, or half of a surrogate pair
        raise OSError(errno.EINVAL, "not a valid path") from None
    except OSError as error:
        if error.errno in (errno.ENXIO, errno.ENODEV):  # a socket, or a device without a driver
            raise OSError(errno.EINVAL, "not a regular file") from None
        raise
    try:
        _check_kind(os.fstat(handle).st_mode)
        chunks, left = [], most + 1
        while left > 0 and (chunk := os.read(handle, min(left, _CHUNK))):
            chunks.append(chunk)
            left -= len(chunk)
    finally:
        os.close(handle)
    if left <= 0:
        raise OSError(errno.EFBIG, f"larger than {_amount(most)}")
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


def _check_kind(mode: int) -> None:
    if stat.S_ISDIR(mode):
        raise OSError(errno.EISDIR, "it is a directory")
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "not a regular file")


def _amount(most: int) -> str:
    return f"{most >> 20} MiB" if most % (1 << 20) == 0 else f"{most >> 10} KiB"
