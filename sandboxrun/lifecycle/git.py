"""Reading a repository's objects: revisions, files of a revision, and a revision's files as a directory.

Owns how git is called. The repository is hostile: plumbing only, no hook, filter, pager, external program or network,
and no configuration but the repository's own, of which nothing is run by these commands.
"""

from __future__ import annotations

import contextlib
import os
import re
import resource
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from sandboxrun.errors import SandboxrunError
from sandboxrun.spec.guard import GIT_ENVIRONMENT, GIT_OPTIONS

MOST_FILES = 20_000
LARGEST_FILE = 1 << 20  # of what is read of a revision; no profile, and nothing that one names, may be larger
LARGEST_TREE = 256 << 20  # bytes of all files that are read of one revision
MOST_OUTPUT = 64 << 20  # bytes that one command may print, but for files
_TIMEOUT = 60.0
_WANTED = re.compile(r"(\.(yaml|yml|json|env)|(^|/)(\.env[^/]*|env))\Z", re.IGNORECASE)


class GitError(SandboxrunError):
    """The repository cannot be read, or has no such revision."""


class Repository:
    """A repository, by a directory in it."""

    def __init__(self, directory: Path) -> None:
        self.directory = Path(os.path.realpath(directory))
        top = self._git("rev-parse", "--show-toplevel").decode("utf-8", "surrogateescape").rstrip("\n")
        self.root = Path(os.path.realpath(top))
        self.name = self.root.name or "root"  # which a project may be called after

    def _git(self, *arguments: str, input: bytes | None = None, most: int = MOST_OUTPUT) -> bytes:
        """What a plumbing command prints, up to `most` bytes. Raises GitError with git's own words."""

        def bound() -> None:
            """Trees that hold each other name more files than there are bytes: what git writes ends."""
            resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))

        never = ("-c", "protocol.allow=never")
        command = ["git", "--no-pager", *GIT_OPTIONS, *never, "-C", str(self.directory), *arguments]
        kept = {name: os.environ[name] for name in ("PATH", "LANG", "TMPDIR") if name in os.environ}
        environment = {**kept, **GIT_ENVIRONMENT, "GIT_OPTIONAL_LOCKS": "0"}
        with tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as told, tempfile.TemporaryFile() as errors:
            given.write(input or b"")
            given.seek(0)
            try:
                done = subprocess.run(
                    command, stdin=given, stdout=told, stderr=errors, env=environment, timeout=_TIMEOUT, check=False,
                    preexec_fn=bound,
                )  # fmt: skip
            except FileNotFoundError:
                raise GitError("git is not installed", help="install it, or leave out --base and --trust-ref") from None
            except subprocess.TimeoutExpired:
                raise GitError(f"git took longer than {_TIMEOUT:g} s to read the repository") from None
            if os.fstat(told.fileno()).st_size >= most or done.returncode == -signal.SIGXFSZ:
                raise GitError("the revision is too large to be reviewed")
            if done.returncode != 0:
                errors.seek(0)
                words = errors.read(10_000).decode("utf-8", "replace").strip()
                found = re.search(r"^(?:fatal|error): (.*)", words, re.MULTILINE)
                said = found[1] if found is not None else words.partition("\n")[0]
                said = said or f"git ended with {done.returncode}"
                raise GitError(f"the repository cannot be read: {said}", help=_help(words))
            told.seek(0)
            return told.read()

    def commit(self, ref: str) -> str:
        """The commit that a name stands for. Raises GitError, for a shallow or partial clone by name."""
        if not ref or ref.startswith("-") or not ref.isprintable():
            raise GitError(f'"{ref}" is not a revision')
        self._check_one_meaning(ref)
        found = ""
        with contextlib.suppress(GitError):
            asked = self._git("rev-parse", "--verify", "--quiet", "--end-of-options", f"{ref}^{{commit}}")
            found = asked.decode().strip()
        if re.fullmatch("[0-9a-f]{40}|[0-9a-f]{64}", found):
            return found
        help = "fetch it first, or check its name"
        if self._git("rev-parse", "--is-shallow-repository").strip() == b"true":
            help = "this clone is shallow: fetch the revision first (git fetch --unshallow, or fetch-depth: 0)"
        raise GitError(f'the repository has no revision "{ref}"', help=help)

    def _check_one_meaning(self, ref: str) -> None:
        """Refuse a name that a branch and a tag both have: whoever can push a tag called origin/main would choose what
        is trusted, for git takes it before the branch."""
        name = re.split(r"[~^:]|@\{", ref)[0]
        if not name or name.startswith("refs/") or re.search(r"[*?\[\\]", name):
            return
        places = [f"refs/{kind}{name}" for kind in ("", "tags/", "heads/", "remotes/")]
        listed = self._git("for-each-ref", "--format=%(refname)", *places).decode("utf-8", "replace").split()
        found = [place for place in places if place in listed]
        if len(found) + bool(re.fullmatch("[0-9a-f]{4,40}|[0-9a-f]{64}", name)) > 1:
            raise GitError(f'"{ref}" has several meanings', help=f"write the whole name: {' or '.join(found)}")

    def _held(self, commit: str) -> tuple[dict[str, str], dict[str, str]]:
        """The regular files of a commit, and its submodules: their objects by path. A tree that holds what no checkout
        would is refused."""
        held: dict[str, dict[str, str]] = {"blob": {}, "commit": {}}
        listed = self._git("ls-tree", "-r", "-z", "--full-tree", "--end-of-options", commit)
        for entry in filter(None, listed.split(b"\0")):
            meta, _, raw = entry.partition(b"\t")
            mode, kind, object_id = meta.decode("ascii").split()
            path = raw.decode("utf-8", "surrogateescape")
            if f"{mode} {kind}" not in ("100644 blob", "100755 blob", "160000 commit"):
                continue  # links: what they lead to is not of this revision
            steps = path.split("/")
            if any(step in ("", ".", "..") or step.lower() == ".git" or "\0" in step for step in steps):
                raise GitError(f"the revision {commit[:12]} holds a path that no checkout would have")
            held[kind][path] = object_id
        return held["blob"], held["commit"]

    def check_files(self, commit: str, *paths: str) -> None:
        """Raise GitError where the commit has one of the paths as something else than a file: it would be missing."""
        listed = self._git("ls-tree", "-z", "--full-tree", "--end-of-options", commit, *paths)
        for entry in filter(None, listed.split(b"\0")):
            if not entry.startswith((b"100644 blob", b"100755 blob")):
                path = entry.partition(b"\t")[2].decode("utf-8", "replace")
                raise GitError(
                    f"{path} is not a regular file in the revision {commit[:12]}", help="make it a file there"
                )

    def blobs(self, objects: Sequence[str]) -> Iterator[bytes]:
        """The contents of objects, in their order; of one that is larger than anything that is read of a revision, as
        many zeros as make it that. Raises GitError for one that is missing, and for too many."""
        if not objects:
            return
        lines = "".join(f"{object_id}\n" for object_id in objects).encode()
        sizes: list[int] = []
        for line in self._git("cat-file", "--batch-check", input=lines).decode("ascii", "replace").splitlines():
            words = line.split()
            if len(words) != 3:
                raise GitError(f"the object {words[0][:12] if words else '?'} is missing", help=_PARTIAL)
            sizes.append(int(words[2]))
        read = [one for one, size in zip(objects, sizes, strict=True) if size <= LARGEST_FILE]
        if sum(size for size in sizes if size <= LARGEST_FILE) > LARGEST_TREE:
            raise GitError("the revision's files are too large to be reviewed")
        lines = "".join(f"{object_id}\n" for object_id in read).encode()
        data = self._git("cat-file", "--batch", input=lines, most=2 * LARGEST_TREE) if read else b""
        at = 0
        for size in sizes:
            if size > LARGEST_FILE:
                yield bytes(LARGEST_FILE + 1)
                continue
            end = data.index(b"\n", at)
            yield data[end + 1 : end + 1 + size]
            at = end + 1 + size + 1

    def _submodule(self, path: str) -> Repository:
        """The repository of a submodule that is checked out. Its objects are believed only below this repository's own
        `.git`: a sandbox may write whatever else lies in the working tree."""
        place = self.root / path
        if os.path.realpath(place) != str(place) or not os.path.lexists(place / ".git"):
            raise GitError("it is not checked out")
        found = Repository(place)
        common = self._git("rev-parse", "--path-format=absolute", "--git-common-dir")
        own = found._git("rev-parse", "--path-format=absolute", "--git-common-dir")
        above, inner = (os.path.realpath(os.fsdecode(told).rstrip("\n")) for told in (common, own))
        if found.root != place or not inner.startswith(above + os.sep):
            raise GitError(f"its objects are not in {above}")
        return found

    def export(self, commit: str, into: Path) -> dict[str, str]:
        """Write the files of a revision that profiles are made of into a directory: regular files, no links. They are
        those that are called so, and those that one of them names. It counts as a repository's root, as theirs does:
        what is above a file is looked for up to there. With those of submodules, as the revision has them; returns
        which could not be read, by path, with the reason."""
        (into / ".git/objects").mkdir(parents=True, exist_ok=True)
        (left, submodules), count = self._held(commit), 0
        named = Named()
        wanted = [path for path in left if _WANTED.search(path)]
        while wanted:
            if (count := count + len(wanted)) > MOST_FILES:
                raise GitError(f"the revision has more than {MOST_FILES} files to review")
            for path, content in zip(wanted, self.blobs([left.pop(path) for path in wanted]), strict=True):
                place = into / path
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_bytes(content)
                if not path.endswith(".json") and len(content) <= LARGEST_FILE:
                    named.add(content.decode("utf-8", "replace"))
            wanted = [path for path in left if named.has(path.rpartition("/")[2])]
        unread: dict[str, str] = {}
        for path, pinned in submodules.items():
            try:
                inner = self._submodule(path).export(pinned, into / path)
            except GitError as error:
                unread[path] = f"{error.diagnostics[0].message} (commit {pinned[:12]})"
            else:
                unread |= {f"{path}/{below}": why for below, why in inner.items()}
        return unread


class Named:
    """The names of files that texts have in them, wherever that is."""

    def __init__(self) -> None:
        self._words: set[str] = set()
        self._texts: list[str] = []

    def add(self, text: str) -> None:
        """One more text."""
        self._words |= set(_WORD.findall(text))
        self._texts.append(text)

    def has(self, name: str) -> bool:
        """Whether one of the texts has the name. One that is no plain word is looked for letter by letter."""
        plain = _WORD.fullmatch(name) is not None
        return name in self._words if plain else any(name in text for text in self._texts)


_WORD = re.compile(r"[\w.+@%~-]+")
_PARTIAL = "this clone is partial: fetch the revision's files first (git fetch --refetch)"


def _help(said: str) -> str | None:
    if "dubious ownership" in said:
        return "the repository belongs to another user: run the review as its owner"
    if "not a git repository" in said:
        return "run the command inside a repository"
    if "lazy fetching" in said or "promisor" in said:
        return _PARTIAL
    return None
