"""How output reaches its consumer: all of it, in order, at once, and no more at a time than may wait."""

from __future__ import annotations

import threading
from collections.abc import Callable
from itertools import groupby

import pytest

from sandboxrun.lifecycle.watch import BATCH, ROOM, Relay
from tests.conftest import until

Got = list[tuple[int, bytes]]
PIECE = 1000


def joined(pieces: Got) -> Got:
    """Neighbours of one stream as one."""
    return [(stream, b"".join(data for _, data in part)) for stream, part in groupby(pieces, lambda piece: piece[0])]


@pytest.fixture
def got() -> Got:
    return []


@pytest.fixture
def take(got: Got) -> Callable[[int, bytes], None]:
    return lambda stream, data: got.append((stream, data))


def test_all_of_it_comes_in_order_and_in_bounded_parts(got: Got, take: Callable[[int, bytes], None]) -> None:
    pieces = [(1 if number % 700 else 2, f"{number:<{PIECE}}".encode()) for number in range(5000)]
    relay = Relay("a", take)
    for stream, data in pieces:
        relay.put(stream, data)
    relay.close()
    assert relay.wait(60) and joined(got) == joined(pieces)
    assert max(len(data) for _, data in got) < BATCH + PIECE
    assert relay.failure is None and relay.dropped == 0


def test_a_piece_comes_though_nothing_follows_it(got: Got, take: Callable[[int, bytes], None]) -> None:
    relay = Relay("a", take)
    for number in range(3):
        relay.put(1, b"prompt> ")
        until(lambda n=number: len(got) > n, "what was written stays behind until more is")
    relay.close()
    assert relay.wait(60)


@pytest.mark.parametrize("piece", [PIECE, BATCH, ROOM, 3 * ROOM])
def test_who_waits_for_room_goes_on_once_there_is_some(
    piece: int, got: Got, take: Callable[[int, bytes], None]
) -> None:
    reads, count = threading.Event(), 4 * ROOM // piece + 3

    def slow(stream: int, data: bytes) -> None:
        reads.wait(60)
        take(stream, data)

    relay, put = Relay("a", slow), list[int]()

    def write() -> None:
        for number in range(count):
            relay.put(1, b"x" * piece)
            put.append(number)
        relay.close()

    writer = threading.Thread(target=write, daemon=True)
    writer.start()
    until(lambda: relay._waiting >= ROOM)
    assert len(put) < count and not got
    reads.set()
    writer.join(60)
    assert not writer.is_alive() and relay.wait(60)
    assert sum(len(data) for _, data in got) == count * piece and relay.dropped == 0


def test_a_consumer_that_fails_keeps_nobody_waiting() -> None:
    def fails(stream: int, data: bytes) -> None:
        raise ValueError("no more")

    relay = Relay("a", fails)
    for _ in range(5):
        relay.put(1, b"x" * ROOM)
    assert relay.wait(60) and isinstance(relay.failure, ValueError)
    relay.put(1, b"x")
    assert relay.dropped >= ROOM
