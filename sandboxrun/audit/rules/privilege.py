"""1xx, privilege and isolation: what the kernel lets the processes of a sandbox do, and what of the host's they share:
namespaces, devices, kernel parameters."""

from __future__ import annotations

from collections.abc import Callable, Iterator

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
    RuleCheck,
    about,
    rule,
    where,
)
from sandboxrun.audit.subject import PROFILE, Subject
from sandboxrun.data import json_as
from sandboxrun.spec import seccomp

# What each gives, for the message: with these alone a process leaves its container, or reads the host's files.
DECISIVE = {
    "ALL": "every capability",
    "SYS_ADMIN": "mounts, namespaces and most of what root may do",
    "SYS_MODULE": "loading kernel modules",
    "SYS_RAWIO": "the machine's ports and memory",
    "SYS_PTRACE": "control of every process it can see",
    "DAC_READ_SEARCH": "opening any file of the host's filesystem by its handle",
    "BPF": "loading programs into the kernel",
}
DANGEROUS = {
    "NET_ADMIN": "changing routes, addresses and packet filters",
    "SYSLOG": "the kernel's log and addresses",
    "PERFMON": "the kernel's performance counters and tracing",
    "SYS_BOOT": "rebooting and loading another kernel",
    "SYS_TIME": "the host's clock",
    "SYS_RESOURCE": "exceeding limits and quotas",
    "SYS_TTY_CONFIG": "the host's terminals",
    "SYS_PACCT": "process accounting",
    "SYS_NICE": "the scheduler's priorities",
    "MAC_ADMIN": "the policy of the security module",
    "MAC_OVERRIDE": "ignoring the security module",
    "AUDIT_CONTROL": "switching the audit log",
    "AUDIT_READ": "the audit log",
    "LINUX_IMMUTABLE": "immutable files",
    "CHECKPOINT_RESTORE": "process ids and maps of others",
    "MKNOD": "making device nodes",
    "NET_RAW": "packets with forged addresses",
    "DAC_OVERRIDE": "ignoring file permissions",
    "SETFCAP": "giving files capabilities",
    "IPC_OWNER": "memory shared by others",
    "IPC_LOCK": "locking memory without limit",
    "WAKE_ALARM": "waking the machine",
    "BLOCK_SUSPEND": "keeping the machine awake",
    "NET_BROADCAST": "broadcasts",
    "LEASE": "leases on any file",
}
_KNOWN = {*DECISIVE, *DANGEROUS, "NET_BIND_SERVICE"}  # the last one is of no use to an attacker


def _name(capability: str) -> str:
    return capability.strip().upper().removeprefix("CAP_")


def _security(option: str, opens: Callable[[str], bool], message: str, edit: OptionEdit | None = None) -> RuleCheck:
    """A security option whose value, "" for none, opens something."""
    return where(lambda s: opens(s.security.get(option, "")), "security_opt", message, item=option, edit=edit)


def _unconfined(option: str, message: str) -> RuleCheck:
    """A security option that is switched off, in any case."""
    return _security(option, lambda value: value.lower() == "unconfined", message, REMOVE)


privileged = rule(
    about(
        "SBX101", "Privileged container", HOST, DIRECT, cis="5.5", cwe=250, nist="3.4.3", pss="Privileged Containers"
    ),
    why="A privileged container has every capability, all devices of the host and no seccomp or AppArmor profile: root "
    "in it is root on the host.",
    fix="remove privileged; add the single capability or device that is needed",
    bad="services: {agent: {image: busybox, privileged: true}}",
    good="services: {agent: {image: busybox, privileged: false}}",
    inline=False,
)(where(lambda s: s.privileged, "privileged", "the container is privileged: it controls the host", edit=REMOVE))


def _giving(effect: Callable[[str], str | None], edit: OptionEdit | None = REMOVE) -> RuleCheck:
    """Capabilities that are added and of which `effect` says what each gives; None where another rule says it."""

    def check(s: Subject) -> Iterator[Hit]:
        for written in s.cap_add:
            if what := effect(name := _name(written)):
                yield Hit("cap_add", f"cap_add {name} gives {what}", item=written, edit=edit)

    return check


