"""What an option is: one row that its schema, model field, payload, decoding, diff and docs derive from.

Owns the shape of a row, `Record`, the type whose fields are rows, and how a sandbox with egress is wired. Does not
know any single option.
"""

from __future__ import annotations

import enum
import ipaddress
import re
from collections.abc import Callable, Collection, Mapping
from functools import cache
from typing import Any, ClassVar, dataclass_transform

from msgspec import NODEFAULT, field, structs

from sandboxrun.data import Data, DataType
from sandboxrun.errors import ListNode, MapNode, Node, Problems, Scalar, did_you_mean
from sandboxrun.spec.types import INVALID, OptionType, Schema, refuse

# -- What an option is: one row that its schema, model field, payload, decoding, diff and docs derive from


class Effect(enum.Enum):
    """What a changed option asks of the engine."""

    LIVE = "update"  # POST /containers/{id}/update
    RECONNECT = "reconnect"  # networks attach and detach
    RELOAD = "reload"  # the sandbox's gateway reads its rules again
    RESUME = "resume"  # its processes go on: no option's effect, but that of a pause
    RENAME = "rename"  # the container has another name than the sandbox
    REPLACE = "replace"
    NONE = "none"  # sandboxrun's own behaviour: nothing on the engine differs


class Row(Data, eq=False):
    """One option, declared once.

    `key` is Compose's where Compose has it; `default` the closed value; `effect` what a change needs;
    `together` names the rows that a live update must send along; `can_clear` False when the engine takes 0 or ""
    as "unchanged", so that removing the limit is a replace; `inherited` marks what an image may set;
    `always` is compared even where nothing was declared; `since` is the first API version that knows it;
    `settable` False fixes a value that no profile can change; `derived` is one that sandboxrun itself works out: no
    profile can give it, and plans and labels show it; `later` is left out at its default, for it came after the first
    version, whose digests must stay.
    """

    key: str
    type: OptionType
    default: Any
    description: str
    example: Any
    effect: Effect = Effect.REPLACE
    together: tuple[str, ...] = ()
    can_clear: bool = True
    inherited: bool = False
    always: bool = False
    since: str | None = None
    settable: bool = True
    derived: bool = False
    later: bool = False
    merge: str = "replace"  # how extends and several files combine it: replace, append, map, target
    required: bool = False
    attribute: str = ""  # the record's field that holds it

    def plain(self, value: Any) -> Any:
        """A value as canonical JSON data, None as None. Not to be changed: a default, which most are, is made once."""
        if value is None:
            return None
        return _plain_default(self) if value is self.default else self.type.plain(value)


@cache
def _plain_default(row: Row) -> Any:
    return row.type.plain(row.default)


def option(type: OptionType, *, description: str, example: Any = None, default: Any = NODEFAULT, **row: Any) -> Any:
    """A field that is also a row: `mem_limit: int = option(Size(), description=…, default=…)`.

    A field without a default is required.
    """
    required = default is NODEFAULT
    default = None if required else default
    return Row(key="", type=type, description=description, example=example, default=default, required=required, **row)


class _RowsType(DataType):
    """Makes the options in a class its fields and, with those of its base, its rows."""

    def __new__(mcls, name: str, bases: tuple[type, ...], namespace: dict[str, Any], **config: Any) -> Any:
        found = [row for base in bases for row in getattr(base, "__rows__", ())]
        for attribute, given in tuple(namespace.items()):
            if isinstance(given, Row):
                found.append(structs.replace(given, key=attribute.rstrip("_"), attribute=attribute))
                if given.required:
                    del namespace[attribute]
                else:
                    namespace[attribute] = given.default
        return super().__new__(mcls, name, bases, {**namespace, "__rows__": tuple(found)}, **config)


def fixed(type: OptionType, value: Any, description: str) -> Any:
    """A row that no profile can change, and that is compared with what the engine shows all the same."""
    return option(type, default=value, description=description, always=True, settable=False)


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(option,))
class RowData(Data, metaclass=_RowsType, frozen=True, kw_only=True):
    """A record of which every field is a row."""

    __rows__: ClassVar[tuple[Row, ...]]


def rows(record: type[RowData]) -> tuple[Row, ...]:
    """The rows of a record, in the order they are declared."""
    return record.__rows__


