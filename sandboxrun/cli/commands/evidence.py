"""`sandboxrun evidence`: what was saved of runs, checked, shown, kept and removed. Needs no engine and no profile."""

from __future__ import annotations

from pathlib import Path

import click

from sandboxrun.cli import options as opt
from sandboxrun.cli import project
from sandboxrun.cli.output import result, warn
from sandboxrun.evidence.checking import check
from sandboxrun.evidence.errors import EvidenceError, reason_of
from sandboxrun.evidence.retention import fate
from sandboxrun.evidence.store import Entry, Store, key_path
from sandboxrun.report.evidence import Record, checked_plain, checked_text, record_plain, record_text

_UNCHECKED = 3  # exit code: nothing differs, but seals could not be checked


@click.group()
def evidence() -> None:
    """Check, show, keep and remove the evidence of runs. Needs no engine and no profile."""


@evidence.command()
@opt.taking(
    click.argument("runs", nargs=-1, metavar="[RUN]..."),
    opt.directory,
    click.option(
        "--last-line", metavar="DIGEST", help="A last line's digest, kept elsewhere: the chain must have that line."
    ),
    click.option("--without-seals", is_flag=True, help="Don't check seals: for evidence that another user saved."),
    opt.as_json,
)
def verify(
    given: opt.Given, runs: tuple[str, ...], directory: Path | None, last_line: str | None, without_seals: bool
) -> int:
    """Check evidence against the record: every line of the chain, its seal, and every file. Without RUN, of all runs.

    RUN is an id or its beginning, the name of a run's directory, a sandbox (its newest run), or `last`, the newest run
    of all. Exits with 1 if anything differs, and with 3 if nothing does, but the seals could not be checked.
    """

    store = project.store_in(directory)
    only = {store.find(name).run for name in runs} if runs else None
    checked = check(store, only=only, last_line=last_line, seals=not without_seals)
    result(checked_plain(checked) if given.as_json else checked_text(checked))
    if checked.problems:
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

    store = project.store_in(directory)
    record = _record(store, store.find(run))
    result(record_plain(record) if given.as_json else record_text(record))
    return 1 if record.fault is not None or record.sealed is False else 0


def _record(store: Store, entry: Entry) -> Record:

    found = fate(store, entry)
    index, fault = None, None
    if found.removed is None:
        try:
            index = store.index(entry)
        except EvidenceError as error:
            fault = reason_of(error)
    sealed = store.is_own(entry) if store.has_key() else None
    place = store.path / entry.folder
    return Record(
        entry=entry, place=place, index=index, fault=fault, sealed=sealed, held=found.held, removed=found.removed
    )
