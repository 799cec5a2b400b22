"""security_opt: the option type that reads its list into options by name, and refuses those not offered."""

from __future__ import annotations

from collections.abc import Mapping

import attrs

from sandboxrun.errors import Problems, did_you_mean
from sandboxrun.model import seccomp
from sandboxrun.model.types import INVALID, Schema, freeze, refuse
from sandboxrun.source import ListNode, MapNode, Node, Scalar

KNOWN = ("no-new-privileges", "seccomp", "apparmor", "label")
LABELS = ("user", "role", "type", "level", "filetype")  # parts of an SELinux label, each an option of its own
_WHOLE = ("disable", "nested")
_PART = "label="
_ORDER = (*KNOWN, *(f"{_PART}{part}" for part in LABELS))
CLOSED: Mapping[str, str] = freeze({"no-new-privileges": "true", "seccomp": seccomp.OWN})


def split_security(item: str) -> tuple[str, str]:
    """`name=value`, `name:value` or a bare `no-new-privileges`, as a pair. A label's name holds which part it sets:
    `label=user:root` is ("label=user", "root")."""
    at = min((i for c in "=:" if (i := item.find(c)) >= 0), default=-1)
    name, value = (item, "true") if at < 0 else (item[:at], item[at + 1 :])
    if name != "label" or ":" not in value:
        return name, value
    part, _, value = value.partition(":")
    return f"{_PART}{part}", value


def join_security(name: str, value: str) -> str:
    """The pair as one text: `label=user:root`, `seccomp=debug`."""
    return f"{name}:{value}" if name.startswith(_PART) else f"{name}={value}"


@attrs.frozen(kw_only=True)
class SecurityOpts:
    """Options by name. no-new-privileges and the seccomp profile are on unless they are turned off by name: a list
    that only sets another option must not loosen them."""

    def parse(self, node: Node, problems: Problems) -> Mapping[str, str]:
        match node:
            case ListNode():
                texts = [(str(i.value), i) for i in node.items if isinstance(i, Scalar)]
                if len(texts) != len(node.items):
                    return refuse(problems, node, "a list of texts")
            case MapNode():
                found = [(str(k.value), v) for k, v in node.entries if isinstance(v, Scalar)]
                texts = [(join_security(name, v.text or str(v.value)), v) for name, v in found]
                if len(texts) != len(node.entries):
                    return refuse(problems, node, "a mapping of texts")
            case _:
                return refuse(problems, node, "a list")
        return self._build(texts, problems)

    def _build(self, texts: list[tuple[str, Scalar]], problems: Problems) -> Mapping[str, str]:
        options: dict[str, str] = {}
        before = len(problems)
        for text, item in texts:
            name, value = split_security(text)
            _check(name, value, item, problems)
            if name in options:
                problems.add(f'"{name}" stands here twice', item.span, "remove one of them")
            options[name] = value
            labels = [other for other in options if other.startswith(_PART)]
            if options.get("label") == "disable" and (name in labels or (labels and name == "label")):
                problems.add("label=disable turns labels off, and a label is set", item.span, "remove one of them")
        return freeze({**CLOSED, **options}) if len(problems) == before else INVALID

    def schema(self) -> Schema:
        item: Schema = {"type": "string", "pattern": rf"^({'|'.join(KNOWN)})([=:].+)?$"}
        values: Schema = {"type": ["string", "boolean"]}
        names: Schema = {"enum": list(_ORDER)}
        return {
            "anyOf": [
                {"type": "array", "items": item},
                {"type": "object", "propertyNames": names, "additionalProperties": values},
            ]
        }

    def plain(self, value: Mapping[str, str]) -> list[str]:
        return [
            f"{name}:{item}" if name == "no-new-privileges" else join_security(name, item)
            for name, item in sorted(value.items(), key=_place)
        ]


def _place(option: tuple[str, str]) -> int:
    return _ORDER.index(option[0])


def _check(name: str, value: str, item: Scalar, problems: Problems) -> None:
    if name.startswith(_PART) and name not in _ORDER:
        part = name.removeprefix(_PART)
        help = did_you_mean(part, LABELS) or f"known are {', '.join(LABELS)}"
        problems.add(f'"{part}" is not a part of a label', item.span, help)
    elif name not in _ORDER:
        help = did_you_mean(name, KNOWN) or f"known are {', '.join(KNOWN)}"
        if name == "systempaths":
            help = "the engine's masked paths stay masked"
        problems.add(f'"{name}" is no security option that is offered', item.span, help)
    elif name == "no-new-privileges" and value not in ("true", "false"):
        problems.add(f'no-new-privileges is true or false, not "{value}"', item.span)
    elif not value:
        problems.add(f'"{name}" needs a value', item.span, f"write {join_security(name, '…')}")
    elif name == "label" and value not in _WHOLE:
        help = f"write label={' or label='.join(_WHOLE)}, or a part of it, as in label=type:…"
        problems.add(f'"{value}" is not a label', item.span, help)
