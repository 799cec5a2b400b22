"""The engine's events: what it remembers of containers that ended, and what happened to a project's since a moment.

Following them leaves nothing on the engine, whoever is killed, and names containers that are gone by now. The engine
remembers only its last 256 events, of everything that it runs: what is older the stream has seen. Decides nothing:
`outcome.py` does. Also tells a command that ended from one that an init did not find.
"""

from __future__ import annotations

import math
import os
import re
import signal as signals
import threading
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, suppress
from datetime import UTC, datetime, timedelta
from functools import cache, partial, reduce
from itertools import islice
from pathlib import PurePosixPath
from posixpath import join, normpath
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from msgspec import structs

from sandboxrun.backend.base import Happened, Past
from sandboxrun.backend.docker.calls import uptime
from sandboxrun.backend.docker.client import Stream
from sandboxrun.backend.docker.facts import is_podman
from sandboxrun.backend.docker.fields import NOT_EXECUTABLE, NOT_STARTED, held_by_init
from sandboxrun.backend.docker.lock import LEASE, is_lock
from sandboxrun.backend.errors import EngineError, EngineUnreachable, NotFound
from sandboxrun.spec import labels
from sandboxrun.spec.forms import below
from sandboxrun.spec.state import LOST, Ended, History, Running, State, parse_time
from sandboxrun.threads import begin

if TYPE_CHECKING:
    from sandboxrun.backend.base import News
    from sandboxrun.backend.docker.calls import Json
    from sandboxrun.backend.docker.client import Engine, EventStream
    from sandboxrun.backend.docker.lock import ProjectLock

_DEFAULT_NETWORK = "bridge"  # Docker makes it again at every start, so its age is the engine's
_NAMED = 20  # containers that a question names; of more, the answer is sorted out here
_KILLED = 137  # the exit code of what got SIGKILL, from somebody or from the kernel for its memory
_REMOVED = timedelta(hours=1)  # what was removed longer ago is hardly among an engine's last events
_PATIENCE = 10.0  # seconds, for an engine that does not end its answer
_NOTICE = timedelta(seconds=15)  # longer than what is told to stop mostly takes for it
SOON = 1.0  # seconds until a stream tells what has happened: an end, and after it that memory was what it died of


def histories(engine: Engine, ended: Mapping[str, State]) -> Mapping[str, History]:
    """Of each container (id → its state), what the engine remembers. Raises EngineError."""
    began_at = [s.started for s in ended.values() if isinstance(s, Running | Ended) and s.started is not None]
    if not began_at:
        return {}
    ends = {id: state.finished if isinstance(state, Ended) else None for id, state in ended.items()}
    events = _events(engine, ends, min(began_at))
    found = {id: history_of(events[id], silent=is_podman(engine.version(), {})) for id in ended}
    if all(history.whole for history in found.values()):
        return found  # one engine saw all of them from start to end: it was not restarted
    about = {"outlives": True, "silent": True}
    doubted: dict[str, datetime] = {}
    if not is_podman(engine.version(), {}):
        lost = any(isinstance(state, Ended) and state.exit_code == LOST for state in ended.values())
        about = _of_engine(engine, _began(engine), min(began_at), lost=lost)
        doubted = {id: end for id, end in ends.items() if end is not None and _is_doubtful(found[id], ended[id])}
    known_since = _known_since(engine) if doubted else None
    forgets = {id for id, end in doubted.items() if known_since is not None and known_since > end - _NOTICE}
    return {id: history_of(events[id], **about, forgets=id in forgets) for id in ended}


def _is_doubtful(history: History, state: State) -> bool:
    """Whether a signal that the engine has forgotten may have ended it."""
    return not history.whole and history.died and isinstance(state, Ended) and not history.explains(state.exit_code)


def _known_since(engine: Engine) -> datetime | None:
    """Since when the engine remembers all that happened; None where it has forgotten nothing."""
    until = math.ceil(engine.clock().timestamp()) + 1
    with engine.events(since="0", until=str(until)) as stream, stream.within(_PATIENCE):
        times = [_nanoseconds(event) for event in islice(stream, _REMEMBERED)]
    return datetime.fromtimestamp(min(times) / 1e9, UTC) if len(times) >= _REMEMBERED else None


