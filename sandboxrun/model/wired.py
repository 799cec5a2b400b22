"""Placements of options that wiring touches: environment, name servers, and egress itself.

What the wiring adds to an option is taken away again when it is read back, and counts only as a whole: a sandbox that
lacks a part of it is not wired.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from sandboxrun.model import convert, forms, labels
from sandboxrun.model.egress import CLOSED, Egress
from sandboxrun.model.option import Live, Payload
from sandboxrun.model.types import freeze
from sandboxrun.model.wiring import RESOLVER, private_network, proxy_variables


@attrs.frozen(eq=False, repr=False)
class Environment:
    """The variables of the profile; those of the wiring are left out."""

    engine: str = "Config.Env"

    def put(self, value: Mapping[str, str | None], payload: Payload) -> None:
        payload.config["Env"] = convert.to_equals(value)

    def get(self, live: Live) -> Mapping[str, str | None]:
        found = convert.from_equals(live.config("Env"))
        wired = _variables(live)
        return freeze({name: item for name, item in found.items() if (name, item) not in wired}) if wired else found


@attrs.frozen(eq=False, repr=False)
class Resolvers:
    """The name servers of the profile; the one that leads nowhere is the wiring's."""

    engine: str = "HostConfig.Dns"

    def put(self, value: tuple[str, ...], payload: Payload) -> None:
        payload.host["Dns"] = list(value)

    def get(self, live: Live) -> tuple[str, ...]:
        found = convert.words_in(forms.address)(live.host("Dns"))
        return () if live.label(labels.GATEWAY) and found == (RESOLVER,) else found


@attrs.frozen(eq=False, repr=False)
class Wiring:
    """A network of the sandbox's own, with nothing on it but its gateway. The rules are the gateway's to hold; read
    back is what was applied last, if the sandbox is wired as it was made."""

    engine: str = "HostConfig.NetworkMode"

    def put(self, value: Egress, payload: Payload) -> None:
        if not value.has_gateway or payload.plot is None:
            return
        network = private_network(payload.name)
        payload.host["NetworkMode"] = network
        payload.endpoints[network] = {"IPAMConfig": {"IPv4Address": payload.plot.sandbox}}
        payload.host["Dns"] = [RESOLVER]
        payload.config.setdefault("Env", []).extend(convert.to_equals(proxy_variables(payload.plot.gateway)))
        payload.config.setdefault("Labels", {})[labels.GATEWAY] = payload.plot.gateway

    def get(self, live: Live) -> Egress | None:
        attached = set((live.inspect.get("NetworkSettings") or {}).get("Networks") or {})
        if live.host("NetworkMode") == "none" and attached <= {"none"}:
            return CLOSED
        egress = getattr(live.recorded, "egress", None)
        wired = isinstance(egress, Egress) and egress.has_gateway and _is_wired(live, attached)
        return egress if wired else None


def _is_wired(live: Live, attached: set[str]) -> bool:
    network = private_network(live.base)
    variables = {(name, item) for name, item in convert.from_equals(live.config("Env")).items()}
    wanted = _variables(live)
    return (
        network in attached  # what else it is on is the option networks' business
        and live.host("NetworkMode") == network
        and convert.words(live.host("Dns")) == (RESOLVER,)
        and bool(wanted)
        and wanted <= variables
    )


def _variables(live: Live) -> set[tuple[str, str | None]]:
    gateway = live.label(labels.GATEWAY)
    return set(proxy_variables(gateway).items()) if gateway else set()


def same_gateway(one: Any, other: Any) -> bool:
    """Whether a change from one to the other is a matter of the gateway's rules alone."""
    both = isinstance(one, Egress) and isinstance(other, Egress) and one.has_gateway and other.has_gateway
    return both and one.resolvers == other.resolvers
