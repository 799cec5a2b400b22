"""The gate: several together, one alone, one hold of the lock."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from sandboxrun.api import service as gates
from sandboxrun.api.service import Gate


class Lock:
    """Counts how often it is taken, and that it is never taken twice at once."""

    def __init__(self) -> None:
        self.taken = 0
        self.held = False
        self.fails = False

    @contextmanager
    def hold(self) -> Iterator[gates.StillHeld]:
        if self.fails:
            raise KeyError("held by another")
        assert not self.held
        self.taken, self.held = self.taken + 1, True
        try:
            yield lambda: None
        finally:
            self.held = False


def start(target: object) -> threading.Thread:
    thread = threading.Thread(target=target, daemon=True)  # type: ignore[arg-type]
    thread.start()
    return thread


def test_several_share_one_hold() -> None:
    lock, meet = Lock(), threading.Barrier(3)
    gate = Gate(lock.hold)

    def work() -> None:
        with gate.together() as check:
            check()
            meet.wait(30)

    threads = [start(work) for _ in range(3)]
    for thread in threads:
        thread.join(30)
    assert (lock.taken, lock.held) == (1, False)


def test_one_alone_waits_for_those_inside_and_goes_before_later_ones() -> None:
    lock, order, release = Lock(), list[str](), threading.Event()
    gate = Gate(lock.hold)
    inside = threading.Event()

    def first() -> None:
        with gate.together():
            inside.set()
            release.wait(30)
            order.append("first")

    def alone() -> None:
        with gate.alone():
            order.append("alone")

    def later() -> None:
        with gate.together():
            order.append("later")

    threads = [start(first)]
    assert inside.wait(30)
    threads.append(start(alone))
    while not gate._wanted:
        pass
    threads.append(start(later))
    release.set()
    for thread in threads:
        thread.join(30)
    assert order == ["first", "alone", "later"]
    assert lock.taken == 3


def test_nobody_is_let_in_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gates, "LONGEST", -1.0)
    lock = Lock()
    gate = Gate(lock.hold)
    left = threading.Event()

    def later() -> None:
        with gate.together():
            left.set()

    with gate.together():
        thread = start(later)
        assert not left.wait(0.1)
    thread.join(30)
    assert left.is_set() and lock.taken == 2


@pytest.mark.parametrize("way", ["together", "alone"])
def test_a_lock_that_cannot_be_taken_leaves_the_gate_open(way: str) -> None:
    lock = Lock()
    gate = Gate(lock.hold)
    lock.fails = True
    with pytest.raises(KeyError), getattr(gate, way)():
        pass
    lock.fails = False
    with gate.together():
        pass
    with gate.alone():
        pass
    assert lock.taken == 2


def test_an_error_inside_gives_the_lock_back() -> None:
    lock = Lock()
    gate = Gate(lock.hold)
    with pytest.raises(ValueError), gate.together():
        raise ValueError
    with pytest.raises(ValueError), gate.alone():
        raise ValueError
    assert not lock.held


def test_who_is_interrupted_while_it_waits_to_be_alone_keeps_nobody_out() -> None:
    gate, left = Gate(Lock().hold), threading.Event()

    def later() -> None:
        with gate.together():
            left.set()

    def interrupt(*_: object) -> None:
        start(later)
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        with gate.together():
            signal.setitimer(signal.ITIMER_REAL, 0.1)
            with pytest.raises(KeyboardInterrupt), gate.alone():
                pass
            assert left.wait(30)
    finally:
        signal.signal(signal.SIGALRM, before)
    with gate.alone():
        pass
