"""What a sandbox works on is a part of what it is: a changed workspace or config runs it again."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sandboxrun.lifecycle.job import Waited, apply_and_wait
from sandboxrun.plan.changes import Action, Reason
from tests.engine.world import World, change, open_world


@pytest.fixture
def world(engine_host: str, project: str, tmp_path: Path, busybox: str) -> Iterator[World]:
    home = tmp_path / "home"
    home.mkdir()
    with open_world(engine_host, project, home, busybox) as opened:
        yield opened


def carried_out(world: World, profile: Any) -> Waited:
    waited = apply_and_wait(world.engine, profile, world.store)
    assert waited.exit_code == 0
    return waited


def test_a_changed_workspace_runs_it_again(world: World) -> None:
    (world.directory / "input").write_text("one\n")
    workspace = {"source": ".", "exclude": ["*.log"]}
    profile = world.profile({"a": {"command": ["sh", "-c", "cat input > output"], "workspace": workspace}})
    carried_out(world, profile)
    (world.directory / "noise.log").write_text("left out")
    (world.directory / "input").touch()
    assert change(world.plan(profile), "a").reason is Reason.DONE
    run = world.store.entries()[-1].run

    (world.directory / "input").write_text("two\n")
    found = change(world.plan(profile), "a")
    assert (found.action, found.reason) == (Action.CREATE, Reason.WORKSPACE_CHANGED)
    assert found.note == f"the workspace has changed since run {run[:12]}"
    assert f"+ sandbox a will be created (the workspace has changed since run {run[:12]})" in str(world.plan(profile))
    waited = carried_out(world, profile)
    assert waited.results[0].evidence is not None and waited.results[0].evidence.folder is not None
    index = json.loads((waited.results[0].evidence.folder / "index.json").read_text())
    assert index["digests"]["workspace"].startswith("sha256:")
    assert "+two" in (waited.results[0].evidence.folder / "workspace.patch").read_text()
    assert world.plan(profile).empty

    (world.directory / "input").write_text("one\n")  # as in the first run, which counts still
    assert world.plan(profile).empty


def test_new_artifacts_are_not_in_the_patch_as_well(world: World) -> None:
    (world.directory / "report").mkdir()
    (world.directory / "report/old").write_text("1\n")
    (world.directory / "skip.log").write_text("1\n")
    script = "ls; echo 2 > report/old; echo 3 > report/new; echo 4 > code; echo 5 > more.log"
    profile = world.profile(
        {
            "a": {
                "command": ["sh", "-c", script],
                "workspace": {"source": ".", "exclude": ["*.log"]},
                "evidence": {"artifacts": ["/workspace/report"]},
            }
        }
    )
    (result,) = carried_out(world, profile).results
    assert result.evidence is not None and result.evidence.folder is not None
    folder = result.evidence.folder
    assert (folder / "stdout.log").read_text() == "report\n"
    changed = [line for line in (folder / "workspace.patch").read_text().splitlines() if line.startswith("diff")]
    assert changed == ["diff --git a/code b/code", "diff --git a/report/old b/report/old"]
    assert (folder / "artifacts/workspace/report/new").read_text() == "3\n"


def test_a_changed_config_runs_it_again_and_replaces_what_runs(world: World) -> None:
    def profile(content: str, command: list[str]) -> Any:
        options = {"command": command, "configs": ["settings"]}
        return world.profile({"a": options}, configs={"settings": {"content": content}})

    shows = ["cat", "/run/configs/settings"]
    carried_out(world, profile("one", shows))
    assert world.plan(profile("one", shows)).empty
    assert change(world.plan(profile("two", shows)), "a").action is Action.CREATE

    stays = ["sleep", "600"]
    world.apply(profile("one", stays))
    assert world.plan(profile("one", stays)).empty
    found = change(world.plan(profile("two", stays)), "a")
    assert found.action is Action.REPLACE
    assert [(d.key, d.reason) for d in found.differences] == [("configs", "the content has changed")]
    world.apply(profile("two", stays))
    assert world.run(world.ids(profile("two", stays))["a"], "cat", "/run/configs/settings") == (0, "two")
    assert world.plan(profile("two", stays)).empty
