"""The one table of exit codes: what each ending stands for, and what several come to."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from sandboxrun.spec.state import Ending, How, first_failure

NOT_RUN = 125
CODES = {  # the code that the engine shows → the exit code
    How.EXITED: {0: 0, None: NOT_RUN},
    How.FAILED: {3: 3, 139: 139, None: NOT_RUN},
    How.OOM: {137: 137, 0: 137, None: 137},
    How.TIMEOUT: {0: 124, 137: 124, None: 124},
    How.KILLED: {143: 143, 7: 7, 0: 143, None: 143},
    How.ENGINE_LOST: {255: NOT_RUN, None: NOT_RUN},
    How.UNKNOWN: {137: NOT_RUN, None: NOT_RUN},
    How.NOT_STARTED: {127: NOT_RUN, None: NOT_RUN},
}


def test_every_ending_has_its_exit_code() -> None:
    found = {how: {code: Ending(how=how, exit_code=code).code for code in CODES[how]} for how in How}
    assert found == CODES


@pytest.mark.parametrize(
    ("codes", "blocked", "code"),
    [
        ([], False, 0),
        ([0, 0], False, 0),
        ([0, 3, 4], False, 3),
        ([None, 4], False, NOT_RUN),
        ([0, 3, 4], True, 3),
        ([0], True, NOT_RUN),
        ([], True, NOT_RUN),
    ],
)
def test_several_come_to_the_first_that_is_not_0(codes: Sequence[int | None], blocked: bool, code: int) -> None:
    assert first_failure(codes, blocked=blocked) == code
