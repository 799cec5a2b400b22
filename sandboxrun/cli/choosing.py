"""What `run` runs: the profile's sandboxes, or a built-in base made into a project of its own.

Owns the choice, and the words for choices that make no sense.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sandboxrun.errors import UsageError, did_you_mean

if TYPE_CHECKING:
    from sandboxrun.cli.options import Given
    from sandboxrun.spec.project import DeclaredSandbox, Profile


def one_off_profile(given: Given, base: str | None, command: tuple[str, ...] | None, own: Mapping[str, Any]) -> Profile:
    """The profile to run: the one there is, or for a COMMAND without one a built-in base with `own` options.

    Raises UsageError.
    """
    from sandboxrun.cli.project import default_files, load_profile

    files = given.files or default_files()
    if base is None and (files or command is None):
        if any(own.values()):
            raise UsageError(
                "--image, --user and --no-workspace are for a run in a base, not for a profile's sandboxes",
                help="change the profile, or pass --base default",
            )
        return load_profile(given)
    if given.files:
        raise UsageError("--base and --file exclude each other")
    if command is None:
        raise UsageError("--base needs a command", help="sandboxrun run --base default -- COMMAND")
    return _of_base(base or "default", given, own)


def _of_base(base: str, given: Given, own: Mapping[str, Any]) -> Profile:
    """A project named by the current directory, with one sandbox called after its base."""
    from sandboxrun.cli.commands.init import project_name
    from sandboxrun.cli.project import announced, inputs_of
    from sandboxrun.profile.files import bases
    from sandboxrun.profile.loader import load_data

    if base not in bases():
        known = ", ".join(bases())
        raise UsageError(f'there is no base "{base}"', help=did_you_mean(base, bases()) or f"there are: {known}")
    sandbox: dict[str, Any] = {"extends": base}
    sandbox |= {key: own[key] for key in ("image", "user") if own[key] is not None}
    if own["no_workspace"]:
        sandbox |= {"workspace": None}
    here = Path.cwd()
    data = {"name": project_name(here), "sandboxes": {base: sandbox}}
    return announced(load_data(data, directory=here, inputs=inputs_of(given)))


def run_choice(
    profile: Profile, names: tuple[str, ...], command: tuple[str, ...] | None, interactive: bool
) -> tuple[DeclaredSandbox, ...]:
    """The sandboxes to run. Raises UsageError for names there are not, and for choices that make no sense."""
    from sandboxrun.plan.planner import select

    chosen = select(profile, names)
    if not chosen:
        raise UsageError("the profile declares no sandbox that could run", help="look at its when: and for_each:")
    if command is not None and not command:
        raise UsageError("there is no command after --")
    listed = ", ".join(sandbox.address for sandbox in chosen)
    if command is not None and not names and len(chosen) > 1:
        raise UsageError(f"which sandbox is to run the command? The profile has {listed}", help="name it before --")
    if interactive and len(chosen) > 1:
        raise UsageError(f"--interactive is for one sandbox, not for {listed}", help="name one")
    if interactive and not sys.stdin.isatty():
        raise UsageError("--interactive needs a terminal as standard input", help="leave it out in a pipeline")
    return chosen
