"""YAML text to nodes with spans: one document, the core schema of YAML 1.2, anchors and `<<` merges, bounded.

Owns what plain scalars mean and the words of syntax errors.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from sandboxrun.errors import Diagnostic, Problems, did_you_mean
from sandboxrun.source import ListNode, MapNode, Node, Plain, Scalar, SourceFile, Span

# -- What a plain YAML scalar means: the core schema of YAML 1.2, with the traps of 1.1 left out

_WORDS: dict[str, Plain] = {
    "": None, "~": None, "null": None, "Null": None, "NULL": None,
    "true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False,
}  # fmt: skip
_INTEGER = re.compile(r"[-+]?(?:0|[1-9][0-9]*)|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|(?:0|[1-9][0-9]*)(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
_NO_NUMBER = re.compile(r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)")
LARGEST_INTEGER = 2**63 - 1
_LONGEST_NUMBER = 40  # characters; int() of a long text is slow, and nothing longer is in range
_NUMERIC_START = frozenset("0123456789.+-")


def resolve(text: str) -> Plain:
    """The value of a plain scalar. Raises ValueError, saying why, for a number that can't be had."""
    if text in _WORDS:
        return _WORDS[text]
    if text[0] not in _NUMERIC_START:
        return text
    if _INTEGER.fullmatch(text):
        return _integer(text)
    if _NO_NUMBER.fullmatch(text):
        raise ValueError("infinity and not-a-number mean nothing here")
    if _FLOAT.fullmatch(text):
        return _float(text)
    return text


def _integer(text: str) -> int:
    value = int(text, 0) if len(text) <= _LONGEST_NUMBER else None
    if value is None or abs(value) > LARGEST_INTEGER:
        raise ValueError("the number is too large")
    return value


def _float(text: str) -> float:
    value = float(text)
    if value in (float("inf"), float("-inf")):
        raise ValueError("the number is too large")
    return value


_SURROGATE = re.compile("[\ud800-\udfff]")


def is_text(text: str) -> bool:
    """Whether a string is made of characters: half of a surrogate pair is none, and can't be written as UTF-8."""
    return text.isascii() or _SURROGATE.search(text) is None


def tagged(tag: str, text: str) -> Plain:
    """The value of a scalar with an explicit tag (`!!str` is `str`). Raises ValueError when they don't fit."""
    if tag == "str":
        return text
    value = resolve(text)
    fits = {
        "null": value is None,
        "bool": isinstance(value, bool),
        "int": isinstance(value, int) and not isinstance(value, bool),
        "float": isinstance(value, int | float) and not isinstance(value, bool),
    }[tag]
    if not fits:
        raise ValueError(f"the value does not fit its tag !!{tag}")
    return float(value) if tag == "float" and isinstance(value, int) else value


# -- YAML syntax errors in our own words, with what to do

QUOTE_TEMPLATE = (
    'a template is quoted as a whole: "{{ … }}"; braces meant for another program are: "{% raw %}{{ … }}{% endraw %}"'
)
# What the parser says, our message, our help; the first whose pattern is found is taken.
_KNOWN: tuple[tuple[str, str, str | None], ...] = (
    (
        "mapping values are not allowed",
        'a ":" can\'t stand here',
        'quote a value that holds ": ", or check the indentation',
    ),
    ("block sequence entries are not allowed", 'a "-" can\'t begin an item here', "begin the list on a new line"),
    ("did not find expected '-' indicator", "the list ends here without being outdented", "check the indentation"),
    ("did not find expected ',' or ']'", "the list that began with [ is not closed", "close it with ]"),
    ("did not find expected ',' or '}'", "the mapping that began with { is not closed", "close it with }"),
    ("while scanning a quoted scalar.*unexpected end", "the quoted text is not closed", "add the closing quote"),
    (
        "unknown escape character",
        "unknown escape in a double-quoted text",
        "write \\\\ for a backslash, or use single quotes",
    ),
    ("Unicode character escape|hexdecimal|hexadecimal", "an escape that names no character", None),
    (
        "undefined tag handle",
        "unknown tag",
        "remove it: only !!str, !!int, !!float, !!bool, !!null, !!map and !!seq are known",
    ),
    ("incompatible YAML document", "unknown YAML version", "remove the %YAML line"),
    ("could not find expected ':'", 'a ":" is missing after this key', "write KEY: VALUE"),
    (
        "while scanning a block scalar",
        "the block text's header is wrong",
        "write | or >, then the text on the next lines",
    ),
    (
        "while scanning an alias|while scanning an anchor",
        "an anchor's name is missing",
        "write &name and *name; quote a text that begins with & or *",
    ),
    (
        "did not find expected key",
        "this line fits nothing above it",
        "check the indentation, and quote what begins with a special character",
    ),
    ("did not find expected <document start>", "this line fits nothing above it", "check the indentation"),
    ("unexpected end of stream", "the file ends in the middle of a value", None),
)


