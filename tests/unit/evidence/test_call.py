from __future__ import annotations

import threading
import time

import pytest

from sandboxrun.evidence.capture import Call


def test_what_a_call_gives_or_raises_comes_through() -> None:
    assert Call("a", lambda: 1).result(time.monotonic() + 30) == 1
    failing = Call("b", lambda: 1 // 0)
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            failing.result(time.monotonic() + 30)


def test_a_call_that_hangs_is_given_up() -> None:
    release = threading.Event()
    hanging = Call("c", release.wait)
    with pytest.raises(TimeoutError):
        hanging.result(time.monotonic())
    release.set()
    assert hanging.result(time.monotonic() + 30) is True