decisive_capability = rule(
    about(
        "SBX102", "Capability that leads to the host", HOST, STEP, cis="5.4", cwe=250, nist="3.4.3", pss="Capabilities"
    ),
    why="With this capability a process can take over the host, by documented steps and without a hole in the kernel.",
    fix="remove it from cap_add",
    bad="cap_add: [SYS_ADMIN]",
    good="cap_add: [NET_BIND_SERVICE]",
)(_giving(DECISIVE.get))
dangerous_capability = rule(
    about("SBX103", "Dangerous capability", HOST, INDIRECT, cis="5.4", cwe=250, nist="3.4.3", pss="Capabilities"),
    why="The capability reaches parts of the kernel, or of other users' files, that a task does not need.",
    fix="remove it from cap_add, or run what needs it outside of the sandbox",
    bad="cap_add: [NET_ADMIN]",
    good="cap_add: [NET_BIND_SERVICE]",
)(_giving(DANGEROUS.get))
other_capability = rule(
    about("SBX104", "Capability added", DATA, INDIRECT, cis="5.4", cwe=250, pss="Capabilities"),
    why="Each capability is a part of root. Only NET_BIND_SERVICE is of no use to an attacker.",
    fix="remove it from cap_add if the task runs without it",
    bad="cap_add: [CHOWN]",
    good="cap_add: [NET_BIND_SERVICE]",
)(_giving(lambda name: None if name in _KNOWN else "a part of root", edit=None))


@rule(
    about("SBX105", "Capabilities not dropped", HOST, INDIRECT, cis="5.4", cwe=250, nist="3.4.3", pss="Capabilities"),
    why="Without cap_drop ALL an engine leaves about fourteen capabilities, among them those to change owners, ignore "
    "file permissions and forge packets.",
    fix="write cap_drop: [ALL], and add back what is needed",
    bad="services: {agent: {image: busybox, cap_drop: [MKNOD]}}",
    good="services: {agent: {image: busybox, cap_drop: [CAP_all]}}",
)
def capabilities_kept(s: Subject) -> Iterator[Hit]:
    """cap_drop that lacks ALL."""
    if s.privileged or any(_name(written) == "ALL" for written in s.cap_drop):
        return
    yield Hit("cap_drop", "cap_drop lacks ALL: the engine's default capabilities stay", edit=OptionEdit("[ALL]"))


new_privileges = rule(
    about(
        "SBX106",
        "New privileges possible",
        HOST,
        INDIRECT,
        cis="5.26",
        cwe=269,
        nist="3.4.3",
        pss="Privilege Escalation",
    ),
    why="Without no-new-privileges a setuid program in the image makes its caller root.",
    fix='add "no-new-privileges:true" to security_opt',
    bad="services: {agent: {image: busybox}}",
    good="services: {agent: {image: busybox, security_opt: [no-new-privileges]}}",
)(
    _security(
        "no-new-privileges",
        lambda value: value != "true",
        "no-new-privileges is off: setuid programs give root",
        OptionEdit("no-new-privileges:true"),
    )
)


@rule(
    about("SBX107", "Runs as root", HOST, INDIRECT, cis="4.1", cwe=250, nist="3.4.3", pss="Running as Non-root user"),
    why="Root in a container is root on the host after an escape, and owns all files of the image and of mounts.",
    fix="set user to a uid and gid above 0, such as 1000:1000",
    bad="user: root",
    good='user: "1000:1000"',
)
def root_user(s: Subject) -> Iterator[Hit]:
    """An explicit root."""
    user, _, group = (s.user or "").partition(":")
    if s.user and (user in ("root", "0") or (user.isdecimal() and int(user) == 0)):
        yield Hit("user", f'user "{s.user}" is root')
    elif group in ("root", "0"):
        yield Hit("user", f'user "{s.user}" is in the group root')


