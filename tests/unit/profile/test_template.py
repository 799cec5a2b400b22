"""Templates: Jinja's meaning where both know it, a closed world where Jinja has more, and bounded work."""

from __future__ import annotations

import json
import re
import threading
from typing import Any

import jinja2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandboxrun.errors import (
    ListNode,
    MapNode,
    Node,
    Problems,
    ProfileError,
    Scalar,
    SourceFile,
    Span,
    node_of,
    plain_of,
)
from sandboxrun.profile.templates import LONGEST_TEXT, STEPS_A_SCALAR, Renderer, TemplateScope, is_template
from tests.unit.profile.conftest import Load

VALUES: dict[str, Any] = {
    "ref": "main",
    "n": 3,
    "x": 1.5,
    "version": "3.10",
    "yes": True,
    "nothing": None,
    "words": ["b", "a", "B"],
    "numbers": [3, 1, 2],
    "map": {"k": "v", "a": "b"},
    "mark": "{{ n }}: [x]",
}
SCOPE = TemplateScope(values=VALUES)


def render(text: str, scope: TemplateScope = SCOPE, *, mapping: bool = False) -> Any:
    """The value a template makes; raises AssertionError with the diagnostics where it makes none."""
    problems = Problems()
    span = Span(file=SourceFile(name="f", text=text), line=1, column=1)
    made = Renderer(problems).scalar(Scalar(value=text, text=text, span=span), scope, mapping=mapping)
    assert not problems, "\n".join(map(str, problems.diagnostics))
    assert made is not None
    return plain_of(made)


def refused(text: str, scope: TemplateScope = SCOPE) -> str:
    """What is said of a template that makes nothing."""
    problems = Problems()
    span = Span(file=SourceFile(name="f", text=text), line=1, column=1)
    assert Renderer(problems).scalar(Scalar(value=text, text=text, span=span), scope) is None
    (diagnostic,) = problems.diagnostics
    assert str(diagnostic)
    return diagnostic.message


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("{{ n }}", 3),
        ("{{n}}", 3),
        ("{{ version }}", "3.10"),
        ("{{ x }}", 1.5),
        ("{{ yes }}", True),
        ("{{ nothing }}", None),
        ("{{ words }}", ["b", "a", "B"]),
        ("{{ map.k }}", "v"),
        ("{{ mark }}", "{{ n }}: [x]"),
        ("{{ n }}m", "3m"),
        ("{{ yes }}!", "true!"),
        ("{{ n }}{{ n }}", "33"),
        ("{{ n }}\n", "3\n"),
        ("{{ n + 1 }}", 4),
        ("{{ n > 2 and 'big' or 'small' }}", "big"),
        ("{# a comment #}{{ n }}", "3"),
        ("{{ not yes }}", False),
        ("{{ [n, ref] }}", [3, "main"]),
        ("{{ words[-1] }}", "B"),
        ("{{ nothing | default('d') }}", "d"),
        ("{{ map.q | default('d') }}", "d"),
        ("{{ map.q is defined }}", False),
        ("{{ unknown is defined }}", False),
        ("{{ 'a' ~ n ~ yes }}", "a3true"),
        ("{{ ref.startswith('ma') }}", True),
        ("{{ words | tojson }}", '["b", "a", "B"]'),
        ("{{ '<' | tojson }}", '"<"'),
        ("{% raw %}{{ n }}{% endraw %}", "{{ n }}"),
        ("{{ '{{' }}", "{{"),
    ],
)
def test_values_and_their_types(text: str, value: Any) -> None:
    made = render(text)
    assert made == value and type(made) is type(value)