def syntax_error(error: Exception, file: SourceFile) -> Diagnostic:
    """The diagnostic for an exception of the YAML parser. Any other exception of its code gets a general one."""
    mark: Any = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    span = mark_span(file, mark) if mark is not None else Span(file=file, line=1, column=1)
    problem = str(getattr(error, "problem", None) or getattr(error, "reason", None) or error or type(error).__name__)
    said = f"{getattr(error, 'context', None) or ''} {problem}"
    if template := _unquoted_template(file, span):
        return Diagnostic(message="an unquoted template is not YAML", span=template, help=QUOTE_TEMPLATE)
    if "cannot start any token" in said:
        return _bad_start(file, span)
    for pattern, message, help in _KNOWN:
        if re.search(pattern, said, re.DOTALL):
            if message.endswith("not closed") and getattr(error, "context_mark", None) is not None:
                span = mark_span(file, error.context_mark)  # type: ignore[attr-defined]
            return Diagnostic(message=message, span=span, help=help)
    return Diagnostic(message=f"this is not YAML: {problem}", span=span, help="check the indentation and the quotes")


def mark_span(file: SourceFile, mark: Any) -> Span:
    """A parser's mark (0-based) as a span; past the end of the file it is the end of the last line."""
    lines = file.text.count("\n") + 1
    if mark.line < lines and (mark.line + 1 < lines or file.line(lines) or lines == 1):
        return Span(file=file, line=mark.line + 1, column=mark.column + 1)
    last = lines if file.line(lines) else max(1, lines - 1)
    return Span(file=file, line=last, column=len(file.line(last)) + 1)


def _bad_start(file: SourceFile, span: Span) -> Diagnostic:
    found = file.line(span.line)[span.column - 1 : span.column]
    if found == "\t":
        return Diagnostic(message="a tab can't indent", span=span, help="indent with spaces")
    if found == "%":
        return Diagnostic(
            message='a value can\'t begin with "%"',
            span=span,
            help="quote it; template statements are allowed only inside a quoted or block string",
        )
    return Diagnostic(message=f'a value can\'t begin with "{found}"', span=span, help="quote it")


def _unquoted_template(file: SourceFile, span: Span) -> Span | None:
    """Where a `{{` opens a value without a quote, on the line of the error or the one before."""
    for number in (span.line, span.line - 1):
        if found := re.match(r"(\s*(?:- +)*(?:[\w.-]+: +)?)(\{\{.*)", file.line(number)):
            return Span(file=file, line=number, column=len(found[1]) + 1, length=len(found[2].rstrip()))
    return None


# -- YAML text to nodes with spans: one document, the core schema of YAML 1.2, anchors and `<<` merges

DEEPEST = 50  # levels, aliases written out
MOST_NODES = 50_000  # aliases written out
LONGEST_SCALAR = 64 * 1024  # characters
_TAG = "tag:yaml.org,2002:"
_TAGS = {"scalar": ("str", "int", "float", "bool", "null"), "mapping": ("map",), "sequence": ("seq",)}
_TAG_HELP = "remove it: only !!str, !!int, !!float, !!bool, !!null, !!map and !!seq are known"


