"""The control of a tmpfs's mode: whether the user can use what is declared to be its own or everybody's. Pure."""

from __future__ import annotations

from sandboxrun.probe.verdicts import UNKNOWN, Context, Control, Seen, every, fails, numbered
from sandboxrun.spec.option_types import options_of


def _usable(context: Context) -> list[str]:
    """The memory filesystems whose declared mode and owner let the sandbox's user make files in them."""
    user, _, group = context.spec.user.partition(":")
    found = []
    for path, options in context.spec.tmpfs.items():
        values = options_of(options)
        if "mode" not in values or "ro" in options.split(","):
            continue
        mode, gid = int(values["mode"], 8), group or user
        if values.get("uid", "0") == user:
            usable = mode & 0o300 == 0o300
        elif values.get("gid", "0") == gid:
            usable = mode & 0o030 == 0o030
        else:
            usable = mode & 0o003 == 0o003
        found += [path] if usable or user == "0" else []
    return found


def _uses(seen: Seen) -> dict[str, str]:
    """How making a file in each ended: from what was tried for its size, or to run it."""
    made = {one.get("path", ""): one.get("copy", "") for one in numbered(seen, "execution")}
    return made | {one.get("path", ""): one["take"] for one in numbered(seen, "size") if one.get("take")}


def _modes_hold(seen: Seen, context: Context) -> bool | None:
    uses = _uses(seen)
    found = (uses.get(path, "") for path in _usable(context))
    return every(None if not how or how in UNKNOWN else not fails(how, "EACCES", "EPERM") for how in found)


MODE = Control(
    id="tmpfs-mode",
    title="Memory filesystems have the declared mode",
    meaning="Some runtimes give a tmpfs the mode of the image's directory that it is mounted over; the engine "
    "shows the declared one.",
    how="The sandbox's user makes a file in each whose mode and owner allow that.",
    weak="None: root may write in it whatever the mode is.",
    exempt="a directory that is not to be written to would show nothing of this one",
    applies=lambda context: None if _usable(context) else "none declares a mode that lets the user write",
    expected=lambda context: f"a file can be made in {', '.join(_usable(context))}",
    seen=lambda seen: "; ".join(
        f"{path}: {'no' if fails(how, 'EACCES', 'EPERM') else 'a'} file could be made"
        for path, how in _uses(seen).items()
    ),
    holds=_modes_hold,
)
