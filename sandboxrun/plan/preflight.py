"""What the engine could not enforce: each such option is refused before anything is made; what it can only with help,
as a timeout with a watcher; and what has to be fetched first.

Pure: the offers come with the snapshot.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable, Iterator
from ipaddress import ip_address, ip_network

from msgspec import structs

from sandboxrun.errors import Diagnostic
from sandboxrun.plan.operations import companions_of
from sandboxrun.spec import seccomp
from sandboxrun.spec.labels import TOLD
from sandboxrun.spec.names import GATEWAY
from sandboxrun.spec.option_types import OPEN
from sandboxrun.spec.options import CONFIGS_AT, SECRETS_AT
from sandboxrun.spec.project import DeclaredSandbox, Profile
from sandboxrun.spec.spec import SandboxSpec
from sandboxrun.spec.state import ImageConfig, ObservedSandbox, Offers, Running, Snapshot, lacking, unsupported

METADATA = "169.254.169.254"  # of most clouds


def open_networks(sandboxes: Iterable[DeclaredSandbox], profile: Profile) -> Iterator[Diagnostic]:
    """A warning for each sandbox that joins networks with a way out, where no gateway stands between."""
    for sandbox in sandboxes:
        known = {key: profile.networks.get(key) for key in sandbox.spec.networks}
        ways_out = [key for key, network in known.items() if network is None or not network.internal]
        if sandbox.spec.egress is None and ways_out:
            # Packets to it end on a network where nobody has it: not the engine's host either, which would lose its
            # own way there if it had an address on it.
            sunk = any(
                network.internal
                and network.driver_opts.get("com.docker.network.bridge.inhibit_ipv4") == "true"
                and ip_address(METADATA) in ip_network(network.subnet)
                for network in known.values()
                if network is not None and network.subnet is not None
            )
            among = f"but for cloud metadata at {METADATA}" if sunk else "cloud metadata among it"
            yield Diagnostic(
                message=f"{sandbox.address}: on {', '.join(ways_out)} it has no gateway: it reaches everything that "
                f"the engine's host reaches, {among}",
                span=sandbox.place("networks"),
                help="set internal: true on the network, or use egress instead of networks",
                severity="warning",
            )


def helper_faults(sandboxes: Iterable[DeclaredSandbox], snapshot: Snapshot) -> Iterator[Diagnostic]:
    """One diagnostic for each sandbox whose gateway can't run from the image that is there."""
    helper = snapshot.helper
    for sandbox in sandboxes:
        if helper is not None and helper.unfit is not None and GATEWAY in companions_of(sandbox.spec):
            message = f"egress: the gateway's image {helper.reference} {helper.unfit}"
            help = "`sandboxrun gateway build` builds it again, with `--from IMAGE` on an image of your own"
            yield _fault(sandbox, "egress", message, help)


def needs_pull(spec: SandboxSpec, snapshot: Snapshot) -> bool:
    """Whether the image has to be fetched: it is not there, or the registry has another under the tag."""
    image = snapshot.images.get(spec.image)
    if image is None or image.config is None:
        return spec.pull_policy != "never"
    return spec.pull_policy == "always" and not image.current


def unfetched(sandboxes: Iterable[DeclaredSandbox], snapshot: Snapshot) -> Iterator[Diagnostic]:
    """A warning for each image that is to be pulled and that its registry does not have, or could not be asked for."""
    seen = set()
    for sandbox in sandboxes if snapshot.engine_id else ():  # without an engine nobody was asked
        reference = sandbox.spec.image
        image = snapshot.images.get(reference)
        if image is None or image.digest is not None or reference in seen or not needs_pull(sandbox.spec, snapshot):
            continue
        seen.add(reference)
        help = "build or pull it on the engine, log in to its registry, or fix the name"
        fault = _fault(sandbox, "image", f"the image {reference} can't be pulled: {image.unknown}", help)
        yield structs.replace(fault, severity="warning")


def image_faults(sandboxes: Iterable[DeclaredSandbox], snapshot: Snapshot) -> list[Diagnostic]:
    """One diagnostic for each sandbox whose image, where it is known, opens or claims what it must not."""
    found = ((s, snapshot.images.get(s.spec.image)) for s in sandboxes)
    known = ((sandbox, image.config) for sandbox, image in found if image is not None and image.config is not None)
    return [fault for sandbox, config in known if (fault := image_fault(sandbox, config)) is not None]


