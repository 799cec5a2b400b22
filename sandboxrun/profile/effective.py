"""The effective profile as plain data: every option written out, every template rendered.

Owns its shape: a profile's own, with an address in place of each sandbox's name. Paths below the project are
relative, so that its digest does not depend on where the project lies.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs

from sandboxrun.model.declared import DeclaredSandbox, Profile
from sandboxrun.model.egress import EgressOption
from sandboxrun.model.option import Row, rows, values_of
from sandboxrun.profile.paths import Places


def effective(profile: Profile) -> dict[str, Any]:
    """JSON data: name, sandboxes by address with all their options, networks, volumes, secrets, configs."""
    places = Places(root=profile.directory, directories={})
    plain: dict[str, Any] = {
        "name": profile.project,
        "sandboxes": {sandbox.address: sandbox_plain(sandbox, places) for sandbox in profile.sandboxes},
    }
    for kind in ("networks", "volumes", "secrets", "configs"):
        specs = getattr(profile, kind)
        if specs:
            plain[kind] = {key: _relative(spelled_out(spec), places) for key, spec in specs.items()}
    return plain


def sandbox_plain(sandbox: DeclaredSandbox, places: Places) -> dict[str, Any]:
    """One sandbox's options, the defaults included, dependencies by address."""
    plain = spelled_out(sandbox.spec)
    for mount in plain.get("volumes", ()):
        if mount.get("type") == "bind":
            mount["source"] = _shown(mount["source"], places)
    if "workspace" in plain and "source" in plain["workspace"]:
        plain["workspace"]["source"] = _shown(plain["workspace"]["source"], places)
    if sandbox.depends_on:
        plain["depends_on"] = {address: spelled_out(dependency) for address, dependency in sandbox.depends_on.items()}
    return plain


def spelled_out(record: Any) -> dict[str, Any]:
    """A record as plain data with every option that has a value, also in the records inside it."""
    return {
        row.key: _spelled(row, value)
        for row, value in zip(rows(type(record)), values_of(record), strict=True)
        if row.settable and value is not None
    }


_DEFAULTS: dict[int, tuple[Row, Any]] = {}  # most options stand at their default: write each once


def _spelled(row: Row, value: Any) -> Any:
    if value is not row.default:
        return _written(row, value)
    if id(row) not in _DEFAULTS:
        _DEFAULTS[id(row)] = (row, _written(row, value))
    return _DEFAULTS[id(row)][1]


def _written(row: Row, value: Any) -> Any:
    if attrs.has(type(value)) and not isinstance(row.type, EgressOption):  # that has a form in one word
        return spelled_out(value)
    if isinstance(value, tuple) and value and attrs.has(type(value[0])):
        return [spelled_out(item) for item in value]
    if isinstance(value, Mapping) and value and attrs.has(type(next(iter(value.values())))):
        return {key: spelled_out(item) for key, item in value.items()}
    return row.type.plain(value)


def _relative(plain: dict[str, Any], places: Places) -> dict[str, Any]:
    return {**plain, "file": _shown(plain["file"], places)} if "file" in plain else plain


def _shown(path: str, places: Places) -> str:
    return places.relative(Path(path)) if path.startswith("/") else path
