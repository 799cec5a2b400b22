"""Controls of the file system: what is mounted, what can be written and run, what stays hidden; and of files: secrets,
and the workspace's .git. Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping

from msgspec import structs

from sandboxrun.probe.program import git_path, noexec_paths, tmpfs_sizes
from sandboxrun.probe.verdicts import (
    UNKNOWN,
    Answer,
    Comparison,
    Context,
    Control,
    Seen,
    every,
    fails,
    mounted_at,
    none_worked,
    number,
    numbered,
    result,
    results,
    value,
)
from sandboxrun.spec.option_types import options_of
from sandboxrun.spec.spec import SandboxSpec

# What the engine mounts into every container; of the root's own, a sandbox's user can write to none.
ENGINE = frozenset({"/proc", "/dev", "/dev/pts", "/dev/mqueue", "/dev/shm", "/dev/console", "/sys/fs/cgroup"})
# Devices that every container has: in a user namespace none can be made, so that the host's are mounted there.
NODES = frozenset({"/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty"})
GVISOR = frozenset({"/dev/fuse", "/dev/net/tun"})  # devices of its own kernel's, in every /dev
PAGE = 4096
MAPPED = "; mapped to run"


def mounts(seen: Seen) -> dict[str, Mapping[str, str]]:
    """The mounts by path: of several on one path the last counts, which lies on top."""
    return {mounted_at(mount.get("path", "")): mount for mount in numbered(seen, "mount")}


def _listed(seen: Seen) -> bool:
    return number(value(seen, "mounts", "count")) == len(list(numbered(seen, "mount"))) > 0


def _none_but(allowed: Collection[str], found: Collection[str] | None, also: Collection[str] = ()) -> Comparison:
    """Nothing may be found but what is allowed, and what goes without saying; None: it could not be looked at."""
    expected = f"none but {', '.join(allowed)}" if allowed else "none"
    if found is None:
        return Comparison(expected)
    return Comparison(expected, ", ".join(sorted(found)) or "none", {*found} <= {*allowed, *also})


def _calls_refused(seen: Seen, probe: str, expected: str) -> Comparison:
    return Comparison(expected, results(seen.get(probe, {})), none_worked(seen.get(probe, {}).values()))


# -- what can be written --------------------------------------------------------------------------------------------


def root(seen: Seen, context: Context) -> Answer:
    """The root's options, and new files in several places."""
    if not context.spec.read_only:
        return "the profile leaves the root writable"
    expected, tried = "ro; no file could be made", seen.get("root")
    if tried is None or not _listed(seen):
        return Comparison(expected)
    options = mounts(seen).get("/", {}).get("options", "").split(",")
    made = any(how == "ok" and at != "dev" for at, how in tried.items())
    return Comparison(expected, f"{options[0]}; {results(tried)}", "ro" in options and not made if tried else None)


def declared(spec: SandboxSpec) -> dict[str, bool]:
    """Where the profile mounts something, and whether it may be written to."""
    found = {path: "ro" not in options.split(",") for path, options in spec.tmpfs.items()}
    found |= {mount.target: not mount.read_only for mount in spec.volumes}
    if spec.workspace is not None:
        found[spec.workspace.target] = spec.workspace.access != "ro"
    return {path.rstrip("/"): writable for path, writable in found.items()}


_OWN = {"/etc/hosts", "/etc/hostname", "/etc/resolv.conf"}  # with a writable root these are writable, too


def _writable(seen: Seen) -> set[str]:
    """The mounts that the sandbox's user can write to. /proc/keys and the like lie under /dev/null."""

    def is_node(path: str, root: str) -> bool:
        return f"/dev{root}" in NODES and (path == f"/dev{root}" or (path.startswith("/proc/") and root == "/null"))

    return {
        path
        for path, mount in mounts(seen).items()
        if mount.get("write") == "ok" and not is_node(path, mount.get("root", ""))
    } - ENGINE


def writable_mounts(seen: Seen, context: Context) -> Answer:
    """Which of the mounts can be written to."""
    allowed = {path for path, writable in declared(context.spec).items() if writable}
    if context.spec.read_only:
        return _none_but(sorted(allowed), _writable(seen) if _listed(seen) else None)
    return _none_but(sorted({*allowed, "/"}), _writable(seen) if _listed(seen) else None, _OWN)


