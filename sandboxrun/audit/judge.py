"""Judging: rules over subjects, then the policy, the waivers and the baseline over what they found.

Owns the one function that `audit`, `plan`, `apply` and `run` judge by; and the forms of what somebody accepted, until
when, and of what was there before: comments beside the line, a file of waivers, a file of fingerprints. What of them is
expired, unused, unknown or incomplete is a finding of its own. Pure: what day it is, is given.
"""

from __future__ import annotations

import fnmatch
import re
import shlex
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import date
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any

import msgspec

from sandboxrun.audit.finding import AuditFinding, Hit, Rule, Severity, in_order, placed, raised
from sandboxrun.audit.policy import Policy, breaches
from sandboxrun.audit.rules import by_id, rules
from sandboxrun.audit.rules.meta import EXPIRED, INCOMPLETE, NOT_WAIVABLE, STALE_BASELINE, UNKNOWN, UNTRUSTED, UNUSED
from sandboxrun.audit.subject import Subject
from sandboxrun.data import Data
from sandboxrun.errors import ListNode, MapNode, Node, Problems, Scalar, SourceFile, Span, did_you_mean, few, is_null
from sandboxrun.spec.types import describe

if TYPE_CHECKING:
    from sandboxrun.spec.project import Profile

# -- waivers and the baseline

_ABOUT_WAIVERS = frozenset(
    rule.id for rule in (EXPIRED, INCOMPLETE, NOT_WAIVABLE, STALE_BASELINE, UNKNOWN, UNTRUSTED, UNUSED)
)


class Waiver(Data):
    """One accepted risk. An inline one is about its own line; `file` and `sandbox` are patterns of one in a file."""

    rules: tuple[str, ...]
    until: date | None = None
    owner: str = ""
    reason: str = ""
    span: Span | None = None
    file: str = "*"
    sandbox: str = "*"
    line: int | None = None  # of an inline one: the line that it waives
    about: str = ""  # that line's text

    @property
    def identity(self) -> tuple[object, ...]:
        """What must be the same for an inline one to be the one of another revision."""
        return (self.rules, self.until, self.owner, self.reason, self.about)


# Whether an inline waiver counts: at all, and for a finding.
Trusted = Callable[[Waiver, "AuditFinding | None"], bool]


def trusts_all(waiver: Waiver, finding: AuditFinding | None) -> bool:
    """Where no revision is trusted more than the files at hand."""
    return True


class KnownFindings(Data):
    """The fingerprints of findings that were there before."""

    fingerprints: frozenset[str] = frozenset()
    name: str = ""


# -- reading

_INLINE = re.compile(r"(?:^|\s)#\s*sandboxrun:\s*ignore\[([^\]]*)\](.*)$")
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}")


def inline(file: SourceFile) -> Iterator[Waiver]:
    """The waivers in a file's comments: of their own line, or of the next one that is not a comment."""
    if "sandboxrun:" not in file.text:
        return
    lines = file.text.splitlines()
    following, after = [0] * (len(lines) + 1), 0  # for each line, the next that is no comment; itself where none is
    for number in range(len(lines), 0, -1):
        following[number] = after or number
        text = lines[number - 1].lstrip()
        after = number if text and not text.startswith("#") else after
    for number, line in enumerate(lines, start=1):
        found = _INLINE.search(line) if "sandboxrun:" in line else None
        if found is None:
            continue
        at = line.index("#", found.start())
        target = number if line[:at].strip() else following[number]
        try:
            parts = [part.partition("=") for part in shlex.split(found[2])]
        except ValueError:  # a quote that is not closed
            parts = []
        rules = (rule.strip() for rule in found[1].split(","))
        span = Span(file=file, line=number, column=at + 1, length=len(line.rstrip()) - at)
        words = {name: value for name, equals, value in parts if equals} | {"file": file.name, "sandbox": "*"}
        yield _waiver(rules, words, span, line=target, about=lines[target - 1].strip())


def _waiver(rules: Iterable[str], words: Mapping[str, str], span: Span | None, **at: Any) -> Waiver:
    """A waiver of what its form says, however it is written."""
    until = words.get("until", "")
    try:
        day = date.fromisoformat(until) if _DATE.fullmatch(until) else None
    except ValueError:
        day = None
    given: dict[str, Any] = {key: words[key] for key in ("owner", "reason", "file", "sandbox") if key in words}
    return Waiver(rules=tuple(rule.upper() for rule in rules if rule), until=day, span=span, **given, **at)


