"""Names of the engine's objects, sizes and durations, states and times."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandboxrun.backend.docker.codec import read_state
from sandboxrun.spec import types as units
from sandboxrun.spec.names import Names, address, container_name
from sandboxrun.spec.state import Created, Ended, Running, parse_time

TEXTS = st.text(max_size=60)


def test_addresses_and_container_names() -> None:
    assert address("a") == "a"
    assert address("a", 'say "hi"\\') == 'a["say \\"hi\\"\\\\"]'
    assert container_name("p", "a") == "p-a"
    assert container_name("p", "a", "lint") == "p-a-lint"
    assert container_name("p", "a", "py/3.10 x").startswith("p-a-py-3.10-x-")
    assert container_name("p", "a", "///").startswith("p-a-")


@given(one=TEXTS, other=TEXTS)
def test_two_of_a_for_each_never_share_a_name(one: str, other: str) -> None:
    if one != other:
        assert container_name("p", "a", one) != container_name("p", "a", other)
        assert address("a", one) != address("a", other)
    name = container_name("p", "a", one)
    assert all(c.isascii() and (c.isalnum() or c in "_.-") for c in name)
    assert len(name) < 80


@given(key=st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,20}", fullmatch=True))
def test_keys_and_engine_names(key: str) -> None:
    names = Names(project="p", given_networks={"x": "office"}, given_volumes={"x": "store"})
    assert names.network_key(names.network(key)) == key
    assert names.volume_key(names.volume(key)) == key
    assert names.network(names.network_key(key)) == key  # a name of the engine's that is none of ours
    assert names.network_key(key) != key


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("4096", 4096),
        ("1k", 1024),
        ("1KB", 1024),
        ("1 KiB", 1024),
        ("512m", 512 << 20),
        ("1.5g", 3 << 29),
        ("2t", 2 << 40),
        ("7b", 7),
    ],
)
def test_sizes(text: str, size: int) -> None:
    assert units.parse_size(text) == size


@pytest.mark.parametrize("text", ["", "m", "-1", "1x", "1.m", ".5g", "1e3", "9" * 30, "8388608t", "٣m", "1mm"])
def test_no_sizes(text: str) -> None:
    with pytest.raises(ValueError):
        units.parse_size(text)


@pytest.mark.parametrize(
    ("text", "nanoseconds"),
    [
        ("0", 0),
        ("0s", 0),
        ("30s", 30 * units.SECOND),
        ("1h30m", 5400 * units.SECOND),
        ("1.5s", 1_500_000_000),
        ("500ms", 500_000_000),
        ("2d", 172800 * units.SECOND),
        ("3us2ns", 3002),
        ("1µs", 1000),
    ],
)
def test_durations(text: str, nanoseconds: int) -> None:
    assert units.parse_duration(text) == nanoseconds


@pytest.mark.parametrize("text", ["", "5", "s", "1 s", "-1s", "1w", "1s2", "x1s", "9" * 20 + "h", "٣s"])
def test_no_durations(text: str) -> None:
    with pytest.raises(ValueError):
        units.parse_duration(text)


@given(st.integers(0, units.LARGEST))
def test_the_shortest_text_is_exact(number: int) -> None:
    assert units.parse_size(units.format_size(number)) == number
    assert units.parse_duration(units.format_duration(number)) == number


def test_an_engines_times() -> None:
    noon = datetime(2026, 1, 1, 12, tzinfo=UTC)
    assert parse_time("2026-01-01T12:00:00Z") == noon
    assert parse_time("2026-01-01T12:00:00.123456789Z") == noon.replace(microsecond=123456)
    assert parse_time("2026-01-01T13:00:00.5+01:00") == noon.replace(microsecond=500000)
    assert parse_time("0001-01-01T00:00:00Z") is parse_time(None) is parse_time("soon") is None


def test_states() -> None:
    began = "2026-01-01T12:00:00Z"
    never = "0001-01-01T00:00:00Z"
    assert read_state({"Status": "created", "StartedAt": never}) == Created()
    refused = read_state({"Status": "created", "StartedAt": never, "Error": "no such file", "ExitCode": 127})
    assert isinstance(refused, Ended) and (refused.exit_code, refused.error) == (127, "no such file")
    paused = read_state({"Running": True, "Paused": True, "StartedAt": began})
    assert isinstance(paused, Running) and paused.paused and paused.health is None
    sick = read_state({"Running": True, "StartedAt": began, "Health": {"Status": "unhealthy"}})
    assert isinstance(sick, Running) and sick.health == "unhealthy"
    again = read_state({"Restarting": True, "StartedAt": never})
    assert isinstance(again, Running)
    killed = read_state(
        {"Status": "exited", "ExitCode": 137, "OOMKilled": True, "StartedAt": began, "FinishedAt": began}
    )
    assert isinstance(killed, Ended) and killed.oom and killed.finished == killed.started


@pytest.mark.parametrize(
    ("size", "told"),
    [(0, "0 bytes"), (1000, "1000 bytes"), (512 << 20, "512 MiB"), (3 << 40, "3 TiB")],
)
def test_sizes_in_sentences(size: int, told: str) -> None:
    assert units.size_told(size) == told
