"""Every control, in the order in which they are shown, and verdicts: each judged by what the sandbox and the weak
one showed. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import structs

from sandboxrun.probe import filesystem, network, privilege, resources
from sandboxrun.probe.verdicts import NOTHING, Comparison, Context, Control, Finding, Phase, Seen, Verdict
from sandboxrun.spec.types import freeze

# -- Every control, in the order in which they are shown

FAMILIES: dict[str, tuple[Control, ...]] = {
    "Privilege": privilege.CONTROLS,
    "File system": filesystem.CONTROLS,
    "Resources": resources.CONTROLS,
    "Kernel": privilege.KERNEL,
    "Network": network.CONTROLS,
    "Gateway": network.GATEWAY,
    "Files": filesystem.FILES,
}
CONTROLS: tuple[Control, ...] = tuple(control for family in FAMILIES.values() for control in family)
BY_ID = freeze({control.id: control for control in CONTROLS})


# -- Verdicts: each control judged by what the sandbox showed and what the weak one did. Pure


def judge(
    sandbox: str,
    context: Context,
    seen: Mapping[Phase, Seen],
    control: Mapping[Phase, Seen],
    fields: Mapping[str, str] = NOTHING,
) -> tuple[Finding, ...]:
    """A finding for every control, in the table's order. `seen` is what the sandbox showed in each phase, `control`
    what the weak one did; a phase that did not run is left out of them, and what it should have shown is inconclusive.
    `fields` are the engine's own names of the controls.
    """
    found = []
    for one in CONTROLS:
        strong, weak = seen.get(one.phase, {}), control.get(one.phase, {})
        answer, verdict = one.look(strong, context), None
        if isinstance(answer, Comparison):
            verdict, note = _verdict(one, context, answer, strong, weak)
            answer = structs.replace(answer, seen=answer.seen or "nothing", note=note)
        found.append(Finding.of(sandbox, one.id, one.title, fields.get(one.id, ""), answer, verdict))
    return tuple(found)


def _verdict(one: Control, context: Context, answer: Comparison, strong: Seen, weak: Seen) -> tuple[Verdict, str]:
    if answer.holds is None:
        ended = "" if strong else ": the program did not run to it"
        return Verdict.INCONCLUSIVE, f"the result is undecided{ended}"
    if not answer.holds:
        return Verdict.FAILS, ""
    if (reason := one.moot(strong, weak, context)) is not None:
        return Verdict.NOT_APPLICABLE, reason
    if one.exempt:
        return Verdict.HOLDS, f"without a negative control: {one.exempt}"
    if not failed(one, context, strong, weak):
        if weak and one.takes_root and context.rootless:
            return Verdict.HOLDS, "without a negative control: a rootless engine has no such right to give away"
        other = one.look(weak, context)
        shown = other.seen if isinstance(other, Comparison) else ""
        said = one.undecided or f"the weak sandbox shows no difference: {shown or 'nothing was seen'}"
        return Verdict.INCONCLUSIVE, said
    return Verdict.HOLDS, ""


def failed(one: Control, context: Context, strong: Seen, weak: Seen) -> bool:
    """Whether the negative control failed, as it must."""
    if one.negative is not None:
        return one.negative(strong, weak, context)
    other = one.look(weak, context)
    return isinstance(other, Comparison) and other.holds is False
