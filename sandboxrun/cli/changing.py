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
from typing import TYPE_CHECKING, Any, Self

import click

from sandboxrun.backend.session import Event
from sandboxrun.cli.options import Given
from sandboxrun.cli.output import coloured, hidden_texts, note, result, shout, tell_all, terminal_width
from sandboxrun.data import Closing
from sandboxrun.errors import PlanError, SandboxrunError, UsageError
from sandboxrun.plan.changes import Plan
from sandboxrun.plan.operations import KeepSandbox
from sandboxrun.report.progress import Progress, progress_for

if TYPE_CHECKING:
    from sandboxrun.backend.docker.client import Engine
    from sandboxrun.evidence.store import RunResult
    from sandboxrun.lifecycle.apply import ApplySettings, Outcome
    from sandboxrun.lifecycle.job import Waited
    from sandboxrun.lifecycle.verify import Proving
    from sandboxrun.spec.project import Profile


class Asking:
    """What apply and destroy call with the plan they have made, under the project's lock: it is shown, and agreed on.
    `declined` is True once the user has said no."""

    def __init__(self, command: str, given: Given, telling: Telling, stopping: CleanStop) -> None:
        self._command, self._given, self._telling, self._stopping = command, given, telling, stopping
        self.declined = False

    def __call__(self, plan: Plan) -> bool:
        """Whether to go on. Raises UsageError where there is nobody to ask, PlanError where --yes alone does not say
        that others' sandboxes are meant, too."""
        self._telling.plan(plan)
        others = bool(plan.others) and not self._given.take_over
        if self._given.yes:
            if others:
                raise PlanError(
                    "--yes does not cover what was made from another directory: see the warning above",
                    help="nothing was changed; if it is the same project in another checkout, pass --take-over; "
                    "if not, give one of the two another name",
                )
        elif not plan.empty and not plan.refresh_only:
            if not sys.stdin.isatty():
                passing = "--yes and --take-over" if others else "--yes"
                raise UsageError(
                    f"{self._command} asks for confirmation, but there is no terminal",
                    help=f"nothing was changed; review the plan above, then pass {passing}",
                )
            sys.stdout.flush()
            of = ", although some of it was made from another directory" if others else ""
            question = f"Remove all of this{of}?" if plan.destroy else f"Carry this out{of}?"
            self.declined = not click.confirm(f"\n{question}", err=True)
        if not self.declined:
            self._stopping.begin()  # from now on something is being changed
            self._telling.begin(plan)
        return not self.declined


class Telling(Closing):
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

    def close(self) -> None:
        """The progress is over: what comes now are results."""
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
            self.close()
            self._proven(profile)

    def _proven(self, profile: Profile) -> None:
        """Printed once, before the result of the apply, if it ended."""
        proving, self._proving = self._proving, None
        if proving is None:
            return
        from sandboxrun.report.verify import Report, ended, verify_json, verify_text

        for findings, running in ((proving.inside, False), (proving.outside, True)):
            if not findings:
                continue
            report = Report.of(profile, findings, running=running)
            looked, quiet = "looked at from outside" if running else "verified", False
            if self._json and not self._aside:
                _json_line("verification", "verification", verify_json(report), f"{looked}: {ended(report)}")
                continue
            if report.verified and not self._talk.verbose:
                text, quiet = f"{looked.capitalize()}: {ended(report)}", self._talk.quiet
            else:  # what does not hold is always printed
                text = verify_text(report, width=terminal_width(), colour=coloured(sys.stdout))
            if self._aside is not None:
                note(text, quiet=quiet and self._aside.quiet)
            elif not quiet:
                result(text)

    def ended(self, outcome: Outcome) -> None:
        """An apply or destroy is done."""
        if outcome.applied is None:
            self._declined()
            return
        self.close()
        if (session := outcome.session) is not None:
            from sandboxrun.evidence.store import RunResult

            self._proven(session.profile)
            kept = {step.container: step.name for step in outcome.plan.operations if isinstance(step, KeepSandbox)}
            # with the limits that each had, which the profile may say otherwise by now
            had = {o.run: o.applied or o.spec for o in session.snapshot.sandboxes}
            runs = [
                RunResult(address=i.sandbox, evidence=one, spec=had.get(i.run), kept=kept.get(i.container_id, ""))
                if (i := one.index) is not None
                else RunResult(address="a sandbox", evidence=one)
                for one in session.captured.values()
            ]
            self._runs(runs, session.profile, stopping=True)
        if not self._json and not outcome.plan.empty:
            add, change, destroyed = outcome.plan.counts
            kept_too = f", {outcome.plan.kept} kept" if outcome.plan.kept else ""
            result(f"Done: {add} added, {change} changed, {destroyed} destroyed{kept_too}.")

    def waited(self, waited: Waited) -> None:
        """An apply --wait is done."""
        if waited.outcome.applied is None:
            self._declined()
            return
        self.close()
        assert waited.outcome.session is not None
        profile = waited.outcome.session.profile
        self._proven(profile)
        self._runs(waited.results, profile)
        if not self._json:
            for address, record in waited.earlier.items():
                said = f"{record.ending} in an earlier run" if record is not None else "was not run"
                again = "--rerun" if record is not None and record.succeeded else "--rerun=failed"
                result(f"{address} {said}; {again} runs it again")

    def _runs(self, runs: Iterable[RunResult], profile: Profile, *, stopping: bool = False) -> None:
        """How runs ended, and where their evidence is. `stopping`: those that ran were to be stopped."""
        from sandboxrun.report.evidence import evidence_plain, evidence_text, runs_text

        every, here = tuple(runs), Path.cwd()
        if not self._json:
            brief = self._talk.quiet
            text = runs_text(every, sensitive=profile.sensitive, relative_to=here, brief=brief, stopping=stopping)
            if text:
                result(text)
            return
        for one in every:
            text = evidence_text([one], sensitive=profile.sensitive, relative_to=here)
            _json_line("run_ended", "run", evidence_plain(one), text.partition("\n")[0])

    def _declined(self) -> None:
        note("Nothing was changed.", quiet=self._talk.quiet)


