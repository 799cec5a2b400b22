"""What the host shows of a sandbox, read and judged: each check both ways, from texts as a kernel writes them."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec import structs

from sandboxrun.backend.base import Accounts
from sandboxrun.probe import privilege as capabilities
from sandboxrun.probe.outside import (
    CHECKS,
    NAMESPACES,
    Looked,
    Outside,
    Process,
    findings,
    inside,
    read_cgroups,
    read_interfaces,
    read_limits,
    read_mounts,
    read_status,
)
from sandboxrun.probe.verdicts import Verdict, first_number
from sandboxrun.spec.option_types import CAPABILITIES, Egress
from sandboxrun.spec.records import Device, FileRef, Mount, Ulimit, Workspace
from sandboxrun.spec.spec import SandboxSpec, settle
from sandboxrun.spec.types import freeze

STATUS = """Name:\tsleep
Uid:\t1000\t1000\t1000\t1000
Gid:\t1000\t1000\t1000\t1000
Groups:\t1000 
CapInh:\t0000000000000000
CapPrm:\t0000000000000000
CapEff:\t0000000000000000
CapBnd:\t0000000000000000
CapAmb:\t0000000000000000
NoNewPrivs:\t1
Seccomp:\t2
"""
LIMITS = """Limit                     Soft Limit           Hard Limit           Units     
Max core file size        0                    0                    bytes     
Max processes             96364                96364                processes 
Max open files            4096                 4096                 files     
Max realtime timeout      unlimited            unlimited            us        
"""
MOUNTS = r"""74 49 0:39 / / ro,relatime master:3 - overlay overlay rw,lowerdir=/a
75 74 0:42 / /proc rw,nosuid,nodev,noexec,relatime - proc proc rw
76 74 0:43 / /dev rw,nosuid - tmpfs tmpfs rw,size=65536k,mode=755
78 74 0:45 / /sys ro,nosuid,nodev,noexec,relatime - sysfs sysfs ro
80 79 0:29 /docker/8247 /sys/fs/cgroup/cpu ro,nosuid,nodev,noexec,relatime - cgroup cgroup rw,cpu
91 74 254:0 /usr/bin/tini-static /sbin/docker-init ro,relatime - ext4 /dev/vda rw
92 74 0:48 / /tmp rw,nosuid,nodev,noexec,relatime - tmpfs tmpfs rw,size=65536k
93 74 254:0 /var/resolv.conf /etc/resolv.conf ro,relatime - ext4 /dev/vda rw
50 75 0:42 /sys /proc/sys ro,nosuid,nodev,noexec,relatime - proc proc rw
54 75 0:49 / /proc/acpi ro,relatime - tmpfs tmpfs ro
"""
MAP = "         0          0 4294967295\n"
OWN = {kind: f"{kind}:[{number}]" for number, kind in enumerate(NAMESPACES, 100)}


def process(pid: int = 7, spaces: dict[str, str] | None = None, **changed: str) -> Process:
    return Process(pid=pid, status=freeze({**read_status(STATUS), **changed}), namespaces=freeze(spaces or OWN))


GOOD = Outside(
    processes=(process(),),
    host=freeze({f"{kind}:[1]": "the host" for kind in NAMESPACES}),
    limits=read_limits(LIMITS),
    mounts=read_mounts(MOUNTS),
    cgroup_version=1,
    cgroup=freeze(
        {
            "memory": "536870912",
            "swap": "536870912",
            "pids": "256",
            "cpu": "100000 100000",
            "cpuset": "0-1",
            "devices": "b *:* m\nc *:* m\nc 1:3 rwm\nc 136:* rwm",
        }
    ),
    interfaces=("lo",),
    oom_score_adj=0,
    uid_map=MAP,
    gid_map=MAP,
    present=frozenset({"/proc/sys", "/proc/acpi"}),
)


def looked(outside: Outside = GOOD, *, devices: frozenset[str] = frozenset(), **options: Any) -> Looked:
    spec = settle(SandboxSpec(image="busybox", **{"network_mode": "none", **options}))
    return Looked(spec=spec, outside=outside, accounts=Accounts(uid=1000, gid=1000), devices=devices)


def seen(given: Looked, control: str) -> tuple[str, str]:
    """One check's verdict and what it saw."""
    found = next(f for f in findings("agent", given, CHECKS) if f.control == control)
    return found.verdict.value, found.seen


