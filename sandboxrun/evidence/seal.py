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

SIZE = 32  # bytes


def key_path() -> Path:
    """Where the key lies: below XDG_STATE_HOME, by default ~/.local/state."""
    state = os.environ.get("XDG_STATE_HOME", "")
    root = Path(state) if os.path.isabs(state) else Path(os.path.expanduser("~"), ".local", "state")
    return root / "sandboxrun" / "seal.key"


def seal_of(body: bytes, *, create: bool = False) -> str | None:
    """The seal of `body`; None when there is no key and, with `create`, none can be made."""
    key = _key(key_path()) or (_made(key_path()) if create else None)
    if key is None:
        return None
    import hmac

    return hmac.new(key, body, "sha256").hexdigest()


def is_sealed(body: bytes, seal: str | None) -> bool:
    """Whether `seal` is this user's of `body`."""
    ours = seal_of(body) if seal else None
    return ours is not None and secrets.compare_digest(ours, seal or "")


def _key(path: Path) -> bytes | None:
    try:
        return _read(path, os.stat(path).st_mtime_ns)
    except OSError:
        return None


@functools.lru_cache(maxsize=4)
def _read(path: Path, changed: int) -> bytes | None:
    key = path.read_bytes()
    return key if len(key) == SIZE else None


def _made(path: Path) -> bytes | None:
    """A new key, unless another process made one meanwhile: a hard link is made whole or not at all."""
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(secrets.token_bytes(SIZE))
            with contextlib.suppress(FileExistsError):
                os.link(draft, path)
        finally:
            draft.unlink()
    except OSError:
        return None
    return _key(path)
