"""What of a run waits in its staging folder until it is captured: the workspace it began with.

Owns the names and the form of these files. Whoever captures a run, perhaps another process later, finds them
by the run's id.
"""

from __future__ import annotations

import glob
import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO, cast

import attrs

from sandboxrun.evidence.baseline import BASELINE, PackedWorkspace, pack, unpacked
from sandboxrun.evidence.errors import EvidenceError
from sandboxrun.evidence.folder import Folder, sync
from sandboxrun.evidence.sourcetree import LeftOut, WorkspaceLimits
from sandboxrun.evidence.state import state_path
from sandboxrun.evidence.store import Store

NOTE = "workspace.json"  # written when the tar is whole
STDOUT, STDERR = "stdout.log", "stderr.log"  # live output as the runner saw it, cut one byte past the limit


@attrs.frozen(kw_only=True)
class Baseline:
    """A staged workspace, opened: `file` is the tar, the rest as in PackedWorkspace."""

    file: BinaryIO
    exclude: tuple[str, ...]
    left_out: tuple[LeftOut, ...]
    partial: frozenset[str]


def stage_workspace(
    store: Store,
    run: str,
    source: Path,
    *,
    uid: int,
    gid: int,
    engine: str,
    limits: WorkspaceLimits | None = None,
    exclude: Iterable[str] = (),
) -> PackedWorkspace:
    """Pack `source` (see `pack`) into the run's staging folder, replacing what is there. Raises EvidenceError. `engine`
    is the identity of the one that the run is on.

    `open_workspace` then gives the tar to upload; capture makes the patch against it and removes it.
    """
    patterns = not_copied(store, source, exclude)
    with store.staging(run, engine=engine) as staging:
        for name in (NOTE, BASELINE):
            staging.unlink(name)
        with staging.append(BASELINE) as raw:
            packed = pack(source, raw, uid=uid, gid=gid, limits=limits, exclude=patterns)
            sync(raw)
        note = {
            "sha256": packed.sha256,
            "content": packed.content,
            "exclude": patterns,
            "left_out": [attrs.asdict(one) for one in packed.left_out],
            "partial": sorted(packed.partial),
        }
        staging.write(NOTE, json.dumps(note).encode())
    return packed


def open_workspace(store: Store, run: str) -> BinaryIO:
    """The staged tar, for `Engine.put_archive`. Raises EvidenceError when there is none."""
    try:
        with store.staging(run) as staging:
            return staging.open(BASELINE)
    except FileNotFoundError as error:
        raise EvidenceError(f"no workspace is staged for run {run}") from error


def staged_content(store: Store, run: str) -> str:
    """The digest of the staged workspace's content (see `PackedWorkspace`); "" when none is staged."""
    try:
        with store.staging(run) as staging, staging.open(NOTE) as file:
            return str(json.loads(file.read())["content"])
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return ""


def content_now(store: Store, source: Path, exclude: Iterable[str]) -> str | None:
    """The same of the directory as it is; None for one that can't be packed."""
    patterns = not_copied(store, source, exclude)
    try:
        return pack(source, cast(BinaryIO, _Nowhere()), uid=0, gid=0, exclude=patterns).content
    except EvidenceError:
        return None


def not_copied(store: Store, source: Path, exclude: Iterable[str]) -> tuple[str, ...]:
    """What is left out: the evidence of other runs and the user's state, wherever in the directory they are."""
    state = os.path.relpath(os.path.realpath(state_path()), os.path.realpath(source))
    kept = (os.path.relpath(store.path, source), state)
    inside = (path for path in kept if path.split(os.sep)[0] not in (os.curdir, os.pardir))
    return (*exclude, *map(glob.escape, inside))


class _Nowhere:
    def write(self, data: bytes) -> int:
        return len(data)


def baseline_of(staging: Folder) -> Baseline:
    """The staged workspace, checked to be whole. Raises FileNotFoundError, EvidenceError."""
    with staging.open(NOTE) as file:
        try:
            note = json.loads(file.read())
            expected, exclude = str(note["sha256"]), tuple(str(pattern) for pattern in note["exclude"])
            left_out = tuple(LeftOut(**one) for one in note["left_out"])
            partial = frozenset(str(path) for path in note["partial"])
        except (ValueError, KeyError, TypeError) as error:
            raise EvidenceError(f"{staging.path / NOTE} cannot be read: {error}") from error
    tar, digest = staging.open(BASELINE), hashlib.sha256()
    for chunk in unpacked(tar):
        digest.update(chunk)
    if digest.hexdigest() != expected:
        tar.close()
        raise EvidenceError(f"{staging.path / BASELINE} is not what was packed")
    return Baseline(file=tar, exclude=exclude, left_out=left_out, partial=partial)
