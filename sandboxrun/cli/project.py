"""From options to what commands work on: the profile, the engine, the evidence store, the sandboxes that names mean.

Owns the default file names, and the words for what is not there.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec import structs

from sandboxrun.cli.options import Given
from sandboxrun.errors import UsageError, quoted
from sandboxrun.spec.names import PROFILES, PROJECT

if TYPE_CHECKING:
    from sandboxrun.backend.base import Backend
    from sandboxrun.backend.docker.client import Engine
    from sandboxrun.backend.session import Event
    from sandboxrun.evidence.store import Store
    from sandboxrun.lifecycle.apply import ApplySettings
    from sandboxrun.lifecycle.saved import SavedPlan
    from sandboxrun.plan.planner import Options
    from sandboxrun.profile.variables import Inputs
    from sandboxrun.spec.project import Profile
    from sandboxrun.spec.state import ObservedSandbox


def default_files() -> tuple[Path, ...]:
    """The profile in the current directory, if there is one."""
    found = [Path(name) for name in PROFILES if os.path.lexists(name)]
    if len(found) > 1:
        raise UsageError("there are both sandbox.yaml and sandbox.yml", help="pass the one you mean with --file")
    return tuple(found)


def profile_files(given: Given) -> tuple[Path, ...]:
    """The files of the profile. Raises UsageError when there is none."""
    files = given.files or default_files()
    if not files:
        raise UsageError(
            f"there is no profile here: neither sandbox.yaml nor sandbox.yml is in {os.getcwd()}",
            help="create one with `sandboxrun init`, or pass one with --file",
        )
    return files


def inputs_of(given: Given) -> Inputs:
    """What the command line gives the profile's variables."""
    from sandboxrun.profile.variables import Inputs

    return Inputs(vars=given.vars, var_files=given.var_files, environment=os.environ)


def load_profile(given: Given) -> Profile:
    """The profile that the options name. Raises UsageError, ProfileError."""
    from sandboxrun.profile.loader import load

    return announced(load(profile_files(given), inputs=inputs_of(given), allow_outside=given.allow_outside))


def check_project(name: str | None) -> None:
    """Raise UsageError for what can't be the name of a project."""
    if name is not None and not re.fullmatch(PROJECT, name):
        raise UsageError(f"{quoted(name)} is not a project's name", help="use lower-case letters, digits, - and _")


def enforced(profile: Profile, given: Given) -> Profile:
    """The profile, which the policy allows: that of --policy, or of the project's root. Raises ProfileError."""
    from sandboxrun.lifecycle.places import enforce

    enforce(profile, given.policy, os.environ)
    return profile


def announced(profile: Profile) -> Profile:
    """The profile: from now on its sensitive values are masked in all output. Its warnings are shown."""
    from sandboxrun import tracing
    from sandboxrun.cli.output import hide, tell_all

    hide(profile.sensitive)
    tracing.hide(profile.sensitive)
    tell_all(profile.warnings)
    return profile


def open_store(profile: Profile, given: Given) -> Store:
    """The store of the project's evidence."""
    return _store(profile.directory, given.evidence)


def store_in(directory: Path | None) -> Store:
    """The store in a directory, without a profile; by default the one of the current directory's project."""
    if directory is None:
        return _store(Path.cwd(), None)
    full = Path(os.path.abspath(directory))
    if full.parts[-2:] == (".sandboxrun", "evidence"):
        return _store(full.parent.parent, None)
    return _store(Path.cwd(), full)


def _store(project: Path, root: Path | None) -> Store:
    from sandboxrun.evidence.store import Store

    return Store(project_directory=project, root=root)


def open_engine(host: str | None, parallelism: int = 4) -> Engine:
    """The engine. Raises EngineUnreachable, UsageError."""
    from sandboxrun.backend.docker.client import connect

    return connect(host, parallelism=parallelism)


def no_engine() -> AbstractContextManager[Backend]:
    """An engine that has nothing, for plans that ask none."""
    from sandboxrun.backend.fake import Fake, World

    return nullcontext(Fake(World(blank=True)))


def load_saved(given: Given, saved: SavedPlan) -> Profile:
    """The profile that a plan was made from, with the values it was made with; sensitive ones are given again.

    The command line's names and values win, so that a plan that does not fit them is refused as stale.
    """

    from sandboxrun.profile.loader import load

    named = {text.partition("=")[0] for text in given.vars}
    values = {name: value for name, value in saved.inputs.items() if name not in named}
    inputs = structs.replace(inputs_of(given), values=values)
    return announced(load(saved.files, inputs=inputs, directory=saved.directory, allow_outside=given.allow_outside))


def settings(
    given: Given, listener: Callable[[Event], None], on_wait: Callable[[str], None], **rest: Any
) -> ApplySettings:
    """How an apply goes; `listener` hears of its steps, `on_wait` of waiting for the project's lock."""
    from sandboxrun.lifecycle.apply import ApplySettings

    return ApplySettings(
        parallelism=given.parallelism,
        lock_wait=given.lock_timeout,
        listener=listener,
        on_wait=on_wait,
        environment=os.environ,
        **rest,
    )


def choices(given: Given) -> Options:
    """What the command line says of the plan to make."""
    from sandboxrun.plan.planner import Options

    return Options(
        targets=given.targets,
        replace=given.replace,
        rerun="failed" if given.rerun == "failed" else given.rerun is not None,
        refresh_only=given.refresh_only,
    )


# -- sandboxes by name, without a plan


def observed(engine: Engine, profile: Profile) -> tuple[ObservedSandbox, ...]:
    """The project's containers, in the profile's order, those it does not declare last."""
    from sandboxrun.backend.docker.observe import own_sandboxes

    seen = own_sandboxes(engine, profile.names)
    return tuple(sorted(seen, key=lambda o: (profile.position(o.address), o.address, o.one_off, o.created)))
