"""What the host's kernel says of a sandbox's processes: who they are, what they may, what they see. Pure.

Every process of the container is looked at, one that came in later (an exec) like the first.
"""

from __future__ import annotations

from collections.abc import Iterable

from sandboxrun.probe.outside import NAMESPACES, SETS, Answer, Check, Looked, Process, inside, listed, mask_of
from sandboxrun.probe.privilege import DEFAULT, allowed, names

OPEN = "declared open"
_UNKNOWN_USER = "the declared user's number could not be looked up"


def user(looked: Looked) -> Answer | str:
    """All four user and group ids of every process."""
    accounts, outside = looked.accounts, looked.outside
    if accounts is None:
        return Answer(expected=looked.spec.user, seen="", holds=None, note=_UNKNOWN_USER)
    wanted = {(accounts.uid, accounts.gid)}
    seen = {
        (inside(uid, outside.uid_map), inside(gid, outside.gid_map))
        for process in outside.processes
        for uid, gid in zip(process.ids("Uid"), process.ids("Gid"), strict=False)
    }
    complete = all(len(p.ids("Uid")) == len(p.ids("Gid")) == 4 for p in outside.processes)
    others = [p.name for p in outside.processes if set(p.ids("Uid")) != set(outside.processes[0].ids("Uid"))]
    return Answer(
        expected=f"{accounts.uid}:{accounts.gid}",
        seen=listed(sorted(f"{'?' if u is None else u}:{'?' if g is None else g}" for u, g in seen)) or "nothing",
        holds=complete and seen == wanted,
        note=f"{OPEN}: root" if accounts.uid == 0 else f"also {listed(others)}" if others else "",
    )


def groups(looked: Looked) -> Answer | str:
    """The supplementary groups: the user's own, and those that the profile or the image's /etc/group give."""
    accounts, outside = looked.accounts, looked.outside
    if accounts is None:
        return Answer(expected="", seen="", holds=None, note=_UNKNOWN_USER)
    seen = {inside(gid, outside.gid_map) for process in outside.processes for gid in process.ids("Groups")}
    most = {accounts.gid, *accounts.groups}
    return Answer(
        expected=f"only {listed(map(str, sorted(most)))}",
        seen=listed(sorted("?" if gid is None else str(gid) for gid in seen)) or "none",
        holds=seen <= most,
        note=f"{OPEN}: {listed(looked.spec.group_add)}" if looked.spec.group_add else "",
    )


def capabilities(looked: Looked) -> Answer | str:
    """No set of any process has more than the profile leaves."""
    most = allowed(looked.spec.cap_add, looked.spec.cap_drop)
    held, incomplete = 0, False
    for process in looked.outside.processes:
        for field in SETS:
            found = mask_of(process.status, field)
            incomplete |= found is None
            held |= found or 0
    opened = [f"+{name}" for name in looked.spec.cap_add]
    if "ALL" not in looked.spec.cap_drop:
        opened += [name for name in sorted(DEFAULT) if name not in looked.spec.cap_drop]
    return Answer(
        expected=f"at most {listed(names(most), 16)}" if most else "none",
        seen=listed(names(held), 16) or "none",
        holds=None if incomplete else not held & ~most,
        note=f"{OPEN}: {listed(opened, 16)}" if opened else "",
    )


def no_new_privileges(looked: Looked) -> Answer | str:
    """No process can gain any by executing a file."""
    if looked.spec.security_opt.get("no-new-privileges") != "true":
        return Answer(expected="off", seen=_each(looked, "NoNewPrivs"), holds=True, note=f"{OPEN}: security_opt")
    without = _with_other(looked.outside.processes, "NoNewPrivs", "1")
    return Answer(expected="1", seen=_each(looked, "NoNewPrivs"), holds=not without, note=_told(without))


def seccomp(looked: Looked) -> Answer | str:
    """A filter is on every process. What it holds only a probe from inside can tell."""
    if looked.spec.security_opt.get("seccomp") == "unconfined":
        return Answer(expected="off", seen=_each(looked, "Seccomp"), holds=True, note=f"{OPEN}: security_opt")
    without = _with_other(looked.outside.processes, "Seccomp", "2")
    return Answer(expected="2 (filter)", seen=_each(looked, "Seccomp"), holds=not without, note=_told(without))


def namespaces(looked: Looked) -> Answer | str:
    """None is shared with the host or with another sandbox."""
    shared, missing = [], []
    for process in looked.outside.processes:
        for kind in NAMESPACES:
            link = process.namespaces.get(kind)
            if link is None:
                missing.append(kind)
            elif link in looked.outside.host:
                shared.append(f"{kind} of {looked.outside.host[link]}")
    expected = f"its own {', '.join(NAMESPACES)}"
    if shared:
        return Answer(expected=expected, seen=f"shared: {listed(shared)}", holds=False)
    if missing:
        note = f"unknown: {listed(missing)}"
        return Answer(expected=expected, seen="", holds=None, note=note)
    return Answer(expected=expected, seen="its own", holds=True)


def _each(looked: Looked, field: str) -> str:
    return listed(sorted({process.status.get(field, "?") for process in looked.outside.processes}))


def _with_other(processes: Iterable[Process], field: str, value: str) -> list[Process]:
    return [process for process in processes if process.status.get(field) != value]


def _told(processes: list[Process]) -> str:
    return f"not so: {listed(p.name for p in processes)}" if processes else ""


CHECKS = (
    Check(
        id="user",
        title="runs as the declared user",
        field="Config.User",
        parts=("processes", "maps"),
        look=user,
    ),
    Check(
        id="groups",
        title="has no group beyond the declared ones",
        field="HostConfig.GroupAdd",
        parts=("processes", "maps"),
        look=groups,
    ),
    Check(
        id="capabilities",
        title="has no capability beyond the declared ones",
        field="HostConfig.CapDrop, CapAdd",
        parts=("processes",),
        look=capabilities,
    ),
    Check(
        id="no-new-privileges",
        title="gains no privilege by executing a file",
        field="HostConfig.SecurityOpt",
        parts=("processes",),
        look=no_new_privileges,
    ),
    Check(
        id="seccomp",
        title="system calls are filtered",
        field="HostConfig.SecurityOpt",
        parts=("processes",),
        look=seccomp,
    ),
    Check(
        id="namespaces",
        title="shares no namespace",
        field="HostConfig.PidMode, IpcMode, UTSMode, NetworkMode, CgroupnsMode",
        parts=("processes", "namespaces"),
        look=namespaces,
    ),
)
