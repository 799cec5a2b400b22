"""The containers of the fake engine: a process each, in a thread, and its output.

Owns the commands that are interpreted, what signals do to them, and what is remembered of them as events.
"""

from __future__ import annotations

import shlex
import signal as signals
import threading
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from functools import partial
from typing import Any, Self
from uuid import uuid4

from msgspec import structs

from sandboxrun.backend.base import Happened, Past
from sandboxrun.backend.owner import clock_set_since, decode
from sandboxrun.data import Closing
from sandboxrun.errors import ExitCode
from sandboxrun.spec import labels
from sandboxrun.spec.names import kept_name
from sandboxrun.spec.records import Attachment
from sandboxrun.spec.spec import SandboxSpec
from sandboxrun.spec.state import Created, Document, Ended, History, Running, State, parse_time
from sandboxrun.spec.types import freeze
from sandboxrun.threads import begin

Noted = tuple[str, float, int | None]  # action, when, signal

_OOM = 137
_PROGRAMS = ("sh", "echo", "sleep", "trap", "tail", "true", "false", "exit")  # that there are in its images


class Box:
    """One container of the world, and its process. All of it is guarded by `changed`. It ends after `limit` seconds,
    whoever watches."""

    def __init__(
        self, name: str, own: Mapping[str, str], image: str, spec: SandboxSpec, job: Any, *, limit: float | None = None
    ) -> None:
        self.id, self.name, self.labels, self.image, self.job = uuid4().hex * 2, name, dict(own), image, job
        self.spec = self.applied = spec
        self.limit = limit
        self.networks: dict[str, Attachment] = {}
        self.created = text_of(time.time())
        self.started: str | None = None
        self.finished: str | None = None
        self.status, self.code, self.oom, self.paused = "created", 0, False, False
        self.output: list[tuple[int, bytes]] = []
        self.files: bytes | None = None
        self.past: list[Noted] = []
        self.changed = threading.Condition()
        self.absent = ""  # what kept its command from running
        self._deaf = False
        self._killed: int | None = None
        self._over = False

    @property
    def running(self) -> bool:
        """Whether its process lives."""
        return self.status == "running"

    def note(self, action: str, number: int | None = None) -> None:
        """Remember what happened."""
        self.past.append((action, time.time(), number))
        self.job.world.noted.append(self.past[-1])

    def start(self) -> None:
        """Begin its process."""
        if self.running:
            return
        self.started, self.finished, self.status, self._killed = text_of(time.time()), None, "running", None
        self.note("start")
        begin(self._run, name=f"fake {self.name}", failed=lambda error: self._end(255))
        if self.limit is not None:
            begin(partial(self._hold, self.limit), name=f"timeout of {self.name}", failed=lambda error: self._end(255))

    def send(self, number: int) -> None:
        """A signal for its process."""
        with self.changed:
            self.note("kill", number)
            if number == signals.SIGKILL or not self._deaf:
                self._killed = number
            self.changed.notify_all()

    def wait(self, timeout: float | None) -> bool:
        """Wait for its end; whether it has ended."""
        with self.changed:
            return self.changed.wait_for(lambda: not self.running, timeout)

    def document(self) -> Document:
        """What is known of it, in the form in which evidence is kept."""
        known: dict[str, Any] = {
            "id": self.id,
            "name": self.name,
            "image": self.image,
            "labels": self.labels,
            "created": self.created,
            "started": self.started,
            "finished": self.finished,
        }
        raw = freeze({**known, "status": self.status, "code": self.code, "oom": self.oom})
        return Document(state=self.state(), tty=self.spec.tty, raw=raw, **known)

    def state(self) -> State:
        """Its state."""
        started, finished = parse_time(self.started), parse_time(self.finished)
        set_ahead = clock_set_since(self.labels.get(labels.CLOCK, ""), lambda: datetime.now(UTC))
        if self.running and started is not None:
            return Running(started=started, paused=self.paused, limit=self.limit, set_ahead=set_ahead)
        if self.status == "created":
            return Created()
        if self.absent:  # as an engine has it that could not start it
            started = None
        return Ended(
            exit_code=self.code,
            oom=self.oom,
            started=started,
            finished=finished,
            error=self.absent,
            limit=self.limit,
            set_ahead=set_ahead,
        )

    # -- its process --------------------------------------------------------------------------------------------

    def _hold(self, limit: float) -> None:
        """Its PID 1: TERM after `limit`, KILL after the grace period, and a code of its own."""
        with self.changed:
            if self.changed.wait_for(lambda: not self.running, limit):
                return
            self._over = True
            self._killed = None if self._deaf else signals.SIGTERM
            self.changed.notify_all()
            self.changed.wait_for(lambda: not self.running, self.spec.stop_grace_period / 1e9)
            self._killed = signals.SIGKILL
            self.changed.notify_all()

    def _run(self) -> None:
        command = [*(self.spec.entrypoint or ()), *(self.spec.command or ())]
        script = command[2] if command[:2] == ["sh", "-c"] else shlex.join(command)
        code = 0
        if command and command[:2] != ["sh", "-c"] and command[0] not in _PROGRAMS:
            self._write(2, f"{command[0]}: command not found\n".encode())
            self.absent = f"{command[0]}: command not found"
            self._end(127)
            return
        for part in script.replace("&&", ";").split(";"):
            words = shlex.split(part)
            if words[:1] == ["exit"]:
                code = int(words[1])
                break
            code = self._one(words)
            if self._killed is not None:
                code = 128 + self._killed
                break
            if self.oom:
                break
        self._end(code)

    def _one(self, words: list[str]) -> int:
        match words:
            case ["echo", *rest]:
                stream = 2 if ">&2" in rest else 1
                self._write(stream, " ".join(word for word in rest if word != ">&2").encode() + b"\n")
            case ["sleep", seconds]:
                with self.changed:
                    self.changed.wait_for(lambda: self._killed is not None, float(seconds))
            case ["trap", "", "TERM"]:
                self._deaf = True
            case ["tail", "/dev/zero"]:
                self.oom = True
                self.note("oom")
                return _OOM
            case ["false"]:
                return 1
            case ["true"] | []:
                return 0
            case _:
                self._write(2, f"sh: {words[0]}: not found\n".encode())
                return 127
        return 0

    def _write(self, stream: int, data: bytes) -> None:
        with self.changed:
            self.output.append((stream, data))
            self.changed.notify_all()

    def _end(self, code: int) -> None:
        with self.changed:
            self.code = ExitCode.TIMEOUT if self._over else code
            self.status, self.finished = "exited", text_of(time.time())
            self.note("die")
            self.changed.notify_all()


