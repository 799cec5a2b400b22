"""What a rule is and what it finds: severities and the matrix they come from, references, findings, fingerprints.

Owns the vocabulary of the review. Pure; no single rule is known here.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Any

import msgspec

from sandboxrun.audit.subject import Subject
from sandboxrun.data import Data
from sandboxrun.errors import Span, place_order
from sandboxrun.spec.types import freeze


class Severity(enum.IntEnum):
    """How bad a finding is; comparable."""

    INFO = 0
    LOW = 1
    MEDIUM = 2
    HIGH = 3
    CRITICAL = 4

    @property
    def word(self) -> str:
        """The name as users write it."""
        return self.name.lower()


SEVERITIES: Mapping[str, Severity] = freeze({severity.word: severity for severity in Severity})


class Gain(enum.Enum):
    """What whoever controls the sandbox's process wins."""

    HOST = "control of the host"
    DATA = "data or credentials that are not the sandbox's"
    REACH = "connections that the task does not need"
    WORK = "the host's capacity, at the cost of others"
    TRACE = "less is known about what ran"


class Directness(enum.Enum):
    """How directly the setting gives it."""

    DIRECT = "by the setting alone"
    STEP = "with one more step that is usually possible"
    INDIRECT = "only where another defence has failed"


HOST, DATA, REACH, WORK, TRACE = Gain
DIRECT, STEP, INDIRECT = Directness
MATRIX: Mapping[tuple[Gain, Directness], Severity] = MappingProxyType(
    {
        (gain, how): severity
        for gain, severities in {
            HOST: (Severity.CRITICAL, Severity.HIGH, Severity.MEDIUM),
            DATA: (Severity.HIGH, Severity.MEDIUM, Severity.LOW),
            REACH: (Severity.HIGH, Severity.MEDIUM, Severity.LOW),
            WORK: (Severity.MEDIUM, Severity.LOW, Severity.INFO),
            TRACE: (Severity.MEDIUM, Severity.LOW, Severity.INFO),
        }.items()
        for how, severity in zip(Directness, severities, strict=True)
    }
)


class Reference(msgspec.Struct, frozen=True):
    """A control elsewhere that asks for the same."""

    standard: str
    control: str

    def __str__(self) -> str:
        return f"{self.standard} {self.control}"

    @property
    def tag(self) -> str:
        """One word for tags of reports: `external/cwe/cwe-250`, as code-scanning services read it."""
        if self.standard == "CWE":
            return f"external/cwe/cwe-{self.control}"
        return f"{self.standard}-{self.control}".replace(" ", "-").lower()


class OptionEdit(Data, kw_only=False):
    """A change of the option that a finding is about, or of the item of it, that settles it: `value` is YAML, `None`
    removes it. `safe`: the program notices nothing."""

    value: str | None
    safe: bool = False


REMOVE = OptionEdit(None)


class Hit(Data, kw_only=False):
    """What a rule saw in a subject: at an option, or an item of it."""

    key: str
    message: str
    item: str | None = None
    help: str | None = None  # instead of the rule's own fix
    edit: OptionEdit | None = None


RuleCheck = Callable[[Subject], Iterator[Hit]]


class Rule(Data):
    """One rule, declared once: everything that reports and docs say of it derives from here.

    `strict`: shown to the strict reader only. `inline`: whether a comment in the audited file can waive it.
    `bad` and `good` are options of one sandbox, or a whole profile or Compose file where they have its top-level key.
    """

    id: str
    title: str
    gain: Gain
    how: Directness
    references: tuple[Reference, ...]
    why: str
    fix: str
    bad: str
    good: str
    check: RuleCheck
    strict: bool = False
    inline: bool = True

    @property
    def severity(self) -> Severity:
        """By the matrix."""
        return MATRIX[self.gain, self.how]

    @property
    def family(self) -> str:
        """The first digit's name."""
        return FAMILIES[self.id[3]]


FAMILIES: Mapping[str, str] = freeze(
    {"1": "privilege", "2": "filesystem", "3": "network", "4": "resources", "5": "secrets", "6": "image", "9": "meta"}
)


