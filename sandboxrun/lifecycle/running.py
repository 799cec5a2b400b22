"""`verify --running`: live sandboxes, looked at from outside: what the engine shows, what the host's kernel shows,
the gateway beside them.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any

from msgspec import structs

from sandboxrun.backend.docker.client import Engine
from sandboxrun.backend.docker.codec import decode_network
from sandboxrun.backend.docker.fields import FIELDS, SHOWN
from sandboxrun.backend.docker.observe import take_snapshot
from sandboxrun.backend.docker.owned import own_containers
from sandboxrun.backend.errors import EngineError
from sandboxrun.errors import ApplyError, Diagnostic, UsageError, printable
from sandboxrun.plan.diff import compare
from sandboxrun.probe import outside_limits, outside_places, outside_process
from sandboxrun.probe.outside import (
    NAMESPACES,
    Accounts,
    Looked,
    MountLine,
    Outside,
    Process,
    findings,
    first_number,
    listed,
    options,
    read_cgroups,
    read_interfaces,
    read_limits,
    read_mounts,
    read_status,
)
from sandboxrun.probe.outside_places import MASKED, MASKED_SYS, READ_ONLY
from sandboxrun.probe.outside_process import CHECKS as PROCESS_CHECKS
from sandboxrun.probe.staging import CONFIG
from sandboxrun.probe.verdicts import Finding, Verdict
from sandboxrun.spec import labels
from sandboxrun.spec.names import GATEWAY, companion
from sandboxrun.spec.option import Plot, private_network
from sandboxrun.spec.project import DeclaredSandbox, Profile
from sandboxrun.spec.spec import SandboxSpec
from sandboxrun.spec.state import Image, ObservedSandbox, Running
from sandboxrun.spec.types import freeze

if TYPE_CHECKING:
    from sandboxrun.evidence.store import Store


# -- The gateway beside a live sandbox, looked at from outside: that it runs, confined, by the declared rules, and …

MOST_RULES = 4 << 20
MOST_LOG = 128 << 20  # beyond the engine's bound of a gateway's log


def gateway_findings(
    engine: Engine, profile: Profile, name: str, spec: SandboxSpec, observed: ObservedSandbox
) -> tuple[Finding, ...]:
    """Findings of the gateway; none for a sandbox that has none."""
    if spec.egress is None or not spec.egress.has_gateway:
        return ()
    try:
        return tuple(_findings(engine, profile, name, spec, observed))
    except EngineError as error:
        return (_finding(name, "gateway", "its gateway runs", "running", "unknown", None, error.cause),)


def _findings(
    engine: Engine, profile: Profile, name: str, spec: SandboxSpec, observed: ObservedSandbox
) -> Iterator[Finding]:
    inspect = _gateway(engine, profile, observed)
    running = bool((inspect.get("State") or {}).get("Running"))
    seen = "running" if running else str((inspect.get("State") or {}).get("Status") or "not there")
    yield _finding(name, "gateway", "its gateway runs", "running", seen, running)
    yield _between(engine, name, observed, inspect)
    if not running:
        return
    yield _rules(engine, name, spec, observed, inspect)
    yield _confined(engine, profile, name, spec, observed, inspect)
    yield from _processes(engine, name, inspect)


def _gateway(engine: Engine, profile: Profile, observed: ObservedSandbox) -> Mapping[str, Any]:
    """The inspect answer of the gateway of that run; empty where there is none."""
    wanted = {labels.RUN: observed.run, labels.ROLE: GATEWAY}
    name = companion(observed.base, GATEWAY)
    found = own_containers(engine, profile.project, more=wanted, names=(name,))
    inspected = engine.inspect_containers([str(c["Id"]) for c in found])
    return inspected[0] if inspected else {}


def _between(engine: Engine, name: str, observed: ObservedSandbox, gateway: Mapping[str, Any]) -> Finding:
    """The network between the two: sealed, and nobody else is on it."""
    from sandboxrun.backend.docker.codec import SEALED

    network = engine.network(private_network(observed.base))
    title, expected = "nobody but its gateway is on its network", "sealed; the sandbox and its gateway"
    if network is None:
        return _finding(name, "gateway network", title, expected, "not there", False, field="Network")
    live = decode_network(network)
    wrong = [
        f"{key}={live.driver_opts.get(key)}" for key, value in SEALED.items() if live.driver_opts.get(key) != value
    ]
    wrong += [] if live.internal else ["not internal"]
    wrong += ["with IPv6"] if live.enable_ipv6 else []
    mine = {observed.id, str(gateway.get("Id"))}
    others = {str(of.get("Name")) for id, of in (network.get("Containers") or {}).items() if id not in mine}
    wrong += [f"{printable(other)} is on it" for other in sorted(others)]
    seen = listed(wrong) if wrong else expected
    return _finding(name, "gateway network", title, expected, seen, not wrong, field="Network.Internal, Options")


def _rules(
    engine: Engine, name: str, spec: SandboxSpec, observed: ObservedSandbox, gateway: Mapping[str, Any]
) -> Finding:
    """By which rules it says that it serves: those in its file, which must be the declared ones. The addresses that it
    refuses beside them are the engine's machine's, as they were when it was started."""
    from sandboxrun.gateway import DIRECTORY, FILE
    from sandboxrun.gateway.rules import digest_of_rules, rules_document

    assert spec.egress is not None
    title, field = "its gateway serves by the declared rules", f"{DIRECTORY}/{FILE}"
    said = _last_said(engine, str(gateway["Id"]))
    if not said:
        note = "its log no longer tells by which rules it serves"
        return _finding(name, "gateway rules", title, "the declared rules", "unknown", None, note, field=field)
    document = _file(engine, str(gateway["Id"]), f"{DIRECTORY}/{FILE}")
    declared = _less_refused(rules_document(spec.egress, sandbox=observed.address, run=observed.run))
    wrong = [] if said == digest_of_rules(document) else ["not those in its file"]
    wrong += [] if _less_refused(document) == declared else ["other rules than the declared ones"]
    seen = listed(wrong) if wrong else f"the declared rules ({said[:19]})"
    return _finding(name, "gateway rules", title, "the declared rules", seen, not wrong, field=field)


def _less_refused(document: bytes) -> Any:
    from sandboxrun.evidence.parts import record_of

    return {key: value for key, value in record_of(document).items() if key != "refused"}


def _file(engine: Engine, container: str, path: str) -> bytes:
    """A file of the container, as the engine hands it out; at most MOST_RULES bytes of it count."""
    import io
    import tarfile

    archive = engine.get_archive(container, path)
    try:
        data = bytearray()
        for piece in archive.stream:
            data += piece
            if len(data) > MOST_RULES:
                return b""
    finally:
        archive.close()
    with tarfile.open(fileobj=io.BytesIO(bytes(data))) as tar:
        member = tar.next()
        file = tar.extractfile(member) if member is not None and member.isreg() else None
        return file.read() if file is not None else b""


def _last_said(engine: Engine, gateway: str) -> str:
    """The digest in the last `ready` or `rules` record."""
    from sandboxrun.evidence.parts import lines, record_of

    said, read = "", 0
    with engine.logs(gateway, tty=False) as output:
        for line in lines(data for stream, data in output if stream == 1):
            read += len(line)
            record = record_of(line) if b'"digest"' in line else {}
            if record.get("event") in ("ready", "rules"):
                said = str(record.get("digest") or "")
            if read > MOST_LOG:
                return ""
    return said


def _confined(
    engine: Engine,
    profile: Profile,
    name: str,
    spec: SandboxSpec,
    observed: ObservedSandbox,
    gateway: Mapping[str, Any],
) -> Finding:
    """Whether the engine shows it as it was asked to make it."""
    from sandboxrun.backend.docker.codec import gateway_payload, not_taken

    title = "its gateway is as it was made"
    network = engine.network(private_network(observed.base))
    subnet = decode_network(network).subnet if network is not None else None
    if subnet is None:
        return _finding(name, "gateway options", title, "as made", "unknown", None, "its network is not there")
    sandbox = DeclaredSandbox(
        address=observed.address, sandbox=observed.address, each=None, name=observed.base, spec=spec
    )
    payload = gateway_payload(sandbox, profile.names, observed.run, Plot.of(subnet), str(gateway.get("Image")))
    lost = list(not_taken(payload, gateway))
    if (gateway.get("Config") or {}).get("Cmd") != payload["Cmd"]:
        lost.append("Config.Cmd")
    return _finding(
        name, "gateway options", title, "as made", listed(lost) if lost else "as made", not lost, field="inspect"
    )


def _processes(engine: Engine, name: str, gateway: Mapping[str, Any]) -> Iterator[Finding]:
    """What the kernel says of its processes, by the checks of a sandbox's own."""
    from sandboxrun.gateway import USER

    uid, gid = map(int, USER.split(":"))
    spec = SandboxSpec(image=str(gateway.get("Image")), user=USER, security_opt=freeze({"no-new-privileges": "true"}))
    looked = Looked(spec=spec, outside=look(engine, gateway, {}), accounts=Accounts(uid=uid, gid=gid))
    for found in findings(name, looked, PROCESS_CHECKS):
        yield Finding(
            sandbox=name,
            control=f"gateway {found.control}",
            title=f"its gateway {found.title}"
            if found.control != "seccomp"
            else "its gateway's system calls are filtered",
            field=found.field,
            expected=found.expected,
            seen=found.seen,
            verdict=found.verdict,
            note=found.note,
        )


