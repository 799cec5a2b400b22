"""What a plan would change that was made from another directory: two projects of one name, or two checkouts of one.

Owns whose something is, and what is asked before it is changed. What this profile declares as it is counts as this
project's, wherever it was made, and so does what nobody waits for: jobs in several checkouts share their sandboxes.
Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from sandboxrun.data import json_as
from sandboxrun.errors import Diagnostic, PlanError, few, one_line, redacted
from sandboxrun.plan.changes import Action, Change, Other, Plan, Reason
from sandboxrun.plan.decide import Decision
from sandboxrun.spec import labels
from sandboxrun.spec.ci import CiJob
from sandboxrun.spec.project import Profile, config_digest
from sandboxrun.spec.state import ObservedSandbox, Snapshot

_MOST = 10  # names of one directory that are listed
_VERBS = {
    Action.DELETE: "removes",
    Action.REPLACE: "replaces",
    Action.UPDATE: "changes",
    Action.KEEP: "collects",
}


def others_of(
    profile: Profile, snapshot: Snapshot, decisions: Iterable[Decision], volumes: Iterable[Change]
) -> tuple[Other, ...]:
    """All of them, in the plan's order."""
    here = labels.directory(str(profile.directory))
    others: list[Other] = []

    def add(change: Change, made_in: str | None, owner: str | None, job: CiJob | None = None) -> None:
        if made_in not in (None, here) and change.action in _VERBS and change.reason is not Reason.ORPHANED:
            who = _who(owner, job)
            others.append(Other(address=change.address, action=change.action, directory=made_in or "", who=who))

    for decision in decisions:
        observed = decision.observed
        if observed is not None and not observed.is_over(snapshot.taken) and not _is_ours(observed, profile):
            add(decision.change, observed.labels.get(labels.DIRECTORY), observed.owner, observed.job)
    found = {f"volume.{volume.key}": volume for volume in snapshot.volumes}
    for change in volumes:
        volume = found.get(change.address)
        declared = profile.volumes.get(volume.key) if volume is not None else None
        if volume is not None and (declared is None or volume.config != config_digest(declared)):
            add(change, volume.directory, volume.owner)
    return tuple(others)


def _is_ours(observed: ObservedSandbox, profile: Profile) -> bool:
    """Whether it is what this profile declares, wherever it was made."""
    declared = profile.sandbox(observed.address)
    return declared is not None and observed.applied is not None and observed.applied.digest == declared.spec.digest


def _who(owner: str | None, job: CiJob | None) -> str:
    """The user and host in an owner's label, and the CI job; "" where neither says anything."""
    who = str(json_as(dict, owner or "").get("who", ""))
    return f"{who or 'an unknown user'} (job {job.id} of {job.system})" if job is not None else who


def warnings_of(project: str, others: tuple[Other, ...]) -> Iterator[Diagnostic]:
    """A warning for each directory, with what a plan does to what was made there."""
    for text in _told(others):
        help = f"if that is another project, give one of the two another name than {project}"
        yield Diagnostic(message=text, help=help, severity="warning")


def check_others(plan: Plan, take_over: bool) -> None:
    """Raise PlanError, saying whose it is, for a plan that changes what another directory's profile made, unless that
    was agreed to."""
    if take_over or not plan.others:
        return
    help = (
        f"if that is another project, give one of the two another name than {plan.project}; if it is this one in "
        "another checkout, take it over"
    )
    told = (
        Diagnostic(message=text, help=help, option="--take-over", argument="ApplySettings(take_over=True)")
        for text in _told(plan.others)
    )
    raise PlanError(*(redacted(diagnostic, plan.sensitive) for diagnostic in told))


def _told(others: tuple[Other, ...]) -> Iterator[str]:
    """For each directory, in a sentence, what happens to what was made there."""
    for home in dict.fromkeys(other.home for other in others):
        mine = [other for other in others if other.home == home]
        parts = []
        for action, verb in _VERBS.items():
            names = [one_line(other.address) for other in mine if other.action is action]
            parts += [f"{verb} {few(names, _MOST)}"] if names else []
        was = "which was" if len(mine) == 1 else "which were"
        yield f"this plan {' and '.join(parts)}, {was} made from the directory {home}"
