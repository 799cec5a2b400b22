"""An engine in memory: for `plan` without an engine, and for tests of everything that changes one.

Owns a world of sandboxes whose commands are interpreted (`true`, `false`, `echo`, `sleep`, and `sh -c` of those with
`exit` and `trap '' TERM`; `tail /dev/zero` runs out of memory), and the faults that a test puts in. Several `Fake`s are
several jobs on one world. It does what Docker does: tests/contract holds both against each other.
"""

from __future__ import annotations

import contextlib
import json
import signal as signals
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, assert_never
from uuid import uuid4

from msgspec import Struct, field, structs

from sandboxrun.backend import fake_process
from sandboxrun.backend.base import Accounts, EngineTerms, Events, GatewayView, HostView, Lock, Machine, Project
from sandboxrun.backend.completed import completed, with_others
from sandboxrun.backend.errors import (
    EngineError,
    EngineTimeout,
    EngineUnreachable,
    LockHeld,
    LockLost,
    NameConflict,
    NotFound,
)
from sandboxrun.backend.owner import this_process
from sandboxrun.backend.session import (
    WIRING,
    Made,
    Session,
    Undone,
    await_condition,
    capture_evidence,
    check_places,
    check_unstarted,
    note_revision,
    settle,
    stop_sandbox,
    take_away,
    unstage,
)
from sandboxrun.errors import ApplyError, Diagnostic, SandboxrunError
from sandboxrun.evidence.workspace import open_workspace, stage_workspace
from sandboxrun.gateway.image import as_helper, build, reference
from sandboxrun.plan import operations as op
from sandboxrun.plan.changes import mismatches
from sandboxrun.plan.operations import companions_of, networks_of
from sandboxrun.plan.preflight import needs_watcher
from sandboxrun.spec import labels
from sandboxrun.spec.names import GATEWAY, KEEPER, PARTS, Names, companion, part_volume
from sandboxrun.spec.option import private_network
from sandboxrun.spec.project import DeclaredSandbox, NetworkSpec, Profile, config_digest
from sandboxrun.spec.records import Attachment
from sandboxrun.spec.spec import SandboxSpec
from sandboxrun.spec.state import (
    Companion,
    Document,
    Foreign,
    History,
    Image,
    ImageConfig,
    ObservedNetwork,
    ObservedSandbox,
    ObservedVolume,
    Offers,
    Sample,
    Snapshot,
    State,
    parse_time,
    without_inherited,
)
from sandboxrun.spec.types import freeze

if TYPE_CHECKING:
    from sandboxrun.plan.operations import Operation


class Killed(BaseException):
    """This job was killed: nothing that it still tries reaches the world."""


class World(Struct, kw_only=True):
    """What several jobs share. `before` is called with each step and may raise; `ignored` are options that the engine
    does not take as asked: what it makes of them, by key; `latency` is what each step takes, in seconds."""

    images: dict[str, ImageConfig] = field(default_factory=dict)
    registry: dict[str, ImageConfig] = field(default_factory=dict)
    labels: dict[str, Mapping[str, str]] = field(default_factory=dict)  # of images that were built, by name
    haproxy: str = "2.6.12"  # what images are built with
    offers: Offers = field(default_factory=lambda: Offers(api_version="1.51"))
    before: Callable[[Fake, Operation], None] = lambda job, step: None
    after: Callable[[Fake, Operation], None] = lambda job, step: None
    ignored: dict[str, Any] = field(default_factory=dict)
    latency: float = 0.0
    gone: bool = False  # the engine can't be reached
    blank: bool = False  # nothing is known: neither what runs nor what has run, nor where the engine is
    id: str = field(default_factory=lambda: uuid4().hex)
    boxes: dict[str, fake_process.Box] = field(default_factory=dict)
    removed: dict[str, fake_process.Box] = field(default_factory=dict)
    noted: list[fake_process.Noted] = field(default_factory=list)  # all that happened to boxes
    remembers: int = 256  # so much of it, the last, when it is asked
    networks: dict[str, ObservedNetwork] = field(default_factory=dict)  # by name
    volumes: dict[str, ObservedVolume] = field(default_factory=dict)
    whose: dict[str, str] = field(default_factory=dict)  # project, by the name of a network or volume
    foreign: list[Foreign] = field(default_factory=list)
    leases: dict[str, Fake] = field(default_factory=dict)  # the tokens of those that did not run out
    elsewhere: bool = False  # whether jobs run on other machines: only leases show that they live
    holders: dict[str, Fake] = field(default_factory=dict)  # project → who has its lock
    performed: list[str] = field(default_factory=list)
    guard: threading.RLock = field(default_factory=threading.RLock)

    def stranger(self, kind: str, name: str) -> None:
        """Somebody else makes an object of that name."""
        self.foreign.append(Foreign(kind=kind, name=name, id=uuid4().hex, whose="it has no labels of sandboxrun"))


