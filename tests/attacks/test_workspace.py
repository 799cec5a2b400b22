"""Attacks on a workspace that is the host's own directory, and by what is left in a copied one."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.attacks.inside.record import Attack
from tests.attacks.left import OUTCOMES, members
from tests.attacks.places import Copied, Shared
from tests.attacks.shipping import attacks, controlled
from tests.attacks.weak import SECRET

PATCHED = ("hooks_in_the_copy", "a_name_that_ends_the_patch", "a_directory_that_became_a_link")


@pytest.mark.parametrize("one", attacks("rw"), ids=lambda one: one.name)
def test_the_workspace_is_kept(one: Attack, shared: Shared) -> None:
    assert re.search(rf"^held: .*({one.held})", shared.said.get(one.name, "never ran"))


@pytest.mark.parametrize("one", controlled("rw"), ids=lambda one: one.name)
def test_a_plain_bind_is_not(one: Attack, shared: Shared) -> None:
    assert shared.weak.get(one.name, "never ran").startswith("won: ")


def test_what_is_kept_is_as_it_was(shared: Shared) -> None:
    """By the host's own look, after the sandbox has ended."""
    assert shared.before == shared.after


@pytest.mark.parametrize("one", attacks("copy", "giant", "many", "bottomless"), ids=lambda one: one.name)
def test_what_is_left_does_no_harm(one: Attack, copied: Copied) -> None:
    said = copied.said[one.cage].get(one.name, "never ran")
    if one.held != "left":
        assert re.search(rf"^held: .*({one.held})", said)
        return
    assert said.startswith("left: ")
    if one.name in OUTCOMES:
        assert OUTCOMES[one.name].stopped(copied.kept(one.cage))
    else:
        assert one.cage in ("giant", "many", "bottomless") or one.name in PATCHED


@pytest.mark.parametrize("name", [name for name, outcome in OUTCOMES.items() if outcome.real])
def test_what_is_left_is_really_in_there(name: str, copied: Copied) -> None:
    real = OUTCOMES[name].real
    assert real is not None and real(members(copied.archive))


def test_a_secret_in_the_environment_would_be_found(copied: Copied) -> None:
    assert copied.weak["a_secret_by_the_environment"].startswith("won: ")


def test_giants_end_at_their_limit(copied: Copied) -> None:
    giant, many = copied.kept("giant"), copied.kept("many")
    assert "larger than" in giant.refused("giant") + giant.missing() or "longer than the limits" in giant.missing()
    assert not any(path.endswith("giant") for path in giant.paths)
    assert "files" in many.missing() and len(many.paths) < 10_100


def test_what_no_path_names_is_told_and_spoils_nothing_else(copied: Copied) -> None:
    """And the volume went with the sandbox: else the run's own look at what is left would tell."""
    kept = copied.kept("bottomless")
    assert "a directory: nested too deep" in kept.refused("dddddddd")
    assert "artifacts/workspace/report/kept.txt" in kept.paths


def test_the_patch_changes_nothing_outside_of_the_workspace(copied: Copied, tmp_path: Path) -> None:
    kept = copied.kept("copy")
    files = kept.applied(tmp_path / "clean")
    assert "src" not in files and kept.refused("src") == "a symlink to an absolute path"
    assert files["x\n--- a\n+++ b/y"].startswith("x\n") and "plain" in files
    assert {path.name for path in tmp_path.iterdir()} == {"clean"}
    assert not (tmp_path / "clean/.git/hooks/pre-commit").exists()
    assert b".git/hooks" not in kept.ran.kept("workspace.patch")
    assert b"pre-commit" in kept.ran.kept("workspace-git.json")


def test_no_part_of_the_evidence_holds_the_secret(copied: Copied) -> None:
    kept = copied.kept("copy")
    files = {path: kept.ran.kept(path) for path in kept.paths if not path.startswith("artifacts/")}
    assert [path for path, content in files.items() if SECRET.encode() in content and path != "workspace.patch"] == []
    assert SECRET.encode() not in files["inspect.json"] and SECRET not in copied.plan