def code_of_command(engine: Engine, container: str, command: str) -> str | None:
    """The exit code that the engine's events have of a command in a container that has ended just now; None where they
    have none."""
    until = math.ceil(engine.clock().timestamp()) + 1  # it may be told a moment later
    filters = {"container": [container], "event": ["exec_die"]}
    with engine.events(filters=filters, since="0", until=str(until)) as stream, stream.within(_PATIENCE):
        found = (own for own in map(_attributes, stream) if own.get("execID") == command)
        return next(found, {}).get("exitCode")


def is_ending(engine: Engine, container: str, seconds: float) -> bool:
    """Whether somebody sent it a signal in the last `seconds`. False where the engine's events can't be asked for.

    Each that asks listens for another while: of several that ask at one time, the first one's signal is what the
    others hear, unless two stop listening within the time that a signal takes.
    """
    filters = {"type": ["container"], "container": [container], "event": ["kill"]}
    try:
        since = engine.clock() - timedelta(seconds=seconds)
        stream = engine.events(filters=filters, since=f"{since.timestamp():.3f}")
        with stream, stream.within(0.1 + os.urandom(1)[0] / 128):
            return next(iter(stream), None) is not None
    except EngineError:
        return False


def _began(engine: Engine) -> datetime | None:
    """When the engine itself started; None where that can't be known."""
    created = (engine.network(_DEFAULT_NETWORK) or {}).get("Created")
    return parse_time(created) if isinstance(created, str) else None


def _of_engine(engine: Engine, began: datetime | None, since: datetime, *, lost: bool = False) -> dict[str, Any]:
    """History's fields of an engine that began then, for what was started since. `lost`: one may have ended while the
    engine was away; where containers outlive it, so does the network that tells when it began."""
    there = began is not None and began <= since
    if there and not lost:
        return {"began": began}
    outlives = bool(engine.info().get("LiveRestoreEnabled"))
    if there:
        return {"outlives": True} if outlives else {"began": began}
    return {"began": began, "outlives": outlives, "known": began is not None or outlives}


def of_removed(engine: Engine, id: str) -> History:
    """What the engine remembers of a container that is gone: whether a signal ended it. Raises EngineError."""
    since = engine.clock() - _REMOVED
    return history_of(_events(engine, {id: None}, since)[id], silent=is_podman(engine.version(), {}))


def history_of(events: Iterable[Mapping[str, Any]], **engine: Any) -> History:
    """From the engine's events of one container, oldest first; `engine` are History's fields of the engine itself."""
    return reduce(_with_event, events, History(**engine))


def _with_event(found: History, event: Mapping[str, Any]) -> History:
    """What is remembered after one more event."""
    match event.get("Action"):
        case "start":
            return structs.replace(found, started=True, died=False, signals=frozenset(), oom=False)
        case "die" | "died":
            return structs.replace(found, died=True)
        case "oom":
            return structs.replace(found, oom=True)
        case "kill" if not found.died and re.fullmatch("[0-9]{1,2}", number := _attributes(event).get("signal", "")):
            return structs.replace(found, signals=found.signals | {int(number)})
        case "stop" if found.silent:
            return structs.replace(found, signals=found.signals | {signals.SIGTERM})
    return found


