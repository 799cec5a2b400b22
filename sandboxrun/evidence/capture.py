"""Takes a run's evidence: all parts, each on its own, within a time, then the index and the chain.

Owns the order and the promise: capturing never raises, and what could not be kept is said in the index. Whether the
container may be removed is for the caller to see from `Captured.entry`.
"""

from __future__ import annotations

import datetime
import itertools
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
from msgspec import structs

from sandboxrun import __version__
from sandboxrun.data import Data
from sandboxrun.errors import SandboxrunError
from sandboxrun.evidence import parts
from sandboxrun.evidence.errors import disk_full, reason_of
from sandboxrun.evidence.folder import RunFolder
from sandboxrun.evidence.index import (
    ROOM_FOR_REFUSED,
    Digests,
    Index,
    Kept,
    MissingPart,
    RefusedName,
    Revision,
    room_of,
)
from sandboxrun.evidence.masking import Masker
from sandboxrun.evidence.parts import CaptureLimits, CaptureSource, Part
from sandboxrun.evidence.store import REVISION, Captured, ChainEntry, Store, Watched, recorded
from sandboxrun.evidence.workspace import staged_content
from sandboxrun.spec import labels
from sandboxrun.spec.ci import CiJob
from sandboxrun.spec.names import own_name
from sandboxrun.spec.state import Created, Document, Ended, History, StoppedBy, decide, parse_time, seen
from sandboxrun.threads import Aside

if TYPE_CHECKING:
    from sandboxrun.backend.base import Backend, Changes


# -- Takes a run's evidence: all parts, each on its own, within a time, then the index and the chain

T = TypeVar("T")
_LISTED = 1_000  # refused members that the index names
_REMOVED = "its container was removed before its evidence was saved"
_GRACE = 5.0  # seconds a part gets beyond the deadline to bring what it has to its end


class CaptureRequest(Data, unshown=("secrets", "document")):
    """What the caller knows of a run. `secrets` are the values to mask in everything that is text; `name` is the
    container's, where that is gone.

    `workspace` is the target of a workspace copy, `own` what of it the profile depends on, `gateway` the container that
    has the records of its requests, `wired` whether there must be one, `keeper` the one that holds a workspace that
    lies in memory, `artifacts` absolute paths in the container, `profile` the effective profile's text. `watched` is
    what was seen of it, by somebody who saw it end where that is `known`; `memory_limit` is in bytes. `document` is
    the engine's answer about a container, `history` what it remembers of it and `changes` what that changed in its
    file system, where the caller has them, or has asked for them, since it ended; `heard` gives what it has told of
    one that ended like this, where that is followed.
    """

    run: str
    project: str
    sandbox: str
    name: str = ""
    digests: Digests = Digests()
    profile: str = ""
    secrets: tuple[str | bytes, ...] = ()
    watched: Watched = Watched()
    known: bool = False
    memory_limit: int | None = None
    filesystem_changes: bool = True
    changes: Aside[Changes] | None = None
    artifacts: tuple[str, ...] = ()
    workspace: str | None = None
    own: frozenset[str] = frozenset()
    gateway: str | None = None
    wired: bool = False
    keeper: str | None = None
    document: Mapping[str, Any] | None = None
    history: History | None = None
    heard: Callable[[Ended], History | None] = lambda ended: None
    limits: CaptureLimits = CaptureLimits()


def capture(engine: Backend, container_id: str, request: CaptureRequest, store: Store) -> Captured:
    """Take a run's evidence. Never raises an Exception; an interrupt leaves a folder that the next capture redoes."""
    try:
        return _Capture(engine, container_id, request, store).run()
    except Exception as error:
        return Captured(entry=None, failure=reason_of(error))


def _aside(name: str, call: Callable[[], T]) -> Aside[T]:
    """An engine that hangs must not hold its caller for ever."""
    return Aside(call, name=f"evidence: {name}")


