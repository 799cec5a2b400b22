"""What goes wrong with evidence.

Owns the room's exception. It stands by itself because a plan, which reads no evidence but may fail to, needs no more.
"""

from __future__ import annotations

from sandboxrun.errors import SandboxrunError


class EvidenceError(SandboxrunError):
    """Evidence could not be written or read."""


def reason_of(error: BaseException) -> str:
    """An error in one line, for the index."""
    if isinstance(error, SandboxrunError):
        return "; ".join(diagnostic.message for diagnostic in error.diagnostics)
    return f"{type(error).__name__}: {error}"
