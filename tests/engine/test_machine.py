"""What can't be done to the machine that tests run on: its clock is set, its power is cut, it is booted again.

On an emulated one (scripts/machine.py), one for the whole file, whose disk all tests share. No test waits for a time
that it did not set itself: where nothing but translation emulates the processor, everything takes ten times longer.
"""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import docker
import pytest

from sandboxrun.data import Data
from scripts import guest, machine, system
from scripts.machine import Machine, Ran
from tests.conftest import until

pytestmark = [pytest.mark.full, pytest.mark.timeout(3600)]
SLOW = 600.0  # seconds that anything may take
HOUR = 3600
ENVIRONMENT = {
    "DOCKER_HOST": f"unix://{guest.SOCKET}",
    "XDG_STATE_HOME": str(guest.DISK / "state"),
    "PYTHONPATH": str(system.REPOSITORY),
}
# By the time since the boot: when PID 1 began, in hundredths of a second, and when it ended this.
TIMED = "cut -d' ' -f22 /proc/1/stat; trap 'cut -d. -f1 /proc/uptime; exit 0' TERM; sleep 7200 & wait"
FOREVER = "echo ready; exec sleep 7200"


class Inside(Data):
    """The machine, and projects on its disk."""

    machine: Machine
    pace: int  # seconds that it took to start the engine: no less than any command takes

    def guest(self, what: str) -> None:
        """One of the commands of guest.py."""
        ran = self.machine.run(sys.executable, "-m", "scripts.guest", what, cwd=system.REPOSITORY, timeout=SLOW)
        assert ran.code == 0, ran.err

    def project(self, name: str, **sandboxes: Mapping[str, Any]) -> Project:
        """One whose sandboxes run shell scripts."""
        base = {"image": "sandboxrun/busybox:latest", "network_mode": "none", "stop_grace_period": "1s"}
        merged = {
            key: {k: v for k, v in {**base, **own, "command": ["sh", "-c", own["command"]]}.items() if v is not None}
            for key, own in sandboxes.items()
        }
        networks = {"networks": {"inner": {"internal": True}}} if any("networks" in s for s in merged.values()) else {}
        made = Project(machine=self.machine, name=name)
        self.machine.write(made.folder / "sandbox.yaml", json.dumps({"name": name, "sandboxes": merged, **networks}))
        return made

    def containers(self) -> dict[str, Any]:
        """Those of sandboxes, as project/sandbox."""
        found = self.machine.ask_engine("GET", "/containers/json?all=1") or []
        return {"/".join(c["Labels"][f"sandboxrun.{k}"] for k in ("project", "sandbox")): c for c in found}

    def states(self) -> dict[str, str]:
        """The engine's word for each."""
        return {name: str(found["State"]) for name, found in self.containers().items()}

    def stop(self, name: str) -> None:
        """As somebody else does, past sandboxrun."""
        self.machine.ask_engine("POST", f"/containers/{self.containers()[name]['Id']}/stop")

    def left(self) -> list[str]:
        """What is there of ours but the volume of the init."""
        networks = self.machine.ask_engine("GET", "/networks")
        volumes = self.machine.ask_engine("GET", "/volumes")["Volumes"] or []
        names = [one["Name"] for one in (*networks, *volumes)]
        ours = [n for n in names if n not in ("bridge", "host", "none") and not n.startswith("sandboxrun-init-")]
        return [*self.states(), *ours]

    def set_clock(self, seconds: int) -> None:
        """Ahead by this much, or back."""
        ran = self.machine.run("/bin/sh", "-c", f"date -s @$(($(date +%s) + {seconds}))")
        assert ran.code == 0, ran.err

    def runs(self, pid: int) -> bool:
        """Whether the process is there."""
        return self.machine.run("test", "-e", f"/proc/{pid}").code == 0


class Project(Data):
    """A profile and its evidence inside."""

    machine: Machine
    name: str

    @property
    def folder(self) -> Path:
        """Where it lies, on the disk."""
        return guest.DISK / self.name

    def __call__(self, *words: str) -> Ran:
        """A command on it, to its end."""
        ran = self.machine.run(*_sandboxrun(words), cwd=self.folder, env=ENVIRONMENT, timeout=SLOW)
        print(f"{self.name}$ sandboxrun {' '.join(words)}: {ran.code}\n{ran.out}{ran.err}")
        return ran

    def start(self, *words: str) -> int:
        """A command that goes on; its pid."""
        return self.machine.start(*_sandboxrun(words), cwd=self.folder, env=ENVIRONMENT, log=self.folder / "said")

    def told(self, *words: str) -> Any:
        """What a command says as JSON. It must not fail."""
        ran = self(*words, "--json")
        assert ran.code == 0, ran.err
        return json.loads(ran.out)

    def endings(self) -> dict[str, str]:
        """How each sandbox ended, as its evidence says, and that this is whole."""
        assert self("evidence", "verify").code == 0
        ran = self.machine.run("/bin/sh", "-c", "cat .sandboxrun/evidence/*/index.json", cwd=self.folder)
        decoder, text, found = json.JSONDecoder(), ran.out.strip(), {}
        while text:
            index, end = decoder.raw_decode(text)
            found[index["sandbox"]], text = index["ending"]["how"], text[end:].strip()
        return found

    def output(self, sandbox: str) -> list[str]:
        """What it wrote, as saved."""
        ran = self.machine.run("/bin/sh", "-c", f"cat .sandboxrun/evidence/*-{sandbox}-*/stdout.log", cwd=self.folder)
        return ran.out.split()


