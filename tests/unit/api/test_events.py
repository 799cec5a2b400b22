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


def test_what_returns_a_coroutine_is_told_as_a_coroutine_function() -> None:
    told = list[SandboxEvent]()

    async def hear(event: SandboxEvent) -> None:
        told.append(event)

    class Hearer:
        async def __call__(self, event: SandboxEvent) -> None:
            told.append(event)

    async def main() -> tuple[BaseException, ...]:
        errors: tuple[BaseException, ...] = ()
        for on_event in (lambda event: hear(event), Hearer(), lambda event: asyncio.ensure_future(hear(event))):
            tell = Notifier(on_event)
            tell(MADE)
            errors += tell.errors
        while len(told) < 3:
            await asyncio.sleep(0.01)
        return errors

    assert asyncio.run(asyncio.wait_for(main(), 30)) == ()
    assert told == [MADE] * 3


def test_a_coroutine_that_no_loop_can_run_is_an_error() -> None:
    async def hear(event: SandboxEvent) -> None:
        raise AssertionError

    tell = Notifier(lambda event: hear(event))
    tell(MADE)
    assert [type(error) for error in tell.errors] == [UsageError]
