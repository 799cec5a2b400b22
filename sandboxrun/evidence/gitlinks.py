"""What a repository in a workspace needs from outside of it: git inside does not find that.

Owns the reading of git's own files, bounded and without following symlinks. Git is never run: its configuration may
name programs.
"""

from __future__ import annotations

import os
import posixpath
import re
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import attrs

from sandboxrun.errors import Diagnostic
from sandboxrun.evidence.errors import EvidenceError
from sandboxrun.evidence.export import shown
from sandboxrun.evidence.folder import Folder

_LARGEST = 1 << 20  # bytes of one of git's files
_MOST = 20  # lines of alternates
_SECTION = re.compile(r'\s*\[\s*([\w.-]+)(?:\s+"((?:[^"\\]|\\.)*)")?\s*\]')
_SETTING = re.compile(r"\s*([A-Za-z][\w-]*)\s*(?:=\s*(.*?))?\s*(?:[#;].*)?")
_FILTER = re.compile(r"\sfilter=([\w.-]+)")


@attrs.frozen(kw_only=True)
class Inside:
    """What a sandbox sees: the workspace at `target`, and other mounts. `kept`: whether a path goes along."""

    target: str
    mounts: tuple[str, ...] = ()
    kept: Callable[[str], bool] = lambda path: True
    verb: str = "copied"

    def lacks(self, base: str, value: str) -> bool:
        """Whether `value`, written in git's directory `base` (from the workspace's top), is not there inside."""
        path = posixpath.normpath(posixpath.join(self.target, base, value))
        if _is_below(path, self.target):
            return not self.kept(posixpath.relpath(path, self.target))
        return not any(_is_below(path, mount) for mount in self.mounts)


def _is_below(path: str, above: str) -> bool:
    return path == above or path.startswith(f"{above.rstrip('/')}/")


def git_notes(top: Path, git: str, inside: Inside) -> Iterator[Diagnostic]:
    """What does not work inside of the repository whose `.git` is at the path `git` below `top`."""
    *above, name = git.split("/")
    try:
        with Folder.at(top) as root, root.walk_to(tuple(above)) as place:
            yield from _notes(root, place, git, name, inside)
    except (OSError, EvidenceError, ValueError):
        return  # the walk over the workspace reports what can't be read


def _notes(root: Folder, place: Folder, git: str, name: str, inside: Inside) -> Iterator[Diagnostic]:
    base, kind = posixpath.dirname(git), place.kind(name)
    if kind == stat.S_IFDIR:
        yield from _directory_notes(root, git, base, inside)
        return
    if kind == stat.S_IFLNK:
        value, what = os.readlink(name, dir_fd=place.fd), "a symlink"
    else:
        found = re.match(r"gitdir:[ \t]*(.*)", _read(place, name))
        value, what = found[1].rstrip() if found else "", "a file"
    if not value:
        return
    if inside.lacks(base, value):
        text = f"{shown(git)} is {what} that points to {shown(value)}, which is not {inside.verb}: "
        yield _warning(f"{text}git will not work inside", _CLONE)
    elif (path := _relative(base, value, inside)) is not None:
        yield from _directory_notes(root, path, base, inside)


_CLONE = "use a clone as the workspace: `git clone --no-local SOURCE DIRECTORY`"


def _relative(base: str, value: str, inside: Inside) -> str | None:
    """A path that git's files name, from the workspace's top; None for one in another mount."""
    path = posixpath.normpath(posixpath.join(inside.target, base, value))
    return posixpath.relpath(path, inside.target) if _is_below(path, inside.target) else None


