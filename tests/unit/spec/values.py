"""Valid values of every option type, for properties; and the raw data that a profile might hold in their place."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st
from msgspec import structs

from sandboxrun.data import Data
from sandboxrun.errors import Problems, node_of
from sandboxrun.spec import forms, seccomp
from sandboxrun.spec.names import KEY
from sandboxrun.spec.option import Record, rows
from sandboxrun.spec.option_types import (
    CLOSED,
    LABELS,
    NAMES,
    PUBLIC,
    Capability,
    Egress,
    EgressOption,
    Gpus,
    Hosts,
    Named,
    SecurityOpts,
    Tmpfs,
    read_options,
)
from sandboxrun.spec.options import _target
from sandboxrun.spec.records import FileMode, HealthTest, Mount
from sandboxrun.spec.spec import ROWS, SandboxSpec, SpecType, settle
from sandboxrun.spec.types import (
    INVALID,
    Choice,
    Command,
    Cpus,
    Duration,
    Flag,
    Integer,
    ListOf,
    MapOf,
    OptionType,
    Pairs,
    Short,
    Size,
    Text,
    freeze,
)

CHARACTERS = st.characters(codec="utf-8", exclude_characters="\0")
FREE = st.text(CHARACTERS, max_size=12)
LARGEST = 2**63 - 1


def matching(pattern: str) -> st.SearchStrategy[str]:
    """Texts that match a pattern whole, short ones."""
    return st.from_regex(f"(?:{pattern})", fullmatch=True, alphabet=CHARACTERS).filter(lambda text: len(text) < 60)


def values(type: OptionType) -> st.SearchStrategy[Any]:  # noqa: C901 - one case a class
    """What `type.parse` may give."""
    match type:
        case HealthTest():
            return st.tuples(st.sampled_from(["CMD", "CMD-SHELL"]), FREE)
        case Command():
            return st.lists(FREE, max_size=4).map(tuple)
        case Text(pattern=None):
            return _canonical(type, FREE if type.empty else FREE.filter(bool))
        case Text(pattern=str() as pattern):
            return _canonical(type, _SIGNALS if type.form is forms.signal else matching(pattern))
        case Flag():
            return st.booleans()
        case Integer():
            return st.integers(type.least, type.most)
        case Cpus():
            return st.one_of(st.integers(0, 65536), st.integers(1, 6400).map(lambda n: n / 100)).map(float)
        case Size():
            return st.integers(-1 if type.unlimited else 0, LARGEST)
        case Duration():
            return st.integers(type.least, LARGEST)
        case Choice():
            return st.sampled_from(type.values)
        case Gpus():
            return st.just(-1) | st.integers(1, 1024)
        case FileMode():
            return st.integers(0, 0o7777)
        case Capability():
            return st.sampled_from(["ALL", *NAMES])
        case ListOf():
            unique = (type.key or (lambda item: item)) if type.unique or type.once else None
            found = st.lists(values(type.item), max_size=3, unique_by=unique)
            return found.map(tuple if type.ordered else lambda items: tuple(sorted(items, key=type.key)))
        case Pairs():
            names = values(type.name).filter(lambda name: not name.startswith(type.reserved or "\0"))
            return st.dictionaries(names, FREE | st.none() if type.bare else FREE, max_size=3).map(freeze)
        case MapOf():
            return st.dictionaries(values(type.name), values(type.item), max_size=3).map(freeze)
        case Named():
            return st.dictionaries(matching(KEY), values(type.item), max_size=3).map(freeze)
        case Hosts():
            addresses = st.lists(st.sampled_from(["192.0.2.1", "2001:db8::1", "host-gateway"]), min_size=1, unique=True)
            return st.dictionaries(matching("[a-z0-9]{1,9}"), addresses.map(tuple), max_size=3).map(freeze)
        case Tmpfs():
            return _tmpfs()
        case SecurityOpts():
            return _security()
        case EgressOption():
            return _egress()
        case Short():
            return values(type.record)
        case Record():
            return records(type)
    raise AssertionError(f"no values for {type}")


_SIGNALS = st.sampled_from(["SIGINT", "KILL", "9", "rtmin+3", "SIGRTMAX"])


def _canonical(type: Text, texts: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return texts.map(lambda text: type.parse(node_of(text), Problems())).filter(lambda value: value is not INVALID)


def _tmpfs() -> st.SearchStrategy[Any]:
    paths = st.from_regex(r"/[a-z]{1,6}(/[a-z]{1,3})?", fullmatch=True)
    options = st.lists(
        st.sampled_from(["ro", "exec", "suid", "dev", "size=1g", "mode=700", "uid=5", "gid=6", "nr_inodes=9"]),
        unique=True,
    ).map(lambda items: read_options(",".join(items)))
    return st.dictionaries(paths, options, max_size=3).map(lambda found: freeze(dict(sorted(found.items()))))


def _security() -> st.SearchStrategy[Any]:
    texts = st.text('a{}":,=', min_size=1, max_size=9)
    parts = st.fixed_dictionaries({}, optional={f"label={part}": texts for part in LABELS})
    return st.builds(
        lambda privileges, calls, rest, labels: freeze(
            {"no-new-privileges": privileges, "seccomp": calls, **rest, **labels}
        ),
        st.sampled_from(["true", "false"]),
        st.sampled_from(seccomp.NAMES) | texts,
        st.dictionaries(st.just("apparmor"), texts),
        parts | st.sampled_from([{"label": "disable"}, {"label": "nested"}]),
    )


def _egress() -> st.SearchStrategy[Any]:
    hosts = st.sampled_from(["a.example.com:443", "*.example.org:443", "b.example.com:8443", "x--y.example:1"])
    listed = st.builds(
        Egress,
        allow=st.sets(hosts, min_size=1).map(lambda found: tuple(sorted(found))),
        private_networks=st.sets(st.sampled_from(["10.1.0.0/16", "fd00::/64"])).map(sorted).map(tuple),
        resolvers=st.sets(st.sampled_from(["192.0.2.53", "10.1.0.53"])).map(tuple),
    )
    return st.sampled_from([CLOSED, PUBLIC, structs.replace(PUBLIC, resolvers=("192.0.2.53",))]) | listed


def records(type: Record) -> st.SearchStrategy[Any]:
    """Records that pass their own checks."""
    fields = {row.key: values(row.type) if row.required else _optional(row) for row in rows(type.cls) if row.settable}
    return st.builds(type.cls, **fields).filter(lambda value: accepted(type, value))


def _optional(row: Any) -> st.SearchStrategy[Any]:
    return st.just(row.default) | values(row.type)


def accepted(type: OptionType, value: Any) -> bool:
    """Whether the value's canonical form is taken: what must hold between options does."""
    problems = Problems()
    type.parse(node_of(type.plain(value)), problems)
    return not problems


