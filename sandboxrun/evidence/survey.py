"""What a sandbox finds otherwise in its workspace than the user has it on the disk: said before anything is made.

Owns what is looked for, and the words. Reads directories, and of files only git's own.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Sequence
from pathlib import Path

import attrs

from sandboxrun.errors import Diagnostic
from sandboxrun.evidence.export import shown
from sandboxrun.evidence.gitlinks import Inside, git_notes, ownership_note, repository_above
from sandboxrun.evidence.sourcetree import SourceTree, WorkspaceLimits, excluder, is_within

_NAMED = 5  # of a kind, the rest are counted
_LOOKED_AT = 200_000  # entries of a mounted workspace
_MOST_REPOSITORIES = 50


@attrs.frozen(kw_only=True)
class View:
    """How a sandbox has the workspace: where, beside which other mounts, and as whom (None: not known)."""

    target: str
    mounts: tuple[str, ...] = ()
    uid: int | None = None
    trusting: bool = False  # its environment sets safe.directory


def survey_copy(
    source: Path, view: View, exclude: Iterable[str], asked: Iterable[str], limits: WorkspaceLimits | None = None
) -> list[Diagnostic]:
    """Of a copy without what `exclude` names; what `asked`, the profile's own part of it, leaves out is listed.

    Raises EvidenceError for a source that can't be copied.
    """
    tree, links, setuid, gits = SourceTree(source, exclude, limits), list[str](), list[str](), list[str]()
    root = tree.open()
    try:
        for node in tree.walk(root):
            mode = node.entry.st_mode
            if node.name == ".git":
                gits.append(node.path)
            elif stat.S_ISLNK(mode):
                links += _outward(node.path, _target(node.name, node.fd), view.target)
            if stat.S_ISREG(mode):
                tree.count(node.entry.st_size)
                setuid += [shown(node.path)] if mode & (stat.S_ISUID | stat.S_ISGID) else []
                if not os.access(node.name, os.R_OK, dir_fd=node.fd, effective_ids=True):
                    tree.unreadable(node.path, PermissionError(13, "Permission denied"))
    finally:
        os.close(root)
    by_profile = excluder(asked)
    asked_for = [shown(path) for path in tree.excluded if path.rpartition("/")[2] != ".sandboxrun" and by_profile(path)]
    notes = [
        _note(asked_for, "excluded"),
        _note([f"{shown(one.path)} ({one.kind})" for one in tree.left_out], "not copied"),
        _note(links, "symlinks to places outside of the workspace, which resolve in the container"),
        _note(setuid, "copied without their setuid and setgid bits"),
    ]
    kept = excluder(exclude)
    inside = Inside(target=view.target, mounts=view.mounts, kept=lambda path: not is_within(path, kept))
    return [note for note in notes if note is not None] + _git(source, gits, inside, None)


def survey_mount(source: Path, view: View) -> list[Diagnostic]:
    """Of a workspace that is the directory itself."""
    gits, notes = _mounted(source, "move them elsewhere, or use access: copy")
    inside = Inside(target=view.target, mounts=view.mounts, verb="mounted")
    return notes + _git(source, gits, inside, None if view.trusting else view.uid)


def survey_bind(source: Path) -> list[Diagnostic]:
    """Of the source of a bind."""
    return _mounted(source, "move them elsewhere")[1]


def _mounted(source: Path, help: str) -> tuple[list[str], list[Diagnostic]]:
    """The repositories below a directory that a sandbox has itself, and what is to be said of its special files."""
    special, gits, seen = list[str](), list[str](), 0
    todo = [source]
    while todo and seen < _LOOKED_AT:
        for entry in _entries(todo.pop()):
            seen += 1
            path = os.path.relpath(entry.path, source)
            gits += [path] if entry.name == ".git" else []
            if entry.is_dir(follow_symlinks=False):
                todo.append(Path(entry.path))
            elif not entry.is_file(follow_symlinks=False) and not entry.is_symlink():
                special.append(shown(path))
    notes = []
    if note := _note(sorted(special), "sockets, fifos or devices, and the sandbox may reach the programs behind them"):
        notes.append(attrs.evolve(note, severity="warning", help=help))
    if todo:
        text = f"more than {_LOOKED_AT} files: not all were checked for sockets, fifos and devices"
        notes.append(Diagnostic(message=text, severity="notice"))
    return gits, notes


def _entries(path: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(path) as found:
            return list(found)
    except OSError:  # what the user can't read
        return []


def _git(source: Path, gits: Iterable[str], inside: Inside, uid: int | None) -> list[Diagnostic]:
    """Of every repository; without one at the top, of the one that the workspace is a part of."""
    found, every = list[Diagnostic](), sorted(gits)
    for git in every[:_MOST_REPOSITORIES]:
        found += git_notes(source, git, inside)
        if (note := ownership_note(source, git, uid, inside)) is not None:
            found.append(note)
    if ".git" not in every and (above := repository_above(source)) is not None:
        part = os.path.relpath(os.path.realpath(source), above)
        text = (
            f"part of the git repository {shown(str(above))}, whose .git is not {inside.verb}: git does not work inside"
        )
        help = f"apply a patch of it from there with `git apply --directory={shown(part)}`"
        found.append(Diagnostic(message=text, help=help, severity="notice"))
    return found


def _note(names: Sequence[str], what: str) -> Diagnostic | None:
    if not names:
        return None
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return Diagnostic(message=f"{what}: {', '.join(names[:_NAMED])}{more}", severity="notice")


def _target(name: str, fd: int) -> str:
    try:
        return os.readlink(name, dir_fd=fd)
    except OSError:  # gone meanwhile
        return ""


def _outward(path: str, link: str, target: str) -> list[str]:
    """`path -> link` for a symlink that resolves to something outside of the workspace at `target`, by its text."""
    at = os.path.normpath(os.path.join(target, os.path.dirname(path), link))
    if not link or at == target or at.startswith(f"{target.rstrip('/')}/"):
        return []
    return [f"{shown(path)} -> {shown(link)}"]
