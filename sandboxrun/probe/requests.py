"""What the gateway is asked for in vain: the requests of a client that knows how it is caged, and their controls. Pure.

Owns the requests; the program only sends them. That a gateway refuses everything would look the same, so the negative
control is in the same run: a destination that the rules allow is not refused.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator, Mapping

from sandboxrun.data import Data
from sandboxrun.probe.verdicts import Context, Control, Seen, every, number, numbered
from sandboxrun.spec.option_types import ALLOW

PORT = 80
DENIED = "denied.sandboxrun.invalid"  # a name that no list allows and no name server knows
PUBLIC = "example.com:443"  # stands for any public host where egress is open
ALLOWED = "allowed"
# One address, kept for documentation, as C libraries read it too.
SPELLINGS = ("192.0.2.1", "3221225985", "0xc0000201", "0300.0000.0002.0001", "192.0.513", "0xc0.0.2.1", "192.0.2.1.")
SIXES = ("[2001:db8::1]", "[::ffff:192.0.2.1]", "[::ffff:c000:201]", "[64:ff9b::c000:201]", "[2001:db8::1%25lo]")
METADATA = ("169.254.169.254", "[fd00:ec2::254]", "[::ffff:169.254.169.254]", "2852039166", "100.100.100.200")
INNER = ("127.0.0.1", "127.1", "2130706433", "0.0.0.0", "[::1]", "[::]", "localhost", "0", "[fe80::1]")
PRIVATE = ("10.0.0.1", "172.16.0.1", "192.168.0.1", "100.64.0.1", "[fd12:3456::1]")


class Request(Data):
    """One request: `group` is the control that it belongs to; without `host` the Host field is the target's own."""

    group: str
    target: str
    method: str = "CONNECT"
    host: str | None = None

    @property
    def name(self) -> str:
        """How it is shown."""
        other = f" Host: {self.host}" if self.host is not None else ""
        return f"{self.group} {self.method} {self.target}{other}"

    @property
    def argument(self) -> str:
        """As the program is told."""
        own = self.target.partition("://")[2].partition("/")[0] or self.target
        return "|".join((self.name, self.method, self.target, own if self.host is None else self.host))


def allowed(context: Context) -> str:
    """A destination, host:port, that the gateway must not refuse by rule."""
    egress = context.egress
    if egress is None or egress.mode != ALLOW or not egress.allow:
        return PUBLIC
    return re.sub(r"^\*\.", "sandboxrun-probe.", egress.allow[0])


def requests(context: Context) -> tuple[Request, ...]:
    """All, in the program's order. With egress open, only what is refused in that mode as well."""
    if context.egress is None or not context.egress.has_gateway:
        return ()
    more = _by_list(context) if context.egress.mode == ALLOW else []
    return (Request(group=ALLOWED, target=allowed(context)), *_always(context), *more)


def _always(context: Context) -> Iterator[Request]:
    host, _, port = allowed(context).rpartition(":")
    for address in METADATA:
        yield Request(group="metadata", target=f"{address}:80")
    yield Request(group="metadata", method="GET", target="http://169.254.169.254/latest/meta-data/")
    for address in INNER:
        yield Request(group="inner", target=f"{address}:{PORT}")
    for address in (*context.hosts, *(text for text in PRIVATE if not _opened(text, context))):
        yield Request(group="private", target=f"{address}:80")
    for spelled in SPELLINGS[1:]:
        yield Request(group="addresses", target=f"{spelled}:443")
    for authority in (f"{host}.:{port}", f"{host}..:{port}", f"user@{host}:{port}", f"{host}:{port}:{port}", host):
        yield Request(group="spelling", target=authority)
    yield Request(group="host-field", target=allowed(context), host=f"{DENIED}:443")
    yield Request(group="host-field", method="GET", target=f"http://{host}:{port}/", host=DENIED)


def _opened(text: str, context: Context) -> bool:
    """Whether the profile opens the network that an address is in."""
    address = ipaddress.ip_address(text.strip("[]"))
    opened = [ipaddress.ip_network(network) for network in (context.egress.private_networks if context.egress else ())]
    return any(address in network for network in opened)


