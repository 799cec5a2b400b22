"""What a client calls a destination: `host:port`, strictly, or a refusal by name.

Owns the spelling of hosts and ports. Must not resolve. Pure.
"""

from __future__ import annotations

import re
from ipaddress import AddressValueError, IPv4Address, IPv6Address

from sandboxrun.gateway.program.addresses import Address
from sandboxrun.gateway.program.refusals import Refused

MAX_AUTHORITY = 300  # a name has 253 at most
_LABEL = "[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_NAME = re.compile(rf"(?:{_LABEL}\.)+{_LABEL}", re.ASCII)
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*", re.ASCII)  # as a last label: what C libraries take for an address
_BARE_IPV6 = re.compile(r"[0-9a-f.:]*:[0-9a-f.:]*", re.ASCII)
_PORT = re.compile(r"[1-9][0-9]{0,4}", re.ASCII)


class Target:
    """A destination as it was asked for: `host` in lower case, and the address that it is where it is one."""

    __slots__ = ("host", "literal", "port")

    def __init__(self, host: str, port: int, literal: Address | None = None) -> None:
        self.host = host
        self.port = port
        self.literal = literal

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def target_of(authority: str, default_port: int | None = None) -> Target:
    """The destination that `authority` spells. Raises Refused.

    Addresses in their one canonical spelling are told by `literal`; every other spelling is refused here.
    """
    if len(authority) > MAX_AUTHORITY:
        raise Refused("name", "the host is too long")
    if not authority.isascii() or not authority.isprintable():
        raise Refused("name", "the host has characters that no host name has")
    host, port = _split(authority.lower(), default_port)
    if host.startswith("["):
        return Target(host[1:-1], port, _ipv6(host))
    if _BARE_IPV6.fullmatch(host):
        raise Refused("address", "an IPv6 address without brackets")
    if host.endswith("."):
        raise Refused("name", "the host ends with a dot")
    if _NUMBER.fullmatch(host.rpartition(".")[2]):
        return Target(host, port, _ipv4(host))
    if len(host) > 253 or not _NAME.fullmatch(host):
        raise Refused("name", "what stands for the host is no host name")
    return Target(host, port)


def _split(authority: str, default_port: int | None) -> tuple[str, int]:
    """Host and port apart."""
    bare = authority.endswith("]") or ":" not in authority
    host, _, port = (authority, "", "") if bare else authority.rpartition(":")
    if bare and default_port is not None:
        return host, default_port
    if not _PORT.fullmatch(port) or int(port) > 65535:
        raise Refused("name", "the destination has no port, or one that is malformed")
    return host, int(port)


def _ipv4(host: str) -> IPv4Address:
    try:
        return IPv4Address(host)  # four decimal numbers without leading zeros
    except AddressValueError:
        raise Refused("address", "an address in a spelling of its own") from None


def _ipv6(host: str) -> IPv6Address:
    try:
        address = IPv6Address(host[1:-1]) if host.endswith("]") else None
    except AddressValueError:
        address = None
    if address is None or address.scope_id is not None or str(address) != host[1:-1]:
        raise Refused("address", "an address in a spelling of its own")
    return address
