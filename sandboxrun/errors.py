"""What can go wrong, as data: places in files, diagnostics, exit codes, and the exceptions that carry them.

Owns positions, the texts' shape, and what is never shown. Knows no YAML: the nodes that a document is parsed to are
built from plain Python values, too, by :func:`node_of`, which is how the Python API reaches the parsers of the model.
Prints nothing, and does not decide what is wrong: whoever finds a fault reports it.
"""

from __future__ import annotations

import enum
import functools
import json
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, AnyStr, Generic

from msgspec import structs

from sandboxrun.data import Data

# -- Places: source texts, spans, and nodes


@functools.lru_cache(16)
def _lines(text: str) -> list[str]:
    """Every finding and fault asks for a line."""
    return text.splitlines()


class SourceFile(Data, unshown=("text",)):
    """A text that was read: `name` as the user would type it, `text` whole."""

    name: str
    text: str

    def line(self, number: int) -> str:
        """The text of line `number` (1-based), without its line end; "" past the end of the file."""
        lines = _lines(self.text)
        return lines[number - 1] if 0 < number <= len(lines) else ""


class Span(Data, eq=False):
    """A place in a file: 1-based `line` and `column`; `length` characters on that line (at least 1)."""

    file: SourceFile
    line: int
    column: int
    length: int = 1

    def __str__(self) -> str:
        return f"{one_line(self.file.name)}:{self.line}:{self.column}"  # a checkout calls its files as it likes


def place_order(span: Span | None) -> tuple[str, int, int]:
    """The sort key of a place: file, line, column; what has none comes last."""
    return ("\U0010ffff", 0, 0) if span is None else (span.file.name, span.line, span.column)


Plain = str | int | float | bool | None


class Scalar(Data, unshown=("span",), uncompared=("span",)):
    """One value. `text` is what the file said (so that `3.10` can be quoted back as it was written)."""

    value: Plain
    text: str = ""
    span: Span | None = None
    tag: str = ""  # one of Compose's, where those were asked for


class ListNode(Data, unshown=("span",), uncompared=("span",)):
    """A sequence of nodes."""

    items: tuple[Node, ...]
    span: Span | None = None
    tag: str = ""


class MapNode(Data, unshown=("span",), uncompared=("span",)):
    """A mapping, in the file's order; keys are unique scalars whose values are strings."""

    entries: tuple[tuple[Scalar, Node], ...]
    span: Span | None = None
    tag: str = ""

    def get(self, key: str) -> Node | None:
        """The value under `key`, or None."""
        return next((value for name, value in self.entries if name.value == key), None)

    def key(self, key: str) -> Scalar | None:
        """The key node of `key`: the place to point at when the entry as a whole is wrong."""
        return next((name for name, _ in self.entries if name.value == key), None)

    def without(self, *keys: str) -> MapNode:
        """The same mapping less `keys`."""
        return structs.replace(self, entries=tuple(e for e in self.entries if e[0].value not in keys))


Node = Scalar | ListNode | MapNode


def is_null(node: Node) -> bool:
    """Whether a node is null, which a missing value is as well."""
    return isinstance(node, Scalar) and node.value is None


def node_of(value: Any, span: Span | None = None) -> Node:
    """Plain Python data (str, int, float, bool, None, list, tuple, mapping) as nodes, all at `span`."""
    match value:
        case str() | bool() | int() | float() | None:
            return Scalar(value=value, text=value if isinstance(value, str) else str(value), span=span)
        case Mapping():
            entries = tuple((Scalar(value=str(k), text=str(k), span=span), node_of(v, span)) for k, v in value.items())
            return MapNode(entries=entries, span=span)
        case Sequence() | set() | frozenset():
            return ListNode(items=tuple(node_of(item, span) for item in value), span=span)
    raise TypeError(f"{type(value).__name__} has no form in a profile: {value!r}")


def plain_of(node: Node) -> Any:
    """The node as plain data: dict, list and scalars."""
    match node:
        case Scalar():
            return node.value
        case ListNode():
            return [plain_of(item) for item in node.items]
        case MapNode():
            return {str(key.value): plain_of(value) for key, value in node.entries}


