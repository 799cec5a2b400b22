"""Writes docs/seccomp.md: which system calls a sandbox may make, which not, and why. All from the model's table.

Usage: python -m scripts.seccomp (a part of `make reference`).
"""

from __future__ import annotations

import errno
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from sandboxrun.spec.seccomp.table import ALLOWED, REFUSED, REFUSED_SOCKETS, Allowed, Argument

FILE = Path(__file__).resolve().parents[1] / "docs" / "seccomp.md"
HEAD = """\
# System calls

Derived from the program itself by `make reference`; a test fails when it is stale. This is the profile that every
sandbox has unless its `security_opt` names another ([profile.md](profile.md#security-options) says which there are).
A call that stands nowhere here is refused with EPERM, or with ENOSYS where the engine's runtime does not know it.
"""


def text() -> str:
    """The whole file."""
    always = [row for row in ALLOWED if not row.when and row.variant is None and row.capability is None]
    some = [row for row in ALLOWED if row.when and row.variant is None and row.capability is None]
    opened = [row for row in ALLOWED if row.variant is not None or row.capability is not None]
    parts = [HEAD, "## Allowed", ""]
    parts += _table(("calls", "what for", "why"), ((_calls(row.names), row.title, row.why) for row in always))
    parts += ["", "## Allowed with some arguments", ""]
    parts += _table(("calls", "with", "what for", "why"), (_conditional(row) for row in some))
    parts += ["", "## Opened by name", ""]
    parts += _table(("by", "calls", "with", "why"), ((_by(row), *_conditional(row)[:2], row.why) for row in opened))
    parts += ["", "## Refused", ""]
    parts += _table(
        ("calls", "gives", "what", "why"),
        ((_calls(row.names), errno.errorcode[row.errno], row.title, row.why) for row in REFUSED),
    )
    parts += ["", "Sockets that the conditions of `socket` leave out, the best known of them:", ""]
    parts += _table(("socket", "why"), ((name, why) for name, _, _, _, why in REFUSED_SOCKETS))
    return "\n".join(parts) + "\n"


def _calls(names: Iterable[str]) -> str:
    return " ".join(f"`{name}`" for name in names)


def _conditional(row: Allowed) -> tuple[str, str, str, str]:
    return _calls(row.names), "; or ".join(" and ".join(map(_condition, when)) for when in row.when), row.title, row.why


def _condition(item: Argument) -> str:
    mask = "" if item.mask is None else f" & {item.mask:#x}"
    return f"`argument {item.index}{mask} = {item.value:#x}`"


def _by(row: Allowed) -> str:
    return f"`seccomp={row.variant}`" if row.variant is not None else f"`cap_add: [{row.capability}]`"


def _table(heads: Sequence[str], lines: Iterable[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(heads)} |"
    yield f"| {' | '.join('---' for _ in heads)} |"
    for line in lines:
        yield f"| {' | '.join(line)} |"


def main() -> None:
    """Write the file."""
    FILE.write_text(text(), encoding="utf-8")
    print(f"{FILE.relative_to(FILE.parents[1])} is written")


if __name__ == "__main__":
    main()
