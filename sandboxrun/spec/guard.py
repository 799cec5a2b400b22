"""What a sandbox can't write to in a workspace of access `rw`: what the host runs by itself or by habit.

Owns that table, and which mounts keep it. Names are those at the workspace's top: whatever lies deeper can be moved
aside with the directory above it, so it is kept only where that is held too (`pins`). Pure.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from sandboxrun.data import Data
from sandboxrun.spec.types import freeze


class Guard(Data):
    """One name at the workspace's top, why it is kept, and other names that mean the same."""

    name: str
    why: str
    also: tuple[str, ...] = ()


_EDITOR = "editors run its tasks and settings when they open the directory"
_AGENT = "coding agents on the host read commands and permissions from it"
_CI = "the next push runs it, with the pipeline's secrets"
_HOOKS = "git on the host runs the hooks in it"

# Not in it: .gitattributes and .gitmodules, which only choose among what the host's own configuration holds, and what
# the work is about (package.json, conftest.py, scripts): whoever runs an agent's code by hand has to review it first.
GUARDS: Mapping[str, Guard] = freeze(
    {
        guard.name: guard
        for guard in (
            Guard(name=".git", why="git on the host runs its hooks, filters and fsmonitor, at a mere `git status`"),
            Guard(name=".githooks", why=_HOOKS),
            Guard(name=".husky", why=_HOOKS),
            Guard(name=".pre-commit-config.yaml", why="git on the host runs its hooks with every commit"),
            Guard(name=".envrc", why="direnv runs it when a shell enters the directory"),
            Guard(name=".vscode", why=_EDITOR),
            Guard(name=".idea", why=_EDITOR),
            Guard(name=".devcontainer", why="editors build and start containers from it"),
            Guard(name=".mcp.json", why=_AGENT),
            Guard(name=".claude", why=_AGENT),
            Guard(name=".cursor", why=_AGENT),
            Guard(name=".github", why=_CI),
            Guard(name=".gitlab-ci.yml", why=_CI),
            Guard(name=".circleci", why=_CI),
            Guard(name="Makefile", why="make runs it by habit", also=("GNUmakefile", "makefile")),
        )
    }
)
MAKEFILES = ("GNUmakefile", "makefile", "Makefile")  # in the order in which make takes them
HIDDEN = ".sandboxrun"  # evidence, and what waits to become it: the sandbox sees an empty directory there


def guarded(writable: Collection[str], own: Iterable[str]) -> tuple[str, ...]:
    """The paths below a workspace that are kept, sorted: the table's less what is `writable`, the evidence, and `own`,
    the profile's own files. What lies in another of them is left out."""
    kept = [guard for guard in GUARDS.values() if guard.name not in writable]
    every = {HIDDEN, *own, *(name for guard in kept for name in (guard.name, *guard.also))}
    return tuple(sorted(path for path in every if not any(above in every for above in parents(path))))


def host_runs(path: str) -> bool:
    """Whether the host runs a path of a workspace by itself or by habit, at any depth and in any case."""
    return any(step.lower() in _RUN for step in path.split("/"))


_RUN = frozenset(name.lower() for guard in GUARDS.values() for name in (guard.name, *guard.also))


def parents(path: str) -> tuple[str, ...]:
    """The directories above a relative path, the topmost first."""
    steps = path.split("/")
    return tuple("/".join(steps[:end]) for end in range(1, len(steps)))


def mounts_of(protected: Iterable[str]) -> tuple[tuple[str, bool], ...]:
    """The mounts that keep the paths: what is mounted on each, the outer ones first, and whether it is read-only."""
    every = [(path, False) for path in pins(protected)] + [(path, True) for path in protected]
    return tuple(sorted(every, key=lambda one: (one[0].count("/"), one[0])))


def pins(paths: Iterable[str]) -> tuple[str, ...]:
    """The directories above the paths, sorted: each is mounted on itself, since a mount can't be renamed."""
    return tuple(sorted({above for path in paths for above in parents(path)}))


# How git is run on a repository that may be hostile: nothing of the caller's or the repository's that it obeys or runs,
# and no way out of the machine.
GIT_OPTIONS = ("-c", "core.fsmonitor=false", "-c", "core.hooksPath=/dev/null")
GIT_ENVIRONMENT: Mapping[str, str] = {
    "LC_ALL": "C",
    "HOME": "/dev/null",
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_ATTR_NOSYSTEM": "1",
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_NO_LAZY_FETCH": "1",  # git 2.44 and later
    "GIT_ALLOW_PROTOCOL": "none",  # earlier ones would fetch what a partial clone lacks: over no protocol
    "GIT_NO_REPLACE_OBJECTS": "1",
}
