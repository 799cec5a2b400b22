"""`sandboxrun explain`: all about an option, derived from its row; the reference in the docs has the same."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import click

from sandboxrun.backend.docker.fields import field_of
from sandboxrun.cli.options import as_json
from sandboxrun.cli.output import result
from sandboxrun.data import Data
from sandboxrun.errors import Diagnostic, UsageError, did_you_mean
from sandboxrun.spec import types
from sandboxrun.spec.option import Effect, Record, Row, row_schema, rows
from sandboxrun.spec.spec import BY_KEY, NOT_OFFERED, ROWS


@click.command()
@click.argument("option", required=False)
@as_json
def explain(option: str | None, as_json: bool) -> None:
    """Show the documentation of OPTION: what it does, its forms, its default, and what a change requires.

    Use a dot for an option inside another: workspace.access. Without OPTION, lists all. An audit rule is explained by
    its id: SBX301.
    """
    if option is not None and option.upper().startswith("SBX"):
        from sandboxrun.audit.rules import by_id
        from sandboxrun.report.audit import rule_json, rule_text

        id = option.upper()
        if id not in by_id():
            help = did_you_mean(id, by_id()) or "they are listed in docs/rules.md"
            raise UsageError(f'there is no audit rule "{id}"', help=help)
        result(rule_json(id) if as_json else rule_text(id))
        return
    if option is None:
        listed = options()
        if as_json:
            result(dict(listed))
            return
        width = max(len(name) for name, _ in listed)
        result("\n".join(f"{name:<{width}}  {description}" for name, description in listed))
        return
    found = explained(option)
    if not as_json:
        result(text(found))
        return
    facts = {name.split()[-1]: fact for name, fact in found.facts.items()}
    result({"option": found.name, "description": found.description, **facts, "schema": found.schema})


# -- an option in words

NEEDS = {
    Effect.LIVE: "updated in place",
    Effect.RECONNECT: "reconnected in place",
    Effect.RELOAD: "reloaded by its gateway in place; from or to none, or with other resolvers, it is replaced",
    Effect.REPLACE: "the sandbox is replaced",
    Effect.NONE: "nothing on the engine: sandboxrun's own behaviour",
}
MERGES = {
    "replace": "the later value replaces it",
    "append": "the later items are added",
    "map": "merged entry by entry",
    "target": "merged by target",
}


class Explained(Data, unshown=("schema",)):
    """An option: `name` dotted, `facts` in the order to show them, `keys` of the mapping that its value may be."""

    name: str
    description: str
    facts: Mapping[str, str]
    example: Any
    keys: tuple[Row, ...]
    schema: Mapping[str, Any]


def options() -> tuple[tuple[str, str], ...]:
    """Every option a sandbox can have: name and description, the profile's own keys first."""
    own = [(name, str(schema["description"])) for name, schema in _own_keys().items()]
    return (*own, *((row.key, row.description) for row in ROWS if row.settable))


def explained(name: str) -> Explained:
    """All about the option `name`, nested ones dotted. Raises UsageError for one there is not."""
    key, *inner = name.split(".")
    own = _own_keys().get(key)
    if own is not None and not inner:
        return Explained(
            name=key,
            description=str(own["description"]),
            facts={"engine": "none: it is evaluated when the profile is read"},
            example={key: (own.get("examples") or [None])[0]},
            keys=(),
            schema=own,
        )
    row = BY_KEY.get(key)
    if row is None or not row.settable:
        raise UsageError(_unknown(key, [n for n, _ in options()]))
    path = [row]
    for step in inner:
        known = {r.key: r for r in inner_rows(path[-1].type)}
        if step not in known:
            raise UsageError(_unknown(f"{'.'.join(r.key for r in path)}.{step}", list(known), step))
        path.append(known[step])
    return _of_rows(name, path)


def _unknown(name: str, known: Sequence[str], word: str | None = None) -> Diagnostic:
    """What to say of an option there is not; `word` is the last one of its name where that is dotted."""
    if name in NOT_OFFERED:
        return Diagnostic(message=f'"{name}" is not offered', help=NOT_OFFERED[name])
    prefix = name.removesuffix(word) if word is not None else ""
    help = did_you_mean(word or name, known)
    every = ", ".join(prefix + k for k in known)
    listed = f"there are: {every}" if word and known else "`sandboxrun explain` lists them"
    return Diagnostic(
        message=f'there is no option "{name}"', help=help.replace('"', f'"{prefix}', 1) if help is not None else listed
    )


def inner_rows(type_: Any) -> tuple[Row, ...]:
    """The rows of the record that a type holds, however wrapped; none where it holds none."""
    if isinstance(type_, Record):
        return tuple(row for row in rows(type_.cls) if row.settable)
    for wrapped in ("record", "item"):
        if (inside := getattr(type_, wrapped, None)) is not None:
            return inner_rows(inside)
    return ()


