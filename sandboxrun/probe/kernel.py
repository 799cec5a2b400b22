"""Controls of the kernel: system calls and families of sockets that must be refused, by theme. Pure.

Owns which of the program's attempts belong together, and which of them the engine's own filter refuses as well. Why
each is refused is in the seccomp room's table.
"""

from __future__ import annotations

from collections.abc import Mapping

from sandboxrun.data import Data
from sandboxrun.probe import privilege as capabilities
from sandboxrun.probe.verdicts import MISSING, REFUSED, UNKNOWN, Context, Control, Seen, every, results

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
        ours="netlink.diag netlink.xfrm netlink.audit netlink.connector netlink.netfilter netlink.uevent "
        "netlink.generic netlink.crypto",
    ),
)


# What a capability opens in our filter, which has it for whoever is given the capability, and in the engine's own.
_OPENED: Mapping[str, str] = {
    "SYS_PTRACE": "ptrace process_vm_readv process_vm_writev process_madvise pidfd_getfd kcmp",
    "SYS_CHROOT": "chroot",
    "SYS_TIME": "clock_settime",
    "NET_RAW": "packet raw raw6",
    "NET_ADMIN": "netlink.diag netlink.xfrm netlink.audit netlink.connector netlink.netfilter netlink.uevent "
    "netlink.generic netlink.crypto",
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
    which, spec = profile(context), context.spec
    opened: set[str] = set()
    for name in capabilities.names(capabilities.allowed(spec.cap_add, spec.cap_drop)):
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


CONTROLS = tuple(_control(theme) for theme in THEMES)