class _Capture:
    def __init__(self, engine: Backend, container_id: str, request: CaptureRequest, store: Store) -> None:
        self._engine, self._id, self._request, self._store = engine, container_id, request, store
        self._began = time.monotonic()
        self._deadline = self._began + request.limits.seconds
        self._until = self._deadline + _GRACE
        self._masker = Masker(request.secrets)
        self._missing = [MissingPart(part=part, reason=reason) for part, reason in request.watched.missing]
        self._told = Part()  # all parts together, but for what is missing
        self._hindered: str | None = None
        self._history: History | None = None

    def run(self) -> Captured:
        if done := recorded(self._store, self._request.run):
            return done
        answer = self._inspect()
        name = _made_as(answer) if answer is not None else self._request.name
        with self._store.recording(self._request.run, name or self._id[:12]) as found:
            captured = None if isinstance(found, ChainEntry) else self._into(found, answer)
        if captured is None:
            return recorded(self._store, self._request.run) or Captured(entry=None, failure="its record is gone")
        return captured

    def _inspect(self) -> Document | None:
        """The engine's answer, None for a container that is gone. Whatever else goes wrong may pass: it is raised."""
        from sandboxrun.backend.errors import NotFound

        if self._request.document is not None:
            return self._engine.document(self._id, known=self._request.document)
        try:
            return _aside("inspect", lambda: self._engine.document(self._id)).result(self._until)
        except NotFound:
            self._missing.append(MissingPart(part="inspect", reason=_REMOVED))
            return None

    def _into(self, folder: RunFolder, answer: Document | None) -> Captured:
        digests, engine = self._gather(folder, answer)
        if self._hindered is not None:
            # Nothing is removed now: the next try, with the engine back or room on the disk, gets all of it.
            return Captured(entry=None, folder=folder.path, failure=self._hindered)
        kept = folder.close_parts()
        indexes: list[Index] = []

        def index_after(previous: str | None) -> Index:
            indexes.append(self._index(answer, kept, digests, engine, previous))
            return indexes[-1]

        entry = self._store.finish(folder, index_after)
        return Captured(entry=entry, folder=folder.path, index=indexes[-1])

    def _gather(self, folder: RunFolder, answer: Document | None) -> tuple[Digests, Mapping[str, str]]:
        """All parts: what the engine has to be asked for side by side, the rest meanwhile."""
        source = CaptureSource(
            engine=self._engine,
            container_id=self._id,
            run=self._request.run,
            store=self._store,
            folder=folder,
            masker=self._masker,
            limits=self._request.limits,
            deadline=self._deadline,
        )
        asked = {name: _aside(name, part) for name, part in self._engine_parts(source, answer)}
        about = _aside("the engine", lambda: self._about(answer))
        for name, part in self._own_parts(source, answer):
            self._add(self._guarded(name, part))
        for name, call in asked.items():
            self._add(self._guarded(name, partial(call.result, self._until)))
        found = self._guarded("what the engine knows", partial(about.result, self._until))
        digests, engine, history = found or (None, None, None)
        self._history = history or History(known=False)
        workspace: str | None = None
        if self._request.workspace is not None:
            workspace = self._guarded("workspace digest", lambda: staged_content(self._store, self._request.run))
        digests = structs.replace(digests or self._request.digests, workspace=workspace or "")
        return digests, MappingProxyType(engine or {})

    def _about(self, answer: Document | None) -> tuple[Digests | None, Mapping[str, str] | None, History | None]:
        """What the engine knows beside the sandbox itself; mostly it was asked for the first two before."""
        return (
            self._guarded("image digests", lambda: self._image(answer)),
            self._guarded("engine version", self._engine.about),
            self._guarded("history", lambda: self._remembered(answer)),
        )

    def _own_parts(self, source: CaptureSource, answer: Document | None) -> Iterator[tuple[str, Callable[[], Part]]]:
        """What is here already."""
        if self._request.profile:
            yield "profile", lambda: parts.profile(source, self._request.profile)
        if answer is not None:
            yield "inspect", lambda: parts.inspect(source, answer.raw)
        if self._request.watched.live_logs:
            yield "logs", lambda: parts.live_logs(source, self._request.watched.written)
        ran = answer is not None and answer.started is not None
        yield "usage", lambda: parts.usage(source, ran=ran)

    def _engine_parts(self, source: CaptureSource, answer: Document | None) -> Iterator[tuple[str, Callable[[], Part]]]:
        """What the engine has to be asked for; nothing without an answer to inspect, and the index says so."""
        request = self._request
        if gateway := request.gateway:
            yield "egress", lambda: parts.egress(source, gateway)
        elif request.wired:
            self._missing.append(MissingPart(part="egress", reason="its gateway is gone, and the records with it"))
        asked = {
            "logs": not request.watched.live_logs,
            "changes": request.filesystem_changes,
            "artifacts": request.artifacts,
            "workspace": request.workspace,
        }
        wanted = [name for name, given in asked.items() if given]
        if answer is None:
            self._missing += [MissingPart(part=name, reason=_REMOVED) for name in wanted]
            return
        calls: Mapping[str, Callable[[], Part]] = {
            "logs": lambda: parts.engine_logs(source, answer, request.watched.written),
            "changes": lambda: parts.changes(source, answer.state, self._request.changes),
            "artifacts": lambda: parts.artifacts(source, request.artifacts),
            "workspace": lambda: (
                (parts.held_workspace(source, request.keeper, answer.state) if request.keeper is not None else None)
                or parts.workspace(source, request.workspace or "", request.artifacts, request.own)
            ),
        }
        yield from ((name, calls[name]) for name in wanted)

    def _guarded(self, part: str, call: Callable[[], T]) -> T | None:
        """What `call` gives; None, and a note, when it fails."""
        from sandboxrun.backend.errors import EngineUnreachable

        try:
            return call()
        except Exception as error:
            reason = reason_of(error)
            if isinstance(error, EngineUnreachable) or disk_full(error):
                self._hindered = reason
            self._missing.append(MissingPart(part=part, reason=reason))
            return None

    def _add(self, part: Part | None) -> None:
        if part is not None:
            known = {part for part, _ in self._request.watched.missing} & {"usage"}  # why too few was said already
            self._missing += [m for m in part.missing if m.part not in known]
            self._told = self._told.joined(part)

    def _image(self, answer: Document | None) -> Digests:
        given, image = self._request.digests, answer.image if answer is not None else ""
        if not image or given.repo_digests:
            return structs.replace(given, image=given.image or image)
        found = self._engine.image_config(image)
        return structs.replace(given, image=image, repo_digests=found.digests if found is not None else ())

    def _remembered(self, answer: Document | None) -> History:
        state = answer.state if answer is not None else None
        if isinstance(state, Ended) and (heard := self._request.heard(state)) is not None:
            return heard
        if self._request.history is not None:
            return self._request.history
        if answer is None:
            return self._engine.history_of_removed(self._id)
        return self._engine.histories({self._id: answer.state}).get(self._id, History())

    def _index(
        self,
        answer: Document | None,
        kept: tuple[Kept, ...],
        digests: Digests,
        engine: Mapping[str, str],
        previous: str | None,
    ) -> Index:
        request, watched = self._request, self._request.watched
        ending = decide(
            answer.state if answer is not None else seen(code) if (code := watched.exit_code) is not None else None,
            stopped_by=StoppedBy(watched.stopped_by),
            watched=request.known,
            history=self._history,
        )
        about = answer or Document(id=self._id, name=request.name, image="", state=Created(), labels={}, raw={})
        started, finished = about.started, about.finished if about.started is not None else None
        began, ended = parse_time(started), parse_time(finished)
        ran = round(max(0.0, (ended - began).total_seconds()), 6) if began is not None and ended is not None else None
        told, masked = self._told, self._masker.text
        job = CiJob.from_label(about.labels.get(labels.JOB))
        egress = told.egress  # the hosts it asked for are the agent's words too
        if egress is not None:
            refused, unlisted = (tuple(map(masked, t)) for t in (egress.denied_targets, egress.unlisted_targets))
            egress = structs.replace(egress, denied_targets=refused, unlisted_targets=unlisted)
        return Index(
            run=request.run,
            project=request.project,
            sandbox=request.sandbox,
            container_id=about.id,
            container_name=_made_as(about),
            ending=structs.replace(ending, detail=masked(ending.detail) if ending.detail else None),
            created_at=about.created,
            started_at=started,
            finished_at=finished,
            captured_at=datetime.datetime.now(datetime.UTC).isoformat().replace("+00:00", "Z"),
            ran_seconds=ran,
            capture_seconds=round(time.monotonic() - self._began, 3),
            digests=digests,
            tool_version=__version__,
            engine=engine,
            git=self._revision(),
            job=MappingProxyType({k: masked(v) for k, v in job.plain.items()}) if job is not None else None,
            labels=MappingProxyType({str(k): str(v) for k, v in self._masker.json(about.labels).items()}),
            usage=parts.reaching(told.usage, request.memory_limit) if ending.oom_killed else told.usage,
            patched_paths=told.patched_paths,
            untracked_paths=told.untracked_paths,
            protected_paths_touched=tuple(map(masked, told.protected_paths_touched)),
            not_copied=tuple(map(masked, told.not_copied)),
            egress=egress,
            kept=kept,
            missing=tuple(structs.replace(m, reason=masked(m.reason)) for m in self._missing),
            refused=tuple(self._refused(told.refused)),
            refused_total=told.refused_total,
            previous=previous,
        )

    def _refused(self, every: Iterable[RefusedName]) -> Iterator[RefusedName]:
        """The first of them, as many as the index has room for."""
        room, masked = ROOM_FOR_REFUSED, self._masker.text
        for one in itertools.islice(every, _LISTED):
            path = masked(one.path)
            if (room := room - room_of(path)) < 0:
                return
            yield structs.replace(one, path=path, reason=masked(one.reason))

    def _revision(self) -> Revision | None:
        """What was noted of the workspace's revision when the sandbox was made."""
        try:
            with self._store.staging(self._request.run) as staging, staging.open(REVISION) as file:
                found = msgspec.json.decode(file.read(), type=Revision)
        except (OSError, SandboxrunError, msgspec.DecodeError):
            return None
        return structs.replace(found, branch=self._masker.text(found.branch) if found.branch else None)


def _made_as(answer: Document) -> str:
    """The container's name, whatever somebody renamed it to since: the folder and the index have the same."""
    own = labels.read(answer.labels).get(labels.BASE)
    return own_name(own) if own else answer.name
