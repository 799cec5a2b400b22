"""Reading the host's files of a container: cgroups of both versions and where engines put them, and what can't be read.

The trees are made here as kernels and engines lay them out; on a real engine the same is read in tests/engine.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from sandboxrun.lifecycle import running as hostside
from sandboxrun.probe.outside import NAMESPACES, Outside, read_cgroups

ID = "f" * 64
PID = 77
V2 = {"memory.max": "67108864\n", "memory.swap.max": "0\n", "pids.max": "16\n", "cpu.max": "50000 100000\n"}


class Host:
    """A host's /proc and cgroup mount below a folder."""

    def __init__(self, root: Path) -> None:
        self.proc, self.cgroup = root / "proc", root / "cgroup"
        (self.proc / "self").mkdir(parents=True)

    def mounted(self, *lines: str) -> None:
        (self.proc / "self" / "mountinfo").write_text("\n".join(lines))

    def process(self, pid: int, cgroups: str, **status: str) -> None:
        folder = self.proc / str(pid)
        (folder / "ns").mkdir(parents=True)
        for kind in NAMESPACES:
            (folder / "ns" / kind).symlink_to(f"{kind}:[9]")
        given = {"Name": "sleep", "State": "S (sleeping)", "Uid": "1000 1000 1000 1000", **status}
        texts = {
            "status": "".join(f"{name}:\t{value}\n" for name, value in given.items()),
            "cgroup": cgroups,
            "limits": "Max open files            5                    6                    files     \n",
            "mountinfo": "1 2 0:39 / / ro - overlay overlay rw\n",
            "oom_score_adj": "0\n",
            "uid_map": "0 0 4294967295\n",
            "gid_map": "0 0 4294967295\n",
        }
        for name, text in texts.items():
            (folder / name).write_text(text)
        (folder / "net").mkdir()
        (folder / "net" / "dev").write_text("head\n    lo: 1 2\n")

    def group(self, path: str, files: Mapping[str, str], *pids: int) -> None:
        folder = self.cgroup / path.strip("/")
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in {**files, "cgroup.procs": "".join(f"{pid}\n" for pid in pids)}.items():
            (folder / name).write_text(text)

    def read(self) -> Outside:
        cgroups = read_cgroups((self.proc / str(PID) / "cgroup").read_text())
        return hostside._Reading(ID, PID, cgroups, {}).read({"net:[1]": "the host"})


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    made = Host(tmp_path)
    monkeypatch.setattr(hostside, "PROC", made.proc)
    return made


def test_version_2_under_systemd(host: Host) -> None:
    path = f"/system.slice/docker-{ID}.scope"
    host.mounted(f"30 1 0:2 / {host.cgroup} rw - cgroup2 cgroup2 rw")
    host.process(PID, f"0::{path}\n")
    host.process(78, f"0::{path}/below\n")
    host.group(path, V2, PID)
    host.group(f"{path}/below", {"pids.max": "max\n"}, 78)
    found = host.read()
    assert dict(found.unread) == {"cgroup cpuset": found.unread["cgroup cpuset"]}  # the file is not there
    assert found.cgroup_version == 2
    assert {name: text for name, text in found.cgroup.items() if text} == {
        "memory": "67108864",
        "swap": "0",
        "pids": "16",
        "cpu": "50000 100000",
    }
    assert [process.pid for process in found.processes] == [PID, 78]
    assert found.limits == {"nofile": (5, 6)} and found.interfaces == ("lo",) and found.oom_score_adj == 0


def test_a_process_below_the_container_s_group_has_its_limits(host: Host) -> None:
    """As Podman's: the limits are the scope's, the process is in a group below it that has none of its own."""
    path = f"/machine.slice/libpod-{ID}.scope"
    host.mounted(f"30 1 0:2 / {host.cgroup} rw - cgroup2 cgroup2 rw")
    host.process(PID, f"0::{path}/container\n")
    host.group(path, V2)
    host.group(f"{path}/container", dict.fromkeys(V2, "max\n"), PID)
    found = host.read()
    assert (found.cgroup["memory"], found.cgroup["cpu"]) == ("67108864", "50000 100000")
    assert [process.pid for process in found.processes] == [PID]


