"""Verdicts: the truth table, and that nothing passes of which nothing was seen."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec import structs

from sandboxrun.probe import controls as judging
from sandboxrun.probe.controls import CONTROLS, judge
from sandboxrun.probe.verdicts import Comparison, Context, Control, Finding, Phase, Seen, Verdict
from sandboxrun.spec.types import freeze
from tests.unit.probe.seeing import OPEN, context


def _answer(seen: Seen, _context: Context) -> Comparison:
    said = seen.get("probe", {}).get("value", "")
    return Comparison("yes", said, {"yes": True, "no": False}.get(said))


ONE = Control("one", "One", _answer)


def found(monkeypatch: pytest.MonkeyPatch, strong: str | None, weak: str | None, **changed: Any) -> Finding:
    """The finding of one control, from what its probe showed; None: the phase did not run."""
    monkeypatch.setattr(judging, "CONTROLS", (structs.replace(ONE, **changed),))
    runs = [{} if v is None else {Phase.BATTERY: freeze({"probe": freeze({"value": v})})} for v in (strong, weak)]
    (finding,) = judge("agent", context(), *runs, {"one": "HostConfig.One"})
    return finding


@pytest.mark.parametrize(
    ("strong", "weak", "verdict", "note"),
    [
        ("yes", "no", Verdict.HOLDS, ""),
        ("yes", "yes", Verdict.INCONCLUSIVE, "the weak sandbox shows no difference: yes"),
        ("yes", "", Verdict.INCONCLUSIVE, "the weak sandbox shows no difference: nothing was seen"),
        ("yes", None, Verdict.INCONCLUSIVE, "the weak sandbox shows no difference: nothing was seen"),
        ("no", "no", Verdict.FAILS, ""),
        ("no", "yes", Verdict.FAILS, ""),
        ("no", None, Verdict.FAILS, ""),
        ("", "no", Verdict.INCONCLUSIVE, "the result is undecided"),
        ("", "yes", Verdict.INCONCLUSIVE, "the result is undecided"),
        (None, "no", Verdict.INCONCLUSIVE, "the result is undecided: the program did not run to it"),
        (None, None, Verdict.INCONCLUSIVE, "the result is undecided: the program did not run to it"),
    ],
)
def test_the_table(
    monkeypatch: pytest.MonkeyPatch, strong: str | None, weak: str | None, verdict: Verdict, note: str
) -> None:
    finding = found(monkeypatch, strong, weak)
    assert (finding.verdict, finding.note) == (verdict, note)
    assert (finding.sandbox, finding.control, finding.field) == ("agent", "one", "HostConfig.One")
    assert (finding.expected, finding.seen) == ("yes", strong or "nothing")


@pytest.mark.parametrize(
    ("strong", "weak", "verdict"),
    [
        ("yes", "yes", Verdict.HOLDS),
        ("yes", None, Verdict.INCONCLUSIVE),
        ("no", "yes", Verdict.FAILS),
        ("", "yes", Verdict.INCONCLUSIVE),
    ],
)
def test_a_rootless_engine_cannot_give_a_weak_sandbox_what_it_has_not(
    monkeypatch: pytest.MonkeyPatch, strong: str, weak: str | None, verdict: Verdict
) -> None:
    rootless = structs.replace(context(), rootless=True)
    monkeypatch.setattr("tests.unit.probe.test_judge.context", lambda: rootless)
    finding = found(monkeypatch, strong, weak, takes_root=True)
    assert finding.verdict is verdict
    assert finding.note.startswith("without a negative control: a rootless") is (verdict is Verdict.HOLDS)
    assert found(monkeypatch, "yes", "yes").verdict is Verdict.INCONCLUSIVE  # what a user may give away


def test_what_does_not_apply_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    finding = found(monkeypatch, "no", "no", look=lambda seen, context: "there is none")
    assert (finding.verdict, finding.note, finding.seen) == (Verdict.NOT_APPLICABLE, "there is none", "")


def test_what_shows_itself_to_be_moot_says_why_but_never_hides_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    moot = {"moot": lambda strong, weak, context: "this kernel has none"}
    assert found(monkeypatch, "yes", "yes", **moot).verdict is Verdict.NOT_APPLICABLE
    assert found(monkeypatch, "no", "yes", **moot).verdict is Verdict.FAILS
    assert found(monkeypatch, "", "yes", **moot).verdict is Verdict.INCONCLUSIVE


def test_an_exemption_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    finding = found(monkeypatch, "yes", "yes", exempt="nobody can be two")
    assert (finding.verdict, finding.note) == (Verdict.HOLDS, "without a negative control: nobody can be two")
    assert found(monkeypatch, "no", "yes", exempt="nobody can be two").verdict is Verdict.FAILS


def test_a_negative_control_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    assert found(monkeypatch, "yes", "yes", negative=lambda *_: True).verdict is Verdict.HOLDS
    assert found(monkeypatch, "yes", "no", negative=lambda *_: False).verdict is Verdict.INCONCLUSIVE


def test_only_what_holds_or_does_not_apply_passes() -> None:
    assert {verdict for verdict in Verdict if verdict.passes} == {Verdict.HOLDS, Verdict.NOT_APPLICABLE}


@pytest.mark.parametrize("one", CONTROLS, ids=lambda one: one.id)
def test_nothing_passes_of_which_nothing_was_seen(one: Control) -> None:
    findings = {finding.control: finding for finding in judge("agent", context(), {}, {})}
    assert findings[one.id].verdict is Verdict.INCONCLUSIVE, findings[one.id].note
    ended = {phase: freeze({"end": freeze({}), "@outcome": freeze({})}) for phase in Phase}
    findings = {finding.control: finding for finding in judge("agent", context(), ended, ended)}
    assert not findings[one.id].verdict.passes


def test_what_a_profile_opens_is_not_applicable_not_passed_over() -> None:
    findings = judge("agent", Context(spec=OPEN, host_cpus=8), {}, {})
    reasons = {f.control: f.note for f in findings if f.verdict is Verdict.NOT_APPLICABLE}
    for control in ("capabilities", "no-new-privileges", "seccomp", "user", "groups", "setuid", "root", "mounting"):
        assert reasons[control].startswith("the profile "), control
    for control in ("memory", "memory-limit", "swap-limit", "pids-limit", "processes", "cpu-quota", "ulimits"):
        assert reasons[control].startswith("the profile sets no"), control
    assert reasons["gateway-hosts"] == "egress: open lets every public host through"
    assert all(reasons.values())


def test_a_gateway_that_lets_nothing_through_shows_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    gateway = judging.BY_ID["gateway-hosts"]
    finding = found(monkeypatch, "yes", None, negative=gateway.negative, undecided=gateway.undecided)
    assert finding.verdict is Verdict.INCONCLUSIVE
    assert finding.note == "nor was any listed host let through: does the engine's name server answer?"
