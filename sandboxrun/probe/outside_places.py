"""What the host's kernel says of a sandbox's filesystem and network: its mounts, its interfaces. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from sandboxrun.probe.outside import Answer, Check, Looked, MountLine, listed
from sandboxrun.probe.outside_process import OPEN
from sandboxrun.spec.spec import SandboxSpec

# Paths that the engine hides or makes read-only, where the host has them.
MASKED = ("/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/timer_list", "/proc/sched_debug", "/proc/scsi")
MASKED_SYS = ("/sys/firmware",)
READ_ONLY = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")
# The engine's init is /sbin/docker-init, which is elsewhere where the image's /sbin is a link.
_INIT = ("/sbin/docker-init", "/usr/sbin/docker-init", "/usr/bin/docker-init")
_ENGINES_OWN = frozenset(
    {
        *_INIT,
        "/",
        "/proc",
        "/dev",
        "/dev/pts",
        "/dev/mqueue",
        "/dev/shm",
        "/dev/console",
        "/sys",
        "/dev/init",
        "/run/podman-init",
        "/run/.containerenv",
        "/etc/resolv.conf",
        "/etc/hostname",
        "/etc/hosts",
    }
)
_READ_ONLY_OWN = (*_INIT, "/sys", "/dev/init", "/run/podman-init")
# Tunnels that the kernel puts into every network namespace once their modules are loaded; they are down.
_FALLBACK = frozenset(
    "tunl0 gre0 gretap0 erspan0 ip_vti0 ip6_vti0 sit0 ip6tnl0 ip6gre0 ip6gretap0 ip6erspan0 teql0".split()
)


def root(looked: Looked) -> Answer | str:
    """The root filesystem is mounted read-only where that is declared."""
    roots = [mount for mount in looked.outside.mounts if mount.target == "/"]
    if not roots:
        return Answer(expected="", seen="unknown", holds=None)
    seen = "writable" if roots[-1].writable else "read-only"
    if not looked.spec.read_only:
        return Answer(expected="writable", seen=seen, holds=True, note=f"{OPEN}: read_only")
    return Answer(expected="read-only", seen=seen, holds=not roots[-1].writable)


def mounts(looked: Looked) -> Answer | str:
    """Nothing is mounted but what is declared and what every container has; writable only where declared so."""
    declared = _declared(looked)
    found = {mount.target: mount for mount in looked.outside.mounts if not _engines_own(mount)}
    links = _moved(declared, found)
    wrong = [_said(mount) for target, mount in found.items() if not _fits(links.get(target, target), mount, declared)]
    wrong += [_said(mount) for mount in looked.outside.mounts if mount.writable and _never_writable(mount)]
    absent = [target for target in declared if target not in found and target not in links.values()]
    wrong += [f"{target} (not there)" for target in absent if target not in looked.volumes]
    return Answer(
        expected=listed(f"{path}{'' if writable else ' (read-only)'}" for path, writable in declared.items()) or "none",
        seen=listed(wrong) if wrong else "these and no other",
        holds=not wrong if looked.outside.mounts else None,
    )


def _declared(looked: Looked) -> Mapping[str, bool]:
    """Where something is to be mounted, and whether it may be written to."""
    spec = looked.spec
    declared = {path: ",ro," not in f",{options}," for path, options in spec.tmpfs.items()}
    declared |= {mount.target: not mount.read_only for mount in spec.volumes}
    if spec.workspace is not None:
        declared[spec.workspace.target] = spec.workspace.access != "ro"
    declared |= {"/run/secrets": False} if spec.secrets else {}
    declared |= {"/run/configs": False} if spec.configs else {}
    declared |= {path: True for path in looked.volumes if path not in declared}
    return {path.rstrip("/"): writable for path, writable in sorted(declared.items())}


def _never_writable(mount: MountLine) -> bool:
    """The engine's own program, the kernel's settings, and the limits themselves."""
    return mount.target in _READ_ONLY_OWN or mount.type in ("cgroup", "cgroup2")


def _engines_own(mount: MountLine) -> bool:
    target = mount.target
    return target in _ENGINES_OWN or target.startswith(("/proc/", "/sys/")) or _device(mount)


def _device(mount: MountLine) -> bool:
    """A device file of its own, as where devices can't be made: not a folder of the host's."""
    return mount.target.startswith("/dev/") and mount.type in ("devtmpfs", "tmpfs") and mount.root != "/"


def _moved(declared: Mapping[str, bool], found: Mapping[str, MountLine]) -> Mapping[str, str]:
    """Mounts that stand where a link of the image led the declared path (/var/run to /run), by where they stand."""
    missing = [path for path in declared if path not in found]
    moved: dict[str, str] = {}
    for target in found:
        same = [path for path in missing if path.rpartition("/")[2] == target.rpartition("/")[2]]
        if target not in declared and len(same) == 1:
            moved[target] = same[0]
            missing.remove(same[0])
    return moved


def _fits(target: str, mount: MountLine, declared: Mapping[str, bool]) -> bool:
    if target in declared:
        return declared[target] or not mount.writable
    # What protects a part of something declared is read-only.
    return not mount.writable and any(target.startswith(f"{path}/") for path in declared)


def _said(mount: MountLine) -> str:
    return f"{mount.target} ({'writable' if mount.writable else 'read-only'}, {mount.type})"


def propagation(looked: Looked) -> Answer | str:
    """What is mounted inside never appears on the host."""
    shared = [m.target for m in looked.outside.mounts if any(peer.startswith("shared:") for peer in m.peers)]
    return Answer(
        expected="none shared",
        seen=f"shared: {listed(shared)}" if shared else "none shared",
        holds=not shared if looked.outside.mounts else None,
    )


def masked(looked: Looked) -> Answer | str:
    """The kernel's own files that tell of the host, or change it."""
    hidden = _covering(looked, (*MASKED, *MASKED_SYS))
    closed = _covering(looked, READ_ONLY)
    bare = [path for path, mount in hidden.items() if mount is None]
    bare += [f"{path} (writable)" for path, mount in closed.items() if mount is None or mount.writable]
    return Answer(
        expected="hidden or read-only",
        seen=f"open: {listed(bare)}" if bare else f"{len(hidden)} hidden, {len(closed)} read-only",
        holds=not bare if looked.outside.mounts else None,
    )


