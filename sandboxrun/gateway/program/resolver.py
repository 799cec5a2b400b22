"""Names to addresses: asks the name servers, and keeps answers while they hold.

Owns the asking, its time and its memory. Must not judge the addresses: they are looked at each time they are used.
"""

from __future__ import annotations

import asyncio
import ipaddress
import os
import socket
import time
from collections.abc import Sequence

from sandboxrun.gateway.program.addresses import Address
from sandboxrun.gateway.program.dns import AAAA, MAX_MESSAGE, NXDOMAIN, A, Answer, BadAnswer, question, read_answer
from sandboxrun.gateway.program.refusals import Failed

ROUNDS = (2.0, 4.0)  # seconds for an answer: every server is asked once, then once more
RESOLVE_SECONDS = 15.0
MAX_ADDRESSES = 16
MAX_KEPT = 256  # names
LONGEST_KEPT = 60  # seconds
PORT = 53
SYSTEM = "/etc/resolv.conf"


class Resolver:
    """Asks the servers given, or those of the machine where none are."""

    def __init__(self, servers: Sequence[Address], *, ipv6: bool) -> None:
        """`ipv6`: whether IPv6 addresses are of use here; without, they are not asked for."""
        self._servers = tuple(servers) or system_servers()
        self._kinds = (A, AAAA) if ipv6 else (A,)
        self._kept: dict[str, tuple[float, tuple[Address, ...]]] = {}

    async def resolve(self, host: str) -> tuple[Address, ...]:
        """All addresses of `host`, IPv4 first. Raises Failed."""
        until, addresses = self._kept.get(host, (0.0, ()))
        if until > time.monotonic():
            return addresses
        try:
            async with asyncio.timeout(RESOLVE_SECONDS):
                answers = await self._ask(host)
        except TimeoutError:
            raise Failed("unresolved", f"{host} was not resolved in time", 504) from None
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
            self._kept[host] = (time.monotonic() + min(ttl, LONGEST_KEPT), addresses)

    async def _ask(self, host: str) -> list[Answer]:
        """The first good answers of a server. Raises Failed when there are none."""
        for seconds in ROUNDS:
            for server in self._servers:
                try:
                    async with asyncio.timeout(seconds):
                        return await ask(server, host, self._kinds)
                except (TimeoutError, OSError, BadAnswer):
                    continue
        raise Failed("unresolved", f"no name server has an answer about {host}")


async def ask(server: Address, host: str, kinds: Sequence[int]) -> list[Answer]:
    """One server's answers to one question of each kind. Raises OSError, BadAnswer."""
    loop = asyncio.get_running_loop()
    waiting: dict[int, int] = {}
    while len(waiting) < len(kinds):
        waiting[_number()] = kinds[len(waiting)]
    found: dict[int, Answer] = {}
    # A socket of its own, connected: the system picks a port at random, and drops what others send to it.
    with socket.socket(_family(server), socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)
        sock.connect((str(server), PORT))
        for number, kind in waiting.items():
            await loop.sock_sendall(sock, question(number, host, kind))
        while len(found) < len(kinds):
            data = await loop.sock_recv(sock, MAX_MESSAGE)
            number = int.from_bytes(data[:2])
            if number not in waiting:
                continue
            try:
                found[waiting[number]] = read_answer(data, number, host, waiting[number])
            except BadAnswer:  # forged, perhaps: the right one may still come
                continue
    answers = [found[kind] if not found[kind].cut else await _ask_again(server, host, kind) for kind in kinds]
    if any(answer.code not in (0, NXDOMAIN) for answer in answers):
        raise BadAnswer("the server failed")
    return answers


async def _ask_again(server: Address, host: str, kind: int) -> Answer:
    """The same question where an answer of any length has room."""
    loop = asyncio.get_running_loop()
    number = _number()
    with socket.socket(_family(server), socket.SOCK_STREAM) as sock:
        sock.setblocking(False)
        await loop.sock_connect(sock, (str(server), PORT))
        asked = question(number, host, kind)
        await loop.sock_sendall(sock, len(asked).to_bytes(2) + asked)
        size = int.from_bytes(await _exactly(loop, sock, 2))
        return read_answer(await _exactly(loop, sock, size), number, host, kind)


async def _exactly(loop: asyncio.AbstractEventLoop, sock: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        piece = await loop.sock_recv(sock, size - len(data))
        if not piece:
            raise BadAnswer("the server ended early")
        data += piece
    return data


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
