"""`sandboxrun wait`: until sandboxes have ended."""

from __future__ import annotations

from collections.abc import Mapping

import click

from sandboxrun.cli import options as opt
from sandboxrun.cli.changing import Telling
from sandboxrun.cli.output import hidden, note, result
from sandboxrun.cli.project import load_profile, open_engine, open_store, settings


@click.command()
@opt.taking(opt.names, *opt.PROJECT, opt.timeout_of_wait, opt.as_json, *opt.SPOKEN)
def wait(given: opt.Given, timeout: float | None) -> int:
    """Wait until sandboxes have ended; NAME is one, or all of a for_each. Without NAME, all.

    Prints their exit codes, and exits with the first that is not 0. Enforces the profile's timeouts meanwhile.
    """
    profile = load_profile(given)
    from sandboxrun.backend.owner import process_began
    from sandboxrun.lifecycle.waits import wait_for, without_code
    from sandboxrun.plan.planner import select
    from sandboxrun.spec.outcome import first_failure

    chosen = select(profile, given.names)
    store = open_store(profile, given)
    with open_engine(given.host, parallelism=max(4, 2 * len(chosen) + 2)) as engine, Telling(given) as telling:
        note(f"waiting for {', '.join(s.address for s in chosen)}", quiet=not given.verbose)
        how = settings(given, telling.listener, telling.waiting, began=process_began(), glance=telling.glance)
        found = wait_for(engine, profile, store, chosen, patience=timeout, settings=how)
    result(
        {hidden(a): code for a, code in found.items()}
        if given.as_json
        else codes_table(found, without_code(store, profile, found))
    )
    return first_failure(found.values())


def codes_table(codes: Mapping[str, int | None], others: Mapping[str, str]) -> str:
    """The codes for people; `others` is what is said of those that have none."""
    rows = [(address, others[address] if code is None else str(code)) for address, code in codes.items()]
    from sandboxrun.report.table import table

    return table(("SANDBOX", "EXIT CODE"), rows)
