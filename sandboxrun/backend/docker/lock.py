"""One holder per project and engine, without an image or a file: the lock is a volume on the engine.

Owns the algorithm. A contender makes its own volume, with a name nobody else has, and looks: of two at once at least
one sees the other, and whoever sees another takes its own away and tries later, once it sees no live one.
The volumes carry the project's label as its own do: one list tells a holder who else is there, and the project's own.
A lock is dead when its process is gone (told on the same machine only) or its lease ran out by the engine's clock (for
processes of one machine, whatever that was set meanwhile); anyone may remove a dead one. A holder renews its lease by a
newer volume before it removes the older.
"""

from __future__ import annotations

import random
import re
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from sandboxrun.backend.docker.calls import Json, uptime
from sandboxrun.backend.errors import EngineError, LockHeld, LockLost
from sandboxrun.backend.owner import Owner, clock_mark, clock_set_since, decode, this_process
from sandboxrun.data import Data
from sandboxrun.spec.labels import PROJECT, read, text_of
from sandboxrun.threads import after_fork, begin

if TYPE_CHECKING:
    from sandboxrun.backend.docker.client import Engine

LABEL = "sandboxrun.lock"
LEASE = 60  # seconds
_TOKEN = f"{LABEL}.token"
_OWNER = f"{LABEL}.owner"
_LEASE = f"{LABEL}.lease"
_CLOCK = f"{LABEL}.clock"
_abandoned: set[str] = set()  # tokens of this process's own holders that could not release on an engine that was away
_SLACK = 2.0  # seconds: the engine tells its time, and a volume's, in whole ones


class Claim(Data):
    """One lock volume, as the engine shows it."""

    volume: str
    token: str
    owner: Owner | None
    since: datetime
    lease: int
    mark: str = ""  # of the clock when it was made

    @property
    def holder(self) -> str:
        """Who, for a message."""
        process = f"process {self.owner.pid} of {self.owner.who}" if self.owner else "an unknown process"
        return f"{process}, since {self.since:%H:%M:%S} by the engine's clock"

    def is_dead(self, clock: Callable[[], datetime]) -> bool:
        """Whether it no longer counts; `clock` gives the engine's time."""
        if self.token in _abandoned or (self.owner is not None and self.owner.is_gone):
            return True
        set_ahead = clock_set_since(self.mark, clock)  # no holder on this machine has less time for it
        return clock() - self.since > timedelta(seconds=self.lease + _SLACK + set_ahead)


def claim_of(volume: Json) -> Claim:
    """A lock volume's claim. One whose labels make no sense counts as any other, for the usual lease."""
    labels = read(volume.get("Labels"))
    try:
        lease = min(max(int(labels.get(_LEASE, "")), 0), 3600)
    except ValueError:
        lease = LEASE
    try:  # the engine's zero time is that of one that it is just removing
        since = datetime.fromisoformat(str(volume.get("CreatedAt"))).astimezone(UTC)
    except (ValueError, OverflowError) as error:
        cause = f"the engine does not tell when it made the volume {volume['Name']}"
        raise EngineError("reading a lock", cause) from error
    return Claim(
        volume=str(volume["Name"]),
        token=str(labels.get(_TOKEN, volume["Name"])),
        owner=decode(str(labels.get(_OWNER, ""))),
        since=since,
        lease=lease,
        mark=str(labels.get(_CLOCK, "")),
    )


def is_lock(volume: str, project: str) -> bool:
    """Whether a volume of this name is one of the project's lock."""
    return re.fullmatch(rf"sandboxrun-lock-{re.escape(project)}-[0-9a-f]{{16}}-[0-9a-f]+", volume) is not None


