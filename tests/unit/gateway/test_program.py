"""The gateway at work, as a process between two network namespaces: what it carries, its bounds, its rules' changes."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from sandboxrun.gateway.program.server import MAX_CONNECTIONS
from tests.unit.gateway.hellos import hello
from tests.unit.gateway.world import (
    OTHER,
    ROOT,
    SERVER,
    World,
    connect_request,
    echo,
    head_of,
    read_all,
    until,
)

GET = b"GET http://api.example.com/ HTTP/1.1\r\nHost: api.example.com\r\n\r\n"


def ssh(world: World) -> socket.socket:
    """A tunnel in which anything may be said."""
    world.names.table["ssh.example.com"] = [SERVER]
    return world.tunnel("ssh.example.com:22")


def small(peer: socket.socket) -> None:
    """Answers requests with their first line."""
    while head := head_of(peer):
        line = head.split(b"\r\n")[0]
        peer.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(line), line))


# -- tunnels


def test_a_host_may_speak_first(gateway: World) -> None:
    gateway.serve(SERVER, 22, lambda peer: peer.sendall(b"SSH-2.0-server\r\n") or echo(peer))
    with ssh(gateway) as sock:
        assert sock.recv(64) == b"SSH-2.0-server\r\n"
        sock.sendall(b"SSH-2.0-client\r\n")
        assert sock.recv(64) == b"SSH-2.0-client\r\n"


def test_tls_goes_through_as_it_is(gateway: World) -> None:
    data = hello(b"api.example.com", size=70)
    gateway.serve(SERVER, 443, lambda peer: peer.sendall(b"\x15\x03\x03\0\2\2\x28" + peer.recv(65536)))
    with gateway.tunnel("api.example.com:443") as sock:
        sock.sendall(data)
        assert read_all(sock) == b"\x15\x03\x03\0\2\2\x28" + data
    record = gateway.event("request", verdict="allowed")
    assert (record["reason"], record["sent"], record["received"]) == ("", len(data), len(data) + 7)
    assert (record["sandbox"], record["method"], record["host"]) == ("agent", "CONNECT", "api.example.com")
    assert (record["port"], record["address"]) == (443, SERVER) and record["seconds"] >= 0


def test_megabytes_both_ways_at_once(gateway: World) -> None:
    gateway.serve(SERVER, 22, echo)
    data = os.urandom(1 << 20) * 8
    with ssh(gateway) as sock:

        def send() -> None:
            sock.sendall(data)
            sock.shutdown(socket.SHUT_WR)

        sender = threading.Thread(target=send)
        sender.start()
        assert read_all(sock) == data
        sender.join()
    gateway.event("request", host="ssh.example.com", sent=len(data), received=len(data))


def test_a_client_that_ended_still_gets_the_answer(gateway: World) -> None:
    def talk(peer: socket.socket) -> None:
        data = read_all(peer)
        peer.sendall(b"got %d" % len(data))

    gateway.serve(SERVER, 22, talk)
    with ssh(gateway) as sock:
        sock.sendall(b"x" * 1000)
        sock.shutdown(socket.SHUT_WR)
        assert read_all(sock) == b"got 1000"


def test_a_host_that_ended_still_gets_what_the_client_sends(gateway: World) -> None:
    seen: list[bytes] = []

    def talk(peer: socket.socket) -> None:
        peer.sendall(b"bye")
        peer.shutdown(socket.SHUT_WR)
        seen.append(read_all(peer))

    gateway.serve(SERVER, 22, talk)
    with ssh(gateway) as sock:
        assert read_all(sock) == b"bye"
        sock.sendall(b"and you")
    until(lambda: seen == [b"and you"])


def test_an_end_without_a_byte(gateway: World) -> None:
    server = gateway.serve(SERVER, 443, echo)
    gateway.tunnel("api.example.com:443").close()
    gateway.event("request", verdict="allowed", reason="", sent=0)
    assert server.connections == 1


def test_connect_of_http_1_0_without_a_host(gateway: World) -> None:
    gateway.serve(SERVER, 22, echo)
    gateway.names.table["ssh.example.com"] = [SERVER]
    with gateway.client() as sock:
        sock.sendall(b"CONNECT ssh.example.com:22 HTTP/1.0\r\n\r\n")
        assert head_of(sock).startswith(b"HTTP/1.1 200 ")


def test_connect_whose_host_is_the_gateway(gateway: World) -> None:
    """As Node's http module has it; the target counts."""
    gateway.serve(SERVER, 22, echo)
    gateway.names.table["ssh.example.com"] = [SERVER]
    with gateway.client() as sock:
        sock.sendall(b"CONNECT ssh.example.com:22 HTTP/1.1\r\nHost: 127.0.0.1:3128\r\n\r\n")
        assert head_of(sock).startswith(b"HTTP/1.1 200 ")
    assert gateway.ask(b"GET http://api.example.com/ HTTP/1.1\r\nHost: 127.0.0.1:3128\r\n\r\n").startswith(
        b"HTTP/1.1 403 "
    )