def test_the_closed_sandbox_holds() -> None:
    verdicts = {f.control: f.verdict for f in findings("agent", looked(), CHECKS)}
    assert {control for control, verdict in verdicts.items() if verdict is not Verdict.HOLDS} == {"cpuset"}
    assert verdicts["cpuset"] is Verdict.NOT_APPLICABLE


CHANGED = [
    ("user", {"processes": (process(), process(8, Uid="0\t0\t0\t0"))}, "0:1000, 1000:1000"),
    ("user", {"processes": (process(Uid="1000\t0\t1000\t1000"),)}, "0:1000, 1000:1000"),
    ("groups", {"processes": (process(Groups="1000 0"),)}, "0, 1000"),
    ("capabilities", {"processes": (process(CapBnd="0000000000003000"),)}, "NET_ADMIN, NET_RAW"),
    ("capabilities", {"processes": (process(), process(8, CapAmb="8000000000000000"))}, "capability 63"),
    ("capabilities", {"processes": (process(CapEff="0000000000002000", CapAmb="unread"),)}, "NET_RAW"),
    ("no-new-privileges", {"processes": (process(), process(8, NoNewPrivs="0"))}, "0, 1"),
    ("seccomp", {"processes": (process(Seccomp="0"),)}, "0"),
    ("seccomp", {"processes": (process(Seccomp="1"),)}, "1"),
    ("namespaces", {"processes": (process(spaces={**OWN, "net": "net:[1]"}),)}, "shared: net of the host"),
    ("memory-limit", {"cgroup": {"memory": "536870913"}}, "536870913"),
    ("memory-limit", {"cgroup": {"memory": "9223372036854771712"}}, "no limit"),
    ("swap-limit", {"cgroup": {"swap": "1073741824"}}, "1g"),
    ("pids-limit", {"cgroup": {"pids": "max"}}, "no limit"),
    ("cpu-quota", {"cgroup": {"cpu": "100001 50000"}}, "2.00002"),
    ("cpu-quota", {"cgroup": {"cpu": "-1 100000"}}, "no limit"),
    ("cpu-quota", {"cgroup": {"cpu": "max 100000"}}, "no limit"),
    ("devices", {"cgroup": {"devices": "a *:* rwm"}}, "a *:* rwm"),
    ("devices", {"cgroup": {"devices": "b 8:0 r"}}, "b 8:0 r"),
    ("devices", {"cgroup": {"devices": "c 10:229 rwm"}}, "c 10:229 rwm"),
    ("ulimits", {"limits": {"nofile": (4096, -1), "core": (0, 0)}}, "core 0, nofile 4096 to no limit"),
    ("oom-score", {"oom_score_adj": -1}, "-1"),
    ("root", {"mounts": MOUNTS.replace("/ / ro,", "/ / rw,")}, "writable"),
    ("mounts", {"mounts": MOUNTS + "99 74 0:1 / /host rw - ext4 /dev/vda rw\n"}, "/host (writable, ext4)"),
    ("mounts", {"mounts": MOUNTS + r"99 74 0:1 / /a\040b ro - ext4 /dev/vda rw"}, "/a b (read-only, ext4)"),
    ("mounts", {"mounts": MOUNTS.replace(" /tmp ", " /proc/x ")}, "/tmp (not there)"),
    ("mounts", {"mounts": MOUNTS.replace("cgroup/cpu ro,", "cgroup/cpu rw,")}, "/sys/fs/cgroup/cpu (writable, cgroup)"),
    ("mounts", {"mounts": MOUNTS.replace(" / /sys ro,", " / /sys rw,")}, "/sys (writable, sysfs)"),
    ("propagation", {"mounts": MOUNTS.replace("master:3", "shared:3")}, "shared: /"),
    ("masked-paths", {"mounts": MOUNTS.replace("/proc/acpi", "/proc/other")}, "open: /proc/acpi"),
    ("masked-paths", {"mounts": MOUNTS.replace("/proc/sys ro", "/proc/sys rw")}, "open: /proc/sys (writable)"),
    ("network", {"interfaces": ("lo", "eth0")}, "lo, eth0"),
]


