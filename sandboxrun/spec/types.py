"""The types that options have: how a node is read, what its JSON Schema is, how a value is written again.

Owns sizes and durations in Compose's words, the plain types, and those made of others: lists, pairs, mappings,
records.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Mapping
from itertools import chain
from types import MappingProxyType
from typing import Any, ClassVar

from msgspec import field

from sandboxrun.data import Data
from sandboxrun.errors import ListNode, MapNode, Node, Problems, Scalar, Span, did_you_mean
from sandboxrun.spec import forms

# -- Sizes and durations in Compose's words: text to integers and back

_SIZE = re.compile(r"([0-9]{1,40}(?:\.[0-9]{1,40})?)\s*(b|[kmgt]i?b?)?", re.IGNORECASE)
_POWER = {"b": 0, "k": 1, "m": 2, "g": 3, "t": 4}
_DURATION = re.compile(r"([0-9]{1,40}(?:\.[0-9]{1,40})?)(h|ms|us|µs|ns|m|s|d)")
_NANOSECONDS = {
    "ns": 1,
    "us": 1_000,
    "µs": 1_000,
    "ms": 1_000_000,
    "s": 1_000_000_000,
    "m": 60 * 1_000_000_000,
    "h": 3600 * 1_000_000_000,
    "d": 24 * 3600 * 1_000_000_000,
}
SECOND = _NANOSECONDS["s"]
LARGEST = 2**63 - 1


def parse_size(text: str) -> int:
    """`512m`, `1.5g`, `64kb`, `4096` in bytes; the units are powers of 1024, as in Compose."""
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise ValueError("not a size")
    number, unit = match.group(1), (match.group(2) or "b").lower()
    size = round(float(number) * 1024 ** _POWER[unit[0]]) if "." in number else int(number) * 1024 ** _POWER[unit[0]]
    if size > LARGEST:
        raise ValueError("larger than the engine can count")
    return size


def format_size(size: int) -> str:
    """The shortest exact text: 536870912 is `512m`, 1000 is `1000`."""
    for unit in ("t", "g", "m", "k"):
        step = 1024 ** _POWER[unit]
        if size and size % step == 0:
            return f"{size // step}{unit}"
    return str(size)


def size_told(size: int) -> str:
    """An exact size in a sentence: 536870912 is `512 MiB`, 1000 is `1000 bytes`."""
    plain = format_size(size)
    return f"{plain[:-1]} {plain[-1].upper()}iB" if plain[-1].isalpha() else f"{plain} bytes"


def parse_duration(text: str) -> int:
    """`30s`, `1h30m`, `1.5s`, `500ms`, `2d` in nanoseconds."""
    text = text.strip()
    total, at = 0, 0
    for match in _DURATION.finditer(text):
        if match.start() != at:
            raise ValueError("not a duration")
        number, unit = match.group(1), _NANOSECONDS[match.group(2)]
        total += round(float(number) * unit) if "." in number else int(number) * unit
        at = match.end()
    if at == 0 or at != len(text):
        if text == "0":
            return 0
        raise ValueError("not a duration")
    if total > LARGEST:
        raise ValueError("longer than the engine can count")
    return total


def format_duration(nanoseconds: int) -> str:
    """The canonical text: 5400 s is `1h30m`, 1500 ms is `1s500ms`, 0 is `0s`."""
    parts, rest = [], nanoseconds
    for unit in ("h", "m", "s", "ms", "us", "ns"):
        count, rest = divmod(rest, _NANOSECONDS[unit])
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts) or "0s"


# -- The types that options have: how a node is read, what its JSON Schema is, how a value is written again


class _Invalid:
    """The value of a node that was refused; the reason is in the problems."""

    def __repr__(self) -> str:
        return "INVALID"


INVALID: Any = _Invalid()
Schema = dict[str, Any]
Entry = tuple[Scalar, Node]


class OptionType(Data, eq=False):
    """What every type can do. Of those that have names with values, `whole` is what a value has to be, in words, and
    `each` an item of a list, with a help where there is one; nothing where it can be no list."""

    whole: ClassVar[str] = "a mapping"
    each: ClassVar[tuple[str, ...]] = ("a text",)

    def parse(self, node: Node, problems: Problems) -> Any:
        """The value that a node means; INVALID, with the reason noted, where it means none."""
        raise NotImplementedError

    def schema(self) -> Schema:
        """What JSON Schema takes for it."""
        raise NotImplementedError

    def plain(self, value: Any) -> Any:
        """A value as canonical JSON data, which `parse` reads again."""
        return value

    def split(self, text: str) -> tuple[str, str | None] | None:
        """A text of a list as the name and value that a mapping has for it; None where it is neither."""
        return None

    def entry(self, item: Node) -> Entry | None:
        """An item of a list as the entry that a mapping has for it, likewise."""
        pair = self.split(item.value) if isinstance(item, Scalar) and isinstance(item.value, str) else None
        if pair is None:
            return None
        name, value = pair
        return Scalar(value=name, text=name, span=item.span), Scalar(value=value, text=value or "", span=item.span)

    def entries(self, node: Node, problems: Problems) -> list[Entry]:
        """What a mapping or a list says of each name; what says nothing of any is noted."""
        match node:
            case MapNode():
                return list(node.entries)
            case ListNode() if self.each:
                found = [(item, self.entry(item)) for item in node.items]
                for item in (item for item, entry in found if entry is None):
                    refuse(problems, item, *self.each)
                return [entry for _, entry in found if entry is not None]
        refuse(problems, node, self.whole, in_list(node) if self.each and self.entry(node) is not None else None)
        return []

    def identity(self, item: Node) -> Any:
        """What names an item of a list, however it is written: a mount's target, a variable's name, anything else's
        value; INVALID for one that can't be read."""
        entry = self.entry(item)
        return INVALID if entry is None else entry[0].value


