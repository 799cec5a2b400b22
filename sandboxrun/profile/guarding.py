"""What each `rw` workspace keeps read-only: what the host runs (`spec/guard.py`), and every file that decides what the
sandbox is.

Owns which files those are, and what can't be kept: whatever a link stands for. Looks at the disk for links only.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from msgspec import structs

from sandboxrun.errors import Problems
from sandboxrun.profile.files import Places, read_regular, reason
from sandboxrun.source import Span
from sandboxrun.spec.guard import GUARDS, guarded, mounts_of, parents
from sandboxrun.spec.project import DeclaredSandbox, FileSpec
from sandboxrun.spec.records import Workspace
from sandboxrun.spec.spec import SandboxSpec

_COPY = "use access: copy"


def own_files(read: Iterable[Path], *files: Mapping[str, FileSpec]) -> frozenset[Path]:
    """All that decides what sandboxes are, as written and as it really lies: `read` for the profile, and the files of
    its secrets and configs."""
    named = [Path(spec.file) for group in files for spec in group.values() if spec.file is not None]
    every = [Path(os.path.abspath(path)) for path in (*read, *named)]
    return frozenset((*every, *(Path(os.path.realpath(path)) for path in every)))


def with_protected(
    sandboxes: Iterable[DeclaredSandbox], own: frozenset[Path], places: Places, problems: Problems
) -> tuple[DeclaredSandbox, ...]:
    """The sandboxes with what their workspaces keep read-only written out; what can't be kept is noted."""
    every = tuple(sandboxes)
    for sandbox in every:
        _check_binds(sandbox, own, places, problems)
    guarded_ones = tuple(_guarded(sandbox, own, problems) for sandbox in every)
    _check_apart(guarded_ones, problems)
    return guarded_ones


def _check_apart(sandboxes: tuple[DeclaredSandbox, ...], problems: Problems) -> None:
    """No sandbox starts from a place that another one may move: it could put a link to any host path there."""
    writers: dict[tuple[Path, tuple[str, ...]], list[str]] = {}  # a place and what of it can't be moved → who writes
    for sandbox in sandboxes:
        for reach in _writable(sandbox):
            writers.setdefault(reach, []).append(sandbox.address)
    known: dict[tuple[Path, Path, tuple[str, ...]], bool] = {}
    for sandbox in sandboxes if writers else ():
        for key, item, place in sources_of(sandbox):
            for (top, fixed), addresses in writers.items():
                at = (place, top, fixed)
                if at not in known:
                    known[at] = _can_move(top, fixed, place)
                other = next((one for one in addresses if _is_at_once(sandbox, one)), None) if known[at] else None
                if other is not None:
                    message = f"{place.name} lies where {other} may write: it could put a link in its place"
                    help = "give each a directory of its own, or depend on it: service_completed_successfully"
                    problems.add(message, sandbox.place(key, item), help)


def _is_at_once(sandbox: DeclaredSandbox, other: str) -> bool:
    """Whether another sandbox may run when this one starts."""
    waits = sandbox.depends_on.get(other)
    return other != sandbox.address and (waits is None or waits.condition != "service_completed_successfully")


def sources_of(sandbox: DeclaredSandbox) -> Iterator[tuple[str, str | None, Path]]:
    """The options, their items, and the host paths in them, that a sandbox is given when it starts."""
    workspace = sandbox.spec.workspace
    if workspace is not None:
        yield "workspace", None, sandbox.workspace or Path(workspace.source)
    for mount in sandbox.spec.volumes:
        if mount.type == "bind" and mount.source is not None:
            yield "volumes", mount.target, Path(mount.source)


def _writable(sandbox: DeclaredSandbox) -> Iterator[tuple[Path, tuple[str, ...]]]:
    """The places that a sandbox may write to, and what below them it can't move."""
    workspace = sandbox.spec.workspace
    if workspace is not None and workspace.access == "rw":
        yield Path(workspace.source), workspace.protected
    yield from ((Path(m.source or ""), ()) for m in sandbox.spec.volumes if m.type == "bind" and not m.read_only)


def _can_move(top: Path, fixed: tuple[str, ...], place: Path) -> bool:
    """Whether who writes to `top` can put another thing where `place` is. A mount can't be moved."""
    real, above = Path(os.path.realpath(place)), Path(os.path.realpath(top))
    if real == above or not real.is_relative_to(above):
        return False
    mounts, inner = dict(mounts_of(fixed)), str(real.relative_to(above))
    return not (inner in mounts or any(mounts.get(step) for step in parents(inner)))


