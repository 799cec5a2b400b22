"""This process's terminal joined to one in a sandbox: keys go in, output comes out, the size follows.

Owns raw mode and its end: whatever happens, the terminal is given back as it was. What comes out is shown as it is:
a person asked for a terminal, and a terminal obeys escapes.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import termios
import tty
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any

from sandboxrun.threads import begin

if TYPE_CHECKING:
    from sandboxrun.backend.base import Terminal
    from sandboxrun.backend.docker.streams import Exec


class TerminalPump:
    """A context that holds the terminal in raw mode; calling it moves the bytes until the other side ends.

    Enter it in the main thread (it takes SIGWINCH); call it in any.
    """

    def __init__(self) -> None:
        self._keys = sys.stdin.fileno()
        self._before: list[Any] | None = None
        self._handler: Any = None
        self._wake = os.pipe()

    def __enter__(self) -> TerminalPump:
        os.set_blocking(self._wake[1], False)
        self._before = termios.tcgetattr(self._keys)
        tty.setraw(self._keys)
        self._handler = signal.signal(signal.SIGWINCH, lambda number, frame: self._woken())
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        signal.signal(signal.SIGWINCH, self._handler)
        if self._before is not None:
            termios.tcsetattr(self._keys, termios.TCSADRAIN, self._before)
        for end in self._wake:
            os.close(end)

    def _woken(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.write(self._wake[1], b"w")

    def __call__(self, terminal: Terminal, tell: Callable[[bytes], None]) -> None:
        """Move bytes until the other side ends; `tell` gets what comes out."""
        self._fit(terminal)
        listening = True  # until our input ends
        while True:
            sources = [terminal, self._wake[0], *([self._keys] if listening else [])]
            ready = [terminal] if terminal.pending() else select.select(sources, [], [])[0]
            if self._wake[0] in ready:
                os.read(self._wake[0], 64)
                self._fit(terminal)
            if terminal in ready:
                data = terminal.recv()
                if not data:
                    return
                tell(data)
            if self._keys in ready:
                typed = os.read(self._keys, 4096)
                listening = bool(typed)
                if typed:
                    terminal.send(typed)

    def _fit(self, terminal: Terminal) -> None:
        """The other side takes our size; one that has ended meanwhile takes none."""
        from sandboxrun.backend.errors import EngineError

        with contextlib.suppress(EngineError, OSError):
            size = os.get_terminal_size(self._keys)
            terminal.resize(size.lines, size.columns)


def show(data: bytes) -> None:
    """Write what came out, at once."""
    sys.stdout.buffer.write(data)
    sys.stdout.flush()


def send_input(command: Exec) -> None:
    """Send standard input to a command without a terminal, from a thread of its own, and end it where ours ends."""
    terminal = command.terminal
    assert terminal is not None

    def send() -> None:
        from sandboxrun.backend.errors import EngineError

        with contextlib.suppress(EngineError, OSError, ValueError):  # the command may end before its input does
            while data := os.read(sys.stdin.fileno(), 64 * 1024):
                terminal.send(data)
            terminal.end_input()

    begin(send, name="input", failed=lambda error: command.close())  # without its input it would wait for ever
