"""`sandboxrun plan`: what apply would do."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sandboxrun.cli import options as opt
from sandboxrun.cli.output import note, result, tell_all

if TYPE_CHECKING:
    from sandboxrun.plan.changes import Plan
    from sandboxrun.plan.planner import Options


@click.command()
@opt.on_project
@opt.target
@opt.replace
@opt.rerun
@opt.refresh_only
@click.option("--destroy", "destroying", is_flag=True, help="Show what destroy would do.")
@click.option("--offline", is_flag=True, help="Plan as if nothing existed yet. Needs no engine.")
@opt.out
@opt.format_of("text", "json", "markdown", "github")
@opt.as_json
@opt.detailed_exitcode
@opt.parallelism
@opt.telling
def plan(
    given: opt.Given,
    host: str | None,
    targets: tuple[str, ...],
    replace: tuple[str, ...],
    rerun: bool,
    refresh_only: bool,
    destroying: bool,
    offline: bool,
    out: Path | None,
    form: str | None,
    as_json: bool,
    detailed_exitcode: bool,
    parallelism: int,
    talk: opt.Talk,
) -> int:
    """Show what apply would create, update in place, replace or tear down, and why. Changes nothing."""
    from sandboxrun.cli.project import load_profile, no_engine, open_engine, open_store, profile_files

    form = opt.chosen_format(form, as_json)
    profile = load_profile(given)
    from sandboxrun.lifecycle import apply as planning
    from sandboxrun.plan.planner import Options

    store = open_store(profile, given)
    chosen = Options(targets=targets, replace=replace, rerun=rerun, refresh_only=refresh_only)
    _check_clash(destroying, chosen, offline=offline, out=out)
    with no_engine() if offline else open_engine(host, parallelism) as engine:
        if destroying:
            made = planning.destroy_plan(engine, profile, store, targets)
        else:
            made = planning.plan(engine, profile, store, chosen)
    if form != "github":  # which has them as annotations
        from sandboxrun.plan.text import warnings

        tell_all(warnings(made))
    result(plan_in(form, made))
    if out is not None:
        from sandboxrun.lifecycle.saved import write_saved

        write_saved(out, made, files=profile_files(given), directory=profile.directory, options=chosen)
        note(f"saved: `sandboxrun apply {out}` carries out exactly this", quiet=talk.quiet)
    return 2 if detailed_exitcode and _differs(made) else 0


def _check_clash(destroying: bool, chosen: Options, *, offline: bool, out: Path | None) -> None:
    from sandboxrun.errors import UsageError

    if destroying and (chosen.replace or chosen.rerun or chosen.refresh_only):
        raise UsageError("--destroy removes everything: it goes with --target only")
    if chosen.refresh_only and (chosen.replace or chosen.rerun):
        raise UsageError("--refresh-only plans no change: it goes with neither --replace nor --rerun")
    if offline and (destroying or chosen.refresh_only or chosen.replace or out is not None):
        raise UsageError(
            "--offline cannot be combined with --destroy, --refresh-only, --replace or --out",
            help="these depend on what is on the engine",
        )


def _differs(made: Plan) -> bool:
    """Whether there are changes; with --refresh-only, whether anything was changed outside."""
    return any(change.drift for change in made.changes) if made.refresh_only else not made.empty


def plan_in(form: str, made: Plan) -> str | dict[str, Any]:
    """The plan in one of the formats."""
    match form:
        case "json":
            from sandboxrun.report.plan import plan_json

            return plan_json(made)
        case "markdown":
            from sandboxrun.report.plan import plan_markdown

            return plan_markdown(made)
        case "github":
            return _for_a_job(made)
    return str(made)


def _for_a_job(made: Plan) -> str:
    """The text for the log of a GitHub job, where no line of it may be taken for a command, and a note on the job."""
    from sandboxrun.errors import Diagnostic
    from sandboxrun.plan.text import summary, warnings
    from sandboxrun.report.diagnostics import annotation, without_commands

    severity = "warning" if any(change.drift for change in made.changes) else "notice"
    told = annotation(Diagnostic(message=summary(made), severity=severity))
    lines = map(without_commands, str(made).split("\n"))
    return "\n".join([*lines, told, *map(annotation, warnings(made))])