def walk(node: Node) -> Iterator[Node]:
    """The node and everything below it, keys left out, in the file's order."""
    yield node
    match node:
        case ListNode():
            for item in node.items:
                yield from walk(item)
        case MapNode():
            for _, value in node.entries:
                yield from walk(value)


# -- Faults


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


class Diagnostic(Data):
    """One fault: what is wrong, where, and what to do. `message` is a clause without a full stop.

    Where the help names something that a caller can ask for, `option` is how the command line spells it and `argument`
    how Python does: each kind of caller is shown its own.
    """

    message: str
    span: Span | None = None
    help: str | None = None
    severity: str = "error"
    option: str = ""
    argument: str = ""

    def helped(self, spelling: str) -> str | None:
        """The help, with the `option` or the `argument` that it is about."""
        return f"{self.help or 'use'} ({spelling})" if spelling else self.help

    @property
    def on_command_line(self) -> Diagnostic:
        """As the command line shows it."""
        return structs.replace(self, help=self.helped(self.option), option="", argument="")

    def __str__(self) -> str:
        """The text a person sees: place and message, the source line, a caret, the help."""
        head, help = f"{self.severity}: {printable(self.message)}", self.helped(self.argument)
        lines = [head] if self.span is None else [f"{printable(str(self.span))}: {head}", *_quote(self.span)]
        return "\n".join([*lines, *([f"  help: {printable(help)}"] if help else [])])

    @property
    def order(self) -> tuple[str, int, int, str]:
        """The sort key: file, line, column, message; faults without a place come last."""
        return (*place_order(self.span), self.message)


_WIDTH = 120


