"""GPUs: the option type of `gpus`."""

from __future__ import annotations

import re

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
            case Scalar(value=str() as text) if re.fullmatch("[1-9][0-9]{0,3}", text, re.ASCII) and int(text) <= 1024:
                return int(text)
        return refuse(problems, node, "all, or a number of GPUs from 1 to 1024")

    def schema(self) -> Schema:
        text = {"type": "string", "pattern": "^(all|[1-9][0-9]{0,3})$"}
        return {"anyOf": [text, {"type": "integer", "minimum": 1, "maximum": 1024}]}

    def plain(self, value: int) -> int | str:
        return "all" if value == -1 else value
