"""Rendering: nodes with templates in, the same nodes with values in their place out.

Owns what a template may do to a document, which is little: only values are templates, never keys; a scalar becomes a
scalar, or, where it is one whole `{{ expression }}`, a list of scalars. It never becomes a mapping, and what comes
out is never read as YAML or as a template again: whatever a variable holds, no key is added, dropped or renamed.
A mapping is taken in one place only, `for_each`, where it is data to iterate over.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping
from itertools import islice
from typing import Any

from msgspec import Struct, field, structs

from sandboxrun.data import Data
from sandboxrun.errors import ListNode, MapNode, Node, Problems, Scalar, Span, did_you_mean, node_of
from sandboxrun.profile.yaml import is_text

# -- How much a profile's templates may do: steps, text and lists, each a number of its own

MARKS = re.compile(r"\{\{|\{%|\{#")  # what makes a scalar a template
LONGEST_TEXT = 64 * 1024  # characters that one value may have, on the way or at its end
LONGEST_LIST = 10_000
LARGEST_INTEGER = 2**63 - 1
STEPS_A_SCALAR = 50_000
STEPS_A_PROFILE = 2_000_000
DEEPEST_EXPRESSION = 60
LONGEST_TEMPLATE = 16 * 1024  # characters of source
CLOSING = {"{{": "}}", "{%": "%}", "{#": "#}"}


class TemplateError(Exception):
    """A fault in a template: a clause, its line in the scalar (0: not known yet), the word to point at, a help."""

    def __init__(self, message: str, *, line: int = 0, word: str = "", help: str | None = None) -> None:
        self.message, self.line, self.word, self.help = message, line, word, help
        super().__init__(message)


class Allowance(Struct):
    """Counts the steps of all templates of one profile."""

    left: int = STEPS_A_PROFILE
    here: int = STEPS_A_SCALAR

    def spend(self, steps: int = 1) -> None:
        """Raises TemplateError when the scalar or the profile has none left."""
        self.here -= steps
        self.left -= steps
        if self.here < 0:
            raise TemplateError("this template does too much work", help="shorten its loops")
        if self.left < 0:
            raise TemplateError("the templates of this profile do too much work together", help="shorten their loops")

    def text(self, length: int) -> None:
        """Raises TemplateError when a text of `length` characters must not be made; else pays for it."""
        self.fits(length)
        self.spend(1 + length // 64)

    @staticmethod
    def fits(length: int) -> None:
        """Raises TemplateError when a text of `length` characters must not be made."""
        if length > LONGEST_TEXT:
            raise TemplateError(f"this template makes a text longer than {LONGEST_TEXT // 1024} KiB")

    def items(self, count: int) -> None:
        """The same for a list of `count` items."""
        if count > LONGEST_LIST:
            raise TemplateError(f"this template makes a list longer than {LONGEST_LIST} items")
        self.spend(1 + count // 8)

    def tree(self, value: Any) -> None:
        """The same for all that a list or a mapping holds, written out: one list may occur in it many times."""
        count, waiting = 0, [value]
        while waiting:
            node = waiting.pop()
            parts = node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
            waiting.extend(parts)
            count += 1 + len(parts)
            if count > 2 * LONGEST_LIST:
                self.items(count)
        self.items(count // 2)


# -- Rendering


class TemplateScope(Data, unshown=("values",)):
    """The names that templates may use. `sensitive` names a part of them; `each_help` explains a missing `each`."""

    values: Mapping[str, Any]
    sensitive: frozenset[str] = frozenset()

    def with_each(self, each: Any) -> TemplateScope:
        """The scope of one instance of a `for_each`."""
        return structs.replace(self, values={**self.values, "each": each})


def is_template(node: Node) -> bool:
    """Whether a node is a scalar that holds a template's mark."""
    return isinstance(node, Scalar) and isinstance(node.value, str) and MARKS.search(node.value) is not None


def is_template_key(key: Scalar, problems: Problems) -> bool:
    """Whether a key looks like a template, which is noted."""
    if is_template(key):
        problems.add("a key can't be a template", key.span, "write the key out; only values are rendered")
        return True
    return False


def check_keys(
    node: MapNode,
    known: Collection[str],
    where: str,
    help: str,
    problems: Problems,
    refused: Mapping[str, str] | None = None,
) -> None:
    """Note the keys that are not `known`. With `refused`, a mapping that explains some of them, x-… are allowed."""
    for key, _ in node.entries:
        word = str(key.value)
        if word in known or (refused is not None and (word.startswith("x-") or is_template_key(key, problems))):
            continue
        if refused is not None and word in refused:
            problems.add(f'"{word}" is not offered', key.span, refused[word])
        else:
            problems.add(f'unknown key "{word}" in {where}', key.span, did_you_mean(word, known) or help)


Place = tuple[str, int, int]  # of a scalar: file, line, column


class Ways(Struct):
    """What a review asks of templates beside their values: what each could be as well, whatever it asks of names that
    are not `closed`, those `beside` the matter left out; or what comes of it where some are `assumed` to be something
    else."""

    assumed: Mapping[Place, Any] = field(default_factory=dict)
    closed: frozenset[str] = frozenset()
    beside: frozenset[Place] = frozenset()
    found: dict[Place, list[Any]] = field(default_factory=dict)
    exploring: bool = False
    complete: bool = True
    work: Allowance = field(default_factory=Allowance)


