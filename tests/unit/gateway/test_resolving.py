"""Name servers that fail, lie or say it in another way."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable

import pytest

from tests.unit.gateway.test_dns import record
from tests.unit.gateway.world import NAMES, SERVER, World, echo

SECOND = "198.41.0.11"
FLAGS = {"fine": 0x8180, "failed": 0x8182, "refused": 0x8185, "cut": 0x8380}


def reply(data: bytes, *records: bytes, flags: int = FLAGS["fine"], number: bytes | None = None) -> bytes:
    end = data.index(b"\0", 12) + 5
    return (number or data[:2]) + struct.pack(">HHHHH", flags, 1, len(records), 0, 0) + data[12:end] + b"".join(records)


def good(data: bytes) -> bytes:
    return reply(data, record(b"\xc0\x0c", 1, socket.inet_aton(SERVER), ttl=60))


def name_server(world: World, answer: Callable[[bytes], list[bytes]]) -> list[bytes]:
    """A name server at SECOND; what it was asked."""
    sock, asked = world.outer.listen(SECOND, 53, socket.SOCK_DGRAM), []

    def run() -> None:
        while True:
            try:
                data, peer = sock.recvfrom(512)
            except OSError:
                return
            if peer is None:
                return
            asked.append(data)
            for said in answer(data):
                sock.sendto(said, peer)

    threading.Thread(target=run, daemon=True).start()
    world.keep(sock)
    return asked


def tunnels(world: World) -> bool:
    world.serve(SERVER, 22, echo)
    with world.tunnel("ssh.example.com:22") as sock:
        sock.sendall(b"x")
        return sock.recv(1) == b"x"


@pytest.mark.parametrize("flags", [FLAGS["failed"], FLAGS["refused"]])
def test_the_next_server_is_asked_where_one_fails(world: World, flags: int) -> None:
    asked = name_server(world, lambda data: [reply(data, flags=flags)])
    world.names.table["ssh.example.com"] = [SERVER]
    world.start(resolvers=(SECOND, NAMES))
    assert tunnels(world)
    assert len(asked) == 1 and world.names.asked == ["ssh.example.com"]


def test_the_next_server_is_asked_where_one_says_nothing(world: World) -> None:
    asked = name_server(world, lambda data: [])
    world.names.table["ssh.example.com"] = [SERVER]
    world.start(resolvers=(SECOND, NAMES))
    assert tunnels(world)
    assert len(asked) == 1


def test_forged_answers_are_passed_over(world: World) -> None:
    def answer(data: bytes) -> list[bytes]:
        evil = record(b"\xc0\x0c", 1, socket.inet_aton("127.0.0.1"))
        other = data[:12] + b"\x05other" + data[data.index(b"\7example") :]
        number = bytes([data[0] ^ 1, data[1]])
        return [reply(data, evil, number=number), reply(other, evil), b"\0", data, good(data)]

    name_server(world, answer)
    world.start(resolvers=(SECOND,))
    assert tunnels(world)


def test_aliases_are_followed(world: World) -> None:
    alias = b"\x03cdn\x07example\x03net\0"
    records = (record(b"\xc0\x0c", 5, alias), record(alias, 1, socket.inet_aton(SERVER)))
    name_server(world, lambda data: [reply(data, *records)])
    world.start(resolvers=(SECOND,))
    assert tunnels(world)


def test_an_answer_that_is_too_long_for_a_datagram(world: World) -> None:
    name_server(world, lambda data: [reply(data, flags=FLAGS["cut"])])

    def talk(peer: socket.socket) -> None:
        size = int.from_bytes(peer.recv(2))
        answer = good(peer.recv(size))
        data = len(answer).to_bytes(2) + answer
        for at in range(len(data)):
            peer.sendall(data[at : at + 1])

    world.serve(SECOND, 53, talk)
    world.start(resolvers=(SECOND,))
    assert tunnels(world)


def test_answers_are_kept_while_they_hold(world: World) -> None:
    asked = name_server(world, lambda data: [good(data)])
    world.start(resolvers=(SECOND,))
    world.serve(SERVER, 22, echo)
    for _ in range(3):
        world.tunnel("ssh.example.com:22").close()
    assert len(asked) == 1


def test_a_name_that_is_asked_for_by_nobody_else(world: World) -> None:
    """No search domain is tried, and IPv6 addresses are asked for only where there is IPv6."""
    asked = name_server(world, lambda data: [good(data)])
    world.start(resolvers=(SECOND,))
    world.connect("ssh.example.com:22")
    (question,) = asked
    assert question[12:] == b"\x03ssh\x07example\x03com\0\0\1\0\1"
