"""One end of a conversation: bytes are read from it, or passed straight on to the other end.

Owns flow control, half-closed connections and the counting of bytes. Must not look into what it carries.
"""

from __future__ import annotations

import asyncio
from typing import Any

HELD = 64 * 1024  # bytes that wait for a reader before the peer is made to wait
PIECE = 64 * 1024  # bytes taken from a socket at once


class Side(asyncio.Protocol):
    """A connection to a client or to a host. Read until `pass_to` gives what comes in another way to go."""

    transport: asyncio.Transport

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._pieces: list[bytes] = []
        self._held = 0
        self._reading: asyncio.Future[None] | None = None
        self._draining: asyncio.Future[None] | None = None
        self._slow = False  # the peer does not take what is written as fast as it comes
        self._watched: bytearray | None = None
        self._wanted = 0
        self._to: Side | None = None
        self._from: Side | None = None
        self.gone: asyncio.Future[None] = loop.create_future()
        self.ended = False  # the peer has sent its last byte
        self.lost = False
        self.received = 0  # bytes the peer has sent
        self.passed = 0  # of these, how many went on to the other end
        self.stirred = True  # whether anything moved since this was last set to False

    # -- called by asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take over a new connection."""
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        transport.max_size = PIECE  # type: ignore[attr-defined]  # asyncio's own is 256 KiB, cleared for every read

    def data_received(self, data: bytes) -> None:
        """Bytes have come in."""
        self.received += len(data)
        self.stirred = True
        if self._watched is not None:
            self._watch(data)
        if self._to is not None:
            self.passed += len(data)
            self._to.transport.write(data)
            return
        self._pieces.append(data)
        self._held += len(data)
        if self._held >= HELD:
            self.transport.pause_reading()
        self._wake_reader()

    def eof_received(self) -> bool:
        """The peer sends no more; it may still listen."""
        self.ended = True
        self._wake_reader()
        if self._to is not None:
            self._pass_end(self._to)
        return True

    def pause_writing(self) -> None:
        """What is written piles up."""
        self._slow = True
        if self._from is not None:
            self._from.transport.pause_reading()

    def resume_writing(self) -> None:
        """It has gone out."""
        self._slow = False
        if self._from is not None:
            self._from.transport.resume_reading()
        if self._draining is not None and not self._draining.done():
            self._draining.set_result(None)

    def connection_lost(self, error: Exception | None) -> None:
        """There is no connection any more: the other end has nobody left to speak with."""
        self.ended = self.lost = True
        self._wake_reader()
        self.resume_writing()
        for other in (self._to, self._from):
            if other is not None:
                other.transport.close()
        if not self.gone.done():
            self.gone.set_result(None)

    # -- called by us

    def _wake_reader(self) -> None:
        if self._reading is not None and not self._reading.done():
            self._reading.set_result(None)

    async def read(self) -> bytes:
        """What has come in; b"" once the peer has sent its last byte."""
        if not self._pieces and not self.ended:
            self._reading = self._loop.create_future()
            await self._reading
        data = self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
        self._pieces.clear()
        self._held = 0
        if not self.lost:
            self.transport.resume_reading()
        return data

    def watch(self, count: int) -> None:
        """Keep a copy of the first `count` bytes that come in, for `beginning`."""
        self._watched, self._wanted = bytearray(), count

    def _watch(self, data: bytes) -> None:
        assert self._watched is not None
        self._watched += data[: self._wanted - len(self._watched)]
        self._wake_reader()

    async def beginning(self) -> bytes:
        """The first bytes that came in since `watch`, fewer only where the peer ended before."""
        assert self._watched is not None
        while len(self._watched) < self._wanted and not self.ended:
            self._reading = self._loop.create_future()
            await self._reading
        found, self._watched = bytes(self._watched), None
        return found

    @property
    def silent(self) -> bool:
        """Whether nothing has come in yet."""
        return not self.received

    def write(self, data: bytes) -> None:
        """Send."""
        self.stirred = True
        self.transport.write(data)

    async def drain(self) -> None:
        """Wait until what was written has mostly gone out. Raises ConnectionError when there is nobody to take it."""
        if self._slow and not self.lost:
            self._draining = self._loop.create_future()
            await self._draining
        if self.lost:
            raise ConnectionResetError

    def pass_to(self, other: Side) -> None:
        """From now on, what comes in goes to `other`; so does what has come in and was not read."""
        self._to, other._from = other, self
        if self._pieces:
            data = b"".join(self._pieces)
            self._pieces.clear()
            self.passed += len(data)
            other.transport.write(data)
        self._held = 0
        if self.ended:
            self._pass_end(other)
        if self.lost:
            other.transport.close()
        elif not other._slow:
            self.transport.resume_reading()

    def _pass_end(self, other: Side) -> None:
        """Tell the other end that no more comes; once that is so both ways, there is nothing left to do."""
        other.finish()
        if other.ended and other._to is self:
            other.transport.close()
            self.transport.close()

    def finish(self) -> None:
        """Send no more, once all has gone out."""
        if not self.transport.is_closing():
            try:
                self.transport.write_eof()
            except OSError:  # the peer went away meanwhile
                self.transport.close()

    def close(self) -> None:
        """End the connection once what was written has gone out."""
        self.transport.close()

    def abort(self) -> None:
        """End the connection at once."""
        self.transport.abort()


def no_noise(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """asyncio's handler of what nobody caught: a client must not be able to fill the log with it."""
