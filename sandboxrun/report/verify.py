"""A verification's findings, ready to be told: counted, in order, masked, and with what to do.

Owns what every form of the report shares. Everything that is told passes the mask and `one_line`. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import groupby

import attrs

from sandboxrun.plan.text import one_line, redact
from sandboxrun.probe.findings import Finding, Verdict

LONGEST = 1000  # characters of what was seen: the rest is in nobody's interest but an attacker's
# What matters first.
ORDER = (Verdict.FAILS, Verdict.INCONCLUSIVE, Verdict.HOLDS, Verdict.NOT_APPLICABLE)
_WORDS = {
    Verdict.HOLDS: ("holds", "hold"),
    Verdict.FAILS: ("does not hold", "do not hold"),
    Verdict.INCONCLUSIVE: ("inconclusive", "inconclusive"),
    Verdict.NOT_APPLICABLE: ("not applicable", "not applicable"),
}


@attrs.frozen(kw_only=True)
class Report:
    """What a verification found of a project. `running`: live sandboxes were looked at from outside; else the probe
    ran in each."""

    project: str
    findings: tuple[Finding, ...]
    running: bool = False
    sensitive: frozenset[str] = attrs.field(default=frozenset(), repr=False)

    @property
    def verified(self) -> bool:
        """Whether all holds: what is inconclusive does not count, and nothing found is nothing verified."""
        return bool(self.findings) and all(finding.verdict.passes for finding in self.findings)

    @property
    def sandboxes(self) -> Mapping[str, tuple[Finding, ...]]:
        """The findings by sandbox, in the order of the first of each; what matters first."""
        order = list(dict.fromkeys(finding.sandbox for finding in self.findings))
        named = sorted(self.findings, key=lambda f: (order.index(f.sandbox), ORDER.index(f.verdict)))
        return {name: tuple(group) for name, group in groupby(named, key=lambda f: f.sandbox)}

    @property
    def faults(self) -> tuple[Finding, ...]:
        """Those that do not hold or are inconclusive, by sandbox."""
        return tuple(f for group in self.sandboxes.values() for f in group if not f.verdict.passes)

    def told(self, text: str) -> str:
        """A text as it may be told: masked, on one line, bounded."""
        cut = text if len(text) <= LONGEST else f"{text[:LONGEST]}… ({len(text)} characters)"
        return one_line(redact(cut, self.sensitive))

    def advice(self, finding: Finding) -> str:
        """What to do about one that does not hold or is inconclusive; "" for others."""
        control = self.told(finding.control)
        match finding.verdict:
            case Verdict.HOLDS | Verdict.NOT_APPLICABLE:
                return ""
            case Verdict.INCONCLUSIVE:
                return f"what can't be told counts as not held; docs/verify.md says how {control} is seen"
            case Verdict.FAILS if self.running:
                name = finding.sandbox.partition(" (run ")[0]
                return self.told(
                    f"what runs is not what is declared: `sandboxrun apply --replace {name}` makes it anew"
                )
            case _:
                return (
                    f"the engine does not enforce it: `sandboxrun doctor` says what it offers, docs/verify.md how "
                    f"{control} is seen"
                )


def counts(findings: Iterable[Finding]) -> Mapping[Verdict, int]:
    """How many of each verdict."""
    every = [finding.verdict for finding in findings]
    return {verdict: every.count(verdict) for verdict in _WORDS}


def counted(findings: Iterable[Finding]) -> str:
    """The counts in words: `31 hold, 0 do not hold, 1 inconclusive, 4 not applicable`."""
    found = counts(findings)
    return ", ".join(f"{count} {_WORDS[verdict][count != 1]}" for verdict, count in found.items())


def ended(report: Report) -> str:
    """The last line."""
    return f"{counted(report.findings)} ({report.project})"
