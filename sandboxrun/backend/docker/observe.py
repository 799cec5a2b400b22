"""Reads the engine into a snapshot: everything of one project, and what stands in its way; for a `run` its part of it.

Owns which calls that takes: four for any number of sandboxes, and one inspect each; and which objects are a project's
own. Anybody may label anything, and a container has its image's labels too: what does not carry all that sandboxrun
sets at creation, each in its form, is somebody else's. No decisions.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec import structs

from sandboxrun.backend.base import Events, Project
from sandboxrun.backend.completed import completed, with_others
from sandboxrun.backend.docker.calls import engine_id_of
from sandboxrun.backend.docker.client import Engine, import_ahead
from sandboxrun.backend.docker.codec import observe, observe_companion, observe_network, observe_volume, with_clock
from sandboxrun.backend.docker.fields import FIELDS, KEPT
from sandboxrun.backend.docker.lease import joined, living
from sandboxrun.backend.errors import EngineError, EngineUnreachable
from sandboxrun.backend.owner import decode
from sandboxrun.errors import ApplyError, Diagnostic
from sandboxrun.evidence.folder import writing_state
from sandboxrun.evidence.store import STAGING, safe_name
from sandboxrun.plan.operations import companions_of, networks_of, shares
from sandboxrun.profile.files import sources_of
from sandboxrun.spec import labels
from sandboxrun.spec.names import COMPANIONS, PROJECT, Names, kept_name
from sandboxrun.spec.option_types import ALLOW
from sandboxrun.spec.project import DeclaredSandbox, NetworkSpec, Profile
from sandboxrun.spec.spec import SandboxSpec, digest_of
from sandboxrun.spec.state import (
    Companion,
    Document,
    Ended,
    Foreign,
    Helper,
    History,
    Image,
    ImageConfig,
    ObservedSandbox,
    Offers,
    Running,
    Snapshot,
    StoppedBy,
    decide,
    from_label,
    parse_time,
)
from sandboxrun.spec.types import freeze
from sandboxrun.threads import Aside

if TYPE_CHECKING:
    from sandboxrun.backend.docker.lock import ProjectLock
    from sandboxrun.evidence.folder import Folder
    from sandboxrun.evidence.store import Store


UPLOAD = "courier"
_FEW = 50  # containers that are listed as fast as one kind of them
IDENTITY = frozenset({labels.PROJECT, labels.SANDBOX, labels.RUN, labels.ROLE, labels.SPEC, labels.SPEC_DIGEST})
_RUN = re.compile("[0-9a-f]{32}")
_DIGEST = re.compile("sha256:[0-9a-f]{64}")


def take_snapshot(
    engine: Engine,
    profile: Profile,
    store: Store,
    *,
    workspaces: bool = False,
    events: Events | None = None,
    held: ProjectLock | None = None,
    heard: Mapping[str, History] = freeze({}),
) -> Snapshot:
    """The project on the engine now. Raises EngineError.

    `workspaces`: those of sandboxes that have completed are compared with what they are now, which reads all their
    files. With `events`, what other jobs saw completed since it began counts as this checkout's own record does. `held`
    was taken just now, which showed the project's volumes. `heard` are the histories of those whose end was followed.
    """
    images, few = _Images(engine), held is not None and events is not None
    with Aside(partial(_listed, engine, profile, few=few), name="list") as listing:  # an engine is slow to list many
        declared = {s.spec.label: s.spec for s in profile.sandboxes}  # what runs is mostly one of them: not parsed then
        references = freeze(images.references(profile.sandboxes))
    containers, there = listing.result()
    listed = own_containers(engine, profile.project, listed=containers, known=declared)
    helpers = {str(c["Id"]): c for c in listed if labels.text_of(c.get("Labels"), labels.ROLE) is not None}
    inspected = engine.inspect_containers([str(c["Id"]) for c in listed if str(c["Id"]) not in helpers])
    sandboxes = _observed(inspected, profile, store, images, declared)
    companions, leftovers = _companions(helpers.values(), {o.run for o in sandboxes}, profile)
    sandboxes = _with_endings(engine, sandboxes, heard)
    owners = _by_owner(engine, sandboxes)
    shared = _shared(engine, profile.project, volumes=held.listed if held is not None else None)
    running = {o.address: o.applied for o in sandboxes if isinstance(o.state, Running) and not o.apart}
    # Those that may have to be made or made again: what the engine can't enforce must be known before one goes.
    unsettled = [s for s in profile.sandboxes if running.get(s.address) != s.spec]
    info = _asked(engine) if unsettled else None
    snapshot = Snapshot(
        taken=engine.clock(),
        offers=offers_of(engine, info, unsettled),
        engine_id=engine_id_of(info or {}),
        sandboxes=sandboxes,
        images=references,
        leftovers=leftovers,
        companions=companions,
        helper=_helper(engine, profile.sandboxes),
        completed=completed(profile, store, workspaces),
        **owners,
        **shared,
    )
    if events is not None:
        snapshot = with_others(snapshot, profile, store, events, held)
    return structs.replace(snapshot, foreign=tuple(_foreign(engine, profile, snapshot, unsettled, there)))


Listed = tuple[Mapping[str, Any], ...]


def _listed(engine: Engine, profile: Profile, *, few: bool) -> tuple[Listed, Listed | None]:
    """The project's containers, others perhaps among them; and all there are, where they are known: with `few`, of an
    engine that has few it is one list of the project's own and of whatever has a name that an apply needs."""
    if few and len(profile.sandboxes) <= _FEW // 2:
        there = engine.containers(most=_FEW + 1)
        if len(there) <= _FEW:
            return there, there
    return engine.containers(labels={labels.PROJECT: profile.project}), None