def _covering(looked: Looked, paths: tuple[str, ...]) -> Mapping[str, MountLine | None]:
    """What is mounted over each of those that this host has."""
    over = {mount.target: mount for mount in looked.outside.mounts}
    return {path: over.get(path) for path in paths if path in looked.outside.present}


def network(looked: Looked) -> Answer | str:
    """No interface where it is to have none, and one where it has a gateway."""
    spec, outside = looked.spec, looked.outside
    interfaces = [name for name in outside.interfaces if name not in _FALLBACK]
    if _alone(spec):
        others = [name for name in interfaces if name != "lo"]
        return Answer(
            expected="lo alone", seen=listed(interfaces) or "nothing", holds=not others if interfaces else None
        )
    if spec.egress is None or not spec.egress.has_gateway:
        return "what it reaches is its networks' to say"
    # Where a default route of it leads nobody answers: that is its network's seal, which is looked at by itself.
    return Answer(
        expected="lo and one other",
        seen=listed(interfaces) or "nothing",
        holds=len(interfaces) <= 2 if interfaces else None,
    )


def _alone(spec: SandboxSpec) -> bool:
    return spec.network_mode == "none" or (spec.egress is not None and spec.egress.mode == "none")


CHECKS = (
    Check(
        id="root",
        title="the root filesystem is read-only",
        field="HostConfig.ReadonlyRootfs",
        parts=("mounts",),
        look=root,
    ),
    Check(
        id="mounts",
        title="only what is declared is mounted",
        field="HostConfig.Mounts, Tmpfs",
        parts=("mounts",),
        look=mounts,
    ),
    Check(
        id="propagation",
        title="no mount is shared with the host",
        field="HostConfig.Mounts[].BindOptions.Propagation",
        parts=("mounts",),
        look=propagation,
    ),
    Check(
        id="masked-paths",
        title="the kernel's files are hidden",
        field="HostConfig.MaskedPaths, ReadonlyPaths",
        parts=("mounts",),
        look=masked,
    ),
    Check(
        id="network",
        title="is on no network but the declared ones",
        field="HostConfig.NetworkMode",
        parts=("network",),
        look=network,
    ),
)
