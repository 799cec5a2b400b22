"""What is looked at before anything is made: host paths, devices, secrets and workspaces that sandboxes take from this
machine, and whether the policy allows them.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import structs

from sandboxrun.data import Data
from sandboxrun.errors import ApplyError, Diagnostic, PlanError, Problems
from sandboxrun.evidence.errors import EvidenceError
from sandboxrun.evidence.folder import state_path
from sandboxrun.plan.changes import Plan
from sandboxrun.plan.preflight import open_networks
from sandboxrun.profile.files import is_there, project_root, reason, repositories, sources_of
from sandboxrun.profile.sandbox import content_of, placed
from sandboxrun.spec.guard import HIDDEN
from sandboxrun.spec.names import CONFIGS, POLICY, SECRETS
from sandboxrun.spec.project import DeclaredSandbox, Profile
from sandboxrun.spec.records import FileRef
from sandboxrun.spec.spec import SandboxSpec
from sandboxrun.spec.state import Offers
from sandboxrun.spec.types import freeze

if TYPE_CHECKING:
    from sandboxrun.evidence.store import Store


# -- All that secrets and configs hold, read before anything is touched: a missing one fails the apply at once


class FileContents(Data, unshown=("files", "masked")):
    """By part and key; `masked` are the secrets' values as texts, for masking evidence."""

    files: Mapping[tuple[str, str], bytes]
    masked: frozenset[str]


def file_contents(profile: Profile, environment: Mapping[str, str], needed: Iterable[DeclaredSandbox]) -> FileContents:
    """All that `needed` sandboxes use, and whatever else can be read (for masking). Raises ApplyError."""
    problems = Problems()
    required = _first_uses(needed)
    files: dict[tuple[str, str], bytes] = {}
    declared = [((SECRETS, k), v) for k, v in profile.secrets.items()]
    declared += [((CONFIGS, k), v) for k, v in profile.configs.items()]
    for (part, key), spec in declared:
        content = content_of(f"the {part.removesuffix('s')} {key}", spec, profile.directory, environment)
        if isinstance(content, bytes):
            files[part, key] = content
        elif (part, key) in required:
            sandbox, ref = required[part, key]
            problems.extend([placed(content, sandbox, part, ref)])
    problems.check(ApplyError)
    return FileContents(files=files, masked=_texts(files[at] for at in files if at[0] == SECRETS))


def never_shown(profile: Profile, environment: Mapping[str, str]) -> frozenset[str]:
    """What is masked in what sandboxes print: sensitive values, and what secrets hold as far as it can be read. In no
    text of ours: a checkout's file that is called a secret could hide words of a plan."""
    found = (content_of("", spec, profile.directory, environment) for spec in profile.secrets.values())
    return profile.sensitive | _texts(content for content in found if isinstance(content, bytes))


def _texts(contents: Iterable[bytes]) -> frozenset[str]:
    texts = (content.decode("utf-8", "surrogateescape").strip() for content in contents)
    return frozenset(text for text in texts if text)


def _first_uses(sandboxes: Iterable[DeclaredSandbox]) -> dict[tuple[str, str], tuple[DeclaredSandbox, FileRef]]:
    """By part and key, the first sandbox that uses each secret and config, and how."""
    found: dict[tuple[str, str], tuple[DeclaredSandbox, FileRef]] = {}
    for sandbox in sandboxes:
        for part, refs in ((SECRETS, sandbox.spec.secrets), (CONFIGS, sandbox.spec.configs)):
            for ref in refs:
                found.setdefault((part, ref.source), (sandbox, ref))
    return found


# -- What sandboxes take from this machine, looked at before anything is made: host paths, devices, secrets …

_WHAT = {"workspace": "the workspace", "volumes": "the bind's source"}


def check_sources(sandboxes: Iterable[DeclaredSandbox]) -> None:
    """Raise PlanError for every host path that can't be what its sandbox declares."""
    faults = [
        Diagnostic(message=f"{sandbox.address}: {message}", span=sandbox.place(key, item), help=help)
        for sandbox in sandboxes
        for key, item, path in sources_of(sandbox)
        if (found := _source_fault(sandbox, key, path)) is not None
        for message, help in (found,)
    ]
    if faults:
        raise PlanError(*faults)


