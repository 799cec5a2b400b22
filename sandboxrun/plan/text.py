"""A plan as text, in the conventions of OpenTofu: what a person reads before saying yes.

Owns the wording. Everything shown passes `errors.shown`, which masks what is sensitive. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from msgspec import structs

from sandboxrun.data import Data
from sandboxrun.errors import Diagnostic, Problems, node_of, one_line, redact, redacted, shown
from sandboxrun.plan.changes import Action, Change, Difference, Plan, Reason
from sandboxrun.spec.option import Effect
from sandboxrun.spec.spec import BY_KEY, SandboxSpec, parse_spec, settle

if TYPE_CHECKING:
    from sandboxrun.spec.privilege import Step

_NAMED = 3  # sandboxes that a warning about several names
SYMBOL = {
    Action.CREATE: "+",
    Action.UPDATE: "~",
    Action.REPLACE: "-/+",
    Action.DELETE: "-",
    Action.KEEP: ".",
    Action.NONE: " ",
}
VERB = {
    Action.CREATE: "will be created",
    Action.UPDATE: "will be updated in place",
    Action.REPLACE: "must be replaced",
    Action.DELETE: "will be removed",
    Action.KEEP: "will be kept, stopped",
    Action.NONE: "is up to date",
}
_VERB_OF = {
    ("image", Action.CREATE): "will be pulled",
    ("image", Action.UPDATE): "will be pulled again",
    ("sandbox", Action.DELETE): "will be torn down",
    ("volume", Action.DELETE): "will be removed with all that is in it",
}
WHY = {
    Reason.RERUN: "asked to run again",
    Reason.REQUESTED: "asked to be replaced",
    Reason.IMAGE_MOVED: "its tag means another image now",
    Reason.UNDECLARED: "no longer declared",
    Reason.UNUSED: "nothing uses it",
}
_CLOSED = settle(SandboxSpec())  # all defaults
DEFAULTS = _CLOSED.shown
_OPENS = "This plan creates sandboxes that are more open than the defaults:"
_WIDENS = "This plan widens what sandboxes may do:"
_FORCES = "forces replacement"
# What a reviewer looks for first, shown even at its default.
ALWAYS = frozenset({"image", "user", "mem_limit", "cpus", "pids_limit", "network_mode"})


def label(change: Change, sensitive: frozenset[str] = frozenset()) -> str:
    """What a change is about: `sandbox reviewer`, `network default`."""
    return one_line(f"{change.kind} {redact(change.address.removeprefix(f'{change.kind}.'), sensitive)}")


def verb(change: Change) -> str:
    """What happens to it."""
    if change.reason is Reason.BUILD:
        return "will be built"
    return _VERB_OF.get((change.kind, change.action), VERB[change.action])


def why(change: Change, sensitive: frozenset[str] = frozenset()) -> str:
    """Why, where that is more than the differences say; "" otherwise."""
    note, more = WHY.get(change.reason, ""), change.note
    if change.kind == "image":
        more = more.removeprefix("pull").lstrip(" ;")  # which its verb says
    if more:
        note = f"{note}; {more}" if change.reason in (Reason.RERUN, Reason.REQUESTED) else more
    return one_line(redact(note, sensitive))


_AGAIN = {"all": "Options(rerun=True)", "failed": 'Options(rerun="failed")'}
_AGAIN_ON_COMMAND_LINE = {"all": "--rerun", "failed": "--rerun=failed"}


def plan_text(plan: Plan, again: Mapping[str, str] = _AGAIN) -> str:
    """The whole plan: drift first, then every change, then what has run already, then the counts. `again` is how its
    reader asks for what has run to run again."""
    blocks = list[str]()
    for change in plan.changes:
        if change.drift:
            head = [] if blocks else ["Changed outside sandboxrun since the last apply:", ""]
            lines = [f"      {line}" for line in drift_lines(change, plan.sensitive)]
            blocks.append("\n".join([*head, f"  ~ {label(change, plan.sensitive)}", *lines]))
    if plan.refresh_only:
        return "\n\n".join([*blocks, summary(plan)])
    blocks += [change_text(change, plan) for change in plan.pending]
    done = [change for change in plan.changes if change.reason in (Reason.DONE, Reason.KEPT)]
    if done:
        runs = {c.address: f"; {again[c.again]} runs it again" if c.again else "" for c in done}
        lines = [f"    {label(c, plan.sensitive)}: {why(c, plan.sensitive)}{runs[c.address]}" for c in done]
        blocks.append("\n".join(lines))
    if opened := openings(plan):
        lines = [f"  ! {redact(line, plan.sensitive)}" for line in opened]
        blocks.append("\n".join([_OPENS, *lines]))
    if widened := widenings(plan):
        lines = [f"  + {redact(line, plan.sensitive)}" for line in widened]
        blocks.append("\n".join([_WIDENS, *lines]))
    return "\n\n".join([*blocks, summary(plan)])


_COLOURS = {"+": "32", "~": "33", "-": "31", "-/+": "31"}  # OpenTofu's, as SGR codes


def painted(plan: Plan, *, colour: bool) -> str:
    """The plan as the command line shows it, in colours where they are wanted."""
    text = plan_text(plan, _AGAIN_ON_COMMAND_LINE)
    if not colour:
        return text
    warned, lines = False, []
    for line in text.split("\n"):
        warned = line in (_OPENS, _WIDENS) or (warned and line != "")
        mark = line.lstrip().partition(" ")[0]
        if warned:
            line = f"\x1b[1;31m{line}\x1b[0m"
        elif mark in _COLOURS:
            line = line.replace(mark, f"\x1b[{_COLOURS[mark]}m{mark}\x1b[0m", 1)
            line = line.replace(f"# {_FORCES}", f"\x1b[31m# {_FORCES}\x1b[0m")
        elif line.startswith("Plan: "):
            line = f"\x1b[1m{line}\x1b[0m"
        lines.append(line)
    return "\n".join(lines)


# Axes on which a profile opens what is closed by default, and not only gives more of it.
_CLOSED_AXES = (
    "capabilities", "system calls", "confinement", "user", "groups", "namespaces", "devices", "root filesystem",
    "mounts",
)  # fmt: skip


def openings(plan: Plan) -> list[str]:
    """What new sandboxes may do that one with all defaults could not, a sentence each."""
    told = []
    for change in plan.pending:
        if change.kind != "sandbox" or change.before is not None or change.after is None:
            continue
        new = spec_shown(change.after)
        name = label(change).removeprefix("sandbox ")
        told += [f"{name} {sentence}" for sentence in opened(new)] if new is not None else []
    return told


def opened(spec: SandboxSpec) -> tuple[str, ...]:
    """What it may do that one with all defaults could not, a sentence each, without whose it is."""
    return tuple(
        one_line(step.state[0])
        for axis, step in _steps(_CLOSED, spec)
        if axis in _CLOSED_AXES and step.way.name == "WIDENED" and (axis != "mounts" or "write to /" in step.witness)
    )


def widenings(plan: Plan) -> list[str]:
    """What sandboxes that run may do after it and not before, or maybe, a sentence each."""
    words = {"WIDENED": "", "MAYBE": " (maybe wider)"}
    return [one_line(f"{widened.sandbox} {widened.witness}{words[widened.way]}") for widened in widened_by(plan)]


class Widening(Data):
    """What one sandbox that runs may do after a plan and not before: on which axis, whether it is known (`WIDENED` or
    `MAYBE`), and a sentence."""

    sandbox: str
    axis: str
    way: str
    witness: str


def widened_by(plan: Plan) -> list[Widening]:
    """Every one."""
    told = []
    for change in plan.pending:
        if change.kind != "sandbox" or change.before is None or change.after is None:
            continue
        old, new = spec_shown(change.before), spec_shown(change.after)
        if old is None or new is None:
            continue  # of another version: its differences are in the plan
        name = label(change).removeprefix("sandbox ")
        told += [
            Widening(sandbox=name, axis=axis, way=step.way.name, witness=step.witness)
            for axis, step in _steps(old, new)
            if step.way.name in ("WIDENED", "MAYBE")
        ]
    return told


def _steps(old: SandboxSpec, new: SandboxSpec) -> Iterator[tuple[str, Step]]:
    from sandboxrun.spec.privilege import AXES, Side  # needed where something is new or differs only

    for axis in AXES:
        yield from ((axis.name, step) for step in axis.compare(Side(spec=old), Side(spec=new)))


def spec_shown(side: Mapping[str, Any]) -> SandboxSpec | None:
    """The options of one side of a change, as a plan shows them, as a spec; None where another version wrote them."""
    settable = {key: value for key, value in side.items() if key in BY_KEY and BY_KEY[key].settable}
    return parse_spec(node_of(settable), Problems())  # the others are the same for every sandbox


def warnings(plan: Plan) -> list[Diagnostic]:
    """What to know before the plan is carried out, with sensitive texts masked: what is the same of several sandboxes
    (those of one `for_each`, say) once."""
    known = {change.address for change in plan.changes}
    said: dict[Diagnostic, list[str]] = {}
    for warning in plan.warnings:
        address, _, rest = warning.message.partition(": ")
        of_one = address in known
        said.setdefault(structs.replace(warning, message=rest) if of_one else warning, []).extend([address] * of_one)
    return [redacted(_of_all(warning, addresses), plan.sensitive) for warning, addresses in said.items()]


def _of_all(warning: Diagnostic, addresses: list[str]) -> Diagnostic:
    if not addresses:
        return warning
    more = f" and {len(addresses) - _NAMED} more" if len(addresses) > _NAMED else ""
    return structs.replace(warning, message=f"{', '.join(addresses[:_NAMED])}{more}: {warning.message}")


def summary(plan: Plan) -> str:
    """The last line."""
    if plan.refresh_only:
        if any(change.drift for change in plan.changes):
            return "Nothing is changed by this: a plan that is not for refreshing only shows how it would be put right."
        return f"No drift. What runs is as it was applied ({plan.project})."
    if plan.empty and plan.destroy:
        return f"Nothing to destroy. The engine has nothing of {plan.project}."
    if plan.empty:
        sandboxes = [change for change in plan.changes if change.kind == "sandbox"]
        over = sandboxes and all(change.again for change in sandboxes)
        return (
            f"No changes. {'Everything has run already' if over else 'What runs matches the profile'} ({plan.project})."
        )
    add, change, destroy = plan.counts
    if plan.kept:
        return f"Plan: {add} to add, {change} to change, {destroy} to destroy, {plan.kept} to keep."
    if (add, change, destroy) == (0, 0, 0) and not any(c.kind == "image" for c in plan.pending):
        return f"Nothing to add, change or destroy ({plan.project})."
    return f"Plan: {add} to add, {change} to change, {destroy} to destroy."


def drift_lines(change: Change, sensitive: frozenset[str]) -> list[str]:
    """What drifted, from what was applied to what is, a line each."""
    turned = [structs.replace(d, before=d.after, after=d.before, effect=Effect.NONE, reason="") for d in change.drift]
    return _difference_lines(turned, sensitive)


def change_text(change: Change, plan: Plan) -> str:
    """One change: its line, then its options."""
    note = why(change, plan.sensitive)
    head = f"{SYMBOL[change.action]:>3} {label(change, plan.sensitive)} {verb(change)}{f' ({note})' if note else ''}"
    return "\n".join([head, *(f"      {line}" for line in option_lines(change, plan.sensitive))])


def option_lines(change: Change, sensitive: frozenset[str]) -> list[str]:
    """The options of a change, a line each, every one with its symbol: differences, or what a new one is made of."""
    before, after, differences = change.before, change.after, change.differences
    if not differences and change.kind == "sandbox" and change.action is Action.REPLACE and before and after:
        differences = tuple(  # what one that has ended and runs again will have changed
            Difference(key=key, before=before.get(key), after=after.get(key), effect=Effect.NONE)
            for key in [*after, *(k for k in before if k not in after)]
            if before.get(key) != after.get(key)
        )
    if differences:
        return _difference_lines(differences, sensitive)
    if change.action is not Action.CREATE or after is None:
        return []
    sandbox = change.kind == "sandbox"
    told = {key: value for key, value in after.items() if (not _implied(key, after) if sandbox else value)}
    rows = [f"+ {row}" for row in _aligned([(key, shown(value, sensitive)) for key, value in told.items()])]
    if not sandbox:
        return rows
    if after.get("egress") not in (None, "none"):  # what is made along with it, for it is seen on the engine
        rows.append("# with a network and a gateway of its own, its only way out: <container>.net, <container>.gateway")
    if after.get("read_only") is False and "size" not in (after.get("storage_opt") or {}):
        rows.append(
            "# its root may fill the engine's disk: storage_opt: {size: …} bounds it where the engine has quotas"
        )
    return [*rows, "# every other option at its closed default: see sandboxrun render"]


def _implied(key: str, after: Mapping[str, Any]) -> bool:
    """Whether an option says nothing that the defaults or another option do not say already."""
    if key in ALWAYS:
        return False
    if key == "networks" and not after[key]:
        return True  # network_mode or egress says it
    if key == "egress":
        return bool(after[key] == "none")  # network_mode says that; what it reaches is always told
    usual = after.get("mem_limit") if key == "memswap_limit" else DEFAULTS.get(key)
    return bool(after[key] == usual)


def _difference_lines(differences: Iterable[Difference], sensitive: frozenset[str]) -> list[str]:
    """The pairs aligned; where both sides are mappings, what differs in them."""
    differences = tuple(differences)
    width = max(len(d.key) for d in differences) + 1
    lines = []
    for d in differences:
        inner = _inner(d, sensitive)
        pair = f" {shown(d.before, sensitive)} -> {shown(d.after, sensitive)}" if not inner else ""
        remarks = ", ".join(filter(None, (_FORCES if d.effect is Effect.REPLACE else "", d.reason)))
        lines.append(f"~ {d.key + ':':<{width if pair else 0}}{pair}{f'  # {remarks}' if remarks else ''}")
        lines += inner
    return lines


def _inner(difference: Difference, sensitive: frozenset[str]) -> list[str]:
    """A line for each entry that differs, where both sides are mappings that hold something."""
    before, after = difference.before, difference.after
    if not (isinstance(before, Mapping) and isinstance(after, Mapping) and before and after):
        return []
    symbols, rows = [], []
    for key in [*before, *(k for k in after if k not in before)]:
        sides = [shown(side[key], sensitive) for side in (before, after) if key in side]
        if len(sides) == 2 and before[key] == after[key]:
            continue
        symbols.append("~" if len(sides) == 2 else "-" if key in before else "+")
        rows.append((one_line(redact(str(key), sensitive)), " -> ".join(sides)))
    return [f"    {symbol} {row}" for symbol, row in zip(symbols, _aligned(rows), strict=True)]


def _aligned(rows: list[tuple[str, str]]) -> list[str]:
    """`key: text` with the texts in one column."""
    width = max((len(key) for key, _ in rows), default=0) + 1
    return [f"{key + ':':<{width}} {text}".rstrip() for key, text in rows]
