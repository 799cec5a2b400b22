"""How a destination may be spelled."""

from __future__ import annotations

import contextlib
import ipaddress
import socket

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from sandboxrun.gateway.program.names import target_of
from sandboxrun.gateway.program.refusals import Refused


def reason(authority: str, port: int | None = None) -> str:
    with pytest.raises(Refused) as caught:
        target_of(authority, port)
    assert caught.value.what.isascii() and caught.value.what.isprintable()
    return caught.value.reason


@pytest.mark.parametrize(
    ("authority", "host", "port"),
    [
        ("api.example.com:443", "api.example.com", 443),
        ("API.Example.COM:443", "api.example.com", 443),
        ("xn--bcher-kva.example.com:8443", "xn--bcher-kva.example.com", 8443),
        ("a-b.c1.example.org:1", "a-b.c1.example.org", 1),
    ],
)
def test_names(authority: str, host: str, port: int) -> None:
    found = target_of(authority)
    assert (found.host, found.port, found.literal, str(found)) == (host, port, None, f"{host}:{port}")


def test_a_port_may_be_left_out_where_there_is_a_usual_one() -> None:
    assert target_of("api.example.com", 80).port == 80
    assert target_of("api.example.com:8080", 80).port == 8080
    assert reason("api.example.com") == "name"


def test_canonical_addresses_are_told_as_such() -> None:
    assert target_of("198.41.0.10:443").literal == ipaddress.ip_address("198.41.0.10")
    assert target_of("[2606:4700::1111]:443").literal == ipaddress.ip_address("2606:4700::1111")
    assert str(target_of("[2606:4700::1111]:443")) == "[2606:4700::1111]:443"


SPELLINGS = {
    "decimal": "2130706433:443",
    "hexadecimal": "0x7f000001:443",
    "hexadecimal, capital": "0X7F000001:443",
    "octal": "017700000001:443",
    "octal parts": "0177.0.0.1:443",
    "hexadecimal parts": "0x7f.0x0.0x0.0x1:443",
    "a hexadecimal end": "127.0.0.0x1:443",
    "an empty hexadecimal end": "127.0.0.0x:443",
    "two parts": "127.1:443",
    "three parts": "127.0.1:443",
    "five parts": "127.0.0.0.1:443",
    "leading zeros": "127.000.000.001:443",
    "a part too large": "256.0.0.1:443",
    "a name with a numeric end": "api.example.1:443",
    "IPv6 without brackets": "::1:443",
    "IPv6, not canonical": "[0:0:0:0:0:0:0:1]:443",
    "IPv6, zeros": "[0000::0001]:443",
    "IPv6 with IPv4, mapped": "[::ffff:127.0.0.1]:443",
    "IPv6 with a zone": "[fe80::1%eth0]:443",
    "IPv6 with an encoded zone": "[fe80::1%25eth0]:443",
    "IPv6 of a later version": "[v1.fe80::1]:443",
    "IPv4 in brackets": "[127.0.0.1]:443",
    "empty brackets": "[]:443",
    "half a bracket": "[::1:443",
}


@pytest.mark.parametrize("case", SPELLINGS)
def test_other_spellings_of_addresses(case: str) -> None:
    assert reason(SPELLINGS[case]) == "address"


ODD = {
    "a trailing dot": "api.example.com.:443",
    "two trailing dots": "api.example.com..:443",
    "a leading dot": ".example.com:443",
    "an empty label": "api..example.com:443",
    "one label": "localhost:443",
    "no host": ":443",
    "nothing": "",
    "no port": "api.example.com:",
    "port 0": "api.example.com:0",
    "a port too large": "api.example.com:65536",
    "a port with a zero": "api.example.com:0443",
    "a port with a sign": "api.example.com:+443",
    "a port with a space": "api.example.com: 443",
    "a port in other digits": "api.example.com:４４３",
    "a user": "user@api.example.com:443",
    "a user and a password": "api.example.com:443@evil.example.net:443",
    "a path": "api.example.com/x:443",
    "a percent": "api%2eexample.com:443",
    "an encoded NUL": "api.example.com%00.evil.example.net:443",
    "a NUL": "api.example.com\0:443",
    "a newline": "api.example.com\n:443",
    "a space": "api.example.com :443",
    "an underscore": "a_b.example.com:443",
    "a wildcard": "*.example.com:443",
    "a letter beyond ASCII": "äpi.example.com:443",
    "a fullwidth dot": "api．example．com:443",
    "an ideographic dot": "api。example。com:443",
    "a fullwidth letter": "ａpi.example.com:443",
    "a letter that folds into ASCII": "api.example.\u212aom:443",
    "a backslash": "api.example.com\\.evil.example.net:443",
    "a hyphen first": "-api.example.com:443",
    "a label too long": f"{'a' * 64}.example.com:443",
    "a name too long": f"{'a.' * 127}example.com:443",
    "far too long": f"{'a.' * 4000}example.com:443",
}


@pytest.mark.parametrize("case", ODD)
def test_what_is_no_name(case: str) -> None:
    assert reason(ODD[case]) == "name"


@given(st.text(max_size=80), st.sampled_from([None, 80]))
def test_any_text_gives_a_verdict(text: str, port: int | None) -> None:
    with contextlib.suppress(Refused):
        found = target_of(text, port)
        assert found.host == found.host.lower() and found.host.isascii()
        assert 0 < found.port < 65536


@given(st.lists(st.sampled_from(["0x", "0", "1", "7f", "127", "a", "x", ".", "377", "g"]), min_size=1, max_size=9))
@settings(max_examples=400)
def test_whatever_a_c_library_takes_for_an_address_is_none_of_our_names(parts: list[str]) -> None:
    host = "".join(parts)
    try:
        socket.inet_aton(host)
    except OSError:
        return
    with contextlib.suppress(Refused):
        assert target_of(f"{host}:443").literal == ipaddress.ip_address(host)
