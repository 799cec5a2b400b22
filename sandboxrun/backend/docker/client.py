"""One engine: its calls, in its own JSON, which decide and interpret nothing; what is known of it; and the seam's verbs
(backend/base.py), each handed to the module that knows how, which is loaded with the first. And how it is connected to.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import cached_property, partial
from importlib import import_module
from typing import TYPE_CHECKING, Any, BinaryIO, Generic, Self, TypeVar

from msgspec import structs

from sandboxrun.backend.docker import calls
from sandboxrun.backend.docker.calls import (
    STDOUT,
    Answer,
    Client,
    Json,
    LabelFilter,
    demultiplex,
    entries_of,
    guarded,
    json_lines,
    label_filter,
    quote,
    with_labels,
)
from sandboxrun.backend.docker.codec import addresses_of, image_config, read_document, state_of, taken_by, with_clock
from sandboxrun.backend.docker.transport import (
    PIECE,
    TIMEOUT,
    Endpoint,
    LocalTransport,
    Unreachable,
    dial_ssh,
    dial_unix,
    registry_auth,
    resolve,
)
from sandboxrun.backend.errors import EngineError, EngineTimeout, EngineUnreachable, NotFound, RegistryError, help_for
from sandboxrun.data import Closing, Data, json_as
from sandboxrun.errors import Diagnostic, UsageError
from sandboxrun.spec import labels
from sandboxrun.spec.state import Ended
from sandboxrun.threads import begin

if TYPE_CHECKING:
    from sandboxrun.backend.base import EngineTerms, HostView
    from sandboxrun.backend.docker.docker_py import HijackedConnection, Transport
    from sandboxrun.backend.docker.lease import Leases
    from sandboxrun.gateway.subnets import Network
    from sandboxrun.plan.operations import Operation
    from sandboxrun.spec.state import Document, ImageConfig, ObservedSandbox, Sample, State

NOT_MODIFIED = 304  # as it was asked to be already
BUILD_TIMEOUT = 600.0  # seconds until the engine begins to answer; a slow one unpacks the context first

_KINDS = {0: "modified", 1: "added", 2: "deleted"}
_MOST_CHANGES = 16 << 20  # bytes
_ABOUT = {"version": "Version", "api_version": "ApiVersion", "os": "Os", "arch": "Arch", "kernel": "KernelVersion"}
_COULD_NOT_COPY = 126  # the engine's code for a command whose output it could not hand on, as of one it can't start
_LOST = "run the command again if what it does may be done twice; over a connection that lasts, its output is whole"
_IMAGE_ID = re.compile("sha256:[0-9a-f]{64}")
T = TypeVar("T")
Piece = tuple[int, bytes]


class CreatedContainer(Data):
    """A new container's id, and what the engine said it did not do."""

    id: str
    warnings: tuple[str, ...]


def named(id: str) -> str:
    """A container in a message: an id is cut to the twelve digits that the docker command shows, a name stays."""
    return id[:12] if len(id) == 64 else id


def path_of(kind: str, id: str, rest: str = "", *, also: str = "") -> str:
    """The path of an object's calls. An empty id would name the list of all: that is an error of the caller."""
    if not id:
        raise ValueError(f"the id in /{kind} cannot be empty")
    return f"/{kind}/{quote(id, also)}{rest}"


def split_reference(ref: str) -> tuple[str, str]:
    """A reference as the pull call wants it: the name, and its digest or tag (`latest` when it has neither).

    A digest wins over a tag, and a colon before the last slash is a port: `host:5000/a/b:1` is
    ("host:5000/a/b", "1").
    """
    name, at, digest = ref.partition("@")
    head, slash, last = name.rpartition("/")
    last, _, tag = last.partition(":")
    return f"{head}{slash}{last}", digest if at else (tag or "latest")


class Stream(Closing, Generic[T]):
    """Items that arrive from the engine. Iterate it in one thread; `close` from any. Also a context manager."""

    def __init__(self, items: Iterator[T], close: Callable[[], None]) -> None:
        self._items = items
        self._close = close
        self._closed = False

    def __iter__(self) -> Iterator[T]:
        return self

    def __next__(self) -> T:
        try:
            return next(self._items)
        except EngineError:
            if self._closed:  # ending a connection can look like a fault to whoever reads it
                raise StopIteration from None
            raise

    def close(self) -> None:
        """End it; whoever waits for the next item gets StopIteration."""
        self._closed = True
        self._close()

    @contextlib.contextmanager
    def within(self, seconds: float) -> Iterator[Self]:
        """For at most that long: then it ends."""
        timer = threading.Timer(seconds, self.close)
        timer.daemon = True
        timer.start()
        try:
            yield self
        finally:
            timer.cancel()


