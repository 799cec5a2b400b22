"""`sandboxrun destroy`: everything of the project off the engine, its evidence kept."""

from __future__ import annotations

import os

import click

from sandboxrun.cli import options as opt


@click.command()
@opt.taking(*opt.PROJECT, opt.target, opt.parallelism, opt.lock_timeout, opt.yes, opt.as_json, *opt.SPOKEN)
def destroy(given: opt.Given) -> int:
    """Save all evidence of the project, then remove its sandboxes. Asks first, unless -y."""
    from sandboxrun.backend.docker.client import import_ahead
    from sandboxrun.cli.changing import Telling
    from sandboxrun.cli.confirming import Asking
    from sandboxrun.cli.project import load_profile, open_engine, open_store
    from sandboxrun.cli.signals import CleanStop

    opt.check_json_asks_nobody(given)
    import_ahead()
    profile = load_profile(given)
    from sandboxrun.lifecycle import apply as converge

    with (
        CleanStop() as stopping,
        open_engine(given.host, given.parallelism) as engine,
        Telling(given, given.as_json) as telling,
    ):
        settings = converge.ApplySettings(
            parallelism=given.parallelism,
            lock_wait=given.lock_timeout,
            listener=telling.listener,
            on_wait=telling.waiting,
            stop=stopping.stop,
            environment=os.environ,
        )
        asking = Asking("destroy", yes=given.yes, show=telling.plan, begin=stopping.before(telling.begin))
        outcome = converge.destroy(
            engine, profile, open_store(profile, given), targets=given.targets, settings=settings, confirm=asking
        )
        telling.ended(outcome)
        return stopping.exit_code(1 if asking.declined else 0)
