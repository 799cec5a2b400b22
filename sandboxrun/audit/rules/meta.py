"""9xx, meta: what a template could hold, and the policy, the waivers and the baseline themselves.

These look at no sandbox by themselves: the review raises them where it judges.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from sandboxrun.audit.finding import DATA, DIRECT, HOST, INDIRECT, REACH, STEP, TRACE, WORK, Hit, Rule, about, rule
from sandboxrun.audit.subject import Subject


def never(s: Subject) -> Iterator[Hit]:
    """The check of a rule that looks at no sandbox."""
    yield from ()


def _meta(head: Mapping[str, Any], why: str, fix: str, bad: str = "", good: str = "") -> Rule:
    return rule(head, why=why, fix=fix, bad=bad, good=good, inline=False)(never)


FREE_VARIABLE = _meta(
    about("SBX901", "A free variable decides a restriction", HOST, INDIRECT, cwe=1188),
    "The file does not say what the sandbox may do: whoever gives the variable does, and this review cannot.",
    "add enum or pattern to the variable, or write the value out",
    bad="variables: {who: {type: string, default: '1000:1000'}}\nsandboxes: {agent: {user: '{{ who }}'}}",
    good="variables: {who: {type: string, default: '1000:1000', enum: ['1000:1000', '2000:2000']}}\n"
    "sandboxes: {agent: {user: '{{ who }}'}}",
)
EXPIRED = _meta(
    about("SBX902", "Waiver expired", TRACE, DIRECT, cwe=1188),
    "The risk was accepted until a day that has passed.",
    "fix what it waives, or accept the risk again with a new date",
)
UNUSED = _meta(
    about("SBX903", "Waiver without a finding", TRACE, STEP, cwe=1188),
    "What it waives is not there any more; it would hide the next finding of its rule.",
    "remove it",
)
UNKNOWN = _meta(
    about("SBX904", "Waiver of an unknown rule", TRACE, DIRECT, cwe=1188),
    "There is no such rule: nothing is waived.",
    "correct the id",
)
INCOMPLETE = _meta(
    about("SBX905", "Waiver without a date, an owner or a reason", TRACE, DIRECT, cwe=1188),
    "Nobody can tell who accepted the risk, why, and until when. It waives nothing.",
    'write until=YYYY-MM-DD owner=NAME reason="…"',
)
NOT_WAIVABLE = _meta(
    about("SBX906", "Rule that a comment cannot waive", TRACE, DIRECT, cwe=1188),
    "The rule is too grave for a comment beside the line: it waives nothing.",
    "fix what it says, or ask for a waiver in the policy's file",
)
STALE_BASELINE = _meta(
    about("SBX907", "Baseline holds what is gone", TRACE, STEP, cwe=1188),
    "A baseline may only shrink: an entry without a finding would hide the next one like it.",
    "write the baseline again with --write-baseline",
)
UNTRUSTED = _meta(
    about("SBX908", "Waiver that the trusted revision does not have", TRACE, DIRECT, cwe=1188),
    "With --trust-ref a comment waives only what the same comment waived of the same line and sandbox in that "
    "revision: a change cannot accept its own risks.",
    "have the waiver merged first, or review the finding",
)
IMAGE_POLICY = _meta(
    about("SBX910", "Image not allowed", TRACE, DIRECT, cwe=1188),
    "The policy lists the images that may run.",
    "use an allowed image",
)
EGRESS_POLICY = _meta(
    about("SBX911", "Destination not allowed", REACH, DIRECT, cwe=1188),
    "The policy lists the destinations that may be reached.",
    "remove the destination",
)
CEILING = _meta(
    about("SBX912", "Above the policy's ceiling", WORK, DIRECT, cwe=1188),
    "The policy bounds this option.",
    "set it to the ceiling or below",
)
MOUNT_ROOT = _meta(
    about("SBX913", "Mount outside of the allowed roots", DATA, DIRECT, cwe=1188),
    "The policy lists the directories that may be mounted.",
    "mount a directory below them",
)
REQUIRED = _meta(
    about("SBX914", "Required option missing", TRACE, DIRECT, cwe=1188),
    "The policy requires this value.",
    "set the option as required",
)
EXCEEDS = _meta(
    about("SBX915", "Exceeds the greatest profile", HOST, STEP, cwe=1188),
    "The policy names a profile that no sandbox may exceed, option by option.",
    "narrow the option to what that profile allows",
)
JUDGES_ITSELF = _meta(
    about("SBX916", "May write what judges it", HOST, STEP, cwe=732),
    "The policy, the waivers, the baseline or a file of the greatest profile lies where the sandbox may write: it says "
    "what the next one may do.",
    "keep the file outside of what the sandbox may write to, give it its default name in the project's root, or use "
    "access: copy",
)

WIDENED = _meta(
    about("SBX920", "May do more than before", TRACE, STEP, cwe=1188),
    "Compared with the base, the sandbox may do what it could not do then, or nobody can tell.",
    "narrow it again, or have the change reviewed",
)

META = tuple(value for value in vars().copy().values() if isinstance(value, Rule))
