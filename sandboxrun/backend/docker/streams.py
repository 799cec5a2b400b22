"""The engine's calls that go on: logs, attached output, terminals, commands, events, usage, archives.

Each function is a method of Engine. Every stream has close(), which any thread may call: its reader then gets to the
end. Must not interpret what flows.
"""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, BinaryIO, Generic, Self, TypeVar

from sandboxrun.backend.docker.calls import Answer, Caller, Json, translated
from sandboxrun.backend.docker.containers import exec_create, exec_inspect, inspect_container, named, path_of
from sandboxrun.backend.docker.frames import STDOUT, demultiplex
from sandboxrun.backend.docker.jsonlines import json_lines
from sandboxrun.backend.docker.transport import Connection, TransportError
from sandboxrun.backend.errors import EngineError, EngineTimeout, EngineUnreachable
from sandboxrun.data import Data

T = TypeVar("T")
Output = tuple[int, bytes]
PIECE = 64 * 1024


class Stream(Generic[T]):
    """Items that arrive from the engine. Iterate it in one thread; `close` from any. Also a context manager."""

    def __init__(self, items: Iterator[T], close: Callable[[], None]) -> None:
        self._items = items
        self._close = close
        self._closed = False

    def __iter__(self) -> Iterator[T]:
        return self

    def __next__(self) -> T:
        try:
            return next(self._items)
        except EngineError:
            if self._closed:  # ending a connection can look like a fault to whoever reads it
                raise StopIteration from None
            raise

    def close(self) -> None:
        """End it; whoever waits for the next item gets StopIteration."""
        self._closed = True
        self._close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


class LogStream(Stream[Output]):
    """(1 stdout or 2 stderr, bytes) as a container writes them; a container with a terminal: all 1."""


class EventStream(Stream[Json]):
    """The engine's events, as its API tells them."""


class StatsStream(Stream[Json]):
    """Samples of a container's usage, about one a second."""


class Terminal:
    """The connection to a container's or a command's terminal: bytes both ways. Raises EngineErrors only."""

    def __init__(self, operation: str, connection: Connection, resize: Callable[[int, int], None]) -> None:
        self._operation = operation
        self._connection = connection
        self._resize = resize

    def _guarded(self, call: Callable[[], T]) -> T:
        try:
            return call()
        except TransportError as error:
            raise translated(self._operation, error, sent=True) from error

    def recv(self, size: int = PIECE) -> bytes:
        """What has arrived, at most `size` bytes; b"" at the end."""
        return self._guarded(lambda: self._connection.recv(size))

    def send(self, data: bytes) -> int:
        """Send all of `data`; its length."""
        return self._guarded(lambda: self._connection.send(data))

    def end_input(self) -> None:
        """End the other side's standard input; its output goes on. Not possible over TLS: Unsupported."""
        self._guarded(self._connection.end_input)

    def pending(self) -> bool:
        """True when `recv` would not wait although a select on `fileno` tells nothing: look before each select."""
        return self._connection.pending()

    def fileno(self) -> int:
        """For select."""
        return self._connection.fileno()

    def resize(self, rows: int, columns: int) -> None:
        """Tell the other side how large the terminal is."""
        self._resize(rows, columns)

    def close(self) -> None:
        """End it."""
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def _output(answer: Answer, pieces: Iterable[bytes], *, tty: bool) -> LogStream:
    items = ((STDOUT, p) for p in pieces) if tty else demultiplex(pieces, answer.operation)
    return LogStream(items, answer.close)


def _has_tty(engine: Caller, id: str) -> bool:
    return bool(inspect_container(engine, id).get("Config", {}).get("Tty"))


def logs(
    engine: Caller,
    id: str,
    *,
    follow: bool = False,
    tail: int | None = None,
    since: str | None = None,
    timestamps: bool = False,
    tty: bool | None = None,
) -> LogStream:
    """What a container has written, from the engine's log; with `follow`, also what it goes on to write.

    `since` is a UNIX time ("1700000000.5") or RFC 3339. `tty`: whether it has a terminal; None asks the engine.
    """
    tty = _has_tty(engine, id) if tty is None else tty
    query: dict[str, str | int | bool | None] = {"stdout": True, "stderr": True, "follow": follow, "since": since}
    query |= {"tail": tail, "timestamps": timestamps}
    operation = f"reading the logs of container {named(id)}"
    answer = engine.request("GET", path_of(id, "/logs"), operation=operation, query=query, stream=True)
    return _output(answer, answer.pieces(), tty=tty)