def _directory_notes(root: Folder, git: str, work: str, inside: Inside) -> Iterator[Diagnostic]:
    """Of git's directory at `git` for the files at `work`."""
    at = shown(git)
    for value in _lines(root, f"{git}/commondir"):
        if inside.lacks(git, value):
            yield _warning(
                f"{at} belongs to {shown(value)}, which is not {inside.verb}: git will not work inside", _CLONE
            )
    for value in _lines(root, f"{git}/objects/info/alternates")[:_MOST]:
        if not value.startswith("#") and inside.lacks(f"{git}/objects", value):
            text = f"{at} borrows objects from {shown(value)}, which is not {inside.verb}: git will not work inside"
            yield _warning(text, "run `git repack -ad` in it and remove .git/objects/info/alternates, or use a clone")
    settings = _settings("\n".join(_lines(root, f"{git}/config")))
    worktree = settings.get("core.worktree")
    if worktree is not None and inside.lacks(git, worktree):
        text = (
            f"core.worktree in {at}/config is {shown(worktree)}, which is not {inside.verb}: git will not work inside"
        )
        yield _warning(text, "remove the setting: `git config --unset core.worktree`")
    hooks = settings.get("core.hookspath")
    if hooks is not None and (hooks.startswith("~") or inside.lacks(work, hooks)):
        text = f"core.hooksPath in {at}/config is {shown(hooks)}, which is not {inside.verb}: no hooks run inside"
        yield _notice(text)
    if any(key == "extensions.partialclone" or key.endswith(".promisor") for key in settings):
        text = f"{at} is a partial clone: git inside fetches objects that are missing, and fails without a network"
        yield _notice(text, "run `git fetch --refetch --no-filter`, or use a full clone")
    attributes = "\n".join(_lines(root, posixpath.join(work, ".gitattributes")))
    filters = sorted({name for name in _FILTER.findall(attributes) if f"filter.{name.lower()}.clean" not in settings})
    if filters:
        text = f".gitattributes names the git filter {', '.join(filters)}, which {at}/config does not define"
        yield _notice(f"{text}: without it git inside shows such files as modified", "configure it in the image")


def _lines(root: Folder, path: str) -> list[str]:
    """The lines of a file that may not be there."""
    *above, name = path.split("/")
    try:
        with root.walk_to(tuple(above)) as place:
            return [line for line in _read(place, name).split("\n") if line.strip()]
    except (OSError, EvidenceError):
        return []


def _read(place: Folder, name: str) -> str:
    with place.open(name) as file:
        return file.read(_LARGEST).decode("utf-8", "surrogateescape")


def _settings(text: str) -> dict[str, str]:
    """Git's configuration, `section.key` or `section.name.key` in lower case; of several values the last."""
    section, found = "", dict[str, str]()
    for line in text.split("\n"):
        if head := _SECTION.match(line):
            section = f"{head[1]}.{head[2]}" if head[2] is not None else head[1]
            line = line[head.end() :]
        if setting := _SETTING.fullmatch(line):
            value = (setting[2] or "").replace('"', "").replace("\\\\", "\\")
            found[f"{section}.{setting[1]}".lower()] = value
    return found


def repository_above(top: Path) -> Path | None:
    """The repository whose `.git` is in a directory above `top`, if there is one."""
    real = Path(os.path.realpath(top))
    for above in real.parents:
        git = above / ".git"
        if os.path.isfile(git) or os.path.isfile(git / "HEAD"):
            return above
    return None


def ownership_note(top: Path, git: str, uid: int | None, inside: Inside) -> Diagnostic | None:
    """Git refuses a repository of another user's ("dubious ownership"); None where `uid` is the owner or not known."""
    if uid is None:
        return None
    try:
        owners = {os.lstat(path).st_uid for path in (top / posixpath.dirname(git), top / git)}
    except OSError:
        return None
    if owners <= {uid}:
        return None
    at = posixpath.join(inside.target, posixpath.dirname(git))
    return _warning(
        f"{shown(git)} belongs to user {min(owners - {uid})} and the sandbox's user is {uid}: git inside refuses it",
        f"use access: copy, that user, or environment: {{GIT_CONFIG_COUNT: 1, GIT_CONFIG_KEY_0: safe.directory, "
        f"GIT_CONFIG_VALUE_0: {shown(at.rstrip('/'))}}}",
    )


def _warning(message: str, help: str | None = None) -> Diagnostic:
    return Diagnostic(message=message, help=help, severity="warning")


def _notice(message: str, help: str | None = None) -> Diagnostic:
    return Diagnostic(message=message, help=help, severity="notice")