LogStream = Stream[Piece]  # (1 stdout or 2 stderr, bytes) as a container writes them; with a terminal all are 1
EventStream = Stream[Json]  # the engine's events, as its API tells them


class TerminalConnection(Closing, Data, eq=False):
    """The connection to a container's or a command's terminal: bytes both ways. `resize` tells the other side its rows
    and columns. Raises EngineErrors only."""

    operation: str
    connection: HijackedConnection
    resize: Callable[[int, int], None]

    def recv(self, size: int = PIECE) -> bytes:
        """What has arrived, at most `size` bytes; b"" at the end."""
        return guarded(self.operation, lambda: self.connection.recv(size))

    def send(self, data: bytes) -> int:
        """Send all of `data`; its length."""
        return guarded(self.operation, lambda: self.connection.send(data))

    def end_input(self) -> None:
        """End the other side's standard input; its output goes on. Not possible over TLS: Unsupported."""
        guarded(self.operation, self.connection.end_input)

    def pending(self) -> bool:
        """True when `recv` would not wait although a select on `fileno` tells nothing: look before each select."""
        return self.connection.pending()

    def fileno(self) -> int:
        """For select."""
        return self.connection.fileno()

    def close(self) -> None:
        """End it."""
        self.connection.close()


class Exec(LogStream):
    """A command in a container: its output to iterate, its exit code, and its input where it has one."""

    def __init__(
        self, engine: Engine, container: str, id: str, answer: Answer, terminal: TerminalConnection | None, *, tty: bool
    ) -> None:
        self.id = id
        self.terminal = terminal
        self._engine, self._container, self._operation = engine, container, answer.operation
        super().__init__(_output(answer, tty=tty), answer.close)

    def exit_code(self, *, timeout: float | None = None) -> int:
        """Wait until the command has ended (reading on, what is left of its output is dropped); its exit code.

        Raises EngineTimeout when it still runs `timeout` seconds after its output's end (None: waits for ever), and
        EngineUnreachable when the connection was cut and some of its output lost.
        """
        for _ in self:
            pass
        until = None if timeout is None else time.monotonic() + timeout
        pause, path = 0.002, f"/exec/{quote(self.id)}/json"
        while True:
            state = self._engine.request("GET", path, "inspecting a command").mapping(calls.COMMAND)
            if not state.get("Running") and state.get("ExitCode") is not None:
                code = int(state["ExitCode"])
                if code == _COULD_NOT_COPY and state.get("Pid"):
                    self._check_whole()
                return code
            if until is not None and time.monotonic() >= until:
                cause = f"it still runs {timeout:g} seconds after its output ended"
                raise EngineTimeout("waiting for a command", cause)
            time.sleep(pause)
            pause = min(pause * 2, 0.25)

    def _check_whole(self) -> None:
        """Raise EngineUnreachable where the code is the engine's, not the command's, whose own is in its events."""
        own = _part("history").code_of_command(self._engine, self._container, self.id)
        if own not in (None, str(_COULD_NOT_COPY)):
            cause = f"the connection was cut, and the rest of its output is lost; it ended with exit code {own}"
            raise EngineUnreachable(self._operation, cause, help=_LOST, maybe_done=True)


class Archive(Closing, Data):
    """A file or folder of a container as a tar: `stat` is the API's ("name", "size", "mode", "mtime", "linkTarget").

    What the container wrote is hostile: the tar may hold anything.
    """

    stat: Json
    stream: Stream[bytes]

    def close(self) -> None:
        """Drop the rest."""
        self.stream.close()


class _Verb:
    """A verb of the seam (backend/base.py says what each does): a function of another module of this room, which gets
    the engine as its first argument. The module is loaded with its first use: most commands do with few of them."""

    def __init__(self, module: str, function: str) -> None:
        self._module, self._function = module, function

    def __get__(self, engine: Engine, kind: type[Engine]) -> Any:
        return partial(getattr(_part(self._module), self._function), engine)


