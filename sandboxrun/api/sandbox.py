"""`Sandbox`: one sandbox as a program holds it; files into it and out of it, commands in it."""

from __future__ import annotations

import contextlib
import os
import secrets
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING, overload

from msgspec import Struct, field

from sandboxrun.api.settings import check_seconds
from sandboxrun.backend.errors import EngineError, EngineTimeout, NotFound
from sandboxrun.data import Data
from sandboxrun.errors import ApplyError, Diagnostic, ExitCode, SandboxrunError, UsageError, printable
from sandboxrun.evidence.errors import EvidenceError
from sandboxrun.evidence.export import Exported, ExportLimits, Kind, TarError, TarReader, export
from sandboxrun.evidence.folder import Folder, RunFolder
from sandboxrun.spec.spec import SandboxSpec
from sandboxrun.spec.state import ObservedSandbox, state_word
from sandboxrun.spec.types import size_told

if TYPE_CHECKING:
    import tarfile

    from sandboxrun.api.service import SandboxService
    from sandboxrun.api.settings import Declared
    from sandboxrun.backend.docker.client import Engine, Exec, LogStream
    from sandboxrun.backend.session import Session
    from sandboxrun.evidence.store import Captured
    from sandboxrun.lifecycle.job import Job
    from sandboxrun.lifecycle.watch import Watch, Watching
    from sandboxrun.spec.project import DeclaredSandbox


# -- Files into a sandbox and out of it

GET_LIMIT = 64 << 20  # bytes of one file that is read into memory
_SPOOLED = 8 << 20

PutSource = Path | str | Mapping[str, bytes | str]


def check_target(name: str, spec: SandboxSpec, target: str) -> None:
    """Raise UsageError where nothing can be put. Mounts count by the longest path; a tmpfs is out of the engine's
    reach, and what is put beneath one would not be seen."""
    path = PurePosixPath(target)
    if not path.is_absolute() or ".." in path.parts:
        raise UsageError(f"put needs an absolute target without .., not {target}")
    places = {m.target: "read-only mount" if m.read_only else "" for m in spec.volumes}
    places |= dict.fromkeys(spec.tmpfs, "tmpfs, which the engine cannot reach")
    if spec.workspace is not None:
        places[spec.workspace.target] = "read-only mount" if spec.workspace.access == "ro" else ""
    above = [at for at in places if path.is_relative_to(at)]
    fault = places[max(above, key=len)] if above else "read-only root" if spec.read_only else ""
    if fault:
        open_to = sorted(at for at, why in places.items() if not why)
        where = f"put goes to {', '.join(open_to)}" if open_to else "give it a workspace or a volume"
        message = f"nothing can be put to {target} in {name}: it is on a {fault}"
        raise UsageError(message, help=f"{where}; or write it with exec, or declare read_only=False")


@contextmanager
def packed(source: PutSource, uid: int, gid: int) -> Iterator[IO[bytes]]:
    """A tar of `source`, rewound: its files as they shall lie in the target, owned by `uid` and `gid`.

    A mapping holds relative paths and contents; a directory gives what is in it, a file itself. Links are kept as
    links; sockets, devices and fifos are left out.
    """
    import tarfile
    import tempfile

    with tempfile.SpooledTemporaryFile(max_size=_SPOOLED) as spool:
        with tarfile.open(fileobj=spool, mode="w", format=tarfile.GNU_FORMAT) as tar:
            if isinstance(source, Mapping):
                _add_contents(tar, source, uid, gid)
            else:
                _add_path(tar, Path(source), uid, gid)
        spool.seek(0)
        yield spool


def _add_contents(tar: tarfile.TarFile, contents: Mapping[str, bytes | str], uid: int, gid: int) -> None:
    import io
    import tarfile
    import time

    made: set[str] = set()
    now = int(time.time())
    for name, content in contents.items():
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or not path.parts:
            raise UsageError(f"put needs paths below the target, not {name!r}")
        for above in reversed(path.parents[:-1]):
            if str(above) not in made:
                made.add(str(above))
                folder = tarfile.TarInfo(str(above))
                folder.type, folder.mode, folder.uid, folder.gid = tarfile.DIRTYPE, 0o755, uid, gid
                folder.mtime = now
                tar.addfile(folder)
        data = content.encode() if isinstance(content, str) else content
        entry = tarfile.TarInfo(str(path))
        entry.size, entry.mode, entry.uid, entry.gid, entry.mtime = len(data), 0o644, uid, gid, now
        tar.addfile(entry, io.BytesIO(data))


