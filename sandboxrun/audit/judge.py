"""Judging: rules over subjects, then the policy, the waivers and the baseline over what they found.

Owns the one function that `audit`, `plan`, `apply` and `run` judge by. Pure: what day it is, is given.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import date
from functools import cache
from typing import TYPE_CHECKING

import msgspec

from sandboxrun.audit.finding import AuditFinding, Severity, in_order, placed
from sandboxrun.audit.policy import Policy, breaches
from sandboxrun.audit.rules import by_id, rules
from sandboxrun.audit.subject import Subject
from sandboxrun.audit.waivers import KnownFindings, Waiver, Waivers, judged
from sandboxrun.data import Data
from sandboxrun.source import SourceFile

if TYPE_CHECKING:
    from sandboxrun.spec.project import Profile


class Gap(Data):
    """What could not be audited, and why: not audited is not clean."""

    what: str
    why: str
    file: str = ""


class AuditVerdict(Data):
    """The result of a review. `findings` are all, those waived or in the baseline too."""

    findings: tuple[AuditFinding, ...]
    gaps: tuple[Gap, ...] = ()
    files: tuple[str, ...] = ()
    subjects: tuple[str, ...] = ()

    @property
    def open(self) -> tuple[AuditFinding, ...]:
        """Those that count."""
        return tuple(finding for finding in self.findings if not finding.status)

    def at_least(self, severity: Severity) -> tuple[AuditFinding, ...]:
        """The open ones of at least that severity."""
        return tuple(finding for finding in self.open if finding.severity >= severity)

    @property
    def counts(self) -> Mapping[str, int]:
        """How many are open, by severity, the worst first."""
        return {
            severity.word: sum(finding.severity is severity for finding in self.open)
            for severity in sorted(Severity, reverse=True)
        }


class ReviewTerms(Data):
    """What a review is judged by, beside the rules. `strict`: rules for the strict reader too."""

    policy: Policy = Policy()
    waivers: Waivers = Waivers()
    baseline: KnownFindings | None = None
    today: date = date.min
    strict: bool = False
    trusted: Callable[[Waiver], bool] = lambda waiver: True  # whether an inline waiver counts
    greatest: Profile | None = None  # no sandbox may exceed its sandboxes
    path: Callable[[str], str] = lambda name: name  # a file's name → its path from the project's root


def look(subjects: Iterable[Subject], *, when: str = "") -> Iterator[AuditFinding]:
    """What every rule finds in the subjects, before any policy. `when`: under which values of variables."""
    every = rules()
    for subject in subjects:
        for rule in every:
            for hit in rule.check(subject):
                yield placed(rule, hit, subject, when=when)


def judge(
    subjects: Iterable[Subject],
    terms: ReviewTerms,
    *,
    files: Iterable[SourceFile] = (),
    looked: Iterable[AuditFinding] | None = None,
    others: Iterable[AuditFinding] = (),
    gaps: Iterable[Gap] = (),
) -> AuditVerdict:
    """The verdict on subjects. `files` are the texts whose comments may waive; `looked` what `look` found in the
    subjects, where that is known; `others` findings made elsewhere."""
    every, texts = tuple(subjects), tuple({file.name: file for file in files}.values())
    found = [*(look(every) if looked is None else looked), *others]
    for subject in every:
        home = subject.find("", None)
        path = terms.path(home.file.name) if home is not None else ""
        found += breaches(subject, path, terms.policy)
    known, policy = by_id(), terms.policy

    @cache  # many findings are of one rule in one file
    def severity_of(id: str, path: str) -> Severity | None:
        """None where nobody is to see it."""
        rule = known[id]
        hidden = rule.strict and not terms.strict and not policy.names(rule, path)
        return None if hidden else policy.severity(rule, path)

    kept = []
    for finding in in_order(found):
        path = terms.path(finding.home.file.name) if finding.home is not None else ""
        severity = severity_of(finding.rule, path)
        if severity is not None:
            kept.append(msgspec.structs.replace(finding, severity=severity, path=path))
    return AuditVerdict(
        findings=in_order(judged(kept, texts, terms.waivers, terms.baseline, terms.policy, terms.today, terms.trusted)),
        gaps=tuple(gaps),
        files=tuple(file.name for file in texts),
        subjects=tuple(subject.name for subject in every),
    )