class ProjectLock:
    """A project's lock, while it is held. `check` before each change. `listed` are the project's volumes as the engine
    listed them when it was taken."""

    def __init__(self, engine: Engine, project: str, lease: int) -> None:
        self._engine = engine
        self._project = project
        self._lease = lease
        self._token = secrets.token_hex(8)
        self._owner = this_process().encode()
        self._volumes: list[str] = []
        self.listed: tuple[Json, ...] = ()
        self._shown: frozenset[str] = frozenset()  # the lock's volumes among them
        self._until = 0.0
        self._lost = False
        self._ending = threading.Event()
        after_fork(self._forget)

    def _forget(self) -> None:
        """In a forked process: it holds nothing, and what its end finalizes must not give back the lock of another."""
        self._volumes, self._lost, self._ending = [], True, threading.Event()

    @property
    def lost(self) -> bool:
        """True once the lease ran out, or another took the lock away."""
        return self._lost or uptime() >= self._until

    def check(self) -> None:
        """Raise LockLost unless the lock is still held."""
        if self.lost:
            message = f"the lock of project {self._project} was lost: its lease of {self._lease} seconds ran out"
            raise LockLost(message, help="the machine slept or the engine did not answer: run the command again")

    def claims(self) -> tuple[Claim, ...]:
        """All lock volumes of the project, this holder's too. One that has the labels and not the name is somebody
        else's."""
        self.listed = self._engine.volumes(labels={PROJECT: self._project})
        locks = (v for v in self.listed if is_lock(str(v["Name"]), self._project))
        claims = tuple(claim_of(v) for v in locks if text_of(v.get("Labels"), LABEL) == self._project)
        self._shown = frozenset(claim.volume for claim in claims)
        return claims

    @property
    def volume(self) -> str:
        """The newest of its volumes; "" where it has none."""
        return self._volumes[-1] if self._volumes else ""

    def made(self, volume: str) -> bool:
        """Whether a volume of the project's lock is this holder's."""
        return f"-{self._token}-" in volume

    def create(self) -> None:
        """Make one more volume of this holder, and count the lease from before the call."""
        began = uptime()
        name = f"sandboxrun-lock-{self._project}-{self._token}-{len(self._volumes) + secrets.randbits(32):x}"
        labels = {
            PROJECT: self._project,
            LABEL: self._project,
            _TOKEN: self._token,
            _OWNER: self._owner,
            _LEASE: f"{self._lease}",
            _CLOCK: clock_mark(self._engine.clock()),
        }
        self._volumes.append(name)  # before the call: when it is cut short, the volume may be there
        self._engine.create_volume({"Name": name, "Labels": labels})
        self._until = began + self._lease * 0.9  # what is begun before that ends before others may take over

    def release(self, *, keep_newest: bool = False) -> None:
        """Remove this holder's volumes. Those of an engine that is gone end with their lease."""
        gone = self._volumes[:-1] if keep_newest else self._volumes[:]
        for name in gone:
            with suppress(EngineError):
                self._engine.remove_volume(name)
                self._volumes.remove(name)

    def abandon(self) -> None:
        """What could not be removed (the engine was away) counts for nothing any more, though its process lives."""
        if self._volumes:
            _abandoned.add(self._token)

    def rivals(self) -> tuple[Claim, ...]:
        """The live claims of others; dead ones are removed on the way."""
        live = []
        for claim in self.claims():
            if claim.token == self._token:
                continue
            if claim.is_dead(self._engine.clock):
                self._engine.remove_volume(claim.volume)
            else:
                live.append(claim)
        return tuple(live)

    def try_once(self, *, look: bool = False) -> tuple[Claim, ...]:
        """Take the lock: () when that was done, else who stands against it. `look` before a volume is made: who waits
        for another gets in nobody's way. Raises EngineError where the engine does not show the volume: nobody else
        would see it."""
        if look and (rivals := self.rivals()):
            return rivals
        self.create()
        if rivals := self.rivals():
            self.release()
        elif self.volume not in self._shown:
            help = "was it removed just now, by `docker volume prune` maybe? Run the command again"
            raise EngineError("taking the project's lock", f"its volume {self.volume} is gone", help=help)
        return rivals

    def renew(self) -> None:
        """A new lease, unless another has taken this holder for dead."""
        if not any(claim.token == self._token for claim in self.claims()):
            self._lost = True
            return
        self.create()
        self.release(keep_newest=True)

    def keep(self) -> None:
        """Renew until the end, in a thread of its own. After a failure sooner: the engine may be back."""
        pause = self._lease / 3
        while not self._ending.wait(pause) and not self.lost:
            try:
                self.renew()
                pause = self._lease / 3
            except EngineError:
                pause = self._lease / 12

    def fail(self, error: BaseException) -> None:
        """Nobody renews it any more: it counts as lost from now on."""
        self._lost = True

    def end(self) -> None:
        """Stop renewing."""
        self._ending.set()


@contextmanager
def project_lock(
    engine: Engine,
    project: str,
    *,
    wait: float,
    on_wait: Callable[[str], None] | None = None,
    lease: int = LEASE,
) -> Iterator[ProjectLock]:
    """Hold a project's lock on an engine. Raises LockHeld after `wait` seconds, naming the holder.

    `on_wait` gets a line for the user when there is someone to wait for. A killed holder's lock is taken over at once
    on the same machine, elsewhere when its `lease` (seconds) has run out.
    """
    lock = ProjectLock(engine, project, lease)
    keeper: threading.Thread | None = None
    try:
        until, most, told = time.monotonic() + wait, 0.05, ""
        while rivals := lock.try_once(look=bool(told)):
            holder = min(rivals, key=lambda claim: claim.since).holder
            if time.monotonic() >= until:
                message = f"project {project} is in use by another run: {holder}"
                help = "a dead run's lock ends within a minute; wait for it to end, or longer for the lock"
                raise LockHeld(message, help=help, option="--lock-timeout 5m")
            if on_wait is not None and holder != told:
                on_wait(f"waiting for another run of project {project}: {holder}")
            told = holder
            time.sleep(min(random.uniform(0.01, most), max(0.0, until - time.monotonic())))
            most = min(most * 2, 1.0)
        keeper = begin(lock.keep, name="sandboxrun-lock", failed=lock.fail)
        yield lock
    finally:
        lock.end()
        if keeper is not None:
            keeper.join(timeout=5)
        lock.release()
        lock.abandon()
