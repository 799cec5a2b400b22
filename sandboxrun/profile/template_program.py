"""A scalar's template, read and checked: which names it uses, and that it uses nothing it must not.

Owns reading. Jinja's own parser does it; the plainest templates, made of `{{ name }}` and text only, are read here,
so that a profile which has no others never pays for importing Jinja. Must not evaluate.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from typing import Any

import attrs

from sandboxrun.errors import did_you_mean
from sandboxrun.profile.bounds import DEEPEST_EXPRESSION, LONGEST_TEMPLATE, MARKS, TemplateError
from sandboxrun.profile.template_functions import FILTERS
from sandboxrun.profile.template_tests import TESTS

_SIMPLE = re.compile(r"\{\{ *([A-Za-z_][A-Za-z0-9_]*(?:\.[A-Za-z_][A-Za-z0-9_]*)*) *\}\}")
_WORDS = frozenset("and else false False if in is loop none None not or recursive self true True".split())
GLOBALS = frozenset({"range"})


@attrs.frozen(kw_only=True)
class Lookup:
    """`{{ name.key.key }}`."""

    name: str
    keys: tuple[str, ...]
    line: int


@attrs.frozen(kw_only=True)
class Program:
    """A template ready to be evaluated.

    `parts` (texts and lookups) is the plain kind, `body` (Jinja's nodes) the other; exactly one is set. `whole`
    says that the scalar is one expression and keeps its type. `names` are the free names with their lines.
    """

    whole: bool
    names: tuple[tuple[str, int], ...]
    parts: tuple[str | Lookup, ...] = ()
    body: tuple[Any, ...] = ()


def read_template(text: str) -> Program:
    """Raises TemplateError for what can't be read or is not offered."""
    if len(text) > LONGEST_TEMPLATE:
        raise TemplateError(f"a template longer than {LONGEST_TEMPLATE // 1024} KiB", help="put the text in a file")
    return _read_simple(text) or _read_jinja(text)


def _read_simple(text: str) -> Program | None:
    """The program of a text whose only marks are lookups; None for any other."""
    if "\r" in text:
        return None
    parts: list[str | Lookup] = []
    end = 0
    for match in _SIMPLE.finditer(text):
        name, *keys = match[1].split(".")
        if name in _WORDS:
            return None
        if match.start() > end:
            parts.append(text[end : match.start()])
        parts.append(Lookup(name=name, keys=tuple(keys), line=text.count("\n", 0, match.start()) + 1))
        end = match.end()
    if end < len(text):
        parts.append(text[end:])
    texts = [part for part in parts if isinstance(part, str)]
    if any(MARKS.search(part) or part.endswith("{") for part in texts):  # Jinja takes the first {{ of {{{
        return None
    names = tuple((part.name, part.line) for part in parts if isinstance(part, Lookup))
    return Program(whole=len(parts) == 1, names=names, parts=tuple(parts))


def _read_jinja(text: str) -> Program:
    from jinja2 import TemplateSyntaxError

    try:
        body = _parser().parse(text).body
    except TemplateSyntaxError as error:
        raise _syntax_error(str(error.message), error.lineno) from None
    except RecursionError:
        raise TemplateError("this template is nested too deeply") from None
    except (ValueError, OverflowError):  # numbers with thousands of digits
        raise TemplateError("this template holds a number that is too large") from None
    names = tuple(_check(body))
    whole = text.startswith("{{") and text.endswith("}}") and len(body) == 1
    whole = whole and type(body[0]).__name__ == "Output" and len(body[0].nodes) == 1
    return Program(whole=whole, names=names, body=tuple(body))


@cache
def _parser() -> Any:
    """Only Jinja's grammar is used: nothing of its environment is ever run."""
    from jinja2 import Environment

    return Environment(keep_trailing_newline=True, optimized=False, cache_size=0)


# What Jinja says of a text it can't read, and how we say it.
_SYNTAX = (
    (r"unexpected '?end of template", "the template ends too early", 'end it with "}}}}" or "%}}"'),
    (r"Expected an expression, got '(.*?)'", "the template has {0} where a value should be", None),
    (r"unexpected char '(.*)' at", 'a template can\'t hold the character "{0}" here', None),
    (r"Encountered unknown tag '(.*?)'", 'unknown statement "{0}"', "statements are if, for and set"),
    (r"Unexpected end of template\. .*innermost block.*'(\w+)'", '"{0}" is not ended', "add {{% end{0} %}}"),
    (r"Missing end of comment", "the comment is not ended", "add #}}"),
    (r"Missing end of raw", '"raw" is not ended', "add {{% endraw %}}"),
    (r"expected token '(.*?)', got '(.*?)'", "the template has {1} where {0} should be", None),
    (r"unexpected '(.*?)', expected '(.*?)'", "the template has {0} where {1} should be", None),
    (r"unexpected '(.*?)'", 'the template has "{0}" where it means nothing', None),
)
_TOKENS = {"end of print statement": '"}}"', "end of statement block": '"%}"', "end of template": "its end"}


def _syntax_error(said: str, line: int) -> TemplateError:
    for pattern, message, help in _SYNTAX:
        if match := re.search(pattern, said, re.DOTALL):
            words = [_TOKENS.get(word, word) for word in match.groups()]
            return TemplateError(message.format(*words), line=line, help=help and help.format(*words))
    return TemplateError("the template can't be read", line=line)


# -- the static check --------------------------------------------------------------------------------------------

_OFFERED = frozenset(
    "Output TemplateData Name Const List Tuple Dict Pair Keyword CondExpr And Or Not Compare Operand Add Sub Mul Div "
    "FloorDiv Mod Pow Neg Pos Concat Getattr Getitem Slice Filter Test Call If For Assign".split()
)
_STATEMENTS = {
    "AssignBlock": "set … endset", "Block": "block", "CallBlock": "call", "Extends": "extends",
    "FilterBlock": "filter", "FromImport": "from … import", "Import": "import", "Include": "include",
    "Macro": "macro", "Scope": "autoescape", "With": "with", "NSRef": "namespace",
}  # fmt: skip


def _check(body: list[Any]) -> Iterator[tuple[str, int]]:
    """The free names. Raises TemplateError at the first thing that is not offered."""
    own = {"loop"} if any(type(node).__name__ == "For" for node in body) else set()
    used: list[tuple[str, int]] = []
    waiting: list[tuple[Any, int, bool]] = [(node, 0, False) for node in reversed(body)]
    while waiting:
        node, depth, tested = waiting.pop()
        kind = type(node).__name__
        if depth > DEEPEST_EXPRESSION:
            raise TemplateError("this template is nested too deeply", line=node.lineno or 1)
        _check_offered(node, kind)
        if kind == "For":
            own.add("loop")
        if kind == "Name" and node.ctx == "store":
            own.add(node.name)
        elif kind == "Name" and not tested:
            used.append((node.name, node.lineno))
        testing = kind == "Test" and node.name in ("defined", "undefined")
        children = [(child, depth + 1, testing) for child in node.iter_child_nodes()]
        waiting.extend(reversed(children))
    for name, line in used:
        if name not in own and name not in GLOBALS:
            yield name, line


def _check_offered(node: Any, kind: str) -> None:
    if kind not in _OFFERED:
        word = _STATEMENTS.get(kind, kind.lower())
        raise TemplateError(f'"{word}" is not offered in a profile', line=node.lineno or 1, word=word.split()[0])
    if kind == "Filter" and node.name not in FILTERS:
        raise _unknown("filter", node, FILTERS)
    if kind == "Test" and node.name not in _TEST_NAMES:
        raise _unknown("test", node, TESTS)
    if kind in ("Filter", "Test", "Call") and (node.dyn_args is not None or node.dyn_kwargs is not None):
        raise TemplateError("* and ** arguments are not offered", line=node.lineno or 1)
    if kind == "For" and node.recursive:
        raise TemplateError('"recursive" is not offered in a profile', line=node.lineno or 1, word="recursive")


_SYMBOLS = {"==": "eq", "!=": "ne", "<": "lt", "<=": "le", ">": "gt", ">=": "ge"}
_TEST_NAMES = frozenset(TESTS) | frozenset(_SYMBOLS)


def _unknown(what: str, node: Any, known: Any) -> TemplateError:
    help = did_you_mean(node.name, known) or f"{what}s are: {', '.join(known)}"
    return TemplateError(f'unknown {what} "{node.name}"', line=node.lineno or 1, word=node.name, help=help)


def test_of(name: str) -> Any:
    """The test called `name`, or by its symbol."""
    return TESTS[_SYMBOLS.get(name, name)]
