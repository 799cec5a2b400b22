"""What became of what attacks left behind: for each, whether the evidence is free of it, and that it had been there."""

from __future__ import annotations

import io
import json
import subprocess
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path

from sandboxrun.data import Data
from tests.attacks.cages import Ran
from tests.attacks.weak import SECRET

REPORT = "artifacts/workspace/report/"


class Kept(Data):
    """A run's evidence: what was kept, what was refused and why, and the patch."""

    ran: Ran
    project: Path

    @property
    def paths(self) -> frozenset[str]:
        """Of all files kept."""
        assert self.ran.captured.index is not None
        return frozenset(kept.path for kept in self.ran.captured.index.kept)

    def refused(self, name: str) -> str:
        """Why what has that name in its path was refused; "" if it was not."""
        assert self.ran.captured.index is not None
        return "; ".join(one.reason for one in self.ran.captured.index.refused if name in one.path)

    def missing(self) -> str:
        """What is told to be missing."""
        assert self.ran.captured.index is not None
        return "; ".join(f"{one.part}: {one.reason}" for one in self.ran.captured.index.missing)

    def applied(self, to: Path) -> Mapping[str, str]:
        """What git makes of the patch in a clean copy of the workspace: files by name, links by where they lead."""
        subprocess.run(["cp", "-a", self.project / "work", to], check=True)
        patch = self.ran.kept("workspace.patch")
        subprocess.run(["git", "apply", "-"], cwd=to, input=patch, check=True, capture_output=True)
        paths = [path for path in to.rglob("*") if ".git" not in path.relative_to(to).parts]
        return {
            str(path.relative_to(to)): str(path.readlink()) if path.is_symlink() else path.read_text(errors="replace")
            for path in paths
            if path.is_symlink() or path.is_file()
        }


class Outcome(Data):
    """`stopped`, by the evidence; `real`: it was in what the engine gave out, as a careless copy would take it."""

    stopped: Callable[[Kept], bool]
    real: Callable[[Mapping[str, tarfile.TarInfo]], bool] | None = None


def members(data: bytes) -> Mapping[str, tarfile.TarInfo]:
    """Of an archive, by their names below its top."""
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        return {info.name.partition("/")[2]: info for info in tar.getmembers()}


def _refused(name: str, reason: str) -> Callable[[Kept], bool]:
    return lambda kept: reason in kept.refused(name) and not any(f"{REPORT}{name}" == path for path in kept.paths)


def _one_of_two(kept: Kept) -> bool:
    taken = {path for path in kept.paths if path.lower() == f"{REPORT}summary"}
    return len(taken) == 1 and "some file systems" in kept.refused("ummary") + kept.refused("UMMARY")


def _index_is_its_own(kept: Kept) -> bool:
    index = json.loads(kept.ran.kept("index.json"))
    return index["ending"]["how"] == "exited" and "run" in index and f"{REPORT}index.json" in kept.paths


def _masked(kept: Kept) -> bool:
    both = kept.ran.kept("stdout.log") + kept.ran.kept("stderr.log")
    return both.count(b"PRINTED:***") == 2 and SECRET.encode() not in both


def _masked_forms(kept: Kept) -> bool:
    lines = [line for line in kept.ran.kept("stderr.log").splitlines() if line.startswith(b"ENCODED:")]
    plain = (SECRET.encode().hex().encode(), SECRET[::-1].encode())
    return len(lines) == 3 and all(b"***" in line and not any(form in line for form in plain) for line in lines)


def _marked(kept: Kept) -> bool:
    assert kept.ran.captured.index is not None
    marked = {one.path for one in kept.ran.captured.index.kept if one.sensitive}
    return f"{REPORT}notes.txt" in marked and not any(SECRET in path for path in kept.paths)


OUTCOMES: Mapping[str, Outcome] = {
    "a_link_to_the_hosts_files": Outcome(stopped=_refused("passwd", "a symlink"), real=lambda m: m["passwd"].issym()),
    "a_link_upwards": Outcome(stopped=_refused("up", "a symlink"), real=lambda m: m["up"].linkname.startswith("../..")),
    "a_hard_link": Outcome(
        stopped=lambda kept: "a hard link" in kept.refused("first") + kept.refused("second"),
        real=lambda m: m["first"].islnk() or m["second"].islnk(),
    ),
    "a_fifo": Outcome(stopped=_refused("fifo", "a fifo"), real=lambda m: m["fifo"].isfifo()),
    "a_setuid_file": Outcome(
        stopped=_refused("setuid", "a setuid"), real=lambda m: m["setuid"].mode & 0o6000 == 0o6000
    ),
    "a_name_with_commands_for_terminals": Outcome(
        stopped=lambda kept: (
            "control" in kept.refused("clear") and not any("\x1b" in p or "\n" in p for p in kept.paths)
        ),
        real=lambda m: any("\x1b[2J" in name for name in m),
    ),
    "a_name_that_is_no_text": Outcome(
        stopped=lambda kept: "undecodable" in kept.refused("no-text"),
        real=lambda m: any(name.startswith("no-text-") for name in m),
    ),
    "directories_without_end": Outcome(
        stopped=lambda kept: (
            max(path.count("/") for path in kept.paths) < 40
            and ("deep" in kept.refused("dddd") or "long" in kept.refused("dddd"))
        ),
        real=lambda m: max(name.count("/") for name in m) > 40,
    ),
    "a_repository_among_artifacts": Outcome(
        stopped=lambda kept: "a repository" in kept.refused(".GIT") and not any("pre-commit" in p for p in kept.paths),
        real=lambda m: "sub/.GIT/hooks/pre-commit" in m,
    ),
    "two_names_in_one": Outcome(stopped=_one_of_two, real=lambda m: {"Summary", "SUMMARY"} <= m.keys()),
    "the_artifact_itself_a_link": Outcome(
        stopped=lambda kept: "a symlink" in kept.refused("gate") and not any("/gate/" in path for path in kept.paths)
    ),
    "an_index_of_ones_own": Outcome(stopped=_index_is_its_own, real=lambda m: "index.json" in m),
    "a_secret_among_artifacts": Outcome(stopped=_marked, real=lambda m: f"key-{SECRET}" in m),
    "a_secret_in_the_output": Outcome(stopped=_masked),
    "a_secret_encoded": Outcome(stopped=_masked_forms),
}
