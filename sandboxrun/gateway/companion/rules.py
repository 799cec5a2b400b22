"""The rules document: read strictly, and asked whether a name and port are allowed.

Owns the document's form on the reading side, the spelling of names and what each port carries. Pure.
"""

from __future__ import annotations

import hashlib
import ipaddress
import json
import re
from typing import Any, NamedTuple

from sandboxrun.gateway.companion.addresses import Address, Network

VERSION = 2
MAX_DOCUMENT = 1 << 20
MAX_PORTS = 128  # HAProxy listens on each
MAX_NAME = 253
HTTP, TLS = 80, 443
NAME_SERVICE = 53
KEYS = {
    "version", "sandbox", "run", "mode", "ports", "allow", "private_networks", "resolvers", "refused", "records",
}  # fmt: skip
_LABEL = "[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
# A last label of digits alone, or that begins with 0x, is an address's in C libraries. HAProxy judges by the same.
NAME = rf"(?:{_LABEL}\.)+(?!0x[0-9a-f]*$)(?=[0-9-]*[a-z]){_LABEL}"
_NAME = re.compile(NAME, re.ASCII)
_PORT = re.compile(r"[1-9][0-9]{0,4}", re.ASCII)


class RulesError(Exception):
    """The document is not one that this program understands: nothing of it holds."""


class Rules(NamedTuple):
    """What one sandbox may reach."""

    digest: str
    sandbox: str
    run: str
    open: frozenset[int]  # ports on which every public name is allowed
    exact: frozenset[tuple[str, int]]  # (name, port)
    below: frozenset[tuple[str, int]]  # (.domain, port): every name below the domain
    opened: tuple[Network, ...]  # private networks that allowed names may resolve to
    refused: tuple[Network, ...]
    resolvers: tuple[Address, ...]
    budget: int  # bytes of records

    @property
    def ports(self) -> tuple[int, ...]:
        """Where connections are taken."""
        return tuple(sorted(self.open | {port for _, port in self.exact | self.below}))

    def only_host(self, port: int) -> str | None:
        """The host of a port that is given to one alone: what is neither TLS nor HTTP can only go there."""
        if port in self.open or port in (HTTP, TLS) or any(of == port for _, of in self.below):
            return None
        hosts = [host for host, of in self.exact if of == port]
        return hosts[0] if len(hosts) == 1 else None

    def allows(self, host: str, port: int) -> bool:
        """Whether a name is allowed with a port. Says nothing of the addresses that it resolves to."""
        if port in self.open or (host, port) in self.exact:
            return True
        return any((end, port) in self.below for end in _ends(host))

    def knows(self, host: str) -> bool:
        """Whether a name, in lower case, is allowed with any port: whether it exists for the sandbox."""
        if len(host) > MAX_NAME or not _NAME.fullmatch(host):
            return False
        return bool(self.open) or any(self.allows(host, port) for port in self.ports)

    def has_below(self, host: str) -> bool:
        """Whether names that are allowed lie below a name: then it exists, though it has no address."""
        return any(known == host or known.endswith(f".{host}") for known, _ in self.exact | self.below) or any(
            end == f".{host}" for end, _ in self.below
        )


def _ends(host: str) -> list[str]:
    """Every suffix of a name that begins with a dot."""
    return [host[at:] for at, sign in enumerate(host) if sign == "."]


def read_rules(document: bytes) -> Rules:
    """The rules that a document holds. Raises RulesError, which says why."""
    if len(document) > MAX_DOCUMENT:
        raise RulesError(f"the rules are longer than {MAX_DOCUMENT} bytes")
    try:
        value = json.loads(document)
        if not isinstance(value, dict) or value.keys() != KEYS:
            raise ValueError("its keys are not those of a rules document")
        if value["version"] != VERSION:
            raise ValueError(f"its version is not {VERSION}")
        return _rules(value, digest_of(document))
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise RulesError(f"not a rules document: {error}"[:300]) from None


def _rules(document: dict[str, Any], digest: str) -> Rules:
    mode, ports = document["mode"], document["ports"]
    if mode not in ("open", "allow"):
        raise ValueError("mode is neither open nor allow")
    if not isinstance(ports, list) or any(type(port) is not int or not 0 < port < 65536 for port in ports):
        raise ValueError("ports are not a list of ports")
    allowed = [_destination(entry) for entry in _texts(document["allow"])]
    budget = document["records"]
    if type(budget) is not int or budget < 0:
        raise ValueError("records is not a number of bytes")
    rules = Rules(
        digest=digest,
        sandbox=_text(document["sandbox"]),
        run=_text(document["run"]),
        open=frozenset({HTTP, TLS, *ports} if mode == "open" else ()),
        exact=frozenset(entry for entry in allowed if not entry[0].startswith(".")),
        below=frozenset(entry for entry in allowed if entry[0].startswith(".")),
        opened=_networks(document["private_networks"]),
        refused=_networks(document["refused"]),
        resolvers=tuple(ipaddress.ip_address(text) for text in _texts(document["resolvers"])),
        budget=budget,
    )
    if NAME_SERVICE in rules.ports:
        raise ValueError("port 53 is the gateway's own name server")
    if len(rules.ports) > MAX_PORTS:
        raise ValueError(f"more than {MAX_PORTS} ports")
    return rules


def digest_of(document: bytes) -> str:
    """`sha256:` and the hex digest of the bytes."""
    return f"sha256:{hashlib.sha256(document).hexdigest()}"


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError("a text is missing")
    return value


def _texts(value: Any) -> list[str]:
    if not isinstance(value, list):
        raise TypeError("a list is missing")
    return [_text(item) for item in value]


def _destination(entry: str) -> tuple[str, int]:
    """`host:port` as (host, port), `*.domain:port` as (.domain, port)."""
    host, _, port = entry.rpartition(":")
    name = host.removeprefix("*.")
    if len(name) > MAX_NAME or not _NAME.fullmatch(name) or not _PORT.fullmatch(port) or int(port) > 65535:
        raise ValueError("a destination is not host:port")
    return host.removeprefix("*"), int(port)


def _networks(value: Any) -> tuple[Network, ...]:
    return tuple(ipaddress.ip_network(text) for text in _texts(value))