def test_hosts_that_do_not_answer(gateway: World) -> None:
    assert gateway.connect("api.example.com:443").startswith(b"HTTP/1.1 502 api.example.com:443 can't be reached: conn")
    gateway.event("request", verdict="allowed", reason="unreachable", address=SERVER)
    gateway.names.table.pop("api.example.com")
    assert gateway.connect("api.example.com:443").startswith(b"HTTP/1.1 502 api.example.com has no address")
    gateway.event("request", verdict="allowed", reason="unresolved", address="")


def test_the_next_address_is_tried(gateway: World) -> None:
    gateway.serve(OTHER, 22, lambda peer: peer.sendall(b"other"))
    gateway.names.table["ssh.example.com"] = [SERVER, OTHER]
    with gateway.tunnel("ssh.example.com:22") as sock:
        assert sock.recv(5) == b"other"
    assert gateway.event("request", host="ssh.example.com")["address"] == OTHER


def test_a_refusal_says_what_to_do(gateway: World) -> None:
    answer = gateway.ask(connect_request("evil.example.net:443"))
    assert answer == (
        b"HTTP/1.1 403 evil.example.net:443 is not allowed\r\n"
        b"Content-Type: text/plain; charset=us-ascii\r\nContent-Length: 124\r\nConnection: close\r\n\r\n"
        b"sandboxrun: denied: evil.example.net:443 is not allowed\n"
        b"to permit it, list it under egress: allow: in the sandbox's profile\n"
    )


# -- plain HTTP


def test_requests_one_after_the_other(gateway: World) -> None:
    gateway.serve(SERVER, 80, small)
    with gateway.client() as sock:
        for number in range(3):
            sock.sendall(GET.replace(b"/ HTTP", b"/%d HTTP" % number))
            assert head_of(sock).startswith(b"HTTP/1.1 200 OK\r\n")
            assert sock.recv(100) == b"GET /%d HTTP/1.1" % number
    gateway.event("request", 3, verdict="allowed", method="GET")
    assert len(gateway.requests()) == 3


def test_a_client_that_wants_no_more(gateway: World) -> None:
    gateway.serve(SERVER, 80, small)
    with gateway.client() as sock:
        sock.sendall(GET[:-2] + b"Connection: close\r\n\r\n" + GET)
        answer = read_all(sock)
    assert answer.count(b"HTTP/1.1 200 OK") == 1 and b"\r\nConnection: close\r\n" in answer
    assert answer.endswith(b"GET / HTTP/1.1")


def test_a_connection_to_a_host_serves_several_requests_of_one_client(gateway: World) -> None:
    server = gateway.serve(SERVER, 80, small)
    gateway.ask(GET * 3)
    gateway.event("request", 3, verdict="allowed", address=SERVER)
    assert server.connections == 1
    gateway.ask(GET)
    assert server.connections == 2


