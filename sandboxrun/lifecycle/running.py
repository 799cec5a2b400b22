"""`verify --running`: live sandboxes, looked at from outside: what the engine shows, what the host's kernel shows,
the gateway beside them.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any

from msgspec import structs

from sandboxrun.backend.base import Accounts, GatewayView, HostView
from sandboxrun.backend.errors import EngineError
from sandboxrun.data import record_of
from sandboxrun.errors import Diagnostic, UsageError
from sandboxrun.plan.changes import compare
from sandboxrun.probe import outside
from sandboxrun.probe.program import is_probe
from sandboxrun.probe.verdicts import Comparison, Finding, first_number
from sandboxrun.spec.names import matches
from sandboxrun.spec.project import Profile
from sandboxrun.spec.spec import SandboxSpec
from sandboxrun.spec.state import Image, ObservedSandbox, Running
from sandboxrun.spec.types import freeze, size_told

if TYPE_CHECKING:
    from sandboxrun.backend.base import Backend
    from sandboxrun.evidence.store import Store


# -- The gateway beside a live sandbox: that it runs, confined, by the declared rules, and that nobody else is near


def gateway_findings(
    engine: Backend, profile: Profile, name: str, spec: SandboxSpec, observed: ObservedSandbox
) -> tuple[Finding, ...]:
    """Findings of the gateway; none for a sandbox that has none."""
    if spec.egress is None or not spec.egress.has_gateway:
        return ()
    fields, found = engine.terms.checks, list[Finding]()

    def add(what: tuple[str, str, str], seen: str, holds: bool | None, note: str = "", field: str = "") -> None:
        control, title, expected = what
        answer = Comparison(expected, seen, holds, note)
        found.append(Finding.of(name, control, title, fields.get(field or control, ""), answer))

    runs = ("gateway", "its gateway runs", "running")
    try:
        view = engine.gateway_view(profile, spec, observed)
    except EngineError as error:
        add(runs, "unknown", None, error.cause)
        return tuple(found)
    add(runs, view.status, view.status == "running")
    sealed = ("gateway network", "only its gateway is on its network", "sealed; the sandbox and its gateway")
    if view.between is None:
        add(sealed, "not there", False, field="gateway network gone")
    else:
        add(sealed, outside.listed(view.between) or sealed[2], not view.between)
    if view.status != "running":
        return tuple(found)
    rules = ("gateway rules", "its gateway serves by the declared rules", "the declared rules")
    if view.said:
        differs = _differing_rules(view, spec, observed)
        add(rules, outside.listed(differs) or f"the declared rules ({view.said[:19]})", not differs)
    else:
        add(rules, "unknown", None, "its log no longer shows which rules it uses")
    made = ("gateway options", "its gateway is as it was made", "as made")
    if view.lost is None:
        add(made, "unknown", None, "its network is not there")
    else:
        add(made, outside.listed(view.lost) or "as made", not view.lost)
    return (*found, *_gateway_processes(engine, name, view))


def _differing_rules(view: GatewayView, spec: SandboxSpec, observed: ObservedSandbox) -> list[str]:
    """How the rules that it says to serve by, which are those in its file, differ from the declared ones. The addresses
    that it refuses beside them are the engine's machine's, as they were when it was started."""
    from sandboxrun.gateway.rules import digest_of_rules, rules_document

    assert spec.egress is not None
    declared = rules_document(spec.egress, sandbox=observed.address, run=observed.run)
    live, wanted = (
        {key: value for key, value in record_of(document).items() if key != "refused"}
        for document in (view.rules, declared)
    )
    wrong = [] if view.said == digest_of_rules(view.rules) else ["not those in its file"]
    return wrong + ([] if live == wanted else ["other rules than the declared ones"])


def _gateway_processes(engine: Backend, name: str, view: GatewayView) -> Iterator[Finding]:
    """What the kernel says of its processes, by the checks of a sandbox's own."""
    from sandboxrun.gateway import USER

    if view.host is None:
        return
    uid, gid = map(int, USER.split(":"))
    spec = SandboxSpec(image=view.image, user=USER, security_opt=freeze({"no-new-privileges": "true"}))
    looked = outside.Looked(spec=spec, outside=look(view.host, {}), accounts=Accounts(uid=uid, gid=gid))
    for found in outside.findings(name, looked, outside.PROCESS_CHECKS, engine.terms.checks):
        filtered = found.control == "seccomp"
        title = "its gateway's system calls are filtered" if filtered else f"its gateway {found.title}"
        yield structs.replace(found, control=f"gateway {found.control}", title=title)


