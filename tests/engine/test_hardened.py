"""What a sandbox is that says nothing about itself: every field of the engine that could open it, as it was read back.

And the other way about: a container that carries our labels and is more open than they say is told from one of ours.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from sandboxrun.plan.changes import Action
from sandboxrun.spec.seccomp import profile_text
from tests.engine.world import World, change, open_world

MIB = 1 << 20
HARDENED: Mapping[str, Any] = {
    "AutoRemove": False,
    "CapAdd": [],
    "CapDrop": ["ALL"],
    "CgroupParent": "",
    "CgroupnsMode": "private",
    "DeviceCgroupRules": [],
    "DeviceRequests": [],
    "Devices": [],
    "GroupAdd": [],
    "Init": True,
    "IpcMode": "private",
    "Links": [],
    "LogConfig": {"Type": "local", "Config": {"max-size": "10m", "max-file": "3"}},
    "Memory": 512 * MIB,
    "MemorySwap": 512 * MIB,
    "NanoCpus": 1_000_000_000,
    "NetworkMode": "none",
    "OomKillDisable": False,
    "OomScoreAdj": 0,
    "PidMode": "",
    "PidsLimit": 256,
    "PortBindings": {},
    "Privileged": False,
    "PublishAllPorts": False,
    "ReadonlyRootfs": True,
    "RestartPolicy": {"Name": "no", "MaximumRetryCount": 0},
    "SecurityOpt": ["no-new-privileges=true", f"seccomp={profile_text('sandboxrun')}"],
    "ShmSize": 64 * MIB,
    "Tmpfs": {"/tmp": "rw,noexec,nosuid,nodev,size=64m,mode=1777"},
    "UTSMode": "",
    "Ulimits": [{"Name": "core", "Hard": 0, "Soft": 0}, {"Name": "nofile", "Hard": 4096, "Soft": 4096}],
    "UsernsMode": "",
    "VolumesFrom": [],
}
MASKED = {"/proc/kcore", "/proc/keys", "/proc/timer_list", "/sys/firmware"}  # of every engine's
READ_ONLY = {"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}


@pytest.fixture
def world(engine_host: str, project: str, tmp_path: Path, agent_image: str) -> Iterator[World]:
    with open_world(engine_host, project, tmp_path, agent_image) as opened:
        opened.base = {"image": agent_image, "command": ["sleep", "600"], "network_mode": "none"}
        yield opened


@pytest.mark.parametrize("options", [{}, {"extends": "hardened"}, {"extends": "offline", "workspace": None}])
def test_a_sandbox_that_says_nothing_is_closed(world: World, options: dict[str, Any]) -> None:
    """Without a base, with the closed one, and with one that stands on it."""
    declared = world.profile({"a": options})
    world.apply(declared)
    inspect = world.observed(declared, "a").document
    host = inspect["HostConfig"]
    # null and [] are the same to the engine, which writes either
    seen = {field: host.get(field) or type(wanted)() for field, wanted in HARDENED.items()}
    assert seen == HARDENED
    assert set(host["MaskedPaths"]) >= MASKED and set(host["ReadonlyPaths"]) == READ_ONLY
    config = inspect["Config"]
    assert config["User"] == "1000:1000" and not config["Tty"] and not config["OpenStdin"]
    assert [mount for mount in inspect["Mounts"] if mount["Type"] != "tmpfs"] == []
    assert list(inspect["NetworkSettings"]["Networks"]) == ["none"]
    world.destroy(declared)


MORE_OPEN: Mapping[str, Mapping[str, Any]] = {
    "cgroup_parent": {"CgroupParent": "/sandboxrun-test"},
    "device_cgroup_rules": {"DeviceCgroupRules": ["c 1:3 rwm"]},
    "pid": {"PidMode": "host"},
    "ports": {"PortBindings": {"80/tcp": [{"HostIp": "127.0.0.1", "HostPort": ""}]}},
    "privileged": {"Privileged": True},
    "publish_all_ports": {"PublishAllPorts": True},
    "security_opt": {"SecurityOpt": ["no-new-privileges"]},
    "system_paths": {"MaskedPaths": [], "ReadonlyPaths": []},
    "volumes_from": {"VolumesFrom": ["{donor}"]},
}


@pytest.mark.parametrize("key", MORE_OPEN)
def test_a_container_that_is_more_open_than_its_labels_say_is_replaced(key: str, world: World) -> None:
    declared = world.profile({"a": {}})
    world.apply(declared)
    inspect = world.observed(declared, "a").document
    world.engine.remove_container(inspect["Id"], force=True)
    donor = world.engine.create_container(f"{world.project}-donor", {"Image": inspect["Config"]["Image"]})
    more = {field: [donor.id] if value == ["{donor}"] else value for field, value in MORE_OPEN[key].items()}
    body = {**inspect["Config"], "HostConfig": {**inspect["HostConfig"], **more}}
    try:
        made = world.engine.create_container(inspect["Name"].removeprefix("/"), body)
        world.engine.start_container(made.id)
        found = change(world.plan(declared), "a")
    finally:
        world.engine.remove_container(donor.id, force=True)
        world.destroy(declared)
    assert found.action is Action.REPLACE
    (difference,) = [difference for difference in found.differences if difference.key == key]
    assert difference.drift