def _events(engine: Engine, ends: Mapping[str, datetime | None], since: datetime) -> dict[str, list[Mapping[str, Any]]]:
    """Their events, oldest first. A container's end is reported a moment after its state shows it, and that it died of
    memory may be after that, so that of one that has just ended they are waited for. Where the clock was set back
    meanwhile, the last are earlier than the first."""
    found: dict[str, list[Mapping[str, Any]]] = {id: [] for id in ends}
    now = engine.clock()
    fresh = any(end is None or end >= now - timedelta(seconds=2) for end in ends.values())
    filters = {"type": ["container"], **({"container": list(ends)} if len(ends) <= _NAMED else {})}
    missing = {id for id, end in ends.items() if end is not None}
    awaited = bool(missing)
    times = [at.timestamp() for at in (since, now, *ends.values()) if at is not None]
    until = str(math.ceil(max(times)) + (2 if fresh else 0))
    stream = engine.events(filters=filters, since=str(int(min(times)) - 1), until=until)
    with stream, stream.within(_PATIENCE), ExitStack() as hurry:
        for event in stream:
            if (id := _id_of(event)) not in found:
                continue
            found[id].append(event)
            end = ends[id]
            # of this end, not of one before a restart by hand
            if event.get("Action") in ("die", "died") and end and _nanoseconds(event) / 1e9 >= end.timestamp() - 0.001:
                missing.discard(id)
                if not missing:
                    hurry.enter_context(stream.within(SOON))  # that it died of memory is told by then
            if awaited and not missing and not (fresh and any(map(_may_be_memory, found.values()))):
                break
    return found


def _may_be_memory(events: Iterable[Mapping[str, Any]]) -> bool:
    """Whether it was killed, and nothing tells yet by whom."""
    codes = [_attributes(event).get("exitCode") for event in events if event.get("Action") == "die"]
    return codes[-1:] == [str(_KILLED)] and not history_of(events).explains(_KILLED)


# -- A command that was never there: under an init it "starts", and ends at once with a code that it may have itself

_MOST_PLACES = 64  # of a search path
_DIRECTORY, _LINK = 1 << 31, 1 << 27  # of Go's FileMode
_ENGINE_INIT = "/sbin/docker-init"
_RUNTIMES = ("/proc", "/sys", "/dev")  # what lies there is no file of the container's


def known_state(engine: Engine, inspect: Mapping[str, Any], state: State) -> State:
    """The state of a container; of one whose command an init did not find, as without an init: its start failed.

    Only where that is certain: nothing that the sandbox could write to decides it. Raises EngineUnreachable.
    """
    if not isinstance(state, Ended) or state.exit_code not in NOT_STARTED or state.started is None or state.error:
        return state
    config, held = inspect.get("Config") or {}, held_by_init(inspect)
    program = str(inspect.get("Path") or "") if (inspect.get("HostConfig") or {}).get("Init") else ""
    if held is not None:
        program = str(next(iter((*held.entrypoint, *(config.get("Cmd") or ()))), ""))
    try:
        found = program != "" and _is_missing(engine, inspect, program)
    except EngineUnreachable:
        raise
    except EngineError:
        return state
    # what an init says of a file that is there and no program, and of one that its user may not run
    why = "not executable" if state.exit_code == NOT_EXECUTABLE else "command not found"
    return structs.replace(state, started=None, error=f"{program}: {why}") if found else state


def _is_missing(engine: Engine, inspect: Mapping[str, Any], program: str) -> bool:
    """Whether the program certainly was not there: it is not now, and nobody inside could have removed it."""
    id, config, host = str(inspect["Id"]), inspect.get("Config") or {}, inspect.get("HostConfig") or {}
    places = _places(program, str(config.get("WorkingDir") or "/"), config.get("Env") or ())
    mounts = [(str(mount.get("Destination")), bool(mount.get("RW", True))) for mount in inspect.get("Mounts") or ()]
    writable = [*_RUNTIMES, *(host.get("Tmpfs") or {}), *(path for path, writes in mounts if writes)]
    stats = _Stats(engine, id)
    if not places or any(below(stats.resolved(place), folder) for place in places for folder in writable):
        return False
    if any(stats.executable(place) for place in places):
        return False
    if host.get("ReadonlyRootfs"):
        return True
    # Where it mounts the engine makes directories, and a file for its own init, maybe in one of the image's.
    init = [stats.resolved(_ENGINE_INIT)] if host.get("Init") else []
    targets = [*_RUNTIMES, *(host.get("Tmpfs") or {}), *(path for path, _ in mounts), *init]
    made = {str(above) for path in targets for above in (PurePosixPath(path), *PurePosixPath(path).parents)}
    return all(path in made and kind != "deleted" for path, kind in engine.changes(id))


