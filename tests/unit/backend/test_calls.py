"""Paths, queries and filters; lines of JSON; the engine's clock; calls on threads."""

from __future__ import annotations

import json
import threading
from urllib.parse import parse_qsl, unquote, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandboxrun.backend.docker.calls import json_lines, label_filter, quote, target
from sandboxrun.backend.docker.client import named, path_of
from sandboxrun.backend.errors import EngineError
from sandboxrun.threads import together


@given(st.text())
def test_quoting_can_be_undone_and_is_plain(text: str) -> None:
    quoted = quote(text.encode("utf-8", "replace").decode())
    assert unquote(quoted) == text.encode("utf-8", "replace").decode()
    assert quoted.isascii() and not set(quoted) & set("/?#& \r\n")


def test_targets() -> None:
    assert target("/a", None) == "/a"
    assert target("/a", {"b": None}) == "/a"
    found = urlsplit(target("/a", {"all": True, "v": False, "t": 0, "n": "a b&c", "x": None}))
    assert parse_qsl(found.query) == [("all", "1"), ("v", "0"), ("t", "0"), ("n", "a b&c")]


def test_filters() -> None:
    assert label_filter({}) is None
    assert label_filter({}, {"name": []}) is None
    text = label_filter({"a": "b", "c": None, "d": ""}, {"name": ["x"]})
    assert text is not None
    assert json.loads(text) == {"label": ["a=b", "c", "d="], "name": ["x"]}


def test_an_empty_id_is_never_sent() -> None:
    with pytest.raises(ValueError, match="cannot be empty"):
        path_of("containers", "")


def test_a_container_in_a_message() -> None:
    assert named("a" * 64) == "a" * 12
    assert named("demo-reviewer") == "demo-reviewer"


@given(st.lists(st.dictionaries(st.text(max_size=5), st.integers()), max_size=6), st.integers(1, 20))
def test_json_lines_in_any_pieces(objects: list[dict[str, int]], piece: int) -> None:
    data = b"".join(json.dumps(o).encode() + b"\r\n" for o in objects)
    pieces = [data[i : i + piece] for i in range(0, len(data), piece)]
    assert list(json_lines(pieces, "reading")) == objects


def test_a_last_line_without_an_end() -> None:
    assert list(json_lines([b'{"a": 1}\n{"b"', b": 2}"], "reading")) == [{"a": 1}, {"b": 2}]
    assert list(json_lines([b'{"a": 1}\n{"b": '], "reading")) == [{"a": 1}]


@pytest.mark.parametrize("line", [b"nonsense\n", b"[1]\n", b"\xff\n"])
def test_lines_that_are_no_objects(line: bytes) -> None:
    with pytest.raises(EngineError, match="reading: the engine sent a line that is not"):
        list(json_lines([line], "reading"))


def test_an_endless_line_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sandboxrun.backend.docker.calls.MAX_LINE", 10)
    with pytest.raises(EngineError, match="longer than 10 bytes"):
        list(json_lines([b"a" * 11], "reading"))


def test_together_keeps_the_order_and_uses_threads() -> None:
    barrier = threading.Barrier(3)

    def call(number: int) -> int:
        barrier.wait(timeout=30)
        return number * number

    assert together(call, range(9), workers=3) == tuple(n * n for n in range(9))


@pytest.mark.parametrize("workers", [1, 3])
def test_together_raises_the_failure(workers: int) -> None:
    begun: list[int] = []

    def call(number: int) -> int:
        begun.append(number)
        raise EngineError("calling", str(number))

    with pytest.raises(EngineError, match="calling"):
        together(call, range(100), workers=workers)
    assert len(begun) <= workers


def test_together_of_nothing() -> None:
    assert together(str, [], workers=4) == ()