MOST_WAIVERS = 1000  # of a file: each may be asked of each finding
_KEYS = ("rules", "until", "owner", "reason", "file", "sandbox")


def parse_waivers(node: Node | None, problems: Problems) -> tuple[Waiver, ...]:
    """A file of waivers: `waivers:` with a list of rules, until, owner, reason, and patterns of file and sandbox."""
    listed = node.get("waivers") if isinstance(node, MapNode) else node
    if listed is None or is_null(listed):
        return ()
    if not isinstance(listed, ListNode):
        problems.add(
            f"expected a list of waivers, found {describe(listed)}", listed.span, "write waivers: [{rules: …}]"
        )
        return ()
    if len(listed.items) > MOST_WAIVERS:
        problems.add(f"more than {MOST_WAIVERS} waivers", listed.span, "use patterns, or a baseline")
        return ()
    found = []
    for item in listed.items:
        if not isinstance(item, MapNode):
            problems.add(f"expected a waiver, found {describe(item)}", item.span, f"its keys are {', '.join(_KEYS)}")
            continue
        for key, _ in item.entries:
            if key.value not in _KEYS:
                help = did_you_mean(str(key.value), _KEYS) or f"known are {', '.join(_KEYS)}"
                problems.add(f'unknown key "{key.value}" in a waiver', key.span, help)
        words = {str(key.value): value for key, value in item.entries}
        given = words.get("rules")
        rules = given.items if isinstance(given, ListNode) else (given,) if given is not None else ()
        texts = {key: _text(value) for key, value in words.items() if isinstance(value, Scalar)}
        found.append(_waiver((_text(rule) for rule in rules if isinstance(rule, Scalar)), texts, item.span))
    return tuple(found)


def _text(node: Scalar) -> str:
    """A value as text; a key with nothing says nothing."""
    return "" if is_null(node) else str(node.value)


def parse_baseline(data: Any, problems: Problems, name: str) -> KnownFindings:
    """A baseline from its JSON data."""
    listed = data.get("findings") if isinstance(data, dict) else None
    if not isinstance(listed, list) or not all(isinstance(item, dict) for item in listed):
        problems.add(f"{name} is not a baseline", help="write it with sandboxrun audit --write-baseline")
        return KnownFindings(name=name)
    return KnownFindings(fingerprints=frozenset(str(item.get("fingerprint")) for item in listed), name=name)


def baseline_data(findings: Iterable[AuditFinding], earlier: KnownFindings | None) -> dict[str, Any]:
    """What a baseline's file holds: all open findings; where there was one before, only those it had too. What is wrong
    with waivers and the baseline itself is never of it."""
    kept = [
        finding
        for finding in findings
        if finding.status != "waived"
        and finding.rule not in _ABOUT_WAIVERS
        and (earlier is None or finding.fingerprint in earlier.fingerprints)
    ]
    return {
        "format_version": "1.0",
        "findings": [
            {"fingerprint": f.fingerprint, "rule": f.rule, "file": f.path, "message": f.message}
            for f in sorted(kept, key=lambda f: (f.path, f.rule, f.fingerprint))
        ],
    }


# -- what they say of findings


def judged(
    findings: Iterable[AuditFinding],
    files: Iterable[SourceFile],
    waivers: Iterable[Waiver],
    baseline: KnownFindings | None,
    policy: Policy,
    today: date,
    trusted: Trusted = trusts_all,
) -> Iterator[AuditFinding]:
    """The findings, each with its status; and what is wrong with waivers and baseline, as findings. `trusted` says
    whether an inline waiver counts."""
    accepted: list[Waiver] = []
    for waiver in (*waivers, *(one for file in files for one in inline(file))):
        faults = list(_faults(waiver, policy, today))
        if waiver.line is not None and not faults and not trusted(waiver, None):
            message = "the trusted revision has no such waiver of this line: it waives nothing"
            faults.append(_raised(UNTRUSTED, waiver, message))
        yield from faults
        if not faults:
            accepted.append(waiver)
    covering_of = _covering(accepted)
    used: set[int] = set()
    seen: set[str] = set()
    for finding in findings:
        every = covering_of(finding)
        covering = [one for one in every if one.line is None or trusted(one, finding)]
        used |= {id(one) for one in every}
        if every and not covering:
            message = f"the trusted revision does not waive {finding.rule} of {few(finding.subjects, 3)} here"
            yield _raised(UNTRUSTED, every[0], message)
        if covering:
            waiver = covering[0]
            reason = f"{waiver.reason} (until {waiver.until}{f', {waiver.owner}' if waiver.owner else ''})"
            yield msgspec.structs.replace(finding, status="waived", reason=reason)
        elif baseline is not None and finding.fingerprint in baseline.fingerprints:
            seen.add(finding.fingerprint)
            yield msgspec.structs.replace(finding, status="baseline")
        else:
            yield finding
    for waiver in accepted:
        if id(waiver) not in used:
            yield _raised(UNUSED, waiver, f"{', '.join(waiver.rules)} found nothing that this waives")
    if baseline is not None and (gone := len(baseline.fingerprints - seen)):
        message = f"{gone} of {baseline.name} {'is' if gone == 1 else 'are'} no longer found"
        yield _raised(STALE_BASELINE, Waiver(rules=()), message)


