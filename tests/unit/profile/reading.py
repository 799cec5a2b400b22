"""Helpers of the profile room's tests: nodes from text."""

from __future__ import annotations

from sandboxrun.errors import Node, Problems, SourceFile
from sandboxrun.profile.yaml import parse_yaml


def nodes(text: str) -> tuple[Node | None, Problems]:
    """The nodes of a text, with what was wrong with it."""
    problems = Problems()
    return parse_yaml(SourceFile(name="f.yaml", text=text), problems), problems
