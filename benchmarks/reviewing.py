"""The review: a thousand profiles beside parsing and rendering them, Compose files beside another auditor.

Owns the files that are reviewed. compose-lint is measured if it is installed beside this interpreter.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from msgspec import structs

from benchmarks.table import Result, compared
from benchmarks.timing import Program, in_turns
from benchmarks.world import World

_PROFILE = """\
name: p{number}
variables: {{memory: {{type: string, default: 512m}}}}
sandboxes:
  agent:
    image: registry.example.com/agent:1.{number}
    command: [agent, --task, "{number}"]
    mem_limit: "{{{{ memory }}}}"
    environment: {{LANG: C.UTF-8, TASK: "{number}"}}
    workspace: .
    egress: {{allow: ["api{number}.example.com:443"]}}
"""
_COMPOSE = """\
services:
  web:
    image: nginx:1.25
    ports: ["80{number:02}:80"]
    volumes: ["./site:/usr/share/nginx/html:ro", "/var/run/docker.sock:/var/run/docker.sock"]
    depends_on: [db]
  db:
    image: postgres:16
    environment: {{POSTGRES_PASSWORD: "${{PASSWORD}}"}}
    volumes: ["data:/var/lib/postgresql/data"]
volumes: {{data: {{}}}}
"""
_RENDERED = """\
import sys
from pathlib import Path
from sandboxrun.profile.loader import load
for path in sorted(Path(sys.argv[1]).glob("*/sandbox.yaml")):
    load([path])
"""


def reviewing(world: World, profiles: int, rounds: int, few: int) -> Iterator[Result]:
    """`audit` of many profiles in one call, of one Compose file and of a hundred."""
    top = world.folder / "reviewed"
    _write(top / "profiles", "sandbox.yaml", _PROFILE, profiles)
    audited = _auditing(world, "audit", top / "profiles")
    rendered = world.python("parse and render", "-c", _RENDERED, str(top / "profiles"))
    ours, theirs = in_turns([audited, rendered], few)
    yield compared(f"audit of {profiles} profiles", ours, theirs, 2)
    other = Path(sys.executable).with_name("compose-lint")
    for count, wanted in ((1, 0.9), (100, 0.7)):
        files = _write(top / f"compose-{count}", "compose.yaml", _COMPOSE, count)
        programs = [_auditing(world, "audit", *files)]
        if other.exists():
            argv = (str(other), *map(str, files))
            programs.append(
                Program(name="compose-lint", argv=argv, env=world.env, directory=world.folder, expected=(0, 1, 2))
            )
        else:
            programs.append(world.python("python -c pass", "-c", "pass"))
        target = wanted if other.exists() else None
        measure = f"audit of {count} Compose file{'s' if count > 1 else ''}"
        ours, theirs = in_turns(programs, rounds if count == 1 else few)
        yield compared(measure, ours, theirs, target)


def _auditing(world: World, name: str, *paths: Path) -> Program:
    return structs.replace(world.sandboxrun(name, "audit", *map(str, paths)), expected=(0, 1))


def _write(top: Path, name: str, text: str, count: int) -> list[Path]:
    """That many files, each in a directory of its own."""
    made = []
    for number in range(count):
        path = top / str(number) / name
        path.parent.mkdir(parents=True)
        path.write_text(text.format(number=number))
        made.append(path)
    return made
