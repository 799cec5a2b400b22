from __future__ import annotations

import threading
import time

import pytest

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
