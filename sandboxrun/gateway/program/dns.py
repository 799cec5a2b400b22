"""DNS messages, as far as asking for a host's addresses needs them (RFC 1035, RFC 3596).

Owns that format, within bounds: answers may have been written by whoever runs the name's zone. Pure.
"""

from __future__ import annotations

import ipaddress
import struct

from sandboxrun.gateway.program.addresses import Address

A, AAAA, CNAME, IN = 1, 28, 5, 1
MAX_MESSAGE = 65535
MAX_CHAIN = 16  # aliases that lead to each other
MAX_RECORDS = 512
SERVFAIL, NXDOMAIN = 2, 3


class BadAnswer(Exception):
    """It is malformed, or no answer to this question: it counts as not received."""


class Answer:
    """What a name server said: `code` (0: fine), the addresses, for how many seconds they hold, whether it was cut."""

    __slots__ = ("addresses", "code", "cut", "ttl")

    def __init__(self, code: int, addresses: tuple[Address, ...], ttl: int, cut: bool) -> None:
        self.code = code
        self.addresses = addresses
        self.ttl = ttl
        self.cut = cut


def question(number: int, host: str, kind: int) -> bytes:
    """A question for the addresses of one kind; `number` tells its answer from others."""
    return struct.pack(">HHHHHH", number, 0x0100, 1, 0, 0, 0) + _encoded(host) + struct.pack(">HH", kind, IN)


def _encoded(host: str) -> bytes:
    labels = host.encode("ascii").split(b".")
    return b"".join(bytes([len(label)]) + label for label in labels) + b"\0"


def read_answer(data: bytes, number: int, host: str, kind: int) -> Answer:
    """The answer to that question. Raises BadAnswer."""
    try:
        return _read(data, number, host.encode("ascii"), kind)
    except (struct.error, IndexError, ValueError) as error:
        raise BadAnswer(str(error)) from None


def _read(data: bytes, number: int, host: bytes, kind: int) -> Answer:
    found, flags, questions, answers, _, _ = struct.unpack_from(">HHHHHH", data)
    if found != number or not flags & 0x8000 or flags & 0x7800 or questions != 1 or answers > MAX_RECORDS:
        raise BadAnswer("not an answer to this question")
    asked, at = _name(data, 12)
    if asked != host or struct.unpack_from(">HH", data, at) != (kind, IN):
        raise BadAnswer("the answer to another question")
    code, cut = flags & 0x000F, bool(flags & 0x0200)
    if code or cut:
        return Answer(code, (), 0, cut)
    return _follow(data, at + 4, answers, host, kind)


def _follow(data: bytes, at: int, count: int, host: bytes, kind: int) -> Answer:
    """The addresses that `host` leads to by its aliases."""
    aliases: dict[bytes, tuple[bytes, int]] = {}
    addresses: dict[bytes, list[tuple[Address, int]]] = {}
    for _ in range(count):
        owner, at = _name(data, at)
        found, family, ttl, size = struct.unpack_from(">HHIH", data, at)
        at += 10
        body = data[at : at + size]
        if len(body) != size:
            raise BadAnswer("a record ends too early")
        if family == IN and found == CNAME:
            aliases[owner] = (_name(data, at)[0], ttl)
        elif family == IN and found == kind:
            addresses.setdefault(owner, []).append((_address(body, kind), ttl))
        at += size
    ttls = []
    for _ in range(MAX_CHAIN):
        if host in addresses:
            ttls += [ttl for _, ttl in addresses[host]]
            return Answer(0, tuple(dict.fromkeys(address for address, _ in addresses[host])), min(ttls), False)
        if host not in aliases:
            break
        host, ttl = aliases[host]
        ttls.append(ttl)
    return Answer(0, (), 0, False)


def _address(body: bytes, kind: int) -> Address:
    if len(body) != (4 if kind == A else 16):
        raise BadAnswer("an address of the wrong size")
    return ipaddress.ip_address(body)


def _name(data: bytes, at: int) -> tuple[bytes, int]:
    """The name at `at` in lower case, and where what follows it begins. References lead backwards only."""
    labels: list[bytes] = []
    end, size = 0, 0
    while (length := data[at]) != 0:
        if length >= 0xC0:
            target = (length & 0x3F) << 8 | data[at + 1]
            end = end or at + 2
            if target >= at:
                raise BadAnswer("a name refers forwards")
            at = target
            continue
        if length > 63:
            raise BadAnswer("a name is malformed")
        label = data[at + 1 : at + 1 + length]
        size += length + 1
        if len(label) != length or size > 254:
            raise BadAnswer("a name ends too early, or not at all")
        labels.append(label.lower())
        at += length + 1
    return b".".join(labels), end or at + 1
