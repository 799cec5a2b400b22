"""The companion's care for HAProxy: other rules, records that can't be written, limits, and who ends with whom."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest

from sandboxrun.gateway.companion.haproxy import HEAD_SECONDS
from sandboxrun.gateway.companion.records import End, Fault, Open, read_line
from scripts import haproxy
from tests.unit.gateway.hellos import hello
from tests.unit.gateway.test_bypasses import answering, get, refused, through
from tests.unit.gateway.world import ALLOWED, OTHER, PATIENCE, SERVER, World, echo, head_of, read_all, until, why_not

pytestmark = pytest.mark.skipif(why_not() is not None, reason=str(why_not()))
NAMED = os.environ.get(haproxy.CHOSEN)
LESS = tuple(entry for entry in ALLOWED if not entry.startswith("api."))


def tunnel(world: World, name: bytes, port: int = 443) -> socket.socket:
    sock = world.connect(port)
    data = hello(name)
    sock.sendall(data)
    assert sock.recv(len(data), socket.MSG_WAITALL) == data
    return sock


def alive(sock: socket.socket) -> bool:
    sock.sendall(b"x")
    return sock.recv(1) == b"x"


def state_of(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_a_connection_ends_at_its_greatest_age_however_busy(own: World) -> None:
    own.start(otherwise="gateway.LIFETIME_SECONDS = 1.5")
    own.serve(SERVER, 443, echo)
    with tunnel(own, b"api.example.com") as sock:
        sock.settimeout(15)
        with contextlib.suppress(OSError):
            while alive(sock):
                time.sleep(0.05)
    record = own.event("request", host="api.example.com", reason="lifetime")
    assert record["verdict"] == "allowed" and record["seconds"] > 1
    with tunnel(own, b"api.example.com") as again:
        assert alive(again)


def test_its_first_record_says_which_haproxy_it_is(own: World) -> None:
    own.start()
    said = subprocess.run(["haproxy", "-v"], capture_output=True, text=True, check=True).stdout
    assert said.startswith(f"HAProxy version {own.event('ready')['haproxy']} ")
    assert NAMED is None or shutil.which("haproxy") == f"{NAMED}/haproxy"


# -- other rules


def test_what_is_still_allowed_goes_on_and_the_rest_ends(own: World) -> None:
    own.start()
    own.serve(SERVER, 443, echo)
    with tunnel(own, b"api.example.com") as gone, tunnel(own, b"a.models.example.org") as kept:
        time.sleep(0.1)
        own.reload(allow=LESS)
        assert read_all(gone) == b""
        record = own.event("request", host="api.example.com")
        assert (record["verdict"], record["reason"], record["sent"] > 0) == ("allowed", "rules", True), own.records
        assert alive(kept)
        assert own.name("api.example.com") == (3, []) and own.name("a.models.example.org")[0] == 0
        assert own.ask(443, hello(b"api.example.com"), end=True) == b""
        refused(own, "host", host="api.example.com", protocol="tls")
        assert len(own.workers()) == 2
    until(lambda: len(own.workers()) == 1)
    assert own.event("request", host="a.models.example.org")["reason"] == ""


def test_ports_come_and_go(own: World) -> None:
    own.start(allow=["api.example.com:443"])
    with pytest.raises(ConnectionRefusedError):
        own.connect(5432)
    own.serve(SERVER, 5432, echo)
    own.reload(allow=["api.example.com:5432"])
    assert through(own, 5432, b"\0\0\0\x08") == b"\0\0\0\x08"
    with pytest.raises(ConnectionRefusedError):
        own.connect(443)


def test_an_address_that_is_closed_now(own: World) -> None:
    own.start(private_networks=["10.50.0.0/24"])
    own.names.table["api.example.com"] = ["10.50.0.10"]
    own.serve("10.50.0.10", 443, echo)
    with tunnel(own, b"api.example.com") as gone:
        time.sleep(0.1)
        own.reload()
        assert read_all(gone) == b""
    assert own.event("request", host="api.example.com")["reason"] == "rules"


def test_a_connection_that_is_kept_alive_is_not_a_way_around(own: World) -> None:
    seen: list[bytes] = []
    own.start()
    own.serve(SERVER, 80, answering(seen))
    request = get().replace(b"Connection: close\r\n", b"")
    with own.connect(80) as sock:
        sock.sendall(request)
        head_of(sock)
        assert sock.recv(2) == b"ok"
        own.reload(allow=["two.example.com:443"])
        sock.sendall(request)
        assert b"200" not in read_all(sock)
    assert len(seen) == 1


def test_a_hello_that_began_before(own: World) -> None:
    own.start()
    server = own.serve(SERVER, 443, echo)
    data = hello(b"api.example.com")
    with own.connect(443) as sock:
        sock.sendall(data[:20])
        time.sleep(0.2)
        own.reload(allow=LESS)
        with contextlib.suppress(OSError):
            sock.sendall(data[20:])
        assert read_all(sock) == b""
    assert server.connections == 0


def test_workers_do_not_gather(own: World) -> None:
    own.start()
    own.serve(SERVER, 443, echo)
    kept = []
    for number in range(5):
        kept.append(tunnel(own, b"api.example.com"))
        time.sleep(0.05)
        own.reload(sandbox=f"agent-{number}")
        assert len(own.workers()) <= 3
    assert [alive(sock) for sock in kept[-2:]] == [True, True]
    assert read_all(kept[0]) == b""
    assert own.event("request", host="api.example.com")["reason"] == "rules"
    for sock in kept:
        sock.close()


def test_rules_that_are_not_understood_change_nothing(own: World) -> None:
    own.start()
    own.serve(SERVER, 443, echo)
    assert own.process is not None
    for count, text in enumerate((b"{", b"[]", b""), 1):
        own.rules.write_bytes(text)
        own.process.send_signal(signal.SIGHUP)
        own.event("rules-refused", count)
    own.rules.unlink()
    own.process.send_signal(signal.SIGHUP)
    own.event("rules-refused", 4)
    data = hello(b"api.example.com")
    assert through(own, 443, data) == data and len(own.workers()) == 1


# -- who ends with whom


def test_it_ends_with_haproxy(own: World) -> None:
    own.start()
    assert own.process is not None
    os.kill(own.workers()[0], signal.SIGKILL)
    assert own.process.wait(PATIENCE) == 1
    own.event("died", code=-9)
    with pytest.raises(OSError):
        own.name("api.example.com")


def test_a_haproxy_that_hangs_is_ended(own: World) -> None:
    """Health is looked at every ten seconds."""
    own.start()
    assert own.process is not None
    os.kill(own.workers()[0], signal.SIGSTOP)
    assert own.process.wait(PATIENCE) == 1
    own.event("died")


def test_it_stops_when_it_is_told(own: World) -> None:
    own.start()
    own.serve(SERVER, 443, echo)
    with tunnel(own, b"api.example.com") as sock:
        time.sleep(0.1)
        assert own.stop() == 0
        assert read_all(sock) == b""
    record = own.event("request", host="api.example.com")
    assert (record["verdict"], record["reason"], record["sent"] > 0) == ("allowed", "stopped", True)
    assert own.event("stopped")["unrecorded"] == 0


def test_rules_that_haproxy_does_not_take(own: World, tmp_path: Path) -> None:
    """An address that is not here: nothing is served, and it says so."""
    own.inner.ip("link", "set", "in", "down")
    own.inner.ip("addr", "flush", "dev", "in")
    with pytest.raises(AssertionError):
        own.start()
    assert own.process is not None and own.process.wait(PATIENCE) == 1


# -- records


def test_what_lasts_is_recorded_while_it_does(own: World) -> None:
    own.start()
    own.serve(SERVER, 443, echo)
    with tunnel(own, b"api.example.com"):
        record = own.event("open", host="api.example.com")
        assert (record["port"], record["address"], record["protocol"]) == (443, SERVER, "tls")
        assert own.process is not None
        own.process.kill()


def test_more_than_may_be_recorded(own: World) -> None:
    own.start(records=6000)
    own.serve(SERVER, 443, echo)
    with tunnel(own, b"api.example.com") as sock:
        for number in range(40):
            own.name(f"n{number}.example.net")
            if [r for r in own.records if r["event"] == "budget"]:
                break
        own.event("budget")
        assert read_all(sock) == b""
    until(lambda: own.workers() == [])
    with pytest.raises(OSError):
        own.connect(443)
    assert own.process is not None and own.process.poll() is None
    own.rules.write_bytes(own.rules.read_bytes())
    own.process.send_signal(signal.SIGHUP)
    own.event("rules")
    assert own.workers() == []
    assert own.stop() == 0
    assert own.event("stopped")["unrecorded"] >= 0


@pytest.mark.parametrize("count", [6000])
def test_a_log_that_is_not_read_stops_everything_and_loses_nothing(own: World, count: int) -> None:
    """What could not be recorded does not happen: HAProxy stands still until it can be."""
    reader, writer = os.pipe()
    own.start(output=writer)
    os.close(writer)
    until(lambda: listening(own))
    (worker,) = own.workers()

    def flood() -> int:
        done = 0
        with socket.create_connection(("10.77.1.2", 80), timeout=10) as sock:
            for number in range(count):
                try:
                    sock.sendall(b"GET / HTTP/1.1\r\nHost: %d%s.example.net\r\n\r\n" % (number, b"x" * 50))
                    head = head_of(sock)
                    sock.recv(int(head.lower().partition(b"content-length: ")[2].split(b"\r")[0]), socket.MSG_WAITALL)
                except OSError:
                    return done
                done += 1
        return done

    done = own.sandbox.inside(flood)
    assert 3000 < done < count, "it went on without its records"
    assert state_of(worker) == "T"
    hosts: list[str] = []
    with os.fdopen(reader, "rb") as log:
        while len(hosts) < done:
            hosts += filter(None, [json.loads(log.readline()).get("host")])
    assert hosts == [f"{n}{'x' * 50}.example.net" for n in range(done)]
    until(lambda: state_of(worker) != "T")


def listening(world: World) -> bool:
    try:
        world.connect(443).close()
    except OSError:
        return False
    return True


# -- limits


def test_records_that_are_lost_are_a_fault_even_at_the_end(own: World) -> None:
    """A companion that gets no CPU reads slower than HAProxy writes. What HAProxy had no room for it says with the next
    record, which here does not come."""
    own.start(otherwise="haproxy.RING = 1 << 16")
    assert own.process is not None
    data = hello(b"x" * 60 + b"." + b"y" * 60 + b"." + b"z" * 60 + b".example.net")
    own.process.send_signal(signal.SIGSTOP)
    until(lambda: all(own.ask(443, data) == b"" for _ in range(100)) and dropped(own) > 0)
    own.process.send_signal(signal.SIGTERM)
    own.process.send_signal(signal.SIGCONT)
    assert "records were lost" in own.event("fault")["error"]
    assert own.process.wait(PATIENCE) == 1


def test_what_was_said_and_not_heard_yet_is_heard_at_the_end(own: World) -> None:
    """A sandbox that ends right behind a flood hides nothing by it."""
    own.start()
    assert own.process is not None
    own.process.send_signal(signal.SIGSTOP)
    for number in range(1500):
        assert own.ask(443, hello(b"n%d.%s.example.net" % (number, b"x" * 60))) == b""
    own.process.send_signal(signal.SIGTERM)
    own.process.send_signal(signal.SIGCONT)
    assert own.process.wait(PATIENCE) == 0
    own.event("stopped")
    assert [record["host"].partition(".")[0] for record in own.requests()] == [f"n{n}" for n in range(1500)]


def dropped(world: World) -> int:
    """How many records HAProxy had no room for, by its own words."""
    with socket.socket(socket.AF_UNIX) as admin:
        admin.connect(str(world.folder / "run/1/admin.sock"))
        admin.sendall(b"show events\n")
        (line,) = (line for line in read_all(admin).splitlines() if line.strip().startswith(b"records "))
    return int(line.split(b"buffer, ")[1].split()[0])


def test_many_connections_starve_nobody_but_themselves(own: World) -> None:
    own.start()
    own.serve(SERVER, 443, echo)
    slow = [own.connect(443) for _ in range(100)]
    for sock in slow:
        sock.sendall(b"\x16")
    data = hello(b"api.example.com")
    began = time.monotonic()
    assert through(own, 443, data) == data and time.monotonic() - began < HEAD_SECONDS
    assert own.name("api.example.com")[0] == 0
    for sock in slow:
        sock.close()


def test_memory_has_an_end(own: World) -> None:
    """As many connections as there may be, each with as much as is kept of one."""
    own.start()
    own.serve(SERVER, 443, lambda peer: time.sleep(5))
    held = []
    data = hello(b"api.example.com") + bytes(200_000)
    for _ in range(192):
        sock = own.connect(443)
        sock.setblocking(False)
        sock.send(data)
        held.append(sock)
    time.sleep(1)
    assert own.process is not None
    sizes = {pid: memory(pid) for pid in (own.process.pid, *own.workers())}
    assert sum(sizes.values()) < 60 << 20, sizes
    for sock in held:
        sock.close()


def memory(pid: int) -> int:
    """What a process has for itself, in bytes."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss_Anon:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no such line")


