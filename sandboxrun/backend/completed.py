"""What ran to its end and is gone: by this checkout's record, or, whose evidence another job took, by events.

Owns what of that is certain enough to count. Asks the engine nothing else.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from typing import TYPE_CHECKING

from msgspec import structs

from sandboxrun.backend.base import Events, Lock, Past
from sandboxrun.backend.errors import EngineError
from sandboxrun.errors import SandboxrunError
from sandboxrun.evidence.errors import EvidenceError
from sandboxrun.evidence.store import ENDED, Captured, recorded
from sandboxrun.spec import labels
from sandboxrun.spec.state import Completed, Ending, History, How, Snapshot, StoppedBy, decide, seen
from sandboxrun.spec.types import freeze

if TYPE_CHECKING:
    from datetime import datetime
    from pathlib import Path

    from sandboxrun.evidence.store import Store
    from sandboxrun.spec.project import DeclaredSandbox, Profile
    from sandboxrun.spec.spec import SandboxSpec


def ending_of(
    past: Past | None, code: int | None, spec: SandboxSpec, stopped_by: str, started: datetime | None = None
) -> Ending | None:
    """How a run ended that was watched (`code`, `stopped_by`), or by its events alone; None where nobody saw it."""
    if code is None:
        code = past.exit_code if past is not None else None
    if code is None:
        return None
    ran = past.ran(started) if past is not None else None
    timeout = spec.lifetime.timeout
    limit = None if timeout is None else timeout / 1e9
    if ran is not None and limit is not None and ran >= limit:
        stopped_by = StoppedBy.TIMEOUT  # as the planner has it, of whatever ended past its timeout
    history = past.history if past is not None else History()
    state = seen(code, ran=ran, limit=limit)
    return decide(state, stopped_by=StoppedBy(stopped_by), watched=True, history=history)


def taken_by_others(store: Store, events: Events, run: str, container: str) -> tuple[Captured | None, Past | None]:
    """The evidence of a watched run that this job did not take, where this checkout has it; else what happened to its
    container, as far as that is known. What watching it has left in the staging folder goes."""
    captured, past = recorded(store, run), None
    if captured is None:
        with contextlib.suppress(EngineError):  # what the watch saw counts without
            past = events.past().get(container)
    if captured is not None or (past is not None and past.had("destroy")):
        with contextlib.suppress(OSError, SandboxrunError):  # the next command collects what stays
            store.unstage(run)
    return captured, past


def completed_elsewhere(
    events: Events,
    sandboxes: Iterable[DeclaredSandbox],
    differs: Callable[[DeclaredSandbox, str], bool],
    held: Lock | None = None,
) -> Mapping[str, Completed]:
    """Which of the sandboxes ran to their end since the events began, and are gone. What is not certain does not
    count: one that somebody stopped or updated, or one with another workspace (`differs`: from a content's digest)."""
    pasts = events.past(held).values()
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
    if not same or own.get(labels.SPEC) != sandbox.spec.label:
        return None
    if labels.ONE_OFF in own or past.had("update") or not past.had("destroy"):
        return None
    ending, known = ending_of(past, None, sandbox.spec, StoppedBy.ITSELF), past.history
    stopped = past.had("kill") or not (known.whole or known.explains(past.exit_code))
    if ending is None or ending.how not in ENDED or (stopped and ending.how is not How.TIMEOUT):
        return None
    return ending


# -- The record


def completed(profile: Profile, store: Store, compare: bool) -> Mapping[str, Mapping[str, Completed]]:
    """Which of the declared specs ran to their end, by the record; one whose evidence was changed does not count, one
    whose evidence `prune` removed does.

    The last run of each; where workspaces are compared, the last one that had the workspace as it is now, if any.
    """
    wanted = {s.address: s for s in profile.sandboxes}
    undecided = {address: (sandbox, sandbox.spec.digests) for address, sandbox in wanted.items()}
    found: dict[str, Completed] = {}
    differ, removed, own, seen = contents_compared(store), store.removed(), store.own(), set[str]()
    for entry in store.each(profile.project, newest_first=True):  # which decides, as a rule: few indexes are read
        sandbox, digests = undecided.get(entry.sandbox, (None, ()))
        if sandbox is None or entry.spec not in digests or entry.outcome not in ENDED:
            continue
        if entry.run in seen or not own(entry):
            continue
        seen.add(entry.run)  # a checkout may have a line of this user's a hundred thousand times
        with contextlib.suppress(EvidenceError):
            gone = removed.get(entry.run)
            if gone is not None:
                code, workspace = gone.exit_code, gone.workspace
            else:
                index = store.index(entry)
                code, workspace = index.ending.exit_code, index.digests.workspace
            changed = compare and differ(sandbox, workspace)
            record = Completed(outcome=entry.outcome.value, exit_code=code, run=entry.run, workspace_changed=changed)
            if not changed:
                del undecided[entry.sandbox]
            if not changed or entry.sandbox not in found:
                found[entry.sandbox] = record
    return freeze({address: freeze({wanted[address].spec.digest: record}) for address, record in found.items()})


def with_others(
    snapshot: Snapshot, profile: Profile, store: Store, events: Events, held: Lock | None = None
) -> Snapshot:
    """The snapshot, with the records of what would be made and has completed elsewhere. `held` is the project's lock,
    where it was taken just now."""
    there = {o.address for o in snapshot.sandboxes if not o.apart} | snapshot.completed.keys()
    missing = tuple(s for s in profile.sandboxes if s.address not in there)
    if not missing:
        return snapshot
    digests = {s.address: s.spec.digest for s in missing}
    found = completed_elsewhere(events, missing, contents_compared(store), held)
    more = {address: freeze({digests[address]: record}) for address, record in found.items()}
    return structs.replace(snapshot, completed=freeze({**snapshot.completed, **more}))


def contents_compared(store: Store) -> Callable[[DeclaredSandbox, str], bool]:
    """What says whether a sandbox's copy of its workspace would be another than the one recorded (a content's digest).
    Each workspace is read once."""

    @cache
    def now(workspace: Path, exclude: tuple[str, ...]) -> str | None:
        from sandboxrun.evidence.workspace import content_now

        return content_now(store, workspace, exclude)

    def differ(sandbox: DeclaredSandbox, recorded: str) -> bool:
        if sandbox.workspace is None or sandbox.spec.workspace is None:
            return False
        return now(sandbox.workspace, sandbox.spec.workspace.exclude) != recorded

    return differ
