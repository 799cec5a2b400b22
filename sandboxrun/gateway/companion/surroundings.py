"""Where the gateway itself stands: its own addresses, and the networks it is directly on.

Owns the reading of /proc/net. No sandbox may reach any of them through the gateway: next to it are the engine's machine
and the gateways of other sandboxes.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Network

from sandboxrun.gateway.companion.addresses import Network


def networks() -> tuple[Network, ...]:
    """Own addresses and neighbouring networks. Raises OSError when they can't be read."""
    # gVisor has no fib_trie, and what that would say lies in the neighbouring networks; others have no IPv6.
    return (*neighbours(_text("route")), *own_ipv4(_text("fib_trie", "")), *own_ipv6(_text("if_inet6", "")))


def _text(name: str, missing: str | None = None) -> str:
    try:
        with open(f"/proc/net/{name}", encoding="ascii") as file:
            return file.read()
    except FileNotFoundError:
        if missing is None:
            raise
        return missing


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


def own_ipv6(interfaces: str) -> tuple[IPv6Network, ...]:
    """From /proc/net/if_inet6: the networks that own addresses are in."""
    found = []
    for line in interfaces.splitlines():
        digits, _, length, *_ = line.split()
        found.append(IPv6Network((bytes.fromhex(digits), int(length, 16)), strict=False))
    return tuple(dict.fromkeys(found))
