"""Controls of the file system: what is mounted, what can be written and run, what stays hidden; and of files: secrets,
and the workspace's .git. Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from sandboxrun.probe.program import git_path, noexec_paths, tmpfs_sizes
from sandboxrun.probe.verdicts import (
    UNKNOWN,
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

# What the engine mounts into every container; of the root's own, a sandbox's user can write to none.
ENGINE = frozenset({"/proc", "/dev", "/dev/pts", "/dev/mqueue", "/dev/shm", "/dev/console", "/sys/fs/cgroup"})
GVISOR = frozenset({"/dev/fuse", "/dev/net/tun"})  # devices of its own kernel's, in every /dev
PAGE = 4096
MAPPED = "; mapped to run"


def mounts(seen: Seen) -> dict[str, Mapping[str, str]]:
    """The mounts by path: of several on one path the last counts, which lies on top."""
    return {mounted_at(mount.get("path", "")): mount for mount in numbered(seen, "mount")}


def _listed(seen: Seen) -> bool:
    return number(value(seen, "mounts", "count")) == len(list(numbered(seen, "mount"))) > 0


# -- what can be written --------------------------------------------------------------------------------------------


def _root_options(seen: Seen) -> list[str]:
    return mounts(seen).get("/", {}).get("options", "").split(",")


def _declared(context: Context) -> set[str]:
    spec = context.spec
    paths = {path for path, options in spec.tmpfs.items() if "ro" not in options.split(",")}
    paths |= {mount.target for mount in spec.volumes if not mount.read_only}
    if spec.workspace is not None and spec.workspace.access != "ro":
        paths.add(spec.workspace.target)
    return {path.rstrip("/") or "/" for path in paths} | (set() if spec.read_only else {"/"})


_OWN = {"/etc/hosts", "/etc/hostname", "/etc/resolv.conf"}  # with a writable root these are writable, too


def _writable(seen: Seen) -> set[str]:
    """The mounts that the sandbox's user can write to. /proc/keys and the like lie under /dev/null."""
    return {
        path
        for path, mount in mounts(seen).items()
        if mount.get("write") == "ok" and not (path.startswith("/proc/") and mount.get("root") == "/null")
    } - ENGINE


def _shared(seen: Seen) -> list[str]:
    return [path for path, mount in mounts(seen).items() if mount.get("shared") != "no"]


# -- what can be run, and how much fits -----------------------------------------------------------------------------


def _runs(seen: Seen) -> Iterator[tuple[str, str]]:
    """Each place, and how running a copy in it ended."""
    for tried in numbered(seen, "execution"):
        copied, code = tried.get("copy", ""), tried.get("code", "")
        how = f"no file could be made ({result(copied)})" if copied != "ok" else "it ran" if code == "42" else "refused"
        mapped = MAPPED if tried.get("map") == "ok" else ""
        yield tried.get("path", ""), how + mapped if code or copied != "ok" else ""


def _noexec_holds(seen: Seen, context: Context) -> bool | None:
    runs = dict(_runs(seen))
    found = (runs.get(path, "") for path in noexec_paths(context))
    allowed = {"refused", f"refused{MAPPED}"} if context.gvisor else {"refused"}
    return every(None if not how or "made" in how else how in allowed for how in found)


def _sizes(seen: Seen) -> dict[str, Mapping[str, str]]:
    return {one.get("path", ""): one for one in numbered(seen, "size")}


