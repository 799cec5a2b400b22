"""The parts of a run's evidence, each a function that writes its files and says what it could not keep.

Failures are raised: `capture` turns them into the index's `missing`.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, BinaryIO

from msgspec import structs

from sandboxrun.backend.errors import EngineUnreachable, NotFound
from sandboxrun.data import Data, lines, record_of
from sandboxrun.errors import amount, printable
from sandboxrun.evidence.errors import EvidenceError, disk_full, reason_of
from sandboxrun.evidence.export import ExportLimits, export, shown
from sandboxrun.evidence.folder import RunFolder, Writer, chunks_of
from sandboxrun.evidence.index import EgressSummary, MissingPart, RefusedName, Usage, indented
from sandboxrun.evidence.masking import Masker
from sandboxrun.evidence.patch import PatchLimits, make_patch
from sandboxrun.evidence.store import STDERR, STDOUT, USAGE, Store
from sandboxrun.evidence.workspace import baseline_of
from sandboxrun.spec.guard import host_runs
from sandboxrun.spec.options import INIT_AT
from sandboxrun.spec.state import Document, Ended, Running, State
from sandboxrun.spec.types import size_told
from sandboxrun.threads import Aside

if TYPE_CHECKING:
    from sandboxrun.backend.base import Backend, Changes

# -- The parts of a run's evidence, each a function that writes its files and says what it could not keep

PATCH = "workspace.patch"
UNTRACKED = "workspace-untracked.patch"  # of files that git does not track or ignores
_STREAMS = {1: STDOUT, 2: STDERR}
_SOCKET = 1 << 24  # in Go's FileMode
_REPLACEMENT = "\ufffd".encode()
_BEGINS = _REPLACEMENT[:1]  # one byte is found fifty times as fast as three
_REPLACED = "the engine's log driver json-file put U+FFFD in place of bytes that are not UTF-8"
_UNLOGGED = "the engine's log ends before what the sandbox wrote"
_UNWRITTEN = "the engine was killed before it had written all that it had read"
_MARK, _PIECE = 4096, 1 << 20  # bytes by which a line is known, and that are read of one
_USAGE_BYTES = 64 << 20
_TOUCHED = 100  # paths that the index names


class CaptureLimits(Data):
    """Bounds of a capture: bytes of each log, entries of the filesystem's changes, seconds for all of it."""

    log_bytes: int = 64 << 20
    changes: int = 50_000
    artifacts: ExportLimits = ExportLimits()
    workspace: ExportLimits = ExportLimits(bytes=512 << 20, files=50_000)
    patch: PatchLimits = PatchLimits()
    seconds: float = 300.0


class Part(Data):
    """What a part has to tell the index beyond its files."""

    missing: tuple[MissingPart, ...] = ()
    refused: tuple[RefusedName, ...] = ()
    refused_total: int = 0
    usage: Usage | None = None
    not_copied: tuple[str, ...] = ()
    patched_paths: int | None = None
    untracked_paths: int | None = None
    protected_paths_touched: tuple[str, ...] = ()
    egress: EgressSummary | None = None

    def joined(self, other: Part) -> Part:
        """The two together: what both list, and of all else what either has."""
        both = {}
        for name in self.__struct_fields__:
            one, more = getattr(self, name), getattr(other, name)
            adds = isinstance(one, tuple) or name == "refused_total"
            both[name] = one + more if adds else more if one is None else one
        return Part(**both)


def _lost(part: str, *reasons: str) -> Part:
    return Part(missing=tuple(MissingPart(part=part, reason=reason) for reason in reasons))


class CaptureSource(Data):
    """Where the parts are read from and written to. `deadline` is a `time.monotonic` value."""

    engine: Backend
    container_id: str
    run: str
    store: Store
    folder: RunFolder
    masker: Masker
    limits: CaptureLimits
    deadline: float


