"""What can go wrong, as data: diagnostics with a place, exit codes, and the exceptions that carry them.

Owns the texts' shape. Must not print, and must not decide what is wrong: whoever finds a fault says it.
"""

from __future__ import annotations

import enum
import json
from collections.abc import Iterable, Mapping
from typing import Any

import attrs

from sandboxrun.source import Span


class ExitCode(enum.IntEnum):
    """What the command line's exit status means; `run` and `apply --wait` otherwise give the agent's own."""

    OK = 0
    ERROR = 1
    USAGE = 2
    CHANGES = 2  # plan --detailed-exitcode, as OpenTofu has it
    TIMEOUT = 124  # as coreutils' timeout
    NOT_RUN = 125  # run, apply --wait: sandboxrun failed, not the agent; as `docker run`
    INTERRUPTED = 130
    TERMINATED = 143


@attrs.frozen(kw_only=True)
class Diagnostic:
    """One fault: what is wrong, where, and what to do. `message` is a clause without a full stop."""

    message: str
    span: Span | None = None
    help: str | None = None
    severity: str = "error"

    def __str__(self) -> str:
        """The text a person sees: place and message, the source line, a caret, the help."""
        if self.span is None:
            head, quoted = f"{self.severity}: {printable(self.message)}", []
        else:
            head = f"{printable(str(self.span))}: {self.severity}: {printable(self.message)}"
            quoted = _quote(self.span)
        helped = [f"  help: {printable(self.help)}"] if self.help else []
        return "\n".join([head, *quoted, *helped])

    @property
    def order(self) -> tuple[str, int, int, str]:
        """The sort key: file, line, column, message; faults without a place come last."""
        if self.span is None:
            return ("\U0010ffff", 0, 0, self.message)
        return (self.span.file.name, self.span.line, self.span.column, self.message)


_WIDTH = 120