def changed(**parts: Any) -> Outside:
    """The good one with parts changed; of mappings only what is given."""
    made: dict[str, Any] = {}
    for name, value in parts.items():
        if name == "mounts":
            made[name] = read_mounts(value)
        elif isinstance(value, dict):
            made[name] = freeze({**getattr(GOOD, name), **value})
        else:
            made[name] = value
    return structs.replace(GOOD, **made)


@pytest.mark.parametrize(("control", "parts", "what"), CHANGED)
def test_each_check_fails_when_it_must(control: str, parts: dict[str, Any], what: str) -> None:
    verdict, said = seen(looked(changed(**parts)), control)
    assert (verdict, what in said) == ("does not hold", True), said
    others = [f for f in findings("agent", looked(changed(**parts)), CHECKS) if f.verdict is Verdict.FAILS]
    assert [f.control for f in others] == [control]  # and no other does


TIGHTER = [
    ("memory-limit", {"cgroup": {"memory": "4096"}}),
    ("swap-limit", {"cgroup": {"swap": "0"}}),
    ("pids-limit", {"cgroup": {"pids": "3"}}),
    ("cpu-quota", {"cgroup": {"cpu": "1000 100000"}}),
    ("ulimits", {"limits": {"nofile": (5, 10)}}),
    ("oom-score", {"oom_score_adj": 500}),
    ("groups", {"processes": (process(Groups=""),)}),
    ("network", {"interfaces": ("lo", "tunl0", "sit0")}),
]


@pytest.mark.parametrize(("control", "parts"), TIGHTER)
def test_what_is_tighter_than_declared_holds(control: str, parts: dict[str, Any]) -> None:
    assert seen(looked(changed(**parts)), control)[0] == "holds"


@pytest.mark.parametrize(
    ("part", "controls"),
    [
        ("processes", {"user", "groups", "capabilities", "no-new-privileges", "seccomp", "namespaces"}),
        ("maps", {"user", "groups"}),
        ("namespaces", {"namespaces"}),
        ("limits", {"ulimits"}),
        ("mounts", {"root", "mounts", "propagation", "masked-paths"}),
        ("network", {"network"}),
        ("oom_score_adj", {"oom-score"}),
        ("cgroup", {"memory-limit", "swap-limit", "pids-limit", "cpu-quota", "cpuset", "devices"}),
        ("cgroup memory", {"memory-limit"}),
    ],
)
def test_what_was_not_read_is_inconclusive(part: str, controls: set[str]) -> None:
    found = findings("agent", looked(structs.replace(GOOD, unread=freeze({part: "not allowed"}))), CHECKS)
    assert {f.control for f in found if f.verdict is Verdict.INCONCLUSIVE} == controls
    assert {f.note for f in found if f.verdict is Verdict.INCONCLUSIVE} == {"not allowed"}


def test_nothing_at_all_holds_nothing() -> None:
    for version in (1, 2):
        found = findings("agent", looked(Outside(cgroup_version=version)), CHECKS)
        assert [f.control for f in found if f.verdict is Verdict.HOLDS] == []


def test_an_unknown_user_is_inconclusive() -> None:
    given = structs.replace(looked(), accounts=None)
    assert seen(given, "user")[0] == seen(given, "groups")[0] == "inconclusive"