def _finding(
    sandbox: str,
    control: str,
    title: str,
    expected: str,
    seen: str,
    holds: bool | None,
    note: str = "",
    *,
    field: str = "State",
) -> Finding:
    verdicts = {True: Verdict.HOLDS, False: Verdict.FAILS, None: Verdict.INCONCLUSIVE}
    return Finding(
        sandbox=sandbox,
        control=control,
        title=title,
        field=field,
        expected=expected,
        seen=seen,
        verdict=verdicts[holds],
        note=note,
    )


# -- Reads what the host's kernel says of a running container: /proc and cgroup files, bounded

PROC = Path("/proc")
MOST_BYTES = 4 << 20
MOST_PROCESSES = 4096
PATIENCE = 5.0  # seconds that a runtime may take to become the sandbox's command
_RUNTIMES = ("runc:", "crun")  # what it calls itself until then; one that goes on calling itself so only waits
_EVERYTHING = (
    *("processes", "namespaces", "maps", "limits", "mounts", "network", "oom_score_adj", "cgroup"),
)  # what checks read, by the names they have in `Outside.unread`
_GONE = (FileNotFoundError, ProcessLookupError)


def unreadable(reason: str) -> Outside:
    """Nothing could be read, all for one reason."""
    return Outside(unread=freeze(dict.fromkeys(_EVERYTHING, reason)))


