"""The reader of the ClientHello: real ones, pieces of them, malformed ones."""

from __future__ import annotations

import contextlib
import ssl

import hypothesis.strategies as st
import pytest
from hypothesis import example, given, settings

from sandboxrun.gateway.program.hello import BadHello, NotTls, read_hello
from tests.unit.gateway.hellos import hello, message, real_hello, records, server_name, vector

NAME = b"api.example.com"
GREASE = [(0x0A0A, b""), (0xDADA, b"\0")]


@pytest.mark.parametrize("version", [None, ssl.TLSVersion.TLSv1_2])
def test_a_real_one_names_its_host(version: ssl.TLSVersion | None) -> None:
    data = real_hello("Api.Example.com", version)
    found = read_hello(data)
    assert found is not None
    assert (found.name, found.ech, found.size) == ("api.example.com", False, len(data))


def test_a_real_one_without_a_name() -> None:
    found = read_hello(real_hello(None))
    assert found is not None and found.name is None


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 7, 100])
def test_pieces_in_several_records(size: int) -> None:
    data = records(message([server_name(NAME)]), size)
    if size == 1:
        with pytest.raises(BadHello, match="too many pieces"):
            read_hello(data)
        return
    found = read_hello(data)
    assert found is not None and found.name == NAME.decode() and found.size == len(data)


def test_every_beginning_asks_for_more() -> None:
    data = hello(NAME, size=9)
    assert [read_hello(data[:length]) for length in range(len(data))] == [None] * len(data)


def test_what_follows_in_further_records_is_left_alone() -> None:
    data = hello(NAME)
    found = read_hello(data + b"\x14\x03\x03\0\1\1" + b"anything")
    assert found is not None and found.size == len(data)


def test_grease_is_passed_over() -> None:
    found = read_hello(hello(NAME, more=GREASE))
    assert found is not None and found.name == NAME.decode() and not found.ech


def test_ech_is_noted() -> None:
    found = read_hello(hello(NAME, more=[(0xFE0D, b"\0" * 8)]))
    assert found is not None and found.ech


def test_a_hello_without_extensions_has_no_name() -> None:
    found = read_hello(records(message(None)))
    assert found is not None and found.name is None


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"SSH-2.0-client\r\n",
        b"\x80\x2e\x01\x03\x01\x00\x15\x00\x00\x00\x10",  # the hello of SSL 2
        b"\x16\x02\x01\x00\x05",
        b"\x17\x03\x03\x00\x05",
        b"\x15\x03\x03\x00\x02\x01\x00",
        b"\x00",
    ],
)
def test_what_is_no_tls(data: bytes) -> None:
    with pytest.raises(NotTls):
        read_hello(data)


TWO = vector(b"\0" + vector(NAME, 2) + b"\0" + vector(b"evil.example.net", 2), 2)
BAD = {
    "another message first": records(b"\x02" + message([server_name(NAME)])[1:]),
    "an alert in between": records(message(None)[:9]) + b"\x15\x03\x03\0\2\1\0",
    "an empty record": b"\x16\x03\x01\0\0",
    "a record too long": b"\x16\x03\x01\xff\xff",
    "a message too long": records(b"\x01\xff\xff\xff"),
    "two hellos in a record": records(message([server_name(NAME)]) * 2),
    "the name twice": records(message([server_name(NAME), server_name(b"evil.example.net")])),
    "two names in one": records(message([(0, TWO)])),
    "no name in the extension": records(message([(0, b"\0\0")])),
    "an empty extension": records(message([(0, b"")])),
    "an empty name": records(message([server_name(b"")])),
    "a name with a NUL": records(message([server_name(b"api.example.com\0.evil.example.net")])),
    "a name with a space": records(message([server_name(b"api.example.com ")])),
    "a name that is not ASCII": records(message([server_name("äpi.example.com".encode())])),
    "a name of another kind": records(message([server_name(NAME, kind=1)])),
    "a name too long": records(message([server_name(b"a" * 256)])),
    "bytes after the extensions": records(message([server_name(NAME)], after=b"\0")),
    "a session id too long": records(message([server_name(NAME)], session=bytes(33))),
    "an odd number of suite bytes": records(message([server_name(NAME)], suites=b"\x13")),
    "no suites": records(message([server_name(NAME)], suites=b"")),
    "no compression": records(message([server_name(NAME)], compression=b"")),
    "too short": records(b"\x01" + vector(b"\x03\x03", 3)),
    "an extension beyond the end": records(message([(0, b"")])[:-2] + b"\xff\xff"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_what_is_malformed(case: str) -> None:
    with pytest.raises(BadHello):
        read_hello(BAD[case])


@given(st.binary(max_size=400))
@example(b"\x16\x03\x01\x00\x04\x01\x00\x00\x00")
def test_any_bytes_give_a_verdict(data: bytes) -> None:
    with contextlib.suppress(NotTls, BadHello):
        found = read_hello(data)
        assert found is None or 0 < found.size <= len(data)


@given(st.data())
@settings(max_examples=300)
def test_a_changed_hello_gives_a_verdict(data: st.DataObject) -> None:
    changed = bytearray(hello(NAME, size=data.draw(st.integers(4, 200)), more=GREASE))
    for _ in range(data.draw(st.integers(1, 4))):
        changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(NotTls, BadHello):
        read_hello(bytes(changed))


@given(st.from_regex(r"[a-z0-9.-]{1,60}", fullmatch=True), st.integers(4, 300))
def test_the_name_does_not_depend_on_the_records(name: str, size: int) -> None:
    found = read_hello(hello(name.encode(), size=size))
    assert found is not None and found.name == name