class Engine(Client):
    """One container engine. Usable from several threads at once; a context manager. Raises EngineErrors."""

    def __init__(self, transport: Transport, *, api_version: str | None = None) -> None:
        """Use `transport`; an `api_version` that is not given is agreed upon with the first call."""
        super().__init__(transport, api_version=api_version)
        self._leases: dict[int, Leases] = {}  # by process: one that was forked lives by its own
        self._configs: dict[str, ImageConfig] = {}  # by full id, whose meaning never changes

    observe = _Verb("observe", "take_snapshot")
    observe_before_run = _Verb("observe", "snapshot_before_run")
    observe_these = _Verb("observe", "snapshot_of_these")
    observe_ended = _Verb("observe", "snapshot_of_ended")
    projects = _Verb("observe", "projects")
    check_neighbours = _Verb("observe", "check_neighbours")
    follow = _Verb("history", "ProjectEvents")
    news = _Verb("history", "news")
    histories = _Verb("history", "histories")
    is_ending = _Verb("history", "is_ending")
    history_of_removed = _Verb("history", "of_removed")
    lock = _Verb("lock", "project_lock")
    sweep_leases = _Verb("lease", "sweep")
    collect = _Verb("leftovers", "collect")
    machine = _Verb("looking", "machine")
    observe_one = _Verb("looking", "observe_one")
    accounts = _Verb("looking", "accounts")
    gateway_view = _Verb("looking", "gateway_view")

    def perform(self, step: Operation, session: Any) -> str | None:
        return _part("perform").carry_out(step, session)

    def undo(self, session: Any, failed: Sequence[Operation], skipped: Sequence[Operation]) -> None:
        _part("perform").undo(session, failed, skipped)

    def restore(self, session: Any, steps: Sequence[Operation], done: Collection[str]) -> None:
        _part("perform").restore(session, steps, done)

    def lease(self, token: str = "") -> contextlib.AbstractContextManager[str]:
        if token:
            return _part("lease").Leases(self, joins=token).held()
        return self._leases.setdefault(os.getpid(), _part("lease").Leases(self)).held()

    @property
    def terms(self) -> EngineTerms:
        return _part("looking").TERMS

    def host_view(self, observed: ObservedSandbox) -> HostView:
        return _part("looking").host_view(self, observed.document)

    def usage(self, id: str) -> Sample | None:
        return _part("facts").sample_of(self.stats(id))

    # -- What is known of it

    @cached_property
    def host_addresses(self) -> tuple[str, ...]:
        """The addresses of the engine's own machine."""
        return _part("looking").host_addresses(self)

    @cached_property
    def _sharing(self) -> tuple[bool, str]:
        return _part("facts").sharing(self)

    def shares_filesystem(self) -> bool:
        return self._sharing[0]

    def filesystem_reason(self) -> str:
        """Why shares_filesystem says what it says, as a clause."""
        return self._sharing[1]

    def image_config(self, reference: str) -> ImageConfig | None:
        """What an image sets by itself; None where the engine has none of that name. By its id it is asked once."""
        if (known := self._configs.get(reference)) is not None:
            return known
        inspect = self.image(reference)
        if inspect is None:
            return None
        found = image_config(inspect)
        if _IMAGE_ID.fullmatch(found.id):
            self._configs[found.id] = found
        return found

    def about(self) -> Mapping[str, str]:
        found = self.version()
        return {name: str(found[key]) for name, key in _ABOUT.items() if key in found}

    def subnets(self) -> tuple[Network, ...]:
        return taken_by(self.networks())

    def addresses(self, id: str) -> tuple[str, ...]:
        return addresses_of(self.inspect_container(id))

    def state(self, id: str) -> State:
        return self._known_state(self.inspect_container(id))

    def _known_state(self, inspect: Mapping[str, Any]) -> State:
        found = with_clock(state_of(inspect), labels.read((inspect.get("Config") or {}).get("Labels")), self.clock)
        return _part("history").known_state(self, inspect, found) if isinstance(found, Ended) else found

    def get_ready(self) -> None:
        for part in ("history", "perform"):
            _part(part)

    def document(self, id: str, *, known: Mapping[str, Any] | None = None) -> Document:
        inspect = self.inspect_container(id) if known is None else known
        return structs.replace(read_document(inspect), state=self._known_state(inspect))

    # -- Containers

    def containers(
        self, *, labels: LabelFilter | None = None, names: Sequence[str] = (), most: int | None = None
    ) -> tuple[Json, ...]:
        """The containers in any state with all `labels` and one of the exact `names`, the newest `most`: GET json."""
        escaped = ["^/?" + name.replace(".", "\\.") + "$" for name in names]
        query = {"all": True, "limit": most, "filters": label_filter(labels, {"name": escaped})}
        answer = self.request("GET", "/containers/json", "listing containers", query=query)
        found, wanted = with_labels(answer.sequence(calls.LISTED), labels), {f"/{name}" for name in names}
        return tuple(c for c in found if not names or wanted.intersection(c.get("Names") or ()))

    def inspect_container(self, id: str) -> Json:
        """All that the engine knows of a container, by id or name. Raises NotFound."""
        answer = self._container("GET", id, "/json", "inspecting")
        return _answer_about(id, answer.mapping(calls.CONTAINER), answer.operation)

    def inspect_containers(self, ids: Iterable[str]) -> tuple[Json, ...]:
        """Inspect several, in their order; one that is gone is left out."""
        wanted = tuple(ids)
        operation = f"inspecting {len(wanted)} containers"
        found = self.objects([path_of("containers", id, "/json") for id in wanted], operation, calls.CONTAINER)
        answers = zip(wanted, found, strict=True)
        return tuple(_answer_about(id, told, operation) for id, told in answers if told is not None)

    def create_container(self, name: str, payload: Json, *, platform: str | None = None) -> CreatedContainer:
        """Create a container from the Engine API's own payload. Raises NameConflict, NotFound (the image)."""
        query = {"name": name, "platform": platform}
        operation = f"creating container {name}"
        answer = self.request("POST", "/containers/create", operation, query=query, payload=payload)
        made = answer.mapping(calls.MADE)
        return CreatedContainer(id=made["Id"], warnings=tuple(made.get("Warnings") or ()))

    def start_container(self, id: str) -> None:
        """Start it; no error when it runs already."""
        self._container("POST", id, "/start", "starting").read()

    def stop_container(self, id: str, *, timeout: int) -> bool:
        """Signal it to stop, and kill it after `timeout` seconds. False, and no error, when it did not run."""
        answer = self._container("POST", id, "/stop", "stopping", query={"t": timeout}, timeout=TIMEOUT + timeout)
        answer.read()
        return answer.response.status != NOT_MODIFIED

    def kill_container(self, id: str, signal: str = "KILL") -> None:
        """Send it a signal. Raises EngineError with status 409 when it does not run."""
        self._container("POST", id, "/kill", f"sending {signal} to", query={"signal": signal}).read()

    def remove_container(self, id: str, *, force: bool = False, volumes: bool = False) -> None:
        """Remove it: running ones with `force` only; its anonymous volumes with `volumes`. One that is gone is fine."""
        with contextlib.suppress(NotFound):
            self._container("DELETE", id, "", "removing", query={"force": force, "v": volumes}).read()

    def pause_container(self, id: str) -> None:
        self._container("POST", id, "/pause", "pausing").read()

    def unpause_container(self, id: str) -> None:
        self._container("POST", id, "/unpause", "unpausing").read()

    def update_container(self, id: str, payload: Json) -> tuple[str, ...]:
        """Change its limits or restart policy; what the engine said it did not do."""
        told = self._container("POST", id, "/update", "updating", payload=payload).mapping(calls.UPDATED)
        return tuple(told.get("Warnings") or ())

    def rename_container(self, id: str, name: str) -> None:
        """Give it another name. Raises NameConflict."""
        operation = f"renaming container {named(id)} to {name}"
        self.request("POST", path_of("containers", id, "/rename"), operation, query={"name": name}).read()

    def wait_container(self, id: str, *, timeout: float | None = None) -> int:
        """Wait until it does not run; its exit code. A container that never ran: 0, at once.

        Raises EngineTimeout after `timeout` seconds (None: waits for ever).
        """
        answer = self._container("POST", id, "/wait", "waiting for", timeout=timeout)
        told = answer.mapping(calls.WAITED)
        if message := (told.get("Error") or {}).get("Message"):
            raise EngineError(answer.operation, str(message))
        return int(told["StatusCode"])

    def commands(self, id: str) -> tuple[str, ...]:
        """The command lines of its processes, as the engine's host sees them."""
        answer = self._container("GET", id, "/top", "listing the processes of", query={"ps_args": "-eo pid,args"})
        return tuple(" ".join(map(str, row[1:])) for row in answer.mapping(calls.PROCESSES).get("Processes") or ())

    def changes(self, id: str) -> tuple[tuple[str, str], ...]:
        """What its filesystem has over the image's: path and kind (modified, added, deleted).

        Raises EngineError for a list of more than 16 MiB: an agent can make any number of files.
        """
        answer = self._container("GET", id, "/changes", "listing the changes of", most=_MOST_CHANGES)
        return tuple((c.get("Path") or "", _KINDS.get(c.get("Kind") or 0, "?")) for c in answer.sequence(calls.CHANGE))

    def stats(self, id: str) -> Json:
        """One sample of its usage, at once (`precpu_stats` is empty)."""
        query = {"stream": False, "one-shot": True}
        return self._container("GET", id, "/stats", "reading the usage of", query=query).mapping()

    def _container(self, method: str, id: str, rest: str, doing: str, **how: Any) -> Answer:
        return self.request(method, path_of("containers", id, rest), f"{doing} container {named(id)}", **how)

    def _found(self, path: str, operation: str, shape: calls.Shape) -> Json | None:
        """An object, or None where there is none."""
        return self.objects((path,), operation, shape)[0]

    # -- Images and their registries

    def image(self, ref: str) -> Json | None:
        """What the engine knows of an image it has, by reference or id; None when it has none."""
        return self._found(path_of("images", ref, "/json", also="/:@"), f"inspecting image {ref}", calls.IMAGE)

    def pull(self, ref: str, *, platform: str | None = None, progress: Callable[[Json], None] | None = None) -> None:
        """Fetch an image from its registry, with the user's credentials for it. Raises NotFound, EngineError.

        `progress` gets the engine's entries as they come: {"status", "id", "progressDetail": {"current", "total"}}.
        """
        name, tag = split_reference(ref)
        query = {"fromImage": name, "tag": tag, "platform": platform}
        how: dict[str, Any] = {"headers": registry_auth(ref), "timeout": None, "stream": True}
        for entry in entries_of(self.request("POST", "/images/create", f"pulling image {ref}", query=query, **how)):
            if progress is not None:
                progress(entry)

    def build_image(
        self,
        context: bytes,
        tag: str | None,
        *,
        labels: Mapping[str, str] | None = None,
        progress: Callable[[Json], None] | None = None,
    ) -> str:
        """Make an image from a tar with a Dockerfile, whose base the engine has, and name it `tag`, if anything; its
        id. No step of an earlier build is used.

        `progress` gets the engine's entries as they come: {"stream"}, {"aux"}. Raises EngineError.
        """
        query: dict[str, Any] = {"labels": json.dumps(dict(labels or {})), "rm": True, "forcerm": True, "nocache": True}
        answer = self.request(
            "POST",
            "/build",
            f"building image {tag}" if tag is not None else "building an image",
            query=query if tag is None else {**query, "t": tag},
            body=(context,),
            headers={"Content-Type": "application/x-tar"},
            timeout=BUILD_TIMEOUT,
            stream=True,
        )
        built = ""
        for entry in entries_of(answer):
            aux = entry.get("aux")
            built = str(aux.get("ID") or built) if isinstance(aux, Mapping) else built
            if progress is not None:
                progress(entry)
        made = self.image(tag or built) if tag or built else None
        if made is None:
            raise EngineError(answer.operation, "the engine reported success but has no such image")
        return str(made["Id"])

    def registry_digest(self, ref: str) -> str | None:
        """The digest that an image's registry has for a reference now ("sha256:…"); None when it knows no such image.

        Raises RegistryError when the registry cannot be asked: unreachable, or the user may not.
        """
        operation = f"asking the registry about image {ref}"
        path = path_of("distribution", ref, "/json", also="/:@")
        try:
            answer = self.request("GET", path, operation, headers=registry_auth(ref)).mapping(calls.DISTRIBUTION)
        except NotFound:
            return None
        except EngineTimeout as error:
            raise RegistryError(operation, error.cause) from error
        except EngineError as error:
            if error.status is None:
                raise
            if "manifest unknown" in error.cause.lower() or "not found: manifest" in error.cause.lower():
                return None
            raise RegistryError(operation, error.cause, status=error.status, help=help_for(error.cause)) from error
        return str((answer.get("Descriptor") or {}).get("digest") or "") or None

    # -- Networks

    def networks(self, *, labels: LabelFilter | None = None) -> tuple[Json, ...]:
        """The networks with all `labels`. The list does not tell their containers."""
        query = {"filters": label_filter(labels)}
        answer = self.request("GET", "/networks", "listing networks", query=query)
        return with_labels(answer.sequence(calls.NETWORK), labels)

    def network(self, id_or_name: str) -> Json | None:
        """A network by its whole id or exact name, with its containers; None when there is none.

        Raises EngineError (status 400) when several networks have the name, which engine 20.10 allows.
        """
        found = self._found(path_of("networks", id_or_name), f"inspecting network {id_or_name}", calls.NETWORK) or {}
        # The engine also takes the beginning of an id: a name like "ab" must not find a network whose id starts so.
        return found if id_or_name in (found.get("Id"), found.get("Name")) else None

    def create_network(self, payload: Json) -> str:
        """Create a network from the Engine API's own payload; its id. A taken name: NameConflict."""
        operation, payload = f"creating network {payload.get('Name', '')}", {"CheckDuplicate": True, **payload}
        return str(self.request("POST", "/networks/create", operation, payload=payload).mapping(calls.MADE)["Id"])

    def remove_network(self, id: str) -> None:
        """Remove a network that no container uses. One that is gone is fine."""
        with contextlib.suppress(NotFound):
            self.request("DELETE", path_of("networks", id), f"removing network {named(id)}").read()

    def connect_network(self, network: str, container: str, config: Json | None = None) -> None:
        """Attach a container; `config` is the API's EndpointConfig (Aliases, IPAMConfig …)."""
        payload = {"Container": container, "EndpointConfig": dict(config or {})}
        operation = f"connecting container {named(container)} to network {named(network)}"
        self.request("POST", path_of("networks", network, "/connect"), operation, payload=payload).read()

    def disconnect_network(self, network: str, container: str, *, force: bool = False) -> None:
        payload = {"Container": container, "Force": force}
        operation = f"disconnecting container {named(container)} from network {named(network)}"
        self.request("POST", path_of("networks", network, "/disconnect"), operation, payload=payload).read()

    # -- Volumes

    def volumes(self, *, labels: LabelFilter | None = None) -> tuple[Json, ...]:
        """The volumes with all `labels`."""
        query = {"filters": label_filter(labels)}
        answer = self.request("GET", "/volumes", "listing volumes", query=query)
        return with_labels(answer.sequence(calls.VOLUME, within="Volumes"), labels)

    def volume(self, name: str) -> Json | None:
        """A volume by its name; None when there is none."""
        return self._found(path_of("volumes", name), f"inspecting volume {name}", calls.VOLUME)

    def create_volume(self, payload: Json) -> Json:
        """Create a volume; as it is now. When the name is taken, the engine answers with the volume that has it."""
        operation = f"creating volume {payload.get('Name', '')}"
        return self.request("POST", "/volumes/create", operation, payload=payload).mapping(calls.VOLUME)

    def remove_volume(self, name: str) -> None:
        """Remove a volume that no container uses. One that is gone is fine."""
        with contextlib.suppress(NotFound):
            self.request("DELETE", path_of("volumes", name), f"removing volume {name}").read()

    # -- Calls that go on: logs, attached output, terminals, commands, events, archives. Every stream has close(), which
    # any thread may call: its reader then gets to the end

    def logs(
        self,
        id: str,
        *,
        follow: bool = False,
        tail: int | None = None,
        timestamps: bool = False,
        tty: bool | None = None,
    ) -> LogStream:
        """What a container has written, from the engine's log; with `follow`, also what it goes on to write.

        `tty`: whether it has a terminal; None asks the engine.
        """
        tty = self._has_tty(id) if tty is None else tty
        query: dict[str, str | int | bool | None] = {"stdout": True, "stderr": True, "follow": follow, "tail": tail}
        query["timestamps"] = timestamps
        answer = self._container("GET", id, "/logs", "reading the logs of", query=query, stream=True)
        return LogStream(_output(answer, tty=tty), answer.close)

    def attach(self, id: str, *, tty: bool | None = None) -> LogStream:
        """What a container writes from now on. Open it before the start, and nothing is lost."""
        tty = self._has_tty(id) if tty is None else tty
        query = {"stream": True, "stdout": True, "stderr": True}
        answer = self._container("POST", id, "/attach", "attaching to", query=query, upgrade=True)
        return LogStream(_output(answer, tty=tty), answer.close)

    def _has_tty(self, id: str) -> bool:
        return bool((self.inspect_container(id).get("Config") or {}).get("Tty"))

    def attach_terminal(self, id: str) -> TerminalConnection:
        """The terminal of a container that was created with Tty and OpenStdin."""
        query = {"stream": True, "stdin": True, "stdout": True, "stderr": True}
        answer = self._container("POST", id, "/attach", "attaching to", query=query, upgrade=True)
        return self._terminal(answer, path_of("containers", id, "/resize"), f"resizing container {named(id)}")

    def _terminal(self, answer: Answer, path: str, operation: str) -> TerminalConnection:
        def resize(rows: int, columns: int) -> None:
            self.request("POST", path, operation, query={"h": rows, "w": columns}).read()

        return TerminalConnection(operation=answer.operation, connection=answer.connection(), resize=resize)

    def exec(
        self,
        id: str,
        argv: Sequence[str],
        *,
        user: str | None = None,
        workdir: str | None = None,
        env: Sequence[str] = (),
        tty: bool = False,
        stdin: bool = False,
    ) -> Exec:
        """Run a command in a running container. `env` as "NAME=value".

        With `tty` or `stdin` its `terminal` sends input and, with `tty`, takes a size; its output can be read there
        (framed, unless `tty`) or by iterating, not both.
        """
        payload: dict[str, Any] = {"Cmd": list(argv), "AttachStdout": True, "AttachStderr": True}
        payload |= {"AttachStdin": stdin or tty, "Tty": tty, "Env": list(env)}
        payload |= {"User": user or "", "WorkingDir": workdir or ""}
        made = self._container("POST", id, "/exec", "preparing a command in", payload=payload).mapping(calls.MADE)
        operation = f"running {argv[0] if argv else 'nothing'} in container {named(id)}"
        start = {"Detach": False, "Tty": tty}
        answer = self.request("POST", path_of("exec", made["Id"], "/start"), operation, payload=start, upgrade=True)
        terminal = None
        if tty or stdin:
            terminal = self._terminal(answer, path_of("exec", made["Id"], "/resize"), "resizing a command")
        return Exec(self, id, made["Id"], answer, terminal, tty=tty)

    def events(
        self,
        *,
        filters: Mapping[str, Sequence[str]] | None = None,
        since: str | None = None,
        until: str | None = None,
    ) -> EventStream:
        """What happens on the engine from now on, or from `since` (a UNIX time, "1700000000.5"); up to `until`.

        `filters` as the API has them: {"type": ["container"], "label": ["a=b"], "event": ["die"]}. The engine answers a
        moment before it listens: to miss nothing, give `since` a time from before the call.
        """
        chosen = json.dumps({k: list(v) for k, v in filters.items()}) if filters else None
        query = {"filters": chosen, "since": since, "until": until}
        answer = self.request("GET", "/events", "following the engine's events", query=query, stream=True)
        return EventStream(json_lines(answer.pieces(), answer.operation), answer.close)

    def put_archive(self, id: str, path: str, tar: BinaryIO) -> None:
        """Unpack an uncompressed tar into a container's folder `path`, which must exist. Read and sent in pieces."""
        pieces = iter(lambda: tar.read(PIECE), b"")
        place, operation = path_of("containers", id, "/archive"), f"copying into container {named(id)} at {path}"
        sending: dict[str, Any] = {"body": pieces, "headers": {"Content-Type": "application/x-tar"}, "timeout": None}
        try:
            self.request("PUT", place, operation, query={"path": path}, **sending).read()
        except EngineUnreachable:
            # Docker 28 refuses a folder that is not there without reading on: over tcp its answer may be lost by that.
            self.request("HEAD", place, operation, query={"path": path}).read()
            raise

    def get_archive(self, id: str, path: str) -> Archive:
        """A file or folder of a container, as a tar in pieces. Raises NotFound (the path, or the container)."""
        answer = self._container("GET", id, "/archive", f"copying {path} out of", query={"path": path}, stream=True)
        return Archive(stat=_stat(answer), stream=Stream(answer.pieces(), answer.close))

    def read_file(self, id: str, path: str, *, most: int) -> bytes | None:
        """A file of a container; b"" for what is no regular file, None where its tar has more than `most` bytes."""
        from sandboxrun.evidence.export import TarError, first_file

        with self.get_archive(id, path) as archive:
            data = bytearray()
            for piece in archive.stream:
                data += piece
                if len(data) > most:
                    return None
        try:
            return first_file(data)
        except TarError as error:
            raise EngineError(f"reading {path} of container {named(id)}", f"the engine's tar: {error}") from error

    def stat_archive(self, id: str, path: str) -> Json:
        """What a path of a container is, in the API's form: `mode` is Go's. Raises NotFound.

        Nothing that a runtime mounts (tmpfs, /proc, /dev) is there: only the image's files, volumes and binds.
        """
        return _stat(self._container("HEAD", id, "/archive", f"looking at {path} in", query={"path": path}))

    stop, signal, wait, read_tree = stop_container, kill_container, wait_container, get_archive


