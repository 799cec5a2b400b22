"""How one thing is looked at from outside: what a check is given, what it answers, and how answers become findings.

Owns the verdict's rule: what could not be read is inconclusive, never passed. Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import attrs

from sandboxrun.model.spec import SandboxSpec
from sandboxrun.probe.findings import Finding, Verdict
from sandboxrun.probe.outside import Outside
from sandboxrun.probe.types import GVISOR

SENTRY = "the runtime's own kernel answers in there; its processes on the host are not the sandbox's"


@attrs.frozen(kw_only=True)
class Accounts:
    """The declared user as numbers, and the groups that it may have beside its own."""

    uid: int
    gid: int
    groups: frozenset[int] = frozenset()


@attrs.frozen(kw_only=True)
class Looked:
    """What a check is given. `devices` are the numbers of the declared ones (`c 10:229`), `volumes` the paths that the
    image declares as volumes."""

    spec: SandboxSpec
    outside: Outside
    accounts: Accounts | None = None
    devices: frozenset[str] = frozenset()
    volumes: frozenset[str] = frozenset()


@attrs.frozen(kw_only=True)
class Answer:
    """What was expected and seen; `holds` None: it could not be told, and `note` says why."""

    expected: str
    seen: str
    holds: bool | None
    note: str = ""


@attrs.frozen(kw_only=True)
class Check:
    """One thing that is looked at. `parts` are what it reads, by their names in `Outside.unread`; `kernel`: it reads
    what the host's kernel says of the processes, which means nothing where another kernel runs them. `look` gives the
    answer, or as a text why it does not apply."""

    id: str
    title: str
    field: str
    parts: tuple[str, ...]
    look: Callable[[Looked], Answer | str]
    kernel: bool = True


def findings(sandbox: str, looked: Looked, checks: Iterable[Check]) -> tuple[Finding, ...]:
    """One finding a check, in their order."""
    return tuple(_finding(sandbox, looked, check) for check in checks)


def _finding(sandbox: str, looked: Looked, check: Check) -> Finding:
    unread = [looked.outside.unread[part] for part in check.parts if part in looked.outside.unread]
    if "processes" in check.parts and not looked.outside.processes:
        unread.append("no process of it was seen")
    if check.kernel and (looked.spec.runtime or "").startswith(GVISOR):
        return _made(sandbox, check, Answer(expected="", seen="", holds=None, note=SENTRY), Verdict.NOT_APPLICABLE)
    if unread:
        answer = Answer(expected="", seen="not read", holds=None, note=unread[0])
        return _made(sandbox, check, answer, Verdict.INCONCLUSIVE)
    answer_or_why = check.look(looked)
    if isinstance(answer_or_why, str):
        answer = Answer(expected="", seen="", holds=None, note=answer_or_why)
        return _made(sandbox, check, answer, Verdict.NOT_APPLICABLE)
    verdicts = {True: Verdict.HOLDS, False: Verdict.FAILS, None: Verdict.INCONCLUSIVE}
    return _made(sandbox, check, answer_or_why, verdicts[answer_or_why.holds])


def _made(sandbox: str, check: Check, answer: Answer, verdict: Verdict) -> Finding:
    return Finding(
        sandbox=sandbox,
        control=check.id,
        title=check.title,
        field=check.field,
        expected=answer.expected,
        seen=answer.seen,
        verdict=verdict,
        note=answer.note,
    )
