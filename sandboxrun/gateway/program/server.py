"""The gateway at work: takes connections, keeps them within bounds, follows its rules when they change.

Owns the limits in number and time, and the one place where connections to hosts are made.
"""

from __future__ import annotations

import asyncio
import socket
from typing import Any

from sandboxrun.gateway.program.addresses import Address
from sandboxrun.gateway.program.conversation import Conversation
from sandboxrun.gateway.program.exchanges import Exchange
from sandboxrun.gateway.program.names import Target
from sandboxrun.gateway.program.records import Records, to_stdout
from sandboxrun.gateway.program.refusals import Failed, Refused
from sandboxrun.gateway.program.resolver import Resolver
from sandboxrun.gateway.program.rules import MAX_DOCUMENT, Rules, RulesError, read_rules
from sandboxrun.gateway.program.sides import Side, no_noise
from sandboxrun.gateway.program.surroundings import Surroundings, has_ipv6

MAX_CONNECTIONS = 256  # at once; more wait to be taken
RATE = 1000  # connections taken a second; more wait
BACKLOG = 256
CONNECT_SECONDS = 15.0
ATTEMPT_SECONDS = 5.0  # for one of several addresses
IDLE_SECONDS = 1800
HALF_SECONDS = 120  # once one side has ended
LIFETIME_SECONDS = 24 * 3600


