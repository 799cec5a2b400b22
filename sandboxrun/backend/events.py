"""What an apply tells while it works: one event a step's beginning, progress and end. Pure data."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

from sandboxrun.data import Data
from sandboxrun.errors import SandboxrunError
from sandboxrun.plan.operations import Operation


class Planned(Data):
    """A plan is about to be carried out: the steps to come. One command may carry out several, one after another."""

    operations: tuple[Operation, ...]


class StepStarted(Data):
    """A step begins."""

    step: Operation


class StepProgress(Data):
    """A step that takes long says how far it is: a layer pulled, a condition waited for."""

    step: Operation
    text: str


class StepDone(Data):
    """A step ended well, after `seconds`."""

    step: Operation
    seconds: float
    note: str = ""


class StepFailed(Data):
    """A step failed."""

    step: Operation
    error: SandboxrunError


class StepSkipped(Data):
    """A step was not done: one that it needs failed. `why` is "" where that is a dependency's end, no fault of ours."""

    step: Operation
    why: str


class Undone(Data):
    """What this apply had made and could not finish was removed again."""

    address: str
    what: str


Event = Planned | StepStarted | StepProgress | StepDone | StepFailed | StepSkipped | Undone
Listener = Callable[[Event], None]


def silent(event: Event) -> None:
    """A listener that does nothing."""


def guarded(listener: Listener) -> Listener:
    """The listener, unable to raise: whoever listens must not stop an apply, nor leave its workers waiting."""

    def tell(event: Event) -> None:
        with contextlib.suppress(Exception):
            listener(event)

    return tell