@rule(
    about(
        "SBX108", "User left to the image", HOST, INDIRECT, cis="4.1", cwe=250, nist="3.4.3", pss="Running as Non-root"
    ),
    why="Without user the image decides, and most images run as root.",
    fix='set user, for example "1000:1000"',
    bad="services: {agent: {image: busybox}}",
    good='services: {agent: {image: busybox, user: "1000:1000"}}',
)
def unset_user(s: Subject) -> Iterator[Hit]:
    """No user at all, or a variable without a default."""
    if not s.user:
        yield Hit("user", "user is not set: the image decides, and may run as root")
    elif s.user.startswith("$"):
        yield Hit("user", f"user {s.user} is the caller's to choose, and root where it is not set")


@rule(
    about("SBX109", "User by name", HOST, INDIRECT, cwe=250, pss="Running as Non-root user"),
    why="A name is looked up in the image's /etc/passwd, where it can be uid 0.",
    fix="write the uid and gid as numbers",
    bad="user: node",
    good='user: "1000:1000"',
    strict=True,
)
def named_user(s: Subject) -> Iterator[Hit]:
    """A user given by its name only."""
    user = (s.user or "").partition(":")[0]
    if user and not user.isdecimal() and user != "root" and "$" not in user:
        yield Hit("user", f'which uid "{user}" is, the image decides')


_STRONG_GROUPS = {
    group: what
    for what, groups in {
        "root": "root 0",
        "the engine": "docker podman lxd",
        "the disks": "disk 6",
        "the kernel's memory": "kmem 15",
        "virtual machines": "kvm",
        "root by sudo": "sudo wheel",
        "the host's logs": "adm",
        "password hashes": "shadow 42",
    }.items()
    for group in groups.split()
}


@rule(
    about("SBX110", "Group with the host's rights", HOST, STEP, cwe=(250, 269), pss="Running as Non-root"),
    why="The group owns sockets, devices or files that control the host, as soon as one of them is mounted.",
    fix="remove the group from group_add",
    bad="group_add: [docker]",
    good='group_add: ["2000"]',
)
def strong_group(s: Subject) -> Iterator[Hit]:
    """group_add of root, docker, disk and the like."""
    for group in s.groups:
        if group.lower() in _STRONG_GROUPS:
            what = _STRONG_GROUPS[group.lower()]
            yield Hit("group_add", f"group {group} has the rights of {what}", item=group, edit=REMOVE)


no_seccomp = rule(
    about("SBX111", "No seccomp profile", HOST, STEP, cis="5.22", cwe=693, nist="3.4.3", pss="Seccomp"),
    why="Without seccomp every system call of the kernel can be reached, those with most of its holes too.",
    fix="remove seccomp=unconfined",
    bad="security_opt: [seccomp=unconfined]",
    good="security_opt: [seccomp=sandboxrun]",
)(_unconfined("seccomp", "seccomp is off: every system call is allowed"))


# What an engine's own profile denies without capabilities, and an attacker wants.
_DENIED_BY_ENGINES = (
    "mount umount2 pivot_root setns unshare init_module finit_module delete_module kexec_load kexec_file_load reboot "
    "bpf perf_event_open userfaultfd open_by_handle_at add_key request_key keyctl iopl ioperm swapon swapoff "
    "move_mount open_tree fsopen fsmount io_uring_setup settimeofday clock_settime lookup_dcookie quotactl acct"
).split()


@rule(
    about("SBX112", "Seccomp profile wider than the engine's", HOST, STEP, cis="5.22", cwe=693, pss="Seccomp"),
    why="A custom profile replaces the engine's. This one allows calls that the engine denies because containers were "
    "left through them.",
    fix="start from the engine's profile and add single calls, or use seccomp=sandboxrun",
    bad="""security_opt: ['seccomp={"defaultAction":"SCMP_ACT_ALLOW"}']""",
    good="""security_opt: ['seccomp={"defaultAction":"SCMP_ACT_ERRNO"}']""",
)
def wide_seccomp(s: Subject) -> Iterator[Hit]:
    """A seccomp file that allows what engines deny."""
    text = s.security.get("seccomp", "")
    if not text.lstrip().startswith("{"):
        return
    allowed = _allowed_calls(text)
    if allowed:  # by name: what a baseline accepts are these and no others
        what = ", ".join(allowed) if len(allowed) < len(_DENIED_BY_ENGINES) else "every call that engines deny"
        yield Hit("security_opt", f"the seccomp profile allows {what}", item="seccomp")


