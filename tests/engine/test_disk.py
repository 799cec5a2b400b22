"""What a sandbox may fill: a workspace of a size, and secrets in memory; never the engine's disk without a bound."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker
import pytest

from sandboxrun.errors import ApplyError
from sandboxrun.lifecycle.job import Waited, apply_and_wait
from sandboxrun.plan.changes import Action
from sandboxrun.spec import labels as own
from tests.engine.world import World, change, open_world


@pytest.fixture
def world(engine_host: str, project: str, tmp_path: Path, busybox: str) -> Iterator[World]:
    home = tmp_path / "home"
    (home / "sub").mkdir(parents=True)
    (home / "code").write_text("1\n")
    (home / "sub/more").write_text("2\n")
    with open_world(engine_host, project, home, busybox) as opened:
        yield opened


SIZED = {"source": ".", "size": "2m"}


def carried_out(world: World, script: str, **options: Any) -> tuple[Waited, Path, dict[str, Any]]:
    profile = world.profile({"a": {"workspace": SIZED, "command": ["sh", "-c", script], **options}})
    waited = apply_and_wait(world.engine, profile, world.store, settings=world._settings())
    (result,) = waited.results
    assert result.evidence is not None and result.evidence.folder is not None
    return waited, result.evidence.folder, json.loads((result.evidence.folder / "index.json").read_text())


def test_a_sized_workspace_ends_at_its_size_and_its_patch_comes_out(world: World) -> None:
    script = "ls -ln; stat -c '%u %g %a' .; echo 3 > code; echo 4 > new; dd if=/dev/zero of=big bs=64k count=64; rm big"
    waited, folder, index = carried_out(world, script)
    assert waited.exit_code == 0
    assert "No space left on device" in (folder / "stderr.log").read_text()
    assert "1000 1000 755" in (folder / "stdout.log").read_text()
    patch = (folder / "workspace.patch").read_text()
    assert "+3\n" in patch and "+4\n" in patch and index["patched_paths"] == 2
    assert [missing["part"] for missing in index["missing"]] in ([], ["usage"])


def test_files_without_content_end_too(world: World) -> None:
    _, folder, _ = carried_out(world, "i=0; while touch f$i 2>/tmp/why; do i=$((i+1)); done; cat /tmp/why; rm f*")
    assert "No space left on device" in (folder / "stdout.log").read_text()


def test_a_full_workspace_is_kept_all_the_same(world: World) -> None:
    _, folder, index = carried_out(world, "echo 3 > code; dd if=/dev/urandom of=big bs=64k count=64", user="1234:1234")
    assert "+3\n" in (folder / "workspace.patch").read_text() and index["patched_paths"] == 2


def test_a_workspace_larger_than_its_size_is_refused(world: World) -> None:
    (world.directory / "large").write_bytes(bytes(3 << 20))
    profile = world.profile({"a": {"workspace": SIZED}})
    with pytest.raises(ApplyError, match=r"a: the workspace holds \d+ bytes, and its size is 2m"):
        world.apply(profile)
    assert world.ids(profile) == {}


def test_what_can_run_in_a_sized_workspace(world: World) -> None:
    (world.directory / "tool").write_text("#!/bin/sh\necho ran\n")
    (world.directory / "tool").chmod(0o755)
    _, folder, _ = carried_out(world, "./tool; grep workspace /proc/mounts")
    said = (folder / "stdout.log").read_text()
    assert said.startswith("ran\n") and "size=2048k" in said


def test_a_changed_size_is_a_replacement(world: World) -> None:
    profile = world.profile({"a": {"workspace": SIZED}})
    world.apply(profile)
    assert world.plan(profile).empty
    found = change(world.plan(world.profile({"a": {"workspace": {**SIZED, "size": "3m"}}})), "a")
    assert found.action is Action.REPLACE and [d.key for d in found.differences] == ["workspace"]
    world.destroy(profile)
    assert world.engine.volumes(labels={own.PROJECT: world.project}) == ()


def test_a_workspace_that_was_lost_is_not_told_as_removed_files(
    world: World, engine_client: docker.DockerClient
) -> None:
    profile = world.profile({"a": {"workspace": SIZED, "command": ["sh", "-c", "echo 3 > code; sleep 600"]}})
    world.apply(profile)
    engine_client.containers.get(f"{world.project}-a.keeper").kill()
    container = engine_client.containers.get(f"{world.project}-a")
    container.kill()
    container.wait()
    world.apply(profile)
    (entry,) = world.store.entries(world.project)
    index = world.store.index(entry)
    reasons = {missing.part: missing.reason for missing in index.missing}
    assert reasons["workspace.patch"] == "it was in memory, and its keeper exited before it could be read"
    assert "workspace.patch" not in {kept.path for kept in index.kept}


def test_an_endless_list_of_changes_is_not_read(world: World) -> None:
    """Five thousand files, each with a path of almost four thousand characters."""
    script = (
        "n=$(printf %0250d 0); cd /home; for i in $(seq 14); do mkdir $n && cd $n || exit 1; done"
        "; p=$(printf %0230d 0); i=0; while [ $i -lt 5000 ]; do : > $p$i || exit 1; i=$((i+1)); done"
    )
    waited, folder, index = carried_out(world, script, read_only=False, user="root", workspace=None)
    assert waited.exit_code == 0, (folder / "stderr.log").read_text()
    reasons = {missing["part"]: missing["reason"] for missing in index["missing"]}
    assert "the engine's answer is larger than 16 MiB" in reasons["changes"]
    assert "changes.json" not in {kept["path"] for kept in index["kept"]}
