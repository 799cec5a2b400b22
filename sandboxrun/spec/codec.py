"""A spec as the text of its label and back, what its image gives of it, and what an engine is too old for.

Everything here is a loop over the rows. Pure.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import Any

from msgspec import structs

from sandboxrun.data import Data
from sandboxrun.errors import Problems
from sandboxrun.source import node_of
from sandboxrun.spec import labels
from sandboxrun.spec.option import Row, value_of
from sandboxrun.spec.spec import ROWS, SandboxSpec, parse_spec
from sandboxrun.spec.types import freeze


class ImageConfig(Data):
    """What an image sets by itself: `id` is its content digest, the rest what its config holds."""

    id: str = ""
    architecture: str = ""  # as the engine names it (amd64, arm64/v8 ...)
    digests: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    entrypoint: tuple[str, ...] = ()
    working_dir: str | None = None
    environment: Mapping[str, str | None] = freeze({})
    labels: Mapping[str, str] = freeze({})
    healthcheck: Any = None
    stop_signal: str | None = "SIGTERM"
    volumes: tuple[str, ...] = ()
    reserved: tuple[str, ...] = ()  # labels that only sandboxrun itself may set; `labels` are the others


_INHERITED = tuple(row for row in ROWS if row.inherited)


def without_inherited(spec: SandboxSpec, image: ImageConfig | None) -> SandboxSpec:
    """The spec less what the image says by itself: a value equal to the image's is no difference.

    An entry point that is set leaves nothing of the image's command, whatever else is equal.
    """
    if spec.entrypoint and spec.command is None:
        spec = structs.replace(spec, command=())
    if image is None:
        return spec
    changed: dict[str, Any] = {}
    for row in _INHERITED:
        mine, theirs = value_of(spec, row), getattr(image, row.key)
        if isinstance(mine, Mapping):
            kept = {key: value for key, value in mine.items() if key not in theirs or theirs[key] != value}
            if len(kept) != len(mine):
                changed[row.key] = freeze(kept)
        elif mine is not None and mine == theirs:
            changed[row.key] = None
    return structs.replace(spec, **changed) if changed else spec


def to_label(spec: SandboxSpec) -> str:
    """The spec as the text of its label: canonical JSON, defaults included, so that it outlives their change."""
    return json.dumps(spec.plain, sort_keys=True, separators=(",", ":"))


def from_label(text: str | None) -> SandboxSpec | None:
    """A label's text as a spec; None when there is none or it is not ours to read (another version, tampered)."""
    try:
        plain = json.loads(text or "null")
        if not isinstance(plain, dict):
            return None
        problems = Problems()
        spec = parse_spec(node_of(plain), problems)
    except (ValueError, RecursionError):
        return None
    return None if problems else spec


def unsupported(spec: SandboxSpec, api_version: str) -> tuple[Row, ...]:
    """The rows that are set away from their default and that an engine of this API version does not know."""
    have = _version(api_version)
    return tuple(
        row
        for row in ROWS
        if row.since is not None and _version(row.since) > have and value_of(spec, row) != row.default
    )


def lacking(spec: SandboxSpec, options: Collection[str] | None) -> tuple[str, ...]:
    """The keys of what the spec asks for that is not among `options` (None: all are). Nothing, 0 and off ask for
    nothing; a default asks where it closes something."""
    return tuple(
        row.key
        for row in ROWS
        if options is not None and row.key not in options
        if (value := value_of(spec, row)) not in (None, 0, "", (), {})
        if row.always or not row.settable or value != row.default
    )


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split("."))


def own_labels(
    *, project: str, address: str, run: str, spec: SandboxSpec, extra: Mapping[str, str] | None = None
) -> dict[str, str]:
    """The labels that every sandbox carries from its creation."""
    return {
        labels.PROJECT: project,
        labels.SANDBOX: address,
        labels.RUN: run,
        labels.SPEC: to_label(spec),
        labels.SPEC_DIGEST: spec.digest,
        **(extra or {}),
    }
