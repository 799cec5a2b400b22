"""One end of a conversation: bytes are read from it, or passed straight on to the other end.

Owns flow control, half-closed connections and the counting of bytes. Must not look into what it carries.
"""

from __future__ import annotations

import errno
import os
import socket

from sandboxrun.gateway.program.addresses import Address
from sandboxrun.gateway.program.loop import BOTH, READABLE, WRITABLE, Loop, Moment

# With as many connections as there may be, both ways, this and what is read stay below the container's memory.
HELD = 32 * 1024  # bytes that wait for a reader, or for the peer to take them, before the other end is made to wait
PIECE = 64 * 1024  # bytes taken from a socket at once
TURN = 8  # pieces taken before others have their turn
_CLOSED = 0x2000 | 0x10 | 0x8  # EPOLLRDHUP, EPOLLHUP, EPOLLERR


class Side:
    """A connection to a client or to a host. Read until `pass_to` gives what comes in another way to go."""

    __slots__ = (
        "_both", "_closing", "_connecting", "_drained", "_finishing", "_from", "_held", "_loop", "_more", "_out",
        "_pieces", "_read", "_slow", "_sock", "_to", "_wanted", "_watched", "ended", "gone", "lost", "passed",
        "received", "stirred",
    )  # fmt: skip

    def __init__(self, loop: Loop, sock: socket.socket, *, connecting: bool = False) -> None:
        """Take over a socket that does not block."""
        self._loop = loop
        self._sock = sock
        self._connecting = connecting
        self._pieces: list[bytes] = []
        self._held = 0
        self._out = bytearray()  # what the peer has not taken yet
        self._slow = False  # it takes less than it is given
        self._more = False  # the system may have bytes for us, of which it will not tell again
        self._finishing = self._closing = False
        self._to: Side | None = None
        self._from: Side | None = None
        self._watched: bytearray | None = None
        self._wanted = 0
        self._read, self._drained, self.gone = Moment(loop), Moment(loop), Moment(loop)
        self.ended = False  # the peer has sent its last byte
        self.lost = False
        self.received = 0  # bytes the peer has sent
        self.passed = 0  # of these, how many went on to the other end
        self.stirred = True  # whether anything moved since this was last set to False
        self._both = connecting
        if connecting:
            loop.watch(sock.fileno(), self._event, BOTH)
        else:
            self._take()  # a client's first bytes are mostly there by now
            if not self.lost:
                loop.watch(sock.fileno(), self._event)

    # -- what the system tells

    def _event(self, events: int) -> None:
        if self._connecting:
            self._more = bool(events & READABLE)  # what is there already is not told again
            self._drained.come()
            return
        if events & WRITABLE and self._out:
            self._flush()
        if events & READABLE and not self.lost:
            self._more = True
            self._take(bool(events & _CLOSED))

    @property
    def _full(self) -> bool:
        """Whether nothing should be read for now."""
        return self._closing or (self._to._slow if self._to is not None else self._held >= HELD)

    def _take(self, to_the_end: bool = False) -> None:
        """Read what there is, within one turn."""
        for _ in range(TURN):
            if self.ended or self._full:
                return
            try:
                data = self._sock.recv(PIECE)
            except BlockingIOError:
                self._more = False
                return
            except OSError:
                self._drop()
                return
            if not data:
                self._more = False
                self._end()
                return
            self._taken(data)
            if len(data) < PIECE and not to_the_end:  # what comes after is told anew
                self._more = False
                return
        self._loop.soon(self._take_on)

    def _take_on(self) -> None:
        if not self.lost and self._more:
            self._take(True)

    def _taken(self, data: bytes) -> None:
        self.received += len(data)
        self.stirred = True
        if self._watched is not None:
            self._watched += data[: self._wanted - len(self._watched)]
            self._read.come()
        if self._to is not None:
            self.passed += len(data)
            self._to.write(data)
        else:
            self._pieces.append(data)
            self._held += len(data)
            self._read.come()

    def _end(self) -> None:
        """The peer sends no more; it may still listen."""
        self.ended = True
        self._read.come()
        if self._to is not None:
            self._pass_end(self._to)

    def _pass_end(self, other: Side) -> None:
        """Tell the other end that no more comes; once that is so both ways, there is nothing left to do."""
        if other.ended and other._to is self:
            other.close()
            self.close()
        else:
            other.finish()

    def _flush(self) -> None:
        try:
            while self._out:
                del self._out[: self._sock.send(self._out)]
        except BlockingIOError:
            pass
        except OSError:
            self._drop()
            return
        self.stirred = True
        if self._slow and len(self._out) < HELD // 2:
            self._slow = False
            self._drained.come()
            if self._from is not None:
                self._loop.soon(self._from._take_on)
        if not self._out and (self._closing or self._finishing):
            self._conclude()

    def _conclude(self) -> None:
        """All has gone out."""
        if self._closing:
            self._drop()
            return
        try:
            self._sock.shutdown(socket.SHUT_WR)
        except OSError:
            self._drop()

    def _drop(self) -> None:
        """There is no connection any more: the other end has nobody left to speak with."""
        if self.lost:
            return
        self.ended = self.lost = True
        self._slow = False
        self._out.clear()
        self._loop.drop(self._sock.fileno())
        self._sock.close()
        for moment in (self._read, self._drained, self.gone):
            moment.come()
        for other in (self._to, self._from):
            if other is not None:
                other.close()

    # -- what others want

    async def connected(self, until: float) -> None:
        """Wait for a connection that was begun. Raises OSError, TimeoutError."""
        await self._drained.wait(until)
        self._connecting = False
        if error := self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            raise OSError(error, os.strerror(error))
        self._take_on()

    async def read(self, until: float | None = None) -> bytes:
        """What has come in; b"" once the peer has sent its last byte. Raises TimeoutError."""
        while not self._pieces and not self.ended:
            await self._read.wait(until)
        data = self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
        self._pieces.clear()
        self._held = 0
        if self._more and not self.lost:
            self._loop.soon(self._take_on)
        return data

    def write(self, data: bytes) -> None:
        """Send; what the peer does not take at once is kept."""
        if self.lost or self._closing or self._finishing:
            return
        self.stirred = True
        if not self._out:
            try:
                sent = self._sock.send(data)
            except BlockingIOError:
                sent = 0
            except OSError:
                self._drop()
                return
            if sent == len(data):
                return
            data = data[sent:]
        self._out += data
        if not self._both:
            self._both = True
            self._loop.watch_both(self._sock.fileno())
        self._slow = self._slow or len(self._out) >= HELD

    async def drain(self, until: float | None = None) -> None:
        """Wait until what was written has mostly gone out. Raises ConnectionError where nobody takes it any more."""
        while self._slow and not self.lost:
            await self._drained.wait(until)
        if self.lost:
            raise ConnectionResetError

    def watch(self, count: int) -> None:
        """Keep a copy of the first `count` bytes that come in, for `beginning`."""
        self._watched, self._wanted = bytearray(), count

    async def beginning(self, until: float) -> bytes:
        """The first bytes that came in since `watch`, fewer only where the peer ended before. Raises TimeoutError."""
        assert self._watched is not None
        while len(self._watched) < self._wanted and not self.ended:
            await self._read.wait(until)
        found, self._watched = bytes(self._watched), None
        return found

    @property
    def silent(self) -> bool:
        """Whether nothing has come in yet."""
        return not self.received

    def pass_to(self, other: Side) -> None:
        """From now on, what comes in goes to `other`; so does what has come in and was not read."""
        self._to, other._from = other, self
        data = b"".join(self._pieces)
        self._pieces.clear()
        self._held = 0
        if data:
            self.passed += len(data)
            other.write(data)
        if self.ended:
            self._pass_end(other)
        if self.lost:
            other.close()
        elif other.lost:
            self.close()
        elif self._more:
            self._loop.soon(self._take_on)

    def finish(self) -> None:
        """Send no more, once all has gone out."""
        if not (self.lost or self._closing or self._finishing):
            self._finishing = True
            if not self._out:
                self._conclude()

    def close(self) -> None:
        """End the connection once what was written has gone out."""
        if not self.lost and not self._closing:
            self._closing = True
            if not self._out:
                self._drop()

    def abort(self) -> None:
        """End the connection at once."""
        self._drop()

    async def leave(self, until: float) -> None:
        """Close, and wait until that is done; at the time `until` at the latest."""
        self.close()
        try:
            while not self.lost:
                await self.gone.wait(until)
        except TimeoutError:
            self._drop()


async def connect(loop: Loop, address: Address, port: int, until: float) -> Side:
    """A connection to an address. Raises OSError, TimeoutError."""
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        error = sock.connect_ex((str(address), port))
        if error not in (0, errno.EINPROGRESS):
            raise OSError(error, os.strerror(error))
    except BaseException:
        sock.close()
        raise
    side = Side(loop, sock, connecting=True)
    try:
        await side.connected(until)
    except BaseException:
        side.abort()
        raise
    return side