def parse_yaml(file: SourceFile, problems: Problems) -> Node | None:
    """The document's root node; an empty file is a null scalar. None after a fault that ends reading."""
    builder = _Builder(file, problems)
    before = len(problems)
    try:
        for event in _events(file.text):
            builder.take(event)
    except _Stop as stop:
        problems.extend([stop.diagnostic])
        return None
    except Exception as error:  # the parser's own code raises ValueError and kin for odd escapes and versions
        problems.extend([syntax_error(error, file)])
        return None
    if builder.root is None and len(problems) == before:
        return Scalar(value=None, span=Span(file=file, line=1, column=1))
    return builder.root


def _events(text: str) -> Iterator[Any]:
    """The parser's events, from libyaml where PyYAML was built with it: six times faster."""
    try:
        from yaml._yaml import CParser
    except ImportError:
        import yaml

        yield from yaml.parse(text, Loader=yaml.BaseLoader)
        return
    get = CParser(text).get_event
    while (event := get()) is not None:
        yield event


class _Stop(Exception):
    """A fault after which the rest of the file means nothing."""

    def __init__(self, message: str, span: Span, help: str | None = None) -> None:
        self.diagnostic = Diagnostic(message=message, span=span, help=help)
        super().__init__(message)


_MERGE = Scalar(value="<<", text="<<")


class _Frame:
    """A collection that is still open."""

    __slots__ = ("anchor", "entries", "height", "is_map", "items", "key", "seen", "size", "span")

    def __init__(self, is_map: bool, span: Span, anchor: str | None) -> None:
        self.is_map, self.span, self.anchor = is_map, span, anchor
        self.items: list[Node] = []
        self.entries: list[tuple[Scalar | None, Node]] = []  # a None key: faulty, its value is dropped
        self.seen: dict[str, int] = {}  # key to line
        self.key: tuple[Scalar | None] | None = None  # the key whose value is awaited
        self.size = self.height = 1


class _Anchored:
    """A node that can be named again, with what naming it costs."""

    __slots__ = ("height", "node", "size")

    def __init__(self, node: Node, size: int, height: int) -> None:
        self.node, self.size, self.height = node, size, height