def propagation(seen: Seen, context: Context) -> Answer:
    """Which mounts have peers on the host."""
    if context.gvisor:
        return "gVisor has no shared mounts"
    shared = [path for path, mount in mounts(seen).items() if mount.get("shared") != "no"]
    return Comparison("none", ", ".join(shared) or "none", not shared) if _listed(seen) else Comparison("none")


# -- what can be run, and how much fits -----------------------------------------------------------------------------


def noexec(seen: Seen, context: Context) -> Answer:
    """A copy of the program is run, and mapped to run."""
    paths = noexec_paths(context)
    if not paths:
        return "the profile lets every memory filesystem run programs"
    runs = dict(_runs(seen))
    allowed = {"refused", f"refused{MAPPED}"} if context.gvisor else {"refused"}
    found = (runs.get(path, "") for path in paths)
    holds = every(None if not how or "made" in how else how in allowed for how in found)
    return Comparison(f"refused in {', '.join(paths)}", "; ".join(f"{path}: {how}" for path, how in _runs(seen)), holds)


def _runs(seen: Seen) -> Iterator[tuple[str, str]]:
    """Each place, and how running a copy in it ended."""
    for tried in numbered(seen, "execution"):
        copied, code = tried.get("copy", ""), tried.get("code", "")
        how = f"no file could be made ({result(copied)})" if copied != "ok" else "it ran" if code == "42" else "refused"
        mapped = MAPPED if tried.get("map") == "ok" else ""
        yield tried.get("path", ""), how + mapped if code or copied != "ok" else ""


def _sizes(seen: Seen) -> dict[str, Mapping[str, str]]:
    return {one.get("path", ""): one for one in numbered(seen, "size")}


def tmpfs_size(seen: Seen, context: Context) -> Answer:
    """Sizes in bytes, and whether one page more can be had."""
    declared, found = tmpfs_sizes(context.spec), _sizes(seen)
    if not declared:
        return "there is none"
    shown = (
        f"{path}: {number(one.get('bytes', ''))} bytes, one page more: {result(one.get('take', ''))}"
        for path, one in found.items()
    )
    return Comparison(
        "; ".join(f"{path}: {size} bytes" for path, size in declared.items()),
        "; ".join(shown),
        every(_bounded(found.get(path), size) for path, size in declared.items()),
    )


