"""The engine's calls about containers that answer at once, except those that stream (streams.py).

Each function is a method of Engine. Must not interpret what the engine says about a container.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sandboxrun.backend.docker.calls import TIMEOUT, Caller, Json, label_filter, quote
from sandboxrun.backend.errors import EngineError
from sandboxrun.data import Data

NOT_MODIFIED = 304  # as it was asked to be already


class Created(Data):
    """A new container's id, and what the engine said it did not do."""

    id: str
    warnings: tuple[str, ...]


def named(id: str) -> str:
    """A container in a message: an id is cut to the twelve digits that the docker command shows, a name stays."""
    return id[:12] if len(id) == 64 else id


def path_of(id: str, rest: str = "") -> str:
    """The path of a container's calls. An empty id would name the list of all: that is an error of the caller."""
    if not id:
        raise ValueError("a container's id cannot be empty")
    return f"/containers/{quote(id)}{rest}"


def containers(
    engine: Caller, *, labels: Mapping[str, str | None] | None = None, names: Sequence[str] = ()
) -> tuple[Json, ...]:
    """The containers in any state with all `labels` (None: any value) and one of the exact `names`: GET json."""
    escaped = ["^/?" + name.replace(".", "\\.") + "$" for name in names]
    filters = label_filter(labels or {}, {"name": escaped})
    answer = engine.request(
        "GET", "/containers/json", operation="listing containers", query={"all": True, "filters": filters}
    )
    wanted = {f"/{name}" for name in names}
    return tuple(c for c in answer.sequence() if not names or wanted.intersection(c.get("Names") or ()))


def inspect_container(engine: Caller, id: str) -> Json:
    """All that the engine knows of a container, by id or name. Raises NotFound."""
    return engine.request("GET", path_of(id, "/json"), operation=f"inspecting container {named(id)}").mapping()


def inspect_containers(engine: Caller, ids: Iterable[str]) -> tuple[Json, ...]:
    """Inspect several, in their order; one that is gone is left out. For hundreds: they are asked for in batches."""
    from sandboxrun.threads import together

    wanted = tuple(ids)
    batches = [wanted[at : at + _BATCH] for at in range(0, len(wanted), _BATCH)]

    def one(batch: tuple[str, ...]) -> tuple[Json | None, ...]:
        paths = [path_of(id, "/json") for id in batch]
        return engine.get_all(paths, operation=f"inspecting {len(wanted)} containers")

    return tuple(c for found in together(one, batches, workers=_INSPECTORS) for c in found if c is not None)


# Measured with 100 containers on 2 cores: one after the other 34 ms, each alone on 4 threads 25, in batches 17.
_KINDS = {0: "modified", 1: "added", 2: "deleted"}
_MOST_CHANGES = 16 << 20  # bytes
_BATCH = 25
_INSPECTORS = 4


def create_container(engine: Caller, name: str, payload: Json, *, platform: str | None = None) -> Created:
    """Create a container from the Engine API's own payload. Raises NameConflict, NotFound (the image)."""
    answer = engine.request(
        "POST",
        "/containers/create",
        operation=f"creating container {name}",
        query={"name": name, "platform": platform},
        payload=payload,
    ).mapping()
    return Created(id=str(answer["Id"]), warnings=tuple(answer.get("Warnings") or ()))


def start_container(engine: Caller, id: str) -> None:
    """Start it; no error when it runs already."""
    engine.request("POST", path_of(id, "/start"), operation=f"starting container {named(id)}").read()


def stop_container(engine: Caller, id: str, *, timeout: int) -> bool:
    """Signal it to stop, and kill it after `timeout` seconds. False, and no error, when it did not run."""
    query = {"t": timeout}
    bound = TIMEOUT + timeout
    answer = engine.request(
        "POST", path_of(id, "/stop"), operation=f"stopping container {named(id)}", query=query, timeout=bound
    )
    answer.read()
    return answer.status != NOT_MODIFIED


