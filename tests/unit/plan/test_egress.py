"""Gateways in plans: made with their sandbox, reloaded in place, started again, and gone with it."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec import structs

from sandboxrun.errors import PlanError
from sandboxrun.plan import operations as op
from sandboxrun.plan.changes import Action, Change, Plan
from sandboxrun.plan.planner import make_collect_plan, make_destroy_plan, make_plan
from sandboxrun.spec import labels
from sandboxrun.spec.option_types import CLOSED, PUBLIC, Egress
from sandboxrun.spec.project import DeclaredSandbox, NetworkSpec
from sandboxrun.spec.state import Companion, ObservedNetwork, ObservedSandbox, Snapshot
from sandboxrun.spec.types import freeze
from tests.unit.plan.world import HELPER, declared, ended, network, observed, profile, snapshot

API = Egress(allow=("api.example.com:443",))
OUTSIDE = network("egress")
RUN = "0123456789abcdef"


def companion(role: str = "gateway", *, run: str = RUN, running: bool = True) -> Companion:
    return Companion(id=f"{role:e<64}", role=role, run=run, running=running)


def private(of: str = "review-a", run: str = RUN) -> ObservedNetwork:
    name = f"{of}.net"
    return ObservedNetwork(id=f"{name:f<64}", name=name, key=name, config="", spec=NetworkSpec(), run=run)


def running(sandbox: DeclaredSandbox, *companions: Companion, **rest: Any) -> Snapshot:
    networks = (OUTSIDE, private())
    return snapshot(observed(sandbox), networks=networks, companions=companions, helper=HELPER, **rest)


def ids(plan: Plan) -> list[str]:
    return [step.id for step in plan.operations]


def step(plan: Plan, kind: type) -> Any:
    (found,) = [s for s in plan.operations if isinstance(s, kind)]
    return found


def of(plan: Plan, address: str) -> Change:
    (found,) = [c for c in plan.changes if c.address == address]
    return found


def test_a_sandbox_starts_once_its_gateway_serves() -> None:
    plan = make_plan(profile(declared("a", egress=API)), snapshot(networks=(), helper=HELPER))
    assert ids(plan) == [
        "create network.egress",
        "volume a rules",
        "network a",
        "create a gateway",
        "start a gateway",
        "create a",
        "start a",
    ]
    assert {"create network.egress", "network a", "volume a rules"} <= set(step(plan, op.CreateGateway).needs)
    assert "network a" in step(plan, op.CreateSandbox).needs
    assert "start a gateway" in step(plan, op.StartSandbox).needs
    assert step(plan, op.CreateGateway).image == HELPER.id


def test_the_gateways_image_is_built_once_where_it_is_not_there() -> None:
    absent = structs.replace(HELPER, id=None)
    plan = make_plan(profile(declared("a", egress=API), declared("b", egress=API)), snapshot(helper=absent))
    assert ids(plan).count(f"build {absent.reference}") == 1
    gateways = [s for s in plan.operations if isinstance(s, op.CreateGateway)]
    assert [g.image for g in gateways] == [absent.reference] * 2
    assert all(f"build {absent.reference}" in g.needs for g in gateways)
    assert f"  + image {absent.reference} will be built (from {absent.base})" in str(plan).split("\n")


def test_an_image_that_nobody_needs_is_not_built() -> None:
    absent, sandbox = structs.replace(HELPER, id=None), declared("a", egress=API)
    assert make_plan(profile(sandbox), structs.replace(running(sandbox, companion()), helper=absent)).empty
    assert not any(
        isinstance(s, op.BuildHelper) for s in make_plan(profile(declared("b")), snapshot(helper=absent)).operations
    )


def test_another_list_reloads_the_gateway_and_leaves_the_sandbox_alone() -> None:
    before, after = declared("a", egress=API), declared("a", egress=PUBLIC)
    plan = make_plan(profile(after), running(before, companion()))
    assert of(plan, "a").action is Action.UPDATE
    assert ids(plan) == ["reload a gateway", "record a"]
    assert step(plan, op.ReloadGateway).container == companion().id


@pytest.mark.parametrize(
    ("was", "will"), [(CLOSED, API), (API, CLOSED), (API, structs.replace(API, resolvers=("::1",)))]
)
def test_a_sandbox_that_is_wired_otherwise_is_replaced(was: Egress, will: Egress) -> None:
    plan = make_plan(profile(declared("a", egress=will)), running(declared("a", egress=was), companion()))
    assert of(plan, "a").action is Action.REPLACE


def test_a_gateway_that_died_is_drift_and_is_started_again() -> None:
    sandbox = declared("a", egress=API)
    plan = make_plan(profile(sandbox), running(sandbox, companion(running=False)))
    (difference,) = of(plan, "a").differences
    assert difference.drift and difference.reason == "its gateway does not run"
    assert ids(plan) == ["start a gateway"]
    assert step(plan, op.StartGateway).container == companion().id


def test_a_gateway_that_somebody_took_off_its_networks_is_drift_and_is_brought_back() -> None:
    sandbox = declared("a", egress=API)
    lost = structs.replace(companion(), placed=False)
    plan = make_plan(profile(sandbox), running(sandbox, lost))
    (difference,) = of(plan, "a").differences
    assert difference.drift and difference.reason == "its gateway is not on its two networks alone"
    assert ids(plan) == ["start a gateway"]
    assert step(plan, op.StartGateway).container == lost.id


def test_a_gateway_comes_back_after_the_network_that_leads_outside() -> None:
    sandbox, lost = declared("a", egress=API), structs.replace(companion(), placed=False)
    seen = structs.replace(running(sandbox, lost), networks=(private(),))
    assert "create network.egress" in step(make_plan(profile(sandbox), seen), op.StartGateway).needs


def test_a_gateway_made_anew_has_the_names_that_its_sandbox_was_made_under() -> None:
    """A sandbox that took another one's place: its network and its rules keep their names."""
    sandbox = declared("a", egress=API)
    taken = observed(sandbox)
    base = f"{taken.name}.next-0123456789ab"
    taken = structs.replace(taken, labels=freeze({**taken.labels, labels.BASE: base}))
    seen = snapshot(taken, networks=(OUTSIDE, private(base)), helper=HELPER)
    assert step(make_plan(profile(sandbox), seen), op.CreateGateway).sandbox.name == base


