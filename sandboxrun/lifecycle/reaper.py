"""`reap --watch`: reaps as things happen, for as long as it runs.

Owns when each project is looked at: when the engine says that something happened to it, when its next sandbox is due,
when a process that owns one of its sandboxes ends on this machine, again after a failure, and all of them after each
connection to the engine, since what happened in between is not known. It asks the engine nothing else meanwhile. What
ends by itself is reaped at once, with nothing else looked at; a look at its whole project follows.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from time import monotonic

from msgspec import structs

from sandboxrun.backend.base import Backend, News
from sandboxrun.backend.errors import EngineError
from sandboxrun.backend.owner import Owner, this_process
from sandboxrun.lifecycle.apply import ApplySettings
from sandboxrun.lifecycle.reap import DOUBT, Homes, ProjectReaper, Scope, is_over, no_store, surely_due
from sandboxrun.report.reap import Connected, Lost, ProjectLooked, ReaperEvent, Result
from sandboxrun.spec import labels
from sandboxrun.spec.names import Names
from sandboxrun.spec.state import History
from sandboxrun.threads import begin

_SLICE = 0.5  # seconds of waiting, so that signals are seen
_BUSY = 5.0  # seconds until a project is looked at again whose lock somebody has
_FAILED = 60.0  # seconds until one is looked at again where something could not be reaped
_LONGEST = 3600.0  # seconds after which all is looked at in any case: an engine's clock may have been set meanwhile
_BACKOFF = (0.5, 1.0, 2.0, 5.0, 10.0, 30.0)  # seconds between attempts to reach the engine


class Reaper:
    """One `reap --watch`. `settings.stop` ends it, after what it is at. `tidy` is called after each look at all, once
    an hour at least; it must not raise."""

    def __init__(
        self,
        engine: Backend,
        scope: Scope,
        homes: Homes,
        settings: ApplySettings,
        tell: Callable[[ReaperEvent], None],
        *,
        doubt: float = DOUBT,
        tidy: Callable[[], None] = lambda: None,
    ) -> None:
        self._tidy, self._untidy = tidy, False
        self._doubt = doubt
        self._engine, self._scope, self._homes, self._tell = engine, scope, homes, tell
        self._settings, self._patience = structs.replace(settings, lock_wait=0.0), settings.lock_wait
        self._changed = threading.Condition()
        self._everything = True  # whether all projects are to be looked at
        self._lost: EngineError | None = None
        self._next: dict[str, float] = {}  # project → when to look at it (time.monotonic)
        self._ended: dict[str, dict[str, History | None]] = {}  # project → what is to be reaped, as its end was told
        self._names: dict[str, Names] = {}  # of projects that were looked at
        self._known: set[str] = set()  # projects in which nothing was started since they were looked at
        self._owners: set[tuple[Owner, str]] = set()  # those whose end is waited for, by project
        self._busy_since: dict[str, float] = {}
        self._lapsed: dict[str, dict[str, float]] = {}  # project → its containers whose lease seems to be over → since

    def run(self) -> None:
        """Until it is stopped."""
        attempts = 0
        while not self._settings.stop.is_set():
            try:
                with self._following():
                    attempts = 0
                    self._work()
            except EngineError as error:
                self._tell(Lost(error=error))
                self._settings.stop.wait(_BACKOFF[min(attempts, len(_BACKOFF) - 1)])
                attempts += 1

    @contextmanager
    def _following(self) -> Iterator[None]:
        """First follow, then look at all: so nothing is missed in between."""
        with self._engine.news() as news:
            self._lost, self._everything = None, True
            self._known.clear()
            self._ended.clear()
            begin(partial(self._follow, news), name="engine events", failed=self._broken)
            self._tell(Connected())
            yield

    def _follow(self, news: News) -> None:
        for one in news:
            to_reap = one.action == "die" and labels.ROLE not in one.labels and is_over(one.labels)
            with self._changed:
                if one.action == "start":
                    self._known.discard(one.project)
                if to_reap:
                    self._ended.setdefault(one.project, {})[one.id] = one.history
            self._wake(one.project)
        raise EngineError("following the engine's events", "the engine ended the stream")

    def _broken(self, error: BaseException) -> None:
        told = error if isinstance(error, EngineError) else EngineError("following the engine's events", str(error))
        with self._changed:
            self._lost = told
            self._changed.notify_all()

    def _wake(self, project: str) -> None:
        with self._changed:
            self._next[project] = min(self._next.get(project, math.inf), monotonic())
            self._changed.notify_all()

    def _work(self) -> None:
        """Look at what is to be looked at, until the engine is lost."""
        look_at_all = monotonic()
        while not self._settings.stop.is_set():
            if self._everything or monotonic() >= look_at_all:
                self._everything, look_at_all = False, monotonic() + _LONGEST
                self._look_at_all()
            project = self._take(look_at_all)
            if project is not None:
                self._look_at(project)
            elif self._untidy:
                self._untidy = False
                self._tidy()

    def _take(self, until: float) -> str | None:
        """The next project to look at; None when something else is to be done first."""
        with self._changed:
            if self._lost is not None:
                raise self._lost
            soonest = min(self._next, key=lambda project: self._next[project], default=None)
            when = min(until, self._next[soonest]) if soonest is not None else until
            if soonest is not None and self._next[soonest] <= monotonic():
                del self._next[soonest]
                return soonest
            self._changed.wait(min(_SLICE, max(0.0, when - monotonic())))
            return None

    def _look_at_all(self) -> None:
        self._engine.sweep_leases()
        self._engine.collect(no_store(), thorough=True)
        there = {found.names.project for found in self._engine.projects(self._scope.project)}
        with self._changed:
            self._next = dict.fromkeys({*self._next, *there}, 0.0)
        self._untidy = True

    def _look_at(self, project: str) -> None:
        if self._scope.project not in (None, project):
            return
        with self._changed:
            ended, at_once = self._ended.pop(project, {}), project in self._known and self._scope.whole
            if ended and at_once:
                self._known.discard(project)  # however much ends, the next look is at all
            else:
                self._known.add(project)
        if ended and at_once:
            self._reap_ended(project, ended)
        else:
            self._look_at_whole(project)

    def _reap_ended(self, project: str, ended: Mapping[str, History | None]) -> None:
        work = ProjectReaper(self._engine, self._names[project], self._scope, self._homes, self._settings)
        self._tell_of(project, work, work.reap_ended(ended), 0.0)

    def _look_at_whole(self, project: str) -> None:
        found = self._engine.projects(project)
        if not found:  # nothing of it is there any more
            self._tell(ProjectLooked(project=project, result=Result(), states={}))
            return
        now, seen = monotonic(), self._lapsed.pop(project, {})
        doubted = frozenset(id for id, since in seen.items() if now - since >= self._doubt)
        self._names[project] = names = found[0].names
        work = ProjectReaper(self._engine, names, self._scope, self._homes, self._settings, lapsed=doubted)
        result, again = work.reap(sure=surely_due(found[0], self._scope)), work.next_look
        if work.lapsed:
            self._lapsed[project] = {id: seen.get(id, now) for id in work.lapsed}
            again = min(self._doubt, again or self._doubt)
        self._tell_of(project, work, result, again)
        for owner in work.owners:
            self._await_end(owner, project)

    def _tell_of(self, project: str, work: ProjectReaper, result: Result, again: float | None) -> None:
        """Tell what was done, and look at the project once more in `again` seconds, or when that may do more."""
        if work.busy:
            again = _BUSY
            since = self._busy_since.setdefault(project, monotonic())
            if monotonic() - since < self._patience:
                result = structs.replace(result, left=())  # whoever works there will have done soon
        else:
            self._busy_since.pop(project, None)
            again = min(_FAILED, again or _FAILED) if result.left else again
        self._tell(ProjectLooked(project=project, result=result, states=work.states))
        if again is not None:
            with self._changed:
                self._next.setdefault(project, monotonic() + again)

    def _await_end(self, owner: Owner, project: str) -> None:
        """The engine tells nothing when a process ends that owns a sandbox."""
        awaited = (owner, project)

        def wait() -> None:
            if owner.wait_until_gone():
                self._owners.discard(awaited)
                self._wake(project)

        if awaited not in self._owners and owner != this_process():
            self._owners.add(awaited)
            begin(wait, name=f"process {owner.pid}", failed=lambda error: self._owners.discard(awaited))