def test_a_connection_that_a_host_ended_is_not_used_again(gateway: World) -> None:
    def talk(peer: socket.socket) -> None:
        head_of(peer)
        peer.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    server = gateway.serve(SERVER, 80, talk)
    with gateway.client() as sock:
        for _ in range(3):
            sock.sendall(GET)
            assert head_of(sock).startswith(b"HTTP/1.1 200") and sock.recv(2) == b"ok"
            time.sleep(0.05)
    assert server.connections == 3


def test_an_answer_that_is_shorter_than_it_said(gateway: World) -> None:
    def talk(peer: socket.socket) -> None:
        head_of(peer)
        peer.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nshort")

    gateway.serve(SERVER, 80, talk)
    gateway.ask(GET)
    gateway.event("request", verdict="allowed", reason="broken")


def test_an_answer_that_is_longer_than_it_said(gateway: World) -> None:
    def talk(peer: socket.socket) -> None:
        head_of(peer)
        peer.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok" + b"e" * 100)
        head_of(peer)

    server = gateway.serve(SERVER, 80, talk)
    answer = gateway.ask(GET * 2)
    assert answer.count(b"\r\n\r\nok") == 2 and b"ee" not in answer
    assert server.connections == 2


def test_requests_sent_at_once(gateway: World) -> None:
    gateway.serve(SERVER, 80, small)
    answer = gateway.ask(b"".join(GET.replace(b"/ HTTP", b"/%d HTTP" % number) for number in range(20)))
    assert answer.count(b"HTTP/1.1 200 OK") == 20
    assert answer.index(b"GET /7 ") < answer.index(b"GET /8 ")
    gateway.event("request", 20, verdict="allowed")


def test_chunks_both_ways(gateway: World) -> None:
    seen: list[bytes] = []

    def talk(peer: socket.socket) -> None:
        data = b""
        while not data.endswith(b"0\r\n\r\n"):
            data += peer.recv(65536)
        seen.append(data)
        peer.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX-Trailer: 1\r\n\r\n")

    gateway.serve(SERVER, 80, talk)
    head = b"POST http://api.example.com/ HTTP/1.1\r\nHost: api.example.com\r\nTransfer-Encoding: chunked\r\n\r\n"
    answer = gateway.ask(head + b"3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n")
    assert answer.lower().count(b"transfer-encoding: chunked") == 1 and answer.endswith(b"hello\r\n0\r\n\r\n")
    assert b"abc" in seen[0] and b"de" in seen[0] and b"x=y" not in seen[0]


def test_an_answer_that_ends_with_the_connection(gateway: World) -> None:
    def talk(peer: socket.socket) -> None:
        head_of(peer)
        peer.sendall(b"HTTP/1.0 200 OK\r\n\r\n" + b"z" * 300000)

    gateway.serve(SERVER, 80, talk)
    answer = gateway.ask(GET)
    assert answer.count(b"z") == 300000 and answer.endswith(b"0\r\n\r\n")


def test_an_answer_that_is_cut_is_seen_as_cut(gateway: World) -> None:
    def talk(peer: socket.socket) -> None:
        head_of(peer)
        peer.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")

    gateway.serve(SERVER, 80, talk)
    assert not gateway.ask(GET).endswith(b"0\r\n\r\n")
    gateway.event("request", verdict="allowed", reason="broken")


def test_an_answer_that_is_no_http(gateway: World) -> None:
    gateway.serve(SERVER, 80, lambda peer: peer.sendall(b"SSH-2.0-server\r\n\r\n"))
    assert gateway.ask(GET).startswith(b"HTTP/1.1 502 api.example.com:80 gave no answer that is HTTP")


def test_head_has_no_body(gateway: World) -> None:
    def talk(peer: socket.socket) -> None:
        while head_of(peer):
            peer.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")

    gateway.serve(SERVER, 80, talk)
    answer = gateway.ask(GET.replace(b"GET", b"HEAD") * 2)
    assert answer.count(b"HTTP/1.1 200 OK") == 2 and answer.count(b"Content-Length: 1000") == 2


