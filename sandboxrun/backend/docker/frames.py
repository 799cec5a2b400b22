"""Takes apart what comes over one connection: frames, in which a container's stdout and stderr share it, and JSON
objects one after the other. Must not know where the bytes come from, or what they mean.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

from sandboxrun.backend.errors import EngineError

STDOUT = 1
STDERR = 2
_SYSTEM = 3  # the engine's own message in a log stream: it could not read the log
_HEADER = 8  # stream, three zeros, the payload's length as a big-endian 32-bit number
_MAX_SYSTEM = 4096
MAX_LINE = 16 * 1024 * 1024


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


def json_lines(pieces: Iterable[bytes], operation: str) -> Iterator[dict[str, Any]]:
    """The objects, each on its line. A last line that was cut off is left out. Raises EngineError."""
    buffer = bytearray()
    for piece in pieces:
        start = len(buffer)
        buffer += piece
        if buffer.find(b"\n", start) < 0:
            if len(buffer) > MAX_LINE:
                raise EngineError(operation, f"the engine sent a line longer than {MAX_LINE} bytes")
            continue
        *lines, rest = bytes(buffer).split(b"\n")
        buffer = bytearray(rest)
        for line in lines:
            if line.strip():
                yield _object(line, operation)
    if buffer.strip():
        try:
            yield _object(bytes(buffer), operation)
        except EngineError:
            return


def _object(line: bytes, operation: str) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except ValueError as error:
        raise EngineError(operation, "the engine sent a line that is not JSON") from error
    if not isinstance(value, dict):
        raise EngineError(operation, "the engine sent a line that is not a JSON object")
    return value