def _by_owner(engine: Engine, sandboxes: Iterable[ObservedSandbox]) -> dict[str, Any]:
    """The snapshot's fields of those that are waited for. Leases are asked for only where an owner's process can't be
    seen from here, or may have been joined."""
    owners = {o.id: by for o in sandboxes if o.awaited and (by := decode(o.owner or "")) is not None}
    gone = frozenset(id for id, owner in owners.items() if owner.is_gone)
    alive = frozenset(id for id, owner in owners.items() if owner.is_alive)
    left = {o.id: o.labels[labels.LEASE] for o in sandboxes if o.id in gone and not o.one_off}
    others = joined(engine, left.values())
    alive |= {id for id, token in left.items() if token in others}
    gone -= alive
    far = {
        o.id: (o.labels[labels.LEASE], parse_time(o.created))
        for o in sandboxes
        if o.id in owners.keys() - gone - alive and labels.LEASE in o.labels
    }
    leased = living(engine, far) if far else frozenset()
    joined_by = frozenset[str]().union(*others.values())
    return {"orphaned": gone, "owned": alive | leased, "lapsed": frozenset(far) - leased, "joined_by": joined_by}


def _shared(
    engine: Engine,
    project: str,
    *,
    more: Mapping[str, str | None] | None = None,
    volumes: Iterable[Mapping[str, Any]] | None = None,
) -> dict[str, Any]:
    """The snapshot's fields of the project's networks and volumes; those with the labels `more`. `volumes` are all that
    have its label, where they are known."""
    wanted = {labels.PROJECT: project, **(more or {})}
    networks = engine.networks(labels=wanted)
    volumes = engine.volumes(labels=wanted) if volumes is None else volumes
    return {
        "networks": tuple(observe_network(one) for one in networks if is_own(one, labels.NETWORK, project)),
        "volumes": tuple(observe_volume(one) for one in volumes if is_own(one, labels.VOLUME, project)),
    }


def snapshot_before_run(engine: Engine, profile: Profile, *, shared: bool) -> Snapshot:
    """What a `run` has to know: no other sandbox, and what they have in common only where it takes part (`shared`).

    Raises EngineError.
    """
    import_ahead()  # what will make the sandbox
    images, info = _Images(engine), _asked(engine)
    snapshot = Snapshot(
        taken=engine.clock(),
        offers=offers_of(engine, info, profile.sandboxes),
        engine_id=engine_id_of(info),
        images=freeze({s.spec.image: images.reference(s) for s in profile.sandboxes}),
        helper=_helper(engine, profile.sandboxes),
    )
    if not shared:
        return snapshot
    listed = own_containers(engine, profile.project, more={labels.ROLE: UPLOAD})
    left = tuple(str(c["Id"]) for c in listed)
    snapshot = structs.replace(snapshot, leftovers=left, **_shared(engine, profile.project))
    return structs.replace(snapshot, foreign=tuple(_foreign(engine, profile, snapshot, profile.sandboxes)))


