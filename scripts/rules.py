"""Writes docs/rules.md: every rule of the review, from its one declaration.

Usage: python -m scripts.rules. A test fails when the page is stale.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from sandboxrun.audit.finding import FAMILIES, MATRIX, Directness, Gain, Rule
from sandboxrun.audit.rules import by_id

FILE = Path(__file__).resolve().parents[1] / "docs" / "rules.md"
HEAD = """\
# Audit rules

Derived from the rules themselves by `make reference`; a test fails when it is stale. How they are used, waived and
bound by a policy is described in [audit.md](audit.md). `sandboxrun explain SBX301` prints one.

A rule's severity comes from what whoever controls the sandbox's process wins, and how directly:

"""


def page() -> str:
    """The page's text."""
    lines = [f"| what is won | {' | '.join(how.value for how in Directness)} |", "| --- | --- | --- | --- |"]
    lines += [f"| {gain.value} | {' | '.join(MATRIX[gain, how].word for how in Directness)} |" for gain in Gain]
    for digit, family in FAMILIES.items():
        lines += ["", f"## {digit}xx {family}"]
        for rule in by_id().values():
            if rule.id[3] == digit:
                lines += ["", *_rule(rule)]
    return HEAD + "\n".join(lines) + "\n"


def _rule(rule: Rule) -> Iterator[str]:
    yield f"### {rule.id}: {rule.title}"
    yield ""
    marks = [f"**{rule.severity.word}**", *(["strict"] if rule.strict else [])]
    marks += [] if rule.inline else ["waived in a file only"]
    yield ", ".join([*marks, *map(str, rule.references)])
    yield ""
    yield f"{rule.why} Fix: {rule.fix}."
    for name, example in (("Found", rule.bad), ("Not found", rule.good)):
        if example:
            yield from ("", f"{name}:", "", "```yaml fragment", *example.splitlines(), "```")


def main() -> None:
    """Write the page."""
    FILE.write_text(page(), encoding="utf-8")
    print(f"{FILE.relative_to(FILE.parents[1])} is written")


if __name__ == "__main__":
    main()
