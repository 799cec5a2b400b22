"""Rendering: nodes with templates in, the same nodes with values in their place out.

Owns what a template may do to a document, which is little: only values are templates, never keys; a scalar becomes a
scalar, or, where it is one whole `{{ expression }}`, a list of scalars. It never becomes a mapping, and what comes
out is never read as YAML or as a template again: whatever a variable holds, no key is added, dropped or renamed.
A mapping is taken in one place only, `for_each`, where it is data to iterate over.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import TYPE_CHECKING, Any

from msgspec import structs

from sandboxrun.data import Data
from sandboxrun.errors import Problems, did_you_mean
from sandboxrun.profile.functions import CLOSING, LONGEST_TEMPLATE, MARKS, TemplateError, Work
from sandboxrun.profile.yaml import is_text
from sandboxrun.source import ListNode, MapNode, Node, Scalar, Span, node_of

if TYPE_CHECKING:
    from sandboxrun.profile.evaluate import Program


class Scope(Data, unshown=("values",)):
    """The names that templates may use. `sensitive` names a part of them; `each_help` explains a missing `each`."""

    values: Mapping[str, Any]
    sensitive: frozenset[str] = frozenset()

    def with_each(self, each: Any) -> Scope:
        """The scope of one instance of a `for_each`."""
        return structs.replace(self, values={**self.values, "each": each})


def is_template(node: Node) -> bool:
    """Whether a node is a scalar that holds a template's mark."""
    return isinstance(node, Scalar) and isinstance(node.value, str) and MARKS.search(node.value) is not None


class Renderer:
    """Renders the nodes of one profile: programs are read once, and all work is counted together.

    `secrets` collects the texts that were made with sensitive names, for masking.
    """

    def __init__(self, problems: Problems) -> None:
        self.problems = problems
        self.work = Work()
        self.secrets: set[str] = set()
        self._programs: dict[str, Program | TemplateError] = {}

    def render(self, node: Node, scope: Scope, *, mapping: bool = False) -> Node | None:
        """`node` with every template in it rendered; the very same node where there is none. None after a fault.
        `mapping`: one that is the whole node may make a mapping."""
        match node:
            case Scalar():
                return self.scalar(node, scope, mapping=mapping) if is_template(node) else node
            case ListNode():
                items = [self.render(item, scope) for item in node.items]
                if all(new is old for new, old in zip(items, node.items, strict=True)):
                    return node
                kept = tuple(item for item in items if item is not None)
                return structs.replace(node, items=kept) if len(kept) == len(items) else None
            case MapNode():
                return self._mapping(node, scope)

    def _mapping(self, node: MapNode, scope: Scope) -> Node | None:
        entries: list[tuple[Scalar, Node]] = []
        same = whole = True
        for key, value in node.entries:
            whole = self.check_key(key) and whole
            new = self.render(value, scope)
            same = same and new is value
            if new is None:
                whole = False
            else:
                entries.append((key, new))
        if not whole:
            return None
        return node if same else structs.replace(node, entries=tuple(entries))

    def check_key(self, key: Scalar) -> bool:
        """Note a key that looks like a template."""
        if not is_template(key):
            return True
        help = "write the key out, only values are rendered; braces for another program can be in a list: - NAME=value"
        self.problems.add("a key can't be a template", key.span, help)
        return False

    def scalar(self, node: Scalar, scope: Scope, *, mapping: bool = False) -> Node | None:
        """The node that a template makes, at its own place; None after a fault."""
        from sandboxrun.profile.evaluate import evaluate

        text = str(node.value)
        if self.work.left < 0:  # said once already
            return None
        try:
            program = self._program(text)
            if not self._names_known(program, node, scope):
                return None
            value = evaluate(program, scope.values, self.work)
            if not _fits(value, mapping):
                raise _unfit(value)
            if not all(map(is_text, _texts(value))):
                raise TemplateError("this template makes half of a surrogate pair, which is not a character")
        except TemplateError as error:
            span = locate(node, error.line, error.word)
            self.problems.add(error.message, span, _joined(error.help, for_others(text, error.word)))
            return None
        except RecursionError:
            self.problems.add("this template is nested too deeply", node.span)
            return None
        if any(name in scope.sensitive for name, _ in program.names):
            self._keep_secret(value)
        return node_of(value, node.span)

    def _program(self, text: str) -> Program:
        from sandboxrun.profile.evaluate import read_template

        program = self._programs.get(text)
        if program is None:
            try:
                program = read_template(text)
            except TemplateError as error:
                program = error
            self._programs[text] = program
        if isinstance(program, TemplateError):
            raise program.with_traceback(None)
        return program

    def _names_known(self, program: Program, node: Scalar, scope: Scope) -> bool:
        known = True
        for name, line in program.names:
            if name in scope.values:
                continue
            known = False
            if name == "each":
                help = "each exists in a sandbox with for_each, and not in for_each itself"
            else:
                help = did_you_mean(name, scope.values) or _declare(name, str(node.value))
            whole = _joined(help, for_others(str(node.value), name))
            self.problems.add(f'the variable "{name}" is not declared', locate(node, line, name), whole)
        return known

    def _keep_secret(self, value: Any) -> None:
        for item in value if isinstance(value, list) else (value,):
            if isinstance(item, str | int | float) and not isinstance(item, bool) and item != "":
                self.secrets.add(str(item))