def _places(program: str, directory: str, environment: Iterable[str]) -> list[str]:
    """Where it is looked for, in order; nothing where that is more than anybody needs."""
    if "/" in program:
        return [normpath(join("/", directory, program))]
    path = next((str(text)[5:] for text in environment if str(text).startswith("PATH=")), "")
    folders = path.split(":")
    return [normpath(join("/", directory, at, program)) for at in folders] if len(folders) <= _MOST_PLACES else []


class _Stats:
    """What paths of a container are, each asked for once."""

    def __init__(self, engine: Engine, id: str) -> None:
        self._engine, self._id = engine, id
        self._known: dict[str, Json | None] = {}

    def of(self, path: str) -> Json | None:
        """None for what is not there."""
        if path not in self._known:
            try:
                self._known[path] = self._engine.stat_archive(self._id, path)
            except NotFound:
                self._known[path] = None
        return self._known[path]

    def resolved(self, path: str) -> str:
        """The path with the first symlink among its folders followed, as the engine resolves that one to its end."""
        for folder in reversed(PurePosixPath(path).parents):
            stat = self.of(str(folder)) if str(folder) != "/" else None
            if stat is not None and int(stat.get("mode") or 0) & _LINK:
                return join(str(stat.get("linkTarget") or "/"), str(PurePosixPath(path).relative_to(folder)))
        return path

    def executable(self, path: str) -> bool:
        """Whether it may be a program."""
        stat = self.of(path)
        mode = int(stat.get("mode") or 0) if stat is not None else 0
        return bool(mode & _LINK or (mode & 0o111 and not mode & _DIRECTORY))


# -- What happened to a project's containers

_ACTIONS = ("create", "start", "oom", "kill", "update", "die", "destroy")
_REMEMBERED = 256  # events that an engine keeps
_REACH = LEASE + 15  # seconds; whoever holds a lock has made a volume of it within its lease
_TOLD = 0.25  # seconds that the stream may take for what has happened
_SAME = 2.0  # seconds: the engine tells its time in whole ones, so clocks that differ by less may be one