def snapshot_of_these(
    engine: Engine,
    profile: Profile,
    store: Store,
    ids: Iterable[str],
    *,
    compare: bool = False,
    known: Mapping[str, Document] | None = None,
    gone: Iterable[ObservedSandbox] = (),
) -> Snapshot:
    """The containers `ids` and all that is theirs alone, to be collected; with `compare` no more than what runs beside
    them and what their images set, to be compared with what is declared. Those `known` are not asked about again, nor
    those `gone`. Raises EngineError."""
    images, known = _Images(engine), known or {}
    asked = engine.inspect_containers(id for id in ids if id not in known)
    inspected = (*(document.raw for document in known.values()), *asked)
    sandboxes = (*_observed(inspected, profile, store, images if compare else None), *gone)
    snapshot = Snapshot(
        taken=engine.clock(),
        offers=Offers(api_version=engine.api_version),
        sandboxes=sandboxes,
    )
    if not compare:
        return _with_their_own(engine, profile, snapshot)
    here = {o.address for o in sandboxes}
    named = {s.spec.image for s in profile.sandboxes if s.address in here}
    known = freeze({image: Image(config=images.of(image)) for image in named})
    listed: tuple[Mapping[str, Any], ...] = ()
    if any(companions_of(o.applied or o.spec) for o in sandboxes):
        listed = own_containers(engine, profile.project, more={labels.ROLE: None})
    beside, _ = _companions(listed, {o.run for o in sandboxes}, profile)
    return structs.replace(snapshot, images=known, companions=beside)


def _with_their_own(engine: Engine, profile: Profile, snapshot: Snapshot) -> Snapshot:
    """With all that is theirs alone: asked for only where they have anything."""
    if not (runs := {o.run for o in snapshot.sandboxes if shares(o.applied or o.spec)}):
        return snapshot
    more = {labels.RUN: next(iter(runs)) if len(runs) == 1 else None}
    listed = own_containers(engine, profile.project, more={**more, labels.ROLE: None})
    shared = _shared(engine, profile.project, more=more).items()
    theirs = {kind: tuple(one for one in found if one.run in runs) for kind, found in shared}
    return structs.replace(snapshot, companions=_companions(listed, runs, profile)[0], **theirs)


def snapshot_of_ended(engine: Engine, profile: Profile, store: Store, ended: Mapping[str, History | None]) -> Snapshot:
    """Containers that the engine's events named, if they are sandboxes of the project, and all that is theirs alone,
    to be reaped. Raises EngineError."""
    found = []
    for one in engine.inspect_containers(ended):
        listed = {"Labels": (one.get("Config") or {}).get("Labels")}
        of_image = reserved(engine, str(one.get("Image") or ""))
        if labels.ROLE not in labels.read(listed["Labels"]) and is_own_container(listed, profile.project, of_image):
            found.append(one)
    sandboxes = _observed(found, profile, store, _Images(engine))
    sandboxes = _with_endings(engine, sandboxes, {id: known for id, known in ended.items() if known is not None})
    owners = _by_owner(engine, sandboxes)
    snapshot = Snapshot(
        taken=engine.clock(),
        offers=Offers(api_version=engine.api_version),
        sandboxes=sandboxes,
        **owners,
    )
    return _with_their_own(engine, profile, snapshot)


def _with_endings(
    engine: Engine, sandboxes: tuple[ObservedSandbox, ...], known: Mapping[str, History] = freeze({})
) -> tuple[ObservedSandbox, ...]:
    """What the engine says of how those ended that have, for which it is not asked about what is `known`; and what its
    clock did meanwhile."""
    sandboxes = tuple(structs.replace(o, state=with_clock(o.state, o.labels, engine.clock)) for o in sandboxes)
    ended = {o.id: o.state for o in sandboxes if isinstance(o.state, Ended)}
    if not ended:
        return sandboxes
    from sandboxrun.backend.docker.history import histories, known_state

    found = dict(known)
    # that it died of memory may have been told a moment later
    open_still = {id: s for id, s in ended.items() if id not in known or not known[id].explains(s.exit_code)}
    try:
        for id, asked in histories(engine, open_still).items():
            found[id] = structs.replace(known[id], oom=known[id].oom or asked.oom) if id in known else asked
    except EngineUnreachable:
        raise
    except EngineError:  # some proxies before an engine let nobody ask for its events
        pass

    def with_ending(observed: ObservedSandbox) -> ObservedSandbox:
        if not isinstance(observed.state, Ended):
            return observed
        history = found.get(observed.id)
        expired = observed.expired and history is not None and history.signals
        by = StoppedBy.TIMEOUT if observed.timed_out else StoppedBy.EXPIRED if expired else StoppedBy.ITSELF
        state = known_state(engine, observed.document, observed.state)
        unknown = History(known=False)
        ending = decide(state, stopped_by=by, history=history or unknown)
        state = structs.replace(state, how=ending.how.value, detail=ending.detail or "")
        return structs.replace(observed, state=state, history=history)

    return tuple(map(with_ending, sandboxes))


