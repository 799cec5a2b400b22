"""The engine, as the rest of the program sees it: its calls, what is known of it, and the seam's verbs
(backend/base.py), each handed to the module that knows how, which is loaded with the first. Decides nothing.
"""

from __future__ import annotations

import contextlib
import os
import re
import threading
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any

from msgspec import structs

from sandboxrun.backend.docker.codec import addresses_of, image_config, read_document, state_of, taken_by
from sandboxrun.backend.docker.objects import Streams
from sandboxrun.backend.docker.transport import Endpoint, Transport, Unreachable, dial_ssh, dial_unix, resolve
from sandboxrun.backend.errors import EngineError, EngineTimeout, EngineUnreachable
from sandboxrun.errors import Diagnostic, UsageError
from sandboxrun.spec.state import Ended
from sandboxrun.threads import begin

if TYPE_CHECKING:
    from sandboxrun.backend.base import News, Project
    from sandboxrun.backend.docker.history import ProjectEvents
    from sandboxrun.backend.docker.lease import Leases
    from sandboxrun.backend.docker.lock import ProjectLock
    from sandboxrun.backend.views import Accounts, EngineTerms, GatewayView, HostView, Machine
    from sandboxrun.gateway.subnets import Network
    from sandboxrun.plan.operations import Operation
    from sandboxrun.spec.codec import ImageConfig
    from sandboxrun.spec.outcome import History
    from sandboxrun.spec.project import DeclaredSandbox, Profile
    from sandboxrun.spec.spec import SandboxSpec
    from sandboxrun.spec.state import Document, ObservedSandbox, Sample, Snapshot, State

_ABOUT = {"version": "Version", "api_version": "ApiVersion", "os": "Os", "arch": "Arch", "kernel": "KernelVersion"}
_IMAGE_ID = re.compile("sha256:[0-9a-f]{64}")