class ProjectEvents:
    """What happened to a project's containers since `began` (UNIX time, by this machine's clock), and before to those.
    As a context it follows it; without, it knows what the engine remembers. Raises EngineErrors.

    For who is `locking` the stream is of everything: events of volumes, as the project's lock is, have no labels.
    """

    def __init__(self, engine: Engine, project: str, began: float, *, locking: bool = False) -> None:
        self._engine, self._project, self._locking = engine, project, locking
        self._filters = {
            "type": ["container"],
            "label": [f"{labels.PROJECT}={project}"],
            "event": list(_ACTIONS),
        }
        self._offset = time.time() - uptime()
        ahead = engine.clock().timestamp() - time.time()
        self._ahead = 0.0 if abs(ahead) <= _SAME else ahead
        self._began = began + self._ahead
        self._count = 0  # events that the stream has told
        self._locks: dict[str, int] = {}  # volumes of the project's lock that are there → how many came before
        # container → its events by time and action: the engine may tell one twice
        self._events: defaultdict[str, dict[tuple[int, str], Json]] = defaultdict(dict)
        self._codes: dict[str, str] = {}  # container → its exit code at its last end
        self._ended: dict[str, float] = {}  # container → when that was told (time.monotonic)
        self._engine_began = cache(partial(_began, engine))
        self._lost: EngineError | None = None
        self._stream: EventStream | None = None
        self._lock = threading.Condition()

    def __enter__(self) -> Self:
        self._hear(self._engine.events(filters=None if self._locking else self._filters, since=self._from()))
        return self

    def _hear(self, stream: EventStream) -> None:
        """Follow this one from now on."""
        self._stream = stream
        begin(partial(self._follow, stream), name="events", failed=partial(self._failed, stream))

    def narrow(self) -> None:
        """What an engine tells of everybody is waited for until it is read: nobody listens to that for long, for then
        a process that is stopped would slow the engine down."""
        wide = self._stream
        if self._locking and wide is not None:
            with suppress(EngineError):
                self._hear(self._engine.events(filters=self._filters, since=self._from()))
                wide.close()
                self._locking = False

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._stream is not None:
            self._stream.close()

    def past(self, held: Any = None) -> Mapping[str, Past]:
        """All containers that something happened to until now, by id; until the lock `held` was taken, where that is
        enough. Raises EngineError once the stream was lost."""
        if held is None or not self._has_told_until(held):
            until = f"{time.time() + self._ahead:.9f}"
            with self._engine.events(filters=self._filters, since=self._from(), until=until) as remembered:
                self._take(remembered)
        if self._lost is not None:
            raise self._lost
        with self._lock:
            found = {container: sorted(events.values(), key=_nanoseconds) for container, events in self._events.items()}
        since = self._since() * 1e9
        return {id: _past(events) for id, events in found.items() if events and _nanoseconds(events[-1]) >= since}

    def _from(self) -> str:
        """Where to begin to listen: early enough to hear of a signal before it began that ended something since."""
        return f"{max(0.0, min(self._since(), time.time() + self._ahead - _REACH)):.9f}"

    def _since(self) -> float:
        """When it began, by the engine's clock now: where that was set back since, nothing else would come after."""
        set_back = self._offset - (time.time() - uptime())
        return max(0.0, self._began - (set_back if set_back > _SAME else 0.0))

    def _has_told_until(self, held: ProjectLock) -> bool:
        """Whether the stream has told all that was done under the project's lock before this holder has it.

        It has once it tells of the holder's own volume, whatever is done before that comes before; and of the end of
        every other volume of the lock: one may have gone while this one was made. All of that is known where the engine
        has not forgotten any of the last minute's events.
        """
        if self._stream is None or not self._locking or is_podman(self._engine.version(), {}):
            return False

        own = held.volume

        def told() -> bool:
            return own in self._locks and all(map(held.made, self._locks))

        def useless() -> bool:
            return self._lost is not None or self._locks.get(own, self._count) >= _REMEMBERED

        with self._lock:
            self._lock.wait_for(lambda: told() or useless(), _TOLD)
            return told() and not useless()

    def history(self, id: str, ended: Ended) -> History | None:
        """Of one that has ended like this, what the stream has told: events come in order, so that all is known with
        its end, but for what the engine had forgotten before."""
        started, finished = ended.started, ended.finished
        with suppress(EngineError):
            if started is None or is_podman(self._engine.version(), {}):
                return None  # its events do not have everything

            def events() -> list[Json]:
                return sorted(self._events[id].values(), key=_nanoseconds)

            def told() -> bool:  # of this end, not of one before
                times = [_nanoseconds(event) / 1e9 for event in events() if event.get("Action") == "die"]
                return bool(times) and (finished is None or times[-1] >= finished.timestamp() - 0.001)

            reaches = self._since() <= started.timestamp()
            with self._lock:
                # without its start it will not be whole, if not soon
                began = reaches or any(event.get("Action") == "start" for event in events())
                if self._lock.wait_for(lambda: self._lost is not None or told(), SOON if began else _TOLD):
                    left = self._ended[id] + SOON - time.monotonic() if id in self._ended else 0.0
                    self._lock.wait_for(lambda: self._lost is not None or not _may_be_memory(events()), max(0.0, left))
                found, heard = history_of(events()), told()
            if heard and reaches and found.died and not found.whole and found.explains(ended.exit_code):
                # the engine that told of its end was there since then
                found = history_of(events(), **_of_engine(self._engine, self._engine_began(), started))
                return found if self._lost is None else None
            return found if heard and found.whole and self._lost is None else None
        return None

    def exit_code(self, id: str, timeout: float) -> int | None:
        """Of one that ends within `timeout` seconds, as the stream tells it."""
        if self._stream is None or is_podman(self._engine.version(), {}):
            return None
        with self._lock:
            self._lock.wait_for(lambda: self._lost is not None or id in self._codes, timeout)
            code = self._codes.get(id, "")
        return int(code) if code.isdigit() and len(code) <= 3 else None

    def _follow(self, stream: EventStream) -> None:
        self._take(self._seen(event) for event in stream)
        self._end(stream, "the engine ended the stream")

    def _failed(self, stream: EventStream, error: BaseException) -> None:
        self._end(stream, error.cause if isinstance(error, EngineError) else f"{type(error).__name__}: {error}")

    def _end(self, stream: EventStream, cause: str) -> None:
        """Whoever asks next gets the error, unless another stream has taken this one's place."""
        if stream is not self._stream:
            return
        help = "what other jobs did in the meantime is unknown: run the command again"
        with self._lock:
            self._lost = EngineError("following the engine's events", cause, help=help)
            self._lock.notify_all()

    def _seen(self, event: Json) -> Json:
        """Note what an event of the stream says of the project's lock."""
        name = _id_of(event)
        with self._lock:
            if event.get("Type") == "volume" and is_lock(name, self._project):
                if event.get("Action") == "create":
                    self._locks[name] = self._count
                elif event.get("Action") == "destroy":
                    self._locks.pop(name, None)
                self._lock.notify_all()
            self._count += 1
            if self._count == _REMEMBERED:
                self._lock.notify_all()
        return event

    def _is_ours(self, event: Json) -> bool:
        """Whether it is of one of the project's containers."""
        known = event.get("Type") == "container" and event.get("Action") in _ACTIONS
        return known and _attributes(event).get(labels.PROJECT) == self._project

    def _take(self, stream: Iterable[Json]) -> None:
        for event in filter(self._is_ours, stream):
            container = _id_of(event)
            with self._lock:
                self._events[container][_nanoseconds(event), str(event.get("Action"))] = event
                if event.get("Action") == "die":
                    self._codes[container] = _attributes(event).get("exitCode", "")
                    self._ended[container] = time.monotonic()
                self._lock.notify_all()


