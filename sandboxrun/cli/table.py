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
        "validate": Entry("validate:validate", "Check profiles and report all errors, each with its line."),
        "render": Entry("render:render", "Print the effective profile and the source of each value."),
        "schema": Entry("schema:schema", "Print the JSON Schema of a profile, for editors and other programs."),
        "explain": Entry("explain:explain", "Show an option's documentation."),
    },
    "Sandboxes": {
        "plan": Entry("plan:plan", "Show what apply would do, option by option, and why."),
        "apply": Entry("apply:apply", "Create, update or remove sandboxes to match the profile."),
        "run": Entry("run:run", "Run sandboxes to their end, save the evidence, clean up."),
        "ps": Entry("ps:ps", "List the project's sandboxes."),
        "logs": Entry("logs:logs", "Show the output of sandboxes."),
        "exec": Entry("exec:exec_", "Run a command in a sandbox."),
        "verify": Entry("verify:verify", "Probe from inside whether each restriction holds."),
        "wait": Entry("wait:wait", "Wait until sandboxes have ended."),
        "destroy": Entry("destroy:destroy", "Save all evidence, then remove the sandboxes."),
    },
    "Other": {
        "gateway": Entry("gateway:gateway", "Build the image of the sandboxes' gateways."),
        "doctor": Entry("doctor:doctor", "Show what the engine offers, and what it cannot enforce."),
        "completion": Entry("completion:completion", "Print the completion script of a shell."),
    },
}

COMMANDS: Mapping[str, Entry] = {name: entry for part in SECTIONS.values() for name, entry in part.items()}
