"""The effective profile: as plain data, as YAML with where each value came from, as JSON. Secrets are masked."""

from __future__ import annotations

import contextlib
import functools
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sandboxrun.errors import mask
from sandboxrun.profile.files import Places
from sandboxrun.profile.yaml import resolve
from sandboxrun.spec.option import Row, RowData, rows, values_of
from sandboxrun.spec.option_types import EgressOption
from sandboxrun.spec.project import DeclaredSandbox, Profile, Provenance

# -- The effective profile as plain data: every option written out, every template rendered


def effective(profile: Profile) -> dict[str, Any]:
    """JSON data: name, sandboxes by address with all their options, networks, volumes, secrets, configs."""
    places = Places(root=profile.directory, directories={})
    plain: dict[str, Any] = {
        "name": profile.project,
        "sandboxes": {sandbox.address: sandbox_plain(sandbox, places) for sandbox in profile.sandboxes},
    }
    for kind in ("networks", "volumes", "secrets", "configs"):
        if specs := {key: spelled_out(spec) for key, spec in getattr(profile, kind).items()}:
            for spec in specs.values():
                _relate(spec, "file", places)
            plain[kind] = specs
    return plain


def sandbox_plain(sandbox: DeclaredSandbox, places: Places) -> dict[str, Any]:
    """One sandbox's options, the defaults included, dependencies by address."""
    plain = spelled_out(sandbox.spec)
    for mount in plain.get("volumes", ()):
        if mount.get("type") == "bind":
            _relate(mount, "source", places)
    _relate(plain.get("workspace", {}), "source", places)
    if sandbox.depends_on:
        plain["depends_on"] = {address: spelled_out(dependency) for address, dependency in sandbox.depends_on.items()}
    return plain


def spelled_out(record: Any) -> dict[str, Any]:
    """A record as plain data with every option that has a value, also in the records inside it."""
    return {
        row.key: _spelled(row, value)
        for row, value in zip(rows(type(record)), values_of(record), strict=True)
        if row.settable and value is not None
    }


_DEFAULTS: dict[int, tuple[Row, Any]] = {}  # most options have their default: write each once


def _spelled(row: Row, value: Any) -> Any:
    if value is not row.default:
        return _written(row, value)
    if id(row) not in _DEFAULTS:
        _DEFAULTS[id(row)] = (row, _written(row, value))
    return _DEFAULTS[id(row)][1]


def _written(row: Row, value: Any) -> Any:
    if isinstance(value, RowData) and not isinstance(row.type, EgressOption):  # that has a form in one word
        return spelled_out(value)
    if isinstance(value, tuple) and value and isinstance(value[0], RowData):
        return [spelled_out(item) for item in value]
    if isinstance(value, Mapping) and value and isinstance(next(iter(value.values())), RowData):
        return {key: spelled_out(item) for key, item in value.items()}
    return row.type.plain(value)


def _relate(plain: dict[str, Any], key: str, places: Places) -> None:
    """Write an absolute path from the project's directory where it lies below."""
    if plain.get(key, "").startswith("/"):
        plain[key] = places.relative(Path(plain[key]))


# -- The effective profile as text: YAML with where each value came from, or JSON. Secrets are masked

_COLUMN = 60  # where comments begin, when the line is shorter


def render_json(profile: Profile) -> str:
    """The effective profile, its inputs and digests as JSON."""
    plain = {
        **_hidden(profile),
        "inputs": dict(profile.inputs),
        "digest": profile.digest,
        "inputs_digest": profile.inputs_digest,
    }
    return json.dumps(plain, indent=2, ensure_ascii=False) + "\n"


def render_yaml(profile: Profile, *, defaults: bool = True) -> str:
    """The effective profile as YAML, each option with its origin: `# sandbox.yaml:12`, `# base x`, `# default`.

    Without `defaults`, options at a default that nobody wrote are left out.
    """
    plain = _hidden(profile)
    lines = [f"name: {_scalar(plain.pop('name'))}"]
    sandboxes = plain.pop("sandboxes")
    if sandboxes:
        lines.append("sandboxes:")
    for sandbox in profile.sandboxes:
        lines.append(f"  {_scalar(sandbox.address)}:")
        for key, value in sandboxes[sandbox.address].items():
            origin = _origin(sandbox.provenance.get(key))
            if origin != "default" or defaults:
                first, *rest = _mapping({key: value}, "    ")
                lines += [f"{first:<{_COLUMN}}  # {origin}" if origin else first, *rest]
    for kind, specs in plain.items():
        lines.append(f"{kind}:")
        lines += _mapping(specs, "  ")
    return "\n".join(lines) + "\n"


def _origin(provenance: Provenance | None) -> str:
    if provenance is None:
        return ""
    if provenance.via.startswith("base ") or provenance.span is None:
        return provenance.via
    return f"{provenance.span.file.name}:{provenance.span.line}"


def _hidden(profile: Profile) -> dict[str, Any]:
    """The effective profile, with sensitive texts masked; the options' own names are none."""
    plain = effective(profile)
    hide = functools.partial(mask, sensitive=profile.sensitive, whole=False)
    sandboxes = {a: {key: hide(value) for key, value in s.items()} for a, s in plain["sandboxes"].items()}
    return {**hide(plain), "sandboxes": sandboxes}


# -- writing YAML ------------------------------------------------------------------------------------------------


def _mapping(values: Mapping[str, Any], indent: str) -> list[str]:
    lines = []
    for key, value in values.items():
        head = f"{indent}{_scalar(key)}:"
        if isinstance(value, Mapping) and value:
            lines += [head, *_mapping(value, indent + "  ")]
        elif isinstance(value, list | tuple) and any(isinstance(item, Mapping | list) for item in value):
            lines += [head, *(f"{indent}  - {_flow(item)}" for item in value)]
        else:
            lines.append(f"{head} {_flow(value)}")
    return lines


def _flow(value: Any) -> str:
    match value:
        case Mapping():
            return "{" + ", ".join(f"{_scalar(key)}: {_flow(item)}" for key, item in value.items()) + "}"
        case list() | tuple():
            return "[" + ", ".join(map(_flow, value)) + "]"
    return _scalar(value)


_PLAIN = re.compile(r"[A-Za-z0-9_./(][A-Za-z0-9_./@+=()-]*(?::[A-Za-z0-9_./@+=()-]+)*")


_ESCAPES = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\t": "\\t", "\r": "\\r"}
_YAML_1_1 = frozenset("y n yes no on off".split())


def _scalar(value: Any) -> str:
    """A scalar that reads back as itself, by every YAML reader, those of YAML 1.1 too: in double quotes unless it is
    plainly a word. PyYAML's own quoting is not enough: it leaves characters that can't be seen."""
    if not isinstance(value, str):
        return json.dumps(value)
    if _PLAIN.fullmatch(value) and not value[0].isdigit() and value.lower() not in _YAML_1_1:
        with contextlib.suppress(ValueError):
            if isinstance(resolve(value), str):
                return value
    quoted = []
    for character in value:
        code = ord(character)
        escaped = f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
        quoted.append(_ESCAPES.get(character) or (character if character.isprintable() else escaped))
    return f'"{"".join(quoted)}"'
