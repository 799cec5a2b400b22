"""The seam: what is asked of whatever runs sandboxes.

Owns the protocol that a backend fulfils, in neutral words. How an engine is told, and what its answers look like, is
known to that backend alone: an answer that has to be kept as evidence is handed on as a document, opaque.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import datetime
from typing import TYPE_CHECKING, Any, Protocol

from sandboxrun.data import Data
from sandboxrun.spec.types import freeze

if TYPE_CHECKING:
    from sandboxrun.plan.operations import Operation
    from sandboxrun.spec.names import Names
    from sandboxrun.spec.project import DeclaredSandbox, Profile
    from sandboxrun.spec.spec import SandboxSpec
    from sandboxrun.spec.state import Document, Ended, History, ImageConfig, ObservedSandbox, Sample, Snapshot, State


Changes = Sequence[tuple[str, str]]  # paths, and whether each was modified, added or deleted


class Output(Iterable[tuple[int, bytes]], AbstractContextManager["Output"], Protocol):
    """What a sandbox writes: (1 stdout or 2 stderr, bytes), in order. Iterate it in one thread, close it from any."""

    def close(self) -> None:
        """End it; whoever waits for the next piece gets to the end."""


class Terminal(Protocol):
    """A sandbox's terminal, both ways."""

    def recv(self, size: int = ...) -> bytes:
        """The next bytes of its output; none at the end."""

    def send(self, data: bytes) -> int:
        """Give it input; how many bytes were taken."""

    def end_input(self) -> None:
        """No more input will come."""

    def pending(self) -> bool:
        """Whether output has been read already that `recv` would give at once."""

    def fileno(self) -> int:
        """The descriptor to wait at."""

    def resize(self, rows: int, columns: int) -> None:
        """Tell it its size."""

    def close(self) -> None:
        """End the connection."""


class Lock(Protocol):
    """A project's lock, while it is held."""

    def check(self) -> None:
        """Raise ApplyError once it was lost: nothing more may be changed then."""


class Past(Data):
    """What happened to one container: `times` has when (seconds of UNIX time) it last did what the key says, in the
    words create, start, oom, kill, update, die and destroy; `exit_code` is None for one whose end was not seen."""

    name: str
    labels: Mapping[str, str]
    times: Mapping[str, float]
    exit_code: int | None
    history: History

    def ran(self, started: datetime | None = None) -> float | None:
        """How many seconds it ran, where it `started` or by its events; None where its start or end was not seen."""
        began = started.timestamp() if started is not None else self.times.get("start")
        return self.times["die"] - began if began is not None and "die" in self.times else None

    def had(self, action: str) -> bool:
        """Whether there is such an event."""
        return action in self.times


class Endings(Protocol):
    """How sandboxes ended, as it was told while they were followed: an engine forgets."""

    def history(self, id: str, ended: Ended) -> History | None:
        """Of one that has ended like this, what was seen of it; None where they do not reach back to its start. Never
        raises."""


class Events(Endings, AbstractContextManager["Events"], Protocol):
    """What happened to a project's sandboxes since a moment. As a context it follows them from then on."""

    def past(self, held: Lock | None = None) -> Mapping[str, Past]:
        """All that something happened to, by id. Where the project's lock is `held` since a moment ago, what was done
        under it before is enough. Raises EngineError where that is not known."""

    def exit_code(self, id: str, timeout: float) -> int | None:
        """The exit code of one that was started since they are followed and ends within `timeout` seconds; None where
        they tell of no end: only the engine knows, then, whether it runs. Never raises."""

    def narrow(self) -> None:
        """Who follows them has waited for a while, and goes on: nothing is heard of other projects. Never raises."""


class Project(Data):
    """A project of which anything is on an engine, with the names of its networks and volumes that are; and `ended`:
    the labels of its sandboxes that have ended and are not kept, by id."""

    names: Names
    ended: Mapping[str, Mapping[str, str]]


class Happened(Data):
    """A sandbox, or what runs beside one, did `start`, end (`die`) or go (`destroy`). `history` is there for one that
    ended, where all was seen of it since its start."""

    project: str
    id: str
    action: str
    labels: Mapping[str, str]
    history: History | None = None


class News(Iterable[Happened], AbstractContextManager["News"], Protocol):
    """What happens to sandboxes. Iterate it in one thread. Raises EngineError once the engine is away."""

    def close(self) -> None:
        """End it; from any thread."""


# -- What verifying asks, and no plan does: how the engine's machine and a live sandbox look


class EngineTerms(Data):
    """The engine's own names of what is verified, for whoever looks it up there: by control (seen from inside), by
    check (seen from outside), by option; `shown` is how many options it shows."""

    controls: Mapping[str, str] = freeze({})
    checks: Mapping[str, str] = freeze({})
    options: Mapping[str, str] = freeze({})
    shown: int = 0


