"""What goes wrong with evidence.

Owns the room's exception. It is separate because a plan, which reads no evidence but may fail to, needs no more.
"""

from __future__ import annotations

import errno

from sandboxrun.errors import SandboxrunError


class EvidenceError(SandboxrunError):
    """Evidence could not be written or read."""


def disk_full(error: BaseException | None) -> bool:
    """Whether the evidence's disk, or the user's share of it, is full: with more room the next try gets everything."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        error = error.__cause__
    return False


def reason_of(error: BaseException) -> str:
    """An error in one line, for the index."""
    if isinstance(error, SandboxrunError):
        return "; ".join(diagnostic.message for diagnostic in error.diagnostics)
    if isinstance(error, OSError) and error.strerror:
        return error.strerror if error.filename is None else f"{error.filename}: {error.strerror}"
    return f"{type(error).__name__}: {error}"