def look(engine: Engine, inspect: Mapping[str, Any], others: Mapping[str, str]) -> Outside:
    """What this host shows of the container. `others` are namespaces of other sandboxes, by whom they belong to.

    Does not raise: what can't be read, or is not certainly the container's, stands in `unread`.
    """
    if not engine.shares_filesystem():
        return unreadable(f"the engine's processes can't be seen from here: {engine.filesystem_reason()}")
    pid = int((inspect.get("State") or {}).get("Pid") or 0)
    container = str(inspect["Id"])
    if pid <= 0:
        return unreadable("the engine tells no process of it")
    try:
        cgroups = read_cgroups(_read(PROC / str(pid) / "cgroup"))
    except OSError as error:
        return unreadable(_why(error))
    if not _is_in(container, cgroups):
        return unreadable(f"process {pid}, which the engine tells, is in no cgroup of the container here")
    _settle(pid)
    found = _Reading(container, pid, cgroups, others)
    return found.outside(_host_namespaces(engine))


def _settle(pid: int) -> None:
    """Wait until the runtime has made way for the sandbox's command: it gives up its rights last of all."""
    until = monotonic() + PATIENCE
    with contextlib.suppress(OSError):
        while read_status(_read(PROC / str(pid) / "status")).get("Name", "").startswith(_RUNTIMES):
            if monotonic() > until:
                return  # then that is what runs there
            sleep(0.02)


def namespaces_of(pid: int) -> Mapping[str, str]:
    """Where a process's namespace links lead, by kind. Raises OSError."""
    return freeze({kind: os.readlink(PROC / str(pid) / "ns" / kind) for kind in NAMESPACES})


def _host_namespaces(engine: Engine) -> Mapping[str, str]:
    """The namespaces that are the host's: this process's, the first process's and the engine's own."""
    found: dict[str, str] = {}
    for pid in (os.getpid(), 1, engine.transport.peer_pid() or 0):
        try:
            found |= dict.fromkeys(namespaces_of(pid).values(), "the host")
        except OSError:
            continue  # this process's own are always there; the others are mostly the same
    return found


