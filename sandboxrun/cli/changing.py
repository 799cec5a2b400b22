"""What apply, destroy and run ask before they change the engine, print meanwhile and at the end, and do on signals.

Owns where each part goes: plan and results on stdout, progress on stderr; with --json, JSON lines on stdout alone; and
the handlers of signals while they are set. Before anything is being changed a signal ends the command as it would any.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any

import click

from sandboxrun.backend.session import Event, Session
from sandboxrun.cli.options import Given
from sandboxrun.cli.output import coloured, hidden_texts, note, result, shout, tell_all, terminal_width
from sandboxrun.errors import PlanError, UsageError
from sandboxrun.plan.changes import Plan
from sandboxrun.plan.operations import KeepSandbox
from sandboxrun.report.progress import Progress, progress_for

if TYPE_CHECKING:
    from sandboxrun.backend.docker.client import Engine
    from sandboxrun.evidence.store import Captured
    from sandboxrun.lifecycle.apply import ApplySettings, Outcome
    from sandboxrun.lifecycle.job import RunResult
    from sandboxrun.lifecycle.verify import Proving
    from sandboxrun.lifecycle.waits import Waited
    from sandboxrun.probe.verdicts import Finding
    from sandboxrun.report.evidence import Run
    from sandboxrun.spec.project import Profile


class Asking:
    """What apply and destroy call with the plan they have made, under the project's lock.

    `show` prints the plan, `begin` is called when changing begins. `declined` is True once the user has said no.
    """

    def __init__(
        self,
        command: str,
        given: Given,
        *,
        show: Callable[[Plan], None],
        begin: Callable[[Plan], None],
    ) -> None:
        self._command, self._given, self._show, self._begin = command, given, show, begin
        self.declined = False

    def __call__(self, plan: Plan) -> bool:
        """Whether to go on. Raises UsageError where there is nobody to ask, PlanError where --yes alone does not say
        that others' sandboxes are meant, too."""
        self._show(plan)
        if self._given.yes:
            if plan.others and not self._given.take_over:
                raise PlanError(
                    "--yes does not cover what was made from another directory: see the warning above",
                    help="nothing was changed; if it is the same project in another checkout, pass --take-over; "
                    "if not, give one of the two another name",
                )
        elif not plan.empty and not plan.refresh_only:
            if not sys.stdin.isatty():
                passing = "--yes and --take-over" if plan.others and not self._given.take_over else "--yes"
                raise UsageError(
                    f"{self._command} asks for confirmation, but there is no terminal",
                    help=f"nothing was changed; review the plan above, then pass {passing}",
                )
            sys.stdout.flush()
            self.declined = not click.confirm(f"\n{self._question(plan)}", err=True)
        if not self.declined:
            self._begin(plan)
        return not self.declined

    def _question(self, plan: Plan) -> str:
        others = plan.others and not self._given.take_over
        of = ", although some of it was made from another directory" if others else ""
        return f"Remove all of this{of}?" if plan.destroy else f"Carry this out{of}?"


