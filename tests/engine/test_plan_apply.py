"""Plan and apply on a real engine: the rows of the design's table, one by one."""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import docker
import pytest
from msgspec import structs

from sandboxrun.backend.docker import observe
from sandboxrun.backend.session import StepDone, StepFailed, StepSkipped, Undone
from sandboxrun.errors import ApplyError, PlanError
from sandboxrun.lifecycle import apply as converge
from sandboxrun.lifecycle.saved import SavedPlan
from sandboxrun.plan.changes import Action, Change, Plan, Reason
from sandboxrun.plan.planner import Options, make_plan
from sandboxrun.spec import labels as own
from sandboxrun.spec.project import Profile
from sandboxrun.spec.state import Ended, How, Running
from tests.engine.own_engine import open_engine, why_impossible
from tests.engine.world import World, change, open_world

OOM = "sleep 1; tail /dev/zero; sleep 1; exit 137"  # the engine hears of it only while the main process lives
BRIDGE = {"network_mode": "bridge", "networks": ["default"]}


def ended(world: World, profile: Profile, address: str = "a") -> Ended:
    """Wait until a sandbox has ended."""
    deadline = time.monotonic() + 60
    while not isinstance(state := world.observed(profile, address).state, Ended):
        assert time.monotonic() < deadline, f"{address} runs on"
        time.sleep(0.05)
    return state


def outcomes(world: World) -> list[tuple[str, How, int | None]]:
    """What the evidence store has of this project."""
    return [
        (entry.sandbox, entry.outcome, world.store.index(entry).ending.exit_code)
        for entry in world.store.entries(world.project)
    ]


def only(plan: Plan) -> Change:
    (found,) = plan.pending
    return found


# -- created, drifted, changed ---------------------------------------------------------------------------------


def test_drift_is_shown_and_put_right(world: World, engine_client: docker.DockerClient) -> None:
    profile = world.profile({"a": {"mem_limit": "64m", "pids_limit": 32}})
    world.apply(profile)
    id = world.ids(profile)["a"]
    engine_client.containers.get(id).update(mem_limit="128m", memswap_limit="128m", restart_policy={"Name": "always"})

    drifted = only(world.plan(profile))
    assert (drifted.action, drifted.reason) == (Action.UPDATE, Reason.DRIFTED)
    assert {d.key: (d.before, d.after, d.drift) for d in drifted.differences} == {
        "mem_limit": ("128m", "64m", True),
        "memswap_limit": ("128m", "64m", True),
        "restart": ("always", "no", True),
    }
    looked = world.plan(profile, refresh_only=True)
    assert looked.empty and looked.operations == ()
    assert "Changed outside sandboxrun" in str(looked)

    world.apply(profile)
    assert world.ids(profile)["a"] == id
    assert world.plan(profile).empty
    assert engine_client.containers.get(id).attrs["HostConfig"]["Memory"] == 64 << 20


def test_drift_after_an_update_in_place_is_still_drift(world: World, engine_client: docker.DockerClient) -> None:
    first = world.profile({"a": {"mem_limit": "64m", **BRIDGE}})
    then = world.profile({"a": {"mem_limit": "96m", **BRIDGE, "networks": ["default", "more"]}}, networks={"more": {}})
    world.apply(first)
    assert only(_sandboxes(world.apply(then))).reason is Reason.CHANGED
    container = engine_client.containers.get(world.ids(then)["a"])
    container.update(mem_limit="48m", memswap_limit="48m")
    engine_client.networks.get(f"{world.project}_more").disconnect(container)

    drifted = change(world.plan(then), "a")
    assert drifted.reason is Reason.DRIFTED
    assert {d.key for d in drifted.drift} == {"mem_limit", "memswap_limit", "networks"}
    # and what the profile says meanwhile is no drift
    changed = change(
        world.plan(
            world.profile({"a": {"mem_limit": "32m", **BRIDGE, "networks": ["default", "more"]}}, networks={"more": {}})
        ),
        "a",
    )
    assert changed.reason is Reason.CHANGED
    assert {d.key: d.drift for d in changed.differences} == {
        "mem_limit": False,
        "memswap_limit": False,
        "networks": True,
    }
    world.apply(then)
    assert world.plan(then).empty


def _sandboxes(plan: Plan) -> Plan:
    return structs.replace(plan, changes=tuple(c for c in plan.changes if c.kind == "sandbox"))