def test_its_own_socket_is_its_own(own: World) -> None:
    own.start()
    (folder,) = [path for path in (own.folder / "run").iterdir() if path.is_dir()]
    assert folder.stat().st_mode & 0o777 == 0o700
    assert (folder / "admin.sock").stat().st_mode & 0o777 == 0o600


def test_usage() -> None:
    done = subprocess.run(
        ["python3", "-m", "sandboxrun.gateway.companion", "serve"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2 and done.stderr.startswith("usage: gateway serve")


def test_open_mode(own: World) -> None:
    own.start(mode="open", allow=["ssh.example.com:22"], ports=[8443])
    own.serve(OTHER, 443, echo)
    own.serve(OTHER, 80, answering())
    own.serve(OTHER, 8443, echo)
    own.serve(SERVER, 22, echo)
    data = hello(b"evil.example.net")
    for port in (443, 8443):
        assert through(own, port, data) == data
    assert own.ask(80, get(host="evil.example.net")).endswith(b"ok")
    assert through(own, 22, b"SSH-2.0-x\r\n") == b"SSH-2.0-x\r\n"
    assert own.ask(22, data) == b"" and own.ask(8443, b"SSH-2.0-x\r\n", end=True) == b""
    for name, reason in (("inside.example.net", "private"), ("metadata.example.net", "reserved")):
        own.names.table[name] = ["10.50.0.10" if reason == "private" else "169.254.169.254"]
        assert own.ask(443, hello(name.encode()), end=True) == b""
        refused(own, reason, host=name)
    assert own.ask(443, hello(SERVER.encode()), end=True) == b""
    assert own.ask(80, get(host=SERVER)).startswith(b"HTTP/1.1 403")
    assert own.name("localhost") == (3, [])


@pytest.mark.parametrize("how", ["stop", "reload"])
def test_records_that_gather_are_heard_before_it_ends_or_goes_by_other_rules(own: World, how: str) -> None:
    own.start(otherwise="gateway.HEAR_SECONDS = 3600.0")
    assert own.ask(80, get(host="one.example.net")).startswith(b"HTTP/1.1 403")
    own.event("request", host="one.example.net")
    assert own.ask(80, get(host="two.example.net")).startswith(b"HTTP/1.1 403")
    assert len(own.requests()) == 1
    if how == "stop":
        assert own.stop() == 0
        own.event("stopped", unrecorded=0)
        assert [record["event"] for record in own.records] == ["ready", "request", "request", "stopped"]
    else:
        own.reload()  # once nothing is open any more, the worker with the earlier rules goes, and is heard before
    own.event("request", host="two.example.net")


@pytest.mark.parametrize("host", ["a.example.com", f"{'a' * 60}.{'b' * 60}.example.com", f"{'a.' * 120}example.com"])
def test_what_is_said_of_a_long_name_is_read(host: str) -> None:
    written = host.encode().hex().upper()
    begun = read_line(f"[debug] open: type=str <7-1/tls/443/198.41.0.10/{written}>".encode())
    assert isinstance(begun, Open) and begun.host == host[:255]
    end = f"end 7-1 1764442800 12 tls 443 allowed - 198.41.0.10 - {written} 517 80 1200 -- 0"
    over = read_line(end.encode())
    assert isinstance(over, End) and over.host == host[:255]
    for line in (
        f"[debug] open: type=str <7-1/{written[:20]}!/443/198.41.0.10/{written}>",
        f"[debug] open: type=str <7-1/tls/443/198.41.0.10/{written}",
        f"{end} 0",
        f"{end}\n",
        end.replace("443", "x"),
        end.replace(written, "6Z"),
    ):
        with pytest.raises(Fault):
            read_line(line.encode())
