"""tmpfs: the option type of `tmpfs`, which never leaves one unsized (that would be half of the host's RAM)."""

from __future__ import annotations

import re
from collections.abc import Mapping

import attrs

from sandboxrun.errors import Problems, did_you_mean
from sandboxrun.model import forms, units
from sandboxrun.model.types import INVALID, Schema, freeze, refuse
from sandboxrun.source import ListNode, MapNode, Node, Scalar

FLAGS = ("rw", "ro", "exec", "noexec", "suid", "nosuid", "dev", "nodev")
VALUED = ("size", "mode", "uid", "gid", "nr_inodes")
CLOSED = {"access": "rw", "exec": "noexec", "suid": "nosuid", "dev": "nodev"}
_AXIS = {"rw": "access", "ro": "access", "exec": "exec", "noexec": "exec"}
_AXIS |= {"suid": "suid", "nosuid": "suid", "dev": "dev", "nodev": "dev"}
DEFAULT_SIZE = "64m"


def read_options(text: str) -> str:
    """Mount options in canonical order, with what was left out closed: noexec, nosuid, nodev, size=64m.

    Raises ValueError with a clause for the message.
    """
    flags, values = dict(CLOSED), {"size": DEFAULT_SIZE}
    given: set[str] = set()
    for item in filter(None, text.split(",")):
        name, equals, value = item.partition("=")
        if (axis := _AXIS.get(name, name)) in given:
            raise ValueError(f'"{item}" says again what another option says')
        given.add(axis)
        if not equals and name in _AXIS:
            flags[_AXIS[name]] = name
        elif equals and name in VALUED:
            values[name] = _value(name, value)
        else:
            known = did_you_mean(name, (*FLAGS, *VALUED)) or f"known are {', '.join((*FLAGS, *VALUED))}"
            raise ValueError(f'"{item}" is no option of a tmpfs; {known}')
    return ",".join([*flags.values(), *(f"{name}={values[name]}" for name in VALUED if name in values)])


def options_of(text: str) -> dict[str, str]:
    """The options that have a value: size, mode, uid, gid, nr_inodes."""
    return dict(item.split("=", 1) for item in text.split(",") if "=" in item)


def _value(name: str, value: str) -> str:
    if name == "size":
        size = units.parse_size(value)
        if size == 0:
            raise ValueError("size=0 is unlimited; give it a size")
        return units.format_size(size)
    if not re.fullmatch("(0o?)?[0-7]{3,4}" if name == "mode" else r"[0-9]{1,10}", value, re.ASCII):
        raise ValueError(f'"{value}" is no {name}')
    return f"{int(value.removeprefix('0o'), 8):04o}" if name == "mode" else str(int(value))


@attrs.frozen(kw_only=True)
class Tmpfs:
    """Mount options by path. `/tmp` alone, or `/tmp:size=64m,exec`."""

    def parse(self, node: Node, problems: Problems) -> Mapping[str, str]:
        match node:
            case MapNode():
                found = [(str(k.value), v) for k, v in node.entries]
                texts = [(path, v) for path, v in found if isinstance(v, Scalar) and isinstance(v.value, str | None)]
                items = [(path, str(v.value or ""), v) for path, v in texts]
                if len(items) != len(found):
                    return refuse(problems, node, "a mapping of paths to mount options")
            case ListNode() | Scalar(value=str()):
                items = []
                for item in node.items if isinstance(node, ListNode) else (node,):
                    if not isinstance(item, Scalar) or not isinstance(item.value, str):
                        return refuse(problems, item, "a path, or path:options")
                    path, _, options = item.value.partition(":")
                    items.append((path, options, item))
            case _:
                return refuse(problems, node, "a list of paths, each with its options")
        return self._build(items, problems)

    def _build(self, items: list[tuple[str, str, Scalar]], problems: Problems) -> Mapping[str, str]:
        mounts: dict[str, str] = {}
        before = len(problems)
        for path, options, item in items:
            if not path.startswith("/") or "\0" in path:
                problems.add(f'"{path}" is no absolute path', item.span)
            path = forms.path(path) if path.startswith("/") else path
            if path in mounts:
                problems.add(f'"{path}" stands here twice', item.span, "remove one of them")
            try:
                mounts[path] = read_options(options)
            except ValueError as error:
                problems.add(f"the options of the tmpfs {path} are wrong: {error}", item.span)
        return freeze(dict(sorted(mounts.items()))) if len(problems) == before else INVALID

    def schema(self) -> Schema:
        item: Schema = {"type": "string", "pattern": r"^/[^:]*(:[a-z_,=0-9a-zA-Z.]*)?$"}
        names: Schema = {"pattern": "^/"}
        by_path: Schema = {
            "type": "object",
            "propertyNames": names,
            "additionalProperties": {"type": ["string", "null"]},
        }
        return {"anyOf": [item, {"type": "array", "items": item, "uniqueItems": True}, by_path]}

    def plain(self, value: Mapping[str, str]) -> list[str]:
        return [f"{path}:{options}" for path, options in value.items()]
