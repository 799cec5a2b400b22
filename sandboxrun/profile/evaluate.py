"""A scalar's template: checked when it is read, then evaluated by a closed, bounded interpreter over Jinja's syntax
tree.

Jinja's own evaluation is not enough: its sandbox bounds neither work nor output, and a thread can't be interrupted.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterator, Mapping
from functools import cache, lru_cache
from typing import Any

from sandboxrun.data import Data
from sandboxrun.errors import did_you_mean
from sandboxrun.profile.functions import (
    COMPARISONS,
    FILTERS,
    MAP_METHODS,
    TESTS,
    TEXT_METHODS,
    Undefined,
    contains,
    integer,
    kind,
    make_range,
    text_of,
)
from sandboxrun.profile.templates import (
    DEEPEST_EXPRESSION,
    LONGEST_TEMPLATE,
    MARKS,
    STEPS_A_SCALAR,
    Allowance,
    Place,
    TemplateError,
    Ways,
)

# -- A scalar's template, read and checked: which names it uses, and that it uses nothing it must not

_SIMPLE = re.compile(r"\{\{ *([A-Za-z_][A-Za-z0-9_]*(?:\.[A-Za-z_][A-Za-z0-9_]*)*) *\}\}")
_WORDS = frozenset("and else false False if in is loop none None not or recursive self true True".split())
GLOBALS = frozenset({"range"})


class Lookup(Data):
    """`{{ name.key.key }}`."""

    name: str
    keys: tuple[str, ...]
    line: int


class Program(Data):
    """A template ready to be evaluated.

    `parts` (texts and lookups) is the plain kind, `body` (Jinja's nodes) the other; exactly one is set. `whole`
    says that the scalar is one expression and keeps its type. `names` are the free names with their lines.
    """

    whole: bool
    names: tuple[tuple[str, int], ...]
    parts: tuple[str | Lookup, ...] = ()
    body: tuple[Any, ...] = ()


@lru_cache(maxsize=4096)
def read_template(text: str) -> Program:
    """A text's program. Raises TemplateError for what can't be read or is not offered."""
    if len(text) > LONGEST_TEMPLATE:
        raise TemplateError(f"a template longer than {LONGEST_TEMPLATE // 1024} KiB", help="put the text in a file")
    if (program := _read_simple(text)) is not None:
        return program
    from jinja2 import TemplateSyntaxError

    try:
        body = _parser().parse(text).body
    except TemplateSyntaxError as error:
        for pattern, message, help in _SYNTAX:
            if match := re.search(pattern, str(error.message), re.DOTALL):
                words = [_TOKENS.get(word, word) for word in match.groups()]
                help = help and help.format(*words)
                raise TemplateError(message.format(*words), line=error.lineno, help=help) from None
        raise TemplateError("the template can't be read", line=error.lineno) from None
    except RecursionError:
        raise TemplateError("this template is nested too deeply") from None
    except (ValueError, OverflowError):  # numbers with thousands of digits
        raise TemplateError("this template holds a number that is too large") from None
    names = tuple(_free_names(body))
    whole = text.startswith("{{") and text.endswith("}}") and len(body) == 1
    whole = whole and type(body[0]).__name__ == "Output" and len(body[0].nodes) == 1
    return Program(whole=whole, names=names, body=tuple(body))


def _read_simple(text: str) -> Program | None:
    """The program of a text whose only marks are lookups, without importing Jinja; None for any other."""
    if "\r" in text:
        return None
    parts: list[str | Lookup] = []
    end = 0
    for match in _SIMPLE.finditer(text):
        name, *keys = match[1].split(".")
        line = text.count("\n", 0, match.start()) + 1
        parts += [text[end : match.start()], Lookup(name=name, keys=tuple(keys), line=line)]
        end = match.end()
    parts.append(text[end:])
    kept = tuple(part for part in parts if part)
    texts = [part for part in kept if isinstance(part, str)]
    names = tuple((part.name, part.line) for part in kept if isinstance(part, Lookup))
    if any(MARKS.search(part) or part.endswith("{") for part in texts):  # Jinja takes the first {{ of {{{
        return None
    if any(name in _WORDS for name, _ in names):
        return None
    return Program(whole=len(kept) == 1, names=names, parts=kept)


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


# -- the static check --------------------------------------------------------------------------------------------

_OFFERED = frozenset(
    "Output TemplateData Name Const List Tuple Dict Pair Keyword CondExpr And Or Not Compare Operand Add Sub Mul Div "
    "FloorDiv Mod Pow Neg Pos Concat Getattr Getitem Slice Filter Test Call If For Assign".split()
)
_SYMBOLS = {"==": "eq", "!=": "ne", "<": "lt", "<=": "le", ">": "gt", ">=": "ge"}
_STATEMENTS = {
    "AssignBlock": "set … endset", "Block": "block", "CallBlock": "call", "Extends": "extends",
    "FilterBlock": "filter", "FromImport": "from … import", "Import": "import", "Include": "include",
    "Macro": "macro", "Scope": "autoescape", "With": "with", "NSRef": "namespace",
}  # fmt: skip


def _free_names(body: list[Any]) -> Iterator[tuple[str, int]]:
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
    for what, known, symbols in (("filter", FILTERS, ()), ("test", TESTS, _SYMBOLS)):
        if kind == what.capitalize() and node.name not in known and node.name not in symbols:
            help = did_you_mean(node.name, known) or f"{what}s are: {', '.join(sorted(known))}"
            raise TemplateError(f'unknown {what} "{node.name}"', line=node.lineno or 1, word=node.name, help=help)
    if kind in ("Filter", "Test", "Call") and (node.dyn_args is not None or node.dyn_kwargs is not None):
        raise TemplateError("* and ** arguments are not offered", line=node.lineno or 1)
    if kind == "For" and node.recursive:
        raise TemplateError('"recursive" is not offered in a profile', line=node.lineno or 1, word="recursive")


# -- Evaluating a template: a closed interpreter over Jinja's syntax tree


def evaluate(program: Program, scope: Mapping[str, Any], work: Allowance) -> Any:
    """The template's value: of the expression's own type when it is one whole, else a text."""
    work.here = STEPS_A_SCALAR
    run = _Run(scope, work)
    if program.parts:
        values = [part if isinstance(part, str) else run.lookup(part) for part in program.parts]
        if program.whole:
            return _present(values[0])
        return run.joined([text_of(value, work) for value in values])
    return run.result(program)


MOST_WAYS = 64  # that one template may take


def outcomes(program: Program, scope: Mapping[str, Any], work: Allowance) -> tuple[list[Any], bool]:
    """The values that a template may have when what it asks of names (comparisons, tests, look-ups) turns out in any
    way; and whether these are all. What fails on its way is no value."""
    found: list[Any] = []
    waiting: list[tuple[int, ...]] = [()] if program.body else []
    for _ in range(MOST_WAYS):
        if not waiting:
            return found, True
        run = _Run(scope, work, _Choices(waiting.pop()))
        work.here = STEPS_A_SCALAR
        try:
            value = run.result(program)
            found += [value] if value not in found else []
        except TemplateError:
            if work.left < 0:
                return found, False
        choices = run.choices
        for index in range(len(choices.given), len(choices.taken)):
            before = tuple(way for way, _ in choices.taken[:index])
            taken, count = choices.taken[index]
            waiting += [(*before, other) for other in range(count) if other != taken]
    return found, not waiting


def explore(ways: Ways, place: Place, program: Program, values: Mapping[str, Any], now: Any) -> None:
    """Note what else the template at a place may be. With two closed names every pair of values is tried anyway."""
    names = {name for name, _ in program.names}
    if place in ways.beside or (names <= ways.closed and len(names) <= 2):
        return
    others, complete = outcomes(program, values, ways.work)
    ways.complete &= complete
    known = ways.found.setdefault(place, [])
    known += [value for value in others if value != now and value not in known]


class _Choices:
    """Which way each question of one evaluation went: the first ones as `given`, the others as they turn out."""

    def __init__(self, given: tuple[int, ...] = (), asked: bool = True) -> None:
        self.given, self.asked = given, asked
        self.taken: list[tuple[int, int]] = []  # and of how many

    def one_of(self, count: int, natural: int, *nodes: Any) -> int:
        """One of `count` ways; `natural` where the nodes name nothing, so that the answer is always the same."""
        if not self.asked or not any(map(_names_something, nodes)):
            return natural
        index = len(self.taken)
        way = self.given[index] if index < len(self.given) else natural
        self.taken.append((way, count))
        return way

    def truth(self, holds: bool, node: Any) -> bool:
        return bool(self.one_of(2, int(holds), node))


def _names_something(node: Any) -> bool:
    if type(node).__name__ == "Name":
        return node.name not in ("loop", "range")
    return any(map(_names_something, node.iter_child_nodes()))


_ASKING = frozenset({"Compare", "Test", "Not", "And", "Or"})  # whose parts are asked for themselves


def _present(value: Any) -> Any:
    if isinstance(value, Undefined):
        raise value
    return value


class _Run:
    """One evaluation: its scopes (innermost last) and its work."""

    def __init__(self, scope: Mapping[str, Any], work: Allowance, choices: _Choices | None = None) -> None:
        self.choices = choices or _Choices(asked=False)
        self.scopes: list[dict[str, Any]] = [dict(scope), {}]
        self.work = work
        self.length = 0

    def result(self, program: Program) -> Any:
        if program.whole:
            return self.present(program.body[0].nodes[0])
        made: list[str] = []
        self.statements(program.body, made)
        return self.joined(made)

    def joined(self, texts: list[str]) -> str:
        self.work.text(sum(map(len, texts)))
        return "".join(texts)

    def lookup(self, part: Lookup) -> Any:
        try:
            value = self.name(part.name)
            for key in part.keys:
                value = self.attribute(value, key)
            return _present(value)
        except TemplateError as error:
            error.line = part.line
            raise

    def name(self, name: str) -> Any:
        self.work.spend()
        for scope in reversed(self.scopes):
            if name in scope:
                return scope[name]
        return Undefined(f'"{name}" has no value here', word=name)

    def attribute(self, value: Any, key: Any) -> Any:
        self.work.spend()
        if isinstance(value, Undefined):
            return value
        if isinstance(value, dict):
            if key in value:
                return value[key]
            help = did_you_mean(str(key), value)
            return Undefined(f'there is no "{key}" in this mapping', word=str(key), help=help)
        help = f"it is the value itself: leave out .{key}" if key in ("key", "value") else None
        return Undefined(f'{kind(value)} has no "{key}"', word=str(key), help=help)

    # -- statements ------------------------------------------------------------------------------------------

    def statements(self, nodes: Any, made: list[str]) -> None:
        for node in nodes:
            self.work.spend()
            try:
                match type(node).__name__:
                    case "Output":
                        for part in node.nodes:
                            data = type(part).__name__ == "TemplateData"
                            text = part.data if data else text_of(self.value(part), self.work)
                            self.length += len(text)
                            self.work.fits(self.length)
                            made.append(text)
                    case "If":
                        holds = (branch.body for branch in (node, *node.elif_) if self.truth(branch.test))
                        self.statements(next(holds, node.else_), made)
                    case "For":
                        self.loop(node, made)
                    case "Assign":
                        self.assign(node.target, self.present(node.node))
            except TemplateError as error:
                raise _at(error, node) from None

    def assign(self, target: Any, value: Any) -> None:
        if type(target).__name__ == "Name":
            self.scopes[-1][target.name] = value
            return
        if not isinstance(value, list) or len(value) != len(target.items):
            raise TemplateError(f"{kind(value)} does not fall into {len(target.items)} names")
        for inner, item in zip(target.items, value, strict=True):
            self.assign(inner, item)

    def loop(self, node: Any, made: list[str]) -> None:
        value = self.present(node.iter)
        if not isinstance(value, list | dict):
            raise TemplateError(f"{kind(value)} can't be looped over", help="loop over a list or a mapping")
        items = list(value)
        self.work.items(len(items))
        if node.test is not None:
            items = [item for item in items if self.inside(node, item, {}, lambda: self.truth(node.test))]
        count = len(items)
        for index, item in enumerate(items):
            self.work.spend()
            state = {"index": index + 1, "index0": index, "revindex": count - index, "revindex0": count - index - 1}
            state |= {"first": index == 0, "last": index == count - 1, "length": count}
            state |= {"previtem": items[index - 1]} if index > 0 else {}
            state |= {"nextitem": items[index + 1]} if index < count - 1 else {}
            self.inside(node, item, {"loop": state}, lambda: self.statements(node.body, made))
        if not items:
            self.statements(node.else_, made)

    def inside(self, node: Any, item: Any, scope: dict[str, Any], act: Callable[[], Any]) -> Any:
        """`act` in a scope of the loop's own, where its target holds `item`."""
        self.scopes.append(scope)
        try:
            self.assign(node.target, item)
            return act()
        finally:
            self.scopes.pop()

    # -- expressions -----------------------------------------------------------------------------------------

    def truth(self, node: Any) -> bool:
        if (operator := type(node).__name__) in ("And", "Or"):
            left = self.truth(node.left)
            return left if left == (operator == "Or") else self.truth(node.right)
        holds = bool(self.present(node))
        return holds if operator in _ASKING else self.choices.truth(holds, node)

    def value(self, node: Any) -> Any:
        self.work.spend()
        try:
            value = _EXPRESSIONS[type(node).__name__](self, node)
        except TemplateError as error:
            raise _at(error, node) from None
        match value:
            case str():
                self.work.text(len(value))
            case bool():
                pass
            case int():
                integer(value)
            case float() if value - value != 0:
                raise _at(TemplateError("this template makes a number that is too large"), node)
        return value

    def present(self, node: Any) -> Any:
        return _present(self.value(node))

    def apply(self, what: str, function: Callable[..., Any], first: tuple[Any, ...], node: Any) -> Any:
        args = [self.present(arg) for arg in node.args or ()]
        kwargs = {pair.key: self.present(pair.value) for pair in node.kwargs or ()}
        try:
            return function(self.work, *first, *args, **kwargs)
        except TypeError:
            raise TemplateError(f"{what} does not accept these arguments") from None
        except (ValueError, OverflowError, ArithmeticError):
            raise TemplateError(f"{what} can't work with these values") from None

    def call(self, node: Any) -> Any:
        target = node.node
        if type(target).__name__ == "Name" and target.name == "range":
            return self.apply('"range"', make_range, (), node)
        if type(target).__name__ != "Getattr":
            raise TemplateError("this can't be called", help="only range and methods of texts and mappings can")
        value = self.present(target.node)
        if target.attr == "get" and isinstance(value, dict) and node.args:
            way = self.choices.one_of(len(value) + 1, 0, *node.args[:1])
            if way > 0:
                return list(value.values())[way - 1]
        known = TEXT_METHODS if isinstance(value, str) else MAP_METHODS if isinstance(value, dict) else {}
        if target.attr not in known:
            help = did_you_mean(target.attr, known) or (f"it has: {', '.join(known)}" if known else None)
            raise TemplateError(f'{kind(value)} has no method "{target.attr}"', word=target.attr, help=help)
        return self.apply(f'"{target.attr}"', known[target.attr], (value,), node)

    def item(self, node: Any) -> Any:
        value = self.value(node.node)
        if type(node.arg).__name__ == "Slice":
            return self.slice(_present(value), node.arg)
        key = self.present(node.arg)
        if isinstance(value, list | dict):
            way = self.choices.one_of(len(value) + 1, 0, node.arg)
            if way > 0:
                return list(value.values() if isinstance(value, dict) else value)[way - 1]
        if isinstance(value, list | str) and isinstance(key, int) and not isinstance(key, bool):
            if -len(value) <= key < len(value):
                return value[key]
            return Undefined(f"{kind(value)} of length {len(value)} has no item {key}")
        if isinstance(key, list | dict):
            raise TemplateError(f"{kind(key)} can't be a key")
        return self.attribute(value, key)

    def slice(self, value: Any, node: Any) -> Any:
        if not isinstance(value, list | str):
            raise TemplateError(f"{kind(value)} can't be cut")
        bounds = [None if part is None else self.present(part) for part in (node.start, node.stop, node.step)]
        if any(not isinstance(bound, int | None) for bound in bounds) or bounds[2] == 0:
            raise TemplateError("a slice needs integers, and a step other than zero")
        self.work.items(len(value) // 8)
        parts = [part for part in (node.start, node.stop, node.step) if part is not None]
        return value[slice(*bounds)] if self.choices.one_of(2, 0, *parts) == 0 else value

    def compare(self, node: Any) -> bool:
        left = self.present(node.expr)
        for operand in node.ops:
            right = self.present(operand.expr)
            if operand.op in ("in", "notin"):
                holds = contains(self.work, right, left) == (operand.op == "in")
            else:
                holds = COMPARISONS[operand.op](self.work, left, right)
            if not self.choices.truth(holds, node):
                return False
            left = right
        return True

    def collection(self, node: Any) -> Any:
        made: Any
        if type(node).__name__ == "Dict":
            made = {}
            for pair in node.items:
                key = self.present(pair.key)
                if not isinstance(key, str):
                    raise TemplateError(f"{kind(key)} can't be a key")
                made[key] = self.present(pair.value)
        else:
            made = [self.present(item) for item in node.items]
        self.work.tree(made)
        return made

    def choice(self, node: Any) -> Any:
        if self.truth(node.test):
            return self.value(node.expr1)
        if node.expr2 is None:
            return Undefined("this condition has no else, and does not hold", help="add else")
        return self.value(node.expr2)

    def arithmetic(self, node: Any) -> Any:
        left, right = self.present(node.left), self.present(node.right)
        operator = type(node).__name__
        if operator == "Add" and isinstance(left, str) and isinstance(right, str):
            self.work.text(len(left) + len(right))
            return left + right
        if operator == "Add" and isinstance(left, list) and isinstance(right, list):
            self.work.tree([left, right])
            return left + right
        if operator == "Mul" and isinstance(left, str) and isinstance(right, int):
            self.work.text(len(left) * max(0, right))
            return left * right
        for side in (left, right):
            if kind(side) not in _NUMBERS:
                help = "join texts with ~" if isinstance(side, str) else None
                raise TemplateError(f"{kind(side)} is not a number to calculate with", help=help)
        try:
            return _ARITHMETIC[operator](left, right)
        except ZeroDivisionError:
            raise TemplateError("a division by zero") from None
        except OverflowError:
            raise TemplateError("this template makes a number that is too large") from None

    def sign(self, node: Any) -> Any:
        value = self.present(node.node)
        if kind(value) not in _NUMBERS:
            raise TemplateError(f"{kind(value)} is not a number to calculate with")
        return -value if type(node).__name__ == "Neg" else value

    def either(self, node: Any) -> Any:
        left = self.present(node.left)
        holds = bool(left)
        if type(node.left).__name__ not in _ASKING:
            holds = self.choices.truth(holds, node.left)
        return left if holds == (type(node).__name__ == "Or") else self.present(node.right)

    def filter(self, node: Any) -> Any:
        if node.node is None:
            raise TemplateError("a filter needs a value before it")
        return self.apply(f'the filter "{node.name}"', FILTERS[node.name], (self.value(node.node),), node)

    def test(self, node: Any) -> Any:
        value = self.value(node.node)
        if isinstance(value, Undefined) and node.name not in ("defined", "undefined"):
            raise value
        holds = self.apply(f'the test "{node.name}"', TESTS[_SYMBOLS.get(node.name, node.name)], (value,), node)
        return self.choices.truth(bool(holds), node)


def _at(error: TemplateError, node: Any) -> TemplateError:
    """The innermost node that failed says the line."""
    if error.line == 0:
        error.line = node.lineno or 1
    return error


def _power(base: Any, exponent: Any) -> Any:
    if abs(exponent) > 64:
        raise OverflowError
    power = base**exponent
    if isinstance(power, complex):
        raise TemplateError("a root of a negative number")
    return power


_NUMBERS = ("an integer", "a number")
_ARITHMETIC: Mapping[str, Callable[[Any, Any], Any]] = {
    **{name.title(): getattr(operator, name) for name in ("add", "sub", "mul", "mod")},
    "Div": operator.truediv,
    "FloorDiv": operator.floordiv,
    "Pow": _power,
}
_EXPRESSIONS: Mapping[str, Callable[[_Run, Any], Any]] = {
    "Name": lambda run, node: run.name(node.name),
    "Const": lambda run, node: node.value,
    "TemplateData": lambda run, node: node.data,
    "Getattr": lambda run, node: run.attribute(run.value(node.node), node.attr),
    "Getitem": _Run.item,
    "Call": _Run.call,
    "Filter": _Run.filter,
    "Test": _Run.test,
    "Compare": _Run.compare,
    "CondExpr": _Run.choice,
    "Not": lambda run, node: not run.truth(node.node),
    "And": _Run.either,
    "Or": _Run.either,
    "Neg": _Run.sign,
    "Pos": _Run.sign,
    "Concat": lambda run, node: run.joined([text_of(run.value(part), run.work) for part in node.nodes]),
    "List": _Run.collection,
    "Tuple": _Run.collection,
    "Dict": _Run.collection,
    **dict.fromkeys(_ARITHMETIC, _Run.arithmetic),
}