def freeze(items: Mapping[str, Any]) -> Mapping[str, Any]:
    """A read-only copy."""
    return MappingProxyType(dict(items))


def describe(node: Node) -> str:
    """What a node is, for a message: `a list`, `a mapping`, `the text "x"` …"""
    match node:
        case ListNode():
            return "a list"
        case MapNode():
            return "a mapping"
        case Scalar(value=None):
            return "nothing"
        case Scalar(value=bool()):
            return f"the boolean {node.text or str(node.value).lower()}"
        case Scalar(value=str()):
            shown = str(node.value)
            return f'the text "{shown if len(shown) <= 60 else shown[:57] + "..."}"'
    return f"the number {node.text or node.value}"


def refuse(problems: Problems, node: Node, expected: str, help: str | None = None) -> Any:
    """Note that `node` is not what was expected."""
    problems.add(f"expected {expected}, found {describe(node)}", node.span, help)
    return INVALID


def in_list(node: Node) -> str | None:
    """How a single value is written where a list is expected; None for one that is long or needs other quotes."""
    word = node.text if isinstance(node, Scalar) and node.value is not None else ""
    if re.fullmatch(r"[\w./-]+", word):
        return f"write [{word}]"
    return f'write ["{word}"]' if re.fullmatch(r"[\w./:*@+=-]{1,100}", word) else None


def mapping_of(names: Schema, values: Schema) -> Schema:
    """The schema of a mapping."""
    return {"type": "object", "propertyNames": names, "additionalProperties": values}


def list_of(item: Schema) -> Schema:
    """The schema of a list that has each item once."""
    return {"type": "array", "items": item, "uniqueItems": True}


LABEL_LENGTH = 63  # characters of a name: what a label of a host name may have


