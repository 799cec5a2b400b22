"""A client's connection: its requests one after the other, each judged, carried out and recorded.

Owns the order of the steps. What is let through is decided by the rules and the addresses; what a tunnel or a plain
request needs stands in tunnel.py and plain.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import h11

from sandboxrun.gateway.program.addresses import Address
from sandboxrun.gateway.program.exchanges import Exchange, answer_to
from sandboxrun.gateway.program.loop import Loop, Stopped
from sandboxrun.gateway.program.names import Target, target_of
from sandboxrun.gateway.program.plain import Spare, carry_out
from sandboxrun.gateway.program.refusals import Failed, Refused
from sandboxrun.gateway.program.sides import Side
from sandboxrun.gateway.program.tunnel import tunnel

if TYPE_CHECKING:
    from sandboxrun.gateway.program.server import Gateway

MAX_HEAD = 32 * 1024  # bytes of a request's head
HEAD_SECONDS = 10.0
KEEP_ALIVE_SECONDS = 60.0
LINGER_SECONDS = 1.0
LEAVE_SECONDS = 10.0  # for what was written to go out


class Conversation:
    """One client's connection."""

    __slots__ = (
        "address", "client", "ending", "exchange", "gateway", "http", "idle", "loop", "relaying", "spare", "target",
        "upstream",
    )  # fmt: skip

    def __init__(self, gateway: Gateway, client: Side) -> None:
        self.gateway = gateway
        self.loop: Loop = gateway.loop
        self.client = client
        self.upstream: Side | None = None
        self.spare: Spare | None = None  # a connection to a host that can be used again
        self.exchange = Exchange()
        self.target: Target | None = None
        self.address: Address | None = None  # what it is connected to
        self.relaying = False
        self.idle = 0  # seconds during which nothing moved
        self.ending = ""  # why the gateway itself ended it
        self.http = self.new_http()

    def new_http(self, data: bytes = b"") -> h11.Connection:
        """Our end of the client's connection, at the beginning of a request that begins with `data`."""
        http = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD)
        if data:
            http.receive_data(data)
        return http

    async def run(self) -> None:
        """Until the connection ends. Raises nothing that a client could cause."""
        first = True
        try:
            while await self._one(first):
                first = False
                self.exchange = Exchange()
            if self.upstream is not None:
                self.upstream.close()
            await self.client.leave(self.loop.time() + LEAVE_SECONDS)
        except Stopped:
            pass
        finally:
            self.client.abort()
            if self.upstream is not None:
                self.upstream.abort()
            if self.spare is not None:
                self.spare.side.abort()

    async def _one(self, first: bool) -> bool:
        """One request; whether another may follow."""
        exchange, follows = self.exchange, False
        try:
            request = await self._head(first)
            if request is None:
                return False
            follows = await self._serve(request)
        except (Refused, Failed) as error:
            exchange.verdict = "denied" if isinstance(error, Refused) else "allowed"
            exchange.reason = error.reason
            await self._answer(error)
        except OSError:
            exchange.reason = exchange.reason or "broken"
        except Stopped:
            exchange.reason = "stopped"
        except Exception:
            exchange.reason = "internal"  # a fault of this program: nothing goes through, and it is seen
            self.client.abort()
        finally:
            exchange.reason = self.ending or exchange.reason
            self._record(exchange, first)
        return follows and not self.ending

    def _record(self, exchange: Exchange, first: bool) -> None:
        if exchange.method or exchange.reason or first:
            if not exchange.method and not exchange.reason:
                exchange.reason = "request"
            self.gateway.record(exchange)

    async def _head(self, first: bool) -> h11.Request | None:
        """The next request's head; None when the client has none."""
        try:
            if not first and not self.http.trailing_data[0]:
                data = await self.client.read(self.loop.time() + KEEP_ALIVE_SECONDS)
                self.exchange.begin()  # waiting for it is no part of it
                if not data:
                    return None
                self.http.receive_data(data)
        except TimeoutError:
            return None
        try:
            return await self._request(self.loop.time() + HEAD_SECONDS)
        except TimeoutError:
            if not self.client.received:
                return None
            raise Refused("timeout", "the request's head did not come in time", 408) from None

    async def _request(self, until: float) -> h11.Request | None:
        while True:
            try:
                event = self.http.next_event()
            except h11.RemoteProtocolError as error:
                status = error.error_status_hint
                reason = "too-large" if status == 431 else "request"
                raise Refused(reason, str(error)[:100], status) from None
            if isinstance(event, h11.Request):
                return event
            if event is not h11.NEED_DATA:
                return None
            data = await self.client.read(until)
            if not data and not self.http.trailing_data[0]:
                return None
            self.http.receive_data(data)

    async def _serve(self, request: h11.Request) -> bool:
        if sum(len(name) + len(value) + 4 for name, value in request.headers) > MAX_HEAD:
            raise Refused("too-large", "the request's head is too long", 431)
        method = self.exchange.method = request.method.decode("ascii")
        if self.gateway.records.spent:
            raise Refused("budget", "this sandbox has used up its records")
        if method == "CONNECT":
            self._aim(method, request.target.decode("ascii"), None)
            check_host(request, self.target, itself=self.gateway.listens_at)
            await tunnel(self, request)
            return False
        authority, path = split_url(request)
        self._aim(method, authority, 80)
        check_host(request, self.target, 80)
        return await carry_out(self, request, path)

    def _aim(self, method: str, authority: str, port: int | None) -> None:
        """Settle the destination. Raises Refused for one that is not let through."""
        self.exchange.host = authority
        self.target = target_of(authority, port)
        self.exchange.aim(method, self.target)
        self.gateway.rules.check(self.target)

    async def _answer(self, error: Refused | Failed) -> None:
        """Say no, and take what the client still sends for a moment: else it may lose the answer."""
        if self.client.lost or self.relaying:
            return
        self.client.write(answer_to(error))
        self.client.finish()
        until = self.loop.time() + LINGER_SECONDS
        try:
            while not self.client.ended:
                await self.client.read(until)
        except (TimeoutError, Stopped):
            return


