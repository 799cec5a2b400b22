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
    ESCAPE: "leaving the sandbox's namespaces, for the kernel and the host's files",
    EXFILTRATION: "sending secrets out: over the network, in DNS names, through other sandboxes, in the evidence",
    EXHAUSTION: "using more of the machine than it is allowed",
    TAMPERING: "changing the workspace, the evidence, and how a run is reported",
}
HEAD = """\
# Attacks

What an agent that knows its sandbox may try, and what stops it. Each attack is a test in `tests/attacks/`: it runs in
a sandbox that a profile describes and reports what it saw. It also runs in a deliberately weak sandbox, where it must
succeed; where that is impossible, the table says what shows instead that the attack is real. Attacks are not judged by
their own reports alone: the target servers count requests, and the tests inspect the host's files and the evidence.

The table is generated from the tests by `SANDBOXRUN_DEV_UPDATE=1 pytest tests/attacks/test_table.py`; a test fails when
it is stale. What is not defended is listed in [SECURITY.md](../SECURITY.md#what-it-does-not-defend).

"""


def text() -> str:
    """The whole file."""
    return HEAD + "".join(f"{line}\n" for line in _lines())


def _lines() -> Iterator[str]:
    count = Counter(one.family for one in ATTACKS.values())
    yield "| family | attacks | goal |"
    yield "| --- | --- | --- |"
    yield from (f"| [{family}](#{family}) | {count[family]} | {what} |" for family, what in FAMILIES.items())
    yield f"| total | {len(ATTACKS)} | |"
    for family in FAMILIES:
        yield f"\n## {family.capitalize()}\n"
        yield "| attack | what it does | what stops it | shown to be real by |"
        yield "| --- | --- | --- | --- |"
        yield from (_row(one) for one in ATTACKS.values() if one.family == family)


def _row(one: Attack) -> str:
    cells = (f"`{one.name}`", one.title, one.stopped_by, one.control or "it succeeds in the weak sandbox")
    escaped = (cell.replace("|", r"\|").replace("*", r"\*") for cell in cells)
    return f"| {' | '.join(escaped)} |"