def _quote(span: Span) -> list[str]:
    """The source line and a caret line under it, cut to a window around the caret when it is long."""
    line = span.file.line(span.line)
    start = max(0, span.column - 1 - _WIDTH // 2) if len(line) > _WIDTH else 0
    window = line[start : start + _WIDTH]
    caret_at = min(span.column - 1 - start, len(window))
    length = max(1, min(span.length, len(window) - caret_at))
    lead = "".join("\t" if c == "\t" else " " for c in window[:caret_at])
    shown = "".join(c if c == "\t" or c.isprintable() else "?" for c in window)
    gutter = " " * len(str(span.line))
    return [f"  {span.line} | {shown.rstrip()}".rstrip(), f"  {gutter} | {lead}{'^' * length}"]


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

    def __init__(
        self, *diagnostics: Diagnostic | str, help: str | None = None, option: str = "", argument: str = ""
    ) -> None:
        self.diagnostics: tuple[Diagnostic, ...] = tuple(
            Diagnostic(message=d, help=help, option=option, argument=argument) if isinstance(d, str) else d
            for d in diagnostics
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
    """Collects faults, so that all of a file's are reported at once."""

    def __init__(self) -> None:
        self._found: list[Diagnostic] = []
        self._warnings: list[Diagnostic] = []

    def warn(self, message: str, span: Span | None = None, help: str | None = None) -> None:
        """Note what may well be wrong, and is no fault: it counts for nothing but being shown."""
        self._warnings.append(Diagnostic(message=message, span=span, help=help, severity="warning"))

    def add(
        self,
        message: str,
        span: Span | None = None,
        help: str | None = None,
        *,
        option: str = "",
        argument: str = "",
    ) -> None:
        """Note one fault."""
        self._found.append(Diagnostic(message=message, span=span, help=help, option=option, argument=argument))

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


def few(words: Iterable[str], most: int) -> str:
    """The first of several words, and how many more there are: `a, b and 3 more`."""
    every = list(words)
    return ", ".join(every[:most]) + (f" and {len(every) - most} more" if len(every) > most else "")


def amount(count: int, what: str, plural: str = "s") -> str:
    """A number of things: `1 run`, `2 runs`; `plural` is what the word ends with then."""
    return f"{count} {what}{'' if count == 1 else plural}"


def quoted(word: str) -> str:
    """`word` in quotes, as it is where it has some of its own: `"agent"`, `agent["lint"]`."""
    return word if '"' in word else f'"{word}"'


def did_you_mean(word: str, known: Iterable[str]) -> str | None:
    """A help text naming the closest known word, or None when nothing is close."""
    import difflib

    close = difflib.get_close_matches(word, sorted(known), n=1, cutoff=0.6)
    return f"did you mean {quoted(close[0])}?" if close else None


# -- what is never shown -------------------------------------------------------------------------------------------

MASK = "(sensitive value)"  # in everything that a user reads
EVIDENCE_MASK = "***"  # in evidence, whose format has it
SHORTEST = 4  # characters: a shorter text is masked only where it is a whole value, since "1" or "no" is everywhere
ENCODED = 8  # bytes: of a shorter one no encodings are looked for
_LINE = 16  # bytes: a line of a longer secret, such as a key in PEM, counts by itself from here on
_HEAD = 16  # characters: by so many of its first ones a text is looked for
LONGEST, KEPT = 4000, 1000  # characters of one text: commands are shown whole, a seccomp profile has ten thousand


def spellings(value: bytes) -> frozenset[bytes]:
    """What a sensitive value may look like where a program wrote it: without white space at its ends, its longer lines,
    escaped as in JSON, Python, a shell, HTML or a line of ours, in one case, in base64 (wherever in a longer text),
    hexadecimal or percent-encoding, and reversed."""
    forms = {value, value.strip()}
    forms |= {form for whole in tuple(forms) for form in _spellings(whole)}
    return frozenset(form for form in forms if form)


def _spellings(value: bytes) -> Iterator[bytes]:
    lines = value.split(b"\n")
    if len(lines) > 1:
        long = (line.strip() for line in lines)
        yield from (line for line in long if len(line) >= _LINE and not line.startswith(b"-----"))
    text = value.decode("utf-8", "surrogateescape")
    escaped = (*(json.dumps(text, ensure_ascii=ascii_only)[1:-1] for ascii_only in (True, False)), repr(text)[1:-1])
    for form in (*escaped, printable(text), one_line(text), text.replace("'", "'\\''"), *_in_markup(text)):
        yield form.encode("utf-8", "surrogateescape")
    if len(value) < ENCODED:
        return
    from base64 import b64encode
    from urllib.parse import quote, quote_plus

    for shift in range(3):  # where in a longer text it is decides what its middle looks like
        coded = b64encode(bytes(shift) + value)
        inner = coded[-(-shift * 4 // 3) : (shift + len(value)) * 4 // 3]
        yield inner
        yield inner.translate(bytes.maketrans(b"+/", b"-_"))
    yield value.hex().encode()
    yield value.hex().upper().encode()
    # names of hosts have no case; other letters than ASCII's have one in a text alone
    yield from (value.lower(), value.upper())
    yield from (form.encode("utf-8", "surrogateescape") for form in (text.lower(), text.upper(), text[::-1]))
    for percent in (quote(value, safe=""), quote(value), quote_plus(value)):
        yield percent.encode()
        yield re.sub("%[0-9A-F]{2}", lambda found: found[0].lower(), percent).encode()
    yield value[::-1]


def _in_markup(text: str) -> Iterator[str]:
    """As HTML and XML have it: in text, and in attributes as Python, other libraries and templates write them."""
    plain = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    yield plain
    for double, single in (
        ("&quot;", "&#x27;"),
        ("&quot;", "&#39;"),
        ("&#34;", "&#39;"),
        ("&quot;", "'"),
        ('"', "&apos;"),
    ):
        yield plain.replace('"', double).replace("'", single)


def _every(sensitive: frozenset[str]) -> Iterator[bytes]:
    return (form for text in sensitive for form in spellings(text.encode("utf-8", "surrogateescape")))


class Finder(Generic[AnyStr]):
    """Finds any of some texts in a longer one, those too short to be looked for left out. It takes a time that grows
    with the longer text alone: all of theirs is compared only where the first characters of one are."""

    def __init__(self, texts: Iterable[AnyStr]) -> None:
        known: set[AnyStr] = {text for text in texts if len(text) >= SHORTEST}
        self.longest: int = max(map(len, known), default=0)
        head: int = min([_HEAD, *map(len, known)])
        begun: defaultdict[AnyStr, list[AnyStr]] = defaultdict(list)
        for text in sorted(known, key=len, reverse=True):
            begun[text[:head]].append(text)
        self._begun: dict[AnyStr, tuple[AnyStr, ...]] = {first: tuple(texts) for first, texts in begun.items()}
        self._head = head
        self._pattern: re.Pattern[AnyStr] | None = _pattern(self._begun)

    def spans(self, text: AnyStr, before: int) -> Iterator[tuple[int, int]]:
        """Where one begins before `before`, in order, and where the longest that begins there ends."""
        at, last = 0, before + self._head - 1
        while self._pattern is not None and (found := self._pattern.search(text, at, last)) is not None:
            start, known = found.start(), self._begun[found.group()]
            if text.startswith(known, start):
                yield start, start + next(len(one) for one in known if text.startswith(one, start))
            at = start + 1


def _pattern(heads: Collection[AnyStr]) -> re.Pattern[AnyStr] | None:
    """Finds the first of any: by their first two characters first, since a pattern's alternatives are tried in turn."""

    def of(texts: Collection[str], levels: int) -> str:
        if not levels:
            return "|".join(map(re.escape, texts))
        rests: defaultdict[str, list[str]] = defaultdict(list)
        for text in texts:
            rests[text[0]].append(text[1:])
        return "|".join(f"{re.escape(first)}(?:{of(some, levels - 1)})" for first, some in rests.items())

    pattern = of([head if isinstance(head, str) else head.decode("latin-1") for head in heads], 2)
    as_given: Any = pattern.encode("latin-1") if isinstance(next(iter(heads), ""), bytes) else pattern
    return re.compile(as_given) if heads else None


@functools.lru_cache(maxsize=16)
def _finder(sensitive: frozenset[str]) -> Finder[str]:
    return Finder(form.decode("utf-8", "surrogateescape") for form in _every(sensitive))


def longest_spelling(sensitive: frozenset[str]) -> int:
    """Bytes of the longest text that `redact` looks for; 0 for none."""
    return max(map(len, _every(sensitive)), default=0)


def redact(text: str, sensitive: Iterable[str]) -> str:
    """A text with the sensitive ones in it masked, the rest left readable."""
    known = frozenset(sensitive)
    if not known:
        return text
    if text and text in known:
        return MASK
    out, shown = "", 0
    for start, end in _finder(known).spans(text, len(text)):
        if start >= shown:
            out, shown = out + text[shown:start] + MASK, end
    return out + text[shown:]


def redacted(diagnostic: Diagnostic, sensitive: Iterable[str]) -> Diagnostic:
    """The diagnostic with sensitive texts masked."""
    help = redact(diagnostic.help, sensitive) if diagnostic.help else None
    return structs.replace(diagnostic, message=redact(diagnostic.message, sensitive), help=help)


def mask(value: Any, sensitive: frozenset[str], *, whole: bool = True) -> Any:
    """A profile's value as plain data without sensitive texts and numbers, at any depth, keys included.

    A text that holds one is masked altogether, or with `whole=False` as `redact` does.
    """
    match value:
        case str():
            found = redact(value, sensitive)
            return MASK if whole and found != value else found
        case bool() | None:
            return value
        case int() | float():
            return MASK if str(value) in sensitive else value
        case Mapping():
            return {redact(str(key), sensitive): mask(item, sensitive, whole=whole) for key, item in value.items()}
    return [mask(item, sensitive, whole=whole) for item in value]


def redact_texts(document: Any, sensitive: frozenset[str]) -> Any:
    """A document of ours for programs, with its texts masked as `redact` does; its keys and numbers are our own."""
    match document:
        case str():
            return redact(document, sensitive)
        case Mapping():
            return {key: redact_texts(item, sensitive) for key, item in document.items()}
        case list() | tuple():
            return [redact_texts(item, sensitive) for item in document]
    return document


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
