"""What sandboxes print, line by line: prefixed where there are several, with terminal escapes made visible.

Owns the lines' form. Usable from several threads: a line is never torn by another.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Sequence
from typing import TextIO

import click

from sandboxrun.cli.output import colour_of, coloured
from sandboxrun.errors import printable
from sandboxrun.plan.text import redact
from sandboxrun.report.diagnostics import without_commands

_LONGEST = 64 * 1024  # bytes of a line: what never ends one is written in pieces


class Lines:
    """A sink for output as the engine gives it: address, stream (1 stdout, 2 stderr), bytes."""

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
        self._begun: dict[tuple[str, int], bytes] = {}
        self._lock = threading.Lock()

    def __call__(self, address: str, stream: int, data: bytes) -> None:
        """Take some output."""
        with self._lock:
            if self._raw and not self._prefixed:
                self._put(stream, data)
                return
            whole = self._begun.pop((address, stream), b"") + data
            *lines, rest = whole.split(b"\n")
            if len(rest) > _LONGEST:
                lines, rest = [*lines, rest], b""
            for line in lines:
                self._line(address, stream, line, b"\n")
            if rest:
                self._begun[address, stream] = rest

    def finish(self) -> None:
        """Write what was begun and not ended by a line end."""
        with self._lock:
            for (address, stream), rest in self._begun.items():
                self._line(address, stream, rest, b"\n" if self._prefixed else b"")
            self._begun.clear()

    def _line(self, address: str, stream: int, line: bytes, end: bytes) -> None:
        prefix = self._prefix(address, stream) if self._prefixed else ""
        if self._raw:
            self._put(stream, prefix.encode() + line + end)
            return
        text = redact(line.removesuffix(b"\r").decode("utf-8", "backslashreplace"), self._sensitive)
        text = printable(text)
        if self._in_a_job:
            text = without_commands(text)
        self._put(stream, (prefix + text).encode("utf-8", "backslashreplace") + end)

    def _prefix(self, address: str, stream: int) -> str:
        text = f"{printable(address):<{self._width}} | "
        target = self._target(stream)
        return click.style(text, fg=self._colours.get(address)) if coloured(target) else text

    def _target(self, stream: int) -> TextIO:
        return sys.stderr if stream == 2 or self._aside else sys.stdout

    def _put(self, stream: int, data: bytes) -> None:
        target = self._target(stream)
        target.flush()
        target.buffer.write(data)
        target.flush()
