"""The engine's calls that go on: logs, attached output, terminals, commands, events, archives.

Every stream has close(), which any thread may call: its reader then gets to the end. Does not interpret what flows.
"""

from __future__ import annotations

import base64
import io
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, BinaryIO, Generic, Self, TypeVar

from sandboxrun.backend.docker.calls import STDOUT, Answer, Client, Json, demultiplex, guarded, json_lines, quote
from sandboxrun.backend.docker.objects import Objects, named, path_of
from sandboxrun.backend.docker.transport import PIECE, Connection
from sandboxrun.backend.errors import EngineError, EngineTimeout, EngineUnreachable
from sandboxrun.data import Data

T = TypeVar("T")
Output = tuple[int, bytes]


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


class Terminal:
    """The connection to a container's or a command's terminal: bytes both ways. Raises EngineErrors only."""

    def __init__(self, operation: str, connection: Connection, resize: Callable[[int, int], None]) -> None:
        self._operation = operation
        self._connection = connection
        self._resize = resize

    def recv(self, size: int = PIECE) -> bytes:
        """What has arrived, at most `size` bytes; b"" at the end."""
        return guarded(self._operation, lambda: self._connection.recv(size))

    def send(self, data: bytes) -> int:
        """Send all of `data`; its length."""
        return guarded(self._operation, lambda: self._connection.send(data))

    def end_input(self) -> None:
        """End the other side's standard input; its output goes on. Not possible over TLS: Unsupported."""
        guarded(self._operation, self._connection.end_input)

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


class Exec(LogStream):
    """A command in a container: its output to iterate, its exit code, and its input where it has one."""

    def __init__(self, engine: Client, id: str, answer: Answer, terminal: Terminal | None, *, tty: bool) -> None:
        self.id = id
        self.terminal = terminal
        self._engine = engine
        super().__init__(_output(answer, tty=tty), answer.close)

    def exit_code(self, *, timeout: float | None = None) -> int:
        """Wait until the command has ended (reading on, what is left of its output is dropped); its exit code.

        Raises EngineTimeout when it still runs `timeout` seconds after its output's end (None: waits for ever).
        """
        for _ in self:
            pass
        until = None if timeout is None else time.monotonic() + timeout
        pause, path = 0.002, f"/exec/{quote(self.id)}/json"
        while True:
            state = self._engine.request("GET", path, "inspecting a command").mapping()
            if not state.get("Running") and state.get("ExitCode") is not None:
                return int(state["ExitCode"])
            if until is not None and time.monotonic() >= until:
                cause = f"it still runs {timeout:g} seconds after its output ended"
                raise EngineTimeout("waiting for a command", cause)
            time.sleep(pause)
            pause = min(pause * 2, 0.25)


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


