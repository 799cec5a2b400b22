"""The engine, as the rest of the program sees it: its calls, each once, over one Transport.

Owns the one place that every request goes through (`Engine.request`) and the API version. The calls themselves stand
by kind in the modules named below. Must not decide anything.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any

from sandboxrun.backend.docker import containers as _containers
from sandboxrun.backend.docker import images as _images
from sandboxrun.backend.docker import networks as _networks
from sandboxrun.backend.docker import streams as _streams
from sandboxrun.backend.docker.calls import (
    TIMEOUT,
    Answer,
    Json,
    Query,
    error_of,
    is_failure,
    object_of,
    target,
    translated,
    uptime,
)
from sandboxrun.backend.docker.codec import addresses_of, image_config, read_document, read_state, taken_by
from sandboxrun.backend.docker.transport import Transport, TransportError
from sandboxrun.backend.errors import EngineError, Unsupported
from sandboxrun.spec import labels

if TYPE_CHECKING:
    from sandboxrun.backend.docker.lock import ProjectLock
    from sandboxrun.backend.docker.project_events import ProjectEvents
    from sandboxrun.backend.views import Accounts, GatewayView, HostView, Machine, Terms
    from sandboxrun.gateway.subnets import Network
    from sandboxrun.plan.operations import Operation
    from sandboxrun.spec.codec import ImageConfig
    from sandboxrun.spec.outcome import History
    from sandboxrun.spec.project import DeclaredSandbox, Profile
    from sandboxrun.spec.spec import SandboxSpec
    from sandboxrun.spec.state import Document, ObservedSandbox, Snapshot, State

OLDEST = (1, 41)  # engine 20.10; older ones lack one-shot stats and private cgroup namespaces
_ABOUT = {"version": "Version", "api_version": "ApiVersion", "os": "Os", "arch": "Arch", "kernel": "KernelVersion"}
NEWEST = (1, 51)  # engine 28.5: what this client was written against
_FRESH = 60.0  # seconds for which an answer about the engine itself is used again
_CLOCK = "asking the engine for its time"
_IMAGE_ID = re.compile("sha256:[0-9a-f]{64}")


class Engine:
    """One container engine. Usable from several threads at once; a context manager. Raises EngineErrors."""

    def __init__(self, transport: Transport, *, api_version: str | None = None) -> None:
        """Use `transport`; an `api_version` that is not given is agreed upon with the first call."""
        self._transport = transport
        self._version = api_version
        self._sharing: tuple[bool, str] | None = None
        self._about: Json | None = None
        self._info: tuple[float, Json] | None = None  # and when it was asked
        self._told: tuple[float, str] | None = None  # when the last answer came, and the engine's date in it
        self._configs: dict[str, ImageConfig] = {}  # by full id, whose meaning never changes
        self._host: tuple[str, ...] | None = None
        self._id = ""

    @property
    def endpoint(self) -> str:
        """Where the engine is, as a URL."""
        return self._transport.endpoint

    @property
    def transport(self) -> Transport:
        """What carries the requests."""
        return self._transport

    @property
    def api_version(self) -> str:
        """The API version in use, such as "1.41"."""
        if self._version is None:
            self._version = self._negotiate()
        return self._version

    def _negotiate(self) -> str:
        """The newest version that both sides know. Raises Unsupported for an engine that is too old."""
        operation = "asking the engine for its version"
        answer = self.request("GET", "/_ping", operation=operation, versioned=False, timeout=30)
        answer.read()
        theirs = answer.headers.get("api-version", "")
        try:
            major, minor = (int(part) for part in theirs.split("."))
        except ValueError:
            cause = f"what answers at {self.endpoint} is not a container engine"
            raise Unsupported(answer.operation, cause, help="check the address") from None
        if (major, minor) < OLDEST:
            cause = f"the engine speaks API {theirs}, and {'.'.join(map(str, OLDEST))} is the oldest that will do"
            raise Unsupported(answer.operation, cause, help="upgrade to Docker 20.10 or newer")
        return ".".join(map(str, min((major, minor), NEWEST)))

    def request(
        self,
        method: str,
        path: str,
        *,
        operation: str,
        query: Query | None = None,
        payload: Any = None,
        body: Iterable[bytes] | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float | None = TIMEOUT,
        upgrade: bool = False,
        stream: bool = False,
        versioned: bool = True,
    ) -> Answer:
        """One call of the API: every request to the engine is made here.

        `path` is quoted and without the version; `payload` is sent as JSON, `body` as it is, in chunks. `timeout`
        (seconds) bounds the call, or with `stream` the wait for its beginning. `operation` is a clause for messages
        ("creating container a"). Raises the EngineError for an answer with an error status, EngineUnreachable and
        EngineTimeout.
        """
        wanted = target(f"/v{self.api_version}{path}" if versioned else path, query)
        fields = dict(headers or {})
        data: bytes | Iterable[bytes] | None = body
        if payload is not None:
            fields["Content-Type"] = "application/json"
            data = json.dumps(payload).encode()
        try:
            response = self._transport.request(
                method, wanted, headers=fields, body=data, timeout=timeout, upgrade=upgrade, stream=stream
            )
        except TransportError as error:
            raise translated(operation, error, sent=True) from error
        if date := response.headers.get("date"):
            self._told = uptime(), date
        if is_failure(response.status):
            raise error_of(operation, response)
        return Answer(operation=operation, response=response)

    def get_all(self, paths: Sequence[str], *, operation: str) -> tuple[Json | None, ...]:
        """Several GETs of JSON objects at once, in their order; None for one that does not exist.

        The only calls that do not go through `request`: they change nothing.
        """
        targets = [f"/v{self.api_version}{path}" for path in paths]
        try:
            found = self._transport.get_all(targets, timeout=TIMEOUT)
        except TransportError as error:
            raise translated(operation, error, sent=True) from error
        return tuple(object_of(operation, status, data) for status, data in found)

    def version(self) -> Json:
        """GET /version, once: an engine that is replaced ends its connections, and this object with them."""
        if self._about is None:
            self._about = self.request("GET", "/version", operation="asking the engine for its version").mapping()
        return self._about

    def info(self) -> Json:
        """GET /info, again where the last answer is older than a minute: an engine may be configured anew."""
        if self._info is None or uptime() - self._info[0] > _FRESH:
            asked = uptime()
            found = self.request("GET", "/info", operation="asking the engine about itself").mapping()
            self._info, self._id = (asked, found), str(found.get("ID") or "")
        return self._info[1]

    @property
    def identity(self) -> str:
        """What tells this engine from others: its own id, or its address where it tells none. Never raises."""
        if not self._id:
            with contextlib.suppress(EngineError):
                self.info()
        return self._id or self.endpoint

    def clock(self) -> datetime:
        """The engine's time, UTC, at most a second behind: leases and expiry count by it, not by this machine's.

        Every answer has it, to the second; without one in the last minute the engine is asked.
        """
        if self._told is None or uptime() - self._told[0] > _FRESH:
            self.request("GET", "/_ping", operation=_CLOCK, versioned=False).read()
        came, date = self._told or (0.0, "")
        with contextlib.suppress(ValueError):
            told = parsedate_to_datetime(date)
            if told.tzinfo is not None:
                return told.astimezone(UTC) + timedelta(seconds=uptime() - came)
        raise EngineError(_CLOCK, "the engine's answer does not tell the time")

    def host_addresses(self) -> tuple[str, ...]:
        """The addresses of the engine's own machine, asked once."""
        if self._host is None:
            self._host = _looking().host_addresses(self)
        return self._host

    def histories(self, ended: Mapping[str, State]) -> Mapping[str, History]:
        """See `history.histories`."""
        from sandboxrun.backend.docker.history import histories

        return histories(self, ended)

    def history_of_removed(self, id: str) -> History:
        """See `history.of_removed`."""
        from sandboxrun.backend.docker.history import of_removed

        return of_removed(self, id)

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

    def shares_filesystem(self) -> bool:
        """Whether a path means the same here and to the engine; False when that is not certain."""
        return self._shared()[0]

    def filesystem_reason(self) -> str:
        """Why shares_filesystem says what it says, as a clause."""
        return self._shared()[1]

    def _shared(self) -> tuple[bool, str]:
        if self._sharing is None:
            from sandboxrun.backend.docker.filesystem import sharing

            self._sharing = sharing(self)
        return self._sharing

    containers = _containers.containers
    inspect_container = _containers.inspect_container
    inspect_containers = _containers.inspect_containers
    create_container = _containers.create_container
    start_container = _containers.start_container
    stop_container = _containers.stop_container
    kill_container = _containers.kill_container
    remove_container = _containers.remove_container
    pause_container = _containers.pause_container
    unpause_container = _containers.unpause_container
    update_container = _containers.update_container
    rename_container = _containers.rename_container
    wait_container = _containers.wait_container
    changes = _containers.changes
    stats = _containers.stats
    top = _containers.top

    logs = _streams.logs
    attach = _streams.attach
    attach_terminal = _streams.attach_terminal
    exec = _streams.exec
    stats_stream = _streams.stats_stream
    events = _streams.events
    stop = stop_container  # the names by which the seam (backend/base.py) calls the same
    signal = kill_container
    wait = wait_container
    usage = stats
    read_tree = _streams.get_archive

    put_archive = _streams.put_archive
    get_archive = _streams.get_archive
    stat_archive = _streams.stat_archive

    image = _images.image
    images = _images.images
    pull = _images.pull
    build_image = _images.build_image
    registry_digest = _images.registry_digest

    networks = _networks.networks
    network = _networks.network
    create_network = _networks.create_network
    remove_network = _networks.remove_network
    connect_network = _networks.connect_network
    disconnect_network = _networks.disconnect_network
    volumes = _networks.volumes
    volume = _networks.volume
    create_volume = _networks.create_volume
    remove_volume = _networks.remove_volume

    # -- the seam's verbs (backend/base.py): the modules that know how are loaded with the first

    def observe(self, profile: Profile, store: Any, **how: Any) -> Snapshot:
        """The project on the engine now."""
        return _intents().take_snapshot(self, profile, store, **how)

    def observe_before_run(self, profile: Profile, *, shared: bool) -> Snapshot:
        """What a `run` has to know."""
        return _intents().snapshot_before_run(self, profile, shared=shared)

    def observe_after_run(self, profile: Profile, names: Iterable[str]) -> Snapshot:
        """What a `run` has to collect."""
        return _intents().snapshot_after_run(self, profile, names)

    def perform(self, step: Operation, session: Any) -> str | None:
        """Do one step."""
        return _intents().carry_out(step, session)

    def undo(self, session: Any, failed: Sequence[Operation], skipped: Sequence[Operation]) -> None:
        """Take back what could not be finished."""
        _intents().undo(session, failed, skipped)

    def restore(self, session: Any, steps: Sequence[Operation], done: Collection[str]) -> None:
        """Give sandboxes that run back what was taken from them."""
        _intents().restore(session, steps, done)

    def lock(
        self, project: str, *, wait: float, on_wait: Callable[[str], None] | None = None
    ) -> contextlib.AbstractContextManager[ProjectLock]:
        """Hold a project's lock."""
        return _intents().project_lock(self, project, wait=wait, on_wait=on_wait)

    def follow(self, project: str, began: float) -> ProjectEvents:
        """What happens to the project's containers."""
        return _intents().ProjectEvents(self, project, began)

    def check_neighbours(self, sandboxes: Iterable[DeclaredSandbox], profile: Profile) -> None:
        """Refuse host paths that another container may move."""
        _intents().check_neighbours(sandboxes, profile, self)

    def collect(self, store: Any) -> None:
        """Take away what killed processes left on this machine."""
        _intents().collect(self, store)

    def state(self, id: str) -> State:
        """The state of one container."""
        return read_state(self.inspect_container(id).get("State") or {})

    # -- what verifying looks at (looking.py)

    @property
    def terms(self) -> Terms:
        """The engine's own names of what is verified."""
        return _looking().TERMS

    def machine(self) -> Machine:
        """The engine's machine."""
        return _looking().machine(self)

    def subnets(self) -> tuple[Network, ...]:
        """The subnets of all networks."""
        return taken_by(self.networks())

    def addresses(self, id: str) -> tuple[str, ...]:
        """The addresses of a container on its networks."""
        return addresses_of(self.inspect_container(id))

    def observe_one(self, profile: Profile, id: str) -> ObservedSandbox:
        """One container as a snapshot has it."""
        return _looking().observe_one(self, profile, id)

    def host_view(self, observed: ObservedSandbox) -> HostView:
        """Where a container is on this host."""
        return _looking().host_view(self, observed.document)

    def accounts(self, id: str, spec: SandboxSpec) -> Accounts | None:
        """The declared user by number."""
        return _looking().accounts(self, id, spec)

    def gateway_view(self, profile: Profile, spec: SandboxSpec, observed: ObservedSandbox) -> GatewayView:
        """The gateway of a live sandbox."""
        return _looking().gateway_view(self, profile, spec, observed)

    def document(self, id: str) -> Document:
        """The engine's own answer about one container."""
        return read_document(self.inspect_container(id))

    def about(self) -> Mapping[str, str]:
        """What the engine says of itself, by names of ours."""
        found = self.version()
        return {name: str(found[key]) for name, key in _ABOUT.items() if key in found}

    def present(self, project: str) -> frozenset[str]:
        """The ids of the containers with the project's label."""
        return frozenset(str(c["Id"]) for c in self.containers(labels={labels.PROJECT: project}))

    def close(self) -> None:
        """End all connections: streams that are being read end, calls under way fail."""
        self._transport.close()

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def _looking() -> Any:
    from sandboxrun.backend.docker import looking

    return looking


def _intents() -> Any:
    from sandboxrun.backend.docker import intents

    return intents