# What both mean the same: compared with Jinja itself.
ALIKE = [
    "{{ ref }}-{{ n }}",
    "{{ ref | upper }}{{ ref | capitalize }}",
    "{{ words | join('-') }}.",
    "{{ words | sort | join }}.",
    "{{ words | sort(reverse=true) | join }}.",
    "{{ words | sort(case_sensitive=true) | join }}.",
    "{{ words | unique | join }}.",
    "{{ words | reverse | join }}.",
    "{{ words | first }}{{ words | last }}",
    "{{ numbers | max }}{{ numbers | min }}{{ numbers | sum }}",
    "{{ numbers | length }}{{ words | count }}",
    "{{ ref | replace('a', 'oo') }}",
    "{{ ref | replace('', '-') }}",
    "{{ 'aaa' | replace('a', 'b', 2) }}",
    "{{ '  x ' | trim }}.",
    "{{ 'xxaxx' | trim('x') }}.",
    "{{ '7' | int + 1 }}.",
    "{{ 'q' | int(5) }}.",
    "{{ '1.5' | float }}.",
    "{{ 2.567 | round(1) }} {{ 2.4 | round }}",
    "{{ -3 | abs }}.",
    "{{ map.items() | first | join }}.",
    "{{ map | dictsort | first | join }}.",
    "{{ map | list | join }}.",
    "{{ map.get('q', 'z') }}.",
    "{{ ref[1:3] }}{{ ref[::-1] }}",
    "{{ 7 // 2 }} {{ 7 % 4 }} {{ 2 ** 5 }} {{ 7 / 2 }} {{ -7 // 2 }}",
    "{% if 1 < 2 < 3 %}in{% endif %}",
    "{% if 'a' in words and 'q' not in words %}in{% else %}out{% endif %}",
    "{% if n is odd %}odd{% elif n is even %}even{% endif %}",
    "{% if n is divisibleby 3 and ref is string and nothing is none %}x{% endif %}",
    "{% if n is eq 3 and n is ge(3) and 2 is lt 3 %}x{% endif %}",
    "{% for w in words %}{{ loop.index }}/{{ loop.length }}{{ w }}{% if not loop.last %},{% endif %}{% endfor %}",
    "{% for k, v in map.items() %}{{ k }}={{ v }} {% endfor %}",
    "{% for w in words if w != 'a' %}{{ w }}{% else %}none{% endfor %}",
    "{% for w in [] %}{{ w }}{% else %}none{% endfor %}",
    "{% for a in range(3) %}{% for b in range(a) %}{{ a }}{{ b }} {% endfor %}{% endfor %}",
    "{% for w in words %}{{ loop.previtem | default('-') }}{{ loop.nextitem | default('-') }}{% endfor %}",
    "{% set y = n * 2 %}{{ y }}",
    "{% set y = 1 %}{% for w in words %}{% set y = 2 %}{% endfor %}{{ y }}",
    "{% set a, b = 1, 2 %}{{ b }}{{ a }}",
    "{%- if yes -%}  x  {%- endif -%}  ",
    "a\n{% if yes %}\nb\n{% endif %}\nc\n",
    "{{ ref if n > 5 else 'else' }}.",
    "{{ ('a' if yes) ~ '' }}",
    "{{ 'a b  c'.split() | join('|') }} {{ 'a,b'.split(',') | last }}",
    "{{ ref.upper() }}{{ 'xay'.strip('x').removesuffix('y') }}",
    "{{ ','.join(words) }}",
    "{{ (1, 2) | join }}{{ {'a': 'b'}.a }}{{ {'a': 'b'}['a'] }}",
    "{{ 'a' 'b' }}.",
    "{{ 1 if nothing else 2 }}{{ words and 1 }}{{ nothing or 'or' }}",
    "{{ 0x1F }}{{ 1_000 }}{{ 1e3 }}.",
]


@pytest.mark.parametrize("text", ALIKE)
def test_jinja_means_the_same(text: str) -> None:
    jinja = jinja2.Environment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True)
    expected = jinja.from_string(text).render(VALUES)
    assert str(render(text)) == expected


