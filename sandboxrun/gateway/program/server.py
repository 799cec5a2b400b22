"""The gateway at work: takes connections, keeps them within bounds, follows its rules when they change.

Owns the limits in number and time, and the one place where connections to hosts are made.
"""

from __future__ import annotations

import select
import socket

from sandboxrun.gateway.program.addresses import Address
from sandboxrun.gateway.program.conversation import Conversation
from sandboxrun.gateway.program.exchanges import Exchange
from sandboxrun.gateway.program.loop import Loop, Stopped, Task
from sandboxrun.gateway.program.names import Target
from sandboxrun.gateway.program.records import Records, to_stdout
from sandboxrun.gateway.program.refusals import Failed, Refused
from sandboxrun.gateway.program.resolver import Resolver
from sandboxrun.gateway.program.rules import MAX_DOCUMENT, Rules, RulesError, read_rules
from sandboxrun.gateway.program.sides import Side, connect
from sandboxrun.gateway.program.surroundings import Surroundings, has_ipv6

MAX_CONNECTIONS = 192  # at once; more wait to be taken
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
        self.listens_at = ""
        self.rules = load(path)
        self.loop = Loop()
        self.records = Records(to_stdout)
        self.talks: dict[Conversation, Task | None] = {}
        self._tokens = RATE
        self._accepting = self._stopping = False
        self._swept = self.loop.time()
        self._surroundings = Surroundings()
        self._resolver = self._new_resolver()

    def _new_resolver(self) -> Resolver:
        return Resolver(self.loop, self.rules.resolvers, ipv6=has_ipv6())

    def serve(self, listener: socket.socket) -> None:
        """Serve on a bound socket until stopped."""
        self._listener = listener
        self.listens_at = "{}:{}".format(*listener.getsockname())
        self.records.allot(self.rules.budget)
        self.loop.each_turn, self.loop.each_tick, self.loop.fault = self.records.flush, self._tick, self._fault
        listener.setblocking(False)
        listener.listen(BACKLOG)
        self._accept_more()
        self.records.tell("ready", digest=self.rules.digest)
        self.loop.run()
        self.records.tell("stopped", unrecorded=self.records.unrecorded)
        self.records.flush()

    def stop(self) -> None:
        """Take no more connections, end those there are, and return from `serve`."""
        self._stopping = True
        self._accept_no_more()
        for talk in list(self.talks):
            self._cut(talk, "stopped")
        self.loop.soon(self._stopped)

    def _stopped(self) -> None:
        """Once the last has been recorded."""
        if self.talks:
            self.loop.soon(self._stopped)
        else:
            self.loop.end()

    def _fault(self) -> None:
        """A fault of this program in a conversation: seen, and counted like what clients cause."""
        self.records.client("fault", None, {})

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
        except Refused:
            return False
        return talk.address is None or self.permits(talk, talk.address)

    def permits(self, talk: Conversation, address: Address | None) -> bool:
        """Whether the talk's target may lead to `address`."""
        assert talk.target is not None
        try:
            if address is not None:
                self._check_address(talk.target, address)
        except Refused:
            return False
        return address is not None

    def _check_address(self, target: Target, address: Address) -> None:
        try:
            own = self._surroundings.networks()
        except (OSError, ValueError):
            raise Refused("reserved", "where the gateway stands can't be told") from None
        self.rules.check_address(target, address, own)

    # -- connections to hosts

    async def connect(self, talk: Conversation) -> Side:
        """A connection to an address of the talk's target, all of which were checked. Raises Refused, Failed."""
        target, rules = talk.target, self.rules
        assert target is not None
        addresses = (target.literal,) if target.literal is not None else await self._resolver.resolve(target.host)
        for address in addresses:
            talk.exchange.address = str(address)
            self._check_address(target, address)
        side = await self._connect_any(talk, target, addresses)
        if rules is not self.rules and not self._still_allowed(talk):  # they changed meanwhile
            side.abort()
            raise Refused("rules", f"{target} is no longer allowed")
        talk.exchange.verdict = "allowed"
        return side

    async def _connect_any(self, talk: Conversation, target: Target, addresses: tuple[Address, ...]) -> Side:
        end = self.loop.time() + CONNECT_SECONDS
        last: OSError | None = None
        for address in addresses:
            talk.exchange.address, talk.address = str(address), address
            until = end if address is addresses[-1] else min(end, self.loop.time() + ATTEMPT_SECONDS)
            try:
                return await connect(self.loop, address, target.port, until)
            except OSError as error:
                last = error
        if isinstance(last, TimeoutError) and last.errno is None:
            raise Failed("timeout", f"{target} did not answer in time", 504)
        why = (last.strerror or "no connection").lower() if last is not None else "no address"
        raise Failed("unreachable", f"{target} can't be reached: {why}")

    # -- connections from clients

    def _accept_more(self) -> None:
        if not self._accepting and not self._stopping:
            self._accepting = True
            self.loop.watch(self._listener.fileno(), self._accept, select.EPOLLIN)

    def _accept_no_more(self) -> None:
        if self._accepting:
            self._accepting = False
            self.loop.forget(self._listener.fileno())

    def _accept(self, _: int) -> None:
        if self._tokens <= 0 or len(self.talks) >= MAX_CONNECTIONS:
            self._accept_no_more()  # until there is room, or the next tick
            return
        try:
            sock, _ = self._listener.accept()
            sock.setblocking(False)
        except BlockingIOError:
            return
        except OSError:  # no descriptors, or the client is gone again
            self._accept_no_more()
            return
        self._tokens -= 1
        talk = Conversation(self, Side(self.loop, sock))
        self.talks[talk] = None
        task = self.loop.spawn(self._converse(talk))
        if not task.done:
            self.talks[talk] = task

    async def _converse(self, talk: Conversation) -> None:
        try:
            await talk.run()
        finally:
            del self.talks[talk]
            if not self._accepting and self._tokens > 0:
                self._accept_more()

    def _tick(self) -> None:
        """Several times a second: take connections again; each second: look at those there are."""
        self._tokens = min(RATE, self._tokens + RATE // 4)
        self._accept_more()
        if self.loop.time() - self._swept >= 1:
            self._swept = self.loop.time()
            for talk in list(self.talks):
                self._look_at(talk)

    def _look_at(self, talk: Conversation) -> None:
        """End what is idle or old, and say of what lasts that it has begun."""
        if not talk.relaying or talk.upstream is None:
            return
        moved = talk.client.stirred or talk.upstream.stirred
        talk.client.stirred = talk.upstream.stirred = False
        talk.idle = 0 if moved else talk.idle + 1
        half = talk.client.ended or talk.upstream.ended
        if talk.idle >= (HALF_SECONDS if half else IDLE_SECONDS):
            self._cut(talk, "idle")
        elif self.loop.time() - talk.exchange.started > LIFETIME_SECONDS:
            self._cut(talk, "lifetime")
        elif not talk.exchange.told:
            talk.exchange.told = True
            self.records.client("open", talk.exchange.began, talk.exchange.values(self.rules.sandbox))

    def _cut(self, talk: Conversation, why: str) -> None:
        """End a talk for a reason of the gateway's own."""
        talk.ending = why
        for side in (talk.client, talk.upstream):
            if side is not None:
                side.abort()
        task = self.talks.get(talk)
        if task is not None:
            task.wake(Stopped())

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
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # handed down to the connections taken
    sock.bind((host.strip("[]"), int(port)))
    return sock