def test_a_network_behind_our_back_is_taken_off(
    world: World, engine_client: docker.DockerClient, project: str, labels: Mapping[str, str]
) -> None:
    profile = world.profile({"a": BRIDGE})
    world.apply(profile)
    container = engine_client.containers.get(world.ids(profile)["a"])
    engine_client.networks.get("bridge").connect(container)
    foreign = engine_client.networks.create(f"{project}-foreign", labels=dict(labels))
    try:
        foreign.connect(container)
        drifted = only(world.plan(profile))
        assert [d.key for d in drifted.drift] == ["networks"]
        assert set(drifted.differences[0].before) == {"default", "engine:bridge", f"engine:{project}-foreign"}
        world.apply(profile)
        assert world.plan(profile).empty
        container.reload()
        assert list(container.attrs["NetworkSettings"]["Networks"]) == [f"{project}_default"]
    finally:
        foreign.remove()


def test_a_replacement_keeps_the_evidence_of_what_it_replaces(world: World) -> None:
    first, then = (world.profile({"a": {"environment": {"A": value}}}) for value in "12")
    world.apply(first)
    id = world.ids(first)["a"]
    planned = world.plan(then)
    assert only(planned).action is Action.REPLACE
    assert "# forces replacement" in str(planned)
    world.apply(then)
    assert world.ids(then)["a"] != id
    assert [(sandbox, how) for sandbox, how, _ in outcomes(world)] == [("a", How.KILLED)]


def test_a_renamed_container_is_found_by_its_labels(world: World, engine_client: docker.DockerClient) -> None:
    profile = world.profile({"a": {}})
    world.apply(profile)
    id = world.ids(profile)["a"]
    engine_client.containers.get(id).rename(f"{world.project}-elsewhere")
    renamed = only(world.plan(profile))
    assert renamed.action is Action.UPDATE
    assert [(d.key, d.before, d.after) for d in renamed.differences] == [
        ("name", f"{world.project}-elsewhere", f"{world.project}-a")
    ]
    world.apply(profile)
    assert [(o.name, o.id) for o in world.snapshot(profile).sandboxes] == [(f"{world.project}-a", id)]


def test_own_options_are_changed_without_the_engine(world: World) -> None:
    """Artifacts asked for while it runs are kept when it has ended, and it is not run again for them."""
    first = world.profile({"a": {"command": ["sleep", "2"]}})
    then = world.profile({"a": {"command": ["sleep", "2"], "evidence": {"artifacts": ["/etc/passwd"]}, "cpus": 0.5}})
    world.apply(first)
    world.apply(then)
    assert ended(world, then).exit_code == 0
    assert only(world.apply(then)).reason is Reason.COMPLETED
    (entry,) = world.store.entries(world.project)
    assert "artifacts/etc/passwd" in [kept.path for kept in world.store.index(entry).kept]
    again = world.plan(then)
    assert again.empty and change(again, "a").reason is Reason.DONE
    assert not world.plan(first).empty  # that spec never ran to its end


# -- ended ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "reason", "outcome"),
    [
        ({"command": ["true"]}, Reason.COMPLETED, (How.EXITED, 0)),
        ({"command": ["sh", "-c", "exit 7"]}, Reason.FAILED, (How.FAILED, 7)),
        # below some 13m runc itself, which starts it, does not always fit
        ({"command": ["sh", "-c", OOM], "mem_limit": "32m"}, Reason.OOM, (How.OOM, 137)),
    ],
    ids=["completed", "failed", "oom"],
)
def test_what_has_ended_is_torn_down_once_and_not_run_again(
    options: Mapping[str, Any], reason: Reason, outcome: tuple[How, int], world: World
) -> None:
    profile = world.profile({"a": options})
    world.apply(profile)
    ended(world, profile)
    planned = only(world.plan(profile))
    assert (planned.action, planned.reason) == (Action.DELETE, reason)
    world.apply(profile)
    assert world.snapshot(profile).sandboxes == ()
    assert outcomes(world) == [("a", *outcome)]

    assert world.plan(profile).empty
    assert world.apply(profile).empty
    assert "runs it again" in str(world.plan(profile))
    again = only(world.apply(profile, rerun=True))
    assert (again.action, again.reason) == (Action.CREATE, Reason.RERUN)
    ended(world, profile)
    world.destroy(profile)
    assert [found[1:] for found in outcomes(world)] == [outcome, outcome]