def _quote(span: Span) -> list[str]:
    """The source line and a caret line under it, cut to a window around the caret when it is long."""
    line = span.file.line(span.line)
    start = max(0, span.column - 1 - _WIDTH // 2) if len(line) > _WIDTH else 0
    window = line[start : start + _WIDTH]
    caret_at = min(span.column - 1 - start, len(window))
    length = max(1, min(span.length, len(window) - caret_at))
    number = str(span.line)
    gutter = " " * len(number)
    lead = "".join("\t" if c == "\t" else " " for c in window[:caret_at])
    shown = "".join(c if c == "\t" or c.isprintable() else "?" for c in window)
    return [f"  {number} | {shown.rstrip()}".rstrip(), f"  {gutter} | {lead}{'^' * length}"]


def printable(text: str) -> str:
    """`text` with control characters (terminal escapes, carriage returns …) written as \\x1b and the like.

    Newlines stay: everything that is shown and may hold what an agent or a profile wrote goes through here.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode() for c in text)


BUG = "this is a bug; please report it"


class SandboxrunError(Exception):
    """An expected error: its diagnostics are what the user sees. Never a traceback."""

    exit_code: int = ExitCode.ERROR

    def __init__(self, *diagnostics: Diagnostic | str, help: str | None = None) -> None:
        self.diagnostics: tuple[Diagnostic, ...] = tuple(
            Diagnostic(message=d, help=help) if isinstance(d, str) else d for d in diagnostics
        )
        super().__init__("\n".join(str(d) for d in self.diagnostics))


class ProfileError(SandboxrunError):
    """The profile, or what was given to it, is wrong."""


class UsageError(SandboxrunError):
    """The caller asked for something that makes no sense (an unknown sandbox name, clashing options)."""

    exit_code = ExitCode.USAGE


class PlanError(SandboxrunError):
    """No plan can be made, or a saved one no longer holds."""


class ApplyError(SandboxrunError):
    """Carrying out a plan failed; what it had made itself is removed again."""


def _in_order(diagnostics: Iterable[Diagnostic]) -> tuple[Diagnostic, ...]:
    unique = {(str(d.span), d.message): d for d in diagnostics}
    return tuple(sorted(unique.values(), key=lambda d: d.order))


class Problems:
    """Collects faults so that all of a file's are told at once."""

    def __init__(self) -> None:
        self._found: list[Diagnostic] = []
        self._warnings: list[Diagnostic] = []

    def warn(self, message: str, span: Span | None = None, help: str | None = None) -> None:
        """Note what may well be wrong, and is no fault: it counts for nothing but being shown."""
        self._warnings.append(Diagnostic(message=message, span=span, help=help, severity="warning"))

    def add(self, message: str, span: Span | None = None, help: str | None = None) -> None:
        """Note one fault."""
        self._found.append(Diagnostic(message=message, span=span, help=help))

    def extend(self, diagnostics: Iterable[Diagnostic]) -> None:
        """Note several."""
        self._found.extend(diagnostics)

    def __bool__(self) -> bool:
        return bool(self._found)

    def __len__(self) -> int:
        return len(self._found)

    @property
    def diagnostics(self) -> tuple[Diagnostic, ...]:
        """All faults, each once, in the order of their places."""
        return _in_order(self._found)

    @property
    def warnings(self) -> tuple[Diagnostic, ...]:
        """All warnings, likewise."""
        return _in_order(self._warnings)

    def check(self, error: type[SandboxrunError] = ProfileError) -> None:
        """Raise `error` with all that was noted, if anything was."""
        if self._found:
            raise error(*self.diagnostics)


def quoted(word: str) -> str:
    """`word` in quotes, as it is where it has some of its own: `"agent"`, `agent["lint"]`."""
    return word if '"' in word else f'"{word}"'


def did_you_mean(word: str, known: Iterable[str]) -> str | None:
    """A help text naming the closest known word, or None when nothing is close."""
    import difflib

    close = difflib.get_close_matches(word, sorted(known), n=1, cutoff=0.6)
    return f"did you mean {quoted(close[0])}?" if close else None


# -- what is never shown -------------------------------------------------------------------------------------------

MASK = "(sensitive value)"
_SHORT = 4  # a sensitive text below this length is masked only where it is the whole value, or all would be
LONGEST, KEPT = 4000, 1000  # characters of one text: commands are shown whole, a seccomp profile has ten thousand


def mask(value: Any, sensitive: frozenset[str]) -> Any:
    """`value` as plain data, with every text or number that holds a sensitive one masked, at any depth."""
    match value:
        case str():
            return MASK if _holds(value, sensitive) else value
        case bool() | None:
            return value
        case int() | float():
            return MASK if str(value) in sensitive else value
        case Mapping():
            return {key: mask(item, sensitive) for key, item in value.items()}
    return [mask(item, sensitive) for item in value]


def _holds(text: str, sensitive: frozenset[str]) -> bool:
    return (text != "" and text in sensitive) or any(s in text for s in sensitive if len(s) >= _SHORT)


def redact(text: str, sensitive: Iterable[str]) -> str:
    """A sentence with the sensitive texts in it masked, the rest left readable."""
    for secret in sorted((s for s in sensitive if s), key=len, reverse=True):
        if len(secret) >= _SHORT:
            text = text.replace(secret, MASK)
        elif text == secret:
            return MASK
    return text


def one_line(text: str) -> str:
    """`text` as part of a line: printable, its own line ends and tabs written out."""
    return printable(text).replace("\n", "\\n").replace("\t", "\\t")


def shown(value: Any, sensitive: frozenset[str] = frozenset()) -> str:
    """A value on one line: JSON, with `(not set)` for none and the mask without quotes."""
    if value is None:
        return "(not set)"
    masked = mask(value, sensitive)
    return MASK if masked == MASK else one_line(json.dumps(brief(masked), ensure_ascii=False))


def brief(value: Any) -> Any:
    """A value without what no reader misses: entries of a mapping that are empty, and the middle of a long text."""
    match value:
        case str() if len(value) > LONGEST:
            import hashlib

            digest = hashlib.sha256(value.encode(errors="surrogatepass")).hexdigest()[:12]
            return f"{value[:KEPT]}… ({len(value)} characters, sha256:{digest}…)"
        case list() | tuple():
            return [brief(item) for item in value]
        case dict():
            return {key: brief(item) for key, item in value.items() if item not in ([], {}, None)}
    return value