def test_what_the_profile_opens_is_said() -> None:
    opened = looked(
        user="root",
        cap_add=("NET_ADMIN",),
        cap_drop=(),
        security_opt=freeze({"no-new-privileges": "false", "seccomp": "unconfined"}),
        mem_limit=0,
        pids_limit=0,
        cpus=0.0,
        read_only=False,
        group_add=("2000",),
        devices=frozenset(),
    )
    opened = structs.replace(opened, accounts=Accounts(uid=1000, gid=1000, groups=frozenset({2000})))
    notes = {f.control: f.note for f in findings("agent", opened, CHECKS) if f.note.startswith("declared open")}
    assert set(notes) == {
        *("groups", "capabilities", "no-new-privileges", "seccomp", "memory-limit", "swap-limit", "pids-limit"),
        *("cpu-quota", "root"),
    }
    assert notes["capabilities"].startswith("declared open: +NET_ADMIN, AUDIT_WRITE, CHOWN")
    bare = changed(
        processes=(process(NoNewPrivs="0", Seccomp="0", CapBnd="00000000a80435fb", Groups="2000"),),
        cgroup={"memory": "max", "swap": "max", "pids": "max", "cpu": "max 100000"},
        mounts=MOUNTS.replace("/ / ro,", "/ / rw,"),
    )
    failing = {
        f.control for f in findings("agent", structs.replace(opened, outside=bare), CHECKS) if not f.verdict.passes
    }
    assert failing == set()


def test_declared_mounts_and_only_they() -> None:
    given = {
        "volumes": (
            Mount(type="bind", source="/srv/data", target="/data", read_only=True),
            Mount(type="volume", source="cache", target="/cache"),
        ),
        "workspace": Workspace(source="/srv/work", target="/workspace", access="rw"),
        "secrets": (FileRef(source="key"),),
    }
    lines = [
        "1 74 0:1 / /data ro - ext4 /dev/vda rw",
        "2 74 0:1 / /cache rw - ext4 /dev/vda rw",
        "3 74 0:1 / /workspace rw - ext4 /dev/vda rw",
        "4 74 0:1 / /workspace/.git ro - ext4 /dev/vda rw",
        "5 74 0:1 / /run/secrets ro - tmpfs tmpfs rw",
    ]
    assert seen(looked(changed(mounts=MOUNTS + "\n".join(lines)), **given), "mounts")[0] == "holds"
    for n, wrong in (
        (0, "/data (writable, ext4)"),
        (3, "/workspace/.git (writable, ext4)"),
        (4, "/run/secrets (writable, tmpfs)"),
    ):
        loose = [line.replace(" ro ", " rw ") if m == n else line for m, line in enumerate(lines)]
        assert seen(looked(changed(mounts=MOUNTS + "\n".join(loose)), **given), "mounts") == ("does not hold", wrong)
    moved = [line.replace(" /cache ", " /real/cache ") for line in lines]  # the image has a link at /cache
    assert seen(looked(changed(mounts=MOUNTS + "\n".join(moved)), **given), "mounts")[0] == "holds"


def test_a_control_group_mounted_writable_that_its_users_can_t_write_to() -> None:
    at = "/sys/fs/cgroup/memory"
    given = changed(mounts=f"{MOUNTS}9 74 0:9 / {at} rw - cgroup cgroup rw,memory\n")
    assert seen(looked(given), "mounts") == ("does not hold", f"{at} (writable, cgroup)")
    assert seen(looked(structs.replace(given, kept=frozenset({at}))), "mounts")[0] == "holds"


@pytest.mark.parametrize("path", ["/usr/sbin/docker-init", "/usr/bin/docker-init", "/.sandboxrun"])
def test_the_engines_init_where_the_image_has_a_link_and_our_own(path: str) -> None:
    elsewhere = MOUNTS.replace(" /sbin/docker-init ", f" {path} ")
    assert seen(looked(changed(mounts=elsewhere)), "mounts")[0] == "holds"
    writable = elsewhere.replace(f"{path} ro,", f"{path} rw,")
    told = f"{path} (writable, ext4)"
    assert seen(looked(changed(mounts=writable)), "mounts") == ("does not hold", told)


