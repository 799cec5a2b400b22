"""What ^C and SIGTERM do to a change of the engine: the first asks for a clean stop, the second ends at once.

Owns the handlers while they are set. Before anything is being changed a signal ends the command as it would any.
"""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType, TracebackType
from typing import Any

from sandboxrun.cli.output import note

_CAUGHT = (signal.SIGINT, signal.SIGTERM)


class CleanStop:
    """A context: `stop` is set by the first signal after `begin`; a SandboxrunError that leaves it then has the
    signal's exit code."""

    def __init__(self) -> None:
        self.stop = threading.Event()
        self.caught: int | None = None
        self._begun = False
        self._before: dict[int, Any] = {}

    def begin(self) -> None:
        """From now on something is being changed: signals stop it cleanly."""
        self._begun = True

    def exit_code(self, usual: int) -> int:
        """The exit code: the signal's, when there was one."""
        return usual if self.caught is None else 128 + self.caught

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if not self._begun:
            raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(128 + number)
        if self.caught is not None:
            note("ended at once; the next apply or destroy puts right what was left")
            os._exit(128 + number)
        self.caught = number
        self.stop.set()
        note("stopping: what is under way is finished first; once more ends at once")

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