def _source_fault(sandbox: DeclaredSandbox, key: str, path: Path) -> tuple[str, str] | None:
    what = f"{_WHAT[key]} {path}"
    try:
        mode = os.stat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return f"{what} does not exist", "create it, or fix the path"
    except OSError as error:
        return f"{what} can't be used: {reason(error)}", "fix the path, or what is there"
    if key == "volumes":
        if stat.S_ISSOCK(mode) or stat.S_ISFIFO(mode):
            help = "remove it; to reach a service, allow its name under egress"
            kind = "socket" if stat.S_ISSOCK(mode) else "fifo"
            return f"{what} is a {kind}: the sandbox would talk to a process of the host", help
        if stat.S_ISBLK(mode) or stat.S_ISCHR(mode):
            return f"{what} is a device", "name it under devices"
        return None
    if not stat.S_ISDIR(mode):
        return f"{what} is not a directory", "name the directory that the agent works on"
    workspace = sandbox.spec.workspace
    if workspace is not None and workspace.access == "copy" and not os.access(path, os.R_OK | os.X_OK):
        return f"{what} can't be read: permission denied", "make it readable, or name another directory"
    return None


def check_devices(sandboxes: Iterable[DeclaredSandbox]) -> None:
    """Raise PlanError for every device that this machine does not have: for an engine that runs on it."""
    faults = []
    for sandbox, device in ((each, device) for each in sandboxes for device in each.spec.devices):
        try:
            mode = os.stat(device.source).st_mode
            is_one = stat.S_ISBLK(mode) or stat.S_ISCHR(mode) or stat.S_ISDIR(mode)
            why = "" if is_one else "not a device"
        except OSError as error:
            why = reason(error)
        if why:
            message = f"{sandbox.address}: the device {device.source} can't be used: {why}"
            span = sandbox.place("devices", device.target or device.source)
            faults.append(Diagnostic(message=message, span=span, help="fix the path, or remove it"))
    if faults:
        raise PlanError(*faults)


def _given(sandbox: DeclaredSandbox) -> Iterator[tuple[str, str | None, Path, bool]]:
    """The option, its item and the host path of each place that a sandbox is given as it is; whether to write there."""
    workspace = sandbox.spec.workspace
    if workspace is not None and workspace.access != "copy":
        yield "workspace", None, Path(workspace.source), workspace.access == "rw"
    for mount in sandbox.spec.volumes:
        if mount.type == "bind" and mount.source is not None:
            yield "volumes", mount.target, Path(mount.source), not mount.read_only


def check_outside(sandboxes: Iterable[DeclaredSandbox], store: Store) -> None:
    """Raise PlanError for every place of a sandbox's that it may write to and that holds the evidence (what an agent
    can write proves nothing about it), and for every one that holds the user's state: the key in it must not even be
    read."""
    given = [(sandbox, *place) for sandbox in sandboxes for place in _given(sandbox)]
    if not given:
        return
    evidence, state = (Path(os.path.realpath(place)) for place in (store.path, state_path()))
    faults = []
    for sandbox, key, item, source, writable in given:
        workspace = sandbox.spec.workspace if key == "workspace" else None
        hidden = source / HIDDEN if workspace is not None and HIDDEN in workspace.protected else None
        what = f"gives the sandbox the state directory {state}, with the key that seals evidence"
        wrong: list[tuple[Path, str, str, dict[str, str]]] = [(state, what, _STATE_ELSEWHERE, {})]
        if writable:
            where = {"option": "--evidence DIR", "argument": "Store(root=…)"}
            wrong.append((evidence, "lets the sandbox write to its own evidence", _EVIDENCE_ELSEWHERE, where))
        for place, what, help, where in wrong:
            # Another mount stands over what is hidden; not where that is a link, which stays in the sandbox's reach.
            covered = hidden is not None and not hidden.is_symlink() and place.is_relative_to(os.path.realpath(hidden))
            if place.is_relative_to(os.path.realpath(source)) and not covered:
                which = "the workspace" if key == "workspace" else "the bind"
                message = f"{sandbox.address}: {which} {source} {what}"
                faults.append(Diagnostic(message=message, span=sandbox.place(key, item), help=help, **where))
    if faults:
        raise PlanError(*faults)


