"""Heads, lengths and chunks, in whatever pieces they arrive, and what hostile ones come to."""

from __future__ import annotations

import io
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandboxrun.backend.docker.transport import Broken
from sandboxrun.backend.docker.wire import (
    MAX_FIELDS,
    MAX_HEAD,
    ChunkedBody,
    OpenBody,
    Reader,
    SizedBody,
    body_of,
    parse_head,
)


def reader(data: bytes, piece: int = 65536) -> Reader:
    """A reader that receives `data` in pieces of at most `piece` bytes."""
    source = io.BytesIO(data)
    return Reader(lambda size: source.read(min(size, piece)))


def answer(data: bytes, piece: int = 65536) -> tuple[int, bytes]:
    """Status and whole body of an answer."""
    source = reader(data, piece)
    head = source.head()
    return head.status, body_of(head, source).read()


def test_fields_are_lowered_and_joined() -> None:
    head = parse_head(b"HTTP/1.1 200 OK\r\nApi-Version: 1.41\r\nX-A: b \r\nx-a:\tc")
    assert head.status == 200
    assert dict(head.headers) == {"api-version": "1.41", "x-a": "b, c"}
    assert head.keeps_alive


@pytest.mark.parametrize("text", [b"HTTP/1.1 200 OK\r\nConnection: Close", b"HTTP/1.0 200 OK", b"HTTP/1.0 200"])
def test_what_ends_the_connection(text: bytes) -> None:
    assert not parse_head(text).keeps_alive


@pytest.mark.parametrize(
    ("head", "message"),
    [
        (b"", "the answer is not HTTP"),
        (b"SSH-2.0-OpenSSH_9", "the answer is not HTTP"),
        (b"HTTP/1.1 20 OK", "the answer is not HTTP"),
        (b"HTTP/2 200", "the answer is not HTTP"),
        (b"HTTP/1.1 200 OK\r\nno colon", "the answer's head has a malformed field"),
        (b"HTTP/1.1 200 OK\r\n: empty", "the answer's head has a malformed field"),
        (b"HTTP/1.1 200 OK\r\nspace : v", "the answer's head has a malformed field"),
        (b"HTTP/1.1 200 OK\r\na: b\r\n folded", "the answer's head has a malformed field"),
        (b"HTTP/1.1 200 OK\r\na: b\nc: d", "the answer's head has a control character in a field"),
        (b"HTTP/1.1 200 OK\r\na: \0", "the answer's head has a control character in a field"),
        (b"HTTP/1.1 200 OK" + b"\r\na: b" * (MAX_FIELDS + 1), "the answer's head has more than 200 fields"),
    ],
)
def test_hostile_heads(head: bytes, message: str) -> None:
    with pytest.raises(Broken, match=f"^{message}$"):
        parse_head(head)


def test_an_endless_head_is_given_up() -> None:
    endless = Reader(lambda size: b"a" * size)
    with pytest.raises(Broken, match=f"the answer's head is longer than {MAX_HEAD} bytes"):
        endless.head()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "the connection ended without an answer"),
        (b"HTTP/1.1 200 OK\r\nContent-", "the connection ended before the answer did"),
        (b"HTTP/1.1 100 Continue\r\n\r\n" * 11, "the answer does not get past interim heads"),
    ],
)
def test_truncated_heads(data: bytes, message: str) -> None:
    with pytest.raises(Broken, match=message):
        reader(data).head()


def test_interim_heads_are_passed_over() -> None:
    assert answer(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi") == (200, b"hi")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (b"Content-Length: 2\r\nContent-Length: 3", "does not say how long it is"),
        (b"Content-Length: -1", "does not say how long it is"),
        (b"Content-Length: 0x2", "does not say how long it is"),
        (b"Content-Length: \xb2", "does not say how long it is"),
        (b"Content-Length: " + b"9" * 19, "does not say how long it is"),
        (b"Content-Length: 2\r\nTransfer-Encoding: chunked", "does not say how long it is"),
        (b"Transfer-Encoding: gzip, chunked", "does not say how long it is"),
    ],
)
def test_contradictory_lengths(fields: bytes, message: str) -> None:
    with pytest.raises(Broken, match=message):
        answer(b"HTTP/1.1 200 OK\r\n" + fields + b"\r\n\r\nhi")


def test_the_same_length_twice_is_no_contradiction() -> None:
    assert answer(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nhi") == (200, b"hi")


def test_no_body_after_204_and_304() -> None:
    for status in (204, 304):
        assert answer(b"HTTP/1.1 %d No\r\n\r\nleft" % status) == (status, b"")


def test_a_body_without_length_goes_to_the_end() -> None:
    assert answer(b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 100, piece=7) == (200, b"x" * 100)


@pytest.mark.parametrize("make", [lambda r: SizedBody(r, 3), ChunkedBody])
def test_a_cut_body_is_broken(make: Callable[[Reader], SizedBody | ChunkedBody]) -> None:
    body = make(reader(b"3\r\nab" if make is ChunkedBody else b"ab"))
    with pytest.raises(Broken, match="ended before the answer did"):
        body.read()
    assert not body.ended


@pytest.mark.parametrize("size", [b"", b"-1", b"0x5", b"5 5", b"g", b"1" * 17, b"5" + b" " * 5000])
def test_hostile_chunk_sizes(size: bytes) -> None:
    with pytest.raises(Broken, match="chunk's size"):
        ChunkedBody(reader(size + b"\r\nhello\r\n0\r\n\r\n")).read()


def test_a_chunk_longer_than_it_says() -> None:
    with pytest.raises(Broken, match="a chunk"):
        ChunkedBody(reader(b"2\r\nabc\r\n0\r\n\r\n")).read()


def test_extensions_and_trailers_are_passed_over() -> None:
    body = ChunkedBody(reader(b"2;a=b\r\nhi\r\n0\r\nx: y\r\n\r\n"))
    assert body.read() == b"hi"
    assert body.ended


def test_an_endless_trailer_is_given_up() -> None:
    with pytest.raises(Broken, match="the trailer is longer"):
        ChunkedBody(reader(b"0\r\n" + (b"a: " + b"b" * 4000 + b"\r\n") * 20)).read()


def test_a_huge_body_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sandboxrun.backend.docker.wire.MAX_WHOLE", 1000)
    with pytest.raises(Broken, match="longer than 1000 bytes"):
        OpenBody(Reader(lambda size: b"x" * size)).read()


@given(st.lists(st.binary(min_size=1, max_size=300), max_size=8), st.integers(1, 400))
def test_chunks_come_out_as_they_went_in(chunks: list[bytes], piece: int) -> None:
    sent = b"".join(b"%x\r\n%b\r\n" % (len(c), c) for c in chunks) + b"0\r\n\r\nnext"
    source = reader(sent, piece)
    body = ChunkedBody(source)
    assert body.read() == b"".join(chunks)
    assert body.ended
    assert source.until(b"t", 10, "the rest") == b"nex"


@given(st.binary(max_size=400), st.integers(1, 50))
def test_any_bytes_are_an_answer_or_broken(data: bytes, piece: int) -> None:
    try:
        answer(data, piece)
    except Broken as error:
        assert str(error)


@given(st.binary(max_size=200), st.integers(1, 50))
def test_any_bytes_are_chunks_or_broken(data: bytes, piece: int) -> None:
    try:
        assert len(ChunkedBody(reader(data, piece)).read()) <= len(data)
    except Broken as error:
        assert str(error)