class Machine(Data):
    """The engine's machine. `runtime` is the default one; `addresses` are its own that must not be reached, less those
    of networks that come and go; `pid` the engine's process where its processes can be seen from here: 0 where only
    that one can't, None where none can; `rootless`: it has no rights there but a user's."""

    runtime: str
    cpus: int
    addresses: tuple[str, ...] = ()
    pid: int | None = None
    rootless: bool = False


class Accounts(Data):
    """A user as numbers, and the groups that it may have beside its own."""

    uid: int
    gid: int
    groups: frozenset[int] = frozenset()


class HostView(Data):
    """Where a sandbox is on this host: `id` is in the names of its cgroups, `pid` its first process, 0 if the engine
    tells none; `engine` the engine's own. `unseen` says why nothing of it can be seen. `volumes`: where the image
    declares some."""

    id: str
    pid: int = 0
    engine: int = 0
    unseen: str = ""
    volumes: frozenset[str] = frozenset()


class GatewayView(Data):
    """The gateway of a live sandbox. `status` is "running", or what else the engine calls it.

    `between`: what is wrong with the network between the two, None where it is not there. Of a running one: `said` is
    the digest of the rules that it last said to serve by, `rules` its file of them, `lost` the options that it was
    made with and does not have, None where that is unknown for want of the network; `host` where it is on this host.
    """

    status: str
    between: tuple[str, ...] | None
    image: str = ""
    said: str = ""
    rules: bytes = b""
    lost: tuple[str, ...] | None = None
    host: HostView | None = None


# -- The backend