def _is_in(container: str, cgroups: Mapping[str, str]) -> bool:
    return any(container in path for path in cgroups.values())


def _read(path: Path) -> str:
    with path.open("rb") as file:
        data = file.read(MOST_BYTES + 1)
    if len(data) > MOST_BYTES:
        raise OSError(f"{path} is longer than {MOST_BYTES} bytes")
    return data.decode("utf-8", "backslashreplace")


def _why(error: OSError) -> str:
    if isinstance(error, PermissionError):
        return "this user may not read it: run as root, or with the right to trace the engine's processes"
    if isinstance(error, _GONE):
        return "it ended while it was looked at"
    return str(error)


class _Reading:
    """One container being read. Each part by itself: what one can't be read for leaves the others standing."""

    def __init__(self, container: str, pid: int, cgroups: Mapping[str, str], others: Mapping[str, str]) -> None:
        self._container, self._pid, self._cgroups, self._others = container, pid, cgroups, others
        self._unread: dict[str, str] = {}
        self._hierarchies = _hierarchies()

    def outside(self, host: Mapping[str, str]) -> Outside:
        """All of it; the first process must still be the container's in the end, else nothing of it counts."""
        version = 1 if "memory" in self._cgroups else 2
        made = Outside(
            processes=tuple(self._part("processes", self._processes, ())),
            host=freeze({**self._others, **host}),
            limits=self._part("limits", lambda: read_limits(self._file("limits")), freeze({})),
            mounts=self._part("mounts", lambda: read_mounts(self._file("mountinfo")), ()),
            cgroup_version=version,
            cgroup=freeze(self._limits(version)),
            interfaces=self._part("network", lambda: read_interfaces(self._file("net/dev")), ()),
            oom_score_adj=self._part("oom_score_adj", lambda: first_number(self._file("oom_score_adj")), None),
            uid_map=self._part("maps", lambda: self._file("uid_map"), ""),
            gid_map=self._part("maps", lambda: self._file("gid_map"), ""),
            present=frozenset(path for path in (*MASKED, *MASKED_SYS, *READ_ONLY) if os.path.exists(path)),
        )
        try:
            still = _is_in(self._container, read_cgroups(self._file("cgroup")))
        except OSError as error:
            return unreadable(_why(error))
        if not still:
            return unreadable("it ended while it was looked at")
        return structs.replace(made, unread=freeze(self._unread))

    def _part(self, name: str, read: Callable[[], Any], nothing: Any) -> Any:
        try:
            return read()
        except (OSError, ValueError) as error:
            self._unread[name] = _why(error) if isinstance(error, OSError) else "the kernel's form of it is not known"
            return nothing

    def _file(self, name: str) -> str:
        return _read(PROC / str(self._pid) / name)

    # -- processes -------------------------------------------------------------------------------------------

    def _processes(self) -> list[Process]:
        """The first one first, then every other in its cgroup, those of an exec too."""
        first = self._process(self._pid)
        others = [pid for pid in self._pids() if pid != self._pid]
        if len(others) > MOST_PROCESSES:
            raise OSError(f"it has more than {MOST_PROCESSES} processes")
        found = [first]
        for pid in others:
            try:
                found.append(self._process(pid))
            except _GONE:
                continue
        return [process for process in found if process.status.get("State", "")[:1] not in ("Z", "X")]

    def _process(self, pid: int) -> Process:
        """Read, and only then looked at whose it is: a number may be another process's by now."""
        status = read_status(_read(PROC / str(pid) / "status"))
        try:
            namespaces = namespaces_of(pid)
        except _GONE:
            if status.get("State", "")[:1] not in ("Z", "X"):
                raise
            namespaces = freeze({})
        except OSError as error:
            self._unread["namespaces"] = _why(error)
            namespaces = freeze({})
        if not _is_in(self._container, read_cgroups(_read(PROC / str(pid) / "cgroup"))):
            raise ProcessLookupError(pid)
        return Process(pid=pid, status=status, namespaces=namespaces)

    def _pids(self) -> list[int]:
        """Every process of the container, by its cgroup and those below it."""
        for controller in ("pids", "memory", "devices", ""):
            folders = self._folders(controller)
            if folders:
                files = sorted(folders[0].rglob("cgroup.procs"))
                return [int(word) for file in files for word in _read(file).split() if word != "0"]
        raise OSError("its cgroup is not mounted here")

    # -- cgroup ----------------------------------------------------------------------------------------------

    def _folders(self, controller: str) -> list[Path]:
        """The folders of its cgroup: the container's own first, and those below it that lead to the first process."""
        path = self._cgroups.get(controller)
        for mount in self._hierarchies:
            named = mount.type == "cgroup2" if controller == "" else controller in mount.system
            below = _below(path or "", mount.root) if named else None
            if below is None:
                continue
            parts = below.split("/")
            own = next((n for n, part in enumerate(parts) if self._container in part), None)
            if own is not None:
                folders = [Path(mount.target, *parts[: n + 1]) for n in range(own, len(parts))]
                return [folder for folder in folders if folder.is_dir()]
        return []

    def _limits(self, version: int) -> Mapping[str, str]:
        """The texts of what limits it, in version 2's form where the versions differ."""
        found = {}
        for name, (controller, *files) in (_V1 if version == 1 else _V2).items():
            text = self._part(f"cgroup {name}", lambda c=controller, f=files: self._limit(c, f), "")  # type: ignore[misc]
            found[name] = text
        return found

    def _limit(self, controller: str, files: Iterable[str]) -> str:
        folders = self._folders(controller)
        if not folders:
            raise OSError("its cgroup is not mounted here")
        texts = [" ".join(_read(folder / file).strip() for file in files) for folder in folders]
        return next((text for text in texts if first_number(text) != -1), texts[0])


