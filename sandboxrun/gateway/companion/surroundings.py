"""Where the gateway itself stands: its own addresses, and the networks it is directly on.

Owns the reading of /proc/net. No sandbox may reach any of them through the gateway: next to it are the engine's machine
and the gateways of other sandboxes.
"""

from __future__ import annotations

import time
from ipaddress import IPv4Address, IPv4Network, IPv6Network

from sandboxrun.gateway.companion.addresses import Network

_FRESH = 1.0  # seconds


class Surroundings:
    """The networks around, read anew when they are older than a second; the same object while nothing changed."""

    def __init__(self) -> None:
        self._networks: tuple[Network, ...] = ()
        self._read = -_FRESH

    def networks(self) -> tuple[Network, ...]:
        """Own addresses and neighbouring networks. Raises OSError when they can't be read."""
        now = time.monotonic()
        if now - self._read >= _FRESH:
            found: tuple[Network, ...] = (*neighbours(_text("route")), *_own_ipv4(), *_own_ipv6())
            self._networks = self._networks if found == self._networks else found
            self._read = now
        return self._networks


def _text(name: str) -> str:
    with open(f"/proc/net/{name}", encoding="ascii") as file:
        return file.read()


def neighbours(routes: str) -> tuple[IPv4Network, ...]:
    """From /proc/net/route: the networks reached without a router, and the routers themselves."""
    found = []
    for line in routes.splitlines()[1:]:
        _, destination, router, _, _, _, _, mask, *_ = line.split()
        if _address(router) != IPv4Address(0):
            found.append(IPv4Network(_address(router)))
        elif _address(mask) != IPv4Address(0):  # a default route without a router says nothing of neighbours
            found.append(IPv4Network(f"{_address(destination)}/{_address(mask)}"))
    return tuple(dict.fromkeys(found))


def _address(digits: str) -> IPv4Address:
    return IPv4Address(bytes.fromhex(digits)[::-1])  # in the machine's byte order: all that Docker runs on are little


def _own_ipv4() -> tuple[IPv4Network, ...]:
    try:
        return own_ipv4(_text("fib_trie"))
    except FileNotFoundError:  # gVisor has none; what it would say lies in the neighbouring networks
        return ()


def own_ipv4(trie: str) -> tuple[IPv4Network, ...]:
    """From /proc/net/fib_trie: the machine's own addresses."""
    found, last = [], ""
    for line in trie.splitlines():
        words = line.split()
        if words[:1] == ["|--"]:
            last = words[1]
        elif words[:3] == ["/32", "host", "LOCAL"]:
            found.append(IPv4Network(last))
    return tuple(dict.fromkeys(found))


def _own_ipv6() -> tuple[IPv6Network, ...]:
    try:
        return own_ipv6(_text("if_inet6"))
    except FileNotFoundError:  # without IPv6
        return ()


def own_ipv6(interfaces: str) -> tuple[IPv6Network, ...]:
    """From /proc/net/if_inet6: the networks that own addresses are in."""
    found = []
    for line in interfaces.splitlines():
        digits, _, length, *_ = line.split()
        found.append(IPv6Network((bytes.fromhex(digits), int(length, 16)), strict=False))
    return tuple(dict.fromkeys(found))
