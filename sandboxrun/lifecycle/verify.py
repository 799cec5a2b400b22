"""`verify`: each sandbox started with its own options and the probe as its command, judged beside the weak one; and
the same as a condition of apply and run.

Owns what a run of the probe is made of and what is known of its end. Everything is made, read back and removed as by
`run`; the evidence of probes goes to a store of its own.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from msgspec import structs

from sandboxrun.backend.base import Machine
from sandboxrun.backend.session import Made, Session, silent
from sandboxrun.data import record_of
from sandboxrun.errors import ApplyError, Diagnostic, ExitCode, SandboxrunError, few, one_line
from sandboxrun.evidence.folder import keep, scratch
from sandboxrun.evidence.parts import FILE
from sandboxrun.evidence.store import RunResult, Store, no_store
from sandboxrun.gateway.subnets import candidates
from sandboxrun.lifecycle.apply import ApplySettings, carry_out, locked
from sandboxrun.lifecycle.job import Making
from sandboxrun.lifecycle.places import file_contents
from sandboxrun.lifecycle.run import Runner, RunOptions
from sandboxrun.lifecycle.running import look_at, namespaces_of
from sandboxrun.plan import operations as op
from sandboxrun.plan.planner import make_collect_plan
from sandboxrun.probe import program
from sandboxrun.probe.controls import judge
from sandboxrun.probe.verdicts import OUTCOME, Context, Finding, Phase, Seen, Verdict, value
from sandboxrun.spec import labels
from sandboxrun.spec.option import OwnAddresses
from sandboxrun.spec.option_types import CLOSED
from sandboxrun.spec.project import DeclaredSandbox, FileSpec, Profile
from sandboxrun.spec.records import Attachment, Lifetime
from sandboxrun.spec.spec import SandboxSpec, settle
from sandboxrun.spec.state import Image, ObservedSandbox, Running, Snapshot, from_label
from sandboxrun.spec.types import SECOND, freeze
from sandboxrun.threads import Aside

if TYPE_CHECKING:
    from sandboxrun.backend.base import Backend


# -- Starts the probe in sandboxes: one run of a sandbox for each phase, and of the weak one beside it

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
        self._settings = structs.replace(settings, probing=True)
        hold = making if making is not None else partial(locked, engine, profile, self._settings)
        self._making = partial(_one_at_a_time, threading.Lock(), hold)
        self._runners: set[Runner] = set()
        self.stopped = False
        self._lock = threading.Lock()

    def strong(self, sandbox: DeclaredSandbox, context: Context, phases: tuple[Phase, ...]) -> Mapping[Phase, Seen]:
        """Run the sandbox in these phases, side by side. Raises SandboxrunError when one can't be started."""
        for _ in range(TRIES):
            likely = f"{sandbox.name}-verify-{uuid4().hex[:6]}"
            egress = context.spec.egress
            if Phase.BATTERY in phases and egress is not None and egress.has_gateway:
                # the address that its gateway will have, unless another process takes its subnet meanwhile: the program
                # must know it before anything is made
                subnet = next(candidates(likely, self._engine.subnets()))
                context = structs.replace(context, gateway=OwnAddresses.of(subnet).gateway)
            made = {}
            for phase in phases:  # the battery's has its own address, by which its gateway knows it
                spec, battery = program.staged(context, phase), phase is Phase.BATTERY
                made[phase] = structs.replace(
                    sandbox,
                    address=sandbox.address if battery else f"{sandbox.address} {phase}",
                    name=likely if battery else f"{likely}-{phase}",
                    spec=spec if battery else _bare(spec),
                    workspace=sandbox.workspace if battery else None,
                    depends_on=freeze({}),
                )
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
            spec = program.staged_weak(context, phase)
            made[phase] = self._weak_one(phase, spec if phase is Phase.BATTERY else _bare(spec))
        return self._run(made, context)

    @contextlib.contextmanager
    def neighbour(self, context: Context, networks: Iterable[str]) -> Iterator[tuple[str, ...]]:
        """A container on these networks of the profile's, alive during the block, to be reached or not; gives its
        addresses. Raises SandboxrunError when it can't be started."""
        argv = (*program.command(Phase.STUBBORN, context, weak=True)[:1], Phase.STUBBORN.value, f"seconds={LONGEST}")
        spec = structs.replace(
            program.staged_weak(context, Phase.STUBBORN),
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
        return DeclaredSandbox(address=f"{WEAK}-{part}", sandbox=WEAK, name=name, spec=spec)

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

    def _run(self, made: Mapping[Phase, DeclaredSandbox], context: Context) -> Mapping[Phase, Seen]:
        output: dict[str, bytearray] = {}

        def keep(address: str, stream: int, data: bytes) -> None:
            kept = output.setdefault(address, bytearray())
            if stream == 1:
                kept += data[: program.MOST_BYTES + 1 - len(kept)]

        runner, sandboxes = self._runner(context, made, output=keep)
        results = {result.address: result for result in self._running(runner, sandboxes)}
        if self.stopped:
            raise Interrupted(INTERRUPTED)
        return {
            phase: self._told(results[one.address], bytes(output.get(one.address, b""))) for phase, one in made.items()
        }

    def _told(self, result: RunResult, output: bytes) -> Seen:
        captured, passed = result.evidence, dict[str, None]()
        index = captured.index if captured is not None else None
        if captured is None or index is None:
            return program.parse(output)
        if captured.entry is not None and index.egress is not None:  # what its gateway let pass by its own records
            with self._store.open(captured.entry, FILE) as file:
                records = [record_of(line) for line in file.read(program.MOST_BYTES).split(b"\n")]
            allowed = (one for one in records if one.get("verdict") == "allowed")
            passed = dict.fromkeys(f"{one.get('host')}:{one.get('port')}" for one in allowed)
        return program.with_outcome(
            program.parse(output),
            how=index.ending.how.value,
            exit_code=index.ending.exit_code,
            oom_killed=index.ending.oom_killed,
            seconds=index.ran_seconds,
            gateway=index.labels.get(labels.GATEWAY, ""),
            passed=" ".join(passed),
        )

    def _runner(
        self, context: Context, made: Mapping[Any, DeclaredSandbox], **options: Any
    ) -> tuple[Runner, tuple[DeclaredSandbox, ...]]:
        sandboxes = tuple(made.values())
        how = RunOptions(making=self._making, named=True, **options)
        settings = structs.replace(self._settings, stop=threading.Event())
        profile = structs.replace(
            self._profile,
            sandboxes=sandboxes,  # these alone, the program among the configs, and the weak ones' network
            configs=freeze(
                {**self._profile.configs, program.CONFIG: FileSpec(file=str(program.program(context.architecture)))}
            ),
            networks=freeze({**self._profile.networks, program.WEAK_NETWORK: program.WEAK_NETWORK_SPEC}),
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


def _bare(spec: SandboxSpec) -> SandboxSpec:
    """Without a network and without files: those phases fill memory, fork, or wait. What the battery needs would be
    made for them, filled and removed again."""
    off = structs.replace(spec, network_mode="none", networks=freeze({}), egress=CLOSED, dns=())
    return settle(structs.replace(off, workspace=None, working_dir=None, secrets=(), volumes=()))


def gateway_of(seen: Seen) -> str | None:
    """The address of the gateway that its sandbox had, if any."""
    return value(seen, OUTCOME, "gateway") or None


# -- `verify`: each sandbox beside the weak one

_MOST_HOSTS = 6  # of the engine's machine's addresses: each is tried on several ports
_MOST_NAMED = 5  # sandboxes of killed runs that are named
_BESIDE = (Phase.STUBBORN, Phase.MEMORY, Phase.PROCESSES)


class Verification:
    """One verification. `signal` may be called from a signal handler while `run` works.

    `making` replaces the project's lock if the caller holds it; `tell` is called with what goes on.
    """

    def __init__(
        self,
        engine: Backend,
        profile: Profile,
        settings: ApplySettings | None = None,
        *,
        making: Making | None = None,
        tell: Callable[[str], None] = lambda text: None,
    ) -> None:
        self._engine, self._profile = engine, profile
        self._settings = settings or ApplySettings(environment=os.environ)
        self._making, self._tell = making, tell
        self._prober: Prober | None = None
        self._no_weak = ""
        self._weak: dict[str, _Weak] = {}
        self._stopped = threading.Event()
        self.notices: tuple[Diagnostic, ...] = ()  # of what killed commands left that stays

    def run(self, sandboxes: tuple[DeclaredSandbox, ...]) -> tuple[Finding, ...]:
        """The findings of each, in this order. Raises SandboxrunError when one can't be started, Interrupted after
        `signal`."""
        if not sandboxes:
            return ()
        file_contents(self._profile, self._settings.environment, sandboxes)  # what is missing is reported at once
        if self._making is None:  # else whoever holds the lock collects them
            self.notices = clear_killed(self._engine, self._profile, self._settings)
        with _store(self._profile) as store, contextlib.ExitStack() as beside:
            self._prober = prober = Prober(self._engine, self._profile, store, self._settings, self._making)
            if self._stopped.is_set():
                prober.signal("TERM")
            machine = self._engine.machine()
            contexts = [self._context(sandbox, machine) for sandbox in sandboxes]
            try:
                neighbours = beside.enter_context(prober.neighbour(contexts[0], (program.WEAK_NETWORK,)))
            except SandboxrunError as error:
                if prober.stopped:
                    raise
                neighbours, self._no_weak = (), _unstarted(error)
            found: list[Finding] = []
            for sandbox, context in zip(sandboxes, contexts, strict=True):
                found += self._one(prober, sandbox, structs.replace(context, neighbours=neighbours))
            return tuple(found)

    def signal(self, name: str) -> None:
        """End it: what runs is removed, and nothing is known."""
        self._stopped.set()
        if self._prober is not None:
            self._prober.signal(name)

    # -- steps -----------------------------------------------------------------------------------------------

    def _one(self, prober: Prober, sandbox: DeclaredSandbox, context: Context) -> tuple[Finding, ...]:
        # one weak sandbox for all that it would be the same for
        key = "".join(program.staged_weak(context, phase).digest for phase in Phase)
        if key not in self._weak:
            self._weak[key] = _Weak(prober, context, self._tell, self._no_weak)
        weak, networks = self._weak[key], context.spec.networks

        def strong(context: Context, *phases: Phase) -> dict[Phase, Seen]:
            self._tell(f"{sandbox.address}: {', '.join(phases)}")
            return dict(prober.strong(sandbox, context, phases))

        # The batteries run one after the other, the weak one when all others but those that wait are over: it measures
        # how much of the processors it gets.
        with (
            Aside(lambda: weak.run(*_BESIDE), name="verify weak") as outlived,
            Aside(lambda: strong(context, *_BESIDE), name="verify beside") as beside,
            prober.ending_all(),
        ):
            with prober.neighbour(context, networks) if networks else contextlib.nullcontext(()) as more:
                known = structs.replace(context, neighbours=(*context.neighbours, *more))
                seen = strong(known, Phase.BATTERY)
            weak.run(Phase.BATTERY)
        seen |= beside.result()
        outlived.result()
        known = structs.replace(known, gateway=gateway_of(seen[Phase.BATTERY]))
        found = judge(sandbox.address, known, seen, weak.seen, self._engine.terms.controls)
        unknown = Verdict.INCONCLUSIVE
        return tuple(structs.replace(f, note=weak.reason) if weak.reason and f.verdict is unknown else f for f in found)

    def _context(self, sandbox: DeclaredSandbox, machine: Machine) -> Context:
        spec, profile = sandbox.spec, self._profile
        spaces: Mapping[str, str] = freeze({})
        if machine.pid is not None:
            spaces = namespaces_of(os.getpid())
            with contextlib.suppress(OSError):  # this user may not see the engine's own
                spaces = namespaces_of(machine.pid or os.getpid())
        return Context(
            spec=spec,
            architecture=self._architecture(sandbox),
            runtime=spec.runtime or machine.runtime,
            hosts=machine.addresses[:_MOST_HOSTS],
            networks=freeze({key: profile.networks[key] for key in spec.networks if key in profile.networks}),
            host_namespaces=spaces,
            host_cpus=machine.cpus,
            rootless=machine.rootless,
        )

    def _architecture(self, sandbox: DeclaredSandbox) -> str:
        """The image's, by the kernel's name. It is pulled where it is not there and may be."""
        spec = sandbox.spec
        image = self._engine.image_config(spec.image)
        if image is None and spec.pull_policy != "never":
            self._tell(f"{sandbox.address}: pulling {spec.image}")
            self._engine.pull(spec.image, platform=spec.platform)
            image = self._engine.image_config(spec.image)
        if image is None:
            raise SandboxrunError(
                f"{sandbox.address}: the image {spec.image} is not on the engine",
                help="pull it first, or set pull_policy: missing",
            )
        return program.architecture(image.architecture)


class _Weak:
    """The weak sandbox's phases, each run once for all sandboxes that share it. One that can't be started leaves
    every control without its negative: then nothing passes, and `reason` says why."""

    def __init__(self, prober: Prober, context: Context, tell: Callable[[str], None], reason: str) -> None:
        self._prober, self._context, self._tell = prober, context, tell
        self.seen: dict[Phase, Seen] = {}
        self.reason = reason

    def run(self, *phases: Phase) -> None:
        """Run these, side by side."""
        if self.reason or all(phase in self.seen for phase in phases):
            return
        self._tell(f"the weak sandbox for comparison: {', '.join(phases)}")
        try:
            self.seen |= self._prober.weak(self._context, phases)
        except SandboxrunError as error:
            if self._prober.stopped:
                raise
            self.reason = _unstarted(error)


def _unstarted(error: SandboxrunError) -> str:
    return f"the weak sandbox could not be started: {error.diagnostics[0].message}"


@contextlib.contextmanager
def _store(profile: Profile) -> Iterator[Store]:
    """A place for the probes' evidence: gone afterwards, and kept where something went wrong."""
    with scratch(Store(project_directory=profile.directory)) as folder:
        store = Store(project_directory=profile.directory, root=folder.path / "evidence")
        try:
            yield store
        except SandboxrunError as error:
            if not isinstance(error, Interrupted) and any(store.each()):
                message = f"what the probes left is kept in {keep(folder)} until the next verify"
                error.diagnostics = (*error.diagnostics, Diagnostic(message=message, severity="notice"))
            raise


# -- What a verification left that was killed: its containers, and what they keep in workspaces


def clear_killed(
    engine: Backend,
    profile: Profile,
    settings: ApplySettings,
    keeping: Mapping[str, Mapping[str, str]] | None = None,
) -> tuple[Diagnostic, ...]:
    """Remove the probes of the project's verifications that were killed: their evidence was to go with them. What is
    told of the sandboxes of killed runs which still keep something in a workspace: they go with their evidence only.

    Who knows them gives those that are `keeping` anything, by container: then nothing else is looked for. Raises
    nothing: what can't be removed is left to the next command.
    """
    if keeping is None or any(map(_is_probe, _of(profile, keeping).values())):
        with contextlib.suppress(SandboxrunError):
            _remove_killed(engine, profile, settings)
        keeping = engine.collect(no_store())
    known = _of(profile, keeping)
    names = sorted({f"{own.get(labels.SANDBOX)} (run {own.get(labels.RUN, '')[:12]})" for own in known.values()})
    if not names:
        return ()
    left = one_line(few(names, _MOST_NAMED))
    message = f"what sandboxrun created in a workspace stays there for sandboxes of killed commands: {left}"
    return (Diagnostic(message=f"{message}; `reap`, `apply` or `destroy` collects them", severity="notice"),)


def _of(profile: Profile, found: Mapping[str, Mapping[str, str]]) -> Mapping[str, Mapping[str, str]]:
    return {id: own for id, own in found.items() if own.get(labels.PROJECT) == profile.project}


def _is_probe(own: Mapping[str, str]) -> bool:
    spec = from_label(own.get(labels.SPEC))
    return spec is not None and program.is_probe(spec)


def _remove_killed(engine: Backend, profile: Profile, settings: ApplySettings) -> None:
    """Raises SandboxrunError, of somebody at work in the project too: it is not waited for."""

    def left(snapshot: Snapshot) -> list[ObservedSandbox]:
        gone = (o for o in snapshot.sandboxes if o.one_off and o.id in snapshot.orphaned)
        return [o for o in gone if program.is_probe(o.applied or o.spec)]

    bare, store = structs.replace(profile, sandboxes=()), no_store()
    if not left(engine.observe(bare, store)):
        return
    own = structs.replace(settings, listener=silent, on_wait=None, lock_wait=0.0, stop=threading.Event())
    with locked(engine, profile, own) as guard:
        snapshot = engine.observe(bare, store)
        plan = make_collect_plan(bare, snapshot, left(snapshot), networks=True, leftovers=True, keep=False)
        steps = tuple(s for s in plan.operations if not isinstance(s, op.StopSandbox | op.CaptureEvidence))
        carry_out(structs.replace(plan, operations=steps), snapshot, engine, bare, store, own, guard)


# -- `apply --verify` and `run --verify`: nothing starts unless all holds, and what runs is looked at from outside

_LOOK = 0.2  # seconds between looks whether the apply is to stop
_ADVICE = "nothing was started; the table shows what was seen, docs/verify.md explains how"


class Unverified(ApplyError):
    """Something does not hold, or can't be told."""


class Proving:
    """What an apply or run is to prove before it ends. `inside` are the probes' findings, `outside` those of what was
    started."""

    def __init__(
        self,
        engine: Backend,
        profile: Profile,
        settings: ApplySettings,
        tell: Callable[[str], None] = lambda text: None,
    ) -> None:
        self._engine, self._profile, self._settings, self._tell = engine, profile, settings, tell
        self.inside: tuple[Finding, ...] = ()
        self.outside: tuple[Finding, ...] = ()
        self._lock = threading.Lock()

    def before(self, sandboxes: tuple[DeclaredSandbox, ...], guard: Callable[[], None] | None = None) -> None:
        """Verify what is to be made, before anything is. `guard` checks the project's lock, where that is held. Raises
        Unverified unless everything holds; Interrupted."""
        if not sandboxes:
            return
        settings = structs.replace(self._settings, listener=silent, on_wait=None)
        making: Making | None = (lambda: contextlib.nullcontext(guard)) if guard is not None else None
        verification = Verification(self._engine, self._profile, settings, making=making, tell=self._tell)
        with _stopping(self._settings.stop, verification):
            self.inside = verification.run(sandboxes)
        faults = [finding for finding in self.inside if not finding.verdict.passes]
        if faults:
            raise Unverified(*(Diagnostic(message=_said(finding), help=_ADVICE) for finding in faults))

    def prepare(self, session: Session) -> None:
        """Have each sandbox looked at once it runs; one in which something does not hold is not left running."""
        session.after_start.append(partial(self.look, session))

    def look(self, session: Session, sandbox: DeclaredSandbox, made: Made) -> None:
        """Look at a sandbox that was just started. Raises Unverified for what does not hold.

        What can't be seen from here is not a fault: the probe has shown it, and an engine on another machine shows
        nothing. One that has ended already was read back before it started.
        """
        observed = self._engine.observe_one(self._profile, made.id)
        if not isinstance(observed.state, Running):
            return
        image = Image(config=session.image(observed.image_id))
        found = look_at(self._engine, self._profile, observed, sandbox.spec, image, {})
        with self._lock:
            self.outside += found
        faults = [finding for finding in found if finding.verdict is Verdict.FAILS]
        if faults:
            help = f"{observed.label} was ended, its evidence is kept"
            raise Unverified(*(Diagnostic(message=_said(finding), help=help) for finding in faults))


def _said(finding: Finding) -> str:
    seen = f": expected {finding.expected}, seen {finding.seen}" if finding.verdict is Verdict.FAILS else ""
    return f"{finding.sandbox}: {finding.control} {finding.verdict.value}{seen}"


@contextlib.contextmanager
def _one_at_a_time(turn: threading.Lock, hold: Making) -> Iterator[Callable[[], None]]:
    """The project's lock, or what stands for it: the probes' own steps must not meet, and on a slow engine none of them
    may give up on the lock because of another one."""
    with turn, hold() as check:
        check()
        yield check


@contextlib.contextmanager
def _stopping(stop: threading.Event, verification: Verification) -> Iterator[None]:
    """End the verification when the apply is to stop."""
    over = threading.Event()

    def watch() -> None:
        while not over.is_set():
            if stop.wait(_LOOK):
                verification.signal("TERM")
                return

    with Aside(watch, name="verify stop") as aside:
        try:
            yield
        finally:
            over.set()
    aside.result()
