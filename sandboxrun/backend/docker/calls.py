"""How one engine call is made: path and query quoted, body encoded, the answer checked and its failures named.

Owns the step from a Transport's failures to EngineErrors. Must not know single calls: those stand by kind in
containers.py, images.py, networks.py and streams.py.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol, TypeVar

from sandboxrun.backend.docker.transport import Broken, Connection, Response, TimedOut, TransportError, Unreachable
from sandboxrun.backend.errors import EngineError, EngineTimeout, EngineUnreachable, failure
from sandboxrun.data import Data

T = TypeVar("T")
Json = Mapping[str, Any]
Query = Mapping[str, str | int | bool | None]

TIMEOUT = 120.0  # seconds; the engine's slowest short call (removing a large container) stays well below
MAX_MESSAGE = 2000

_PLAIN = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._~")


def quote(text: str, also: bytes = b"") -> str:
    """Percent-encode `text` for a path or a query, except letters, digits, `-._~` and `also`."""
    if text.isascii() and text.isalnum():  # an id, mostly
        return text
    return "".join(chr(b) if b in _PLAIN or b in also else f"%{b:02X}" for b in text.encode("utf-8", "surrogateescape"))


def target(path: str, query: Query | None) -> str:
    """A request's target; None in the query is left out, booleans are 1 and 0."""
    if not query:
        return path
    pairs = ((k, int(v) if isinstance(v, bool) else v) for k, v in query.items() if v is not None)
    text = "&".join(f"{quote(k)}={quote(str(v))}" for k, v in pairs)
    return f"{path}?{text}" if text else path


def label_filter(labels: Mapping[str, str | None], more: Mapping[str, Sequence[str]] | None = None) -> str | None:
    """The `filters` value for objects that carry all `labels` (a None value: any); None when nothing is asked."""
    filters: dict[str, list[str]] = {key: list(values) for key, values in (more or {}).items() if values}
    if labels:
        filters["label"] = [key if value is None else f"{key}={value}" for key, value in labels.items()]
    return json.dumps(filters) if filters else None


def translated(operation: str, error: TransportError, *, sent: bool) -> EngineError:
    """A carrying failure as what the user is told."""
    match error:
        case Unreachable():
            return EngineUnreachable(operation, str(error), help=error.help)
        case TimedOut():
            return EngineTimeout(operation, str(error), help="the engine may be overloaded: try again")
        case Broken():
            help = "see whether the engine still runs (its log tells why it stopped), then run the command again"
            return EngineUnreachable(operation, str(error), help=help, maybe_done=sent)
    return EngineUnreachable(operation, str(error), maybe_done=sent)


class Answer(Data, unshown=("response",)):
    """An answer with a good status, and the operation it belongs to. Reading it raises EngineErrors only."""

    operation: str
    response: Response

    @property
    def status(self) -> int:
        """The HTTP status."""
        return self.response.status

    @property
    def headers(self) -> Mapping[str, str]:
        """The head's fields, names in lower case."""
        return self.response.headers

    def _guarded(self, read: Callable[[], T]) -> T:
        try:
            return read()
        except TransportError as error:
            raise translated(self.operation, error, sent=True) from error

    def read(self, limit: int | None = None) -> bytes:
        """The whole body. With a `limit` one of more bytes is an error: an agent may have shaped what is in it."""
        if limit is None:
            return self._guarded(self.response.read)
        data = bytearray()
        for piece in self.pieces():
            data += piece
            if len(data) > limit:
                self.close()
                raise EngineError(self.operation, f"the engine's answer is larger than {limit} bytes")
        return bytes(data)

    def json(self, limit: int | None = None) -> Any:
        """The whole body as JSON."""
        data = self.read(limit)
        try:
            return json.loads(data)
        except ValueError as error:
            raise EngineError(self.operation, "the engine's answer is not JSON", status=self.status) from error

    def mapping(self) -> Json:
        """The whole body as a JSON object."""
        value = self.json()
        if not isinstance(value, dict):
            raise EngineError(self.operation, "the engine's answer is not a JSON object", status=self.status)
        return value

    def sequence(self, limit: int | None = None) -> tuple[Any, ...]:
        """The whole body as a JSON array; null, which the engine sends for an empty one, is empty."""
        value = self.json(limit)
        if not isinstance(value, list | None):
            raise EngineError(self.operation, "the engine's answer is not a JSON array", status=self.status)
        return tuple(value or ())

    def pieces(self) -> Iterator[bytes]:
        """The body as it arrives."""
        while piece := self._guarded(self.response.some):
            yield piece

    def connection(self) -> Connection:
        """The connection itself, after an upgrade."""
        return self.response.connection()

    def close(self) -> None:
        """Drop the rest."""
        self.response.close()


class Caller(Protocol):
    """What a call needs: an Engine."""

    def request(
        self,
        method: str,
        path: str,
        *,
        operation: str,
        query: Query | None = None,
        payload: Any = None,
        body: Iterable[bytes] | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float | None = TIMEOUT,
        upgrade: bool = False,
        stream: bool = False,
    ) -> Answer:
        """See Engine.request."""
        ...

    def get_all(self, paths: Sequence[str], *, operation: str) -> tuple[Json | None, ...]:
        """See Engine.get_all."""
        ...


def is_failure(status: int) -> bool:
    """Redirects too: no engine sends them, and what is between must not choose where requests go."""
    return status >= 300 and status != 304


def error_of(operation: str, response: Response) -> EngineError:
    """The failure that an answer with an error status tells."""
    try:
        data = response.read()
    except TransportError as error:
        data = str(error).encode()
    return failure(operation, response.status, message_of(data))


def object_of(operation: str, status: int, data: bytes) -> Json | None:
    """A whole answer as a JSON object; None for 404. Raises the EngineError of any other error status."""
    if status == 404:
        return None
    if is_failure(status):
        raise failure(operation, status, message_of(data))
    try:
        value = json.loads(data)
    except ValueError as error:
        raise EngineError(operation, "the engine's answer is not JSON", status=status) from error
    if not isinstance(value, dict):
        raise EngineError(operation, "the engine's answer is not a JSON object", status=status)
    return value


def message_of(data: bytes) -> str:
    """The engine's own text: Docker's {"message"}, Podman's {"cause", "message"}, or plain text from a proxy."""
    try:
        value = json.loads(data)
    except ValueError:
        value = None
    if isinstance(value, dict) and isinstance(value.get("message"), str):
        return value["message"][:MAX_MESSAGE]
    return data[:MAX_MESSAGE].decode("utf-8", "replace")


def uptime() -> float:
    """Seconds that go on while the machine sleeps, where the system has such a clock."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))