def inspect(source: CaptureSource, answer: Mapping[str, Any]) -> Part:
    """`inspect.json`: the engine's whole answer, secrets masked."""
    source.folder.write("inspect.json", indented(source.masker.json(answer)).encode())
    return Part()


def profile(source: CaptureSource, text: str) -> Part:
    """`profile.yaml`: the effective profile, secrets masked."""
    source.folder.write("profile.yaml", source.masker.text(text).encode("utf-8", "surrogateescape"))
    return Part()


def engine_logs(source: CaptureSource, document: Document, written: Mapping[int, int] | None = None) -> Part:
    """`stdout.log` and `stderr.log` as the engine kept them, secrets masked.

    Byte for byte, but where the engine's log replaces what is not UTF-8. `written`: how many bytes of each
    stream there must be, where somebody counted them: the engine keeps only the end of a long log. One that was killed
    has lost the last lines: a runner that had seen them, and was killed too or could not go on, left them in its copy.
    """
    with contextlib.ExitStack() as opened:
        logs = _logs(source, opened)
        output = opened.enter_context(source.engine.logs(source.container_id, tty=document.tty))
        with contextlib.suppress(OSError, EvidenceError), source.store.staging(source.run) as staging:
            for n, name in _STREAMS.items():
                with contextlib.suppress(OSError, EvidenceError):
                    logs[n].compare(opened.enter_context(staging.open(name)))
        part = _written(logs, output, source, written)
    replaced = document.replaces and any(log.replaced for log in logs.values())
    return part.joined(_lost("logs", _REPLACED)) if replaced else part


def live_logs(source: CaptureSource, written: Mapping[int, int] | None = None) -> Part:
    """The same from the files in which the runner kept the output as it came, up to a byte past the limit."""
    with source.store.staging(source.run) as staging, contextlib.ExitStack() as opened:
        logs = _logs(source, opened)
        files = {n: opened.enter_context(staging.open(name)) for n, name in _STREAMS.items()}
        for n, file in files.items():
            # Masking makes it shorter: what is kept may then fit although it was cut.
            logs[n].cut = os.fstat(file.fileno()).st_size > source.limits.log_bytes
        chunks = ((n, chunk) for n, file in files.items() for chunk in chunks_of(file))
        return _written(logs, chunks, source, written)


def _logs(source: CaptureSource, opened: contextlib.ExitStack) -> Mapping[int, _Log]:
    return {n: _Log(opened.enter_context(source.folder.writer(name)), source) for n, name in _STREAMS.items()}