class Record(OptionType):
    """A mapping whose keys are the rows of `cls`; the value is a `cls`."""

    cls: type[RowData]
    title: str
    refused: Mapping[str, str] = field(default_factory=dict)  # known keys that are not offered, and what to do
    # keys that are accepted with values that say what is so anyway: the values, or those of its own keys
    same: Mapping[str, tuple[Any, ...] | Mapping[str, tuple[Any, ...]]] = field(default_factory=dict)
    check: Callable[[Any, MapNode, Problems], None] | None = None

    def parse(self, node: Node, problems: Problems) -> Any:
        if not isinstance(node, MapNode):
            return refuse(problems, node, f"a mapping with the keys of {self.title}", self._keyed(node))
        before = len(problems)
        by_key = {row.key: row for row in rows(self.cls) if row.settable}
        values = {}
        for key, value in node.entries:
            row = by_key.get(str(key.value)) or self._derived(key)
            if row is None and key.value in self.same:
                self._says_the_same(key, value, problems)
            elif row is None:
                self._unknown(key, by_key, problems)
            elif isinstance(value, Scalar) and value.value is None and not row.required:
                continue  # `key:` with nothing is the default, as in Compose
            else:
                values[row.attribute] = row.type.parse(value, problems)
        for row in by_key.values():
            if row.required and node.get(row.key) is None:
                problems.add(f'{self.title} lacks "{row.key}"', node.span, f"add {row.key}: {row.description}")
        if INVALID in values.values() or len(problems) > before:
            return INVALID
        built = self.cls(**values)
        if self.check is not None:
            self.check(built, node, problems)
        return built if len(problems) == before else INVALID

    def _keyed(self, node: Node) -> str:
        """How a value is written that lacks its key: with the first one that takes it. Else which keys there are."""
        keys = [row for row in rows(self.cls) if row.settable]
        value = node.text if isinstance(node, Scalar) and isinstance(node.value, str) else None
        if value is not None or isinstance(node, ListNode):
            shown = "[…]" if value is None else value if re.fullmatch(r"[\w./-]+", value) else '"…"'
            for row in keys:
                if row.type.parse(node, Problems()) is not INVALID:
                    return f"write {{{row.key}: {shown}}}"
        return f"its keys are {', '.join(row.key for row in keys)}"

    def _derived(self, key: Scalar) -> Row | None:
        """A row that our own data may hold, which no file declares."""
        found = (row for row in rows(self.cls) if row.derived and row.key == key.value)
        return next(found, None) if key.span is None else None

    def _says_the_same(self, key: Scalar, value: Node, problems: Problems) -> None:
        allowed = self.same[str(key.value)]
        if isinstance(allowed, tuple):
            found, known = {str(key.value): value}, {str(key.value): allowed}
        else:
            entries = value.entries if isinstance(value, MapNode) else ()
            found, known = {str(name.value): inner for name, inner in entries}, dict(allowed)
            if not isinstance(value, MapNode):
                refuse(problems, value, f"a mapping of {', '.join(allowed)}")
        for name, inner in found.items():
            plain = inner.value if isinstance(inner, Scalar) else INVALID
            if not any(plain is one or (isinstance(plain, str) and plain == one) for one in known.get(name, ())):
                words = " or ".join(
                    str(one).lower() if isinstance(one, bool) else str(one) for one in known.get(name, ())
                )
                help = f"it can only be {words}: leave it out" if words else f"known are {', '.join(known)}"
                problems.add(f'"{name}" is not offered', inner.span or key.span, self.refused.get(name, help))

    def _unknown(self, key: Scalar, known: Mapping[str, Row], problems: Problems) -> None:
        word = str(key.value)
        if word in self.refused:
            problems.add(f'"{word}" is not offered', key.span, self.refused[word])
            return
        help = did_you_mean(word, known) or f"{self.title} knows: {', '.join(known)}"
        problems.add(f'unknown key "{word}" in {self.title}', key.span, help)

    def schema(self, keys: Collection[str] | None = None) -> Schema:
        """The schema of all keys, or of these alone."""
        offered = [row for row in rows(self.cls) if row.settable and (keys is None or row.key in keys)]
        properties: Schema = {row.key: row_schema(row) for row in offered}
        for key, allowed in self.same.items() if keys is None else ():
            if isinstance(allowed, tuple):
                properties[key] = _same(allowed)
            else:
                inner: Schema = {name: _same(values) for name, values in allowed.items()}
                known = {"description": _SAME, "examples": [{name: values[0] for name, values in allowed.items()}]}
                properties[key] = {"type": "object", "properties": inner, "additionalProperties": False, **known}
        required = [row.key for row in rows(self.cls) if row.required]
        schema: Schema = {"type": "object", "properties": properties, "additionalProperties": False}
        if required:
            schema["required"] = required
        return schema

    def plain(self, value: Any) -> Any:
        return to_plain(value)


_SAME = "Accepted from Compose files with the values that say what is so anyway."


def _same(values: tuple[Any, ...]) -> Schema:
    return {"enum": list(values), "description": _SAME, "examples": [values[0]]}


def row_schema(row: Row) -> Schema:
    """The schema fragment of a row, with its description, default and example."""
    fragment = dict(row.type.schema())
    if not row.required:
        rest, forms = ({**fragment}, fragment["anyOf"]) if "anyOf" in fragment else ({}, [fragment])
        fragment = {**rest, "anyOf": [*forms, {"type": "null"}]}
    fragment["description"] = row.description
    if row.default not in (None, (), {}) and row.settable:
        fragment["default"] = row.type.plain(row.default)
    if row.example is not None:
        fragment["examples"] = [row.example]
    return fragment


def to_plain(value: Any) -> dict[str, Any]:
    """A record as canonical JSON data, defaults spelled out: they are none of its reader's business."""
    plain = {}
    for row in rows(type(value)):
        item = getattr(value, row.attribute)
        told = item is not None and (row.settable or row.derived)
        if told and not ((row.derived or row.later) and item == row.default):
            plain[row.key] = row.plain(item)
    return plain


def value_of(record: Any, row: Row) -> Any:
    """The record's value of `row`."""
    return getattr(record, row.attribute)


def values_of(record: RowData) -> tuple[Any, ...]:
    """The record's values, in the order of its rows: every field is one."""
    return structs.astuple(record)


# -- How a sandbox with egress is wired: a network of its own, on which its gateway is its name server


class OwnAddresses(Data):
    """The addresses of one sandbox's network. The first belongs to the engine's bridge, which is given none."""

    gateway: str
    sandbox: str
    in_hosts: bool = False  # the names of hosts stand in the sandbox's hosts file: its engine asks no gateway for them

    @classmethod
    def of(cls, subnet: str, *, in_hosts: bool = False) -> OwnAddresses:
        """The addresses on a subnet of at least four addresses, such as 10.231.0.8/29."""
        network = ipaddress.ip_network(subnet)
        return cls(gateway=str(network[2]), sandbox=str(network[3]), in_hosts=in_hosts)


def private_network(container: str) -> str:
    """The network that a sandbox shares with nobody but its gateway."""
    return f"{container}.net"