def _by_list(context: Context) -> list[Request]:
    host, _, port = allowed(context).rpartition(":")
    hosts = (DENIED, DENIED.upper(), f"x{host}", f"{host}.{DENIED}", f"{DENIED}/{host}", f"{host}@{DENIED}")
    found = [Request(group="hosts", target=f"{name}:{port}") for name in hosts if not _lets(context, name, port)]
    found.append(Request(group="hosts", method="GET", target=f"http://{DENIED}/"))
    found.append(Request(group="hosts", method="GET", target=f"http://{DENIED}:{port}/", host=host))
    ports = [other for other in (22, 25, 2375, 8443, 0, 65536) if not _lets(context, host, other)]
    found += [Request(group="ports", target=f"{host}:{other}") for other in ports]
    found += [Request(group="addresses", target=f"{address}:{port}") for address in (SPELLINGS[0], *SIXES)]
    return found


def _lets(context: Context, host: str, port: int | str) -> bool:
    """Whether another entry of the list allows the host with that port."""
    return any(
        entry == f"{host}:{port}" or (entry.startswith("*.") and f"{host}:{port}".endswith(entry[1:]))
        for entry in (context.egress.allow if context.egress is not None else ())
    )


# -- what was answered ----------------------------------------------------------------------------------------------


def _answers(seen: Seen, group: str) -> list[Mapping[str, str]]:
    return [one for one in numbered(seen, "request") if one.get("name", "").partition(" ")[0] == group]


def _refused(one: Mapping[str, str]) -> bool | None:
    """By rule or as malformed; a connection that is closed without a word is one too. None if there was no answer."""
    status = number(one.get("status", ""))
    if one.get("connect") != "ok" or status is None or (one.get("over") != "yes" and status == 0):
        return None
    return 400 <= status < 500 or status in (0, 505)


def _holds(group: str, seen: Seen, context: Context) -> bool | None:
    expected = {request.name for request in requests(context) if request.group == group}
    found = {one.get("name", ""): one for one in _answers(seen, group)}
    return every(_refused(found[name]) if name in found else None for name in expected)


def _let_through(strong: Seen, weak: Seen, context: Context) -> bool:
    """A refusal comes at once; whatever else comes, or is still to come, was let through by the rules."""
    return any(one.get("connect") == "ok" and not _refused(one) for one in _answers(strong, ALLOWED))


def _seen(group: str, seen: Seen) -> str:
    found = _answers(seen, group)
    odd = []
    for one in found:
        if not _refused(one):
            silent = "no answer" if one.get("connect") == "ok" else "the gateway can't be reached"
            odd.append(f"{one.get('name', '').partition(' ')[2]}: {one.get('line') or silent}")
    return "; ".join(odd) or (f"all {len(found)} refused" if found else "")


def _applies(group: str, context: Context) -> str | None:
    if context.egress is None or not context.egress.has_gateway:
        return "it has no gateway"
    if any(request.group == group for request in requests(context)):
        return None
    return (
        "egress: open lets every public host through" if context.egress.mode != ALLOW else "the list leaves none over"
    )


def _control(group: str, title: str) -> Control:
    return Control(
        id=f"gateway-{group}",
        title=title,
        applies=lambda context: _applies(group, context),
        expected=lambda context: "each refused",
        seen=lambda seen: _seen(group, seen),
        holds=lambda seen, context: _holds(group, seen, context),
        negative=_let_through,
    )


CONTROLS = (
    _control("hosts", "The gateway refuses hosts that are not listed"),
    _control("ports", "The gateway refuses other ports"),
    _control("addresses", "The gateway refuses addresses in every spelling"),
    _control("metadata", "The gateway refuses the cloud's metadata"),
    _control("inner", "The gateway refuses itself and its loopback"),
    _control("private", "The gateway refuses private and host addresses"),
    _control("spelling", "The gateway refuses odd spellings of a listed host"),
    _control("host-field", "The gateway refuses another Host"),
)
