"""CONNECT: a tunnel to an allowed host, whose first bytes are looked at.

Owns what a tunnel may carry: with mode allow, TLS only on port 443, and TLS on any port must name the host of the
tunnel, also where the server has it begin again. What is no TLS passes on other ports as it is, so that protocols in
which the host speaks first work.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import h11

from sandboxrun.gateway.program.exchanges import ESTABLISHED
from sandboxrun.gateway.program.hello import (
    ALERT,
    CHANGE_CIPHER,
    SERVER_START,
    BadHello,
    Hello,
    NotTls,
    asks_again,
    read_hello,
)
from sandboxrun.gateway.program.refusals import Refused
from sandboxrun.gateway.program.sides import Side

if TYPE_CHECKING:
    from sandboxrun.gateway.program.conversation import Conversation

HELLO_SECONDS = 10.0
ANSWER_SECONDS = 60.0  # for the server's first bytes
TLS_PORT = 443


async def tunnel(talk: Conversation, request: h11.Request) -> None:
    """Carry out a CONNECT that the rules let through; returns when the tunnel has ended. Raises Refused, Failed."""
    if any(name in (b"content-length", b"transfer-encoding") for name, _ in request.headers):
        raise Refused("request", "a CONNECT with a body", 400)
    client, upstream = talk.client, await talk.gateway.connect(talk)
    talk.upstream, talk.relaying = upstream, True
    client.write(ESTABLISHED)
    early = talk.http.trailing_data[0]
    judged = not talk.gateway.rules.open
    if judged:
        upstream.watch(SERVER_START)
    upstream.pass_to(client)
    try:
        rest = await _Opening(talk, upstream).judge(early) if judged else early
        _onward(talk, upstream, rest)
        client.pass_to(upstream)
        for side in (client, upstream):
            while not side.lost:
                await side.gone.wait()
    finally:
        talk.exchange.sent, talk.exchange.received = client.passed, upstream.passed


def _onward(talk: Conversation, upstream: Side, data: bytes) -> None:
    if data:
        talk.client.passed += len(data)
        upstream.write(data)


class _Opening:
    """The first bytes of a tunnel: held until they have been found fit to go on."""

    def __init__(self, talk: Conversation, upstream: Side) -> None:
        assert talk.target is not None
        self.talk = talk
        self.upstream = upstream
        self.target = talk.target

    async def judge(self, data: bytes) -> bytes:
        """Read what the client begins with, and send a ClientHello on; what is left to send. Raises Refused."""
        try:
            data = data or await self._first()
            if not data:
                return data
            hello, data = await self._hello(data, self.talk.loop.time() + HELLO_SECONDS)
        except NotTls:
            if self.target.port == TLS_PORT:
                raise self._refused("not-tls") from None
            return data
        except BadHello:
            raise self._refused("hello") from None
        except TimeoutError:
            raise self._refused("timeout") from None
        self.talk.exchange.ech = hello.ech
        return await self._answered(hello, data)

    async def _first(self) -> bytes:
        """The first bytes. Where the host may speak first, the client may wait for that as long as it likes."""
        until = self.talk.loop.time() + HELLO_SECONDS if self.target.port == TLS_PORT else None
        return await self.talk.client.read(until)

    async def _hello(self, data: bytes, until: float) -> tuple[Hello, bytes]:
        """A ClientHello that names the host of the tunnel, and all bytes read. Raises NotTls, BadHello,
        Refused, TimeoutError."""
        while (hello := read_hello(data)) is None:
            more = await self.talk.client.read(until)
            if not more:
                raise BadHello("it ended before it was whole")
            data += more
        if hello.name != self.target.host:
            raise self._refused("sni", ALERT)
        return hello, data

    async def _answered(self, hello: Hello, data: bytes) -> bytes:
        """Send the ClientHello on; where the server asks for another, that one must name the host too."""
        if not self.upstream.silent:
            raise self._refused("hello")  # no protocol has the server speak first and the client begin TLS then
        _onward(self.talk, self.upstream, data[: hello.size])
        data = data[hello.size :]
        try:
            if asks_again(await self.upstream.beginning(self.talk.loop.time() + ANSWER_SECONDS)):
                return await self._second(data, self.talk.loop.time() + HELLO_SECONDS)
        except (NotTls, BadHello):
            raise self._refused("hello") from None
        except TimeoutError:
            raise self._refused("timeout") from None
        return data

    async def _second(self, data: bytes, until: float) -> bytes:
        """The second ClientHello with what stands before it and after it."""
        size = len(CHANGE_CIPHER)
        while len(data) < size and CHANGE_CIPHER.startswith(data) and not self.talk.client.ended:
            data += await self.talk.client.read(until)
        lead = data[:size] if data.startswith(CHANGE_CIPHER) else b""
        _, data = await self._hello(data[len(lead) :], until)
        return lead + data

    def _refused(self, reason: str, last: bytes = b"") -> Refused:
        """End both sides; the client may get some last bytes."""
        if last:
            self.talk.client.write(last)
        self.upstream.abort()
        self.talk.client.close()
        return Refused(reason, "the tunnel was closed")
