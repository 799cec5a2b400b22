"""`apply --verify` and `run --verify`: nothing starts unless all holds, and what runs is looked at from outside.

Owns what is proven when, and what a sandbox in which something does not hold comes to. The findings are kept for who
tells of them.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator

import attrs

from sandboxrun.apply.events import silent
from sandboxrun.apply.session import Made, Session
from sandboxrun.engine.client import Engine
from sandboxrun.engine.together import begin
from sandboxrun.errors import ApplyError, Diagnostic
from sandboxrun.model.declared import DeclaredSandbox, Profile
from sandboxrun.model.observed import Image, Running, observe
from sandboxrun.probe.findings import Finding, Verdict
from sandboxrun.workflow.converge import Settings
from sandboxrun.workflow.oneoff import Making
from sandboxrun.workflow.running import label, look_at
from sandboxrun.workflow.verify import Verification

_LOOK = 0.2  # seconds between looks whether the apply is to stop
_ADVICE = "nothing was started; the table says what was seen, docs/verify.md how"


class Unverified(ApplyError):
    """Something does not hold, or can't be told."""


class Proving:
    """One proof. `inside` are the probes' findings, `outside` those of what was started."""

    def __init__(
        self, engine: Engine, profile: Profile, settings: Settings, tell: Callable[[str], None] = lambda text: None
    ) -> None:
        self._engine, self._profile, self._settings, self._tell = engine, profile, settings, tell
        self.inside: tuple[Finding, ...] = ()
        self.outside: tuple[Finding, ...] = ()
        self._lock = threading.Lock()

    def before(self, sandboxes: tuple[DeclaredSandbox, ...], guard: Callable[[], None] | None = None) -> None:
        """Verify what is to be made. Raises Unverified unless everything holds; Interrupted."""
        if not sandboxes:
            return
        settings = attrs.evolve(self._settings, listener=silent, on_wait=None)
        making = _one_at_a_time(guard) if guard is not None else None
        verification = Verification(self._engine, self._profile, settings, making=making, tell=self._tell)
        with _stopping(self._settings.stop, verification):
            self.inside = verification.run(sandboxes)
        faults = [finding for finding in self.inside if not finding.verdict.passes]
        if faults:
            raise Unverified(*(Diagnostic(message=_said(finding), help=_ADVICE) for finding in faults))

    def prepare(self, session: Session) -> None:
        """Have each sandbox looked at once it runs; one in which something does not hold is not left running."""
        then = session.after_start

        def started(sandbox: DeclaredSandbox, made: Made) -> None:
            then(sandbox, made)
            self.look(session, sandbox, made)

        session.after_start = started

    def look(self, session: Session, sandbox: DeclaredSandbox, made: Made) -> None:
        """Look at a sandbox that was just started. Raises Unverified for what does not hold.

        What can't be told from here is no fault: the probe has shown it, and an engine on another machine shows
        nothing. One that has ended already was read back before it started.
        """
        inspect = self._engine.inspect_container(made.id)
        config = session.image(str(inspect["Image"]))
        observed = observe(inspect, self._profile.names, config)
        if not isinstance(observed.state, Running):
            return
        image = Image(reference=sandbox.spec.image, config=config)
        found = look_at(self._engine, self._profile, observed, sandbox.spec, image, {})
        with self._lock:
            self.outside += found
        faults = [finding for finding in found if finding.verdict is Verdict.FAILS]
        if faults:
            help = f"{label(observed)} was ended, its evidence is kept"
            raise Unverified(*(Diagnostic(message=_said(finding), help=help) for finding in faults))


def _said(finding: Finding) -> str:
    seen = f": expected {finding.expected}, seen {finding.seen}" if finding.verdict is Verdict.FAILS else ""
    return f"{finding.sandbox}: {finding.control} {finding.verdict.value}{seen}"


def _one_at_a_time(guard: Callable[[], None]) -> Making:
    """In place of the project's lock, which the caller holds: the probes' own steps must not meet."""
    lock = threading.Lock()

    @contextlib.contextmanager
    def making() -> Iterator[Callable[[], None]]:
        with lock:
            guard()
            yield guard

    return making


@contextlib.contextmanager
def _stopping(stop: threading.Event, verification: Verification) -> Iterator[None]:
    """End the verification when the apply is to stop."""
    over = threading.Event()

    def watch() -> None:
        while not over.is_set():
            if stop.wait(_LOOK):
                verification.signal("TERM")
                return

    failures: list[BaseException] = []
    thread = begin(watch, name="verify stop", failed=failures.append)
    try:
        yield
    finally:
        over.set()
        thread.join()
    if failures:
        raise failures[0]
