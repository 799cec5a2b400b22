"""The init that is PID 1 of a sandbox with a timeout: its program, its place in the sandbox, its arguments, and what of
them is read back. It ends the sandbox in time though no process of ours runs. The program is in `c/init.c`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sandboxrun.data import Data
from sandboxrun.spec import labels
from sandboxrun.spec.options import INIT_AT
from sandboxrun.spec.spec import SandboxSpec
from sandboxrun.spec.state import ImageConfig

FILE = "init"
PROGRAM = f"{INIT_AT}/{FILE}"
NOT_STARTED = (126, 127)  # an init's codes, the engine's too: the command is not executable, not found
HOLD, RELEASE = "62", "63"  # signals around a pause of ours, whose time is not the command's; from outside only
MODE = 0o111  # a program that can't be read can't be traced from its first moment on
_BIN = Path(__file__).resolve().parent / "bin"
_ARGUMENT = re.compile("(timeout|grace)=([0-9]{1,18})")


def program(architecture: str) -> bytes:
    """The program for an engine's architecture, as the engine names it."""
    return (_BIN / f"init-{architecture}").read_bytes()


class Held(Data):
    """What the init of a container was told: nanoseconds, and the sandbox's own entry point."""

    timeout: int
    grace: int
    entrypoint: tuple[str, ...]

    @property
    def seconds(self) -> float:
        """The timeout in seconds."""
        return self.timeout / 1e9


def command_of(spec: SandboxSpec, image: ImageConfig) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Entry point and command as an engine resolves them beside the image's own."""
    entrypoint = image.entrypoint if spec.entrypoint is None else spec.entrypoint
    if spec.command is not None:
        return entrypoint, spec.command
    return entrypoint, () if spec.entrypoint else image.command


def arguments(spec: SandboxSpec) -> list[str]:
    """What comes before the sandbox's own entry point."""
    return [PROGRAM, f"timeout={spec.lifetime.timeout}", f"grace={spec.stop_grace_period}", "--"]


def is_mount(found: Mapping[str, Any]) -> bool:
    """Whether an entry of the engine's own list of mounts is the init's, and read-only."""
    named = str(found.get("Name") or "").startswith(labels.INIT_VOLUME)
    return found.get("Type") == "volume" and found.get("Destination") == INIT_AT and named and not found.get("RW", True)


def held(inspect: Mapping[str, Any]) -> Held | None:
    """What the init of a container holds it to; None where PID 1 is not our init, from our own read-only mount."""
    config = inspect.get("Config") or {}
    found = list(map(str, config.get("Entrypoint") or ()))
    told = [_ARGUMENT.fullmatch(argument) for argument in found[1:3]]
    if found[:1] != [PROGRAM] or found[3:4] != ["--"] or not any(map(is_mount, inspect.get("Mounts") or ())):
        return None
    values = {match[1]: int(match[2]) for match in told if match is not None}
    if values.keys() != {"timeout", "grace"}:
        return None
    return Held(timeout=values["timeout"], grace=values["grace"], entrypoint=tuple(found[4:]))