def _companions(
    listed: Iterable[Mapping[str, Any]], runs: Collection[str], profile: Profile
) -> tuple[tuple[Companion, ...], tuple[str, ...]]:
    """The companions of sandboxes that are there; and the ids of what carried files, or is left of one that is gone."""
    found = tuple(observe_companion(container, profile.names) for container in listed)
    mine = tuple(c for c in found if c.role in COMPANIONS and c.run in runs)
    return mine, tuple(c.id for c in found if c not in mine)


def _helper(engine: Engine, sandboxes: Iterable[DeclaredSandbox]) -> Helper | None:
    """The image of gateways and keepers; asked for only where a sandbox has one."""
    return helper_on(engine) if any(companions_of(s.spec) for s in sandboxes) else None


def helper_on(engine: Engine) -> Helper:
    """The image of gateways and keepers, as the engine has it. Raises EngineError."""
    from sandboxrun.gateway.image import as_helper, reference

    found = engine.image(reference())
    if found is None:
        return as_helper(None)
    return as_helper(str(found.get("Id") or ""), labels.read((found.get("Config") or {}).get("Labels")))


def _observed(
    inspected: Sequence[Mapping[str, Any]],
    profile: Profile,
    store: Store,
    images: _Images | None,
    declared: Mapping[str, SandboxSpec] | None = None,
) -> tuple[ObservedSandbox, ...]:
    """Sandboxes by the engine's answers; less what their images set, where those are asked for. `declared` are the
    profile's specs by their labels' texts, where somebody had them."""
    if not inspected:
        return ()
    if declared is None:
        declared = {s.spec.label: s.spec for s in profile.sandboxes}
    config = images.of if images is not None else lambda image: None
    return tuple(
        observe(answer, profile.names, config(str(answer.get("Image") or "")), spec, declared)
        for answer, spec in zip(inspected, updated_specs(inspected, store), strict=True)
    )