_EVIDENCE_ELSEWHERE = "use access: copy, name a directory below it, or keep the evidence elsewhere"
_STATE_ELSEWHERE = "use access: copy, name a directory below it, or set XDG_STATE_HOME to a directory elsewhere"


def source_warnings(sandboxes: Iterable[DeclaredSandbox], offers: Offers) -> Iterator[Diagnostic]:
    """A warning for each file and directory that a sandbox is given to write to, or to read, where its user can't. None
    where the engine maps users: which one its user is on the host is not known."""
    for sandbox in sandboxes if not offers.maps_users else ():
        for key, item, path, writable in _given(sandbox):
            if _may(path, sandbox.spec, stat.S_IWOTH if writable else stat.S_IROTH):
                continue
            user, verb = sandbox.spec.user, "write to" if writable else "read"
            message = f"{sandbox.address}: the sandbox's user {user} can't {verb} {_WHAT[key]} {path}"
            bind = "mount it with :ro" if writable else "change its mode"
            other = "use access: copy" if key == "workspace" else bind
            help = f"give it to that user (chown), set user:, or {other}"
            yield Diagnostic(message=message, span=sandbox.place(key, item), help=help, severity="warning")


def may_write(path: Path, spec: SandboxSpec) -> bool:
    """Whether the sandbox's user may write to a file or directory."""
    return _may(path, spec, stat.S_IWOTH)


def _may(path: Path, spec: SandboxSpec, bit: int) -> bool:
    """Whether the sandbox's user may read or write, by the mode. True where that can't be told: for users and groups by
    name, and where an access list says more than the mode."""
    names = [*spec.user.split(":"), *spec.group_add]
    if not all(name.isdecimal() for name in names):
        return True
    with contextlib.suppress(OSError):
        if "system.posix_acl_access" in os.listxattr(path):
            return True
    uid, *groups = map(int, names)
    overriding = {"ALL", "DAC_OVERRIDE"}
    if uid == 0 and (overriding & set(spec.cap_add) or not overriding & set(spec.cap_drop)):
        return True
    found = os.stat(path)
    shift = 6 if found.st_uid == uid else 3 if found.st_gid in groups else 0
    wanted = (bit | stat.S_IXOTH if stat.S_ISDIR(found.st_mode) else bit) << shift
    return found.st_mode & wanted == wanted


def content_faults(
    profile: Profile, sandboxes: Iterable[DeclaredSandbox], environment: Mapping[str, str]
) -> Iterator[Diagnostic]:
    """What is wrong with the secrets and configs of the sandboxes: a warning for a variable that is not set, which may
    be set where the plan is applied."""
    for (part, key), (sandbox, ref) in _first_uses(sandboxes).items():
        spec = (profile.secrets if part == SECRETS else profile.configs).get(key)
        if spec is not None:
            found = content_of(f"the {part.removesuffix('s')} {key}", spec, profile.directory, environment)
            if isinstance(found, Diagnostic):
                fault = placed(found, sandbox, part, ref)
                yield structs.replace(fault, severity="warning" if spec.environment is not None else "error")


# -- What is said of workspaces before a plan is carried out: what does not go along, and what will not work inside


def sandboxes_made(made: Plan, profile: Profile) -> tuple[DeclaredSandbox, ...]:
    """The sandboxes that the plan makes: what they need must be right before anything is touched."""
    making = made.making
    return tuple(s for s in profile.sandboxes if s.address in making)


