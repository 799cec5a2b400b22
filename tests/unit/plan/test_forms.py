"""What a plan says of options that mean the same, of what an image gives, and of a pause."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec import structs

from sandboxrun.backend.docker.codec import image_config
from sandboxrun.plan import operations as op
from sandboxrun.plan.changes import Action, Plan, Reason
from sandboxrun.plan.planner import Options, make_plan
from sandboxrun.report.plan import plan_json
from sandboxrun.spec.option import Effect
from sandboxrun.spec.records import Healthcheck
from sandboxrun.spec.state import Image, ImageConfig, ObservedSandbox, without_inherited
from sandboxrun.spec.types import freeze
from tests.unit.plan.world import NODE, RUNNING, declared, ended, observed, profile, snapshot

SHELL = ImageConfig(
    id=NODE,
    entrypoint=("/bin/sh", "-c"),
    command=("sleep 3600",),
    working_dir="/work",
    environment=freeze({"PATH": "/bin", "A": "1"}),
    labels=freeze({"by": "them"}),
    stop_signal="SIGINT",
    healthcheck=Healthcheck(test=("CMD", "true")),
)
IMAGES = {"node:20-alpine": Image(config=SHELL)}


def running(made_with: dict[str, Any]) -> ObservedSandbox:
    """A sandbox that was made with these options: what an engine shows of it, less what the image gives."""
    made = declared("agent", **made_with)
    entrypoint = made.spec.entrypoint if made.spec.entrypoint is not None else SHELL.entrypoint
    command = made.spec.command
    if not command and not (made.spec.entrypoint or command == ()):
        command = SHELL.command
    shown = structs.replace(
        made.spec,
        entrypoint=entrypoint,
        command=command or (),
        working_dir=made.spec.working_dir or SHELL.working_dir,
        environment=freeze({**SHELL.environment, **made.spec.environment}),
        labels=freeze({**SHELL.labels, **made.spec.labels}),
        stop_signal=made.spec.stop_signal or SHELL.stop_signal,
        healthcheck=made.spec.healthcheck or SHELL.healthcheck,
        runtime="runc",
    )
    return structs.replace(observed(made), spec=without_inherited(shown, SHELL), applied=made.spec)


def plan_of(before: dict[str, Any], after: dict[str, Any], **options: Any) -> Plan:
    return make_plan(profile(declared("agent", **after)), snapshot(running(before), images=IMAGES), Options(**options))


ENTRY: dict[str, Any] = {"entrypoint": ("/bin/sh", "-c")}


@pytest.mark.parametrize(
    ("before", "after", "keys"),
    [
        ({}, ENTRY, ["command"]),
        (ENTRY, {}, ["command"]),
        (ENTRY, {**ENTRY, "command": ()}, []),
        (ENTRY, {"command": ()}, []),
        ({}, {**ENTRY, "command": ("sleep 3600",)}, []),
        ({}, {"command": ("sleep 3600",)}, []),
        ({}, {"command": ()}, ["command"]),
        ({}, {"entrypoint": ("x",)}, ["command", "entrypoint"]),
        ({"entrypoint": ("x",)}, {"entrypoint": ("x",), "command": ("sleep 3600",)}, ["command"]),
        ({}, {"entrypoint": ()}, ["entrypoint"]),
        ({"entrypoint": ()}, {"entrypoint": (), "command": ("sleep 3600",)}, []),
        ({}, {"working_dir": "/work", "stop_signal": "SIGINT"}, []),
        ({}, {"healthcheck": Healthcheck(test=("CMD", "true"))}, []),
        ({}, {"healthcheck": Healthcheck(disable=True)}, ["healthcheck"]),
        ({"working_dir": "/tmp"}, {}, ["working_dir"]),
        ({}, {"environment": freeze({"A": "1"}), "labels": freeze({"by": "them"})}, []),
        ({"environment": freeze({"A": "1"})}, {}, []),
        ({"environment": freeze({"A": "2"})}, {}, ["environment"]),
        ({"environment": freeze({"A": "2"})}, {"environment": freeze({"A": "1"})}, ["environment"]),
        ({"environment": freeze({"A": "1", "B": "1"})}, {"environment": freeze({"A": "1", "B": "2"})}, ["environment"]),
        ({}, {"runtime": "runc"}, []),
        ({"runtime": "runc"}, {}, ["runtime"]),  # the engine's own may be another
    ],
)
def test_what_an_image_gives_and_what_a_profile_gives_mean_one_thing(
    before: dict[str, Any], after: dict[str, Any], keys: list[str]
) -> None:
    plan = plan_of(before, after)
    (change,) = (c for c in plan.changes if c.kind == "sandbox")
    assert [d.key for d in change.differences] == keys
    assert change.action is (Action.REPLACE if keys else Action.NONE)
    _both_sides_differ_in(change.address, keys, plan)


def _both_sides_differ_in(address: str, keys: list[str], plan: Plan) -> None:
    document = plan_json(plan)
    (sides,) = (c["change"] for c in document["resource_changes"] if c["address"] == address)
    before, after = sides["before"], sides["after"]
    assert sorted(key for key in {**before, **after} if before.get(key) != after.get(key)) == sorted(keys)


def test_a_plan_shows_no_difference_that_is_none() -> None:
    """What the engine or the image chose is on neither side, whatever the reason of a change."""
    _both_sides_differ_in("agent", ["mem_limit", "memswap_limit"], plan_of({}, {"mem_limit": 2**30}))
    _both_sides_differ_in("agent", [], plan_of({}, {}, replace=("agent",)))
    gone = structs.replace(running({}), state=ended(1))
    made = declared("agent", cpus=2.0)
    _both_sides_differ_in("agent", ["cpus"], make_plan(profile(made), snapshot(gone, images=IMAGES)))
    renamed = structs.replace(running({}), name="other")
    plan = make_plan(profile(declared("agent")), snapshot(renamed, images=IMAGES))
    _both_sides_differ_in("agent", ["name"], plan)
    environment = plan_of({"environment": freeze({"B": "1"})}, {"environment": freeze({"A": "1", "B": "2"})})
    (sides,) = (c["change"] for c in plan_json(environment)["resource_changes"] if c["address"] == "agent")
    assert (sides["before"]["environment"], sides["after"]["environment"]) == (
        {"A": "1", "B": "1"},
        {"A": "1", "B": "2"},
    )


def test_an_image_without_a_stop_signal_has_the_engines() -> None:
    plain = image_config({"Id": NODE, "Config": {}})
    assert without_inherited(declared("agent", stop_signal="SIGTERM").spec, plain).stop_signal is None
    assert without_inherited(declared("agent", stop_signal="SIGINT").spec, plain).stop_signal == "SIGINT"


def test_a_paused_sandbox_has_drifted_and_goes_on_last() -> None:
    paused = structs.replace(RUNNING, paused=True)
    plan = make_plan(profile(declared("agent")), snapshot(structs.replace(running({}), state=paused), images=IMAGES))
    (change,) = plan.pending
    assert (change.action, change.reason) == (Action.UPDATE, Reason.DRIFTED)
    assert [(d.key, d.before, d.after, d.effect) for d in change.drift] == [("paused", True, False, Effect.RESUME)]
    (step,) = plan.operations
    assert isinstance(step, op.ResumeSandbox) and step.container == change.container
    assert "~ paused: true -> false  # paused on the engine" in str(plan)
    _both_sides_differ_in("agent", ["paused"], plan)

    both = make_plan(
        profile(declared("agent", mem_limit=2**30)), snapshot(structs.replace(running({}), state=paused), images=IMAGES)
    )
    ids = [step.id for step in both.operations]
    assert ids == ["update agent", "resume agent", "record agent"]
    assert both.operations[1].needs == ("update agent",)


@pytest.mark.parametrize(("architecture", "name"), [("amd64", "linux/amd64"), ("arm64/v8", "linux/arm64"), ("", "")])
def test_a_platform_without_an_architecture_is_the_engines_own(architecture: str, name: str) -> None:
    image = structs.replace(ImageConfig(id=NODE), architecture=architecture)

    def differ(before: str | None, after: str | None) -> bool:
        made, then = declared("agent", platform=before), declared("agent", platform=after)
        shown = structs.replace(observed(made), spec=without_inherited(made.spec, image))
        return not make_plan(profile(then), snapshot(shown, images={"node:20-alpine": Image(config=image)})).empty

    assert not differ("linux", "linux")
    assert differ("linux", "linux/s390x") and differ(None, "linux/s390x") and differ(None, "linux")
    if name:
        assert not differ("linux", name) and not differ(name, "linux")
    else:
        assert differ("linux", "linux/amd64")  # nobody knows it
