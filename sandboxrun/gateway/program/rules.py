"""The rules document: read strictly, and asked whether a destination is let through.

Owns the document's form on the reading side and the matching of names. Pure.
"""

from __future__ import annotations

import hashlib
import ipaddress
import json
from typing import Any

from sandboxrun.gateway.program.addresses import Address, Network, refusal
from sandboxrun.gateway.program.names import Target
from sandboxrun.gateway.program.refusals import Refused

VERSION = 1
MAX_DOCUMENT = 1 << 20
MAX_JUDGED = 1024  # addresses
KEYS = {
    "version", "sandbox", "run", "mode", "allow", "private_networks", "resolvers", "refused", "records",
}  # fmt: skip


class RulesError(Exception):
    """The document is not one that this program understands: nothing of it holds."""


class Rules:
    """What one sandbox may reach."""

    def __init__(self, document: dict[str, Any], digest: str) -> None:
        """Take over a document's values. Raises KeyError, TypeError, ValueError for one that is malformed."""
        self.digest = digest
        self.sandbox = _text(document["sandbox"])
        self.run = _text(document["run"])
        self.open = document["mode"] == "open"
        if document["mode"] not in ("open", "allow"):
            raise ValueError("mode is neither open nor allow")
        allowed = [_destination(entry) for entry in _texts(document["allow"])]
        self.exact = frozenset(entry for entry in allowed if not entry[0].startswith("*."))
        self.below = frozenset((host[1:], port) for host, port in allowed if host.startswith("*."))
        self.opened = _networks(document["private_networks"])
        self.refused = _networks(document["refused"])
        self.resolvers = tuple(ipaddress.ip_address(text) for text in _texts(document["resolvers"]))
        self._own: tuple[Network, ...] = ()
        self._judged: dict[Address, str | None] = {}  # for these networks of its own
        self.budget = document["records"]
        if type(self.budget) is not int or self.budget < 0:
            raise ValueError("records is no number of bytes")

    def check(self, target: Target) -> None:
        """Raise Refused unless the destination is let through by its name (which says nothing of its addresses)."""
        if self.open:
            return
        if target.literal is not None:
            raise Refused("address", f"{target} is an address")
        if (target.host, target.port) in self.exact or self._is_below(target.host, target.port):
            return
        if self._knows(target.host):
            raise Refused("port", f"{target.host} is not allowed with port {target.port}")
        raise Refused("host", f"{target} is not allowed")

    def _is_below(self, host: str, port: int) -> bool:
        if not self.below:
            return False
        at = host.find(".")
        while at >= 0:
            if (host[at:], port) in self.below:
                return True
            at = host.find(".", at + 1)
        return False

    def _knows(self, host: str) -> bool:
        """Whether the host is allowed with some port."""
        return any(known == host for known, _ in self.exact) or any(host.endswith(end) for end, _ in self.below)

    def check_address(self, target: Target, address: Address, own: tuple[Network, ...]) -> None:
        """Raise Refused unless a sandbox may reach `address`, which is what the destination led to."""
        if own is not self._own:
            self._own, self._judged = own, {}
        if address not in self._judged:
            if len(self._judged) >= MAX_JUDGED:
                self._judged.clear()
            self._judged[address] = refusal(address, self.opened, (*own, *self.refused))
        why = self._judged[address]
        if why is not None:
            what = "" if target.literal is not None else f" leads to {address}, which"
            raise Refused(why, f"{target}{what} is {'a private' if why == 'private' else 'a reserved'} address")


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
        return Rules(value, digest_of(document))
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise RulesError(f"not a rules document: {error}"[:300]) from None


def digest_of(document: bytes) -> str:
    """`sha256:` and the hex digest of the bytes."""
    return f"sha256:{hashlib.sha256(document).hexdigest()}"


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError("a text is no text")
    return value


def _texts(value: Any) -> list[str]:
    if not isinstance(value, list):
        raise TypeError("a list is no list")
    return [_text(item) for item in value]


def _destination(entry: str) -> tuple[str, int]:
    host, _, port = entry.rpartition(":")
    if not host or host != host.lower() or not port.isdecimal() or not 0 < int(port) < 65536:
        raise ValueError("a destination is not host:port")
    return host, int(port)


def _networks(value: Any) -> tuple[Network, ...]:
    return tuple(ipaddress.ip_network(text) for text in _texts(value))