def _answer_about(id: str, told: Json, operation: str) -> Json:
    """What was told of a container, by its id or name. Of another one nothing may be concluded about it."""
    if len(id) == 64 and told.get("Id") != id:
        raise EngineError(operation, f"the engine answered about another container than {named(id)}")
    return told


def _output(answer: Answer, *, tty: bool) -> Iterator[Piece]:
    pieces = answer.pieces()
    return ((STDOUT, piece) for piece in pieces) if tty else demultiplex(pieces, answer.operation)


def _stat(answer: Answer) -> Json:
    try:
        stat = json_as(dict, base64.b64decode(answer.response.headers.get("x-docker-container-path-stat", "")))
    except ValueError:  # not base64
        stat = {}
    if not stat or calls.unfit(stat, calls.PATH_STAT):
        answer.close()
        raise EngineError(answer.operation, "the engine did not say what it is about to send")
    return stat


# -- Connecting


def _part(name: str) -> Any:
    """A module of this room, loaded with its first use: most commands do with few of them."""
    return import_module(f"{__package__}.{name}")


def open_transport(endpoint: Endpoint, *, parallelism: int) -> Transport:
    """What carries requests to `endpoint`. Nothing is sent yet. Raises UsageError, Unsupported."""
    if endpoint.url.startswith("unix://"):
        return LocalTransport(endpoint, dial_unix(endpoint.url.removeprefix("unix://")), parallelism=parallelism)
    from sandboxrun.backend.docker.docker_py import DockerPyTransport

    if endpoint.url.startswith("tcp://"):
        return DockerPyTransport(endpoint, parallelism=parallelism)
    try:
        dial = dial_ssh(endpoint.url)
    except ValueError as error:
        raise UsageError(Diagnostic(message=f"{endpoint.origin}: {error}")) from error
    return DockerPyTransport(endpoint, dial, parallelism=parallelism)