def _hierarchies() -> tuple[MountLine, ...]:
    try:
        mounts = read_mounts(_read(PROC / "self" / "mountinfo"))
    except OSError:
        return ()
    return tuple(mount for mount in mounts if mount.type in ("cgroup", "cgroup2"))


def _below(path: str, root: str) -> str | None:
    """A cgroup's path below the part of the hierarchy that is mounted."""
    if root == "/":
        return path.strip("/")
    return path.removeprefix(root).strip("/") if f"{path}/".startswith(f"{root}/") else None


# What limits it: controller, then the files whose texts are joined.
_V1 = {
    "memory": ("memory", "memory.limit_in_bytes"),
    "swap": ("memory", "memory.memsw.limit_in_bytes"),
    "pids": ("pids", "pids.max"),
    "cpu": ("cpu", "cpu.cfs_quota_us", "cpu.cfs_period_us"),
    "cpuset": ("cpuset", "cpuset.cpus"),
    "devices": ("devices", "devices.list"),
}
_V2 = {
    "memory": ("", "memory.max"),
    "swap": ("", "memory.swap.max"),
    "pids": ("", "pids.max"),
    "cpu": ("", "cpu.max"),
    "cpuset": ("", "cpuset.cpus"),
}


def device_numbers(paths: Iterable[str]) -> Iterator[str]:
    """The numbers of devices as a cgroup lists them: `c 10:229`. Those that are not there have none."""
    import stat

    for path in paths:
        try:
            found = os.stat(path)
        except OSError:
            continue
        kind = "b" if stat.S_ISBLK(found.st_mode) else "c"
        yield f"{kind} {os.major(found.st_rdev)}:{os.minor(found.st_rdev)}"


# -- `verify --running`: live sandboxes, looked at from outside without entering them

CHECKS = (*outside_process.CHECKS, *outside_limits.CHECKS, *outside_places.CHECKS)


def verify_running(engine: Engine, profile: Profile, store: Store, names: tuple[str, ...] = ()) -> tuple[Finding, ...]:
    """Findings of every live sandbox of the project, in the profile's order; of those that `names` mean, if any.

    Raises UsageError where nothing runs, or nothing of a name; EngineError.
    """
    snapshot = take_snapshot(engine, profile, store)
    live = [o for o in snapshot.sandboxes if isinstance(o.state, Running) and not _is_probe(o)]
    chosen = _chosen(live, names, profile)
    order = {sandbox.address: n for n, sandbox in enumerate(profile.sandboxes)}
    chosen.sort(key=lambda o: (order.get(o.address, len(order)), o.address, o.one_off, o.name))
    spaces = {o.id: _namespaces(o.document, label(o)) for o in live}
    found: list[Finding] = []
    for observed in chosen:
        others = {link: whose for id, links in spaces.items() if id != observed.id for link, whose in links.items()}
        spec = expected(profile, observed)
        if profile.sandbox(observed.address) is None:
            found.append(_undeclared(label(observed)))
        found += look_at(engine, profile, observed, spec, snapshot.images.get(spec.image), others)
    return tuple(found)


