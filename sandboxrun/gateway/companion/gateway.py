"""The gateway at work: HAProxy by the rules, the name server, the records, and what happens when rules change.

Owns the one loop, the limits in number and time, and who ends with whom: without HAProxy there is no gateway.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import selectors
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sandboxrun.gateway.companion.addresses import Address, Network, refusal
from sandboxrun.gateway.companion.haproxy import MAX_CONNECTIONS, MOST_WORKERS, Place, frontends, render
from sandboxrun.gateway.companion.names import MAX_QUERY, answer
from sandboxrun.gateway.companion.records import MAX_LINE, PAUSE_AT, End, Fault, Last, Open, Records, clipped, read_line
from sandboxrun.gateway.companion.rules import MAX_DOCUMENT, NAME_SERVICE, Rules, RulesError, read_rules
from sandboxrun.gateway.companion.surroundings import networks
from sandboxrun.gateway.companion.worker import ADMIN, Worker, WorkerError

LIFETIME_SECONDS = 24 * 3600
TICK = 0.5
HEAR_SECONDS = 0.01  # for which records gather in HAProxy: woken for each, this process takes as much time as it does
PIECE = 1 << 16  # bytes of records that are read at once
LOOK_SECONDS = 0.1  # between looks at all that is open, however much is being said
HEALTH_SECONDS = 10.0
STOP_SECONDS = 1.5  # for connections to end
LAST_SECONDS = 6.0  # for all that a worker said to be heard; less than an engine waits
QUERY_SECONDS = 5.0  # for a question over TCP
MAX_QUERIES = 64  # over TCP, at once
ASKED_AGAIN = 5.0  # seconds in which a name that was refused is not recorded again
MAX_ASKED = 256
SYSTEM = "/etc/resolv.conf"


class Gateway:
    """One sandbox's way out."""

    def __init__(self, address: Address, path: str, folder: Path) -> None:
        """Read the rules at `path`, and bind what sandboxes ask; `folder` is the gateway's alone.

        Raises RulesError, OSError.
        """
        self._address, self._path, self._folder = address, path, folder
        self.rules = load(path)
        self.records = Records(1, self.rules.budget)
        self._selector = selectors.DefaultSelector()
        self._own: tuple[Network, ...] = ()
        self._workers: list[Worker] = []  # the last is the one that takes connections
        self._folders = 0
        self._open: dict[str, tuple[Open, float]] = {}  # by id, with the time it began
        self._told: set[str] = set()  # of these, which have a record already
        self._closing: dict[str, str] = {}  # id → why it is being ended
        self._asked: dict[str, float] = {}
        self._gathering: dict[socket.socket, Callable[[Any], object]] = {}  # whose records are read at `_hear_at`
        self._hear_at = 0.0
        self._queries: dict[socket.socket, float] = {}
        self._paused = self._stopping = self._failed = False
        self._last_words = 0
        self._signals: set[int] = set()
        self._health = self._looked = 0.0
        family = socket.AF_INET6 if address.version == 6 else socket.AF_INET
        self._udp = socket.socket(family, socket.SOCK_DGRAM)
        self._udp.bind((str(address), NAME_SERVICE))
        self._udp.setblocking(False)
        self._tcp = socket.create_server((str(address), NAME_SERVICE), family=family, backlog=MAX_QUERIES)
        self._tcp.setblocking(False)
        self._recorder = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._recorder.bind(str(folder / "records.sock"))
        self._recorder.listen(MOST_WORKERS + 1)
        self._recorder.setblocking(False)

    # -- the loop

    def serve(self) -> int:
        """Serve until told to end; the exit code."""
        self._on(self._udp, self._question)
        self._on(self._tcp, self._asker)
        self._on(self._recorder, self._speaker)
        wake, woken = socket.socketpair()
        wake.setblocking(False)
        woken.setblocking(False)
        signal.set_wakeup_fd(wake.fileno())
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD):
            signal.signal(number, lambda signum, _: self._signals.add(signum))
        self._on(woken, lambda sock: sock.recv(4096))
        try:
            self._replace_worker(self.rules)
            haproxy = self._workers[-1].version()
        except (WorkerError, OSError, ValueError) as error:
            self.records.tell("rules-refused", error=str(error)[:300], digest=self.rules.digest)
            self._drain()
            return 1
        self.records.tell("ready", digest=self.rules.digest, haproxy=haproxy)
        while not self._stopping:
            self._turn(TICK, gather=True)
            self._heed()
            if time.monotonic() - self._looked >= LOOK_SECONDS:
                self._looked = time.monotonic()
                self._tick()
        self._end()
        return 1 if self._failed else 0

    def _turn(self, seconds: float, *, gather: bool = False) -> None:
        """Do what is asked, and hear what is said, within `seconds`; with `gather` what HAProxy says may wait a bit."""
        wait = self._hear_at - time.monotonic() if self._gathering else 0.0
        if gather and wait > 0:
            seconds = min(seconds, wait)
        else:
            while self._gathering:
                self._on(*self._gathering.popitem())
        for key, _ in self._selector.select(seconds):
            key.data(key.fileobj)
        if self.records.spent and self._workers:
            self._shut()
        self.records.flush()
        behind = self.records.behind
        if (behind > PAUSE_AT) != self._paused and (self._paused is False or behind == 0):
            self._paused = not self._paused  # what can't be recorded must not happen
            for worker in self._workers:
                worker.pause(on=self._paused)
        if self._paused:
            time.sleep(0.01)

    def _on(self, sock: socket.socket, call: Callable[[Any], object]) -> None:
        self._selector.register(sock, selectors.EVENT_READ, call)

    def _heed(self) -> None:
        """Do what signals ask for."""
        signals, self._signals = self._signals, set()
        if signal.SIGCHLD in signals:
            self._looked = 0.0
        if signals & {signal.SIGTERM, signal.SIGINT}:
            self._stopping = True
        elif signal.SIGHUP in signals and self._paused:
            self._signals.add(signal.SIGHUP)  # once it goes on
        elif signal.SIGHUP in signals:
            self.reload()

    def _fail(self, event: str, **values: Any) -> None:
        """What must not happen has happened: nothing passes from here on."""
        for worker in self._workers:
            worker.kill()
        self.records.tell(event, **values)
        self._stopping = self._failed = True

    def _tick(self) -> None:
        now = time.monotonic()
        for worker in self._workers[:]:
            code = worker.ended()
            if code is None:
                continue
            if worker is self._workers[-1]:
                self._fail("died", code=code)
                return
            self._forget(worker)
        if self._paused or self._stopping or not self._workers:
            return
        try:
            if now >= self._health:
                self._health = now + HEALTH_SECONDS
                for worker in self._workers:
                    self._check_records(worker)
                if networks() != self._own and not self._stopping:
                    self._replace_worker(self.rules)
            self._sweep(now)
        except (WorkerError, OSError, ValueError) as error:
            self._fail("died", code=self._workers[-1].kill(), error=str(error)[:300])
        for id, (begun, since) in self._open.items():
            if id not in self._told and now - since > 1:
                self._told.add(id)
                self.records.client("open", self.rules.sandbox, so_far(begun, now - since))
        for sock in [sock for sock, since in self._queries.items() if now - since > QUERY_SECONDS]:
            self._drop_query(sock)

    # -- HAProxy

    def _check_records(self, worker: Worker) -> None:
        """What a worker had no room for, since it was heard too slowly, it tells only with the next record."""
        if worker.ended() is None and not self._failed and (lost := worker.lost()):
            self._fail("fault", error=f"{lost} records were lost")

    def _dismiss(self, *workers: Worker) -> None:
        """End workers that carry nothing any more, once all that they said is heard. What is not is a fault."""
        until, wanted = time.monotonic() + LAST_SECONDS, self._last_words
        try:
            for worker in workers:
                if worker.ended() is None:
                    worker.last_word()
                    wanted += 1
            while self._last_words < wanted and not (self._failed or self.records.spent):
                if time.monotonic() > until:
                    self._fail("fault", error="there was no time to hear all records")
                self._turn(0.02)
            for worker in workers:
                self._check_records(worker)
        except WorkerError as error:
            if not self._failed:
                self._fail("fault", error=str(error)[:300])
        for worker in workers:
            worker.kill()

    def _replace_worker(self, rules: Rules) -> None:
        """Serve by these rules from now on; connections that are still allowed go on. Raises WorkerError, OSError."""
        self._own = networks()
        self._folders += 1
        folder = self._folder / str(self._folders)
        folder.mkdir(mode=0o700)
        place = Place(
            address=self._address,
            own=self._own,
            resolvers=rules.resolvers or system_servers(),
            folder=str(folder),
            admin=str(folder / ADMIN),
            recorder=str(self._folder / "records.sock"),
        )
        for name, content in render(rules, place).items():
            (folder / name).write_bytes(content)
        before = self._workers[-1] if self._workers else None
        worker = Worker(folder, frontends(rules))
        self.rules = rules
        self._workers.append(worker)
        if before is not None:
            try:
                before.retire()
            except WorkerError:
                before.kill()
                self._forget(before)
            while len(self._workers) > MOST_WORKERS:
                oldest = self._workers[0]
                self._dismiss(oldest)
                self._forget(oldest)
            self._turn(0)  # what was allowed until now has been said
            self._sweep(time.monotonic())

    def _forget(self, worker: Worker) -> None:
        """A worker is gone, and with it what it carried. What it said of that is read first."""
        self._turn(0)
        if worker in self._workers:  # else the budget was spent meanwhile
            self._workers.remove(worker)
            worker.forget()
        for id in [id for id in self._open if id.startswith(f"{worker.pid}-")]:
            begun, since = self._open.pop(id)
            self._told.discard(id)
            took = time.monotonic() - since
            said = so_far(begun, took)._replace(reason=self._closing.pop(id, "rules"), seconds=round(took, 3))
            self.records.client("request", self.rules.sandbox, said)

    def _sweep(self, now: float) -> None:
        """End what the rules no longer allow, what earlier workers carry without it being known, and what is old."""
        for worker in self._workers:
            if worker.ended() is not None:
                continue
            mine = f"{worker.pid}-"
            wrong = {
                id: "lifetime" if now - since > LIFETIME_SECONDS else "rules"
                for id, (begun, since) in self._open.items()
                if id.startswith(mine) and (now - since > LIFETIME_SECONDS or not self._still_allowed(begun))
            }
            retired = worker is not self._workers[-1]
            if not wrong and not retired:
                continue
            sessions = worker.sessions()
            if retired:
                wrong |= {id: "rules" for id, s in sessions.items() if id not in self._open and not s.handed_on}
            self._closing |= {id: why for id, why in wrong.items() if id in sessions}
            worker.close(sessions[id] for id in wrong if id in sessions)
            if retired and not sessions:
                self._dismiss(worker)

    def _still_allowed(self, begun: Open) -> bool:
        if not self.rules.allows(begun.host, begun.port):
            return False
        if begun.kind == "tcp" and self.rules.only_host(begun.port) != begun.host:
            return False
        address = ipaddress.ip_address(begun.address)
        return refusal(address, self.rules.opened, (*self._own, *self.rules.refused)) is None

    def reload(self) -> None:
        """Read the rules again; keep the old ones where the new can't be had. End what is no longer allowed."""
        try:
            rules = load(self._path)
            if self._workers:
                self._replace_worker(rules)
            self.rules = nothing_of(rules) if self.records.spent else rules
        except (RulesError, WorkerError, OSError, ValueError) as error:
            self.records.tell("rules-refused", error=str(error)[:300], digest=self.rules.digest)
            return
        self.records.tell("rules", digest=self.rules.digest)

    def _shut(self) -> None:
        """The budget is spent: HAProxy goes, and no name exists any more."""
        self.rules = nothing_of(self.rules)
        for worker in self._workers:
            worker.kill()
            worker.forget()
        self._workers.clear()

    def _end(self) -> None:
        """Stop taking connections, end those there are, and wait for what is said of them."""
        until = time.monotonic() + STOP_SECONDS
        os.set_blocking(1, True)  # nothing more comes: what is recorded may wait for its reader
        for worker in self._workers:
            if self._failed or worker.ended() is not None:
                continue
            worker.pause(on=False)
            with contextlib.suppress(WorkerError):
                worker.retire()
                sessions = worker.sessions()
                self._closing |= dict.fromkeys(sessions, "stopped")
                worker.close(sessions.values())
        while self._open and self._workers and time.monotonic() < until and not self._failed:
            self._turn(0.02)
        self._dismiss(*self._workers)
        self._turn(0)
        for worker in self._workers[:]:
            for id in self._open:
                self._closing.setdefault(id, "stopped")
            self._forget(worker)
        self.records.tell("stopped", unrecorded=self.records.unrecorded)
        self._drain()

    def _drain(self) -> None:
        os.set_blocking(1, True)
        with contextlib.suppress(OSError):
            self.records.flush()

    # -- what HAProxy says

    def _speaker(self, listener: socket.socket) -> None:
        with contextlib.suppress(BlockingIOError):
            sock, _ = listener.accept()
            sock.setblocking(False)
            buffer = bytearray()

            def hear(peer: socket.socket) -> None:
                if self._hear(peer, buffer):
                    self._selector.unregister(peer)
                    self._gathering[peer] = hear
                    self._hear_at = time.monotonic() + HEAR_SECONDS

            self._on(sock, hear)

    def _hear(self, sock: socket.socket, buffer: bytearray) -> bool:
        """Read a piece of what it says; whether that was all for now."""
        if self.records.behind > 2 * PAUSE_AT:
            return True  # it waits in HAProxy's own buffer, which is as large as all that can happen meanwhile
        try:
            data = sock.recv(PIECE)
        except BlockingIOError:
            return True
        except OSError:
            data = b""
        if not data:
            self._selector.unregister(sock)
            sock.close()
            return False
        buffer += data
        *lines, rest = buffer.split(b"\n")
        buffer[:] = rest
        try:
            if len(rest) > MAX_LINE:
                raise Fault("a record has no end")
            for line in filter(None, lines):
                self._heard(read_line(bytes(line)))
        except Fault as fault:
            self._fail("fault", error=str(fault))
        return len(data) < PIECE

    def _heard(self, said: Open | End | Last | None) -> None:
        if said is None:
            return
        if isinstance(said, Last):
            self._last_words += 1
            return
        if isinstance(said, Open):
            if len(self._open) > 4 * MAX_CONNECTIONS:
                raise Fault("more is open than can be")
            self._open[said.id] = (said, time.monotonic())
            return
        self._open.pop(said.id, None)
        self._told.discard(said.id)
        why = self._closing.pop(said.id, None)
        if why is not None and said.reason in ("closed", ""):
            said = said._replace(reason=why)
        self.records.client("request", self.rules.sandbox, said)

    # -- names

    def _question(self, sock: socket.socket) -> None:
        for _ in range(64):
            try:
                data, peer = sock.recvfrom(MAX_QUERY + 1)
            except OSError:
                return
            if reply := self._reply(data):
                with contextlib.suppress(OSError):
                    sock.sendto(reply, peer)

    def _reply(self, data: bytes) -> bytes | None:
        if self._paused:
            return None
        reply = answer(data, self.rules, self._address)
        if reply is None:
            return None
        if reply.refused is not None:
            self._refused(reply.refused)
        return reply.data

    def _refused(self, name: str) -> None:
        """Record a name that does not exist for the sandbox; resolvers ask for each several times."""
        now, name = time.monotonic(), clipped(name)
        if now - self._asked.get(name, -ASKED_AGAIN) < ASKED_AGAIN:
            return
        self._asked.pop(name, None)
        if len(self._asked) >= MAX_ASKED:
            del self._asked[next(iter(self._asked))]
        self._asked[name] = now
        reason = "host" if name else "request"
        said = End("", time.time(), kind="dns", port=0, host=name, verdict="denied", reason=reason)
        self.records.client("request", self.rules.sandbox, said)

    def _asker(self, listener: socket.socket) -> None:
        try:
            sock, _ = listener.accept()
        except OSError:
            return
        if len(self._queries) >= MAX_QUERIES:
            sock.close()
            return
        sock.setblocking(False)
        self._queries[sock] = time.monotonic()
        buffer = bytearray()
        self._on(sock, lambda peer: self._asked_at_length(peer, buffer))

    def _asked_at_length(self, sock: socket.socket, buffer: bytearray) -> None:
        """Questions over TCP, each after its length; one connection is for one."""
        try:
            data = sock.recv(2 + MAX_QUERY - len(buffer))
        except BlockingIOError:
            return
        except OSError:
            data = b""
        buffer += data
        size = int.from_bytes(buffer[:2])
        if data and size <= MAX_QUERY and (len(buffer) < 2 or len(buffer) < 2 + size):
            return
        if data and len(buffer) >= 2 and size <= MAX_QUERY and (reply := self._reply(bytes(buffer[2 : 2 + size]))):
            with contextlib.suppress(OSError):
                sock.sendall(len(reply).to_bytes(2) + reply)
        self._drop_query(sock)

    def _drop_query(self, sock: socket.socket) -> None:
        if self._queries.pop(sock, None) is not None:
            self._selector.unregister(sock)
            sock.close()


def so_far(begun: Open, seconds: float) -> End:
    """What can be said of what began as long ago and is not over."""
    return End(begun.id, time.time() - seconds, begun.kind, begun.port, begun.host, address=begun.address)


def nothing_of(rules: Rules) -> Rules:
    """The rules, with nothing allowed."""
    return rules._replace(open=frozenset(), exact=frozenset(), below=frozenset())


def load(path: str) -> Rules:
    """The rules in a file. Raises RulesError, OSError."""
    with open(path, "rb") as file:
        return read_rules(file.read(MAX_DOCUMENT + 1))


def system_servers(path: str = SYSTEM) -> tuple[Address, ...]:
    """The name servers that a resolv.conf names."""
    found: list[Address] = []
    with contextlib.suppress(OSError), open(path, encoding="ascii", errors="replace") as file:
        for words in (line.split() for line in file):
            if words[:1] == ["nameserver"] and len(words) > 1:
                with contextlib.suppress(ValueError):
                    found.append(ipaddress.ip_address(words[1]))
    return tuple(found[:3])