class _Images:
    """What images are, each asked once."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._known: dict[str, ImageConfig | None] = {}

    def of(self, reference: str) -> ImageConfig | None:
        if not reference:
            return None
        if reference not in self._known:
            self._known[reference] = self._engine.image_config(reference)
        return self._known[reference]

    def references(self, sandboxes: Iterable[DeclaredSandbox]) -> Mapping[str, Image]:
        """What each reference means; of two sandboxes with one image, the one that wants the newest is asked for."""
        by_policy = sorted(sandboxes, key=lambda s: s.spec.pull_policy == "always")
        return {reference: self.reference(s) for reference, s in {s.spec.image: s for s in by_policy}.items()}

    def reference(self, sandbox: DeclaredSandbox) -> Image:
        """What a declared reference means; the registry is asked where the profile wants the newest, or has none."""
        config = self.of(sandbox.spec.image)
        if sandbox.spec.pull_policy == "never" or (config is not None and sandbox.spec.pull_policy != "always"):
            return Image(config=config)
        try:
            digest, note = self._engine.registry_digest(sandbox.spec.image), None
        except EngineError as error:
            digest, note = None, error.cause
        return Image(config=config, digest=digest, note=note)


def _asked(engine: Engine) -> Mapping[str, Any]:
    """What the engine says of itself, its version with it: it takes a while over either, so that both are asked at
    once."""
    with Aside(engine.version, name="version") as version:
        info = engine.info()
    version.result()  # raises what it raised
    return info


def offers_of(engine: Engine, info: Mapping[str, Any] | None, sandboxes: Collection[DeclaredSandbox]) -> Offers:
    """What the engine can enforce; asked only where something may have to be made."""
    if info is None:
        return Offers(api_version=engine.api_version)
    from sandboxrun.backend.docker.facts import Quota, engine_facts, hands_names

    version = engine.version()
    facts = engine_facts({"Components": version.get("Components")}, info, ())
    direct = [s.spec.workspace for s in sandboxes if s.spec.workspace is not None and s.spec.workspace.access != "copy"]
    binds = [mount for s in sandboxes for mount in s.spec.volumes if mount.type == "bind"]
    shares = not (direct or binds) or engine.shares_filesystem()
    return Offers(
        api_version=engine.api_version,
        options=KEPT.union(FIELDS),
        shares_filesystem=shares,
        filesystem_note="" if shares else engine.filesystem_reason(),
        runtimes=facts.runtimes,
        memory=facts.limits.memory,
        swap=facts.limits.swap,
        cpu=facts.limits.cpus,
        cpuset=facts.limits.cpuset,
        pids=facts.limits.pids,
        usage=engine.counts_usage,
        maps_users=facts.userns or facts.rootless,
        seccomp=facts.seccomp is not None,
        hands_names=hands_names(str(version.get("Version", ""))),
        podman=facts.is_podman,
        architecture=facts.architecture,
        quota=facts.storage_quota is not Quota.NO,
        apparmor=facts.apparmor,
        selinux=facts.selinux,
        cpus=facts.cpus or None,
        default_runtime=facts.default_runtime,
        runc=facts.runc,
    )


def _foreign(
    engine: Engine,
    profile: Profile,
    snapshot: Snapshot,
    sandboxes: Iterable[DeclaredSandbox],
    there: tuple[Mapping[str, Any], ...] | None = None,
) -> Iterable[Foreign]:
    """Objects that have a name the profile needs and are not the project's. `there` are all containers, where they are
    known."""
    ours = {o.name for o in snapshot.sandboxes}
    names = [s.name for s in sandboxes if s.name not in ours]
    if there is None:
        there = engine.containers(names=names) if names else ()
    wanted = {f"/{name}" for name in names}
    for container in there:
        if wanted.isdisjoint(container.get("Names") or ()):
            continue
        if not is_own_container(container, profile.project, reserved(engine, str(container.get("ImageID") or ""))):
            name = str((container.get("Names") or ["?"])[0]).removeprefix("/")
            yield Foreign(
                kind="container", name=name, id=str(container["Id"]), whose=_whose(container, profile.project)
            )
    joined = {key for s in sandboxes for key in networks_of(s.spec)}
    for key in sorted(joined - {network.key for network in snapshot.networks}):
        external = profile.networks.get(key, NetworkSpec()).external
        name = profile.names.network(key)
        found = engine.network(name)
        if found is not None and external and labels.RUN in (own := labels.read(found.get("Labels"))):
            whose = f"it is that of the sandbox {own.get(labels.SANDBOX)} and its gateway alone"
            yield Foreign(kind="network", name=name, id=str(found["Id"]), whose=whose, help="join another network")
        elif found is not None and not external and not is_own(found, labels.NETWORK, profile.project):
            yield Foreign(kind="network", name=name, id=str(found["Id"]), whose=_whose(found, profile.project))
    used = {m.source or "" for s in sandboxes for m in s.spec.volumes if m.type == "volume"}
    for key in sorted(used - {volume.key for volume in snapshot.volumes}):
        spec = profile.volumes.get(key)
        found = engine.volume(profile.names.volume(key)) if spec is not None and not spec.external else None
        if found is not None and not is_own(found, labels.VOLUME, profile.project):
            yield Foreign(kind="volume", name=str(found["Name"]), id="", whose=_whose(found, profile.project))


def _whose(found: Mapping[str, Any], ours: str) -> str:
    project = labels.read(found.get("Labels")).get(labels.PROJECT)
    if project == ours:
        return "it has its label, but sandboxrun did not make it"
    return f"it is project {project}'s" if project else "it has no labels of sandboxrun"


def projects(engine: Engine, only: str | None = None) -> tuple[Project, ...]:
    """All projects of which anything is on the engine, or `only` that one, in the order of their names. Raises
    EngineError."""

    def project_of(answer: Mapping[str, Any]) -> str:
        return labels.read(answer.get("Labels")).get(labels.PROJECT, "")

    def of_image(container: Mapping[str, Any]) -> Collection[str]:
        return reserved_of(str(container.get("ImageID") or ""))

    reserved_of, ours = cache(partial(reserved, engine)), {labels.PROJECT: only}
    containers = [c for c in engine.containers(labels=ours) if is_own_container(c, project_of(c), of_image(c))]
    networks = [n for n in engine.networks(labels=ours) if is_own(n, labels.NETWORK, project_of(n))]
    volumes = [v for v in engine.volumes(labels=ours) if is_own(v, labels.VOLUME, project_of(v))]

    def named(project: str, there: Iterable[Mapping[str, Any]], label: str) -> Mapping[str, str]:
        own = ((labels.read(one.get("Labels")), str(one["Name"])) for one in there if project_of(one) == project)
        return freeze({found[label]: name for found, name in own if labels.RUN not in found})

    def has_ended(container: Mapping[str, Any], own: Mapping[str, str]) -> bool:
        if labels.ROLE in own or container.get("State") not in ("exited", "dead"):
            return False
        kept = kept_name("", own[labels.RUN])
        return not any(str(name).endswith(kept) for name in container.get("Names") or ())

    ended: dict[str, dict[str, Mapping[str, str]]] = {}
    for container in containers:
        if has_ended(container, own := labels.read(container.get("Labels"))):
            ended.setdefault(own[labels.PROJECT], {})[str(container["Id"])] = own
    return tuple(
        Project(
            names=Names(
                project=project,
                given_networks=named(project, networks, labels.NETWORK),
                given_volumes=named(project, volumes, labels.VOLUME),
            ),
            ended=freeze(ended.get(project, {})),
        )
        for project in sorted({project_of(one) for one in (*containers, *networks, *volumes)})
        if re.fullmatch(PROJECT, project)
    )


# -- Which objects are the project's own


def is_own_container(
    listed: Mapping[str, Any],
    project: str,
    of_image: Collection[str],
    known: Mapping[str, SandboxSpec] = freeze({}),
) -> bool:
    """Whether a container of the engine's list is the project's: a sandbox, a companion or an upload container.
    `of_image` are the names of its image's labels: sandboxrun runs no image that has labels of its own. `known` are
    specs by their labels' texts, which need not be parsed."""
    own = labels.read(listed.get("Labels"))
    if own.get(labels.PROJECT) != project or not IDENTITY.isdisjoint(of_image):
        return False
    match own.get(labels.ROLE):
        case None:
            try:  # a spec that another version wrote too, which nobody here can read, is that of its digest
                spec, digest = own[labels.SPEC], own[labels.SPEC_DIGEST]
                found = known[spec].digest if spec in known else digest_of(json.loads(spec))
                return _has_run(own) and found == digest
            except (KeyError, ValueError, RecursionError):
                return False
        case str(role) if role in COMPANIONS:
            return _has_run(own)
        case str(role) if role == UPLOAD:
            return listed.get("State") == "created"  # it is never started
    return False