def test_past_its_lifetime_it_is_ended(world: World) -> None:
    profile = world.profile(
        {"a": {"lifetime": {"timeout": "1s"}, "init": False}, "b": {"lifetime": {"ttl": "1s"}}, "c": {}}
    )
    world.apply(profile)
    started = world.observed(profile, "a").state
    assert isinstance(started, Running)
    snapshot = world.snapshot(profile)
    later = structs.replace(snapshot, taken=snapshot.taken + timedelta(seconds=30))
    assert {c.address: c.reason for c in make_plan(profile, later).pending} == {
        "a": Reason.TIMEOUT,
        "b": Reason.EXPIRED,
    }
    while world.engine.clock() < started.started + timedelta(seconds=2):
        time.sleep(0.1)
    world.apply(profile)
    assert {(s, how) for s, how, _ in outcomes(world)} == {("a", How.TIMEOUT), ("b", How.TIMEOUT)}
    assert set(world.ids(profile)) == {"c"}
    assert world.plan(profile).empty


def test_what_is_no_longer_declared_leaves_its_evidence(world: World) -> None:
    both = world.profile({"a": {}, "b": BRIDGE})
    world.apply(both)
    one = world.profile({"a": {}})
    planned = world.plan(one)
    assert {(c.address, c.action, c.reason) for c in planned.pending} == {
        ("b", Action.DELETE, Reason.UNDECLARED),
        ("network.default", Action.DELETE, Reason.UNUSED),
    }
    world.apply(one)
    assert set(world.ids(one)) == {"a"}
    assert [(s, how) for s, how, _ in outcomes(world)] == [("b", How.KILLED)]
    assert world.engine.network(f"{world.project}_default") is None


def test_replace_and_target(world: World) -> None:
    profile = world.profile({"a": {}, "b": {}})
    world.apply(profile, targets=("a",))
    before = world.ids(profile)
    assert set(before) == {"a"}
    world.apply(profile)
    assert world.ids(profile)["a"] == before["a"]
    world.apply(profile, replace=("a",))
    after = world.ids(profile)
    assert after["a"] != before["a"]
    world.destroy(profile, ("b",))
    assert world.ids(profile) == {"a": after["a"]}


# -- networks and volumes --------------------------------------------------------------------------------------------


def test_changed_network_options_reconnect_what_runs(world: World) -> None:
    networks = {"one": {"subnet": "10.252.78.0/28"}}
    sandboxes = {
        "a": {**BRIDGE, "networks": {"one": {"aliases": ["x"], "ipv4_address": "10.252.78.9"}}},
        "b": {**BRIDGE, "networks": ["one", "other"]},
    }
    first = world.profile(sandboxes, networks={**networks, "other": {}})
    world.apply(first)
    before = world.ids(first)
    then = world.profile(sandboxes, networks={"one": {"subnet": "10.252.78.0/28", "internal": True}, "other": {}})
    replaced = only(world.plan(then))
    assert (replaced.address, replaced.action) == ("network.one", Action.REPLACE)
    assert [(d.key, d.before, d.after) for d in replaced.differences] == [("internal", False, True)]
    world.apply(then)
    assert world.ids(then) == before
    assert world.plan(then).empty
    assert "10.252.78.9" in world.run(before["a"], "ip", "addr")[1]

    # the network and how it is joined, both at once
    sandboxes = {
        "a": {**BRIDGE, "networks": {"one": {"ipv4_address": "10.252.78.5"}}},
        "b": {**BRIDGE, "networks": ["other"]},
    }
    both = world.profile(sandboxes, networks={**networks, "other": {}})
    planned = world.plan(both)
    assert len({step.id for step in planned.operations}) == len(planned.operations)
    world.apply(both)
    assert world.ids(both) == before
    assert world.plan(both).empty
    assert "10.252.78.5" in world.run(before["a"], "ip", "addr")[1]


def test_sandboxes_of_one_network_do_not_reach_each_other(world: World) -> None:
    listen = {"command": ["sh", "-c", "while true; do nc -l -p 8000 < /dev/null; done"], **BRIDGE}
    profile = world.profile({"a": listen, "b": BRIDGE})
    world.apply(profile)
    ids = world.ids(profile)
    address = world.run(ids["a"], "hostname", "-i")[1].strip()
    connect = ("sh", "-c", f"nc -w 2 {address} 8000 < /dev/null")
    assert world.run(ids["b"], *connect)[0] != 0
    assert world.run(ids["a"], *connect)[0] == 0  # it does listen