class BoxOutput(Closing):
    """What a container writes: what it had written from piece `at` on, which may count from the end, and with `follow`
    all that comes."""

    def __init__(self, box: Box, at: int, *, follow: bool) -> None:
        self._box, self._follow, self._closed = box, follow, False
        self._at = at if at >= 0 else max(0, len(box.output) + at)

    def __iter__(self) -> Iterator[tuple[int, bytes]]:
        box = self._box
        while not self._closed:
            with box.changed:
                while self._follow and len(box.output) <= self._at and box.status != "exited" and not self._closed:
                    box.changed.wait()
                pieces = box.output[self._at :]
            if not pieces:
                return
            self._at += len(pieces)
            yield from pieces

    def close(self) -> None:
        """End it."""
        with self._box.changed:
            self._closed = True
            self._box.changed.notify_all()


def text_of(seconds: float) -> str:
    """Seconds of UNIX time as an engine tells them."""
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")


# -- Who waits for them


def by_owner(boxes: Iterable[Box], leases: Mapping[str, Any], *, elsewhere: bool) -> dict[str, Any]:
    """The snapshot's fields of those that are waited for; of owners that are `elsewhere` only leases tell."""
    awaited = [box for box in boxes if labels.awaited(box.labels) and labels.ROLE not in box.labels]
    alive, joined_by = set(), set[str]()
    for box in awaited:
        token, owner = box.labels.get(labels.LEASE), decode(box.labels.get(labels.OWNER, ""))
        others = [job for lease, job in leases.items() if token is not None and lease.startswith(f"{token}+")]
        joined_by |= {job.process.encode() for job in others if not job.dead}
        held = token in leases if elsewhere else not (box.job.dead or (owner is not None and owner.is_gone))
        if held or any(not job.dead for job in others):  # another job may wait for it too
            alive.add(box.id)
    rest = frozenset(box.id for box in awaited) - alive
    dead = {"lapsed": rest} if elsewhere else {"orphaned": rest}
    return {"owned": frozenset(alive), "joined_by": frozenset(joined_by), **dead}


# -- What happened to them