@given(st.lists(st.sampled_from(["{{ n }}", "{{ref}}", "{{ map.k }}", "a", " ", "\n", "}}", "{", "-"]), max_size=8))
def test_the_plain_templates_read_without_jinja_mean_the_same(parts: list[str]) -> None:
    text = "".join(parts)
    if not is_template(Scalar(value=text)) or "{{{}" in "".join(text.split()):  # a mapping, refused in a text
        return
    jinja = jinja2.Environment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True)
    try:
        expected = jinja.from_string(text).render(VALUES)
    except (jinja2.TemplateSyntaxError, jinja2.UndefinedError):
        refused(text)
        return
    assert str(render(text)) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{{ reff }}", 'the variable "reff" is not declared'),
        ("{% if false %}{{ reff }}{% endif %}", 'the variable "reff" is not declared'),
        ("{{ reff | default('x') }}", 'the variable "reff" is not declared'),
        ("{{ map }}", "a template can't make a mapping"),
        ("{{ [map] }}", "a template's list can't hold a mapping"),
        ("{{ [words] }}", "a template's list can't hold a list"),
        ("-{{ words }}", "a list can't be used in a string"),
        ("-{{ nothing }}", "null can't be used in a string"),
        ("{{ map.q }}", 'there is no "q" in this mapping'),
        ("{{ map.q.r }}", 'there is no "q" in this mapping'),
        ("{{ ref.__class__ }}", 'a text has no "__class__"'),
        ("{{ n.real }}", 'an integer has no "real"'),
        ("{{ ref['__class__'] }}", 'a text has no "__class__"'),
        ("{{ ref.__class__() }}", 'a text has no method "__class__"'),
        ("{{ words.append(1) }}", 'a list has no method "append"'),
        ("{{ ref.format(n) }}", 'a text has no method "format"'),
        ("{{ '%s' % n }}", "a text is not a number to calculate with"),
        ("{{ ref | attr('x') }}", 'unknown filter "attr"'),
        ("{{ ref is callable }}", 'unknown test "callable"'),
        ("{{ range ~ 1 }}", '"range" has no value here'),
        ("{{ ref() }}", "this can't be called"),
        ("{{ words[0](1) }}", "this can't be called"),
        ("{{ range(*numbers) }}", "* and ** arguments are not offered"),
        ("{% include 'x' %}", '"include" is not offered in a profile'),
        ("{% import 'x' as y %}", '"import" is not offered in a profile'),
        ("{% from 'x' import y %}", '"from … import" is not offered in a profile'),
        ("{% extends 'x' %}", '"extends" is not offered in a profile'),
        ("{% block x %}{% endblock %}", '"block" is not offered in a profile'),
        ("{% macro m() %}{% endmacro %}", '"macro" is not offered in a profile'),
        ("{% call m() %}{% endcall %}", '"call" is not offered in a profile'),
        ("{% filter upper %}x{% endfilter %}", '"filter" is not offered in a profile'),
        ("{% with a = 1 %}{% endwith %}", '"with" is not offered in a profile'),
        ("{% set a %}x{% endset %}", '"set … endset" is not offered in a profile'),
        ("{% set ns.a = 1 %}", '"namespace" is not offered in a profile'),
        ("{% for a in words recursive %}{% endfor %}", '"recursive" is not offered in a profile'),
        ("{% autoescape true %}{% endautoescape %}", '"autoescape" is not offered in a profile'),
        ("{% for a in n %}{% endfor %}", "an integer can't be looped over"),
        ("{% set a, b = words %}", "a list does not fall into 2 names"),
        ("{{ 'q' | int }}", '"q" is not an integer'),
        ("{{ [] | first }}", "a list with nothing in it has no first or last"),
        ("{{ [] | max }}", "an empty list has no least or greatest item"),
        ("{{ [1, 'a'] | sort }}", "values of different types have no order"),
        ("{{ [[1]] | unique }}", "only plain values can be compared"),
        ("{{ n < ref }}", "an integer and a text can't be compared"),
        ("{{ ref | replace }}", 'the filter "replace" does not accept these arguments'),
        ("{{ 1 / 0 }}", "a division by zero"),
        ("{{ n is divisibleby 0 }}", "nothing is divisible by zero"),
        ("{{ words['a'] }}", 'a list has no "a"'),
        ("{{ map[words] }}", "a list can't be a key"),
        ("{{ {n: 1} }}", "an integer can't be a key"),
        ("{{ n[1:2] }}", "an integer can't be cut"),
        ("{{ ref[::0] }}", "a slice needs integers, and a step other than zero"),
        ("{{ (-8) ** 0.5 }}", "a root of a negative number"),
        ("{{ 'a' if false }}", "this condition has no else, and does not hold"),
        ("{{ loop }}", 'the variable "loop" is not declared'),
        ("{% for a in words %}{% endfor %}{{ a }}", '"a" has no value here'),
        ("{{ 'a'.split('') }}", "the separator is empty: pass split a text"),
        ("{{ n", "the template ends too early"),
        ("{% if n %}", '"if" is not ended'),
        ("{{ n $ }}", 'a template can\'t hold the character "$" here'),
        ("{{ n n }}", 'the template has n where "}}" should be'),
        ("{{ }}", 'the template has "}}" where a value should be'),
        ("{# x", "the comment is not ended"),
        ("{% raw %}x", '"raw" is not ended'),
        ("{{ '\\ud800' }}", "this template makes half of a surrogate pair, which is not a character"),
        ("{% foo %}", 'unknown statement "foo"'),
    ],
)
def test_what_is_refused(text: str, message: str) -> None:
    assert refused(text) == message