def image_fault(sandbox: DeclaredSandbox, image: ImageConfig) -> Diagnostic | None:
    """What is wrong with an image, if anything is.

    A container inherits its image's labels, and ours decide what is collected, by whom and when; others hide what the
    engine says in its events. Of each VOLUME an
    engine makes a volume, on its disk and without a bound, writable whatever the root is, unless something is mounted
    there.
    """
    spec = sandbox.spec
    if image.reserved:
        message = f"the image {spec.image} has labels that are sandboxrun's own: {', '.join(image.reserved)}"
        help = "build it without them; an image must not claim to own containers"
        return _fault(sandbox, "image", message, help)
    if hiding := sorted(TOLD & image.labels.keys()):
        message = f"the image {spec.image} has labels that hide how a sandbox ended: {', '.join(hiding)}"
        help = "build it without them: in the engine's events they take the place of what it says itself"
        return _fault(sandbox, "image", message, help)
    mounted = [mount.target for mount in spec.volumes]
    mounted += [spec.workspace.target] if spec.workspace is not None else []
    mounted += [SECRETS_AT] if spec.secrets else []
    mounted += [CONFIGS_AT] if spec.configs else []
    # an engine takes the paths of tmpfs as they are written, those of others less a slash at the end
    covered = {*spec.tmpfs, *map(posixpath.normpath, mounted)}
    if not (uncovered := sorted({posixpath.normpath(path) for path in image.volumes} - covered)):
        return None
    sized = ", ".join(f'"{path}:size=64m"' for path in uncovered)
    message = f"the image {spec.image} declares VOLUME {' and '.join(uncovered)}: writable, and without a bound"
    return _fault(sandbox, "image", message, f"write tmpfs: [{sized}], or mount a volume there")


# -- Option by option


def preflight(sandboxes: Iterable[DeclaredSandbox], offers: Offers) -> list[Diagnostic]:
    """One diagnostic for each option of each sandbox that the engine can't enforce, in the file's order."""
    rules = (_options, _limits, _security, _gateways, _podman, _binds)
    return [fault for sandbox in sandboxes for rule in rules for fault in rule(sandbox, offers)]


def _options(sandbox: DeclaredSandbox, offers: Offers) -> Iterator[Diagnostic]:
    for key in lacking(sandbox.spec, offers.options):
        message = f"the engine can't enforce {key}"
        yield _fault(sandbox, key, message, f"remove {key}, or use an engine that has it")
    for row in unsupported(sandbox.spec, offers.api_version):
        message = f"the engine's API {offers.api_version} does not know {row.key}"
        yield _fault(sandbox, row.key, message, f"it needs API {row.since}")
    runtime = sandbox.spec.runtime
    if runtime is not None and offers.runtimes is not None and runtime not in offers.runtimes:
        have = ", ".join(sorted(offers.runtimes))
        yield _fault(sandbox, "runtime", f'the engine has no runtime "{runtime}"', f"it has: {have}")


def _limits(sandbox: DeclaredSandbox, offers: Offers) -> Iterator[Diagnostic]:
    spec = sandbox.spec
    swap_limited = spec.memswap_limit not in (None, 0, -1)
    wanted = [
        ("mem_limit", spec.mem_limit != 0, offers.memory, "memory limits", "mem_limit: 0"),
        ("memswap_limit", swap_limited, offers.memory and offers.swap, "swap limits", "memswap_limit: -1"),
        ("cpus", spec.cpus != 0, offers.cpu, "CPU limits", "cpus: 0"),
        ("cpuset", spec.cpuset is not None, offers.cpuset, "cpusets", ""),
        ("pids_limit", spec.pids_limit > 0, offers.pids, "process limits", "pids_limit: -1"),
        ("lifetime", spec.lifetime.idle is not None, offers.usage, "idle: nothing tells what a sandbox uses", ""),
        ("storage_opt", "size" in spec.storage_opt, offers.quota, "storage quotas", ""),
        ("security_opt", spec.security_opt.get("seccomp") != "unconfined", offers.seccomp, "seccomp", ""),
    ]
    for key, asked, offered, what, without in wanted:
        if asked and not offered:  # most of them are defaults, which nobody has written
            help = f"to go without, write {without}; see `sandboxrun doctor`" if without else "see `sandboxrun doctor`"
            yield _fault(sandbox, key, f"the engine can't enforce {what}", help)
    if offers.cpus is not None and spec.cpus > offers.cpus:
        yield _fault(sandbox, "cpus", f"cpus is {spec.cpus:g}, and the engine has {offers.cpus}", "take fewer")
    highest = max(map(int, re.findall("[0-9]+", spec.cpuset or "")), default=-1)
    if offers.cpus is not None and highest >= offers.cpus:
        message = f"cpuset names CPU {highest}, and the engine has {offers.cpus}"
        yield _fault(sandbox, "cpuset", message, "count from 0")


