"""Looks up users and groups by name in a container's own /etc/passwd and /etc/group.

The files are an image's, so hostile: read with bounds, and never through the host's own look-up.
"""

from __future__ import annotations

import io
import tarfile
from typing import TYPE_CHECKING

from sandboxrun.engine.errors import NotFound
from sandboxrun.errors import ApplyError

if TYPE_CHECKING:
    from sandboxrun.engine.client import Engine

LARGEST = 1 << 20


def look_up(engine: Engine, container: str, user: str, group: str) -> tuple[int, int]:
    """uid and gid of `user` and `group` ("": the user's own). Raises ApplyError for a name that is not there."""
    uid, gid = (int(user), int(user)) if user.isdigit() else _entry(engine, container, "/etc/passwd", user)
    if group:
        gid = int(group) if group.isdigit() else _entry(engine, container, "/etc/group", group)[0]
    return uid, gid


def _entry(engine: Engine, container: str, path: str, name: str) -> tuple[int, int]:
    for line in _read(engine, container, path).splitlines():
        fields = line.split(":")
        if fields[0] == name and len(fields) >= 3 and fields[2].isdigit():
            return int(fields[2]), int(fields[3]) if len(fields) > 3 and fields[3].isdigit() else int(fields[2])
    raise ApplyError(f'the image knows no "{name}" in {path}', help="give the user by number, as in 1000:1000")


def _read(engine: Engine, container: str, path: str) -> str:
    archive = engine.get_archive(container, path)
    try:
        data = bytearray()
        for chunk in archive.stream:
            data += chunk
            if len(data) > LARGEST:
                raise ApplyError(f"{path} of the image is larger than {LARGEST} bytes")
    finally:
        archive.close()
    with tarfile.open(fileobj=io.BytesIO(bytes(data))) as tar:
        member = tar.next()
        file = tar.extractfile(member) if member is not None and member.isreg() else None
        return file.read().decode(errors="replace") if file is not None else ""


def login(engine: Engine, container: str, user: str) -> tuple[int, int, frozenset[int]]:
    """uid, gid and further groups that the engine gives a process of the container's `user`, as the image has them.

    Without a group in `user` they are those of /etc/passwd and /etc/group; a number that stands in neither has group
    0. Raises ApplyError for a name that is not there.
    """
    name, _, group = user.partition(":")
    if group:
        return (*look_up(engine, container, name, group), frozenset())
    entry = next(
        (fields for fields in _lines(engine, container, "/etc/passwd") if name in (fields[0], fields[2])), None
    )
    if entry is None:
        return (int(name), 0, frozenset()) if name.isdigit() else (*look_up(engine, container, name, ""), frozenset())
    member = (fields for fields in _lines(engine, container, "/etc/group") if entry[0] in fields[-1].split(","))
    return int(entry[2]), int(entry[3]), frozenset(int(fields[2]) for fields in member)


def _lines(engine: Engine, container: str, path: str) -> list[list[str]]:
    """The entries of a file that have their numbers. An image without the file has none."""
    try:
        lines = _read(engine, container, path).splitlines()
    except NotFound:
        return []
    entries = [line.split(":") for line in lines]
    return [e for e in entries if len(e) >= 4 and e[2].isdigit() and (path == "/etc/group" or e[3].isdigit())]
