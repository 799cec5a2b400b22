"""The git revision that a workspace is at: its commit and branch, and whether its files differ from it.

Owns how that is read. The repository is hostile, and git would run what its configuration names (filters, fsmonitor):
HEAD and the refs are read as files, and files are compared by a git that sees a directory of our own in place of the
repository's, which has its objects and a copy of its index, and nothing of its configuration but a few switches.
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import msgspec

from sandboxrun.evidence.errors import EvidenceError
from sandboxrun.evidence.folder import Folder, is_name, writing_state
from sandboxrun.evidence.index import Revision
from sandboxrun.evidence.store import REVISION
from sandboxrun.evidence.survey import git_settings
from sandboxrun.spec.guard import GIT_ENVIRONMENT, GIT_OPTIONS

if TYPE_CHECKING:
    from sandboxrun.evidence.store import Store

_SECONDS = 10.0  # for all that git is asked
_SMALL, _LARGE = 1 << 20, 256 << 20  # bytes of a file of git's
_COMMIT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_LONGEST = 250  # characters of a branch's name
_SWITCHES = ("autocrlf", "eol", "filemode", "ignorecase", "symlinks")  # how git compares files: nothing that it runs
_VALUE = re.compile(r"[a-z]{1,10}")


def revision_of(workspace: Path) -> Revision | None:
    """The revision of the directory, by the repository that it is in; None without one. Never raises for what the
    repository holds."""
    try:
        found = _repository(Path(os.path.realpath(workspace)))
        if found is None:
            return None
        top, git = found
        with Folder.at(git) as own, contextlib.ExitStack() as more:
            common = own
            with contextlib.suppress(FileNotFoundError):  # what several working trees share
                common = more.enter_context(Folder.at(own.path / _text(own, "commondir").strip()))
            commit, branch = _head(own, common)
            dirty, untracked = None, None
            if commit is not None:
                with contextlib.suppress(OSError, EvidenceError):  # the commit is known without
                    dirty, untracked = _compared(top, Path(os.path.realpath(workspace)), own, common, commit)
            return Revision(commit=commit, branch=branch and branch[:_LONGEST], dirty=dirty, untracked=untracked)
    except (OSError, EvidenceError, ValueError):
        return Revision()


def stage_revision(store: Store, run: str, workspace: Path, *, engine: str) -> None:
    """Note the revision of a run's workspace until its evidence is taken."""
    if (found := revision_of(workspace)) is not None:
        with store.staging(run, engine=engine) as staging, writing_state():
            staging.write(REVISION, msgspec.json.encode(found))


# -- HEAD and refs, read as files


def _repository(workspace: Path) -> tuple[Path, Path] | None:
    """The top of the working tree, and git's directory."""
    for top in (workspace, *workspace.parents):
        at = top / ".git"
        if at.is_symlink():
            return None
        if at.is_dir():
            return top, at
        if at.is_file():
            with Folder.at(top) as folder:
                named = re.fullmatch(r"gitdir: (.+)", _text(folder, ".git").rstrip("\n"))
            return (top, top / named[1]) if named is not None else None
    return None


def _head(git: Folder, common: Folder) -> tuple[str | None, str | None]:
    """The commit, and the branch."""
    text = _text(git, "HEAD").strip()
    if _COMMIT.fullmatch(text):
        return text, None
    named = re.fullmatch(r"ref: (refs/heads/(.+))", text)
    if named is None or not all(map(is_name, named[1].split("/"))):
        return None, None
    *above, name = named[1].split("/")
    with contextlib.suppress(FileNotFoundError), common.walk_to(tuple(above)) as place:
        found = _text(place, name).strip()
        return (found if _COMMIT.fullmatch(found) else None), named[2]
    with contextlib.suppress(FileNotFoundError):
        line = re.search(rf"(?m)^({_COMMIT.pattern}) {re.escape(named[1])}$", _text(common, "packed-refs", _LARGE))
        return (line[1] if line is not None else None), named[2]
    return None, named[2]


def _text(folder: Folder, name: str, most: int = _SMALL) -> str:
    with folder.open(name) as file:
        return file.read(most).decode("utf-8", "surrogateescape")


# -- Files, compared by git