def _bounded(one: Mapping[str, str] | None, declared: int) -> bool | None:
    if one is None or one.get("look") != "ok":
        return None
    size, take = number(one.get("bytes", "")), one.get("take", "")
    if take == "ok" or size is None or size == 0:
        return False if take == "ok" else None
    within = size <= -(-declared // PAGE) * PAGE
    return within and (fails(take, "ENOSPC", "EROFS", "EACCES", "EDQUOT", "EFBIG") or take == "")


# -- what stays hidden ----------------------------------------------------------------------------------------------


def _masks_hold(seen: Seen, context: Context) -> bool | None:
    masks = seen.get("masks")
    return every([number(count) == 0 for count in masks.values()] or [True]) if masks is not None else None


def _masks_seen(seen: Seen) -> str:
    shown = [name for name, count in seen.get("masks", {}).items() if count != "0"]
    return f"content in /{', /'.join(shown)}" if shown else "nothing in any" if "masks" in seen else ""


def _no_masks(strong: Seen, weak: Seen, context: Context) -> str | None:
    both = (strong, weak)
    if context.gvisor and all(_masks_hold(seen, context) for seen in both):
        return "gVisor's own kernel shows nothing of the host's"
    return "this kernel shows none of them" if all("masks" in seen and not seen["masks"] for seen in both) else None


# -- devices, descriptors, sockets ----------------------------------------------------------------------------------


def _null_seen(seen: Seen) -> str:
    null = seen.get("null", {})
    return f"{null.get('kind')} {null.get('major')}:{null.get('minor')}" if null.get("look") == "ok" else ""


def _devices(seen: Seen) -> set[str]:
    return {f"/dev/{name}" for name in seen.get("devices", {}) if name != "count"}


def _hosts(context: Context) -> list[str]:
    return [device.target or device.source for device in context.spec.devices]


def _devices_hold(seen: Seen, context: Context) -> bool | None:
    count = number(value(seen, "devices", "count"))
    if count is None:
        return None
    own = GVISOR if context.gvisor else frozenset()
    return len(_devices(seen)) == count and _devices(seen) <= {*_hosts(context)} | own


def _devices_seen(seen: Seen) -> str:
    count = value(seen, "devices", "count")
    return ", ".join(sorted(_devices(seen))) or ("none" if count == "0" else f"{count} without a name" if count else "")


def _count(seen: Seen, probe: str, key: str) -> bool | None:
    found = number(value(seen, probe, key))
    return found == 0 if found is not None else None


# -- whether the user can use a memory filesystem that is declared to be its own or everybody's ------------------------


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


def _uses(seen: Seen) -> dict[str, str]:
    """How making a file in each ended: from what was tried for its size, or to run it."""
    made = {one.get("path", ""): one.get("copy", "") for one in numbered(seen, "execution")}
    return made | {path: one["take"] for path, one in _sizes(seen).items() if one.get("take")}


CONTROLS = (
    Control(
        id="root",
        title="The root filesystem is read-only",
        applies=lambda context: None if context.spec.read_only else "the profile leaves the root writable",
        expected=lambda context: "ro; no file could be made",
        seen=lambda seen: (
            f"{_root_options(seen)[0]}; {results(seen['root'])}" if "root" in seen and _listed(seen) else ""
        ),
        holds=lambda seen, context: (
            "ro" in _root_options(seen) and not any(how == "ok" and at != "dev" for at, how in seen["root"].items())
            if seen.get("root") and _listed(seen)
            else None
        ),
    ),
    Control(
        id="writable-mounts",
        title="Only declared mounts can be written",
        expected=lambda context: f"none but {', '.join(sorted(_declared(context)))}" if _declared(context) else "none",
        seen=lambda seen: (", ".join(sorted(_writable(seen))) or "none") if _listed(seen) else "",
        holds=lambda seen, context: (
            _writable(seen) <= _declared(context) | (set() if context.spec.read_only else _OWN)
            if _listed(seen)
            else None
        ),
        negative=lambda strong, weak, context: "/" in _writable(weak),
    ),
    Control(
        id="noexec",
        title="Nothing runs from memory filesystems",
        applies=lambda context: (
            None if noexec_paths(context) else "the profile lets every memory filesystem run programs"
        ),
        expected=lambda context: f"refused in {', '.join(noexec_paths(context))}",
        seen=lambda seen: "; ".join(f"{path}: {how}" for path, how in _runs(seen)),
        holds=_noexec_holds,
    ),
    Control(
        id="tmpfs-size",
        title="Memory filesystems are bounded",
        applies=lambda context: None if tmpfs_sizes(context.spec) else "there is none",
        expected=lambda context: "; ".join(f"{path}: {size} bytes" for path, size in tmpfs_sizes(context.spec).items()),
        seen=lambda seen: "; ".join(
            f"{path}: {number(one.get('bytes', ''))} bytes, one page more: {result(one.get('take', ''))}"
            for path, one in _sizes(seen).items()
        ),
        holds=lambda seen, context: every(
            _bounded(_sizes(seen).get(path), size) for path, size in tmpfs_sizes(context.spec).items()
        ),
    ),
    Control(
        id="propagation",
        title="No mount is shared with the host",
        applies=lambda context: "gVisor has no shared mounts" if context.gvisor else None,
        expected=lambda context: "none",
        seen=lambda seen: (", ".join(_shared(seen)) or "none") if _listed(seen) else "",
        holds=lambda seen, context: not _shared(seen) if _listed(seen) else None,
    ),
    Control(
        id="masked-paths",
        title="Masked paths show nothing",
        expected=lambda context: "nothing in any",
        seen=_masks_seen,
        holds=_masks_hold,
        moot=_no_masks,
    ),
    Control(
        id="kernel-settings",
        title="The kernel's settings can't be written",
        expected=lambda context: "none can be written",
        seen=lambda seen: results(seen.get("closed", {})),
        holds=lambda seen, context: none_worked(seen.get("closed", {}).values()),
    ),
    Control(
        id="mknod",
        title="No device can be made",
        expected=lambda context: "refused everywhere",
        seen=lambda seen: results(seen.get("mknod", {})),
        holds=lambda seen, context: none_worked(seen.get("mknod", {}).values()),
    ),
    Control(
        id="devices",
        title="Only declared host devices",
        expected=lambda context: f"none but {', '.join(_hosts(context))}" if _hosts(context) else "none",
        seen=_devices_seen,
        holds=_devices_hold,
    ),
    Control(
        id="null-device",
        title="/dev/null is the null device",
        expected=lambda context: "character 1:3",
        seen=_null_seen,
        holds=lambda seen, context: (_null_seen(seen) == "character 1:3") if _null_seen(seen) else None,
    ),
    Control(
        id="descriptors",
        title="No directory is left open",
        expected=lambda context: "none",
        seen=lambda seen: (
            value(seen, "descriptors", "directory")
            or ("none" if value(seen, "descriptors", "directories") == "0" else "")
        ),
        holds=lambda seen, context: _count(seen, "descriptors", "directories"),
    ),
    Control(
        id="engine-sockets",
        title="No engine's socket can be reached",
        expected=lambda context: "none",
        seen=lambda seen: (
            ", ".join(path for key, path in seen.get("engines", {}).items() if key != "count")
            or ("none" if value(seen, "engines", "count") == "0" else "")
        ),
        holds=lambda seen, context: _count(seen, "engines", "count"),
    ),
    Control(
        id="tmpfs-mode",
        title="Memory filesystems have the declared mode",
        exempt="a directory that is not to be written to would show nothing of this one",
        applies=lambda context: None if _usable(context) else "none declares a mode that lets the user write",
        expected=lambda context: f"a file can be made in {', '.join(_usable(context))}",
        seen=lambda seen: "; ".join(
            f"{path}: {'no' if fails(how, 'EACCES', 'EPERM') else 'a'} file could be made"
            for path, how in _uses(seen).items()
        ),
        holds=lambda seen, context: every(
            None if (how := _uses(seen).get(path, "")) in UNKNOWN else not fails(how, "EACCES", "EPERM")
            for path in _usable(context)
        ),
    ),
)


# -- files: secrets, and the workspace's .git

TMPFS = 0x01021994  # statfs(2)'s number of a memory filesystem
RAMFS = 0x858458F6


def _secrets_apply(context: Context) -> str | None:
    return None if context.spec.secrets else "the profile gives it no secrets"


def _secrets(seen: Seen) -> list[Mapping[str, str]]:
    return list(numbered(seen, "secret"))


def _each(seen: Seen, context: Context, closed: Callable[[Mapping[str, str]], bool | None]) -> bool | None:
    """Whether every secret is closed; None if one of the declared is missing and none of the others open."""
    found = _secrets(seen)
    missing = {ref.file_name for ref in context.spec.secrets} - {one.get("name") for one in found}
    listed = value(seen, "secrets", "open") == "ok" and not missing
    return every([*map(closed, found), *([] if listed else [None])])


def _expected_of(context: Context, name: str) -> tuple[int, int | None]:
    """The declared mode and owner of a secret's file; the closed ones for a stranger's."""
    user = number(context.spec.user.partition(":")[0])
    for ref in context.spec.secrets:
        if ref.file_name == name:
            return ref.mode, ref.uid if ref.uid is not None else user
    return 0o400, user


def _closed(one: Mapping[str, str], context: Context) -> bool | None:
    mode, owner = one.get("mode", ""), number(one.get("uid", ""))
    if owner is None or not mode or set(mode) - set("01234567"):
        return None
    allowed, user = _expected_of(context, one.get("name", ""))
    return int(mode, 8) & ~allowed == 0 and (user is None or owner == user)


def _memory_seen(seen: Seen) -> str:
    kinds = {TMPFS: "tmpfs", RAMFS: "ramfs"}
    shown = ((one.get("name"), number(one.get("magic", ""))) for one in _secrets(seen))
    return ", ".join(f"{name}: {kinds.get(magic or 0, f'file system {magic or 0:#x}')}" for name, magic in shown)


def _environment_seen(seen: Seen) -> str:
    found = [one for one in _secrets(seen) if "environ" in one]
    held = [one.get("name", "") for one in found if "yes" in (one.get("environ"), one.get("arguments"))]
    return f"{', '.join(held)} in them" if held else "in neither" if found else ""


def _git_applies(context: Context) -> str | None:
    return None if git_path(context) else "no directory of the host's is writable as its workspace"


def _git_absent(strong: Seen, weak: Seen, context: Context) -> str | None:
    return "the workspace has no .git" if fails(value(strong, "git", "write"), "ENOENT") else None


FILES = (
    Control(
        id="secrets-mode",
        title="Secrets belong to the user alone",
        applies=_secrets_apply,
        expected=lambda context: ", ".join(
            f"{ref.file_name}: {ref.mode:04o}, owner {_expected_of(context, ref.file_name)[1]}"
            for ref in context.spec.secrets
        ),
        seen=lambda seen: ", ".join(
            f"{one.get('name')}: {one.get('mode', '').zfill(4)}, owner {one.get('uid')}" for one in _secrets(seen)
        ),
        holds=lambda seen, context: _each(seen, context, lambda one: _closed(one, context)),
    ),
    Control(
        id="secrets-memory",
        title="Secrets lie in memory",
        applies=_secrets_apply,
        expected=lambda context: "tmpfs",
        seen=_memory_seen,
        holds=lambda seen, context: _each(seen, context, lambda one: number(one.get("magic", "")) in (TMPFS, RAMFS)),
    ),
    Control(
        id="secrets-environment",
        title="Secrets are in no environment",
        applies=_secrets_apply,
        expected=lambda context: "in neither",
        seen=_environment_seen,
        # one that can't be read, or has no more than three bytes, can't be looked for
        holds=lambda seen, context: _each(
            seen,
            context,
            lambda one: {one.get("environ"), one.get("arguments")} == {"no"} if "environ" in one else None,
        ),
    ),
    Control(
        id="git-moved",
        title="The workspace's .git can't be moved",
        applies=_git_applies,
        expected=lambda context: "EBUSY",
        seen=lambda seen: result(value(seen, "git", "move")) if "git" in seen else "",
        holds=lambda seen, context: (
            None
            if (how := value(seen, "git", "move")) in UNKNOWN or fails(how, "ENOENT")
            else fails(how, "EBUSY", "EROFS", "EACCES", "EPERM", "EXDEV")
        ),
        moot=_git_absent,
    ),
    Control(
        id="git-written",
        title="The workspace's .git can't be written",
        applies=_git_applies,
        expected=lambda context: "EROFS",
        seen=lambda seen: result(value(seen, "git", "write")) if "git" in seen else "",
        holds=lambda seen, context: none_worked([value(seen, "git", "write")]),
        moot=_git_absent,
    ),
)
