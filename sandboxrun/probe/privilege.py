"""Controls of privilege: who the sandbox's program is and what it may become; and of the kernel: system calls and
families of sockets that must be refused, by theme. Pure.

Owns capabilities as the kernel numbers them, which of the program's attempts belong together, and which of them the
engine's own filter refuses as well. Why each is refused is in the seccomp room's table.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from sandboxrun.data import Data
from sandboxrun.probe.verdicts import (
    MISSING,
    REFUSED,
    UNKNOWN,
    Answer,
    Comparison,
    Context,
    Control,
    Seen,
    bits,
    every,
    number,
    results,
    value,
)
from sandboxrun.spec.option_types import CAPABILITIES
from sandboxrun.spec.privilege import capabilities

# -- Capabilities as the kernel numbers them, and what the engine leaves of them. Pure


def mask(names: Iterable[str]) -> int:
    """The bits of capabilities by name, without `CAP_`."""
    return sum(1 << CAPABILITIES.index(name) for name in set(names))


def names(mask: int) -> tuple[str, ...]:
    """The names of the bits; one without a name is shown by its number."""
    numbers = (n for n in range(mask.bit_length()) if mask >> n & 1)
    return tuple(CAPABILITIES[n] if n < len(CAPABILITIES) else f"capability {n}" for n in numbers)


def allowed(add: Iterable[str], drop: Iterable[str]) -> int:
    """The most that a container with these options may hold, as the engine works it out."""
    return mask(capabilities(add, drop))


# -- Controls of privilege: who the sandbox's program is and what it may become. Pure

OURS, DEBUG, ENGINE, OFF = "sandboxrun", "debug", "engine", "unconfined"  # seccomp profiles
SETS = ("inheritable", "permitted", "effective", "bounding", "ambient")
# The numbers of the namespaces that every kernel begins with (include/linux/proc_ns.h), but for those that vary.
INITIAL = {"ipc": "4026531839", "uts": "4026531838", "pid": "4026531836", "cgroup": "4026531835"}


def _account(context: Context) -> tuple[int | None, int | None]:
    """The declared user and group; None for what only the image knows."""
    user, _, group = context.spec.user.partition(":")
    return number(user), number(group)


def _root(context: Context) -> str | None:
    return "the profile runs it as root" if _account(context)[0] == 0 or context.spec.user == "root" else None


# -- capabilities ---------------------------------------------------------------------------------------------------


def capability_sets(seen: Seen, context: Context) -> Answer:
    """All five sets of the process."""
    if "ALL" in context.spec.cap_add:
        return "the profile gives every capability"
    most = allowed(context.spec.cap_add, context.spec.cap_drop)
    sets = {name: bits(value(seen, "status", name)) for name in SETS}
    shown = "; ".join(f"{name}: {', '.join(names(held))}" for name, held in sets.items() if held) or "none in any set"
    if sets["ambient"] is None and context.gvisor:
        del sets["ambient"]  # its older versions show none, for they have none
    return Comparison(
        f"at most {', '.join(names(most))}" if most else "none in any set",
        "" if None in [sets[name] for name in SETS[:-1]] else shown,
        every(None if held is None else held & ~most == 0 for held in sets.values()),
    )


# -- the rest of /proc/self/status ----------------------------------------------------------------------------------


def no_new_privileges(seen: Seen, context: Context) -> Answer:
    """The flag of the process."""
    shown = value(seen, "status", "no-new-privileges") or value(seen, "status", "no-new-privileges.asked")
    return _privileges_kept(context) or Comparison("1", shown, shown == "1" if shown else None)


def _privileges_kept(context: Context) -> str | None:
    off = context.spec.security_opt.get("no-new-privileges") == "false"
    return "the profile turns no-new-privileges off" if off else None


def _reported_for_all(strong: Seen, weak: Seen, context: Context) -> str | None:
    other = no_new_privileges(weak, context)
    said = context.gvisor and isinstance(other, Comparison) and other.holds
    return "gVisor reports this for every sandbox, including the weak one" if said else None


def seccomp(seen: Seen, context: Context) -> Answer:
    """Whether there is a filter; what it refuses, the controls of the kernel tell."""
    if context.spec.security_opt.get("seccomp") == OFF:
        return "the profile turns seccomp off"
    found = value(seen, "status", "seccomp")
    # gVisor's own kernel answers the calls: its user decides whether a filter runs first
    return Comparison("2", found, found == "2" or (context.gvisor and found == "0") if found else None)


def _ids(seen: Seen, key: str) -> set[int]:
    return {found for text in value(seen, "status", key).split() if (found := number(text)) is not None}


def _words(ids: Iterable[int]) -> str:
    return ", ".join(map(str, sorted(ids)))


def user(seen: Seen, context: Context) -> Answer:
    """All four user and group ids."""
    if root := _root(context):
        return root
    (uid, gid), uids, gids = _account(context), _ids(seen, "uid"), _ids(seen, "gid")
    shown = ("not 0" if uid is None else uid, "the image's" if gid is None else gid)
    expected = f"uid {shown[0]}, gid {shown[1]}"
    if not uids or not gids:
        return Comparison(expected)
    holds = (uids == {uid} if uid is not None else 0 not in uids) and (gid is None or gids == {gid})
    return Comparison(expected, f"uid {_words(uids)}, gid {_words(gids)}", holds)


def groups(seen: Seen, context: Context) -> Answer:
    """The supplementary groups."""
    _, gid = _account(context)
    declared = {gid, *map(number, context.spec.group_add)}
    if _root(context) and gid is None:
        return "the profile runs it as root, with root's groups"
    most = {group for group in declared if group is not None}
    unknown = gid is None or None in declared  # the image's files say so
    if 0 in most and not unknown:
        return "the profile gives it root's group"
    expected = "not root's (0)" if unknown else f"none but {_words(most)}"
    found, listed = _ids(seen, "groups"), bool(value(seen, "status", "uid"))
    holds = (0 not in found if unknown else found <= most) if listed else None
    return Comparison(expected, _words(found) or ("none" if listed else ""), holds)


# -- what it may become ---------------------------------------------------------------------------------------------


def setuid(seen: Seen, context: Context) -> Answer:
    """Whom root's file with the setuid bit runs as."""
    if left_out := _privileges_kept(context) or _root(context):
        return left_out
    mode, owner, raised = value(seen, "setuid", "mode"), value(seen, "setuid", "owner"), value(seen, "raised", "uid")
    callers, uid, owns = _ids(seen, "uid"), number(raised), number(owner)
    holds = None
    if len(mode) == 4 and mode[0] in "4567" and uid is not None:
        if owns == 0:
            holds = uid in callers and uid != 0
        elif uid == owns and uid not in callers:  # root's as an engine with user namespaces has it, to the weak sandbox
            holds = False
    whose = "root" if owns == 0 else f"user {owner}"
    return Comparison(
        "the caller's uid", f"a file of {whose} with mode {mode} ran as uid {raised}" if raised else "", holds
    )