def surveyed(made: Plan, profile: Profile, store: Store, offers: Offers) -> Plan:
    """The plan with what is to be said of its networks, workspaces and binds. Raises PlanError for those of the latter
    that can't be used."""
    making = sandboxes_made(made, profile)
    check_sources(making)
    faults, warnings = list[Diagnostic](), [*source_warnings(making, offers), *open_networks(making, profile)]
    root = os.path.realpath(profile.directory)
    outside = [s for s in making if not all(Path(os.path.realpath(p)).is_relative_to(root) for _, _, p, _ in _given(s))]
    if outside:  # the review is only imported where there is such a place
        from sandboxrun.lifecycle.declaring import exposed

        warnings += exposed(outside, profile)
    for sandbox in making:
        try:
            warnings += _surveyed(sandbox, store)
        except EvidenceError as error:
            faults += [_placed(sandbox, found) for found in error.diagnostics]
    if faults:
        raise PlanError(*faults)
    return structs.replace(made, warnings=(*made.warnings, *warnings), led=freeze(dict(_led(making, profile))))


def _led(making: Iterable[DeclaredSandbox], profile: Profile) -> Iterator[tuple[str, str]]:
    """The host paths that go through links, and where they led when the profile was read: both from the project's
    directory where they lie below, which may be another one where a saved plan is applied."""
    root, real_root = profile.directory, os.path.realpath(profile.directory)

    def told(path: str, top: str) -> str:
        return os.path.relpath(path, top) if Path(path).is_relative_to(top) else path

    for path in sorted({str(path) for sandbox in making for _, _, path in sources_of(sandbox)}):
        written, real = told(os.path.normpath(path), str(root)), told(profile.led.get(path, path), real_root)
        if written != real:
            yield written, real


def _surveyed(sandbox: DeclaredSandbox, store: Store) -> list[Diagnostic]:
    """What is to be said of what lies in its binds and its workspace. Raises EvidenceError."""
    workspace, binds = sandbox.spec.workspace, [m for m in sandbox.spec.volumes if m.type == "bind"]
    if workspace is None and not binds:
        return []
    from sandboxrun.evidence import survey
    from sandboxrun.evidence.workspace import not_copied

    warnings = []
    for mount in binds:
        for found in survey.survey_bind(Path(mount.source or "")):
            message = f"{sandbox.address}: the bind's source {mount.source}: {found.message}"
            warnings.append(structs.replace(found, message=message, span=sandbox.place("volumes", mount.target)))
    if workspace is None:
        return warnings
    source = sandbox.workspace or Path(workspace.source)
    user = sandbox.spec.user.partition(":")[0]
    view = survey.View(
        target=workspace.target,
        mounts=tuple(mount.target for mount in sandbox.spec.volumes),
        uid=int(user) if user.isdigit() else None,
        trusting="safe.directory" in sandbox.spec.environment.values(),
    )
    if workspace.access != "copy":
        about = survey.survey_mount(source, view)
    else:
        left_out = not_copied(store, source, workspace.exclude)
        about = survey.survey_copy(source, view, left_out, workspace.exclude)
    return [*warnings, *(_placed(sandbox, found) for found in about)]


def _placed(sandbox: DeclaredSandbox, found: Diagnostic) -> Diagnostic:
    workspace = sandbox.spec.workspace
    assert workspace is not None
    named = "" if found.severity == "error" else f"workspace {workspace.source}: "
    return structs.replace(found, message=f"{sandbox.address}: {named}{found.message}", span=sandbox.place("workspace"))


def enforce(profile: Profile, policy: Path | None, environment: Mapping[str, str]) -> None:
    """Raise ProfileError for what the policy, that file or the one in the project's root, does not allow; and what that
    of a repository around it does not: who writes to a directory of one could make it a root of its own. The review is
    only imported where there is one."""
    root = project_root(profile.directory)
    around = (place for place in dict.fromkeys((root, *repositories(root))) if is_there(place / POLICY))
    for top in (root,) if policy is not None else around:
        from sandboxrun.lifecycle.declaring import refuse
        from sandboxrun.lifecycle.review import Sources

        refuse(profile, Sources(root=top, policy=policy), environment, datetime.now(UTC).date())
