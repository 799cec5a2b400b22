"""Whether the engine's machine drops packets from senders to whom no way leads back (`rp_filter`).

Owns that look. The bridge of a sandbox's own network has no address of the machine's, so nothing sent to an address
arrives there; a broadcast needs none. With rp_filter 1 or 2, which systemd sets, the kernel drops it all the same;
with 0 it reaches services of the machine that listen on UDP and on every address. No answer gets back either way.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sandboxrun.engine.client import Engine

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
