"""`sandboxrun verify`: whether each restriction really holds."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from sandboxrun.cli import options as opt
from sandboxrun.cli.output import coloured, note, result, tell_all, terminal_width

_CONNECTIONS = 16  # of the probes that run side by side, four each

if TYPE_CHECKING:
    from sandboxrun.probe.verdicts import Finding
    from sandboxrun.report.verify import Report
    from sandboxrun.spec.project import DeclaredSandbox, Profile


@click.command()
@opt.taking(
    opt.names,
    *opt.PROJECT,
    click.option("--running", is_flag=True, help="Inspect running sandboxes from outside, without entering them."),
    opt.format_of("text", "json", "markdown"),
    opt.as_json,
    opt.parallelism,
    opt.lock_timeout,
    *opt.SPOKEN,
)
def verify(given: opt.Given, running: bool) -> int:
    """Show whether each restriction holds: the expected value, the seen value, and the verdict.

    Starts each sandbox with its own options and a probe as its command, and a weak one for comparison, in which each
    attempt must succeed. NAME is one, or all of a for_each; without NAME, all. Exits with 1 if
    something does not hold or is inconclusive.
    """
    from sandboxrun.plan.planner import select
    from sandboxrun.plan.preflight import open_networks
    from sandboxrun.report.verify import Report

    form = opt.chosen_format(given)
    profile = opt.load_profile(given)
    chosen = profile.sandboxes if running else select(profile, given.names)
    tell_all(open_networks(chosen, profile))
    if running:
        from sandboxrun.lifecycle.running import verify_running

        with opt.open_engine(given.host, given.parallelism) as engine:
            found = verify_running(engine, profile, opt.open_store(profile, given), given.names)
    else:
        found = _probed(profile, chosen, given)
    report = Report.of(profile, found, running=running)
    result(report_in(form, report))
    return 0 if report.verified else 1


def _probed(profile: Profile, chosen: tuple[DeclaredSandbox, ...], given: opt.Given) -> tuple[Finding, ...]:
    from sandboxrun.cli.changing import Forwarding
    from sandboxrun.lifecycle.verify import Interrupted, Verification

    def tell(text: str) -> None:
        note(text, quiet=not given.verbose)

    with opt.open_engine(given.host, max(given.parallelism, _CONNECTIONS)) as engine:
        forwarding = Forwarding(lambda event: None)
        settings = opt.settings(given, forwarding.listener, tell)
        verification = Verification(engine, profile, settings, tell=tell)
        try:
            with forwarding.to(verification.signal):
                found = verification.run(chosen)
        except Interrupted as error:
            error.exit_code = forwarding.exit_code(0)
            raise
    tell_all(() if given.quiet else verification.notices)
    return found


def report_in(form: str, report: Report) -> str | dict[str, Any]:
    """The report in one of the formats."""
    from sandboxrun.report.verify import verify_json, verify_markdown, verify_text

    if form == "text":
        return verify_text(report, width=terminal_width(), colour=coloured(sys.stdout))
    return verify_json(report) if form == "json" else verify_markdown(report)