class Gateway:
    """One sandbox's way out."""

    def __init__(self, path: str) -> None:
        """Read the rules at `path`. Raises RulesError, OSError."""
        self._path = path
        self.rules = load(path)
        self.talks: dict[Conversation, asyncio.Task[None]] = {}
        self._tokens = RATE
        self._accepting = False
        self._surroundings = Surroundings()
        self._resolver = self._new_resolver()

    def _new_resolver(self) -> Resolver:
        return Resolver(self.rules.resolvers, ipv6=has_ipv6())

    async def serve(self, listener: socket.socket) -> None:
        """Serve on a bound socket until stopped."""
        self._loop = loop = asyncio.get_running_loop()
        loop.set_exception_handler(no_noise)
        self.records = Records(to_stdout, loop.call_soon)
        self.records.allot(self.rules.budget)
        self._stopped = loop.create_future()
        self._listener = listener
        listener.setblocking(False)
        listener.listen(BACKLOG)
        self._accept_more()
        self.records.tell("ready", digest=self.rules.digest)
        loop.call_later(1, self._sweep)
        await self._stopped
        await self._end()

    def stop(self) -> None:
        """Take no more connections, end those there are, and return from `serve`."""
        if not self._stopped.done():
            self._stopped.set_result(None)

    async def _end(self) -> None:
        self._accept_no_more()
        for talk in list(self.talks):
            self._cut(talk, "stopped")
        if self.talks:
            await asyncio.wait(list(self.talks.values()), timeout=2)
        self.records.tell("stopped", unrecorded=self.records.unrecorded)
        self.records.flush()

    # -- rules

    def reload(self) -> None:
        """Read the rules anew; keep the old ones where the new can't be had. End what is no longer allowed."""
        try:
            self.rules = load(self._path)
        except (RulesError, OSError) as error:
            self.records.tell("rules-refused", error=str(error)[:300], digest=self.rules.digest)
            return
        self._resolver = self._new_resolver()
        self.records.tell("rules", digest=self.rules.digest)
        for talk in list(self.talks):
            if talk.upstream is not None and not self._still_allowed(talk):
                self._cut(talk, "rules")

    def _still_allowed(self, talk: Conversation) -> bool:
        assert talk.target is not None
        try:
            self.rules.check(talk.target)
            if talk.address is not None:
                self._check_address(talk.target, talk.address)
        except Refused:
            return False
        return True

    def _check_address(self, target: Target, address: Address) -> None:
        try:
            own = self._surroundings.networks()
        except (OSError, ValueError):
            raise Refused("reserved", "where the gateway stands can't be told") from None
        self.rules.check_address(target, address, own)

    # -- connections to hosts

    async def connect(self, talk: Conversation) -> Side:
        """A connection to an address of the talk's target, all of which were checked. Raises Refused, Failed."""
        target = talk.target
        assert target is not None
        addresses = (target.literal,) if target.literal is not None else await self._resolver.resolve(target.host)
        for address in addresses:
            talk.exchange.address = str(address)
            self._check_address(target, address)
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                side = await self._connect_any(talk, addresses)
        except TimeoutError:
            raise Failed("timeout", f"{target} did not answer in time", 504) from None
        if not self._still_allowed(talk):  # the rules may have changed while it was being connected
            side.abort()
            raise Refused("rules", f"{target} is no longer allowed")
        talk.exchange.verdict = "allowed"
        return side

    async def _connect_any(self, talk: Conversation, addresses: tuple[Address, ...]) -> Side:
        target, last = talk.target, None
        assert target is not None
        for address in addresses:
            talk.exchange.address, talk.address = str(address), address
            try:
                async with asyncio.timeout(ATTEMPT_SECONDS if address is not addresses[-1] else None):
                    return await self._connect(address, target.port)
            except (OSError, TimeoutError) as error:
                last = error
        if isinstance(last, TimeoutError):
            raise TimeoutError
        why = (last.strerror or "no connection").lower() if last is not None else "no address"
        raise Failed("unreachable", f"{target} can't be reached: {why}")

    async def _connect(self, address: Address, port: int) -> Side:
        family = socket.AF_INET if address.version == 4 else socket.AF_INET6
        sock = socket.socket(family, socket.SOCK_STREAM)
        try:
            sock.setblocking(False)
            await self._loop.sock_connect(sock, (str(address), port))
            _, side = await self._loop.create_connection(self._side, sock=sock)
        except BaseException:
            sock.close()
            raise
        return side

    def _side(self) -> Side:
        return Side(self._loop)

    # -- connections from clients

    def _accept_more(self) -> None:
        if not self._accepting:
            self._accepting = True
            self._loop.add_reader(self._listener, self._accept)

    def _accept_no_more(self) -> None:
        if self._accepting:
            self._accepting = False
            self._loop.remove_reader(self._listener)

    def _accept(self) -> None:
        if self._tokens <= 0 or len(self.talks) >= MAX_CONNECTIONS:
            self._accept_no_more()
            self._loop.call_later(0.05, self._accept_more)
            return
        try:
            sock, _ = self._listener.accept()
        except BlockingIOError:
            return
        except OSError:  # no descriptors, or the client is gone again
            self._accept_no_more()
            self._loop.call_later(0.05, self._accept_more)
            return
        self._tokens -= 1
        sock.setblocking(False)
        client = self._side()
        talk = Conversation(self, client)
        self.talks[talk] = self._loop.create_task(self._converse(talk, sock))

    async def _converse(self, talk: Conversation, sock: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(lambda: talk.client, sock)
            await talk.run()
        except OSError:
            sock.close()
        finally:
            del self.talks[talk]

    def _sweep(self) -> None:
        """Each second: end what is idle or old, and say of what lasts that it has begun."""
        self._loop.call_later(1, self._sweep)
        self._tokens = RATE
        for talk in list(self.talks):
            if not talk.relaying or talk.upstream is None:
                continue
            moved = talk.client.stirred or talk.upstream.stirred
            talk.client.stirred = talk.upstream.stirred = False
            talk.idle = 0 if moved else talk.idle + 1
            half = talk.client.ended or talk.upstream.ended
            if talk.idle >= (HALF_SECONDS if half else IDLE_SECONDS):
                self._cut(talk, "idle")
            elif self._loop.time() - talk.exchange.started > LIFETIME_SECONDS:
                self._cut(talk, "lifetime")
            elif not talk.exchange.told:
                self._tell_open(talk.exchange)

    def _tell_open(self, exchange: Exchange) -> None:
        exchange.told = True
        self.records.client("open", exchange.began, exchange.values(self.rules.sandbox))

    def _cut(self, talk: Conversation, why: str) -> None:
        """End a talk for a reason of the gateway's own."""
        talk.ending = why
        task = self.talks.get(talk)
        for side in (talk.client, talk.upstream):
            if side is not None and hasattr(side, "transport"):
                side.abort()
        if task is not None and not talk.relaying:
            task.cancel()

    # -- records

    def record(self, exchange: Exchange) -> None:
        """Record what became of a request."""
        self.records.client("request", exchange.began, exchange.values(self.rules.sandbox))


def load(path: str) -> Rules:
    """The rules in a file. Raises RulesError, OSError."""
    with open(path, "rb") as file:
        return read_rules(file.read(MAX_DOCUMENT + 1))


def bound(address: str) -> socket.socket:
    """A socket bound to `host:port` (IPv6 in brackets). Raises OSError, ValueError."""
    host, _, port = address.rpartition(":")
    family = socket.AF_INET6 if host.startswith("[") else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    where: Any = (host.strip("[]"), int(port))
    sock.bind(where)
    return sock