def _bounded(one: Mapping[str, str] | None, declared: int) -> bool | None:
    if one is None or one.get("look") != "ok":
        return None
    size, take = number(one.get("bytes", "")), one.get("take", "")
    if take == "ok" or size is None or size == 0:
        return False if take == "ok" else None
    within = size <= -(-declared // PAGE) * PAGE
    return within and (fails(take, "ENOSPC", "EROFS", "EACCES", "EDQUOT", "EFBIG") or take == "")


# -- what stays hidden ----------------------------------------------------------------------------------------------


def masked_paths(seen: Seen, context: Context) -> Answer:
    """How much each path shows once what hides it is taken off, if it can be."""
    masks, expected = seen.get("masks"), "nothing in any"
    if masks is None:
        return Comparison(expected)
    shown = [name for name, count in masks.items() if count != "0"]
    holds = every([number(count) == 0 for count in masks.values()] or [True])
    return Comparison(expected, f"content in /{', /'.join(shown)}" if shown else expected, holds)


def _no_masks(strong: Seen, weak: Seen, context: Context) -> str | None:
    found = [seen["masks"] for seen in (strong, weak) if "masks" in seen]
    if len(found) == 2 and context.gvisor and all(number(count) == 0 for masks in found for count in masks.values()):
        return "gVisor's own kernel shows nothing of the host's"
    return "this kernel shows none of them" if len(found) == 2 and not any(found) else None


# -- devices, descriptors, sockets ----------------------------------------------------------------------------------


def devices(seen: Seen, context: Context) -> Answer:
    """What lies in /dev beside what every container has."""
    hosts = [device.target or device.source for device in context.spec.devices]
    found, count = (
        {f"/dev/{name}" for name in seen.get("devices", {}) if name != "count"},
        value(seen, "devices", "count"),
    )
    answer = _none_but(hosts, found, GVISOR if context.gvisor else ())
    shown = answer.seen if found or count == "0" else f"{count} without a name" if count else ""
    holds = None if number(count) is None else len(found) == number(count) and answer.holds
    return structs.replace(answer, seen=shown, holds=holds)


def null_device(seen: Seen, context: Context) -> Answer:
    """Its kind and numbers."""
    null, expected = seen.get("null", {}), "character 1:3"
    if null.get("look") != "ok":
        return Comparison(expected)
    shown = f"{null.get('kind')} {null.get('major')}:{null.get('minor')}"
    return Comparison(expected, shown, shown == expected)


def _counted(seen: Seen, probe: str, key: str, names: Iterable[str]) -> Comparison:
    """None may be there: how many are, and their names."""
    count = value(seen, probe, key)
    holds = None if number(count) is None else number(count) == 0
    return Comparison("none", ", ".join(names) or ("none" if count == "0" else ""), holds)


def descriptors(seen: Seen, context: Context) -> Answer:
    """Directories among what the program was started with."""
    return _counted(seen, "descriptors", "directories", filter(None, [value(seen, "descriptors", "directory")]))


def engine_sockets(seen: Seen, context: Context) -> Answer:
    """Those that engines listen on, by path."""
    return _counted(seen, "engines", "count", (path for key, path in seen.get("engines", {}).items() if key != "count"))


# -- whether the user can use a memory filesystem that is declared to be its own or everybody's ------------------------


def tmpfs_mode(seen: Seen, context: Context) -> Answer:
    """Whether the user can make files where the declared mode and owner let it."""
    usable = _usable(context)
    if not usable:
        return "none declares a mode that lets the user write"
    # how making a file in each ended: from what was tried for its size, or to run it
    uses = {one.get("path", ""): one.get("copy", "") for one in numbered(seen, "execution")}
    uses |= {path: one["take"] for path, one in _sizes(seen).items() if one.get("take")}
    closed = {path: fails(how, "EACCES", "EPERM") for path, how in uses.items()}
    return Comparison(
        f"a file can be made in {', '.join(usable)}",
        "; ".join(f"{path}: {'no' if shut else 'a'} file could be made" for path, shut in closed.items()),
        every(None if uses.get(path, "") in UNKNOWN else not closed[path] for path in usable),
    )


def _usable(context: Context) -> list[str]:
    """The memory filesystems whose declared mode and owner let the sandbox's user make files in them."""
    user, _, group = context.spec.user.partition(":")
    found = []
    for path, options in context.spec.tmpfs.items():
        values = options_of(options)
        if "mode" not in values or "ro" in options.split(","):
            continue
        mode, gid = int(values["mode"], 8), group or user
        own = 0o300 if values.get("uid", "0") == user else 0o030 if values.get("gid", "0") == gid else 0o003
        found += [path] if mode & own == own or user == "0" else []
    return found


CONTROLS = (
    Control("root", "The root filesystem is read-only", root),
    Control(
        "writable-mounts",
        "Only declared mounts can be written",
        writable_mounts,
        negative=lambda strong, weak, context: "/" in _writable(weak),
    ),
    Control("noexec", "Nothing runs from memory filesystems", noexec),
    Control("tmpfs-size", "Memory filesystems are bounded", tmpfs_size),
    Control("propagation", "No mount is shared with the host", propagation),
    Control("masked-paths", "Masked paths show nothing", masked_paths, moot=_no_masks),
    Control(
        "kernel-settings",
        "The kernel's settings can't be written",
        lambda seen, context: _calls_refused(seen, "closed", "none can be written"),
        takes_root=True,
    ),
    Control(
        "mknod",
        "No device can be made",
        lambda seen, context: _calls_refused(seen, "mknod", "refused everywhere"),
        takes_root=True,
    ),
    Control("devices", "Only declared host devices", devices, takes_root=True),
    Control("null-device", "/dev/null is the null device", null_device),
    Control("descriptors", "No directory is left open", descriptors),
    Control("engine-sockets", "No engine's socket can be reached", engine_sockets),
    Control(
        "tmpfs-mode",
        "Memory filesystems have the declared mode",
        tmpfs_mode,
        exempt="a directory that is not to be written to would show nothing of this one",
    ),
)


# -- files: secrets, and the workspace's .git

TMPFS = 0x01021994  # statfs(2)'s number of a memory filesystem
RAMFS = 0x858458F6
_KINDS = {TMPFS: "tmpfs", RAMFS: "ramfs"}
_NO_SECRETS = "the profile gives it no secrets"


def _secrets(seen: Seen) -> list[Mapping[str, str]]:
    return list(numbered(seen, "secret"))


def _each(seen: Seen, context: Context, closed: Callable[[Mapping[str, str]], bool | None]) -> bool | None:
    """Whether every secret is closed; None if one of the declared is missing and none of the others open."""
    found = _secrets(seen)
    missing = {ref.file_name for ref in context.spec.secrets} - {one.get("name") for one in found}
    listed = value(seen, "secrets", "open") == "ok" and not missing
    return every([*map(closed, found), *([] if listed else [None])])


def secrets_mode(seen: Seen, context: Context) -> Answer:
    """Mode and owner of each file; a stranger's must be closed, too."""
    if not context.spec.secrets:
        return _NO_SECRETS
    user = number(context.spec.user.partition(":")[0])
    declared = {ref.file_name: (ref.mode, user if ref.uid is None else ref.uid) for ref in context.spec.secrets}

    def closed(one: Mapping[str, str]) -> bool | None:
        mode, owner = one.get("mode", ""), number(one.get("uid", ""))
        if owner is None or not mode or set(mode) - set("01234567"):
            return None
        allowed, whose = declared.get(one.get("name", ""), (0o400, user))  # a stranger's is to be closed
        return int(mode, 8) & ~allowed == 0 and whose in (None, owner)

    return Comparison(
        ", ".join(
            f"{ref.file_name}: {ref.mode:04o}, owner {declared[ref.file_name][1]}" for ref in context.spec.secrets
        ),
        ", ".join(
            f"{one.get('name')}: {one.get('mode', '').zfill(4)}, owner {one.get('uid')}" for one in _secrets(seen)
        ),
        _each(seen, context, closed),
    )


def secrets_memory(seen: Seen, context: Context) -> Answer:
    """The kind of file system of each."""
    if not context.spec.secrets:
        return _NO_SECRETS
    found = ((one.get("name"), number(one.get("magic", "")) or 0) for one in _secrets(seen))
    shown = (f"{name}: {_KINDS.get(magic, f'file system {magic:#x}')}" for name, magic in found)
    return Comparison(
        "tmpfs", ", ".join(shown), _each(seen, context, lambda one: number(one.get("magic", "")) in _KINDS)
    )


def secrets_environment(seen: Seen, context: Context) -> Answer:
    """Whether their values are in the environment or the arguments."""
    if not context.spec.secrets:
        return _NO_SECRETS
    found = [one for one in _secrets(seen) if "environ" in one]
    held = [one.get("name", "") for one in found if "yes" in (one.get("environ"), one.get("arguments"))]

    def absent(one: Mapping[str, str]) -> bool | None:
        """One that can't be read, or has no more than three bytes, can't be looked for."""
        return {one.get("environ"), one.get("arguments")} == {"no"} if "environ" in one else None

    shown = f"{', '.join(held)} in them" if held else "in neither" if found else ""
    return Comparison("in neither", shown, _each(seen, context, absent))


def git_moved(seen: Seen, context: Context) -> Answer:
    """Moving it out of the way."""
    how = value(seen, "git", "move")
    stays = None if how in UNKNOWN or fails(how, "ENOENT") else fails(how, "EBUSY", "EROFS", "EACCES", "EPERM", "EXDEV")
    return _git(seen, context, "EBUSY", how, stays)


def git_written(seen: Seen, context: Context) -> Answer:
    """Writing into it."""
    how = value(seen, "git", "write")
    return _git(seen, context, "EROFS", how, none_worked([how]))


def _git(seen: Seen, context: Context, expected: str, how: str, holds: bool | None) -> Answer:
    if not git_path(context):
        return "no directory of the host's is writable as its workspace"
    return Comparison(expected, result(how) if "git" in seen else "", holds)


def _git_absent(strong: Seen, weak: Seen, context: Context) -> str | None:
    return "the workspace has no .git" if fails(value(strong, "git", "write"), "ENOENT") else None


FILES = (
    Control("secrets-mode", "Secrets belong to the user alone", secrets_mode),
    Control("secrets-memory", "Secrets lie in memory", secrets_memory),
    Control("secrets-environment", "Secrets are in no environment", secrets_environment),
    Control("git-moved", "The workspace's .git can't be moved", git_moved, moot=_git_absent),
    Control("git-written", "The workspace's .git can't be written", git_written, moot=_git_absent),
)
