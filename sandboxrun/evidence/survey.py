"""What of a workspace does not go along into a copy, and what git needs that will not be there: said before
anything runs.
"""

from __future__ import annotations

import contextlib
import os
import posixpath
import re
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from msgspec import structs

from sandboxrun.data import Data
from sandboxrun.errors import Diagnostic, few
from sandboxrun.evidence.errors import EvidenceError
from sandboxrun.evidence.export import shown
from sandboxrun.evidence.folder import Folder
from sandboxrun.evidence.workspace import SourceTree, WorkspaceLimits, excluder, is_within
from sandboxrun.spec.forms import below

# -- What a repository in a workspace needs from outside of it: git inside does not find that

_LARGEST = 1 << 20  # bytes of one of git's files
_MOST = 20  # lines of alternates
_SECTION = re.compile(r'\s*\[\s*([\w.-]+)(?:\s+"((?:[^"\\]|\\.)*)")?\s*\]')
_SETTING = re.compile(r"\s*([A-Za-z][\w-]*)\s*(?:=\s*(.*?))?\s*(?:[#;].*)?")
_FILTER = re.compile(r"\sfilter=([\w.-]+)")


class Inside(Data):
    """What a sandbox sees: the workspace at `target`, and other mounts. `kept`: whether a path goes along."""

    target: str
    mounts: tuple[str, ...] = ()
    kept: Callable[[str], bool] = lambda path: True
    verb: str = "copied"

    def lacks(self, base: str, value: str) -> bool:
        """Whether `value`, written in git's directory `base` (from the workspace's top), is not there inside."""
        path = posixpath.normpath(posixpath.join(self.target, base, value))
        if below(path, self.target):
            return not self.kept(posixpath.relpath(path, self.target))
        return not any(below(path, mount) for mount in self.mounts)


def git_notes(top: Path, git: str, inside: Inside) -> Iterator[Diagnostic]:
    """What does not work inside of the repository whose `.git` is at the path `git` below `top`."""
    *above, name = git.split("/")
    base = posixpath.dirname(git)
    # the walk over the workspace reports what can't be read
    with contextlib.suppress(OSError, EvidenceError, ValueError), Folder.at(top) as root:
        with root.walk_to(tuple(above)) as place:
            kind = place.kind(name)
            if kind == stat.S_IFLNK:
                value, what = os.readlink(name, dir_fd=place.fd), "a symlink"
            elif kind != stat.S_IFDIR:
                found = re.match(r"gitdir:[ \t]*(.*)", _read(place, name))
                value, what = found[1].rstrip() if found else "", "a file"
        if kind == stat.S_IFDIR:
            yield from _directory_notes(root, git, base, inside)
        elif value and inside.lacks(base, value):
            text = f"{shown(git)} is {what} that points to {shown(value)}, which is not {inside.verb}: "
            yield _warning(f"{text}git will not work inside", _CLONE)
        elif value:
            path = posixpath.normpath(posixpath.join(inside.target, base, value))
            if below(path, inside.target):  # else it is in another mount
                yield from _directory_notes(root, posixpath.relpath(path, inside.target), base, inside)


_CLONE = "use a clone as the workspace: `git clone --no-local SOURCE DIRECTORY`"


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
    settings = git_settings("\n".join(_lines(root, f"{git}/config")))
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


def git_settings(text: str) -> dict[str, str]:
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


def _warning(message: str, help: str | None = None) -> Diagnostic:
    return Diagnostic(message=message, help=help, severity="warning")


def _notice(message: str, help: str | None = None) -> Diagnostic:
    return Diagnostic(message=message, help=help, severity="notice")


# -- What a sandbox finds otherwise in its workspace than the user has it on the disk: said before anything is made

_NAMED = 5  # of a kind, the rest are counted
_LOOKED_AT = 200_000  # entries of a mounted workspace
_MOST_REPOSITORIES = 50


class View(Data):
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
                with contextlib.suppress(OSError):  # gone meanwhile
                    link = os.readlink(node.name, dir_fd=node.fd)
                    at = os.path.normpath(os.path.join(view.target, os.path.dirname(node.path), link))
                    if link and not below(at, view.target):  # outside of the workspace, by its text
                        links.append(f"{shown(node.path)} -> {shown(link)}")
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
        entries = list[os.DirEntry[str]]()
        with contextlib.suppress(OSError), os.scandir(todo.pop()) as scan:  # what the user can't read
            entries = list(scan)
        for entry in entries:
            seen += 1
            path = os.path.relpath(entry.path, source)
            gits += [path] if entry.name == ".git" else []
            if entry.is_dir(follow_symlinks=False):
                todo.append(Path(entry.path))
            elif not entry.is_file(follow_symlinks=False) and not entry.is_symlink():
                special.append(shown(path))
    notes = []
    if note := _note(sorted(special), "sockets, fifos or devices, and the sandbox may reach the programs behind them"):
        notes.append(structs.replace(note, severity="warning", help=help))
    if todo:
        text = f"more than {_LOOKED_AT} files: not all were checked for sockets, fifos and devices"
        notes.append(_notice(text))
    return gits, notes


def _git(source: Path, gits: Iterable[str], inside: Inside, uid: int | None) -> list[Diagnostic]:
    """Of every repository; without one at the top, of the one that the workspace is a part of."""
    found, every = list[Diagnostic](), sorted(gits)
    for git in every[:_MOST_REPOSITORIES]:
        found += git_notes(source, git, inside)
        owners = set[int]()
        with contextlib.suppress(OSError):
            owners = {os.lstat(path).st_uid for path in (source / posixpath.dirname(git), source / git)} - {uid}
        if owners and uid is not None:  # git refuses a repository of another user's ("dubious ownership")
            at, owner = posixpath.join(inside.target, posixpath.dirname(git)).rstrip("/"), min(owners)
            text = f"{shown(git)} belongs to user {owner} and the sandbox's user is {uid}: git inside refuses it"
            trusted = f"GIT_CONFIG_COUNT: 1, GIT_CONFIG_KEY_0: safe.directory, GIT_CONFIG_VALUE_0: {shown(at)}"
            found.append(_warning(text, f"use access: copy, that user, or environment: {{{trusted}}}"))
    real = Path(os.path.realpath(source))
    over = (path for path in real.parents if os.path.isfile(path / ".git") or os.path.isfile(path / ".git" / "HEAD"))
    if ".git" not in every and (above := next(over, None)) is not None:
        part = os.path.relpath(real, above)
        text = (
            f"part of the git repository {shown(str(above))}, whose .git is not {inside.verb}: git does not work inside"
        )
        help = f"apply a patch of it from there with `git apply --directory={shown(part)}`"
        found.append(_notice(text, help))
    return found


def _note(names: Sequence[str], what: str) -> Diagnostic | None:
    return _notice(f"{what}: {few(names, _NAMED)}") if names else None
