"""What verifying found: one verdict a control, from inside or from outside. Pure data."""

from __future__ import annotations

import enum

import attrs


class Verdict(enum.Enum):
    """What became of one control. Unknown is never counted as passed."""

    HOLDS = "holds"
    FAILS = "does not hold"
    INCONCLUSIVE = "inconclusive"
    NOT_APPLICABLE = "not applicable"

    @property
    def passes(self) -> bool:
        """Whether a verification with this verdict may succeed."""
        return self in (Verdict.HOLDS, Verdict.NOT_APPLICABLE)


@attrs.frozen(kw_only=True)
class Finding:
    """One control of one sandbox. `seen` may hold what an image wrote: escape it before it is shown."""

    sandbox: str
    control: str
    title: str
    field: str
    expected: str
    seen: str
    verdict: Verdict
    note: str = ""