# -- Reads what the host's kernel says of a running container: /proc and cgroup files, bounded

PROC = Path("/proc")
MOST_BYTES = 4 << 20
MOST_PROCESSES = 4096
PATIENCE = 5.0  # seconds that a runtime may take to become the sandbox's command
_RUNTIMES = ("runc:", "crun")  # what it calls itself until then; one that goes on calling itself so only waits
# What checks read, by the names they have in `Outside.unread`.
_EVERYTHING = ("processes", "namespaces", "maps", "limits", "mounts", "network", "oom_score_adj", "cgroup")
_GONE = (FileNotFoundError, ProcessLookupError)


def unreadable(reason: str) -> outside.Outside:
    """Nothing could be read, all for one reason."""
    return outside.Outside(unread=freeze(dict.fromkeys(_EVERYTHING, reason)))


def look(view: HostView, others: Mapping[str, str]) -> outside.Outside:
    """What this host shows of the container. `others` are namespaces of other sandboxes, by whom they belong to.

    Does not raise: what can't be read, or is not certainly the container's, is in `unread`.
    """
    if view.unseen:
        return unreadable(view.unseen)
    if view.pid <= 0:
        return unreadable("the engine reports no process for it")
    try:
        cgroups = outside.read_cgroups(_read(PROC / str(view.pid) / "cgroup"))
    except OSError as error:
        return unreadable(_why(error))
    if not _is_in(view.id, cgroups):
        return unreadable(f"process {view.pid}, reported by the engine, is in none of the container's cgroups here")
    until = monotonic() + PATIENCE
    with contextlib.suppress(OSError):  # until the runtime made way for the command: it gives up its rights last of all
        while outside.read_status(_read(PROC / str(view.pid) / "status")).get("Name", "").startswith(_RUNTIMES):
            if monotonic() > until:
                break  # then that is what runs there
            sleep(0.02)
    host: dict[str, str] = {}
    for pid in (os.getpid(), 1, view.engine):  # the host's: this process's, the first process's and the engine's own
        with contextlib.suppress(OSError):  # this process's own are always there; the others are mostly the same
            host |= dict.fromkeys(namespaces_of(pid).values(), "the host")
    return _Reading(view.id, view.pid, cgroups, others).read(host)


def namespaces_of(pid: int) -> Mapping[str, str]:
    """Where a process's namespace links lead, by kind. Raises OSError."""
    return freeze({kind: os.readlink(PROC / str(pid) / "ns" / kind) for kind in outside.NAMESPACES})


def _is_in(container: str, cgroups: Mapping[str, str]) -> bool:
    return any(container in path for path in cgroups.values())


