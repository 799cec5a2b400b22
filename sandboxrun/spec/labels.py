"""The labels that make an engine's objects ours. They are the state: set at creation, never changed.

Owns the label names and the JSON forms they hold. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sandboxrun.errors import printable

PREFIX = "sandboxrun."
PROJECT = PREFIX + "project"
SANDBOX = PREFIX + "sandbox"  # the address
RUN = PREFIX + "run"  # one id a container, from creation to its evidence
BASE = PREFIX + "base"  # the name it was made under, which those of its volumes, network and companions begin with
SPEC = PREFIX + "spec"  # the spec as last applied, canonical JSON
SPEC_DIGEST = PREFIX + "spec-digest"
PROFILE_DIGEST = PREFIX + "profile-digest"
PLAN_DIGEST = PREFIX + "plan-digest"
INPUTS_DIGEST = PREFIX + "inputs-digest"
WORKSPACE = PREFIX + "workspace"
SECRETS = PREFIX + "secrets"
CONFIGS = PREFIX + "configs"
CONTENT = PREFIX + "content"  # the digest of a workspace copy, on the courier that carries it into its volume
DEADLINE = PREFIX + "ttl-deadline"  # absolute, RFC 3339; past it the container is collected whoever made it
OWNER = PREFIX + "owner"  # the process that made it; where that waits for it, its death makes the container an orphan
CLOCK = PREFIX + "clock"  # the wall clock beside the time since boot, when it was made (owner.py)
JOB = PREFIX + "job"  # the CI job that made it, JSON (ci.py)
LEASE = PREFIX + "lease"  # the token of the lease that its owner renews, where that waits for it
DIRECTORY = PREFIX + "directory"  # of the project: where the evidence belongs
ONE_OFF = PREFIX + "one-off"  # made by `run`, not by `apply`
ROLE = PREFIX + "role"  # courier (carries files into a volume; never started), gateway, keeper
GATEWAY = PREFIX + "gateway"  # the address of a sandbox's gateway
NAMES = PREFIX + "names"  # of a gateway that is no name server: the hosts that stand in the sandbox's own hosts file
NETWORK = PREFIX + "network"  # the key of a network
VOLUME = PREFIX + "volume"  # the key of a volume, or "<address>.<part>"
CONFIG = PREFIX + "config-digest"  # of a network's or volume's own options
INIT = PREFIX + "init"  # the volume with the init that is PID 1; on a volume, the digest of the init in it
# What an engine's events tell of a container's end, beside its labels: a label of that name takes its place.
TOLD = frozenset({"exitCode", "signal"})
INIT_VOLUME = "sandboxrun-init-"  # begins the names of those volumes: all projects of an engine share them
OWN_VOLUMES = (INIT_VOLUME, "sandboxrun-lock-", "sandboxrun-lease-")


def read(found: Any) -> dict[str, str]:
    """The labels in an engine's answer: texts by name. Anything else counts as none."""
    if not isinstance(found, Mapping):
        return {}
    return {name: text for name, text in found.items() if isinstance(name, str) and isinstance(text, str)}


def text_of(found: Any, name: str) -> str | None:
    """One label in an engine's answer, where not all of them are needed."""
    text = found.get(name) if isinstance(found, Mapping) else None
    return text if isinstance(text, str) else None


def awaited(own: Mapping[str, str]) -> bool:
    """Whether the process that made a sandbox with these labels waits for its end."""
    return ONE_OFF in own or LEASE in own


def directory(path: str) -> str:
    """A project's directory, an absolute path, as its label has it."""
    return printable(path)


def of_user(found: Any) -> dict[str, str]:
    """The labels in an engine's answer that are not sandboxrun's own."""
    return {name: value for name, value in read(found).items() if not name.startswith(PREFIX)}
