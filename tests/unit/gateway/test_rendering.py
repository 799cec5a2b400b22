"""HAProxy's configuration: what lines there are, and that no byte of a profile can add or change one."""

from __future__ import annotations

import ipaddress
import json
import re
import subprocess
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given

from sandboxrun.gateway.companion.haproxy import BELOW, CONFIGURATION, EXACT, Place, render
from sandboxrun.gateway.companion.rules import Rules, RulesError, read_rules
from tests.conftest import examples
from tests.unit.gateway.world import document, why_not

# Every keyword that may stand in the configuration: what it can do is in HAProxy's manual, and tested in test_bypasses.
SECTIONS = {"global", "ring", "defaults", "resolvers", "frontend", "backend"}
KEYWORDS = {
    "log", "maxconn", "maxsessrate", "nbthread", "stats socket", "stats timeout", "tune.bufsize", "tune.maxrewrite",
    ".if", "httpclient.ssl.verify", ".endif",
    "format", "maxlen", "size", "server", "timeout", "retries", "no option", "option", "unique-id-format",
    "nameserver", "accepted_payload_size", "resolve_retries", "hold", "mode", "bind", "log-format", "http-reuse",
    "tcp-request inspect-delay", "tcp-request content", "http-request", "use_backend", "default_backend",
}  # fmt: skip
ACTIONS = {
    "tcp-request content": {
        "set-var", "unset-var", "reject", "accept", "do-resolve", "set-dst", "set-log-level",
    },
    "http-request": {
        "set-var", "unset-var", "deny", "do-resolve", "set-dst", "set-dst-port", "set-uri", "set-path",
        "set-header", "del-header",
    },
}  # fmt: skip
OPTIONS = {"dontlognull", "disable-h2-upgrade", "splice-auto"}


def place(folder: str = "/run/gateway/1") -> Place:
    return Place(
        address=ipaddress.ip_address("10.231.0.10"),
        own=(ipaddress.ip_network("10.231.0.8/29"), ipaddress.ip_network("172.30.0.0/16")),
        resolvers=(ipaddress.ip_address("127.0.0.11"),),
        folder=folder,
        admin=f"{folder}/admin.sock",
        recorder="/run/gateway/records.sock",
    )


def rules(**values: Any) -> Rules:
    return read_rules(document(**values))


def lines(**values: Any) -> list[str]:
    return render(rules(**values), place())[CONFIGURATION].decode().splitlines()


def keyword(line: str) -> str:
    """What a line says first, in as many words as it takes to know what it does."""
    words = line.split()
    two = " ".join(words[:2])
    return two if two in KEYWORDS else words[0]


@pytest.mark.parametrize("values", [{}, {"mode": "open", "allow": ["ssh.example.com:22"], "ports": [8443]}])
def test_the_configuration_is_in_the_listed_subset(values: dict[str, Any]) -> None:
    for line in lines(**values):
        if not line.startswith(" "):
            assert not line or line.split()[0] in SECTIONS, line
            continue
        found = keyword(line)
        assert found in KEYWORDS, line
        if found in ACTIONS:
            action = line.split()[len(found.split())].partition("(")[0]
            assert action in ACTIONS[found], line
        if found in ("option", "no option"):
            assert line.split()[-1] in OPTIONS, line


def test_each_port_has_what_its_hosts_need() -> None:
    found = [line for line in lines() if line.startswith(("frontend", "    bind"))]
    assert found == [
        "frontend port-22", "    bind ipv4@10.231.0.10:22",
        "frontend http-22", "    bind unix@/run/gateway/1/http-22.sock mode 600 accept-proxy",
        "frontend http-80", "    bind ipv4@10.231.0.10:80",
        "frontend port-443", "    bind ipv4@10.231.0.10:443",
        "frontend port-8443", "    bind ipv4@10.231.0.10:8443",
        "frontend http-8443", "    bind unix@/run/gateway/1/http-8443.sock mode 600 accept-proxy",
    ]  # fmt: skip


def test_names_are_in_lists_alone() -> None:
    files = render(rules(), place())
    exact = sorted(f"{entry} 1" for entry in json.loads(document())["allow"] if not entry.startswith("*"))
    assert sorted(files[EXACT].decode().splitlines()) == exact
    assert files[BELOW] == b".models.example.org:443 1\n"
    assert b"example" not in files[CONFIGURATION]


def test_the_same_rules_make_the_same_bytes() -> None:
    again = tuple(reversed(json.loads(document())["allow"]))
    assert render(rules(), place()) == render(rules(allow=again), place())