@pytest.mark.parametrize(
    "text",
    [
        "{{ 'a' * 10**9 }}",
        "{{ 'aaaaaaaaaa' * 10 * 10 * 10 * 10 * 10 * 10 }}",
        "{{ 9 ** 9 ** 9 }}",
        "{{ 9 ** 64 ** 2 }}",
        "{{ 99999999999999999999 }}",
        "{{ " + "9" * 6000 + " }}",
        "{{ 1e308 * 10 }}",
        "{{ range(10 ** 12) }}",
        "{{ range(-(2 ** 62), 2 ** 62) }}",
        "{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}",
        "{% for a in range(9999) %}" + "{{ ref }}" * 50 + "{% endfor %}",
        "{{ ref | replace('', 'x' * 9999) | replace('', 'x' * 9999) }}",
        "{{ words | join('x' * 60000) | upper }}",
        "{{ 'a'.join(range(9999)) ~ 'b' * 60000 }}",
        "{% set a = [1] %}{% set b = [a, a] %}"
        + "".join(
            f"{{% set {y} = [{x}, {x}] %}}" for x, y in zip("bcdefghijklmnopqr", "cdefghijklmnopqrs", strict=True)
        )
        + "{{ s == s }}",
        "{{ " + "(" * 5000 + " }}",
        "{{ " + "not " * 3000 + "n }}",
        "{{ 1" + " + 1" * 3000 + " }}",
        "{{ n" + " | abs" * 500 + " }}",
        "{{ n }}" + "x" * 20000,
        "{% if n %}" * 500 + "{% endif %}" * 500,
        "{% for a in words %}" * 80 + "{% endfor %}" * 80,
    ],
)
def test_hostile_templates_end_in_a_diagnostic(text: str) -> None:
    assert refused(text)


def test_the_work_of_a_whole_profile_is_bounded() -> None:
    problems = Problems()
    renderer = Renderer(problems)
    text = "{% for a in range(2000) %}{{ a }}{% endfor %}"
    for number in range(200):
        renderer.scalar(Scalar(value=f"{text}{number}"), SCOPE)
    (diagnostic,) = problems.diagnostics
    assert diagnostic.message == "the templates of this profile do too much work together"


def test_bounds_hold_in_a_thread() -> None:
    said: list[str] = []
    thread = threading.Thread(target=lambda: said.append(refused("{{ " + "(" * 3000 + " }}")))
    thread.start()
    thread.join()
    assert said == ["this template is nested too deeply"]


def test_a_text_may_be_as_long_as_the_bound() -> None:
    assert len(render("{{ 'a' * " + str(LONGEST_TEXT) + " }}")) == LONGEST_TEXT
    assert STEPS_A_SCALAR > LONGEST_TEXT // 64


def test_a_mapping_is_taken_where_it_is_asked_for() -> None:
    assert render("{{ map }}", mapping=True) == {"k": "v", "a": "b"}


