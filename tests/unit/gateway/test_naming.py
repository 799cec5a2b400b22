"""The gateway's name server: what exists for a sandbox, and bytes that are no question."""

from __future__ import annotations

import ipaddress
import struct
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given

from sandboxrun.gateway.companion.names import MAX_QUERY, answer
from sandboxrun.gateway.companion.rules import read_rules
from tests.conftest import examples
from tests.unit.gateway.world import document

RULES = read_rules(document())
AT = ipaddress.ip_address("10.231.0.10")
A, NS, SOA, PTR, MX, TXT, AAAA, SRV, SVCB, HTTPS, ANY = 1, 2, 6, 12, 15, 16, 28, 33, 64, 65, 255
NOERROR, FORMERR, NXDOMAIN, NOTIMP = 0, 1, 3, 4


def query(
    name: str | bytes, kind: int = A, *, of: int = 1, flags: int = 0x0100, counts: tuple[int, ...] = (1, 0, 0, 0)
) -> bytes:
    labels = name.encode() if isinstance(name, str) else name
    packed = b"".join(bytes([len(label)]) + label for label in labels.split(b".") if label)
    return struct.pack(">HH4H", 7, flags, *counts) + packed + b"\0" + struct.pack(">HH", kind, of)


def asked(data: bytes, rules: Any = RULES) -> tuple[int, int, str | None]:
    """The code, the number of answers, and the name that was refused."""
    reply = answer(data, rules, AT)
    assert reply is not None and reply.data[:2] == data[:2] and reply.data[2] & 0x80
    assert len(reply.data) <= 512
    return reply.data[3] & 15, int.from_bytes(reply.data[6:8]), reply.refused


@pytest.mark.parametrize(
    "name", ["api.example.com", "API.Example.COM", "x.models.example.org", "a.b.models.example.org"]
)
def test_allowed_names_have_the_gateways_address(name: str) -> None:
    reply = answer(query(name), RULES, AT)
    assert reply is not None and reply.refused is None
    assert reply.data.endswith(b"\xc0\x0c\0\1\0\1\0\0\0\5\0\4" + AT.packed)
    assert reply.data[12 : len(query(name))] == query(name)[12:], "the question comes back as it was spelled"


@pytest.mark.parametrize("kind", [NS, SOA, PTR, MX, TXT, AAAA, SRV, SVCB, HTTPS, ANY])
def test_they_have_nothing_else(kind: int) -> None:
    """No data, which is not the same as no name: musl would give up."""
    assert asked(query("api.example.com", kind)) == (NOERROR, 0, None)


def test_an_ipv6_gateway() -> None:
    at = ipaddress.ip_address("fd00::2")
    for kind, count in ((AAAA, 1), (A, 0)):
        reply = answer(query("api.example.com", kind), RULES, at)
        assert reply is not None and (reply.data[3] & 15, int.from_bytes(reply.data[6:8])) == (NOERROR, count)


@pytest.mark.parametrize("name", ["example.com", "com", "models.example.org", "example.org", ""])
def test_domains_of_allowed_names_exist_and_are_empty(name: str) -> None:
    code, count, refused = asked(query(name))
    assert (code, count) == ((NOERROR, 0) if name else (NXDOMAIN, 0)), refused


@pytest.mark.parametrize(
    "name",
    ["evil.example.net", "x.api.example.com", "xmodels.example.org", "secret.evil.example.net", "localhost",
     "api.example.com.example.net", "10.0.41.198.in-addr.arpa", "api-example.com", "pi.example.com"],
)  # fmt: skip
@pytest.mark.parametrize("kind", [A, AAAA, TXT])
def test_all_others_do_not_exist(name: str, kind: int) -> None:
    assert asked(query(name, kind)) == (NXDOMAIN, 0, name)


def test_a_dot_within_a_label_is_not_one_between_labels() -> None:
    data = struct.pack(">6H", 7, 0x0100, 1, 0, 0, 0) + b"\x0fapi.example.com\0" + struct.pack(">HH", A, 1)
    assert asked(data) == (NXDOMAIN, 0, "api\\.example\\.com")
    data = struct.pack(">6H", 7, 0x0100, 1, 0, 0, 0) + b"\x03api\x0bexample.com\0" + struct.pack(">HH", A, 1)
    assert asked(data) == (NXDOMAIN, 0, "api.example\\.com")


@pytest.mark.parametrize(
    "name", [b"api\0.example.com", b"\xc3\xa9.example.com", b"api.example.com\0", b"api example.com"]
)
def test_bytes_that_no_name_has(name: bytes) -> None:
    assert asked(query(name))[:2] == (NXDOMAIN, 0)


def test_extensions_are_ignored() -> None:
    """EDNS, which most resolvers send: the answer has none, and no resolver minds."""
    data = query("api.example.com", counts=(1, 0, 0, 1)) + b"\0\0\x29\x04\xd0\0\0\0\0\0\0"
    assert asked(data) == (NOERROR, 1, None)


def test_what_is_not_done() -> None:
    assert asked(query("api.example.com", of=3))[0] == NOTIMP  # class CHAOS
    assert asked(query("api.example.com", flags=0x2800))[0] == NOTIMP  # an update
    assert asked(query("api.example.com", flags=0x1000))[0] == NOTIMP  # a server's status


@pytest.mark.parametrize(
    "data",
    [
        struct.pack(">6H", 7, 0x0100, 0, 0, 0, 0),
        struct.pack(">6H", 7, 0x0100, 2, 0, 0, 0) + query("api.example.com")[12:] * 2,
        query("api.example.com")[:-1],
        query("api.example.com")[:20],
        struct.pack(">6H", 7, 0x0100, 1, 0, 0, 0) + b"\xc0\x0c\0\1\0\1",
        struct.pack(">6H", 7, 0x0100, 1, 0, 0, 0) + b"\x3fx",
        struct.pack(">6H", 7, 0x0100, 1, 0, 0, 0) + (b"\x3f" + b"x" * 63) * 4 + b"\0\0\1\0\1",
    ],
)
def test_what_is_malformed_is_answered_and_is_a_record(data: bytes) -> None:
    assert asked(data) == (FORMERR, 0, "")


@pytest.mark.parametrize("data", [b"", b"\0" * 11, query("api.example.com", flags=0x8180), b"\0" * (MAX_QUERY + 1)])
def test_what_is_not_answered(data: bytes) -> None:
    """A reply to a reply could go on for ever."""
    assert answer(data, RULES, AT) is None


@examples(1500)
@given(
    st.one_of(st.binary(max_size=300), st.binary(max_size=80).map(lambda tail: query("api.example.com")[:14] + tail))
)
def test_no_bytes_break_it(data: bytes) -> None:
    reply = answer(data, RULES, AT)
    if reply is not None:
        assert reply.data[:2] == data[:2] and len(reply.data) <= len(data) + 16


def test_open_mode() -> None:
    rules = read_rules(document(mode="open", allow=[]))
    assert asked(query("any.example.net"), rules) == (NOERROR, 1, None)
    for name in ("localhost", "127.0.0.1", "a.0x7f", "10.0.41.198.in-addr.arpa.1"):
        assert asked(query(name), rules) == (NXDOMAIN, 0, name)
