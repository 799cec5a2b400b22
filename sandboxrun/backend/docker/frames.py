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
    """(1 stdout or 2 stderr, bytes) as they arrive: what one piece has of a stream comes as one, for a program that
    writes by lines has a frame a line.

    A stream that ends within a frame gives what had arrived of it. Raises EngineError for bytes that are no
    frames, and for the engine's own message that the log could not be read.
    """
    rest = b""  # the beginning of a header
    stream, left = STDOUT, 0
    system = b""
    for piece in pieces:
        data, at = rest + piece, 0
        output: list[tuple[int, list[bytes]]] = []
        fault = None
        while fault is None and at < len(data) and (left or len(data) - at >= _HEADER):
            if left == 0:
                # 0 is stdin, which the engine uses for nothing a container writes; docker's own client takes it as
                # stdout.
                stream, left = data[at] or STDOUT, int.from_bytes(data[at + 4 : at + _HEADER], "big")
                if stream > _SYSTEM or data[at + 1 : at + 4] != b"\0\0\0":
                    fault = "the engine sent output that is not in frames"
                at += _HEADER
                continue
            part = data[at : at + left]
            at += len(part)
            left -= len(part)
            if stream == _SYSTEM:
                system += part[: _MAX_SYSTEM - len(system)]
                fault = None if left else system.decode("utf-8", "replace").strip().rstrip(".")
            elif output and output[-1][0] == stream:
                output[-1][1].append(part)
            else:
                output.append((stream, [part]))
        yield from ((of, b"".join(parts)) for of, parts in output)
        if fault is not None:
            raise EngineError(operation, fault)
        rest = data[at:]