class _Builder:
    """Takes events one by one and holds what is open."""

    def __init__(self, file: SourceFile, problems: Problems) -> None:
        self.file, self.problems = file, problems
        self.root: Node | None = None
        self._open: list[_Frame] = []
        self._anchors: dict[str, _Anchored | _Frame] = {}
        self._lines: list[str] | None = None
        self._documents = 0
        self._nodes = 0
        self._handlers = {
            "ScalarEvent": self._scalar,
            "MappingStartEvent": self._start_map,
            "SequenceStartEvent": self._start_list,
            "MappingEndEvent": self._end,
            "SequenceEndEvent": self._end,
            "AliasEvent": self._alias,
            "DocumentStartEvent": self._document,
        }

    def take(self, event: Any) -> None:
        handler = self._handlers.get(type(event).__name__)
        if handler is not None:
            handler(event)

    def _span(self, event: Any) -> Span:
        """The node's place; of a text of several lines the first, of a block text its `|` or `>` only."""
        start, end = event.start_mark, event.end_mark
        if end.line == start.line:
            length = end.column - start.column
        elif event.style in ("|", ">"):
            length = 1
        else:
            length = len(self._line(start.line).rstrip()) - start.column
        return Span(file=self.file, line=start.line + 1, column=start.column + 1, length=max(1, length))

    def _line(self, index: int) -> str:
        if self._lines is None:  # split once: a file may hold thousands of texts of several lines
            self._lines = self.file.text.splitlines()
        return self._lines[index] if index < len(self._lines) else ""

    def _document(self, event: Any) -> None:
        self._documents += 1
        if self._documents > 1:
            span = mark_span(self.file, event.start_mark)
            raise _Stop("a second document begins here", span, "put it in a file of its own")

    # -- scalars ---------------------------------------------------------------------------------------------

    def _scalar(self, event: Any) -> None:
        text: str = event.value
        span = self._span(event)
        if len(text) > LONGEST_SCALAR:
            raise _Stop(f"this text is longer than {LONGEST_SCALAR // 1024} KiB", span, "put it in a file of its own")
        plain = not event.style and event.tag is None and event.implicit[0]
        if plain and text == "<<" and self._awaits_key():
            self._merge_key(span)
            return
        node = Scalar(value=self._value(event, text, plain, span), text=text, span=span)
        if event.anchor is not None:
            self._anchors[event.anchor] = _Anchored(node, 1, 1)
        self._add(node, 1, 1, span)

    def _value(self, event: Any, text: str, plain: bool, span: Span) -> Any:
        try:
            if plain:
                return resolve(text)
            tag = self._tag(event, "scalar", span)
            value = text if tag is None else tagged(tag, text)
        except ValueError as error:
            self.problems.add(str(error), span, "quote it if it is a text")
            return None
        if not is_text(text):
            self.problems.add("half of a surrogate pair is not a character", span, "write the character itself")
            return ""
        return value

    def _tag(self, event: Any, kind: str, span: Span) -> str | None:
        """The known tag's short name; None without one (`!` alone says "a text as it stands")."""
        tag = event.tag
        if tag is None or tag == "!":
            return None
        short = tag.removeprefix(_TAG)
        if tag.startswith(_TAG) and short in _TAGS[kind]:
            return str(short)
        shown = f"!!{short}" if tag.startswith(_TAG) else tag
        help = "write null as the value to reset an option" if tag in ("!reset", "!override") else _TAG_HELP
        self.problems.add(f'unknown tag "{shown}"', span, help)
        return None

    # -- collections -----------------------------------------------------------------------------------------

    def _start_map(self, event: Any) -> None:
        self._start(event, "mapping")

    def _start_list(self, event: Any) -> None:
        self._start(event, "sequence")

    def _start(self, event: Any, kind: str) -> None:
        start = event.start_mark
        span = Span(file=self.file, line=start.line + 1, column=start.column + 1)
        if self._awaits_key():
            self._complex_key(kind, span)
        if len(self._open) >= DEEPEST:
            raise _Stop(f"more than {DEEPEST} levels of nesting", span, "flatten the file")
        self._tag(event, kind, span)
        frame = _Frame(kind == "mapping", span, event.anchor)
        if event.anchor is not None:
            self._anchors[event.anchor] = frame
        self._open.append(frame)

    def _complex_key(self, kind: str, span: Span) -> None:
        line = self.file.line(span.line)
        at = span.column - 2
        if at >= 0 and line[at : at + 2] == "{{":
            whole = Span(file=self.file, line=span.line, column=at + 1, length=len(line.rstrip()) - at)
            raise _Stop("an unquoted template is not YAML", whole, QUOTE_TEMPLATE)
        if line[at + 1 : at + 3] == "{{":
            raise _Stop("a key can't be a template", span, "write the key out; only values are rendered")
        raise _Stop(f"a {kind} can't be a key", span, "keys are texts; quote one that begins with { or [")

    def _end(self, event: Any) -> None:
        frame = self._open.pop()
        span = frame.span
        end = event.end_mark
        if end.line + 1 == span.line and event.start_mark.column != end.column:  # a flow collection on one line
            span = Span(file=self.file, line=span.line, column=span.column, length=max(1, end.column + 1 - span.column))
        node: Node
        if frame.is_map:
            node = MapNode(entries=_merged(frame.entries), span=span)
        else:
            node = ListNode(items=tuple(frame.items), span=span)
        if frame.anchor is not None and self._anchors.get(frame.anchor) is frame:
            self._anchors[frame.anchor] = _Anchored(node, frame.size, frame.height)
        self._add(node, frame.size, frame.height, span)

    def _alias(self, event: Any) -> None:
        span = self._span(event)
        name: str = event.anchor
        match self._anchors.get(name):
            case None:
                help = did_you_mean(name, self._anchors) or f"write &{name} before the value that it names"
                raise _Stop(f'unknown anchor "{name}"', span, help)
            case _Frame():
                raise _Stop(f'the alias "*{name}" is inside its own anchor', span, "an alias can't contain itself")
            case _Anchored(node=node, size=size, height=height):
                if len(self._open) + height > DEEPEST:
                    raise _Stop(f"more than {DEEPEST} levels of nesting, aliases written out", span, "flatten the file")
                self._add(node, size, height, span, aliased=True)

    # -- putting together ------------------------------------------------------------------------------------

    def _awaits_key(self) -> bool:
        return bool(self._open) and self._open[-1].is_map and self._open[-1].key is None

    def _add(self, node: Node, size: int, height: int, span: Span, aliased: bool = False) -> None:
        """Hand a finished node to what it stands in."""
        self._count(size if aliased else 1, span)
        if not self._open:
            self.root = node
            return
        frame = self._open[-1]
        frame.size += size
        frame.height = max(frame.height, height + 1)
        if not frame.is_map:
            frame.items.append(node)
        elif frame.key is None:
            frame.key = (self._key(frame, node, span),)
        else:
            self._entry(frame, frame.key[0], node, span)
            frame.key = None

    def _count(self, added: int, span: Span) -> None:
        self._nodes += added
        if self._nodes > MOST_NODES:
            raise _Stop(f"more than {MOST_NODES} values, aliases written out", span, "split the file, or use for_each")

    def _key(self, frame: _Frame, node: Node, span: Span) -> Scalar | None:
        """The key, if it can be one."""
        if not isinstance(node, Scalar):
            raise _Stop("only a text can be a key", span, "this alias names a list or a mapping")
        if not isinstance(node.value, str):
            shown = node.text or "null"
            self.problems.add(f'the key "{shown}" is not a text', span, f'put it in quotes: "{shown}"')
            return None
        if (line := frame.seen.get(node.value)) is not None:
            self.problems.add(
                f'the key "{node.value}" is listed twice', span, f"remove it; the first is on line {line}"
            )
            return None
        frame.seen[node.value] = span.line
        return Scalar(value=node.value, text=node.text, span=span)

    def _merge_key(self, span: Span) -> None:
        frame = self._open[-1]
        if "<<" in frame.seen:
            self.problems.add('a second "<<" in one mapping', span, "write one with a list: <<: [*a, *b]")
        frame.seen["<<"] = span.line
        frame.key = (_MERGE,)

    def _entry(self, frame: _Frame, key: Scalar | None, node: Node, span: Span) -> None:
        if key is not _MERGE:
            if key is not None:
                frame.entries.append((key, node))
            return
        parts = node.items if isinstance(node, ListNode) else (node,)
        if not all(isinstance(part, MapNode) for part in parts):
            self.problems.add("only mappings can be merged", span, "write <<: *anchor of a mapping, or a list of them")
            return
        frame.entries.extend((_MERGE, part) for part in parts)


def _merged(entries: list[tuple[Scalar | None, Node]]) -> tuple[tuple[Scalar, Node], ...]:
    """The entries with `<<` written out in its place: own keys win, then the mapping that stands first."""
    if not any(key is _MERGE for key, _ in entries):
        return tuple((key, node) for key, node in entries if key is not None)
    taken = {key.value for key, _ in entries if key is not None and key is not _MERGE}
    merged: list[tuple[Scalar, Node]] = []
    for key, node in entries:
        if key is not _MERGE:
            assert key is not None
            merged.append((key, node))
            continue
        assert isinstance(node, MapNode)
        for inner, value in node.entries:
            if inner.value not in taken:
                taken.add(inner.value)
                merged.append((inner, value))
    return tuple(merged)