def test_a_volume_outlives_its_sandbox_until_it_is_destroyed(world: World) -> None:
    options = {"user": "0:0", "volumes": ["data:/data"], "cap_add": ["DAC_OVERRIDE"]}
    profile = world.profile({"a": options}, volumes={"data": {}})
    assert {c.address for c in world.apply(profile).pending} == {"a", "volume.data"}
    world.run(world.ids(profile)["a"], "sh", "-c", "echo kept > /data/file")
    world.apply(profile, replace=("a",))
    assert world.run(world.ids(profile)["a"], "cat", "/data/file") == (0, "kept\n")
    other = world.profile({"a": options}, volumes={"data": {"driver_opts": {"type": "tmpfs", "device": "tmpfs"}}})
    with pytest.raises(PlanError, match=r"was made with other options than volumes\.data has"):
        world.plan(other)
    assert {c.address for c in world.destroy(profile).pending} == {"a", "volume.data"}
    assert world.engine.volume(f"{world.project}_data") is None


# -- secrets, configs, users ------------------------------------------------------------------------------------------


def test_a_missing_secret_fails_before_anything_is_touched(world: World) -> None:
    first = world.profile({"a": {}})
    world.apply(first)
    before = world.ids(first)
    then = world.profile(
        {"a": {"secrets": ["key", "file"]}}, secrets={"key": {"environment": "K"}, "file": {"file": "./f"}}
    )
    with pytest.raises(ApplyError) as caught:
        world.apply(then)
    assert [d.message for d in caught.value.diagnostics] == [
        "a: the secret file: f can't be read: no such file or directory",
        "a: the secret key: the variable K is not set",
    ]
    assert world.ids(then) == before


def test_the_files_of_a_named_user_are_its_own(world: World) -> None:
    (world.directory / "file").write_bytes(b"\0\xff")
    world.environment["KEY"] = "one\n"
    options = {"user": "agent", "secrets": ["key"], "configs": [{"source": "file", "mode": "0444"}], "workspace": "."}
    profile = world.profile(
        {"a": options, "b": {**options, "user": "agent:root"}},
        secrets={"key": {"environment": "KEY"}},
        configs={"file": {"file": "file"}},
    )
    world.apply(profile)
    ids = world.ids(profile)
    look = "id -u; id -g; stat -c '%a %u %g' /run/secrets/key /run/configs/file /workspace; touch new"
    assert world.run(ids["a"], "sh", "-c", look)[1].split("\n")[:5] == [
        "1000",
        "1000",
        "400 1000 1000",
        "444 1000 1000",
        "700 1000 1000",
    ]
    assert world.run(ids["b"], "sh", "-c", look)[1].split("\n")[2] == "400 1000 0"
    assert "one" not in (world.engine.inspect_container(ids["a"])["Config"]["Env"] or [])
    unknown = world.profile(
        {"c": {**options, "user": "nobody-here"}},
        secrets={"key": {"environment": "KEY"}},
        configs={"file": {"file": "file"}},
    )
    with pytest.raises(ApplyError, match=r'c: the image knows no "nobody-here" in /etc/passwd'):
        world.apply(unknown, targets=("c",))
    assert set(world.ids(unknown)) == {"a", "b"}


# -- dependencies --------------------------------------------------------------------------------------------------


def test_dependencies_are_waited_for(world: World) -> None:
    healthy = {"test": ["CMD", "test", "-e", "/tmp/ready"], "interval": "100ms", "retries": 100}
    profile = world.profile(
        {
            "last": {
                "depends_on": {
                    "first": {"condition": "service_completed_successfully"},
                    "middle": {"condition": "service_healthy"},
                }
            },
            "middle": {
                "command": ["sh", "-c", "sleep 1; touch /tmp/ready; sleep 600"],
                "healthcheck": healthy,
                "depends_on": ["first"],
            },
            "first": {"command": ["sleep", "1"]},
        }
    )
    world.apply(profile)
    order = [e.step.id for e in world.events if isinstance(e, StepDone) and e.step.id.startswith(("start", "await"))]
    assert order.index("start first") < order.index("await middle first") < order.index("start middle")
    assert order.index("await last middle") < order.index("start last")
    assert order.index("await last first") < order.index("start last")
    # what completed is torn down, and stays a fulfilled condition
    assert only(world.apply(profile)).reason is Reason.COMPLETED
    world.apply(profile, replace=("last",))
    assert set(world.ids(profile)) == {"last", "middle"}


