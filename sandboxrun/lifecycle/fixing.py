"""Fixes of a review: the edits of its findings made in the files' texts, parsed and reviewed again before any is kept.

Owns which edits go together, and writing the files.
"""

from __future__ import annotations

import codecs
import difflib
import os
import tempfile
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path

from sandboxrun.audit.finding import AuditFinding
from sandboxrun.audit.fixes import fixed, holder
from sandboxrun.audit.judge import AuditVerdict
from sandboxrun.data import Data
from sandboxrun.errors import Diagnostic, Node, Problems, SandboxrunError, SourceFile, one_line
from sandboxrun.profile.files import instead
from sandboxrun.profile.yaml import parse_yaml

SAFE, CHANGES = "safe", "changes behaviour"


class Fix(Data):
    """One edit that was made: of which finding, in which file, and the text before and after it."""

    finding: AuditFinding
    file: str
    before: str
    after: str

    @property
    def label(self) -> str:
        """Whether the program in the sandbox notices."""
        return SAFE if self.finding.edit is not None and self.finding.edit.safe else CHANGES

    @property
    def lines(self) -> tuple[int, int, str]:
        """The lines that go (first and last; last below first: none), and the text that takes their place."""
        old, new = self.before.splitlines(keepends=True), self.after.splitlines(keepends=True)
        start = 0
        while start < min(len(old), len(new)) and old[start] == new[start]:
            start += 1
        end = 0
        while end < min(len(old), len(new)) - start and old[-1 - end] == new[-1 - end]:
            end += 1
        return start + 1, len(old) - end, "".join(new[start : len(new) - end])


def edited(text: str, finding: AuditFinding) -> str | None:
    """A file's text with a finding's edit made; None where it has none, or the result could not be read."""
    span = finding.shown
    if finding.edit is None or span is None or finding.when:
        return None
    names = [name.partition("[")[0] for name in finding.subjects] or [""]
    written = _parsed(span.file.text)
    home = holder(written, span.line) if written is not None else None
    root = _parsed(text)
    if root is None:
        return None
    made = fixed(text, root, home if home in names else names[0], finding)
    return None if made is None or made == text or _parsed(made) is None else made


@lru_cache(4)  # what one edit made is what the next one is made in
def _parsed(text: str) -> Node | None:
    problems = Problems()
    root = parse_yaml(SourceFile(name="", text=text), problems)
    return None if problems else root


MOST_PARSED = 400_000  # characters of suggestions: each is parsed


def suggester() -> Callable[[AuditFinding], Sequence[tuple[str, tuple[str, int, int, str]]]]:
    """A function that says of a finding its fix for SARIF: a sentence, and the lines of its file that change. Of very
    many, the later ones have none."""
    left = MOST_PARSED

    def fixes_of(finding: AuditFinding) -> Sequence[tuple[str, tuple[str, int, int, str]]]:
        nonlocal left
        span = finding.shown
        if span is None or finding.edit is None or left < len(span.file.text):
            return ()
        left -= len(span.file.text)
        made = edited(span.file.text, finding)
        if made is None:
            return ()
        fix = Fix(finding=finding, file=span.file.name, before=span.file.text, after=made)
        return ((f"{finding.help} ({fix.label})", (span.file.name, *fix.lines)),)

    return fixes_of


MOST_FIXED = 20_000_000  # characters of texts that fixes are made in: each is parsed for each


class Fixes(Data):
    """The fixes that were made, and how many findings were `left` without one since their files are so large."""

    made: tuple[Fix, ...]
    left: int = 0


def fixes(verdict: AuditVerdict, *, unsafe: bool) -> Fixes:
    """The fixes of the open findings, one after the other on each file's text. Without `unsafe`, the safe ones only."""
    texts: dict[str, str] = {}
    made: list[Fix] = []
    parsed = left = 0
    for finding in sorted(verdict.open, key=lambda one: one.order):
        span = finding.shown
        if span is None or finding.edit is None or not (unsafe or finding.edit.safe):
            continue
        before = texts.get(span.file.name, span.file.text)
        parsed += len(before)
        if parsed > max(MOST_FIXED, len(before)):
            left += 1
            continue
        after = edited(before, finding)
        if after is not None:
            texts[span.file.name] = after
            made.append(Fix(finding=finding, file=span.file.name, before=before, after=after))
    return Fixes(made=tuple(made), left=left)


def diff(made: Sequence[Fix]) -> str:
    """The fixes as unified diffs, each hunk below a line that says what it fixes and whether it is safe."""
    parts = []
    for fix in made:
        old, new = fix.before.splitlines(keepends=True), fix.after.splitlines(keepends=True)
        name = one_line(fix.file)
        lines = list(difflib.unified_diff(old, new, f"a/{name}", f"b/{name}", n=2))
        note = f"# {fix.finding.rule} {fix.finding.title}: {fix.label}\n"
        parts.append(note + "".join(line if line.endswith("\n") else f"{line}\n" for line in lines))
    return "\n".join(parts)


def check(made: Sequence[Fix], before: AuditVerdict, again: Callable[[], AuditVerdict]) -> None:
    """Raise SandboxrunError where the files with their fixes could not be audited, or something new is found there that
    is no less severe than all that was fixed. `again` reviews; nothing is written yet."""
    with instead({fix.file: fix.after for fix in made}):
        after = again()
    known = {_identity(finding) for finding in before.findings}
    worst = max((fix.finding.severity for fix in made), default=None)
    faults = [
        Diagnostic(message=f"with the fixes, {gap.what} could not be audited: {gap.why}")
        for gap in after.gaps
        if gap not in before.gaps
    ]
    faults += [
        Diagnostic(message=f"with the fixes, {finding.message} ({finding.rule})", span=finding.span, help=finding.help)
        for finding in after.open
        if worst is not None and finding.severity >= worst and _identity(finding) not in known
    ]
    if faults:
        raise SandboxrunError("the fixes were not written", *faults)


def _identity(finding: AuditFinding) -> tuple[object, ...]:
    return (finding.rule, finding.subjects, finding.key, finding.when)


def write(made: Sequence[Fix]) -> tuple[str, ...]:
    """Write the last text of each file in place of the old one, which must still be what was reviewed."""
    first: dict[str, str] = {}
    last: dict[str, str] = {}
    marks: dict[str, bytes] = {}
    for fix in made:
        first.setdefault(fix.file, fix.before)
        last[fix.file] = fix.after
    for name in last:
        path = Path(name)
        data = path.read_bytes()  # as it is: a text would have other line ends, and no mark before it
        marks[name] = codecs.BOM_UTF8 if data.startswith(codecs.BOM_UTF8) else b""
        if path.is_symlink() or data != marks[name] + first[name].encode():
            raise SandboxrunError(f"{name} has changed since it was reviewed", help="run the command again")
    for name, text in last.items():
        path = Path(name)
        mode = path.stat().st_mode & 0o7777
        handle, made_at = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(handle, "wb") as file:
            file.write(marks[name] + text.encode())
        os.chmod(made_at, mode)
        os.replace(made_at, path)
    return tuple(last)
