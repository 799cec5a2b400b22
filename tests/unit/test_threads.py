from __future__ import annotations

import os
import signal
import threading
import time
from contextvars import ContextVar
from functools import partial

import pytest

from sandboxrun import threads
from sandboxrun.threads import Aside


def test_what_a_call_gives_or_raises_comes_through() -> None:
    assert Aside(lambda: 1, name="a").result(time.monotonic() + 30) == 1
    failing = Aside(lambda: 1 // 0, name="b")
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            failing.result(time.monotonic() + 30)


def test_a_call_that_hangs_is_given_up() -> None:
    release = threading.Event()
    hanging = Aside(release.wait, name="c")
    with pytest.raises(TimeoutError):
        hanging.result(time.monotonic())
    release.set()
    assert hanging.result(time.monotonic() + 30) is True


def test_calls_that_follow_each_other_share_a_thread_and_those_under_way_do_not() -> None:
    seen = {Aside(threading.get_ident, name=f"{n}").result() for n in range(50)}
    assert len(seen) < 50
    barrier = threading.Barrier(9)  # broken unless all of them are in it at once
    for call in [Aside(lambda: barrier.wait(30), name=f"{n}") for n in range(8)]:
        assert call.alive
    barrier.wait(30)


def test_each_call_has_the_name_and_the_context_of_who_began_it() -> None:
    told: ContextVar[str] = ContextVar("told")

    def look() -> tuple[str, str]:
        return threading.current_thread().name, told.get("")

    for name in ("one", "two"):
        told.set(name)
        assert Aside(look, name=name).result() == (name, name)


def test_a_thread_without_work_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "_IDLE", 0.01)
    helper = Aside(threading.current_thread, name="brief").result()
    helper.join(30)
    assert not helper.is_alive()


def test_a_call_that_comes_as_a_thread_gives_up_waiting_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "_IDLE", 0.0001)
    for n in range(300):
        assert Aside(partial(int, n), name="again").result(time.monotonic() + 30) == n
        time.sleep(n % 3 / 20_000)


def test_after_a_fork_objects_that_live_begin_again_in_the_child_alone() -> None:
    class Held:
        def __init__(self, lock: threading.Lock) -> None:
            self.lock = lock

        def begin(self) -> None:
            assert not self.lock.locked()  # those that were told before it have begun already
            self.lock = threading.Lock()

    class First(Held):
        def begin(self) -> None:
            last.lock = self.lock = threading.Lock()

    lock = threading.Lock()
    first, gone, last = First(lock), Held(lock), Held(lock)
    for held in (first, gone, last):
        threads.after_fork(held.begin)
    del gone, held
    with lock:
        if (child := os.fork()) == 0:
            signal.alarm(60)
            os._exit(0 if first.lock.acquire(blocking=False) and last.lock is not lock else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert first.lock is last.lock is lock
