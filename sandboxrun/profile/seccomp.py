"""A seccomp profile from its file: read with bounds, and written as the one line that the engine takes.

Owns the reading. What the profile allows is for a reviewer to see: `render` and `plan` show all of it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sandboxrun.errors import Problems, did_you_mean
from sandboxrun.model.seccomp import NAMES
from sandboxrun.profile.regular import read_regular, reason
from sandboxrun.profile.scalars import is_text
from sandboxrun.source import Span

LARGEST = 256 * 1024  # bytes; the engine's own profile is a tenth of that


def read_seccomp(path: Path, name: str, span: Span | None, problems: Problems) -> str:
    """The file's JSON without white space; "{}" after a fault, which is noted."""
    try:
        content = read_regular(path, LARGEST)
    except OSError as error:
        help = did_you_mean(name, NAMES) or f"check the path; without a file there are {', '.join(NAMES)}"
        problems.add(f'the seccomp profile "{name}" can\'t be read: {reason(error)}', span, help)
        return "{}"
    return _checked(content, f'the seccomp profile "{name}"', span, problems)


def checked_seccomp(text: str, span: Span | None, problems: Problems) -> str:
    """A profile that is written in place, without white space; "{}" after a fault, which is noted."""
    return _checked(text, "the seccomp profile", span, problems)


def _checked(content: str | bytes, what: str, span: Span | None, problems: Problems) -> str:
    try:
        parsed = json.loads(content, parse_constant=_no_number)
        text = json.dumps(parsed, separators=(",", ":"), ensure_ascii=False)
    except (ValueError, RecursionError) as error:
        problems.add(f"{what} is not JSON: {error}", span)
        return "{}"
    if not isinstance(parsed, dict) or not isinstance(parsed.get("defaultAction"), str):
        problems.add(f"{what} has no defaultAction", span, "see the OCI runtime specification")
        return "{}"
    if not is_text(text):
        problems.add(f"{what} holds half of a surrogate pair, which is not a character", span)
        return "{}"
    return text


def _no_number(name: str) -> Any:
    raise ValueError(f"{name} is not a number of JSON")
