"""Controls of privilege: who the sandbox's program is and what it may become; and of the kernel: system calls and
families of sockets that must be refused, by theme. Pure.

Owns capabilities as the kernel numbers them, which of the program's attempts belong together, and which of them the
engine's own filter refuses as well. Why each is refused is in the seccomp room's table.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from sandboxrun.data import Data
from sandboxrun.probe.verdicts import MISSING, REFUSED, UNKNOWN, Context, Control, Seen, every, number, results, value
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


def _allowed(context: Context) -> int:
    return allowed(context.spec.cap_add, context.spec.cap_drop)


def _masks(seen: Seen) -> list[int | None]:
    texts = (value(seen, "status", name) for name in SETS)
    return [int(text, 16) if text and set(text) <= set("0123456789abcdef") else None for text in texts]


def _capabilities_seen(seen: Seen) -> str:
    masks = _masks(seen)
    if None in masks[:-1]:
        return ""
    shown = {name: names(mask or 0) for name, mask in zip(SETS, masks, strict=True)}
    return "; ".join(f"{name}: {', '.join(held)}" for name, held in shown.items() if held) or "none in any set"


def _capabilities_hold(seen: Seen, context: Context) -> bool | None:
    allowed, sets = _allowed(context), dict(zip(SETS, _masks(seen), strict=True))
    if context.gvisor and sets["ambient"] is None:
        del sets["ambient"]  # its older versions show none, for they have none
    return every(None if mask is None else mask & ~allowed == 0 for mask in sets.values())


# -- the rest of /proc/self/status ----------------------------------------------------------------------------------


def _nnp_applies(context: Context) -> str | None:
    off = context.spec.security_opt.get("no-new-privileges") == "false"
    return "the profile turns no-new-privileges off" if off else None


def _nnp(seen: Seen) -> str:
    return value(seen, "status", "no-new-privileges") or value(seen, "status", "no-new-privileges.asked")


def _flag(key: str, wanted: str, seen: Seen) -> bool | None:
    found = value(seen, "status", key)
    return found == wanted if found else None


def _ids(seen: Seen, key: str) -> set[int]:
    return {found for text in value(seen, "status", key).split() if (found := number(text)) is not None}


def _user_expected(context: Context) -> str:
    uid, gid = _account(context)
    shown = (uid if uid is not None else "not 0", gid if gid is not None else "the image's")
    return f"uid {shown[0]}, gid {shown[1]}"


def _user_seen(seen: Seen) -> str:
    uids, gids = _ids(seen, "uid"), _ids(seen, "gid")
    return f"uid {', '.join(map(str, sorted(uids)))}, gid {', '.join(map(str, sorted(gids)))}" if uids and gids else ""


def _user_holds(seen: Seen, context: Context) -> bool | None:
    (uid, gid), uids, gids = _account(context), _ids(seen, "uid"), _ids(seen, "gid")
    if not uids or not gids:
        return None
    return (uids == {uid} if uid is not None else 0 not in uids) and (gid is None or gids == {gid})


def _groups(context: Context) -> set[int] | None:
    """The groups it may have; None where the image's files say so."""
    _, gid = _account(context)
    added = [number(group) for group in context.spec.group_add]
    return {gid, *added} - {None} if gid is not None and None not in added else None  # type: ignore[return-value]


def _groups_apply(context: Context) -> str | None:
    if _root(context) and _account(context)[1] is None:
        return "the profile runs it as root, with root's groups"
    return "the profile gives it root's group" if 0 in (_groups(context) or ()) else None


def _groups_hold(seen: Seen, context: Context) -> bool | None:
    if not value(seen, "status", "uid"):
        return None
    allowed, found = _groups(context), _ids(seen, "groups")
    return 0 not in found if allowed is None else found <= allowed


# -- what it may become ---------------------------------------------------------------------------------------------


def _setuid_holds(seen: Seen, context: Context) -> bool | None:
    mode, owner = value(seen, "setuid", "mode"), value(seen, "setuid", "owner")
    raised = number(value(seen, "raised", "uid"))
    if raised is None or len(mode) != 4 or mode[0] not in "4567" or owner != "0":
        return None
    return raised in _ids(seen, "uid") and raised != 0


def _namespaces_hold(seen: Seen, context: Context) -> bool | None:
    host = {kind: f"{kind}:[{inode}]" for kind, inode in INITIAL.items()}
    host |= {kind: text for kind, text in context.host_namespaces.items() if kind not in ("user", "time")}
    found = {kind: value(seen, "namespaces", kind) for kind in host}
    return every(None if not text else text != host[kind] for kind, text in found.items())