def split_url(request: h11.Request) -> tuple[str, bytes]:
    """Authority and path of a plain request's target. Raises Refused."""
    target = request.target
    scheme, separator, rest = target.partition(b"://")
    if not separator or not scheme.isalnum():
        raise Refused("target", "the request's target is not a whole http:// address", 400)
    if scheme.lower() != b"http":
        raise Refused("scheme", "the request's scheme is not http")
    if request.http_version != b"1.1":
        raise Refused("version", "the request is not HTTP/1.1", 505)
    if request.method == b"TRACE":
        raise Refused("request", "TRACE is not carried out")
    ends = [at for at in (rest.find(mark) for mark in (b"/", b"?", b"#")) if at >= 0]
    end = min(ends, default=len(rest))
    authority, path = rest[:end], rest[end:]
    if b"#" in path or not path.isascii():
        raise Refused("target", "the request's target is malformed", 400)
    return authority.decode("ascii", "replace"), path if path.startswith(b"/") else b"/" + path


def check_host(request: h11.Request, target: Target | None, default_port: int | None = None, itself: str = "") -> None:
    """Raise Refused unless the Host field, where there is one, names the target.

    `itself` is the gateway's own `address:port`, which Node's http module puts there when it is told to CONNECT.
    """
    assert target is not None
    hosts = [value for name, value in request.headers if name == b"host"]
    if len(hosts) > 1:
        raise Refused("host-header", "the request has several Host fields", 400)
    for value in hosts:
        said = value.decode("ascii", "replace").lower()
        if itself and said == itself:
            continue
        bare = str(target).rpartition(":")[0]
        if said != str(target) and not (said == bare and default_port in (None, target.port)):
            raise Refused("host-header", "the Host field names another host than the request's target")