def is_own(inspect: Mapping[str, Any], label: str, project: str) -> bool:
    """Whether a network or volume is the project's, or that of one of its sandboxes; `label` says which of the two."""
    own = labels.read(inspect.get("Labels"))
    key = own.get(label)
    if own.get(labels.PROJECT) != project or not key:
        return False
    if labels.RUN in own:
        return _has_run(own) and key == inspect.get("Name")
    return _DIGEST.fullmatch(own.get(labels.CONFIG, "")) is not None


def _has_run(own: Mapping[str, str]) -> bool:
    return bool(own.get(labels.SANDBOX)) and _RUN.fullmatch(own.get(labels.RUN, "")) is not None


def own_containers(
    engine: Engine,
    project: str,
    *,
    more: Mapping[str, str | None] | None = None,
    names: tuple[str, ...] = (),
    listed: Iterable[Mapping[str, Any]] | None = None,
    known: Mapping[str, SandboxSpec] = freeze({}),
) -> tuple[Mapping[str, Any], ...]:
    """The project's containers, as the engine lists them: those with the labels `more`, or one of `names`. `listed` are
    all that there are, where they are known; `known` are specs by their labels' texts. Raises EngineError."""
    of_image = cache(partial(reserved, engine))
    if listed is None:
        listed = engine.containers(labels={labels.PROJECT: project, **(more or {})}, names=names)
    ours = (c for c in listed if labels.text_of(c.get("Labels"), labels.PROJECT) == project)
    return tuple(c for c in ours if is_own_container(c, project, of_image(str(c.get("ImageID") or "")), known))


def own_sandboxes(
    engine: Engine, names: Names, *, more: Mapping[str, str | None] | None = None
) -> tuple[ObservedSandbox, ...]:
    """The project's sandboxes as the engine shows them, without what runs beside them: those with the labels `more`."""
    found = own_containers(engine, names.project, more=more)
    ids = [str(c["Id"]) for c in found if labels.ROLE not in labels.read(c.get("Labels"))]
    return tuple(observe(answer, names, None) for answer in engine.inspect_containers(ids))


