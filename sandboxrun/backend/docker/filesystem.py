"""Whether a path means the same to the engine as to this process, and whether its machine drops what has no way
back.
"""

from __future__ import annotations

import os
import secrets
import socket
from pathlib import Path
from typing import TYPE_CHECKING

from sandboxrun.backend.docker.transport import TransportError
from sandboxrun.backend.errors import EngineError, NotFound

if TYPE_CHECKING:
    from sandboxrun.backend.docker.client import Engine


# -- Whether a path means the same to the engine as to this process

OVERRIDE = "SANDBOXRUN_SHARED_FILESYSTEM"
_CONTAINER_MARKS = ("/.dockerenv", "/run/.containerenv")


def sharing(engine: Engine) -> tuple[bool, str]:
    """Whether the filesystem is shared, and why (a clause)."""
    told = os.environ.get(OVERRIDE, "")
    if told in ("0", "1"):
        return told == "1", f"{OVERRIDE}={told} says so"
    try:
        against = _other_root(engine) or _other_host(engine) or _other_paths(engine)
    except (EngineError, TransportError, OSError) as error:
        return False, f"it could not be found out: {error}"
    if against:
        return False, against
    return True, "the engine runs on this machine, with the same root folder"


def _other_root(engine: Engine) -> str | None:
    """Evidence from the socket: a listener in a foreign pid namespace, or with another root folder."""
    pid = engine.transport.peer_pid()
    if pid is None:
        return f"the engine is reached over {engine.endpoint.partition('://')[0]}"
    if pid == 0:
        return "the engine runs outside this container: its socket was mounted in"
    try:
        theirs, ours = os.stat(f"/proc/{pid}/root/"), os.stat("/")
    except PermissionError:
        # Not root: the listener's root cannot be seen. On a plain host it is ours; inside a container, who knows.
        return "this process runs in a container, and cannot see the engine's root folder" if _in_container() else None
    same = (theirs.st_dev, theirs.st_ino) == (ours.st_dev, ours.st_ino)
    return None if same else "the engine's root folder is a different one"


def _in_container() -> bool:
    if any(os.path.exists(mark) for mark in _CONTAINER_MARKS):
        return True
    mounts = Path("/proc/self/mountinfo").read_text("utf-8", "replace").splitlines()
    roots = [line for line in mounts if line.split(" ")[4:5] == ["/"]]
    return any(" - overlay " in line or " - fuse.fuse-overlayfs " in line for line in roots)


def _other_host(engine: Engine) -> str | None:
    """Evidence from the engine itself: a socket may be forwarded from another machine, or from a virtual one."""
    info = engine.info()
    here = {"Name": socket.gethostname(), "KernelVersion": os.uname().release, "MemTotal": _memory()}
    for key, ours in here.items():
        if info.get(key) != ours:
            return f"the engine runs on another machine ({key} is {info.get(key)} there, {ours} here)"
    return None


def _memory() -> int:
    for line in Path("/proc/meminfo").read_text("ascii").splitlines():
        if line.startswith("MemTotal:"):
            return int(line.split()[1]) * 1024
    return 0


def _other_paths(engine: Engine) -> str | None:
    """Evidence from a bind that the engine is asked to check, of the current folder: it may see another tree.

    The call names an image that cannot exist, so nothing is ever made. A folder that cannot exist either is the
    control: an engine that does not look at the path first (Podman) tells nothing, which is no evidence against.
    """
    token = secrets.token_hex(16)
    if _sees(engine, f"/sandboxrun-{token}", token):
        return None
    return None if _sees(engine, os.getcwd(), token) else f"the engine sees no folder {os.getcwd()}"


def _sees(engine: Engine, path: str, token: str) -> bool:
    mount = {"Type": "bind", "Source": path, "Target": "/mnt", "ReadOnly": True}
    payload = {"Image": f"sandboxrun-none:{token}", "HostConfig": {"Mounts": [mount]}}
    try:
        engine.create_container(f"sandboxrun-check-{token}", payload)
    except NotFound:
        return True
    except EngineError as error:
        if "does not exist" in error.cause:
            return False
        raise
    raise EngineError("checking the filesystem", "the engine made a container of an image that does not exist")


# -- Whether the engine's machine drops packets from senders to whom no way leads back (`rp_filter`)

SETTINGS = "/proc/sys/net/ipv4/conf"


def filters_paths(engine: Engine) -> bool | None:
    """Whether it does on networks that are made from now on; None where that can't be seen from here."""
    pid = engine.transport.peer_pid()
    if not pid:
        return None
    try:
        if os.readlink(f"/proc/{pid}/ns/net") != os.readlink("/proc/self/ns/net"):
            return None  # what /proc shows is this process's network
        return max(_setting("all"), _setting("default")) > 0
    except (OSError, ValueError):
        return None


def _setting(name: str) -> int:
    with open(f"{SETTINGS}/{name}/rp_filter", encoding="ascii") as file:
        return int(file.read())
