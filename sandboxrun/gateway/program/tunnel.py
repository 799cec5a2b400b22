"""CONNECT: a tunnel to an allowed host, whose first bytes are looked at.

Owns what a tunnel may carry: with mode allow, TLS only on port 443, and TLS on any port must name the host of the
tunnel. What is no TLS passes on other ports as it is, so that protocols in which the host speaks first work.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import h11

from sandboxrun.gateway.program.exchanges import ESTABLISHED
from sandboxrun.gateway.program.hello import ALERT, BadHello, NotTls, read_hello
from sandboxrun.gateway.program.refusals import Refused

if TYPE_CHECKING:
    from sandboxrun.gateway.program.conversation import Conversation

HELLO_SECONDS = 10.0
TLS_PORT = 443


async def tunnel(talk: Conversation, request: h11.Request) -> None:
    """Carry out a CONNECT that the rules let through; returns when the tunnel has ended. Raises Refused, Failed."""
    if any(name in (b"content-length", b"transfer-encoding") for name, _ in request.headers):
        raise Refused("request", "a CONNECT with a body", 400)
    client, target = talk.client, talk.target
    assert target is not None
    upstream = talk.upstream = await talk.gateway.connect(talk)
    talk.relaying = True
    client.write(ESTABLISHED)
    early = talk.http.trailing_data[0]
    upstream.pass_to(client)
    try:
        if not talk.gateway.rules.open:
            early = await _first_bytes(talk, early)
        if early:
            upstream.write(early)
        client.pass_to(upstream)
        await client.gone
        await upstream.gone
    finally:
        talk.exchange.sent = len(early) + client.passed
        talk.exchange.received = upstream.passed


async def _first_bytes(talk: Conversation, data: bytes) -> bytes:
    """What the client begins with, once it has been found fit to go on. Raises Refused."""
    target = talk.target
    assert target is not None
    try:
        # Where the host may speak first, a client may wait for it: only what is clearly begun is waited for.
        async with asyncio.timeout(HELLO_SECONDS if target.port == TLS_PORT or data else None) as limit:
            while True:
                if data and limit.when() is None:
                    limit.reschedule(asyncio.get_running_loop().time() + HELLO_SECONDS)
                if data and (found := read_hello(data)) is not None:
                    break
                more = await talk.client.read()
                if not more:
                    return _ended(talk, data)
                data += more
    except NotTls:
        return _plain(talk, data)
    except BadHello:
        raise _refused(talk, "hello", b"") from None
    except TimeoutError:
        raise _refused(talk, "timeout", b"") from None
    talk.exchange.ech = found.ech
    if found.name != target.host:
        raise _refused(talk, "sni", ALERT)
    return data


def _plain(talk: Conversation, data: bytes) -> bytes:
    assert talk.target is not None
    if talk.target.port == TLS_PORT:
        raise _refused(talk, "not-tls", b"")
    return data


def _ended(talk: Conversation, data: bytes) -> bytes:
    """The client ended its side before it could be told what it speaks: nothing of it goes on."""
    if data:
        raise _refused(talk, "hello", b"")
    return data


def _refused(talk: Conversation, reason: str, last: bytes) -> Refused:
    """End both sides; the client may get some last bytes."""
    assert talk.upstream is not None
    talk.upstream.abort()
    if last:
        talk.client.write(last)
    talk.client.close()
    return Refused(reason, "the tunnel was closed")
