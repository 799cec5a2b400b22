"""The tars that couriers carry: secrets, configs, and a directory's owner.

Pure: bytes in, bytes out.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Mapping
from typing import BinaryIO

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


def directory_tar(name: str, uid: int, gid: int) -> BinaryIO:
    """An empty directory of that owner: unpacked above one that is there, it changes the owner alone."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as tar:
        info = tarfile.TarInfo(name)
        info.type, info.mode, info.uid, info.gid = tarfile.DIRTYPE, 0o755, uid, gid
        tar.addfile(info)
    buffer.seek(0)
    return buffer
