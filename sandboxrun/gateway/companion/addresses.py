"""Which addresses are ever reachable from a sandbox.

The one place where that is decided. Must not resolve names, and must not know which names are allowed. Pure.
"""

from __future__ import annotations

import functools
import ipaddress
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

# Never reachable, whatever the rules say.
NEVER = tuple(
    ipaddress.ip_network(text)
    for text in (
        "0.0.0.0/8",  # this network; Linux takes 0.0.0.0 for the machine itself
        "127.0.0.0/8",  # loopback
        "169.254.0.0/16",  # link-local; the metadata service of most clouds
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved, and the broadcast address
        "100.100.100.200/32",  # metadata of a cloud
        "168.63.129.16/32",  # a cloud's host service, on a public address
        "192.0.0.192/32",  # metadata of a cloud
        "::/96",  # unspecified, loopback, and IPv4 in the old compatible form
        "::ffff:0:0/96",  # IPv4-mapped
        "::ffff:0:0:0/96",  # IPv4-translated
        "64:ff9b:1::/48",  # local NAT64: where its IPv4 address stands can't be known
        "2001::/32",  # Teredo: carries an IPv4 address
        "2002::/16",  # 6to4: carries an IPv4 address
        "fe80::/10",  # link-local
        "fec0::/10",  # site-local, of old
        "ff00::/8",  # multicast
        "fd00:ec2::/32",  # metadata of a cloud
        "fd20:ce::/64",  # metadata of a cloud
        "fd00:c1::a9fe:a9fe/128",  # metadata of a cloud
        "fd00:42::42/128",  # metadata of a cloud
    )
)

# Not public; reachable where private_networks says so.
PRIVATE = tuple(
    ipaddress.ip_network(text)
    for text in (
        "10.0.0.0/8",
        "172.16.0.0/12",
        "192.168.0.0/16",
        "100.64.0.0/10",  # carriers' shared addresses
        "192.0.0.0/24",  # protocol assignments
        "192.0.2.0/24",  # documentation
        "192.88.99.0/24",  # 6to4 relays, of old
        "198.18.0.0/15",  # benchmarking
        "198.51.100.0/24",  # documentation
        "203.0.113.0/24",  # documentation
        "2001::/23",  # protocol assignments
        "2001:db8::/32",  # documentation
        "3fff::/20",  # documentation
        "fc00::/7",  # unique local addresses
    )
)

PUBLIC_IPV6 = IPv6Network("2000::/3")  # all that is given out; the rest is reserved
NAT64 = IPv6Network("64:ff9b::/96")  # networks without IPv4 reach it through these addresses
ISATAP = (0x00005EFE, 0x02005EFE)  # the third quarter of an address that carries an IPv4 address in its last


def within(address: Address, networks: Iterable[Network]) -> bool:
    """Whether it lies in one of them."""
    return any(address.version == network.version and address in network for network in networks)


def refusal(address: Address, opened: Iterable[Network] = (), own: Iterable[Network] = ()) -> str | None:
    """None when a sandbox may reach `address`, else why not: "reserved" for good, "private" unless it is opened.

    `opened`: the ranges of private_networks. `own`: where the gateway itself stands, the machine next to it included.
    """
    carried = IPv4Address(int(address) & 0xFFFFFFFF) if isinstance(address, IPv6Address) and address in NAT64 else None
    if within(address, own) or (carried is not None and within(carried, own)):
        return "reserved"
    kind = _kind(carried or address)
    if kind == "private":
        return None if within(carried or address, opened) else "private"
    return kind


@functools.lru_cache(maxsize=1024)
def _kind(address: Address) -> str | None:
    """The same by the address alone: "reserved", "private", or None for a public one."""
    if within(address, NEVER):
        return "reserved"
    if isinstance(address, IPv6Address) and (
        address.scope_id is not None or (int(address) >> 32) & 0xFFFFFFFF in ISATAP
    ):
        return "reserved"
    if within(address, PRIVATE):
        return "private"
    if isinstance(address, IPv6Address) and address not in PUBLIC_IPV6:
        return "reserved"
    return None if address.is_global else "reserved"
