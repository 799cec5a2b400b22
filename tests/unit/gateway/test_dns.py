"""Questions to name servers and their answers, which may be anybody's."""

from __future__ import annotations

import contextlib
import ipaddress
import struct
from pathlib import Path

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from sandboxrun.gateway.program.dns import AAAA, CNAME, A, BadAnswer, question, read_answer
from sandboxrun.gateway.program.resolver import system_servers

HOST = "api.example.com"
ASKED = b"\x03api\x07example\x03com\0"
HERE = b"\xc0\x0c"


def record(owner: bytes, kind: int, body: bytes, ttl: int = 60, family: int = 1) -> bytes:
    return owner + struct.pack(">HHIH", kind, family, ttl, len(body)) + body


def answer(*records: bytes, number: int = 7, flags: int = 0x8180, asked: bytes = ASKED, kind: int = A) -> bytes:
    head = struct.pack(">HHHHHH", number, flags, 1, len(records), 0, 0)
    return head + asked + struct.pack(">HH", kind, 1) + b"".join(records)


def addresses(data: bytes, kind: int = A) -> list[str]:
    return [str(address) for address in read_answer(data, 7, HOST, kind).addresses]


def test_a_question() -> None:
    assert question(7, HOST, A) == b"\0\7\1\0\0\1\0\0\0\0\0\0" + ASKED + b"\0\1\0\1"


def test_addresses_and_how_long_they_hold() -> None:
    found = read_answer(answer(record(HERE, A, b"\1\2\3\4", 300), record(HERE, A, b"\1\2\3\5", 30)), 7, HOST, A)
    assert [str(address) for address in found.addresses] == ["1.2.3.4", "1.2.3.5"]
    assert (found.code, found.ttl, found.cut) == (0, 30, False)


def test_ipv6() -> None:
    body = ipaddress.ip_address("2606:4700::1111").packed
    assert addresses(answer(record(HERE, AAAA, body), kind=AAAA), AAAA) == ["2606:4700::1111"]


def test_aliases_are_followed_in_any_order() -> None:
    cdn = b"\x03cdn\x07example\x03net\0"
    data = answer(record(cdn, A, b"\1\2\3\4"), record(HERE, CNAME, cdn, 5), record(b"\x01x\0", A, b"\x7f\0\0\1"))
    found = read_answer(data, 7, HOST, A)
    assert (addresses(data), found.ttl) == (["1.2.3.4"], 5)


def test_addresses_of_other_names_count_for_nothing() -> None:
    assert addresses(answer(record(b"\x04evil\x07example\x03net\0", A, b"\1\2\3\4"))) == []


def test_names_are_compared_without_case() -> None:
    asked = b"\x03ApI\x07eXample\x03COM\0"
    assert addresses(answer(record(HERE, A, b"\1\2\3\4"), asked=asked)) == ["1.2.3.4"]


def test_aliases_that_go_round_lead_nowhere() -> None:
    assert addresses(answer(record(HERE, CNAME, HERE))) == []


def test_no_such_name_and_a_failing_server() -> None:
    assert read_answer(answer(flags=0x8183), 7, HOST, A).code == 3
    assert read_answer(answer(flags=0x8182), 7, HOST, A).code == 2


def test_an_answer_that_was_cut() -> None:
    assert read_answer(answer(flags=0x8380), 7, HOST, A).cut


@pytest.mark.parametrize(
    "data",
    [
        b"",
        answer()[:11],
        answer(number=8),
        answer(flags=0x0180),
        answer(flags=0x8980),
        answer(asked=b"\x04evil\x07example\x03net\0"),
        answer(kind=AAAA),
        answer()[:-2],
        answer(record(HERE, A, b"\1\2\3")),
        answer(record(HERE, A, b"\1\2\3\4"))[:-1],
        answer(record(b"\xc0\xff", A, b"\1\2\3\4")),
        answer(record(b"\xc0\x23", A, b"\1\2\3\4")),
        answer(record(b"\x80", A, b"\1\2\3\4")),
        answer(record(b"\x3f" + b"a" * 10, A, b"\1\2\3\4")),
        answer(record((b"\x3f" + b"a" * 63) * 4 + b"\0", A, b"\1\2\3\4")),
        answer(asked=b"\xc0\x0c"),
    ],
)
def test_what_is_no_answer(data: bytes) -> None:
    with pytest.raises(BadAnswer):
        read_answer(data, 7, HOST, A)


@given(st.binary(max_size=200), st.sampled_from([A, AAAA]))
def test_any_bytes_give_a_verdict(data: bytes, kind: int) -> None:
    with contextlib.suppress(BadAnswer):
        read_answer(data, 7, HOST, kind)


@given(st.data())
@settings(max_examples=300)
def test_a_changed_answer_gives_a_verdict(data: st.DataObject) -> None:
    changed = bytearray(answer(record(HERE, CNAME, b"\x03cdn" + HERE), record(b"\x03cdn" + HERE, A, b"\1\2\3\4")))
    for _ in range(data.draw(st.integers(1, 4))):
        changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(BadAnswer):
        read_answer(bytes(changed), 7, HOST, A)


def test_the_machines_own_servers(tmp_path: Path) -> None:
    file = tmp_path / "resolv.conf"
    file.write_text("# x\nsearch a.example\nnameserver 127.0.0.11\nnameserver\nnameserver x\nnameserver fd00::1\n")
    assert [str(server) for server in system_servers(str(file))] == ["127.0.0.11", "fd00::1"]
    assert system_servers(str(tmp_path / "none")) == ()
