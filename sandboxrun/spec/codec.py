"""Between a spec and the engine: create payload, update payload, and what an inspect answer really says.

Everything here is a loop over the rows; no option is named but where two options share one engine field.
Pure.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

import attrs

from sandboxrun.errors import Problems
from sandboxrun.source import node_of
from sandboxrun.spec import forms, labels
from sandboxrun.spec.names import Names
from sandboxrun.spec.option import Live, Payload, Plot, Row, value_of, values_of
from sandboxrun.spec.spec import BY_KEY, ROWS, SandboxSpec, parse_spec
from sandboxrun.spec.types import freeze


@attrs.frozen(kw_only=True)
class ImageConfig:
    """What an image sets by itself: `id` is its content digest, the rest what its config holds."""

    id: str = ""
    digests: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    entrypoint: tuple[str, ...] = ()
    working_dir: str | None = None
    environment: Mapping[str, str | None] = attrs.field(factory=lambda: freeze({}))
    labels: Mapping[str, str] = attrs.field(factory=lambda: freeze({}))
    healthcheck: Any = None
    stop_signal: str | None = "SIGTERM"
    volumes: tuple[str, ...] = ()
    reserved: tuple[str, ...] = ()  # labels that only sandboxrun itself may set; `labels` are the others

    @classmethod
    def of(cls, inspect: Mapping[str, Any]) -> ImageConfig:
        """From an image's inspect answer, read with the rows' own placements."""
        live = Live(inspect={"Config": inspect.get("Config") or {}}, names=Names(project=""))
        read = {row.key: row.at.get(live) for row in ROWS if row.inherited and row.at is not None}
        config = inspect.get("Config") or {}
        return cls(
            id=str(inspect.get("Id") or ""),
            digests=tuple(inspect.get("RepoDigests") or ()),
            volumes=tuple(map(forms.path, config.get("Volumes") or ())),
            reserved=tuple(sorted(n for n in labels.read(config.get("Labels")) if n.startswith(labels.PREFIX))),
            **read,
        )


def encode(
    spec: SandboxSpec,
    *,
    name: str,
    names: Names,
    own_labels: Mapping[str, str],
    plot: Plot | None = None,
    image: ImageConfig | None = None,
) -> dict[str, Any]:
    """The body of POST /containers/create for a settled spec.

    `own_labels` are sandboxrun's labels beside those that options themselves write; `plot` the addresses of one that
    has a gateway; `image` what the spec's image sets.
    """
    payload = Payload(name=name, names=names, plot=plot)
    for row, value in zip(ROWS, values_of(spec), strict=True):
        if value is not None and row.at is not None:
            row.at.put(value, payload)
    if spec.command == () and spec.entrypoint is None and image is not None:
        payload.config["Entrypoint"] = list(image.entrypoint)  # beside its own, an engine replaces an empty command
    payload.config.setdefault("Labels", {}).update(own_labels)
    return payload.body()


def encode_update(spec: SandboxSpec, keys: Iterable[str]) -> dict[str, Any]:
    """The body of POST /containers/{id}/update that gives the rows `keys` the values they have in `spec`."""
    payload = Payload(name="", names=Names(project=""))
    wanted = {key for changed in keys for key in (changed, *BY_KEY[changed].together)}
    for row in ROWS:
        if row.key in wanted and row.at is not None:
            row.at.put(value_of(spec, row), payload)
    return payload.host


def decode(inspect: Mapping[str, Any], names: Names, recorded: SandboxSpec | None = None) -> SandboxSpec:
    """What a container really is. Options that the engine does not show are taken from `recorded`.

    The values are as the engine reports them, what the image gave included: see `without_inherited`.
    """
    live = Live(inspect=inspect, names=names, recorded=recorded)
    values = {row.key: placement.get(live) for row, placement in _SHOWN}
    for row in _RECORDED:
        values[row.key] = value_of(recorded, row) if recorded is not None else row.default
    return SandboxSpec(**values)


_SHOWN = tuple((row, row.at) for row in ROWS if row.at is not None and not row.at.engine.startswith("label "))
_RECORDED = tuple(row for row in ROWS if row.at is None or row.at.engine.startswith("label "))
_INHERITED = tuple(row for row in ROWS if row.inherited)


def without_inherited(spec: SandboxSpec, image: ImageConfig | None) -> SandboxSpec:
    """The spec less what the image says by itself: a value equal to the image's is no difference.

    An entry point that is set leaves nothing of the image's command, whatever else is equal.
    """
    if spec.entrypoint and spec.command is None:
        spec = attrs.evolve(spec, command=())
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
    return attrs.evolve(spec, **changed) if changed else spec


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
