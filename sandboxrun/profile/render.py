"""The effective profile: as plain data, as YAML with where each value came from, as JSON. Secrets are masked."""

from __future__ import annotations

import contextlib
import functools
import json
import re
from collections.abc import Mapping
from typing import Any

from sandboxrun.errors import mask
from sandboxrun.profile.loader import effective
from sandboxrun.profile.yaml import resolve
from sandboxrun.spec.project import Profile

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
            found = sandbox.provenance.get(key)
            origin = found.via if found is not None else ""
            if found is not None and found.span is not None and not origin.startswith("base "):
                origin = f"{found.span.file.name}:{found.span.line}"
            if origin != "default" or defaults:
                first, *rest = _mapping({key: value}, "    ")
                lines += [f"{first:<{_COLUMN}}  # {origin}" if origin else first, *rest]
    for kind, specs in plain.items():
        lines.append(f"{kind}:")
        lines += _mapping(specs, "  ")
    return "\n".join(lines) + "\n"


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