CONTROLS = (
    Control(
        id="capabilities",
        title="Only declared capabilities",
        applies=lambda context: "the profile gives every capability" if "ALL" in context.spec.cap_add else None,
        expected=lambda context: (
            f"at most {', '.join(names(_allowed(context)))}" if _allowed(context) else "none in any set"
        ),
        seen=_capabilities_seen,
        holds=_capabilities_hold,
    ),
    Control(
        id="no-new-privileges",
        title="No new privileges",
        applies=_nnp_applies,
        expected=lambda context: "1",
        seen=_nnp,
        holds=lambda seen, context: _nnp(seen) == "1" if _nnp(seen) else None,
        moot=lambda strong, weak, context: (
            "gVisor reports this for every sandbox, including the weak one"
            if context.gvisor and _nnp(weak) == "1"
            else None
        ),
    ),
    Control(
        id="seccomp",
        title="System calls are filtered",
        applies=lambda context: (
            "the profile turns seccomp off" if context.spec.security_opt.get("seccomp") == "unconfined" else None
        ),
        expected=lambda context: "2",
        seen=lambda seen: value(seen, "status", "seccomp"),
        # gVisor's own kernel answers the calls: its user decides whether a filter runs first
        holds=lambda seen, context: (context.gvisor and _flag("seccomp", "0", seen)) or _flag("seccomp", "2", seen),
        negative=lambda strong, weak, context: _flag("seccomp", "0", weak) is True,
        moot=lambda strong, weak, context: (
            "gVisor's own kernel answers system calls, without a filter" if _flag("seccomp", "0", strong) else None
        ),
    ),
    Control(
        id="user",
        title="Runs as the declared user",
        applies=_root,
        expected=_user_expected,
        seen=_user_seen,
        holds=_user_holds,
    ),
    Control(
        id="groups",
        title="No further groups",
        applies=_groups_apply,
        expected=lambda context: (
            "not root's (0)"
            if (groups := _groups(context)) is None
            else f"none but {', '.join(map(str, sorted(groups)))}"
        ),
        seen=lambda seen: (
            ", ".join(map(str, sorted(_ids(seen, "groups")))) or ("none" if value(seen, "status", "uid") else "")
        ),
        holds=_groups_hold,
    ),
    Control(
        id="setuid",
        title="Setuid programs gain nothing",
        applies=lambda context: _nnp_applies(context) or _root(context),
        expected=lambda context: "the caller's uid",
        seen=lambda seen: (
            f"a file of root with mode {value(seen, 'setuid', 'mode')} ran as uid {raised}"
            if (raised := value(seen, "raised", "uid"))
            else ""
        ),
        holds=_setuid_holds,
    ),
    Control(
        id="namespaces",
        title="Its own namespaces",
        exempt="no option shares them with the host; the host's own numbers are what they are compared with",
        applies=lambda context: (
            "gVisor's kernel has its own namespaces: none is the host's" if context.gvisor else None
        ),
        expected=lambda context: "none is the host's",
        seen=lambda seen: ", ".join(
            f"{kind} {text.partition(':')[2]}" for kind, text in seen.get("namespaces", {}).items()
        ),
        holds=_namespaces_hold,
    ),
)


# -- the kernel: system calls and families of sockets

OURS, DEBUG, ENGINE, OFF = "sandboxrun", "debug", "engine", "unconfined"


class Theme(Data):
    """Attempts that belong together. `engine` are those that the engine's default filter, with no capability left,
    refuses too, in every version; `debug` says that the variant for debuggers lets them through; `native` that only
    x86_64 has them."""

    id: str
    title: str
    probe: str = "calls"
    ours: str = ""
    engine: str = ""
    debug: bool = False
    native: bool = False

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
    ),
    Theme(id="kernel-programs", title="BPF and perf are refused", engine="bpf perf_event_open"),
    Theme(id="keys", title="The kernel's key rings are refused", engine="keyctl add_key request_key"),
    Theme(
        id="machine",
        title="The machine's own settings are refused",
        engine="init_module finit_module delete_module kexec_load reboot swapon acct syslog sethostname clock_settime "
        "quotactl fanotify_init",
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
    for name in names(_allowed(context)):
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

    return Control(
        id=theme.id,
        title=theme.title,
        applies=lambda context: _applies(theme, context),
        expected=lambda context: f"refused: {', '.join(_items(theme, context))}",
        seen=lambda seen: results(seen.get(theme.probe, {}), theme.items(OURS)) if theme.probe in seen else "",
        holds=lambda seen, context: every(
            None if how in UNKNOWN else how in REFUSED or how in MISSING for how in tried(seen, context)
        ),
        # Each gives something else where nothing refuses it, but for those that this kernel does not have.
        negative=lambda strong, weak, context: all(
            how not in UNKNOWN and (how in MISSING or how not in REFUSED) for how in tried(weak, context)
        ),
        moot=lambda strong, weak, context: (
            "this kernel has none of them" if all(how in MISSING for how in tried(weak, context)) else None
        ),
    )


KERNEL = tuple(_control(theme) for theme in THEMES)