def reserved(engine: Engine, image: str) -> Collection[str]:
    """The names of sandboxrun's labels that an image has, by its id; none for one that is gone."""
    config = engine.image_config(image) if image else None
    return config.reserved if config is not None else ()


def check_neighbours(engine: Engine, sandboxes: Iterable[DeclaredSandbox], profile: Profile) -> None:
    """Raise ApplyError for a path that a sandbox which is on the engine now, and not in the profile, may move.

    Those of one profile are compared when it is read.
    """
    declared = {sandbox.address for sandbox in profile.sandboxes}
    given = [
        (sandbox, sandbox.place(key, item), path) for sandbox in sandboxes for key, item, path in sources_of(sandbox)
    ]
    faults = []
    ours = {str(c["Id"]) for c in own_containers(engine, profile.project)} if given else set()
    for container in engine.containers(labels={labels.SANDBOX: None}) if given else ():
        if str(container["Id"]) in ours and labels.read(container.get("Labels")).get(labels.SANDBOX) in declared:
            continue
        binds = [mount for mount in container.get("Mounts") or () if mount.get("Type") == "bind"]
        whose = str((container.get("Names") or ["?"])[0]).removeprefix("/")
        for sandbox, span, path in given:
            if _is_movable(os.path.realpath(path), binds):
                message = f"{sandbox.address}: {path} lies where {whose} may write: it could put a link in its place"
                help = "wait until that one is gone, or give each a directory of its own"
                faults.append(Diagnostic(message=message, span=span, help=help))
    if faults:
        raise ApplyError(*faults)


def _is_movable(path: str, binds: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a container with these binds can put another thing where `path` is: it lies in one that it may write to,
    and no mount of its own keeps it in place."""
    for bind in binds:
        top = os.path.realpath(str(bind.get("Source") or ""))
        if not bind.get("RW") or path == top or os.path.commonpath((path, top)) != top:
            continue
        at = Path(str(bind.get("Destination"))) / os.path.relpath(path, top)
        kept = {Path(str(other.get("Destination"))): not other.get("RW") for other in binds if other is not bind}
        if at not in kept and not any(kept.get(above) for above in at.parents):
            return True
    return False


# -- The spec of the last update in place: labels are set at creation only, so it is recorded beside the engine

APPLIED = "applied.json"
UNFINISHED = "rules-unfinished"  # there while a gateway may have other rules than those recorded


def record_update(store: Store, run: str, spec_label: str, *, engine: str) -> None:
    """Keep the spec of an update in place, on the engine of that identity, until the run's evidence is taken."""
    with store.staging(run, engine=engine) as staging, writing_state():
        staging.write(APPLIED, spec_label.encode())
        if staging.kind(UNFINISHED):
            staging.unlink(UNFINISHED)


def begin_rules(store: Store, run: str, *, engine: str) -> None:
    """Note that a gateway is being given other rules: until `record_update` nobody may rely on those recorded."""
    with store.staging(run, engine=engine) as staging, writing_state():
        staging.write(UNFINISHED, b"")


def updated_specs(inspected: Sequence[Mapping[str, Any]], store: Store) -> list[SandboxSpec | None]:
    """Of each container the spec of its last update in place; None where there was none, or it was recorded elsewhere.

    After one that was not finished its egress allows nothing, which no profile can declare: the next apply gives the
    rules anew.
    """
    try:
        with store.state(STAGING) as staging:
            return [_updated(staging, labels.read((one.get("Config") or {}).get("Labels"))) for one in inspected]
    except FileNotFoundError:
        return [None] * len(inspected)


def _updated(staging: Folder, own: Mapping[str, str]) -> SandboxSpec | None:
    if not own.get(labels.RUN):
        return None
    recorded = ""
    try:
        with staging.enter(safe_name(own[labels.RUN])) as folder:
            with suppress(FileNotFoundError), folder.open(APPLIED) as file:
                recorded = file.read().decode()
            if not folder.kind(UNFINISHED):
                return from_label(recorded)
        spec = from_label(recorded or own.get(labels.SPEC))
    except (OSError, ValueError):
        return None
    if spec is None or spec.egress is None or not spec.egress.has_gateway:
        return spec
    return structs.replace(spec, egress=structs.replace(spec.egress, mode=ALLOW, allow=()))
