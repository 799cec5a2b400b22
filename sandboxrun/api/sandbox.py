"""`Sandbox`: one sandbox as a program holds it.

Owns the handle: what it was declared as, and the calls on it. The order in which it is made and ended is the
service's.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, overload

import attrs

from sandboxrun.api.commands import OUTPUT_LIMIT, ExecResult, run_command
from sandboxrun.api.files import GET_LIMIT, Source, check_target, packed, read_file, read_into
from sandboxrun.engine.errors import EngineTimeout, NotFound
from sandboxrun.errors import ApplyError, Diagnostic, UsageError
from sandboxrun.model.observed import Created, ObservedSandbox, Running, read_state

if TYPE_CHECKING:
    from sandboxrun.api.declare import Declared
    from sandboxrun.apply.session import Session
    from sandboxrun.apply.watch import Watch
    from sandboxrun.engine.streams import LogStream
    from sandboxrun.evidence.capture import Captured
    from sandboxrun.evidence.export import Exported, ExportLimits
    from sandboxrun.model.spec import SandboxSpec
    from sandboxrun.service import SandboxService


@attrs.define(kw_only=True, eq=False)
class Held:
    """What the service keeps of a sandbox between its steps. `lock` is held while one of them is under way."""

    declared: Declared
    session: Session
    observed: ObservedSandbox
    lock: threading.RLock = attrs.field(factory=threading.RLock)
    watch: Watch | None = None
    removed: bool = False
    left: bool = False  # it should be gone, and could not be taken away: collecting tries again
    evidence: Captured | None = None


class Sandbox:
    """One sandbox. Made by `SandboxService.create`, `get` or `sandbox`; usable from several threads at once.

    All calls block: in asyncio, call them with `asyncio.to_thread`. Those on the engine raise EngineError.
    """

    def __init__(self, service: SandboxService, held: Held) -> None:
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
        return self._held.observed.id

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
    def started(self) -> bool:
        """Whether it was started, or is being started, through this handle."""
        return self._held.watch is not None

    @property
    def state(self) -> str:
        """`created`, `running`, `paused`, `exited` or `removed`, as the engine says it now."""
        if self._held.removed:
            return "removed"
        try:
            answer = self._service.engine.inspect_container(self.id)
        except NotFound:
            return "removed"
        match read_state(answer.get("State") or {}):
            case Created():
                return "created"
            case Running(paused=paused):
                return "paused" if paused else "running"
        return "exited"

    def start(self, on_output: Callable[[int, bytes], None] | None = None) -> None:
        """See `SandboxService.start`."""
        self._service.start(self, on_output=on_output)

    def stop(self, timeout: float | None = None) -> None:
        """See `SandboxService.stop`."""
        self._service.stop(self, timeout=timeout)

    def remove(self, *, force: bool = False) -> Captured | None:
        """See `SandboxService.remove`."""
        return self._service.remove(self, force=force)

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
        return run_command(
            self._service.engine,
            self.id,
            self.name,
            argv,
            timeout=timeout,
            user=user,
            workdir=workdir,
            environment=environment or {},
            limit=limit,
        )

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
        from sandboxrun.workflow.waits import WaitTimeout

        self._check_there()
        watch = self._held.watch
        if watch is None and self.state == "created":
            raise UsageError(f"{self.name} was never started", help="start it first")
        code = self._wait_for_engine(timeout) if watch is None else _watched(watch, timeout)
        if code is None:
            message = f"{self.name} still runs after {timeout or 0:g} seconds"
            raise WaitTimeout(Diagnostic(message=message, help="wait longer, or stop it"))
        return code

    def _wait_for_engine(self, timeout: float | None) -> int | None:
        """The exit code of a sandbox that another process watches; None when it still runs."""
        try:
            return self._service.engine.wait_container(self.id, timeout=timeout)
        except EngineTimeout:
            return None

    def put(self, source: Source, target: str) -> None:
        """Put files into the directory `target`, which must exist inside: owned by the sandbox's user.

        `source` is a file, a directory (what is in it goes there) or a mapping of relative paths to contents. It
        works on mounts, and on a root that is not read-only. A running sandbox is paused meanwhile, so that nothing
        in it can swap a directory for a link. Raises UsageError where nothing can be put.
        """
        from sandboxrun.apply.make import owner

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
            raise UsageError(
                Diagnostic(message=f"{self.name} was removed", help=f"its evidence is in {folder}" if folder else None)
            )


def _watched(watch: Watch, timeout: float | None) -> int | None:
    """The exit code of a sandbox that is watched; None when it still runs. Raises what the watch met, and ApplyError
    for what failed beside it: `on_output` has had everything, unless it is stuck."""
    if not watch.wait(timeout):
        return None
    from sandboxrun.apply.watch import DRAIN

    if watch.relay is not None:
        watch.relay.wait(DRAIN)
    if faults := tuple(watch.faults()):
        raise ApplyError(*faults)
    if watch.exit_code is None and watch.error is not None:
        raise watch.error
    return watch.exit_code