class Renderer:
    """Renders the nodes of one profile: all work is counted together.

    `secrets` collects the texts that were made with sensitive names, for masking. `ways` is set by a review.
    """

    ways: Ways | None = None

    def __init__(self, problems: Problems) -> None:
        self.problems = problems
        self.work = Allowance()
        self.secrets: set[str] = set()

    def render(self, node: Node, scope: TemplateScope, *, mapping: bool = False) -> Node | None:
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
                entries: list[tuple[Scalar, Node]] = []
                whole = True
                for key, value in node.entries:
                    if is_template(key):
                        whole = False
                        help = "write the key out, only values are rendered"
                        help += "; braces for another program can be in a list: - NAME=value"
                        self.problems.add("a key can't be a template", key.span, help)
                    if (new := self.render(value, scope)) is not None:
                        entries.append((key, new))
                if not whole or len(entries) < len(node.entries):
                    return None
                same = all(new is old for (_, new), (_, old) in zip(entries, node.entries, strict=True))
                return node if same else structs.replace(node, entries=tuple(entries))

    def scalar(self, node: Scalar, scope: TemplateScope, *, mapping: bool = False) -> Node | None:
        """The node that a template makes, at its own place; None after a fault."""
        from sandboxrun.profile.evaluate import evaluate, explore, read_template

        text = str(node.value)
        if self.work.left < 0:  # said once already
            return None
        try:
            program = read_template(text)
            unknown = [(name, line) for name, line in program.names if name not in scope.values]
            if not unknown:
                value = evaluate(program, scope.values, self.work)
                if self.ways is not None and node.span is not None:
                    place = (node.span.file.name, node.span.line, node.span.column)
                    value = self.ways.assumed.get(place, value)
                    if self.ways.exploring:
                        explore(self.ways, place, program, scope.values, value)
                self._check_value(value, mapping)
        except TemplateError as error:
            span = locate(node, error.line, error.word)
            self.problems.add(error.message, span, _joined(error.help, for_others(text, error.word)))
            return None
        except RecursionError:
            self.problems.add("this template is nested too deeply", node.span)
            return None
        for name, line in unknown:
            help = "each exists in a sandbox with for_each, and not in for_each itself"
            if name != "each":
                help = did_you_mean(name, scope.values) or _declare(name, text)
            whole = _joined(help, for_others(text, name))
            self.problems.add(f'the variable "{name}" is not declared', locate(node, line, name), whole)
        if unknown:
            return None
        if any(name in scope.sensitive for name, _ in program.names):
            self.secrets.update(texts_of(value))
        return node_of(value, node.span)

    @staticmethod
    def _check_value(value: Any, mapping: bool) -> None:
        """Raises TemplateError for what can't be in a document."""
        from sandboxrun.profile.functions import kind

        if isinstance(value, dict) and not mapping:
            help = "write its keys out: a value never adds a key to a profile"
            raise TemplateError("a template can't make a mapping", help=help)
        for item in value if isinstance(value, list) else ():
            if isinstance(item, list | dict):
                help = "make it a list of plain values"
                raise TemplateError(f"a template's list can't hold {kind(item)}", help=help)
        if not is_text(json.dumps(value, ensure_ascii=False)):
            raise TemplateError("this template makes half of a surrogate pair, which is not a character")


def texts_of(value: Any) -> Iterator[str]:
    """The texts in a value as they are written, those in its lists and mappings too; of a secret, what to mask."""
    match value:
        case None | bool() | "":
            pass
        case list() | dict():
            for item in value.values() if isinstance(value, dict) else value:
                yield from texts_of(item)
        case _:
            yield str(value)


_OPENS = re.compile(r"\{\{-?\s*(#|(range|if|with|block|define)\b)")  # what other languages end further on
_RAW = re.compile(r"\{%[-+]?\s*raw\s*[-+]?%\}")
_END_RAW = re.compile(r"\{%[-+]?\s*endraw\s*[-+]?%\}")
_SHOWN = 60
_MOST_LOOKED_AT = 50


def literal(text: str, *, tags: bool = False) -> str:
    """What of a text is literal: less what is raw in it, and less its templates unless `tags` are kept."""
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
    if name == "var" and path:  # Terraform's
        return f"write {{{{ {path[1:]} }}}}: a variable has no prefix"
    return f"declare it: variables: {{{name}: {{type: {'object' if path else 'string'}}}}}"


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
        mark = MARKS.search(shown, start)
        if mark is None:
            continue
        named = re.compile(rf"(?:(?<![\w.])|\.\s*){re.escape(word)}(?!\w)").search(shown, mark.end()) if word else None
        if named is not None:
            return Span(file=span.file, line=number, column=named.end() - len(word) + 1, length=len(word))
        close = shown.find(CLOSING[mark[0]], mark.end())
        length = (close + 2 if close >= 0 else len(shown.rstrip())) - mark.start()
        return Span(file=span.file, line=number, column=mark.start() + 1, length=length)
    return span
