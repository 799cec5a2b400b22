"""The controls: that each says what it is, and what each makes of what was seen."""

from __future__ import annotations

import re
from collections.abc import Mapping

import pytest
from msgspec import structs

from sandboxrun.backend.docker.looking import TERMS
from sandboxrun.probe import privilege
from sandboxrun.probe.controls import BY_ID, CONTROLS, FAMILIES
from sandboxrun.probe.network import requests
from sandboxrun.probe.verdicts import OUTCOME, Context, Control, Phase, Seen, result, results
from sandboxrun.spec.option_types import CLOSED, PUBLIC, Egress
from sandboxrun.spec.project import NetworkSpec
from sandboxrun.spec.records import Attachment, Device, FileRef, Mount
from sandboxrun.spec.types import freeze
from scripts.controls import PROSE, prose_of
from tests.unit.probe.seeing import GATEWAY, context, left_out, seen, told

MIB = 1 << 20
Case = tuple[str, Seen, bool | None]


# -- what each says -------------------------------------------------------------------------------------------------


def test_ids_are_unique_and_all_are_shown() -> None:
    assert len(BY_ID) == len(CONTROLS) == sum(map(len, FAMILIES.values()))
    assert PROSE.keys() - {"kernel"} == BY_ID.keys()
    assert all(re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", one.id) for one in CONTROLS)


@pytest.mark.parametrize("one", CONTROLS, ids=lambda one: one.id)
def test_each_says_what_it_is(one: Control) -> None:
    assert one.title and told(one, {}, context()).expected
    assert TERMS.controls[one.id]
    assert all(prose_of(one)[part].endswith(".") for part in ("meaning", "how", "weak"))
    assert not one.title.endswith(".")
    assert left_out(one, context()) is None
    assert told(one, {}, context()).seen == ""


@pytest.mark.parametrize("one", CONTROLS, ids=lambda one: one.id)
def test_only_what_nobody_can_weaken_has_no_negative_control(one: Control) -> None:
    assert bool(one.exempt) == (one.id in ("namespaces", "tmpfs-mode"))


# -- what each makes of what was seen -------------------------------------------------------------------------------

NONE = "0000000000000000"
MASKS = {"inheritable": NONE, "permitted": NONE, "effective": NONE, "bounding": NONE, "ambient": NONE}
ROOT = {"path": "/", "options": "ro,relatime", "write": "errno:30", "shared": "no", "root": "/"}
TMP = {"path": "/tmp", "options": "rw", "write": "ok", "shared": "no", "root": "/"}


def status(**values: str) -> Seen:
    """A line of /proc/self/status."""
    return seen(status={key.replace("_", "-"): value for key, value in values.items()})


def mounted(*mounts: Mapping[str, str], **probes: Mapping[str, str]) -> Seen:
    """Lines of mountinfo."""
    numbered = {f"mount_{index}": mount for index, mount in enumerate(mounts)}
    return seen(mounts={"count": str(len(mounts))}, **numbered, **probes)


CASES: list[Case] = [
    ("capabilities", status(**MASKS), True),
    ("capabilities", status(**{**MASKS, "bounding": "0000000000200000"}), False),
    ("capabilities", status(**{**MASKS, "ambient": "nonsense"}), None),
    ("capabilities", status(inheritable=NONE), None),
    ("no-new-privileges", status(no_new_privileges="1"), True),
    ("no-new-privileges", status(no_new_privileges="0"), False),
    ("seccomp", status(seccomp="2"), True),
    ("seccomp", status(seccomp="0"), False),
    ("user", status(uid="1000\t1000\t1000\t1000", gid="1000\t1000\t1000\t1000"), True),
    ("user", status(uid="1000\t0\t1000\t1000", gid="1000\t1000\t1000\t1000"), False),
    ("user", status(uid="1000\t1000\t1000\t1000", gid="1000\t1000\t0\t1000"), False),
    ("user", status(uid="1000\t1000\t1000\t1000"), None),
    ("groups", status(uid="1000", groups="1000 "), True),
    ("groups", status(uid="1000", groups=""), True),
    ("groups", status(uid="1000", groups="1000 999"), False),
    ("setuid", seen(setuid={"mode": "4555", "owner": "0"}, raised={"uid": "1000"}, status={"uid": "1000"}), True),
    ("setuid", seen(setuid={"mode": "4555", "owner": "0"}, raised={"uid": "0"}, status={"uid": "1000"}), False),
    ("setuid", seen(setuid={"mode": "555", "owner": "0"}, raised={"uid": "1000"}, status={"uid": "1000"}), None),
    ("setuid", seen(setuid={"mode": "4555", "owner": "7"}, raised={"uid": "1000"}, status={"uid": "1000"}), None),
    ("setuid", seen(setuid={"mode": "4555", "owner": "7"}, raised={"uid": "7"}, status={"uid": "0"}), False),
    ("root", mounted(ROOT, root={"root": "errno:30", "etc": "errno:30", "dev": "errno:13"}), True),
    ("root", mounted(ROOT, root={"root": "ok"}), False),
    ("root", mounted({**ROOT, "options": "rw"}, root={"root": "errno:13"}), False),
    ("root", seen(root={"root": "errno:30"}), None),
    ("writable-mounts", mounted(ROOT, TMP), True),
    ("writable-mounts", mounted(ROOT, TMP, {**TMP, "path": "/dev/shm"}, {**TMP, "path": "/workspace"}), True),
    ("writable-mounts", mounted(ROOT, {**TMP, "path": "/srv"}), False),
    ("writable-mounts", mounted(ROOT, {**TMP, "path": "/srv\\040x"}), False),
    ("writable-mounts", mounted({**ROOT, "write": "ok"}), False),
    ("writable-mounts", mounted(ROOT, {**TMP, "path": "/proc/keys", "root": "/null"}), True),
    ("writable-mounts", seen(mount_0=ROOT, mounts={"count": "2"}), None),
    ("noexec", seen(execution_0={"path": "/tmp", "copy": "ok", "code": "126", "map": "errno:1"}), True),
    ("noexec", seen(execution_0={"path": "/tmp", "copy": "ok", "code": "42", "map": "errno:1"}), False),
    ("noexec", seen(execution_0={"path": "/tmp", "copy": "ok", "code": "126", "map": "ok"}), False),
    ("noexec", seen(execution_0={"path": "/tmp", "copy": "errno:28"}), None),
    ("tmpfs-mode", seen(size_0={"path": "/tmp", "take": "errno:28"}), True),
    ("tmpfs-mode", seen(execution_0={"path": "/tmp", "copy": "ok"}, size_0={"path": "/tmp"}), True),
    ("tmpfs-mode", seen(size_0={"path": "/tmp", "take": "errno:13"}), False),
    ("tmpfs-mode", seen(size_0={"path": "/dev/shm", "take": "errno:28"}), None),
    ("tmpfs-mode", seen(size_0={"path": "/tmp", "take": "timeout"}), None),
    ("propagation", mounted(ROOT), True),
    ("propagation", mounted({**ROOT, "shared": "yes"}), False),
    ("masked-paths", seen(masks={"proc/kcore": "0", "proc/keys": "0"}), True),
    ("masked-paths", seen(masks={"proc/kcore": "1", "proc/keys": "0"}), False),
    ("masked-paths", seen(masks={"proc/kcore": "?"}), False),
    ("kernel-settings", seen(closed={"proc/sys/kernel/hostname": "errno:30"}), True),
    ("kernel-settings", seen(closed={"proc/sys/kernel/hostname": "ok", "proc/irq": "errno:30"}), False),
    ("mknod", seen(mknod={"shm": "errno:1", "here": "errno:30"}), True),
    ("mknod", seen(mknod={"shm": "errno:1", "here": "ok"}), False),
    ("mknod", seen(mknod={"shm": "timeout"}), None),
    ("devices", seen(devices={"count": "0"}), True),
    ("devices", seen(devices={"count": "1", "sda": "block"}), False),
    ("devices", seen(devices={"count": "1"}), False),
    ("null-device", seen(null={"look": "ok", "kind": "character", "major": "1", "minor": "3"}), True),
    ("null-device", seen(null={"look": "ok", "kind": "character", "major": "1", "minor": "5"}), False),
    ("null-device", seen(null={"look": "errno:2"}), None),
    ("descriptors", seen(descriptors={"open": "3", "directories": "0"}), True),
    ("descriptors", seen(descriptors={"open": "4", "directories": "1", "directory": "/"}), False),
    ("engine-sockets", seen(engines={"count": "0"}), True),
    ("engine-sockets", seen(engines={"count": "1", "socket": "/run/docker.sock"}), False),
    ("memory-limit", seen(cgroup={"v1.memory": str(512 * MIB)}), True),
    ("memory-limit", seen(cgroup={"v2.memory.max": str(512 * MIB)}), True),
    ("memory-limit", seen(cgroup={"v1.memory": "9223372036854771712"}), False),
    ("memory-limit", seen(cgroup={"v2.memory.max": "max"}), False),
    ("memory-limit", seen(cgroup={"v2.memory.max": str(513 * MIB)}), False),
    ("swap-limit", seen(cgroup={"v1.memory": str(512 * MIB), "v1.memory.swap": str(512 * MIB)}), True),
    ("swap-limit", seen(cgroup={"v1.memory": str(512 * MIB), "v1.memory.swap": str(1024 * MIB)}), False),
    ("swap-limit", seen(cgroup={"v1.memory": str(512 * MIB), "v1.memory.swap": "9223372036854771712"}), False),
    ("swap-limit", seen(cgroup={"v2.memory.max": str(512 * MIB), "v2.memory.swap.max": "0"}), True),
    ("swap-limit", seen(cgroup={"v2.memory.max": str(512 * MIB), "v2.memory.swap.max": "max"}), False),
    ("swap-limit", seen(cgroup={"v1.memory": str(512 * MIB)}), None),
    ("pids-limit", seen(cgroup={"v1.pids": "256"}), True),
    ("pids-limit", seen(cgroup={"v2.pids.max": "max"}), False),
    ("cpu-quota", seen(cgroup={"v1.cpu.quota": "100000", "v1.cpu.period": "100000"}), True),
    ("cpu-quota", seen(cgroup={"v1.cpu.quota": "-1", "v1.cpu.period": "100000"}), False),
    ("cpu-quota", seen(cgroup={"v2.cpu.max": "50000 100000"}), True),
    ("cpu-quota", seen(cgroup={"v2.cpu.max": "150000 100000"}), False),
    ("cpu-quota", seen(cgroup={"v2.cpu.max": "max 100000"}), False),
    ("cpu-quota", seen(cgroup={"v1.cpu.quota": "100000", "v1.cpu.period": "0"}), None),
    ("cpu-time", seen(processors={"used_ms": "1010", "wall_ms": "1000"}), True),
    ("cpu-time", seen(processors={"used_ms": "1990", "wall_ms": "1000"}), False),
    ("cpu-time", seen(processors={"used_ms": "1", "wall_ms": "0"}), None),
    ("open-files", seen(files={"open": "200", "last": "errno:24"}), True),
    ("open-files", seen(files={"open": "264", "last": "ok"}), False),
    ("open-files", seen(files={"open": "264", "last": "errno:24"}), False),
    ("processes", seen(processes={"made": "62", "last": "errno:11"}), True),
    ("processes", seen(processes={"made": "96", "last": "ok"}), False),
    ("processes", seen(processes_begin={"most": "96"}), None),
    ("memory", seen(memory_begin={"map": "ok"}) | {OUTCOME: {"oom_killed": "yes", "how": "oom"}}, True),
    ("memory", seen(memory_begin={"map": "ok"}) | {OUTCOME: {"oom_killed": "no", "how": "failed"}}, False),
    ("memory", seen(memory={"taken": "9"}) | {OUTCOME: {"oom_killed": "yes"}}, False),
    ("memory", seen(memory_begin={"map": "errno:12"}) | {OUTCOME: {"oom_killed": "yes"}}, None),
    ("memory", seen(memory_begin={"map": "ok"}), None),
    ("memory", {OUTCOME: {"oom_killed": "yes"}}, None),
    ("deadline", seen(stubborn_begin={}) | {OUTCOME: {"how": "timeout"}}, True),
    ("deadline", seen(stubborn_begin={}) | {OUTCOME: {"how": "failed"}}, False),
    ("deadline", seen(stubborn_begin={}, stubborn={"outlived": "yes"}) | {OUTCOME: {"how": "timeout"}}, False),
    ("deadline", {OUTCOME: {"how": "timeout"}}, None),
    ("kernel-programs", seen(calls={"bpf": "errno:1", "perf_event_open": "errno:38"}), True),
    ("kernel-programs", seen(calls={"bpf": "signal:31", "perf_event_open": "errno:1"}), True),
    ("kernel-programs", seen(calls={"bpf": "errno:22", "perf_event_open": "errno:1"}), False),
    ("kernel-programs", seen(calls={"bpf": "errno:1"}), None),
    ("kernel-programs", seen(calls={"bpf": "errno:1", "perf_event_open": "timeout"}), None),
    ("routes", seen(routes={"1.1.1.1": "errno:101", "192.0.2.1": "errno:113"}), True),
    ("routes", seen(routes={"1.1.1.1": "ok", "192.0.2.1": "errno:101"}), False),
    ("routes", seen(routes={"1.1.1.1": "errno:111"}), False),
    ("routes-ipv6", seen(routes6={"public": "errno:99"}), True),
    ("metadata", seen(metadata={"169.254.169.254": "ok"}), False),
    ("private-addresses", seen(private={"10.255.255.254": "unrun"}), None),
    ("host", seen(hosts={"192.0.2.1.1": "timeout", "192.0.2.1.22": "errno:113"}), True),
    ("host", seen(hosts={"192.0.2.1.1": "errno:111"}), False),
    ("host", seen(hosts={"192.0.2.1.22": "ok"}), False),
    ("host", seen(hosts={}), True),
    ("neighbours", seen(neighbours={"192.0.2.3.1": "timeout"}), True),
    ("neighbours", seen(neighbours={"192.0.2.3.1": "errno:111"}), False),
    ("names", seen(resolver_0={"sent": "ok", "got": "timeout"}, resolvers={"count": "1"}), True),
    ("names", seen(resolver_0={"sent": "ok", "got": "ok", "code": "2"}, resolvers={"count": "1"}), True),
    ("names", seen(resolver_0={"sent": "ok", "got": "ok", "code": "5"}, resolvers={"count": "1"}), True),
    ("names", seen(resolver_0={"sent": "ok", "got": "ok", "code": "0"}, resolvers={"count": "1"}), False),
    ("names", seen(resolver_0={"sent": "ok", "got": "ok", "code": "3"}, resolvers={"count": "1"}), True),
    *(
        (
            "names",
            seen(
                resolver_0={"sent": "ok", "got": "ok", "code": "0", "answers": answers, "address": address},
                resolvers={"count": "1"},
            ),
            holds,
        )
        for answers, address, holds in (
            ("1", GATEWAY, True),
            ("0", "", True),
            ("1", "192.0.2.1", False),
            ("2", GATEWAY, False),
        )
    ),
    ("names", seen(resolver_0={"sent": "ok", "got": "timeout"}, resolvers={"count": "2"}), None),
    ("git-moved", seen(git={"move": "errno:16"}), True),
    ("git-moved", seen(git={"move": "errno:39"}), False),
    ("git-moved", seen(git={"move": "errno:21"}), False),
    ("git-moved", seen(git={"move": "ok"}), False),
    ("git-moved", seen(git={"move": "errno:2"}), None),
    ("git-written", seen(git={"write": "errno:30"}), True),
    ("git-written", seen(git={"write": "ok"}), False),
]


@pytest.mark.parametrize(("id", "what", "holds"), CASES, ids=[f"{case[0]}-{n}" for n, case in enumerate(CASES)])
def test_what_was_seen(id: str, what: Seen, holds: bool | None) -> None:
    assert told(BY_ID[id], what, context()).holds is holds
    if holds is not None:
        assert told(BY_ID[id], what, context()).seen


@pytest.mark.parametrize(
    ("options", "looked_at"),
    [
        ("rw,mode=1777", True),
        ("rw,mode=0755", False),
        ("rw,mode=0755,uid=1000", True),
        ("rw,mode=0500,uid=1000", False),
        ("rw,mode=0770,gid=1000", True),
        ("rw,mode=0707,gid=1000", False),
        ("ro,mode=1777", False),
        ("rw,size=64m", False),
    ],
)
def test_a_tmpfs_is_looked_at_where_the_user_may_write(options: str, looked_at: bool) -> None:
    reason = left_out(BY_ID["tmpfs-mode"], context(spec={"tmpfs": freeze({"/tmp": options})}))
    assert (reason is None) == looked_at


def test_every_control_is_looked_at_here() -> None:
    elsewhere = {"namespaces", "tmpfs-size", "ulimits", "secrets-mode", "secrets-memory", "secrets-environment"}
    elsewhere |= {one.id for one in (*privilege.KERNEL, *FAMILIES["Gateway"])}
    assert {one.id for one in CONTROLS} - {case[0] for case in CASES} <= elsewhere


# -- those that depend on more --------------------------------------------------------------------------------------


def test_namespaces_against_a_kernels_first_and_the_hosts() -> None:
    own = {"pid": "pid:[40]", "ipc": "ipc:[41]", "uts": "uts:[42]", "cgroup": "cgroup:[43]", "mnt": "mnt:[44]"}
    one = BY_ID["namespaces"]
    assert told(one, seen(namespaces=own), context()).holds is True
    assert told(one, seen(namespaces={**own, "pid": "pid:[4026531836]"}), context()).holds is False
    host = freeze({"mnt": "mnt:[44]", "user": "user:[1]"})
    assert told(one, seen(namespaces=own), context(host_namespaces=host)).holds is False
    assert told(one, seen(namespaces={"pid": "pid:[40]"}), context()).holds is None


def test_sizes_of_memory_filesystems() -> None:
    shm = {"path": "/dev/shm", "look": "ok", "bytes": str(64 * MIB), "take": "errno:28"}
    tmp = {**shm, "path": "/tmp"}
    one = BY_ID["tmpfs-size"]
    assert told(one, seen(size_0=tmp, size_1=shm), context()).holds is True
    assert told(one, seen(size_0={**tmp, "take": "ok"}, size_1=shm), context()).holds is False
    assert told(one, seen(size_0=tmp, size_1={**shm, "bytes": str(128 * MIB)}), context()).holds is False
    assert told(one, seen(size_0=tmp), context()).holds is None
    assert told(one, seen(size_0=tmp, size_1={**shm, "look": "errno:2"}), context()).holds is None
    large = {**tmp, "bytes": str(2 << 30)}
    del large["take"]
    assert (
        told(one, seen(size_0=large, size_1=shm), context(spec={"tmpfs": freeze({"/tmp": "rw,size=2g"})})).holds is True
    )


def test_limits_of_a_process_before_and_after_it_raised_them() -> None:
    limits = {"nofile.soft": "100", "nofile.hard": "200", "core.soft": "0", "core.hard": "0"}
    one = BY_ID["ulimits"]
    assert told(one, seen(limits=limits, limits_raised=limits), context()).holds is True
    assert told(one, seen(limits=limits, limits_raised={**limits, "core.hard": "-1"}), context()).holds is False
    assert told(one, seen(limits={**limits, "nofile.soft": "101"}, limits_raised=limits), context()).holds is False
    assert told(one, seen(limits=limits), context()).holds is None


KEY = {"name": "key", "mode": "400", "uid": "1000", "gid": "1000", "magic": "16914836", "environ": "no"}
SECRET = {**KEY, "arguments": "no"}


@pytest.mark.parametrize(
    ("change", "mode", "memory", "environment"),
    [
        ({}, True, True, True),
        ({"mode": "440"}, False, True, True),
        ({"mode": "4400"}, False, True, True),
        ({"uid": "0"}, False, True, True),
        ({"magic": "2035054128"}, True, False, True),
        ({"environ": "yes"}, True, True, False),
        ({"arguments": "yes"}, True, True, False),
    ],
)
def test_secrets(change: Mapping[str, str], mode: bool, memory: bool, environment: bool) -> None:
    what = seen(secret_0={**SECRET, **change}, secrets={"open": "ok", "count": "1"})
    ids = ("secrets-mode", "secrets-memory", "secrets-environment")
    assert [told(BY_ID[id], what, context()).holds for id in ids] == [mode, memory, environment]


def test_a_secret_that_is_missing_tells_nothing() -> None:
    what = seen(secret_0=SECRET, secrets={"open": "ok", "count": "1"})
    two = context(spec={"secrets": (FileRef(source="key"), FileRef(source="other", mode=0o440, uid=7))})
    for id in ("secrets-mode", "secrets-memory", "secrets-environment"):
        assert told(BY_ID[id], what, two).holds is None, id
    other = {**SECRET, "name": "other", "mode": "440", "uid": "7"}
    both = seen(secret_0=SECRET, secret_1=other, secrets={"open": "ok", "count": "2"})
    for id in ("secrets-mode", "secrets-memory", "secrets-environment"):
        assert told(BY_ID[id], both, two).holds is True, id


def test_what_a_profile_names_is_allowed_and_no_more() -> None:
    volume = Mount(type="volume", source="cache", target="/cache")
    given = context(spec={"volumes": (volume,), "devices": (Device(source="/dev/fuse"),), "cap_add": ("KILL",)})
    assert told(BY_ID["writable-mounts"], mounted(ROOT, {**TMP, "path": "/cache"}), given).holds is True
    assert told(BY_ID["devices"], seen(devices={"count": "1", "fuse": "character"}), given).holds is True
    assert told(BY_ID["devices"], seen(devices={"count": "1", "kvm": "character"}), given).holds is False
    assert told(BY_ID["capabilities"], status(**{**MASKS, "bounding": "0000000000000020"}), given).holds is True
    assert told(BY_ID["capabilities"], {}, given).expected == "at most KILL"
    named = context(spec={"user": "agent"})
    assert told(BY_ID["user"], status(uid="7 7 7 7", gid="7 7 7 7"), named).holds is True
    assert told(BY_ID["user"], status(uid="0 0 0 0", gid="7 7 7 7"), named).holds is False


def test_gvisor_is_judged_by_what_it_shows() -> None:
    under = context(runtime="runsc")
    for id in ("memory-limit", "pids-limit", "cpu-quota", "tracing", "x86", "socket-families"):
        assert "gVisor" in (left_out(BY_ID[id], under) or ""), id
    begun = seen(processes_begin={"most": "96"})
    assert told(BY_ID["processes"], begun, under).holds is True
    assert told(BY_ID["processes"], {**begun, "end": {}}, under).holds is None
    assert left_out(BY_ID["memory"], under) is None and left_out(BY_ID["routes"], under) is None
    assert told(BY_ID["capabilities"], status(**{**MASKS, "ambient": ""}), under).holds is True
    assert told(BY_ID["devices"], seen(devices={"count": "1", "fuse": "character"}), under).holds is True
    ran = {"path": "/tmp", "copy": "ok", "code": "126", "map": "ok"}
    assert told(BY_ID["noexec"], seen(execution_0=ran), under).holds is True


def test_gvisor_may_or_may_not_filter_calls() -> None:
    one, under = BY_ID["seccomp"], context(runtime="runsc")
    off, on = status(seccomp="0"), status(seccomp="2")
    assert told(one, off, under).holds is True and one.moot(off, off, under) is not None
    assert told(one, on, under).holds is True and one.moot(on, off, under) is None
    assert one.negative is not None
    assert one.negative(on, off, under) and not one.negative(on, on, under)
    assert one.moot(off, off, context()) is not None and told(one, off, context()).holds is False


def test_what_gvisor_says_of_every_sandbox_proves_nothing() -> None:
    one, on = BY_ID["no-new-privileges"], seen(status={"no-new-privileges.asked": "1"})
    assert told(one, on, context()).holds is True
    assert one.moot(on, on, context(runtime="runsc")) is not None
    assert one.moot(on, on, context()) is None


def test_without_a_network_for_anyone_there_is_nothing_to_reach() -> None:
    one, alone = BY_ID["routes"], seen(interfaces={"lo": "127.0.0.1"})
    plugged = seen(interfaces={"lo": "127.0.0.1", "eth0": "172.20.0.2"})
    assert one.moot(alone, alone, context()) is not None
    assert one.moot(alone, plugged, context()) is None
    assert one.moot(alone, {}, context()) is None


def test_networks_of_ones_own() -> None:
    joined = {"egress": None, "networks": freeze({"team": Attachment()})}
    team = NetworkSpec()
    for id in ("routes", "metadata", "host", "names"):
        assert (
            left_out(BY_ID[id], context(spec=joined))
            == "it joins networks without a gateway: it reaches whatever those reach"
        )
    neighbours = BY_ID["neighbours"]
    assert left_out(neighbours, context(spec=joined, networks=freeze({"team": team}))) is None
    opened = structs.replace(team, driver_opts=freeze({}))
    reason = left_out(neighbours, context(spec=joined, networks=freeze({"team": opened})))
    assert reason == "the profile lets sandboxes on team reach each other"


# -- the kernel, by seccomp profile ---------------------------------------------------------------------------------


def profiled(name: str, **changed: object) -> Context:
    return context(spec={"security_opt": freeze({"no-new-privileges": "true", "seccomp": name})}, **changed)


@pytest.mark.parametrize("theme", privilege.THEMES, ids=lambda theme: theme.id)
def test_themes_by_seccomp_profile(theme: privilege.Theme) -> None:
    one = BY_ID[theme.id]
    assert left_out(one, profiled("sandboxrun")) is None
    assert (left_out(one, profiled("debug")) is None) == (not theme.debug)
    assert (left_out(one, profiled("engine")) is None) == bool(theme.engine)
    assert left_out(one, profiled("unconfined")) == "the profile turns seccomp off"
    assert "its own" in (left_out(one, profiled("{}")) or "")
    assert (left_out(one, profiled("sandboxrun", architecture="aarch64")) is None) == (not theme.native)


def test_what_this_kernel_does_not_have_is_told_apart() -> None:
    one, given = BY_ID["x86"], context()
    strong = seen(calls={"modify_ldt": "errno:1", "i386": "signal:31", "x32": "signal:31", "iopl": "errno:1"})
    weak = seen(calls={"modify_ldt": "ok", "i386": "ok", "x32": "errno:38", "iopl": "errno:38"})
    assert told(one, strong, given).holds is True
    assert one.negative is not None
    assert one.negative(strong, weak, given)
    assert one.moot(strong, weak, given) is None
    assert not one.negative(strong, strong, given)
    without = seen(calls={"modify_ldt": "errno:38", "i386": "signal:11", "x32": "errno:38", "iopl": "errno:38"})
    assert one.moot(without, without, given) == "this kernel has none of them"
    assert one.moot(without, {}, given) is None


def test_one_call_that_the_weak_one_may_not_make_either_proves_nothing() -> None:
    one = BY_ID["kernel-programs"]
    strong = seen(calls={"bpf": "errno:1", "perf_event_open": "errno:1"})
    assert one.negative is not None
    assert not one.negative(strong, seen(calls={"bpf": "errno:22", "perf_event_open": "errno:1"}), context())
    assert one.negative(strong, seen(calls={"bpf": "errno:22", "perf_event_open": "errno:14"}), context())


# -- the gateway ----------------------------------------------------------------------------------------------------


NXDOMAIN, ADDRESS = "0020534285830001000000000000", "0030534285800001000100000000"


def answered(given: Context, *, passed: str = "", **answers: str) -> Seen:
    """What the gateway answered: that names do not exist, 403, or nothing, but for what is said by group (a status,
    `closed`, `none`: no answer in time)."""
    probes = {}
    for index, request in enumerate(requests(given)):
        let = request.group == "allowed"
        said = answers.get(request.group.replace("-", "_"), "502" if let else "403")
        if said in ("none", "closed"):
            answer = b""
        elif request.kind == "dns":
            answer = bytes.fromhex(NXDOMAIN if said.startswith("4") else ADDRESS)
        elif request.kind == "tls":
            answer = b"" if said.startswith("4") else b"\x16\x03\x03"
        else:
            answer = f"HTTP/1.1 {said} Said\r\n".encode()
        over = "no" if said == "none" else "yes"
        probes[f"request_{index}"] = {"name": request.name, "connect": "ok", "over": over, "answer": answer.hex()}
    return freeze({**seen(**probes), "@outcome": freeze({"passed": passed})})


GATEWAYS = (
    context(hosts=("192.0.2.9",)),
    context(spec={"egress": Egress(allow=("api.example.com:80", "*.models.example.org:8443"))}),
)


@pytest.mark.parametrize("one", FAMILIES["Gateway"], ids=lambda one: one.id)
@pytest.mark.parametrize("given", GATEWAYS, ids=["tls", "both"])
def test_the_gateways_answers(one: Control, given: Context) -> None:
    group = one.id.removeprefix("gateway-").replace("-", "_")
    assert one.negative is not None
    for status, holds in {"403": True, "400": True, "502": False, "200": False}.items():
        what = answered(given, **{group: status})
        assert told(one, what, given).holds is holds, status
        assert one.negative(what, {}, given)
    assert told(one, answered(given, **{group: "none"}), given).holds is None
    assert told(one, answered(given), given).seen.startswith("all ")
    odd = told(one, answered(given, **{group: "502"}), given).seen
    assert "502 Said" in odd or "bytes came back" in odd


@pytest.mark.parametrize("said", ["closed", "403"])
def test_closed_without_a_word_is_refused_unless_the_gateway_recorded_that_it_let_it_pass(said: str) -> None:
    one, given = BY_ID["gateway-addresses"], context()
    assert told(one, answered(given, addresses=said), given).holds is True
    through = answered(given, addresses=said, passed="api.example.com:443 192.0.2.1:443")
    assert told(one, through, given).holds is False
    assert told(one, through, given).seen == "tls 192.0.2.1:443: let pass, as the gateway recorded"


def test_a_name_without_an_answer_tells_nothing() -> None:
    one, given = BY_ID["gateway-hosts"], context()
    assert told(one, answered(given, hosts="closed"), given).holds is None


def test_a_port_that_nobody_listens_on_is_refused() -> None:
    one, given = BY_ID["gateway-ports"], context()
    for how, holds in {"errno:111": True, "errno:104": True, "timeout": None, "errno:101": None}.items():
        what = {
            name: freeze({**values, "connect": how, "answer": ""}) if "ports " in values.get("name", "") else values
            for name, values in answered(given).items()
        }
        assert told(one, freeze(what), given).holds is holds, how


@pytest.mark.parametrize(
    ("said", "passed", "proves"),
    [
        ("502", "", True),
        ("200", "", True),
        ("403", "", False),
        ("403", "api.example.com:443", False),  # its name does not exist
        ("none", "", False),
        ("closed", "", False),
    ],
)
def test_a_gateway_that_refuses_everything_proves_nothing(said: str, passed: str, proves: bool) -> None:
    one, given = BY_ID["gateway-hosts"], context()
    assert one.negative is not None
    assert one.negative(answered(given, allowed=said, passed=passed), {}, given) is proves
    assert not one.negative({}, {}, given)


def test_what_is_allowed_and_has_no_address_was_let_pass_by_the_rules() -> None:
    one, given = BY_ID["gateway-hosts"], context()
    assert one.negative is not None
    closed = dict(answered(given, allowed="closed", passed="api.example.com:443"))
    first = closed["request.0"]
    assert first["name"].startswith("allowed dns ")
    closed["request.0"] = freeze({**first, "answer": ADDRESS})
    assert one.negative(freeze(closed), {}, given)


def test_a_gateway_that_is_not_there_tells_nothing() -> None:
    given = context()
    dead = {
        name: {**values, "connect": "errno:113", "over": "no", "answer": ""} for name, values in answered(given).items()
    }
    assert told(BY_ID["gateway-hosts"], dead, given).holds is None
    assert "can't be reached (EHOSTUNREACH)" in told(BY_ID["gateway-hosts"], dead, given).seen


def test_without_a_gateway_there_is_none_to_ask() -> None:
    for one in FAMILIES["Gateway"]:
        assert left_out(one, context(spec={"egress": CLOSED})) == "it has no gateway"
    opened = {one.id: left_out(one, context(spec={"egress": PUBLIC})) for one in FAMILIES["Gateway"]}
    assert {id for id, reason in opened.items() if reason} == {"gateway-hosts"}


# -- words ----------------------------------------------------------------------------------------------------------


def test_results_in_words() -> None:
    words = [result(text) for text in ("ok", "errno:1", "errno:9999", "signal:31", "timeout", "unrun", "")]
    assert words == [
        "worked",
        "EPERM",
        "error 9999",
        "killed by signal 31",
        "no answer in time",
        "not tried",
        "not tried",
    ]
    assert results({"a": "errno:1", "b": "ok", "c": "errno:1"}) == "EPERM: a, c; worked: b"


def test_phases_in_which_controls_are_told() -> None:
    elsewhere = {one.id: one.phase for one in CONTROLS if one.phase is not Phase.BATTERY}
    assert elsewhere == {"memory": Phase.MEMORY, "processes": Phase.PROCESSES, "deadline": Phase.STUBBORN}
