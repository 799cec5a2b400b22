"""An apply as JSON lines, in the shape of OpenTofu's machine-readable UI.

Owns that format: one object a line, one `apply_start` and one `apply_complete` or `apply_errored` for each resource.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from time import monotonic
from typing import Any

from sandboxrun import __version__
from sandboxrun.backend import session as events
from sandboxrun.errors import one_line, redact, redacted
from sandboxrun.plan.changes import Action, Change, Plan
from sandboxrun.plan.text import summary, warnings
from sandboxrun.report import progress as steps
from sandboxrun.report.diagnostics import diagnostic_json
from sandboxrun.report.plan import PROVIDER, resource_of
from sandboxrun.report.progress import Resource, Tracker, doing, finished, undone, unfinished, why_skipped
from sandboxrun.spec.state import rfc3339

UI_VERSION = "1.0"
_ACTION = {Action.NONE: "noop"}
_BEGUN = {
    "create": "Creating", "update": "Modifying", "delete": "Destroying", "replace": "Replacing", "noop": "Working",
}  # fmt: skip


class JsonProgress:
    """Writes the lines. `now` gives the time that they carry, `clock` seconds for what takes how long."""

    def __init__(
        self,
        write: Callable[[str], None],
        *,
        sensitive: frozenset[str] = frozenset(),
        clock: Callable[[], float] = monotonic,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.glance: float | None = steps.GLANCE
        self._write, self._now = write, now
        self._tracker = Tracker(clock)
        self._plan: Plan | None = None
        self._sensitive = sensitive
        self._changes: dict[str, Change] = {}
        self._started: set[str] = set()
        self._ended: dict[str, str] = {}  # address → completed, errored
        self._told_version = False

    def begin(self, plan: Plan) -> None:
        """The version, what drifted, what is planned."""
        self._plan = plan
        self._sensitive |= plan.sensitive
        self._changes = {change.address: change for change in plan.changes}
        self._started, self._ended = set(), {}
        self._tracker.expect(plan.operations)
        if not self._told_version:
            self._told_version = True
            self._line("info", f"sandboxrun {__version__}", "version", {"sandboxrun": __version__, "ui": UI_VERSION})
        for change in plan.changes:
            if change.drift:
                self._planned("resource_drift", change, "Drift detected (update)", "update")
        for change in plan.pending:
            self._planned("planned_change", change, f"Plan to {_action(change)}", _action(change))
        for warning in warnings(plan):
            said = f"{warning.severity.capitalize()}: {warning.message}"
            self._line("warn", said, "diagnostic", {"diagnostic": diagnostic_json(warning)})
        add, changed, remove = plan.counts
        self._summary(summary(plan), add, changed, remove, "plan")

    def __call__(self, event: events.Event) -> None:
        resource = self._tracker.feed(event)
        match event:
            case events.Undone(address=address, what=what):
                self._log("warn", f"{address}: {undone(what)}")
            case events.StepSkipped(step=step, failed=failed):
                self._log("warn", f"{step.address}: skipped {doing(step)}: {why_skipped(failed)}")
            case events.StillRunning(sandboxes=alive):
                for one in alive:
                    self._alive(one)
            case _ if resource is not None:
                self._step(event, resource)

    def say(self, text: str) -> None:
        self._log("info", text)

    def end(self) -> None:
        """The counts of what was done."""
        for resource in self._tracker.unfinished():
            self._log("warn", f"{resource.address}: {unfinished(resource)}")
        if self._plan is None:
            return
        done = [c for c in self._plan.pending if c.kind != "image" and self._ended.get(c.address) == "completed"]
        actions = [change.action for change in done]
        replaced = actions.count(Action.REPLACE)
        add, change = actions.count(Action.CREATE) + replaced, actions.count(Action.UPDATE)
        remove = actions.count(Action.DELETE) + replaced
        text = f"Apply ended. Resources: {add} added, {change} changed, {remove} destroyed."
        self._summary(text, add, change, remove, "destroy" if self._plan.destroy else "apply")

    def _step(self, event: events.Event, resource: Resource) -> None:
        address = resource.address
        match event:
            case events.StepStarted() if address not in self._started:
                self._started.add(address)
                self._hook("apply_start", resource, f"{_BEGUN[self._action_of(address)]}...")
            case events.StepProgress(step=step, text=text):
                self._hook("apply_progress", resource, steps.doing(step, text), elapsed=True)
            case events.StepDone() if resource.finished:
                self._ended[address] = "completed"
                told = finished(resource, self._tracker.now()).removeprefix(f"{steps.resource_of(address)}: ")
                self._hook("apply_complete", resource, told, elapsed=True)
            case events.StepFailed(step=step, error=error):
                self._ended[address] = "errored"
                self._hook("apply_errored", resource, f"failed while {steps.doing(step)}", elapsed=True, level="error")
                for diagnostic in error.diagnostics:
                    told_of = redacted(diagnostic, self._sensitive)
                    body = {"diagnostic": {**diagnostic_json(told_of), "address": self._shown(address)}}
                    self._line("error", f"Error: {told_of.message}", "diagnostic", body)

    def _alive(self, alive: events.Alive) -> None:
        hook = {
            "resource": self._resource(alive.address),
            "action": self._action_of(alive.address),
            "elapsed_seconds": int(alive.seconds),
            "memory_bytes": alive.memory,
            "last_line": one_line(self._shown(alive.line))[: steps.WIDEST],
        }
        self._line("info", f"{alive.address}: {steps.running(alive, self._shown)}", "apply_progress", {"hook": hook})

    def _hook(self, type: str, resource: Resource, message: str, *, elapsed: bool = False, level: str = "info") -> None:
        address = resource.address
        hook = {"resource": self._resource(address), "action": self._action_of(address)}
        took = {"elapsed_seconds": int(resource.seconds(self._tracker.now()))} if elapsed else {}
        self._line(level, f"{address}: {message}", type, {"hook": {**hook, **took}})

    def _planned(self, type: str, change: Change, message: str, action: str) -> None:
        told = {"resource": self._resource(change.address), "action": action}
        self._line("info", f"{change.address}: {message}", type, {"change": told})

    def _summary(self, message: str, add: int, change: int, remove: int, operation: str) -> None:
        counts = {"add": add, "change": change, "remove": remove, "operation": operation}
        self._line("info", message, "change_summary", {"changes": counts})

    def _log(self, level: str, message: str) -> None:
        self._line(level, message, "log", {})

    def _line(self, level: str, message: str, type: str, body: Mapping[str, Any]) -> None:
        told = {
            "@level": level,
            "@message": one_line(redact(message, self._sensitive)),
            "@module": "sandboxrun.ui",
            "@timestamp": rfc3339(self._now(), "microseconds"),
            **body,
            "type": type,
        }
        self._write(json.dumps(told, ensure_ascii=True))

    def _resource(self, address: str) -> dict[str, Any]:
        kind = self._changes[address].kind if address in self._changes else "sandbox"
        named = resource_of(kind, address)
        told = {
            "addr": named["address"],
            "module": "",
            "resource": named["address"],
            "implied_provider": PROVIDER,
            "resource_type": named["type"],
            "resource_name": named["name"],
            "resource_key": named.get("index"),
        }
        return {key: self._shown(text) if isinstance(text, str) else text for key, text in told.items()}

    def _action_of(self, address: str) -> str:
        return _action(self._changes[address]) if address in self._changes else "noop"

    def _shown(self, text: str) -> str:
        return redact(text, self._sensitive)


def _action(change: Change) -> str:
    return _ACTION.get(change.action, change.action.value)