def _security(sandbox: DeclaredSandbox, offers: Offers) -> Iterator[Diagnostic]:
    """What a host's kernel must have. A seccomp profile is sent as its content, which Podman takes for a path; ours
    knows two architectures."""
    for name, value in sandbox.spec.security_opt.items():
        offered = {"apparmor": offers.apparmor, "label": offers.selinux}.get(name.partition("=")[0], True)
        if not offered and value != "unconfined" and "disable" not in (name.partition("=")[2], value):
            message = f"the engine's host has no {'SELinux' if name.startswith('label') else 'AppArmor'}"
            yield _fault(sandbox, "security_opt", f"{message}: {name} would be ignored", "remove it", item=name)
    value = sandbox.spec.security_opt.get("seccomp", "")
    message = ""
    if value in ("", seccomp.ENGINE, seccomp.UNCONFINED) or not offers.seccomp:
        return
    if offers.podman:
        message = "the engine accepts a seccomp profile only as a path on its host, not as content"
    elif value in (seccomp.OWN, seccomp.DEBUG) and offers.architecture not in ("", *seccomp.ARCHITECTURES):
        message = f"seccomp={value} is not made for the engine's architecture, {offers.architecture}"
    if message:
        help = "security_opt: [seccomp=engine] uses the engine's own profile"
        yield _fault(sandbox, "security_opt", message, help, item="seccomp")


def _gateways(sandbox: DeclaredSandbox, offers: Offers) -> Iterator[Diagnostic]:
    """A gateway is its sandbox's name server: without it no name is known, and nothing is reached; where it is not
    asked, those that are listed stand in the sandbox's hosts file: no others. It has no capability, so it can listen on
    low ports only where the engine lets everybody."""
    egress = sandbox.spec.egress
    if egress is None or not egress.has_gateway:
        return
    if not offers.hands_names:
        why = "this version of the engine does not ask a sandbox's own name server on an internal network"
        help = "list every host by its name under allow:, or update the engine (Docker 26.1.3 and newer ask it)"
        unnamed = [entry for entry in egress.allow if entry.startswith("*.")]
        for what in ("mode open",) if egress.mode == OPEN else unnamed:
            yield _fault(sandbox, "egress", f"egress: {what} can't work: {why}", help)
        for name in sorted((egress.listed or frozenset()) & sandbox.spec.extra_hosts.keys()):
            message = f"extra_hosts: {name} is allowed by egress, and must lead to the gateway on this engine"
            yield _fault(sandbox, "extra_hosts", message, "remove it from one of the two", item=name)
    if offers.low_ports_closed is not None:
        message = f"egress: gateways can't listen on ports below 1024 on this engine: {offers.low_ports_closed}"
        help = "it must take the sysctl net.ipv4.ip_unprivileged_port_start for containers; or write egress: none"
        yield _fault(sandbox, "egress", message, help)


# What Podman's Docker API takes without an error and does not do, or does not show: tests/engine/test_controls.py
# looks at each on a real one.
_PODMAN = {
    "cgroup": "Podman leaves it in the host's control-group namespace",
    "read_only": "with a read-only root, Podman mounts /run and /var/tmp writable and unlimited",
    "logging": "Podman has no driver local, and does not show the bounds of the others",
    "networks": "Podman lets an internal network reach the host, and sandboxes on one network reach each other",
}