def _past(events: list[Json]) -> Past:
    own = _attributes(events[-1])
    ends = [event for event in events if event.get("Action") in ("start", "die")]
    code = _attributes(ends[-1]).get("exitCode", "") if ends and ends[-1].get("Action") == "die" else ""
    return Past(
        name=own.get("name", ""),
        labels=own,
        times={str(event.get("Action")): _nanoseconds(event) / 1e9 for event in events},
        exit_code=int(code) if code.isdigit() else None,
        history=history_of(events),
    )


def _id_of(event: Json) -> str:
    actor = event.get("Actor")
    return str(actor.get("ID") or "") if isinstance(actor, Mapping) else ""


def _attributes(event: Json) -> dict[str, str]:
    """What the event says of its container, its labels among it."""
    actor = event.get("Actor")
    found = actor.get("Attributes") if isinstance(actor, Mapping) else None
    return {str(name): str(value) for name, value in found.items()} if isinstance(found, Mapping) else {}


def _nanoseconds(event: Json) -> int:
    at = event.get("timeNano")
    return at if isinstance(at, int) else 0


# -- What happens to sandboxes from now on


def news(engine: Engine, only: str | None = None) -> News:
    """What happens to the containers of all projects, or of one, from now on. Raises EngineError."""
    whole = not is_podman(engine.version(), {})  # its events do not have everything
    since = f"{engine.clock().timestamp() - _SAME:.9f}"  # the engine answers a moment before it listens
    label = labels.PROJECT if only is None else f"{labels.PROJECT}={only}"
    filters = {"type": ["container"], "label": [label], "event": ["start", "oom", "kill", "die", "destroy"]}
    stream = engine.events(filters=filters, since=since)
    return Stream(_happened(stream, whole=whole), stream.close)


def _happened(stream: Iterable[Json], *, whole: bool) -> Iterator[Happened]:
    """What each event says; a history for what has started since the stream began."""
    histories: dict[str, History] = {}
    for event in stream:
        id, action, own = _id_of(event), event.get("Action"), _attributes(event)
        if whole and (action == "start" or id in histories):
            histories[id] = _with_event(histories.get(id, History()), event)
        if action == "destroy":
            histories.pop(id, None)
        if action in ("start", "die", "destroy"):
            ended = histories.get(id) if action == "die" else None
            yield Happened(project=own.get(labels.PROJECT, ""), id=id, action=action, labels=own, history=ended)