def look_at(
    engine: Engine,
    profile: Profile,
    observed: ObservedSandbox,
    spec: SandboxSpec,
    image: Image | None,
    others: Mapping[str, str],
) -> tuple[Finding, ...]:
    """All findings of one live sandbox that must be as `spec`. `image` is what its reference means now, `others` are
    the namespaces of others, by whom they belong to."""
    name = label(observed)
    differences = compare(spec, observed, image if image is not None and image.config is not None else None)
    shown = options(
        name,
        differences,
        applied=observed.applied is not None,
        fields={key: place.engine for key, place in FIELDS.items()},
        shown_options=len(SHOWN),
        sensitive=profile.sensitive,
    )
    looked = Looked(
        spec=spec,
        outside=look(engine, observed.document, others),
        accounts=_accounts(engine, observed.id, spec),
        devices=frozenset(device_numbers(device.source for device in spec.devices)),
        volumes=frozenset((observed.document.get("Config") or {}).get("Volumes") or ()),
    )
    return (
        *shown,
        *findings(name, looked, CHECKS),
        *gateway_findings(engine, profile, name, spec, observed),
    )


def label(observed: ObservedSandbox) -> str:
    """How findings name it: its address, and of a one-off its run."""
    return f"{observed.address} (run {observed.run[:12]})" if observed.one_off else observed.address


def expected(profile: Profile, observed: ObservedSandbox) -> SandboxSpec:
    """What it must be: as declared. A one-off may have a command and a terminal of its own; of one that nothing
    declares there is only what its own label says."""
    declared, applied = profile.sandbox(observed.address), observed.applied
    if declared is None:
        return applied or SandboxSpec(image=observed.spec.image)
    if observed.one_off and applied is not None:
        return structs.replace(declared.spec, command=applied.command, tty=applied.tty, stdin_open=applied.stdin_open)
    return declared.spec


def _undeclared(name: str) -> Finding:
    return Finding(
        sandbox=name,
        control="declared",
        title="the profile declares it",
        field="label sandboxrun.sandbox",
        expected="declared",
        seen="not declared",
        verdict=Verdict.INCONCLUSIVE,
        note="what it must be is taken from its own label, which whoever made it wrote",
    )


def _is_probe(observed: ObservedSandbox) -> bool:
    """Whether a verification of its own runs there: its options are not the declared ones on purpose."""
    spec = observed.applied or observed.spec
    return observed.one_off and any(config.source == CONFIG for config in spec.configs)


def _chosen(live: list[ObservedSandbox], names: tuple[str, ...], profile: Profile) -> list[ObservedSandbox]:
    chosen = [o for o in live if not names or _means(names, o.address)]
    missing = [name for name in names if not any(_means((name,), o.address) for o in live)]
    faults = [Diagnostic(message=f"no sandbox {name} runs", help=_ADVICE) for name in missing]
    if not chosen and not faults:
        faults = [Diagnostic(message=f"no sandbox of {profile.project} runs", help=_ADVICE)]
    if faults:
        raise UsageError(*faults)
    return chosen


_ADVICE = "apply first; without --running, sandboxes are started to be verified"


def _means(names: Iterable[str], address: str) -> bool:
    return address in names or address.partition("[")[0] in names


def _namespaces(inspect: Mapping[str, Any], whose: str) -> Mapping[str, str]:
    pid = int((inspect.get("State") or {}).get("Pid") or 0)
    try:
        return dict.fromkeys(namespaces_of(pid).values(), whose) if pid > 0 else {}
    except OSError:
        return {}  # what it shares, the other one's own look finds


def _accounts(engine: Engine, container: str, spec: SandboxSpec) -> Accounts | None:
    """The declared user by number; None where the image does not know it."""
    from sandboxrun.backend.docker.making import login, look_up

    try:
        uid, gid, groups = login(engine, container, spec.user)
        added = {look_up(engine, container, "0", group)[1] for group in spec.group_add}
    except (ApplyError, EngineError):
        return None
    return Accounts(uid=uid, gid=gid, groups=groups | added)


__all__ = ["expected", "label", "look_at", "verify_running"]
