"""1xx, isolation: namespaces, devices and what else of the host's kernel a sandbox shares."""

from __future__ import annotations

from collections.abc import Iterator

from sandboxrun.audit.finding import (
    DATA,
    DIRECT,
    HOST,
    INDIRECT,
    REACH,
    REMOVE,
    STEP,
    WORK,
    Hit,
    OptionEdit,
    about,
    rule,
)
from sandboxrun.audit.subject import Subject


@rule(
    about("SBX116", "System paths unmasked", HOST, STEP, cwe=668, pss="/proc Mount Type"),
    why="Engines hide parts of /proc and /sys that control the kernel; unmasked, root inside writes to them.",
    fix="remove systempaths=unconfined",
    bad="services: {agent: {image: busybox, security_opt: ['systempaths=unconfined']}}",
    good="services: {agent: {image: busybox, security_opt: ['no-new-privileges:true']}}",
)
def unmasked(s: Subject) -> Iterator[Hit]:
    """systempaths=unconfined."""
    if s.security.get("systempaths", "").lower() == "unconfined":
        yield Hit("security_opt", "/proc and /sys are not masked", item="systempaths", edit=REMOVE)


@rule(
    about("SBX117", "Writable cgroups", HOST, INDIRECT, cwe=668),
    why="A process that writes to its cgroup lifts its own limits, and with cgroup v1 runs programs on the host.",
    fix="remove writable-cgroups",
    bad="services: {agent: {image: busybox, security_opt: ['writable-cgroups=true']}}",
    good="services: {agent: {image: busybox, security_opt: ['writable-cgroups=false']}}",
)
def writable_cgroups(s: Subject) -> Iterator[Hit]:
    """security_opt writable-cgroups."""
    if s.security.get("writable-cgroups", "false").lower() == "true":
        yield Hit("security_opt", "the container may change its own limits", item="writable-cgroups")


def _host_namespace(s: Subject, key: str, effect: str) -> Iterator[Hit]:
    if s.namespaces.get(key.removesuffix("_mode")) == "host":
        by_network = key == "network_mode" and bool(s.networks)
        edit = None if by_network else REMOVE
        yield Hit("networks" if by_network else key, f"{key}: host {effect}", edit=edit)


@rule(
    about("SBX120", "Host's processes visible", HOST, STEP, cis="5.16", cwe=668, nist="3.4.3", pss="Host Namespaces"),
    why="With pid: host the container sees every process with its arguments, may signal those of its user, and as root "
    "reads their memory and files through /proc.",
    fix="remove pid: host",
    bad="services: {agent: {image: busybox, pid: host}}",
    good="services: {agent: {image: busybox}}",
)
def host_pid(s: Subject) -> Iterator[Hit]:
    """pid: host."""
    yield from _host_namespace(s, "pid", "shows and reaches the host's processes")


@rule(
    about("SBX121", "Host's shared memory", HOST, INDIRECT, cis="5.17", cwe=668, nist="3.4.3", pss="Host Namespaces"),
    why="With ipc: host the container shares memory segments, semaphores and message queues with the host's programs.",
    fix="remove ipc: host",
    bad="services: {agent: {image: busybox, ipc: host}}",
    good="services: {agent: {image: busybox, ipc: private}}",
)
def host_ipc(s: Subject) -> Iterator[Hit]:
    """ipc: host."""
    yield from _host_namespace(s, "ipc", "shares memory with the host's programs")


@rule(
    about("SBX122", "Host's name changeable", DATA, INDIRECT, cis="5.21", cwe=668),
    why="With uts: host and SYS_ADMIN the container renames the host.",
    fix="remove uts: host",
    bad="services: {agent: {image: busybox, uts: host}}",
    good="services: {agent: {image: busybox}}",
)
def host_uts(s: Subject) -> Iterator[Hit]:
    """uts: host."""
    yield from _host_namespace(s, "uts", "shares the host's name")


@rule(
    about("SBX123", "Host's cgroup namespace", HOST, INDIRECT, cis="5.25", cwe=668),
    why="With cgroup: host the container sees the whole hierarchy of limits, and others' in it.",
    fix="write cgroup: private, or remove the key on engines with cgroup v2",
    bad="services: {agent: {image: busybox, cgroup: host}}",
    good="services: {agent: {image: busybox, cgroup: private}}",
)
def host_cgroup(s: Subject) -> Iterator[Hit]:
    """cgroup: host."""
    yield from _host_namespace(s, "cgroup", "shows the host's cgroups")


@rule(
    about("SBX124", "User namespace off", HOST, INDIRECT, cis="5.31", cwe=250, nist="3.4.3", pss="Host Namespaces"),
    why="Where the engine maps root to an unprivileged uid, userns_mode: host undoes it for this container.",
    fix="remove userns_mode: host",
    bad="userns_mode: host",
    good="user: '1000:1000'",
)
def host_userns(s: Subject) -> Iterator[Hit]:
    """userns_mode: host."""
    yield from _host_namespace(s, "userns_mode", "turns the engine's user namespaces off")