class Text(OptionType):
    """A string, optionally matching `pattern` whole (`hint` says what it means in words), kept in its canonical form
    (one of forms.py) where it has several."""

    pattern: str | None = None
    form: Callable[[str], str] = str
    hint: str = "text"
    numbers: bool = False  # Compose takes `user: 1000` and environment numbers as text
    empty: bool = False

    def parse(self, node: Node, problems: Problems) -> Any:
        match node:
            case Scalar(value=str() as text):
                pass
            case Scalar(value=bool() | None):
                return refuse(problems, node, self.hint, "put it in quotes if the text is meant")
            case Scalar() if self.numbers:
                text = node.text
            case _:
                quoted = isinstance(node, Scalar)
                return refuse(problems, node, self.hint, "put it in quotes if the text is meant" if quoted else None)
        if "\0" in text:
            return refuse(problems, node, f"{self.hint} without NUL characters")
        if not text and not self.empty:
            return refuse(problems, node, self.hint, "the value is empty")
        if self.pattern is not None and not re.fullmatch(self.pattern, text, re.ASCII):
            long = len(text) > LABEL_LENGTH and re.fullmatch(self.pattern, text[:LABEL_LENGTH].rstrip("-._"), re.ASCII)
            help = f"it has {len(text)} characters; at most {LABEL_LENGTH} are allowed" if long else None
            return refuse(problems, node, self.hint, help)
        try:
            return self.form(text)
        except ValueError as error:
            return refuse(problems, node, self.hint, str(error))

    def schema(self) -> Schema:
        text: Schema = {"type": "string"}
        if self.pattern is not None:
            text["pattern"] = f"^(?:{self.pattern})$"
        elif not self.empty:
            text["minLength"] = 1
        if not self.numbers:
            return text
        return {"anyOf": [text, {"type": "number"}]}


_FLAGS = {**dict.fromkeys(("yes", "y", "on", "true"), "true"), **dict.fromkeys(("no", "n", "off", "false"), "false")}


class Flag(OptionType):
    """true or false."""

    def parse(self, node: Node, problems: Problems) -> Any:
        match node:
            case Scalar(value=bool() as flag):
                return flag
            case Scalar(value=str() as text) if (meant := _FLAGS.get(text.lower())) is not None:
                return refuse(problems, node, "true or false", f"write {meant}: in YAML 1.2 {text} is a text")
        return refuse(problems, node, "true or false")

    def schema(self) -> Schema:
        return {"type": "boolean"}


class Integer(OptionType):
    """A whole number between `least` and `most`, both included."""

    least: int = 0
    most: int = LARGEST

    def parse(self, node: Node, problems: Problems) -> Any:
        match node:
            case Scalar(value=int() as number) if not isinstance(number, bool):
                pass
            case Scalar(value=str() as text) if re.fullmatch(r"-?(0|[1-9][0-9]{0,18})", text):
                number = int(text)  # "{{ n }}" and quoted numbers give text; Compose takes it too
            case _:
                return refuse(problems, node, "a whole number")
        if self.least <= number <= self.most:
            return number
        bounds = f"of at least {self.least}" if self.most == LARGEST else f"from {self.least} to {self.most}"
        return refuse(problems, node, f"a whole number {bounds}")

    def schema(self) -> Schema:
        number: Schema = {"type": "integer", "minimum": self.least}
        if self.most != LARGEST:
            number["maximum"] = self.most
        return {"anyOf": [number, {"type": "string", "pattern": r"^-?(0|[1-9][0-9]{0,18})$"}]}


_CPUS = r"[0-9]{1,6}(\.[0-9]{0,9})?|\.[0-9]{1,9}"
_UNLIMITED = ("-1", "unlimited")


class Cpus(OptionType):
    """A number of CPUs, in thousandths at the finest; 0 is unlimited."""

    def parse(self, node: Node, problems: Problems) -> Any:
        expected = "a number of CPUs, such as 1.5"
        match node:
            case Scalar(value=int() | float() as value) if not isinstance(value, bool):
                number = float(value)
            case Scalar(value=str() as text) if re.fullmatch(_CPUS, text):
                number = float(text)
            case Scalar(value=str() as text) if re.fullmatch(r"[0-9]{1,6}m", text):  # as kubectl has it
                return refuse(problems, node, expected, f"write {int(text[:-1]) / 1000:g}")
            case _:
                return refuse(problems, node, expected)
        if not math.isfinite(number) or number < 0 or number > 65536:
            return refuse(problems, node, "a number of CPUs from 0 to 65536")
        if 0 < number < 0.01:
            return refuse(problems, node, "at least 0.01 CPUs", "the engine refuses less")
        return round(number, 9)  # the engine counts billionths

    def schema(self) -> Schema:
        return {
            "anyOf": [
                {"type": "number", "minimum": 0, "maximum": 65536},
                {"type": "string", "pattern": f"^({_CPUS})$"},
            ]
        }

    def plain(self, value: Any) -> Any:
        return int(value) if float(value).is_integer() else value


