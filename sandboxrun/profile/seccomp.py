"""A seccomp profile from its file: read with bounds, and written as the one line that the engine takes.

Owns the reading. What the profile allows is for a reviewer to see: `render` and `plan` show all of it.
"""

from __future__ import annotations

import json
from pathlib import Path

from sandboxrun.errors import Problems, did_you_mean
from sandboxrun.model.seccomp import NAMES
from sandboxrun.source import Span

LARGEST = 256 * 1024  # bytes; the engine's own profile is a tenth of that


def read_seccomp(path: Path, name: str, span: Span | None, problems: Problems) -> str:
    """The file's JSON without white space; "{}" after a fault, which is noted."""
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST + 1)
    except OSError as error:
        help = did_you_mean(name, NAMES) or f"check the path; without a file there are {', '.join(NAMES)}"
        problems.add(f'the seccomp profile "{name}" can\'t be read: {error.strerror}', span, help)
        return "{}"
    if len(content) > LARGEST:
        problems.add(f'the seccomp profile "{name}" is larger than {LARGEST} bytes', span)
        return "{}"
    try:
        parsed = json.loads(content)
    except (ValueError, RecursionError) as error:
        problems.add(f'the seccomp profile "{name}" is not JSON: {error}', span)
        return "{}"
    if not isinstance(parsed, dict) or "defaultAction" not in parsed:
        problems.add(f'the seccomp profile "{name}" has no defaultAction', span, "see the OCI runtime specification")
        return "{}"
    return json.dumps(parsed, separators=(",", ":"), ensure_ascii=False)