@rule(
    about("SBX125", "Host's network", REACH, DIRECT, cis="5.10", cwe=668, nist="3.4.3", pss="Host Namespaces"),
    why="With network_mode: host the container reaches services on the host's loopback, abstract sockets and the "
    "metadata service, and listens on the host's ports.",
    fix="remove network_mode: host, and publish single ports",
    bad="services: {agent: {image: busybox, network_mode: host}}",
    good="services: {agent: {image: busybox, network_mode: none}}",
)
def host_network(s: Subject) -> Iterator[Hit]:
    """network_mode: host."""
    yield from _host_namespace(s, "network_mode", "has no network isolation")


_KEYS = {"network": "network_mode", "userns": "userns_mode"}


@rule(
    about("SBX126", "Joins another container", REACH, STEP, cwe=668, nist="3.4.3"),
    why="In a joined namespace the two containers have the reach and the weaknesses of both.",
    fix="give it a namespace of its own",
    bad="services: {agent: {image: busybox, pid: 'service:other'}, other: {image: busybox}}",
    good="services: {agent: {image: busybox}, other: {image: busybox}}",
)
def joined(s: Subject) -> Iterator[Hit]:
    """container: and service: joins."""
    for which, mode in s.namespaces.items():
        if mode.startswith(("container:", "service:", "ns:")):
            key = _KEYS.get(which, which)
            yield Hit(key, f"{key}: {mode} shares the {which} namespace of another container")


@rule(
    about("SBX127", "Mounts of another container", DATA, STEP, cwe=668, nist="3.4.3"),
    why="volumes_from gives all mounts of the other container, also those added later.",
    fix="name the volumes that are needed, read-only where possible",
    bad="services: {agent: {image: busybox, volumes_from: [other]}, other: {image: busybox}}",
    good="services: {agent: {image: busybox, volumes: ['data:/data:ro']}}\nvolumes: {data: {}}",
)
def volumes_from(s: Subject) -> Iterator[Hit]:
    """volumes_from."""
    for source in s.volumes_from:
        name = source.removesuffix(":ro").removesuffix(":rw")
        yield Hit("volumes_from", f"volumes_from {name} gives all of its mounts", item=source)


_RAW_DEVICES = (
    "/dev/mem /dev/kmem /dev/port /dev/kcore /dev/kmsg /dev/sd /dev/hd /dev/vd /dev/xvd /dev/nvme /dev/dm- /dev/mapper "
    "/dev/disk /dev/loop /dev/md /dev/sg /dev/cpu /dev/raw /dev/input /dev/uinput /dev/watchdog /dev/vhost /dev/mmcblk "
    "/dev/nbd /dev/zd /dev/zvol /dev/rbd /dev/bcache /dev/pmem /dev/block /dev/vg /dev/mtd /dev/ubi /dev/sr /dev/fd0"
).split()


def _is_raw(source: str) -> bool:
    return source.rstrip("/") in ("/dev", "") or source.startswith(tuple(_RAW_DEVICES))


@rule(
    about(
        "SBX130",
        "Device that controls the host",
        HOST,
        DIRECT,
        cis="5.18",
        cwe=(250, 668),
        nist="3.4.3",
        pss="HostPath Volumes",
    ),
    why="Disks and memory of the host are all its files and all its programs.",
    fix="remove the device",
    bad="devices: ['/dev/sda:/dev/sda:rwm']",
    good="devices: []",
)
def raw_device(s: Subject) -> Iterator[Hit]:
    """Disks, memory and other devices that are the host."""
    for device in s.devices:
        if _is_raw(device.source):
            message = f"device {device.source} controls the host"
            yield Hit("devices", message, item=device.target or device.source, edit=REMOVE)


@rule(
    about("SBX131", "Host device", HOST, INDIRECT, cis="5.18", cwe=668, nist="3.4.3"),
    why="A device is a driver of the host's kernel that the sandbox talks to: kvm, fuse, tun and graphics drivers have "
    "a record of holes.",
    fix="remove the device if the task runs without it",
    bad="devices: [/dev/kvm]",
    good="devices: []",
)
def host_device(s: Subject) -> Iterator[Hit]:
    """Other devices."""
    harmless = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty")
    for device in s.devices:
        if not _is_raw(device.source) and device.source not in harmless:
            message = f"device {device.source} is a driver of the host's kernel"
            yield Hit("devices", message, item=device.target or device.source)


@rule(
    about("SBX132", "All devices allowed", HOST, STEP, cis="5.18", cwe=250),
    why="The rule lets a process make and open the node of any device, with CAP_MKNOD the host's disks.",
    fix="name single devices under devices",
    bad="services: {agent: {image: busybox, device_cgroup_rules: ['a *:* rwm']}}",
    good="services: {agent: {image: busybox, devices: []}}",
)
def all_devices(s: Subject) -> Iterator[Hit]:
    """device_cgroup_rules that name all devices."""
    for text in s.device_rules:
        if text.strip().startswith("a") or "*:" in text or text.strip().startswith("b "):
            yield Hit("device_cgroup_rules", f'device_cgroup_rules "{text}" allows disks or every device', item=text)


