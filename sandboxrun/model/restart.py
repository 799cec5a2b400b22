"""restart: the option type of Compose's restart policies."""

from __future__ import annotations

from typing import Any

import attrs

from sandboxrun.errors import Problems
from sandboxrun.model import forms
from sandboxrun.model.types import Schema, Text
from sandboxrun.source import Node, Scalar


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Restart(Text):
    """A policy. `no` may be written as false, which it is in other versions of YAML."""

    pattern: str | None = "no|always|unless-stopped|on-failure(:[0-9]{1,6})?"
    hint: str = "no, on-failure[:n], always or unless-stopped"
    form: forms.Form = forms.restart

    def parse(self, node: Node, problems: Problems) -> Any:
        return "no" if isinstance(node, Scalar) and node.value is False else super().parse(node, problems)

    def schema(self) -> Schema:
        return {"anyOf": [super().schema(), {"const": False}]}
