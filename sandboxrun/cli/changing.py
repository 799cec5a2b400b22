"""What apply, destroy and run tell while they change the engine and when they are done.

Owns where each part goes: plan and results on stdout, progress on stderr; with --json, JSON lines on stdout alone.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any

from sandboxrun.apply.events import Event
from sandboxrun.cli import summary
from sandboxrun.cli.options import Talk
from sandboxrun.cli.output import note, result
from sandboxrun.errors import printable
from sandboxrun.plan.changes import Plan
from sandboxrun.report.progress import Progress, progress_for

if TYPE_CHECKING:
    from sandboxrun.evidence.capture import Captured
    from sandboxrun.workflow.converge import Outcome
    from sandboxrun.workflow.waits import Waited


class Telling:
    """A context around one change of the engine; its methods are what the workflow calls back."""

    def __init__(self, talk: Talk, as_json: bool = False) -> None:
        self._talk, self._json = talk, as_json
        self._progress: Progress = progress_for(
            sys.stdout if as_json else sys.stderr,
            os.environ,
            form="json" if as_json else "auto",
            verbose=talk.verbose,
            quiet=talk.quiet,
        )
        self._over = False

    def __enter__(self) -> Telling:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._end()

    def _end(self) -> None:
        if not self._over:
            self._over = True
            self._progress.end()

    def listener(self, event: Event) -> None:
        """A step of the apply."""
        self._progress(event)

    def waiting(self, text: str) -> None:
        """What the project's lock waits for."""
        self._progress.say(text)

    def plan(self, plan: Plan) -> None:
        """Show the plan; as JSON lines it is told when it begins."""
        if not self._json:
            result(str(plan))

    def begin(self, plan: Plan) -> None:
        """The plan is agreed on."""
        if self._json or not plan.empty:
            self._progress.begin(plan)

    def ended(self, outcome: Outcome) -> None:
        """An apply or destroy is done."""
        if outcome.applied is None:
            self._declined()
            return
        self._end()
        if outcome.session is not None:
            self.runs(outcome.session.captured.values())
        if not self._json and not outcome.plan.empty:
            add, change, destroyed = outcome.plan.counts
            result(f"Done: {add} added, {change} changed, {destroyed} destroyed.")

    def waited(self, waited: Waited) -> None:
        """An apply --wait is done."""
        if waited.outcome.applied is None:
            self._declined()
            return
        self._end()
        for one in waited.results:
            if one.evidence is not None:
                self.runs([one.evidence], one.note)
            elif self._json:
                _json_line({"sandbox": one.address, "outcome": "not_started"}, f"{one.address}: {one.note}")
            else:
                result(printable(f"{one.address}: {one.note}"))
        if not self._json:
            for address, code in waited.earlier.items():
                result(f"{address} ended with {code} in an earlier apply; --rerun runs it again")

    def runs(self, captured: Iterable[Captured], remark: str = "") -> None:
        """How runs ended, and where their evidence is."""
        for one in captured:
            if self._json:
                _json_line(summary.plain([one])[0], summary.evidence_line(one, remark))
                continue
            result(summary.evidence_line(one, remark))
            for line in summary.missing_lines(one):
                note(f"  {line}", quiet=not self._talk.verbose)

    def _declined(self) -> None:
        note("Nothing was changed.", quiet=self._talk.quiet)


def _json_line(told: Mapping[str, Any], message: str) -> None:
    """A run's end in the shape of the other JSON lines."""
    import json

    line = {"@level": "info", "@message": message, "@module": "sandboxrun.ui", "run": told, "type": "run_ended"}
    result(json.dumps(line, ensure_ascii=True))