def _sandboxrun(words: tuple[str, ...]) -> tuple[str, ...]:
    return (sys.executable, "-m", "sandboxrun", *words)


def _reaped(told: Mapping[str, Any]) -> dict[str, str]:
    assert told["failed"] == []
    return {f"{one['project']}/{one['sandbox']}": one["reason"] for one in told["reaped"]}


@pytest.fixture(scope="module")
def inside(
    tmp_path_factory: pytest.TempPathFactory, engine_client: docker.DockerClient, busybox: str
) -> Iterator[Inside]:
    if reason := machine.why_impossible():
        pytest.skip(reason)
    if "SANDBOXRUN_DEV_SYSTEM" in os.environ:
        pytest.skip("the emulated machine has this machine's own engine, and another is tested")
    folder = tmp_path_factory.mktemp("machine")
    (folder / "contents").mkdir()
    with (folder / "contents/busybox.tar").open("wb") as tar:
        tar.writelines(engine_client.images.get(busybox).save(named=busybox))
    try:
        machine.fetch()
    except SystemExit as error:
        pytest.skip(f"the packages of an emulated machine can't be had: {error}")
    with machine.running(folder, folder / "contents") as made:
        began = time.monotonic()
        Inside(machine=made, pace=0).guest("start-engine")
        found = Inside(machine=made, pace=math.ceil(time.monotonic() - began))
        found.guest("load-images")
        yield found


@pytest.fixture
def nothing_left(inside: Inside) -> Iterator[None]:
    """After a test that passed."""
    yield
    assert inside.left() == []


@pytest.mark.usefixtures("nothing_left")
def test_limits_and_ends_with_control_groups_of_version_2(inside: Inside) -> None:
    """The only version there, as on most machines by now."""
    fill = "tail /dev/zero"
    project = inside.project(
        "limits",
        killed={"command": f"exec {fill}", "mem_limit": "64m"},
        coped={"command": f"{fill}; exit 3", "mem_limit": "64m"},
        timed={"command": FOREVER, "lifetime": {"timeout": "10s"}},
        agent={"command": FOREVER, "mem_limit": "64m", "cpus": 0.5, "cpuset": "0", "workspace": {"source": "."}},
    )
    info = inside.machine.ask_engine("GET", "/info")
    assert info["CgroupVersion"] == "2" and not info["Warnings"]
    assert [project("run", name).code for name in ("killed", "coped", "timed")] == [137, 3, 124]
    assert project.endings() == {"killed": "oom", "coped": "failed", "timed": "timeout"}

    def seen(*words: str) -> dict[str, tuple[str, str]]:
        findings = project.told("verify", "agent", *words)["sandboxes"][0]["findings"]
        assert {f["verdict"] for f in findings} <= {"holds", "not_applicable"}, findings
        return {f["control"]: (f["verdict"], f["seen"]) for f in findings}

    assert {"memory-limit", "swap-limit", "pids-limit", "cpu-quota"} <= seen().keys()
    assert project("apply", "-y", "--target", "agent").code == 0
    assert seen("--running")["memory-limit"] == ("holds", "64m")
    updated = (project.folder / "sandbox.yaml", "s/64m/96m/g; s/0[.]5/0.75/")
    assert inside.machine.run("sed", "-i", updated[1], updated[0]).code == 0
    assert "updated in place" in project("apply", "-y", "--target", "agent").out
    after = seen("--running")
    limits = ("memory-limit", "swap-limit", "cpu-quota", "cpuset", "pids-limit")
    assert [after[name][1] for name in limits] == ["96m", "0", "0.75", "0", "256"]
    assert project("destroy", "-y").code == 0