def import_ahead() -> None:
    """Import docker-py beside a wait for the engine. Beside work of this program it takes longer than after it: either
    keeps the interpreter from the other."""
    if f"{__package__}.docker_py" not in sys.modules:
        begin(partial(_part, "docker_py"), name="import", failed=lambda error: None)  # raised again where it is used


def connect(host: str | None = None, *, parallelism: int = 4, env: Mapping[str, str] | None = None) -> Engine:
    """The engine that `host` or the environment names, after it has answered once.

    `parallelism`: how many threads will use it at once. Raises UsageError (settings that make no sense),
    EngineUnreachable (naming the endpoint and where it came from), Unsupported (an engine that is too old).
    """
    endpoint = resolve(host, os.environ if env is None else env)
    engine = Engine(open_transport(endpoint, parallelism=parallelism))
    try:
        _ = engine.api_version
    except (EngineUnreachable, EngineTimeout) as error:
        engine.close()
        help = error.diagnostics[0].help or "start the engine, or name another one with DOCKER_HOST"
        if endpoint.url.startswith("ssh://") and not isinstance(error.__cause__, Unreachable):
            help = "see ssh's output above; on the remote machine, `docker system dial-stdio` must work for this user"
        raise EngineUnreachable(f"connecting to the engine at {endpoint}", error.cause, help=help) from error
    except BaseException:
        engine.close()
        raise
    return engine