class _Log:
    """One log being masked and written up to its limit."""

    def __init__(self, writer: Writer, source: CaptureSource) -> None:
        self._writer, self._mask, self._left = writer, source.masker.stream(), source.limits.log_bytes
        self.read = 0  # bytes
        self.full = False
        self.cut = False  # before it came here
        self.replaced = False  # whether U+FFFD was seen, ours or a log driver's
        self.least = 0  # bytes that there must be
        self.filled = 0  # bytes of the copy that stand where the engine's log lacks them
        self._held, self._at_line = b"", True
        self._copy: BinaryIO | None = None

    def compare(self, copy: BinaryIO) -> None:
        """Know another one of the same, from its beginning, which may have more."""
        self._copy, self.least = copy, os.fstat(copy.fileno()).st_size

    def write(self, data: bytes, *, last: bool = False) -> None:
        data, self._held = self._held + data, b""
        if self._copy is not None and not last and len(data) - (end := data.rfind(b"\n") + 1) < _MARK:
            data, self._held = data[:end], data[end:]  # whole lines show where they are in the copy
        while self._copy is not None and (seen := self._copy.read(len(data))) != data:
            same = next((n for n, (a, b) in enumerate(zip(seen, data, strict=False)) if a != b), len(seen))
            if same == len(seen) or self.read + same == 0 or _REPLACEMENT in data[max(0, same - 2) : same + 3]:
                self._copy = None  # it ended before, this log has lost its beginning, or it can't hold such bytes
                break
            if (line := data.rfind(b"\n", 0, same) + 1) or (self._at_line and same < _MARK):
                same = line
            self._copy.seek(same - len(seen), os.SEEK_CUR)
            self._take(data[:same])
            data = data[same:]
            self._fill(self._copy, data[: data.find(b"\n", 0, _MARK) + 1] or data[:_MARK])
        self._take(data)

    def _fill(self, copy: BinaryIO, mark: bytes) -> None:
        """An engine that was killed had read some lines and not written them: add those that the copy has, until the
        one that begins with `mark`, or its end."""
        for line in iter(partial(copy.readline, _PIECE), b""):
            if line.startswith(mark):
                copy.seek(-len(line), os.SEEK_CUR)
                return
            self._take(line)
            self.filled += len(line)
        self._copy = None

    def _take(self, data: bytes) -> None:
        self.read += len(data)
        self.replaced = self.replaced or (_BEGINS in data and _REPLACEMENT in data)
        self._at_line = data.endswith(b"\n") if data else self._at_line
        self._put(self._mask.feed(data))

    def _put(self, data: bytes) -> None:
        self.full = self.full or len(data) > self._left
        data = data[: self._left]
        self._left -= len(data)
        self._writer.write(data)

    def complete(self) -> int:
        """Add what only the copy has; how many bytes that is."""
        self.write(b"", last=True)
        copy, self._copy, before = self._copy, None, self.read
        for chunk in chunks_of(copy) if copy is not None else ():
            if not self.full:
                self.write(chunk)
        return self.read - before

    def commit(self, cut: bool) -> None:
        if not cut:
            self._put(self._mask.finish())
        self._writer.commit(truncated=self.full or self.cut or cut or self.filled > 0)


def _written(
    logs: Mapping[int, _Log],
    output: Iterable[tuple[int, bytes]],
    source: CaptureSource,
    written: Mapping[int, int] | None,
) -> Part:
    """Write all of it; when reading fails in the middle, what came before is kept, and both logs count as cut."""
    reason, expired = None, False
    try:
        for stream, data in output:
            if not logs[stream].full:
                logs[stream].write(data)
            expired = time.monotonic() > source.deadline
            if expired or all(log.full for log in logs.values()):
                break
    except Exception as error:
        if disk_full(error):
            raise
        reason = reason_of(error)
    ended = not expired and reason is None
    added = sum(log.complete() for log in logs.values())
    least = {n: max(log.least, (written or {}).get(n, 0)) for n, log in logs.items()}
    lost = {n: least[n] - log.read for n, log in logs.items() if ended and not (log.full or log.cut)}
    for n, log in logs.items():
        log.commit(cut=not ended or added > 0 or lost.get(n, 0) > 0)
    if expired:
        reason = "ran out of time; the logs are cut"
    elif reason is None and any(log.full or log.cut for log in logs.values()):
        reason = f"longer than {size_told(source.limits.log_bytes)}; what came after is not kept"
    elif reason is None and added:
        reason = f"{_UNLOGGED}: the copy made while it ran had {amount(added, 'byte')} more, and may lack the end"
    elif reason is None and (filled := sum(log.filled for log in logs.values())):
        reason = f"{_UNWRITTEN}: {amount(filled, 'byte')} are from the copy made while it ran, and there may be more"
    elif reason is None and max(lost.values(), default=0) > 0:
        reason = f"{sum(max(0, n) for n in lost.values())} bytes of what it wrote are missing; only the rest was kept"
    return _lost("logs", reason) if reason else Part()


