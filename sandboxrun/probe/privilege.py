"""Controls of privilege: who the sandbox's program is and what it may become; capabilities as the kernel numbers
them. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable

from sandboxrun.probe.verdicts import Context, Control, Seen, every, number, value
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


def _seccomp_holds(seen: Seen, context: Context) -> bool | None:
    """gVisor's own kernel answers the calls: its user decides whether a filter runs first."""
    return True if context.gvisor and value(seen, "status", "seccomp") == "0" else _flag("seccomp", "2", seen)


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


def _groups_expected(context: Context) -> str:
    groups = _groups(context)
    return "not root's (0)" if groups is None else f"none but {', '.join(map(str, sorted(groups)))}"


def _groups_hold(seen: Seen, context: Context) -> bool | None:
    if not value(seen, "status", "uid"):
        return None
    allowed, found = _groups(context), _ids(seen, "groups")
    return 0 not in found if allowed is None else found <= allowed


# -- what it may become ---------------------------------------------------------------------------------------------


def _setuid_seen(seen: Seen) -> str:
    mode, raised = value(seen, "setuid", "mode"), value(seen, "raised", "uid")
    return f"a file of root with mode {mode} ran as uid {raised}" if raised else ""


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
        holds=_seccomp_holds,
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
        expected=_groups_expected,
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
        seen=_setuid_seen,
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
