"""The list of commands: where each stands and what `--help` says of it.

Owns the list. It is data, so that `--help` imports none of the commands.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class Entry(NamedTuple):
    """A command: "module:attribute" below `sandboxrun.cli.commands`, and its line in the list of commands."""

    target: str
    help: str


SECTIONS: Mapping[str, Mapping[str, Entry]] = {
    "Profile": {
        "init": Entry("init:init", "Write a commented sandbox.yaml to start from."),
        "validate": Entry("validate:validate", "Check profiles; say all that is wrong, with its place."),
        "render": Entry("render:render", "Print the effective profile, and where each value came from."),
        "schema": Entry("schema:schema", "Print the JSON Schema of a profile, for editors and other programs."),
        "explain": Entry("explain:explain", "Say all about an option of the profile."),
    },
    "Sandboxes": {
        "plan": Entry("plan:plan", "Show what apply would do, option by option, and why."),
        "apply": Entry("apply:apply", "Make the engine hold what the profile declares."),
        "run": Entry("run:run", "Run sandboxes to their end, keep the evidence, leave nothing behind."),
        "ps": Entry("ps:ps", "List the project's sandboxes."),
        "logs": Entry("logs:logs", "Show what sandboxes have written."),
        "exec": Entry("exec:exec_", "Run a command in a sandbox."),
        "verify": Entry("verify:verify", "Show by probes from inside that each restriction holds."),
        "wait": Entry("wait:wait", "Wait until sandboxes have ended."),
        "destroy": Entry("destroy:destroy", "Keep the evidence of everything, and remove it."),
    },
    "Around": {
        "gateway": Entry("gateway:gateway", "Build the image of the sandboxes' gateways."),
        "doctor": Entry("doctor:doctor", "Say what the engine offers, and what it could not enforce."),
        "completion": Entry("completion:completion", "Print the completion script of a shell."),
    },
}

COMMANDS: Mapping[str, Entry] = {name: entry for part in SECTIONS.values() for name, entry in part.items()}