@pytest.mark.parametrize(
    ("dependency", "condition", "message"),
    [
        ({"command": ["sh", "-c", "exit 3"]}, "service_completed_successfully", "a needs b, which exited with 3"),
        ({}, "service_healthy", "a waits for b to be healthy, which has no healthcheck"),
        (
            {"healthcheck": {"test": ["CMD", "false"], "interval": "50ms", "retries": 1}},
            "service_healthy",
            "a needs b, which is unhealthy",
        ),
        (
            {"command": ["true"], "healthcheck": {"test": ["CMD", "true"]}},
            "service_healthy",
            "a needs b, which exited with 0",
        ),
    ],
    ids=["failed", "no-check", "unhealthy", "ended"],
)
def test_a_condition_that_cannot_hold_any_more(
    dependency: Mapping[str, Any], condition: str, message: str, world: World
) -> None:
    profile = world.profile({"a": {"depends_on": {"b": {"condition": condition}}}, "b": dependency, "c": {}})
    with pytest.raises(ApplyError, match=message):
        world.apply(profile)
    assert set(world.ids(profile)) == {"b", "c"}  # what does not depend on it was made all the same
    assert [e.address for e in world.events if isinstance(e, Undone)] == ["a"]


# -- what fails --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("few", [0, 10_000])
def test_a_foreign_name_is_refused_and_untouched(
    few: int,
    world: World,
    engine_client: docker.DockerClient,
    busybox: str,
    labels: Mapping[str, str],
    project: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(observe, "_FEW", few)  # an engine with many containers, and one with few
    foreign = engine_client.containers.create(busybox, ["true"], name=f"{project}-a", labels=dict(labels))
    network = engine_client.networks.create(f"{project}_default", labels=dict(labels))
    volume = engine_client.volumes.create(f"{project}_data", labels={**labels, own.PROJECT: "another"})
    try:
        options = {**BRIDGE, "volumes": ["data:/data"]}
        profile = world.profile({"a": options, "b": {}}, volumes={"data": {}})
        with pytest.raises(PlanError) as caught:
            world.apply(profile)
        assert [d.message for d in caught.value.diagnostics] == [
            f"the container {project}-a exists and is not this project's (it has no labels of sandboxrun)",
            f"the network {project}_default exists and is not this project's (it has no labels of sandboxrun)",
            f"the volume {project}_data exists and is not this project's (it is project another's)",
        ]
        world.apply(profile, targets=("b",))  # nothing foreign stands in its way
        world.destroy(profile)
        foreign.reload()
        network.reload()
        volume.reload()
    finally:
        foreign.remove()
        network.remove()
        volume.remove()


@pytest.mark.parametrize("whose", [{}, {own.PROJECT: "another"}])
def test_a_foreign_volume_of_a_workspaces_name_is_refused_and_untouched(
    whose: dict[str, str], world: World, engine_client: docker.DockerClient, labels: Mapping[str, str], project: str
) -> None:
    volume = engine_client.volumes.create(f"{project}-a.workspace", labels={**labels, **whose})
    try:
        with pytest.raises(ApplyError, match="exists and is not this project's"):
            world.apply(world.profile({"a": {"workspace": "."}}))
        volume.reload()  # it is still there
    finally:
        volume.remove()


@pytest.mark.parametrize("command", [["no-such-command"], ["/etc/passwd"]])
def test_a_start_that_fails_leaves_nothing(command: list[str], world: World) -> None:
    world.environment["KEY"] = "x"
    options = {"command": command, "init": False, **BRIDGE, "workspace": ".", "secrets": ["key"]}
    profile = world.profile({"a": options, "b": {"depends_on": ["a"]}}, secrets={"key": {"environment": "KEY"}})
    with pytest.raises(ApplyError, match=r"^error: a: "):
        world.apply(profile)
    assert [e.step.id for e in world.events if isinstance(e, StepFailed)] == ["start a"]
    assert {e.step.id for e in world.events if isinstance(e, StepSkipped)} >= {"start b"}
    snapshot = world.snapshot(profile)
    assert (snapshot.sandboxes, snapshot.volumes, snapshot.networks) == ((), (), ())
    assert outcomes(world) == []
    assert not world.plan(profile).empty


def test_a_workspace_that_cannot_be_packed_leaves_nothing(world: World) -> None:
    (world.directory / "large").write_bytes(bytes(3 << 20))
    profile = world.profile({"a": {"workspace": {"source": ".", "size": "2m"}}, "b": {}})
    with pytest.raises(ApplyError, match=r"a: the workspace holds [0-9]+ bytes, and its size is 2m"):
        world.apply(profile)
    assert set(world.ids(profile)) == {"b"}
    assert world.snapshot(profile).volumes == ()


def test_what_the_engine_lacks_is_refused_before_what_runs_is_replaced(world: World) -> None:
    first = world.profile({"a": {}})
    world.apply(first)
    before = world.ids(first)
    then = world.profile({"a": {"runtime": "no-such-runtime", "annotations": {"a.b": "c"}}})
    with pytest.raises(PlanError) as caught:
        world.apply(then)
    told = [d.message for d in caught.value.diagnostics]
    assert 'a: the engine has no runtime "no-such-runtime"' in told
    if world.engine.api_version == "1.41":
        assert "a: the engine's API 1.41 does not know annotations" in told
    assert world.ids(then) == before


# An engine without the pids controller, and one on a bare hierarchy of version 2 while version 1 has every controller.
# Each: what makes it so, and what its warning names.
_LACKING = {
    "process": ("umount /sys/fs/cgroup/pids", "pids"),
    "memory": ("umount --lazy --recursive /sys/fs/cgroup && mount -t cgroup2 cgroup2 /sys/fs/cgroup", "memory"),
}


@pytest.mark.own_engine
@pytest.mark.parametrize("limit", _LACKING)
def test_a_limit_that_the_engine_drops_with_a_warning_is_not_taken_for_set(
    tmp_path: Path, project: str, busybox: str, limit: str
) -> None:
    """The plan refuses it; where a plan did not know, the apply fails closed."""
    if (reason := why_impossible()) or not Path("/sys/fs/cgroup/pids").is_mount():
        pytest.skip(reason or "this machine has no cgroup that could be taken away from an engine alone")
    mounts, warned = _LACKING[limit]
    engine = open_engine(mounts=mounts)
    try:
        with open_world(engine.host, project, tmp_path, busybox) as world:
            profile = world.profile({"a": {"cpus": 0}})  # a limit on CPUs would be refused by the engine itself
            with pytest.raises(PlanError, match=f"a: the engine can't enforce {limit} limits"):
                world.apply(profile)
            snapshot = world.snapshot(profile)
            trusting = structs.replace(
                snapshot, offers=structs.replace(snapshot.offers, pids=True, memory=True, swap=True, cpuset=True)
            )
            outcome = converge.carry_out(
                make_plan(profile, trusting),
                trusting,
                world.engine,
                profile,
                world.store,
                converge.ApplySettings(listener=world.events.append),
                lambda: None,
            )
            assert outcome.applied is not None
            with pytest.raises(ApplyError, match=f"a: the engine warned: .*(?i:{warned})"):
                outcome.applied.check()
            assert [e.address for e in world.events if isinstance(e, Undone)] == ["a"]
            assert world.snapshot(profile).sandboxes == ()
    finally:
        engine.close()


@pytest.mark.own_engine
def test_what_an_engine_adds_by_its_own_settings_is_told_as_that(tmp_path: Path, project: str, busybox: str) -> None:
    """It was not reviewed. In the profile it is."""
    if reason := why_impossible():
        pytest.skip(reason)
    engine = open_engine("--default-ulimit=nproc=2000:3000")
    try:
        with open_world(engine.host, project, tmp_path, busybox) as world:
            with pytest.raises(ApplyError, match=r'did not apply ulimits: .*"nproc"') as told:
                world.apply(world.profile({"a": {}}))
            assert "declare ulimits as enforced" in (told.value.diagnostics[0].help or "")
            world.apply(world.profile({"a": {"ulimits": {"nproc": {"soft": 2000, "hard": 3000}}}}))
            world.apply(world.profile({}))
    finally:
        engine.close()


def test_what_a_killed_apply_left_is_collected(world: World, busybox: str) -> None:
    profile = world.profile({"a": {"workspace": "."}, "b": {}})
    world.apply(profile, targets=("b",))
    ours = {own.PROJECT: world.project}
    part = {**ours, own.SANDBOX: "a", own.VOLUME: f"{world.project}-a.workspace", own.RUN: "0" * 32}
    world.engine.create_volume({"Name": f"{world.project}-a.workspace", "Driver": "local", "Labels": part})
    gone = {**part, own.SANDBOX: "gone", own.VOLUME: f"{world.project}-gone.secrets"}
    world.engine.create_volume({"Name": f"{world.project}-gone.secrets", "Driver": "local", "Labels": gone})
    mount = {"Type": "volume", "Source": f"{world.project}-a.workspace", "Target": "/sandboxrun/workspace"}
    world.engine.create_container(
        f"{world.project}-a.courier-workspace",
        {"Image": busybox, "Labels": {**ours, own.ROLE: "courier"}, "HostConfig": {"Mounts": [mount]}},
    )
    world.apply(profile)
    assert set(world.ids(profile)) == {"a", "b"}
    assert world.plan(profile).empty
    snapshot = world.snapshot(profile)
    assert snapshot.leftovers == ()
    assert [volume.name for volume in snapshot.volumes] == [f"{world.project}-a.workspace"]
    assert world.run(world.ids(profile)["a"], "ls", "-A", "/workspace")[0] == 0


def test_a_half_made_sandbox_is_made_anew(world: World) -> None:
    profile = world.profile({"a": {}})
    world.apply(profile)
    inspect = world.engine.inspect_container(world.ids(profile)["a"])
    world.engine.remove_container(inspect["Id"], force=True)
    payload = {**inspect["Config"], "HostConfig": inspect["HostConfig"]}
    world.engine.create_container(f"{world.project}-a", payload)
    planned = only(world.plan(profile))
    assert (planned.action, planned.reason) == (Action.REPLACE, Reason.HALF_MADE)
    world.apply(profile)
    assert isinstance(world.observed(profile, "a").state, Running)
    assert outcomes(world) == []  # nothing of it had run


def test_a_saved_plan_is_refused_when_the_engine_has_moved(world: World) -> None:
    profile = world.profile({"a": {}, "b": {}})
    saved = world.plan(profile)
    world.apply(profile, targets=("b",))
    with pytest.raises(PlanError, match="stale"):
        world.apply(profile, expected=_saved(saved))
    assert set(world.ids(profile)) == {"b"}
    fresh = world.plan(profile)
    assert world.apply(profile, expected=_saved(fresh)).digest == fresh.digest


def _saved(plan: Plan) -> SavedPlan:
    return SavedPlan(
        project=plan.project,
        directory=Path("/"),
        files=(),
        digest=plan.digest,
        profile_digest=plan.profile_digest,
        inputs_digest=plan.inputs_digest,
        engine_id=plan.engine_id,
        options=Options(),
        inputs={},
        ask=(),
        observed=(),
        images={},
        plan={},
    )


def test_a_plan_that_is_declined_changes_nothing(world: World) -> None:
    profile = world.profile({"a": {}})
    settings = converge.ApplySettings()
    outcome = converge.apply(world.engine, profile, world.store, settings=settings, confirm=lambda plan: False)
    assert outcome.applied is None
    outcome = converge.destroy(world.engine, profile, world.store, settings=settings, confirm=lambda plan: False)
    assert outcome.applied is None
    assert world.snapshot(profile).sandboxes == ()


def test_a_stop_leaves_nothing_half_made(world: World) -> None:
    profile = world.profile(
        {
            name: {"depends_on": {"first": {"condition": "service_healthy"}}}
            if name != "first"
            else {"healthcheck": {"test": ["CMD", "false"], "interval": "1m"}}
            for name in ("first", "a", "b")
        }
    )
    settings = converge.ApplySettings()

    def stop(event: Any) -> None:
        if isinstance(event, StepDone) and event.step.id == "start first":
            settings.stop.set()

    settings.listener = stop
    with pytest.raises(ApplyError, match="stopped"):
        converge.apply(world.engine, profile, world.store, settings=settings)
    assert set(world.ids(profile)) == {"first"}
