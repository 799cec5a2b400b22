from __future__ import annotations

import os
import threading
import time
import warnings
from contextvars import ContextVar

import pytest

from sandboxrun.threads import _IDLE, Aside, _idle, together
from tests.conftest import until


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


def test_no_call_waits_for_one_that_hangs() -> None:
    release = threading.Event()
    hanging = [Aside(release.wait, name="hangs") for _ in range(100)]
    assert Aside(lambda: 1, name="beside").result(time.monotonic() + 30) == 1
    assert all(aside.alive for aside in hanging)
    release.set()
    assert all(aside.result(time.monotonic() + 30) for aside in hanging)


def test_many_calls_one_after_another_take_few_threads() -> None:
    threads = set[int]()
    for _ in range(200):
        threads.add(Aside(threading.get_ident, name="next").result(time.monotonic() + 30))
        until(lambda: len(_idle) > 0)  # one that has just told its result may still be on its way back
    assert len(threads) <= _IDLE + 1


def test_a_call_has_the_context_of_who_makes_it_and_leaves_none() -> None:
    where = ContextVar("where", default="nowhere")
    token = where.set("here")
    assert Aside(where.get, name="in context").result(time.monotonic() + 30) == "here"
    where.reset(token)
    assert {Aside(where.get, name="after").result(time.monotonic() + 30) for _ in range(40)} == {"nowhere"}


def test_a_forked_process_does_not_rely_on_threads_that_it_lacks() -> None:
    Aside(lambda: 1, name="before").result(time.monotonic() + 30)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it has threads is what this is about
        child = os.fork()
    if child == 0:
        try:
            os._exit(Aside(lambda: 7, name="in the child").result(time.monotonic() + 30))
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


def test_after_a_failure_nothing_more_is_begun() -> None:
    begun = list[int]()

    def call(number: int) -> int:
        begun.append(number)
        return 1 // (number - 1)

    with pytest.raises(ZeroDivisionError):
        together(call, range(1000), workers=2)
    assert len(begun) < 1000
    assert together(lambda number: -number, range(100), workers=4) == tuple(range(0, -100, -1))