_OPENS = re.compile(r"\{\{-?\s*(#|(range|if|with|block|define)\b)")  # what other languages end further on
_RAW = re.compile(r"\{%[-+]?\s*raw\s*[-+]?%\}")
_END_RAW = re.compile(r"\{%[-+]?\s*endraw\s*[-+]?%\}")
_SHOWN = 60
_MOST_LOOKED_AT = 50


def literal(text: str, *, tags: bool = False) -> str:
    """What of a text stands as it is: less what is raw in it, and less its templates unless `tags` are kept."""
    kept: list[str] = []
    at = 0
    while (mark := MARKS.search(text, at)) is not None:
        raw = _RAW.match(text, mark.start())
        end = _END_RAW.search(text, raw.end()) if raw is not None else None
        close = end.end() if end is not None else text.find(CLOSING[mark[0]], mark.end()) + 2
        if close < mark.end():  # it is not closed
            return "".join((*kept, text[at:] if tags else text[at : mark.start()]))
        kept += [text[at : mark.start()], text[mark.start() : close] if tags and end is None else " "]
        at = close
    return "".join((*kept, text[at:]))


def for_others(text: str, word: str = "") -> str:
    """How to write the braces in a text that are meant for another program: those that hold `word`, else the first that
    are not a template."""
    found = list(islice(_marked(literal(text, tags=True)), _MOST_LOOKED_AT)) if len(text) <= LONGEST_TEMPLATE else []
    mark, braces = next((pair for pair in found if _is_faulty(pair[1], word)), found[0] if found else ("{{", ""))
    if not braces or len(braces) > _SHOWN or "\n" in braces:
        return f"if the braces are meant for another program, write {{{{ '{mark}' }}}} for {mark}"
    return f"if the braces are meant for another program, write {{% raw %}}{braces}{{% endraw %}}"


def _marked(text: str) -> Iterator[tuple[str, str]]:
    """Each mark outside of the others, with the text from there to where it is closed, "" where it is not."""
    at = 0
    while (mark := MARKS.search(text, at)) is not None:
        start, closing = mark.start(), CLOSING[mark[0]]
        close = text.rfind(closing) if _OPENS.match(text, start) else text.find(closing, mark.end())
        if close < mark.end():
            yield mark[0], ""
            at = mark.end()
            continue
        at = close + len(closing) + (text.startswith("{{{", start) and text.startswith("}}}", close))
        yield mark[0], text[start:at]


def _is_faulty(braces: str, word: str) -> bool:
    from sandboxrun.profile.evaluate import read_template

    if word:
        return re.search(rf"(?<!\w){re.escape(word)}(?!\w)", braces) is not None
    try:
        read_template(braces)
    except TemplateError:
        return True
    return not braces


def _joined(*helps: str | None) -> str | None:
    return "; ".join(help for help in helps if help) or None


def _declare(name: str, text: str) -> str:
    """What to do about a name that is not declared."""
    found = re.search(rf"(\$?)\{{\{{\s*{re.escape(name)}((?:\.[\w-]+)*)", text)
    path = found[2] if found is not None else ""
    if found is not None and found[1]:  # an expression of GitHub's, and of others
        own = re.sub(r"\W", "_", path.rpartition(".")[2] or name).lower()
        return f"nothing is filled in from ${{{{ … }}}}: declare a variable, and write {{{{ {own} }}}} without the $"
    return f"declare it: variables: {{{name}: {{type: {'object' if path else 'string'}}}}}"


def _texts(value: Any) -> Iterator[str]:
    """The texts in a value, those in its lists and mappings too."""
    match value:
        case str():
            yield value
        case list():
            for item in value:
                yield from _texts(item)
        case dict():
            for key, item in value.items():
                yield key
                yield from _texts(item)


def _fits(value: Any, mapping: bool) -> bool:
    if isinstance(value, dict):
        return mapping
    return not isinstance(value, list) or not any(isinstance(item, list | dict) for item in value)


def _unfit(value: Any) -> TemplateError:
    from sandboxrun.profile.functions import kind

    if isinstance(value, dict):
        return TemplateError(
            "a template can't make a mapping", help="write its keys out: a value never adds a key to a profile"
        )
    inner = next(item for item in value if isinstance(item, list | dict))
    return TemplateError(f"a template's list can't hold {kind(inner)}", help="make it a list of plain values")


def locate(node: Scalar, line: int, word: str) -> Span | None:
    """The place of `word` on the `line`-th line of a scalar's text; the scalar's own where it can't be found.

    A block text's lines are the file's; a folded or quoted one is searched on its first line.
    """
    span = node.span
    if span is None:
        return None
    lines = str(node.value).splitlines()
    wanted = lines[line - 1].strip() if 0 < line <= len(lines) else ""
    for number in (span.line + line, span.line):
        shown = span.file.line(number)
        start = span.column - 1 if number == span.line else 0
        if number != span.line and shown.strip() != wanted:
            continue
        if found := _find(shown, start, word):
            return Span(file=span.file, line=number, column=found[0] + 1, length=found[1])
    return span


def _find(shown: str, start: int, word: str) -> tuple[int, int] | None:
    """Where the word stands inside a mark, or where the first mark does: offset and length."""
    mark = MARKS.search(shown, start)
    if mark is None:
        return None
    if word and (
        found := re.compile(rf"(?<![\w.]){re.escape(word)}(?!\w)|\.\s*{re.escape(word)}(?!\w)").search(
            shown, mark.end()
        )
    ):
        skip = len(found[0]) - len(word)
        return found.start() + skip, len(word)
    close = shown.find(CLOSING[mark[0]], mark.end())
    return mark.start(), (close + 2 if close >= 0 else len(shown.rstrip())) - mark.start()
