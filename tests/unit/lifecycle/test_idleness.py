"""What counts as doing nothing: by output and CPU time, and what is not known never does."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from sandboxrun.lifecycle import watch
from sandboxrun.lifecycle.watch import Idleness
from sandboxrun.spec.state import Sample

BEGAN = datetime(2026, 1, 1, tzinfo=UTC)


class Clock:
    """Both clocks: this machine's, and the engine's, on which samples are dated."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(watch, "monotonic", lambda: self.now)
        self.idleness = Idleness()

    def sample(self, after: float, cpu: float | None) -> None:
        """`after` seconds pass, then a sample of `cpu` seconds used in all is taken."""
        self.now += after
        time = (BEGAN + timedelta(seconds=self.now)).isoformat()
        self.idleness.used(Sample(time=time, cpu_ns=None if cpu is None else round(cpu * 1e9)))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def test_without_output_and_use_it_is_idle(clock: Clock) -> None:
    for n in range(4):
        assert not clock.idleness.lasts(3), n
        clock.sample(1, 5.0)
    clock.sample(1, 5.0)
    assert clock.idleness.lasts(3)


@pytest.mark.parametrize(("share", "idle"), [(0.0, True), (0.009, True), (0.011, False), (1.0, False), (3.5, False)])
def test_more_than_one_per_cent_of_one_cpu_is_use(clock: Clock, share: float, idle: bool) -> None:
    for n in range(10):
        clock.sample(2, n * 2 * share)
    assert clock.idleness.lasts(6) == idle


def test_use_in_the_past_does_not_count_for_ever(clock: Clock) -> None:
    clock.sample(1, 0)
    clock.sample(1, 1)  # busy
    clock.sample(2, 1)
    assert not clock.idleness.lasts(3)
    clock.sample(1, 1)
    assert clock.idleness.lasts(3)


def test_output_counts_too(clock: Clock) -> None:
    for _ in range(5):
        clock.sample(1, 0)
        clock.idleness.wrote()
    assert not clock.idleness.lasts(1)


def test_what_is_not_known_is_not_idle(clock: Clock) -> None:
    clock.now += 100
    assert not clock.idleness.lasts(3), "no sample yet"
    clock.sample(1, None)
    clock.sample(1, None)
    assert not clock.idleness.lasts(3), "the engine shows no CPU time"
    clock.sample(1, 0)
    clock.sample(4, 0)
    clock.now += 100
    assert clock.idleness.lasts(3), "idle up to that sample"
    clock.idleness.wrote()
    clock.now += 100
    assert not clock.idleness.lasts(3), "no sample since then"


def test_output_that_can_not_be_heard_is_not_silence(clock: Clock) -> None:
    clock.idleness.deaf = True
    for _ in range(9):
        clock.sample(1, 0)
    assert not clock.idleness.lasts(3)


def test_an_engine_whose_clock_was_set_back_starts_again(clock: Clock) -> None:
    clock.sample(1, 0)
    clock.idleness.used(Sample(time=(BEGAN - timedelta(days=1)).isoformat(), cpu_ns=10**12))
    for _ in range(5):
        clock.sample(1, 0)
    assert clock.idleness.lasts(3)
