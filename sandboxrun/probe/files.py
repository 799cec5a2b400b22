"""Controls of files: secrets, and the workspace's .git. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from sandboxrun.probe.program import git_path
from sandboxrun.probe.verdicts import (
    UNKNOWN,
    Context,
    Control,
    Seen,
    every,
    fails,
    none_worked,
    number,
    numbered,
    result,
    value,
)

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


def _absent(one: Mapping[str, str]) -> bool | None:
    """One that can't be read, or has no more than three bytes, can't be looked for."""
    return {one.get("environ"), one.get("arguments")} == {"no"} if "environ" in one else None


def _environment_seen(seen: Seen) -> str:
    found = [one for one in _secrets(seen) if "environ" in one]
    held = [one.get("name", "") for one in found if "yes" in (one.get("environ"), one.get("arguments"))]
    return f"{', '.join(held)} in them" if held else "in neither" if found else ""


def _git_applies(context: Context) -> str | None:
    return None if git_path(context) else "no directory of the host's is writable as its workspace"


def _git_moves(seen: Seen, context: Context) -> bool | None:
    how = value(seen, "git", "move")
    if how in UNKNOWN or fails(how, "ENOENT"):
        return None
    return fails(how, "EBUSY", "EROFS", "EACCES", "EPERM", "EXDEV")


def _git_absent(strong: Seen, weak: Seen, context: Context) -> str | None:
    return "the workspace has no .git" if fails(value(strong, "git", "write"), "ENOENT") else None


CONTROLS = (
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
        holds=lambda seen, context: _each(seen, context, _absent),
    ),
    Control(
        id="git-moved",
        title="The workspace's .git can't be moved",
        applies=_git_applies,
        expected=lambda context: "EBUSY",
        seen=lambda seen: result(value(seen, "git", "move")) if "git" in seen else "",
        holds=_git_moves,
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