def attach(engine: Caller, id: str, *, tty: bool | None = None) -> LogStream:
    """What a container writes from now on. Open it before the start, and nothing is lost."""
    tty = _has_tty(engine, id) if tty is None else tty
    query = {"stream": True, "stdout": True, "stderr": True}
    operation = f"attaching to container {named(id)}"
    answer = engine.request("POST", path_of(id, "/attach"), operation=operation, query=query, upgrade=True)
    return _output(answer, answer.pieces(), tty=tty)


def attach_terminal(engine: Caller, id: str) -> Terminal:
    """The terminal of a container that was created with Tty and OpenStdin."""
    query = {"stream": True, "stdin": True, "stdout": True, "stderr": True}
    operation = f"attaching to container {named(id)}"
    answer = engine.request("POST", path_of(id, "/attach"), operation=operation, query=query, upgrade=True)

    def resize(rows: int, columns: int) -> None:
        size = {"h": rows, "w": columns}
        engine.request("POST", path_of(id, "/resize"), operation=f"resizing container {named(id)}", query=size).read()

    return Terminal(operation, answer.connection(), resize)


class Exec(LogStream):
    """A command in a container: its output to iterate, its exit code, and its input where it has one."""

    def __init__(self, engine: Caller, id: str, answer: Answer, terminal: Terminal | None, *, tty: bool) -> None:
        self.id = id
        self.terminal = terminal
        self._engine = engine
        pieces = answer.pieces()
        items = ((STDOUT, p) for p in pieces) if tty else demultiplex(pieces, answer.operation)
        super().__init__(items, answer.close)

    def exit_code(self, *, timeout: float | None = None) -> int:
        """Wait until the command has ended (reading on, what is left of its output is dropped); its exit code.

        Raises EngineTimeout when it still runs `timeout` seconds after its output's end (None: waits for ever).
        """
        for _ in self:
            pass
        until = None if timeout is None else time.monotonic() + timeout
        pause = 0.002
        while (state := exec_inspect(self._engine, self.id)).get("Running") or state.get("ExitCode") is None:
            if until is not None and time.monotonic() >= until:
                cause = f"it still runs {timeout:g} seconds after its output ended"
                raise EngineTimeout("waiting for a command", cause)
            time.sleep(pause)
            pause = min(pause * 2, 0.25)
        return int(state["ExitCode"])


def exec(
    engine: Caller,
    id: str,
    argv: Sequence[str],
    *,
    user: str | None = None,
    workdir: str | None = None,
    env: Sequence[str] = (),
    tty: bool = False,
    stdin: bool = False,
) -> Exec:
    """Run a command in a running container. `env` as "NAME=value".

    With `tty` or `stdin` its `terminal` sends input and, with `tty`, takes a size; its output can be read there
    (framed, unless `tty`) or by iterating, not both.
    """
    payload: dict[str, Any] = {"Cmd": list(argv), "AttachStdout": True, "AttachStderr": True}
    payload |= {"AttachStdin": stdin or tty, "Tty": tty, "Env": list(env)}
    payload |= {"User": user or "", "WorkingDir": workdir or ""}
    exec_id = exec_create(engine, id, payload)
    operation = f"running {argv[0] if argv else 'nothing'} in container {named(id)}"
    start = {"Detach": False, "Tty": tty}
    answer = engine.request("POST", f"/exec/{exec_id}/start", operation=operation, payload=start, upgrade=True)

    def resize(rows: int, columns: int) -> None:
        size = {"h": rows, "w": columns}
        engine.request("POST", f"/exec/{exec_id}/resize", operation="resizing a command", query=size).read()

    terminal = Terminal(operation, answer.connection(), resize) if tty or stdin else None
    return Exec(engine, exec_id, answer, terminal, tty=tty)


