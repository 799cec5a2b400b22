"""Writes docs/reference.md: every option of a profile, every command, the exit codes.

Usage: python -m scripts.reference. Everything comes from where the program itself has it: the model's rows, the
profile's schema, the commands' own declarations. Nothing about a single option or command stands here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from sandboxrun.backend.docker.fields import FIELDS
from sandboxrun.cli.commands import explain as explaining
from sandboxrun.cli.main import SECTIONS, TABLE, root
from sandboxrun.profile.render import profile_schema
from sandboxrun.spec.option import Record, Row, row_schema, rows
from sandboxrun.spec.project import ConfigType, NetworkType, SecretType, VolumeType
from sandboxrun.spec.spec import NOT_OFFERED, SandboxSpec

FILE = Path(__file__).resolve().parents[1] / "docs" / "reference.md"
HEAD = """\
# Reference

Derived from the program itself by `make reference`; a test fails when it is stale. What the options are for and how
they play together is told in [profile.md](profile.md).
"""
GROUPS = {
    "ProcessOptions": "The process",
    "ResourceOptions": "Resources",
    "SecurityOptions": "Privileges",
    "PlaceOptions": "Files, networks and the task",
}
OBJECTS: Mapping[str, Record] = {
    "networks": NetworkType,
    "volumes": VolumeType,
    "secrets": SecretType,
    "configs": ConfigType,
}


def text() -> str:
    """The whole file."""
    parts = [HEAD, *_contents(), *_top_level(), *_sandbox(), *_objects(), *_variables(), *_not_offered(), *_commands()]
    return "\n".join([*parts, *_exit_codes()]) + "\n"


def _contents() -> Iterator[str]:
    titles = ["Top level", "A sandbox", "Networks, volumes, secrets and configs", "Variables", "Not offered"]
    yield from (f"- [{title}](#{anchor(title)})" for title in [*titles, "Commands", "Exit codes"])
    yield ""


def anchor(title: str) -> str:
    """A heading's anchor, as GitHub makes it."""
    return re.sub(r"[^a-z0-9_ -]", "", title.lower()).replace(" ", "-")


# -- the profile ----------------------------------------------------------------------------------------------------


def _top_level() -> Iterator[str]:
    yield "## Top level\n"
    properties = profile_schema()["properties"]
    yield from _table(("key", "what it is"), ((_code(key), part["description"]) for key, part in properties.items()))
    yield "\nKeys that begin with `x-` are ignored, here and in a sandbox.\n"


def _sandbox() -> Iterator[str]:
    yield "## A sandbox\n"
    by_key = dict(explaining.options())
    placed = {row.key for _, group in _groups() for row in group}
    yield from _options("The profile's own keys", [key for key in by_key if key not in placed])
    for title, group in _groups():
        yield from _options(title, [row.key for row in group if row.key in by_key])
    yield from _fixed()


def _groups() -> Iterator[tuple[str, tuple[Row, ...]]]:
    for base in reversed(SandboxSpec.__mro__):
        if base.__name__ in GROUPS:
            yield GROUPS[base.__name__], tuple(row for row in rows(base) if row.attribute in base.__annotations__)


def _options(title: str, keys: Sequence[str]) -> Iterator[str]:
    yield f"### {title}\n"
    for key in keys:
        yield from _option(explaining.explained(key))


def _option(found: explaining.Explained) -> Iterator[str]:
    yield f"#### `{found.name}`\n"
    yield f"{found.description}\n"
    yield from (f"- {name}: {_fact(name, fact)}" for name, fact in found.facts.items())
    if found.example is not None:
        yield f"\n```yaml sandbox\n{explaining.example_text(found.example)}\n```"
    if found.keys:
        yield ""
        yield from _record(found.keys)
    yield ""


def _fact(name: str, fact: str) -> str:
    said = fact in ("none", "not set", "the image's") or (" " in fact and fact[0] not in "{[")
    return _code(fact) if name in ("default", "engine") and not said else _escaped(fact)


def _record(keys: Iterable[Row]) -> Iterator[str]:
    lines = ((_code(row.key), row.description, explaining.words(row.type), _default(row)) for row in keys)
    yield from _table(("key", "what it is", "type", "default"), lines)


def _default(row: Row) -> str:
    schema = row_schema(row)
    if row.required:
        return "must be given"
    return _code(explaining.shown(schema["default"])) if "default" in schema else _silent(row)


def _silent(row: Row) -> str:
    if row.default is None:
        return "not set"
    shown = explaining.shown(row.type.plain(row.default))
    return shown if shown == "none" else _code(shown)


