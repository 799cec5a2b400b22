"""GPUs: the option type of `gpus`."""

from __future__ import annotations

import attrs

from sandboxrun.errors import Problems
from sandboxrun.model.types import Schema, refuse
from sandboxrun.source import Node, Scalar


@attrs.frozen(kw_only=True)
class Gpus:
    """`all` (kept as -1), or how many."""

    def parse(self, node: Node, problems: Problems) -> int:
        match node:
            case Scalar(value="all"):
                return -1
            case Scalar(value=bool()):
                pass
            case Scalar(value=int() as count) if 1 <= count <= 1024:
                return count
        return refuse(problems, node, "all, or a number of GPUs from 1 to 1024")

    def schema(self) -> Schema:
        return {"anyOf": [{"const": "all"}, {"type": "integer", "minimum": 1, "maximum": 1024}]}

    def plain(self, value: int) -> int | str:
        return "all" if value == -1 else value
