"""The seal of a line of the chain: made with a key of the user's own, outside the project and every sandbox.

Owns the key and the check. A checkout may bring a `.sandboxrun/` of its own that says everything has run already: a
line counts as this user's record only with this user's seal. It is no signature: who can read the key can seal.
"""

from __future__ import annotations

import contextlib
import functools
import os
import secrets
from pathlib import Path

from sandboxrun.evidence.errors import EvidenceError
from sandboxrun.evidence.state import open_state, state_path

SIZE = 32  # bytes
_NAME = "seal.key"


def key_path() -> Path:
    """Where the key lies. Raises EvidenceError when there is no place for it."""
    return state_path() / _NAME


def seal_of(body: bytes) -> str:
    """The seal of `body`; the key is made when there is none. Raises EvidenceError when it can't be."""
    return _seal(_key() or _made(), body)


def is_sealed(body: bytes, seal: str | None) -> bool:
    """Whether `seal` is this user's of `body`."""
    key = _key() if seal else None
    return key is not None and secrets.compare_digest(_seal(key, body), seal or "")


def _seal(key: bytes, body: bytes) -> str:
    import hmac

    return hmac.new(key, body, "sha256").hexdigest()


def _key() -> bytes | None:
    """The key, where there is one that can be trusted."""
    with contextlib.suppress(OSError, EvidenceError):
        path = key_path()
        return _read(path, os.stat(path).st_mtime_ns)
    return None


@functools.lru_cache(maxsize=4)
def _read(path: Path, changed: int) -> bytes | None:
    with open_state() as state, state.open(_NAME) as file:
        key = file.read(SIZE + 1)
    return key if len(key) == SIZE else None


def _made() -> bytes:
    """A new key, unless another process made one meanwhile."""
    with open_state(create=True) as state, contextlib.suppress(FileExistsError):
        state.write(_NAME, secrets.token_bytes(SIZE), replace=False)
    key = _key()
    if key is None:
        raise EvidenceError(f"{key_path()} is not a key of sandboxrun", help="remove it; a new one is made")
    return key
