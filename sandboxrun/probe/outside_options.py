"""What the engine shows of a running sandbox, option by option, against what is declared. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from sandboxrun.model.spec import BY_KEY, ROWS
from sandboxrun.plan.diff import Difference
from sandboxrun.plan.text import shown
from sandboxrun.probe.findings import Finding, Verdict

_LONGEST = 300
DRIFT = "changed on the engine since it was applied: apply puts it right"
STALE = "the profile has changed since it was applied: apply brings it in line"


def options(
    sandbox: str, differences: Iterable[Difference], *, applied: bool, sensitive: frozenset[str] = frozenset()
) -> tuple[Finding, ...]:
    """A finding for each option that differs; one for all of them where none does. `applied`: whether it is known
    what was asked when the sandbox was made, so that drift is told from a changed profile."""
    engines = [d for d in differences if BY_KEY[d.key].at is not None]
    if not engines:
        count = sum(row.at is not None and not row.at.engine.startswith("label ") for row in ROWS)
        return (
            Finding(
                sandbox=sandbox,
                control="options",
                title="the engine shows every option as declared",
                field="inspect",
                expected="as declared",
                seen=f"{count} options as declared",
                verdict=Verdict.HOLDS,
            ),
        )
    return tuple(_differs(sandbox, d, applied, sensitive) for d in engines)


def _differs(sandbox: str, difference: Difference, applied: bool, sensitive: frozenset[str]) -> Finding:
    placed = BY_KEY[difference.key].at
    return Finding(
        sandbox=sandbox,
        control=f"option {difference.key}",
        title=f"{difference.key} is as declared",
        field=placed.engine if placed is not None else "",
        expected=_short(shown(difference.after, sensitive)),
        seen=_short(shown(difference.before, sensitive)),
        verdict=Verdict.FAILS,
        note=DRIFT if difference.drift or not applied else STALE,
    )


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"
