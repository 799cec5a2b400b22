"""The hook, the action and the GitLab template, run as their pipelines run them, without a network."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from .test_review_commands import git

ROOT = Path(__file__).parents[3]
CLOSED = "sandboxes:\n  a: {image: 'busybox:1', egress: none}\n"
OPEN = CLOSED.replace("none", "{allow: ['api.example.com:443']}")


def read(name: str) -> Any:
    """A file of the repository's root."""
    return yaml.safe_load((ROOT / name).read_text())


@pytest.fixture
def request_(tmp_path: Path) -> tuple[Path, str]:
    """A shallow checkout of a change that opens a destination, and its base's commit."""
    origin, clone = tmp_path / "origin", tmp_path / "clone"
    origin.mkdir()
    git(origin, "init", "-q", "-b", "main")
    (origin / "sandbox.yaml").write_text(CLOSED)
    git(origin, "add", ".")
    git(origin, "commit", "-q", "-m", "base")
    git(origin, "config", "uploadpack.allowReachableSHA1InWant", "true")
    base = subprocess.run(["git", "rev-parse", "HEAD"], cwd=origin, check=True, capture_output=True, text=True)
    (origin / "sandbox.yaml").write_text(OPEN)
    git(origin, "commit", "-q", "-a", "-m", "change")
    subprocess.run(["git", "clone", "-q", "--depth", "1", f"file://{origin}", clone], check=True)
    return clone, base.stdout.strip()


def run(script: str, directory: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """A script as a pipeline's shell runs it, with the command that an installation makes."""
    command = directory.parent / "bin" / "sandboxrun"
    command.parent.mkdir(exist_ok=True)
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m sandboxrun "$@"\n')
    command.chmod(0o755)
    path = f"{command.parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", script],
        cwd=directory, env={**os.environ, "PATH": path, **variables}, capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_the_action(request_: tuple[Path, str], tmp_path: Path) -> None:
    clone, base = request_
    script = read("action.yml")["runs"]["steps"][1]["run"]
    log = tmp_path / "log.sarif"
    ran = run(script, clone, AUDIT_PATH=".", AUDIT_BASE=base, AUDIT_FAIL_ON="high", AUDIT_SARIF=str(log))
    assert ran.returncode == 1, ran.stderr
    assert "SBX920 a: WIDENED network: may now open api.example.com:443" in ran.stdout
    assert log.stat().st_size > 1000
    ran = run(script, clone, AUDIT_PATH=".", AUDIT_BASE="", AUDIT_FAIL_ON="high", AUDIT_SARIF="")
    assert ran.returncode == 0, ran.stderr


def test_the_gitlab_template(request_: tuple[Path, str]) -> None:
    clone, base = request_
    git(clone, "fetch", "-q", "--unshallow")
    script = "\n".join(line for line in read("ci/gitlab.yml")["sandboxrun-audit"]["script"] if "install" not in line)
    ran = run(script, clone, CI_MERGE_REQUEST_DIFF_BASE_SHA=base)
    assert ran.returncode == 1, ran.stderr
    assert "+ WIDENED  network: a may now open api.example.com:443" in ran.stdout
    assert (clone / "gl-code-quality-report.json").read_text().startswith("[")


def test_the_hook() -> None:
    (hook,) = read(".pre-commit-hooks.yaml")
    assert hook["entry"] == "sandboxrun audit"
    for name in ("sandbox.yaml", "a/compose.yml", "docker-compose.override.yaml", "x.sandbox.yaml", "compose.prod.yml"):
        assert re.search(hook["files"], name), name
    for name in ("values.yaml", "sandbox.json", "mycompose.yaml"):
        assert not re.search(hook["files"], name), name
