"""How long evidence is kept: what may be removed, by age, number and size; what is held; and the removal itself.

Owns the decision and its record: each hold, release and removal is a line of the chain. The newest run of a project
stays, and whatever is held or was not saved by this user.
"""

from __future__ import annotations

from collections.abc import Mapping

from sandboxrun.data import Data
from sandboxrun.evidence.store import Action, Entry, Notice, Store, notices


class Fate(Data):
    """What became of a run's evidence: the line that holds it, the one that says it was removed."""

    held: Notice | None = None
    removed: Notice | None = None


def fates(store: Store, data: bytes) -> Mapping[str, Fate]:
    """By run, from the chain's bytes. Anybody's hold counts; a release or a removal only where this user sealed it."""
    found = dict[str, Fate]()
    for notice in notices(data):
        now = found.get(notice.run, Fate())
        match notice.action:
            case Action.HELD:
                found[notice.run] = Fate(held=notice, removed=now.removed)
            case Action.RELEASED if store.is_own(notice):
                found[notice.run] = Fate(removed=now.removed)
            case Action.REMOVED if store.is_own(notice):
                found[notice.run] = Fate(held=now.held, removed=notice)
    return found


def fate(store: Store, entry: Entry) -> Fate:
    """What became of one run's evidence."""
    return fates(store, store.chain()).get(entry.run, Fate())