def _compared(top: Path, workspace: Path, git: Folder, common: Folder, commit: str) -> tuple[bool | None, bool | None]:
    """Whether tracked files differ from the commit, and whether there are others; None for what git can't tell."""
    with TemporaryDirectory(prefix="sandboxrun-git-") as directory:
        own = Path(directory)
        _furnish(own, git, common, commit)
        git_here, part = _Git(own, top), ("--", os.path.relpath(workspace, top))
        index = git_here.differs("diff-index", "--cached", "--quiet", "--ignore-submodules=all", commit, *part)
        git_here.differs("update-index", "-q", "--ignore-submodules", "--refresh")  # of our copy
        files = git_here.differs("diff-files", "--quiet", "--ignore-submodules=all", *part)
        dirty = True if index or files else None if index is None or files is None else False
        others = ("ls-files", "--others", "--exclude-standard", "--directory", "--no-empty-directory")
        return dirty, git_here.prints(*others, *part)


def _furnish(own: Path, git: Folder, common: Folder, commit: str) -> None:
    """Make the directory that git is shown."""
    settings = {}
    with contextlib.suppress(FileNotFoundError):
        settings = git_settings(_text(common, "config"))
    switches = {key: settings.get(f"core.{key}", "").lower() for key in _SWITCHES}
    lines = ["[core]", f"repositoryformatversion = {int(len(commit) == 64)}"]
    lines += [f"{key} = {value}" for key, value in switches.items() if _VALUE.fullmatch(value)]
    lines += ["[extensions]", "objectformat = sha256"] if len(commit) == 64 else []
    (own / "config").write_text("\n".join(lines) + "\n")
    (own / "HEAD").write_text(f"{commit}\n")
    for name in ("refs", "objects/info", "info"):
        (own / name).mkdir(parents=True)
    borrowed = os.path.realpath(common.path / "objects")
    if "\n" in borrowed:
        raise EvidenceError("the repository's path has a line break")
    (own / "objects/info/alternates").write_text(f"{borrowed}\n", errors="surrogateescape")
    for folder, parts, name in ((git, (), "index"), (common, ("info",), "exclude")):
        with contextlib.suppress(FileNotFoundError), folder.walk_to(parts) as place, place.open(name) as file:
            content = file.read(_LARGE + 1)
            if len(content) > _LARGE:
                raise EvidenceError(f"{place.path / name} is too large")
            (own / Path(*parts) / name).write_bytes(content)


class _Git:
    """Git, on the directory that it is shown, within a time for all its commands."""

    def __init__(self, own: Path, top: Path) -> None:
        self._top, self._end = top, time.monotonic() + _SECONDS
        self._environment = {
            **{name: os.environ[name] for name in ("PATH", "TMPDIR") if name in os.environ},
            **GIT_ENVIRONMENT,
            "GIT_DIR": str(own),
            "GIT_WORK_TREE": str(top),
            "GIT_INDEX_FILE": str(own / "index"),
            "GIT_LITERAL_PATHSPECS": "1",
        }

    def differs(self, *command: str) -> bool | None:
        """Whether the exit code says so: 0 for no, 1 for yes."""
        with self._begun(command, subprocess.DEVNULL) as process:
            code = process.wait(max(0.0, self._end - time.monotonic())) if process is not None else None
        return {0: False, 1: True}.get(-1 if code is None else code)

    def prints(self, *command: str) -> bool | None:
        """Whether it prints anything; the rest is not waited for."""
        with self._begun(command, subprocess.PIPE) as process:
            if process is None or process.stdout is None:
                return None
            ready, _, _ = select.select([process.stdout], [], [], max(0.0, self._end - time.monotonic()))
            if not ready:
                return None
            if process.stdout.read(1):
                return True
            return False if process.wait(max(0.0, self._end - time.monotonic())) == 0 else None

    @contextlib.contextmanager
    def _begun(self, command: tuple[str, ...], out: int) -> Iterator[subprocess.Popen[bytes] | None]:
        """The process, which ends with the block; None where there is no git."""
        try:
            process = subprocess.Popen(
                ["git", *GIT_OPTIONS, *command],
                cwd=self._top, env=self._environment, stdin=subprocess.DEVNULL, stdout=out,
                stderr=subprocess.DEVNULL,
            )  # fmt: skip
        except OSError:
            yield None
            return
        with process:
            try:
                yield process
            except subprocess.TimeoutExpired:
                raise EvidenceError("git took too long") from None
            finally:
                process.kill()
