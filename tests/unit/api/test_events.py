"""`on_event`: told by a function or a coroutine function, and one that fails disturbs nothing."""

from __future__ import annotations

import asyncio

import pytest

from sandboxrun.api.service import Notifier, SandboxCreated, SandboxEnded, SandboxEvent
from sandboxrun.errors import UsageError

MADE = SandboxCreated(name="a", run="0" * 32, container_id="1" * 64)
ENDED = SandboxEnded(name="a", run="0" * 32, container_id="1" * 64, exit_code=3)


def test_a_function_is_told_at_once() -> None:
    told = list[SandboxEvent]()
    tell = Notifier(told.append)
    tell(MADE)
    tell(ENDED)
    assert told == [MADE, ENDED]
    assert tell.errors == ()


def test_a_function_that_fails_is_reported_and_told_the_next_event() -> None:
    told = list[SandboxEvent]()

    def fail(event: SandboxEvent) -> None:
        told.append(event)
        raise ValueError(event.name)

    tell = Notifier(fail)
    for _ in range(150):
        tell(MADE)
    assert len(told) == 150
    assert len(tell.errors) == 100 and all(isinstance(error, ValueError) for error in tell.errors)


def test_nobody_needs_to_listen() -> None:
    Notifier(None)(MADE)


def test_a_coroutine_function_is_told_on_its_loop() -> None:
    told = list[SandboxEvent]()

    async def hear(event: SandboxEvent) -> None:
        await asyncio.sleep(0)
        told.append(event)
        if event == ENDED:
            raise ValueError("heard enough")

    async def main() -> Notifier:
        tell = Notifier(hear)
        await asyncio.to_thread(tell, MADE)
        await asyncio.to_thread(tell, ENDED)
        while not tell.errors:
            await asyncio.sleep(0.01)
        return tell

    tell = asyncio.run(main())
    assert told == [MADE, ENDED]
    assert [str(error) for error in tell.errors] == ["heard enough"]
    tell(MADE)  # the loop is closed
    assert isinstance(tell.errors[-1], RuntimeError)


def test_a_coroutine_function_needs_a_loop() -> None:
    async def hear(event: SandboxEvent) -> None:
        pass

    with pytest.raises(UsageError, match="no event loop runs"):
        Notifier(hear)
