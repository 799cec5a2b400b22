"""Plain HTTP requests: read with h11, written anew with h11, so that both sides see the same message.

Owns which fields go on, and the use of a host's connection for several requests of one client. Must not decide where a
request may go.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import h11

from sandboxrun.gateway.program.addresses import Address
from sandboxrun.gateway.program.loop import Stopped, Task
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


class Spare:
    """A connection to a host on which another request can be sent."""

    __slots__ = ("address", "http", "key", "side")

    def __init__(self, key: str, address: Address | None, side: Side, http: h11.Connection) -> None:
        self.key = key
        self.address = address
        self.side = side
        self.http = http


async def carry_out(talk: Conversation, request: h11.Request, path: bytes) -> bool:
    """Carry out a request that the rules let through; whether the client may send another. Raises Refused, Failed."""
    fields = onward_fields(request)
    simple = _is_simple(request)
    used = await _connected(talk)
    upstream, http = used.side, used.http
    talk.upstream = upstream
    head = h11.Request(
        method=request.method,
        target=path,
        headers=[(b"Host", str(talk.target).removesuffix(":80").encode()), *fields, (b"Via", b"1.1 " + OURS)],
    )
    body: Task | None = None
    try:
        if simple:
            talk.http.next_event()  # its end
            _send(talk, upstream, (http.send(head) or b"") + (http.send(h11.EndOfMessage(headers=[])) or b""))
        else:
            _send(talk, upstream, http.send(head))
            body = talk.loop.spawn(_request_body(talk, upstream, http))
        again = await _response(talk, used, simple)
        return _finished(talk, used, again and (body is None or body.done))
    finally:
        if body is not None:
            body.wake(Stopped())
        talk.upstream = None
        if talk.spare is None:
            upstream.close()


async def _connected(talk: Conversation) -> Spare:
    """The connection of the request before, where it leads to the same place and is fit; else a new one."""
    spare, talk.spare = talk.spare, None
    if spare is not None:
        if spare.key == str(talk.target) and not spare.side.ended and talk.gateway.permits(talk, spare.address):
            talk.exchange.verdict, talk.exchange.address = "allowed", str(spare.address)
            return spare
        spare.side.close()
    side = await talk.gateway.connect(talk)
    http = new_http()
    return Spare(str(talk.target), talk.address, side, http)


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
    lists = [value.lower().split(b",") for name, value in fields if name.lower() == b"connection"]
    named = {word.strip() for words in lists for word in words}
    dropped = _HOP | named - {b"content-length", b"transfer-encoding"}
    return [(name, value) for name, value in fields if name.lower() not in dropped]


def _send(talk: Conversation, upstream: Side, data: bytes | None) -> None:
    if data:
        talk.exchange.sent += len(data)
        upstream.write(data)


def _is_simple(request: h11.Request) -> bool:
    """Whether it has no body: then h11 need not follow what is answered."""
    return request.method != b"HEAD" and not any(
        name in (b"content-length", b"transfer-encoding", b"expect") for name, _ in request.headers
    )


async def _request_body(talk: Conversation, upstream: Side, out: h11.Connection) -> None:
    """The request's body, on to the host. Where it is malformed, the host's connection ends."""
    http, client = talk.http, talk.client
    try:
        if http.they_are_waiting_for_100_continue:
            client.write(http.send(h11.InformationalResponse(status_code=100, headers=[])))
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
    except (h11.ProtocolError, OSError):
        upstream.abort()
    except Stopped:
        return


async def _response(talk: Conversation, used: Spare, simple: bool) -> bool:
    """The host's answer, on to the client; whether the client may send another request. Raises Failed, OSError."""
    begun, out = False, b""
    try:
        while True:
            event = used.http.next_event()
            if event is h11.NEED_DATA:
                if out:
                    talk.client.write(out)
                    await talk.client.drain(talk.loop.time() + RESPONSE_SECONDS)
                    out = b""
                data = await used.side.read(talk.loop.time() + RESPONSE_SECONDS)
                talk.exchange.received += len(data)
                used.http.receive_data(data)
            elif isinstance(event, h11.Response):
                begun = True
                if simple and (length := _length(event)) is not None:
                    return await _passed(talk, used, event, length)
                out += talk.http.send(_onward_response(event))
            elif isinstance(event, h11.Data):
                out += talk.http.send(h11.Data(data=event.data)) or b""
            elif isinstance(event, h11.EndOfMessage):
                talk.client.write(out + (talk.http.send(h11.EndOfMessage(headers=[])) or b""))
                break
            elif not isinstance(event, h11.InformationalResponse):
                raise ConnectionResetError
    except (h11.ProtocolError, OSError) as error:
        if begun:
            talk.client.abort()  # what the client has must not look whole
            raise ConnectionResetError from None
        late = isinstance(error, TimeoutError)
        what = f"{talk.target} {'did not answer in time' if late else 'gave no answer that is HTTP'}"
        raise Failed("timeout" if late else "broken", what, 504 if late else 502) from None
    return talk.http.our_state is h11.DONE and talk.http.their_state is h11.DONE


def _length(response: h11.Response) -> int | None:
    """How long the body is, where the head says so in bytes."""
    fields = dict(response.headers)
    if b"content-length" not in fields or b"transfer-encoding" in fields or response.status_code in (204, 304):
        return None
    return int(fields[b"content-length"])


async def _passed(talk: Conversation, used: Spare, response: h11.Response, length: int) -> bool:
    """An answer of so many bytes, as they come; whether the client may send another request. Raises OSError."""
    reusable = response.http_version == b"1.1" and not any(name == b"connection" for name, _ in response.headers)
    onward, ends = _onward_response(response), talk.http.their_state is h11.MUST_CLOSE
    lines = [b"HTTP/1.1 %d %s" % (onward.status_code, onward.reason)]
    lines += [b"%s: %s" % field for field in onward.headers.raw_items()]
    if ends:
        lines.append(b"Connection: close")
    data, _ = used.http.trailing_data
    out = b"\r\n".join([*lines, b"", data[:length]])
    left, fits = length - len(data), len(data) <= length
    while left > 0:
        talk.client.write(out)
        await talk.client.drain(talk.loop.time() + RESPONSE_SECONDS)
        out = await used.side.read(talk.loop.time() + RESPONSE_SECONDS)
        if not out:
            raise ConnectionResetError
        talk.exchange.received += len(out)
        out, left, fits = out[:left], left - len(out), len(out) <= left
    talk.client.write(out)
    if ends:
        return False
    talk.http = talk.new_http(talk.http.trailing_data[0])
    if reusable and fits and not used.side.ended:
        used.http = new_http()
        talk.spare = used
    return True


def new_http() -> h11.Connection:
    """Our end of a connection to a host."""
    return h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_RESPONSE_HEAD)


def _onward_response(response: h11.Response) -> h11.Response:
    fields = [*_without_hops(response.headers.raw_items()), (b"Via", b"1.1 " + OURS)]
    return h11.Response(status_code=response.status_code, reason=response.reason, headers=fields)


def _finished(talk: Conversation, used: Spare, again: bool) -> bool:
    """After a whole answer: make both connections ready for another request, where they can be. Gives `again`."""
    if talk.spare is not None or talk.http.our_state is not h11.DONE:
        return again  # it went past h11, and all is ready
    if again:
        talk.http.start_next_cycle()
    http = used.http
    clean = http.our_state is h11.DONE and http.their_state is h11.DONE and not http.trailing_data[0]
    if again and clean and not used.side.ended:
        http.start_next_cycle()
        talk.spare = used
    return again