def _covering(waivers: Iterable[Waiver]) -> Callable[[AuditFinding], list[Waiver]]:
    """Which of the waivers are about a finding."""
    beside: dict[tuple[str, int], list[Waiver]] = defaultdict(list)
    of_rule: dict[str, list[tuple[Waiver, re.Pattern[str], re.Pattern[str]]]] = defaultdict(list)
    for waiver in waivers:
        if waiver.line is not None:
            beside[waiver.file, waiver.line].append(waiver)
            continue
        file, sandbox = (re.compile(fnmatch.translate(pattern)) for pattern in (waiver.file, waiver.sandbox))
        for rule in dict.fromkeys(waiver.rules):
            of_rule[rule].append((waiver, file, sandbox))

    def covering(finding: AuditFinding) -> list[Waiver]:
        found = [
            waiver
            for waiver, file, sandbox in of_rule.get(finding.rule, ())
            if file.match(finding.path)
            and all(sandbox.match(one) or one.partition("[")[0] == waiver.sandbox for one in finding.subjects)
        ]
        span = finding.span
        near = beside.get((span.file.name, span.line), ()) if span is not None else ()
        return [*found, *(waiver for waiver in near if finding.rule in waiver.rules)]

    return covering


def _faults(waiver: Waiver, policy: Policy, today: date) -> Iterator[AuditFinding]:
    known = by_id()
    if not waiver.rules:
        yield _raised(UNKNOWN, waiver, "the waiver names no rule")
    for rule in waiver.rules:
        if rule not in known:
            yield _raised(UNKNOWN, waiver, f"{rule} is not a rule", _nearest(rule))
        elif waiver.line is not None and not policy.lets_inline(known[rule]):
            yield _raised(NOT_WAIVABLE, waiver, f"{rule} can't be waived by a comment")
    missing = [
        what
        for what, given in (("until", waiver.until), ("reason", waiver.reason), ("owner", waiver.owner))
        if not given and not (what == "owner" and waiver.line is not None)
    ]
    if missing:
        yield _raised(INCOMPLETE, waiver, f"the waiver has no {' and no '.join(missing)}: it waives nothing")
    elif waiver.until is not None and waiver.until < today:
        yield _raised(EXPIRED, waiver, f"the waiver of {', '.join(waiver.rules)} expired on {waiver.until}")
    elif waiver.until and policy.longest is not None and (waiver.until - today).days > policy.longest:
        message = f"the policy lets a waiver run {policy.longest} days, and this runs until {waiver.until}"
        yield _raised(INCOMPLETE, waiver, message)


@lru_cache(1000)  # thousands of comments may name one rule
def _nearest(rule: str) -> str | None:
    return did_you_mean(rule, by_id())


def _raised(rule: Rule, waiver: Waiver, message: str, help: str | None = None) -> AuditFinding:
    return raised(rule, Hit("", message, help=help), span=waiver.span)


# -- judging


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
    waivers: tuple[Waiver, ...] = ()
    baseline: KnownFindings | None = None
    today: date = date.min
    strict: bool = False
    trusted: Trusted = trusts_all
    greatest: Profile | None = None  # no sandbox may exceed its sandboxes
    path: Callable[[str], str] = lambda name: name  # a file's name → its path from the project's root
    named: tuple[str, ...] = ()  # the files of these that the caller named


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
