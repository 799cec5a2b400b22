"""`sandboxrun plan`: what apply would do."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sandboxrun.cli import options as opt
from sandboxrun.cli.output import coloured, note, result, tell_all, without_commands
from sandboxrun.errors import Diagnostic, UsageError, redact

if TYPE_CHECKING:
    from sandboxrun.plan.changes import Plan


@click.command()
@opt.taking(
    *opt.PROJECT,
    opt.policy,
    opt.target,
    opt.replace,
    opt.rerun,
    opt.refresh_only,
    click.option("--destroy", "destroying", is_flag=True, help="Show what destroy would do."),
    click.option("--offline", is_flag=True, help="Plan as if nothing existed yet. Needs no engine."),
    opt.out,
    opt.format_of("text", "json", "markdown", "github"),
    opt.as_json,
    opt.detailed_exitcode,
    opt.parallelism,
    *opt.SPOKEN,
)
def plan(given: opt.Given, destroying: bool, offline: bool, out: Path | None, detailed_exitcode: bool) -> int:
    """Show what apply would create, update in place, replace or tear down, and why. Changes nothing."""
    form = opt.chosen_format(given)
    profile = opt.load_profile(given)
    if not destroying:
        opt.enforced(profile, given)
    from sandboxrun.lifecycle import apply as planning
    from sandboxrun.plan.text import summary, warnings

    if destroying and (given.replace or given.rerun or given.refresh_only):
        raise UsageError("--destroy removes everything: it can be combined with --target only")
    if given.refresh_only and (given.replace or given.rerun):
        raise UsageError("--refresh-only plans no changes: it cannot be combined with --replace or --rerun")
    if offline and (destroying or given.refresh_only or given.replace or out is not None):
        raise UsageError(
            "--offline cannot be combined with --destroy, --refresh-only, --replace or --out",
            help="these depend on what is on the engine",
        )
    store, chosen = opt.open_store(profile, given), opt.choices(given)
    with opt.no_engine() if offline else opt.open_engine(given.host, given.parallelism) as engine:
        if destroying:
            made = planning.destroy_plan(engine, profile, store, given.targets)
        else:
            made = planning.plan_changes(engine, profile, store, chosen)
    if form != "github":  # which has them as annotations
        tell_all(warnings(made))
    shown = summary(made) if form == "text" and given.quiet else plan_in(form, made)
    result(shown, annotated=form == "github")
    if out is not None:
        from sandboxrun.lifecycle.saved import write_saved

        write_saved(out, made, files=opt.profile_files(given), directory=profile.directory, options=chosen)
        note(f"saved: `sandboxrun apply {out}` carries out exactly this", quiet=given.quiet)
    differs = any(change.drift for change in made.changes) if made.refresh_only else not made.empty
    return 2 if detailed_exitcode and differs else 0


def plan_in(form: str, made: Plan) -> str | dict[str, Any]:
    """The plan in one of the formats."""
    from sandboxrun.plan.text import openings, painted, summary, warnings, widenings

    match form:
        case "json" | "markdown":
            from sandboxrun.report.plan import plan_json, plan_markdown

            return plan_json(made) if form == "json" else plan_markdown(made)
        case "github":
            from sandboxrun.report.diagnostics import annotation

            # the text for the log of a job, where no line of it may be taken for a command, and a note on the job
            severity = "warning" if any(change.drift for change in made.changes) else "notice"
            notes = [Diagnostic(message=summary(made), severity=severity), *warnings(made)]
            weaker = [*widenings(made), *(f"{line}, unlike the defaults" for line in openings(made))]
            notes += [Diagnostic(message=redact(line, made.sensitive), severity="warning") for line in weaker]
            lines = map(without_commands, painted(made, colour=False).split("\n"))
            return "\n".join([*lines, *map(annotation, notes)])
    return painted(made, colour=coloured(sys.stdout))