def about(
    id: str,
    title: str,
    gain: Gain,
    how: Directness,
    *,
    cis: str | tuple[str, ...] = (),
    cwe: int | tuple[int, ...] = (),
    nist: str | tuple[str, ...] = (),
    pss: str | tuple[str, ...] = (),
) -> Mapping[str, Any]:
    """The head of a rule: what it is called, what the matrix has it under, and the controls that ask for the same: of
    the CIS Docker Benchmark 1.6.0, the CWE list, NIST SP 800-190 and the Kubernetes Pod Security Standards."""
    named = (("CIS Docker Benchmark", cis), ("CWE", cwe), ("NIST SP 800-190", nist), ("Pod Security Standards", pss))
    references = tuple(
        Reference(standard, str(control))
        for standard, given in named
        for control in (given if isinstance(given, tuple) else (given,))
    )
    return {"id": id, "title": title, "gain": gain, "how": how, "references": references}


def rule(
    head: Mapping[str, Any],
    *,
    why: str,
    fix: str,
    bad: str = "",
    good: str = "",
    strict: bool = False,
    inline: bool = True,
) -> Callable[[RuleCheck], Rule]:
    """Declare a rule: a decorator of its check, a generator of hits in one subject. `head` is what `about` gives."""
    return lambda check: Rule(**head, why=why, fix=fix, bad=bad, good=good, check=check, strict=strict, inline=inline)


def where(holds: Callable[[Subject], bool], key: str, message: str, **more: Any) -> RuleCheck:
    """The check of a rule that is one condition."""
    hit = Hit(key, message, **more)
    return lambda subject: iter((hit,) if holds(subject) else ())


class AuditFinding(Data):
    """A hit as it is reported. `subjects` are all sandboxes that it was found in at this place."""

    rule: str
    title: str
    severity: Severity
    message: str
    key: str
    subjects: tuple[str, ...]
    span: Span | None = None
    home: Span | None = None  # where the sandbox itself is declared
    item: str | None = None
    via: str = ""  # the base it comes from, "default", …
    help: str = ""
    references: tuple[Reference, ...] = ()
    edit: OptionEdit | None = None
    when: str = ""  # the values of variables under which it is so; "" for the values given
    path: str = ""  # of the sandbox's file, from the project's root
    status: str = ""  # "", "waived" or "baseline"
    reason: str = ""  # of a waiver

    @property
    def shown(self) -> Span | None:
        """The place in a file of the repository: a shipped base is none, and the sandbox's own stands for it."""
        outside = self.span is None or self.span.file.name.startswith("shipped:")
        return self.home if outside else self.span

    @property
    def order(self) -> tuple[str, int, int, str, str]:
        """The sort key: place, then rule."""
        return (*place_order(self.span), self.rule, self.message)

    @property
    def fingerprint(self) -> str:
        """What stays the same while lines move: the rule, the file, the sandboxes, the option and what was found."""
        parts = (self.rule, self.path, *sorted(self.subjects), self.key, self.item or "", self.when, self.message)
        return fingerprint_of("\0".join(parts))


def placed(rule: Rule, hit: Hit, subject: Subject, *, when: str = "") -> AuditFinding:
    """A hit as a finding, where its cause is written."""
    span, home, via = subject.find(hit.key, hit.item), subject.find("", None), subject.via(hit.key)
    return raised(rule, hit, subjects=(subject.name,), span=span, home=home, via=via, when=when)


def raised(rule: Rule, hit: Hit, *, span: Span | None, subjects: tuple[str, ...] = (), **more: Any) -> AuditFinding:
    """A hit of a rule as a finding."""
    return AuditFinding(
        rule=rule.id,
        title=rule.title,
        severity=rule.severity,
        message=hit.message,
        key=hit.key,
        item=hit.item,
        subjects=subjects,
        span=span,
        help=hit.help or rule.fix,
        references=rule.references,
        edit=hit.edit,
        **more,
    )


def fingerprint_of(text: str) -> str:
    """What tells one finding from another, in reports that code-scanning services compare."""
    import hashlib

    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:32]


def in_order(findings: Iterable[AuditFinding]) -> tuple[AuditFinding, ...]:
    """Sorted by place; those of one rule, message and place as one, with all their subjects."""
    merged: dict[tuple[object, ...], AuditFinding] = {}
    for finding in findings:
        key = (finding.order, finding.key, finding.item, finding.when, None if finding.span else finding.subjects)
        earlier = merged.get(key)
        if earlier is None:
            merged[key] = finding
        else:
            subjects = tuple(dict.fromkeys((*earlier.subjects, *finding.subjects)))
            merged[key] = msgspec.structs.replace(earlier, subjects=subjects)
    return tuple(sorted(merged.values(), key=lambda finding: finding.order))