@pytest.mark.parametrize("hours", [2, -2])
@pytest.mark.usefixtures("nothing_left")
def test_a_set_clock_ends_nothing_early_or_late(inside: Inside, hours: int) -> None:
    short, long = f"{2 * inside.pace}s", f"{3 * inside.pace}s"  # by then the clock is set
    left = inside.project(
        f"left{hours}",
        patient={"command": FOREVER, "lifetime": {"timeout": "1h"}},
        mortal={"command": FOREVER, "lifetime": {"ttl": "1h"}},
        timed={
            "command": TIMED,
            "lifetime": {"timeout": long},
            "depends_on": ["patient", "mortal"],  # it starts last
        },
    )
    waited = inside.project(f"waited{hours}", timed={"command": TIMED, "lifetime": {"timeout": short}})
    assert left("apply", "-y").code == 0
    waiter = waited.start("apply", "-y", "--wait")
    until(lambda: inside.states().get(f"{waited.name}/timed") == "running" or not inside.runs(waiter), seconds=SLOW)
    before = inside.states()
    assert set(before.values()) == {"running"} and len(before) == 4, "too slow a machine for this to show anything"
    inside.set_clock(hours * HOUR)
    reaped = _reaped(left.told("reap", "--all"))
    assert reaped.pop(f"{left.name}/timed", "timeout") == "timeout"  # if it has ended
    assert reaped == ({f"{left.name}/mortal": "expired"} if hours > 0 else {})  # a ttl is a time of the engine's clock
    assert inside.states()[f"{left.name}/patient"] == "running"
    inside.stop(f"{left.name}/patient")
    until(lambda: inside.states().get(f"{left.name}/timed") != "running", seconds=SLOW)
    until(lambda: not inside.runs(waiter), seconds=SLOW)
    assert left("reap").code == left("destroy", "-y").code == 0
    ends = left.endings()
    assert ends.pop("mortal") == ("timeout" if hours > 0 else "killed")
    assert ends == {"patient": "killed", "timed": "timeout"}
    assert waited.endings() == {"timed": "timeout"}
    for project, limit in ((left, 3 * inside.pace), (waited, 2 * inside.pace)):
        began, ended = map(int, project.output("timed"))
        assert limit - 1 <= ended - began / 100 < limit + SLOW
    inside.set_clock(-hours * HOUR)


@pytest.mark.usefixtures("nothing_left")
def test_power_is_cut(inside: Inside) -> None:
    left = inside.project(
        "left",
        agent={"command": FOREVER, "lifetime": {"timeout": "1h"}},
        other={"command": FOREVER, "network_mode": None, "networks": ["inner"]},
    )
    waited = inside.project("waited", agent={"command": FOREVER})
    done = inside.project("done", agent={"command": "echo out; exit 3"})
    assert left("apply", "-y").code == 0
    waiter, reaper = waited.start("apply", "-y", "--wait"), left.start("reap", "--watch", "--all")
    until(lambda: inside.states().get("waited/agent") == "running" or not inside.runs(waiter), seconds=SLOW)
    assert done("run").code == 3 and inside.runs(waiter) and inside.runs(reaper)
    inside.machine.cut_power()
    inside.guest("start-engine")
    assert set(inside.states().values()) == {"exited"}
    planned = left("plan")
    assert planned.out.count("lost (the engine was restarted while it ran)") == 2
    inside.set_clock(600)  # it was off for so long: whoever waited, on whatever machine, would have collected its own
    reaped = _reaped(left.told("reap", "--all"))
    # Its evidence is on the disk once a command returns; that the engine removed it may be forgotten.
    reaped.pop("done/agent", None)
    assert reaped == dict.fromkeys(("left/agent", "left/other", "waited/agent"), "end_unknown")
    assert inside.left() == []
    assert left.endings() == {"agent": "engine_lost", "other": "engine_lost"}
    assert waited.endings() == {"agent": "engine_lost"}
    assert done.endings() == {"agent": "failed"}
    assert [one.output("agent") for one in (left, waited, done)] == [["ready"], ["ready"], ["out"]]
    assert left("apply", "-y").code == 0
    assert inside.states() == {"left/agent": "running", "left/other": "running"}
    assert left("destroy", "-y").code == 0
    inside.set_clock(-600)


@pytest.mark.usefixtures("nothing_left")
def test_an_orderly_reboot(inside: Inside) -> None:
    project = inside.project("orderly", agent={"command": FOREVER, "lifetime": {"timeout": "1h"}})
    assert project("apply", "-y").code == 0
    inside.guest("stop-engine")
    inside.machine.reboot()
    inside.guest("start-engine")
    assert inside.states() == {"orderly/agent": "exited"}
    assert list(_reaped(project.told("reap"))) == ["orderly/agent"]
    # The engine stopped it while it shut down, and remembers no more: it may as well have ended by itself.
    assert (project.endings(), project.output("agent")) == ({"agent": "unknown"}, ["ready"])
    assert "agent will be created" in project("plan").out  # which does not count as done