class Size(OptionType):
    """Bytes, as an integer or with a unit (`512m`). `unlimited` admits -1, or that word."""

    unlimited: bool = False

    def parse(self, node: Node, problems: Problems) -> Any:
        expected = "a size, such as 512m, 1.5g or a number of bytes"
        match node:
            case Scalar(value=bool()):
                return refuse(problems, node, expected)
            case Scalar(value=int() as size):
                if size == -1 and self.unlimited:
                    return size
                return size if 0 <= size <= LARGEST else refuse(problems, node, expected)
            case Scalar(value=str() as text):
                if text in _UNLIMITED and self.unlimited:
                    return -1
                try:
                    return parse_size(text)
                except ValueError:
                    return refuse(problems, node, expected, "units are b, k, m, g and t, in powers of 1024")
        return refuse(problems, node, expected)

    def schema(self) -> Schema:
        least = -1 if self.unlimited else 0
        text = r"^\s*([0-9]+(\.[0-9]+)?)\s*([bB]|[kKmMgGtT][iI]?[bB]?)?\s*$"
        also = [{"enum": list(_UNLIMITED)}] if self.unlimited else []
        return {"anyOf": [{"type": "integer", "minimum": least}, {"type": "string", "pattern": text}, *also]}

    def plain(self, value: Any) -> Any:
        return -1 if value == -1 else format_size(value)


class Duration(OptionType):
    """Nanoseconds, written `30s` or `1h30m`; at least `least`."""

    least: int = 0

    def parse(self, node: Node, problems: Problems) -> Any:
        match node:
            case Scalar(value=str() as text):
                try:
                    found = parse_duration(text)
                except ValueError:
                    pass
                else:
                    if found >= self.least:
                        return found
                    return refuse(problems, node, f"a duration of at least {format_duration(self.least)}")
            case Scalar(value=int() | float()) if not isinstance(node.value, bool):
                return refuse(problems, node, "a duration", f'give it a unit: "{node.text}s" for seconds')
        return refuse(problems, node, "a duration, such as 30s, 10m or 1h30m", "units are ms, s, m, h and d")

    def schema(self) -> Schema:
        return {"type": "string", "pattern": r"^\s*(0|([0-9]+(\.[0-9]+)?(d|h|m|s|ms|us|µs|ns))+)\s*$"}

    def plain(self, value: Any) -> Any:
        return format_duration(value)


class Choice(OptionType):
    """One of `values`. `refused` are others that somebody may write, with what to do instead."""

    values: tuple[str, ...]
    refused: Mapping[str, str] = field(default_factory=dict)

    def parse(self, node: Node, problems: Problems) -> Any:
        allowed = ", ".join(self.values[:-1]) + f" or {self.values[-1]}" if len(self.values) > 1 else self.values[0]
        match node:
            case Scalar(value=str() as text):
                if text in self.values:
                    return text
                return refuse(problems, node, allowed, self.refused.get(text) or did_you_mean(text, self.values))
        return refuse(problems, node, allowed)

    def schema(self) -> Schema:
        return {"enum": list(self.values)}


# -- Option types made of others: lists, commands, pairs, mappings, and records that may be written short