class Telling:
    """A context around one change of the engine; its methods are what the workflow calls back."""

    def __init__(self, talk: Given, as_json: bool = False) -> None:
        self._talk, self._json = talk, as_json
        self._progress: Progress = progress_for(
            sys.stdout if as_json else sys.stderr,
            os.environ,
            form="json" if as_json else "auto",
            verbose=talk.verbose,
            quiet=talk.quiet,
            sensitive=hidden_texts(),
        )
        self._over = False
        self._proving: Proving | None = None
        self._aside: Given | None = None
        self.on_verifying: Callable[[], None] = lambda: None

    def __enter__(self) -> Telling:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._end()

    def _end(self) -> None:
        if not self._over:
            self._over = True
            self._progress.end()

    @property
    def glance(self) -> float | None:
        """How often to hear how those are that are waited for, in seconds."""
        return self._progress.glance

    def listener(self, event: Event) -> None:
        """A step of the apply."""
        self._progress(event)

    def waiting(self, text: str) -> None:
        """What the project's lock waits for."""
        self._progress.say(text)

    def plan(self, plan: Plan) -> None:
        """Show the plan; as JSON lines it is printed when it begins."""
        from sandboxrun.plan.text import painted, warnings

        tell_all(warnings(plan))
        if not self._json and not (self._talk.quiet and self._talk.yes):
            result(painted(plan, colour=coloured(sys.stdout)))

    def begin(self, plan: Plan) -> None:
        """The plan is agreed on."""
        if self._json or not plan.empty:
            self._progress.begin(plan)

    @contextlib.contextmanager
    def proving(
        self,
        engine: Engine,
        profile: Profile,
        settings: ApplySettings,
        *,
        wanted: bool = True,
        aside: Given | None = None,
    ) -> Iterator[Proving | None]:
        """What is proven, printed at the end: the table where something does not hold, else the counts. `aside`: on
        stderr, where stdout has what sandboxes print; how much of it."""
        if not wanted:
            yield None
            return
        from sandboxrun.lifecycle.verify import Proving

        def tell(text: str) -> None:
            self.on_verifying()
            self.waiting(f"verifying {text}")

        self._proving, self._aside = Proving(engine, profile, settings, tell=tell), aside
        try:
            yield self._proving
        finally:
            self._end()
            self._proven(profile)

    def _proven(self, profile: Profile) -> None:
        """Printed once, before the result of the apply, if it ended."""
        proving, self._proving = self._proving, None
        if proving is None:
            return
        for findings, running in ((proving.inside, False), (proving.outside, True)):
            if findings:
                self._verified(findings, profile, running=running)

    def _verified(self, findings: tuple[Finding, ...], profile: Profile, *, running: bool) -> None:
        from sandboxrun.report.verify import Report, ended

        report = Report.of(profile, findings, running=running)
        looked = "looked at from outside" if running else "verified"
        if self._json and not self._aside:
            from sandboxrun.report.verify import verify_json

            _json_line("verification", "verification", verify_json(report), f"{looked}: {ended(report)}")
        elif report.verified and not self._talk.verbose:
            self._say(f"{looked.capitalize()}: {ended(report)}", quiet=self._talk.quiet)
        else:
            from sandboxrun.report.verify import verify_text

            self._say(verify_text(report, width=terminal_width(), colour=coloured(sys.stdout)))

    def _say(self, text: str, *, quiet: bool = False) -> None:
        """What does not hold is always printed."""
        if self._aside is not None:
            note(text, quiet=quiet and self._aside.quiet)
        elif not quiet:
            result(text)

    def ended(self, outcome: Outcome) -> None:
        """An apply or destroy is done."""
        if outcome.applied is None:
            self._declined()
            return
        self._end()
        if outcome.session is not None:
            session = outcome.session
            self._proven(session.profile)
            kept = {step.container: step.name for step in outcome.plan.operations if isinstance(step, KeepSandbox)}
            self._runs([_run(one, session, kept) for one in session.captured.values()], session.profile)
        if not self._json and not outcome.plan.empty:
            add, change, destroyed = outcome.plan.counts
            kept_too = f", {outcome.plan.kept} kept" if outcome.plan.kept else ""
            result(f"Done: {add} added, {change} changed, {destroyed} destroyed{kept_too}.")

    def waited(self, waited: Waited) -> None:
        """An apply --wait is done."""
        if waited.outcome.applied is None:
            self._declined()
            return
        self._end()
        assert waited.outcome.session is not None
        profile = waited.outcome.session.profile
        self._proven(profile)
        self._runs([run_of(one, profile) for one in waited.results], profile)
        if not self._json:
            for address, record in waited.earlier.items():
                said = f"{record.ending} in an earlier run" if record is not None else "was not run"
                again = "--rerun" if record is not None and record.succeeded else "--rerun=failed"
                result(f"{address} {said}; {again} runs it again")

    def _runs(self, runs: Iterable[Run], profile: Profile) -> None:
        """How runs ended, and where their evidence is."""
        from sandboxrun.report.evidence import evidence_plain, evidence_text, runs_text

        every, here = tuple(runs), Path.cwd()
        if not self._json:
            text = runs_text(every, sensitive=profile.sensitive, relative_to=here, brief=self._talk.quiet)
            if text:
                result(text)
            return
        for one in every:
            text = evidence_text([one], sensitive=profile.sensitive, relative_to=here)
            _json_line("run_ended", "run", evidence_plain(one), text.partition("\n")[0])

    def _declined(self) -> None:
        note("Nothing was changed.", quiet=self._talk.quiet)


