"""egress: what of the outside a sandbox reaches, by name; everything else is refused by its gateway.

Owns the option's type and forms. How a gateway enforces it is the gateway room's. Pure.
"""

from __future__ import annotations

import ipaddress
import re
from typing import Any

import attrs

from sandboxrun.errors import Problems
from sandboxrun.model import forms
from sandboxrun.model.composite import ListOf, Short, span_of
from sandboxrun.model.option import Record, option
from sandboxrun.model.types import Choice, OptionType, Schema, Text, refuse
from sandboxrun.source import MapNode, Node, Scalar

NONE, OPEN, ALLOW = "none", "open", "allow"
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_NAME = rf"(?:\*\.)?(?:{_LABEL}\.)+(?=[A-Za-z0-9-]*[A-Za-z]){_LABEL}"  # a last label of digits alone is an address's
DESTINATION = rf"{_NAME}:[0-9]{{1,5}}"


Address = Text(pattern=r"[0-9A-Fa-f.:]+", hint="an IP address", form=forms.address)


@attrs.frozen(kw_only=True)
class Destination:
    """`host:port`, or `*.domain:port` for every name below the domain (not the domain itself). Kept in lower case."""

    def parse(self, node: Node, problems: Problems) -> Any:
        match node:
            case Scalar(value=str() as text) if re.fullmatch(DESTINATION, text, re.ASCII):
                host, _, port = text.lower().rpartition(":")
                if len(host) <= 253 and 0 < int(port) < 65536:
                    return f"{host}:{int(port)}"
        return refuse(problems, node, "host:port or *.domain:port", _help(node))

    def schema(self) -> Schema:
        return {"type": "string", "pattern": f"^{DESTINATION}$"}

    def plain(self, value: Any) -> Any:
        return value


def _help(node: Node) -> str:
    text = node.value if isinstance(node, Scalar) and isinstance(node.value, str) else ""
    if text == "*" or text.startswith("*:"):
        return "for every public host write egress: open"
    if text and ":" not in text and "/" not in text:
        return f'say which port: "{text}:443"'
    if "://" in text:
        return "leave out the scheme and the path: api.example.com:443"
    if re.match(r"[0-9.]+(:|$)|\[", text):
        return "destinations are names: an address says nothing of who answers there"
    host, _, port = text.partition(":")
    if re.fullmatch(r"[0-9]+", port) and not 1 <= int(port[:6]) <= 65535:
        return "a port is from 1 to 65535"
    if "." not in host:
        return "a name has a dot: what has none is local, and never reached"
    return 'such as "api.example.com:443"; names outside of ASCII in their xn-- form'


@attrs.frozen(kw_only=True)
class NetworkRange:
    """A range of private addresses in CIDR form."""

    def parse(self, node: Node, problems: Problems) -> Any:
        try:
            text = node.value if isinstance(node, Scalar) else None
            network = ipaddress.ip_network(text) if isinstance(text, str) and "/" in text else None
        except ValueError:
            network = None
        if network is None:
            return refuse(problems, node, "a range of addresses, such as 10.1.0.0/16", "host bits must be zero")
        return str(network)

    def schema(self) -> Schema:
        return {"type": "string", "pattern": r"^[0-9A-Fa-f.:]+/[0-9]{1,3}$"}

    def plain(self, value: Any) -> Any:
        return value


@attrs.frozen(kw_only=True)
class Egress:
    """What a sandbox reaches: nothing, every public host, or the destinations listed."""

    mode: str = option(
        Choice(values=(ALLOW, OPEN, NONE)),
        default=ALLOW,
        description="allow: the destinations listed and no other; open: every public host; none: nothing at all.",
        example="allow",
    )
    allow: tuple[str, ...] = option(
        ListOf(item=Destination(), unique=True, ordered=False),
        default=(),
        description="host:port, or *.domain:port for every name below the domain.",
        example=["api.example.com:443", "*.models.example.org:443"],
    )
    private_networks: tuple[str, ...] = option(
        ListOf(item=NetworkRange(), unique=True, ordered=False),
        default=(),
        description="Private ranges that allowed names may lead to; never loopback, link-local or metadata addresses.",
        example=["10.1.0.0/16"],
    )
    resolvers: tuple[str, ...] = option(
        ListOf(item=Address, unique=True),
        default=(),
        description="Name servers that the gateway asks; the engine's own when left out. The sandbox asks none.",
        example=["10.1.0.53"],
    )

    @property
    def has_gateway(self) -> bool:
        """Whether the sandbox has a network, whose only way out is its gateway."""
        return self.mode != NONE


CLOSED, PUBLIC = Egress(mode=NONE), Egress(mode=OPEN)


def _check(egress: Egress, node: MapNode, problems: Problems) -> None:
    if egress.mode == ALLOW and not egress.allow:
        problems.add("egress allows nothing", node.span, "list destinations under allow:, or write egress: none")
    if egress.mode != ALLOW and egress.allow:
        problems.add(f"mode {egress.mode} has no list", span_of(node, "allow"), "remove mode, or allow")
    if egress.mode == NONE and (egress.private_networks or egress.resolvers):
        problems.add("mode none reaches nothing", node.span, "write egress: none alone")


def _read(text: str) -> Egress:
    if text not in (NONE, OPEN):
        raise ValueError("write none, open, or {allow: [...]}")
    return CLOSED if text == NONE else PUBLIC


@attrs.frozen(kw_only=True)
class EgressOption:
    """`none`, `open`, or a mapping; shown in the shortest form."""

    record: OptionType = Record(cls=Egress, title="egress", check=_check)

    def parse(self, node: Node, problems: Problems) -> Any:
        return self._short().parse(node, problems)

    def schema(self) -> Schema:
        return {"anyOf": [{"enum": [NONE, OPEN]}, self.record.schema()]}

    def plain(self, value: Egress) -> Any:
        if value in (CLOSED, PUBLIC):
            return value.mode
        plain = self.record.plain(value)
        return {key: item for key, item in plain.items() if item not in ([], ()) and (key, item) != ("mode", ALLOW)}

    def _short(self) -> Short:
        return Short(record=self.record, read=_read, expected="none, open, or a mapping with allow")
