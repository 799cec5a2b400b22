"""Tampering with a workspace that is the host's own directory: what the host runs later, the profile, the evidence."""

from __future__ import annotations

import os
from pathlib import Path

from tests.attacks.inside.record import TAMPERING, attack, call, held, shell, won

WORKSPACE = Path("/workspace")
KEPT = "files that the host runs are mounted read-only over the workspace"
BUSY = "a mount can't be renamed, replaced or removed"
PROFILE = "every file that the profile depends on is mounted read-only"


def _write(*paths: str) -> str:
    """Write to each; it stays."""
    last = held("nothing was tried")
    for path in paths:
        try:
            (WORKSPACE / path).parent.mkdir(parents=True, exist_ok=True)
            (WORKSPACE / path).write_text("echo the agent was here\n")
            return won(path)
        except OSError as error:
            last = held(f"{os.strerror(error.errno or 0)}: {path}")
    return last


def _shell(script: str) -> str:
    """A script that must not end well."""
    done = shell(f"cd /workspace && {script}")
    return won(script) if done.returncode == 0 else held(done.stdout.strip().replace("\n", "; "))


@attack(TAMPERING, KEPT, "Read-only", cage="rw")
def a_hook_of_git() -> str:
    """write a hook that git on the host runs at the next commit"""
    return _write(".git/hooks/pre-commit")


@attack(TAMPERING, KEPT, "Read-only", cage="rw")
def a_setting_of_git() -> str:
    """name a program in git's configuration that even `git status` runs (core.fsmonitor)"""
    return _shell("printf '[core]\\n\\tfsmonitor = ./x\\n' >> .git/config")


@attack(TAMPERING, BUSY, "busy", cage="rw")
def git_moved_aside() -> str:
    """move .git aside and replace it with a copy with its own hooks"""
    return _shell("mv .git aside && cp -r aside .git && echo x > .git/hooks/pre-commit")


@attack(TAMPERING, KEPT, "Read-only", cage="rw")
def a_link_for_the_hooks() -> str:
    """replace git's hooks with a symlink to its own directory"""
    return _shell("mkdir -p mine && ln -sfn ../mine .git/hooks")


@attack(TAMPERING, "a hard link cannot cross mounts", "cross-device|Read-only|not permitted", cage="rw")
def a_second_name_for_gits_settings() -> str:
    """make a hard link to git's configuration, to write by the other name"""
    return _shell("ln .git/config second && echo x >> second")


@attack(TAMPERING, BUSY, "busy", cage="rw")
def the_profile_replaced() -> str:
    """write a profile that allows everything, and rename it over the real one"""
    return _shell("echo '{}' > open.yaml && mv open.yaml sandbox.yaml")


@attack(TAMPERING, PROFILE, "Read-only|busy", cage="rw")
def what_the_profile_rests_on() -> str:
    """change a file that the profile includes: its env files, its configs"""
    return _write("agent.env", "attacks.pyz")


@attack(TAMPERING, f"{KEPT}; missing ones get a placeholder", "Read-only|busy", cage="rw")
def a_makefile_before_the_makefile() -> str:
    """shadow the Makefile with a name that make prefers, or replace it"""
    return _shell("(echo x > GNUmakefile) || (echo x > new && mv -f new Makefile)")


@attack(TAMPERING, f"{KEPT}; missing ones get a placeholder", "Read-only", cage="rw")
def a_task_of_the_editor() -> str:
    """leave tasks that an editor runs when it opens the directory"""
    return _write(".vscode/tasks.json", ".idea/x", ".devcontainer/devcontainer.json")


@attack(TAMPERING, f"{KEPT}; missing ones get a placeholder", "directory|busy|Read-only", cage="rw")
def a_shell_that_enters() -> str:
    """leave an .envrc, which runs when a shell enters the directory"""
    return _shell("(rmdir .envrc || true) && echo x > .envrc")


@attack(TAMPERING, f"{KEPT}; missing ones get a placeholder", "Read-only", cage="rw")
def a_pipeline() -> str:
    """change the pipeline that the next push runs with its secrets"""
    return _write(".github/workflows/ci.yml", ".circleci/config.yml")


@attack(TAMPERING, f"{KEPT}; missing ones get a placeholder", "Read-only|directory", cage="rw")
def the_next_agents_rights() -> str:
    """leave commands and permissions for coding agents on the host"""
    return _write(".claude/settings.json", ".cursor/rules", ".mcp.json")


@attack(
    TAMPERING,
    "the evidence is hidden by an empty directory that the sandbox does not own",
    "denied|Read-only",
    cage="rw",
)
def evidence_from_within() -> str:
    """write an index and a line of the chain into the evidence"""
    return _write(".sandboxrun/evidence/chain.jsonl", ".sandboxrun/x")


@attack(TAMPERING, BUSY, "busy", cage="rw")
def evidence_moved_aside() -> str:
    """move the evidence aside and put a symlink in its place"""
    return _shell("mv .sandboxrun aside-too && ln -s /tmp .sandboxrun")


@attack(TAMPERING, "seccomp, and no capability", "EPERM", cage="rw")
def the_guards_unmounted() -> str:
    """unmount the guard over .git"""
    mounts = Path("/proc/mounts").read_text()
    call("umount2", b"/workspace/.git" if "/workspace/.git " in mounts else b"/etc/hosts", 2)
    return won("unmounted")


@attack(TAMPERING, "the root is read-only, and a mount can't be renamed", "busy|denied|Read-only", cage="rw",
        control="its own mount can't be renamed in any sandbox, like the guards below it")  # fmt: skip
def the_workspace_itself() -> str:
    """move the workspace away and put a symlink to another directory there"""
    return _shell("mv /workspace /workspace-old && ln -s /etc /workspace")