def test_a_declared_device_is_expected_by_its_number() -> None:
    given = looked(
        changed(cgroup={"devices": "c 10:229 rwm"}),
        devices=frozenset({"c 10:229"}),
    )
    given = structs.replace(
        given, spec=structs.replace(given.spec, devices=(Device(source="/dev/fuse", target="/dev/fuse"),))
    )
    assert seen(given, "devices")[0] == "holds"


def test_version_2_counts_swap_alone() -> None:
    two = structs.replace(changed(cgroup={"swap": "0", "cpu": "100000 100000"}), cgroup_version=2)
    assert seen(looked(two), "swap-limit")[0] == "holds"
    loose = structs.replace(two, cgroup=freeze({**two.cgroup, "swap": "536870912"}))
    assert seen(looked(loose), "swap-limit") == ("does not hold", "512m")
    assert seen(looked(two), "devices")[0] == "not applicable"


def test_a_sandbox_with_a_gateway_has_one_way() -> None:
    wired = {"network_mode": "bridge", "egress": Egress(mode="open")}
    assert seen(looked(changed(interfaces=("lo", "eth0")), **wired), "network")[0] == "holds"
    assert seen(looked(changed(interfaces=("lo", "eth0", "eth1")), **wired), "network")[0] == "does not hold"


def test_another_kernels_processes_are_not_the_hosts() -> None:
    found = findings("agent", looked(runtime="runsc"), CHECKS)
    verdicts = {f.control: f.verdict for f in found}
    assert verdicts["user"] is verdicts["mounts"] is Verdict.NOT_APPLICABLE
    assert verdicts["memory-limit"] is verdicts["pids-limit"] is Verdict.HOLDS


def test_ids_of_a_user_namespace_are_translated() -> None:
    mapped = "0 100000 65536\n"
    assert inside(101000, mapped) == 1000
    assert inside(1000, mapped) is None
    given = changed(processes=(process(Uid="101000 " * 4, Gid="101000 " * 4, Groups="101000"),))
    given = structs.replace(given, uid_map=mapped, gid_map=mapped)
    assert seen(looked(given), "user") == ("holds", "1000:1000")
    assert seen(looked(given), "groups")[0] == "holds"


def test_reading() -> None:
    assert read_limits(LIMITS) == {"core": (0, 0), "nproc": (96364, 96364), "nofile": (4096, 4096), "rttime": (-1, -1)}
    assert read_cgroups("4:memory:/docker/ab\n2:cpu,cpuacct:/x\n0::/u\n") == {
        "memory": "/docker/ab",
        "cpu": "/x",
        "cpuacct": "/x",
        "": "/u",
    }
    text = "Inter-|   Receive\n face |bytes    packets\n    lo:       0\n  eth0: 12 3\n"
    assert read_interfaces(text) == ("lo", "eth0")
    assert [first_number(text) for text in ("max", "12\n", "9223372036854771712", "-1 5", "", "x")] == [
        *(-1, 12, -1, -1, None, None),
    ]
    assert read_mounts("nonsense\n1 2 3\n") == ()


def test_capabilities_are_numbered_as_the_kernel_does() -> None:
    assert len(CAPABILITIES) == 41 and capabilities.mask(("CHOWN", "CHECKPOINT_RESTORE")) == 1 | 1 << 40
    assert capabilities.names(1 << 12 | 1 << 50) == ("NET_ADMIN", "capability 50")
    assert capabilities.allowed((), ("ALL",)) == 0
    assert capabilities.allowed(("NET_RAW",), ("ALL",)) == 1 << 13
    assert capabilities.allowed((), ()) == 0xA80425FB  # the engine's documented default
    assert capabilities.allowed(("ALL",), ("SYS_ADMIN",)) == (1 << 41) - 1 - (1 << 21)


def test_ulimits_are_compared_softly_and_hard() -> None:
    wide = {"nofile": Ulimit(soft=-1, hard=-1)}
    assert seen(looked(ulimits=freeze(wide)), "ulimits")[0] == "holds"
    assert seen(looked(ulimits=freeze({"msgqueue": Ulimit(soft=1, hard=1)})), "ulimits")[0] == "inconclusive"
