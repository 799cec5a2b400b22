"""From a Python call's arguments to a profile of one sandbox.

Owns that step. What a program passes is data, never a template: texts with a template's marks reach the loader as
variables. Must not talk to the engine.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs

from sandboxrun.errors import Diagnostic, Problems, UsageError
from sandboxrun.model.declared import DeclaredSandbox, Profile
from sandboxrun.profile.bounds import MARKS
from sandboxrun.profile.inputs import Inputs
from sandboxrun.settings import check_option

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
    for an option that there is not, ProfileError for everything a profile would be refused for.
    """
    from sandboxrun.profile.loader import load_data

    problems = Problems()
    given = {key: value for key, value in options.items() if value is not None}
    for key in given:
        check_option(key, problems)
    problems.check(UsageError)
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
    profile = load_data(data, directory=directory, inputs=inputs)
    return Declared(profile=profile, sandbox=profile.sandboxes[0], environment=values)


def _literal(value: Any, texts: dict[str, str]) -> Any:
    """`value` as plain data. A text that would be read as a template becomes a variable that holds it."""
    match value:
        case str():
            if MARKS.search(value) is None:
                return value
            key = f"text{len(texts)}"
            texts[key] = value
            return f"{{{{ {key} }}}}"
        case bool() | int() | float() | None:
            return value
        case os.PathLike():
            return _literal(os.fspath(value), texts)
        case Mapping():
            return {str(key): _literal(item, texts) for key, item in value.items()}
        case list() | tuple() | set() | frozenset():
            return [_literal(item, texts) for item in value]
    raise UsageError(f"{type(value).__name__} has no form in a profile", help="give texts, numbers, lists and mappings")


def workspace_option(workspace: Path | str, access: str, target: str) -> dict[str, str]:
    """The workspace option of a directory. Raises UsageError when it is none, or `access` is not copy, rw or ro."""
    path = Path(os.path.abspath(workspace))
    if not path.is_dir():
        raise UsageError(f"the workspace {path} is not a directory", help="give the directory the agent works on")
    if access not in ("copy", "rw", "ro"):
        raise UsageError(f'a workspace has no access "{access}"', help="choose copy, rw or ro")
    return {"source": str(path), "target": target, "access": access}


def writer_of(workspace: Path) -> str | None:
    """The user that a sandbox with `workspace` read-write should have: its owner, unless that is root."""
    found = os.stat(workspace)
    return f"{found.st_uid}:{found.st_gid}" if found.st_uid != 0 else None


def check_writable(sandbox: DeclaredSandbox, evidence: Path, state: Path) -> None:
    """Raise UsageError for a read-write workspace that the sandbox's user cannot write to, or that holds the
    evidence: what an agent can write proves nothing about it."""
    workspace = sandbox.spec.workspace
    if workspace is None or workspace.access != "rw":
        return
    source = Path(os.path.realpath(workspace.source))
    for place, what in ((evidence, "evidence"), (state, "state")):
        if Path(os.path.realpath(place)).is_relative_to(source):
            raise UsageError(
                Diagnostic(
                    message=f"the {what} in {place} lies in the workspace {source}, which the sandbox may write to",
                    help="give directory= and evidence= places outside of the workspace, or access='copy'",
                )
            )
    if not _may_write(source, sandbox.spec.user):
        raise UsageError(
            Diagnostic(
                message=f"the sandbox's user {sandbox.spec.user} cannot write to the workspace {source}",
                help="give it to that user (chown), say user=, or use access='copy'",
            )
        )


def _may_write(path: Path, user: str) -> bool:
    """By the directory's mode; a user by name is the image's business, and is let pass."""
    uid, _, gid = user.partition(":")
    if not uid.isdigit() or (gid and not gid.isdigit()):
        return True
    found = os.stat(path)
    if found.st_uid == int(uid):
        wanted = stat.S_IWUSR | stat.S_IXUSR
    elif found.st_gid == int(gid or uid):
        wanted = stat.S_IWGRP | stat.S_IXGRP
    else:
        wanted = stat.S_IWOTH | stat.S_IXOTH
    return found.st_mode & wanted == wanted