def changes(source: CaptureSource, state: State, asked: Aside[Changes] | None = None) -> Part:
    """`changes.json`: [{"path", "kind": modified | added | deleted}], by path, less where its init is mounted. They may
    have been `asked` for already."""
    found = sorted(asked.result() if asked is not None else source.engine.changes(source.container_id))
    if getattr(state, "limit", None) is not None:
        found = [change for change in found if change != (INIT_AT, "added")]
    listed = [{"path": path, "kind": kind} for path, kind in found]
    most = source.limits.changes
    text = indented(source.masker.json(listed[:most]))
    source.folder.write("changes.json", text.encode(), truncated=len(listed) > most)
    return _lost("changes", f"{len(listed)} changes, of which {most} are listed") if len(listed) > most else Part()


def usage(source: CaptureSource, *, ran: bool) -> Part:
    """`usage.jsonl`: the samples taken while it ran, and their summary. `ran`: there should be some."""
    try:
        with source.store.staging(source.run) as staging, staging.open(USAGE) as file:
            data = file.read(_USAGE_BYTES + 1)
    except FileNotFoundError:
        return _lost("usage", "no samples: nothing watched it while it ran") if ran else Part()
    cut = len(data) > _USAGE_BYTES
    data = data[: data.rfind(b"\n", 0, _USAGE_BYTES) + 1]
    if not data:
        return _lost("usage", "it ended before the first sample")
    source.folder.write(USAGE, data, truncated=cut)
    found = Part(usage=summary_of(filter(None, map(record_of, data.splitlines()))))
    return found.joined(_lost("usage", f"longer than {size_told(_USAGE_BYTES)}")) if cut else found


def summary_of(samples: Iterable[Mapping[str, Any]]) -> Usage | None:
    """The summary of samples in their JSON form, in order; None when there is none."""
    count = 0
    peak: dict[str, int] = {}
    for sample in samples:
        count += 1
        for key, value in sample.items():
            if isinstance(value, int) and not isinstance(value, bool):
                peak[key] = max(peak.get(key, 0), value)
    if not count:
        return None
    memory = [peak[key] for key in ("memory_bytes", "memory_peak_bytes") if key in peak]
    counters = ("read_bytes", "write_bytes", "received_bytes", "sent_bytes")
    return Usage(
        samples=count,
        cpu_seconds=round(peak["cpu_ns"] / 1e9, 6) if "cpu_ns" in peak else None,
        memory_peak_bytes=max(memory, default=None),
        memory_peak_by=("kernel" if "memory_peak_bytes" in peak else "samples") if memory else None,
        pids_peak=peak.get("pids"),
        **{key: peak.get(key) for key in counters},
    )


def reaching(usage: Usage | None, limit: int | None) -> Usage | None:
    """The summary of a sandbox that the kernel killed at its memory limit: it had that much, whatever was sampled."""
    if not limit or (usage is not None and (usage.memory_peak_bytes or 0) >= limit):
        return usage
    return structs.replace(usage or Usage(samples=0), memory_peak_bytes=limit, memory_peak_by="limit")


def artifacts(source: CaptureSource, paths: Iterable[str]) -> Part:
    """`artifacts/<path in the container>`: regular files and directories, under limits; each path on its own."""
    done = Part()
    for path in paths:
        name = f"artifact {path}"
        try:
            done = done.joined(_exported(source, path, name, "artifacts", source.limits.artifacts))
        except EngineUnreachable:
            raise
        except NotFound:  # the path, or the container: then this raises
            source.engine.state(source.container_id)
            done = done.joined(_lost(name, "it does not exist"))
        except Exception as error:
            if disk_full(error):
                raise
            done = done.joined(_lost(name, reason_of(error)))
    return done


def _exported(source: CaptureSource, path: str, part: str, under: str, limits: ExportLimits) -> Part:
    above = [step for step in path.split("/") if step not in ("", ".")][:-1]
    if ".." in above or not path.startswith("/"):
        raise EvidenceError(f"not an absolute path in the container: {path}")
    with source.engine.read_tree(source.container_id, path) as archive:
        if int(archive.stat.get("mode") or 0) & _SOCKET:  # the archive is empty
            return Part(refused=(RefusedName(part=part, path=shown(path), reason="a socket"),), refused_total=1)
        done = export(
            archive.stream,
            source.folder,
            part=part,
            under="/".join([under, *above]),
            limits=limits,
            masker=source.masker,
            deadline=source.deadline,
        )
    return Part(missing=done.missing, refused=done.refused, refused_total=done.refused_total)