class Backend(Protocol):
    """One engine. Usable from several threads at once; every method may raise EngineError.

    `id` is the engine's own name of one sandbox, or of what runs beside it, as a snapshot has it. A `store` is where
    evidence is kept (evidence/store.py), a `session` what one apply works with (session.py), `events` what `follow`
    gives (completed.py): rooms above this one.
    """

    # -- what there is, and what is changed ------------------------------------------------------------------------

    def observe(
        self,
        profile: Profile,
        store: Any,
        *,
        workspaces: bool = False,
        events: Any = None,
        held: Lock | None = None,
        heard: Mapping[str, History] = freeze({}),
    ) -> Snapshot:
        """The project on the engine now. `workspaces`: those of sandboxes that have completed are compared with what
        they are now. With `events`, what other jobs saw completed counts as this checkout's own record does. `held` is
        the project's lock where it was taken just now: what that showed is not asked again. `heard` are the histories
        of sandboxes whose end was followed, by id: the engine may have forgotten."""

    def observe_before_run(self, profile: Profile, *, shared: bool) -> Snapshot:
        """What a `run` has to know: no other sandbox, and what they have in common only where it is `shared`."""

    def observe_these(
        self,
        profile: Profile,
        store: Any,
        ids: Iterable[str],
        *,
        compare: bool = False,
        known: Mapping[str, Document] | None = None,
        gone: Iterable[ObservedSandbox] = (),
    ) -> Snapshot:
        """The sandboxes `ids` that are there and all that is theirs alone, to be collected; with `compare` no more than
        what runs beside them, and less what their images set, to be compared with what is declared. Of those `known`
        it is as that answer has it; those `gone` are as they are given, and what they left is there."""

    def observe_ended(self, profile: Profile, store: Any, ended: Mapping[str, History | None]) -> Snapshot:
        """Of the project's sandboxes, those with these ids, and all that is theirs alone, to be reaped; how they ended
        by their histories, as far as they are known already."""

    def projects(self, only: str | None = None) -> tuple[Project, ...]:
        """All projects of which anything is on the engine; with `only`, that one if it is among them."""

    def news(self, only: str | None = None) -> News:
        """What happens from now on, to the sandboxes of all projects, or of one."""

    def perform(self, step: Operation, session: Any) -> str | None:
        """Do one step of a plan; a note for its progress line, if any. Raises SandboxrunError."""

    def undo(self, session: Any, failed: Sequence[Operation], skipped: Sequence[Operation]) -> None:
        """Remove what the session made and could not finish, the evidence of what had started first."""

    def restore(self, session: Any, steps: Sequence[Operation], done: Collection[str]) -> None:
        """Give sandboxes that run back what steps took from them and could not replace; `done` are steps' ids."""

    def lock(
        self, project: str, *, wait: float, on_wait: Callable[[str], None] | None = None
    ) -> AbstractContextManager[Lock]:
        """Hold a project's lock, one holder at a time on one engine. Raises ApplyError after `wait` seconds."""

    def lease(self, token: str = "") -> AbstractContextManager[str]:
        """While it is held, others know that this process lives, wherever they are; the token that says so in a
        sandbox's labels. With the `token` of another process's, that this one waits for the same sandboxes. Never
        raises."""

    def sweep_leases(self) -> None:
        """Remove what is left of the leases of others that are over."""

    def follow(self, project: str, began: float, *, locking: bool = False) -> Events:
        """What happens to the project's sandboxes since `began` (UNIX time), while it is used as a context; `locking`
        is who is going to take the project's lock."""

    def check_neighbours(self, sandboxes: Iterable[DeclaredSandbox], profile: Profile) -> None:
        """Raise ApplyError for a host path of theirs that another sandbox on the engine may move."""

    def collect(self, store: Any, *, thorough: bool = False) -> Mapping[str, Mapping[str, str]]:
        """Take away what killed processes left on this machine of runs that are not on the engine; `thorough`, also
        what is left here of sandboxes that somebody else removed. Never raises. The one-offs by id, each with its
        labels, for which something stays in a workspace though the process that made them is certainly gone."""

    def state(self, id: str) -> State:
        """The state of one sandbox. Raises NotFound."""

    def shares_filesystem(self) -> bool:
        """Whether a path means the same here and to the engine; False when that is not certain."""

    # -- one sandbox ---------------------------------------------------------------------------------------------

    def attach(self, id: str, *, tty: bool | None = None) -> Output:
        """What it writes from now on."""

    def attach_terminal(self, id: str) -> Terminal:
        """Its terminal."""

    def wait(self, id: str, *, timeout: float | None = None) -> int:
        """Wait for its end; the exit code. Raises EngineTimeout after `timeout` seconds."""

    def signal(self, id: str, signal: str = "KILL") -> None:
        """Send its main process a signal. Raises EngineError with status 409 where it does not run."""

    # -- what verifying looks at, and no plan --------------------------------------------------------------------

    @property
    def terms(self) -> EngineTerms:
        """The engine's own names of what is verified."""

    def machine(self) -> Machine:
        """The engine's machine, as far as sandboxes may notice it."""

    def subnets(self) -> Collection[Any]:
        """The subnets of all its networks (ipaddress), those of others too."""

    def addresses(self, id: str) -> tuple[str, ...]:
        """The addresses that a sandbox has now on its networks."""

    def observe_one(self, profile: Profile, id: str) -> ObservedSandbox:
        """One sandbox as a snapshot has it. Raises NotFound."""

    def host_view(self, observed: ObservedSandbox) -> HostView:
        """Where an observed sandbox is on this host."""

    def accounts(self, id: str, spec: SandboxSpec) -> Accounts | None:
        """The user of `spec` by number, as a sandbox's own files say; None where they don't know it."""

    def gateway_view(self, profile: Profile, spec: SandboxSpec, observed: ObservedSandbox) -> GatewayView:
        """The gateway that a live sandbox has for `spec`."""

    # -- the engine, and evidence --------------------------------------------------------------------------------

    @property
    def identity(self) -> str:
        """What tells this engine from others. Never raises."""

    @property
    def endpoint(self) -> str:
        """Where the engine is, as a URL."""

    def clock(self) -> datetime:
        """The engine's time, UTC: deadlines and leases count by it, not by this machine's."""

    def about(self) -> Mapping[str, str]:
        """What the engine says of itself: its version, api_version, os, arch and kernel, as far as it does."""

    def document(self, id: str, *, known: Mapping[str, Any] | None = None) -> Document:
        """The engine's own answer about a sandbox, or what runs beside one; `known`: as a snapshot has it, instead of
        asking. Raises NotFound."""

    def image_config(self, reference: str) -> ImageConfig | None:
        """What an image sets by itself; None where it has none of that name."""

    def get_ready(self) -> None:
        """Load what collecting a sandbox takes; asks the engine nothing."""

    def histories(self, ended: Mapping[str, State]) -> Mapping[str, History]:
        """What the engine remembers of sandboxes that have ended, by id."""

    def history_of_removed(self, id: str) -> History:
        """What it remembers of one that is gone."""

    def is_ending(self, id: str, seconds: float) -> bool:
        """Whether somebody sent it a signal in the last `seconds`, as far as that can be known."""

    def stop(self, id: str, *, timeout: int) -> bool:
        """Ask it to end, and kill it after `timeout` seconds. False when it did not run."""

    def logs(self, id: str, *, follow: bool = False, tty: bool | None = None, tail: int | None = None) -> Output:
        """What it has written, with `follow` also what it goes on to write; with `tail` only so many lines at the
        end."""

    def changes(self, id: str) -> Changes:
        """What it changed in its file system."""

    def usage(self, id: str) -> Sample | None:
        """A sample of what it uses now; None where it does not run."""

    @property
    def counts_usage(self) -> bool:
        """Whether `usage` is the container's own."""

    def read_tree(self, id: str, path: str) -> Any:
        """A file or directory of it as a tar, which is hostile."""

    def pull(
        self, ref: str, *, platform: str | None = None, progress: Callable[[Mapping[str, Any]], None] | None = None
    ) -> None:
        """Fetch an image from its registry."""

    def build_image(
        self,
        context: bytes,
        tag: str | None,
        *,
        labels: Mapping[str, str] | None = None,
        progress: Callable[[Mapping[str, Any]], None] | None = None,
    ) -> str:
        """Make an image from a tar, and name it if there is a `tag`; its id. What the build prints is the "stream" of
        what `progress` gets."""