def namespaces(seen: Seen, context: Context) -> Answer:
    """Their numbers, against the kernel's first ones and the host's."""
    if context.gvisor:
        return "gVisor's kernel has its own namespaces: none is the host's"
    host = {kind: f"{kind}:[{inode}]" for kind, inode in INITIAL.items()}
    host |= {kind: text for kind, text in context.host_namespaces.items() if kind not in ("user", "time")}
    found = seen.get("namespaces", {})
    return Comparison(
        "none is the host's",
        ", ".join(f"{kind} {text.partition(':')[2]}" for kind, text in found.items()),
        every(found[kind] != text if found.get(kind) else None for kind, text in host.items()),
    )


CONTROLS = (
    Control("capabilities", "Only declared capabilities", capability_sets),
    Control("no-new-privileges", "No new privileges", no_new_privileges, moot=_reported_for_all),
    Control(
        "seccomp",
        "System calls are filtered",
        seccomp,
        negative=lambda strong, weak, context: value(weak, "status", "seccomp") == "0",
        moot=lambda strong, weak, context: (
            "gVisor's own kernel answers system calls, without a filter"
            if value(strong, "status", "seccomp") == "0"
            else None
        ),
    ),
    Control("user", "Runs as the declared user", user),
    Control("groups", "No further groups", groups),
    Control("setuid", "Setuid programs gain nothing", setuid),
    Control(
        "namespaces",
        "Its own namespaces",
        namespaces,
        exempt="no option shares them with the host; the host's own numbers are what they are compared with",
    ),
)


# -- the kernel: system calls and families of sockets


class Theme(Data):
    """Attempts that belong together. `engine` are those that the engine's default filter, with no capability left,
    refuses too, in every version; `debug` says that the variant for debuggers lets them through; `native` that only
    x86_64 has them; `takes_root` is the control's."""

    id: str
    title: str
    probe: str = "calls"
    ours: str = ""
    engine: str = ""
    debug: bool = False
    native: bool = False
    takes_root: bool = False

    def items(self, profile: str) -> tuple[str, ...]:
        """The attempts that a seccomp profile refuses."""
        return tuple((self.engine if profile == ENGINE else f"{self.engine} {self.ours}").split())