def test_a_client_that_waits_to_be_told_to_go_on(gateway: World) -> None:
    def talk(peer: socket.socket) -> None:
        assert b"expect" not in head_of(peer).lower()
        peer.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n" + peer.recv(4))

    gateway.serve(SERVER, 80, talk)
    with gateway.client() as sock:
        sock.sendall(GET.replace(b"GET", b"PUT")[:-2] + b"Content-Length: 4\r\nExpect: 100-continue\r\n\r\n")
        assert head_of(sock).startswith(b"HTTP/1.1 100 ")
        sock.sendall(b"body")
        assert head_of(sock).startswith(b"HTTP/1.1 200 ")
        assert sock.recv(4) == b"body"


def test_a_host_that_says_early_hints_first(gateway: World) -> None:
    def talk(peer: socket.socket) -> None:
        head_of(peer)
        peer.sendall(b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n")

    gateway.serve(SERVER, 80, talk)
    assert gateway.ask(GET).startswith(b"HTTP/1.1 204 No Content\r\n")


def test_a_large_upload_and_download(gateway: World) -> None:
    size = 5 << 20

    def talk(peer: socket.socket) -> None:
        head_of(peer)
        left = size
        while left:
            left -= len(peer.recv(65536))
        peer.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + b"d" * size)

    gateway.serve(SERVER, 80, talk)
    head = GET.replace(b"GET", b"PUT")[:-2] + b"Content-Length: %d\r\n\r\n" % size
    answer = gateway.ask(head + b"u" * size)
    assert answer.endswith(b"d" * size)
    record = gateway.event("request", method="PUT", verdict="allowed")
    assert record["sent"] > size and record["received"] > size


# -- bounds


@pytest.mark.parametrize("data", [b"G" * 100000, b"GET http://api.example.com/" + b"a" * 100000 + b" HTTP/1.1\r\n\r\n"])
def test_a_head_that_is_too_long(gateway: World, data: bytes) -> None:
    answer = gateway.ask(data)
    assert answer.startswith((b"HTTP/1.1 431 ", b"HTTP/1.1 400 "))
    gateway.event("request", verdict="denied")


def test_fields_that_are_too_many(gateway: World) -> None:
    answer = gateway.ask(GET[:-2] + b"X: y\r\n" * 20000 + b"\r\n")
    assert answer.startswith(b"HTTP/1.1 431 ")
    gateway.event("request", verdict="denied", reason="too-large")


def test_connections_that_never_become_requests(gateway: World) -> None:
    gateway.client().close()
    gateway.event("request", verdict="denied", reason="request", method="", host="", sent=0, received=0)
    with gateway.client() as sock:
        sock.sendall(b"GET ")
    gateway.event("request", 2, verdict="denied", reason="request")


def test_text_in_records_is_bounded_and_escaped(gateway: World) -> None:
    gateway.ask(b"CONNECT " + b"a" * 9000 + b":443 HTTP/1.1\r\nHost: x\r\n\r\n")
    assert len(str(gateway.event("request", reason="name")["host"])) <= 256
    gateway.ask(b"GET http://\x1b[2J.example.com/ HTTP/1.1\r\nHost: x\r\n\r\n")
    gateway.event("request", 2, verdict="denied")


def test_a_client_that_stops_in_the_middle_keeps_nobody_else_waiting(gateway: World) -> None:
    gateway.serve(SERVER, 22, echo)
    stuck = [gateway.client() for _ in range(20)]
    for sock in stuck:
        sock.sendall(b"CONNECT ssh.ex")
    with ssh(gateway) as sock:
        sock.sendall(b"x")
        assert sock.recv(1) == b"x"
    for sock in stuck:
        sock.close()
    gateway.event("request", 20, verdict="denied", reason="request")


def test_a_client_that_reads_nothing_makes_the_host_wait(gateway: World) -> None:
    """The gateway holds no more than its buffers: the host's sending stops, and the memory stays small."""
    sent = [0]

    def talk(peer: socket.socket) -> None:
        peer.settimeout(1)
        while True:
            sent[0] += peer.send(b"x" * 65536)

    gateway.serve(SERVER, 22, talk)
    with ssh(gateway) as sock:
        sock.recv(1)
        last = -1
        while last != sent[0]:
            last = sent[0]
            time.sleep(0.3)
        assert sent[0] < 64 << 20
    assert gateway.process is not None


