"""Which of an engine's objects are a project's own.

Owns the check of the labels by which they are told. Anybody may label anything, and a container has its image's labels
too: what does not carry all that sandboxrun sets at creation, each in its form, is somebody else's. Pure.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from typing import Any

from sandboxrun.spec import labels
from sandboxrun.spec.names import COMPANIONS
from sandboxrun.spec.spec import digest_of

COURIER = "courier"
IDENTITY = frozenset({labels.PROJECT, labels.SANDBOX, labels.RUN, labels.ROLE, labels.SPEC, labels.SPEC_DIGEST})
_RUN = re.compile("[0-9a-f]{32}")
_DIGEST = re.compile("sha256:[0-9a-f]{64}")


def is_own_container(listed: Mapping[str, Any], project: str, of_image: Collection[str]) -> bool:
    """Whether a container of the engine's list is the project's: a sandbox, a companion or a courier. `of_image` are
    the names of its image's labels: sandboxrun runs no image that has labels of its own."""
    own = labels.read(listed.get("Labels"))
    if own.get(labels.PROJECT) != project or not IDENTITY.isdisjoint(of_image):
        return False
    match own.get(labels.ROLE):
        case None:
            return _has_run(own) and _is_spec(own.get(labels.SPEC), own.get(labels.SPEC_DIGEST))
        case str(role) if role in COMPANIONS:
            return _has_run(own)
        case str(role) if role == COURIER:
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