_NETLINK = (
    "netlink.diag netlink.xfrm netlink.audit netlink.connector netlink.netfilter netlink.uevent netlink.generic "
    "netlink.crypto"
)
THEMES = (
    Theme(id="io-uring", title="Asynchronous I/O is refused", ours="io_uring_setup io_setup"),
    Theme(
        id="tracing",
        title="Other processes can't be inspected",
        ours="ptrace process_vm_readv process_vm_writev process_madvise pidfd_getfd",
        engine="kcmp",
        debug=True,
    ),
    Theme(
        id="own-namespaces",
        title="No namespace can be made or entered",
        ours="clone3",
        engine="unshare.user unshare.mount unshare.net clone.user setns",
    ),
    Theme(
        id="mounting",
        title="Nothing can be mounted",
        engine="mount umount2 pivot_root chroot fsopen open_tree move_mount mount_setattr",
    ),
    Theme(id="handles", title="Files can't be opened by handle", ours="name_to_handle_at", engine="open_by_handle_at"),
    Theme(
        id="memory-calls",
        title="Odd kinds of memory are refused",
        ours="memfd_secret vmsplice get_mempolicy",
        engine="userfaultfd",
        takes_root=True,
    ),
    Theme(id="kernel-programs", title="BPF and perf are refused", engine="bpf perf_event_open"),
    Theme(id="keys", title="The kernel's key rings are refused", engine="keyctl add_key request_key"),
    Theme(
        id="machine",
        title="The machine's own settings are refused",
        engine="init_module finit_module delete_module kexec_load reboot swapon acct syslog sethostname clock_settime "
        "quotactl fanotify_init",
        takes_root=True,
    ),
    Theme(id="queues", title="Counted queues and semaphores are refused", ours="semget msgget mq_open"),
    Theme(id="x86", title="Relics of x86 are refused", ours="modify_ldt i386 x32", engine="iopl", native=True),
    Theme(
        id="socket-families",
        title="Odd families of sockets are refused",
        probe="families",
        ours="vsock alg key xdp mptcp ping",
        engine="packet raw raw6",
    ),
    Theme(
        id="netlink",
        title="The kernel's own sockets are refused, routes apart",
        probe="families",
        ours=_NETLINK,
    ),
)


# What a capability opens in our filter, which has it for whoever is given the capability, and in the engine's own.
_OPENED: Mapping[str, str] = {
    "SYS_PTRACE": "ptrace process_vm_readv process_vm_writev process_madvise pidfd_getfd kcmp",
    "SYS_CHROOT": "chroot",
    "SYS_TIME": "clock_settime",
    "NET_RAW": "packet raw raw6",
    "NET_ADMIN": _NETLINK,
}
_OPENED_BY_ENGINE: Mapping[str, str] = {
    "SYS_ADMIN": "bpf clone3 clone.user fanotify_init fsopen mount mount_setattr move_mount open_tree perf_event_open "
    "quotactl setns sethostname syslog umount2 unshare.user unshare.mount unshare.net",
    "DAC_READ_SEARCH": "open_by_handle_at",
    "SYS_BOOT": "reboot kexec_load",
    "SYS_MODULE": "init_module finit_module delete_module",
    "SYS_PACCT": "acct",
    "SYS_RAWIO": "iopl",
    "SYSLOG": "syslog",
    "BPF": "bpf",
    "PERFMON": "perf_event_open",
}


def _items(theme: Theme, context: Context) -> tuple[str, ...]:
    """The attempts that must be refused: not those that a capability of the profile's opens."""
    which = profile(context)
    opened: set[str] = set()
    for name in names(allowed(context.spec.cap_add, context.spec.cap_drop)):
        opened |= set(_OPENED.get(name, "").split())
        opened |= set(_OPENED_BY_ENGINE.get(name, "").split()) if which == ENGINE else set()
    return tuple(item for item in theme.items(which) if item not in opened)


def profile(context: Context) -> str:
    """Which seccomp profile: sandboxrun, debug, engine, unconfined; "custom" for one of the user's own."""
    named = context.spec.security_opt.get("seccomp", ENGINE)
    return named if named in (OURS, DEBUG, ENGINE, OFF) else "custom"


def _applies(theme: Theme, context: Context) -> str | None:
    which = profile(context)
    if context.gvisor:
        return "gVisor's own kernel answers system calls: they do not reach the host's"
    if theme.native and context.architecture != "x86_64":
        return f"{context.architecture} has none of them"
    if which == OFF:
        return "the profile turns seccomp off"
    if which == "custom":
        return "the profile uses its own seccomp profile: what that refuses is unknown here"
    if which == DEBUG and theme.debug:
        return "seccomp=debug opens them"
    if not theme.items(which):
        return "the engine's own seccomp profile lets them through"
    return None if _items(theme, context) else "the profile's capabilities open them"


def _control(theme: Theme) -> Control:
    def tried(seen: Seen, context: Context) -> list[str]:
        return [seen.get(theme.probe, {}).get(item, "") for item in _items(theme, context)]

    def look(seen: Seen, context: Context) -> Answer:
        return _applies(theme, context) or Comparison(
            f"refused: {', '.join(_items(theme, context))}",
            results(seen.get(theme.probe, {}), theme.items(OURS)) if theme.probe in seen else "",
            every(None if how in UNKNOWN else how in REFUSED or how in MISSING for how in tried(seen, context)),
        )

    return Control(
        theme.id,
        theme.title,
        look,
        # Each gives something else where nothing refuses it, but for those that this kernel does not have.
        negative=lambda strong, weak, context: all(
            how not in UNKNOWN and (how in MISSING or how not in REFUSED) for how in tried(weak, context)
        ),
        moot=lambda strong, weak, context: (
            "this kernel has none of them" if all(how in MISSING for how in tried(weak, context)) else None
        ),
        takes_root=theme.takes_root,
    )


KERNEL = tuple(map(_control, THEMES))