def test_its_memory_is_bounded_when_nobody_reads(world: World) -> None:
    """With all the connections there may be, each stuck both ways, it stays well below its container's 64 MB."""
    world.start()
    sending = [0]

    def talk(peer: socket.socket) -> None:
        sending[0] += 1
        peer.settimeout(None)
        while True:
            peer.sendall(b"x" * (1 << 20))

    world.serve(SERVER, 22, talk)
    world.names.table["ssh.example.com"] = [SERVER]
    before = memory(world)
    stuck = [world.tunnel("ssh.example.com:22") for _ in range(MAX_CONNECTIONS)]
    for sock in stuck:
        sock.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                sock.send(b"y" * (1 << 20))
    until(lambda: sending[0] == MAX_CONNECTIONS)
    time.sleep(0.5)
    assert memory(world) - before < 45 << 20
    for sock in stuck:
        sock.close()
    world.event("request", MAX_CONNECTIONS, host="ssh.example.com")


def memory(world: World) -> int:
    """Bytes of its own."""
    assert world.process is not None
    lines = Path(f"/proc/{world.process.pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Private_"))


def test_more_connections_than_there_may_be_wait(world: World) -> None:
    world.start()
    world.serve(SERVER, 22, echo)
    world.names.table["ssh.example.com"] = [SERVER]
    held = [world.client() for _ in range(MAX_CONNECTIONS)]
    waiting = world.client()
    waiting.sendall(connect_request("evil.example.net:443"))
    waiting.settimeout(0.3)
    with pytest.raises(TimeoutError):
        waiting.recv(1)
    waiting.settimeout(15)
    for sock in held:
        sock.close()
    assert head_of(waiting).startswith(b"HTTP/1.1 403")
    waiting.close()


def test_the_budget_of_records(world: World) -> None:
    world.start(records=3000)
    world.serve(SERVER, 22, echo)
    world.names.table["ssh.example.com"] = [SERVER]
    with ssh(world) as sock:
        for _ in range(20):
            world.connect("evil.example.net:443")
        world.event("budget")
        assert world.connect("ssh.example.com:22").startswith(b"HTTP/1.1 403 ")
        sock.sendall(b"x")  # what is open already was recorded as such, or has its place at the end
    before = len(world.requests())
    world.connect("evil.example.net:443")
    assert world.process is not None
    world.process.send_signal(signal.SIGTERM)
    assert world.event("stopped")["unrecorded"] > 0
    assert len(world.requests()) == before < 20


def test_a_flood_of_connections_is_survived(world: World) -> None:
    world.start(records=1 << 30)
    for _ in range(300):
        sock = world.client()
        sock.sendall(b"\x00" * 100)
        sock.close()
    world.event("request", 300, verdict="denied")
    assert world.process is not None and world.process.poll() is None


# -- rules that change, and the end


def test_a_changed_list_ends_what_it_no_longer_allows(world: World) -> None:
    world.start()
    world.serve(SERVER, 22, echo)
    world.serve(SERVER, 23, echo)
    world.names.table["ssh.example.com"] = [SERVER]
    with ssh(world) as kept, ssh(world) as other:
        kept.sendall(b"x")
        assert kept.recv(1) == b"x"
        world.write_rules(allow=("ssh.example.com:22", "ssh.example.com:23"))
        hup(world)
        world.event("rules")
        with world.tunnel("ssh.example.com:23") as third:
            world.write_rules(allow=("ssh.example.com:23",))
            hup(world)
            assert world.event("request", reason="rules", port=22)["verdict"] == "allowed"
            world.event("request", 2, reason="rules", port=22)
            third.sendall(b"y")
            assert third.recv(1) == b"y"
        other.close()
    assert world.connect("ssh.example.com:22").startswith(b"HTTP/1.1 403 ")
    assert world.connect("api.example.com:443").startswith(b"HTTP/1.1 403 ")


