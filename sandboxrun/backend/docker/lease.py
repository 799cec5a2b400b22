"""Leases: a process that waits for sandboxes shows that it lives to those who cannot see its pid.

Owns their form on the engine. A sandbox is labelled with its owner's token; the lease of that token is a volume,
renewed by a newer one before the older is removed. Only the engine's clock counts. A sandbox is its own first lease: a
process whose sandboxes end soon makes none.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from sandboxrun.backend.errors import EngineError
from sandboxrun.backend.owner import decode, this_process
from sandboxrun.spec import labels
from sandboxrun.spec.state import parse_time
from sandboxrun.threads import after_fork, begin

if TYPE_CHECKING:
    from sandboxrun.backend.docker.client import Engine

LASTS = timedelta(seconds=180)
RENEWED = 45.0  # seconds between renewals
_OWNER = f"{labels.LEASE}.owner"


class Leases:
    """This process's lease on one engine, shared by all that it waits for there. Usable from several threads.

    One that `joins` the token of another process is there from its beginning: that process may be gone already.
    """

    def __init__(self, engine: Engine, *, renewed: float = RENEWED, joins: str = "") -> None:
        self.token = joins or secrets.token_hex(16)
        self._engine, self._renewed, self._joins = engine, renewed, joins != ""
        self._lock = threading.Lock()
        self._holders = 0
        self._ending = threading.Event()
        self._volumes: list[str] = []
        after_fork(self._forget)

    def _forget(self) -> None:
        """In a forked process: what its end finalizes must not end the lease of the process that holds it."""
        self._lock, self._ending, self._volumes = threading.Lock(), threading.Event(), []

    @contextmanager
    def held(self) -> Iterator[str]:
        """Renew it meanwhile; its token. Without anybody who holds it, nothing is left of it."""
        with self._lock:
            self._holders += 1
            if self._holders == 1:
                if self._joins:
                    self._renew()
                ending = self._ending = threading.Event()
                begin(lambda: self._keep(ending), name="lease", failed=lambda error: None)
        try:
            yield self.token
        finally:
            with self._lock:
                self._holders -= 1
                if not self._holders:
                    self._ending.set()
                    self._remove(self._volumes)

    def _keep(self, ending: threading.Event) -> None:
        while not ending.wait(self._renewed):
            with self._lock:
                if ending.is_set():
                    return
                self._renew()

    def _renew(self) -> None:
        with suppress(EngineError):  # the next renewal is in time
            older = [*self._volumes]
            name = _name(self.token) + secrets.token_hex(4)
            self._volumes.append(name)  # before the call: when it is cut short, the volume may be there
            own = {labels.LEASE: self.token, _OWNER: this_process().encode()}
            self._engine.create_volume({"Name": name, "Labels": own})
            self._remove(older)

    def _remove(self, volumes: list[str]) -> None:
        """Those of an engine that is away are removed by a reaper, once they are old."""
        for name in [*volumes]:
            with suppress(EngineError):
                self._engine.remove_volume(name)
                self._volumes.remove(name)


def living(engine: Engine, sandboxes: Mapping[str, tuple[str, datetime | None]]) -> frozenset[str]:
    """Of sandboxes by id, each with its token and when it was made, those whose lease has not run out. Raises
    EngineError."""
    now = engine.clock()
    young = {id for id, (_, made) in sandboxes.items() if made is not None and now - made <= LASTS}
    if len(young) == len(sandboxes):
        return frozenset(young)
    tokens = {of.get(labels.LEASE, "") for of in _unexpired(engine, now)}
    return frozenset(young | {id for id, (token, _) in sandboxes.items() if token in tokens})


def joined(engine: Engine, tokens: Collection[str]) -> Mapping[str, frozenset[str]]:
    """Of the tokens of processes that are gone, those that others have joined which live: these, as their labels have
    them. Raises EngineError."""
    found: dict[str, frozenset[str]] = {}
    for of in _unexpired(engine, engine.clock()) if tokens else ():
        token, owner = of.get(labels.LEASE, ""), of.get(_OWNER, "")
        if token in tokens and (process := decode(owner)) is not None and not process.is_gone:
            found[token] = found.get(token, frozenset()) | {owner}
    return found


def _unexpired(engine: Engine, now: datetime) -> Iterator[dict[str, str]]:
    """The labels of leases that have not run out."""
    for volume, own in _leases(engine):
        if now - _made(volume, now) <= LASTS:
            yield own


def _leases(engine: Engine) -> Iterator[tuple[Mapping[str, Any], dict[str, str]]]:
    """All leases, each with its labels. A volume that has the label and not the name is somebody else's."""
    for volume in engine.volumes(labels={labels.LEASE: None}):
        own = labels.read(volume.get("Labels"))
        if str(volume["Name"]).startswith(_name(own.get(labels.LEASE, ""))):
            yield volume, own


def _name(token: str) -> str:
    """What the names of a token's volumes begin with."""
    return f"sandboxrun-lease-{token}-"


def sweep(engine: Engine) -> None:
    """Remove the leases of processes that are gone, and those that ran out long ago. One that can't be removed, since
    somebody mounted it, keeps no other. Raises EngineError."""
    now, failed = engine.clock(), None
    for volume, own in _leases(engine):
        owner = decode(own.get(_OWNER, ""))
        if (owner is not None and owner.is_gone) or now - _made(volume, now) > 2 * LASTS:
            try:
                engine.remove_volume(str(volume["Name"]))
            except EngineError as error:
                failed = failed or error
    if failed is not None:
        raise failed


def _made(volume: Mapping[str, Any], now: datetime) -> datetime:
    """When it was made; `now` where the engine does not say: nobody may be taken for dead by that."""
    return parse_time(str(volume.get("CreatedAt") or "")) or now
