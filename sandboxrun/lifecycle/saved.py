"""Saved plans: what `plan --out` writes and `apply FILE` reads, and in words what has moved since."""

from __future__ import annotations

import errno
import json
import os
import re
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
from msgspec import structs

from sandboxrun import __version__
from sandboxrun.data import Data
from sandboxrun.errors import MASK, Diagnostic, PlanError, printable, redact
from sandboxrun.evidence.folder import Folder
from sandboxrun.plan import operations as op
from sandboxrun.plan.changes import Plan
from sandboxrun.plan.planner import Options
from sandboxrun.profile.files import read_regular, reason
from sandboxrun.spec.names import PROJECT
from sandboxrun.spec.spec import digest_of
from sandboxrun.spec.types import freeze

# -- What has moved since a plan was saved, in words. Owns them. Pure

_AGAIN = "make and review a new plan, and apply that; or run apply without the file to see what it would do now"
_DETAILS = "what it would do is the same, but not in every detail (images, networks, or how runs have ended)"
_MOST = 6  # reasons told


def explain_stale(saved: SavedPlan, fresh: Plan) -> Diagnostic:
    """The fault that tells what is not as it was when the plan was made. Call it when the digests differ."""
    reasons = []
    if saved.project != fresh.project:
        reasons.append(f"it is for the project {saved.project}, this profile is {fresh.project}")
    if saved.profile_digest != fresh.profile_digest:
        maybe = f", or another value is given for a sensitive variable ({', '.join(saved.ask)})" if saved.ask else ""
        reasons.append(f"the profile has changed{maybe}")
    if saved.inputs_digest != fresh.inputs_digest:
        given = {name: value for name, value in fresh.inputs.items() if name not in saved.ask}
        names = [n for n in sorted({*saved.inputs, *given}) if saved.inputs.get(n) != given.get(n)]
        reasons.append(f"other values are given for {', '.join(names)}" if names else "other variables are sensitive")
    led = {**dict.fromkeys(saved.led, ""), **fresh.led}
    moved = [path for path, real in led.items() if saved.led.get(path, "") != real]
    reasons += [f"{path} leads to {fresh.led.get(path, 'itself')} now" for path in moved]
    reasons += _engine_moved(saved, fresh)
    if not reasons:  # what would become of each object, where the plan said otherwise
        then, now = _actions_in(saved.plan), _actions_in(_plan_json(fresh))
        told = [(a, then.get(a, _LEFT), now.get(a, _LEFT)) for a in {**now, **then} if then.get(a) != now.get(a)]
        reasons = [f"{a} would now {does}, and the plan says that it would {did}" for a, did, does in told]
        reasons = reasons or [_DETAILS]
    told_of = "; ".join(reasons[:_MOST]) + (f"; and {len(reasons) - _MOST} more" if len(reasons) > _MOST else "")
    return Diagnostic(message=f"the saved plan is stale: {redact(told_of, fresh.sensitive)}", help=_AGAIN)


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


def _named(seen: SeenContainer) -> str:
    return f"{seen.address or 'the container'} ({seen.container[:12]})"


_LEFT = "be left as it is"
_ACTIONS = {
    ("create",): "be created",
    ("update",): "be updated",
    ("delete",): "be removed",
    ("delete", "create"): "be replaced",
    ("create", "delete"): "be replaced",
    ("no-op",): _LEFT,
}


def _actions_in(plan: Mapping[str, Any]) -> dict[str, str]:
    """By address, what a plan's JSON does to it. Raises KeyError and TypeError for JSON that is no plan's."""
    changes = plan["resource_changes"]
    return {str(c["address"]): _ACTIONS.get(tuple(c["change"]["actions"]), _LEFT) for c in changes}


# -- Saved plans: what `plan --out` writes and `apply FILE` reads

FORMAT = "sandboxrun-saved-plan"
FORMAT_VERSION = "1.0"
LARGEST = 64 << 20  # bytes; a plan of 2000 sandboxes has about 20


class SeenContainer(Data):
    """A container that a plan was made for: its id, its state, and the resource it belongs to."""

    container: str
    state: str
    address: str


class SavedPlan(Data, unshown=("plan",)):
    """A plan that was saved, with all that it takes to make it again.

    `files` are the profile's, absolute; `inputs` the values of its variables that are not sensitive, `ask` the names
    of those that are and must be given again. `led` says where links lead that host paths go through. `plan` is the
    plan's JSON, for showing it.
    """

    project: str
    directory: Path
    files: tuple[Path, ...]
    digest: str
    profile_digest: str
    inputs_digest: str
    engine_id: str
    options: Options
    destroy: bool = False
    inputs: Mapping[str, Any]
    ask: tuple[str, ...]
    observed: tuple[SeenContainer, ...]
    images: Mapping[str, str]  # reference → what it meant
    plan: Mapping[str, Any]
    led: Mapping[str, str] = freeze({})


