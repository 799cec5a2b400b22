"""docker-py as a carrier, against peers on tcp that end, stall, or say something else than HTTP."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator

import pytest

from sandboxrun.backend.docker.client import Engine
from sandboxrun.backend.docker.connect import Endpoint, open_transport
from sandboxrun.backend.errors import EngineError, EngineTimeout, EngineUnreachable

Script = Callable[[socket.socket, int], None]
Peer = Callable[[Script], Engine]
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"


def until_end_of_head(client: socket.socket) -> bytes:
    data = b""
    while b"\r\n\r\n" not in data and (piece := client.recv(65536)):
        data += piece
    return data


@pytest.fixture
def peer() -> Iterator[Peer]:
    """Gives an engine behind which a script serves each connection: it gets the socket and the connection's number."""
    with contextlib.ExitStack() as stack:

        def make(script: Script) -> Engine:
            listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
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
            endpoint = Endpoint(url=f"tcp://127.0.0.1:{listener.getsockname()[1]}", origin="a test")
            return stack.enter_context(Engine(open_transport(endpoint, parallelism=2), api_version="1.41"))

        yield make


def test_a_head_goes_out_as_it_should(peer: Peer) -> None:
    heads: list[bytes] = []

    def script(client: socket.socket, number: int) -> None:
        while head := until_end_of_head(client):
            heads.append(head)
            client.sendall(OK)

    engine = peer(script)
    engine.info()
    engine.start_container("a")
    lines = heads[0].split(b"\r\n")
    assert lines[0] == b"GET /v1.41/info HTTP/1.1"
    assert b"Accept-Encoding: identity" in lines  # else archives come compressed
    assert heads[1].startswith(b"POST /v1.41/containers/a/start HTTP/1.1\r\n")


def test_netrc_and_redirects_are_not_followed(
    peer: Peer, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc = tmp_path_factory.mktemp("home") / "netrc"
    netrc.write_text("machine 127.0.0.1 login me password secret\n")
    monkeypatch.setenv("NETRC", str(netrc))
    heads: list[bytes] = []

    def script(client: socket.socket, number: int) -> None:
        heads.append(until_end_of_head(client))
        client.sendall(b"HTTP/1.1 301 Moved\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 2\r\n\r\n{}")

    with pytest.raises(EngineError, match="the engine answered with status 301"):
        peer(script).info()
    assert b"Authorization" not in heads[0]


def test_a_get_is_sent_once_more(peer: Peer) -> None:
    def script(client: socket.socket, number: int) -> None:
        until_end_of_head(client)
        if number > 0:
            client.sendall(OK)

    assert peer(script).info() == {}


def test_a_post_is_not(peer: Peer) -> None:
    numbers: list[int] = []

    def script(client: socket.socket, number: int) -> None:
        numbers.append(number)
        until_end_of_head(client)

    with pytest.raises(EngineUnreachable, match="starting container a: the connection was lost") as raised:
        peer(script).start_container("a")
    assert raised.value.maybe_done
    assert numbers == [0]


@pytest.mark.parametrize("said", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n{"])
def test_a_stalling_engine_is_given_up(peer: Peer, said: bytes) -> None:
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
    "said",
    [
        b"hello\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n{",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\nab",
    ],
)
def test_nonsense_is_lost(peer: Peer, said: bytes) -> None:
    def script(client: socket.socket, number: int) -> None:
        until_end_of_head(client)
        client.sendall(said)

    with pytest.raises(EngineUnreachable, match="asking the engine about itself: the connection was lost"):
        peer(script).info()


def test_an_upgrade_with_bytes_right_after_the_head(peer: Peer) -> None:
    def script(client: socket.socket, number: int) -> None:
        until_end_of_head(client)
        client.sendall(b"HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\nearly")
        assert client.recv(100) == b"input"
        client.sendall(b"late")

    with peer(script).attach_terminal("a") as terminal:
        assert terminal.recv(2) == b"ea"
        assert terminal.pending()
        assert terminal.recv(100) == b"rly"
        assert not terminal.pending()
        assert terminal.send(b"input") == 5
        assert terminal.recv() == b"late"
        assert terminal.recv() == b""


def test_closing_the_engine_ends_its_streams(peer: Peer) -> None:
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
    done.set()


def test_an_upgrade_that_was_refused(peer: Peer) -> None:
    def script(client: socket.socket, number: int) -> None:
        until_end_of_head(client)
        client.sendall(b'HTTP/1.1 409 Conflict\r\nContent-Length: 18\r\n\r\n{"message": "no."}')

    with pytest.raises(EngineError, match=r"attaching to container a: no$") as raised:
        peer(script).attach_terminal("a")
    assert raised.value.status == 409


def test_a_large_input_waits_until_it_is_taken(peer: Peer) -> None:
    size = 4_000_000
    taken: list[int] = []

    def script(client: socket.socket, number: int) -> None:
        until_end_of_head(client)
        client.sendall(b"HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n")
        while sum(taken) < size:
            taken.append(len(client.recv(65536)))

    with peer(script).attach_terminal("a") as terminal:
        assert terminal.send(b"x" * size) == size
        assert terminal.recv() == b""
    assert sum(taken) == size
