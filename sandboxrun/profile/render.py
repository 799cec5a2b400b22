"""The effective profile as text: YAML with where each value came from, or JSON. Secrets are masked.

Owns both texts. The YAML is written here rather than by a library so that each line can carry its comment.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from sandboxrun.model.declared import DeclaredSandbox, Profile, Provenance
from sandboxrun.profile.effective import effective
from sandboxrun.profile.inputs import MASK
from sandboxrun.profile.scalars import resolve

_COLUMN = 60  # where comments begin, when the line is shorter


def render_json(profile: Profile) -> str:
    """The effective profile, its inputs and digests as JSON."""
    plain = {
        **_masked(effective(profile), _Mask(profile)),
        "inputs": dict(profile.inputs),
        "digest": profile.digest,
        "inputs_digest": profile.inputs_digest,
    }
    return json.dumps(plain, indent=2, ensure_ascii=False) + "\n"


def render_yaml(profile: Profile, *, defaults: bool = True) -> str:
    """The effective profile as YAML, each option with its origin: `# sandbox.yaml:12`, `# base x`, `# default`.

    Without `defaults`, options at a default that nobody wrote are left out.
    """
    plain = _masked(effective(profile), _Mask(profile))
    lines = [f"name: {_scalar(plain.pop('name'))}"]
    sandboxes = plain.pop("sandboxes")
    if sandboxes:
        lines.append("sandboxes:")
    for sandbox in profile.sandboxes:
        lines.append(f"  {_scalar(sandbox.address)}:")
        lines += _options(sandbox, sandboxes[sandbox.address], defaults)
    for kind, specs in plain.items():
        lines.append(f"{kind}:")
        lines += _mapping(specs, "  ")
    return "\n".join(lines) + "\n"


def _options(sandbox: DeclaredSandbox, plain: Mapping[str, Any], defaults: bool) -> Iterator[str]:
    for key, value in plain.items():
        origin = _origin(sandbox.provenance.get(key))
        if origin == "default" and not defaults:
            continue
        first, *rest = _mapping({key: value}, "    ")
        yield f"{first:<{_COLUMN}}  # {origin}" if origin else first
        yield from rest


def _origin(provenance: Provenance | None) -> str:
    if provenance is None:
        return ""
    if provenance.via.startswith("base ") or provenance.span is None:
        return provenance.via
    return f"{provenance.span.file.name}:{provenance.span.line}"


class _Mask:
    """Replaces sensitive texts: short ones only where they are a whole value."""

    def __init__(self, profile: Profile) -> None:
        self.whole = profile.sensitive
        long = sorted((text for text in profile.sensitive if len(text) >= 4), key=len, reverse=True)
        self.pattern = re.compile("|".join(map(re.escape, long))) if long else None

    def text(self, text: str) -> str:
        if text in self.whole:
            return MASK
        return self.pattern.sub(MASK, text) if self.pattern is not None else text


def _masked(value: Any, mask: _Mask) -> Any:
    match value:
        case str():
            return mask.text(value)
        case bool() | None:
            return value
        case int() | float():
            return MASK if str(value) in mask.whole else value
        case Mapping():
            return {key: _masked(item, mask) for key, item in value.items()}
    return [_masked(item, mask) for item in value]


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


def _scalar(value: Any) -> str:
    """A scalar that reads back as itself: in double quotes unless it is plainly a word."""
    if isinstance(value, str):
        if _PLAIN.fullmatch(value) and _is_text(value):
            return value
        return '"' + "".join(map(_escaped, value)) + '"'
    return json.dumps(value)


_ESCAPES = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\t": "\\t", "\r": "\\r"}


def _escaped(character: str) -> str:
    """A character inside YAML's double quotes."""
    if character in _ESCAPES:
        return _ESCAPES[character]
    if character.isprintable():
        return character
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


_YAML_1_1 = frozenset("y n yes no on off".split())


def _is_text(value: str) -> bool:
    """Whether every YAML reader takes it for a text, also those that still read YAML 1.1."""
    try:
        read = resolve(value)
    except ValueError:
        return False
    return isinstance(read, str) and value.lower() not in _YAML_1_1 and not value[0].isdigit()
