"""The warning of sandboxes that join networks with a way out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sandboxrun.plan.preflight import open_networks
from sandboxrun.profile.loader import load_data


def told(directory: Path, networks: dict[str, Any], options: dict[str, Any]) -> list[str]:
    profile = load_data({"name": "p", "networks": networks, "sandboxes": {"a": options}}, directory=directory)
    found = list(open_networks(profile.sandboxes, profile))
    assert all(one.severity == "warning" and one.help is not None for one in found)
    return [one.message for one in found]


@pytest.mark.parametrize("network", [{}, {"external": True}])
def test_a_network_with_a_way_out_is_told_by_name(network: dict[str, Any], tmp_path: Path) -> None:
    assert told(tmp_path, {"team": network, "closed": {"internal": True}}, {"networks": ["team", "closed"]}) == [
        "a: on team it has no gateway: it reaches everything that the engine's host reaches, cloud metadata among it"
    ]


@pytest.mark.parametrize(
    "options", [{"networks": ["closed"]}, {}, {"egress": "none"}, {"egress": {"allow": ["api.example.com:443"]}}]
)
def test_what_has_a_gateway_or_no_way_out_is_not(options: dict[str, Any], tmp_path: Path) -> None:
    assert told(tmp_path, {"closed": {"internal": True}}, options) == []


SINK = {
    "internal": True,
    "subnet": "169.254.0.0/16",
    "driver_opts": {"com.docker.network.bridge.inhibit_ipv4": "true"},
}


@pytest.mark.parametrize(
    ("sink", "end"),
    [
        (SINK, "but for cloud metadata at 169.254.169.254"),
        ({**SINK, "internal": False}, "cloud metadata among it"),
        ({**SINK, "subnet": "169.254.0.0/17"}, "cloud metadata among it"),
        ({**SINK, "driver_opts": {}}, "cloud metadata among it"),  # the host would lose its own way there
    ],
)
def test_a_network_that_metadata_ends_on(sink: dict[str, Any], end: str, tmp_path: Path) -> None:
    (message,) = told(tmp_path, {"team": {}, "sink": sink}, {"networks": ["team", "sink"]})
    assert message.endswith(f", {end}")
