"""Sandboxes that were not started because what they depend on failed.

Owns the words, and the one exit code that several runs come to. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from sandboxrun.apply.waiting import DependencyFailed
from sandboxrun.errors import ExitCode

if TYPE_CHECKING:
    from sandboxrun.apply.executor import Applied
    from sandboxrun.model.declared import Profile


def not_started(profile: Profile, applied: Applied) -> Mapping[str, str]:
    """Address → why, as in `not started: prepare exited with 1`; empty unless failed dependencies were all that failed.

    Who depends on one that was not started was not started either.
    """
    if not applied.dependencies_failed:
        return {}
    reasons: dict[str, list[str]] = {}
    for failure in applied.failures:
        if isinstance(failure.error, DependencyFailed):
            reasons.setdefault(failure.error.address, []).append(f"{failure.error.dependency} {failure.error.ending}")
    waiting = {address for address in applied.left_out if address not in reasons}
    while waiting:
        found = {address: why for address in waiting if (why := _because(profile, address, reasons))}
        if not found:
            break
        reasons |= found
        waiting -= found.keys()
    return {address: f"not started: {'; '.join(why)}" for address, why in reasons.items()}


def _because(profile: Profile, address: str, reasons: Mapping[str, list[str]]) -> list[str]:
    sandbox = profile.sandbox(address)
    needed = sandbox.depends_on if sandbox is not None else ()
    return [f"{other} was not started" for other in needed if other in reasons]


def overall(codes: Iterable[int], *, blocked: bool) -> int:
    """The first of the codes that is not 0; 125 where all are 0 and a sandbox was not started all the same."""
    return next((code for code in codes if code != 0), ExitCode.NOT_RUN if blocked else 0)
