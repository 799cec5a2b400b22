"""How sandboxes ended whose evidence another job took, maybe into another checkout: by the engine's events.

Owns what of that is certain enough to count. Asks the engine nothing else.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Protocol

from sandboxrun.backend.errors import EngineError
from sandboxrun.errors import SandboxrunError
from sandboxrun.evidence.capture import Captured, recorded
from sandboxrun.evidence.store import ENDED
from sandboxrun.spec import labels
from sandboxrun.spec.codec import to_label
from sandboxrun.spec.outcome import Ending, History, How, StoppedBy, decide
from sandboxrun.spec.state import Completed

if TYPE_CHECKING:
    from datetime import datetime

    from sandboxrun.backend.docker.project_events import Past, ProjectEvents
    from sandboxrun.backend.session import Watched
    from sandboxrun.evidence.store import Store
    from sandboxrun.spec.project import DeclaredSandbox
    from sandboxrun.spec.spec import SandboxSpec


class Seen(Protocol):
    """A run that somebody watched: what it was, and what was seen of its end."""

    run: str
    container: str
    spec: SandboxSpec
    exit_code: int | None

    @property
    def result(self) -> Watched:
        """Who ended it, and what was kept while it ran."""


def ending_of(
    past: Past | None, code: int | None, spec: SandboxSpec, stopped_by: str, started: datetime | None = None
) -> Ending | None:
    """How a run ended that was watched (`code`, `stopped_by`), or by its events alone; None where nobody saw it."""
    if code is None:
        code = past.exit_code if past is not None else None
    if code is None:
        return None
    events = past.events if past is not None else ()
    ran = past.ran(started) if past is not None else None
    timeout = spec.lifetime.timeout
    if ran is not None and timeout is not None and ran >= timeout / 1e9:
        stopped_by = StoppedBy.TIMEOUT  # as the planner has it, of whatever ended past its timeout
    state = {"Status": "exited", "StartedAt": "seen", "ExitCode": code}
    return decide(state, stopped_by=StoppedBy(stopped_by), watched=True, history=History.of(events))


def taken_by_others(
    store: Store, events: ProjectEvents, watch: Seen, started: datetime | None = None
) -> tuple[Captured | None, Ending | None]:
    """The evidence of a watched run that this job did not take, where this checkout has it; else how it ended, as far
    as somebody saw it. What watching it has left in the staging folder goes. `started` of one that ran before."""
    captured, past = recorded(store, watch.run), None
    if captured is None:
        with contextlib.suppress(EngineError):  # what the watch saw counts without
            past = events.past().get(watch.container)
    if captured is not None or (past is not None and past.had("destroy")):
        with contextlib.suppress(OSError, SandboxrunError):  # the next command collects what stays
            store.unstage(watch.run)
    if captured is not None:
        return captured, None
    return None, ending_of(past, watch.exit_code, watch.spec, watch.result.stopped_by, started)


def completed_elsewhere(
    events: ProjectEvents, sandboxes: Iterable[DeclaredSandbox], differs: Callable[[DeclaredSandbox, str], bool]
) -> Mapping[str, Completed]:
    """Which of the sandboxes ran to their end since the events began, and are gone. What is not certain does not
    count: one that somebody stopped or updated, or one with another workspace (`differs`: from a content's digest)."""
    pasts = events.past().values()
    carried = [past.labels for past in pasts if labels.CONTENT in past.labels]
    contents = {own.get(labels.RUN, ""): own[labels.CONTENT] for own in carried}
    found: dict[str, Completed] = {}
    for sandbox in sandboxes:
        for past in pasts:
            run, ending = past.labels.get(labels.RUN, ""), _certain(past, sandbox)
            if ending is not None and not differs(sandbox, contents.get(run, "")):
                found[sandbox.address] = Completed(outcome=ending.how.value, exit_code=ending.exit_code, run=run)
    return found


def _certain(past: Past, sandbox: DeclaredSandbox) -> Ending | None:
    """How the container ended, if it was this sandbox's, gone by now, and ended by itself or by its timeout."""
    own = past.labels
    same = (past.name, own.get(labels.SANDBOX)) == (sandbox.name, sandbox.address)
    if not same or own.get(labels.SPEC) != to_label(sandbox.spec):
        return None
    if labels.ONE_OFF in own or past.had("update") or not past.had("destroy"):
        return None
    ending = ending_of(past, None, sandbox.spec, StoppedBy.ITSELF)
    stopped = past.had("kill") and ending is not None and ending.how is not How.TIMEOUT
    return None if stopped or ending is None or ending.how not in ENDED else ending
