"""The shipped bases: where their files are.

Owns the lookup: inside the wheel as package data, in a source checkout beside the package.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent.parent


@cache
def bases() -> dict[str, Path]:
    """The shipped bases' files by name, sorted."""
    return {path.stem: path for path in sorted(data_directory("profiles").glob("*.yaml"))}


def data_directory(name: str) -> Path:
    """The directory of data files called `name` (`profiles`, `schemas`)."""
    inside = _PACKAGE / "data" / name
    return inside if inside.is_dir() else _PACKAGE.parent / name
