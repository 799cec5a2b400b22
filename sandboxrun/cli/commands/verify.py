"""`sandboxrun verify`: whether each restriction really holds."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from sandboxrun.cli import options as opt
from sandboxrun.cli.output import coloured, note, result, terminal_width

_CONNECTIONS = 16  # of the probes that run side by side, four each

if TYPE_CHECKING:
    from sandboxrun.probe.verdicts import Finding
    from sandboxrun.report.verify import Report
    from sandboxrun.spec.project import Profile


@click.command()
@opt.names
@opt.on_project
@click.option("--running", is_flag=True, help="Inspect running sandboxes from outside, without entering them.")
@opt.format_of("text", "json", "markdown")
@opt.as_json
@opt.parallelism
@opt.lock_timeout
@opt.telling
def verify(
    names: tuple[str, ...],
    given: opt.Given,
    host: str | None,
    running: bool,
    form: str | None,
    as_json: bool,
    parallelism: int,
    lock_timeout: float,
    talk: opt.Talk,
) -> int:
    """Show whether each restriction holds: the expected value, the seen value, and the verdict.

    Starts each sandbox with its own options and a probe as its command, and a weak one for comparison, in which each
    attempt must succeed. NAME is one, or all of a for_each; without NAME, all. Exits with 1 if
    something does not hold or is inconclusive.
    """
    from sandboxrun.cli.project import load_profile
    from sandboxrun.report.verify import Report

    form = opt.chosen_format(form, as_json)
    profile = load_profile(given)
    if running:
        found = _running(profile, names, given, host, parallelism)
    else:
        found = _probed(profile, names, given, host, parallelism, lock_timeout, talk)
    report = Report(project=profile.project, findings=found, running=running, sensitive=profile.sensitive)
    result(report_in(form, report))
    return 0 if report.verified else 1


def _running(
    profile: Profile, names: tuple[str, ...], given: opt.Given, host: str | None, parallelism: int
) -> tuple[Finding, ...]:
    from sandboxrun.cli.project import open_engine, open_store
    from sandboxrun.lifecycle.running import verify_running

    with open_engine(host, parallelism) as engine:
        return verify_running(engine, profile, open_store(profile, given), names)


def _probed(
    profile: Profile,
    names: tuple[str, ...],
    given: opt.Given,
    host: str | None,
    parallelism: int,
    lock_timeout: float,
    talk: opt.Talk,
) -> tuple[Finding, ...]:
    import os

    from sandboxrun.cli.project import open_engine
    from sandboxrun.cli.signals import Forwarding
    from sandboxrun.lifecycle.apply import ApplySettings
    from sandboxrun.lifecycle.probing import Interrupted
    from sandboxrun.lifecycle.verify import Verification
    from sandboxrun.plan.planner import select

    chosen = select(profile, names)
    with open_engine(host, max(parallelism, _CONNECTIONS)) as engine:
        forwarding = Forwarding(lambda event: None)
        settings = ApplySettings(
            parallelism=parallelism,
            lock_wait=lock_timeout,
            listener=forwarding.listener,
            on_wait=lambda text: note(text, quiet=not talk.verbose),
            environment=os.environ,
        )
        verification = Verification(engine, profile, settings, tell=lambda text: note(text, quiet=not talk.verbose))
        try:
            with forwarding.to(verification.signal):
                return verification.run(chosen)
        except Interrupted as error:
            error.exit_code = forwarding.exit_code(0)
            raise


def report_in(form: str, report: Report) -> str | dict[str, Any]:
    """The report in one of the formats."""
    match form:
        case "json":
            from sandboxrun.report.verify import verify_json

            return verify_json(report)
        case "markdown":
            from sandboxrun.report.verify import verify_markdown

            return verify_markdown(report)
    from sandboxrun.report.verify import verify_text

    return verify_text(report, width=terminal_width(), colour=coloured(sys.stdout))
