"""What sandboxes print: as they wrote it where a program reads it, readable and harmless where a person does; and this
process's terminal joined to one of a sandbox, which is given back as it was whatever happens.

Owns the form. One sandbox, to a pipe or a file: byte for byte. On a terminal: terminal escapes made visible. Several:
line by line behind their names, readable too. Usable from several threads: a line is never torn by another.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import signal
import sys
import termios
import threading
import tty
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, TextIO

import click

from sandboxrun.cli.main import BROKEN_PIPE
from sandboxrun.cli.output import colour_of, coloured, without_commands
from sandboxrun.errors import ExitCode, SandboxrunError, longest_spelling, printable, redact
from sandboxrun.report.streams import write_all
from sandboxrun.threads import begin

if TYPE_CHECKING:
    from sandboxrun.backend.base import Terminal
    from sandboxrun.backend.docker.client import Exec

_PLAIN = bytes(range(ord(" "), 0x7F)) + b"\n\t"  # what is shown as it is, of ASCII
_BLANKS = {ord("\n"): None, ord("\t"): None}
LONGEST = 1 << 20  # bytes of a line that are looked at as one: a longer one is written in parts


class OutputFailed(SandboxrunError):
    """Stdout or stderr did not take what was to be written."""

    def __init__(self, error: OSError, help: str | None = None) -> None:
        gone = error.errno in (errno.EPIPE, errno.EBADF)
        fault = f"cannot write to {error.filename}: {error.strerror or error}"
        super().__init__(f"{error.filename} was closed before everything was written" if gone else fault, help=help)
        self.exit_code = BROKEN_PIPE if gone else ExitCode.ERROR


class Lines:
    """A sink for output as the engine gives it: address, stream (1 stdout, 2 stderr), bytes.

    It does not raise when it can't write: what comes then is dropped, and `failure` says why.
    """

    def __init__(
        self,
        addresses: Sequence[str],
        *,
        raw: bool = False,
        aside: bool = False,
        sensitive: frozenset[str] = frozenset(),
    ) -> None:
        """Lines are prefixed where there are several addresses. `raw`: bytes as they come, escapes and all; `aside`:
        all to stderr, because stdout is for something else. `sensitive` texts are masked, unless raw."""
        self._prefixed = len(addresses) > 1
        self._aside, self._sensitive = aside, sensitive
        self._raw = raw
        self._in_a_job = os.environ.get("GITHUB_ACTIONS") == "true"  # whose log obeys lines such as ::add-path::
        self._width = max(map(len, addresses), default=0)
        self._colours = {address: colour_of(n) for n, address in enumerate(addresses)}
        self._begun: dict[tuple[str, int], bytearray] = {}
        self._inside: set[tuple[str, int]] = set()  # whose line was begun, and written up to `_begun`
        self._kept_back = max(4, longest_spelling(sensitive))
        self._lock = threading.Lock()
        self._failures: dict[TextIO, OSError] = {}

    @property
    def failure(self) -> OSError | None:
        """What kept it from writing, if anything did."""
        return next(iter(self._failures.values()), None)

    def check(self, help: str | None = None) -> None:
        """Raise it: BrokenPipeError, which ends a command quietly unless there is `help` to give, or OutputFailed."""
        error = self.failure
        if isinstance(error, BrokenPipeError) and help is None:
            raise error
        if error is not None:
            raise OutputFailed(error, help) from error

    def __call__(self, address: str, stream: int, data: bytes) -> None:
        """Take some output."""
        with self._lock:
            readable = self._sensitive or self._in_a_job or self._target(stream).isatty()
            if not self._prefixed and (self._raw or not readable):  # as they come, without a look at the lines in them
                self._put(stream, data)
                return
            begun, ended = self._begun.setdefault((address, stream), bytearray()), data.rfind(b"\n") + 1
            if ended:
                whole = bytes(begun) + data[:ended]
                begun.clear()
                if self._is_plain(whole):
                    self._inside.discard((address, stream))
                    self._put(stream, whole)
                else:
                    lines = whole[:-1].split(b"\n")
                    self._put(stream, b"".join(self._form(address, stream, line, b"\n") for line in lines))
            begun += data[ended:]
            if len(begun) > LONGEST:
                self._write_begun(address, stream, begun)

    def finish(self) -> None:
        """Write what was begun and not ended by a line end."""
        if not self._lock.acquire(timeout=0.2):
            return  # a write is stuck: nobody reads
        try:
            for (address, stream), rest in self._begun.items():
                if rest:
                    self._put(stream, self._form(address, stream, bytes(rest), b"\n" if self._prefixed else b""))
            self._begun.clear()
        finally:
            self._lock.release()

    def _write_begun(self, address: str, stream: int, begun: bytearray) -> None:
        """Write the beginning of a long line, and take it away; what stays is what a text to be masked, or a character
        of UTF-8, may begin with."""
        line = bytes(begun)
        if self._is_plain(line):
            self._inside.add((address, stream))
            self._put(stream, line)
            begun.clear()
            return
        line = _coded(self._masked(_text(line), begins=False))
        at = len(line) - self._kept_back  # where no character of UTF-8 is cut
        cut = next((at - back for back in range(4) if line[at - back] & 0xC0 != 0x80), at)
        self._put(stream, self._form(address, stream, line[:cut], b""))
        begun[:] = line[cut:]

    def _is_plain(self, data: bytes) -> bool:
        """Whether there is nothing in it that any form of it would change: looked at as one, since an agent may write
        a million lines, or one of a gigabyte."""
        if self._prefixed or self._sensitive or self._in_a_job:
            return False
        if not data.translate(None, _PLAIN):
            return True
        try:
            return data.decode().translate(_BLANKS).isprintable()
        except UnicodeDecodeError:
            return False

    def _form(self, address: str, stream: int, line: bytes, end: bytes) -> bytes:
        """A line, or a part of a long one, which `end` does not end."""
        begins = (address, stream) not in self._inside
        (self._inside.discard if end else self._inside.add)((address, stream))
        prefix = ""
        if self._prefixed:
            prefix, end, coloured_as = f"{printable(address):<{self._width}} | ", b"\n", self._colours.get(address)
            prefix = click.style(prefix, fg=coloured_as) if coloured(self._target(stream)) else prefix
        if self._raw:
            return prefix.encode() + line + end
        readable = self._prefixed or self._target(stream).isatty()
        if readable:
            line = line.removesuffix(b"\r") if end else line
            text = printable(self._masked(line.decode("utf-8", "backslashreplace"), begins))
            return (prefix + text).encode("utf-8", "backslashreplace") + end
        return _coded(self._masked(_text(line), begins)) + end

    def _masked(self, text: str, begins: bool) -> str:
        text = redact(text, self._sensitive)
        if not self._in_a_job:
            return text
        return without_commands(text) if begins or self._prefixed else without_commands(f".{text}")[1:]

    def _target(self, stream: int) -> TextIO:
        return sys.stderr if stream == 2 or self._aside else sys.stdout

    def _put(self, stream: int, data: bytes) -> None:
        target = self._target(stream)
        if not data or target in self._failures:
            return
        try:
            write_all(target, data)
        except OSError as error:
            self._failures[target] = error


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


def _coded(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


# -- this process's terminal joined to one in a sandbox: keys go in, output comes out, the size follows
#
# What comes out is shown as it is: a person asked for a terminal, and a terminal obeys escapes.


@contextlib.contextmanager
def terminal_pump() -> Iterator[Callable[[Terminal, Callable[[bytes], None]], None]]:
    """Holds the terminal in raw mode; what it gives moves the bytes until the other side ends, and tells what comes
    out. Enter it in the main thread (it takes SIGWINCH); call it in any."""
    from sandboxrun.backend.errors import EngineError

    keys, (wake, woken) = sys.stdin.fileno(), os.pipe()
    os.set_blocking(woken, False)

    def resized(number: int, frame: object) -> None:
        with contextlib.suppress(BlockingIOError):
            os.write(woken, b"w")

    def fit(terminal: Terminal) -> None:
        """The other side takes our size; one that has ended meanwhile takes none."""
        with contextlib.suppress(EngineError, OSError):
            size = os.get_terminal_size(keys)
            terminal.resize(size.lines, size.columns)

    def pump(terminal: Terminal, tell: Callable[[bytes], None]) -> None:
        fit(terminal)
        listening = True  # until our input ends
        while True:
            sources = [terminal, wake, *([keys] if listening else [])]
            ready = [terminal] if terminal.pending() else select.select(sources, [], [])[0]
            if wake in ready:
                os.read(wake, 64)
                fit(terminal)
            if terminal in ready:
                data = terminal.recv()
                if not data:
                    termios.tcsetattr(keys, termios.TCSADRAIN, before)  # Ctrl-C is for us from here on
                    return
                tell(data)
            if keys in ready:
                typed = os.read(keys, 4096)
                listening = bool(typed)
                if typed:
                    terminal.send(typed)

    before = termios.tcgetattr(keys)
    tty.setraw(keys)
    handler = signal.signal(signal.SIGWINCH, resized)
    try:
        yield pump
    finally:
        signal.signal(signal.SIGWINCH, handler)
        termios.tcsetattr(keys, termios.TCSADRAIN, before)
        os.close(wake)
        os.close(woken)


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
