"""Asks the engine what it remembers of containers that have ended, and whether it was restarted meanwhile.

Owns these calls. Decides nothing: `outcome.py` does.
"""

from __future__ import annotations

import math
import signal as signals
import threading
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from msgspec import structs

from sandboxrun.backend.docker.facts import is_podman
from sandboxrun.spec.outcome import History
from sandboxrun.spec.state import Ended, Running, State, parse_time

if TYPE_CHECKING:
    from sandboxrun.backend.docker.client import Engine

_DEFAULT_NETWORK = "bridge"  # Docker makes it again at every start, so its age is the engine's
_NAMED = 20  # containers that a question names; of more, the answer is sorted out here
_REMOVED = timedelta(hours=1)  # what was removed longer ago is hardly among an engine's last events
_PATIENCE = 10.0  # seconds, for an engine that does not end its answer


def histories(engine: Engine, ended: Mapping[str, State]) -> Mapping[str, History]:
    """Of each container (id → its state), what the engine remembers. Raises EngineError."""
    began_at = [s.started for s in ended.values() if isinstance(s, Running | Ended) and s.started is not None]
    if not began_at:
        return {}
    ends = {id: state.finished if isinstance(state, Ended) else None for id, state in ended.items()}
    events = _events(engine, ends, min(began_at))
    found = {id: history_of(events[id], silent=is_podman(engine.version(), {})) for id in ended}
    if all(history.started and history.died for history in found.values()):
        return found  # one engine saw all of them from start to end: it was not restarted
    about = _about(engine, min(began_at))
    return {id: history_of(events[id], **about) for id in ended}


def of_removed(engine: Engine, id: str) -> History:
    """What the engine remembers of a container that is gone: whether a signal ended it. Raises EngineError."""
    since = engine.clock() - _REMOVED
    return history_of(_events(engine, {id: None}, since)[id], silent=is_podman(engine.version(), {}))


def history_of(events: Iterable[Mapping[str, Any]], **engine: Any) -> History:
    """From the engine's events of one container, oldest first; `engine` are History's fields of the engine itself."""
    found = History(**engine)
    for event in events:
        match event.get("Action"):
            case "start":
                found = History(started=True, **engine)
            case "die" | "died":
                found = structs.replace(found, died=True)
            case "oom":
                found = structs.replace(found, oom=True)
            case "kill" if not found.died and (number := _signal_of(event)) is not None:
                found = structs.replace(found, signals=found.signals | {number})
            case "stop" if found.silent:
                found = structs.replace(found, signals=found.signals | {signals.SIGTERM})
    return found


def _signal_of(event: Mapping[str, Any]) -> int | None:
    actor = event.get("Actor")
    attributes = actor.get("Attributes") if isinstance(actor, Mapping) else None
    text = str(attributes.get("signal") or "") if isinstance(attributes, Mapping) else ""
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 2 else None


def _about(engine: Engine, earliest: datetime) -> Mapping[str, Any]:
    if is_podman(engine.version(), {}):
        return {"outlives": True, "silent": True}
    created = (engine.network(_DEFAULT_NETWORK) or {}).get("Created")
    began = parse_time(created) if isinstance(created, str) else None
    if began is not None and began <= earliest:
        return {"began": began}
    outlives = bool(engine.info().get("LiveRestoreEnabled"))
    return {"began": began, "outlives": outlives, "known": began is not None or outlives}


def _events(engine: Engine, ends: Mapping[str, datetime | None], since: datetime) -> dict[str, list[Mapping[str, Any]]]:
    """Their events, oldest first. A container's end is told a moment after its state shows it, so that of one that has
    just ended is waited for."""
    found: dict[str, list[Mapping[str, Any]]] = {id: [] for id in ends}
    now = engine.clock()
    fresh = any(end is None or end >= now - timedelta(seconds=2) for end in ends.values())
    filters = {"type": ["container"], **({"container": list(ends)} if len(ends) <= _NAMED else {})}
    missing = {id for id, end in ends.items() if end is not None}
    with engine.events(
        filters=filters,
        since=str(int(since.timestamp()) - 1),
        until=str(math.ceil(now.timestamp()) + (2 if fresh else 0)),
    ) as stream:
        timer = threading.Timer(_PATIENCE, stream.close)
        timer.daemon = True
        timer.start()
        try:
            for event in stream:
                actor = event.get("Actor")
                id = str(actor.get("ID")) if isinstance(actor, Mapping) else ""
                if id not in found:
                    continue
                found[id].append(event)
                if event.get("Action") in ("die", "died") and _after(event, ends[id]):
                    missing.discard(id)
                    if not missing:
                        break
        finally:
            timer.cancel()
    return found


def _after(event: Mapping[str, Any], end: datetime | None) -> bool:
    """Whether an event is of this end, not of one before a restart by hand."""
    at = event.get("timeNano")
    return end is not None and isinstance(at, int) and at / 1e9 >= end.timestamp() - 0.001