def held_workspace(source: CaptureSource, keeper: str, left: State) -> Part | None:
    """None while a workspace in memory is what the sandbox `left` in that state; else a part that says why it is lost.

    Its volume is empty again once neither the sandbox nor its keeper has it mounted: what is read then would look as if
    the agent had removed everything.
    """
    began, ended = (left.started, left.finished) if isinstance(left, Ended) else (None, None)
    if began is not None and ended is not None and ended < began:  # the clock was set back meanwhile
        ended = began
    with contextlib.suppress(NotFound):
        state = source.engine.state(keeper)
        if isinstance(state, Running) and (ended is None or state.started < ended):
            return None
    return _lost("workspace.patch", "it was in memory, and its keeper exited before it could be read")


def workspace(
    source: CaptureSource, target: str, artifacts: Iterable[str] = (), own: frozenset[str] = frozenset()
) -> Part:
    """`workspace.patch` against the staged baseline; without one, the whole workspace below `workspace/`.

    What is new below one of the `artifacts` is not in the patch as well. `own` are paths that the profile depends on.
    """
    try:
        with source.store.staging(source.run) as staging:
            tar, baseline = baseline_of(staging)
    except (FileNotFoundError, EvidenceError) as error:
        why = "its baseline is not on this machine" if isinstance(error, FileNotFoundError) else reason_of(error)
        part = _exported(source, target, "workspace", "workspace", source.limits.workspace)
        return _lost("workspace.patch", f"{why}: the workspace is kept whole instead").joined(part)
    with (
        tar,
        source.folder.folder.scratch() as spool,
        source.engine.read_tree(source.container_id, target) as archive,
    ):
        patch = make_patch(
            tar,
            archive.stream,
            limits=source.limits.patch,
            exclude=baseline.exclude,
            left_out=baseline.left_out,
            partial=baseline.partial,
            artifacts=_below(target, artifacts),
            spool=spool,
            deadline=source.deadline,
        )
    _write_patch(source, PATCH, patch.data)
    if patch.untracked:
        _write_patch(source, UNTRACKED, patch.untracked)
    if patch.git_changes:
        listed = [structs.asdict(change) for change in patch.git_changes]
        source.folder.write("workspace-git.json", indented(source.masker.json(listed)).encode())
    every = (*patch.paths, *patch.untracked_paths)
    touched = [shown(path) for path in every if path in own or host_runs(path)]
    return Part(
        refused=patch.left_out,
        refused_total=len(patch.left_out),
        not_copied=tuple(f"{shown(one.path)} ({one.kind})" for one in baseline.left_out[:_TOUCHED]),
        patched_paths=len(patch.paths),
        untracked_paths=len(patch.untracked_paths),
        protected_paths_touched=tuple(touched[:_TOUCHED]),
    )


def _below(target: str, paths: Iterable[str]) -> Iterator[str]:
    """Those of the paths that lie inside `target`, from there. One that holds all of it leaves the patch whole."""
    for path in paths:
        relative = os.path.relpath(os.path.normpath(path), os.path.normpath(target))
        if relative not in (".", "..") and not relative.startswith("../"):
            yield relative


def _write_patch(source: CaptureSource, name: str, data: bytes) -> None:
    finder = source.masker.stream()
    finder.feed(data)
    finder.finish()
    with source.folder.writer(name) as writer:
        writer.write(data)
        writer.commit(sensitive=finder.hits > 0)


# -- The part of a run's evidence that its gateway has: every request, let pass or refused

