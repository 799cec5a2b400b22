"""`verify`: each sandbox started with its own options and the probe as its command, judged beside the weak one.

Owns the order of the phases, what is known of the engine that verdicts rest on, and the store that probes leave their
evidence in. What must hold is the probe room's.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import attrs

from sandboxrun.apply.files import file_contents
from sandboxrun.apply.leftovers import keep, scratch
from sandboxrun.engine.addresses import host_addresses
from sandboxrun.engine.client import Engine
from sandboxrun.errors import Diagnostic, SandboxrunError
from sandboxrun.evidence.store import Store
from sandboxrun.model.declared import DeclaredSandbox, Profile
from sandboxrun.model.types import freeze
from sandboxrun.plan.planner import select
from sandboxrun.probe.findings import Finding, Verdict
from sandboxrun.probe.judge import judge
from sandboxrun.probe.staging import WEAK_NETWORK, staged_weak
from sandboxrun.probe.types import Context, Phase, Seen
from sandboxrun.workflow.converge import Settings
from sandboxrun.workflow.hostside import namespaces_of
from sandboxrun.workflow.oneoff import Making
from sandboxrun.workflow.probing import Aside, Interrupted, Prober, Told

_MOST_HOSTS = 6  # of the engine's machine's addresses: each is tried on several ports
_BESIDE = (Phase.STUBBORN, Phase.MEMORY, Phase.PROCESSES)


class Verification:
    """One verification. `signal` may be called from a signal handler while `run` works.

    `making` stands for the project's lock where the caller holds it; `tell` is told what goes on.
    """

    def __init__(
        self,
        engine: Engine,
        profile: Profile,
        settings: Settings | None = None,
        *,
        making: Making | None = None,
        tell: Callable[[str], None] = lambda text: None,
    ) -> None:
        self._engine, self._profile = engine, profile
        self._settings = settings or Settings(environment=os.environ)
        self._making, self._tell = making, tell
        self._prober: Prober | None = None
        self._no_weak = ""
        self._weak: dict[str, _Weak] = {}
        self._stopped = threading.Event()

    def run(self, sandboxes: tuple[DeclaredSandbox, ...]) -> tuple[Finding, ...]:
        """The findings of each, in this order. Raises SandboxrunError when one can't be started, Interrupted after
        `signal`."""
        if not sandboxes:
            return ()
        file_contents(self._profile, self._settings.environment, sandboxes)  # what is missing is told at once
        with _store(self._profile) as store, contextlib.ExitStack() as beside:
            self._prober = prober = Prober(self._engine, self._profile, store, self._settings, self._making)
            if self._stopped.is_set():
                prober.signal("TERM")
            info, hosts = self._engine.info(), _hosts(self._engine)
            contexts = [self._context(sandbox, info, hosts) for sandbox in sandboxes]
            try:
                neighbours = beside.enter_context(prober.neighbour(contexts[0], (WEAK_NETWORK,)))
            except SandboxrunError as error:
                if prober.stopped:
                    raise
                neighbours, self._no_weak = (), _unstarted(error)
            found: list[Finding] = []
            for sandbox, context in zip(sandboxes, contexts, strict=True):
                found += self._one(prober, sandbox, attrs.evolve(context, neighbours=neighbours))
            return tuple(found)

    def signal(self, name: str) -> None:
        """End it: what runs is removed, and nothing is known."""
        self._stopped.set()
        if self._prober is not None:
            self._prober.signal(name)

    # -- steps -----------------------------------------------------------------------------------------------

    def _one(self, prober: Prober, sandbox: DeclaredSandbox, context: Context) -> tuple[Finding, ...]:
        weak, networks = self._weak_of(prober, context), context.spec.networks

        def strong(context: Context, *phases: Phase) -> dict[Phase, Told]:
            self._tell(f"{sandbox.address}: {', '.join(phases)}")
            return dict(prober.strong(sandbox, context, phases))

        # The batteries run one after the other, the weak one when all others but those that wait are over: it measures
        # how much of the processors it gets.
        with Aside(weak.beside) as outlived, Aside(lambda: strong(context, *_BESIDE)) as beside, prober.ending_all():
            with prober.neighbour(context, networks) if networks else contextlib.nullcontext(()) as more:
                known = attrs.evolve(context, neighbours=(*context.neighbours, *more))
                seen = strong(known, Phase.BATTERY)
            weak.battery()
        seen |= beside.result()
        outlived.result()
        known = attrs.evolve(known, gateway=seen[Phase.BATTERY].gateway)
        found = judge(sandbox.address, known, _seen(seen), _seen(weak.seen))
        return tuple(_with_reason(finding, weak.reason) for finding in found)

    def _weak_of(self, prober: Prober, context: Context) -> _Weak:
        """The weak sandbox beside it: one for all that it would be the same for."""
        key = "".join(staged_weak(context, phase).digest for phase in Phase)
        if key not in self._weak:
            self._weak[key] = _Weak(prober, context, self._tell, self._no_weak)
        return self._weak[key]

    def _context(self, sandbox: DeclaredSandbox, info: Mapping[str, Any], hosts: tuple[str, ...]) -> Context:
        spec, profile = sandbox.spec, self._profile
        shares = self._engine.shares_filesystem()
        return Context(
            spec=spec,
            architecture=self._architecture(sandbox),
            runtime=spec.runtime or str(info.get("DefaultRuntime") or "runc"),
            cgroup=int(info.get("CgroupVersion") or 1),
            hosts=hosts,
            networks=freeze({key: profile.networks[key] for key in spec.networks if key in profile.networks}),
            host_namespaces=self._host_namespaces() if shares else freeze({}),
            host_cpus=int(info.get("NCPU") or 0),
        )

    def _host_namespaces(self) -> Mapping[str, str]:
        """The engine's own, or where this user may not see them, this process's."""
        with contextlib.suppress(OSError):
            return namespaces_of(self._engine.transport.peer_pid() or os.getpid())
        return namespaces_of(os.getpid())

    def _architecture(self, sandbox: DeclaredSandbox) -> str:
        """The image's, by the kernel's name. It is pulled where it is not there and may be."""
        from sandboxrun.probe.program import architecture

        spec = sandbox.spec
        image = self._engine.image(spec.image)
        if image is None and spec.pull_policy != "never":
            self._tell(f"{sandbox.address}: pulling {spec.image}")
            self._engine.pull(spec.image, platform=spec.platform)
            image = self._engine.image(spec.image)
        if image is None:
            raise SandboxrunError(
                f"{sandbox.address}: the image {spec.image} is not on the engine",
                help="pull it first, or set pull_policy: missing",
            )
        return architecture(str(image.get("Architecture") or ""))


class _Weak:
    """The weak sandbox's phases, each run once for all sandboxes that share it. One that can't be started leaves
    every control without its negative: then nothing passes, and `reason` says why."""

    def __init__(self, prober: Prober, context: Context, tell: Callable[[str], None], reason: str) -> None:
        self._prober, self._context, self._tell = prober, context, tell
        self.seen: dict[Phase, Told] = {}
        self.reason = reason

    def battery(self) -> None:
        """The battery, alone."""
        self._once(Phase.BATTERY)

    def beside(self) -> None:
        """The others, side by side."""
        self._once(*_BESIDE)

    def _once(self, *phases: Phase) -> None:
        if self.reason or all(phase in self.seen for phase in phases):
            return
        self._tell(f"the weak one beside it: {', '.join(phases)}")
        try:
            self.seen |= self._prober.weak(self._context, phases)
        except SandboxrunError as error:
            if self._prober.stopped:
                raise
            self.reason = _unstarted(error)


def _unstarted(error: SandboxrunError) -> str:
    return f"the weak sandbox could not be started: {error.diagnostics[0].message}"


def _hosts(engine: Engine) -> tuple[str, ...]:
    """Addresses of the engine's machine that must not be reached; not those of networks that come and go."""
    passing = {
        str(config.get("Gateway"))
        for network in engine.networks()
        if network.get("Name") != "bridge"
        for config in (network.get("IPAM") or {}).get("Config") or ()
    }
    every = [a for a in host_addresses(engine) if ipaddress.ip_address(a).version == 4 and a not in passing]
    return tuple(every[:_MOST_HOSTS])


