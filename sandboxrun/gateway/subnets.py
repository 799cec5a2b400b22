"""The subnets of sandboxes' own networks: small, explicit, and none that the engine has already.

Left to the engine, each network takes one of its pools, of which there are thirty. Pure.
"""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Iterable, Iterator

POOL = ipaddress.IPv4Network("10.231.0.0/16")
PREFIX = 29  # the engine's own address, the gateway's, the sandbox's; eight thousand of them fit
_SIZE = 1 << (32 - PREFIX)
_COUNT = POOL.num_addresses // _SIZE

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def candidates(name: str, taken: Iterable[Network]) -> Iterator[str]:
    """Subnets that are free, beginning at a place of the name's own: two who choose at once rarely choose the same."""
    used = [network for network in taken if network.version == 4 and network.overlaps(POOL)]
    first = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big") % _COUNT
    for step in range(_COUNT):
        address = int(POOL.network_address) + (first + step) % _COUNT * _SIZE
        subnet = ipaddress.IPv4Network((address, PREFIX))
        if not any(subnet.overlaps(other) for other in used):
            yield str(subnet)