def test_a_gateway_that_is_gone_is_made_anew() -> None:
    sandbox = declared("a", egress=API)
    plan = make_plan(profile(sandbox), running(sandbox))
    assert ids(plan) == ["create a gateway", "start a gateway"]
    assert step(plan, op.CreateGateway).run == RUN


def test_a_gateway_that_never_ran_is_made_anew() -> None:
    """An apply that was killed made it: it may stand on no network yet, and its rules may not be there."""
    sandbox, half = declared("a", egress=API), structs.replace(companion(running=False), started=False)
    plan = make_plan(profile(sandbox), running(sandbox, half))
    assert ids(plan) == [f"leftover {half.id[:12]}", "create a gateway", "start a gateway"]
    assert f"leftover {half.id[:12]}" in step(plan, op.CreateGateway).needs


def test_what_is_its_own_goes_with_it_and_its_records_are_kept_first() -> None:
    sandbox = declared("a", egress=API)
    seen = running(sandbox, companion(), companion("keeper"))
    plan = make_destroy_plan(profile(sandbox), seen)
    assert ids(plan) == ["stop a", "evidence a", "remove a", "remove network.egress"]
    assert step(plan, op.CaptureEvidence).gateway == companion().id
    removal = step(plan, op.RemoveSandbox)
    assert removal.companions == (companion().id, companion("keeper").id)
    assert removal.network == private().id


def test_the_networks_of_sandboxes_that_are_gone_are_swept() -> None:
    plan = make_plan(profile(), snapshot(networks=(private(),), leftovers=("e" * 64,)))
    assert ids(plan) == ["leftover eeeeeeeeeeee", "remove network.review-a.net"]
    assert step(plan, op.RemoveNetwork).needs == ("leftover eeeeeeeeeeee",)


def test_gateways_are_moved_when_the_network_to_the_outside_is_replaced() -> None:
    sandbox = declared("a", egress=API)
    drifted = structs.replace(OUTSIDE, spec=NetworkSpec(internal=True))
    seen = structs.replace(running(sandbox, companion()), networks=(drifted, private()))
    assert ids(make_plan(profile(sandbox), seen)) == [
        "disconnect a gateway egress",
        "remove network.egress",
        "create network.egress",
        "connect a gateway egress",
    ]


def test_the_network_of_a_gateway_stays_though_its_sandbox_was_changed_behind_our_back() -> None:
    """A `run` that ends must not take it from another sandbox's gateway, nor fail because it can't."""
    other = observed(declared("a", egress=API))
    drifted = structs.replace(other, spec=structs.replace(other.spec, egress=None))
    seen = snapshot(drifted, networks=(OUTSIDE, private()), companions=(companion(),), helper=HELPER)
    collected = make_collect_plan(profile(declared("b", egress=API)), seen, [], networks=True)
    assert ids(collected) == []


def test_a_sandbox_that_ended_takes_its_gateway_along() -> None:
    sandbox = declared("a", egress=API)
    ran: ObservedSandbox = observed(sandbox, ended(0))
    seen = snapshot(ran, networks=(OUTSIDE, private()), companions=(companion(),), helper=HELPER)
    plan = make_plan(profile(sandbox), seen)
    assert ids(plan) == ["evidence a", "remove a", "remove network.egress"]


def test_a_gateway_image_with_too_old_an_haproxy_is_refused() -> None:
    helper = structs.replace(HELPER, unfit="has HAProxy 2.4.22, and 2.6 or newer is needed")
    plain = declared("b", egress=CLOSED)
    with pytest.raises(PlanError) as caught:
        make_plan(profile(declared("a", egress=API), plain), snapshot(networks=(), helper=helper))
    (fault,) = caught.value.diagnostics
    assert (
        fault.message
        == f"a: egress: the gateway's image {HELPER.reference} has HAProxy 2.4.22, and 2.6 or newer is needed"
    )
    assert str(fault.help).startswith("`sandboxrun gateway build` builds it again")
    assert make_plan(profile(plain), snapshot(networks=(), helper=helper)).operations
