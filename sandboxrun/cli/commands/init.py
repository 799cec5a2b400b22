"""`sandboxrun init` and `completion`: what is done once, a commented profile to start from and a shell's completion."""

from __future__ import annotations

import os
import re
import shlex
from pathlib import Path

import click
from click.shell_completion import get_completion_class

from sandboxrun.cli.main import COMPLETING, root
from sandboxrun.cli.options import SPOKEN, Given, taking
from sandboxrun.cli.output import note, result
from sandboxrun.spec.names import PROFILES

SCHEMA = ".sandboxrun/sandbox.schema.json"
TEXT = """\
# yaml-language-server: $schema=%(schema)s
#
# What each sandbox of this project is and may do. What is not opened here is closed: no capabilities, a read-only root,
# no swap, bounded memory, CPU, processes and output. Only the network is open, to every public host, unless egress says
# otherwise.
#
#   sandboxrun plan              what apply would do, and why
#   sandboxrun apply --wait      do it, wait for the end, exit with the agent's own code
#   sandboxrun run agent         the same for one sandbox, its output on the terminal, nothing left behind
#   sandboxrun explain OPTION    an option's documentation
#   sandboxrun render --defaults every effective option, and where its value comes from

name: %(name)s

# The only inputs that {{ … }} below can use: --var task=review, a --var-file, or SANDBOXRUN_VAR_task.
variables:
  task:
    type: string
    default: look around
    pattern: "[A-Za-z0-9 ._-]+"
    description: what the agent is to do

sandboxes:
  agent:
    extends: default        # built-in bases: %(bases)s
    image: %(image)s
    command: [sh, -c, 'echo "task: $0"; pwd; ls', "{{ task }}"]
    # One sandbox for each item, if you want several:
    # for_each: [lint, tests]          # then {{ each }} is the item

    # The agent works on a copy; what it changes is saved as a patch in the evidence. rw and ro mount the
    # directory itself.
    workspace: {source: ., target: /workspace, access: copy}

    # What it reaches: none, open (every public host), or hosts by name: {allow: ["api.example.com:443"]}.
    egress: none

    mem_limit: 512m
    cpus: 1.0
    pids_limit: 256

    lifetime:
      timeout: 30m          # ended, and recorded as such, when it runs longer

    # evidence:
    #   artifacts: [/workspace/report]   # copied out before the sandbox is removed
    # secrets: [api_key]                 # a file, /run/secrets/api_key

# secrets:
#   api_key: {environment: AGENT_API_KEY}
"""


@click.command()
@taking(
    click.argument("file", type=click.Path(path_type=Path), default=Path("sandbox.yaml"), required=False),
    click.option(
        "--image", metavar="IMAGE", default="node:20-alpine", show_default=True, help="The image to write into it."
    ),
    *SPOKEN,
)
def init(given: Given, file: Path, image: str) -> None:
    """Write a commented profile, FILE or sandbox.yaml, and its schema for editors. Overwrites nothing."""
    from sandboxrun.errors import Diagnostic, Problems, SandboxrunError, UsageError, node_of
    from sandboxrun.evidence.folder import Folder
    from sandboxrun.evidence.store import HOME
    from sandboxrun.profile.files import bases, reason
    from sandboxrun.profile.render import schema_text
    from sandboxrun.spec.spec import BY_KEY

    BY_KEY["image"].type.parse(node_of(image), problems := Problems())
    if problems:
        raise UsageError(f"--image: {problems.diagnostics[0].message}")
    directory = Path(os.path.abspath(file)).parent
    others = [name for name in ("sandbox.yaml", "sandbox.yml") if os.path.lexists(directory / name)]
    if file.name in ("sandbox.yaml", "sandbox.yml") and others:
        raise UsageError(f"{file.with_name(others[0])} exists", help="nothing was written; edit that one")
    text = TEXT % {"schema": SCHEMA, "name": project_name(directory), "image": image, "bases": ", ".join(bases())}
    try:
        with open(file, "x", encoding="utf-8") as stream:
            stream.write(text)
    except FileExistsError:
        raise UsageError(f"{file} exists", help="nothing was written; name another file") from None
    # the schema beside the evidence, where git does not see it; links are not followed
    with Folder.at(directory) as project, project.enter(HOME, create=True) as home:
        if not home.kind(".gitignore"):
            home.write(".gitignore", b"*\n")
        try:
            home.write(Path(SCHEMA).name, schema_text().encode())
        except OSError as error:
            message = f"{SCHEMA} cannot be written: {reason(error)}"
            raise SandboxrunError(Diagnostic(message=message, help="remove what is in its place")) from error
    result(f"created {file}")
    more = "" if str(file) in PROFILES else f" -f {shlex.quote(str(file))}"
    note(
        f"next: `sandboxrun plan{more}` shows what would be created, `sandboxrun run{more}` runs it", quiet=given.quiet
    )


def project_name(directory: Path) -> str:
    """A project's name made of the directory's."""
    return re.sub(r"[^a-z0-9_-]+", "-", directory.name.lower()).strip("-_")[:63] or "sandbox"


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]), metavar="bash|zsh|fish")
def completion(shell: str) -> None:
    """Print the completion script of SHELL.

    For bash, add to ~/.bashrc:  eval "$(sandboxrun completion bash)"
    """
    found = get_completion_class(shell)
    if found is None:
        raise click.UsageError(f"there is no completion for {shell}")
    result(found(root(), {}, "sandboxrun", COMPLETING).source())
