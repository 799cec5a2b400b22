"""YAML to nodes: values, places, merges, and the bounds."""

from __future__ import annotations

import builtins
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandboxrun.errors import ListNode, MapNode, Problems, Scalar, SourceFile, plain_of, walk
from sandboxrun.profile.files import place, source_of
from sandboxrun.profile.yaml import DEEPEST, LONGEST_SCALAR, MOST_NODES, parse_yaml
from tests.unit.profile.reading import nodes


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", None),
        ("~", None),
        ("null", None),
        ("Null", None),
        ("nUll", "nUll"),
        ("true", True),
        ("FALSE", False),
        ("yes", "yes"),
        ("off", "off"),
        ("12", 12),
        ("-7", -7),
        ("0o17", 15),
        ("0x1F", 31),
        ("0b11", "0b11"),
        ("1_000", "1_000"),
        ("22:22", "22:22"),
        ("2020-01-01", "2020-01-01"),
        ("3.10", 3.1),
        (".5", 0.5),
        ("1e3", 1000.0),
        ("+", "+"),
        (".", "."),
        ("0644", "0644"),
        ("007", "007"),
        ("0", 0),
        ('"12"', "12"),
        ("'true'", "true"),
        ("! 12", "12"),
        ("!!str 12", "12"),
        ("!!float 12", 12.0),
        ('!!int "12"', 12),
        ("|\n    a\n    b", "a\nb\n"),
        (">-\n    a\n    b", "a b"),
    ],
)
def test_scalars_follow_the_core_schema(text: str, value: Any) -> None:
    node, problems = nodes(f"k: {text}\n")
    assert not problems
    assert isinstance(node, MapNode)
    found = node.get("k")
    assert isinstance(found, Scalar)
    assert found.value == value and type(found.value) is type(value)


def test_the_text_is_kept_as_it_was_written() -> None:
    node, _ = nodes("k: 3.10\n")
    assert isinstance(node, MapNode)
    found = node.get("k")
    assert isinstance(found, Scalar) and found.text == "3.10"


def test_every_node_knows_its_place() -> None:
    node, _ = nodes("a: [x, 'y z']\nb:\n  c: word\n")
    assert isinstance(node, MapNode)
    places = [(str(n.span), n.span.length) for n in walk(node) if n.span]
    assert places == [
        ("f.yaml:1:1", 1),
        ("f.yaml:1:4", 10),
        ("f.yaml:1:5", 1),
        ("f.yaml:1:8", 5),
        ("f.yaml:3:3", 1),
        ("f.yaml:3:6", 4),
    ]
    key = node.key("b")
    assert key is not None and str(key.span) == "f.yaml:2:1"


def test_aliases_are_the_very_node_they_name() -> None:
    node, _ = nodes("a: &x [1, 2]\nb: *x\n")
    assert isinstance(node, MapNode)
    assert node.get("a") is node.get("b")


def test_an_anchor_inside_another_of_its_name_wins() -> None:
    node, problems = nodes("- &a [&a 1, *a]\n- *a\n")
    assert not problems
    assert plain_of(node) == [[1, 1], 1]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("x: &x {a: 1, b: 2}\nz: {<<: *x, b: 3}\n", {"a": 1, "b": 3}),
        ("x: &x {a: 1, b: 2}\nz: {b: 3, <<: *x}\n", {"b": 3, "a": 1}),
        ("x: &x {a: 1}\ny: &y {a: 2, c: 3}\nz: {<<: [*x, *y]}\n", {"a": 1, "c": 3}),
        ('x: &x {a: 1}\nz: {"<<": *x}\n', {"<<": {"a": 1}}),
        ("x: &x {a: 1}\ny: &y {<<: *x, b: 2}\nz: {<<: *y}\n", {"a": 1, "b": 2}),
    ],
)
def test_merges(text: str, value: Any) -> None:
    node, problems = nodes(text)
    assert not problems
    assert isinstance(node, MapNode)
    found = node.get("z")
    assert found is not None
    assert plain_of(found) == value
    assert list(plain_of(found)) == list(value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * (DEEPEST + 1), "levels of nesting"),
        ("- &a0 [x]\n" + "".join(f"- &a{i} [*a{i - 1}]\n" for i in range(1, 60)), "levels of nesting, aliases"),
        ("- x\n" * (MOST_NODES + 1), "values, aliases written out"),
        ("k: " + "x" * (LONGEST_SCALAR + 1), "longer than 64 KiB"),
        ("a: &a [*a]\n", "is inside its own anchor"),
        ("a: *b\n", "unknown anchor"),
        ("%YAML 3.0\n---\na\n", "unknown YAML version"),
        ('a: "\\UFFFFFFFF"\n', "an escape that names no character"),
        ("<<: {a: 1}\n<<: {b: 2}\n", 'a second "<<"'),
        ("z: {<<: [1]}\n", "only mappings can be merged"),
        ("? {a: b}\n: c\n", "can't be a key"),
        ("x: &x [1]\n? *x\n: c\n", "only a text can be a key"),
        ("? ~\n: x\n", 'the key "~" is not a text'),
        ("--- a\n--- b\n", "a second document"),
        ("a: !!binary aGk=\n", 'unknown tag "!!binary"'),
        ("a: !!map [1]\n", 'unknown tag "!!map"'),
    ],
)
def test_bounds_and_faults(text: str, message: str) -> None:
    _, problems = nodes(text)
    assert message in problems.diagnostics[0].message
    assert problems.diagnostics[0].span is not None