def test_what_is_made_with_sensitive_names_is_noted() -> None:
    problems = Problems()
    renderer = Renderer(problems)
    scope = TemplateScope(values={"token": "abcd", "n": 1}, sensitive=frozenset({"token"}))
    for text in ("Bearer {{ token }}", "{{ n }}", "{{ token == 'x' }}", "{{ [token | upper] }}"):
        renderer.scalar(Scalar(value=text), scope)
    assert renderer.secrets == {"Bearer abcd", "ABCD"}


TEMPLATES = st.sampled_from(["{{ n }}", "{{ words }}", "{{ mark }}", "x{{ ref }}", "{{ nope }}", "{{ map }}"])
LEAVES = st.one_of(st.integers(0, 9), st.booleans(), st.none(), st.text("ab:{}\n", max_size=4), TEMPLATES)
TREES = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc", min_size=1), inner, max_size=3)
)


def keys(node: Node) -> Any:
    """A tree's keys, and nothing else of it."""
    match node:
        case MapNode():
            return {str(key.value): keys(value) for key, value in node.entries}
        case ListNode():
            found = [keys(item) for item in node.items]
            return found if any(found) else None
    return None


@given(TREES, st.text(max_size=10), st.lists(st.text(max_size=5), max_size=3))
def test_rendering_never_adds_drops_or_renames_a_key(tree: Any, mark: str, words: list[str]) -> None:
    problems = Problems()
    before = node_of(tree)
    scope = TemplateScope(values={**VALUES, "mark": mark, "words": words})
    after = Renderer(problems).render(before, scope)
    if after is None:
        assert problems
    else:
        assert keys(after) == keys(before)


@given(TREES)
def test_what_holds_no_template_is_not_touched(tree: Any) -> None:
    node = node_of(tree)
    rendered = Renderer(Problems()).render(node, SCOPE)
    if "{{" not in str(tree):
        assert rendered is node or any(mark in str(tree) for mark in ("{%", "{#"))


@given(st.text(st.sampled_from("{}%#|n .(=)'[]*-+~\n"), max_size=40))
def test_any_template_gives_a_value_or_a_diagnostic(text: str) -> None:
    problems = Problems()
    made = Renderer(problems).render(Scalar(value=text, text=text), SCOPE)
    assert (made is not None) or problems


FOREIGN = [
    "{{.Name}}/{{.ID}}",
    "{{#each files}}{{this}}{{/each}}",
    "{{range .Items}}{{ . }}{{end}}",
    "${{ secrets.TOKEN }}",
    "${{ matrix.node-version }}",
    "{{{ body }}}",
    "{{> part}} {{^no}}{{! comment }}",
    "{{- .Values.x | quote -}}",
    "{% load static %}",
    "{{ item }} {{ lookup('env', 'X') }}",
    "echo ${#list} {{}}",
    "a {{ b",
    "{{ 'fine' }} {{.Name}} {{ 'fine' }}",
    "{{ 1 / 0 }}",
    "x: {# y",
    "one\ntwo {{.Three}}\nfour",
]


@pytest.mark.parametrize("text", FOREIGN)
def test_every_error_says_how_to_write_braces_of_another_program(load_text: Load, text: str) -> None:
    """The advice is taken until nothing is wrong: then the text is the one that was meant."""
    written = text
    for _ in range(10):
        profile = json.dumps({"sandboxes": {"a": {"image": "x", "command": ["x", written]}}})
        try:
            command = load_text(profile).sandboxes[0].spec.command
        except ProfileError as error:
            helped = error.diagnostics[0].help or ""
            advice = helped.partition("if the braces are meant for another program, write ")[2]
            raw = re.fullmatch(r"\{% raw %\}(.*)\{% endraw %\}", advice)
            mark = re.fullmatch(r"(\{\{ '(..)' \}\}) for \2", advice)
            assert raw or mark, str(error)
            old, new = (raw[1], advice) if raw else (mark[2], mark[1]) if mark else ("", "")
            written = written.replace(old, new, 1)
        else:
            assert command == ("x", text.replace("{{ 'fine' }}", "fine"))
            return
    pytest.fail(f"ten errors, the last for {written}")