def _check_binds(sandbox: DeclaredSandbox, own: frozenset[Path], places: Places, problems: Problems) -> None:
    """No bind gives a sandbox the files that decide what it is."""
    for mount in sandbox.spec.volumes:
        if mount.type != "bind" or mount.read_only or mount.source is None:
            continue
        if not places.allows(Path(mount.source)):
            continue  # which is told already
        found = sorted(path for path in own if path.is_relative_to(os.path.realpath(mount.source)))
        if found:
            message = f"the bind {mount.target} lets the sandbox write to {found[0].name}, which the profile depends on"
            help = "mount it with :ro, or as the workspace with access: rw, which keeps such files"
            problems.add(message, sandbox.place("volumes", mount.target), help)


def _guarded(sandbox: DeclaredSandbox, own: frozenset[Path], problems: Problems) -> DeclaredSandbox:
    workspace = sandbox.spec.workspace
    if workspace is None or workspace.access != "rw":
        return sandbox
    span = sandbox.place("workspace")
    also: Iterable[Path] = ()
    try:
        also = () if ".git" in workspace.writable else tuple(configured(Path(workspace.source)))
    except OSError as error:
        if os.path.isdir(workspace.source):
            message = f"the workspace's .git/config can't be read: {reason(error)}: what git runs of it is not known"
            problems.add(message, span, f"make it a readable file, or {_COPY}")
        else:
            problems.add(f"the workspace can't be read: {reason(error)}", span, "fix the path, or what is there")
    every = guarded(workspace.writable, inside(workspace.source, own | frozenset(also)))
    covered = _covered(sandbox.spec, workspace)
    paths = tuple(path for path in every if path.split("/")[0] not in covered)
    _check_mounts(sandbox, workspace, paths, problems)
    _check_links(workspace.source, paths, span, problems)
    spec = structs.replace(sandbox.spec, workspace=structs.replace(workspace, protected=paths))
    return structs.replace(sandbox, spec=spec)


_SETTING = re.compile(
    rb"^[ \t]*(?:\[[^\]\n]*\][ \t]*)?(hookspath|path)[ \t]*=[ \t]*([^\n]*)", re.IGNORECASE | re.MULTILINE
)
_LARGEST = 1 << 20  # bytes of git's configuration


def configured(top: Path) -> Iterator[Path]:
    """Where git's configuration of the directory leads: the directory of its hooks, and files that it includes.

    More is found than git may follow, and never less of what is written in the file itself. Raises OSError where it is
    there and can't be read.
    """
    try:
        text = read_regular(top / ".git/config", _LARGEST)
    except (FileNotFoundError, NotADirectoryError):
        return
    for key, value in _SETTING.findall(text):
        written = re.split(rb"[ \t]+[#;]", value.strip())[0].replace(b'"', b"")
        place = os.path.expanduser(os.fsdecode(written.replace(b"\\\\", b"\\")))
        start = top if key.lower() == b"hookspath" else top / ".git"
        if place and "\0" not in place:
            yield Path(os.path.normpath(start / place))


def inside(source: str, own: frozenset[Path]) -> Iterator[str]:
    """Those of the files that lie below the workspace, from there."""
    tops = {Path(source), Path(os.path.realpath(source))}
    for path in own:
        for top in tops:
            if path != top and path.is_relative_to(top):
                yield str(path.relative_to(top))


def _mounts_below(spec: SandboxSpec, workspace: Workspace) -> Iterator[tuple[str, str, str]]:
    """Other mounts in the workspace: where, from its top, their option and their target."""
    targets = (*(("volumes", mount.target) for mount in spec.volumes), *(("tmpfs", path) for path in spec.tmpfs))
    for key, target in targets:
        if target.rstrip("/").startswith(f"{workspace.target.rstrip('/')}/"):
            yield os.path.relpath(target, workspace.target), key, target


def _covered(spec: SandboxSpec, workspace: Workspace) -> frozenset[str]:
    """Names at the top that another mount hides: what lies under it is out of reach, and it can't be moved."""
    return frozenset(path for path, _, _ in _mounts_below(spec, workspace) if "/" not in path)


def _check_mounts(sandbox: DeclaredSandbox, workspace: Workspace, paths: tuple[str, ...], problems: Problems) -> None:
    taken = {*paths, *(above for path in paths for above in parents(path))}
    for inner, key, target in _mounts_below(sandbox.spec, workspace):
        if inner in taken:
            message = f"{key}: {target} would hide files of the workspace that are kept read-only"
            problems.add(message, sandbox.place(key, target), "give it another target")


def _check_links(source: str, paths: tuple[str, ...], span: Span | None, problems: Problems) -> None:
    for path in paths:
        link = next((at for at in (*parents(path), path) if os.path.islink(os.path.join(source, at))), None)
        if link is not None:
            name = path.split("/")[0]
            help = (
                f'{_COPY}, or open it by writable: ["{name}"]'
                if path in GUARDS
                else f"{_COPY}, or name the file itself"
            )
            what = "it" if link == path else path
            problems.add(f"{link} in the workspace is a link: {what} can't be kept read-only", span, help)
