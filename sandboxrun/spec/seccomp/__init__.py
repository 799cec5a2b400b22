"""The seccomp profile of sandboxrun's own: a table of system calls, each group with its reason, and what is made of it.

Owns the table (`table.py`), the names that a profile uses for it, and the JSON as the engine takes it:
one line, the same for every machine. That form is the engine's (20.10 and later), which picks the rows for its machine
and hands them to the runtime. `archMap` names each architecture without others beside it, so that the native entry
alone is open; without any, runc 1.1 would answer EPERM, not ENOSYS, to calls newer than it knows. The runtime skips
names that its machine or its library lacks. `errnoRet` is set on single rules, which 20.10 reads; it does not read
`defaultErrnoRet`. Pure; the table is imported only when it is needed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from types import MappingProxyType
from typing import Any

from sandboxrun.data import json_as

OWN, DEBUG, ENGINE, UNCONFINED = "sandboxrun", "debug", "engine", "unconfined"
ARCHITECTURES = ("x86_64", "aarch64")  # others order clone's arguments, or number socket families, differently
NAMES = (OWN, DEBUG, ENGINE, UNCONFINED)  # what `seccomp=` may be besides a file
VARIANTS: Mapping[str, frozenset[str]] = MappingProxyType({OWN: frozenset(), DEBUG: frozenset({DEBUG})})
ALLOW, ERRNO = "SCMP_ACT_ALLOW", "SCMP_ACT_ERRNO"


def to_engine(value: str) -> str | None:
    """The text that the engine takes for a value of `seccomp`; None: say nothing, it then uses its own profile."""
    if value == ENGINE:
        return None
    return profile_text(value) if value in VARIANTS else value


def from_engine(text: str | None) -> str:
    """What the engine shows as a value of `seccomp`: one of our names only if it is that profile, rule by rule."""
    if text is None:
        return ENGINE
    if not text.startswith("{"):
        return text
    for name in VARIANTS:
        if text == profile_text(name):
            return name
    found = json_as(dict, text)
    return next((name for name in VARIANTS if found == profile(name)), text)


@cache
def profile_text(name: str) -> str:
    """The profile of that name ("sandboxrun", "debug") as one line. KeyError for another."""
    return json.dumps(profile(name), separators=(",", ":"))


def profile(name: str) -> dict[str, Any]:
    """The same as data."""
    from sandboxrun.spec.seccomp.table import ALLOWED, EPERM, REFUSED

    variants = VARIANTS[name]
    rows = [row for row in ALLOWED if row.variant is None or row.variant in variants]
    always = sorted(call for row in rows if not row.when and row.capability is None for call in row.names)
    rules: list[dict[str, Any]] = [{"names": always, "action": ALLOW}]
    for row, when in ((one, when) for one in rows for when in one.when or ((),)):
        rule: dict[str, Any] = {"names": list(row.names), "action": ALLOW}
        if when:
            rule["args"] = [
                {"index": item.index, "value": item.value, "op": "SCMP_CMP_EQ"}
                if item.mask is None
                else {"index": item.index, "value": item.mask, "valueTwo": item.value, "op": "SCMP_CMP_MASKED_EQ"}
                for item in when
            ]
        if row.capability is not None:
            rule["includes"] = {"caps": [f"CAP_{row.capability}"]}
        rules += [rule] if len(rule) > 2 else []  # else it is among those that are always allowed
    other = [row for row in REFUSED if row.errno != EPERM]
    rules.extend({"names": list(row.names), "action": ERRNO, "errnoRet": row.errno} for row in other)
    machines = [{"architecture": f"SCMP_ARCH_{name.upper()}", "subArchitectures": []} for name in ARCHITECTURES]
    return {"defaultAction": ERRNO, "archMap": machines, "syscalls": rules}