def _podman(sandbox: DeclaredSandbox, offers: Offers) -> Iterator[Diagnostic]:
    """No sandbox has its own control-group namespace there, hence none is made, whatever it declares."""
    spec, help = sandbox.spec, "use Docker's engine: docs/engines.md shows what each engine supports"
    asked = {"cgroup": True, "read_only": spec.read_only, "logging": True, "networks": spec.network_mode != "none"}
    for key, why in _PODMAN.items():
        if offers.podman and asked[key]:
            yield _fault(sandbox, key, f"{key}: {why}", help)


def _binds(sandbox: DeclaredSandbox, offers: Offers) -> Iterator[Diagnostic]:
    """A bind names a path of the engine's host: on an engine elsewhere that is another directory, or none."""
    workspace, binds = sandbox.spec.workspace, [mount for mount in sandbox.spec.volumes if mount.type == "bind"]
    found: list[tuple[str, str, str | None]] = [("volumes", f"the bind {m.target}", m.target) for m in binds]
    if workspace is not None and workspace.access != "copy":
        found.insert(0, ("workspace", f"workspace access {workspace.access}", None))
    help = "use workspace: {access: copy}, which is uploaded, or a volume"
    for key, what, item in found if not offers.shares_filesystem else ():
        yield _fault(sandbox, key, f"{what} can't be right: {offers.filesystem_note}", help, item=item)


def _fault(sandbox: DeclaredSandbox, key: str, message: str, help: str, *, item: str | None = None) -> Diagnostic:
    return Diagnostic(message=f"{sandbox.address}: {message}", span=sandbox.place(key, item), help=help)


# -- Timeouts: where a sandbox's own PID 1 holds its timeout, where that needs a watcher, and what a change of it asks

# What lets a process inside stop, trace or change its PID 1, or the kernel below both.
_UNLEASHED = frozenset({"ALL", "BPF", "PERFMON", "SYS_ADMIN", "SYS_MODULE", "SYS_PTRACE", "SYS_RAWIO"})
_RUNTIMES = ("", "runc", "crun", "io.containerd.runc.v2", "nvidia")  # containers of the host's own kernel


def needs_watcher(spec: SandboxSpec, offers: Offers) -> str:
    """Why the sandbox's own PID 1 can't hold its timeout, as a clause; "" where it does, or where there is none."""
    if spec.lifetime.timeout is None:
        return ""
    runtime = spec.runtime or offers.default_runtime
    if not spec.init:
        return "init is false, so its command is PID 1"
    if spec.restart != "no":
        return f"with restart: {spec.restart} every start would have the whole time again"
    if able := sorted(_UNLEASHED.intersection(spec.cap_add)):
        return f"with {', '.join(able)} it could stop its PID 1"
    if offers.podman or runtime not in _RUNTIMES:
        return f"sandboxrun's init is not tested under {'Podman' if offers.podman else f'the runtime {runtime}'}"
    if offers.architecture not in ("", *seccomp.ARCHITECTURES):
        return f"sandboxrun's init is not built for {offers.architecture}"
    return ""


def watched_timeouts(sandboxes: Iterable[DeclaredSandbox], offers: Offers) -> Iterator[Diagnostic]:
    """A warning for each sandbox whose timeout holds only while somebody watches it."""
    for sandbox in sandboxes:
        if why := needs_watcher(sandbox.spec, offers):
            help = "keep `run`, `apply --wait`, `wait` or `reap --watch` running until the sandbox has ended"
            fault = _fault(sandbox, "lifetime", f"timeout needs a watcher here: {why}", help, item="timeout")
            yield structs.replace(fault, severity="warning")


def fixed_timeout(declared: DeclaredSandbox, observed: ObservedSandbox, snapshot: Snapshot) -> str:
    """Why another timeout makes another container: its PID 1 was told the timeout when it was made."""
    limit = observed.state.limit if isinstance(observed.state, Running) else None
    wanted = declared.spec.lifetime.timeout
    if wanted == (observed.applied or observed.spec).lifetime.timeout:
        return ""
    if limit is not None:
        return "its PID 1 holds the timeout it was started with"
    return "" if wanted is None or needs_watcher(declared.spec, snapshot.offers) else "its PID 1 must hold the timeout"
