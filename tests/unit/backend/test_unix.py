"""The client's connections against peers that end, stall, or say something else than HTTP.

The peers are scripts on a socket: a real engine cannot be made to misbehave so.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sandboxrun.backend.docker.client import Engine
from sandboxrun.backend.docker.dial import dial_unix
from sandboxrun.backend.docker.unix import SocketTransport
from sandboxrun.backend.errors import EngineError, EngineTimeout, EngineUnreachable, NotFound, Unsupported

Script = Callable[[socket.socket, int], None]
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"


def until_end_of_head(client: socket.socket) -> bytes:
    data = b""
    while b"\r\n\r\n" not in data and (piece := client.recv(65536)):
        data += piece
    return data


@pytest.fixture
def peer(tmp_path: Path) -> Iterator[Callable[[Script], Engine]]:
    """Gives an engine behind which a script serves each connection: it gets the socket and the connection's number."""
    with contextlib.ExitStack() as stack:

        def make(script: Script) -> Engine:
            path = tmp_path / f"s{time.monotonic_ns()}"
            listener = stack.enter_context(socket.socket(socket.AF_UNIX))
            listener.bind(str(path))
            listener.listen()
            stack.callback(listener.shutdown, socket.SHUT_RDWR)

            def serve() -> None:
                number = 0
                with contextlib.suppress(OSError):
                    while True:
                        client, _ = listener.accept()
                        with client, contextlib.suppress(OSError):
                            script(client, number)
                        number += 1

            threading.Thread(target=serve, daemon=True).start()
            transport = SocketTransport(f"unix://{path}", dial_unix(str(path)), parallelism=2, local=True)
            return stack.enter_context(Engine(transport, api_version="1.41"))

        yield make


def test_a_kept_connection_is_used_again(peer: Callable[[Script], Engine]) -> None:
    numbers: list[int] = []

    def script(client: socket.socket, number: int) -> None:
        while until_end_of_head(client):
            numbers.append(number)
            client.sendall(OK)

    engine = peer(script)
    for _ in range(3):
        assert engine.info() == {}
    assert numbers == [0, 0, 0]


def test_a_get_is_sent_once_more_when_a_kept_connection_ended(peer: Callable[[Script], Engine]) -> None:
    heads: list[bytes] = []

    def script(client: socket.socket, number: int) -> None:
        heads.append(until_end_of_head(client))
        client.sendall(OK)
        if number == 0:
            heads.append(until_end_of_head(client))  # takes the second request, and ends without an answer

    engine = peer(script)
    assert engine.info() == {}
    assert engine.info() == {}
    assert len(heads) == 3


def test_a_post_is_never_sent_twice(peer: Callable[[Script], Engine]) -> None:
    heads: list[bytes] = []

    def script(client: socket.socket, number: int) -> None:
        heads.append(until_end_of_head(client))
        client.sendall(OK)
        heads.append(until_end_of_head(client))

    engine = peer(script)
    engine.info()
    with pytest.raises(EngineUnreachable, match="starting container a: the connection ended without") as raised:
        engine.start_container("a")
    assert raised.value.maybe_done
    assert [head.split(b" ")[0] for head in heads] == [b"GET", b"POST"]


def test_a_connection_that_ended_while_idle_carries_nothing(peer: Callable[[Script], Engine]) -> None:
    heads: list[bytes] = []
    ended = threading.Event()

    def script(client: socket.socket, number: int) -> None:
        heads.append(until_end_of_head(client))
        client.sendall(OK)
        client.close()
        ended.set()

    engine = peer(script)
    engine.info()
    assert ended.wait(30)
    engine.start_container("a")
    assert [head.split(b" ")[0] for head in heads] == [b"GET", b"POST"]


def test_connection_close_is_heeded(peer: Callable[[Script], Engine]) -> None:
    def script(client: socket.socket, number: int) -> None:
        until_end_of_head(client)
        client.sendall(b'HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n{"n": %d}' % number)

    engine = peer(script)
    assert [engine.info()["n"] for _ in range(3)] == [0, 1, 2]


