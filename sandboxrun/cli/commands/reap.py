"""`sandboxrun reap`: collect what nobody waits for any more, evidence first."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import click

from sandboxrun.backend.session import silent
from sandboxrun.cli import options as opt
from sandboxrun.cli.changing import CleanStop, Telling
from sandboxrun.cli.output import note, result, tell_all
from sandboxrun.errors import Diagnostic, SandboxrunError, UsageError
from sandboxrun.evidence.retention import Pruned, Retention, prune
from sandboxrun.evidence.store import Store
from sandboxrun.lifecycle import reap as reaping
from sandboxrun.lifecycle.reap import Homes, Reaper, Scope
from sandboxrun.report import reap as forms
from sandboxrun.report.stored import over_diagnostics, pruned_plain, pruned_text


@click.command()
@opt.taking(
    *opt.PROJECT,
    click.option("--project", "name", metavar="NAME", help="Reap this project, without its profile."),
    click.option("--all", "everything", is_flag=True, help="Reap all projects on the engine."),
    click.option(
        "--job",
        metavar="ID",
        help="Reap all that this CI job made, in any project: it is over. What a living process waits for stays.",
    ),
    opt.age("--older-than", help="Of these, only sandboxes that were created at least this long ago."),
    opt.path(
        "--evidence-dir",
        metavar="DIR",
        help="Where to save the evidence of runs that belong to others. Without it, these are left and reported.",
    ),
    click.option("--dry-run", is_flag=True, help="Only show what would be reaped."),
    click.option("--watch", is_flag=True, help="Keep running, and reap as sandboxes end, expire or lose their owner."),
    click.option(
        "--metrics", "endpoint", metavar="HOST:PORT", help="With --watch: serve metrics there, as OpenMetrics text."
    ),
    opt.path("--metrics-file", help="With --watch: write metrics to this file after each change."),
    opt.age(
        "--evidence-older-than",
        help="Then remove evidence that was saved longer ago, as `evidence prune` does; with --watch every hour.",
    ),
    opt.size(
        "--evidence-max-size",
        help="Then remove the oldest evidence until all takes less, as `evidence prune` does; with --watch every hour.",
    ),
    opt.parallelism,
    opt.lock_timeout,
    opt.as_json,
    *opt.SPOKEN,
)
def reap(
    given: opt.Given,
    name: str | None,
    everything: bool,
    job: str | None,
    older_than: float | None,
    evidence_dir: Path | None,
    dry_run: bool,
    watch: bool,
    endpoint: str | None,
    metrics_file: Path | None,
    evidence_older_than: float | None,
    evidence_max_size: int | None,
) -> int:
    """Save the evidence of sandboxes that nobody waits for any more, then remove them, and what they left.

    These are sandboxes that have ended, that are past their ttl or timeout, or whose `run` is gone. Those of a process
    that still runs are left to it. Asks nothing. Exits with 1 if something could not be reaped.
    """
    if (endpoint is not None or metrics_file is not None) and not watch:
        raise UsageError("--metrics and --metrics-file need --watch")
    if watch and dry_run:
        raise UsageError("--watch and --dry-run exclude each other")
    if name is not None and everything:
        raise UsageError("--project and --all exclude each other")
    opt.check_project(name)
    profile = own = None
    if name is None and job is None and not everything:
        profile = opt.load_profile(given, spared=True)
        name, own = profile.project, opt.open_store(profile, given)
    kept = Retention(older_than=evidence_older_than, max_bytes=evidence_max_size)
    prunes = evidence_older_than is not None or evidence_max_size is not None
    if prunes and dry_run:
        help = "`sandboxrun evidence prune` removes old evidence, and has --dry-run"
        raise UsageError("--dry-run removes no evidence", help=help)
    if prunes and own is None and evidence_dir is None:
        raise UsageError("old evidence can be removed only with a profile or --evidence-dir", help="pass one of them")
    scope = Scope(project=name, older_than=older_than, job=job)
    homes = Homes(own=own, profile=profile, elsewhere=evidence_dir)
    stores = [store for store in (own, homes.store_elsewhere) if store is not None and prunes]
    if watch:
        metrics = forms.Metrics(endpoint, metrics_file) if endpoint is not None or metrics_file is not None else None
        return _watch(given, scope, homes, metrics, partial(_prune, stores, kept, quiet=given.quiet))
    with CleanStop() as stopping, opt.open_engine(given.host, given.parallelism) as engine, Telling(given) as telling:
        settings = opt.settings(given, telling.listener, telling.waiting, stop=stopping.stop)
        stopping.begin()
        done = reaping.reap(engine, scope, homes=homes, settings=settings, dry_run=dry_run)
    if not given.as_json and (not given.quiet or done.reaped):
        result(forms.reap_text(done))
    pruned, faulty = _prune(stores, kept, quiet=given.quiet)
    if given.as_json:
        result({**forms.reap_plain(done), **({"pruned": [pruned_plain(one) for one in pruned]} if pruned else {})})
    tell_all(forms.left_diagnostics(done))
    return stopping.exit_code(1 if done.left or faulty else 0)


def _prune(stores: Iterable[Store], kept: Retention, *, quiet: bool) -> tuple[list[Pruned], bool]:
    """Remove old evidence, and tell what was removed, unless `quiet`, and what could not be: what was removed, and
    whether anything is left that should not be."""
    done, faulty = list[Pruned](), False
    for store in stores:
        try:
            one = prune(store, kept)
        except SandboxrunError as error:  # what was reaped is told in any case, and a watching reaper goes on
            tell_all(error.diagnostics)
            faulty = True
            continue
        done.append(one)
        note(pruned_text(one), quiet=not one.failed and (quiet or not one.removed))
        over = over_diagnostics(store, one)
        tell_all(over)
        faulty = faulty or bool(one.failed or over)
    return done, faulty


def _watch(
    given: opt.Given, scope: Scope, homes: Homes, metrics: forms.Metrics | None, tidy: Callable[[], object]
) -> int:
    """Until a signal ends it, which is no failure."""
    printing = _Printing(given.as_json)

    def tell(told: forms.ReaperEvent) -> None:
        printing(told)
        if metrics is not None:
            try:
                metrics(told)
            except UsageError as error:  # reaping goes on
                tell_all(error.diagnostics)

    with CleanStop() as stopping, opt.open_engine(given.host, given.parallelism) as engine:
        stopping.begin()
        settings = opt.settings(given, silent, lambda text: None, stop=stopping.stop)
        Reaper(engine, scope, homes, settings, tell, tidy=tidy).run()
    return 0


class _Printing:
    """What a watching reaper prints: a line or an object for each sandbox, and errors once, until they change."""

    def __init__(self, as_json: bool) -> None:
        self._json = as_json
        self._errors: dict[str, tuple[Diagnostic, ...]] = {}

    def __call__(self, told: forms.ReaperEvent) -> None:
        match told:
            case forms.Connected():
                note("Following the engine.")
            case forms.Lost(error=error):
                tell_all(error.diagnostics)
            case forms.ProjectLooked(project=name, result=done):
                for one in done.reaped:
                    result(forms.reaped_plain(one) if self._json else "\n".join(forms.reaped_lines(one)), indent=None)
                errors = forms.left_diagnostics(done)
                if errors != self._errors.pop(name, ()):
                    tell_all(errors)
                if errors:
                    self._errors[name] = errors
