"""The addresses of the engine's own machine: what no sandbox's traffic may be led to.

Owns reading them where this process can: from the kernel's tables of the engine's network namespace, else from the
address that the engine was reached at. What cannot be read is no error: private addresses are refused anyway.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from sandboxrun.backend.docker.transport import TransportError

if TYPE_CHECKING:
    from sandboxrun.backend.docker.client import Engine

_LOCAL = re.compile(r"\|-- ([0-9.]+)\n\s+/32 host LOCAL")


def host_addresses(engine: Engine) -> tuple[str, ...]:
    """IPv4 and IPv6 addresses, sorted, loopback left out."""
    try:
        pid = engine.transport.peer_pid()
    except (TransportError, OSError):
        pid = None
    found = set(_reached(engine.endpoint)) if pid is None else set(_of_namespace(f"/proc/{pid}/net" if pid else None))
    return tuple(sorted(str(address) for address in map(ipaddress.ip_address, found) if not address.is_loopback))


def _of_namespace(folder: str | None) -> Iterator[str]:
    for place in filter(None, (folder, "/proc/net")):
        try:
            four = Path(place, "fib_trie").read_text("ascii")
        except OSError:
            continue
        yield from _LOCAL.findall(four)
        yield from _six(Path(place, "if_inet6"))
        return


def _six(table: Path) -> Iterable[str]:
    try:
        lines = table.read_text("ascii").splitlines()
    except OSError:  # a kernel without IPv6
        return ()
    return [str(ipaddress.IPv6Address(int(line.split()[0], 16))) for line in lines]


def _reached(endpoint: str) -> Iterable[str]:
    host = urlsplit(endpoint).hostname
    try:
        answers = socket.getaddrinfo(host, None) if host else []
    except OSError:
        return ()
    return {str(answer[4][0]).partition("%")[0] for answer in answers}
