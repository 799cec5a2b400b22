"""`SandboxService`: sandboxes made, started, stopped and removed one by one, by a program.

Owns the order of their lives: read back when made, watched while they run, evidence before removal. What it makes
are one-offs with this process as owner, as `sandboxrun run` makes them: `ps`, `destroy` and the next `collect` of the
project see them. The steps themselves are the plan's and the executor's.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from sandboxrun.api.lifecycle import Declared, Lifecycle, check_writable, declare, workspace_option, writer_of
from sandboxrun.api.sandbox import ExecResult, ExecTimeout, Held, Sandbox
from sandboxrun.api.settings import Settings
from sandboxrun.backend.errors import EngineError
from sandboxrun.errors import Diagnostic, UsageError

if TYPE_CHECKING:
    from sandboxrun.backend.docker.client import Engine
    from sandboxrun.evidence.store import Captured
    from sandboxrun.probe.verdicts import Finding

__all__ = ["ExecResult", "ExecTimeout", "Sandbox", "SandboxService"]


class SandboxService:
    """Makes and ends sandboxes on one engine. Usable from several threads at once; a context manager.

    `project` names and labels every object: give a service a project of its own. Evidence goes to `evidence`, or to
    `.sandboxrun/evidence` in `directory` (the current one when left out); after a crash, start again in the same
    directory. `host` goes before the settings' engine. The engine is connected to when it is first needed; entering
    the context manager also collects what killed processes left.
    """

    def __init__(
        self,
        settings: Settings | None = None,
        *,
        project: str = "sandboxrun",
        directory: Path | str | None = None,
        host: str | None = None,
        evidence: Path | str | None = None,
        parallelism: int = 8,
    ) -> None:
        """Raises UsageError for wrong settings or a directory that is none. `parallelism`: idle connections kept."""
        from sandboxrun.evidence.store import Store

        self.settings = settings if settings is not None else Settings.from_environment()
        self.project = project
        self.directory = Path(directory if directory is not None else Path.cwd()).absolute()
        if not os.path.isdir(self.directory):
            raise UsageError(f"the directory {self.directory} is not there", help="make it first")
        self.store = Store(
            project_directory=self.directory, root=Path(evidence).absolute() if evidence is not None else None
        )
        self._host, self._parallelism = host, parallelism
        self._engine: Engine | None = None
        self._closed = False
        self._opening = threading.Lock()
        self._life = Lifecycle(self)

    @property
    def engine(self) -> Engine:
        """The engine, connected. Raises EngineError, UsageError."""
        with self._opening:
            if self._closed:
                raise UsageError("this SandboxService was closed", help="make another one")
            if self._engine is None:
                self._engine = self._connect()
            return self._engine

    def _connect(self) -> Engine:
        if self._host is None:
            return self.settings.connect(parallelism=self._parallelism)
        from sandboxrun.backend.docker.client import connect

        return connect(self._host, parallelism=self._parallelism, env=self.settings.environment)

    # -- making ------------------------------------------------------------------------------------------------

    def declare(
        self,
        name: str,
        *,
        image: str | None = None,
        command: Sequence[str] | str | None = None,
        workspace: Path | str | None = None,
        access: str = "copy",
        target: str = "/workspace",
        network_mode: str | None = None,
        mem_limit: str | int | None = None,
        cpus: float | None = None,
        environment: Mapping[str, str | None] | None = None,
        secrets: Mapping[str, str] | None = None,
        **options: Any,
    ) -> Declared:
        """What `create` would make, checked, without an engine. Same arguments and errors."""
        given: dict[str, Any] = {**options, "environment": environment, "command": command}
        named = {"image": image, "network_mode": network_mode, "mem_limit": mem_limit, "cpus": cpus}
        given |= {**self.settings.options, **{key: value for key, value in named.items() if value is not None}}
        if workspace is not None:
            given["workspace"] = workspace_option(workspace, access, target)
            if access == "rw" and given.get("user") is None:
                given["user"] = writer_of(Path(workspace))
        made = declare(
            self.project, self.directory, name, given, secrets=secrets, environment=self.settings.environment
        )
        check_writable(made.sandbox, self.store)
        return made

    def create(
        self,
        name: str,
        *,
        image: str | None = None,
        command: Sequence[str] | str | None = None,
        workspace: Path | str | None = None,
        access: str = "copy",
        target: str = "/workspace",
        network_mode: str | None = None,
        mem_limit: str | int | None = None,
        cpus: float | None = None,
        environment: Mapping[str, str | None] | None = None,
        secrets: Mapping[str, str] | None = None,
        **options: Any,
    ) -> Sandbox:
        """Make a sandbox and read it back, without starting it.

        What is left out is the settings' default, and closed. `name` is unique in the project. `mem_limit` is in a
        profile's form (`"512m"`) or bytes, `cpus` in CPUs, `command` a list of words. `workspace` is a directory: with
        access `copy` the sandbox has a copy and its changes come back as a patch in the evidence, with `rw` and `ro`
        the directory itself; under `rw` the user is the directory's owner, unless given or root. `secrets` are texts
        that become files under /run/secrets; they reach no label, no environment and no evidence. `options` are any
        others of a profile by their names, in a profile's form. Raises UsageError and ProfileError for what makes no
        sense, ApplyError for an option the engine did not apply (what was made is removed), EngineError.
        """
        declared = self.declare(
            name,
            image=image,
            command=command,
            workspace=workspace,
            access=access,
            target=target,
            network_mode=network_mode,
            mem_limit=mem_limit,
            cpus=cpus,
            environment=environment,
            secrets=secrets,
            **options,
        )
        return self.make(declared)

    def make(self, declared: Declared, *, stop: threading.Event | None = None) -> Sandbox:
        """`create` from what `declare` gave. `stop`, when set by another thread, ends it cleanly with ApplyError."""
        return Sandbox(self, self._life.create(declared, stop or threading.Event()))

    # -- a sandbox's life ----------------------------------------------------------------------------------------

    def start(self, sandbox: Sandbox, *, on_output: Callable[[int, bytes], None] | None = None) -> None:
        """Start it, and read it back once more; from then on its usage is sampled and its lifetime enforced.

        `on_output` gets what it writes, (1 stdout or 2 stderr, bytes), from another thread; nothing is lost. When the
        start fails it is removed, and the error says why. Raises UsageError when it was started before.
        """
        self._life.start(held_of(sandbox), on_output)

    def stop(self, sandbox: Sandbox, timeout: float | None = None) -> None:
        """Ask it to end and wait; after `timeout` seconds (its stop_grace_period when left out) it is killed.

        No error when it does not run. The evidence says `killed`.
        """
        self._life.stop(held_of(sandbox), timeout)

    def remove(self, sandbox: Sandbox, *, force: bool = False) -> Captured | None:
        """Keep its evidence, then remove it and what is its own. What was kept; None for one never started.

        Refuses a running one unless `force`, which stops it first. Raises ApplyError when the evidence could not be
        kept: then it is not removed. No error when it was removed before.
        """
        return self._life.remove(held_of(sandbox), force=force)

    @contextlib.contextmanager
    def sandbox(self, name: str, **options: Any) -> Iterator[Sandbox]:
        """A sandbox for a `with` block: created and started; at its end stopped, its evidence saved, removed.

        Arguments as `create` has them. `Sandbox.evidence` says afterwards what was kept.
        """
        made = self.create(name, **options)
        try:
            self.start(made)
            yield made
        finally:
            self.remove(made, force=True)

    @contextlib.contextmanager
    def paused(self, sandbox: Sandbox) -> Iterator[None]:
        """Nothing in it runs within the block; as it was before, afterwards."""
        running = sandbox.state == "running"
        if running:
            self.engine.pause_container(sandbox.id)
        try:
            yield
        finally:
            if running:
                with contextlib.suppress(EngineError):  # it was ended meanwhile
                    self.engine.unpause_container(sandbox.id)

    # -- what holds ----------------------------------------------------------------------------------------------

    def verify(self, what: Sandbox | Declared) -> tuple[Finding, ...]:
        """Whether each restriction holds, a finding a control; unknown never counts as held (`Verdict.passes`).

        Of what `declare` gave: a sandbox like it is started with the probe as its command, and a weak one beside it in
        which what it tries must work; both are removed, and no evidence is kept. It takes some 15 seconds. Of a sandbox
        that runs: it is looked at from outside, without entering it, where the engine is on this machine.
        Raises UsageError for one that does not run, ApplyError, EngineError.
        """
        if isinstance(what, Declared):
            from sandboxrun.lifecycle.apply import ApplySettings as How
            from sandboxrun.lifecycle.verify import Verification

            how = How(environment=what.environment)
            return Verification(self.engine, what.profile, how).run((what.sandbox,))
        return self._life.look(held_of(what))

    # -- what there is -------------------------------------------------------------------------------------------

    def get(self, name: str) -> Sandbox:
        """The sandbox of that name, this process's or another's. Raises UsageError when there is none."""
        found = self._life.find(name)
        if not found:
            raise UsageError(
                Diagnostic(
                    message=f'project {self.project} has no sandbox "{name}" on the engine',
                    help="it may have been removed; its evidence is kept",
                )
            )
        return Sandbox(self, found[0])

    def list(self) -> tuple[Sandbox, ...]:
        """All one-off sandboxes of the project, of every process, in no special order."""
        return tuple(Sandbox(self, held) for held in self._life.find(None))

    def collect(self) -> tuple[Captured, ...]:
        """Take away what killed processes left, evidence first: sandboxes whose owner is gone or whose ttl is over,
        and networks, volumes and couriers that belong to nothing. What was kept. Nothing of a living process is
        touched, but what this service itself should have removed and could not (the engine was away) is tried again.
        Raises ApplyError when something could not be taken away, EngineError."""
        return self._life.collect()

    def close(self) -> None:
        """End the connections. Sandboxes that were not removed go on: the next start collects them once this
        process has ended."""
        with self._opening:
            engine, self._engine, self._closed = self._engine, None, True
        if engine is not None:
            engine.close()
        self._life.close()

    def __enter__(self) -> Self:
        self.collect()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def held_of(sandbox: Sandbox) -> Held:
    """What the service keeps of a sandbox."""
    return sandbox._held
