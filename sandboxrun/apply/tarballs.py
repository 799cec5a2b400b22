"""The tars that are uploaded: secrets and configs, and a workspace's own directory entry.

Pure: bytes in, bytes out.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Mapping
from typing import BinaryIO, cast

from sandboxrun.model.records import FileRef


def files_tar(contents: Mapping[FileRef, bytes], uid: int, gid: int) -> BinaryIO:
    """One file for each reference, owned by its own uid and gid, or by those given."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for ref, content in contents.items():
            info = tarfile.TarInfo(ref.file_name)
            info.size, info.mode = len(content), ref.mode
            info.uid = uid if ref.uid is None else ref.uid
            info.gid = gid if ref.gid is None else ref.gid
            tar.addfile(info, io.BytesIO(content))
    buffer.seek(0)
    return buffer


def owned_tar(tar: BinaryIO, uid: int, gid: int) -> BinaryIO:
    """`tar`, with an entry for the directory itself in front: a new volume belongs to root."""
    info = tarfile.TarInfo("./")
    info.type, info.mode, info.uid, info.gid = tarfile.DIRTYPE, 0o755, uid, gid
    return cast(BinaryIO, _Joined(io.BytesIO(info.tobuf(tarfile.GNU_FORMAT)), tar))


class _Joined:
    """Two files read one after the other."""

    def __init__(self, first: BinaryIO, second: BinaryIO) -> None:
        self._files = [first, second]

    def read(self, size: int = -1) -> bytes:
        while self._files:
            data = self._files[0].read(size)
            if data:
                return data
            self._files.pop(0)
        return b""