def _json_line(kind: str, key: str, told: Mapping[str, Any], message: str) -> None:
    """A run's end, or a verification, in the shape of the other JSON lines."""
    line = {"@level": "info", "@message": message, "@module": "sandboxrun.ui", key: told, "type": kind}
    result(line, indent=None)


# -- what ^C, SIGTERM and the end of the terminal do meanwhile: the first asks for a clean stop, the second ends at once


class _Signals:
    """A context in which the first signals, once something has begun, have a text each, and the next ends the process.
    Before that a signal ends the command as it would any."""

    numbers: tuple[signal.Signals, ...] = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    texts: tuple[str, ...]
    aborted: str

    def __init__(self, act: Callable[[str], None]) -> None:
        self.caught: int | None = None
        self._act = act
        self._begun, self._count = False, 0
        self._before: dict[int, Any] = {}

    def begin(self) -> None:
        """From now on there is something to stop."""
        self._begun = True

    def __enter__(self) -> Self:
        for number in self.numbers:
            if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:  # as nohup wants it
                self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if not self._begun:
            if _imports(frame):  # half a module would be left, which what ends the command needs: to release the lock
                later = threading.Timer(_IMPORTED, signal.pthread_kill, (threading.get_ident(), number))
                later.daemon = True
                later.start()
                return
            if number == signal.SIGINT:
                raise KeyboardInterrupt
            # nobody at a keyboard sent it, and a job's log shall not just break off
            shout(f"Ended by {signal.Signals(number).name} before anything was changed.", patience=0.0)
            raise SystemExit(128 + number)
        # a handler must never wait: whatever it interrupted may be a write to the same stream
        if self._count == len(self.texts):
            shout(self.aborted, patience=0.0)
            os._exit(128 + number)
        name, text = signal.Signals(number).name, self.texts[self._count]
        self.caught = number
        self._count += 1  # before anything is said: whoever reads it may send the next one at once
        shout(text.format(name), patience=0.0)
        self._act(name.removeprefix("SIG"))


_IMPORTED = 0.02  # seconds until it is tried again


def _imports(frame: FrameType | None) -> bool:
    """Whether a module is being loaded."""
    while frame is not None and frame.f_code.co_filename != "<frozen importlib._bootstrap>":
        frame = frame.f_back
    return frame is not None


class CleanStop(_Signals):
    """A context: `stop` is set by the first signal after `begin`. A SandboxrunError that leaves it then has the
    signal's exit code."""

    texts = ("Stopping after the current steps, because of {}. Press Ctrl-C again to abort immediately.",)
    aborted = "Aborted. The next apply or destroy cleans up."

    def __init__(self) -> None:
        self.stop = threading.Event()
        super().__init__(lambda name: self.stop.set())

    def exit_code(self, usual: int) -> int:
        """The exit code: the signal's, when there was one."""
        return usual if self.caught is None else 128 + self.caught

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        super().__exit__(kind, error, at)
        if isinstance(error, SandboxrunError):
            error.exit_code = self.exit_code(error.exit_code)


class Forwarding(_Signals):
    """Signals go to what runs: the first is forwarded, the second ends it, the third ends this process."""

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
    texts = (
        "Stopping: sent {} to what runs, waiting for it to end. Press Ctrl-C again to kill it.",
        "Killing what still runs, and saving its evidence. Press Ctrl-C again to abort immediately.",
    )
    aborted = "Aborted. The next run, apply or destroy cleans up."

    def __init__(self, listener: Callable[[Event], None]) -> None:
        super().__init__(lambda name: None)
        self._listener = listener

    def listener(self, event: Event) -> None:
        """To be called with each step: the first is the beginning."""
        self.begin()
        self._listener(event)

    def exit_code(self, usual: int) -> int:
        """The exit code: that of a sandbox that a signal kept from running is the signal's."""
        return 128 + self.caught if self.caught is not None and usual in (0, 125) else usual

    def to(self, forward: Callable[[str], None]) -> Self:
        """The context in which signals are forwarded to `forward`."""
        self._act = forward
        return self