def _read(path: Path) -> str:
    with path.open("rb") as file:
        data = file.read(MOST_BYTES + 1)
    if len(data) > MOST_BYTES:
        raise OSError(f"{path} is longer than {size_told(MOST_BYTES)}")
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
        self._hierarchies: tuple[outside.MountLine, ...] = ()
        with contextlib.suppress(OSError):
            mounts = outside.read_mounts(_read(PROC / "self" / "mountinfo"))
            self._hierarchies = tuple(mount for mount in mounts if mount.type in ("cgroup", "cgroup2"))

    def read(self, host: Mapping[str, str]) -> outside.Outside:
        """All of it; the first process must still be the container's in the end, else nothing of it counts."""
        version = 1 if "memory" in self._cgroups else 2
        made = outside.Outside(
            processes=tuple(self._part("processes", self._processes, ())),
            host=freeze({**self._others, **host}),
            limits=self._part("limits", lambda: outside.read_limits(self._file("limits")), freeze({})),
            mounts=self._part("mounts", lambda: outside.read_mounts(self._file("mountinfo")), ()),
            cgroup_version=version,
            cgroup=freeze(
                {
                    name: self._part(f"cgroup {name}", partial(self._limit, controller, files), "")
                    for name, (controller, *files) in (_V1 if version == 1 else _V2).items()
                }
            ),
            interfaces=self._part("network", lambda: outside.read_interfaces(self._file("net/dev")), ()),
            oom_score_adj=self._part("oom_score_adj", lambda: first_number(self._file("oom_score_adj")), None),
            uid_map=self._part("maps", lambda: self._file("uid_map"), ""),
            gid_map=self._part("maps", lambda: self._file("gid_map"), ""),
            present=frozenset(
                path for path in (*outside.MASKED, *outside.MASKED_SYS, *outside.READ_ONLY) if os.path.exists(path)
            ),
        )
        made = structs.replace(made, kept=frozenset(m.target for m in made.mounts if self._keeps(m, made)))
        try:
            if not _is_in(self._container, outside.read_cgroups(self._file("cgroup"))):
                raise ProcessLookupError(self._pid)
        except OSError as error:
            return unreadable(_why(error))
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

    def _processes(self) -> list[outside.Process]:
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

    def _process(self, pid: int) -> outside.Process:
        """Read, and only then looked at whose it is: a number may be another process's by now."""
        status = outside.read_status(_read(PROC / str(pid) / "status"))
        namespaces: Mapping[str, str] = freeze({})
        try:
            namespaces = namespaces_of(pid)
        except _GONE:
            if status.get("State", "")[:1] not in ("Z", "X"):
                raise
        except OSError as error:
            self._unread["namespaces"] = _why(error)
        if not _is_in(self._container, outside.read_cgroups(_read(PROC / str(pid) / "cgroup"))):
            raise ProcessLookupError(pid)
        return outside.Process(pid=pid, status=status, namespaces=namespaces)

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
            root = mount.root.rstrip("/")
            if not named or not f"{path or ''}/".startswith(f"{root}/"):  # it is not below the part that is mounted
                continue
            parts = (path or "").removeprefix(root).strip("/").split("/")
            own = next((n for n, part in enumerate(parts) if self._container in part), None)
            if own is not None:
                folders = [Path(mount.target, *parts[: n + 1]) for n in range(own, len(parts))]
                return [folder for folder in folders if folder.is_dir()]
        return []

    def _keeps(self, mount: outside.MountLine, made: outside.Outside) -> bool:
        """Whether a hierarchy of version 1 that it has mounted keeps it out, whatever the mount's options: where the
        engine maps users, the runtime leaves its cgroup to the host's root, and the mount writable."""
        if mount.type != "cgroup":
            return False
        folders = next(filter(None, map(self._folders, mount.system & self._cgroups.keys())), [])
        try:
            files = [path for folder in folders for path in (folder, *folder.iterdir()) if path.name != _FOR_ALL]
            found = [path.lstat() for path in files]
        except OSError:
            return False
        return bool(found) and not any(
            of.st_mode & 0o002
            or outside.inside(of.st_uid, made.uid_map) is not None
            or outside.inside(of.st_gid, made.gid_map) is not None
            for of in found
        )

    def _limit(self, controller: str, files: Iterable[str]) -> str:
        """The text of what limits it, in version 2's form where the versions differ."""
        folders = self._folders(controller)
        if not folders:
            raise OSError("its cgroup is not mounted here")
        texts = [" ".join(_read(folder / file).strip() for file in files) for folder in folders]
        return next((text for text in texts if first_number(text) != -1), texts[0])


