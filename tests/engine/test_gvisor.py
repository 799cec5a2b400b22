"""The base `gvisor` under the real gVisor: it runs, its limits hold, what is there equals what was declared.

gVisor comes from the system's package and runs on ptrace, which every machine has; `--network=none`, for that version
takes every network namespace of a recent kernel for the host's and refuses it; `--oci-seccomp`, for it drops the
sandbox's seccomp profile without.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sandboxrun.lifecycle import run as oneoff
from sandboxrun.lifecycle.running import verify_running
from sandboxrun.lifecycle.verify import Verification
from sandboxrun.probe.verdicts import Verdict
from sandboxrun.spec.project import Profile
from sandboxrun.spec.state import Ending, How
from scripts import system
from tests.engine.own_engine import open_engine, why_impossible
from tests.engine.world import World, open_world

Run = Callable[..., tuple[Ending, Path, str]]


def _runsc() -> Path:
    """The program, from its package; a machine that can't have it fails in a pipeline and skips elsewhere."""
    reason = why_impossible()
    if reason is None:
        try:
            return system.unpacked("runsc") / "usr/bin/runsc"
        except SystemExit as error:
            reason = f"no package of gVisor: {error}"
    (pytest.fail if os.environ.get("CI") else pytest.skip)(reason)


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A private engine that has gVisor as the runtime `runsc`."""
    config = tmp_path_factory.mktemp("gvisor") / "daemon.json"
    runtime = {"path": str(_runsc()), "runtimeArgs": ["--platform=ptrace", "--network=none", "--oci-seccomp"]}
    config.write_text(json.dumps({"runtimes": {"runsc": runtime}}))
    engine = open_engine("--config-file", str(config))
    yield engine.host
    engine.close()


@pytest.fixture
def world(host: str, project: str, tmp_path: Path) -> Iterator[World]:
    """A project whose sandboxes extend the base."""
    (tmp_path / "work").mkdir()
    (tmp_path / "work/file").write_text("content\n")
    with open_world(host, project, tmp_path, "sandboxrun/busybox:latest") as opened:
        opened.base = {**opened.base, "extends": "gvisor"}
        opened.base["workspace"] = {"source": "work", "target": "/workspace"}
        yield opened


@pytest.fixture
def run(world: World) -> Run:
    """Runs a script in a sandbox of its own to its end; gives how it ended, the evidence's folder, its output."""

    def one(script: str, **options: Any) -> tuple[Ending, Path, str]:
        declared = world.profile({"a": {"command": ["sh", "-c", script], **options}})
        (result,) = oneoff.run(world.engine, declared, world.store, declared.sandboxes)
        kept = result.evidence
        assert kept is not None and kept.index is not None and kept.folder is not None, result.note
        index, folder = kept.index, kept.folder
        return index.ending, folder, "".join((folder / name).read_text() for name in ("stdout.log", "stderr.log"))

    return one


def _running(world: World, **options: Any) -> tuple[Profile, str]:
    declared = world.profile({"a": options})
    world.apply(declared)
    return declared, world.ids(declared)["a"]


def _text(world: World, container: str, script: str) -> str:
    return world.run(container, "sh", "-c", script)[1].strip()


def test_it_is_gvisor_and_as_declared(world: World) -> None:
    declared, container = _running(world)
    assert "Starting gVisor" in _text(world, container, "dmesg")
    assert world.observed(declared, "a").spec.runtime == "runsc"
    assert world.plan(declared).empty, str(world.plan(declared))


def test_who_it_is_and_what_it_may(world: World) -> None:
    _, container = _running(world)
    assert _text(world, container, "id -u; id -g") == "1000\n1000"
    status = dict(line.split(":", 1) for line in _text(world, container, "cat /proc/self/status").splitlines())
    assert {int(status[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapBnd")} == {0}
    assert "Read-only file system" in world.run(container, "touch", "/x", user="0:0")[1]
    assert "denied" in world.run(container, "mount", "-t", "tmpfs", "x", "/mnt", user="0:0")[1]
    assert _text(world, container, "ls /sys/class/net 2>/dev/null || ip -o link | cut -d: -f2").split() == ["lo"]


def test_the_seccomp_profile_is_on_the_sandboxs_own_command(run: Run) -> None:
    """Not on what is run in it by `exec`, in this version of gVisor."""
    _, _, output = run("sed -n 's/^Seccomp:[^0-9]*//p' /proc/self/status; unshare -U id 2>&1")
    assert output.startswith("2\n") and "not permitted" in output


def test_small_places_stay_small(world: World) -> None:
    _, container = _running(world, tmpfs=["/tmp:size=1m"], shm_size="1m")
    for place in ("/tmp", "/dev/shm"):
        assert "No space left" in _text(world, container, f"dd if=/dev/zero of={place}/big bs=64k count=64 2>&1")
    script = "rm /tmp/big; printf '#!/bin/sh\\n' > /tmp/a; chmod +x /tmp/a; /tmp/a 2>&1"
    assert "Permission denied" in _text(world, container, script)


def test_files_and_processes_are_limited(world: World, run: Run) -> None:
    _, container = _running(world, ulimits={"nofile": 50})
    script = 'i=3; while [ $i -lt 99 ]; do eval "exec $i</dev/null" || break; i=$((i+1)); done 2>&1'
    assert "Too many open files" in _text(world, container, script)
    # On the host's kernel a program would see an error; here gVisor itself meets the limit, and ends.
    ending, _, output = run("for i in $(seq 600); do sleep 60 & done; echo all", pids_limit=128)
    assert ending.how is How.FAILED and "all" not in output


def test_memory_is_limited_and_told(run: Run) -> None:
    ending, _, _ = run("tail /dev/zero", mem_limit="96m")
    assert (ending.exit_code, ending.how) == (137, How.OOM)


def test_each_control_holds_or_does_not_apply(world: World) -> None:
    declared = world.profile({"a": {"cpus": 0.5}})
    findings = Verification(world.engine, declared).run(declared.sandboxes)
    assert {f.control: f"{f.verdict.value}: {f.seen} {f.note}" for f in findings if not f.verdict.passes} == {}
    held = {f.control for f in findings if f.verdict is Verdict.HOLDS}
    assert {"capabilities", "user", "setuid", "root", "noexec", "tmpfs-size", "memory", "processes", "deadline"} <= held


def test_evidence_is_kept(run: Run) -> None:
    ending, folder, output = run("cat file; echo more >> file; echo out; exit 3")
    assert (ending.exit_code, output) == (3, "content\nout\n")
    assert "+more" in (folder / "workspace.patch").read_text()


def test_a_live_one_is_looked_at_from_outside(world: World) -> None:
    """Of its processes the host's kernel knows nothing; its cgroup holds it all the same."""
    declared, _ = _running(world)
    found = {finding.control: finding for finding in verify_running(world.engine, declared, world.store)}
    assert [finding for finding in found.values() if not finding.verdict.passes] == []
    assert found["capabilities"].verdict is Verdict.NOT_APPLICABLE
    for control in ("options", "memory-limit", "swap-limit", "pids-limit", "cpu-quota"):
        assert found[control].verdict is Verdict.HOLDS
