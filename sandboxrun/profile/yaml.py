"""YAML text to nodes with spans: the core schema of YAML 1.2, anchors and `<<` merges, bounded.

Owns what plain scalars mean and the words of syntax errors. The composer is PyYAML's, over libyaml's parser. libyaml's
own composer is not enough: it drops the places of aliases, refuses an anchor that is set twice, and ends before
anything could be bounded.
"""

from __future__ import annotations

import copy
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any, cast

from yaml import AliasEvent, BaseLoader, MappingStartEvent, ScalarEvent
from yaml.composer import Composer

from sandboxrun.errors import (
    Diagnostic,
    ListNode,
    MapNode,
    Node,
    Plain,
    Problems,
    Scalar,
    SourceFile,
    Span,
    did_you_mean,
)

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
    value: int | float = LARGEST_INTEGER + 1
    if _INTEGER.fullmatch(text):
        value = int(text, 0) if len(text) <= _LONGEST_NUMBER else value
    elif _NO_NUMBER.fullmatch(text):
        raise ValueError("infinity and not-a-number mean nothing here")
    elif _FLOAT.fullmatch(text):
        value = float(text)
    else:
        return text
    if abs(value) > (LARGEST_INTEGER if isinstance(value, int) else sys.float_info.max):
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
    types = {"null": type(None), "bool": bool, "int": int, "float": int | float}[tag]
    if not isinstance(value, types) or (isinstance(value, bool) and tag != "bool"):
        raise ValueError(f"the value does not fit its tag !!{tag}")
    return float(value) if tag == "float" and isinstance(value, int) else value


# -- YAML syntax errors in our own words, with what to do

