"""What carries requests, on every route, against peers that end, stall, or say something else than HTTP.

The peers are scripts on a socket: a real engine cannot be made to misbehave so. Questions and changes are both asked,
for on a local socket they go different ways.
"""

from __future__ import annotations

import contextlib
import http.client
import io
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandboxrun.backend.docker.client import Engine, open_transport
from sandboxrun.backend.docker.docker_py import DockerPyTransport, Transport, _Chunks, _WholeHead
from sandboxrun.backend.docker.transport import Endpoint, LocalTransport
from sandboxrun.backend.errors import EngineError, EngineTimeout, EngineUnreachable, NotFound, Unsupported
from tests.conftest import until
from tests.engine.forwarders import ssh_command

Script = Callable[[socket.socket, int], None]
Peer = Callable[[Script], Engine]
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
# What is not ended is told when it is forgotten, by newer Pythons on the user's terminal.
pytestmark = pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")
CHUNKS = st.binary(max_size=200).map(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".__add__)
UPGRADED = b"HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n"


def until_end_of_head(client: socket.socket) -> bytes:
    data = b""
    while b"\r\n\r\n" not in data and (piece := client.recv(65536)):
        data += piece
    return data


@pytest.fixture(params=["unix", "tcp", "ssh"])
def route(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def peer(route: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Peer]:
    """Gives an engine behind which a script serves each connection: it gets the socket and the connection's number."""
    with contextlib.ExitStack() as stack:

        def make(script: Script) -> Engine:
            listener, url = listen(route, tmp_path / f"s{time.monotonic_ns()}")
            stack.enter_context(listener)
            stack.callback(listener.shutdown, socket.SHUT_RDWR)

            def serve(client: socket.socket, number: int) -> None:
                with client, contextlib.suppress(OSError):
                    script(client, number)

            def accept() -> None:
                with contextlib.suppress(OSError):
                    for number in itertools.count():
                        threading.Thread(target=serve, args=(listener.accept()[0], number), daemon=True).start()

            threading.Thread(target=accept, daemon=True).start()
            endpoint = Endpoint(url=url, origin="a test")
            return stack.enter_context(Engine(open_transport(endpoint, parallelism=2), api_version="1.41"))

        def listen(route: str, path: Path) -> tuple[socket.socket, str]:
            if route == "tcp":
                listener = socket.create_server(("127.0.0.1", 0))
                return listener, f"tcp://127.0.0.1:{listener.getsockname()[1]}"
            listener = socket.socket(socket.AF_UNIX)
            listener.bind(str(path))
            listener.listen()
            if route == "unix":
                return listener, f"unix://{path}"
            folder = ssh_command(path.with_suffix(".bin"), str(path))
            monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
            return listener, "ssh://me@engine.example.com"

        yield make


WAYS = pytest.mark.parametrize("method", ["GET", "POST"])


def test_a_kept_connection_is_used_again(peer: Peer) -> None:
    numbers: list[int] = []

    def script(client: socket.socket, number: int) -> None:
        while until_end_of_head(client):
            numbers.append(number)
            client.sendall(OK)

    engine = peer(script)
    for _ in range(3):
        assert engine.inspect_container("a") == {}
    assert numbers == [0, 0, 0]


@WAYS
def test_a_forked_process_has_connections_of_its_own(peer: Peer, method: str) -> None:
    numbers: list[int] = []

    def script(client: socket.socket, number: int) -> None:
        while until_end_of_head(client):
            numbers.append(number)
            client.sendall(OK)

    engine = peer(script)
    engine.request(method, "/x", operation="trying").read()
    if (child := os.fork()) == 0:
        try:
            signal.alarm(60)
            engine.request(method, "/x", operation="trying").read()
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    engine.request(method, "/x", operation="trying").read()
    assert numbers == [0, 1, 0]


def test_a_get_is_sent_once_more_when_a_kept_connection_ended(peer: Peer) -> None:
    heads: list[bytes] = []

    def script(client: socket.socket, number: int) -> None:
        heads.append(until_end_of_head(client))
        client.sendall(OK)
        if number == 0:
            heads.append(until_end_of_head(client))  # takes the second request, and ends without an answer

    engine = peer(script)
    assert engine.inspect_container("a") == {}
    assert engine.inspect_container("a") == {}
    assert len(heads) == 3


def test_a_post_is_never_sent_twice(peer: Peer) -> None:
    heads: list[bytes] = []

    def script(client: socket.socket, number: int) -> None:
        while head := until_end_of_head(client):
            heads.append(head)
            if len(heads) == 3:
                return
            client.sendall(OK)

    engine = peer(script)
    engine.info()
    engine.start_container("a")
    with pytest.raises(EngineUnreachable, match="starting container a: the connection ended without") as raised:
        engine.start_container("a")
    assert raised.value.maybe_done
    assert [head.split(b" ")[0] for head in heads] == [b"GET", b"POST", b"POST"]


@pytest.mark.parametrize("route", ["unix", "tcp"], indirect=True)  # through ssh, the end is seen a moment later
def test_a_connection_that_ended_while_idle_carries_nothing(peer: Peer) -> None:
    heads: list[bytes] = []
    ended = threading.Event()

    def script(client: socket.socket, number: int) -> None:
        heads.append(until_end_of_head(client))
        client.sendall(OK)
        client.close()
        ended.set()

    engine = peer(script)
    for ask in (engine.info, partial(engine.start_container, "a"), partial(engine.start_container, "a")):
        ended.clear()
        ask()
        assert ended.wait(30)
    assert [head.split(b" ")[0] for head in heads] == [b"GET", b"POST", b"POST"]


UNASKED = pytest.mark.parametrize(
    "unasked",
    [OK, b"HTTP/1.1 408 Request Time-out\r\nContent-Length: 0\r\nConnection: close\r\n\r\n", b"x"],
    ids=["the answer again", "what a proxy says to an idle client", "a byte beyond the body"],
)


def _each_gets_its_own(engine: Engine, method: str, told: threading.Event) -> None:
    for question in ("/a", "/b", "/c"):
        assert engine.request(method, question, operation="trying", versioned=False).mapping() == {"to": question}
        assert told.wait(30)


@WAYS
@UNASKED
def test_what_nobody_asked_for_is_no_answer(peer: Peer, method: str, unasked: bytes) -> None:
    """It would be taken for the answer to the next question, and each answer for that of the question before."""
    told = threading.Event()

    def script(client: socket.socket, number: int) -> None:
        while head := until_end_of_head(client):
            said = b'{"to": "%s"}' % head.split(b" ")[1]
            answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(said) + said
            client.sendall(answer if number else answer + unasked)
            told.set()

    _each_gets_its_own(peer(script), method, told)


@WAYS
@UNASKED
@pytest.mark.parametrize("route", ["unix"], indirect=True)  # by others it may come while the next question is sent
def test_what_nobody_asked_for_comes_a_moment_later(peer: Peer, method: str, unasked: bytes) -> None:
    told = threading.Event()

    def script(client: socket.socket, number: int) -> None:
        while head := until_end_of_head(client):
            said = b'{"to": "%s"}' % head.split(b" ")[1]
            client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(said) + said)
            if number == 0:
                client.sendall(unasked)
                told.set()

    _each_gets_its_own(peer(script), method, told)


def test_connection_close_is_heeded(peer: Peer) -> None:
    def script(client: socket.socket, number: int) -> None:
        until_end_of_head(client)
        client.sendall(b'HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n{"n": %d}' % number)

    engine = peer(script)
    assert [engine.inspect_container("a")["n"] for _ in range(3)] == [0, 1, 2]


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


def saying(said: bytes) -> Script:
    """A peer that says the same to everything, and ends."""

    def script(client: socket.socket, number: int) -> None:
        until_end_of_head(client)
        client.sendall(said)

    return script


@pytest.mark.parametrize(
    ("said", "message"),
    [
        (b"hello\r\n\r\n", "the answer is not HTTP"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n{", "the connection ended before the answer did"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n{", "the engine's answer is not JSON"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]", "the engine's answer is not a JSON object"),
    ],
)
def test_nonsense_is_named(peer: Peer, said: bytes, message: str) -> None:
    with pytest.raises(EngineError, match=f"asking the engine about itself: {message}"):
        peer(saying(said)).info()


@pytest.mark.parametrize(
    ("body", "cause"),
    [
        (b'{"message": "no such thing."}', "no such thing"),
        (b"plain words\n", "plain words"),
        (b"[1]", "[1]"),
        (b'{"message": 5}', '{"message": 5}'),
    ],
)
def test_error_bodies(peer: Peer, body: bytes, cause: str) -> None:
    with pytest.raises(NotFound) as raised:
        peer(saying(b"HTTP/1.1 404 Not Found\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))).info()
    assert (raised.value.cause, raised.value.status) == (cause, 404)


@pytest.mark.parametrize("kind", [b"".join, tuple, list, iter], ids=["bytes", "tuple", "list", "iterator"])
def test_a_body_may_come_in_pieces_of_any_kind(peer: Peer, kind: Callable[[Iterable[bytes]], Iterable[bytes]]) -> None:
    sent: list[bytes] = []

    def script(client: socket.socket, number: int) -> None:
        data = b""
        while not data.endswith((b"0\r\n\r\n", b"\r\n\r\nab")):
            data += client.recv(65536)
        sent.append(data.partition(b"\r\n\r\n")[2])
        client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    body = kind((b"a", b"b"))
    assert peer(script).request("POST", "/x", operation="sending", body=body).read() == b""  # type: ignore[arg-type]
    assert sent[-1] in (b"ab", b"1\r\na\r\n1\r\nb\r\n0\r\n\r\n")


def test_an_engine_that_stops_taking_a_body_is_heard(peer: Peer) -> None:
    def endless() -> Iterator[bytes]:
        while True:
            yield b"x" * 65536

    with pytest.raises(NotFound, match="sending: no, a"):
        peer(saying(b"HTTP/1.1 404 Not Found\r\nContent-Length: 5\r\n\r\nno, a")).request(
            "PUT", "/x", operation="sending", body=endless()
        )


def _open_sockets() -> set[str]:
    found = set()
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # the directory itself, and what goes meanwhile
            found.add(os.readlink(f"/proc/self/fd/{fd}"))
    return {one for one in found if one.startswith("socket:")}


def test_a_stream_ends_for_its_reader_when_another_thread_closes_it(peer: Peer) -> None:
    done = threading.Event()

    def script(client: socket.socket, number: int) -> None:
        until_end_of_head(client)
        client.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\n{}\n\r\n")
        done.wait(60)

    engine = peer(script)
    before = _open_sockets()
    stream = engine.events()
    assert next(stream) == {}
    threading.Timer(0.05, stream.close).start()
    assert list(stream) == []
    until(lambda: len(_open_sockets() - before) == 1)  # the peer's end: the reader has closed its own
    stream.close()
    done.set()


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
    with pytest.raises(EngineUnreachable, match="closed by this process"):
        engine.info()
    done.set()


@pytest.mark.parametrize(
    ("version", "agreed"), [("1.41", "1.41"), ("1.51", "1.51"), ("1.60", "1.51"), ("2.0", "1.51"), ("1.44", "1.44")]
)
def test_the_version_that_both_know(peer: Peer, version: str, agreed: str) -> None:
    engine = Engine(
        peer(saying(b"HTTP/1.1 200 OK\r\nApi-Version: %b\r\nContent-Length: 2\r\n\r\nOK" % version.encode())).transport
    )
    assert engine.api_version == agreed


@pytest.mark.parametrize(
    ("field", "message"),
    [
        (b"Api-Version: 1.40", "the engine speaks API 1.40, and 1.41 is the oldest that will do"),
        (b"Api-Version: x", "is not a container engine"),
        (b"Server: other", "is not a container engine"),
    ],
)
def test_engines_that_will_not_do(peer: Peer, field: bytes, message: str) -> None:
    with pytest.raises(Unsupported, match=message):
        _ = Engine(peer(saying(b"HTTP/1.1 200 OK\r\n%b\r\nContent-Length: 2\r\n\r\nOK" % field)).transport).api_version


_WRONG_DATES = (
    b"",
    b"Date: Tue, 24 Nov 2026 09:50:20 CET\r\n",
    b"Date: Tue, 99 Nov 2026 1:2:3 GMT\r\n",
    b"Date: x\r\n",
    b"Date: Fri, 31 Dec 9999 23:59:59 -1200\r\n",
    b"Date: Tue, 24 Nov 99999999999999999999 09:50:20 GMT\r\n",
)


@pytest.mark.parametrize("field", _WRONG_DATES)
def test_a_clock_that_is_not_told(peer: Peer, field: bytes) -> None:
    with pytest.raises(EngineError, match="has no time"):
        peer(saying(b"HTTP/1.1 200 OK\r\n%bContent-Length: 2\r\n\r\nOK" % field)).clock()


def test_the_clock_goes_on_from_the_last_answer(peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bytes] = []

    def script(client: socket.socket, number: int) -> None:
        while head := until_end_of_head(client):
            asked.append(head.split(b" ")[1])
            date = b"Date: Tue, 24 Nov 2026 09:50:2%d GMT" % len(asked)
            client.sendall(b"HTTP/1.1 200 OK\r\n%b\r\nContent-Length: 2\r\n\r\n{}" % date)

    engine, times = peer(script), [1000.0]
    monkeypatch.setattr("sandboxrun.backend.docker.calls.uptime", lambda: times[0])
    engine.start_container("a")
    assert engine.clock() == datetime(2026, 11, 24, 9, 50, 21, tzinfo=UTC)
    times[0] += 2.5
    assert engine.clock() == datetime(2026, 11, 24, 9, 50, 23, 500000, tzinfo=UTC)
    assert asked == [b"/v1.41/containers/a/start"]
    times[0] += 60  # too long ago to count on
    assert engine.clock() == datetime(2026, 11, 24, 9, 50, 22, tzinfo=UTC)
    assert asked[1:] == [b"/_ping"]


def test_control_characters_never_get_into_a_head(peer: Peer) -> None:
    engine = peer(lambda client, number: None)
    with pytest.raises(ValueError, match="control characters"):
        engine.request("GET", "/x\r\nHost: other", operation="trying")


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
        client.sendall(b"HTTP/1.1 301 Moved\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 6\r\n\r\nmoved!")

    with pytest.raises(EngineError, match="itself: moved!"):
        peer(script).info()
    assert b"Authorization" not in heads[0]


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


def test_an_upgrade_that_was_refused(peer: Peer) -> None:
    with pytest.raises(EngineError, match=r"attaching to container a: no$") as raised:
        peer(saying(b'HTTP/1.1 409 Conflict\r\nContent-Length: 18\r\n\r\n{"message": "no."}')).attach_terminal("a")
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


def ids_in(heads: bytes) -> list[bytes]:
    return [line.split(b"/")[3] for line in heads.split(b"\r\n") if line.startswith(b"GET")]


def answer_to(id: bytes, fields: bytes = b"") -> bytes:
    body = b'{"Id": "%b"}' % id
    return b"HTTP/1.1 200 OK\r\n%bContent-Length: %d\r\n\r\n%b" % (fields, len(body), body)


def _body(body: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body


LISTS: dict[str, Callable[[Engine], object]] = {
    "containers": lambda engine: engine.containers(),
    "networks": lambda engine: engine.networks(),
    "changes": lambda engine: engine.changes("a"),
}


@pytest.mark.parametrize("what", LISTS)
@pytest.mark.parametrize("said", [b"{}", b'"x"', b"[1]", b'[{}, "x"]', b"[null]", b"[[]]"])
def test_a_list_of_anything_else_than_objects(peer: Peer, what: str, said: bytes) -> None:
    with pytest.raises(EngineError, match="the engine's answer is not a JSON array of objects"):
        LISTS[what](peer(saying(_body(said))))


def test_lists_hold_nothing_but_what_was_asked_for(peer: Peer) -> None:
    """Whatever the engine, or a proxy before it, makes of the filter: what is in a list may be removed."""
    some = [
        {"Labels": {"a": "1", "b": "2"}},
        {"Labels": {"a": "2"}},
        {"Labels": None},
        {},
        {"Labels": {"b": "2", "a": 1}},
    ]
    some = [{"Id": str(number), "Name": str(number), **one} for number, one in enumerate(some)]
    for wanted, found in (
        ({"a": "1"}, some[:1]),
        ({"a": None}, some[:2]),
        ({"a": None, "b": "2"}, some[:1]),
        ({}, some),
    ):
        for listed in ("containers", "networks"):
            assert [*getattr(peer(saying(_body(json.dumps(some).encode()))), listed)(labels=wanted)] == found
        volumes = _body(json.dumps({"Volumes": some}).encode())
        assert [*peer(saying(volumes)).volumes(labels=wanted)] == found


@pytest.mark.parametrize("said", [b"[1]", b"{}", b"7"])
def test_volumes_that_are_no_list_of_objects(peer: Peer, said: bytes) -> None:
    with pytest.raises(EngineError, match="the engine's answer is not a JSON array of objects"):
        peer(saying(_body(b'{"Volumes": ' + said + b"}"))).volumes()


MADE: dict[str, Callable[[Engine], object]] = {
    "Id of a container": lambda engine: engine.create_container("a", {}),
    "Id of a network": lambda engine: engine.create_network({"Name": "a"}),
    "Id of a command": lambda engine: engine.exec("a", ["true"]),
    "StatusCode of an end": lambda engine: engine.wait_container("a"),
}


@pytest.mark.parametrize("what", MADE)
@pytest.mark.parametrize("said", [b"{}", b'{"Id": null}', b'{"Id": 7}', b'{"StatusCode": "7"}', b'{"message": "boom"}'])
def test_an_answer_that_lacks_what_was_asked_for(peer: Peer, what: str, said: bytes) -> None:
    with pytest.raises(EngineError, match=f"the engine's answer cannot be read: {what.split()[0]} is "):
        MADE[what](peer(saying(_body(said))))


@pytest.mark.parametrize("said", [b"{}", b'{"Id": "%s"}' % (b"b" * 64), b'{"Id": "%s"}' % (b"a" * 63)])
def test_an_answer_about_another_container(peer: Peer, said: bytes) -> None:
    engine = peer(saying(_body(said)))
    with pytest.raises(EngineError, match="the engine answered about another container than aaaaaaaaaaaa"):
        engine.inspect_container("a" * 64)
    with pytest.raises(EngineError, match="inspecting 1 containers: the engine answered about another container"):
        engine.inspect_containers(["a" * 64])


@pytest.mark.parametrize(
    ("said", "message"),
    [
        (b"", "the connection ended without an answer"),
        (b"HTTP/1.1 500 Oh\r\nContent-Length: 4\r\n\r\noops", "oops"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]", "the engine's answer is not a JSON object"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nno", "the engine's answer is not JSON"),
    ],
)
def test_several_gets_that_fail(peer: Peer, said: bytes, message: str) -> None:
    with pytest.raises(EngineError, match=f"inspecting 2 containers: {message}"):
        peer(saying(said)).inspect_containers(["a", "b"])


def test_an_end_in_the_middle_of_a_kept_connection_is_no_failure(peer: Peer) -> None:
    def script(client: socket.socket, number: int) -> None:
        id = ids_in(until_end_of_head(client))[0]
        client.sendall(answer_to(id))
        if number == 0:
            until_end_of_head(client)  # the second batch, never answered

    engine = peer(script)
    assert len(engine.inspect_containers(["a"])) == 1
    assert len(engine.inspect_containers(["b"])) == 1


MANY = [f"c{number}" for number in range(120)]


@pytest.fixture
def in_pieces() -> Script:
    """A peer that answers every question, however many come at once; answers arrive cut anywhere."""

    def script(client: socket.socket, number: int) -> None:
        rest = b""
        while piece := client.recv(999):
            *whole, rest = (rest + piece).split(b"\r\n\r\n")
            said = b"".join(answer_to(id) for head in whole for id in ids_in(head))
            for at in range(0, len(said), 701):
                client.sendall(said[at : at + 701])

    return script


def test_many_questions_are_answered_in_their_order(
    peer: Peer, in_pieces: Callable[[socket.socket, int], None]
) -> None:
    engine = peer(in_pieces)
    for _ in range(2):
        assert [c["Id"] for c in engine.inspect_containers(MANY)] == MANY


@pytest.mark.parametrize("fields", [b"", b"Connection: close\r\n"])
@pytest.mark.parametrize("each", [1, 3])
def test_many_questions_to_a_peer_that_ends_its_connections(peer: Peer, each: int, fields: bytes, route: str) -> None:
    """As one does that limits how many requests a connection may have; what it did not answer is asked again."""
    asked = MANY[: 60 if route == "unix" else 8]  # a local engine is asked 50 at once; ssh begins a process each time

    def script(client: socket.socket, number: int) -> None:
        answered, rest = 0, b""
        while answered < each and (piece := client.recv(100)):
            *whole, rest = (rest + piece).split(b"\r\n\r\n")
            for id in (id for head in whole for id in ids_in(head)):
                answered += 1
                if answered <= each:
                    client.sendall(answer_to(id, fields if answered == each else b""))

    engine = peer(script)
    for _ in range(2):
        assert [c["Id"] for c in engine.inspect_containers(asked)] == asked


@pytest.mark.parametrize(
    ("said", "message"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 30\r\n\r\n{", "the connection ended before the answer did"),
        (b"oh\r\n", "the answer is not HTTP"),
        (b"HTTP/1.1 500 Oh\r\nContent-Length: 4\r\n\r\noops", "oops"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]", "the engine's answer is not a JSON object"),
    ],
)
def test_one_of_many_questions_fails(peer: Peer, said: bytes, message: str) -> None:
    """After it nothing is kept of the connection, on which answers to others are under way."""

    def script(client: socket.socket, number: int) -> None:
        rest = b""
        while piece := client.recv(999):
            *whole, rest = (rest + piece).split(b"\r\n\r\n")
            for id in (id for head in whole for id in ids_in(head)):
                client.sendall(said if id == b"c7" else answer_to(id))
                if id == b"c7" and b" 200 OK\r\nContent-Length: 2" not in said and b"500" not in said:
                    return

    engine = peer(script)
    with pytest.raises(EngineError, match=f"inspecting 20 containers: {message}"):
        engine.inspect_containers(MANY[:20])
    assert engine.inspect_container("c1") == {"Id": "c1"}


@pytest.mark.parametrize("route", ["unix"], indirect=True)
def test_what_comes_before_an_answer_is_none(peer: Peer) -> None:
    """Also to the first of many questions: the others' answers would be taken for those before them."""

    def script(client: socket.socket, number: int) -> None:
        rest = b""
        while piece := client.recv(999):
            *whole, rest = (rest + piece).split(b"\r\n\r\n")
            for id in (id for head in whole for id in ids_in(head)):
                client.sendall(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + answer_to(id))

    engine = peer(script)
    assert [c["Id"] for c in engine.inspect_containers(MANY)] == MANY
    assert engine.inspect_container("b") == {"Id": "b"}


@pytest.mark.parametrize("route", ["unix"], indirect=True)
@pytest.mark.parametrize("left", range(1, len(answer_to(b"c7"))))
def test_an_answer_that_is_cut_off_anywhere_is_asked_for_again(peer: Peer, left: int) -> None:
    """A head that ends with its connection is not taken for a whole one."""

    def script(client: socket.socket, number: int) -> None:
        for id in ids_in(until_end_of_head(client)):
            client.sendall(answer_to(id)[:left] if id == b"c7" and number == 0 else answer_to(id))
            if id == b"c7":
                return

    engine = peer(script)
    assert [c["Id"] for c in engine.inspect_containers(MANY[:9])] == MANY[:9]


@pytest.mark.parametrize("route", ["unix"], indirect=True)
def test_closing_ends_many_questions(peer: Peer) -> None:
    asked, done = threading.Event(), threading.Event()

    def script(client: socket.socket, number: int) -> None:
        client.sendall(answer_to(ids_in(until_end_of_head(client))[0]))
        asked.set()
        done.wait(10)

    engine = peer(script)
    failed: list[BaseException] = []

    def ask() -> None:
        try:
            engine.inspect_containers(MANY[:5])
        except EngineError as error:
            failed.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    assert asked.wait(10)
    engine.close()
    thread.join(10)
    done.set()
    assert not thread.is_alive()
    assert "closed by this process" in str(failed[0])


@WAYS
@pytest.mark.parametrize(
    ("said", "message"),
    [
        (b"", "the connection ended without an answer"),
        (b"SSH-2.0-OpenSSH_9\r\n", "the answer is not HTTP"),
        (b"HTTP/1.1 2x OK\r\n\r\n", "the answer is not HTTP"),
        (b"HTTP/1.1 200 OK\r\nA: " + b"a" * 70000, "the answer is not HTTP"),
        (b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 300, "the answer is not HTTP"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nab", "the connection ended before the answer did"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab", "the connection ended before the answer did"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\nab", "the connection ended before the answer"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n", "the connection ended before the answer"),
    ],
)
def test_what_is_no_whole_answer(peer: Peer, method: str, said: bytes, message: str) -> None:
    with pytest.raises(EngineUnreachable, match=f"trying: {message}"):
        peer(saying(said)).request(method, "/x", operation="trying").read()


CUT = [
    b"HTTP/1.1 200 OK\r\nA: b\r\nContent-Length: 30\r\n\r\n{}",
    b"HTTP/1.1 204 No Content\r\nA: b\r\n\r",
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n\r",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\nA: b\r\n\r",
]


class Said:
    """A socket on which these pieces arrive, and then its end."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self._pieces, self._rest = iter(pieces), b""

    def makefile(self, mode: str) -> io.BufferedReader:
        return io.BufferedReader(self)  # type: ignore[type-var]

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:
        piece = self._rest or next(self._pieces, b"")
        piece, self._rest = piece[: len(buffer)], piece[len(buffer) :]
        buffer[: len(piece)] = piece
        return len(piece)

    closed = False
    seekable = writable = lambda self: False
    close = flush = lambda self: None


def read_chunks(pieces: Iterable[bytes], bulk: bool) -> tuple[bytes, str]:
    """The body, and how it ended: read as it is, or as http.client does."""
    with _WholeHead(Said([b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", *pieces])) as answer:  # type: ignore[arg-type]
        answer.begin()
        chunks, found = _Chunks(answer), b""
        try:
            while piece := chunks.read(lambda: None) if bulk else answer.read1(1 << 16):
                found += piece
        except http.client.HTTPException as error:
            return found, type(error).__name__
        return found, "end"


PARTS = [
    b"2\r\n",
    b"ab",
    b"\r\n",
    b"0\r\n",
    b"\n",
    b"g",
    b";x",
    b"2",
    b" 1 \r\n",
    b"0x3\r\n",
    b"A: b\r\n",
    b"9" * 70_000,
]
CHUNK = st.binary(min_size=1, max_size=20).map(lambda body: b"%x\r\n%s\r\n" % (len(body), body))


@given(st.lists(CHUNK | st.sampled_from(PARTS), max_size=12).map(b"".join), st.lists(st.integers(1, 9), max_size=12))
def test_chunks_are_read_as_http_client_reads_them(said: bytes, cuts: list[int]) -> None:
    places = [0, *itertools.accumulate(cuts), len(said)]
    pieces = [said[a:b] for a, b in itertools.pairwise(places) if said[a:b]]
    assert read_chunks(pieces, bulk=True) == read_chunks(pieces, bulk=False)


def test_a_chunk_cannot_have_less_than_nothing() -> None:
    assert read_chunks([b"2\r\nab\r\n-5\r\nabcdefgh"], bulk=True) == (b"ab", "IncompleteRead")


def test_what_comes_after_a_chunked_answer_is_no_other_answer(peer: Peer) -> None:
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"

    def script(client: socket.socket, number: int) -> None:
        while until_end_of_head(client):
            client.sendall(chunked + b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n" * (number == 0))

    engine = peer(script)
    for _ in range(3):
        assert engine.request("POST", "/x", operation="trying").read() == b"{}"


@WAYS
@pytest.mark.parametrize("route", ["unix", "tcp"], indirect=True)  # ssh is carried as a change on unix is
@pytest.mark.parametrize("said", CUT)
def test_an_answer_that_is_cut_off_anywhere_is_none(peer: Peer, method: str, said: bytes) -> None:
    """Neither in its head nor in its body: what was to be changed may have been, or not."""
    cut = 0

    def script(client: socket.socket, number: int) -> None:
        until_end_of_head(client)
        client.sendall(said[:cut])

    engine = peer(script)
    for length in range(1, len(said) + 1):
        cut = length
        with pytest.raises(EngineUnreachable, match=r"trying: the (connection ended|answer is not HTTP)") as caught:
            engine.request(method, "/x", operation="trying").read()
        assert caught.value.maybe_done


@WAYS
@pytest.mark.parametrize(
    ("said", "body"),
    [
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", b"hi"),
        (b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 200_000, b"x" * 200_000),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2;a=b\r\nhi\r\n0\r\nx: y\r\n\r\n", b"hi"),
        (b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nhi", b"hi"),
        (b"HTTP/1.1 200 OK\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n", b"hi"),
        (b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n", b""),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nhi", b"hi"),
        (b"HTTP/1.1 204 No Content\r\n\r\nleft", b""),
        (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 4\r\n\r\nleft", b""),
    ],
)
def test_where_a_body_ends(peer: Peer, method: str, said: bytes, body: bytes) -> None:
    assert peer(saying(said)).request(method, "/x", operation="trying").read() == body


@WAYS
def test_a_huge_body_is_given_up(peer: Peer, method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("transport", "calls"):
        monkeypatch.setattr(f"sandboxrun.backend.docker.{module}.MAX_WHOLE", 1000)
    endless = b"HTTP/1.1 500 Oh\r\n\r\n" + b"x" * 200_000
    with pytest.raises(EngineError, match="the engine's answer is larger than 1000 bytes"):
        peer(saying(endless)).request(method, "/x", operation="trying").read()


def causes(error: BaseException | None) -> list[BaseException]:
    """The error and its causes; that there is an end to them."""
    found: list[BaseException] = []
    while error is not None:
        assert error not in found, "it is its own cause"
        found.append(error)
        error = error.__cause__
    return found


@WAYS
def test_a_body_larger_than_was_asked_for_is_an_error_of_that_call_alone(peer: Peer, method: str) -> None:
    engine = peer(saying(b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 200_000))
    with pytest.raises(EngineError, match="the engine's answer is larger than 1000 bytes") as caught:
        engine.request(method, "/x", operation="trying", most=1000).read()
    assert not isinstance(caught.value, EngineUnreachable)
    assert causes(caught.value)


@WAYS
def test_a_body_that_drips_is_given_up(peer: Peer, method: str) -> None:
    """The time is for all of an answer, not for each of its pieces."""

    def script(client: socket.socket, number: int) -> None:
        until_end_of_head(client)
        client.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            client.sendall(b"x")
            time.sleep(0.02)

    engine = peer(script)
    with pytest.raises(EngineTimeout, match="trying: no answer in time") as caught:
        engine.request(method, "/x", operation="trying", timeout=0.4).read()
    assert causes(caught.value)


@pytest.mark.parametrize("route", ["unix"], indirect=True)
@pytest.mark.parametrize("piece", [b"A", b"HTTP/1.1 100 Continue\r\n\r\n"])
def test_a_head_that_drips_is_given_up(peer: Peer, piece: bytes) -> None:
    def script(client: socket.socket, number: int) -> None:
        until_end_of_head(client)
        client.sendall(b"HTTP/1.1 200 OK\r\n" if len(piece) == 1 else b"")
        while True:
            client.sendall(piece)
            time.sleep(0.02)

    began = time.monotonic()
    with pytest.raises(EngineTimeout, match="trying: no answer in time"):
        peer(script).request("GET", "/x", operation="trying", timeout=0.4)
    assert time.monotonic() - began < 10


@WAYS
@pytest.mark.parametrize("route", ["unix", "ssh"], indirect=True)
def test_closing_the_engine_ends_what_waits_for_an_answer(peer: Peer, method: str) -> None:
    asked, done = threading.Event(), threading.Event()

    def script(client: socket.socket, number: int) -> None:
        until_end_of_head(client)
        asked.set()
        done.wait(60)

    engine = peer(script)

    def close() -> None:
        asked.wait(60)
        engine.close()

    threading.Thread(target=close).start()
    with pytest.raises(EngineUnreachable, match="trying: the connection"):
        engine.request(method, "/x", operation="trying", timeout=None).read()
    done.set()


def test_an_error_in_answer_to_head(peer: Peer) -> None:
    def script(client: socket.socket, number: int) -> None:
        while until_end_of_head(client):
            client.sendall(b"HTTP/1.1 404 Not Found\r\nContent-Length: 30\r\n\r\n")

    engine = peer(script)
    for _ in range(3):
        with pytest.raises(NotFound, match="looking at /x in container a"):
            engine.stat_archive("a", "/x")


def test_a_connection_serves_one_request_at_a_time(peer: Peer) -> None:
    """Answers that are closed and read in other threads never end what carries another request."""

    def script(client: socket.socket, number: int) -> None:
        while until_end_of_head(client):
            client.sendall(OK)

    engine, failures = peer(script), list[BaseException]()

    def work() -> None:
        try:
            for _ in range(50):
                answer = engine.request("POST", "/x", operation="trying")
                assert answer.read() == b"{}"
                answer.close()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_what_goes_over_docker_py(peer: Peer, route: str) -> None:
    heads: list[bytes] = []

    def script(client: socket.socket, number: int) -> None:
        while head := until_end_of_head(client):
            heads.append(head)
            client.sendall(OK)

    engine = peer(script)
    for method in ("POST", "PUT", "DELETE", "GET", "HEAD"):
        if method != "HEAD":
            engine.request(method, "/x", operation="trying", stream=True).read()
        engine.request(method, "/x", operation="trying").close()
    past = [head.split(b" ")[0] for head in heads if b"User-Agent: docker-sdk-python/" not in head]
    assert past == ([b"GET", b"HEAD"] if route == "unix" else [])


def test_a_question_to_a_local_engine_does_without_docker_py(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()

        def serve() -> None:
            client, _ = listener.accept()
            with client:
                while until_end_of_head(client):
                    client.sendall(b"HTTP/1.1 200 OK\r\nApi-Version: 1.41\r\nContent-Length: 2\r\n\r\n{}")

        threading.Thread(target=serve, daemon=True).start()
        program = (
            "import sys; from sandboxrun.backend.docker.client import connect\n"
            f"connect('unix://{path}').info(); print(sorted({{'docker', 'requests', 'urllib3'}} & sys.modules.keys()))"
        )
        assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stdout == "[]\n"


@pytest.mark.parametrize("carrier", [LocalTransport, DockerPyTransport])
@given(said=st.binary(max_size=400) | st.binary(max_size=200).map(b"HTTP/1.1 200 OK\r\n".__add__) | CHUNKS)
def test_any_bytes_are_an_answer_or_an_error(carrier: Callable[..., Transport], said: bytes) -> None:
    ends: list[socket.socket] = []

    def dial(timeout: float | None) -> socket.socket:
        ours, theirs = socket.socketpair()
        theirs.sendall(said)
        theirs.shutdown(socket.SHUT_WR)
        ends.append(theirs)
        return ours

    transport = carrier(Endpoint(url="unix:///none", origin="a test"), dial, parallelism=2)
    with Engine(transport, api_version="1.41") as engine, contextlib.suppress(EngineError):
        assert len(engine.request("GET", "/x", operation="trying", timeout=10).read()) <= len(said)
    for end in ends:
        end.close()
