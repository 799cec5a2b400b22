"""Controls of the network: what there is no way to, whoever asks. What the gateway refuses stands in `requests`. Pure.

The program sends nothing outside: a datagram socket that is connected tells whether there is a route, and its next hop
is on the sandbox's own network. No proxy variable is used for any of this, so it holds with them unset.
"""

from __future__ import annotations

from collections.abc import Mapping

from sandboxrun.probe.verdicts import (
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
_JOINS = "it joins networks of the project: what they reach, it reaches"


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


def _routes(probe: str, seen: Seen) -> Mapping[str, str]:
    return seen.get(probe, {})


def _no_route(probe: str, seen: Seen) -> bool | None:
    found = _routes(probe, seen).values()
    return every(None if how in UNKNOWN else fails(how, *NO_ROUTE) for how in found)


def _reached(probe: str, seen: Seen) -> list[str]:
    """The addresses that answered, be it with a refusal: whoever refuses is there."""
    return [key for key, how in seen.get(probe, {}).items() if how == "ok" or fails(how, "ECONNREFUSED", "ECONNRESET")]


def _none_reached(probe: str, seen: Seen) -> bool | None:
    return not _reached(probe, seen) if probe in seen else None


def _reached_seen(probe: str, seen: Seen) -> str:
    if probe not in seen:
        return ""
    reached = {key: seen[probe][key] for key in _reached(probe, seen)}
    tried = f"{len(seen[probe])} tried"
    return f"{results(reached)} ({tried})" if reached else f"none answered ({tried})"


def _answered(server: Mapping[str, str]) -> bool:
    """An answer, or the word that there is no such name: both come from whoever knows the outside's names."""
    return server.get("got") == "ok" and server.get("code") in ("0", "3")


def _names_hold(seen: Seen, context: Context) -> bool | None:
    servers = list(numbered(seen, "resolver"))
    if not servers or number(value(seen, "resolvers", "count")) != len(servers):
        return None
    return not any(map(_answered, servers))


def _answer(server: Mapping[str, str]) -> str:
    if server.get("sent") != "ok" or server.get("got") != "ok":
        return result(server.get("got", "") if server.get("sent") == "ok" else server.get("sent", ""))
    code = server.get("code", "")
    if code == "0":
        return f"{server.get('answers')} answers"
    return {"2": "can't tell", "3": "no such name", "5": "refused"}.get(code, f"code {code}")


def _route_control(id: str, probe: str, title: str) -> Control:
    return Control(
        id=id,
        title=title,
        applies=_applies,
        expected=lambda context: "no route, or none that leads anywhere",
        seen=lambda seen: results(_routes(probe, seen)),
        holds=lambda seen, context: _no_route(probe, seen),
        moot=_no_network,
    )


CONTROLS = (
    _route_control("routes", "routes", "No route outside"),
    _route_control("routes-ipv6", "routes6", "No route outside by IPv6"),
    _route_control("metadata", "metadata", "The cloud's metadata can't be reached"),
    _route_control("private-addresses", "private", "Private addresses can't be reached"),
    Control(
        id="host",
        title="The host's own addresses can't be reached",
        applies=_applies,
        expected=lambda context: "none answers",
        seen=lambda seen: _reached_seen("hosts", seen),
        holds=lambda seen, context: _none_reached("hosts", seen),
        moot=_no_network,
    ),
    Control(
        id="neighbours",
        title="Other sandboxes can't be reached",
        applies=_neighbours_apply,
        expected=lambda context: "none answers",
        seen=lambda seen: _reached_seen("neighbours", seen),
        holds=lambda seen, context: _none_reached("neighbours", seen),
        moot=_no_network,
    ),
    Control(
        id="names",
        title="No name server answers for the outside",
        applies=_applies,
        expected=lambda context: "no answer",
        seen=lambda seen: "; ".join(
            f"{server.get('server')}: {_answer(server)}" for server in numbered(seen, "resolver")
        ),
        holds=_names_hold,
    ),
)