@pytest.mark.parametrize("file", ["memory.limit_in_bytes", "cgroup.event_control"])
def test_a_group_whose_files_are_of_users_it_is_none_of_is_kept_from_it(host: Host, file: str) -> None:
    host.mounted(f"30 1 0:2 / {host.cgroup} rw - cgroup cgroup rw,memory")
    host.process(PID, f"1:memory:/{ID}\n")
    host.group(f"/{ID}", {file: "1\n"}, PID)
    at = "/sys/fs/cgroup/memory"
    (host.proc / str(PID) / "mountinfo").write_text(f"1 2 0:2 /{ID} {at} rw - cgroup cgroup rw,memory\n")
    assert host.read().kept == frozenset()
    for name in ("uid_map", "gid_map"):
        (host.proc / str(PID) / name).write_text("0 3000000000 65536\n")
    assert host.read().kept == {at}
    (host.cgroup / ID / file).chmod(0o666)
    assert host.read().kept == (set() if file.startswith("memory") else {at})


def test_version_1_and_a_part_of_the_hierarchy(host: Host) -> None:
    lines = [
        f"{n} 1 0:{n} /outer {host.cgroup}/{name} rw - cgroup cgroup rw,{name}"
        for n, name in enumerate(("memory", "pids", "cpu", "cpuset", "devices"), 30)
    ]
    host.mounted(*lines)
    names = ("memory", "pids", "cpu,cpuacct", "cpuset", "devices")
    host.process(PID, "".join(f"{n}:{name}:/outer/docker/{ID}\n" for n, name in enumerate(names)))
    files = {
        "memory": {"memory.limit_in_bytes": "67108864\n", "memory.memsw.limit_in_bytes": "9223372036854771712\n"},
        "pids": {"pids.max": "16\n"},
        "cpu": {"cpu.cfs_quota_us": "-1\n", "cpu.cfs_period_us": "100000\n"},
        "cpuset": {"cpuset.cpus": "0-1\n"},
        "devices": {"devices.list": "c 1:3 rwm\nb *:* m\n"},
    }
    for name, texts in files.items():
        host.group(f"{name}/docker/{ID}", texts, PID)
    found = host.read()
    assert found.cgroup_version == 1 and dict(found.unread) == {}
    assert dict(found.cgroup) == {
        "memory": "67108864",
        "swap": "9223372036854771712",
        "pids": "16",
        "cpu": "-1 100000",
        "cpuset": "0-1",
        "devices": "c 1:3 rwm\nb *:* m",
    }


def test_a_group_that_is_not_mounted_here_is_told(host: Host) -> None:
    host.mounted("30 1 0:2 / / rw - ext4 /dev/vda rw")
    host.process(PID, f"0::/docker/{ID}\n")
    found = host.read()
    assert set(found.unread) == {
        "processes",
        *(f"cgroup {name}" for name in ("memory", "swap", "pids", "cpu", "cpuset")),
    }
    assert set(found.unread.values()) == {"its cgroup is not mounted here"}


def test_another_s_process_in_between_is_not_the_container_s(host: Host) -> None:
    path = f"/docker/{ID}"
    host.mounted(f"30 1 0:2 / {host.cgroup} rw - cgroup2 cgroup2 rw")
    host.process(PID, f"0::{path}\n")
    host.process(78, "0::/user.slice\n", Uid="0 0 0 0")  # its number was given to another one meanwhile
    host.process(79, f"0::{path}\n", State="Z (zombie)")
    host.group(path, V2, PID, 78, 79, 80)  # 80 has ended meanwhile
    assert [process.pid for process in host.read().processes] == [PID]


def test_one_that_has_ended_meanwhile_tells_nothing(host: Host) -> None:
    path = f"/docker/{ID}"
    host.mounted(f"30 1 0:2 / {host.cgroup} rw - cgroup2 cgroup2 rw")
    host.process(PID, f"0::{path}\n")
    host.group(path, V2, PID)
    cgroups = read_cgroups(f"0::{path}\n")
    (host.proc / str(PID) / "cgroup").write_text("0::/user.slice\n")
    found = hostside._Reading(ID, PID, cgroups, {}).read({})
    assert set(found.unread.values()) == {"it ended while it was looked at"}
    assert found.processes == () and found.mounts == ()