def _allowed_calls(text: str) -> list[str]:
    """Those of the denied calls that a profile allows without a condition."""
    profile = json_as(dict, text)
    open_ = ("SCMP_ACT_ALLOW", "SCMP_ACT_LOG", "SCMP_ACT_TRACE")
    default = profile.get("defaultAction") in open_
    found = dict.fromkeys(_DENIED_BY_ENGINES, default)
    rows = profile.get("syscalls")
    for row in rows if isinstance(rows, list) else ():
        if not isinstance(row, dict):
            continue
        names = row.get("names") or [row.get("name")]
        action = row.get("action") in open_
        conditional = bool(row.get("args") or (row.get("includes") or {}) or (row.get("excludes") or {}))
        for name in names if isinstance(names, list) else ():
            if isinstance(name, str) and name in found and not (conditional and action):
                found[name] = action
    return [name for name, allowed in found.items() if allowed]


@rule(
    about("SBX113", "Seccomp profile looser than the default", DATA, INDIRECT, cis="5.22", cwe=693, pss="Seccomp"),
    why="The engine's own profile leaves io_uring (on older engines), ptrace and most socket families open; debug "
    "opens ptrace.",
    fix="remove it: seccomp=sandboxrun is the default",
    bad="security_opt: [seccomp=debug]",
    good="security_opt: [seccomp=sandboxrun]",
)
def looser_seccomp(s: Subject) -> Iterator[Hit]:
    """seccomp=engine and seccomp=debug in a profile."""
    value = s.security.get("seccomp")
    if s.kind == PROFILE and value in (seccomp.DEBUG, seccomp.ENGINE):
        what = "opens ptrace" if value == seccomp.DEBUG else "is the engine's own, wider one"
        yield Hit("security_opt", f"seccomp={value} {what}", item="seccomp")


no_apparmor = rule(
    about("SBX114", "AppArmor off", HOST, INDIRECT, cis="5.2", cwe=693, nist="3.4.3", pss="AppArmor"),
    why="AppArmor denies writes below /proc and /sys and mounts, whatever capabilities a process has.",
    fix="remove apparmor=unconfined",
    bad="security_opt: [apparmor=unconfined]",
    good="security_opt: [no-new-privileges]",
)(_unconfined("apparmor", "AppArmor is off"))


@rule(
    about("SBX115", "SELinux separation off", HOST, INDIRECT, cis="5.3", cwe=693, nist="3.4.3", pss="SELinux"),
    why="Without its label a container's process may touch every file that its user may.",
    fix="remove the label option",
    bad="security_opt: [label=disable]",
    good="security_opt: [no-new-privileges]",
)
def no_label(s: Subject) -> Iterator[Hit]:
    """label=disable, and types that are as good as none."""
    if s.security.get("label") == "disable":
        yield Hit("security_opt", "label=disable turns SELinux off for this container", item="label")
    kind = s.security.get("label=type", "")
    if kind in ("spc_t", "unconfined_t", "container_runtime_t", "init_t"):
        yield Hit("security_opt", f"label type {kind} is not confined by SELinux", item="label=type")


# -- isolation: namespaces, devices, and what else of the host's kernel it shares