def _fixed() -> Iterator[str]:
    """What no profile can change."""
    yield "### What no profile can change\n"
    fixed = [row for _, group in _groups() for row in group if not row.settable]
    lines = ((_code(row.key), row.description, _code(FIELDS[row.key].engine)) for row in fixed)
    yield from _table(("option", "what holds", "on the engine"), lines)
    yield ""


def _objects() -> Iterator[str]:
    yield "## Networks, volumes, secrets and configs\n"
    properties = profile_schema()["properties"]
    for key, type_ in OBJECTS.items():
        yield f"### `{key}`\n"
        yield f"{properties[key]['description']}\n"
        example = explaining.example_text({key: properties[key]["examples"][0]})
        yield f"```yaml fragment\n{example}\n```\n"
        yield from _record(row for row in rows(type_.cls) if row.settable)
        yield ""


def _variables() -> Iterator[str]:
    yield "## Variables\n"
    schema = profile_schema()["properties"]["variables"]
    yield f"{schema['description']}\n"
    yield f"```yaml fragment\n{explaining.example_text({'variables': schema['examples'][0]})}\n```\n"
    inner = schema["additionalProperties"]["properties"]
    lines = ((_code(key), f["description"], _code(explaining.shown(f["examples"][0]))) for key, f in inner.items())
    yield from _table(("key", "what it is", "example"), lines)
    yield ""


def _not_offered() -> Iterator[str]:
    yield "## Not offered\n"
    yield "Keys that a reader of Compose files may miss; each is refused by name, with this advice.\n"
    yield from _table(("key", "instead"), ((_code(key), advice) for key, advice in sorted(NOT_OFFERED.items())))
    yield ""


# -- the command line -----------------------------------------------------------------------------------------------


def _commands() -> Iterator[str]:
    group = root()
    context = click.Context(group, info_name="sandboxrun")
    yield "## Commands\n"
    for title, entries in SECTIONS.items():
        yield f"### {title}\n"
        for name in entries:
            command = group.get_command(context, name)
            assert command is not None
            yield from _command(name, command, context)


def _command(name: str, command: click.Command, above: click.Context) -> Iterator[str]:
    context = click.Context(command, info_name=name, parent=above)
    yield f"#### `sandboxrun {name}`\n"
    yield f"```text\nsandboxrun {name} {' '.join(command.collect_usage_pieces(context))}\n```\n"
    yield "\n\n".join(_paragraphs(command.help or "")) + "\n"
    lines = []
    for parameter in command.params:  # less --help, which all have
        record = parameter.get_help_record(context) if isinstance(parameter, click.Option) else None
        if record is not None:
            lines.append((_code(record[0]), record[1]))
    if lines:
        yield from _table(("option", "what it does"), lines)
        yield ""
    if isinstance(command, click.Group):
        for part, entry in command.commands.items():
            yield from _command(f"{name} {part}", entry, above)


def _paragraphs(help: str) -> Iterator[str]:
    for paragraph in re.split(r"\n\s*\n", help.strip()):
        yield _escaped(" ".join(line.strip() for line in paragraph.splitlines()))


def _exit_codes() -> Iterator[str]:
    yield "## Exit codes\n"
    yield from _table(("code", "meaning"), ((code, meaning) for code, meaning in TABLE.items()))


# -- Markdown -------------------------------------------------------------------------------------------------------


def _table(heads: Sequence[str], lines: Iterable[Sequence[Any]]) -> Iterator[str]:
    yield f"| {' | '.join(heads)} |"
    yield f"| {' | '.join('---' for _ in heads)} |"
    for line in lines:
        yield f"| {' | '.join(_cell(str(cell)) for cell in line)} |"


def _cell(shown: str) -> str:
    shown = shown if shown.startswith("`") else _escaped(shown)
    return " ".join(shown.replace("|", "\\|").split())


def _code(shown: str) -> str:
    return f"`{shown}`"


def _escaped(shown: str) -> str:
    """Placeholders such as <project> are not HTML; what stands in backticks is left as it is."""
    parts = re.split(r"(`[^`]*`)", shown)
    return "".join(part if part.startswith("`") else re.sub(r"([<*])", r"\\\1", part) for part in parts)


def main() -> None:
    """Write the file."""
    FILE.write_text(text(), encoding="utf-8")
    print(f"{FILE.relative_to(FILE.parents[1])} is written")


if __name__ == "__main__":
    main()
