"""The engine's calls about networks and volumes.

Each function is a method of Engine. Must not choose names, subnets or labels.
"""

from __future__ import annotations

from collections.abc import Mapping

from sandboxrun.backend.docker.calls import Caller, Json, label_filter, quote
from sandboxrun.backend.docker.containers import named
from sandboxrun.backend.errors import NotFound

_LIST = "listing networks"


def networks(engine: Caller, *, labels: Mapping[str, str | None] | None = None) -> tuple[Json, ...]:
    """The networks with all `labels` (None: any value). The list does not tell their containers."""
    query = {"filters": label_filter(labels or {})}
    return engine.request("GET", "/networks", operation=_LIST, query=query).sequence()


def network(engine: Caller, id_or_name: str) -> Json | None:
    """A network by its whole id or exact name, with its containers; None when there is none.

    Raises EngineError (status 400) when several networks have the name, which engine 20.10 allows.
    """
    if not id_or_name:
        raise ValueError("a network's name cannot be empty")
    try:
        found = engine.request(
            "GET", f"/networks/{quote(id_or_name)}", operation=f"inspecting network {id_or_name}"
        ).mapping()
    except NotFound:
        return None
    # The engine also takes the beginning of an id: a name like "ab" must not find a network whose id starts so.
    return found if id_or_name in (found.get("Id"), found.get("Name")) else None


def create_network(engine: Caller, payload: Json) -> str:
    """Create a network from the Engine API's own payload; its id. A taken name: NameConflict."""
    operation = f"creating network {payload.get('Name', '')}"
    return str(
        engine.request(
            "POST", "/networks/create", operation=operation, payload={"CheckDuplicate": True, **payload}
        ).mapping()["Id"]
    )


def remove_network(engine: Caller, id: str) -> None:
    """Remove a network that no container uses. Raises NotFound."""
    if not id:
        raise ValueError("a network's id cannot be empty")
    engine.request("DELETE", f"/networks/{quote(id)}", operation=f"removing network {named(id)}").read()


def connect_network(engine: Caller, network: str, container: str, config: Json | None = None) -> None:
    """Attach a container; `config` is the API's EndpointConfig (Aliases, IPAMConfig …)."""
    payload = {"Container": container, "EndpointConfig": dict(config or {})}
    operation = f"connecting container {named(container)} to network {named(network)}"
    engine.request("POST", f"/networks/{quote(network)}/connect", operation=operation, payload=payload).read()


def disconnect_network(engine: Caller, network: str, container: str, *, force: bool = False) -> None:
    """Detach a container."""
    payload = {"Container": container, "Force": force}
    operation = f"disconnecting container {named(container)} from network {named(network)}"
    engine.request("POST", f"/networks/{quote(network)}/disconnect", operation=operation, payload=payload).read()


def volumes(engine: Caller, *, labels: Mapping[str, str | None] | None = None) -> tuple[Json, ...]:
    """The volumes with all `labels` (None: any value)."""
    query = {"filters": label_filter(labels or {})}
    return tuple(
        engine.request("GET", "/volumes", operation="listing volumes", query=query).mapping().get("Volumes") or ()
    )


def volume(engine: Caller, name: str) -> Json | None:
    """A volume by its name; None when there is none."""
    if not name:
        raise ValueError("a volume's name cannot be empty")
    try:
        return engine.request("GET", f"/volumes/{quote(name)}", operation=f"inspecting volume {name}").mapping()
    except NotFound:
        return None


def create_volume(engine: Caller, payload: Json) -> Json:
    """Create a volume; as it is now. When the name is taken, the engine answers with the volume that has it."""
    operation = f"creating volume {payload.get('Name', '')}"
    return engine.request("POST", "/volumes/create", operation=operation, payload=payload).mapping()


def remove_volume(engine: Caller, name: str, *, force: bool = False) -> None:
    """Remove a volume that no container uses. Raises NotFound."""
    if not name:
        raise ValueError("a volume's name cannot be empty")
    query = {"force": force}
    engine.request("DELETE", f"/volumes/{quote(name)}", operation=f"removing volume {name}", query=query).read()