class Engine(Streams):
    """One container engine. Usable from several threads at once; a context manager. Raises EngineErrors."""

    def __init__(self, transport: Transport, *, api_version: str | None = None) -> None:
        """Use `transport`; an `api_version` that is not given is agreed upon with the first call."""
        super().__init__(transport, api_version=api_version)
        self._sharing: tuple[bool, str] | None = None
        self._host: tuple[str, ...] | None = None
        self._leases: Leases | None = None
        self._leasing = threading.Lock()
        self._configs: dict[str, ImageConfig] = {}  # by full id, whose meaning never changes

    stop = Streams.stop_container
    signal = Streams.kill_container
    wait = Streams.wait_container
    read_tree = Streams.get_archive

    def host_addresses(self) -> tuple[str, ...]:
        """The addresses of the engine's own machine, asked once."""
        if self._host is None:
            self._host = _part("looking").host_addresses(self)
        return self._host

    def histories(self, ended: Mapping[str, State]) -> Mapping[str, History]:
        """See `history.histories`."""
        return _part("history").histories(self, ended)

    def history_of_removed(self, id: str) -> History:
        """See `history.of_removed`."""
        return _part("history").of_removed(self, id)

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
            self._sharing = _part("facts").sharing(self)
        return self._sharing

    def observe(self, profile: Profile, store: Any, **how: Any) -> Snapshot:
        """The project on the engine now."""
        return _part("observe").take_snapshot(self, profile, store, **how)

    def observe_before_run(self, profile: Profile, *, shared: bool) -> Snapshot:
        """What a `run` has to know."""
        return _part("observe").snapshot_before_run(self, profile, shared=shared)

    def observe_these(self, profile: Profile, store: Any, ids: Iterable[str], *, compare: bool = False) -> Snapshot:
        """Some containers and no more."""
        return _part("observe").snapshot_of_these(self, profile, store, ids, compare=compare)

    def observe_ended(self, profile: Profile, store: Any, ended: Mapping[str, History | None]) -> Snapshot:
        """Containers that have ended, to be reaped."""
        return _part("observe").snapshot_of_ended(self, profile, store, ended)

    def projects(self, only: str | None = None) -> tuple[Project, ...]:
        """All projects of which anything is on the engine."""
        return _part("observe").projects(self, only)

    def news(self) -> News:
        """What happens to the sandboxes of all projects."""
        return _part("history").news(self)

    def perform(self, step: Operation, session: Any) -> str | None:
        """Do one step."""
        return _part("perform").carry_out(step, session)

    def undo(self, session: Any, failed: Sequence[Operation], skipped: Sequence[Operation]) -> None:
        """Take back what could not be finished."""
        _part("perform").undo(session, failed, skipped)

    def restore(self, session: Any, steps: Sequence[Operation], done: Collection[str]) -> None:
        """Give sandboxes that run back what was taken from them."""
        _part("perform").restore(session, steps, done)

    def lock(
        self, project: str, *, wait: float, on_wait: Callable[[str], None] | None = None
    ) -> contextlib.AbstractContextManager[ProjectLock]:
        """Hold a project's lock."""
        return _part("lock").project_lock(self, project, wait=wait, on_wait=on_wait)

    def lease(self, token: str = "") -> contextlib.AbstractContextManager[str]:
        """Show that this process lives; with a `token`, that it waits for another process's sandboxes too."""
        if token:
            return _part("lease").Leases(self, joins=token).held()
        with self._leasing:
            if self._leases is None:
                self._leases = _part("lease").Leases(self)
        return self._leases.held()

    def sweep_leases(self) -> None:
        """Remove the leases that are over."""
        _part("lease").sweep(self)

    def follow(self, project: str, began: float) -> ProjectEvents:
        """What happens to the project's containers."""
        return _part("history").ProjectEvents(self, project, began)

    def check_neighbours(self, sandboxes: Iterable[DeclaredSandbox], profile: Profile) -> None:
        """Refuse host paths that another container may move."""
        _part("observe").check_neighbours(sandboxes, profile, self)

    def collect(self, store: Any, *, thorough: bool = False) -> None:
        """Take away what killed processes left on this machine."""
        _part("leftovers").collect(self, store, thorough=thorough)

    def state(self, id: str) -> State:
        """The state of one container."""
        return self._known_state(self.inspect_container(id))

    def _known_state(self, inspect: Mapping[str, Any]) -> State:
        found = state_of(inspect)
        return _part("history").known_state(self, inspect, found) if isinstance(found, Ended) else found

    # -- what verifying looks at (looking.py)

    @property
    def terms(self) -> EngineTerms:
        """The engine's own names of what is verified."""
        return _part("looking").TERMS

    def machine(self) -> Machine:
        """The engine's machine."""
        return _part("looking").machine(self)

    def subnets(self) -> tuple[Network, ...]:
        """The subnets of all networks."""
        return taken_by(self.networks())

    def addresses(self, id: str) -> tuple[str, ...]:
        """The addresses of a container on its networks."""
        return addresses_of(self.inspect_container(id))

    def observe_one(self, profile: Profile, id: str) -> ObservedSandbox:
        """One container as a snapshot has it."""
        return _part("looking").observe_one(self, profile, id)

    def host_view(self, observed: ObservedSandbox) -> HostView:
        """Where a container is on this host."""
        return _part("looking").host_view(self, observed.document)

    def accounts(self, id: str, spec: SandboxSpec) -> Accounts | None:
        """The declared user by number."""
        return _part("looking").accounts(self, id, spec)

    def gateway_view(self, profile: Profile, spec: SandboxSpec, observed: ObservedSandbox) -> GatewayView:
        """The gateway of a live sandbox."""
        return _part("looking").gateway_view(self, profile, spec, observed)

    def document(self, id: str, *, known: Mapping[str, Any] | None = None) -> Document:
        """The engine's own answer about one container."""
        inspect = self.inspect_container(id) if known is None else known
        found = read_document(inspect)
        return structs.replace(found, state=self._known_state(inspect))

    def usage(self, id: str) -> Sample | None:
        """What a container uses now."""
        sample: Sample | None = _part("facts").sample_of(self.stats(id))
        return sample

    def about(self) -> Mapping[str, str]:
        """What the engine says of itself, by names of ours."""
        found = self.version()
        return {name: str(found[key]) for name, key in _ABOUT.items() if key in found}


def _part(name: str) -> Any:
    """A module of this room, loaded with its first use: most commands do with few of them."""
    return import_module(f"{__package__}.{name}")


def open_transport(endpoint: Endpoint, *, parallelism: int) -> Transport:
    """What carries requests to `endpoint`. Nothing is sent yet. Raises UsageError, Unsupported."""
    if endpoint.url.startswith("unix://"):
        from sandboxrun.backend.docker.transport import LocalTransport

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
    """Import docker-py beside what comes before the first change, for commands that will change the engine."""
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
        help = _help(endpoint, error)
        raise EngineUnreachable(f"connecting to the engine at {endpoint}", error.cause, help=help) from error
    except BaseException:
        engine.close()
        raise
    return engine


def _help(endpoint: Endpoint, error: EngineError) -> str:
    [diagnostic] = error.diagnostics
    if endpoint.url.startswith("ssh://") and not isinstance(error.__cause__, Unreachable):
        return "see ssh's output above; on the remote machine, `docker system dial-stdio` must work for this user"
    return diagnostic.help or "start the engine, or name another one with DOCKER_HOST"
