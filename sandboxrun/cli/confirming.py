"""Shows a plan and asks before it is carried out."""

from __future__ import annotations

import sys
from collections.abc import Callable

import click

from sandboxrun.errors import UsageError
from sandboxrun.plan.changes import Plan


class Asking:
    """What apply and destroy call with the plan they have made, under the project's lock.

    `show` prints the plan, `begin` is told that changing begins. `declined` is True once the user has said no.
    """

    def __init__(
        self,
        command: str,
        *,
        yes: bool,
        show: Callable[[Plan], None],
        begin: Callable[[Plan], None],
    ) -> None:
        self._command, self._yes, self._show, self._begin = command, yes, show, begin
        self.declined = False

    def __call__(self, plan: Plan) -> bool:
        """Whether to go on. Raises UsageError where there is nobody to ask."""
        self._show(plan)
        if not plan.empty and not self._yes and not plan.refresh_only:
            if not sys.stdin.isatty():
                raise UsageError(
                    f"{self._command} asks before it changes anything, and there is no terminal",
                    help="nothing was changed; review the plan above, then pass --yes",
                )
            sys.stdout.flush()
            self.declined = not click.confirm(f"\n{self._question(plan)}", err=True)
        if not self.declined:
            self._begin(plan)
        return not self.declined

    def _question(self, plan: Plan) -> str:
        return "Remove all of this?" if plan.destroy else "Carry this out?"