def run_of(result: RunResult, profile: Profile) -> Run:
    """A result as the report tells it."""
    from sandboxrun.report.evidence import Run

    sandbox = profile.sandbox(result.address)
    spec = sandbox.spec if sandbox is not None else None
    return Run(
        address=result.address,
        captured=result.evidence,
        spec=spec,
        note=result.note,
        seen=result.seen,
        kept=result.kept,
    )


def _run(captured: Captured, session: Session, kept: Mapping[str, str]) -> Run:
    """With the limits that it had, which the profile may say otherwise by now."""
    from sandboxrun.report.evidence import Run

    index = captured.index
    if index is None:
        return Run(address="a sandbox", captured=captured)
    ran = next((o.applied or o.spec for o in session.snapshot.sandboxes if o.run == index.run), None)
    return Run(address=index.sandbox, captured=captured, spec=ran, kept=kept.get(index.container_id, ""))


def _json_line(kind: str, key: str, told: Mapping[str, Any], message: str) -> None:
    """A run's end, or a verification, in the shape of the other JSON lines."""
    line = {"@level": "info", "@message": message, "@module": "sandboxrun.ui", key: told, "type": kind}
    result(line, indent=None)


# -- what ^C and SIGTERM do meanwhile: the first asks for a clean stop, the second ends at once

_CAUGHT = (signal.SIGINT, signal.SIGTERM)


def _say(text: str) -> None:
    """From a handler, which must never wait: whatever it interrupted may be a write to the same stream."""
    shout(text, patience=0.0)


class CleanStop:
    """A context: `stop` is set by the first signal after what `before` wraps was called. A SandboxrunError that
    leaves it then has the signal's exit code."""

    def __init__(self) -> None:
        self.stop = threading.Event()
        self.caught: int | None = None
        self._begun = False
        self._before: dict[int, Any] = {}

    def begin(self) -> None:
        """From now on something is being changed: signals stop it cleanly."""
        self._begun = True

    def before(self, begin: Callable[[Plan], None]) -> Callable[[Plan], None]:
        """`begin`, from when on something is being changed: signals then stop it cleanly."""

        def begun(plan: Plan) -> None:
            self.begin()
            begin(plan)

        return begun

    def exit_code(self, usual: int) -> int:
        """The exit code: the signal's, when there was one."""
        return usual if self.caught is None else 128 + self.caught

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if not self._begun:
            raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(128 + number)
        if self.caught is not None:
            _say("Aborted. The next apply or destroy cleans up.")
            os._exit(128 + number)
        self.caught = number
        self.stop.set()
        _say("Stopping after the current steps. Press Ctrl-C again to abort immediately.")

    def __enter__(self) -> CleanStop:
        for number in _CAUGHT:
            self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if self.caught is not None and error is not None:
            from sandboxrun.errors import SandboxrunError

            if isinstance(error, SandboxrunError):
                error.exit_code = self.exit_code(error.exit_code)


class Forwarding:
    """Signals go to what runs: the first is forwarded, the second ends it, the third ends this process.

    Before the first step a signal ends the command as it would any.
    """

    def __init__(self, listener: Callable[[Event], None]) -> None:
        self.caught: int | None = None
        self._listener = listener
        self._begun = False
        self._count = 0

    def begin(self) -> None:
        """From now on there is something to forward to."""
        self._begun = True

    def listener(self, event: Event) -> None:
        """To be called with each step: the first is the beginning."""
        self.begin()
        self._listener(event)

    def exit_code(self, usual: int) -> int:
        """The exit code: that of a sandbox that a signal kept from running is the signal's."""
        return 128 + self.caught if self.caught is not None and usual in (0, 125) else usual

    @contextlib.contextmanager
    def to(self, forward: Callable[[str], None]) -> Iterator[None]:
        """Forward to `forward` meanwhile."""

        def handle(number: int, frame: FrameType | None) -> None:
            if not self._begun:
                raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(128 + number)
            self.caught = number
            self._count += 1
            name = signal.Signals(number).name
            if self._count > 2:
                _say("Aborted. The next run, apply or destroy cleans up.")
                os._exit(128 + number)
            if self._count == 1:
                _say(f"Stopping: sent {name} to what runs, waiting for it to end. Press Ctrl-C again to kill it.")
            else:
                _say("Killing what still runs, and saving its evidence. Press Ctrl-C again to abort immediately.")
            forward(name.removeprefix("SIG"))

        before = {number: signal.signal(number, handle) for number in (*_CAUGHT, signal.SIGHUP, signal.SIGQUIT)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
