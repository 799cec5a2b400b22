"""`sandboxrun evidence`: what was saved of runs, checked, shown, kept and removed. Needs no engine and no profile."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from pathlib import Path

import click

from sandboxrun.cli import options as opt
from sandboxrun.cli.output import note, result, warn
from sandboxrun.errors import UsageError, amount
from sandboxrun.evidence import retention
from sandboxrun.evidence.checking import check
from sandboxrun.evidence.errors import EvidenceError, reason_of
from sandboxrun.evidence.store import key_path
from sandboxrun.report import stored

_UNCHECKED = 3  # exit code: nothing differs, but seals could not be checked


@click.group(cls=opt.Subcommands)
def evidence() -> None:
    """Check, show, keep and remove the evidence of runs. Needs no engine and no profile."""


@evidence.command("verify")
@opt.taking(
    click.argument("runs", nargs=-1, metavar="[RUN]..."),
    opt.directory,
    click.option(
        "--last-line", metavar="DIGEST", help="A last line's digest, kept elsewhere: the chain must have that line."
    ),
    click.option("--without-seals", is_flag=True, help="Don't check seals: for evidence that another user saved."),
    opt.as_json,
)
def verify_evidence(
    given: opt.Given, runs: tuple[str, ...], directory: Path | None, last_line: str | None, without_seals: bool
) -> int:
    """Check evidence against the record: every line of the chain, its seal, and every file. Without RUN, of all runs.

    RUN is an id or its beginning, the name of a run's directory, a sandbox (its newest run), or `last`, the newest run
    of all. Exits with 1 if anything differs, and with 3 if nothing does, but the seals could not be checked.
    """

    store = opt.store_in(directory)
    only = {store.find(name).run for name in runs} if runs else None
    checked = check(store, only=only, last_line=last_line, seals=not without_seals)
    result(stored.checked_plain(checked) if given.as_json else stored.checked_text(checked))
    if checked.problems:
        if checked.foreign:
            help = "let its user check it, or pass --without-seals to check the rest of what another user saved"
            warn(f"{amount(checked.foreign, 'line')} without this user's seal", help)
        return 1
    if checked.unsealed and not without_seals:
        help = "pass --without-seals to check the rest of evidence that another user or machine saved"
        warn(f"the seals were not checked: there is no key that can be trusted at {key_path()}", help)
        return _UNCHECKED
    return 0


@evidence.command()
@opt.taking(click.argument("run"), opt.directory, opt.as_json)
def show(given: opt.Given, run: str, directory: Path | None) -> int:
    """Show what was saved of a run: how it ended, what it ran, and the files.

    RUN is an id or its beginning, the name of a run's directory, a sandbox (its newest run), or `last`, the newest run
    of all. Exits with 1 if the record can't be relied on.
    """

    store = opt.store_in(directory)
    entry = store.find(run)
    found, index, fault = retention.fate(store, entry), None, None
    if found.removed is None:
        try:
            index = store.index(entry)
        except EvidenceError as error:
            fault = reason_of(error)
    record = stored.StoredRun(
        entry=entry,
        place=store.path / entry.folder,
        index=index,
        fault=fault,
        sealed=store.is_own(entry) if store.has_key() else None,
        held=found.held,
        removed=found.removed,
    )
    result(stored.record_plain(record) if given.as_json else stored.record_text(record))
    return 1 if record.fault is not None or record.sealed is False else 0


@evidence.command()
@opt.taking(
    click.argument("run"),
    click.option("--reason", required=True, metavar="TEXT", help="Why it must be kept; it is recorded."),
    opt.directory,
    opt.quiet,
)
def hold(given: opt.Given, run: str, directory: Path | None, reason: str) -> None:
    """Keep the evidence of a run, whatever `evidence prune` is told, until `evidence release`.

    RUN is an id or its beginning, the name of a run's directory, a sandbox (its newest run), or `last`, the newest run
    of all.
    """
    store = opt.store_in(directory)
    entry = store.find(run)
    retention.hold(store, entry, reason)
    note(f"run {entry.run} of {entry.sandbox} is held", quiet=given.quiet)


@evidence.command()
@opt.taking(
    click.argument("run"),
    click.option("--reason", default="", metavar="TEXT", help="Why it need not be kept any longer; it is recorded."),
    opt.directory,
    opt.quiet,
)
def release(given: opt.Given, run: str, directory: Path | None, reason: str) -> None:
    """End the hold on a run's evidence.

    RUN is an id or its beginning, the name of a run's directory, a sandbox (its newest run), or `last`, the newest run
    of all.
    """
    store = opt.store_in(directory)
    entry = store.find(run)
    retention.release(store, entry, reason)
    note(f"run {entry.run} of {entry.sandbox} is released", quiet=given.quiet)


@evidence.command()
@opt.taking(
    opt.age("--older-than", help="Remove what was saved longer ago: 30d."),
    opt.size("--max-size", help="Remove the oldest until all takes less: 5GB."),
    click.option(
        "--keep",
        type=click.IntRange(1),
        metavar="N",
        help="Keep the newest N runs of each project in any case. Alone: remove all others. Default: 1.",
    ),
    click.option("--dry-run", is_flag=True, help="Only print what would be removed."),
    opt.directory,
    opt.yes,
    opt.as_json,
    opt.quiet,
)
def prune(
    given: opt.Given,
    older_than: float | None,
    max_size: int | None,
    keep: int | None,
    dry_run: bool,
    directory: Path | None,
) -> int:
    """Remove the evidence of old runs. Asks first, unless -y.

    Never removes the newest run of a project, a run on `evidence hold`, nor what another user saved. A removed run
    leaves its line in the chain, and a line with the reason; plans still know that it has run. Exits with 1 if
    something could not be removed, or the rest is larger than --max-size.
    """
    if older_than is None and max_size is None and keep is None:
        raise UsageError("nothing says what to remove", help="pass --older-than, --max-size or --keep")
    if not dry_run:
        opt.check_json_asks_nobody(given)
    store = opt.store_in(directory)
    kept = retention.Retention(older_than=older_than, max_bytes=max_size, keep=keep or 1)
    selection = retention.select(store, kept, datetime.now(UTC))
    if dry_run or not given.as_json:
        result(stored.selection_plain(selection) if given.as_json else stored.selection_text(selection))
    if dry_run or selection.empty:
        return 1 if selection.over else 0
    if not given.yes:
        if not sys.stdin.isatty():
            raise UsageError(
                "prune asks for confirmation, but there is no terminal",
                help="nothing was removed; review the list above, then pass --yes",
            )
        sys.stdout.flush()
        if not click.confirm("\nRemove this evidence?", err=True):
            return 1
    only = {removal.entry.run for removal in selection.removals}
    pruned = retention.prune(store, kept, only=only)
    if given.as_json:
        result(stored.pruned_plain(pruned))
    else:
        note(stored.pruned_text(pruned), quiet=given.quiet)
    return 1 if pruned.failed or selection.over else 0
