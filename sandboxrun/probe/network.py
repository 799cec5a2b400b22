"""Controls of the network: what there is no way to, whoever asks. What the gateway refuses is in `requests`. Pure.

The program sends nothing outside: a datagram socket that is connected tells whether there is a route, and its next hop
is on the sandbox's own network. Names are asked for where the sandbox asks for them, and behind that.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from sandboxrun.probe.verdicts import (
    OUTCOME,
    UNKNOWN,
    Context,
    Control,
    Seen,
    every,
    fails,
    number,
    numbered,
    result,
    results,
    value,
)

NO_ROUTE = ("ENETUNREACH", "EHOSTUNREACH", "EADDRNOTAVAIL", "EAFNOSUPPORT", "EACCES", "EPERM")
_JOINS = "it joins networks without a gateway: it reaches whatever those reach"


def _applies(context: Context) -> str | None:
    return None if context.egress is not None else _JOINS


def _neighbours_apply(context: Context) -> str | None:
    if context.egress is not None:
        return None
    open_ = [
        key
        for key in context.spec.networks
        if (net := context.networks.get(key)) is None
        or net.driver_opts.get("com.docker.network.bridge.enable_icc") != "false"
    ]
    return f"the profile lets sandboxes on {', '.join(open_)} reach each other" if open_ else None


def _no_network(strong: Seen, weak: Seen, context: Context) -> str | None:
    """gVisor can be set up so that no sandbox has a network, whatever the engine gives it."""
    none = all(
        "interfaces" in seen and all(address.startswith("127.") for address in seen["interfaces"].values())
        for seen in (strong, weak)
    )
    return "the runtime gives no sandbox a network, not even the weak one" if none else None


def _reached(probe: str, seen: Seen) -> list[str]:
    """The addresses that answered, be it with a refusal: whoever refuses is there."""
    return [key for key, how in seen.get(probe, {}).items() if how == "ok" or fails(how, "ECONNREFUSED", "ECONNRESET")]


def _reached_seen(probe: str, seen: Seen) -> str:
    if probe not in seen:
        return ""
    reached = {key: seen[probe][key] for key in _reached(probe, seen)}
    tried = f"{len(seen[probe])} tried"
    return f"{results(reached)} ({tried})" if reached else f"none answered ({tried})"


def _names_hold(seen: Seen, context: Context) -> bool | None:
    servers = list(numbered(seen, "resolver"))
    if not servers or number(value(seen, "resolvers", "count")) != len(servers):
        return None
    gateway = value(seen, OUTCOME, "gateway") or context.gateway
    return not any(_knows_the_outside(server, gateway) for server in servers)


def _knows_the_outside(server: Mapping[str, str], gateway: str | None) -> bool:
    """An answer, or the word that there is no such name, comes from whoever knows the outside's names: but for a
    gateway, which says of every name that it does not exist, or has the gateway's address."""
    code = server.get("code") if server.get("got") == "ok" else None
    if gateway is None:
        return code in ("0", "3")
    return code == "0" and (server.get("answers"), server.get("address")) not in (("0", ""), ("1", gateway))


def _answer(server: Mapping[str, str]) -> str:
    if server.get("sent") != "ok" or server.get("got") != "ok":
        return result(server.get("got", "") if server.get("sent") == "ok" else server.get("sent", ""))
    code = server.get("code", "")
    if code == "0":
        shown = server.get("address", "")
        return f"{server.get('answers')} answers{f', {shown}' if shown else ''}"
    return {"2": "can't tell", "3": "no such name", "5": "refused"}.get(code, f"code {code}")


def _route_control(id: str, probe: str, title: str) -> Control:
    return Control(
        id=id,
        title=title,
        applies=_applies,
        expected=lambda context: "no route, or none that leads anywhere",
        seen=lambda seen: results(seen.get(probe, {})),
        holds=lambda seen, context: every(
            None if how in UNKNOWN else fails(how, *NO_ROUTE) for how in seen.get(probe, {}).values()
        ),
        moot=_no_network,
    )


def _reach_control(id: str, probe: str, title: str, applies: Callable[[Context], str | None]) -> Control:
    return Control(
        id=id,
        title=title,
        applies=applies,
        expected=lambda context: "none answers",
        seen=lambda seen: _reached_seen(probe, seen),
        holds=lambda seen, context: not _reached(probe, seen) if probe in seen else None,
        moot=_no_network,
    )


CONTROLS = (
    _route_control("routes", "routes", "No route outside"),
    _route_control("routes-ipv6", "routes6", "No route outside by IPv6"),
    _route_control("metadata", "metadata", "The cloud's metadata can't be reached"),
    _route_control("private-addresses", "private", "Private addresses can't be reached"),
    _reach_control("host", "hosts", "The host's own addresses can't be reached", _applies),
    _reach_control("neighbours", "neighbours", "Other sandboxes can't be reached", _neighbours_apply),
    Control(
        id="names",
        title="No name server answers for the outside",
        applies=_applies,
        expected=lambda context: "no answer, but the gateway's own" if context.gateway else "no answer",
        seen=lambda seen: "; ".join(
            f"{server.get('server')}: {_answer(server)}" for server in numbered(seen, "resolver")
        ),
        holds=_names_hold,
    ),
)