FILE = "egress.jsonl"
LONGEST = 128 << 20  # beyond the engine's bound of a gateway's log
_LISTED = 20  # targets refused that the index names
_UNLISTED = frozenset({"host", "port"})  # reasons: what the list does not have
_FOUND_NOBODY = frozenset({"unresolved", "unreachable", "timeout"})  # reasons: allowed, and of no use
_GRACE = 10  # seconds for the records of connections that are still open, and for those not written yet


def egress(source: CaptureSource, gateway: str) -> Part:
    """`egress.jsonl`: one JSON object a line, as the gateway wrote it, secrets masked; ends the gateway first."""
    state, reasons = source.engine.state(gateway), list[str]()
    if isinstance(state, Ended) and state.started is not None:  # though nobody ended it
        how = "out of memory" if state.oom else f"exit {state.exit_code}"
        reasons.append(f"the gateway ended before the sandbox ({how}): it reached nothing then")
    source.engine.stop(gateway, timeout=_GRACE)
    counted, cut = Counted(), False
    with (
        source.folder.writer(FILE) as writer,
        source.engine.logs(gateway, tty=False) as output,
    ):
        mask, left = source.masker.stream(), LONGEST
        for line in lines(data for stream, data in output if stream == 1):
            counted.add(line)
            kept = mask.feed(line + b"\n")[:left]
            left -= len(kept)
            writer.write(kept)
            cut = left == 0
            if cut:
                break
        writer.write(mask.finish()[:left])
        writer.commit(truncated=cut)
    if not counted.served:
        reasons.append("the gateway's records are gone, or it never served")
    elif not counted.whole:
        reasons.append("the first of the gateway's records are gone")
    if counted.faulty:
        reasons.append("some of the gateway's records were lost")
    if counted.cut_off and not cut:
        reasons.append("the gateway was killed: its last records may be missing")
    if counted.spent:
        reasons.append("so many requests that its records were cut: it refused the rest")
    return structs.replace(_lost("egress", *reasons), egress=counted.result)


class Counted:
    """What the records come to."""

    def __init__(self) -> None:
        self.served = self.spent = self.faulty = False
        self.whole: bool | None = None  # whether the first record is the gateway's first; None: there is none
        self._serving = self._killed = False
        self._allowed = self._failed = self._denied = 0
        self._targets: dict[str, None] = {}
        self._unlisted: dict[str, None] = {}
        self._private: dict[str, None] = {}

    def add(self, line: bytes) -> None:
        record = record_of(line)
        if self.whole is None:
            self.whole = record.get("event") == "ready"
        match record.get("event"):
            case "ready":
                self._killed |= self._serving
                self.served = self._serving = True
            case "stopped":
                self._serving = False
            case "budget":
                self.spent = True
            case "fault":
                self.faulty = True
            case "request" if record.get("verdict") == "allowed":
                self._allowed += 1
                self._failed += record.get("reason") in _FOUND_NOBODY
            case "request":
                self._denied += 1
                host, port, reason = record.get("host") or "?", record.get("port"), record.get("reason")
                named = port == 0 and host != "?"  # a name that was asked for
                target = host if named else f"{host}:{port or '?'}"
                _list(self._targets, target)
                if reason in _UNLISTED:
                    _list(self._unlisted, target)
                if reason == "private":
                    _list(self._private, str(record.get("address")))

    @property
    def cut_off(self) -> bool:
        """Whether it ended, once or at last, without the record with which a gateway ends."""
        return self._killed or self._serving

    @property
    def result(self) -> EgressSummary:
        return EgressSummary(
            allowed=self._allowed,
            failed=self._failed,
            denied=self._denied,
            denied_targets=tuple(self._targets),
            unlisted_targets=tuple(self._unlisted),
            private_addresses=tuple(self._private),
        )


def _list(into: dict[str, None], text: str) -> None:
    if len(into) < _LISTED:
        into.setdefault(printable(text[:300]))