def test_an_ipv6_gateway() -> None:
    at = place()._replace(address=ipaddress.ip_address("fd00::2"))
    assert b"    bind ipv6@fd00::2:443\n" in render(rules(), at)[CONFIGURATION]


@pytest.mark.skipif(why_not() is not None, reason=str(why_not()))
@pytest.mark.parametrize("mode", ["allow", "open"])
def test_haproxy_accepts_it_without_a_warning(mode: str, tmp_path: Path) -> None:
    for name, content in render(rules(mode=mode, private_networks=["10.1.0.0/16"]), place(str(tmp_path))).items():
        (tmp_path / name).write_bytes(content)
    done = subprocess.run(
        ["haproxy", "-c", "-dW", "-f", tmp_path / CONFIGURATION], capture_output=True, text=True, check=False
    )
    assert (done.returncode, "WARNING" in done.stderr) == (0, False), done.stderr


ODD = st.text(alphabet=st.sampled_from("ab.-*: \t\n\r\0\\\"'#{}%[]()1x$\x7fé"), max_size=20)


@examples(400)
@given(st.lists(st.one_of(ODD, st.builds(lambda a, b: f"{a}.example.com:{b}", ODD, ODD)), max_size=4), ODD, ODD)
def test_no_byte_of_a_profile_changes_the_structure(allow: list[str], sandbox: str, run: str) -> None:
    """What is not a destination is refused; what is one, is a line of a list, and nothing else is changed by it."""
    try:
        read = rules(allow=[*allow, "api.example.com:443"], sandbox=sandbox, run=run)
    except RulesError:
        return
    files = render(read, place())
    for entry in files[EXACT].decode().splitlines() + files[BELOW].decode().splitlines():
        assert re.fullmatch(r"\.?([a-z0-9-]+\.)+[a-z0-9-]+:[0-9]{1,5} 1", entry), entry
    ports = {str(port) for port in read.ports}
    bare = render(rules(allow=[f"h.example.org:{port}" for port in sorted(ports)]), place())[CONFIGURATION]
    if all(read.only_host(port) or port in (80, 443) for port in read.ports):
        assert files[CONFIGURATION] == bare


@pytest.mark.parametrize(
    "entry",
    [
        "api.example.com:443\nfrontend x", "api.example.com:443 1", "api.example.com:0443", "api.example.com:65536",
        "API.example.com:443", "*.*.example.com:443", "*:443", "example:443", "api.example.com.:443", "1.2.3.4:443",
        "api.example.0x7f:443", "api.example.com:53", "a..example.com:443", "-a.example.com:443", "*example.com:443",
        "api.example.com:４43", f"{'a' * 64}.example.com:443", f"{'a.' * 127}com:443", "api.exämple.com:443", "",
    ],
)  # fmt: skip
def test_what_is_no_destination_is_refused(entry: str) -> None:
    with pytest.raises(RulesError):
        rules(allow=[entry])


@pytest.mark.parametrize(
    "values",
    [
        {"version": 1}, {"mode": "none"}, {"ports": ["443"]}, {"ports": [0]}, {"ports": [True]}, {"records": -1},
        {"resolvers": ["a.example.com"]}, {"private_networks": ["10.0.0.1/8"]}, {"refused": [1]}, {"sandbox": 1},
        {"mode": "open", "ports": [53]}, {"mode": "open", "ports": list(range(1000, 1200))}, {"extra": 1},
    ],
)  # fmt: skip
def test_a_document_that_is_not_understood_is_refused(values: dict[str, Any]) -> None:
    with pytest.raises(RulesError):
        rules(**values)


def test_what_rules_say() -> None:
    read = rules()
    assert read.ports == (22, 80, 443, 8443)
    assert [read.only_host(port) for port in read.ports] == ["ssh.example.com", None, None, None]
    assert read.allows("a.models.example.org", 443) and not read.allows("models.example.org", 443)
    assert not read.allows("xmodels.example.org", 443) and not read.allows("api.example.com", 8443)
    assert read.knows("two.example.com") and not read.knows("example.com") and not read.knows("x.two.example.com")
    everything = rules(mode="open", ports=[8443], allow=["ssh.example.com:22"])
    assert everything.ports == (22, 80, 443, 8443) and everything.only_host(22) == "ssh.example.com"
    assert everything.allows("any.example.net", 8443) and not everything.allows("any.example.net", 22)
    assert not everything.knows("localhost") and not everything.knows("127.0.0.1") and everything.knows("a.example")
