"""Each control on the bare engine, as sandboxrun asks for it and seen from inside: where it holds, and where not.

Docker must hold all of them. What Podman does not hold is what `plan` refuses it for, by name: both are looked at here,
so that neither the refusal nor the table in docs/engines.md outlives its reason.
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import docker
import pytest

from sandboxrun.backend.docker.client import Engine, connect
from sandboxrun.spec.seccomp import to_engine
from tests.conftest import Cli

Look = Callable[..., str]
MIB = 1 << 20


@pytest.fixture(scope="module")
def podman(engine_client: docker.DockerClient) -> bool:
    """Whether the engine is Podman."""
    return any("podman" in str(part.get("Name")).lower() for part in engine_client.version()["Components"])


@pytest.fixture
def engine(engine_host: str) -> Any:
    with connect(engine_host) as found:
        yield found


@pytest.fixture
def look(engine: Engine, busybox: str, project: str, labels: Mapping[str, str]) -> Look:
    """Runs a shell script in a container with these fields of HostConfig; its output, and how it ended."""

    def run(script: str, *, user: str = "1000:1000", network: str = "none", **host: Any) -> str:
        payload = {
            "Image": busybox,
            "Cmd": ["sh", "-c", script],
            "User": user,
            "Labels": dict(labels),
            "HostConfig": {"NetworkMode": network, **host},
        }
        made = engine.create_container(project, payload)
        engine.start_container(made.id)
        code = engine.wait_container(made.id)
        out = b"".join(data for _, data in engine.logs(made.id)).decode()
        state = engine.inspect_container(made.id)["State"]
        engine.remove_container(made.id, force=True, volumes=True)
        return f"{out}exit {code}{' oom' if state['OOMKilled'] else ''}"

    return run


# Held by every engine. Each: the fields, the script, and what it prints where the control holds.
HOLDS: Mapping[str, tuple[Mapping[str, Any], str, str]] = {
    "mem_limit": (
        {"Memory": 16 * MIB, "MemorySwap": 16 * MIB},
        # the engine hears of it from the kernel, and no more once the main process has ended: hence the second
        "head -c 64000000 /dev/zero | tail; code=$?; sleep 1; exit $code",
        "exit 137 oom",
    ),
    "pids_limit": (
        {"PidsLimit": 6},
        "i=0; while [ $i -lt 12 ]; do sleep 1 & i=$((i+1)); done 2>/dev/null; echo all",
        "exit 2",
    ),
    "cpus": (
        {"NanoCpus": 500_000_000},
        "cat /sys/fs/cgroup/cpu.max /sys/fs/cgroup/cpu/cpu.cfs_quota_us 2>/dev/null | cut -d' ' -f1",
        "50000\nexit 0",
    ),
    "ulimits": ({"Ulimits": [{"Name": "nofile", "Soft": 64, "Hard": 64}]}, "ulimit -n; ulimit -Hn", "64\n64\nexit 0"),
    "cap_drop": (
        {"CapDrop": ["ALL"]},
        "grep -E 'Cap(Prm|Eff|Bnd)' /proc/self/status | cut -f2 | sort -u",
        "0000000000000000\nexit 0",
    ),
    "no-new-privileges": (
        {"SecurityOpt": ["no-new-privileges:true"]},
        "grep NoNewPrivs /proc/self/status | cut -f2",
        "1\nexit 0",
    ),
    "read_only": ({"ReadonlyRootfs": True}, "for d in / /etc /home/agent; do touch $d/x 2>&1; done", "exit 1"),
    "tmpfs": (
        {"Tmpfs": {"/t": "rw,noexec,nosuid,nodev,size=1m,mode=1777"}},
        "head -c 3000000 /dev/zero >/t/x 2>/dev/null; wc -c </t/x; cp /bin/busybox /t/b 2>/dev/null; /t/b 2>/dev/null",
        "1048576\nexit 126",
    ),
    "shm_size": ({"ShmSize": MIB}, "head -c 3000000 /dev/zero >/dev/shm/x 2>/dev/null; wc -c </dev/shm/x", "1048576\n"),
    "network_mode none": ({}, "ls /sys/class/net", "lo\nexit 0"),
    "pid, ipc, uts": (
        {"IpcMode": "private", "PidMode": "", "UTSMode": ""},
        "for n in pid ipc uts mnt net; do readlink /proc/self/ns/$n; done",
        "",
    ),
}


@pytest.mark.parametrize("control", HOLDS)
def test_a_control_that_every_engine_holds(control: str, look: Look) -> None:
    host, script, expected = HOLDS[control]
    seen = look(script, **host)
    if control == "pid, ipc, uts":
        ours = {os.readlink(f"/proc/self/ns/{name}") for name in ("pid", "ipc", "uts", "mnt", "net")}
        assert len(seen.split()) == 7 and not ours & set(seen.split())
    elif control == "read_only":
        assert seen.count("Read-only file system") == 3 and seen.endswith(expected)
    else:
        assert expected in seen


def test_the_control_group_namespace_is_its_own(look: Look, podman: bool) -> None:
    seen = look("readlink /proc/self/ns/cgroup", CgroupnsMode="private").split()[0]
    assert seen.startswith("cgroup:[") and (seen == os.readlink("/proc/self/ns/cgroup")) is podman


def test_a_read_only_root_leaves_no_place_without_a_bound(look: Look, podman: bool) -> None:
    script = "for d in /run /var/tmp /dev; do [ -d $d ] && touch $d/x 2>/dev/null && echo $d; done; true"
    writable = "/run\n/var/tmp\n" if podman else ""
    assert look(script, ReadonlyRootfs=True, CapDrop=["ALL"]) == f"{writable}exit 0"


def test_a_seccomp_profile_is_taken_as_content(look: Look, podman: bool) -> None:
    profile = to_engine("sandboxrun")
    assert profile is not None
    if podman:
        with pytest.raises(Exception, match="opening seccomp profile failed"):
            look("true", SecurityOpt=[f"seccomp={profile}"])
    else:
        script = "unshare -U true 2>/dev/null && echo open; sed -n 's/^Seccomp:.//p' /proc/self/status"
        assert look(script, SecurityOpt=[f"seccomp={profile}"]) == "2\nexit 0"


def test_the_bound_of_a_log_can_be_read_back(
    engine: Engine, busybox: str, project: str, labels: Mapping[str, str], podman: bool
) -> None:
    log = {"Type": "json-file", "Config": {"max-size": "1m"}}
    made = engine.create_container(
        project, {"Image": busybox, "Cmd": ["true"], "Labels": dict(labels), "HostConfig": {"LogConfig": log}}
    )
    shown = engine.inspect_container(made.id)["HostConfig"]["LogConfig"]["Config"]
    engine.remove_container(made.id)
    assert shown == (None if podman else log["Config"])


@pytest.fixture
def listener() -> Any:
    """A service of the host on all its addresses: its port."""
    with socket.socket() as server:
        server.bind(("0.0.0.0", 0))
        server.listen()
        server.settimeout(0.2)
        ended = threading.Event()

        def serve() -> None:
            while not ended.is_set():
                try:
                    connection, _ = server.accept()
                except TimeoutError:
                    continue
                connection.sendall(b"reached")
                connection.close()

        thread = threading.Thread(target=serve)
        thread.start()
        yield server.getsockname()[1]
        ended.set()
        thread.join()


def test_an_internal_network_does_not_reach_the_host(
    engine: Engine, look: Look, project: str, labels: Mapping[str, str], podman: bool, listener: int
) -> None:
    id = engine.create_network(
        {
            "Name": project,
            "Driver": "bridge",
            "Internal": True,
            "Labels": dict(labels),
            "Options": {"com.docker.network.bridge.inhibit_ipv4": "true"},
            "IPAM": {"Config": [{"Subnet": "10.231.255.0/29"}]},
        }
    )
    try:
        seen = look(f"nc -w 2 10.231.255.1 {listener} </dev/null 2>/dev/null; true", network=project)
    finally:
        engine.remove_network(id)
    assert seen == ("reachedexit 0" if podman else "exit 0")


def test_what_the_engine_does_not_hold_is_refused_by_name(
    cli: Cli, tmp_path: Path, project: str, podman: bool, busybox: str
) -> None:
    profile = f"name: {project}\nsandboxes:\n  a: {{image: {busybox}, command: [sleep, '60'], network_mode: none}}\n"
    (tmp_path / "sandbox.yaml").write_text(profile)
    ran = cli("apply", "-y")
    if podman:
        assert ran.code == 1
        for refused in ("cgroup: ", "read_only: ", "logging: ", "the engine accepts a seccomp profile only as a path"):
            assert f"error: a: {refused}" in ran.err, ran.err
    else:
        assert ran.code == 0, ran.err
        assert cli("destroy", "-y").code == 0
