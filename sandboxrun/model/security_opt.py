"""security_opt: the option type that reads its list into options by name, and refuses those not offered."""

from __future__ import annotations

from collections.abc import Mapping

import attrs

from sandboxrun.errors import Problems, did_you_mean
from sandboxrun.model import seccomp
from sandboxrun.model.types import INVALID, Schema, freeze, refuse
from sandboxrun.source import ListNode, MapNode, Node, Scalar

KNOWN = ("no-new-privileges", "seccomp", "apparmor", "label")
CLOSED: Mapping[str, str] = freeze({"no-new-privileges": "true", "seccomp": seccomp.OWN})


def split_security(item: str) -> tuple[str, str]:
    """`name=value`, `name:value` or a bare `no-new-privileges`, as a pair."""
    at = min((i for c in "=:" if (i := item.find(c)) >= 0), default=-1)
    return (item, "true") if at < 0 else (item[:at], item[at + 1 :])


@attrs.frozen(kw_only=True)
class SecurityOpts:
    """Options by name. no-new-privileges and the seccomp profile are on unless they are turned off by name: a list
    that only sets another option must not loosen them."""

    def parse(self, node: Node, problems: Problems) -> Mapping[str, str]:
        match node:
            case ListNode():
                pairs = [(split_security(str(i.value)), i) for i in node.items if isinstance(i, Scalar)]
                if len(pairs) != len(node.items):
                    return refuse(problems, node, "a list of texts")
            case MapNode():
                pairs = [((str(k.value), v.text or str(v.value)), v) for k, v in node.entries if isinstance(v, Scalar)]
                if len(pairs) != len(node.entries):
                    return refuse(problems, node, "a mapping of texts")
            case _:
                return refuse(problems, node, "a list")
        options = dict(CLOSED)
        before = len(problems)
        for (name, value), item in pairs:
            _check(name, value, item, problems)
            options[name] = value
        return freeze(options) if len(problems) == before else INVALID

    def schema(self) -> Schema:
        item: Schema = {"type": "string", "pattern": rf"^({'|'.join(KNOWN)})([=:].+)?$"}
        values: Schema = {"type": ["string", "boolean"]}
        names: Schema = {"enum": list(KNOWN)}
        return {
            "anyOf": [
                {"type": "array", "items": item},
                {"type": "object", "propertyNames": names, "additionalProperties": values},
            ]
        }

    def plain(self, value: Mapping[str, str]) -> list[str]:
        return [f"{name}:{item}" if name == "no-new-privileges" else f"{name}={item}" for name, item in value.items()]


def _check(name: str, value: str, item: Scalar, problems: Problems) -> None:
    if name not in KNOWN:
        help = did_you_mean(name, KNOWN) or f"known are {', '.join(KNOWN)}"
        if name == "systempaths":
            help = "the engine's masked paths stay masked"
        problems.add(f'"{name}" is no security option that is offered', item.span, help)
    elif name == "no-new-privileges" and value not in ("true", "false"):
        problems.add(f'no-new-privileges is true or false, not "{value}"', item.span)
    elif not value:
        problems.add(f'"{name}" needs a value', item.span, f"write {name}=…")
