"""Takes away what nobody looks after any more, evidence first.

Owns what counts as that: one-offs whose owner is gone or whose time is over, and what belongs to nothing. Must not
touch what a living process made or a profile declared.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import attrs

from sandboxrun.api.gate import Gate
from sandboxrun.apply.leftovers import collect
from sandboxrun.apply.session import Watched
from sandboxrun.model.declared import Profile
from sandboxrun.model.names import Names
from sandboxrun.model.objects import NetworkSpec
from sandboxrun.model.observed import ObservedSandbox, Running, Snapshot
from sandboxrun.plan.belongings import is_private, networks_of
from sandboxrun.plan.changes import Plan
from sandboxrun.plan.planner import make_collect_plan
from sandboxrun.workflow import converge
from sandboxrun.workflow.observe import take_snapshot

if TYPE_CHECKING:
    from sandboxrun.evidence.capture import Captured
    from sandboxrun.service import SandboxService

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
                collect(service.engine, service.store)
            return {}
        with self._gate.alone() as guard:
            made, snapshot, profile = self._plan(choose, leftovers)
            watched = {
                o.run: Watched(stopped_by="timeout", note="past its ttl")
                for o in choose(snapshot)
                if _expired(o, snapshot) and isinstance(o.state, Running)
            }
            settings = converge.Settings(lock_wait=LOCK_WAIT)
            outcome = converge.carry_out(
                made, snapshot, service.engine, profile, service.store, settings, guard, watched=watched
            )
        assert outcome.applied is not None and outcome.session is not None
        outcome.applied.check()
        return outcome.session.captured

    def _lock_is_dead(self) -> bool:
        """Whether a killed process left the lock itself: taking it takes that away."""
        from sandboxrun.engine.lock import LABEL, claim_of

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
    return [o for o in snapshot.sandboxes if o.one_off and (o.id in snapshot.orphaned or _expired(o, snapshot))]


def _expired(observed: ObservedSandbox, snapshot: Snapshot) -> bool:
    return observed.deadline is not None and snapshot.taken >= observed.deadline


def _as_found(profile: Profile, snapshot: Snapshot) -> Profile:
    """The profile with the project's networks as they are: collecting must not put right what others declared."""
    common = [network for network in snapshot.networks if not is_private(network)]
    networks = {n.key: n.spec for n in common}
    for observed in snapshot.sandboxes:
        for key in networks_of(observed.spec):
            networks.setdefault(key, NetworkSpec(external=True))
    names = attrs.evolve(profile.names, given_networks={n.key: n.name for n in common})
    return attrs.evolve(profile, networks=networks, names=names)
