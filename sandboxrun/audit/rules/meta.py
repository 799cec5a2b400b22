"""9xx, meta: what a template could hold, and the policy, the waivers and the baseline themselves.

These look at no sandbox by themselves: the review raises them where it judges.
"""

from __future__ import annotations

from collections.abc import Iterator

from sandboxrun.audit.finding import Directness, Gain, Hit, Rule, refers, rule
from sandboxrun.audit.subject import Subject

HOST, TRACE, REACH, WORK, DATA = Gain.HOST, Gain.TRACE, Gain.REACH, Gain.WORK, Gain.DATA
DIRECT, STEP, INDIRECT = Directness.DIRECT, Directness.STEP, Directness.INDIRECT


def never(s: Subject) -> Iterator[Hit]:
    """The check of a rule that looks at no sandbox."""
    yield from ()


def _meta(id: str, title: str, gain: Gain, how: Directness, why: str, fix: str, bad: str = "", good: str = "") -> Rule:
    references = refers(cwe=1188)
    return rule(id, title, (gain, how), references, why=why, fix=fix, bad=bad, good=good, inline=False)(never)


FREE_VARIABLE = _meta(
    "SBX901",
    "A free variable decides a restriction",
    HOST,
    INDIRECT,
    "The file does not say what the sandbox may do: whoever gives the variable does, and this review cannot.",
    "add enum or pattern to the variable, or write the value out",
    bad="variables: {who: {type: string, default: '1000:1000'}}\nsandboxes: {agent: {user: '{{ who }}'}}",
    good="variables: {who: {type: string, default: '1000:1000', enum: ['1000:1000', '2000:2000']}}\n"
    "sandboxes: {agent: {user: '{{ who }}'}}",
)
EXPIRED = _meta(
    "SBX902",
    "Waiver expired",
    TRACE,
    DIRECT,
    "The risk was accepted until a day that has passed.",
    "fix what it waives, or accept the risk again with a new date",
)
UNUSED = _meta(
    "SBX903",
    "Waiver without a finding",
    TRACE,
    STEP,
    "What it waives is not there any more; it would hide the next finding of its rule.",
    "remove it",
)
UNKNOWN = _meta(
    "SBX904", "Waiver of an unknown rule", TRACE, DIRECT, "There is no such rule: nothing is waived.", "correct the id"
)
INCOMPLETE = _meta(
    "SBX905",
    "Waiver without a date, an owner or a reason",
    TRACE,
    DIRECT,
    "Nobody can tell who accepted the risk, why, and until when. It waives nothing.",
    'write until=YYYY-MM-DD owner=NAME reason="…"',
)
NOT_WAIVABLE = _meta(
    "SBX906",
    "Rule that a comment cannot waive",
    TRACE,
    DIRECT,
    "The rule is too grave for a comment beside the line: it waives nothing.",
    "fix what it says, or ask for a waiver in the policy's file",
)
STALE_BASELINE = _meta(
    "SBX907",
    "Baseline holds what is gone",
    TRACE,
    STEP,
    "A baseline may only shrink: an entry without a finding would hide the next one like it.",
    "write the baseline again with --write-baseline",
)
UNTRUSTED = _meta(
    "SBX908",
    "Waiver that the trusted revision does not have",
    TRACE,
    DIRECT,
    "With --trust-ref a comment waives only what the same comment waived of the same line in that revision: a change "
    "cannot accept its own risks.",
    "have the waiver merged first, or review the finding",
)
IMAGE_POLICY = _meta(
    "SBX910", "Image not allowed", TRACE, DIRECT, "The policy lists the images that may run.", "use an allowed image"
)
EGRESS_POLICY = _meta(
    "SBX911",
    "Destination not allowed",
    REACH,
    DIRECT,
    "The policy lists the destinations that may be reached.",
    "remove the destination",
)
CEILING = _meta(
    "SBX912", "Above the policy's ceiling", WORK, DIRECT, "The policy bounds this option.", "lower it to the ceiling"
)
MOUNT_ROOT = _meta(
    "SBX913",
    "Mount outside of the allowed roots",
    DATA,
    DIRECT,
    "The policy lists the directories that may be mounted.",
    "mount a directory below them",
)
REQUIRED = _meta(
    "SBX914", "Required option missing", TRACE, DIRECT, "The policy requires this value.", "set the option as required"
)
EXCEEDS = _meta(
    "SBX915",
    "Exceeds the greatest profile",
    HOST,
    STEP,
    "The policy names a profile that no sandbox may exceed, option by option.",
    "narrow the option to what that profile allows",
)

WIDENED = _meta(
    "SBX920",
    "May do more than before",
    TRACE,
    STEP,
    "Compared with the base, the sandbox may do what it could not do then, or nobody can tell.",
    "narrow it again, or have the change reviewed",
)

META = tuple(value for value in vars().copy().values() if isinstance(value, Rule))
