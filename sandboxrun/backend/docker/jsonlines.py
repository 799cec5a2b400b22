"""JSON objects one after the other in a stream: progress, events, usage.

Owns the splitting. Must not know what the objects mean.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

from sandboxrun.backend.errors import EngineError

MAX_LINE = 16 * 1024 * 1024


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
