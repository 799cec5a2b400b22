"""Starts the probe in sandboxes: one run of a sandbox for each phase, and of the weak one beside it.

Owns what a run is made of and what is known of its end. Everything is made, read back and removed as by `run`; the
evidence of probes goes to a store of its own, which the caller gives.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from msgspec import structs

from sandboxrun.errors import ExitCode, SandboxrunError
from sandboxrun.evidence.parts import FILE, record_of
from sandboxrun.gateway.subnets import candidates
from sandboxrun.lifecycle.apply import ApplySettings
from sandboxrun.lifecycle.job import Making, RunResult
from sandboxrun.lifecycle.run import Runner, RunOptions
from sandboxrun.probe.program import (
    CONFIG,
    MOST_BYTES,
    WEAK_NETWORK,
    WEAK_NETWORK_SPEC,
    command,
    parse,
    program,
    staged,
    staged_weak,
    with_outcome,
)
from sandboxrun.probe.verdicts import OUTCOME, Context, Phase, Seen, value
from sandboxrun.spec import labels
from sandboxrun.spec.option import OwnAddresses
from sandboxrun.spec.option_types import CLOSED
from sandboxrun.spec.project import DeclaredSandbox, FileSpec, Profile
from sandboxrun.spec.records import Attachment, Lifetime
from sandboxrun.spec.spec import SandboxSpec, settle
from sandboxrun.spec.types import SECOND, freeze
from sandboxrun.threads import Aside

if TYPE_CHECKING:
    from sandboxrun.backend.base import Backend
    from sandboxrun.evidence.store import Captured, Store

TRIES = 3
LONGEST = 3600  # seconds that a neighbour lives, unless the verification is over before
INTERRUPTED = "the verification was interrupted: nothing is known"
NEIGHBOUR = "neighbour"
WEAK = "sandboxrun-weak"  # the address of weak sandboxes: no profile's key, for it has none of its own


class Interrupted(SandboxrunError):
    """A signal ended the verification: nothing is known."""


class Prober:
    """Runs phases on one engine for one project. `signal` may be called from a signal handler meanwhile."""

    def __init__(
        self, engine: Backend, profile: Profile, store: Store, settings: ApplySettings, making: Making | None = None
    ) -> None:
        self._engine, self._profile, self._store = engine, profile, store
        self._settings, self._making = structs.replace(settings, probing=True), making
        self._runners: set[Runner] = set()
        self.stopped = False
        self._lock = threading.Lock()

    def strong(self, sandbox: DeclaredSandbox, context: Context, phases: tuple[Phase, ...]) -> Mapping[Phase, Seen]:
        """Run the sandbox in these phases, side by side. Raises SandboxrunError when one can't be started."""
        for _ in range(TRIES):
            likely = f"{sandbox.name}-verify-{uuid4().hex[:6]}"
            context = self._wired(context, likely) if Phase.BATTERY in phases else context
            made = {phase: _probe(sandbox, phase, context, likely) for phase in phases}
            told = self._run(made, context)
            if Phase.BATTERY not in told or gateway_of(told[Phase.BATTERY]) == context.gateway:
                return told
        raise SandboxrunError(
            f"{sandbox.address}: its gateway had another address than expected, {TRIES} times",
            help="others make networks on this engine at the same time: try again",
        )

    def weak(self, context: Context, phases: tuple[Phase, ...]) -> Mapping[Phase, Seen]:
        """The same of the weak sandbox."""
        made = {}
        for phase in phases:
            spec = staged_weak(context, phase)
            made[phase] = self._weak_one(phase, spec if phase is Phase.BATTERY else _bare(spec))
        return self._run(made, context)

    @contextlib.contextmanager
    def neighbour(self, context: Context, networks: Iterable[str]) -> Iterator[tuple[str, ...]]:
        """A container on these networks of the profile's, alive during the block, to be reached or not; gives its
        addresses. Raises SandboxrunError when it can't be started."""
        argv = (*command(Phase.STUBBORN, context, weak=True)[:1], Phase.STUBBORN.value, f"seconds={LONGEST}")
        spec = structs.replace(
            staged_weak(context, Phase.STUBBORN),
            command=argv,
            networks=freeze(dict.fromkeys(sorted(networks), Attachment())),
            lifetime=Lifetime(timeout=LONGEST * SECOND),
        )
        started, ids = threading.Event(), list[str]()

        def begun(container: str) -> None:
            ids.append(container)
            started.set()

        runner, one = self._runner(context, {NEIGHBOUR: self._weak_one(NEIGHBOUR, settle(spec))}, started=begun)
        with Aside(lambda: self._running(runner, one), name="verify neighbour") as aside:
            try:
                while not started.wait(0.1) and aside.alive:
                    pass
                if not ids:
                    aside.result()
                    raise Interrupted(INTERRUPTED)
                yield self._engine.addresses(ids[0])
            finally:
                runner.signal("KILL")
        if not self.stopped:
            aside.result()

    def _weak_one(self, part: str, spec: SandboxSpec) -> DeclaredSandbox:
        name = f"{self._profile.project}-{WEAK}-{uuid4().hex[:6]}"
        return DeclaredSandbox(address=f"{WEAK}-{part}", sandbox=WEAK, each=None, name=name, spec=spec)

    def signal(self, name: str) -> None:
        """End what runs at once; the verification then raises Interrupted."""
        self.stopped = True
        with self._lock:
            runners = tuple(self._runners)
        for runner in runners:
            runner.signal(name)
            runner.signal(name)  # nothing in there has anything to finish

    @contextlib.contextmanager
    def ending_all(self) -> Iterator[None]:
        """Around what others run beside: when it fails, nobody waits for their ends."""
        try:
            yield
        except BaseException:
            self.signal("KILL")
            raise

    # -- steps -----------------------------------------------------------------------------------------------

    def _wired(self, context: Context, name: str) -> Context:
        """With the address that the gateway of a container of that name will have, unless another process takes its
        subnet meanwhile: the program must know it before anything is made."""
        if context.egress is None or not context.egress.has_gateway:
            return context
        subnet = next(candidates(name, self._engine.subnets()))
        return structs.replace(context, gateway=OwnAddresses.of(subnet).gateway)

    def _run(self, made: Mapping[Phase, DeclaredSandbox], context: Context) -> Mapping[Phase, Seen]:
        output: dict[str, bytearray] = {}

        def keep(address: str, stream: int, data: bytes) -> None:
            kept = output.setdefault(address, bytearray())
            if stream == 1:
                kept += data[: MOST_BYTES + 1 - len(kept)]

        runner, sandboxes = self._runner(context, made, output=keep)
        results = {result.address: result for result in self._running(runner, sandboxes)}
        if self.stopped:
            raise Interrupted(INTERRUPTED)
        return {
            phase: self._told(results[one.address], bytes(output.get(one.address, b""))) for phase, one in made.items()
        }

    def _told(self, result: RunResult, output: bytes) -> Seen:
        index = result.evidence.index if result.evidence is not None else None
        if index is None:
            return parse(output)
        return with_outcome(
            parse(output),
            how=index.ending.how.value,
            exit_code=index.ending.exit_code,
            oom_killed=index.ending.oom_killed,
            seconds=index.ran_seconds,
            gateway=index.labels.get(labels.GATEWAY, ""),
            passed=" ".join(self._passed(result.evidence)),
        )

    def _passed(self, captured: Captured | None) -> tuple[str, ...]:
        """What its gateway let pass by its own records, each host:port once."""
        if captured is None or captured.entry is None or captured.index is None or captured.index.egress is None:
            return ()
        with self._store.open(captured.entry, FILE) as file:
            records = [record_of(line) for line in file.read(MOST_BYTES).split(b"\n")]
        passed = (f"{one.get('host')}:{one.get('port')}" for one in records if one.get("verdict") == "allowed")
        return tuple(dict.fromkeys(passed))

    def _runner(
        self, context: Context, made: Mapping[Any, DeclaredSandbox], **options: Any
    ) -> tuple[Runner, tuple[DeclaredSandbox, ...]]:
        sandboxes = tuple(made.values())
        how = RunOptions(making=self._making, named=True, **options)
        settings = structs.replace(self._settings, stop=threading.Event())
        profile = structs.replace(
            self._profile,
            sandboxes=sandboxes,  # these alone, the program among the configs, and the weak ones' network
            configs=freeze({**self._profile.configs, CONFIG: FileSpec(file=str(program(context.architecture)))}),
            networks=freeze({**self._profile.networks, WEAK_NETWORK: WEAK_NETWORK_SPEC}),
        )
        return Runner(self._engine, profile, self._store, settings, how), sandboxes

    def _running(self, runner: Runner, sandboxes: tuple[DeclaredSandbox, ...]) -> tuple[RunResult, ...]:
        """Run them to their end, within reach of `signal`."""
        if self.stopped:
            raise Interrupted(INTERRUPTED)
        with self._lock:
            self._runners.add(runner)
        try:
            return runner.run(sandboxes)
        except SandboxrunError as error:
            error.exit_code = ExitCode.ERROR  # of a run it is another one: nobody's own code is given here
            raise
        finally:
            with self._lock:
                self._runners.discard(runner)


def _probe(sandbox: DeclaredSandbox, phase: Phase, context: Context, name: str) -> DeclaredSandbox:
    """The sandbox as it is started for a phase. The battery's has its own address, by which its gateway knows it."""
    battery = phase is Phase.BATTERY
    spec = staged(context, phase)
    return structs.replace(
        sandbox,
        address=sandbox.address if battery else f"{sandbox.address} {phase}",
        name=name if battery else f"{name}-{phase}",
        spec=spec if battery else _bare(spec),
        workspace=sandbox.workspace if battery else None,
        depends_on=freeze({}),
    )


def _bare(spec: SandboxSpec) -> SandboxSpec:
    """Without a network and without files: those phases fill memory, fork, or wait. What the battery needs would be
    made for them, filled and removed again."""
    off = structs.replace(spec, network_mode="none", networks=freeze({}), egress=CLOSED, dns=())
    return settle(structs.replace(off, workspace=None, working_dir=None, secrets=(), volumes=()))


def gateway_of(seen: Seen) -> str | None:
    """The address of the gateway that its sandbox had, if any."""
    return value(seen, OUTCOME, "gateway") or None
