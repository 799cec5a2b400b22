"""What each `rw` workspace keeps read-only: what the host runs (`spec/guard.py`), and every file that decides what the
sandbox is.

Owns which files those are, and what can't be kept: whatever a link stands for. Looks at the disk for links only.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path

from msgspec import structs

from sandboxrun.errors import Problems
from sandboxrun.profile.files import Places, read_regular, reason
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
    found = []
    for sandbox in sandboxes:
        for mount in sandbox.spec.volumes:
            if mount.type != "bind" or mount.read_only or mount.source is None or not places.allows(Path(mount.source)):
                continue  # one that is outside is reported already
            decisive = sorted(path for path in own if path.is_relative_to(os.path.realpath(mount.source)))
            if decisive:
                what = f"{decisive[0].name}, which the profile depends on"
                message = f"the bind {mount.target} lets the sandbox write to {what}"
                help = "mount it with :ro, or as the workspace with access: rw, which keeps such files"
                problems.add(message, sandbox.place("volumes", mount.target), help)
        found.append(_guarded(sandbox, own, problems))
    _check_apart(found, problems)
    return tuple(found)


def _check_apart(sandboxes: Sequence[DeclaredSandbox], problems: Problems) -> None:
    """No sandbox starts from a place that another one may move: it could put a link to any host path there."""
    writers: dict[tuple[Path, tuple[str, ...]], list[str]] = {}  # a place and what of it can't be moved → who writes
    for sandbox in sandboxes:
        workspace = sandbox.spec.workspace
        if workspace is not None and workspace.access == "rw":
            writers.setdefault((Path(workspace.source), workspace.protected), []).append(sandbox.address)
        for mount in sandbox.spec.volumes:
            if mount.type == "bind" and not mount.read_only:
                writers.setdefault((Path(mount.source or ""), ()), []).append(sandbox.address)
    can_move = cache(_can_move)
    for sandbox in sandboxes if writers else ():
        done = {a for a, waits in sandbox.depends_on.items() if waits.condition == "service_completed_successfully"}
        for key, item, place in sources_of(sandbox):
            for (top, fixed), addresses in writers.items():
                other = next((one for one in addresses if one != sandbox.address and one not in done), None)
                if other is not None and can_move(top, fixed, place):
                    message = f"{place.name} lies where {other} may write: it could put a link in its place"
                    help = "give each a directory of its own, or depend on it: service_completed_successfully"
                    problems.add(message, sandbox.place(key, item), help)


def _can_move(top: Path, fixed: tuple[str, ...], place: Path) -> bool:
    """Whether who writes to `top` can put another thing where `place` is. A mount can't be moved."""
    real, above = Path(os.path.realpath(place)), Path(os.path.realpath(top))
    if real == above or not real.is_relative_to(above):
        return False
    mounts, inner = dict(mounts_of(fixed)), str(real.relative_to(above))
    return not (inner in mounts or any(mounts.get(step) for step in parents(inner)))


def sources_of(sandbox: DeclaredSandbox) -> Iterator[tuple[str, str | None, Path]]:
    """The options, their items, and the host paths in them, that a sandbox is given when it starts."""
    workspace = sandbox.spec.workspace
    if workspace is not None:
        yield "workspace", None, sandbox.workspace or Path(workspace.source)
    for mount in sandbox.spec.volumes:
        if mount.type == "bind" and mount.source is not None:
            yield "volumes", mount.target, Path(mount.source)


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
    mounts = [(os.path.relpath(at, workspace.target), key, at) for key, at in _mounts_below(sandbox.spec, workspace)]
    covered = {inner for inner, _, _ in mounts}
    # what lies under another mount at the top is out of reach, and the mount can't be moved
    paths = tuple(path for path in every if path.split("/")[0] not in covered)
    taken = {*paths, *(above for path in paths for above in parents(path))}
    for inner, key, target in mounts:
        if inner in taken:
            message = f"{key}: {target} would hide files of the workspace that are kept read-only"
            problems.add(message, sandbox.place(key, target), "give it another target")
    for path in paths:
        link = next((at for at in (*parents(path), path) if os.path.islink(os.path.join(workspace.source, at))), None)
        if link is not None:
            name = path.split("/")[0]
            opened = f'open it by writable: ["{name}"]' if path in GUARDS else "name the file itself"
            message = f"{link} in the workspace is a link: {'it' if link == path else path} can't be kept read-only"
            problems.add(message, span, f"{_COPY}, or {opened}")
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


def _mounts_below(spec: SandboxSpec, workspace: Workspace) -> Iterator[tuple[str, str]]:
    """Other mounts in the workspace: their option and their target."""
    targets = (*(("volumes", mount.target) for mount in spec.volumes), *(("tmpfs", path) for path in spec.tmpfs))
    for key, target in targets:
        if target.rstrip("/").startswith(f"{workspace.target.rstrip('/')}/"):
            yield key, target