def _consistent(values: dict[str, Any]) -> SandboxSpec:
    """A spec of these values, with what clashes between options left at its default."""
    if values.get("network_mode") == "none":
        values.pop("networks", None)
    if values.get("network_mode") is None and "networks" in values and not values["networks"]:
        values.pop("networks")
    return settle(SandboxSpec(**values))


_BY_KEY = {row.key: row for row in ROWS if row.settable}
_EACH = {key: values(row.type) for key, row in _BY_KEY.items()}
_EACH["mem_limit"] = st.sampled_from([6 << 20, 512 << 20, 1 << 40])
_EACH["memswap_limit"] = st.sampled_from([None, -1, 1 << 40])
_EACH["mem_reservation"] = st.integers(0, 6 << 20)
_EACH["volumes"] = st.lists(
    st.builds(
        Mount,
        type=st.just("bind"),
        source=st.sampled_from(["/a", "/b"]),
        target=st.from_regex(r"/v[a-z]{1,5}", fullmatch=True),
        read_only=st.booleans(),
    )
    | st.builds(
        Mount,
        type=st.just("volume"),
        source=matching(KEY),
        target=st.from_regex(r"/w[a-z]{1,5}", fullmatch=True),
        read_only=st.booleans(),
    ),
    max_size=3,
    unique_by=_target,
).map(tuple)

specs = (
    st.sets(st.sampled_from(sorted(_BY_KEY)), max_size=12)
    .flatmap(lambda keys: st.fixed_dictionaries({key: _EACH[key] for key in sorted(keys)}))
    .map(_consistent)
    .filter(lambda spec: accepted(SpecType, spec))
)

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 70000),
    st.floats(0, 99, allow_nan=False),
    st.sampled_from(
        ["", "a", "1", "0", "-1", "512m", "30s", "/tmp", "/a:/b", "a=b", "ALL", "no", "0400", "a:b", "/x:ro"]
    ),
    FREE,
)
RAW = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", "/a", "nofile", "B"]), inner, max_size=2)
    ),
    max_leaves=5,
)


def raw(type: OptionType) -> st.SearchStrategy[Any]:
    """Data in a profile's shape, near to what the type takes."""
    plains = values(type).map(type.plain)
    return st.one_of(RAW, plains, plains.flatmap(_bent))


def _bent(plain: Any) -> st.SearchStrategy[Any]:
    """The data with one part of it replaced, dropped or added."""
    match plain:
        case dict() if plain:
            return st.tuples(st.sampled_from(sorted(plain)), RAW).map(lambda one: {**plain, one[0]: one[1]}) | st.just(
                {**plain, "other": 1}
            )
        case list() if plain:
            return RAW.map(lambda other: [*plain[1:], other])
    return RAW


class Case(Data, kw_only=False):
    """A type under a name that a failing test can be told by."""

    name: str
    type: OptionType


CASES = tuple(Case(row.key, row.type) for row in ROWS if row.settable)
