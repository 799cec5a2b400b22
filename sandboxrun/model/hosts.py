"""Host names, and `extra_hosts`: the option type of lines for /etc/hosts.

Owns both. A name may have several addresses, in the order in which a resolver takes them. Pure.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping

import attrs

from sandboxrun.errors import Problems
from sandboxrun.model.types import INVALID, Schema, freeze, refuse
from sandboxrun.source import ListNode, MapNode, Node, Scalar

LABEL = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
HOST = rf"{LABEL}(?:\.{LABEL})*"
GATEWAY = "host-gateway"  # the engine fills in an address of the host
_LONGEST = 253


def host_name(text: str) -> str:
    """`text`, if a resolver takes it for a name. Raises ValueError with a clause."""
    if not re.fullmatch(HOST, text):
        raise ValueError("a name is labels of letters, digits, - and _, with a dot between two")
    if len(text) > _LONGEST:
        raise ValueError(f"a name has at most {_LONGEST} characters")
    return text


def host_address(text: str) -> str:
    """An address in its canonical form; IPv6 may be in brackets, as in Compose. Raises ValueError."""
    if text == GATEWAY:
        return text
    bracketed = text.startswith("[") and text.endswith("]") and ":" in text
    return str(ipaddress.ip_address(text[1:-1] if bracketed else text))


Pair = tuple[Scalar, Scalar]


@attrs.frozen(kw_only=True)
class Hosts:
    """The addresses of names: a list of NAME=address or NAME:address, or a mapping from names to one or several."""

    def parse(self, node: Node, problems: Problems) -> Mapping[str, tuple[str, ...]]:
        before = len(problems)
        if not isinstance(node, ListNode | MapNode):
            return refuse(problems, node, "a list of NAME=address, or a mapping")
        found: dict[str, list[str]] = {}
        for name, address in pairs_of(node, problems):
            self._add(found, name, address, problems)
        return freeze({name: tuple(those) for name, those in found.items()}) if len(problems) == before else INVALID

    def _add(self, found: dict[str, list[str]], name: Scalar, address: Scalar, problems: Problems) -> None:
        try:
            known = found.setdefault(host_name(str(name.value)), [])
        except ValueError as error:
            problems.add(f'"{name.value}" is not a host name: {error}', name.span, _HELP)
            return
        try:
            value = host_address(str(address.value))
        except ValueError:
            problems.add(f'"{address.value}" is not an IP address, for the host "{name.value}"', address.span, _HELP)
            return
        if value in known:
            problems.add(f'"{name.value}" has the address {value} twice', address.span, "remove one of them")
        known.append(value)

    def schema(self) -> Schema:
        text: Schema = {"type": "string", "minLength": 1}
        names: Schema = {"pattern": f"^{HOST}$"}
        several: Schema = {"anyOf": [text, {"type": "array", "items": text, "minItems": 1}]}
        by_name: Schema = {"type": "object", "propertyNames": names, "additionalProperties": several}
        item: Schema = {"type": "string", "pattern": f"^{HOST}[=:].+$"}
        return {"anyOf": [by_name, {"type": "array", "items": item, "uniqueItems": True}]}

    def plain(self, value: Mapping[str, tuple[str, ...]]) -> dict[str, str | list[str]]:
        return {name: those[0] if len(those) == 1 else list(those) for name, those in value.items()}


_HELP = "such as db.example.com=192.0.2.10 or db.example.com=2001:db8::10"


def pairs_of(node: Node, problems: Problems) -> list[Pair]:
    """Each name with one of its addresses, in the file's order; what is neither is noted."""
    found: list[Pair] = []
    for key, value in node.entries if isinstance(node, MapNode) else ():
        items = value.items if isinstance(value, ListNode) else (value,)
        if not items or any(not isinstance(item, Scalar) or not isinstance(item.value, str) for item in items):
            refuse(problems, value, "an address, or a list of them", _HELP)
            continue
        found += [(key, item) for item in items if isinstance(item, Scalar)]
    for item in node.items if isinstance(node, ListNode) else ():
        text = item.value if isinstance(item, Scalar) else None
        match = re.match(r"([^=:]*)[=:](.*)", text, re.DOTALL) if isinstance(text, str) else None
        if match is None:
            refuse(problems, item, "NAME=address", _HELP)
            continue
        name, address = (Scalar(value=part, text=part, span=item.span) for part in match.groups())
        found.append((name, address))
    return found


def by_name(node: Node) -> list[tuple[Scalar, Node]] | None:
    """The entries of a mapping with the same meaning, one a name; None where something is wrong."""
    pairs = pairs_of(node, problems := Problems())
    if problems:
        return None
    found: dict[str, tuple[Scalar, list[Scalar]]] = {}
    for name, address in pairs:
        found.setdefault(str(name.value), (name, []))[1].append(address)
    return [(name, ListNode(items=tuple(those), span=those[0].span)) for name, those in found.values()]
