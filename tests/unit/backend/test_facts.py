"""What is read out of an engine's answers."""

from __future__ import annotations

from typing import Any

import pytest

from sandboxrun.backend.docker.facts import (
    DEFAULT_POOLS,
    OVERRIDE,
    Pool,
    Quota,
    engine_facts,
    free_subnets,
    hands_names,
    sharing,
)
from sandboxrun.errors import UsageError

VERSION = {
    "Version": "20.10.24",
    "ApiVersion": "1.41",
    "Os": "linux",
    "Arch": "amd64",
    "KernelVersion": "6.1.0",
    "Components": [{"Name": "Engine"}],
}
INFO = {
    "Name": "host",
    "Driver": "overlay2",
    "DriverStatus": [["Backing Filesystem", "extfs"]],
    "MemoryLimit": True,
    "SwapLimit": False,
    "CpuCfsPeriod": True,
    "CpuCfsQuota": True,
    "CPUShares": True,
    "CPUSet": True,
    "PidsLimit": True,
    "OomKillDisable": True,
    "CgroupDriver": "systemd",
    "CgroupVersion": "2",
    "LoggingDriver": "json-file",
    "KernelVersion": "6.1.0",
    "OperatingSystem": "Debian GNU/Linux 12 (bookworm)",
    "NCPU": 4,
    "MemTotal": 8 << 30,
    "Runtimes": {"runc": {"path": "runc"}, "runsc": {"path": "/usr/bin/runsc"}},
    "DefaultRuntime": "runc",
    "SecurityOptions": ["name=apparmor", "name=seccomp,profile=builtin", "name=cgroupns"],
    "Warnings": ["WARNING: No swap limit support"],
}
BRIDGE = {"Name": "bridge", "IPAM": {"Config": [{"Subnet": "172.17.0.0/16"}]}}


def test_docker() -> None:
    facts = engine_facts(VERSION, INFO, [BRIDGE, {"Name": "none", "IPAM": {"Config": None}}])
    assert (facts.name, facts.version, facts.api_version, facts.is_podman) == ("Docker", "20.10.24", "1.41", False)
    assert (facts.cgroup_version, facts.cgroup_driver) == (2, "systemd")
    assert (facts.runtimes, facts.default_runtime) == (("runc", "runsc"), "runc")
    assert (facts.seccomp, facts.apparmor, facts.selinux) == ("builtin", True, False)
    assert (facts.userns, facts.rootless) == (False, False)
    assert (facts.limits.memory, facts.limits.swap, facts.limits.cpus, facts.limits.pids) == (True, False, True, True)
    assert (facts.cpus, facts.memory) == (4, 8 << 30)
    assert facts.storage_quota is Quota.NO
    assert facts.warnings == ("WARNING: No swap limit support",)
    assert facts.pools == DEFAULT_POOLS
    assert facts.free_subnets == 30


def test_podman_and_rootless() -> None:
    version = {**VERSION, "Components": [{"Name": "Podman Engine"}]}
    facts = engine_facts(version, {**INFO, "SecurityOptions": ["seccomp", "name=rootless"]}, [])
    assert (facts.name, facts.is_podman, facts.rootless, facts.seccomp) == ("Podman", True, True, "default")


def test_what_is_left_out_is_not_offered() -> None:
    facts = engine_facts({}, {}, [])
    assert facts.seccomp is None
    assert not any((facts.limits.memory, facts.limits.swap, facts.limits.cpus, facts.limits.pids))
    assert facts.storage_quota is Quota.NO


@pytest.mark.parametrize(
    ("driver", "backing", "quota"),
    [
        ("overlay2", "extfs", Quota.NO),
        ("overlay2", "xfs", Quota.UNKNOWN),
        ("btrfs", "", Quota.YES),
        ("overlayfs", "", Quota.NO),
        ("fuse-overlayfs", "xfs", Quota.NO),
    ],
)
def test_storage_quota(driver: str, backing: str, quota: Quota) -> None:
    info = {**INFO, "Driver": driver, "DriverStatus": [["Backing Filesystem", backing]]}
    assert engine_facts(VERSION, info, []).storage_quota is quota


def test_default_pools_hold_thirty_one_networks() -> None:
    assert free_subnets(DEFAULT_POOLS, []) == 31


@pytest.mark.parametrize(
    ("used", "free"),
    [
        ([], 256),
        (["10.0.1.0/24", "10.0.1.128/25"], 255),
        (["10.0.0.0/22"], 252),
        (["10.0.0.0/8"], 0),
        (["192.168.0.0/16", "fd00::/64"], 256),
        (["10.0.255.0/24", "10.1.0.0/16"], 255),
    ],
)
def test_free_subnets(used: list[str], free: int) -> None:
    assert free_subnets([Pool(base="10.0.0.0/16", size=24)], used) == free


def test_pools_that_the_engine_tells() -> None:
    info = {**INFO, "DefaultAddressPools": [{"Base": "10.0.0.0/16", "Size": 24}, {"Base": "fd00::/48", "Size": 64}]}
    facts = engine_facts(VERSION, info, [BRIDGE])
    assert facts.pools[0] == Pool(base="10.0.0.0/16", size=24)
    assert facts.free_subnets == 256


@pytest.mark.parametrize(
    ("version", "hands"),
    [
        ("20.10.24+dfsg1", True), ("23.0.10", True), ("23.0.11", False), ("23.0.15", False), ("24.0.9", True),
        ("25.0.4", True), ("25.0.5", False), ("26.0.0", False), ("26.1.2", False), ("26.1.3", True),
        ("26.1.5+dfsg1", True), ("28.5.2", True), ("", True), ("dev", True),
    ],
)  # fmt: skip
def test_which_engines_ask_the_name_server_of_a_sandbox_on_an_internal_network(version: str, hands: bool) -> None:
    assert hands_names(version) is hands


def test_whether_files_are_shared_can_be_said(monkeypatch: pytest.MonkeyPatch) -> None:
    asked_no_engine: Any = None
    for value, shared in (("1", True), ("0", False)):
        monkeypatch.setenv(OVERRIDE, value)
        assert sharing(asked_no_engine) == (shared, f"{OVERRIDE}={value} says so")
    monkeypatch.setenv(OVERRIDE, "yes")
    with pytest.raises(UsageError, match=f'{OVERRIDE} is "yes"\n  help: set it to 1 or 0'):
        sharing(asked_no_engine)
