"""What has moved since a plan was saved, in words. Owns them. Pure."""

from __future__ import annotations

from sandboxrun.errors import Diagnostic
from sandboxrun.plan.changes import Plan
from sandboxrun.plan.text import redact
from sandboxrun.workflow.saved import SavedPlan, Seen, images_in, seen_in, steps_in

_AGAIN = "make a new plan, read it, and apply that; without the file, apply shows what it would do now"
_MOST = 6  # reasons told


def explain_stale(saved: SavedPlan, fresh: Plan) -> Diagnostic:
    """The fault that tells what is not as it was when the plan was made. Call it when the digests differ."""
    reasons = [*_profile_moved(saved, fresh), *_engine_moved(saved, fresh)]
    if not reasons:
        reasons = _steps_moved(saved, fresh)
    told = "; ".join(reasons[:_MOST]) + (f"; and {len(reasons) - _MOST} more" if len(reasons) > _MOST else "")
    return Diagnostic(message=f"the saved plan is stale: {redact(told, fresh.sensitive)}", help=_AGAIN)


def _profile_moved(saved: SavedPlan, fresh: Plan) -> list[str]:
    reasons = []
    if saved.project != fresh.project:
        reasons.append(f"it is for the project {saved.project}, this profile is {fresh.project}")
    if saved.profile_digest != fresh.profile_digest:
        maybe = f", or another value is given for a sensitive variable ({', '.join(saved.ask)})" if saved.ask else ""
        reasons.append(f"the profile has changed{maybe}")
    if saved.inputs_digest != fresh.inputs_digest:
        reasons.append(_inputs_moved(saved, fresh))
    return reasons


def _inputs_moved(saved: SavedPlan, fresh: Plan) -> str:
    now = {name: value for name, value in fresh.inputs.items() if name not in saved.ask}
    names = [n for n in sorted({*saved.inputs, *now}) if saved.inputs.get(n) != now.get(n)]
    return f"other values are given for {', '.join(names)}" if names else "other variables are sensitive"


def _engine_moved(saved: SavedPlan, fresh: Plan) -> list[str]:
    reasons = []
    if saved.engine_id and fresh.engine_id and saved.engine_id != fresh.engine_id:
        reasons.append("it was made for another engine")
    then = {seen.container: seen for seen in saved.observed}
    now = {seen.container: seen for seen in seen_in(fresh)}
    reasons += [f"{_named(seen)} has appeared" for id, seen in now.items() if id not in then]
    reasons += [f"{_named(seen)} has gone" for id, seen in then.items() if id not in now]
    reasons += [
        f"{_named(seen)} {_STATE.get(seen.state, seen.state)}"
        for id, seen in now.items()
        if id in then and then[id].state != seen.state
    ]
    images = images_in(fresh)
    moved = [ref for ref, meant in saved.images.items() if images.get(ref, meant) != meant]
    return reasons + [f"{ref} means another image now" for ref in moved]


_STATE = {"Created": "is only created", "Running": "runs now", "Ended": "has ended"}


def _named(seen: Seen) -> str:
    return f"{seen.address or 'the container'} ({seen.container[:12]})"


def _steps_moved(saved: SavedPlan, fresh: Plan) -> list[str]:
    now = steps_in(fresh)
    come = [step for step in now if step not in saved.steps]
    gone = [step for step in saved.steps if step not in now]
    reasons = [f'it would now also do "{step}"' for step in come] + [f'it would no longer do "{step}"' for step in gone]
    return reasons or [
        "what it would do is the same, but not in every detail (images, networks, or how runs have ended)"
    ]
