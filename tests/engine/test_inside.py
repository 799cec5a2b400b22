"""What a sandbox is from inside: read from cgroup files and /proc, and tried."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sandboxrun.spec.project import Profile
from tests.engine.world import World, open_world

MIB = 1 << 20


class Inside:
    """One running sandbox, looked at from inside as its own user."""

    def __init__(self, world: World, profile: Profile) -> None:
        self.world = world
        self.profile = profile
        world.apply(profile)
        self.id = world.ids(profile)["a"]

    def run(self, script: str, *, user: str | None = None) -> tuple[int, str]:
        """A shell script's exit code and output."""
        return self.world.run(self.id, "sh", "-c", script, user=user)

    def text(self, script: str) -> str:
        """The output of a script that must end well."""
        code, output = self.run(script)
        assert code == 0, output
        return output.strip()

    def status(self, field: str) -> str:
        """A field of /proc/self/status."""
        return self.text(f"sed -n 's/^{field}:[ \t]*//p' /proc/self/status")

    def cgroup(self, v1: str, v2: str) -> str:
        """A limit's file, by either version of cgroups."""
        return self.text(f"cat /sys/fs/cgroup/{v2} 2>/dev/null || cat /sys/fs/cgroup/{v1}")


@pytest.fixture(scope="module")
def open_inside(
    engine_host: str, run_id: str, tmp_path_factory: pytest.TempPathFactory, busybox: str
) -> Iterator[Inside]:
    """One sandbox for the tests that only look: closed defaults, with a workspace, a secret and a config."""
    folder = tmp_path_factory.mktemp("inside")
    (folder / "source").mkdir()
    (folder / "source/file").write_text("content")
    with open_world(engine_host, f"{run_id}-inside", folder, busybox) as world:
        world.environment["KEY"] = "s3cret"
        options = {
            "mem_limit": "64m",
            "cpus": 0.5,
            "pids_limit": 20,
            "user": "1234:2345",
            "group_add": ["3456"],
            "tmpfs": ["/tmp:size=1m", "/run/exec:size=2m,exec,mode=1777"],
            "ulimits": {"nofile": {"soft": 100, "hard": 200}, "fsize": 3 * MIB},
            "shm_size": "1m",
            "hostname": "agent.example",
            "environment": {"CI": "1", "EMPTY": ""},
            "extra_hosts": {"api.example.com": "192.0.2.7"},
            "workspace": {"source": "source", "target": "/work"},
            "secrets": ["key", {"source": "key", "target": "other", "uid": 0, "gid": 2345, "mode": "0440"}],
            "configs": ["conf"],
        }
        profile = world.profile(
            {"a": options}, secrets={"key": {"environment": "KEY"}}, configs={"conf": {"content": "debug: false\n"}}
        )
        yield Inside(world, profile)


@pytest.fixture
def inside(open_inside: Inside) -> Inside:
    return open_inside


def test_memory_and_no_swap(inside: Inside) -> None:
    assert inside.cgroup("memory/memory.limit_in_bytes", "memory.max") == str(64 * MIB)
    # v1 counts memory and swap together, v2 swap alone
    code, both = inside.run("cat /sys/fs/cgroup/memory/memory.memsw.limit_in_bytes")
    assert (both.strip() == str(64 * MIB)) if code == 0 else inside.text("cat /sys/fs/cgroup/memory.swap.max") == "0"


def test_cpu_time(inside: Inside) -> None:
    code, quota = inside.run("cat /sys/fs/cgroup/cpu/cpu.cfs_quota_us /sys/fs/cgroup/cpu/cpu.cfs_period_us")
    if code:
        quota = inside.text("cat /sys/fs/cgroup/cpu.max")
    limit, period = quota.split()
    assert int(limit) / int(period) == 0.5


def test_processes(inside: Inside) -> None:
    assert inside.cgroup("pids/pids.max", "pids.max") == "20"
    code, output = inside.run("for i in $(seq 30); do sleep 1 & done; wait $!")
    assert code != 0
    assert "can't fork" in output
    while inside.run("true | true")[0]:  # until the others have ended
        time.sleep(0.1)


def test_who_it_is(inside: Inside) -> None:
    assert inside.text("id -u; id -g; id -G").split("\n") == ["1234", "2345", "2345 3456"]


def test_no_privilege_is_left_or_can_be_gained(inside: Inside) -> None:
    for field in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert int(inside.status(field), 16) == 0, field
    assert inside.status("NoNewPrivs") == "1"
    assert inside.status("Seccomp") == "2"
    assert inside.run("chown 0 /tmp")[0] != 0
    assert inside.run("mount -t tmpfs x /tmp")[0] != 0
    assert inside.run("unshare -U true")[0] != 0


def test_the_root_is_read_only(inside: Inside) -> None:
    for path in ("/file", "/etc/passwd", "/home/agent/file", "/usr/file"):
        code, output = inside.run(f"echo x >> {path}", user="0:0")
        assert code != 0, path
        assert "Read-only file system" in output or "Permission denied" in output or "nonexistent" in output
    assert inside.text("sed -n 's|^[^ ]* / [^ ]* \\([^,]*\\),.*|\\1|p' /proc/mounts") == "ro"