def _add_path(tar: tarfile.TarFile, source: Path, uid: int, gid: int) -> None:
    def owned(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
        if not (entry.isreg() or entry.isdir() or entry.issym() or entry.islnk()):
            return None
        entry.uid, entry.gid, entry.uname, entry.gname = uid, gid, "", ""
        entry.mode &= 0o777
        return entry

    if source.is_dir():
        for name in sorted(os.listdir(source)):
            tar.add(source / name, arcname=name, filter=owned)
    elif source.is_file():
        tar.add(source, arcname=source.name, filter=owned)
    else:
        raise UsageError(f"there is no file or directory {source} to put")


def read_file(engine: Engine, container: str, path: str, limit: int) -> bytes:
    """A regular file's bytes. Raises NotFound, EvidenceError for anything else or what is larger than `limit`."""
    shown = printable(path)
    with engine.get_archive(container, path) as archive:
        try:
            reader = TarReader(archive.stream)
            member = next(iter(reader), None)
            if member is None or member.kind is not Kind.FILE:
                what = member.kind.value if member is not None else "nothing"
                raise EvidenceError(f"{shown} is a {what}", help="name a regular file, or give into= for a directory")
            if member.size > limit:
                raise EvidenceError(f"{shown} is larger than {size_told(limit)}", help="give into= or a larger limit=")
            return b"".join(reader.content())
        except TarError as error:
            raise EvidenceError(f"{shown} could not be read: {error}") from error


def read_into(engine: Engine, container: str, path: str, into: Path, limits: ExportLimits | None) -> Exported:
    """`path`'s regular files, below `into/<its name>`. Links, devices and the like are refused and told.

    Raises NotFound, and EvidenceError when not all could be taken (a limit, an unreadable stream).
    """
    into = Path(os.path.abspath(into))
    into.parent.mkdir(parents=True, exist_ok=True)
    folder = RunFolder(Folder.at(into.parent), into.name)
    try:
        with engine.get_archive(container, path) as archive:
            done = export(archive.stream, folder, part=path, under=into.name, limits=limits)
    finally:
        folder.close()
    if done.missing:
        raise EvidenceError(*(Diagnostic(message=f"{printable(path)}: {m.reason}") for m in done.missing))
    return done


# -- A command in a running sandbox, to its end or its timeout, its output within bounds

OUTPUT_LIMIT = 16 << 20  # bytes of each stream that a command's result holds
_MARK = "SANDBOXRUN_EXEC"
_KILLER = (  # by its environment, which its children have inherited; needs a shell in the image
    "for p in /proc/[0-9]*; do "
    f'tr "\\0" "\\n" <"$p/environ" 2>/dev/null | grep -qx "{_MARK}=$1" && kill -9 "${{p#/proc/}}" && n=1; '
    'done; [ -n "$n" ]'
)
_KILLER_TIME = 10.0  # seconds


class ExecResult(Data, unshown=("stdout", "stderr")):
    """How a command ended: its exit code, and its output as bytes; `truncated` when a stream was longer than kept."""

    exit_code: int
    stdout: bytes
    stderr: bytes
    truncated: bool = False


class ExecTimeout(SandboxrunError):
    """A command ran longer than it may. `stdout` and `stderr` are what it had written; `killed`: it runs no more."""

    exit_code = ExitCode.TIMEOUT

    def __init__(self, what: str, timeout: float, stdout: bytes, stderr: bytes, *, killed: bool) -> None:
        self.stdout, self.stderr, self.killed = stdout, stderr, killed
        help = None if killed else "it could not be ended from within and may run on: stop the sandbox to end it"
        super().__init__(f"{what} ran longer than {timeout:g} seconds", help=help)


class BoundedOutput:
    """Two streams being collected, each up to `limit` bytes."""

    def __init__(self, limit: int) -> None:
        self._kept = {1: bytearray(), 2: bytearray()}
        self._limit = limit
        self.truncated = False

    def add(self, stream: int, data: bytes) -> None:
        """Keep what there is room for."""
        kept = self._kept[stream]
        room = self._limit - len(kept)
        self.truncated = self.truncated or len(data) > room
        kept += data[: max(room, 0)]

    @property
    def stdout(self) -> bytes:
        return bytes(self._kept[1])

    @property
    def stderr(self) -> bytes:
        return bytes(self._kept[2])


@contextmanager
def _closing_after(timeout: float | None, process: Exec, late: threading.Event) -> Iterator[None]:
    """Ends the reading after `timeout` seconds, which `late` says: a stream that is closed comes to its end."""

    def expire() -> None:
        late.set()
        process.close()

    timer = threading.Timer(timeout or 0.0, expire)
    timer.daemon = True
    if timeout is not None:
        timer.start()
    try:
        yield
    finally:
        timer.cancel()


# -- `Sandbox`: one sandbox as a program holds it


class HeldSandbox(Struct, kw_only=True, eq=False):
    """What the service keeps of a sandbox between its steps. `lock` is held while one of them is under way."""

    declared: Declared
    job: Job
    observed: ObservedSandbox = field(default=None)  # type: ignore[assignment]  # once it was made
    lock: threading.RLock = field(default_factory=threading.RLock)
    started: bool = False  # or being started, through this handle
    on_output: Callable[[int, bytes], None] | None = None
    ended: Callable[[int | None], None] = lambda code: None  # is told its exit code
    removed: bool = False
    kept: str = ""  # its container's name, once it is kept
    left: bool = False  # it should be gone, and could not be taken away: collecting tries again
    evidence: Captured | None = None

    def forked(self) -> None:
        """In a forked process: it is another one's, which watches it."""
        self.lock = threading.RLock()
        self.job.forked()

    @property
    def id(self) -> str:
        """Its container's."""
        return self.session.made[self.declared.sandbox.address].id

    @property
    def session(self) -> Session:
        assert self.job.session is not None
        return self.job.session

    @property
    def watch(self) -> Watch | None:
        """Whoever watches it; None of one that another process started."""
        return self.job.watches.get(self.declared.sandbox.address)

    def how(self, sandbox: DeclaredSandbox) -> Watching:
        """How it is watched: its output is read where somebody wants it, and for its idle time."""
        from sandboxrun.lifecycle.watch import Watching

        def output(_address: str, stream: int, data: bytes) -> None:
            if self.on_output is not None:
                self.on_output(stream, data)

        wanted = self.on_output is not None or sandbox.spec.lifetime.idle is not None
        return Watching(output=output if wanted else None, ended=lambda code: self.ended(code))


class Sandbox:
    """One sandbox. Made by `SandboxService.create`, `get` or `sandbox`; usable from several threads at once.

    All calls block: in asyncio, call them with `asyncio.to_thread`. Those on the engine raise EngineError.
    """

    def __init__(self, service: SandboxService, held: HeldSandbox) -> None:
        self._service, self._held = service, held

    def __repr__(self) -> str:
        return f"<Sandbox {self.name} {self.id[:12]}>"

    @property
    def name(self) -> str:
        """The name it was created by; its address in plans and `sandboxrun ps`."""
        return self._held.declared.sandbox.address

    @property
    def container_id(self) -> str:
        """The engine's id of its container, 64 hexadecimal digits."""
        return self._held.id

    @property
    def id(self) -> str:
        """The same as `container_id`."""
        return self.container_id

    @property
    def run(self) -> str:
        """The id of this run: the evidence has it, and the container's label."""
        return self._held.observed.run

    @property
    def spec(self) -> SandboxSpec:
        """What it is, option by option; read back from the engine when it was created."""
        return self._held.declared.sandbox.spec

    @property
    def evidence(self) -> Captured | None:
        """After removal: what was kept of it (`.folder`, `.index`). None before, and for one never started."""
        return self._held.evidence

    @property
    def kept(self) -> str:
        """The name of its container, once it has ended and is kept; "" before, and where it is removed."""
        return self._held.kept

    @property
    def started(self) -> bool:
        """Whether it was started, or is being started, through this handle."""
        return self._held.started

    @property
    def state(self) -> str:
        """`created`, `running`, `paused`, `exited` or `removed`, as the engine says it now."""
        if self._held.removed:
            return "removed"
        try:
            return state_word(self._service.engine.state(self.id)).replace("ended", "exited")
        except NotFound:
            return "removed"

    def start(self, on_output: Callable[[int, bytes], None] | None = None) -> None:
        """See `SandboxService.start`."""
        self._service.start(self, on_output=on_output)

    def stop(self, timeout: float | None = None) -> None:
        """See `SandboxService.stop`."""
        self._service.stop(self, timeout=timeout)

    def remove(self, *, force: bool = False) -> Captured | None:
        """See `SandboxService.remove`."""
        return self._service.remove(self, force=force)

    def finish(self, *, force: bool = False) -> Captured | None:
        """See `SandboxService.finish`."""
        return self._service.finish(self, force=force)

    def exec(
        self,
        argv: Sequence[str],
        *,
        timeout: float | None = None,
        user: str | None = None,
        workdir: str | None = None,
        environment: Mapping[str, str] | None = None,
        limit: int = OUTPUT_LIMIT,
    ) -> ExecResult:
        """Run a command inside and wait for it; `limit` bounds each stream of its result, in bytes.

        Raises ExecTimeout after `timeout` seconds; the command is then killed with its children where the image has a
        shell, and the error says whether it was. `user` and `workdir` are the sandbox's own when left out.
        """
        if isinstance(argv, str) or not argv:
            raise UsageError("exec needs a list of words", help='such as ["sh", "-c", "ls | wc -l"]')
        check_seconds("timeout", timeout)
        engine, token = self._service.engine, secrets.token_hex(16)
        env = [f"{key}={value}" for key, value in (environment or {}).items()] + [f"{_MARK}={token}"]
        output, late = BoundedOutput(limit), threading.Event()
        running = engine.exec(self.id, list(argv), user=user, workdir=workdir, env=env)
        with running as process, _closing_after(timeout, process, late):
            for stream, data in process:
                output.add(stream, data)
            code = None if late.is_set() else process.exit_code()
        if code is not None:
            return ExecResult(exit_code=code, stdout=output.stdout, stderr=output.stderr, truncated=output.truncated)
        assert timeout is not None
        killed, killing = False, ["sh", "-c", _KILLER, "sh", token]  # the engine itself has no call for it
        with (
            contextlib.suppress(EngineError),
            engine.exec(self.id, killing, user=user) as killer,
            _closing_after(_KILLER_TIME, killer, threading.Event()),
        ):
            killed = killer.exit_code(timeout=_KILLER_TIME) == 0
        raise ExecTimeout(f"{argv[0]} in {self.name}", timeout, output.stdout, output.stderr, killed=killed)

    def logs(self, *, follow: bool = False, tail: int | None = None) -> LogStream:
        """What its command has written: an iterator of (stream, bytes), 1 stdout and 2 stderr; also a context manager.

        `follow` goes on until it ends. Bytes are as the agent wrote them, terminal escapes included.
        """
        self._check_there()
        return self._service.engine.logs(self.id, follow=follow, tail=tail, tty=self.spec.tty)

    def wait(self, timeout: float | None = None) -> int:
        """Wait until its command has ended; the exit code. Raises WaitTimeout after `timeout` seconds.

        137 is a command killed for memory as well: `remove` gives the evidence that says which.
        """
        from sandboxrun.lifecycle.job import WaitTimeout
        from sandboxrun.lifecycle.watch import DRAIN

        check_seconds("timeout", timeout)
        self._check_there()
        watch = self._held.watch
        if watch is None and self.state == "created":
            raise UsageError(f"{self.name} was never started", help="start it first")
        code = None
        if watch is None:  # another process watches it
            with contextlib.suppress(EngineTimeout):
                code = self._service.engine.wait_container(self.id, timeout=timeout)
        elif watch.wait(timeout):
            if watch.relay is not None:
                watch.relay.wait(DRAIN)  # `on_output` has had everything then, unless it is stuck
            if faults := tuple(watch.faults()):
                raise ApplyError(*faults)
            if watch.exit_code is None and watch.error is not None:
                raise watch.error
            code = watch.exit_code
        if code is None:
            message = f"{self.name} still runs after {timeout or 0:g} seconds"
            raise WaitTimeout(message, help="wait longer, or stop it")
        return code

    def put(self, source: PutSource, target: str) -> None:
        """Put files into the directory `target`, which must exist inside: owned by the sandbox's user.

        `source` is a file, a directory (what is in it goes there) or a mapping of relative paths to contents. It
        works on mounts, and on a root that is not read-only. A running sandbox is paused meanwhile, so that nothing
        in it can swap a directory for a link. Raises UsageError where nothing can be put.
        """
        from sandboxrun.backend.docker.making import owner

        self._check_there()
        check_target(self.name, self.spec, target)
        uid, gid = owner(self._held.declared.sandbox, self.id, self._held.session)
        with packed(source, uid, gid) as tar, self._held.lock, self._service.paused(self):
            self._service.engine.put_archive(self.id, target, tar)  # type: ignore[arg-type]

    @overload
    def get(self, path: str, into: None = None, *, limit: int = ...) -> bytes: ...
    @overload
    def get(self, path: str, into: Path, *, limits: ExportLimits | None = ...) -> Exported: ...
    def get(
        self, path: str, into: Path | None = None, *, limit: int = GET_LIMIT, limits: ExportLimits | None = None
    ) -> bytes | Exported:
        """A regular file's bytes (at most `limit`); with `into`, files and directories below that directory.

        Only regular files and directories are taken, under `limits`; links, devices and odd names are refused, and
        `Exported.refused` lists them. Nothing on a tmpfs can be had this way: use exec. Raises NotFound,
        EvidenceError.
        """
        self._check_there()
        if not path.startswith("/"):
            raise UsageError(f"get needs an absolute path, not {path}")
        if into is None:
            return read_file(self._service.engine, self.id, path, limit)
        return read_into(self._service.engine, self.id, path, into, limits)

    def _check_there(self) -> None:
        if self._held.removed:
            folder = self.evidence.folder if self.evidence is not None else None
            raise UsageError(f"{self.name} was removed", help=f"its evidence is in {folder}" if folder else None)