def kill_container(engine: Caller, id: str, signal: str = "KILL") -> None:
    """Send it a signal. Raises EngineError with status 409 when it does not run."""
    operation = f"sending {signal} to container {named(id)}"
    engine.request("POST", path_of(id, "/kill"), operation=operation, query={"signal": signal}).read()


def remove_container(engine: Caller, id: str, *, force: bool = False, volumes: bool = False) -> None:
    """Remove it: running ones with `force` only; its anonymous volumes with `volumes`. Raises NotFound."""
    query = {"force": force, "v": volumes}
    engine.request("DELETE", path_of(id), operation=f"removing container {named(id)}", query=query).read()


def pause_container(engine: Caller, id: str) -> None:
    """Freeze its processes."""
    engine.request("POST", path_of(id, "/pause"), operation=f"pausing container {named(id)}").read()


def unpause_container(engine: Caller, id: str) -> None:
    """Let its processes go on."""
    engine.request("POST", path_of(id, "/unpause"), operation=f"unpausing container {named(id)}").read()


def update_container(engine: Caller, id: str, payload: Json) -> tuple[str, ...]:
    """Change its limits or restart policy; what the engine said it did not do."""
    answer = engine.request(
        "POST", path_of(id, "/update"), operation=f"updating container {named(id)}", payload=payload
    )
    return tuple(answer.mapping().get("Warnings") or ())


def rename_container(engine: Caller, id: str, name: str) -> None:
    """Give it another name. Raises NameConflict."""
    operation = f"renaming container {named(id)} to {name}"
    engine.request("POST", path_of(id, "/rename"), operation=operation, query={"name": name}).read()


def wait_container(engine: Caller, id: str, *, timeout: float | None = None) -> int:
    """Wait until it does not run; its exit code. A container that never ran: 0, at once.

    Raises EngineTimeout after `timeout` seconds (None: waits for ever).
    """
    operation = f"waiting for container {named(id)}"
    answer = engine.request("POST", path_of(id, "/wait"), operation=operation, timeout=timeout).mapping()
    error = answer.get("Error") or {}
    if error.get("Message"):
        raise EngineError(operation, str(error["Message"]))
    return int(answer["StatusCode"])


def changes(engine: Caller, id: str) -> tuple[tuple[str, str], ...]:
    """What its filesystem has over the image's: path and kind (modified, added, deleted).

    Raises EngineError for a list of more than 16 MiB: an agent can make any number of files.
    """
    answer = engine.request(
        "GET", path_of(id, "/changes"), operation=f"listing the changes of container {named(id)}", stream=True
    )
    found = answer.sequence(_MOST_CHANGES)
    return tuple((str(c.get("Path", "")), _KINDS.get(c.get("Kind", 0), "?")) for c in found)


def stats(engine: Caller, id: str) -> Json:
    """One sample of its usage, at once (`precpu_stats` is empty)."""
    query = {"stream": False, "one-shot": True}
    return engine.request(
        "GET", path_of(id, "/stats"), operation=f"reading the usage of container {named(id)}", query=query
    ).mapping()


def top(engine: Caller, id: str, ps_args: str | None = None) -> Json:
    """Its processes: {"Titles": [...], "Processes": [[...]]}."""
    query = {"ps_args": ps_args}
    return engine.request(
        "GET", path_of(id, "/top"), operation=f"listing the processes of container {named(id)}", query=query
    ).mapping()


def exec_create(engine: Caller, id: str, payload: Mapping[str, Any]) -> str:
    """Prepare a command in a running container; the exec's id."""
    operation = f"preparing a command in container {named(id)}"
    return str(engine.request("POST", path_of(id, "/exec"), operation=operation, payload=payload).mapping()["Id"])


def exec_inspect(engine: Caller, exec_id: str) -> Json:
    """What became of a command: "Running", "ExitCode", "Pid"."""
    return engine.request("GET", f"/exec/{quote(exec_id)}/json", operation="inspecting a command").mapping()
