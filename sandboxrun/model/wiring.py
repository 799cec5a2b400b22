"""How a sandbox with egress is wired: a network of its own, its gateway's address on it, and the proxy variables.

Owns that arithmetic and those names; both the sandbox and its gateway are made and read back by it. Pure.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping

import attrs

PORT = 3128
RESOLVER = "127.0.0.1"  # nothing answers there: a sandbox asks no name server, and the engine's is not asked for it
_HERE = "localhost,127.0.0.1,::1"
_PROXIED = ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy")
VARIABLES = (*_PROXIED, "NO_PROXY", "no_proxy", "NODE_USE_ENV_PROXY")


@attrs.frozen(kw_only=True)
class Plot:
    """The addresses of one sandbox's network. The first belongs to the engine's bridge, which is given none."""

    subnet: str
    gateway: str
    sandbox: str

    @classmethod
    def of(cls, subnet: str) -> Plot:
        """The plot on a subnet of at least four addresses, such as 10.231.0.8/29."""
        network = ipaddress.ip_network(subnet)
        return cls(subnet=str(network), gateway=str(network[2]), sandbox=str(network[3]))


def private_network(container: str) -> str:
    """The network that a sandbox shares with nobody but its gateway."""
    return f"{container}.net"


def proxy_variables(gateway: str) -> Mapping[str, str]:
    """What tells programs in the sandbox where the gateway is. By address: no name is resolved in there."""
    proxy = f"http://{gateway}:{PORT}"
    return {
        **dict.fromkeys(_PROXIED, proxy),
        "NO_PROXY": _HERE,
        "no_proxy": _HERE,
        "NODE_USE_ENV_PROXY": "1",  # node's own fetch reads the others only then
    }
