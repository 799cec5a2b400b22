"""The index of a run's evidence: its types and their JSON form (`schemas/evidence.schema.json`).

Owns the format. Reads and writes no files.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from sandboxrun.data import Data
from sandboxrun.evidence.errors import EvidenceError
from sandboxrun.spec.state import Ending

if TYPE_CHECKING:
    from sandboxrun.evidence.store import ChainEntry, Notice

FORMAT_VERSION = "1.1"
LARGEST = 40 << 20  # bytes
_MOST_COMMAS = 1 << 19  # what they separate takes some hundred bytes once it is read and shown
_LARGEST_ODD = 8 << 20  # bytes

# What an agent names in it has to leave room for the rest
ROOM, ROOM_FOR_REFUSED = 28 << 20, 8 << 20  # some 60,000 files


def room_of(path: str) -> int:
    """How much of `ROOM` a file of that name takes: its bytes in the index; a comma in it counts for many."""
    return 384 + len(json.dumps(path)) + 128 * path.count(",")


def indented(value: Any, *, sort_keys: bool = False, ensure_ascii: bool = True) -> str:
    """JSON for people, a line at the end: what `json.dumps` makes of it with an indent, where it is slow."""
    text = json.dumps(value, sort_keys=sort_keys, ensure_ascii=ensure_ascii)
    try:
        return msgspec.json.format(text, indent=2) + "\n"
    except (msgspec.DecodeError, UnicodeEncodeError, RecursionError):  # half a surrogate pair, NaN
        return json.dumps(value, indent=2, sort_keys=sort_keys, ensure_ascii=ensure_ascii) + "\n"


class Kept(Data):
    """A file of the evidence: `path` inside the run's folder, `bytes` its size, `truncated` at a limit.

    `sensitive`: a secret's value was seen in it and left there, since masking would break the file.
    """

    path: str
    sha256: str
    bytes: int
    truncated: bool = False
    sensitive: bool = False


class MissingPart(Data):
    """A part that could not be kept, whole or partly, and why."""

    part: str
    reason: str


class RefusedName(Data):
    """A name the agent left that was not taken over: `path` in the container, and why."""

    part: str
    path: str
    reason: str


class Usage(Data):
    """The summary of a run's samples.

    `memory_peak_bytes` is the kernel's own mark where it keeps one (`memory_peak_by` is "kernel"), else the highest
    sample ("samples"): between two it may have been more. "limit": it was killed at its memory limit.
    """

    samples: int
    cpu_seconds: float | None = None
    memory_peak_bytes: int | None = None
    memory_peak_by: str | None = None
    pids_peak: int | None = None
    read_bytes: int | None = None
    write_bytes: int | None = None
    received_bytes: int | None = None
    sent_bytes: int | None = None


class EgressSummary(Data):
    """What the sandbox asked its gateway for: how many requests it let pass and refused; the first targets refused."""

    allowed: int = 0
    failed: int = 0  # of those allowed: whose host has no address, or does not answer
    denied: int = 0
    denied_targets: tuple[str, ...] = ()
    unlisted_targets: tuple[str, ...] = ()  # of these, which the list does not have
    private_addresses: tuple[str, ...] = ()  # to which listed hosts led, and that are not opened


class Digests(Data):
    """What ran, by digest. All but `image` (the engine's image id) and `workspace` (of a copy's content) are given by
    the caller."""

    spec: str = ""
    inputs: str = ""
    profile: str = ""
    plan: str = ""
    image: str = ""
    workspace: str = ""
    repo_digests: tuple[str, ...] = ()


class Revision(Data):
    """The git revision of a workspace. `commit` is None before the first one, `branch` None where none is checked out.
    `dirty`: a tracked file differs from the commit; `untracked`: there are files that git neither tracks nor ignores;
    None where that is not known."""

    commit: str | None = None
    branch: str | None = None
    dirty: bool | None = None
    untracked: bool | None = None


class Index(Data):
    """One run. Times are UTC in RFC 3339, as the engine gives them, None where the thing never happened."""

    run: str
    project: str
    sandbox: str
    container_id: str
    container_name: str
    ending: Ending
    created_at: str | None = None
    started_at: str | None = None
    finished_at: str | None = None
    captured_at: str = ""
    ran_seconds: float | None = None
    capture_seconds: float = 0.0
    digests: Digests = Digests()
    tool_version: str = ""  # sandboxrun's, "" in an index of format 1.0
    engine: Mapping[str, str] = MappingProxyType({})
    git: Revision | None = None  # when the sandbox was made; None without a workspace, or outside of a repository
    job: Mapping[str, str] | None = None  # the CI job that made it: system, id, name, url
    labels: Mapping[str, str] = MappingProxyType({})
    usage: Usage | None = None
    patched_paths: int | None = None
    untracked_paths: int | None = None  # in workspace-untracked.patch; None in an index of format 1.0
    protected_paths_touched: tuple[str, ...] = ()  # the first of those in the patch that the host runs
    not_copied: tuple[str, ...] = ()  # the first special files of the source, which the copy does not have
    egress: EgressSummary | None = None  # None: it had no gateway
    kept: tuple[Kept, ...] = ()
    missing: tuple[MissingPart, ...] = ()
    refused: tuple[RefusedName, ...] = ()
    refused_total: int = 0  # `refused` lists the first of them
    previous: str | None = None  # SHA-256 of the chain's line before this run's

    def plain(self) -> dict[str, Any]:
        """As data for JSON."""
        return {"format_version": FORMAT_VERSION, **msgspec.to_builtins(self, enc_hook=dict)}

    def to_json(self) -> bytes:
        return indented(self.plain()).encode()

    @classmethod
    def from_json(cls, data: bytes) -> Index:
        """Read a file's bytes; raises EvidenceError for anything else than an index of this format."""
        if len(data) > LARGEST or data.count(b",") > _MOST_COMMAS:
            what = f"larger than {LARGEST >> 20} MiB or has more than {_MOST_COMMAS} values"
            raise EvidenceError(f"the evidence index is {what}")
        try:
            version = decoded(data, _Versioned).format_version
            if version.partition(".")[0] != FORMAT_VERSION.partition(".")[0]:
                raise EvidenceError(
                    f"the evidence index has format {version}, this sandboxrun reads {FORMAT_VERSION}",
                    help="read it with the sandboxrun that wrote it, or a newer one",
                )
            return decoded(data, Index)
        except (ValueError, TypeError, RecursionError) as error:
            raise EvidenceError(f"not an evidence index: {error}") from error


class _Versioned(Data):
    format_version: str


T = TypeVar("T")


def decoded(data: bytes, kind: type[T]) -> T:
    """JSON, of which nothing is made that is no field of `kind`: a hostile file takes no memory."""
    try:
        return msgspec.json.decode(data, type=kind)
    except msgspec.ValidationError:
        raise
    except msgspec.DecodeError:  # the name of a file in an error's text may have bytes that are not UTF-8
        if len(data) > _LARGEST_ODD:
            raise
        try:
            return msgspec.convert(json.loads(data), kind)
        except RecursionError as error:
            raise ValueError("nested too deeply") from error


def remainder(entry: ChainEntry, gone: Notice) -> Index:
    """What is still known of a run whose evidence was removed."""
    return Index(
        run=entry.run,
        project=entry.project,
        sandbox=entry.sandbox,
        container_id="",
        container_name="",
        ending=Ending(how=entry.outcome, exit_code=gone.exit_code),
        finished_at=entry.finished_at,
        digests=Digests(spec=entry.spec, inputs=entry.inputs, workspace=gone.workspace),
        missing=(MissingPart(part="everything", reason=f"removed on {gone.at}: {gone.reason}"),),
        previous=entry.previous,
    )
