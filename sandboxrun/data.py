"""`Data`, the base of every record: frozen, its fields given by name, and a class that is quick to make.

Owns what msgspec's own Struct does not have: fields that no repr shows, and fields that no comparison looks at.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, dataclass_transform

from msgspec import Struct, StructMeta, field


class DataType(StructMeta):
    """Makes a class of records. `unshown` fields (secrets, long texts) are in no repr; `uncompared` ones (where a value
    was written) count neither for equality nor for the hash."""

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
            namespace["__repr__"] = _repr_without(unshown)
        if uncompared:
            values = _values_without(uncompared)
            namespace["__eq__"] = lambda self, other: type(self) is type(other) and values(self) == values(other)
            namespace["__hash__"] = lambda self: hash(tuple(values(self)))
        return super().__new__(mcls, name, bases, namespace, **{"frozen": True, "kw_only": True, **config})


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(field,))
class Data(Struct, metaclass=DataType, frozen=True, kw_only=True):
    """A frozen record. `msgspec.structs.replace` makes one that differs, `asdict` of that module lists its fields."""


def _values_without(left_out: tuple[str, ...]) -> Callable[[Struct], list[Any]]:
    return lambda data: [getattr(data, name) for name in data.__struct_fields__ if name not in left_out]


def _repr_without(left_out: tuple[str, ...]) -> Callable[[Struct], str]:
    def show(data: Struct) -> str:
        fields = (f"{name}={getattr(data, name)!r}" for name in data.__struct_fields__ if name not in left_out)
        return f"{type(data).__name__}({', '.join(fields)})"

    return show