def _of_rows(name: str, path: list[Row]) -> Explained:
    outer, row = path[0], path[-1]
    schema = row_schema(row)
    if "default" in schema or row.required:
        default = "none: required" if row.required else shown(schema["default"])
    elif row.default is None:
        default = "the image's" if row.inherited else "not set"
    else:
        default = shown(row.type.plain(row.default))
    facts = {"type": words(row.type), "default": default}
    if (field := field_of(outer)) is not None:
        facts["engine"] = field
    if outer.since is not None:
        facts["needs"] = f"API {outer.since} or newer"
    kept = outer.effect is Effect.LIVE and not outer.can_clear
    facts["a change"] = NEEDS[outer.effect] + ("; removing it replaces the sandbox" if kept else "")
    facts["the image"] = "may set it" if outer.inherited else "cannot override this"
    facts["extends"] = MERGES[outer.merge] if len(path) == 1 else f"as part of {outer.key}: {MERGES[outer.merge]}"
    # the row's example where it is; below a list or names, that of the option as a whole
    direct = all(isinstance(step.type, Record | types.Short) for step in path[:-1])
    example: Any = row.example if direct else outer.example
    for step in reversed(path if direct else path[:1]):
        example = {step.key: example}
    keys = inner_rows(row.type)
    return Explained(name=name, description=row.description, facts=facts, example=example, keys=keys, schema=schema)


def _own_keys() -> Mapping[str, Any]:
    """The keys that are the profile's own rather than rows, with their schemas."""
    from sandboxrun.profile.render import profile_schema

    properties = profile_schema()["definitions"]["sandbox"]["properties"]
    return {name: schema for name, schema in properties.items() if name not in BY_KEY}


_AT_LEAST = "a whole number, at least {}"
_WORDS: tuple[tuple[type, Callable[[Any], str]], ...] = (
    (types.Text, lambda t: str(t.hint)),
    (types.Flag, lambda t: "true or false"),
    (
        types.Integer,
        lambda t: f"a whole number, {t.least} to {t.most}" if t.most < 2**63 - 1 else _AT_LEAST.format(t.least),
    ),
    (types.Cpus, lambda t: "a number of CPUs, such as 0.5"),
    (types.Size, lambda t: "a size, such as 512m or 1.5g, or a number of bytes" + "; -1 for unlimited" * t.unlimited),
    (types.Duration, lambda t: "a duration, such as 30s or 1h30m"),
    (types.Choice, lambda t: f"one of {', '.join(t.values)}"),
    (types.Command, lambda t: "a list of words, or one text that is split as a shell does"),
    (types.Pairs, lambda t: "a mapping of names to texts, or a list of NAME=value"),
    (types.ListOf, lambda t: f"a list, each item {words(t.item)}" + ", or one item alone" * t.single),
    (types.MapOf, lambda t: f"a mapping of names, each to {words(t.item)}"),
    (types.Short, lambda t: f"{t.expected}; or a mapping with {_keys(t.record)}"),
    (Record, lambda t: f"a mapping with {_keys(t)}"),
)


def words(type_: Any) -> str:
    """A type in words."""
    for known, say in _WORDS:
        if isinstance(type_, known):
            return say(type_)
    schema = type_.schema()  # of a type of its own kind: what that takes
    kinds = {"array": "a list", "object": "a mapping", "string": "a text", "integer": "a whole number"}
    takes = [kinds[s["type"]] for s in schema.get("anyOf", [schema]) if s.get("type") in kinds]
    inside = inner_rows(type_)
    tail = f" of names to {', '.join(row.key for row in inside)}" if inside else ""
    return (" or ".join(dict.fromkeys(takes)) or "see the schema") + tail


def _keys(type_: Any) -> str:
    return ", ".join(row.key for row in inner_rows(type_)) or "entries"


def shown(value: Any) -> str:
    """A value on one line, as YAML takes it."""
    if value in ([], {}, (), ""):
        return "none"
    return value if isinstance(value, str) and value else json.dumps(value, ensure_ascii=False)


def example_text(value: Mapping[str, Any], indent: int = 0) -> str:
    """An example as YAML."""
    from sandboxrun.profile.render import block

    return "\n".join(block(value, " " * indent))


def text(found: Explained) -> str:
    """The page that `explain OPTION` prints."""
    width = max(map(len, found.facts))
    lines = [found.name, f"  {found.description}", ""]
    lines += [f"  {name:<{width}}  {fact}" for name, fact in found.facts.items()]
    if found.example is not None:
        lines += ["", "  example:", example_text(found.example, 4)]
    if found.keys:
        broad = max(len(row.key) for row in found.keys)
        lines += ["", "  keys:", *(f"    {row.key:<{broad}}  {row.description}" for row in found.keys)]
    return "\n".join(lines) + "\n"
