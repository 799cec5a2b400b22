"""What a row of the seccomp table is: system calls, when they may be made, and why; or that they may not, and why.

Owns the shapes only. The rows are in `allowed.py` and `refused.py`. Pure.
"""

from __future__ import annotations

from sandboxrun.data import Data


class Argument(Data, kw_only=False):
    """A condition on one argument of a call, counted from 0.

    The filter compares all 64 bits, where the kernel often reads 32 of them: so conditions only ever say what is
    allowed, and a value with high bits set meets none. `mask` picks the bits that are compared (None: all).
    """

    index: int
    value: int
    mask: int | None = None


When = tuple[Argument, ...]  # all of them must hold


class Allowed(Data):
    """Calls that may be made: always, or where one of `when` holds.

    `variant` limits the row to the named variant of the profile, `capability` to sandboxes that have it.
    """

    title: str
    why: str
    calls: str  # names, separated by white space, so that a line can be read
    when: tuple[When, ...] = ()
    variant: str | None = None
    capability: str | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """The calls' names, sorted."""
        return tuple(sorted(self.calls.split()))


class Denied(Data):
    """Calls that fail with `errno`. EPERM is what all unlisted calls give; another is written into the profile."""

    title: str
    why: str
    calls: str
    errno: int

    @property
    def names(self) -> tuple[str, ...]:
        """The calls' names, sorted."""
        return tuple(sorted(self.calls.split()))