def test_a_bomb_is_counted_and_not_expanded() -> None:
    lines = ["a0: &a0 [" + ", ".join("x" * 10) + "]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 40)]
    _, problems = nodes("\n".join(lines))
    assert "values, aliases written out" in str(problems.diagnostics[0])
    assert str(problems.diagnostics[0].span).startswith("f.yaml:5:")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"a: \xff", "f:1:4: error: the file is not UTF-8 (byte 0xff)"),
        ("a: b".encode("utf-16"), "f:1:1: error: the file is UTF-16"),
        (b"a: b\n\nc: \x00", "f:3:4: error: the file holds U+0000, a character that can't be seen"),
        ("a\ufeff".encode(), "f:1:2: error: the file holds U+FEFF, a character that can't be seen"),
    ],
)
def test_bytes_that_are_no_text(data: bytes, message: str) -> None:
    assert source_of(data, "f", problems := Problems()) is None
    assert str(problems.diagnostics[0]).partition("\n")[0] == message


def test_a_byte_order_mark_is_dropped() -> None:
    file = source_of(b"\xef\xbb\xbfa: 1", "f", Problems())
    assert file is not None and file.text == "a: 1"


@pytest.mark.parametrize(("text", "offset", "line", "column"), [("", 0, 1, 1), ("ab", 1, 1, 2), ("a\nb", 2, 2, 1)])
def test_places_by_offset(text: str, offset: int, line: int, column: int) -> None:
    span = place(SourceFile(name="f", text=text), offset)
    assert (span.line, span.column) == (line, column)


@given(st.binary(max_size=400))
def test_any_bytes_give_nodes_or_a_diagnostic(data: bytes) -> None:
    problems = Problems()
    file = source_of(data, "f", problems)
    node = parse_yaml(file, problems) if file is not None else None
    assert (node is not None) or problems
    assert all(isinstance(str(diagnostic), str) for diagnostic in problems.diagnostics)


YAMLISH = st.text(st.sampled_from("ab01:-?*&!|>'\"%@{}[],#<~.\\ \n\t"), max_size=80)


@given(YAMLISH)
def test_any_text_that_looks_like_yaml_gives_nodes_or_a_diagnostic(text: str) -> None:
    node, problems = nodes(text)
    assert (node is not None) or problems
    for diagnostic in problems.diagnostics:
        assert diagnostic.span is not None
        assert 1 <= diagnostic.span.line <= text.count("\n") + 1
        assert diagnostic.span.column >= 1
        str(diagnostic)


@given(YAMLISH)
def test_the_parser_in_python_agrees_with_the_one_in_c(text: str) -> None:
    fast, problems = nodes(text)
    original = builtins.__import__

    def without_c(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "yaml._yaml":
            raise ImportError(name)
        return original(name, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(builtins, "__import__", without_c)
        slow, more = nodes(text)
    if not problems and not more:  # their readings of odd texts differ in details; where both read, they agree
        assert fast is not None and slow is not None
        assert plain_of(fast) == plain_of(slow)


def test_lists_and_mappings_are_of_their_own_kinds() -> None:
    node, _ = nodes("[]")
    assert node == ListNode(items=())
