"""One hold of a project's lock for all threads of a service.

Owns who of them may be in at once: those that make sandboxes side by side, whoever takes shared things away alone.
Must not know what they do.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from time import monotonic

LONGEST = 5.0  # seconds after which no more are let in together: other processes want the lock as well

Check = Callable[[], None]
Hold = Callable[[], AbstractContextManager[Check]]


class Gate:
    """`hold` takes the project's lock and gives the check that it is still held."""

    def __init__(self, hold: Hold) -> None:
        self._hold = hold
        self._changed = threading.Condition()
        self._turning = False  # the lock is being taken or given back, or somebody is in alone
        self._inside = 0
        self._wanted = 0  # who waits to be in alone goes first
        self._since = 0.0
        self._held: AbstractContextManager[Check] | None = None
        self._check: Check = lambda: None

    @contextmanager
    def together(self) -> Iterator[Check]:
        """In with others that make things. Raises what taking the lock raises."""
        with self._changed:
            self._changed.wait_for(self._admits)
            first = not self._inside
            self._turning = first
            self._inside += 1
        try:
            if first:
                self._enter()
            yield self._check
        finally:
            self._leave()

    def _admits(self) -> bool:
        if self._turning or self._wanted:
            return False
        return not self._inside or monotonic() < self._since + LONGEST

    def _enter(self) -> None:
        try:
            held = self._hold()
            self._check = held.__enter__()
            self._held, self._since = held, monotonic()
        finally:
            with self._changed:
                self._turning = False
                self._changed.notify_all()

    def _leave(self) -> None:
        with self._changed:
            self._inside -= 1
            if self._inside:
                return
            held, self._held, self._turning = self._held, None, True
        try:
            if held is not None:
                held.__exit__(None, None, None)
        finally:
            with self._changed:
                self._turning = False
                self._changed.notify_all()

    @contextmanager
    def alone(self) -> Iterator[Check]:
        """In with nobody else. Raises what taking the lock raises."""
        with self._changed:
            self._wanted += 1
            self._changed.wait_for(lambda: not self._turning and not self._inside)
            self._wanted -= 1
            self._turning = True
        try:
            with self._hold() as check:
                yield check
        finally:
            with self._changed:
                self._turning = False
                self._changed.notify_all()
