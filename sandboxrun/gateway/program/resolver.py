"""Names to addresses: asks the name servers, and keeps answers while they hold.

Owns the asking, its time and its memory. Must not judge the addresses: they are looked at each time they are used.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import socket
from collections.abc import Sequence

from sandboxrun.gateway.program.addresses import Address
from sandboxrun.gateway.program.dns import AAAA, MAX_MESSAGE, NXDOMAIN, A, Answer, BadAnswer, question, read_answer
from sandboxrun.gateway.program.loop import Loop, Moment
from sandboxrun.gateway.program.refusals import Failed
from sandboxrun.gateway.program.sides import connect

ROUNDS = (2.0, 4.0)  # seconds for an answer: every server is asked once, then once more
RESOLVE_SECONDS = 15.0
MAX_ADDRESSES = 16
MAX_KEPT = 256  # names
LONGEST_KEPT = 60  # seconds
PORT = 53
SYSTEM = "/etc/resolv.conf"


class Resolver:
    """Asks the servers given, or those of the machine where none are."""

    def __init__(self, loop: Loop, servers: Sequence[Address], *, ipv6: bool) -> None:
        """`ipv6`: whether IPv6 addresses are of use here; without, they are not asked for."""
        self._loop = loop
        self._servers = tuple(servers) or system_servers()
        self._kinds = (A, AAAA) if ipv6 else (A,)
        self._kept: dict[str, tuple[float, tuple[Address, ...]]] = {}

    async def resolve(self, host: str) -> tuple[Address, ...]:
        """All addresses of `host`, IPv4 first. Raises Failed."""
        until, addresses = self._kept.get(host, (0.0, ()))
        if until > self._loop.time():
            return addresses
        answers = await self._ask(host)
        addresses = tuple(address for answer in answers for address in answer.addresses)[:MAX_ADDRESSES]
        if not addresses:
            raise Failed("unresolved", f"{host} has no address")
        self._keep(host, addresses, min(answer.ttl for answer in answers if answer.addresses))
        return addresses

    def _keep(self, host: str, addresses: tuple[Address, ...], ttl: int) -> None:
        self._kept.pop(host, None)
        if len(self._kept) >= MAX_KEPT:
            del self._kept[next(iter(self._kept))]
        if ttl > 0:
            self._kept[host] = (self._loop.time() + min(ttl, LONGEST_KEPT), addresses)

    async def _ask(self, host: str) -> list[Answer]:
        """The first good answers of a server. Raises Failed when there are none."""
        end = self._loop.time() + RESOLVE_SECONDS
        for seconds in ROUNDS:
            for server in self._servers:
                try:
                    return await ask(self._loop, server, host, self._kinds, min(self._loop.time() + seconds, end))
                except (TimeoutError, OSError, BadAnswer):
                    continue
        raise Failed("unresolved", f"no name server has an answer about {host}")


async def ask(loop: Loop, server: Address, host: str, kinds: Sequence[int], until: float) -> list[Answer]:
    """One server's answers to one question of each kind. Raises OSError, BadAnswer, TimeoutError."""
    numbers: dict[int, int] = {}
    while len(numbers) < len(kinds):
        numbers[_number()] = kinds[len(numbers)]
    # A socket of its own, connected: the system picks a port at random, and drops what others send to it.
    with socket.socket(_family(server), socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sock:
        sock.connect((str(server), PORT))
        arrived = Moment(loop)
        loop.watch(sock.fileno(), lambda _: arrived.come())
        try:
            for number, kind in numbers.items():
                sock.send(question(number, host, kind))
            found = await _answers(sock, arrived, host, numbers, until)
        finally:
            loop.drop(sock.fileno())
    answers = [a if not a.cut else await _ask_again(loop, server, host, kind, until) for kind, a in found.items()]
    if any(answer.code not in (0, NXDOMAIN) for answer in answers):
        raise BadAnswer("the server failed")
    return answers


async def _answers(
    sock: socket.socket, arrived: Moment, host: str, numbers: dict[int, int], until: float
) -> dict[int, Answer]:
    """The answers by the kinds that were asked for, in their order."""
    found: dict[int, Answer] = {}
    while len(found) < len(numbers):
        try:
            data = sock.recv(MAX_MESSAGE)
        except BlockingIOError:
            await arrived.wait(until)
            continue
        kind = numbers.get(int.from_bytes(data[:2]))
        if kind is not None:
            with contextlib.suppress(BadAnswer):  # forged, perhaps: the right one may still come
                found[kind] = read_answer(data, int.from_bytes(data[:2]), host, kind)
    return {kind: found[kind] for kind in numbers.values()}


async def _ask_again(loop: Loop, server: Address, host: str, kind: int, until: float) -> Answer:
    """The same question where an answer of any length has room."""
    number = _number()
    side = await connect(loop, server, PORT, until)
    try:
        asked = question(number, host, kind)
        side.write(len(asked).to_bytes(2) + asked)
        data = b""
        while len(data) < 2 or len(data) < 2 + int.from_bytes(data[:2]):
            piece = await side.read(until)
            if not piece:
                raise BadAnswer("the server ended early")
            data += piece
        return read_answer(data[2:], number, host, kind)
    finally:
        side.abort()


def _number() -> int:
    """What tells a question's answer from others; not to be guessed."""
    return int.from_bytes(os.urandom(2))


def _family(server: Address) -> socket.AddressFamily:
    return socket.AF_INET if server.version == 4 else socket.AF_INET6


def system_servers(path: str = SYSTEM) -> tuple[Address, ...]:
    """The name servers that a resolv.conf names."""
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            lines = [line.split() for line in file]
    except OSError:
        return ()
    found = []
    for words in lines:
        if words[:1] == ["nameserver"] and len(words) > 1:
            try:
                found.append(ipaddress.ip_address(words[1]))
            except ValueError:
                continue
    return tuple(found[:3])