class Streams(Objects):
    """What flows to and from an engine."""

    def logs(
        self,
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
        tty = self._has_tty(id) if tty is None else tty
        query: dict[str, str | int | bool | None] = {"stdout": True, "stderr": True, "follow": follow, "since": since}
        query |= {"tail": tail, "timestamps": timestamps}
        answer = self._container("GET", id, "/logs", "reading the logs of", query=query, stream=True)
        return LogStream(_output(answer, tty=tty), answer.close)

    def attach(self, id: str, *, tty: bool | None = None) -> LogStream:
        """What a container writes from now on. Open it before the start, and nothing is lost."""
        tty = self._has_tty(id) if tty is None else tty
        query = {"stream": True, "stdout": True, "stderr": True}
        answer = self._container("POST", id, "/attach", "attaching to", query=query, upgrade=True)
        return LogStream(_output(answer, tty=tty), answer.close)

    def _has_tty(self, id: str) -> bool:
        return bool(self.inspect_container(id).get("Config", {}).get("Tty"))

    def attach_terminal(self, id: str) -> Terminal:
        """The terminal of a container that was created with Tty and OpenStdin."""
        query = {"stream": True, "stdin": True, "stdout": True, "stderr": True}
        answer = self._container("POST", id, "/attach", "attaching to", query=query, upgrade=True)
        return self._terminal(answer, path_of("containers", id, "/resize"), f"resizing container {named(id)}")

    def _terminal(self, answer: Answer, path: str, operation: str) -> Terminal:
        def resize(rows: int, columns: int) -> None:
            self.request("POST", path, operation, query={"h": rows, "w": columns}).read()

        return Terminal(answer.operation, answer.connection(), resize)

    def exec(
        self,
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
        made = str(self._container("POST", id, "/exec", "preparing a command in", payload=payload).mapping()["Id"])
        operation = f"running {argv[0] if argv else 'nothing'} in container {named(id)}"
        start = {"Detach": False, "Tty": tty}
        answer = self.request("POST", path_of("exec", made, "/start"), operation, payload=start, upgrade=True)
        terminal = None
        if tty or stdin:
            terminal = self._terminal(answer, path_of("exec", made, "/resize"), "resizing a command")
        return Exec(self, made, answer, terminal, tty=tty)

    def events(
        self,
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
        answer = self.request("GET", "/events", "following the engine's events", query=query, stream=True)
        return EventStream(json_lines(answer.pieces(), answer.operation), answer.close)

    def put_archive(self, id: str, path: str, tar: BinaryIO) -> None:
        """Unpack an uncompressed tar into a container's folder `path`, which must exist. Read and sent in pieces."""
        pieces = iter(lambda: tar.read(PIECE), b"")
        place, operation = path_of("containers", id, "/archive"), f"copying into container {named(id)} at {path}"
        sending: dict[str, Any] = {"body": pieces, "headers": {"Content-Type": "application/x-tar"}, "timeout": None}
        try:
            self.request("PUT", place, operation, query={"path": path}, **sending).read()
        except EngineUnreachable:
            # Docker 28 refuses a folder that is not there without reading on: over tcp that can end the connection
            # before its answer is seen.
            self.request("HEAD", place, operation, query={"path": path}).read()
            raise

    def get_archive(self, id: str, path: str) -> Archive:
        """A file or folder of a container, as a tar in pieces. Raises NotFound (the path, or the container)."""
        answer = self._container("GET", id, "/archive", f"copying {path} out of", query={"path": path}, stream=True)
        return Archive(stat=_stat(answer), stream=Stream(answer.pieces(), answer.close))

    def read_file(self, id: str, path: str, *, most: int) -> bytes | None:
        """A file of a container; b"" for what is no regular file, None where its tar has more than `most` bytes."""
        import tarfile

        with self.get_archive(id, path) as archive:
            data = bytearray()
            for piece in archive.stream:
                data += piece
                if len(data) > most:
                    return None
        with tarfile.open(fileobj=io.BytesIO(data)) as tar:
            member = tar.next()
            file = tar.extractfile(member) if member is not None and member.isreg() else None
            return file.read() if file is not None else b""

    def stat_archive(self, id: str, path: str) -> Json:
        """What a path of a container is, in the API's form: `mode` is Go's, see `file_mode`. Raises NotFound.

        Nothing that a runtime mounts (tmpfs, /proc, /dev) is there: only the image's files, volumes and binds.
        """
        return _stat(self._container("HEAD", id, "/archive", f"looking at {path} in", query={"path": path}))


def _output(answer: Answer, *, tty: bool) -> Iterator[Output]:
    pieces = answer.pieces()
    return ((STDOUT, piece) for piece in pieces) if tty else demultiplex(pieces, answer.operation)


_GO_BITS = {1 << 23: 0o4000, 1 << 22: 0o2000, 1 << 20: 0o1000}  # setuid, setgid and sticky as Go's FileMode has them


def file_mode(mode: int) -> int:
    """The permissions of Go's FileMode, with the setuid, setgid and sticky bits where chmod has them."""
    return mode & 0o777 | sum(bit for go, bit in _GO_BITS.items() if mode & go)


def _stat(answer: Answer) -> Json:
    try:
        stat = json.loads(base64.b64decode(answer.headers.get("x-docker-container-path-stat", "")))
    except (ValueError, RecursionError):
        stat = None
    if not isinstance(stat, dict):
        answer.close()
        raise EngineError(answer.operation, "the engine did not say what it is about to send")
    return stat