class ListOf(OptionType):
    """A tuple of items. `single`: one item may be given without the list. `unique`: twice is an error; `once`: twice is
    the same as once. `ordered` False: their order means nothing, so they are kept sorted."""

    item: OptionType
    single: bool = False
    unique: bool = False
    once: bool = False
    ordered: bool = True
    key: Callable[[Any], Any] | None = None  # what makes two items the same thing (a mount's target)

    def parse(self, node: Node, problems: Problems) -> Any:
        match node:
            case ListNode():
                nodes = node.items
            case Scalar() if self.single and node.value is not None:
                nodes = (node,)
            case _:
                return refuse(problems, node, "a list", in_list(node))
        before = len(problems)
        values = [self.item.parse(item, problems) for item in nodes]
        seen: set[Any] = set()
        for one, value in zip(nodes, values, strict=True) if self.unique else ():
            identity = self.key(value) if self.key and value is not INVALID else value
            if identity is not INVALID and identity in seen:
                problems.add(f'"{identity}" is listed twice', one.span, "remove one of them")
            seen.add(identity)
        if len(problems) > before:
            return INVALID
        values = list(dict.fromkeys(values)) if self.once else values
        return tuple(values) if self.ordered else tuple(sorted(values, key=self.key))

    def identity(self, item: Node) -> Any:
        value = self.item.parse(item, Problems())
        return self.key(value) if self.key is not None and value is not INVALID else value

    def schema(self) -> Schema:
        item = self.item.schema()
        many: Schema = {"type": "array", "items": item}
        if self.unique and self.key is None:
            many["uniqueItems"] = True
        return {"anyOf": [many, item]} if self.single else many

    def plain(self, value: Any) -> Any:
        return [self.item.plain(item) for item in value]


class Command(OptionType):
    """A command line: a list of words, or one text that is split as a shell splits words (no shell runs)."""

    def parse(self, node: Node, problems: Problems) -> Any:
        match node:
            case ListNode():
                words = [_WORD.parse(item, problems) for item in node.items]
                return INVALID if INVALID in words else tuple(words)
            case Scalar(value=str() as text):
                import shlex

                try:
                    return tuple(shlex.split(text))
                except ValueError as error:
                    problems.add(f"the command can't be split into words: {error}", node.span, "write it as a list")
                    return INVALID
        return refuse(problems, node, "a command: a list of words, or one text")

    def schema(self) -> Schema:
        return {"anyOf": [{"type": "string"}, {"type": "array", "items": _WORD.schema()}]}

    def plain(self, value: Any) -> Any:
        return list(value)


_WORD = Text(numbers=True, empty=True, hint="a word of the command")


class Entries(OptionType):
    """Names, each once, with a value each; a read-only mapping."""

    name: Text = Text(pattern=r"[A-Za-z0-9][A-Za-z0-9_.-]*", hint="a name of letters, digits, _ . and -")

    def parse(self, node: Node, problems: Problems) -> Any:
        before, values = len(problems), dict[str, Any]()
        for key, value in self.entries(node, problems):
            self.add(values, key, value, problems)
        return freeze(values) if len(problems) == before else INVALID

    def add(self, values: dict[str, Any], key: Scalar, node: Node, problems: Problems) -> None:
        """Take one more entry to those before it."""
        if (name := self.named(key, problems)) is not INVALID:
            if name in values:
                problems.add(f'"{name}" is listed twice', key.span, "remove one of them")
            values[name] = self.value(name, node, problems)

    def named(self, key: Scalar, problems: Problems) -> Any:
        """The name in its canonical form, or INVALID."""
        return self.name.parse(key, problems)

    def value(self, name: str, node: Node, problems: Problems) -> Any:
        """The value of that name."""
        raise NotImplementedError


class Pairs(Entries):
    """Names with texts, as a mapping or a list of `NAME=value`.

    `bare` admits a name without a value (environment: taken from the caller), kept as None.
    """

    whole: ClassVar[str] = "a mapping, or a list of texts"
    each: ClassVar[tuple[str, ...]] = ("a text of the form NAME=value",)
    bare: bool = False
    name: Text = Text(pattern=r"[^=\x00\s]+", hint="a name")
    reserved: str | None = None  # a prefix that is ours
    told: Collection[str] = ()  # names that hide what the engine says under them

    def split(self, text: str) -> tuple[str, str | None] | None:
        name, equals, value = text.partition("=")
        return (name, value if equals else None) if equals or self.bare else None

    def named(self, key: Scalar, problems: Problems) -> Any:
        name = super().named(key, problems)
        if self.reserved and name is not INVALID and name.startswith(self.reserved):
            problems.add(f'names that begin with "{self.reserved}" are sandboxrun\'s own', key.span, "use another")
        if name in self.told:
            problems.add(f'a label "{name}" hides how the sandbox ended', key.span, "use another name")
        return name

    def value(self, name: str, node: Node, problems: Problems) -> Any:
        match node:
            case Scalar(value=None):
                return None if self.bare else ""
            case Scalar(value=bool()):
                return refuse(problems, node, "a text or a number", 'put it in quotes: "true"')
            case Scalar(value=str() as text) if "\0" not in text:
                return text
            case Scalar(value=int() | float()):
                return node.text
        return refuse(problems, node, "a text or a number")

    def schema(self) -> Schema:
        item: Schema = {"type": "string"}
        if not self.bare:
            item["pattern"] = "[=]"
        names = {"pattern": f"^(?:{self.name.pattern})$"}
        return {"anyOf": [mapping_of(names, {"type": ["string", "number", "null"]}), list_of(item)]}

    def plain(self, value: Any) -> Any:
        return dict(value)


