"""Plain HTTP requests: read with h11, written anew with h11, so that both sides see the same message.

Owns which fields go on. Must not decide where a request may go.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import h11

from sandboxrun.gateway.program.refusals import Failed, Refused
from sandboxrun.gateway.program.sides import Side

if TYPE_CHECKING:
    from sandboxrun.gateway.program.conversation import Conversation

OURS = b"sandboxrun-gateway"
MAX_RESPONSE_HEAD = 64 * 1024
RESPONSE_SECONDS = 600.0  # without a byte from the host
Headers = list[tuple[bytes, bytes]]
# RFC 9110, 7.6.1: they speak of one connection, not of the message
_HOP = frozenset(
    {b"connection", b"proxy-connection", b"keep-alive", b"te", b"trailer", b"upgrade", b"proxy-authorization"}
    | {b"proxy-authenticate", b"proxy-authentication-info", b"expect", b"host", b"via", b"http2-settings"}
)


async def carry_out(talk: Conversation, request: h11.Request, path: bytes) -> bool:
    """Carry out a request that the rules let through; whether the client may send another. Raises Refused, Failed."""
    fields = onward_fields(request)
    upstream = talk.upstream = await talk.gateway.connect(talk)
    http = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_RESPONSE_HEAD)
    host = str(talk.target).removesuffix(":80").encode()
    wanted = h11.Request(
        method=request.method,
        target=path,
        headers=[(b"Host", host), *fields, (b"Via", b"1.1 " + OURS), (b"Connection", b"close")],
    )
    _send(talk, upstream, http.send(wanted))
    sending = asyncio.ensure_future(_request_body(talk, upstream, http))
    try:
        return await _response(talk, upstream, http, sending)
    finally:
        sending.cancel()
        talk.upstream = None
        upstream.close()


def onward_fields(request: h11.Request) -> Headers:
    """The fields of a request that go on. Raises Refused for a request whose length could be read in two ways."""
    names = [name for name, _ in request.headers]
    if b"transfer-encoding" in names and b"content-length" in names:
        raise Refused("request", "the request has both Content-Length and Transfer-Encoding", 400)
    for name, value in request.headers:
        if name == b"via" and OURS in value.lower():
            raise Refused("loop", "the request has come through here before")
    return _without_hops(request.headers.raw_items())


def _without_hops(fields: Headers) -> Headers:
    named = {
        word.strip().lower() for name, value in fields if name.lower() == b"connection" for word in value.split(b",")
    }
    dropped = _HOP | named - {b"content-length", b"transfer-encoding"}
    return [(name, value) for name, value in fields if name.lower() not in dropped]


def _send(talk: Conversation, upstream: Side, data: bytes | None) -> None:
    if data:
        talk.exchange.sent += len(data)
        upstream.write(data)


async def _request_body(talk: Conversation, upstream: Side, out: h11.Connection) -> None:
    """The request's body, on to the host. Ends the conversation where it is malformed."""
    http, client = talk.http, talk.client
    if http.they_are_waiting_for_100_continue:
        client.write(http.send(h11.InformationalResponse(status_code=100, headers=[])))
    try:
        while True:
            event = http.next_event()
            if event is h11.NEED_DATA:
                http.receive_data(await client.read())
            elif isinstance(event, h11.Data):
                _send(talk, upstream, out.send(h11.Data(data=event.data)))
                await upstream.drain()
            elif isinstance(event, h11.EndOfMessage):
                _send(talk, upstream, out.send(h11.EndOfMessage(headers=[])))
                return
            else:
                raise ConnectionResetError
    except (h11.ProtocolError, ConnectionError):
        upstream.abort()


async def _response(talk: Conversation, upstream: Side, http: h11.Connection, sending: asyncio.Future[None]) -> bool:
    """The host's answer, on to the client; whether the connection can be used again."""
    begun = False
    try:
        while True:
            event = http.next_event()
            if event is h11.NEED_DATA:
                async with asyncio.timeout(RESPONSE_SECONDS):
                    data = await upstream.read()
                talk.exchange.received += len(data)
                http.receive_data(data)
            elif isinstance(event, h11.Response):
                begun = True
                talk.client.write(talk.http.send(_onward_response(event)))
            elif isinstance(event, h11.Data):
                talk.client.write(talk.http.send(h11.Data(data=event.data)) or b"")
                await talk.client.drain()
            elif isinstance(event, h11.EndOfMessage):
                talk.client.write(talk.http.send(h11.EndOfMessage(headers=[])) or b"")
                break
            elif not isinstance(event, h11.InformationalResponse):
                raise ConnectionResetError
    except (h11.ProtocolError, ConnectionError, TimeoutError) as error:
        if begun:
            talk.client.abort()  # what the client has must not look whole
            raise ConnectionResetError from None
        late = isinstance(error, TimeoutError)
        what = f"{talk.target} {'did not answer in time' if late else 'gave no answer that is HTTP'}"
        raise Failed("timeout" if late else "broken", what, 504 if late else 502) from None
    return _again(talk, sending)


def _onward_response(response: h11.Response) -> h11.Response:
    fields = [*_without_hops(response.headers.raw_items()), (b"Via", b"1.1 " + OURS)]
    return h11.Response(status_code=response.status_code, reason=response.reason, headers=fields)


def _again(talk: Conversation, sending: asyncio.Future[None]) -> bool:
    if not sending.done() or talk.http.our_state is not h11.DONE or talk.http.their_state is not h11.DONE:
        return False
    talk.http.start_next_cycle()
    return True
