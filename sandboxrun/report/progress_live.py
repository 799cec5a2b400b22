"""The live display of an apply on a terminal: what goes on now, above it what is done. The one user of rich.

Owns the display. What is shown is never markup.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from time import monotonic
from typing import TextIO

from msgspec import structs
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from sandboxrun.backend.session import Alive, Event, StepFailed, StillRunning
from sandboxrun.plan.changes import Plan
from sandboxrun.report import progress as steps
from sandboxrun.report.progress import GLANCE_LIVE, LineProgress, resource_of

_MOST = 12  # resources shown at once; more would scroll the display out of the window


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """The terminal has gone: fall silent. rich would end the process, and with it the apply."""
        self.quiet = True


class LiveProgress:
    """Lines as `LineProgress` has them, and below them a row for each resource that is worked on."""

    def __init__(
        self,
        stream: TextIO,
        *,
        colour: bool = True,
        verbose: bool = False,
        sensitive: frozenset[str] = frozenset(),
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._console = _Console(file=stream, no_color=not colour, highlight=False, markup=False, emoji=False)
        self._spinner = Spinner("dots" if (self._console.encoding or "").startswith("utf") else "line")
        self._lines = LineProgress(self._print, verbose=verbose, sensitive=sensitive, clock=clock)
        self._live: Live | None = None
        self._ended = False
        self.glance: float | None = GLANCE_LIVE
        self._running: tuple[float, tuple[Alive, ...]] = (0.0, ())  # what is waited for, and when that was
        self._printing = threading.Lock()  # never taken while rich draws: it would wait for us, and we for it
        self._style: str | None = None

    def begin(self, plan: Plan) -> None:
        """Start the display."""
        self._lines.begin(plan)
        self._start()

    def _start(self) -> None:
        if self._live is None and not self._ended:
            self._live = Live(
                get_renderable=self._draw, console=self._console, refresh_per_second=8, transient=True,
                redirect_stdout=False, redirect_stderr=False,
            )  # fmt: skip
            self._guarded(self._live.start)

    def __call__(self, event: Event) -> None:
        if isinstance(event, StillRunning):
            self._running = (self._lines.tracker.now(), event.sandboxes)
            self._start()
            return
        with self._printing:
            self._style = "red" if isinstance(event, StepFailed) else None
            self._lines(event)

    def say(self, text: str) -> None:
        with self._printing:
            self._style = "dim"
            self._lines.say(text)

    def end(self) -> None:
        """Take the display away; the lines stay."""
        live, self._live, self._ended = self._live, None, True
        if live is not None:
            self._guarded(live.stop)
        with self._printing:
            self._style = "yellow"
            self._lines.end()

    def _print(self, line: str) -> None:
        text = Text(line, style=self._style or "", overflow="fold")
        self._guarded(lambda: self._console.print(text, soft_wrap=True))

    def _guarded(self, act: Callable[[], object]) -> None:
        try:
            act()
        except (OSError, ValueError):  # the terminal has gone
            return

    def _draw(self) -> RenderableType:
        tracker, hide = self._lines.tracker, self._lines.hide
        active, now = tracker.active(), tracker.now()
        rows = Table.grid(padding=(0, 1))
        for resource in active[:_MOST]:
            name = Text(resource_of(hide(resource.address)), style="bold", no_wrap=True)
            going_on = Text(hide("; ".join(resource.active.values())), overflow="ellipsis", no_wrap=True)
            rows.add_row(self._spinner, name, going_on, Text(f"{resource.seconds(now):.0f}s", style="dim"))
        seen, alive = self._running
        room = max(0, _MOST - len(active))
        for one in alive[:room]:
            later = structs.replace(one, seconds=one.seconds + now - seen)
            told = Text(steps.running(later, hide), overflow="ellipsis", no_wrap=True)
            rows.add_row(self._spinner, Text(resource_of(hide(one.address)), style="bold", no_wrap=True), told, "")
        left = len(active) + len(alive) - _MOST
        more = [Text(f"  and {left} more", style="dim")] if left > 0 else []
        return Group(rows, *more)