_FOR_ALL = "cgroup.event_control"  # anybody may write to it, to be told of what happens; it sets nothing

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


def verify_running(engine: Backend, profile: Profile, store: Store, names: tuple[str, ...] = ()) -> tuple[Finding, ...]:
    """Findings of every live sandbox of the project, in the profile's order; of those that `names` mean, if any.

    Raises UsageError where nothing runs, or nothing of a name; EngineError.
    """
    snapshot = engine.observe(profile, store)
    live = [
        o
        for o in snapshot.sandboxes
        # one-offs of a verification run with options that are not the declared ones on purpose
        if isinstance(o.state, Running) and not (o.one_off and is_probe(o.applied or o.spec))
    ]
    chosen = [o for o in live if not names or matches(o.address, names)]
    missing = [f"no sandbox {name} runs" for name in names if not any(matches(o.address, (name,)) for o in live)]
    if missing or not chosen:
        help = "apply first; `sandboxrun verify` starts sandboxes to verify them, without `--running`"
        texts = missing or [f"no sandbox of {profile.project} runs"]
        raise UsageError(*(Diagnostic(message=text, help=help) for text in texts))
    chosen.sort(key=lambda o: (profile.position(o.address), o.address, o.one_off, o.name))
    spaces: dict[str, Mapping[str, str]] = {}
    for o in live:
        with contextlib.suppress(OSError):  # what it shares, the other one's own look finds
            spaces[o.id] = dict.fromkeys(namespaces_of(engine.host_view(o).pid).values(), o.label)
    found: list[Finding] = []
    for observed in chosen:
        others = {link: whose for id, links in spaces.items() if id != observed.id for link, whose in links.items()}
        spec = expected(profile, observed)
        if profile.sandbox(observed.address) is None:
            note = "the expected value is from its own label, written by whoever created it"
            answer = Comparison("declared", "not declared", None, note)
            title = "the profile declares it"
            found.append(Finding.of(observed.label, "declared", title, "label sandboxrun.sandbox", answer))
        found += look_at(engine, profile, observed, spec, snapshot.images.get(spec.image), others)
    return tuple(found)


def look_at(
    engine: Backend,
    profile: Profile,
    observed: ObservedSandbox,
    spec: SandboxSpec,
    image: Image | None,
    others: Mapping[str, str],
) -> tuple[Finding, ...]:
    """All findings of one live sandbox that must be as `spec`. `image` is what its reference means now, `others` are
    the namespaces of others, by whom they belong to."""
    name = observed.label
    differences = compare(spec, observed, image if image is not None and image.config is not None else None)
    shown = outside.options(
        name,
        differences,
        applied=observed.applied is not None,
        terms=engine.terms,
        sensitive=profile.sensitive,
    )
    view = engine.host_view(observed)
    looked = outside.Looked(
        spec=spec,
        outside=look(view, others),
        accounts=engine.accounts(observed.id, spec),
        devices=frozenset(device_numbers(device.source for device in spec.devices)),
        volumes=view.volumes,
    )
    return (
        *shown,
        *outside.findings(name, looked, outside.CHECKS, engine.terms.checks),
        *gateway_findings(engine, profile, name, spec, observed),
    )


def expected(profile: Profile, observed: ObservedSandbox) -> SandboxSpec:
    """What it must be: as declared. A one-off may have a command and a terminal of its own; of one that nothing
    declares there is only what its own label says."""
    declared, applied = profile.sandbox(observed.address), observed.applied
    if declared is None:
        return applied or SandboxSpec(image=observed.spec.image)
    if observed.one_off and applied is not None:
        return structs.replace(declared.spec, command=applied.command, tty=applied.tty, stdin_open=applied.stdin_open)
    return declared.spec
