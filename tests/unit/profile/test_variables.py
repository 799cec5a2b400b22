"""Variables: declarations, values from every source, and their order."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandboxrun.errors import Problems, SourceFile, node_of
from sandboxrun.profile.sandbox import parse_dotenv
from sandboxrun.profile.variables import (
    InputRefused,
    Inputs,
    Values,
    Variable,
    VariableRules,
    compile_pattern,
    from_text,
    parse_variables,
    resolve_values,
)


def declared(block: Mapping[str, Any]) -> dict[str, Variable]:
    found = parse_variables(node_of(block), problems := Problems())
    assert not problems, problems.diagnostics
    return found


def values(block: Mapping[str, Any], **inputs: Any) -> Values:
    found, _ = resolve_values(declared(block), Inputs(**inputs), problems := Problems())
    assert not problems, [str(d) for d in problems.diagnostics]
    return found


def faults(block: Mapping[str, Any], **inputs: Any) -> list[str]:
    _, _ = resolve_values(declared(block), Inputs(**inputs), problems := Problems())
    return [diagnostic.message for diagnostic in problems.diagnostics]


@pytest.mark.parametrize(
    ("rules", "text", "value"),
    [
        (VariableRules(type="string"), "3.10", "3.10"),
        (VariableRules(type="string"), "", ""),
        (VariableRules(type="integer"), "-7", -7),
        (VariableRules(type="integer"), "007", 7),
        (VariableRules(type="number"), "1.5", 1.5),
        (VariableRules(type="number"), "2", 2),
        (VariableRules(type="boolean"), "true", True),
        (VariableRules(type="array"), "a, b", ["a", "b"]),
        (VariableRules(type="array"), "", []),
        (VariableRules(type="array"), '["a", "b,c"]', ["a", "b,c"]),
        (VariableRules(type="array", items="integer"), "1,2", [1, 2]),
        (VariableRules(type="array", items="integer"), "[1, 2]", [1, 2]),
        (VariableRules(type="object"), "a=1,b=x=y", {"a": "1", "b": "x=y"}),
        (VariableRules(type="object"), '{"a": "1"}', {"a": "1"}),
    ],
)
def test_texts_by_type(rules: VariableRules, text: str, value: Any) -> None:
    made = from_text(text, rules)
    assert made == value and type(made) is type(value)


@pytest.mark.parametrize(
    ("rules", "text", "message"),
    [
        (VariableRules(type="integer"), "1.5", 'expected an integer, found "1.5"'),
        (VariableRules(type="integer"), "9" * 40, 'expected an integer, found "' + "9" * 40 + '"'),
        (VariableRules(type="number"), "inf", 'expected a number, found "inf"'),
        (VariableRules(type="number"), ".inf", 'expected a number, found ".inf"'),
        (VariableRules(type="boolean"), "yes", 'expected true or false, found "yes"'),
        (VariableRules(type="array"), "[1", "the value is not JSON: expecting ',' delimiter"),
        (VariableRules(type="array"), '["a", ["b"]]', "the value's items must be plain values"),
        (VariableRules(type="array"), "[" * 9999, "the value is not JSON: nested too deeply"),
        (VariableRules(type="array"), ",".join("a" * 1001), "the value has more than 1000 items"),
        (VariableRules(type="object"), "a", 'expected name=value, found "a"'),
        (VariableRules(type="object"), '{"a": true}', "expected a string, found the boolean True"),
        (VariableRules(type="string", longest=2), "abc", "the value has 3 characters, and may have 2"),
        (VariableRules(type="string", shortest=2), "a", "the value has 1 characters, and needs 2"),
        (VariableRules(type="integer", least=3), "1", "1 is below the minimum of 3"),
        (VariableRules(type="integer", most=3), "4", "4 is above the maximum of 3"),
        (VariableRules(type="string", enum=("a", "b")), "c", '"c" is none of: "a", "b"'),
        (VariableRules(type="array", longest=1), "a,b", "the value has 2 items, and may have 1"),
        (VariableRules(type="string"), "a" * 65537, "the value is longer than 64 KiB"),
        (VariableRules(type="string"), "a\0", "the value holds a NUL, or bytes that are not UTF-8"),
        (VariableRules(type="string"), "a\udcff", "the value holds a NUL, or bytes that are not UTF-8"),
    ],
)
def test_texts_that_are_refused(rules: VariableRules, text: str, message: str) -> None:
    with pytest.raises(InputRefused) as raised:
        from_text(text, rules)
    assert raised.value.message == message


@given(st.text(max_size=30), st.sampled_from(["string", "integer", "number", "boolean", "array", "object"]))
def test_any_text_has_a_value_of_its_type_or_is_refused(text: str, kind: str) -> None:
    types = {"string": str, "integer": int, "number": (int, float), "boolean": bool, "array": list, "object": dict}
    try:
        assert isinstance(from_text(text, VariableRules(type=kind)), types[kind])
    except InputRefused as refused:
        assert refused.message


def test_the_order_of_sources(tmp_path: Path) -> None:
    block = {"a": {"type": "string", "default": "default"}}
    first, second = tmp_path / "first.yaml", tmp_path / "second.env"
    first.write_text("a: first\n")
    second.write_text("a=second\n")
    environment = {"SANDBOXRUN_VAR_a": "environment"}
    assert values(block).values["a"] == "default"
    assert values(block, environment=environment).values["a"] == "environment"
    assert values(block, environment=environment, var_files=(first,)).values["a"] == "first"
    assert values(block, environment=environment, var_files=(first, second)).values["a"] == "second"
    found = values(block, environment=environment, var_files=(first,), vars=("a=one", "a=two"))
    assert found.values["a"] == "two"
    assert values(block, vars=("a=one",), values={"a": "typed"}).values["a"] == "typed"


def test_the_environment_in_capitals_and_unknown_names_in_it() -> None:
    block = {"ref": {"type": "string"}}
    environment = {"SANDBOXRUN_VAR_REF": "x", "SANDBOXRUN_VAR_other": "y"}
    assert values(block, environment=environment).values == {"ref": "x"}
    both = {"ref": {"type": "string", "default": "d"}, "REF": {"type": "string"}}
    assert values(both, environment=environment).values == {"ref": "d", "REF": "x"}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("v.yaml", "a: x\nb: [1, 2]\n"),
        ("v.json", '{"a": "x", "b": [1, 2]}'),
        ("v.env", "a=x\nb=1,2\n"),
        ("plain", "# first\nexport a=x\nb=1,2\n"),
        ("other", "a: x\nb: [1, 2]\n"),
        (".env.ci", "a=x\nb='1,2'\n"),
    ],
)
def test_files_are_told_apart(tmp_path: Path, name: str, text: str) -> None:
    path = tmp_path / name
    path.write_text(text)
    block = {"a": {"type": "string"}, "b": {"type": "array", "items": {"type": "integer"}}}
    found = values(block, var_files=(path,))
    assert found.values == {"a": "x", "b": [1, 2]}


def test_faults_of_values(tmp_path: Path) -> None:
    path = tmp_path / "v.yaml"
    path.write_text("a: [1]\nother: x\n")
    block = {"a": {"type": "string"}, "b": {"type": "integer"}, "c": {"type": "string"}}
    assert faults(block, var_files=(path,), vars=("b=x", "odd", "q=1"), values={"z": 1}) == [
        "expected a string, found a list",
        'this file sets "other", which is not declared',
        '"odd" is not NAME=value',
        'q=… sets "q", which is not declared',
        'the caller sets "z", which is not declared',
        'the value for "b": expected an integer, found "x"',
        'the variable "c" has no value',
    ]


def test_a_missing_file_is_a_fault(tmp_path: Path) -> None:
    (message,) = faults({}, var_files=(tmp_path / "none.yaml",))
    assert message.endswith("can't be read: no such file or directory")


def test_sensitive_values_are_masked_and_not_told() -> None:
    block = {"token": {"type": "string", "sensitive": True, "minLength": 8}, "n": {"type": "integer", "default": 1}}
    found = values(block, vars=("token=correct horse",))
    assert found.masked == {"token": "(sensitive value)", "n": 1}
    assert found.secrets == {"correct horse"}
    assert "horse" not in repr(found)
    assert faults(block, vars=("token=short",)) == ['the value for "token" breaks the variable\'s rules']


def test_a_sensitive_value_in_a_file_is_not_quoted(tmp_path: Path) -> None:
    block = {"token": {"type": "string", "sensitive": True, "minLength": 8}}
    for name, text in (("v.yaml", "token: hunter2\n"), ("v.env", "token=hunter2\n")):
        path = tmp_path / name
        path.write_text(text)
        resolve_values(declared(block), Inputs(var_files=(path,)), problems := Problems())
        shown = "\n".join(map(str, problems.diagnostics))
        assert "breaks the variable's rules" in shown and "hunter2" not in shown


def test_an_optional_variable_without_a_value_is_null() -> None:
    assert values({"a": {"type": "string", "required": False}}).values == {"a": None}


@pytest.mark.parametrize(
    ("pattern", "text", "matches"),
    [
        ("[a-z]+", "abc", True),
        ("[a-z]+", "abc1", False),
        ("^a$", "a", True),
        ("^a$", "a\n", False),
        ("a|b", "ab", False),
        (r"\d+", "12", True),
    ],
)
def test_patterns_match_the_whole_text(pattern: str, text: str, matches: bool) -> None:
    match = compile_pattern(pattern)
    assert match is not None and match(text) is matches


@pytest.mark.parametrize("pattern", ["(", "(?=a)b", r"(a)\1", "((a{99}){99}){99}", "a)|(b", "x" * 1001])
def test_patterns_that_are_refused(pattern: str) -> None:
    assert compile_pattern(pattern) is None


def test_no_pattern_backtracks() -> None:
    match = compile_pattern("(a+)+b")
    assert match is not None
    assert not match("a" * 60_000)  # a backtracking engine would not end in this century


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("A=b", "b"),
        ("A = b", "b"),
        ("export A=b", "b"),
        ("A=", ""),
        ("A=b # comment", "b"),
        ("A=b#c", "b#c"),
        ("A=#c", ""),
        ("A='b # $c'", "b # $c"),
        ('A="b\\n\\"c\\" \\$d" # e', 'b\n"c" $d'),
        ("A=a=b", "a=b"),
        ("A=5$", "5$"),
        ("A='b", None),
        ("A=$B", None),
        ('A="${B}"', None),
        ("A='b' c", None),
        ("1A=b", None),
        ("A", None),
    ],
)
def test_dotenv_lines(line: str, value: str | None) -> None:
    pairs = parse_dotenv(SourceFile(name="f", text=line), problems := Problems())
    assert [pair[1].value for pair in pairs] == ([] if value is None else [value])
    assert bool(problems) is (value is None)


@given(st.text(max_size=60))
def test_any_dotenv_text_gives_pairs_or_faults(text: str) -> None:
    pairs = parse_dotenv(SourceFile(name="f", text=text), problems := Problems())
    assert all(isinstance(name.value, str) for name, _ in pairs)
    assert all(str(diagnostic) for diagnostic in problems.diagnostics)


def test_a_sensitive_value_that_breaks_its_rules_is_not_shown() -> None:
    block = {"t": {"type": "integer", "sensitive": True}}
    for inputs in (
        {"values": {"t": "hunter2"}},
        {"vars": ("t=hunter2",)},
        {"environment": {"SANDBOXRUN_VAR_t": "hunter2"}},
    ):
        (message,) = faults(block, **inputs)
        assert "hunter2" not in message and message.endswith("breaks the variable's rules")