@rule(
    about("SBX133", "Devices allowed by number", HOST, INDIRECT, cis="5.18", cwe=668),
    why="A rule by number allows devices that appear later under it.",
    fix="name single devices under devices",
    bad="services: {agent: {image: busybox, device_cgroup_rules: ['c 188:* rw']}}",
    good="services: {agent: {image: busybox, devices: []}}",
)
def devices_by_number(s: Subject) -> Iterator[Hit]:
    """Other device_cgroup_rules."""
    for text in s.device_rules:
        if not (text.strip().startswith("a") or "*:" in text or text.strip().startswith("b ")):
            yield Hit("device_cgroup_rules", f'device_cgroup_rules "{text}" allows devices by number', item=text)


@rule(
    about("SBX134", "GPU of the host", HOST, INDIRECT, cis="5.18", cwe=668),
    why="A GPU's driver is large, runs in the host's kernel, and its memory is not always cleared between users.",
    fix="remove gpus if the task runs without it",
    bad="gpus: all",
    good="devices: []",
)
def gpu(s: Subject) -> Iterator[Hit]:
    """gpus."""
    if s.gpus or s.runtime == "nvidia":
        key = "gpus" if s.gpus else "runtime"
        yield Hit(key, "the sandbox talks to the host's GPU driver")


# Those that Kubernetes allows without a policy: they are namespaced and isolated from each other.
_SAFE_SYSCTLS = frozenset(
    """kernel.shm_rmid_forced net.ipv4.ip_local_port_range net.ipv4.ip_unprivileged_port_start net.ipv4.tcp_syncookies
    net.ipv4.ping_group_range net.ipv4.ip_local_reserved_ports net.ipv4.tcp_keepalive_time net.ipv4.tcp_fin_timeout
    net.ipv4.tcp_keepalive_intvl net.ipv4.tcp_keepalive_probes net.ipv4.tcp_rmem net.ipv4.tcp_wmem
    net.core.somaxconn net.ipv6.conf.all.disable_ipv6 net.ipv6.conf.default.disable_ipv6""".split()
)


@rule(
    about("SBX140", "Unsafe sysctl", HOST, INDIRECT, cwe=250, pss="Sysctls"),
    why="Only some kernel parameters are known to be kept apart between containers.",
    fix="remove the sysctl",
    bad='sysctls: {net.ipv4.conf.all.accept_redirects: "1"}',
    good='sysctls: {net.ipv4.ip_unprivileged_port_start: "0"}',
)
def unsafe_sysctl(s: Subject) -> Iterator[Hit]:
    """sysctls outside the safe list."""
    for name in s.sysctls:
        if name.replace("/", ".") not in _SAFE_SYSCTLS:
            yield Hit("sysctls", f"sysctl {name} is not on the list of safe ones", item=name)


@rule(
    about("SBX141", "Cgroup chosen by the file", WORK, STEP, cis="5.25", cwe=770),
    why="In another parent cgroup the limits that the host's owner set do not hold.",
    fix="remove cgroup_parent",
    bad="services: {agent: {image: busybox, cgroup_parent: /other}}",
    good="services: {agent: {image: busybox}}",
)
def own_parent(s: Subject) -> Iterator[Hit]:
    """cgroup_parent."""
    if s.cgroup_parent:
        yield Hit("cgroup_parent", f"cgroup_parent {s.cgroup_parent} leaves the engine's own cgroup")


@rule(
    about("SBX142", "Not killed when out of memory", WORK, DIRECT, cwe=770),
    why="Beyond its memory limit the container hangs instead of ending; without a limit it takes the host down.",
    fix="remove oom_kill_disable",
    bad="services: {agent: {image: busybox, oom_kill_disable: true}}",
    good="services: {agent: {image: busybox}}",
)
def no_oom_kill(s: Subject) -> Iterator[Hit]:
    """oom_kill_disable."""
    if s.oom_kill_disable:
        yield Hit(
            "oom_kill_disable", "the container is not ended beyond its memory limit", edit=OptionEdit(None, safe=True)
        )


@rule(
    about("SBX143", "Others are killed first", WORK, DIRECT, cwe=770),
    why="With a negative oom_score_adj the kernel ends the host's own programs before this container.",
    fix="remove oom_score_adj, or use a value of 0 or more",
    bad="services: {agent: {image: busybox, oom_score_adj: -1000}}",
    good="services: {agent: {image: busybox, oom_score_adj: 500}}",
)
def protected_from_oom(s: Subject) -> Iterator[Hit]:
    """A negative oom_score_adj."""
    if s.oom_score_adj < 0:
        message = f"oom_score_adj {s.oom_score_adj}: the host's programs are killed before this container"
        yield Hit("oom_score_adj", message, edit=OptionEdit(None, safe=True))
