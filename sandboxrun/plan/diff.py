"""Spec against spec: which options differ, since when, and what each difference asks of the engine.

Owns `Difference` and the three-way comparison (last applied, live, declared). Pure; knows no engine and no
single option.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from sandboxrun.data import Data
from sandboxrun.spec import labels
from sandboxrun.spec.codec import without_inherited
from sandboxrun.spec.option import Effect, Row, values_of
from sandboxrun.spec.option_types import same_gateway
from sandboxrun.spec.spec import ROWS, SandboxSpec
from sandboxrun.spec.state import Image, ObservedSandbox


class Difference(Data):
    """One option that is not as declared. `before` and `after` are in the profile's own form."""

    key: str
    before: Any
    after: Any
    effect: Effect
    drift: bool = False  # nobody changed the profile: the container was changed behind our back
    reason: str = ""


def compare(declared: SandboxSpec, observed: ObservedSandbox, image: Image | None) -> tuple[Difference, ...]:
    """All differences of a sandbox, in the rows' order."""
    config = image.config if image is not None else None
    want = without_inherited(declared, config)
    applied = without_inherited(observed.applied, config) if observed.applied is not None else None
    found = [moved] if (moved := _moved(declared, observed, image)) is not None else []
    names = observed.labels.get(labels.NAMES)
    return (*found, *_compare_rows(want, observed.spec, applied, names.split() if names is not None else None))


def shown_before(declared: SandboxSpec, differences: tuple[Difference, ...]) -> dict[str, Any]:
    """A sandbox as it is, as plans show it beside what is declared: as declared but for the differences. What the image
    or the engine chose where nobody declared anything is none."""
    shown = dict(spec_plain(declared))
    for difference in differences:
        given, value = shown.get(difference.key), difference.before
        if difference.key == "image" and difference.reason:
            continue  # the same reference, which means another image now
        if isinstance(given, Mapping) and isinstance(difference.after, Mapping) and isinstance(value, Mapping):
            value = {**{key: item for key, item in given.items() if key not in difference.after}, **value}
        shown[difference.key] = value
    return {key: value for key, value in shown.items() if value is not None}


def mismatches(asked: SandboxSpec, live: SandboxSpec) -> tuple[Difference, ...]:
    """The read-back: what the engine made that is not what was asked. Both less what the image gives."""
    return tuple(_compare_rows(asked, live, None))


def _moved(declared: SandboxSpec, observed: ObservedSandbox, image: Image | None) -> Difference | None:
    """A tag that means another image now: on the engine, or in the registry where the newest is wanted."""
    if image is None or image.config is None or declared.image != observed.spec.image:
        return None
    newer = image.digest if declared.pull_policy == "always" and not image.current else None
    if newer is None and image.config.id == observed.image_id:
        return None
    return Difference(
        key="image",
        before=f"{declared.image} ({short(observed.image_id)})",
        after=f"{declared.image} ({short(newer or image.config.id)})",
        effect=Effect.REPLACE,
        reason="the tag has moved to another image",
    )


def short(image_id: str) -> str:
    """The first 12 digits of an image's id."""
    return image_id.removeprefix("sha256:")[:12]


def _compare_rows(
    want: SandboxSpec, have: SandboxSpec, applied: SandboxSpec | None, names: Collection[str] | None = None
) -> Iterator[Difference]:
    """`names` are the hosts that stand in the sandbox's hosts file, where it asks no gateway for them."""
    before = values_of(applied) if applied is not None else _UNKNOWN
    for row, wanted, live, asked in zip(ROWS, values_of(want), values_of(have), before, strict=True):
        if wanted != live and _compared(row, wanted, asked):
            drift = applied is not None and asked == wanted
            yield _difference(row, wanted, live, _effect(row, wanted, live, names), drift=drift)


_UNKNOWN = (None,) * len(ROWS)


def _difference(row: Row, wanted: Any, live: Any, effect: Effect, *, drift: bool) -> Difference:
    shown, asked = row.plain(live), row.plain(wanted)
    content = "the content has changed" if _less_content(shown) == _less_content(asked) else ""
    return Difference(
        key=row.key,
        before=shown,
        after=asked,
        effect=effect,
        drift=drift,
        reason="changed on the engine" if drift else content,
    )


def _less_content(plain: Any) -> Any:
    """An option's plain value without the digests of contents in it."""
    if not isinstance(plain, list):
        return plain
    return [
        {key: value for key, value in item.items() if key != "digest"} if isinstance(item, Mapping) else item
        for item in plain
    ]


def _compared(row: Row, wanted: Any, applied: Any) -> bool:
    """An option that nobody declares is the engine's to choose, unless it is of security; one that was
    declared and no longer is has to go."""
    return wanted is not None or row.always or applied is not None


def _effect(row: Row, wanted: Any, live: Any, names: Collection[str] | None) -> Effect:
    if row.effect is Effect.LIVE and not row.can_clear and not wanted and live:
        return Effect.REPLACE  # the engine reads 0 and "" as "unchanged"
    if row.effect is Effect.RELOAD and not same_gateway(wanted, live, names):
        return Effect.REPLACE  # the sandbox is wired otherwise
    return row.effect


def spec_plain(spec: SandboxSpec) -> Mapping[str, Any]:
    """A spec as plans show it: every option that has a value."""
    return {row.key: row.plain(value) for row, value in zip(ROWS, values_of(spec), strict=True) if value is not None}