def write_saved(
    path: Path, plan: Plan, *, files: Sequence[Path], directory: Path, options: Options | None = None
) -> None:
    """Write the plan to `path`, readable by its owner only. Atomic: a reader sees the old file or the new one.

    Replaces nothing but a regular file. `directory` is the project's, `files` the profile's, which must lie inside.
    Raises PlanError.
    """
    # The project's place is relative to the file's own: both may move together.
    root, base = Path(os.path.realpath(directory)), os.path.realpath(path.parent)
    places = [os.path.relpath(os.path.join(os.path.realpath(file.parent), file.name), root) for file in files]
    for file, place in zip(files, places, strict=True):
        if place.split(os.sep)[0] == os.pardir:
            raise PlanError(
                f"{file} is outside the project {root}: a saved plan could not find it again",
                help="move it into the project, or apply without saving the plan",
            )
    body = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "sandboxrun_version": __version__,
        "project": plan.project,
        "directory": os.path.relpath(root, base),
        "files": places,
        "digest": plan.digest,
        "profile_digest": plan.profile_digest,
        "inputs_digest": plan.inputs_digest,
        "engine_id": plan.engine_id,
        "options": {**structs.asdict(options or Options()), "destroy": plan.destroy},
        "inputs": {name: value for name, value in plan.inputs.items() if value != MASK},
        "ask": [name for name, value in plan.inputs.items() if value == MASK],
        "observed": [structs.asdict(seen) for seen in seen_in(plan)],
        "images": images_in(plan),
        "led": dict(plan.led),
        "plan": _plan_json(plan),
    }
    document = {**body, "checksum": digest_of(body)}
    try:
        opened = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        with Folder(opened, str(path.parent)) as folder:
            if folder.kind(path.name) not in (0, stat.S_IFREG):  # /dev/null would be replaced
                raise OSError(errno.EINVAL, "it exists and is not a regular file")
            folder.write(path.name, json.dumps(document, indent=1, ensure_ascii=True).encode() + b"\n")
    except OSError as error:
        help = "name a new file in a directory that you can write to"
        raise PlanError(f"{path} cannot be written: {reason(error)}", help=help) from error


def _plan_json(plan: Plan) -> dict[str, Any]:
    from sandboxrun.report.plan import plan_json

    return plan_json(plan)


def seen_in(plan: Plan) -> tuple[SeenContainer, ...]:
    """The containers that a plan was made for."""
    addresses = {change.container: change.address for change in plan.changes if change.container is not None}
    named = {id: redact(address, plan.sensitive) for id, address in addresses.items()}
    return tuple(SeenContainer(container=id, state=state, address=named.get(id, "")) for id, state in plan.observed)


def images_in(plan: Plan) -> dict[str, str]:
    """What each image reference is taken to mean: an id, or the digest that it is to be pulled by."""
    found: dict[str, str] = {}
    for step in plan.operations:
        match step:
            case op.CreateSandbox() if step.image_id is not None:
                found[step.sandbox.spec.image] = step.image_id
            case op.PullImage() if step.digest is not None:
                found[step.reference] = step.digest
    return found


# -- reading ----------------------------------------------------------------------------------------------------


def read_saved(path: Path) -> SavedPlan:
    """Read what `write_saved` wrote. Raises PlanError, saying what the file is instead."""
    try:
        body = json.loads(read_regular(path, LARGEST).decode("utf-8"))
    except OSError as error:
        text = f"the saved plan {path} cannot be read: {reason(error)}"
        if not isinstance(error, FileNotFoundError):
            raise PlanError(text) from error
        is_name = os.path.basename(path) == str(path) and not path.suffix  # it may be as Compose's `up NAME`
        raise PlanError(
            text,
            help="make one with `sandboxrun plan --out FILE`",
            option=f"for one sandbox write: --target {path}" if is_name else "",
        ) from error
    except (ValueError, RecursionError) as error:
        said = getattr(error, "msg", "") or "not JSON"
        raise PlanError(f"{path} is damaged or not a saved plan: {said}", help="make a new plan") from error
    if not isinstance(body, dict):
        raise PlanError(f"{path} is not a saved plan", help="`sandboxrun plan --out FILE` makes one")
    if body.get("format") != FORMAT:
        told = "a plan's JSON, not a saved plan" if "resource_changes" in body else "not a saved plan"
        raise PlanError(f"{path} is {told}", help="`sandboxrun plan --out FILE` makes one")
    version = str(body.get("format_version"))
    if version.partition(".")[0] != FORMAT_VERSION.partition(".")[0]:
        made = str(body.get("sandboxrun_version"))[:40]
        raise PlanError(
            f"{path} has format {version[:20]}, made by sandboxrun {made}; this one reads {FORMAT_VERSION}",
            help="apply it with the sandboxrun that made it, or make a new plan",
        )
    try:
        if body.pop("checksum", None) != digest_of(body):
            raise ValueError("its checksum does not match")
        found = msgspec.convert(body, SavedPlan, dec_hook=_relative)
        if not re.fullmatch(PROJECT, found.project):
            raise ValueError("project is not a valid project name")
        if outside := [file for file in found.files if os.pardir in file.parts]:
            raise ValueError(f'"{printable(str(outside[0]))[:80]}" points outside the project')
        _actions_in(found.plan)  # which a stale one is compared by
        directory = Path(os.path.normpath(Path(os.path.realpath(path.parent)) / found.directory))
        return structs.replace(
            found,
            directory=directory,
            files=tuple(directory / file for file in found.files),
            destroy=msgspec.convert(body["options"]["destroy"], bool),
            inputs=freeze(found.inputs),
            images=freeze(found.images),
            led=freeze(found.led),
            plan=freeze(found.plan),
        )
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise PlanError(f"{path} is damaged: {error}", help="make a new plan") from error


def _relative(kind: type, value: Any) -> Path:
    """The only type of a field that msgspec doesn't read by itself."""
    if not isinstance(value, str) or not value or "\0" in value or os.path.isabs(value):
        raise ValueError(f'"{printable(str(value))[:80]}" is not a relative path')
    return Path(value)
