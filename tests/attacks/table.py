"""The table of all attacks, as docs/attacks.md has it: derived from the records, so that it can't go stale."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from tests.attacks import checkout
from tests.attacks.inside.record import ATTACKS, ESCAPE, EXFILTRATION, EXHAUSTION, TAMPERING, Attack
from tests.attacks.shipping import MODULES

FILE = Path(__file__).resolve().parents[2] / "docs" / "attacks.md"
SOURCES = (*MODULES, checkout)  # imported, so that all records are there
FAMILIES = {
    ESCAPE: "out of the sandbox's namespaces, into the kernel and the host's files",
    EXFILTRATION: "out with what it must keep, over the network, by names, through neighbours, in the evidence",
    EXHAUSTION: "more of the machine than it was given",
    TAMPERING: "with the workspace, the evidence, and what is told of a run",
}
HEAD = """\
# Attacks

What an agent tries that knows how it is caged, and what stopped it. Each of these is a test in `tests/attacks/`: it
runs in a sandbox of the kind that a profile makes, and says what it saw. Each runs as well where nothing stops it, in a
deliberately weak sandbox, and must win there; where that can't be done the table says what shows instead that it is
real. What an attack sees is not all: the servers that it was to reach count who came, the host looks at its own
files, the evidence at what is in it.

The table is made from the tests by `SANDBOXRUN_DEV_UPDATE=1 pytest tests/attacks/test_table.py`; a test fails when it
is stale. What is not defended stands in [SECURITY.md](../SECURITY.md#what-it-does-not-defend).

"""


def text() -> str:
    """The whole file."""
    return HEAD + "".join(f"{line}\n" for line in _lines())


def _lines() -> Iterator[str]:
    count = Counter(one.family for one in ATTACKS.values())
    yield "| family | attacks | what it is after |"
    yield "| --- | --- | --- |"
    yield from (f"| [{family}](#{family}) | {count[family]} | {what} |" for family, what in FAMILIES.items())
    yield f"| in all | {len(ATTACKS)} | |"
    for family in FAMILIES:
        yield f"\n## {family.capitalize()}\n"
        yield "| attack | what it does | what stops it | shown to be real by |"
        yield "| --- | --- | --- | --- |"
        yield from (_row(one) for one in ATTACKS.values() if one.family == family)


def _row(one: Attack) -> str:
    cells = (f"`{one.name}`", one.title, one.stopped_by, one.control or "the weak sandbox, where it wins")
    escaped = (cell.replace("|", r"\|").replace("*", r"\*") for cell in cells)
    return f"| {' | '.join(escaped)} |"
