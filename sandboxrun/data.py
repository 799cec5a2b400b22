"""`Data`, the base of every record: frozen, its fields given by name, and a class that is quick to make.

Owns what msgspec's own Struct does not have: fields that no repr shows, and fields that no comparison looks at; and
what all rooms do alike with JSON that anybody may have written, and with what is closed at the end of a block.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Self, TypeVar, dataclass_transform

from msgspec import Struct, StructMeta, field


class DataType(StructMeta):
    """Makes a class of records. `unshown` fields (secrets, long texts) are in no repr; `uncompared` ones (where a value
    was written) count neither for equality nor for the hash."""

    unshown: tuple[str, ...]
    uncompared: tuple[str, ...]

    def __new__(
        mcls,
        name: str,
        bases: tuple[type, ...],
        namespace: dict[str, Any],
        *,
        unshown: tuple[str, ...] = (),
        uncompared: tuple[str, ...] = (),
        **config: Any,
    ) -> Any:
        if unshown:
            namespace |= {"__repr__": _repr}
        if uncompared:
            namespace |= {"__eq__": _equal, "__hash__": lambda self: hash(_compared(self))}
        made = super().__new__(mcls, name, bases, namespace, **{"frozen": True, "kw_only": True, **config})
        made.unshown, made.uncompared = unshown, uncompared
        return made


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(field,))
class Data(Struct, metaclass=DataType, frozen=True, kw_only=True):
    """A frozen record. `msgspec.structs.replace` makes one that differs, `asdict` of that module lists its fields."""


J = TypeVar("J", dict[str, Any], list[Any])


def json_as(kind: type[J], text: str | bytes) -> J:
    """What a text that anybody may have written holds as JSON, an object or a list; an empty one for anything else."""
    if not text:  # to find that out by an error takes ten times as long
        return kind()
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return kind()
    return found if isinstance(found, kind) else kind()


class Closing:
    """What is closed at the end of its `with` block."""

    __slots__ = ()

    def close(self) -> None:
        """Give back what it holds."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _repr(self: Data) -> str:
    left_out = type(self).unshown
    fields = (f"{name}={getattr(self, name)!r}" for name in self.__struct_fields__ if name not in left_out)
    return f"{type(self).__name__}({', '.join(fields)})"


def _equal(self: Data, other: object) -> bool:
    return type(self) is type(other) and _compared(self) == _compared(other)


def _compared(self: Data) -> tuple[Any, ...]:
    left_out = type(self).uncompared
    return tuple(getattr(self, name) for name in self.__struct_fields__ if name not in left_out)


def lines(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """The lines of what comes in pieces, without their ends."""
    rest = b""
    for piece in pieces:
        *whole, rest = (rest + piece).split(b"\n")
        yield from whole
    if rest:
        yield rest


def record_of(line: bytes) -> Mapping[str, Any]:
    """A line as the record it holds; {} for anything else."""
    return json_as(dict, line)
