"""The workspace: the record of that option, with its short form.

Owns what may be said of a workspace. Where it is mounted stands in `placements.py`, what of it is kept in `guard.py`.
Pure.
"""

from __future__ import annotations

import attrs

from sandboxrun.errors import Problems, did_you_mean
from sandboxrun.model.composite import ListOf, Short, span_of
from sandboxrun.model.guard import GUARDS
from sandboxrun.model.items import item_span
from sandboxrun.model.option import Record, option
from sandboxrun.model.records import AbsolutePath
from sandboxrun.model.types import Choice, Size, Text
from sandboxrun.source import MapNode

LEAST = 1024**2
_NAMES = ListOf(item=Text(hint="a name"), unique=True, ordered=False)


@attrs.frozen(kw_only=True)
class Workspace:
    """The files an agent works on."""

    source: str = option(
        Text(hint="a path"), default=".", description="The directory, relative to the profile.", example="."
    )
    target: str = option(AbsolutePath, default="/workspace", description="Where it stands.", example="/workspace")
    access: str = option(
        Choice(values=("copy", "rw", "ro")),
        default="copy",
        description="copy: works on a copy, changes come back as a patch; rw, ro: the directory itself, of which rw "
        "keeps read-only what the host runs.",
        example="copy",
    )
    exclude: tuple[str, ...] = option(
        ListOf(item=Text(hint="a pattern"), unique=True, ordered=False),
        default=(),
        description="Patterns of what a copy leaves out, against the path below the directory or the name alone.",
        example=["node_modules", "*.log"],
    )
    size: int | None = option(
        Size(),
        default=None,
        description="The most that a copy may hold: it lies in memory then, and what the sandbox writes to it counts "
        "against mem_limit. On the engine's disk, without a bound, when left out.",
        example="256m",
    )
    writable: tuple[str, ...] = option(
        _NAMES,
        default=(),
        description="What the sandbox may write to though the host runs it, of that which access rw keeps read-only: "
        f"{', '.join(GUARDS)}.",
        example=[".github"],
    )
    protected: tuple[str, ...] = option(
        ListOf(item=Text(hint="a path"), unique=True),
        default=(),
        description="What is mounted read-only in a workspace of access rw, the profile's own files included.",
        settable=False,
        derived=True,
    )


def _check_workspace(workspace: Workspace, node: MapNode, problems: Problems) -> None:
    for name in workspace.writable:
        if name not in GUARDS:
            help = did_you_mean(name, GUARDS) or f"kept read-only are: {', '.join(GUARDS)}, and the profile's own files"
            span = item_span(_NAMES, node.get("writable"), name)
            problems.add(f'"{name}" is not kept read-only by itself', span, help)
    if workspace.writable and workspace.access != "rw":
        help = "leave out writable, or use access: rw"
        problems.add(f"with access {workspace.access} writable means nothing", span_of(node, "writable"), help)
    if workspace.size is not None and workspace.access != "copy":
        help = "leave out size, or use access: copy"
        problems.add(f"access {workspace.access} has no size: it is the directory itself", span_of(node, "size"), help)
    if workspace.size is not None and workspace.size < LEAST:
        problems.add("a workspace needs at least 1m", span_of(node, "size"))
    if workspace.exclude and workspace.access != "copy":
        problems.add(
            f"access {workspace.access} excludes nothing: it is the directory itself",
            span_of(node, "exclude"),
            "leave out exclude, or use access: copy",
        )


def _read_workspace(text: str) -> Workspace:
    if not text:
        raise ValueError("the path is empty")
    return Workspace(source=text)


WorkspaceType = Short(
    record=Record(cls=Workspace, title="workspace", check=_check_workspace),
    read=_read_workspace,
    expected="a path, or a mapping of source, target, access, exclude, size and writable",
)