class Following(Closing):
    """The events of one project since a moment: all of them as a context, else what the engine remembers."""

    def __init__(self, job: Any, project: str, began: float) -> None:
        self._job, self._project, self._began, self._heard = job, project, began, False

    def __enter__(self) -> Self:
        self._heard = True
        return self

    def close(self) -> None:
        """There is nothing to end."""

    def past(self, held: Any = None) -> Mapping[str, Past]:
        """All that something happened to, by id."""
        with self._job.reached("asking for events") as world:
            boxes = {**world.removed, **world.boxes}
            mine = {id: box for id, box in boxes.items() if box.labels.get(labels.PROJECT) == self._project}
            found = {id: self._past_of(box) for id, box in mine.items()}
        return {id: past for id, past in found.items() if past.times}

    def history(self, id: str, ended: Any) -> History | None:
        """All that happened to one that has ended."""
        with self._job.world.guard:
            box = self._job.world.boxes.get(id)
            whole = box is not None and any(what == "start" and when >= self._began for what, when, _ in box.past)
            return history_of(box) if box is not None and whole and not box.running else None

    def _past_of(self, box: Box) -> Past:
        noted = box.past if self._heard else _remembered(box)
        noted = noted if any(when >= self._began for _, when, _ in noted) else []
        times = {action: when for action, when, _ in noted}
        code = box.code if box.status == "exited" and "die" in times else None
        own, history = box.labels, history_of(box, noted)
        return Past(name=box.name, labels=own, times=times, exit_code=code, history=history)

    def narrow(self) -> None:
        """Nothing was heard of others."""

    def exit_code(self, id: str, timeout: float) -> int | None:
        """Looks at the one that was started."""
        until = time.monotonic() + timeout
        while not self._job.dead:
            with self._job.world.guard:
                box = self._job.world.boxes.get(id) or self._job.world.removed.get(id)
                if box is not None and any(what == "die" and when >= self._began for what, when, _ in box.past):
                    return box.code
            if time.monotonic() >= until:
                break
            time.sleep(0.005)
        return None


class News(Closing):
    """Looks at what happened since it was made; a test's engine has few boxes."""

    def __init__(self, job: Any, only: str | None = None) -> None:
        self._job, self._only, self._began, self._closed = job, only, time.time(), False
        self._seen: set[tuple[str, str, float]] = set()

    def close(self) -> None:
        """End it."""
        self._closed = True

    def __iter__(self) -> Iterator[Happened]:
        while not self._closed:
            with self._job.reached("following the engine's events") as world:
                boxes = [*world.boxes.values(), *world.removed.values()]
            for box in (box for box in boxes if self._only in (None, box.labels[labels.PROJECT])):
                for action, when, _ in tuple(box.past):
                    happened = (box.id, action, when)
                    if action in ("start", "die", "destroy") and when >= self._began and happened not in self._seen:
                        self._seen.add(happened)
                        began = any(what == "start" and at >= self._began for what, at, _ in box.past)
                        yield Happened(
                            project=box.labels[labels.PROJECT],
                            id=box.id,
                            action=action,
                            labels=freeze(box.labels),
                            history=history_of(box) if began and action == "die" else None,
                        )
            time.sleep(0.005)


def ended_in(boxes: Iterable[Box], project: str) -> Mapping[str, Mapping[str, str]]:
    """The labels of a project's sandboxes that have ended and are not kept, by id."""

    def counts(box: Box) -> bool:
        own = box.labels
        mine = own.get(labels.PROJECT) == project and labels.ROLE not in own and isinstance(box.state(), Ended)
        return mine and not box.name.endswith(kept_name("", own[labels.RUN]))

    return freeze({box.id: freeze(box.labels) for box in boxes if counts(box)})


def history_of(box: Box, noted: Collection[Noted] | None = None) -> History:
    """What is known of its last start: all, or what was noted."""
    noted = box.past if noted is None else noted
    sent = {number for action, _, number in noted if action == "kill" and number is not None}
    actions = {action for action, _, _ in noted}
    return History(started="start" in actions, died="die" in actions, signals=frozenset(sent), oom=box.oom)


def remembered_of(box: Box) -> History:
    """What an engine that is asked remembers of its last start."""
    noted = _remembered(box)
    found = history_of(box, noted)
    return structs.replace(found, forgets=len(noted) < len(box.past))


def _remembered(box: Box) -> list[Noted]:
    world = box.job.world
    last = {id(one) for one in world.noted[-world.remembers :]}
    return [one for one in box.past if id(one) in last]
