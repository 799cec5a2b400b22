"""The floor: small programs that say to the engine what must be said, and nothing else.

They speak HTTP over the engine's socket with the standard library alone, send what sandboxrun would send, and check
nothing but the status. Usage: raw.py COMMAND SOCKET ARGUMENTS…

    list LABEL            list the containers with LABEL, and inspect each
    up FILE WORKERS       create and start every container in FILE ([{"name", "body"}])
    down LABEL WORKERS    stop (no grace) and remove the containers with LABEL
    collect LABEL WORKERS the same, with what evidence asks of the engine in between: inspect, logs, changes
    run FILE              create, start, wait, logs, remove
    watch FILE            the same, told by the events stream that it has ended
    watch-collect FILE    the same again, with inspect and changes

Must not import sandboxrun.
"""

from __future__ import annotations

import json
import socket
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any

API = "/v1.41"


class Connection:
    """One connection to the engine, kept alive. Not for several threads."""

    def __init__(self, path: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.connect(path)
        self._file = self._socket.makefile("rb")

    def request(self, method: str, path: str, payload: Any = None) -> bytes:
        """The answer's whole body. Raises RuntimeError for an error status."""
        status = self.begin(method, path, payload)
        data = b"".join(self._body())
        if status >= 400:
            raise RuntimeError(f"{method} {path}: {status} {data[:300].decode('utf-8', 'replace')}")
        return data

    def json(self, method: str, path: str, payload: Any = None) -> Any:
        """The answer as data; None for an empty one."""
        data = self.request(method, path, payload)
        return json.loads(data) if data else None

    def lines(self, path: str, begun: Callable[[], None] = lambda: None) -> Iterator[Any]:
        """A stream of JSON lines; `begun` is called once the engine has answered."""
        self.begin("GET", path)
        begun()
        return self.rest()

    def rest(self) -> Iterator[Any]:
        """The lines of an answer that has begun."""
        kept = b""
        for piece in self._body():
            *whole, kept = (kept + piece).split(b"\n")
            yield from (json.loads(line) for line in whole if line)

    def begin(self, method: str, path: str, payload: Any = None) -> int:
        """Send a request, and read the answer's head; its status."""
        body = b"" if payload is None else json.dumps(payload).encode()
        head = f"{method} {API}{path} HTTP/1.1\r\nHost: docker\r\nContent-Type: application/json\r\n"
        self._socket.sendall(head.encode() + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        status = int(self._file.readline().split()[1])
        self._fields = dict(self._field(line) for line in iter(self._file.readline, b"\r\n"))
        self._empty = status == 204
        return status

    @staticmethod
    def _field(line: bytes) -> tuple[bytes, bytes]:
        name, _, value = line.partition(b":")
        return name.lower(), value.strip()

    def _body(self) -> Iterator[bytes]:
        if self._empty:
            return
        if self._fields.get(b"transfer-encoding") == b"chunked":
            while size := int(self._file.readline(), 16):
                yield self._file.read(size)
                self._file.readline()
            self._file.readline()
        else:
            yield self._file.read(int(self._fields.get(b"content-length", b"0")))

    def close(self) -> None:
        """End it."""
        self._file.close()
        self._socket.close()


def quoted(filters: dict[str, list[str]]) -> str:
    """Filters as a query's value."""
    return "".join(c if c.isalnum() else f"%{ord(c):02X}" for c in json.dumps(filters))


def ids(connection: Connection, label: str) -> list[str]:
    """The containers with a label, in any state."""
    found = connection.json("GET", f"/containers/json?all=1&filters={quoted({'label': [label]})}")
    return [container["Id"] for container in found]


def in_parallel(path: str, workers: int, items: Iterable[Any], call: Callable[[Connection, Any], object]) -> None:
    """`call` of each item on so many threads, each with a connection of its own. Raises the first failure."""
    waiting, lock, failures = list(items)[::-1], threading.Lock(), list[BaseException]()

    def work() -> None:
        connection = Connection(path)
        try:
            while not failures:
                with lock:
                    if not waiting:
                        return
                    item = waiting.pop()
                call(connection, item)
        except BaseException as error:
            failures.append(error)
        finally:
            connection.close()

    threads = [threading.Thread(target=work) for _ in range(workers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


def start(connection: Connection, container: dict[str, Any]) -> str:
    """Create and start; the id."""
    made: str = connection.json("POST", f"/containers/create?name={container['name']}", container["body"])["Id"]
    connection.request("POST", f"/containers/{made}/start")
    return made


def remove(connection: Connection, container: str) -> None:
    """Stop without a grace period, and remove with its anonymous volumes."""
    connection.request("POST", f"/containers/{container}/stop?t=0")
    connection.request("DELETE", f"/containers/{container}?force=1&v=1")


def collect(connection: Connection, container: str) -> None:
    """What evidence asks of the engine, between the same stop and removal."""
    connection.request("POST", f"/containers/{container}/stop?t=0")
    connection.request("GET", f"/containers/{container}/logs?stdout=1&stderr=1")
    questions(connection, container)
    connection.request("DELETE", f"/containers/{container}?force=1&v=1")


def questions(connection: Connection, container: str) -> None:
    """What evidence asks beside the logs."""
    connection.request("GET", f"/containers/{container}/json")
    connection.request("GET", f"/containers/{container}/changes")


def inspect_all(path: str, label: str) -> None:
    """List, and inspect each."""
    connection = Connection(path)
    for container in ids(connection, label):
        connection.json("GET", f"/containers/{container}/json")


def run(path: str, container: dict[str, Any]) -> None:
    """One container from its creation to its removal."""
    connection = Connection(path)
    made = start(connection, container)
    connection.request("POST", f"/containers/{made}/wait")
    connection.request("GET", f"/containers/{made}/logs?stdout=1&stderr=1")
    connection.request("DELETE", f"/containers/{made}?force=1&v=1")


def watch(path: str, container: dict[str, Any], ask: Callable[[Connection, str], None] | None = None) -> None:
    """The same, its end told by the events; `ask` comes before the removal."""
    filters = quoted({"container": [container["name"]], "event": ["die"]})
    listening = Connection(path)
    listening.begin("GET", f"/events?filters={filters}")
    connection = Connection(path)
    made = start(connection, container)
    next(listening.rest())
    connection.request("GET", f"/containers/{made}/logs?stdout=1&stderr=1")
    if ask is not None:
        ask(connection, made)
    connection.request("DELETE", f"/containers/{made}?force=1&v=1")


def _containers(file: str) -> list[dict[str, Any]]:
    with open(file, encoding="utf-8") as stream:
        found: list[dict[str, Any]] = json.load(stream)
    return found


def main(arguments: list[str]) -> None:
    """One command."""
    match arguments:
        case ["list", path, label]:
            inspect_all(path, label)
        case ["up", path, file, workers]:
            in_parallel(path, int(workers), _containers(file), start)
        case ["down", path, label, workers]:
            in_parallel(path, int(workers), ids(Connection(path), label), remove)
        case ["collect", path, label, workers]:
            in_parallel(path, int(workers), ids(Connection(path), label), collect)
        case ["run", path, file]:
            run(path, _containers(file)[0])
        case ["watch", path, file]:
            watch(path, _containers(file)[0])
        case ["watch-collect", path, file]:
            watch(path, _containers(file)[0], questions)
        case _:
            raise SystemExit(__doc__)


if __name__ == "__main__":
    main(sys.argv[1:])
