"""What a service is built on: one hold of the project's lock for all its threads, what a call declares, and collecting
what nobody looks after.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

from msgspec import structs

from sandboxrun.api.settings import check_options
from sandboxrun.backend.docker.observe import take_snapshot
from sandboxrun.backend.session import Watched
from sandboxrun.data import Data
from sandboxrun.errors import Diagnostic, UsageError
from sandboxrun.lifecycle import apply as converge
from sandboxrun.lifecycle.places import check_outside, check_sources, may_write
from sandboxrun.plan.changes import Plan
from sandboxrun.plan.operations import is_private, networks_of
from sandboxrun.plan.planner import make_collect_plan
from sandboxrun.profile.templates import MARKS
from sandboxrun.profile.variables import Inputs
from sandboxrun.spec.names import Names
from sandboxrun.spec.outcome import PAST_TTL
from sandboxrun.spec.project import DeclaredSandbox, NetworkSpec, Profile
from sandboxrun.spec.state import ObservedSandbox, Running, Snapshot

if TYPE_CHECKING:
    from sandboxrun.api.service import SandboxService
    from sandboxrun.evidence.store import Captured, Store


# -- One hold of a project's lock for all threads of a service

LONGEST = 5.0  # seconds after which no more are let in together: other processes want the lock as well

StillHeld = Callable[[], None]
Hold = Callable[[], AbstractContextManager[StillHeld]]


class Gate:
    """`hold` takes the project's lock and gives the check that it is still held."""

    def __init__(self, hold: Hold) -> None:
        self._hold = hold
        self._changed = threading.Condition()
        self._turning = False  # the lock is being taken or given back, or somebody is in alone
        self._inside = 0
        self._wanted = 0  # who waits to be in alone goes first
        self._since = 0.0
        self._held: AbstractContextManager[StillHeld] | None = None
        self._check: StillHeld = lambda: None

    @contextmanager
    def together(self) -> Iterator[StillHeld]:
        """In with others that make things. Raises what taking the lock raises."""
        with self._changed:
            self._changed.wait_for(self._admits)
            first = not self._inside
            self._turning = first
            self._inside += 1
        try:
            if first:
                self._enter()
            yield self._check
        finally:
            self._leave()

    def _admits(self) -> bool:
        if self._turning or self._wanted:
            return False
        return not self._inside or monotonic() < self._since + LONGEST

    def _enter(self) -> None:
        try:
            held = self._hold()
            self._check = held.__enter__()
            self._held, self._since = held, monotonic()
        finally:
            with self._changed:
                self._turning = False
                self._changed.notify_all()

    def _leave(self) -> None:
        with self._changed:
            self._inside -= 1
            if self._inside:
                return
            held, self._held, self._turning = self._held, None, True
        try:
            if held is not None:
                held.__exit__(None, None, None)
        finally:
            with self._changed:
                self._turning = False
                self._changed.notify_all()

    @contextmanager
    def alone(self) -> Iterator[StillHeld]:
        """In with nobody else. Raises what taking the lock raises."""
        with self._changed:
            self._wanted += 1
            self._changed.wait_for(lambda: not self._turning and not self._inside)
            self._wanted -= 1
            self._turning = True
        try:
            with self._hold() as check:
                yield check
        finally:
            with self._changed:
                self._turning = False
                self._changed.notify_all()


# -- From a Python call's arguments to a profile of one sandbox

_SECRET = "SANDBOXRUN_API_SECRET_"


class Declared(Data, unshown=("environment",)):
    """One sandbox as a program declared it. `environment` holds the secrets' values, which no file or label does."""

    profile: Profile
    sandbox: DeclaredSandbox
    environment: Mapping[str, str]


def declare(
    project: str,
    directory: Path,
    name: str,
    options: Mapping[str, Any],
    *,
    secrets: Mapping[str, str] | None = None,
    environment: Mapping[str, str] | None = None,
) -> Declared:
    """The profile of one sandbox. `options` are a profile's, in its form; None leaves an option at its default.

    `secrets` become files under /run/secrets; `environment` gives values to names without one. Raises UsageError
    for an option that there is not or that does not take its value, ProfileError for what does not fit together.
    """
    from sandboxrun.profile.loader import load_data

    given = {key: _plain(value) for key, value in options.items() if value is not None}
    check_options(given)
    texts: dict[str, str] = {}
    values = {f"{_SECRET}{number}": value for number, value in enumerate((secrets or {}).values())}
    if secrets:
        given["secrets"] = [*given.get("secrets", ()), *secrets]
    data: dict[str, Any] = {"name": project, "sandboxes": {name: _literal(given, texts)}}
    if secrets:
        data["secrets"] = {key: {"environment": at} for key, at in zip(secrets, values, strict=True)}
    if texts:
        data["variables"] = {key: {"type": "string"} for key in texts}
    inputs = Inputs(values=texts, environment=environment or {})
    profile = load_data(data, directory=directory, inputs=inputs, allow_outside=True)  # a program's own word, no file's
    return Declared(profile=profile, sandbox=profile.sandboxes[0], environment=values)


def _plain(value: Any) -> Any:
    """Paths as texts, everything else as it is."""
    match value:
        case os.PathLike():
            return os.fspath(value)
        case Mapping():
            return {str(key): _plain(item) for key, item in value.items()}
        case list() | tuple() | set() | frozenset():
            return [_plain(item) for item in value]
    return value


