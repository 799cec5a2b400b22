"""Records: their form, their bounds, their budget. And where the gateway itself stands."""

from __future__ import annotations

import ipaddress
import json
from typing import Any

import hypothesis.strategies as st
from hypothesis import given

from sandboxrun.gateway.program.exchanges import Exchange, answer_to
from sandboxrun.gateway.program.records import MAX_TEXT, OVERHEAD, Records, clipped, timestamp
from sandboxrun.gateway.program.refusals import Failed, Refused
from sandboxrun.gateway.program.surroundings import neighbours, own_ipv4, own_ipv6


def kept() -> tuple[Records, list[bytes]]:
    """Records that are written at once."""
    written: list[bytes] = []
    records = Records(written.append)
    return records, written


def test_times_are_utc_to_the_millisecond() -> None:
    assert timestamp(0.9996) == "1970-01-01T00:00:00.999Z"
    assert timestamp(1764000000.25) == "2025-11-24T16:00:00.250Z"


def test_lines_are_written_together() -> None:
    records, written = kept()
    records.tell("a")
    records.tell("b", x=1)
    assert written == []
    records.flush()
    (data,) = written
    assert [json.loads(line)["event"] for line in data.splitlines()] == ["a", "b"]
    assert data.endswith(b"}\n")
    records.flush()
    assert len(written) == 1


def test_the_budget_ends_what_clients_can_write() -> None:
    records, written = kept()
    records.allot(300)
    while not records.spent:
        records.client("request", 0, {"host": "x" * 50})
    records.client("request", 0, {"host": "hidden"})
    records.tell("rules")
    records.flush()
    events = [json.loads(line)["event"] for line in b"".join(written).splitlines()]
    assert events == ["request", "request", "budget", "rules"]
    assert records.unrecorded == 1
    assert sum(len(line) + OVERHEAD for line in b"".join(written).splitlines()[:2]) >= 300


def test_a_budget_is_given_once() -> None:
    records, _ = kept()
    records.allot(1)
    records.allot(1 << 30)
    records.client("request", 0, {})
    assert records.spent


@given(st.text(max_size=2000), st.text(max_size=2000))
def test_whatever_a_client_writes_is_one_bounded_line(host: str, method: str) -> None:
    records, written = kept()
    records.allot(1 << 20)
    exchange = Exchange()
    exchange.host, exchange.method = host, method
    records.client("request", 0, exchange.values("agent"))
    records.flush()
    (line,) = written[0].splitlines()
    assert line.isascii() and len(line) < 2 * (MAX_TEXT + 1) * 12 + 400
    found = json.loads(line)
    assert (found["host"], found["method"]) == (clipped(host), clipped(method))


@given(st.sampled_from([403, 400, 431, 502]), st.text(max_size=100))
def test_an_answer_has_one_head(status: int, what: str) -> None:
    plain = what.encode("ascii", "replace").decode().replace("\r", "?").replace("\n", "?")
    for error in (Refused("host", plain, status), Failed("unreachable", plain, status)):
        head, _, body = answer_to(error).partition(b"\r\n\r\n")
        assert head.count(b"\r\n") == 3
        assert f"Content-Length: {len(body)}".encode() in head


ROUTES = """\
Iface	Destination	Gateway 	Flags	RefCnt	Use	Metric	Mask		MTU	Window	IRTT
eth0	00000000	0100E70A	0003	0	0	0	00000000	0	0	0
eth0	0000E70A	00000000	0001	0	0	0	00FFFFFF	0	0	0
eth1	0000E80A	00000000	0001	0	0	0	F8FFFFFF	0	0	0
tun0	00000000	00000000	0001	0	0	0	00000000	0	0	0
"""
TRIE = """\
Main:
  +-- 0.0.0.0/0 3 0 5
     |-- 0.0.0.0
        /0 universe UNICAST
     +-- 10.231.0.0/24 2 0 2
        |-- 10.231.0.0
           /24 link UNICAST
        |-- 10.231.0.2
           /32 host LOCAL
        |-- 10.231.0.255
           /32 link BROADCAST
     |-- 127.0.0.1
        /32 host LOCAL
Local:
        |-- 10.231.0.2
           /32 host LOCAL
"""
INTERFACES = """\
00000000000000000000000000000001 01 80 10 80       lo
fd000000000000000000000000000002 02 40 00 80     eth0
fe80000000000000004200fffee70002 02 40 20 80     eth0
"""


def texts(networks: Any) -> list[str]:
    assert all(isinstance(network, ipaddress.IPv4Network | ipaddress.IPv6Network) for network in networks)
    return [str(network) for network in networks]


def test_where_the_gateway_stands() -> None:
    assert texts(neighbours(ROUTES)) == ["10.231.0.1/32", "10.231.0.0/24", "10.232.0.0/29"]
    assert texts(own_ipv4(TRIE)) == ["10.231.0.2/32", "127.0.0.1/32"]
    assert texts(own_ipv6(INTERFACES)) == ["::1/128", "fd00::/64", "fe80::/64"]
