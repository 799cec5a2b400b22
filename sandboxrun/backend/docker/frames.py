"""The engine's frames, in which a container's stdout and stderr share one connection.

Owns taking them apart. Must not know where the bytes come from.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from sandboxrun.backend.errors import EngineError

STDOUT = 1
STDERR = 2
_SYSTEM = 3  # the engine's own message in a log stream: it could not read the log
_HEADER = 8  # stream, three zeros, the payload's length as a big-endian 32-bit number
_MAX_SYSTEM = 4096


def demultiplex(pieces: Iterable[bytes], operation: str) -> Iterator[tuple[int, bytes]]:
    """(1 stdout or 2 stderr, bytes) as they arrive: a frame may come in several parts.

    A stream that ends within a frame gives what had arrived of it. Raises EngineError for bytes that are no
    frames, and for the engine's own message that the log could not be read.
    """
    buffer = bytearray()
    stream, left = STDOUT, 0
    system = bytearray()
    for piece in pieces:
        buffer += piece
        at = 0
        while at < len(buffer):
            if left == 0:
                if len(buffer) - at < _HEADER:
                    break
                stream, left = _header(buffer[at : at + _HEADER], operation)
                at += _HEADER
                continue
            part = bytes(buffer[at : at + left])
            at += len(part)
            left -= len(part)
            if stream == _SYSTEM:
                system += part[: _MAX_SYSTEM - len(system)]
                if left == 0:
                    raise EngineError(operation, system.decode("utf-8", "replace").strip().rstrip("."))
            else:
                yield stream, part
        del buffer[:at]


def _header(header: bytearray, operation: str) -> tuple[int, int]:
    if header[0] > _SYSTEM or header[1:4] != b"\0\0\0":
        raise EngineError(operation, "the engine sent output that is not in frames")
    # 0 is stdin, which the engine uses for nothing a container writes; docker's own client shows it as stdout.
    return header[0] or STDOUT, int.from_bytes(header[4:], "big")