def _literal(value: Any, texts: dict[str, str]) -> Any:
    """`value` with each text that would be read as a template made a variable that holds it."""
    match value:
        case str() if MARKS.search(value) is not None:
            key = f"text{len(texts)}"
            texts[key] = value
            return f"{{{{ {key} }}}}"
        case dict():
            return {key: _literal(item, texts) for key, item in value.items()}
        case list():
            return [_literal(item, texts) for item in value]
    return value


def workspace_option(workspace: Path | str, access: str, target: str) -> dict[str, str]:
    """The workspace option of a directory. Raises UsageError when it is none, or `access` is not copy, rw or ro."""
    path = Path(os.path.abspath(workspace))
    if not os.path.isdir(path):
        raise UsageError(f"the workspace {path} is not a directory", help="give the directory the agent works on")
    if access not in ("copy", "rw", "ro"):
        raise UsageError(f'a workspace has no access "{access}"', help="choose copy, rw or ro")
    return {"source": str(path), "target": target, "access": access}


def writer_of(workspace: Path) -> str | None:
    """The user that a sandbox with `workspace` read-write should have: its owner, unless that is root."""
    found = os.stat(workspace)
    return f"{found.st_uid}:{found.st_gid}" if found.st_uid != 0 else None


def check_writable(sandbox: DeclaredSandbox, store: Store) -> None:
    """Raise UsageError for a read-write workspace that the sandbox's user cannot write to, PlanError for one that holds
    the evidence: what an agent can write proves nothing about it."""
    check_outside((sandbox,), store)
    check_sources((sandbox,))
    workspace = sandbox.spec.workspace
    if workspace is None or workspace.access != "rw":
        return
    source = Path(os.path.realpath(workspace.source))
    if not may_write(source, sandbox.spec):
        raise UsageError(
            Diagnostic(
                message=f"the sandbox's user {sandbox.spec.user} cannot write to the workspace {source}",
                help="give it to that user (chown), say user=, or use access='copy'",
            )
        )


# -- Takes away what nobody looks after any more, evidence first

LOCK_WAIT = 300.0  # seconds: another process may be uploading a large workspace


class Collector:
    """Collects for one service."""

    def __init__(self, service: SandboxService, gate: Gate) -> None:
        self._service, self._gate = service, gate

    def collect(self) -> Mapping[str, Captured]:
        """What killed processes left; what was kept, by run. Raises ApplyError for what could not be taken away."""
        return self._collect(_left, leftovers=True)

    def drop_networks(self) -> None:
        """Networks that nothing uses any more."""
        self._collect(lambda snapshot: [], leftovers=False)

    def _collect(
        self, choose: Callable[[Snapshot], list[ObservedSandbox]], *, leftovers: bool
    ) -> Mapping[str, Captured]:
        made, _, _ = self._plan(choose, leftovers)  # without the lock: mostly there is nothing
        service = self._service
        if not made.operations and not (leftovers and self._lock_is_dead()):
            if leftovers:
                service.engine.collect(service.store)
            return {}
        with self._gate.alone() as guard:
            made, snapshot, profile = self._plan(choose, leftovers)
            watched = {
                o.run: Watched(stopped_by="expired", note=PAST_TTL)
                for o in choose(snapshot)
                if o.is_over(snapshot.taken) and isinstance(o.state, Running)
            }
            settings = converge.ApplySettings(lock_wait=LOCK_WAIT)
            outcome = converge.carry_out(
                made, snapshot, service.engine, profile, service.store, settings, guard, watched=watched
            )
        assert outcome.applied is not None and outcome.session is not None
        outcome.applied.check()
        return outcome.session.captured

    def _lock_is_dead(self) -> bool:
        """Whether a killed process left the lock itself: taking it takes that away."""
        from sandboxrun.backend.docker.lock import LABEL, claim_of

        engine = self._service.engine
        claims = [claim_of(volume) for volume in engine.volumes(labels={LABEL: self._service.project})]
        return any(claim.is_dead(engine.clock) for claim in claims)

    def _plan(
        self, choose: Callable[[Snapshot], list[ObservedSandbox]], leftovers: bool
    ) -> tuple[Plan, Snapshot, Profile]:
        service = self._service
        bare = nothing_declared(service)
        snapshot = take_snapshot(service.engine, bare, service.store)
        profile = _as_found(bare, snapshot)
        made = make_collect_plan(profile, snapshot, choose(snapshot), networks=True, leftovers=leftovers)
        return made, snapshot, profile


def nothing_declared(service: SandboxService) -> Profile:
    """The service's project, with nothing declared."""
    names = Names(project=service.project)
    return Profile(project=service.project, directory=service.directory, sandboxes=(), names=names)


def _left(snapshot: Snapshot) -> list[ObservedSandbox]:
    """One-offs that nobody looks after any more."""
    orphaned = snapshot.orphaned
    return [
        o for o in snapshot.sandboxes if o.one_off and (o.is_over(snapshot.taken) or (o.id in orphaned and not o.kept))
    ]


def _as_found(profile: Profile, snapshot: Snapshot) -> Profile:
    """The profile with the project's networks as they are: collecting must not put right what others declared."""
    common = [network for network in snapshot.networks if not is_private(network)]
    networks = {n.key: n.spec for n in common}
    for observed in snapshot.sandboxes:
        for key in networks_of(observed.spec):
            networks.setdefault(key, NetworkSpec(external=True))
    names = structs.replace(profile.names, given_networks={n.key: n.name for n in common})
    return structs.replace(profile, networks=networks, names=names)
