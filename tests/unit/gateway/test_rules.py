"""The rules document: written in one form, read strictly, and what it lets through by name."""

from __future__ import annotations

import contextlib
import ipaddress
import json
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given

from sandboxrun.errors import Problems, node_of
from sandboxrun.gateway.companion.rules import KEYS, NAME_SERVICE, RulesError, read_rules
from sandboxrun.gateway.rules import RECORDS, digest_of_rules, rules_document
from sandboxrun.spec.option_types import CLOSED, ONE_HOST, PUBLIC, Egress, EgressOption

EGRESS = Egress(
    allow=("api.example.com:443", "*.models.example.org:443"),
    private_networks=("10.1.0.0/16",),
    resolvers=("10.1.0.53",),
)


def test_the_document_has_one_form() -> None:
    assert rules_document(EGRESS, sandbox='reviewer["lint"]', run="r1") == (
        b'{"allow":["*.models.example.org:443","api.example.com:443"],"mode":"allow","ports":[],"private_networks":["10.1.0.0/16"],'
        b'"records":33554432,"refused":[],"resolvers":["10.1.0.53"],"run":"r1","sandbox":"reviewer[\\"lint\\"]",'
        b'"version":2}\n'
    )


def test_the_order_of_the_list_makes_no_difference() -> None:
    turned = Egress(allow=EGRESS.allow[::-1], private_networks=EGRESS.private_networks, resolvers=EGRESS.resolvers)
    assert rules_document(turned, sandbox="a", run="r") == rules_document(EGRESS, sandbox="a", run="r")


def test_its_digest() -> None:
    document = rules_document(PUBLIC, sandbox="a", run="r")
    assert digest_of_rules(b"") == "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert read_rules(document).digest == digest_of_rules(document)


def test_a_sandbox_without_a_gateway_has_no_rules() -> None:
    with pytest.raises(ValueError, match="no gateway"):
        rules_document(CLOSED, sandbox="a", run="r")


def test_what_was_written_is_read() -> None:
    rules = read_rules(rules_document(EGRESS, sandbox="a", run="r", refused=("198.41.0.0/24",), records=7))
    assert (rules.sandbox, rules.run, rules.open, rules.budget) == ("a", "r", frozenset(), 7)
    assert rules.opened == (ipaddress.ip_network("10.1.0.0/16"),)
    assert rules.refused == (ipaddress.ip_network("198.41.0.0/24"),)
    assert rules.resolvers == (ipaddress.ip_address("10.1.0.53"),)
    assert read_rules(rules_document(PUBLIC, sandbox="a", run="r")).budget == RECORDS


def changed(**values: Any) -> bytes:
    document = json.loads(rules_document(EGRESS, sandbox="a", run="r"))
    return json.dumps({**document, **values}).encode()


@pytest.mark.parametrize(
    "document",
    [
        b"",
        b"{}",
        b"[]",
        b"null",
        b"\xff",
        b"[" * 100000,
        changed(version=1),
        changed(more=1),
        changed(mode="none"),
        changed(mode="OPEN"),
        changed(allow="api.example.com:443"),
        changed(allow=["api.example.com"]),
        changed(allow=["API.example.com:443"]),
        changed(allow=["api.example.com:0"]),
        changed(allow=[":443"]),
        changed(allow=[1]),
        changed(private_networks=["10.1.0.1/16"]),
        changed(private_networks=["x"]),
        changed(refused=[None]),
        changed(resolvers=["dns.example.com"]),
        changed(sandbox=None),
        changed(records=-1),
        changed(records=True),
        changed(records=1.5),
        changed(sandbox="x" * (1 << 20)),
    ],
)
def test_what_is_not_understood_is_no_rules(document: bytes) -> None:
    with pytest.raises(RulesError):
        read_rules(document)


@pytest.mark.parametrize("key", sorted(KEYS))
def test_nothing_may_be_left_out(key: str) -> None:
    document = json.loads(rules_document(EGRESS, sandbox="a", run="r"))
    del document[key]
    with pytest.raises(RulesError):
        read_rules(json.dumps(document).encode())


@given(st.binary(max_size=100))
def test_any_bytes_give_a_verdict(document: bytes) -> None:
    with contextlib.suppress(RulesError):
        read_rules(document)


def allows(egress: Egress, authority: str) -> bool:
    host, _, port = authority.rpartition(":")
    return read_rules(rules_document(egress, sandbox="a", run="r")).allows(host, int(port))


@pytest.mark.parametrize(
    ("authority", "expected"),
    [
        ("api.example.com:443", True),
        ("a.models.example.org:443", True),
        ("a.b.c.models.example.org:443", True),
        ("api.example.com:444", False),
        ("a.models.example.org:80", False),
        ("models.example.org:443", False),
        ("amodels.example.org:443", False),
        ("a.models.example.org.example.net:443", False),
        ("x.api.example.com:443", False),
        ("example.com:443", False),
        ("198.41.0.10:443", False),
    ],
)
def test_what_is_let_through(authority: str, expected: bool) -> None:
    assert allows(EGRESS, authority) == expected


def test_open_lets_all_names_through_on_its_ports() -> None:
    assert [allows(PUBLIC, f"any.example.net:{port}") for port in (80, 443, 22)] == [True, True, False]
    more = Egress(mode="open", ports=(8443,), allow=("ssh.example.com:22",))
    assert [allows(more, f"ssh.example.com:{port}") for port in (22, 8443, 25)] == [True, True, False]


LABELS = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,8}[a-z0-9])?", fullmatch=True)
NAMES = st.builds(".".join, st.lists(LABELS, min_size=1, max_size=3)).map(lambda name: f"{name}.com")
PORTS = st.integers(1, 65535).filter(lambda port: port not in {NAME_SERVICE, *ONE_HOST})


@given(st.lists(st.tuples(st.sampled_from(["", "*."]), NAMES, PORTS), min_size=1, max_size=4), NAMES, PORTS)
def test_the_list_is_read_as_the_profile_means_it(listed: list[tuple[str, str, int]], host: str, port: int) -> None:
    texts = [f"{star}{name}:{number}" for star, name, number in listed]
    problems = Problems()
    egress = EgressOption().parse(node_of({"allow": sorted(set(texts))}), problems)
    assert not problems
    allowed = any(
        number == port and (host.endswith(f".{name}") if star else host == name) for star, name, number in listed
    )
    assert allows(egress, f"{host}:{port}") == allowed


@given(NAMES, PORTS)
def test_every_listed_destination_is_let_through(host: str, port: int) -> None:
    assert allows(Egress(allow=(f"{host}:{port}",)), f"{host}:{port}")
    assert allows(Egress(allow=(f"*.{host}:{port}",)), f"x.{host}:{port}")
    assert not allows(Egress(allow=(f"*.{host}:{port}",)), f"{host}:{port}")