def _seen(told: Mapping[Phase, Told]) -> Mapping[Phase, Seen]:
    return {phase: one.seen for phase, one in told.items()}


def _with_reason(finding: Finding, reason: str) -> Finding:
    if not reason or finding.verdict is not Verdict.INCONCLUSIVE:
        return finding
    return attrs.evolve(finding, note=reason)


@contextlib.contextmanager
def _store(profile: Profile) -> Iterator[Store]:
    """A place for the probes' evidence: gone afterwards, and kept where something went wrong."""
    with scratch(Store(project_directory=profile.directory)) as folder:
        store = Store(project_directory=profile.directory, root=folder.path / "evidence")
        try:
            yield store
        except SandboxrunError as error:
            if not isinstance(error, Interrupted) and store.entries():
                message = f"what the probes left is kept in {keep(folder)} until the next verify"
                error.diagnostics = (*error.diagnostics, Diagnostic(message=message, severity="notice"))
            raise


def verify(
    engine: Engine, profile: Profile, names: tuple[str, ...] = (), *, settings: Settings | None = None
) -> tuple[Finding, ...]:
    """Verify the sandboxes that `names` mean, all when there are none; see `Verification.run`.

    Raises UsageError for a name there is not.
    """
    return Verification(engine, profile, settings).run(select(profile, names))
