"""From a Python call's arguments to a profile of one sandbox.

Owns that step. What a program passes is data, never a template: texts with a template's marks reach the loader as
variables. Must not talk to the engine.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

from sandboxrun.errors import Diagnostic, UsageError
from sandboxrun.model.declared import DeclaredSandbox, Profile
from sandboxrun.profile.bounds import MARKS
from sandboxrun.profile.inputs import Inputs
from sandboxrun.settings import check_options
from sandboxrun.workflow.hostpaths import check_sources, may_write
from sandboxrun.workflow.outside import check_outside

if TYPE_CHECKING:
    from sandboxrun.evidence.store import Store

_SECRET = "SANDBOXRUN_API_SECRET_"


@attrs.frozen(kw_only=True)
class Declared:
    """One sandbox as a program declared it. `environment` holds the secrets' values, which no file or label does."""

    profile: Profile
    sandbox: DeclaredSandbox
    environment: Mapping[str, str] = attrs.field(repr=False)


def declare(
    project: str,
    directory: Path,
    name: str,
    options: Mapping[str, Any],
    *,
    secrets: Mapping[str, str] | None = None,
    environment: Mapping[str, str] | None = None,
) -> Declared:
    """The profile of one sandbox. `options` are a profile's, in its form; None leaves an option at its default.

    `secrets` become files under /run/secrets; `environment` gives values to names without one. Raises UsageError
    for an option that there is not or that does not take its value, ProfileError for what does not fit together.
    """
    from sandboxrun.profile.loader import load_data

    given = {key: _plain(value) for key, value in options.items() if value is not None}
    check_options(given)
    texts: dict[str, str] = {}
    values = {f"{_SECRET}{number}": value for number, value in enumerate((secrets or {}).values())}
    if secrets:
        given["secrets"] = [*given.get("secrets", ()), *secrets]
    data: dict[str, Any] = {"name": project, "sandboxes": {name: _literal(given, texts)}}
    if secrets:
        data["secrets"] = {key: {"environment": at} for key, at in zip(secrets, values, strict=True)}
    if texts:
        data["variables"] = {key: {"type": "string"} for key in texts}
    inputs = Inputs(values=texts, environment=environment or {})
    profile = load_data(data, directory=directory, inputs=inputs, allow_outside=True)  # a program's own word, no file's
    return Declared(profile=profile, sandbox=profile.sandboxes[0], environment=values)


def _plain(value: Any) -> Any:
    """Paths as texts, everything else as it is."""
    match value:
        case os.PathLike():
            return os.fspath(value)
        case Mapping():
            return {str(key): _plain(item) for key, item in value.items()}
        case list() | tuple() | set() | frozenset():
            return [_plain(item) for item in value]
    return value


def _literal(value: Any, texts: dict[str, str]) -> Any:
    """`value` with each text that would be read as a template made a variable that holds it."""
    match value:
        case str() if MARKS.search(value) is not None:
            key = f"text{len(texts)}"
            texts[key] = value
            return f"{{{{ {key} }}}}"
        case dict():
            return {key: _literal(item, texts) for key, item in value.items()}
        case list():
            return [_literal(item, texts) for item in value]
    return value


def workspace_option(workspace: Path | str, access: str, target: str) -> dict[str, str]:
    """The workspace option of a directory. Raises UsageError when it is none, or `access` is not copy, rw or ro."""
    path = Path(os.path.abspath(workspace))
    if not os.path.isdir(path):
        raise UsageError(f"the workspace {path} is not a directory", help="give the directory the agent works on")
    if access not in ("copy", "rw", "ro"):
        raise UsageError(f'a workspace has no access "{access}"', help="choose copy, rw or ro")
    return {"source": str(path), "target": target, "access": access}


def writer_of(workspace: Path) -> str | None:
    """The user that a sandbox with `workspace` read-write should have: its owner, unless that is root."""
    found = os.stat(workspace)
    return f"{found.st_uid}:{found.st_gid}" if found.st_uid != 0 else None


def check_writable(sandbox: DeclaredSandbox, store: Store) -> None:
    """Raise UsageError for a read-write workspace that the sandbox's user cannot write to, PlanError for one that holds
    the evidence: what an agent can write proves nothing about it."""
    check_outside((sandbox,), store)
    check_sources((sandbox,))
    workspace = sandbox.spec.workspace
    if workspace is None or workspace.access != "rw":
        return
    source = Path(os.path.realpath(workspace.source))
    if not may_write(source, sandbox.spec):
        raise UsageError(
            Diagnostic(
                message=f"the sandbox's user {sandbox.spec.user} cannot write to the workspace {source}",
                help="give it to that user (chown), say user=, or use access='copy'",
            )
        )
