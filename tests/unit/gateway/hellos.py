"""ClientHellos: those of the ssl module, and hand-made ones."""

from __future__ import annotations

import contextlib
import ssl
import struct
from collections.abc import Sequence


def real_hello(name: str | None, version: ssl.TLSVersion | None = None) -> bytes:
    """What Python's own TLS begins with."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if version is not None:
        context.maximum_version = version
    out = ssl.MemoryBIO()
    side = context.wrap_bio(ssl.MemoryBIO(), out, server_hostname=name)
    with contextlib.suppress(ssl.SSLWantReadError):
        side.do_handshake()
    return out.read()


def vector(data: bytes, size: int) -> bytes:
    return len(data).to_bytes(size) + data


def server_name(name: bytes, kind: int = 0) -> tuple[int, bytes]:
    """The extension that names a host."""
    return 0, vector(bytes([kind]) + vector(name, 2), 2)


def message(
    extensions: Sequence[tuple[int, bytes]] | None,
    *,
    session: bytes = b"",
    suites: bytes = b"\x13\x01",
    compression: bytes = b"\0",
    after: bytes = b"",
) -> bytes:
    """The handshake message, with its head."""
    body = b"\x03\x03" + bytes(32) + vector(session, 1) + vector(suites, 2) + vector(compression, 1)
    if extensions is not None:
        body += vector(b"".join(struct.pack(">H", kind) + vector(data, 2) for kind, data in extensions), 2)
    return b"\x01" + vector(body + after, 3)


def records(data: bytes, size: int = 16384) -> bytes:
    """`data` in records of at most `size` bytes."""
    pieces = [data[at : at + size] for at in range(0, len(data), size)]
    return b"".join(b"\x16\x03\x01" + vector(piece, 2) for piece in pieces)


def hello(name: bytes | None, *, size: int = 16384, more: Sequence[tuple[int, bytes]] = ()) -> bytes:
    """A whole ClientHello, in records."""
    named = [server_name(name)] if name is not None else []
    return records(message([*named, *more]), size)


def read_in_two_ways(shown: bytes, meant: bytes) -> bytes:
    """A hello over two records that names `meant`. Whoever takes the head of the second record for a part of it reads
    what follows five bytes early, and so finds `shown`."""
    listed = len(shown) + 3
    # The end of the filler, the type of what carries the name, and its length, are then a name extension.
    filler = bytes(20) + b"\0\0" + (listed + 2).to_bytes(2) + listed.to_bytes(2)[:1]
    carrier = ((listed & 0xFF) << 8, shown)
    others = [(10, vector(b"\0\x1d", 2)), (13, vector(b"\x04\x03\x08\x04", 2)), (43, vector(b"\x03\x04", 1))]
    whole = message([(0x1234, filler), carrier, *others, server_name(meant)])
    cut = whole.index(filler) + 5
    return records(whole[:cut]) + records(whole[cut:])


def name_read_by_a_server(data: bytes) -> str | None:
    """Which host OpenSSL finds in a hello."""
    names: list[str | None] = []
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.sni_callback = lambda _, name, __: names.append(name)
    received = ssl.MemoryBIO()
    side = context.wrap_bio(received, ssl.MemoryBIO(), server_side=True)
    received.write(data)
    with contextlib.suppress(ssl.SSLError):  # it has no certificate to answer with
        side.do_handshake()
    return names[0] if names else None