class MapOf(Entries):
    """A mapping from names to values of one type; read-only."""

    each: ClassVar[tuple[str, ...]] = ()
    item: OptionType

    def value(self, name: str, node: Node, problems: Problems) -> Any:
        return self.item.parse(node, problems)

    def schema(self) -> Schema:
        return mapping_of({"pattern": f"^(?:{self.name.pattern})$"}, self.item.schema())

    def plain(self, value: Any) -> Any:
        return {name: self.item.plain(item) for name, item in value.items()}


class Short(OptionType):
    """A record that may also be written short, as one text (or number): `read` turns that into a value.

    `read` raises ValueError with a clause for the message; `pattern` is the short form for the schema.
    """

    record: OptionType
    read: Callable[[str], Any]
    expected: str
    pattern: str = r"[\s\S]+"  # not a dot, which takes no line ends in JSON Schema

    def parse(self, node: Node, problems: Problems) -> Any:
        if isinstance(node, MapNode):
            return self.record.parse(node, problems)
        if not isinstance(node, Scalar) or node.value is None or isinstance(node.value, bool | float):
            return refuse(problems, node, self.expected)
        try:
            return self.read(str(node.value) if isinstance(node.value, str) else node.text)
        except ValueError as error:
            problems.add(f"expected {self.expected}, found {describe(node)}: {error}", node.span)
            return INVALID

    def schema(self) -> Schema:
        return {
            "anyOf": [
                {"type": "string", "pattern": f"^(?:{self.pattern})$"},
                {"type": "integer"},
                self.record.schema(),
            ]
        }

    def plain(self, value: Any) -> Any:
        return self.record.plain(value)


def span_of(node: MapNode, key: str) -> Span | None:
    """Where `key` is in `node`, or the node itself."""
    found = node.key(key)
    return found.span if found is not None else node.span


# -- Where the items of an option that is a list or a mapping are

ANY: OptionType = Pairs(bare=True)  # of a list of which no more is known


def name_of(name: Any) -> str:
    """What an item is looked up by: paths without what an engine drops of them."""
    text = str(name)
    return forms.path(text) if text.startswith("/") else text


def item_spans(type_: OptionType, node: Node | None) -> Mapping[str, Span]:
    """Where each item of an option's value is, by `name_of`; of several of one name, the first. A mapping's are its
    keys, and what is in lists below them."""
    match node:
        case MapNode():
            items = [(key.value, key.span or value.span) for key, value in node.entries]
            lists = (value.items for _, value in node.entries if isinstance(value, ListNode))
            items += [(one.text.lower(), one.span) for one in chain(*lists) if isinstance(one, Scalar)]
        case None:
            items = []
        case _:
            listed = node.items if isinstance(node, ListNode) else (node,)
            items = [(name, item.span) for item in listed if (name := type_.identity(item)) is not INVALID]
    form = type_.name.form if isinstance(type_, Pairs) else str
    return {name_of(forms.shown(form, name)): span for name, span in reversed(items) if span is not None}


def item_span(type_: OptionType, node: Node | None, name: Any) -> Span | None:
    """Where the item of that name is; the whole value's place where it has none of its own."""
    return item_spans(type_, node).get(name_of(name), node.span if node is not None else None)
