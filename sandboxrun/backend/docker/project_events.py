"""What happened to a project's containers since a moment, in the engine's own words: its events.

Owns the stream of them. It leaves nothing on the engine, whoever is killed, and names containers that are gone by now.
The engine remembers only its last 256 events, of everything that it runs: what is older the stream has seen.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Mapping
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from sandboxrun.backend.base import Past
from sandboxrun.backend.docker.facts import is_podman
from sandboxrun.backend.docker.history import history_of
from sandboxrun.backend.errors import EngineError
from sandboxrun.spec import labels
from sandboxrun.threads import begin

if TYPE_CHECKING:
    from sandboxrun.backend.docker.calls import Json
    from sandboxrun.backend.docker.client import Engine
    from sandboxrun.backend.docker.streams import EventStream
    from sandboxrun.spec.outcome import History

_ACTIONS = ("create", "start", "oom", "kill", "update", "die", "destroy")
SOON = 1.0  # seconds until the stream tells of an end that was seen otherwise
_SAME = 2.0  # seconds: the engine tells its time in whole ones, so clocks that differ by less may be one


class ProjectEvents:
    """The events of a project's containers since `began` (UNIX time, by this machine's clock). As a context it follows
    them; without, it knows what the engine remembers. Raises EngineErrors."""

    def __init__(self, engine: Engine, project: str, began: float) -> None:
        self._engine = engine
        self._filters = {
            "type": ["container"],
            "label": [f"{labels.PROJECT}={project}"],
            "event": list(_ACTIONS),
        }
        ahead = engine.clock().timestamp() - time.time()
        self._ahead = 0.0 if abs(ahead) <= _SAME else ahead
        self._since = f"{began + self._ahead:.9f}"
        self._events: dict[tuple[str, int, str], Json] = {}  # container, time, action: the engine may tell it twice
        self._lost: EngineError | None = None
        self._stream: EventStream | None = None
        self._lock = threading.Condition()

    def __enter__(self) -> Self:
        self._stream = self._engine.events(filters=self._filters, since=self._since)
        begin(partial(self._follow, self._stream), name="events", failed=self._failed)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._stream is not None:
            self._stream.close()

    def past(self) -> Mapping[str, Past]:
        """All containers that something happened to until now, by id. Raises EngineError once the stream was lost."""
        until = f"{time.time() + self._ahead:.9f}"
        with self._engine.events(filters=self._filters, since=self._since, until=until) as remembered:
            self._take(remembered)
        if self._lost is not None:
            raise self._lost
        with self._lock:
            found = sorted(self._events.items(), key=lambda item: item[0][1])
        by_id: dict[str, list[Json]] = {}
        for (container, _, _), event in found:
            by_id.setdefault(container, []).append(event)
        return {container: _past(container, events) for container, events in by_id.items()}

    def history(self, id: str) -> History | None:
        """Of one that has ended, what the stream has told: events come in order, so that all is known with its end."""
        if is_podman(self._engine.version(), {}):
            return None  # its events do not have everything
        with self._lock:
            self._lock.wait_for(lambda: self._lost is not None or "die" in self._actions(id), SOON)
            events = sorted((event for at, event in self._events.items() if at[0] == id), key=_time)
        found = history_of(events)
        return found if found.started and found.died and self._lost is None else None

    def _actions(self, id: str) -> frozenset[str]:
        return frozenset(action for container, _, action in self._events if container == id)

    def _follow(self, stream: EventStream) -> None:
        self._take(stream)
        self._end("the engine ended the stream")

    def _failed(self, error: BaseException) -> None:
        self._end(error.cause if isinstance(error, EngineError) else f"{type(error).__name__}: {error}")

    def _end(self, cause: str) -> None:
        """Whoever asks next gets the error."""
        help = "what other jobs did in the meantime is unknown: run the command again"
        with self._lock:
            self._lost = EngineError("following the engine's events", cause, help=help)
            self._lock.notify_all()

    def _take(self, stream: Iterable[Json]) -> None:
        for event in stream:
            container = str((event.get("Actor") or {}).get("ID") or "")
            with self._lock:
                self._events[container, _time(event), str(event.get("Action"))] = event
                self._lock.notify_all()


def _past(container: str, events: list[Json]) -> Past:
    own = _attributes(events[-1])
    ends = [event for event in events if event.get("Action") in ("start", "die")]
    code = _attributes(ends[-1]).get("exitCode", "") if ends and ends[-1].get("Action") == "die" else ""
    return Past(
        id=container,
        name=own.get("name", ""),
        labels=own,
        times={str(event.get("Action")): _time(event) / 1e9 for event in events},
        exit_code=int(code) if code.isdigit() else None,
        history=history_of(events),
    )


def _attributes(event: Json) -> dict[str, str]:
    """What the event says of its container, its labels among it."""
    found: Any = (event.get("Actor") or {}).get("Attributes") or {}
    return {str(name): str(value) for name, value in found.items()}


def _time(event: Json) -> int:
    return int(event.get("timeNano") or 0)
