"""Which of an engine's objects are a project's own, and what others may do to the host paths of its sandboxes.

Owns the check of the labels by which they are told, and the questions that take a list and a look at each image.
Anybody may label anything, and a container has its image's labels too: what does not carry all that sandboxrun sets at
creation, each in its form, is somebody else's.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sandboxrun.backend.docker.codec import observe
from sandboxrun.errors import ApplyError, Diagnostic
from sandboxrun.profile.guarding import sources_of
from sandboxrun.spec import labels
from sandboxrun.spec.names import COMPANIONS, Names
from sandboxrun.spec.project import DeclaredSandbox, Profile
from sandboxrun.spec.spec import digest_of
from sandboxrun.spec.state import ObservedSandbox

if TYPE_CHECKING:
    from sandboxrun.backend.docker.client import Engine

UPLOAD = "courier"
IDENTITY = frozenset({labels.PROJECT, labels.SANDBOX, labels.RUN, labels.ROLE, labels.SPEC, labels.SPEC_DIGEST})
_RUN = re.compile("[0-9a-f]{32}")
_DIGEST = re.compile("sha256:[0-9a-f]{64}")


def is_own_container(listed: Mapping[str, Any], project: str, of_image: Collection[str]) -> bool:
    """Whether a container of the engine's list is the project's: a sandbox, a companion or an upload container.
    `of_image` are the names of its image's labels: sandboxrun runs no image that has labels of its own."""
    own = labels.read(listed.get("Labels"))
    if own.get(labels.PROJECT) != project or not IDENTITY.isdisjoint(of_image):
        return False
    match own.get(labels.ROLE):
        case None:
            return _has_run(own) and _is_spec(own.get(labels.SPEC), own.get(labels.SPEC_DIGEST))
        case str(role) if role in COMPANIONS:
            return _has_run(own)
        case str(role) if role == UPLOAD:
            return listed.get("State") == "created"  # it is never started
    return False


def is_own_network(inspect: Mapping[str, Any], project: str) -> bool:
    """Whether a network is the project's, or that of one of its sandboxes."""
    return _is_own_object(inspect, labels.NETWORK, project)


def is_own_volume(inspect: Mapping[str, Any], project: str) -> bool:
    """Whether a volume is the project's, or that of one of its sandboxes."""
    return _is_own_object(inspect, labels.VOLUME, project)


def _is_own_object(inspect: Mapping[str, Any], label: str, project: str) -> bool:
    own = labels.read(inspect.get("Labels"))
    key = own.get(label)
    if own.get(labels.PROJECT) != project or not key:
        return False
    if labels.RUN in own:
        return _has_run(own) and key == inspect.get("Name")
    return _DIGEST.fullmatch(own.get(labels.CONFIG, "")) is not None


def _has_run(own: Mapping[str, str]) -> bool:
    return bool(own.get(labels.SANDBOX)) and _RUN.fullmatch(own.get(labels.RUN, "")) is not None


def _is_spec(text: str | None, digest: str | None) -> bool:
    """Whether the digest is that of the spec: of one that another version wrote too, which nobody here can read."""
    try:
        return text is not None and digest is not None and digest_of(json.loads(text)) == digest
    except (ValueError, RecursionError):
        return False


def own_containers(
    engine: Engine,
    project: str,
    *,
    more: Mapping[str, str | None] | None = None,
    names: tuple[str, ...] = (),
    of_image: Callable[[str], Collection[str]] | None = None,
) -> tuple[Mapping[str, Any], ...]:
    """The project's containers, as the engine lists them: those with the labels `more`, or one of `names`.

    `of_image` gives the names of an image's labels by its id, where the caller knows images anyway. Raises EngineError.
    """
    known = of_image or cache(lambda image: labels_of_image(engine, image))
    listed = engine.containers(labels={labels.PROJECT: project, **(more or {})}, names=names)
    return tuple(c for c in listed if is_own_container(c, project, known(str(c.get("ImageID") or ""))))


def own_sandboxes(
    engine: Engine, names: Names, *, more: Mapping[str, str | None] | None = None
) -> tuple[ObservedSandbox, ...]:
    """The project's sandboxes as the engine shows them, without what runs beside them: those with the labels `more`."""
    found = own_containers(engine, names.project, more=more)
    ids = [str(c["Id"]) for c in found if labels.ROLE not in labels.read(c.get("Labels"))]
    return tuple(observe(answer, names, None) for answer in engine.inspect_containers(ids))


def labels_of_image(engine: Engine, image: str) -> frozenset[str]:
    """The names of an image's labels; none for an image that is gone."""
    found = engine.image(image) if image else None
    config = found.get("Config") if found is not None else None
    return frozenset(labels.read(config.get("Labels"))) if isinstance(config, Mapping) else frozenset()


def check_neighbours(sandboxes: Iterable[DeclaredSandbox], profile: Profile, engine: Engine) -> None:
    """Raise ApplyError for a path that a sandbox which is on the engine now, and not in the profile, may move.

    Those of one profile are compared when it is read.
    """
    declared = {sandbox.address for sandbox in profile.sandboxes}
    given = [
        (sandbox, sandbox.place(key, item), path) for sandbox in sandboxes for key, item, path in sources_of(sandbox)
    ]
    faults = []
    ours = {str(c["Id"]) for c in own_containers(engine, profile.project)} if given else set()
    for container in engine.containers(labels={labels.SANDBOX: None}) if given else ():
        if str(container["Id"]) in ours and labels.read(container.get("Labels")).get(labels.SANDBOX) in declared:
            continue
        binds = [mount for mount in container.get("Mounts") or () if mount.get("Type") == "bind"]
        whose = str((container.get("Names") or ["?"])[0]).removeprefix("/")
        for sandbox, span, path in given:
            if _is_movable(os.path.realpath(path), binds):
                message = f"{sandbox.address}: {path} lies where {whose} may write: it could put a link in its place"
                help = "wait until that one is gone, or give each a directory of its own"
                faults.append(Diagnostic(message=message, span=span, help=help))
    if faults:
        raise ApplyError(*faults)


def _is_movable(path: str, binds: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a container with these binds can put another thing where `path` is: it lies in one that it may write to,
    and no mount of its own keeps it in place."""
    for bind in binds:
        top = os.path.realpath(str(bind.get("Source") or ""))
        if not bind.get("RW") or path == top or os.path.commonpath((path, top)) != top:
            continue
        at = Path(str(bind.get("Destination"))) / os.path.relpath(path, top)
        kept = {Path(str(other.get("Destination"))): not other.get("RW") for other in binds if other is not bind}
        if at not in kept and not any(kept.get(above) for above in at.parents):
            return True
    return False
