"""Which addresses a sandbox may ever reach."""

from __future__ import annotations

import ipaddress

import hypothesis.strategies as st
import pytest
from hypothesis import given

from sandboxrun.gateway.companion.addresses import NEVER, PRIVATE, Address, Network, refusal, within

EVERYTHING: tuple[Network, ...] = (ipaddress.ip_network("0.0.0.0/0"), ipaddress.ip_network("::/0"))

NEVER_REACHED = {
    "loopback": "127.0.0.1",
    "loopback, another": "127.255.255.254",
    "this machine": "0.0.0.0",
    "this network": "0.1.2.3",
    "metadata": "169.254.169.254",
    "container credentials": "169.254.170.2",
    "link-local": "169.254.0.1",
    "metadata of another cloud": "100.100.100.200",
    "metadata of a third": "192.0.0.192",
    "host service on a public address": "168.63.129.16",
    "multicast": "224.0.0.1",
    "multicast, scoped": "239.255.255.250",
    "reserved": "240.0.0.1",
    "broadcast": "255.255.255.255",
    "unspecified, IPv6": "::",
    "loopback, IPv6": "::1",
    "IPv4-mapped loopback": "::ffff:127.0.0.1",
    "IPv4-mapped metadata": "::ffff:169.254.169.254",
    "IPv4-mapped, public": "::ffff:8.8.8.8",
    "IPv4-compatible": "::8.8.8.8",
    "IPv4-translated": "::ffff:0:8.8.8.8",
    "NAT64 of loopback": "64:ff9b::127.0.0.1",
    "NAT64 of metadata": "64:ff9b::169.254.169.254",
    "local NAT64": "64:ff9b:1::8.8.8.8",
    "6to4 of loopback": "2002:7f00:1::1",
    "6to4, public": "2002:808:808::1",
    "Teredo": "2001:0:4136:e378:8000:63bf:3fff:fdd2",
    "ISATAP": "2606:4700::5efe:127.0.0.1",
    "ISATAP, global": "2606:4700::200:5efe:10.0.0.1",
    "link-local, IPv6": "fe80::1",
    "link-local with its interface": "fe80::1%eth0",
    "site-local": "fec0::1",
    "multicast, IPv6": "ff02::1",
    "metadata, IPv6": "fd00:ec2::254",
    "pod identity": "fd00:ec2::23",
    "metadata of another cloud, IPv6": "fd20:ce::254",
    "discard": "100::1",
    "not given out": "4000::1",
    "segment routing": "5f00::1",
}
PRIVATE_ONES = {
    "ten": "10.0.0.1",
    "172.16": "172.31.255.255",
    "192.168": "192.168.1.1",
    "carriers": "100.64.0.1",
    "documentation": "192.0.2.1",
    "benchmarks": "198.18.0.1",
    "protocols": "192.0.0.8",
    "old relays": "192.88.99.1",
    "unique local": "fd12:3456::1",
    "documentation, IPv6": "2001:db8::1",
    "documentation, IPv6, new": "3fff::1",
    "protocols, IPv6": "2001:4::1",
    "NAT64 of a private one": "64:ff9b::10.0.0.1",
}
PUBLIC = ("8.8.8.8", "1.1.1.1", "198.41.0.4", "2606:4700:4700::1111", "2a00:1450::1", "64:ff9b::8.8.8.8", "172.15.0.1")


@pytest.mark.parametrize("case", NEVER_REACHED)
def test_never_reached_whatever_is_opened(case: str) -> None:
    address = ipaddress.ip_address(NEVER_REACHED[case])
    assert refusal(address) == "reserved"
    assert refusal(address, opened=EVERYTHING) == "reserved"


@pytest.mark.parametrize("case", PRIVATE_ONES)
def test_private_ones_are_reached_where_they_are_opened(case: str) -> None:
    address = ipaddress.ip_address(PRIVATE_ONES[case])
    assert refusal(address) == "private"
    assert refusal(address, opened=EVERYTHING) is None


@pytest.mark.parametrize("text", PUBLIC)
def test_public_ones_are_reached(text: str) -> None:
    assert refusal(ipaddress.ip_address(text)) is None


def test_an_opened_range_opens_no_other() -> None:
    opened = (ipaddress.ip_network("10.1.0.0/16"),)
    assert refusal(ipaddress.ip_address("10.1.255.255"), opened) is None
    assert refusal(ipaddress.ip_address("10.2.0.0"), opened) == "private"
    assert refusal(ipaddress.ip_address("fd00::1"), opened) == "private"


def test_where_the_gateway_stands_is_never_reached() -> None:
    own = (ipaddress.ip_network("10.231.0.0/29"), ipaddress.ip_network("8.8.8.0/24"))
    assert refusal(ipaddress.ip_address("10.231.0.1"), EVERYTHING, own) == "reserved"
    assert refusal(ipaddress.ip_address("8.8.8.8"), EVERYTHING, own) == "reserved"
    assert refusal(ipaddress.ip_address("64:ff9b::8.8.8.8"), EVERYTHING, own) == "reserved"


ADDRESSES = st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6))


@given(ADDRESSES)
def test_what_is_reached_unasked_is_global(address: Address) -> None:
    if refusal(address) is None:
        assert address.is_global
        assert not (address.is_private or address.is_loopback or address.is_link_local or address.is_multicast)
        assert not (address.is_reserved or address.is_unspecified) or "64:ff9b::" in str(address)


@given(st.sampled_from([*NEVER, *PRIVATE]), st.data())
def test_no_address_of_a_listed_range_is_public(network: Network, data: st.DataObject) -> None:
    address = network[data.draw(st.integers(0, network.num_addresses - 1))]
    assert refusal(address) is not None
    if within(address, NEVER):
        assert refusal(address, opened=EVERYTHING) == "reserved"


@given(st.ip_addresses(v=4))
def test_an_embedded_address_is_no_better_than_itself(address: ipaddress.IPv4Address) -> None:
    number = int(address)
    forms = (number, 0xFFFF << 32 | number, 0x64FF9B << 96 | number, (0x2002 << 112) | number << 80)
    for form in forms:
        if refusal(address) is not None:
            assert refusal(ipaddress.IPv6Address(form)) is not None