def test_a_range_that_is_closed_ends_what_it_carried(world: World) -> None:
    world.start(private_networks=("10.50.0.0/16",))
    world.serve("10.50.0.10", 22, echo)
    world.names.table["ssh.example.com"] = ["10.50.0.10"]
    with world.tunnel("ssh.example.com:22") as sock:
        world.write_rules()
        hup(world)
        world.event("request", reason="rules", address="10.50.0.10")
        with pytest.raises((ConnectionError, AssertionError)):
            assert sock.recv(1) != b""


def test_rules_that_are_no_rules_change_nothing(world: World) -> None:
    world.start()
    world.serve(SERVER, 22, echo)
    first = world.event("ready")["digest"]
    with ssh(world) as sock:
        world.rules.write_bytes(b'{"version": 1')
        hup(world)
        told = world.event("rules-refused")
        assert told["digest"] == first and "not a rules document" in str(told["error"])
        world.rules.unlink()
        hup(world)
        world.event("rules-refused", 2)
        sock.sendall(b"x")
        assert sock.recv(1) == b"x"
    assert world.connect("evil.example.net:443").startswith(b"HTTP/1.1 403 ")
    world.write_rules()
    hup(world)
    assert world.event("rules")["digest"] == first


def hup(world: World) -> None:
    assert world.process is not None
    world.process.send_signal(signal.SIGHUP)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_end_is_recorded(world: World, number: signal.Signals) -> None:
    world.start()
    world.serve(SERVER, 22, echo)
    with ssh(world) as sock:
        sock.sendall(b"abc")
        assert sock.recv(3) == b"abc"
        stuck = world.client()
        stuck.sendall(b"CONN")
        assert world.process is not None
        world.process.send_signal(number)
        assert world.process.wait(10) == 0
        stuck.close()
    assert world.process.stderr is not None and world.process.stderr.read() == b""
    world.event("stopped", unrecorded=0)
    world.event("request", reason="stopped", host="ssh.example.com", sent=3, received=3)


def test_what_lasts_is_told_while_it_lasts(gateway: World) -> None:
    gateway.serve(SERVER, 22, echo)
    with ssh(gateway):
        record = gateway.event("open", host="ssh.example.com")
        assert (record["verdict"], record["address"]) == ("allowed", SERVER)


def test_nothing_of_a_clients_doing_reaches_stderr(world: World) -> None:
    world.start()
    world.serve(SERVER, 22, lambda peer: None)
    world.serve(SERVER, 80, lambda peer: None)
    for data in (b"\xff" * 1000, GET, connect_request("ssh.example.com:22") + b"x" * 100000, b"\r\n\r\n"):
        for _ in range(3):
            sock = world.client()
            sock.sendall(data)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            sock.close()
    world.event("request", 12)
    assert world.process is not None and world.process.stderr is not None
    world.process.terminate()
    assert world.process.wait(10) == 0
    assert world.process.stderr.read() == b""


# -- the command line


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "sandboxrun.gateway.program", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=30, check=False)


def test_a_wrong_command_line() -> None:
    done = run("serve")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("usage: gateway serve --listen")


def test_without_rules_nothing_is_served(tmp_path: Path) -> None:
    (tmp_path / "rules.json").write_text("{}")
    for name in ("none.json", "rules.json"):
        done = run("serve", "--listen", "127.0.0.1:0", "--rules", str(tmp_path / name))
        assert (done.returncode, done.stdout) == (1, "") and done.stderr.startswith("gateway: ")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_keep_waits_for_its_end(number: signal.Signals) -> None:
    keeper = subprocess.Popen([sys.executable, "-m", "sandboxrun.gateway.program", "keep"], cwd=ROOT)
    waits = Path(f"/proc/{keeper.pid}/wchan")
    until(lambda: "sigtimedwait" in waits.read_text())
    assert keeper.poll() is None
    keeper.send_signal(number)
    assert keeper.wait(10) == 0
