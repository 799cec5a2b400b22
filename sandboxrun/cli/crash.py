"""Where the traceback of a bug goes: a file of the user's own, never the terminal."""

from __future__ import annotations

import contextlib
import os
import tempfile
import traceback
from pathlib import Path

from sandboxrun.cli.output import hidden
from sandboxrun.evidence.errors import EvidenceError
from sandboxrun.evidence.state import state_path


def write_crash(error: BaseException) -> Path | None:
    """Write the traceback to a new file that only the user can read; None when that fails too."""
    text = hidden("".join(traceback.format_exception(error)))
    for folder in (_state_folder(), None):
        try:
            if folder is not None:
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(prefix="sandboxrun-crash-", suffix=".log", dir=folder)
            with os.fdopen(handle, "w", encoding="utf-8", errors="backslashreplace") as file:
                file.write(text)
            return Path(name)
        except OSError:
            continue
    return None


def _state_folder() -> Path | None:
    with contextlib.suppress(EvidenceError):
        return state_path()
    return None