class _Lock:
    def __init__(self, job: Fake, project: str) -> None:
        self._job, self._project = job, project

    def check(self) -> None:
        """Raise LockLost unless the lock is still held."""
        if self._job.world.holders.get(self._project) is not self._job:
            raise LockLost(f"the lock of project {self._project} was lost", help="run the command again")


class Fake:
    """One job's connection to a world; see backend/base.py for what each method does."""

    def __init__(self, world: World | None = None) -> None:
        self.world = world or World()
        self.dead, self.process = False, this_process()

    endpoint = "fake://"

    @property
    def identity(self) -> str:
        return self.world.id

    def kill(self) -> None:
        """The job is killed: whatever it does from now on raises Killed, and its lock counts for nothing."""
        self.dead = True
        raise Killed

    @contextlib.contextmanager
    def reached(self, operation: str) -> Iterator[World]:
        """The world for one call, under its guard. Raises EngineUnreachable while it is gone."""
        self.reach(operation)
        with self.world.guard:
            yield self.world

    def reach(self, operation: str) -> None:
        if self.dead:
            raise Killed
        if self.world.gone:
            raise EngineUnreachable(operation, "the engine does not answer")

    def _box(self, id: str, operation: str) -> fake_process.Box:
        with self.reached(operation) as world:
            found = world.boxes.get(id) or next((b for b in world.boxes.values() if b.name == id), None)
        if found is None:
            raise NotFound(operation, f"No such container: {id}", status=404)
        return found

    # -- what there is ------------------------------------------------------------------------------------------

    def clock(self) -> datetime:
        self.reach("asking the engine for its time")
        return datetime.now(UTC)

    def about(self) -> Mapping[str, str]:
        return {}

    def shares_filesystem(self) -> bool:
        return not self.world.blank

    def document(self, id: str, *, known: Mapping[str, Any] | None = None) -> Document:
        return self._box(id, f"inspecting container {id[:12]}").document()

    def state(self, id: str) -> State:
        return self._box(id, f"inspecting container {id[:12]}").state()

    def image_config(self, reference: str) -> ImageConfig | None:
        with self.reached(f"inspecting image {reference}") as world:
            return next((i for name, i in world.images.items() if reference in (name, i.id)), None)

    def observe(
        self,
        profile: Profile,
        store: Any,
        *,
        workspaces: bool = False,
        events: Events | None = None,
        held: Lock | None = None,
        heard: Mapping[str, History] = freeze({}),
    ) -> Snapshot:
        with self.reached("listing containers"):
            found = self._snapshot(profile)
        heard_of = tuple(structs.replace(o, history=heard.get(o.id)) for o in found.sandboxes)
        found = structs.replace(found, sandboxes=heard_of)
        if self.world.blank:
            return found
        found = structs.replace(found, completed=completed(profile, store, workspaces))
        return with_others(found, profile, store, events) if events is not None else found

    def observe_before_run(self, profile: Profile, *, shared: bool) -> Snapshot:
        with self.reached("listing containers"):
            return structs.replace(self._snapshot(profile), sandboxes=(), companions=())

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
        with self.reached("inspecting containers"):
            found, wanted = self._snapshot(profile), frozenset(ids)
        mine = (*(o for o in found.sandboxes if o.id in wanted), *gone)
        runs = {o.run for o in mine}
        return structs.replace(
            found,
            sandboxes=mine,
            networks=() if compare else tuple(n for n in found.networks if n.run in runs),
            volumes=() if compare else tuple(v for v in found.volumes if v.run in runs),
            companions=tuple(c for c in found.companions if c.run in runs),
            leftovers=(),
        )

    def news(self, only: str | None = None) -> fake_process.News:
        self.reach("following the engine's events")
        return fake_process.News(self, only)

    def observe_ended(self, profile: Profile, store: Any, ended: Mapping[str, History | None]) -> Snapshot:
        found = self.observe_these(profile, store, ended)
        sandboxes = tuple(structs.replace(o, history=ended[o.id]) for o in found.sandboxes)
        return structs.replace(found, sandboxes=sandboxes)

    def projects(self, only: str | None = None) -> tuple[Project, ...]:
        with self.reached("listing containers") as world:
            ours = {box.labels[labels.PROJECT] for box in world.boxes.values()}
            ours |= {world.whose[name] for name in (*world.networks, *world.volumes)}
            return tuple(self._project(project, world) for project in sorted(ours) if only in (None, project))

    def _project(self, project: str, world: World) -> Project:
        networks, volumes = (
            freeze({o.key: name for name, o in there.items() if o.run is None and world.whose[name] == project})
            for there in (world.networks, world.volumes)
        )
        names = Names(project=project, given_networks=networks, given_volumes=volumes)
        return Project(names=names, ended=fake_process.ended_in(world.boxes.values(), project))

    def _snapshot(self, profile: Profile) -> Snapshot:
        world, project = self.world, profile.project
        boxes = [box for box in world.boxes.values() if box.labels.get(labels.PROJECT) == project]
        sandboxes = tuple(self._observed(box) for box in boxes if labels.ROLE not in box.labels)
        beside = [
            Companion(
                id=box.id,
                role=box.labels[labels.ROLE],
                run=box.labels[labels.RUN],
                running=box.running,
                started=box.started is not None,
            )
            for box in boxes
            if labels.ROLE in box.labels
        ]
        runs = {o.run for o in sandboxes}
        needs_helper = any(companions_of(s.spec) for s in profile.sandboxes)
        built = world.images.get(name := reference())
        helper = as_helper(built.id if built is not None else None, world.labels.get(name, {}))
        return Snapshot(
            taken=datetime.now(UTC),
            offers=world.offers,
            engine_id="" if world.blank else world.id,
            sandboxes=sandboxes,
            networks=tuple(n for name, n in world.networks.items() if world.whose[name] == project),
            volumes=tuple(v for name, v in world.volumes.items() if world.whose[name] == project),
            images=freeze({s.spec.image: self._image(s.spec.image) for s in profile.sandboxes}),
            foreign=tuple(world.foreign),
            leftovers=tuple(c.id for c in beside if c.run not in runs),
            companions=tuple(c for c in beside if c.run in runs),
            helper=helper if needs_helper else None,
            **fake_process.by_owner(boxes, world.leases, elsewhere=world.elsewhere),
        )

    def _image(self, reference: str) -> Image:
        known = self.world.images.get(reference)
        offline = known is None and reference not in self.world.registry
        return Image(config=known, note="offline" if offline else None)

    def _observed(self, box: fake_process.Box) -> ObservedSandbox:
        own = box.labels
        return ObservedSandbox(
            id=box.id,
            name=box.name,
            address=own[labels.SANDBOX],
            run=own[labels.RUN],
            state=box.state(),
            spec=self._live(box),
            applied=box.applied,
            image_id=box.image,
            deadline=parse_time(own.get(labels.DEADLINE)),
            one_off=labels.ONE_OFF in own,
            owner=own.get(labels.OWNER),
            labels=freeze(own),
            created=box.created,
            document=box.document().raw,
        )

    def _live(self, box: fake_process.Box) -> SandboxSpec:
        """What a container really is, less what its image gives."""
        config = next((image for image in self.world.images.values() if image.id == box.image), None)
        return without_inherited(box.spec, config)

    def check_neighbours(self, sandboxes: Iterable[DeclaredSandbox], profile: Profile) -> None:
        self.reach("listing containers")

    def collect(self, store: Any, *, thorough: bool = False) -> Mapping[str, Mapping[str, str]]:
        if self.dead:
            raise Killed
        world = self.world
        gone = fake_process.by_owner(world.boxes.values(), world.leases, elsewhere=world.elsewhere).get("orphaned", ())
        return {
            box.id: box.labels
            for box in world.boxes.values()
            if box.id in gone and labels.ONE_OFF in box.labels and (w := box.spec.workspace) is not None and w.protected
        }

    @contextlib.contextmanager
    def lock(self, project: str, *, wait: float, on_wait: Callable[[str], None] | None = None) -> Iterator[_Lock]:
        until = time.monotonic() + wait
        while True:
            with self.reached("taking the lock") as world:
                holder = world.holders.get(project)
                if holder is None or holder.dead:
                    world.holders[project] = self
                    break
            if time.monotonic() >= until:
                raise LockHeld(f"project {project} is in use by another run", help="wait for it to end")
            time.sleep(0.005)
        try:
            yield _Lock(self, project)
        finally:
            with self.world.guard:
                if not self.dead and self.world.holders.get(project) is self:
                    del self.world.holders[project]

    @contextlib.contextmanager
    def lease(self, token: str = "") -> Iterator[str]:
        token, joined = token or uuid4().hex, token
        self.world.leases[held := f"{token}+{uuid4().hex}" if joined else token] = self
        try:
            yield token
        finally:
            if not self.dead:
                self.world.leases.pop(held, None)

    def sweep_leases(self) -> None:
        self.reach("listing volumes")

    def follow(self, project: str, began: float, *, locking: bool = False) -> fake_process.Following:
        return fake_process.Following(self, project, began)

    # -- one sandbox --------------------------------------------------------------------------------------------

    def attach(self, id: str, *, tty: bool | None = None) -> fake_process.BoxOutput:
        box = self._box(id, f"attaching to container {id[:12]}")
        return fake_process.BoxOutput(box, len(box.output), follow=True)

    def attach_terminal(self, id: str) -> Any:
        raise EngineError(f"attaching to container {id[:12]}", "it has no terminal", status=400)

    def logs(
        self, id: str, *, follow: bool = False, tty: bool | None = None, tail: int | None = None
    ) -> fake_process.BoxOutput:
        box = self._box(id, f"reading the logs of container {id[:12]}")
        return fake_process.BoxOutput(box, -(tail or 0), follow=follow)

    def wait(self, id: str, *, timeout: float | None = None) -> int:
        operation = f"waiting for container {id[:12]}"
        box, until = self._box(id, operation), None if timeout is None else time.monotonic() + timeout
        while not box.wait(0.05):
            if self.dead or self.world.gone:
                self._box(id, operation)
            if until is not None and time.monotonic() >= until:
                raise EngineTimeout(operation, "it runs on")
        return box.code

    def signal(self, id: str, signal: str = "KILL") -> None:
        operation = f"sending {signal} to container {id[:12]}"
        box = self._box(id, operation)
        if not box.running:
            raise EngineError(operation, f"container {id} is not running", status=409)
        box.send(signals.Signals[f"SIG{signal.removeprefix('SIG')}"].value)

    def is_ending(self, id: str, seconds: float) -> bool:
        return False

    def stop(self, id: str, *, timeout: int) -> bool:
        box = self._box(id, f"stopping container {id[:12]}")
        if not box.running:
            return False
        box.send(signals.SIGTERM)
        if not box.wait(timeout):
            box.send(signals.SIGKILL)
            box.wait(None)
        return True

    @property
    def counts_usage(self) -> bool:
        return self.world.offers.usage

    def usage(self, id: str) -> Sample | None:
        box = self._box(id, f"asking for the usage of container {id[:12]}")
        return Sample(time=fake_process.text_of(time.time()), memory_bytes=1 << 20) if box.running else None

    def changes(self, id: str) -> Sequence[tuple[str, str]]:
        self._box(id, f"asking for the changes of container {id[:12]}")
        return ()

    def read_tree(self, id: str, path: str) -> Any:
        box, operation = self._box(id, f"reading {path} of container {id[:12]}"), f"reading {path}"
        workspace = box.spec.workspace
        if box.files is None or workspace is None or path != workspace.target:
            raise NotFound(operation, f"Could not find the file {path} in container {id}", status=404)
        return contextlib.nullcontext(SimpleNamespace(stat={"mode": 0o755}, stream=iter((box.files,))))

    def get_ready(self) -> None:
        pass

    def histories(self, ended: Mapping[str, State]) -> Mapping[str, History]:
        with self.reached("asking for events") as world:
            return {id: fake_process.remembered_of(world.boxes[id]) for id in ended if id in world.boxes}

    def history_of_removed(self, id: str) -> History:
        with self.reached("asking for events") as world:
            return fake_process.remembered_of(world.removed[id]) if id in world.removed else History(known=False)

    def pull(self, ref: str, *, platform: str | None = None, progress: Any = None) -> None:
        with self.reached(f"pulling {ref}") as world:
            if ref not in world.registry:
                raise NotFound(f"pulling {ref}", f"pull access denied for {ref}", status=404)
            world.images[ref] = world.registry[ref]

    def build_image(
        self, context: bytes, tag: str | None, *, labels: Mapping[str, str] | None = None, progress: Any = None
    ) -> str:
        """It builds the gateway's image alone: HAProxy's version is said as that image's recipe says it."""
        with self.reached("building an image") as world:
            if progress is not None:
                progress({"stream": f"sandboxrun: HAProxy {world.haproxy}\n"})
            made = ImageConfig(id=f"sha256:{uuid4().hex * 2}")
            if tag is not None:
                world.images[tag], world.labels[tag] = made, dict(labels or {})
            return made.id

    # -- what verifying looks at: it has no processes, networks or gateways that could be seen -------------------

    terms = EngineTerms()

    def machine(self) -> Machine:
        self.reach("asking the engine about itself")
        return Machine(runtime="fake", cpus=1)

    def subnets(self) -> tuple[Any, ...]:
        return ()

    def addresses(self, id: str) -> tuple[str, ...]:
        self._box(id, f"inspecting container {id[:12]}")
        return ()

    def observe_one(self, profile: Profile, id: str) -> ObservedSandbox:
        return self._observed(self._box(id, f"inspecting container {id[:12]}"))

    def host_view(self, observed: ObservedSandbox) -> HostView:
        return HostView(id=observed.id, unseen="its sandboxes are not processes")

    def accounts(self, id: str, spec: SandboxSpec) -> Accounts | None:
        user, _, group = spec.user.partition(":")
        return Accounts(uid=int(user), gid=int(group or 0)) if user.isdigit() else None

    def gateway_view(self, profile: Profile, spec: SandboxSpec, observed: ObservedSandbox) -> GatewayView:
        with self.reached("listing containers") as world:
            mine = [b for b in world.boxes.values() if b.labels.get(labels.RUN) == observed.run]
        found = next((b for b in mine if b.labels.get(labels.ROLE) == GATEWAY), None)
        return GatewayView(status=found.status if found is not None else "not there", between=())

    # -- steps --------------------------------------------------------------------------------------------------

    def perform(self, step: Operation, session: Session) -> str | None:
        world = self.world
        if self.dead:
            raise Killed
        world.before(self, step)
        if world.latency:
            time.sleep(world.latency)
        note = self._do(step, session)
        world.performed.append(step.id)
        world.after(self, step)
        return note

    def _do(self, step: Operation, session: Session) -> str | None:  # noqa: C901 - one case a class
        names, project = session.profile.names, session.profile.project
        match step:
            case op.AwaitSandbox():
                await_condition(step, session)
            case op.CaptureEvidence():
                return capture_evidence(step, session)
            case op.PullImage():
                self.pull(step.reference)
            case op.BuildHelper():
                build(self, step.base)
            case op.CreateNetwork():
                name = names.network(step.key)
                session.networks_made[name] = self._network(project, name, step.key, step.spec)
            case op.CreatePrivateNetwork():
                name, run = private_network(step.sandbox.name), session.run_of(step.address)
                if name in self.world.networks and self.world.whose[name] == project:
                    self._remove_network(name)  # left by an apply that was killed
                made = self._network(project, name, name, NetworkSpec(internal=True), run)
                session.private_networks[step.address] = made
            case op.RemoveNetwork():
                self._remove_network(step.network)
            case op.CreateGateway():
                self._beside(step.sandbox, GATEWAY, step.run, session)
            case op.StartGateway():
                self._serve(step.container or session.companions[step.address][GATEWAY])
            case op.ReloadGateway():
                self._box(step.container, "reloading the gateway")
            case op.StartKeeper():
                self._serve(self._beside(step.sandbox, KEEPER, None, session))
            case op.CreateVolume():
                self._create_volume(step, session)
            case op.CreatePart():
                name = part_volume(step.sandbox.name, step.part)
                with self.reached(f"creating volume {name}") as world:
                    world.whose[name] = project
                    part = ObservedVolume(name=name, key=name, config=None, run=session.run_of(step.address))
                    world.volumes[name] = part
            case op.RemoveVolume():
                with self.reached(f"removing volume {step.name}") as world:
                    world.volumes.pop(step.name, None)
            case op.RemoveLeftover():
                self._remove(step.container)
            case op.CreateSandbox():
                self._create_sandbox(step, session)
            case op.CheckSandbox():
                box = self._box(session.container(step), f"inspecting {step.address}")
                self._read_back(step.sandbox, box)
            case op.RenameSandbox():
                box = self._box(session.container(step), f"renaming {step.address}")
                box.name = step.name
            case op.UploadWorkspace():
                self._upload_workspace(step, session)
            case op.UploadFiles():
                self._box(session.container(step), f"uploading {step.part}")
            case op.GiveVolume():
                self._box(session.container(step), f"uploading to {step.key}")
            case op.ConnectNetwork():
                operation = f"connecting to network {step.network}"
                with self.reached(operation):
                    box = self._box(session.container(step), operation)
                    self._join(box, step.network, step.attachment, session)
            case op.DisconnectNetwork():
                with contextlib.suppress(NotFound):
                    box = self._box(step.container, f"disconnecting from network {step.network}")
                    if box.networks.pop(step.network, None) is not None:
                        self._renetwork(box, session)
            case op.StartSandbox():
                container = session.made[step.address]
                check_places(step.sandbox, session.places)
                for note in session.before_start:
                    note(step.sandbox, container)
                self._box(container.id, f"starting container {container.id[:12]}").start()
                for note in session.after_start:
                    note(step.sandbox, container)
                self._read_back(step.sandbox, self._box(container.id, f"inspecting container {container.id[:12]}"))
            case op.UpdateSandbox():
                box = self._box(step.container, f"updating container {step.container[:12]}")
                changed = {key: getattr(step.sandbox.spec, key) for key in step.options}
                box.spec = structs.replace(box.spec, **{**changed, **self.world.ignored})
                box.note("update")
                self._read_back(step.sandbox, box, step.options)
            case op.ResumeSandbox():
                self._box(step.container, f"unpausing container {step.container[:12]}").paused = False
            case op.RecordSpec():
                self._record_spec(step)
            case op.StopSandbox():
                stop_sandbox(step, session)
            case op.RemoveSandbox():
                check_unstarted(step.container, session)
                self._remove_beside((step.container, *step.companions), step.network)
                with self.reached("removing volumes") as world:
                    for volume in step.volumes:
                        world.volumes.pop(volume, None)
                unstage(step.container, session)
            case op.KeepSandbox():
                self._remove_beside(step.companions, step.network)
                box = self._box(step.container, f"renaming container {step.container[:12]}")
                box.spec, box.name = structs.replace(box.spec, restart="no"), step.name
                settle(step.container, session)
                return f"as {step.name}"
            case _:
                assert_never(step)
        return None

    def _network(self, project: str, name: str, key: str, spec: NetworkSpec, run: str | None = None) -> str:
        with self.reached(f"creating network {name}") as world:
            if name in world.networks or any((f.kind, f.name) == ("network", name) for f in world.foreign):
                raise NameConflict(f"creating network {name}", f"network with name {name} already exists", status=409)
            made, config, world.whose[name] = uuid4().hex * 2, config_digest(spec), project
            world.networks[name] = ObservedNetwork(id=made, name=name, key=key, config=config, spec=spec, run=run)
        return made

    def _remove_network(self, network: str) -> None:
        with self.reached(f"removing network {network[:12]}") as world:
            for name, known in list(world.networks.items()):
                if network in (known.id, name):
                    if any(name in box.networks and box.running for box in world.boxes.values()):
                        raise EngineError(f"removing network {name}", "network has active endpoints", status=403)
                    del world.networks[name]

    def _beside(self, sandbox: DeclaredSandbox, role: str, run: str | None, session: Session) -> str:
        own = {
            labels.PROJECT: session.profile.project,
            labels.SANDBOX: sandbox.address,
            labels.RUN: run or session.run_of(sandbox.address),
            labels.ROLE: role,
        }
        id = self._make(companion(sandbox.name, role), own, "helper", SandboxSpec(image="helper"))
        session.companions[sandbox.address][role] = id
        return id

    def _serve(self, id: str) -> None:
        box = self._box(id, f"starting container {id[:12]}")
        box.spec = structs.replace(box.spec, command=("sleep", "86400"))
        box.start()

    def _create_volume(self, step: op.CreateVolume, session: Session) -> None:
        name, home, config = session.profile.names.volume(step.key), session.home, config_digest(step.spec)
        made = ObservedVolume(
            name=name, key=step.key, config=config, directory=home[labels.DIRECTORY], owner=home[labels.OWNER]
        )
        with self.reached(f"creating volume {name}") as world:
            world.whose[name] = session.profile.project
            world.volumes.setdefault(name, made)
        session.volumes_made.add(name)

    def _make(self, name: str, own: Mapping[str, str], image: str, spec: SandboxSpec) -> str:
        operation = f"creating container {name}"
        with self.reached(operation) as world:
            if any(b.name == name for b in world.boxes.values()) or any(
                (f.kind, f.name) == ("container", name) for f in world.foreign
            ):
                raise NameConflict(operation, f'The container name "/{name}" is already in use', status=409)
            limit = None if needs_watcher(spec, world.offers) else spec.lifetime.timeout
            box = fake_process.Box(name, own, image, spec, self, limit=None if limit is None else limit / 1e9)
            box.note("create")
            world.boxes[box.id] = box
        return box.id

    def _create_sandbox(self, step: op.CreateSandbox, session: Session) -> None:
        sandbox, world = step.sandbox, self.world
        config = world.images.get(sandbox.spec.image)
        if config is None:
            raise NotFound(f"creating container {sandbox.name}", f"No such image: {sandbox.spec.image}", status=404)
        check_places(sandbox, session.places)
        own, egress = session.labels(sandbox), sandbox.spec.egress
        if egress is not None and egress.has_gateway and not world.offers.hands_names:
            own = {**own, labels.NAMES: " ".join(sorted(egress.listed or ()))}
        id = self._make(sandbox.name, own, config.id, sandbox.spec)
        session.made[sandbox.address] = made = Made(id=id, run=session.run_of(sandbox.address))
        note_revision(sandbox, made.run, session)
        box = world.boxes[id]
        for key in tuple(networks_of(sandbox.spec))[:1] if sandbox.spec.networks else ():
            self._join(box, session.profile.names.network(key), sandbox.spec.networks[key], session)
        box.spec = structs.replace(box.spec, **world.ignored)
        if len(sandbox.spec.networks) <= 1:
            self._read_back(sandbox, box)

    def _read_back(self, sandbox: DeclaredSandbox, box: fake_process.Box, only: Collection[str] | None = None) -> None:
        config = self.world.images.get(sandbox.spec.image)
        found = mismatches(without_inherited(sandbox.spec, config), self._live(box))
        wrong = [d for d in found if only is None or d.key in only]
        if wrong:
            told = (
                f"{sandbox.address}: the engine did not apply {d.key}: declared {json.dumps(d.after)}" for d in wrong
            )
            raise ApplyError(*(Diagnostic(message=message, span=sandbox.span) for message in told))

    def _join(self, box: fake_process.Box, network: str, attachment: Attachment, session: Session) -> None:
        if network not in self.world.networks:
            raise NotFound(f"connecting to network {network}", f"network {network} not found", status=404)
        box.networks[network] = attachment
        self._renetwork(box, session)

    def _renetwork(self, box: fake_process.Box, session: Session) -> None:
        names = session.profile.names
        box.spec = structs.replace(
            box.spec, networks=freeze({names.network_key(n): a for n, a in box.networks.items()})
        )

    def _upload_workspace(self, step: op.UploadWorkspace, session: Session) -> None:
        made, policy = session.made[step.address], step.sandbox.spec.workspace
        assert step.sandbox.workspace is not None and policy is not None
        source = step.sandbox.workspace
        stage_workspace(
            session.store, made.run, source, uid=1000, gid=1000, engine=self.identity, exclude=policy.exclude
        )
        with open_workspace(session.store, made.run) as tar:
            self._box(made.id, "uploading the workspace").files = tar.read()

    def _record_spec(self, step: op.RecordSpec) -> None:
        with self.reached("recording the spec") as world:
            for box in world.boxes.values():
                if box.labels.get(labels.RUN) == step.run and labels.ROLE not in box.labels:
                    box.applied = step.sandbox.spec
                    if box.spec.egress is not None and box.spec.egress.has_gateway:  # an engine shows no rules
                        box.spec = structs.replace(box.spec, egress=box.applied.egress)

    def _remove_beside(self, containers: Iterable[str], network: str | None) -> None:
        for id in containers:
            self._remove(id)
        if network is not None:
            self._remove_network(network)

    def _remove(self, id: str) -> None:
        with self.reached(f"removing container {id[:12]}") as world:
            box = world.boxes.get(id)
        if box is None:
            return
        if box.running:
            box.send(signals.SIGKILL)
            box.wait(None)
        with self.reached(f"removing container {id[:12]}") as world:
            box.note("destroy")
            world.removed[id] = world.boxes.pop(id)

    # -- taking back ----------------------------------------------------------------------------------------------

    def undo(self, session: Session, failed: Sequence[Operation], skipped: Sequence[Operation]) -> None:
        if self.dead:
            raise Killed
        take_away(session, failed, skipped, look=partial(self.observe_one, session.profile), remove=self._remove_made)
        for step in (*failed, *skipped):
            if isinstance(step, op.CreatePart | op.CreateSandbox | WIRING) and step.address not in session.made:
                with contextlib.suppress(SandboxrunError):
                    beside = session.companions[step.address].values()
                    self._remove_beside(beside, session.private_networks.get(step.address))
        with contextlib.suppress(SandboxrunError), self.reached("removing volumes") as world:
            runs = {session.run_of(step.address) for step in (*failed, *skipped) if step.address not in session.made}
            for name in [name for name, volume in world.volumes.items() if volume.run in runs]:
                del world.volumes[name]
            used = {key for box in world.boxes.values() for key in box.networks}
            for name in session.networks_made if failed or skipped else ():
                if name not in used:
                    world.networks.pop(name, None)

    def _remove_made(self, observed: ObservedSandbox, beside: Iterable[str], network: str | None) -> None:
        self._remove_beside((observed.id, *beside), network)
        for part in PARTS:
            self.world.volumes.pop(part_volume(observed.base, part), None)

    def restore(self, session: Session, steps: Sequence[Operation], done: Collection[str]) -> None:
        if self.dead:
            raise Killed
        unfinished = {step.address for step in steps if step.id not in done}
        for step in steps:
            if step.address in unfinished and isinstance(step, op.UpdateSandbox):
                with contextlib.suppress(SandboxrunError):
                    was, box = session.observed(step.container).spec, self._box(step.container, "updating")
                    box.spec = structs.replace(box.spec, **{key: getattr(was, key) for key in step.options})
                    session.listener(Undone(address=step.address, what="limits restored"))