def test_a_tmpfs_has_its_size_and_runs_nothing(inside: Inside) -> None:
    code, output = inside.run("dd if=/dev/zero of=/tmp/big bs=1024 count=2048 2>&1; rm -f /tmp/big")
    assert "No space left on device" in output
    assert inside.run("echo '#!/bin/sh' > /run/exec/b; chmod +x /run/exec/b; /run/exec/b")[0] == 0
    code, _ = inside.run("echo '#!/bin/sh' > /tmp/b; chmod +x /tmp/b; /tmp/b")
    assert code == 126
    mounted = {line.split()[1]: line.split()[3].split(",") for line in inside.text("cat /proc/mounts").splitlines()}
    assert {"noexec", "nosuid", "nodev", "size=1024k"} <= set(mounted["/tmp"])
    assert {"nosuid", "nodev", "size=2048k"} <= set(mounted["/run/exec"]) and "noexec" not in mounted["/run/exec"]
    assert "size=1024k" in mounted["/dev/shm"]


def test_limits_of_a_process(inside: Inside) -> None:
    limits = inside.text("cat /proc/1/limits")
    found = {line[:26].strip(): line[26:].split()[:2] for line in limits.splitlines()}
    assert found["Max open files"] == ["100", "200"]
    assert found["Max file size"] == [str(3 * MIB)] * 2
    assert found["Max core file size"] == ["0", "0"] or "core" in inside.profile.sandboxes[0].spec.ulimits


def test_there_is_no_network(inside: Inside) -> None:
    assert inside.text("ls /sys/class/net") == "lo"
    assert inside.text("wc -l < /proc/net/route").strip() in ("0", "1")
    assert inside.run("wget -T 2 -q -O - http://192.0.2.1/")[0] != 0


def test_secrets_and_configs(inside: Inside) -> None:
    assert inside.text("cat /run/secrets/key /run/secrets/other") == "s3crets3cret"
    assert inside.text("stat -c '%n %a %u %g' /run/secrets/* /run/configs/*").splitlines() == [
        "/run/secrets/key 400 1234 2345",
        "/run/secrets/other 440 0 2345",
        "/run/configs/conf 400 1234 2345",
    ]
    assert inside.text("cat /run/configs/conf") == "debug: false"
    code, output = inside.run("echo x > /run/secrets/new", user="0:0")
    assert code != 0 and "Read-only" in output
    environment = inside.text("cat /proc/1/environ | tr '\\0' '\\n'; env")
    assert "s3cret" not in environment


def test_the_workspace_is_the_users_own(inside: Inside) -> None:
    assert inside.text("pwd") == "/work"
    assert inside.text("stat -c '%u %g' . file").split() == ["1234", "2345"] * 2
    inside.text("echo more >> file && mkdir made && touch made/new && rm -r made")
    assert (inside.world.directory / "source/file").read_text() == "content"


def test_names_and_environment(inside: Inside) -> None:
    assert inside.text("hostname") == "agent.example"
    assert inside.text('echo "$CI,$EMPTY,$HOME"').startswith("1,,")
    assert "192.0.2.7\tapi.example.com" in inside.text("cat /etc/hosts")


def test_namespaces_are_its_own(inside: Inside) -> None:
    groups = inside.text("cat /proc/self/cgroup").splitlines()
    # the root of its own cgroup namespace; cpuset and other hierarchies of the host do not show
    assert all(line.rpartition(":")[2] == "/" for line in groups if ":memory:" in line or line.startswith("0::"))
    for kind in ("pid", "mnt", "ipc", "uts", "net", "cgroup"):
        mine = Path(f"/proc/self/ns/{kind}").readlink()
        assert inside.text(f"readlink /proc/self/ns/{kind}") != str(mine), kind
    assert "init" in inside.text("cat /proc/1/comm")
    assert "/var/run/docker.sock" not in inside.text("cat /proc/mounts")


def test_what_is_opened_is_open(engine_host: str, project: str, tmp_path: Path, busybox: str) -> None:
    """The negative control: the checks above tell a closed sandbox from an open one."""
    with open_world(engine_host, project, tmp_path, busybox) as world:
        options = {
            "user": "0:0",
            "read_only": False,
            "cap_add": ["SYS_TIME", "CHOWN"],
            "security_opt": ["no-new-privileges:false", "seccomp=unconfined"],
            "network_mode": "bridge",
            "networks": ["default"],
            "mem_limit": 0,
            "pids_limit": -1,
            "tmpfs": ["/tmp:exec"],
        }
        inside = Inside(world, world.profile({"a": options}))
        assert inside.status("NoNewPrivs") == "0"
        assert inside.status("Seccomp") == "0"
        effective = int(inside.status("CapEff"), 16)
        assert effective == 1 << 25 | 1
        assert inside.text("touch /file; chown 5 /file; stat -c %u /file") == "5"
        assert "eth0" in inside.text("ls /sys/class/net").split()
        assert inside.text("cp /bin/busybox /tmp/busybox && /tmp/busybox echo ran") == "ran"
        assert inside.cgroup("pids/pids.max", "pids.max") == "max"