unmasked = rule(
    about("SBX116", "System paths unmasked", HOST, STEP, cwe=668, pss="/proc Mount Type"),
    why="Engines hide parts of /proc and /sys that control the kernel; unmasked, root inside writes to them.",
    fix="remove systempaths=unconfined",
    bad="services: {agent: {image: busybox, security_opt: ['systempaths=unconfined']}}",
    good="services: {agent: {image: busybox, security_opt: ['no-new-privileges:true']}}",
)(_unconfined("systempaths", "/proc and /sys are not masked"))
writable_cgroups = rule(
    about("SBX117", "Writable cgroups", HOST, INDIRECT, cwe=668),
    why="A process that writes to its cgroup lifts its own limits, and with cgroup v1 runs programs on the host.",
    fix="remove writable-cgroups",
    bad="services: {agent: {image: busybox, security_opt: ['writable-cgroups=true']}}",
    good="services: {agent: {image: busybox, security_opt: ['writable-cgroups=false']}}",
)(_security("writable-cgroups", lambda value: value.lower() == "true", "the container may change its own limits"))


def _host_namespace(key: str, effect: str) -> RuleCheck:
    def check(s: Subject) -> Iterator[Hit]:
        if s.namespaces.get(key.removesuffix("_mode")) == "host":
            by_network = key == "network_mode" and bool(s.networks)
            edit = None if by_network else REMOVE
            yield Hit("networks" if by_network else key, f"{key}: host {effect}", edit=edit)

    return check


host_pid = rule(
    about("SBX120", "Host's processes visible", HOST, STEP, cis="5.16", cwe=668, nist="3.4.3", pss="Host Namespaces"),
    why="With pid: host the container sees every process with its arguments, may signal those of its user, and as root "
    "reads their memory and files through /proc.",
    fix="remove pid: host",
    bad="services: {agent: {image: busybox, pid: host}}",
    good="services: {agent: {image: busybox}}",
)(_host_namespace("pid", "shows and reaches the host's processes"))
host_ipc = rule(
    about("SBX121", "Host's shared memory", HOST, INDIRECT, cis="5.17", cwe=668, nist="3.4.3", pss="Host Namespaces"),
    why="With ipc: host the container shares memory segments, semaphores and message queues with the host's programs.",
    fix="remove ipc: host",
    bad="services: {agent: {image: busybox, ipc: host}}",
    good="services: {agent: {image: busybox, ipc: private}}",
)(_host_namespace("ipc", "shares memory with the host's programs"))
host_uts = rule(
    about("SBX122", "Host's name changeable", DATA, INDIRECT, cis="5.21", cwe=668),
    why="With uts: host and SYS_ADMIN the container renames the host.",
    fix="remove uts: host",
    bad="services: {agent: {image: busybox, uts: host}}",
    good="services: {agent: {image: busybox}}",
)(_host_namespace("uts", "shares the host's name"))
host_cgroup = rule(
    about("SBX123", "Host's cgroup namespace", HOST, INDIRECT, cis="5.25", cwe=668),
    why="With cgroup: host the container sees the whole hierarchy of limits, and others' in it.",
    fix="write cgroup: private, or remove the key on engines with cgroup v2",
    bad="services: {agent: {image: busybox, cgroup: host}}",
    good="services: {agent: {image: busybox, cgroup: private}}",
)(_host_namespace("cgroup", "shows the host's cgroups"))
host_userns = rule(
    about("SBX124", "User namespace off", HOST, INDIRECT, cis="5.31", cwe=250, nist="3.4.3", pss="Host Namespaces"),
    why="Where the engine maps root to an unprivileged uid, userns_mode: host undoes it for this container.",
    fix="remove userns_mode: host",
    bad="userns_mode: host",
    good="user: '1000:1000'",
)(_host_namespace("userns_mode", "turns the engine's user namespaces off"))
host_network = rule(
    about("SBX125", "Host's network", REACH, DIRECT, cis="5.10", cwe=668, nist="3.4.3", pss="Host Namespaces"),
    why="With network_mode: host the container reaches services on the host's loopback, abstract sockets and the "
    "metadata service, and listens on the host's ports.",
    fix="remove network_mode: host, and publish single ports",
    bad="services: {agent: {image: busybox, network_mode: host}}",
    good="services: {agent: {image: busybox, network_mode: none}}",
)(_host_namespace("network_mode", "has no network isolation"))


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


def _is_every(rule: str) -> bool:
    return rule.strip().startswith(("a", "b ")) or "*:" in rule


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
        if _is_every(text):
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
        if not _is_every(text):
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
