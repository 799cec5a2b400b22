"""The seccomp profile of sandboxrun's own: a table of system calls, each group with its reason, and its builder.

Owns the table (`allowed.py`, `refused.py`), the JSON made from it (`build.py`) and the names that a profile uses for
it. Knows no engine: how `security_opt` is written there is `convert.py`'s. Pure; the table is imported when
it is needed only.
"""

from __future__ import annotations

OWN, DEBUG, ENGINE, UNCONFINED = "sandboxrun", "debug", "engine", "unconfined"
ARCHITECTURES = ("x86_64", "aarch64")  # others order clone's arguments, or number socket families, differently
NAMES = (OWN, DEBUG, ENGINE, UNCONFINED)  # what `seccomp=` may be besides a file


def to_engine(value: str) -> str | None:
    """The text that the engine takes for a value of `seccomp`; None: say nothing, it then uses its own profile."""
    if value == ENGINE:
        return None
    if value not in (OWN, DEBUG):
        return value
    from sandboxrun.spec.seccomp.build import profile_text

    return profile_text(value)


def from_engine(text: str | None) -> str:
    """What the engine shows as a value of `seccomp`: one of our names only if it is that profile, rule by rule."""
    if text is None:
        return ENGINE
    if not text.startswith("{"):
        return text
    from sandboxrun.spec.seccomp.build import profile, profile_text

    for name in (OWN, DEBUG):
        if text == profile_text(name):
            return name
    import json

    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return text
    return next((name for name in (OWN, DEBUG) if found == profile(name)), text)
