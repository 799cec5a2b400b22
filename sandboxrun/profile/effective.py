"""The effective profile as plain data: every option written out, every template rendered.

Owns its shape, which is a profile's own: what it gives can be loaded again. Paths below the project are relative,
so that its digest does not depend on where the project lies.
"""

from __future__ import annotations

from typing import Any

from sandboxrun.model.declared import DeclaredSandbox, Profile
from sandboxrun.model.option import to_plain
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
            plain[kind] = {key: _relative(to_plain(spec), places) for key, spec in specs.items()}
    return plain


def sandbox_plain(sandbox: DeclaredSandbox, places: Places) -> dict[str, Any]:
    """One sandbox's options, the defaults included, dependencies by address."""
    plain = to_plain(sandbox.spec, defaults=True)
    for mount in plain.get("volumes", ()):
        if mount.get("type") == "bind":
            mount["source"] = _shown(mount["source"], places)
    if "workspace" in plain and "source" in plain["workspace"]:
        plain["workspace"]["source"] = _shown(plain["workspace"]["source"], places)
    if sandbox.depends_on:
        plain["depends_on"] = {
            address: to_plain(dependency, defaults=True) for address, dependency in sandbox.depends_on.items()
        }
    return plain


def _relative(plain: dict[str, Any], places: Places) -> dict[str, Any]:
    return {**plain, "file": _shown(plain["file"], places)} if "file" in plain else plain


def _shown(path: str, places: Places) -> str:
    from pathlib import Path

    return places.relative(Path(path)) if path.startswith("/") else path
