"""The planner's table, row by row: what the engine shows, what the profile says, what happens and in which order."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from msgspec import structs

from sandboxrun.errors import PlanError, UsageError
from sandboxrun.plan import operations as op
from sandboxrun.plan.changes import Action, Plan, Reason
from sandboxrun.plan.operations import networks_of
from sandboxrun.plan.planner import Options, due, make_destroy_plan, make_plan, next_deadline, select
from sandboxrun.spec.names import part_volume
from sandboxrun.spec.option_types import PUBLIC, Egress
from sandboxrun.spec.project import DeclaredSandbox, NetworkSpec, VolumeSpec, config_digest
from sandboxrun.spec.records import Attachment, Dependency, FileRef, Lifetime, Mount, Workspace
from sandboxrun.spec.state import Companion, Completed, Created, Foreign, Image, ImageConfig, ObservedVolume, Running
from sandboxrun.spec.types import freeze
from tests.conftest import examples
from tests.unit.plan.world import (
    HELPER,
    NODE,
    NOW,
    STARTED,
    declared,
    ended,
    network,
    observed,
    profile,
    snapshot,
    spec,
)
from tests.unit.spec.values import specs

A = declared("a", network_mode="none")
B = declared("b", network_mode="none")
NONE: dict[str, Any] = {"networks": ()}


def text(plan: Plan) -> list[str]:
    return str(plan).split("\n")


def steps(plan: Plan) -> list[str]:
    return [step.id for step in plan.operations]


def needs(plan: Plan) -> dict[str, tuple[str, ...]]:
    return {step.id: step.needs for step in plan.operations}


def only(plan: Plan) -> tuple[Action, Reason]:
    (change,) = plan.pending
    return change.action, change.reason


# -- one sandbox -------------------------------------------------------------------------------------------------


def test_absent_and_no_record_is_created() -> None:
    plan = make_plan(profile(A), snapshot(**NONE))
    assert only(plan) == (Action.CREATE, Reason.NEW)
    assert steps(plan) == ["create a", "start a"]


def test_running_and_equal_is_left_alone() -> None:
    plan = make_plan(profile(A), snapshot(observed(A), **NONE))
    assert plan.empty and plan.operations == () and plan.counts == (0, 0, 0)
    assert [(c.action, c.reason) for c in plan.changes] == [(Action.NONE, Reason.UP_TO_DATE)]


def test_a_live_option_is_updated_in_place() -> None:
    new = structs.replace(A, spec=spec(network_mode="none", mem_limit=2**30, pids_limit=5))
    plan = make_plan(profile(new), snapshot(observed(A), **NONE))
    assert only(plan) == (Action.UPDATE, Reason.CHANGED)
    assert text(plan) == [
        "  ~ sandbox a will be updated in place",
        '      ~ mem_limit:     "512m" -> "1g"',
        '      ~ memswap_limit: "512m" -> "1g"',
        "      ~ pids_limit:    256 -> 5",
        "",
        "This plan widens what sandboxes may do:",
        "  + a may now use memory: 1g, was 512m",
        "",
        "Plan: 0 to add, 1 to change, 0 to destroy.",
    ]
    assert steps(plan) == ["update a", "record a"]
    assert needs(plan)["record a"] == ("update a",)
    (update, _) = plan.operations
    assert isinstance(update, op.UpdateSandbox)
    assert update.options == ("mem_limit", "memswap_limit", "pids_limit")


@pytest.mark.parametrize("options", [{"mem_limit": 0}, {"cpus": 0.0}, {"user": "5"}, {"read_only": False}])
def test_what_cannot_change_live_is_replaced(options: dict[str, Any]) -> None:
    new = structs.replace(A, spec=spec(network_mode="none", **options))
    plan = make_plan(profile(new), snapshot(observed(A), **NONE))
    assert only(plan) == (Action.REPLACE, Reason.CANNOT_UPDATE)
    assert "# forces replacement" in str(plan)
    assert plan.counts == (1, 0, 1)
    assert steps(plan) == ["create a", "start a", "stop a", "evidence a", "remove a", "rename a"]
    assert needs(plan) == {
        "create a": (),
        "start a": ("create a",),
        "stop a": ("start a",),
        "evidence a": ("stop a",),
        "remove a": ("evidence a",),
        "rename a": ("remove a",),
    }
    create, rename = plan.operations[0], plan.operations[-1]
    assert isinstance(create, op.CreateSandbox) and isinstance(rename, op.RenameSandbox)
    assert (create.sandbox.name, rename.name) == (f"review-a.next-{observed(A).id[:12]}", "review-a")


DATA = Mount(type="volume", source="data", target="/data")
HERE = Mount(type="bind", source="/srv/data", target="/data")
FIXED = {"networks": freeze({"default": Attachment(ipv4_address="10.77.0.2")})}


@pytest.mark.parametrize(
    ("before", "after", "excludes"),
    [
        ({"volumes": (DATA,)}, {"volumes": (DATA,)}, True),
        ({"volumes": (DATA,)}, {"volumes": (structs.replace(DATA, read_only=True),)}, True),
        (
            {"volumes": (structs.replace(DATA, read_only=True),)},
            {"volumes": (structs.replace(DATA, read_only=True),)},
            False,
        ),
        ({"volumes": (DATA,)}, {}, False),
        ({"volumes": (DATA,)}, {"volumes": (structs.replace(DATA, source="other"),)}, False),
        ({"volumes": (HERE,)}, {"volumes": (structs.replace(HERE, source="/srv/data/below"),)}, True),
        ({"volumes": (HERE,)}, {"volumes": (structs.replace(HERE, source="/srv/database"),)}, False),
        (
            {"workspace": Workspace(source="/project", access="rw")},
            {"volumes": (structs.replace(HERE, source="/"),)},
            True,
        ),
        ({"workspace": Workspace(source="/project")}, {"workspace": Workspace(source="/project")}, False),
        (FIXED, FIXED, True),
        (FIXED, {}, False),
        ({"gpus": 1}, {"gpus": 1}, True),
        ({}, {}, False),
    ],
)
def test_the_old_one_is_ended_first_only_where_both_would_hold_the_same(
    before: dict[str, Any], after: dict[str, Any], excludes: bool
) -> None:
    """In either case all of the new one is made before the old one is touched."""
    old, new = declared("a", **before), declared("a", user="5", **after)
    volumes = freeze({"data": VolumeSpec(), "other": VolumeSpec()})
    known = tuple(ObservedVolume(name=f"review_{key}", key=key, config=config_digest(VolumeSpec())) for key in volumes)
    seen = snapshot(observed(old), networks=(network(),), volumes=known)
    plan = make_plan(profile(new, volumes=volumes), seen)
    assert only(plan) == (Action.REPLACE, Reason.CANNOT_UPDATE)
    order = steps(plan)[steps(plan).index("create a") :]
    ended = ["stop a", "evidence a", "remove a", "rename a"]
    assert [s for s in order if not s.startswith("upload")] == (
        ["create a", *ended, "start a"] if excludes else ["create a", "start a", *ended]
    )
    made = needs(plan)["start a"]
    assert needs(plan)["stop a"] == (tuple(n for n in made if n != "rename a") if excludes else ("start a",))


def test_networks_and_dependencies_come_before_the_old_one_is_touched() -> None:
    networks = freeze({"default": Attachment(), "other": Attachment()})
    new = structs.replace(declared("a", user="5", networks=networks), depends_on=freeze({"b": Dependency()}))
    there = (network(), network("other"))
    plan = make_plan(profile(new, B), snapshot(observed(declared("a")), observed(B), networks=there))
    assert steps(plan) == [
        *("create a", "connect a other", "check a", "await a b"),
        *("start a", "stop a", "evidence a", "remove a", "rename a"),
    ]
    assert needs(plan)["check a"] == ("create a", "connect a other")
    assert needs(plan)["start a"] == ("create a", "connect a other", "check a", "await a b")


def test_a_network_made_anew_takes_the_old_one_along() -> None:
    """A sandbox that is replaced is on the new network until the other one has taken its place."""
    fixed = freeze({"default": Attachment(ipv4_address="10.77.0.2")})
    old, new = declared("a"), declared("a", networks=fixed, user="5")
    changed = freeze({"default": NetworkSpec(internal=True)})
    plan = make_plan(profile(new, networks=changed), snapshot(observed(old), networks=(network(),)))
    assert steps(plan) == [
        *("disconnect a default", "remove network.default", "create network.default", "connect a default"),
        *("create a", "start a", "stop a", "evidence a", "remove a", "rename a"),
    ]
    (connect,) = [step for step in plan.operations if isinstance(step, op.ConnectNetwork)]
    assert (connect.container, connect.attachment) == (observed(old).id, Attachment())


def test_of_two_the_one_that_was_started_last_is_the_sandbox() -> None:
    """An apply that was killed while it replaced one leaves both."""
    new = structs.replace(A, spec=spec(network_mode="none", user="5"))
    later = Running(started=STARTED + timedelta(seconds=5))
    half = structs.replace(observed(new, Created()), id="f" * 64, name="review-a.next-0", run="f" * 32)
    plan = make_plan(profile(new), snapshot(half, observed(A), **NONE))
    assert [(c.address, c.action, c.note) for c in plan.pending] == [
        ("a", Action.REPLACE, ""),
        ("a (run ffffffffffff)", Action.DELETE, "an apply that replaced it did not finish"),
    ]
    assert steps(plan)[:2] == ["remove a (run ffffffffffff)", "create a"]
    assert needs(plan)["create a"] == ("remove a (run ffffffffffff)",)
    started = structs.replace(half, state=later)
    plan = make_plan(profile(new), snapshot(observed(A), started, **NONE))
    old = "a (run 0123456789ab)"
    assert steps(plan) == [f"stop {old}", f"evidence {old}", f"remove {old}", "rename a"]
    assert needs(plan)["rename a"] == (f"remove {old}",)
    assert len(make_destroy_plan(profile(new), snapshot(observed(A), started, **NONE)).operations) == 6


def test_another_timeout_makes_another_container_where_its_pid_1_holds_it() -> None:
    def with_timeout(timeout: int | None, **options: Any) -> DeclaredSandbox:
        return structs.replace(A, spec=spec(network_mode="none", lifetime=Lifetime(timeout=timeout), **options))

    def planned(old: DeclaredSandbox, new: DeclaredSandbox, limit: float | None) -> tuple[Any, str]:
        there = observed(old, Running(started=STARTED, limit=limit))
        plan = make_plan(profile(new), snapshot(there, taken=STARTED, **NONE))
        (change,) = plan.pending
        return change.action, change.differences[0].reason

    second = 10**9
    held, added = "its PID 1 holds the timeout it was started with", "its PID 1 must hold the timeout"
    assert planned(with_timeout(5 * second), with_timeout(6 * second), 5.0) == (Action.REPLACE, held)
    assert planned(with_timeout(5 * second), with_timeout(None), 5.0) == (Action.REPLACE, held)
    assert planned(with_timeout(None), with_timeout(6 * second), None) == (Action.REPLACE, added)
    unheld = {"init": False}
    assert planned(with_timeout(None, **unheld), with_timeout(6 * second, **unheld), None) == (Action.UPDATE, "")
    assert planned(with_timeout(5 * second, **unheld), with_timeout(None, **unheld), None) == (Action.UPDATE, "")


def test_an_option_of_our_own_is_recorded_and_nothing_else() -> None:
    new = structs.replace(A, spec=spec(network_mode="none", lifetime=Lifetime(ttl=5 * 10**9)))
    plan = make_plan(profile(new), snapshot(observed(A), taken=STARTED, **NONE))
    assert only(plan) == (Action.UPDATE, Reason.CHANGED)
    assert steps(plan) == ["record a"]


def test_drift_is_shown_and_put_right() -> None:
    plan = make_plan(profile(A), snapshot(observed(A, cpus=2.0), **NONE))
    assert only(plan) == (Action.UPDATE, Reason.DRIFTED)
    assert steps(plan) == ["update a"]  # what is recorded is right already
    (change,) = plan.pending
    assert [(d.key, d.before, d.after, d.drift) for d in change.differences] == [("cpus", 2, 1, True)]
    replaced = make_plan(profile(A), snapshot(observed(A, read_only=False), **NONE))
    assert only(replaced) == (Action.REPLACE, Reason.CANNOT_UPDATE)
    assert [d.drift for d in replaced.pending[0].differences] == [True]


def test_changed_and_drifted_are_told_apart() -> None:
    """Last applied 512m; live 1g; the profile says 2g: both happened, what was declared wins."""
    new = structs.replace(A, spec=spec(network_mode="none", mem_limit=2**31))
    plan = make_plan(profile(new), snapshot(observed(A, mem_limit=2**30, cpus=3.0), **NONE))
    (change,) = plan.pending
    assert {d.key: d.drift for d in change.differences} == {"mem_limit": False, "memswap_limit": False, "cpus": True}
    assert change.reason is Reason.CHANGED
    # a label that cannot be read: nobody can say, so it counts as changed
    unknown = structs.replace(observed(A, cpus=3.0), applied=None)
    plan = make_plan(profile(A), snapshot(unknown, **NONE))
    assert [d.drift for d in plan.pending[0].differences] == [False]


def test_refresh_only_looks_and_does_nothing() -> None:
    plan = make_plan(profile(A, B), snapshot(observed(A, cpus=2.0), **NONE), Options(refresh_only=True))
    assert plan.empty and plan.operations == ()
    assert [d.key for change in plan.changes for d in change.differences] == ["cpus"]


def test_a_tag_that_moved_is_a_replacement_with_that_reason() -> None:
    other = "sha256:" + "b" * 64
    moved = {"node:20-alpine": Image(config=ImageConfig(id=other))}
    plan = make_plan(profile(A), snapshot(observed(A), images=moved, **NONE))
    assert only(plan) == (Action.REPLACE, Reason.IMAGE_MOVED)
    assert "the tag has moved" in str(plan)
    (create,) = [step for step in plan.operations if isinstance(step, op.CreateSandbox)]
    assert create.image_id == other


def test_a_tag_that_moved_in_the_registry_counts_where_the_newest_is_wanted() -> None:
    always = declared("a", network_mode="none", pull_policy="always")
    known = ImageConfig(id=NODE, digests=("node@sha256:old",))
    newer = {"node:20-alpine": Image(config=known, digest="sha256:new")}
    same = {"node:20-alpine": Image(config=known, digest="sha256:old")}
    plan = make_plan(profile(always), snapshot(observed(always), images=newer, **NONE))
    assert [(c.address, c.action, c.reason) for c in plan.pending] == [
        ("image.node:20-alpine", Action.UPDATE, Reason.IMAGE_MOVED),
        ("a", Action.REPLACE, Reason.IMAGE_MOVED),
    ]
    ended = ["stop a", "evidence a", "remove a", "rename a"]
    assert steps(plan) == ["pull node:20-alpine", "create a", "start a", *ended]
    assert needs(plan)["create a"] == ("pull node:20-alpine",)
    assert make_plan(profile(always), snapshot(observed(always), images=same, **NONE)).empty
    assert make_plan(profile(A), snapshot(observed(A), images=newer, **NONE)).empty


def test_an_image_that_is_not_there_is_pulled() -> None:
    absent = {"node:20-alpine": Image(config=None, digest="sha256:new")}
    plan = make_plan(profile(A, B), snapshot(images=absent, **NONE))
    assert steps(plan) == ["pull node:20-alpine", "create a", "start a", "create b", "start b"]
    assert plan.counts == (2, 0, 0)
    never = declared("a", network_mode="none", pull_policy="never")
    assert steps(make_plan(profile(never), snapshot(images=absent, **NONE))) == ["create a", "start a"]


def test_half_made_is_made_anew() -> None:
    plan = make_plan(profile(A), snapshot(observed(A, Created()), **NONE))
    assert only(plan) == (Action.REPLACE, Reason.HALF_MADE)
    assert steps(plan) == ["remove a", "create a", "start a"]  # nothing of it ran: no evidence


@pytest.mark.parametrize(
    ("state", "reason", "note"),
    [
        (ended(0), Reason.COMPLETED, "completed"),
        (ended(3), Reason.FAILED, "exited with 3"),
        (ended(137, oom=True), Reason.OOM, "killed for exceeding its memory limit"),
        (ended(127, error="no such file"), Reason.FAILED, "no such file"),
        (ended(0, oom=True), Reason.COMPLETED, "completed"),  # a child of it was killed
        (structs.replace(ended(5, oom=True), how="failed"), Reason.FAILED, "exited with 5"),
        (
            structs.replace(ended(143), how="killed", detail="stopped by somebody else"),
            Reason.KILLED,
            "stopped by somebody else; it does not count as done",
        ),
        (
            structs.replace(ended(0), how="engine_lost", detail="the engine was restarted while it ran"),
            Reason.LOST,
            "lost (the engine was restarted while it ran); it does not count as done",
        ),
        (
            structs.replace(ended(143), how="unknown"),
            Reason.LOST,
            "ended for an unknown reason; it does not count as done",
        ),
    ],
)
@pytest.mark.parametrize("is_declared", [True, False])
def test_what_has_ended_is_torn_down_its_evidence_first(
    state: Any, reason: Reason, note: str, is_declared: bool
) -> None:
    plan = make_plan(profile(*([A] if is_declared else [])), snapshot(observed(A, state), **NONE))
    assert only(plan) == (Action.DELETE, reason if is_declared else Reason.UNDECLARED)
    if is_declared:
        assert plan.pending[0].note == note
    assert steps(plan) == ["evidence a", "remove a"]
    evidence = plan.operations[0]
    assert isinstance(evidence, op.CaptureEvidence) and evidence.how is None  # as the engine says


def test_ended_and_changed_meanwhile_is_torn_down_and_made() -> None:
    new = structs.replace(A, spec=spec(network_mode="none", user="5"))
    plan = make_plan(profile(new), snapshot(observed(A, ended(0)), **NONE))
    assert only(plan) == (Action.REPLACE, Reason.ENDED_CHANGED)
    assert steps(plan) == ["evidence a", "remove a", "create a", "start a"]


@pytest.mark.parametrize(
    ("outcome", "code", "again"), [("exited", 0, False), ("exited", 3, True), ("timeout", 0, True)]
)
def test_only_what_failed_runs_again(outcome: str, code: int, again: bool) -> None:
    record = Completed(outcome=outcome, exit_code=code, run="0123456789abcdef")
    done = snapshot(completed={"a": freeze({A.spec.digest: record})}, **NONE)
    assert make_plan(profile(A), done, Options(rerun="failed")).empty != again
    assert ('Options(rerun="failed") runs it again' in str(make_plan(profile(A), done))) == again


def test_a_failure_that_is_still_there_runs_again() -> None:
    for code, action in ((0, Action.DELETE), (1, Action.REPLACE)):
        plan = make_plan(profile(A), snapshot(observed(A, ended(code)), **NONE), Options(rerun="failed"))
        assert only(plan)[0] is action


def test_rerun_and_replace() -> None:
    done = {"a": freeze({A.spec.digest: Completed(outcome="exited", exit_code=0, run="0123456789abcdef")})}
    plan = make_plan(profile(A), snapshot(completed=done, **NONE))
    assert plan.empty
    assert [(c.reason, c.note) for c in plan.changes] == [(Reason.DONE, plan.changes[0].note)]
    assert "Options(rerun=True) runs it again" in str(plan)
    for options in (Options(rerun=True), Options(replace=("a",))):
        assert only(make_plan(profile(A), snapshot(completed=done, **NONE), options)) == (Action.CREATE, Reason.RERUN)
        ran = snapshot(observed(A, ended(1)), **NONE)
        assert only(make_plan(profile(A), ran, options)) == (Action.REPLACE, Reason.RERUN)
    changed = structs.replace(A, spec=spec(network_mode="none", user="5"))
    assert only(make_plan(profile(changed), snapshot(completed=done, **NONE))) == (Action.CREATE, Reason.NEW)
    assert only(make_plan(profile(A), snapshot(observed(A), **NONE), Options(replace=("a",)))) == (
        Action.REPLACE,
        Reason.REQUESTED,
    )
    assert make_plan(profile(A), snapshot(observed(A), **NONE), Options(rerun=True)).empty  # it still runs


def test_past_its_lifetime_it_is_ended_and_not_run_again() -> None:
    timed = declared("a", network_mode="none", lifetime=Lifetime(timeout=60 * 10**9))
    at = STARTED + timedelta(seconds=60)
    plan = make_plan(profile(timed), snapshot(observed(timed), taken=at, **NONE))
    assert only(plan) == (Action.DELETE, Reason.TIMEOUT)
    assert steps(plan) == ["stop a", "evidence a", "remove a"]
    assert [getattr(step, "how", None) for step in plan.operations] == ["timeout", "timeout", None]
    before = snapshot(observed(timed), taken=at - timedelta(microseconds=1), **NONE)
    assert make_plan(profile(timed), before).empty
    expired = structs.replace(observed(A), deadline=NOW)
    assert only(make_plan(profile(A), snapshot(expired, **NONE))) == (Action.DELETE, Reason.EXPIRED)
    assert only(make_plan(profile(A), snapshot(expired, **NONE), Options(replace=("a",))))[1] is Reason.EXPIRED


def test_undeclared_leaves_evidence_and_goes() -> None:
    plan = make_plan(profile(B), snapshot(observed(A), observed(B), **NONE))
    assert only(plan) == (Action.DELETE, Reason.UNDECLARED)
    assert steps(plan) == ["stop a", "evidence a", "remove a"]
    assert plan.operations[0].how == "killed"  # type: ignore[union-attr]


def test_a_second_container_of_one_address_goes_the_first_stays() -> None:
    twin = structs.replace(observed(A), id="f" * 64, name="elsewhere")
    plan = make_plan(profile(A), snapshot(observed(A), twin, **NONE))
    assert [(c.action, c.container) for c in plan.changes] == [
        (Action.NONE, observed(A).id),
        (Action.DELETE, twin.id),
    ]


def test_one_that_was_renamed_is_given_its_name() -> None:
    plan = make_plan(profile(A), snapshot(structs.replace(observed(A), name="elsewhere"), **NONE))
    assert only(plan) == (Action.UPDATE, Reason.DRIFTED)
    assert [d.key for d in plan.pending[0].drift] == ["name"]
    assert steps(plan) == ["rename a"]


def test_one_offs_are_let_live_and_collected_when_nobody_owns_them() -> None:
    alive = observed(A, one_off=True)
    assert make_plan(profile(), snapshot(alive, **NONE)).empty
    assert only(make_plan(profile(A), snapshot(alive, **NONE))) == (
        Action.CREATE,
        Reason.NEW,
    )  # a run is not the sandbox
    orphan = make_plan(profile(), snapshot(alive, orphaned=frozenset({alive.id}), **NONE))
    assert only(orphan) == (Action.DELETE, Reason.ORPHANED)
    assert orphan.pending[0].address == "a (run 0123456789ab)"
    expired = make_plan(profile(), snapshot(structs.replace(alive, deadline=NOW), **NONE))
    assert only(expired) == (Action.DELETE, Reason.EXPIRED)
    finished = observed(A, ended(0), one_off=True)
    assert make_plan(profile(), snapshot(finished, **NONE)).empty  # its run is about to take it


def test_one_whose_owner_lives_is_left_to_that_at_its_ttl() -> None:
    """It gets one signal: others end it only when its owner should have."""
    for one_off, plan_of in ((True, profile()), (False, profile(A))):
        expired = structs.replace(observed(A, one_off=one_off), deadline=NOW)
        owned = {"owned": frozenset({expired.id}), **NONE}
        beyond = timedelta(seconds=A.spec.stop_grace_period / 1e9 + 5)
        early, late = (snapshot(expired, taken=NOW + by, **owned) for by in (beyond - timedelta(seconds=1), beyond))
        assert make_plan(plan_of, early).empty and due(early) == {}
        assert next_deadline(early) == NOW + beyond
        assert only(make_plan(plan_of, late)) == (Action.DELETE, Reason.EXPIRED)
        assert due(late) == {expired.id: Reason.EXPIRED}
        over = structs.replace(observed(A, ended(0), one_off=one_off), deadline=NOW)
        assert due(snapshot(over, taken=NOW, **owned)) != {}  # no signal is sent to what has ended


def test_foreign_names_are_refused_all_at_once_where_they_are_in_the_way() -> None:
    mounted = declared("a", volumes=(Mount(type="volume", source="data", target="/data"),))
    strangers = (
        Foreign(kind="container", name="review-a", id="1" * 64, whose="it has no labels of sandboxrun"),
        Foreign(kind="network", name="review_default", id="2" * 64, whose="it is project x's"),
        Foreign(kind="volume", name="review_data", id="", whose="it is project y's"),
    )
    with pytest.raises(PlanError) as caught:
        make_plan(profile(mounted, B), snapshot(foreign=strangers, **NONE))
    assert [d.message for d in caught.value.diagnostics] == [
        "the container review-a exists and is not this project's (it has no labels of sandboxrun)",
        "the network review_default exists and is not this project's (it is project x's)",
        "the volume review_data exists and is not this project's (it is project y's)",
    ]
    assert "111111111111" in str(caught.value)
    plan = make_plan(profile(mounted, B), snapshot(foreign=strangers, **NONE), Options(targets=("b",)))
    assert steps(plan) == ["create b", "start b"]


# -- several ------------------------------------------------------------------------------------------------------


def test_dependencies_come_first() -> None:
    done = Dependency(condition="service_completed_successfully")
    last = structs.replace(A, depends_on=freeze({"b": done, "c": Dependency()}))
    middle = structs.replace(declared("c", network_mode="none"), depends_on=freeze({"b": Dependency()}))
    plan = make_plan(profile(last, middle, B), snapshot(**NONE))
    assert steps(plan) == [
        *("create b", "start b"),
        *("create c", "await c b", "start c"),
        *("create a", "await a b", "await a c", "start a"),
    ]
    assert needs(plan)["await a b"] == ("start b",)
    assert needs(plan)["start a"] == ("create a", "await a b", "await a c")
    # what runs already, or has run, is waited for as well
    plan = make_plan(profile(last, middle, B), snapshot(observed(B), observed(middle), **NONE))
    assert steps(plan) == ["create a", "await a b", "await a c", "start a"]
    assert needs(plan)["await a b"] == ()


def test_targets_bring_what_they_depend_on_and_remove_nothing_else() -> None:
    last = structs.replace(A, depends_on=freeze({"b": Dependency()}))
    each = [declared("m", "x", network_mode="none"), declared("m", "y", network_mode="none")]
    all = profile(last, B, *each)
    gone = observed(declared("gone", network_mode="none"))
    seen = snapshot(gone, networks=(network(),))
    assert steps(make_plan(all, seen, Options(targets=("a",)))) == [
        "create b",
        "start b",
        "create a",
        "await a b",
        "start a",
    ]
    assert [c.address for c in make_plan(all, seen, Options(targets=('m["x"]',))).pending] == ['m["x"]']
    assert [c.address for c in make_plan(all, seen, Options(targets=("m",))).pending] == ['m["x"]', 'm["y"]']
    with pytest.raises(UsageError, match=r'there is no sandbox "n"'):
        make_plan(all, seen, Options(targets=("n",)))
    with pytest.raises(UsageError, match=r'there is no sandbox "aa"'):
        make_plan(all, seen, Options(replace=("aa",)))
    assert select(all, ()) == all.sandboxes
    assert [s.address for s in select(all, ("m", "a"))] == ["a", 'm["x"]', 'm["y"]']


def test_everything_around_a_sandbox_is_made_before_and_removed_after() -> None:
    full = structs.replace(
        declared(
            "a",
            workspace=Workspace(source="."),
            secrets=(FileRef(source="k"),),
            volumes=(Mount(type="volume", source="data", target="/data"),),
            networks=freeze({"default": Attachment(), "other": Attachment(aliases=("x",))}),
        ),
        workspace=profile().directory,
    )
    declaring = profile(full, volumes=freeze({"data": VolumeSpec()}))
    plan = make_plan(declaring, snapshot(leftovers=("e" * 64,), helper=HELPER, **NONE))
    assert steps(plan) == [
        "leftover eeeeeeeeeeee",
        "create network.default",
        "create network.other",
        "create volume.data",
        "volume a workspace",
        "volume a secrets",
        "start a keeper",
        "create a",
        "upload a workspace",
        "upload a secrets",
        "connect a other",
        "give a data",
        "check a",
        "start a",
    ]
    assert set(needs(plan)["create a"]) == {
        "create network.default",
        "create network.other",
        "create volume.data",
        "leftover eeeeeeeeeeee",
        "volume a workspace",
        "volume a secrets",
    }
    assert set(needs(plan)["upload a secrets"]) == {"create a", "start a keeper"}
    filled = ("create a", "upload a workspace", "upload a secrets", "connect a other", "give a data")
    assert needs(plan)["check a"] == filled
    assert needs(plan)["start a"] == (*filled, "check a")
    there = (
        ObservedVolume(name="review_data", key="data", config=None),
        ObservedVolume(name="review-a.workspace", key="review-a.workspace", config=None, run="r"),
        ObservedVolume(name="review-z.secrets", key="review-z.secrets", config=None, run="r"),
    )
    seen = snapshot(observed(full), networks=(network(), network("other")), volumes=there)
    plan = make_destroy_plan(declaring, seen)
    assert plan.destroy
    assert steps(plan) == [
        "stop a",
        "evidence a",
        "remove a",
        "remove network.default",
        "remove network.other",
        "remove review_data",
        "remove review-z.secrets",
    ]
    (remove,) = [step for step in plan.operations if isinstance(step, op.RemoveSandbox)]
    assert remove.volumes == (part_volume("review-a", "workspace"),)
    assert needs(plan)["remove network.default"] == ("remove a",)
    assert needs(plan)["remove review_data"] == ("remove a",)
    assert steps(make_destroy_plan(declaring, seen, ("a",))) == ["stop a", "evidence a", "remove a"]


def test_networks_are_joined_and_left_while_it_runs() -> None:
    both = declared("a", networks=freeze({"one": Attachment(), "two": Attachment(aliases=("x",))}))
    other = structs.replace(both, spec=spec(networks=freeze({"two": Attachment(), "three": Attachment()})))
    seen = snapshot(observed(both), networks=(network("one"), network("two")))
    plan = make_plan(profile(other), seen)
    assert steps(plan) == [
        "create network.three",
        "disconnect a one",
        "disconnect a two",
        "connect a three",
        "connect a two",
        "record a",
        "remove network.one",
    ]
    assert needs(plan)["connect a three"] == ("create network.three",)
    assert needs(plan)["connect a two"] == ("disconnect a two",)
    assert set(needs(plan)["remove network.one"]) >= {"disconnect a one"}


def test_a_network_of_somebody_else_is_left() -> None:
    plain = declared("a")
    strange = observed(plain, networks=freeze({"default": Attachment(), "engine:bridge": Attachment()}))
    plan = make_plan(profile(plain), snapshot(strange))
    assert steps(plan) == ["disconnect a engine:bridge"]
    (step,) = plan.operations
    assert isinstance(step, op.DisconnectNetwork) and step.network == "bridge"


def test_a_network_with_other_options_is_made_anew_under_what_runs() -> None:
    a, b = declared("a"), declared("b")
    new = structs.replace(b, spec=spec(networks=freeze({"default": Attachment(aliases=("x",))})))
    declaring = profile(a, new, networks=freeze({"default": NetworkSpec(internal=True)}))
    plan = make_plan(declaring, snapshot(observed(a), observed(b)))
    assert steps(plan) == [
        "disconnect a default",
        "disconnect b default",
        "remove network.default",
        "create network.default",
        "connect a default",
        "connect b default",
        "record b",
    ]
    joined = [step.attachment.aliases for step in plan.operations if isinstance(step, op.ConnectNetwork)]
    assert joined == [(), ("x",)]
    assert needs(plan)["remove network.default"] == ("disconnect a default", "disconnect b default")


def test_networks_that_nothing_uses_go_and_those_of_a_living_run_stay() -> None:
    one_off = observed(declared("a"), one_off=True)
    assert steps(make_plan(profile(B), snapshot(observed(B)))) == ["remove network.default"]
    assert make_plan(profile(B), snapshot(observed(B), one_off)).empty


NOT_ASKED = "this version of the engine does not ask a sandbox's own name server on an internal network"
LISTED = Egress(allow=("a.example.com:443", "a.example.com:22"))


@pytest.mark.parametrize(
    ("options", "offers", "message"),
    [
        ({"annotations": freeze({"a": "b"})}, {}, "the engine's API 1.41 does not know annotations"),
        ({"runtime": "runsc"}, {"runtimes": ("runc",)}, 'the engine has no runtime "runsc"'),
        ({}, {"memory": False}, "the engine can't enforce memory limits"),
        ({"mem_limit": 0, "memswap_limit": None}, {"pids": False}, "the engine can't enforce process limits"),
        ({"cpus": 1.0}, {"cpu": False}, "the engine can't enforce CPU limits"),
        (
            {"lifetime": Lifetime(idle=10**9)},
            {"usage": False},
            "the engine can't enforce idle: nothing tells what a sandbox uses",
        ),
        ({"cpuset": "0"}, {"cpuset": False}, "the engine can't enforce cpusets"),
        ({}, {"swap": False}, "the engine can't enforce swap limits"),
        ({}, {"seccomp": False}, "the engine can't enforce seccomp"),
        (
            {},
            {"podman": True},
            "the engine accepts a seccomp profile only as a path on its host, not as content",
        ),
        (
            {"security_opt": freeze({"seccomp": "debug"})},
            {"architecture": "s390x"},
            "seccomp=debug is not made for the engine's architecture, s390x",
        ),
        ({}, {"podman": True}, "cgroup: Podman leaves it in the host's control-group namespace"),
        (
            {"egress": PUBLIC},
            {"hands_names": False},
            f"egress: mode open can't work: {NOT_ASKED}",
        ),
        (
            {"egress": Egress(allow=("a.example.com:443", "*.b.example.com:443"))},
            {"hands_names": False},
            f"egress: *.b.example.com:443 can't work: {NOT_ASKED}",
        ),
        (
            {"egress": LISTED, "extra_hosts": freeze({"a.example.com": ("192.0.2.1",)})},
            {"hands_names": False},
            "extra_hosts: a.example.com is allowed by egress, and must lead to the gateway on this engine",
        ),
        (
            {"egress": PUBLIC},
            {"low_ports_closed": "port 53: Permission denied"},
            "egress: gateways can't listen on ports below 1024 on this engine: port 53: Permission denied",
        ),
        ({"storage_opt": freeze({"size": "1g"})}, {"quota": False}, "the engine can't enforce storage quotas"),
        ({"cpus": 2.5}, {"cpus": 2}, "cpus is 2.5, and the engine has 2"),
        ({"cpuset": "0,2"}, {"cpus": 2}, "cpuset names CPU 2, and the engine has 2"),
        (
            {"security_opt": freeze({"apparmor": "mine"})},
            {"apparmor": False},
            "the engine's host has no AppArmor: apparmor would be ignored",
        ),
        (
            {"security_opt": freeze({"label": "type:x"})},
            {"selinux": False},
            "the engine's host has no SELinux: label would be ignored",
        ),
        (
            {"workspace": Workspace(source="/src", access="rw")},
            {"shares_filesystem": False, "filesystem_note": "it is elsewhere"},
            "workspace access rw can't be right: it is elsewhere",
        ),
        (
            {"volumes": (Mount(type="bind", source="/src", target="/dst"),)},
            {"shares_filesystem": False, "filesystem_note": "it is elsewhere"},
            "the bind /dst can't be right: it is elsewhere",
        ),
    ],
)
def test_what_the_engine_cannot_enforce_is_refused_by_name(
    options: dict[str, Any], offers: dict[str, Any], message: str
) -> None:
    seen = snapshot(**NONE)
    seen = structs.replace(seen, offers=structs.replace(seen.offers, **offers))
    with pytest.raises(PlanError) as caught:
        make_plan(profile(declared("a", network_mode="none", **options)), seen)
    assert f"a: {message}" in [d.message for d in caught.value.diagnostics]
    assert all(d.help for d in caught.value.diagnostics)


def test_where_the_gateway_is_not_asked_for_names_listed_hosts_work() -> None:
    seen = snapshot(networks=(), helper=HELPER)
    seen = structs.replace(seen, offers=structs.replace(seen.offers, hands_names=False))
    assert not make_plan(profile(declared("a", egress=LISTED)), seen).empty


@pytest.mark.parametrize("value", ["engine", "unconfined"])
def test_an_engine_that_our_profile_is_not_made_for_runs_what_sends_none(value: str) -> None:
    seen = snapshot(**NONE)
    seen = structs.replace(seen, offers=structs.replace(seen.offers, architecture="s390x"))
    options = {"network_mode": "none", "security_opt": freeze({"seccomp": value})}
    assert not make_plan(profile(declared("a", **options)), seen).empty


def test_a_long_chain_of_dependencies_is_no_fault() -> None:
    names = [f"s{n}" for n in range(1500)]
    chain = [
        structs.replace(declared(name, network_mode="none"), depends_on=freeze({after: Dependency()} if after else {}))
        for name, after in zip(names, [*names[1:], None], strict=True)
    ]
    started = [
        step.id for step in make_plan(profile(*chain), snapshot(**NONE)).operations if isinstance(step, op.StartSandbox)
    ]
    assert started == [f"start {name}" for name in reversed(names)]


# -- properties ---------------------------------------------------------------------------------------------------


@given(found=st.lists(specs, min_size=1, max_size=3))
@examples(40)
def test_a_plan_of_what_was_applied_is_empty(found: list[Any]) -> None:
    sandboxes = [structs.replace(declared(f"s{n}"), spec=one) for n, one in enumerate(found)]
    running = [observed(s, Running(started=NOW)) for s in sandboxes]
    keys = sorted({key for one in found for key in networks_of(one)})
    running = [structs.replace(o, run=f"run{n}") for n, o in enumerate(running)]
    companions = tuple(Companion(id=f"g{n}", role="gateway", run=o.run, running=True) for n, o in enumerate(running))
    images = {one.image: Image(config=ImageConfig(id=NODE)) for one in found}
    volumes = tuple(
        ObservedVolume(name=f"review_{m.source}", key=m.source or "", config=None)
        for one in found
        for m in one.volumes
        if m.type == "volume"
    )
    shown = snapshot(*running, networks=tuple(network(key) for key in keys), images=images, volumes=volumes, taken=NOW)
    shown = structs.replace(shown, companions=companions, offers=structs.replace(shown.offers, api_version="1.50"))
    declaring = profile(*sandboxes)
    assume(all(one.lifetime.timeout is None or one.lifetime.timeout > 10**6 for one in found))  # else it has ended
    plan = make_plan(declaring, shown)
    assert [c for c in plan.pending if c.kind == "sandbox"] == []
    assert plan.digest == make_plan(declaring, shown).digest


def test_a_digest_moves_with_all_that_a_plan_rests_on() -> None:
    base = make_plan(profile(A), snapshot(**NONE))
    assert base.digest == make_plan(profile(A), snapshot(taken=NOW + timedelta(days=1), **NONE)).digest
    others = [
        make_plan(profile(A, digested=lambda: "sha256:other"), snapshot(**NONE)),
        make_plan(profile(A, inputs_digest="sha256:other"), snapshot(**NONE)),
        make_plan(profile(A), snapshot(engine_id="other", **NONE)),
        make_plan(profile(A, B), snapshot(observed(B), **NONE)),
        make_plan(profile(declared("a", network_mode="none", user="5")), snapshot(**NONE)),
    ]
    assert len({base.digest, *(plan.digest for plan in others)}) == 1 + len(others)