QUOTE_TEMPLATE = (
    'a template is quoted as a whole: "{{ … }}"; braces meant for another program are: "{% raw %}{{ … }}{% endraw %}"'
)
_TAG_HELP = "remove it: only !!str, !!int, !!float, !!bool, !!null, !!map and !!seq are known"
_ANCHOR_HELP = "write &name and *name; quote a text that begins with & or *"
_INDENT_HELP = "check the indentation, and quote what begins with a special character"
# What the parser says, our message, our help; the first whose pattern is found is taken.
_KNOWN: tuple[tuple[str, str, str | None], ...] = (
    (
        "mapping values are not allowed",
        'a ":" is not allowed here',
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
    ("undefined tag handle", "unknown tag", _TAG_HELP),
    ("incompatible YAML document", "unknown YAML version", "remove the %YAML line"),
    ("could not find expected ':'", 'a ":" is missing after this key', "write KEY: VALUE"),
    (
        "while scanning a block scalar",
        "the block text's header is wrong",
        "write | or >, then the text on the next lines",
    ),
    ("while scanning an alias|while scanning an anchor", "an anchor's name is missing", _ANCHOR_HELP),
    ("did not find expected key", "this line fits nothing above it", _INDENT_HELP),
    ("did not find expected <document start>", "this line fits nothing above it", "check the indentation"),
    ("found another document", "a second document begins here", "put it in a file of its own"),
    ("unexpected end of stream", "the file ends in the middle of a value", None),
)


def syntax_error(error: Exception, file: SourceFile) -> Diagnostic:
    """The diagnostic for an exception of the YAML parser. Any other exception of its code gets a general one."""
    mark: Any = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    span = mark_span(file, mark) if mark is not None else Span(file=file, line=1, column=1)
    problem = str(getattr(error, "problem", None) or getattr(error, "reason", None) or error or type(error).__name__)
    said = f"{getattr(error, 'context', None) or ''} {problem}"
    first = "found another document" not in said
    for number in (span.line, span.line - 1) if first else ():  # a `{{` opens a value without a quote
        if found := re.match(r"(\s*(?:- +)*(?:[\w.-]+: +)?)(\{\{.*)", file.line(number)):
            template = Span(file=file, line=number, column=len(found[1]) + 1, length=len(found[2].rstrip()))
            return Diagnostic(message="an unquoted template is not YAML", span=template, help=QUOTE_TEMPLATE)
    if "cannot start any token" in said:
        start = file.line(span.line)[span.column - 1 : span.column]
        if start == "\t":
            return Diagnostic(message="a tab can't indent", span=span, help="indent with spaces")
        block = "; template statements are allowed only inside a quoted or block string" if start == "%" else ""
        return Diagnostic(message=f'a value can\'t begin with "{start}"', span=span, help=f"quote it{block}")
    if "expected ',' or ']'" in said and (found := re.search(r"[\w.-]+\[\"[^\"]*\"\]", file.line(span.line))):
        address = Span(file=file, line=span.line, column=found.start() + 1, length=len(found[0]))
        return Diagnostic(message="an unquoted address is not YAML here", span=address, help=f"write '{found[0]}'")
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


# -- YAML text to nodes with spans: one document, the core schema of YAML 1.2, anchors and `<<` merges

DEEPEST = 50  # levels, aliases written out
MOST_NODES = 50_000  # aliases written out
LONGEST_SCALAR = 64 * 1024  # characters
_TAG = "tag:yaml.org,2002:"
_TAGS = {"scalar": ("str", "int", "float", "bool", "null"), "mapping": ("map",), "sequence": ("seq",)}


def parse_yaml(file: SourceFile, problems: Problems) -> Node | None:
    """The document's root node; an empty file is a null scalar. None after a fault that ends reading."""
    roots = _composed(file, problems, (), lambda composer: [composer.get_single_node()])
    if roots == (None,):
        return Scalar(value=None, span=Span(file=file, line=1, column=1))
    return roots[0].made if roots else None


RESET, OVERRIDE = "!reset", "!override"


def parse_documents(file: SourceFile, problems: Problems) -> tuple[Node, ...]:
    """The root nodes of all documents of a Compose file, with Compose's own tags. Nothing after a fault that ends
    reading."""

    def every(composer: Any) -> Iterator[Any]:
        while composer.check_node():
            yield composer.get_node()

    return tuple(root.made for root in _composed(file, problems, (RESET, OVERRIDE), every))


def _composed(
    file: SourceFile, problems: Problems, tags: tuple[str, ...], compose: Callable[[Any], Iterable[Any]]
) -> tuple[Any, ...]:
    try:
        return tuple(compose(_Composer(file, problems, tags)))
    except _Stop as stop:
        problems.extend([stop.diagnostic])
    except Exception as error:  # the parser's own code raises ValueError and kin for odd escapes and versions
        problems.extend([syntax_error(error, file)])
    return ()


class _Stop(Exception):
    """A fault after which the rest of the file means nothing."""

    def __init__(self, message: str, span: Span, help: str | None = None) -> None:
        self.diagnostic = Diagnostic(message=message, span=span, help=help)
        super().__init__(message)


_MERGE = Scalar(value="<<", text="<<")


class _Composer(Composer):
    """Each YAML node gets what was made of it: `made`, with its `size` and `height`, aliases written out; a mapping the
    lines of its keys as `seen`, and a key what it is as `key` (None: faulty, its value is dropped).
    """

    def __init__(self, file: SourceFile, problems: Problems, tags: tuple[str, ...] = ()) -> None:
        super().__init__()
        self.file, self.problems, self.tags = file, problems, tags
        self.count = self.depth = 0
        self.lines: list[str] | None = None
        parser: Any
        try:
            from yaml._yaml import CParser

            parser = CParser(file.text)
        except ImportError:  # PyYAML was built without libyaml, which is six times faster
            parser = BaseLoader(file.text)
        self.check_event, self.peek_event, self.get_event = parser.check_event, parser.peek_event, parser.get_event

    descend_resolver = ascend_resolver = resolve = lambda *_: None  # what a value is, is said by its text alone

    def compose_node(self, parent: Any, index: Any) -> Any:
        """The next node. `index` is the key of a mapping's value, and None for a key and for the root."""
        event = self.peek_event()
        span = self._span(event)
        is_key = parent is not None and index is None
        if isinstance(event, AliasEvent):
            node = self._named(event.anchor, span)
            if is_key:
                node = copy.copy(node)  # a key is where the alias is
            self.get_event()
        else:
            node = self._composed(parent, index, event, span)
        if is_key:
            node.key = self._key(vars(parent).setdefault("seen", {}), node, event, span)
        elif index is not None and getattr(index, "key", None) is _MERGE:
            parts = node.made.items if isinstance(node.made, ListNode) else (node.made,)
            if not all(isinstance(part, MapNode) for part in parts):
                help = "write <<: *anchor of a mapping, or a list of them"
                self.problems.add("only mappings can be merged", span, help)
                index.key = None
        return node

    def _composed(self, parent: Any, index: Any, event: Any, span: Span) -> Any:
        """A node that is written out here."""
        self._spend(1, span)
        self.anchors.pop(event.anchor, None)  # one of the same name takes its place from here on
        if isinstance(event, ScalarEvent):
            if len(event.value) > LONGEST_SCALAR:
                message = f"this text is longer than {LONGEST_SCALAR // 1024} KiB"
                raise _Stop(message, span, "put it in a file of its own")
            node = cast(Any, super().compose_node(parent, index))
            node.made = Scalar(value=self._value(event, span), text=event.value, span=span, tag=self._kept(event))
            node.size = node.height = 1
            return node
        kind = "mapping" if isinstance(event, MappingStartEvent) else "sequence"
        if parent is not None and index is None:
            raise self._complex_key(kind, span)
        if self.depth >= DEEPEST:
            raise _Stop(f"more than {DEEPEST} levels of nesting", span, "flatten the file")
        own = self._kept(event)
        if not own:
            self._tag(event.tag, kind, span)
        self.depth += 1
        node = cast(Any, super().compose_node(parent, index))
        self.depth -= 1
        end = node.end_mark
        if node.flow_style and end.line + 1 == span.line:
            length = max(1, end.column + 1 - span.column)
            span = Span(file=self.file, line=span.line, column=span.column, length=length)
        if kind == "mapping":
            children = [value for _, value in node.value]
            node.made = MapNode(
                entries=_merged([(key.key, value.made) for key, value in node.value]), span=span, tag=own
            )
        else:
            children = node.value
            node.made = ListNode(items=tuple(item.made for item in children), span=span, tag=own)
        node.size = 1 + sum([child.size for child in children])
        node.height = 1 + max([child.height for child in children], default=0)
        return node

    def _named(self, name: Any, span: Span) -> Any:
        """The node that an alias names."""
        node = cast(Any, self.anchors.get(name))
        if node is None:
            help = did_you_mean(name, self.anchors) or f"write &{name} before the value that it names"
            raise _Stop(f'unknown anchor "{name}"', span, help)
        if not hasattr(node, "made"):
            raise _Stop(f'the alias "*{name}" is inside its own anchor', span, "an alias can't contain itself")
        if self.depth + node.height > DEEPEST:
            raise _Stop(f"more than {DEEPEST} levels of nesting, aliases written out", span, "flatten the file")
        self._spend(node.size, span)
        return node

    def _spend(self, nodes: int, span: Span) -> None:
        self.count += nodes
        if self.count > MOST_NODES:
            raise _Stop(f"more than {MOST_NODES} values, aliases written out", span, "split the file, or use for_each")

    def _span(self, event: Any) -> Span:
        """The node's place; of a text of several lines the first, of a block text its `|` or `>` only, of a list or a
        mapping where it begins."""
        start, end = event.start_mark, event.end_mark
        length = 1
        if isinstance(event, AliasEvent) or (isinstance(event, ScalarEvent) and end.line == start.line):
            length = end.column - start.column or 1
        elif isinstance(event, ScalarEvent) and event.style not in ("|", ">"):
            if self.lines is None:  # split once: a file may hold thousands of texts of several lines
                self.lines = self.file.text.splitlines()
            length = max(1, len("".join(self.lines[start.line : start.line + 1]).rstrip()) - start.column)
        return Span(file=self.file, line=start.line + 1, column=start.column + 1, length=length)

    def _value(self, event: Any, span: Span) -> Plain:
        text: str = event.value
        try:
            if self._kept(event) or event.tag is None:
                return text if event.style else resolve(text)
            tag = self._tag(event.tag, "scalar", span)
            value = text if tag is None else tagged(tag, text)
        except ValueError as error:
            self.problems.add(str(error), span, "quote it if it is a text")
            return None
        if not is_text(text):
            self.problems.add("half of a surrogate pair is not a character", span, "write the character itself")
            return ""
        return value

    def _kept(self, event: Any) -> str:
        """The tag, where it is one that was asked for."""
        return event.tag if event.tag in self.tags else ""

    def _tag(self, tag: str | None, kind: str, span: Span) -> str | None:
        """The known tag's short name; None without one (`!` alone says "a text as it stands")."""
        if tag is None or tag == "!":
            return None
        short = tag.removeprefix(_TAG)
        if tag.startswith(_TAG) and short in _TAGS[kind]:
            return short
        shown = f"!!{short}" if tag.startswith(_TAG) else tag
        help = "write null as the value to reset an option" if tag in ("!reset", "!override") else _TAG_HELP
        self.problems.add(f'unknown tag "{shown}"', span, help)
        return None

    def _complex_key(self, kind: str, span: Span) -> _Stop:
        line = self.file.line(span.line)
        at = span.column - 2
        if at >= 0 and line[at : at + 2] == "{{":
            whole = Span(file=self.file, line=span.line, column=at + 1, length=len(line.rstrip()) - at)
            return _Stop("an unquoted template is not YAML", whole, QUOTE_TEMPLATE)
        if line[at + 1 : at + 3] == "{{":
            return _Stop("a key can't be a template", span, "write the key out; only values are rendered")
        return _Stop(f"a {kind} can't be a key", span, "keys are texts; quote one that begins with { or [")

    def _key(self, seen: dict[str, int], node: Any, event: Any, span: Span) -> Scalar | None:
        """What a key is, if it can be one."""
        made = node.made
        if not isinstance(made, Scalar):
            raise _Stop("only a text can be a key", span, "this alias names a list or a mapping")
        if isinstance(event, ScalarEvent) and event.value == "<<" and event.tag is None and not event.style:
            if "<<" in seen:
                self.problems.add('a second "<<" in one mapping', span, "write one with a list: <<: [*a, *b]")
            seen["<<"] = span.line
            return _MERGE
        if not isinstance(made.value, str):
            shown = made.text or "null"
            self.problems.add(f'the key "{shown}" is not a text', span, f'put it in quotes: "{shown}"')
            return None
        if (line := seen.get(made.value)) is not None:
            help = f"remove it; the first is on line {line}"
            self.problems.add(f'the key "{made.value}" is listed twice', span, help)
            return None
        seen[made.value] = span.line
        return Scalar(value=made.value, text=made.text, span=span)


def _merged(entries: list[tuple[Scalar | None, Node]]) -> tuple[tuple[Scalar, Node], ...]:
    """The entries with `<<` written out in its place: own keys win, then the first mapping."""
    taken = {key.value for key, _ in entries if key is not None and key is not _MERGE}
    merged: list[tuple[Scalar, Node]] = []
    for key, node in entries:
        if key is not _MERGE:
            merged += [(key, node)] if key is not None else []
            continue
        for part in node.items if isinstance(node, ListNode) else (node,):
            for inner, value in part.entries if isinstance(part, MapNode) else ():
                if inner.value not in taken:
                    taken.add(inner.value)
                    merged.append((inner, value))
    return tuple(merged)
