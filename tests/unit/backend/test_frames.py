"""Frames of stdout and stderr, cut anywhere."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandboxrun.backend.docker.calls import demultiplex
from sandboxrun.backend.errors import EngineError

FRAMES = st.lists(st.tuples(st.sampled_from([1, 2]), st.binary(max_size=50)), max_size=10)


def frame(stream: int, payload: bytes) -> bytes:
    return bytes([stream, 0, 0, 0]) + len(payload).to_bytes(4, "big") + payload


def cut(data: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted(p % (len(data) + 1) for p in places), len(data)]
    return [data[a:b] for a, b in itertools.pairwise(edges)]


def joined(output: list[tuple[int, bytes]]) -> list[tuple[int, bytes]]:
    """Neighbours of one stream as one, empty ones left out."""
    found: list[tuple[int, bytes]] = []
    for stream, data in output:
        if found and found[-1][0] == stream:
            found[-1] = (stream, found[-1][1] + data)
        elif data:
            found.append((stream, data))
    return found


@given(FRAMES, st.lists(st.integers(0, 1000), max_size=8))
def test_frames_come_out_as_they_went_in(frames: list[tuple[int, bytes]], places: list[int]) -> None:
    data = b"".join(frame(*f) for f in frames)
    assert joined(list(demultiplex(cut(data, places), "reading"))) == joined(frames)


@given(FRAMES, st.integers(0, 1000))
def test_a_cut_stream_gives_what_arrived(frames: list[tuple[int, bytes]], end: int) -> None:
    data = b"".join(frame(*f) for f in frames)
    whole = b"".join(payload for _, payload in frames)
    got = b"".join(payload for _, payload in demultiplex([data[:end]], "reading"))
    assert whole.startswith(got)
    assert got == whole or end < len(data)


@given(st.lists(st.binary(max_size=100), max_size=5))
def test_any_bytes_are_output_or_an_error(pieces: list[bytes]) -> None:
    try:
        for stream, data in demultiplex(pieces, "reading"):
            assert stream in (1, 2) and data
    except EngineError as error:
        assert error.operation == "reading"


def test_stdin_counts_as_stdout() -> None:
    assert list(demultiplex([frame(0, b"x")], "reading")) == [(1, b"x")]


def test_a_large_frame_is_not_kept_back() -> None:
    header = bytes([2, 0, 0, 0]) + (2**32 - 1).to_bytes(4, "big")
    assert list(demultiplex([header + b"a", b"b"], "reading")) == [(2, b"a"), (2, b"b")]


def test_the_engines_own_message_is_an_error() -> None:
    data = frame(1, b"out") + frame(3, b"error from daemon in stream: no log.\n")
    output = demultiplex([data], "reading the logs")
    assert next(output) == (1, b"out")
    with pytest.raises(EngineError, match=r"reading the logs: error from daemon in stream: no log$"):
        next(output)


@pytest.mark.parametrize("header", [b"\x04\0\0\0\0\0\0\x01", b"\x01\0\x01\0\0\0\0\x01", b"plain text"])
def test_what_is_no_frame(header: bytes) -> None:
    with pytest.raises(EngineError, match=r"reading: the engine sent output that is not in frames$"):
        list(demultiplex([header], "reading"))