def stats_stream(engine: Caller, id: str) -> StatsStream:
    """Samples of a container's usage, about one a second, until it is gone."""
    operation = f"reading the usage of container {named(id)}"
    answer = engine.request("GET", path_of(id, "/stats"), operation=operation, query={"stream": True}, stream=True)
    return StatsStream(json_lines(answer.pieces(), operation), answer.close)


def events(
    engine: Caller,
    *,
    filters: Mapping[str, Sequence[str]] | None = None,
    since: str | None = None,
    until: str | None = None,
) -> EventStream:
    """What happens on the engine from now on, or from `since` (a UNIX time, as `logs` has it); up to `until`.

    `filters` as the API has them: {"type": ["container"], "label": ["a=b"], "event": ["die"]}. The engine answers a
    moment before it listens: to miss nothing, give `since` a time from before the call.
    """
    chosen = json.dumps({k: list(v) for k, v in filters.items()}) if filters else None
    query = {"filters": chosen, "since": since, "until": until}
    operation = "following the engine's events"
    answer = engine.request("GET", "/events", operation=operation, query=query, stream=True)
    return EventStream(json_lines(answer.pieces(), operation), answer.close)


def put_archive(engine: Caller, id: str, path: str, tar: BinaryIO) -> None:
    """Unpack an uncompressed tar into a container's folder `path`, which must exist. Read and sent in pieces."""
    pieces = iter(lambda: tar.read(PIECE), b"")
    headers = {"Content-Type": "application/x-tar"}
    operation = f"copying into container {named(id)} at {path}"
    place, query = path_of(id, "/archive"), {"path": path}
    try:
        engine.request(
            "PUT", place, operation=operation, query=query, body=pieces, headers=headers, timeout=None
        ).read()  # fmt: skip
    except EngineUnreachable:
        # Docker 28 refuses a folder that is not there without reading on: over tcp that can end the connection
        # before its answer is seen.
        engine.request("HEAD", place, operation=operation, query=query).read()
        raise


class Archive(Data):
    """A file or folder of a container as a tar: `stat` is the API's ("name", "size", "mode", "mtime", "linkTarget").

    What the container wrote is hostile: the tar may hold anything.
    """

    stat: Json
    stream: Stream[bytes]

    def close(self) -> None:
        """Drop the rest."""
        self.stream.close()

    def __enter__(self) -> Archive:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def get_archive(engine: Caller, id: str, path: str) -> Archive:
    """A file or folder of a container, as a tar in pieces. Raises NotFound (the path, or the container)."""
    operation = f"copying {path} out of container {named(id)}"
    answer = engine.request("GET", path_of(id, "/archive"), operation=operation, query={"path": path}, stream=True)
    return Archive(stat=_stat(answer), stream=Stream(answer.pieces(), answer.close))


def stat_archive(engine: Caller, id: str, path: str) -> Json:
    """What a path of a container is, in the API's form: `mode` is Go's, see `file_mode`. Raises NotFound.

    Nothing that a runtime mounts (tmpfs, /proc, /dev) is there: only the image's files, volumes and binds.
    """
    operation = f"looking at {path} in container {named(id)}"
    answer = engine.request("HEAD", path_of(id, "/archive"), operation=operation, query={"path": path})
    return _stat(answer)


_GO_BITS = {1 << 23: 0o4000, 1 << 22: 0o2000, 1 << 20: 0o1000}  # setuid, setgid and sticky as Go's FileMode has them


def file_mode(mode: int) -> int:
    """The permissions of Go's FileMode, with the setuid, setgid and sticky bits where chmod has them."""
    return mode & 0o777 | sum(bit for go, bit in _GO_BITS.items() if mode & go)


def _stat(answer: Answer) -> Json:
    try:
        stat = json.loads(base64.b64decode(answer.headers.get("x-docker-container-path-stat", "")))
    except ValueError:
        stat = None
    if not isinstance(stat, dict):
        answer.close()
        raise EngineError(answer.operation, "the engine did not say what it is about to send")
    return stat