@pytest.mark.parametrize("said", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n{"])
def test_a_stalling_engine_is_given_up(peer: Callable[[Script], Engine], said: bytes) -> None:
    done = threading.Event()

    def script(client: socket.socket, number: int) -> None:
        until_end_of_head(client)
        client.sendall(said)
        done.wait(60)

    engine = peer(script)
    with pytest.raises(EngineTimeout, match="trying: no answer in time"):
        engine.request("GET", "/x", operation="trying", timeout=0.1).read()
    done.set()


@pytest.mark.parametrize(
    ("said", "message"),
    [
        (b"hello\r\n\r\n", "the answer is not HTTP"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n{", "the connection ended before the answer did"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n{", "the engine's answer is not JSON"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]", "the engine's answer is not a JSON object"),
    ],
)
def test_nonsense_is_named(peer: Callable[[Script], Engine], said: bytes, message: str) -> None:
    def script(client: socket.socket, number: int) -> None:
        until_end_of_head(client)
        client.sendall(said)

    with pytest.raises(EngineError, match=f"asking the engine about itself: {message}"):
        peer(script).info()


@pytest.mark.parametrize(
    ("body", "cause"),
    [
        (b'{"message": "no such thing."}', "no such thing"),
        (b"plain words\n", "plain words"),
        (b"[1]", "[1]"),
        (b'{"message": 5}', '{"message": 5}'),
    ],
)
def test_error_bodies(peer: Callable[[Script], Engine], body: bytes, cause: str) -> None:
    def script(client: socket.socket, number: int) -> None:
        until_end_of_head(client)
        client.sendall(b"HTTP/1.1 404 Not Found\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))

    with pytest.raises(NotFound) as raised:
        peer(script).info()
    assert (raised.value.cause, raised.value.status) == (cause, 404)


def test_an_engine_that_stops_taking_a_body_is_heard(peer: Callable[[Script], Engine]) -> None:
    def script(client: socket.socket, number: int) -> None:
        until_end_of_head(client)
        client.sendall(b"HTTP/1.1 404 Not Found\r\nContent-Length: 5\r\n\r\nno, a")

    def endless() -> Iterator[bytes]:
        while True:
            yield b"x" * 65536

    with pytest.raises(NotFound, match="sending: no, a"):
        peer(script).request("PUT", "/x", operation="sending", body=endless())


def test_a_stream_ends_for_its_reader_when_another_thread_closes_it(peer: Callable[[Script], Engine]) -> None:
    done = threading.Event()

    def script(client: socket.socket, number: int) -> None:
        until_end_of_head(client)
        client.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\n{}\n\r\n")
        done.wait(60)

    engine = peer(script)
    stream = engine.events()
    assert next(stream) == {}
    threading.Timer(0.05, stream.close).start()
    assert list(stream) == []
    stream.close()
    done.set()


def test_closing_the_engine_ends_its_streams(peer: Callable[[Script], Engine]) -> None:
    done = threading.Event()

    def script(client: socket.socket, number: int) -> None:
        until_end_of_head(client)
        client.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\n{}\n\r\n")
        done.wait(60)

    engine = peer(script)
    stream = engine.events()
    assert next(stream) == {}
    threading.Timer(0.05, engine.close).start()
    assert list(stream) == []
    with pytest.raises(EngineUnreachable, match="closed by this process"):
        engine.info()
    done.set()


@pytest.mark.parametrize(
    ("version", "agreed"), [("1.41", "1.41"), ("1.51", "1.51"), ("1.60", "1.51"), ("2.0", "1.51"), ("1.44", "1.44")]
)
def test_the_version_that_both_know(peer: Callable[[Script], Engine], version: str, agreed: str) -> None:
    def script(client: socket.socket, number: int) -> None:
        until_end_of_head(client)
        client.sendall(b"HTTP/1.1 200 OK\r\nApi-Version: %b\r\nContent-Length: 2\r\n\r\nOK" % version.encode())

    engine = Engine(peer(script).transport)
    assert engine.api_version == agreed


@pytest.mark.parametrize(
    ("field", "message"),
    [
        (b"Api-Version: 1.40", "the engine speaks API 1.40, and 1.41 is the oldest that will do"),
        (b"Api-Version: x", "is not a container engine"),
        (b"Server: other", "is not a container engine"),
    ],
)
def test_engines_that_will_not_do(peer: Callable[[Script], Engine], field: bytes, message: str) -> None:
    def script(client: socket.socket, number: int) -> None:
        until_end_of_head(client)
        client.sendall(b"HTTP/1.1 200 OK\r\n%b\r\nContent-Length: 2\r\n\r\nOK" % field)

    with pytest.raises(Unsupported, match=message):
        _ = Engine(peer(script).transport).api_version


def test_a_clock_that_is_not_told(peer: Callable[[Script], Engine]) -> None:
    def script(client: socket.socket, number: int) -> None:
        until_end_of_head(client)
        client.sendall(OK)

    with pytest.raises(EngineError, match="does not tell the time"):
        peer(script).clock()


def test_control_characters_never_get_into_a_head(peer: Callable[[Script], Engine]) -> None:
    engine = peer(lambda client, number: None)
    with pytest.raises(ValueError, match="control characters"):
        engine.request("GET", "/x\r\nHost: other", operation="trying")


def ids_in(heads: bytes) -> list[bytes]:
    return [line.split(b"/")[3] for line in heads.split(b"\r\n") if line.startswith(b"GET")]


def answer_to(id: bytes, fields: bytes = b"") -> bytes:
    body = b'{"Id": "%b"}' % id
    return b"HTTP/1.1 200 OK\r\n%bContent-Length: %d\r\n\r\n%b" % (fields, len(body), body)


def test_several_gets_are_sent_before_the_first_is_answered(peer: Callable[[Script], Engine]) -> None:
    def script(client: socket.socket, number: int) -> None:
        data = b""
        while data.count(b"\r\n\r\n") < 3:
            data += client.recv(65536)
        first, second, third = ids_in(data)
        gone = b"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\n{}"
        client.sendall(answer_to(first) + gone + answer_to(third))
        assert second == b"b"

    assert [c["Id"] for c in peer(script).inspect_containers(["a", "b", "c"])] == ["a", "c"]


def test_what_a_connection_left_unanswered_is_asked_on_the_next(peer: Callable[[Script], Engine]) -> None:
    def script(client: socket.socket, number: int) -> None:
        id = ids_in(until_end_of_head(client))[0]
        client.sendall(answer_to(id, b"Connection: close\r\n" if number == 0 else b""))

    assert [c["Id"] for c in peer(script).inspect_containers(["a", "b", "c"])] == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("said", "message"),
    [
        (b"", "the connection ended without an answer"),
        (b"HTTP/1.1 500 Oh\r\nContent-Length: 4\r\n\r\noops", "oops"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]", "the engine's answer is not a JSON object"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nno", "the engine's answer is not JSON"),
    ],
)
def test_several_gets_that_fail(peer: Callable[[Script], Engine], said: bytes, message: str) -> None:
    def script(client: socket.socket, number: int) -> None:
        until_end_of_head(client)
        client.sendall(said)

    with pytest.raises(EngineError, match=f"inspecting 2 containers: {message}"):
        peer(script).inspect_containers(["a", "b"])


def test_an_end_in_the_middle_of_a_kept_connection_is_no_failure(peer: Callable[[Script], Engine]) -> None:
    def script(client: socket.socket, number: int) -> None:
        id = ids_in(until_end_of_head(client))[0]
        client.sendall(answer_to(id))
        if number == 0:
            until_end_of_head(client)  # the second batch, never answered

    engine = peer(script)
    assert len(engine.inspect_containers(["a"])) == 1
    assert len(engine.inspect_containers(["b"])) == 1
