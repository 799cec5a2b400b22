"""What ^C and SIGTERM do to a change of the engine: the first asks for a clean stop, the second ends at once.

Owns the handlers while they are set. Before anything is being changed a signal ends the command as it would any.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any

from sandboxrun.cli.output import shout

if TYPE_CHECKING:
    from sandboxrun.backend.session import Event
    from sandboxrun.plan.changes import Plan

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

    def before(self, begin: Callable[[Plan], None]) -> Callable[[Plan], None]:
        """`begin`, from when on something is being changed: signals then stop it cleanly."""

        def begun(plan: Plan) -> None:
            self._begun = True
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
            if self._count > 2:
                _say("Aborted. The next run, apply or destroy cleans up.")
                os._exit(128 + number)
            forward(signal.Signals(number).name.removeprefix("SIG"))

        before = {number: signal.signal(number, handle) for number in (*_CAUGHT, signal.SIGHUP, signal.SIGQUIT)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
