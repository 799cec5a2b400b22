"""The JSON plan: its schema, its shape in a policy tool's eyes, and what must never be in it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from sandboxrun.plan.changes import Plan
from sandboxrun.plan.planner import Options, make_destroy_plan, make_plan
from sandboxrun.report.plan import plan_json, resource_of, sensitive_parts
from sandboxrun.spec.state import Created, Image, ImageConfig
from sandboxrun.spec.types import freeze
from tests.unit.plan.world import declared, ended, network, observed, profile, snapshot

SCHEMA = json.loads((Path(__file__).parents[3] / "schemas" / "plan.schema.json").read_text())
LINT = declared("lint", environment=freeze({"TOKEN": "hunter2-secret", "CI": "1"}))
TESTS = declared("agent", 'te"sts', mem_limit=2**30)


def plans() -> list[Plan]:
    p = profile(
        LINT,
        TESTS,
        sensitive=frozenset({"hunter2-secret"}),
        inputs=freeze({"token": "(sensitive value)", "ref": "main"}),
    )
    drifted = observed(LINT, environment=freeze({"TOKEN": "hunter2-secret", "CI": "0"}))
    missing = {"node:20-alpine": Image(config=None, digest="sha256:" + "b" * 64)}
    moved = {"node:20-alpine": Image(config=ImageConfig(id="sha256:" + "c" * 64))}
    run = observed(declared("lint"), ended(1), one_off=True)
    return [
        make_plan(p, snapshot(networks=())),
        make_plan(p, snapshot(drifted, observed(TESTS, mem_limit=2**29), observed(declared("old"), ended(1)))),
        make_plan(p, snapshot(drifted), Options(refresh_only=True)),
        make_plan(p, snapshot(observed(LINT), observed(TESTS), networks=(network(), network("x", internal=True)))),
        make_plan(p, snapshot(observed(LINT), observed(TESTS), images=moved)),
        make_plan(p, snapshot(images=missing), Options(targets=("lint",))),
        make_plan(p, snapshot(run, observed(TESTS, Created()), orphaned=frozenset({run.id}))),
        make_destroy_plan(p, snapshot(observed(LINT), observed(TESTS, ended(0)))),
    ]


def changes_of(plan: Plan) -> dict[str, Any]:
    return {change["address"]: change for change in plan_json(plan)["resource_changes"]}


def test_the_schema_is_a_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


@pytest.mark.parametrize("position", range(len(plans())))
def test_every_plan_is_valid_and_holds_no_secret(position: int) -> None:
    document = plan_json(plans()[position])
    text = json.dumps(document)
    jsonschema.validate(json.loads(text), SCHEMA)
    assert "hunter2-secret" not in text
    assert document["variables"] == {"token": {"value": "(sensitive value)"}, "ref": {"value": "main"}}
    assert plan_json(plans()[position]) == document


def test_a_creation() -> None:
    plan = plans()[0]
    lint = changes_of(plan)["lint"]
    assert lint["change"]["actions"] == ["create"]
    assert lint["change"]["before"] is None and lint["change"]["before_sensitive"] is False
    assert lint["change"]["after"]["environment"] == {"TOKEN": "(sensitive value)", "CI": "1"}
    assert lint["change"]["after_sensitive"] == {"environment": {"TOKEN": True}}
    assert "action_reason" not in lint and "replace_paths" not in lint["change"]
    document = plan_json(plan)
    assert document["summary"] == {"add": 3, "change": 0, "destroy": 0}
    assert document["applyable"] and document["complete"] and not document["errored"]
    assert document["sandboxrun"]["digest"] == plan.digest
    assert document["sandboxrun"]["steps"][0]["id"] == "create network.default"


def test_one_of_a_for_each_has_its_item_as_index() -> None:
    agent = changes_of(plans()[0])['agent["te\\"sts"]']
    assert (agent["type"], agent["name"], agent["index"]) == ("sandboxrun_sandbox", "agent", 'te"sts')


def test_a_replacement_an_update_and_a_removal() -> None:
    changes = changes_of(plans()[1])
    lint, agent, old = changes["lint"], changes['agent["te\\"sts"]'], changes["old"]
    assert (lint["change"]["actions"], lint["change"]["replace_paths"]) == (["delete", "create"], [["environment"]])
    assert lint["action_reason"] == "replace_because_cannot_update"
    assert (agent["change"]["actions"], agent["action_reason"]) == (["update"], "update_because_drift")
    assert (agent["change"]["before"]["mem_limit"], agent["change"]["after"]["mem_limit"]) == ("512m", "1g")
    assert (old["change"]["actions"], old["change"]["after"]) == (["delete"], None)
    assert old["action_reason"] == "delete_because_no_resource_config"
    assert old["sandboxrun"]["engine_name"] == "review-old"


def test_drift_goes_from_what_was_applied_to_what_is() -> None:
    drift = plan_json(plans()[1])["resource_drift"]
    assert [item["address"] for item in drift] == ["lint", 'agent["te\\"sts"]']
    assert (drift[1]["change"]["before"]["mem_limit"], drift[1]["change"]["after"]["mem_limit"]) == ("1g", "512m")
    refreshed = plan_json(plans()[2])
    assert [item["address"] for item in refreshed["resource_drift"]] == ["lint"]
    assert not refreshed["applyable"] and refreshed["sandboxrun"]["mode"] == "refresh-only"


def test_what_stays_is_a_no_op_with_equal_sides() -> None:
    lint = changes_of(plans()[3])["lint"]["change"]
    assert lint["actions"] == ["no-op"]
    assert lint["before"] == lint["after"] and lint["after"]["image"] == "node:20-alpine"


def test_reasons_are_opentofus_words_where_it_has_them() -> None:
    assert changes_of(plans()[4])["lint"]["action_reason"] == "replace_because_image_moved"
    half_made = changes_of(plans()[6])['agent["te\\"sts"]']
    assert half_made["action_reason"] == "replace_because_tainted"
    gone = make_plan(profile(TESTS), snapshot(observed(TESTS), observed(declared("agent", "gone"))))
    assert changes_of(gone)['agent["gone"]']["action_reason"] == "delete_because_each_key"
    once = make_plan(profile(TESTS), snapshot(observed(TESTS), observed(declared("agent"))))
    assert changes_of(once)["agent"]["action_reason"] == "delete_because_wrong_repetition"


def test_a_container_of_run_beside_the_declared_one_is_deposed() -> None:
    found = [c for c in plan_json(plans()[6])["resource_changes"] if c["address"] == "lint"]
    assert [(c["change"]["actions"], c.get("deposed")) for c in found] == [
        (["create"], None),
        (["delete"], "0123456789ab"),
    ]


def test_a_part_of_the_project_is_not_complete() -> None:
    document = plan_json(plans()[5])
    assert not document["complete"]
    image = next(c for c in document["resource_changes"] if c["type"] == "sandboxrun_image")
    assert (image["name"], image["change"]["after"]) == ("node:20-alpine", {"digest": "sha256:" + "b" * 64})
    assert plan_json(plans()[7])["sandboxrun"]["mode"] == "destroy"


def denied(document: dict[str, Any]) -> list[str]:
    """What a policy written for OpenTofu's plans does: walk the changes by type and look at `after`."""
    found = []
    for change in document["resource_changes"]:
        if change["mode"] != "managed" or change["type"] != "sandboxrun_sandbox":
            continue
        after = change["change"]["after"]
        if "delete" in change["change"]["actions"] and after is None:
            found.append(f"{change['address']} is destroyed ({change['action_reason']})")
        if after is not None and after["user"].split(":")[0] in ("0", "root"):
            found.append(f"{change['address']} runs as root")
        if after is not None and "ALL" not in after["cap_drop"]:
            found.append(f"{change['address']} keeps capabilities")
    resources = document["planned_values"]["root_module"]["resources"]
    return [*found, *(f"{r['address']} has no limit" for r in resources if r["values"].get("mem_limit") == "0")]


def test_a_policy_walks_it() -> None:
    bad = declared("bad", user="0:0", cap_drop=(), mem_limit=0, memswap_limit=0)
    plan = make_plan(profile(LINT, bad), snapshot(observed(declared("old"))))
    assert denied(plan_json(plan)) == [
        "bad runs as root",
        "bad keeps capabilities",
        "old is destroyed (delete_because_no_resource_config)",
        "bad has no limit",
    ]


def test_names_of_resources() -> None:
    assert resource_of("volume", "volume.cache") == {
        "address": "volume.cache",
        "mode": "managed",
        "type": "sandboxrun_volume",
        "name": "cache",
        "provider_name": "sandboxrun",
    }
    strange = resource_of("sandbox", 'a["b\\\\\\"]["x"]')
    assert (strange["name"], strange["index"]) == ("a", 'b\\"]["x')


def test_sensitive_parts_have_the_values_shape() -> None:
    value = {"a": ["s", {"b": "s", "c": 1}], "d": "x", "e": []}
    assert sensitive_parts(value, frozenset({"s"})) == {"a": [True, {"b": True}]}
    assert sensitive_parts(None, frozenset({"s"})) is False


def test_what_it_widens_is_said() -> None:
    running = observed(declared("agent", read_only=True))
    plan = make_plan(profile(declared("agent", read_only=False, mem_limit=2**30)), snapshot(running))
    document = plan_json(plan)
    jsonschema.validate(document, SCHEMA)
    assert [list(widened.values()) for widened in document["sandboxrun"]["widenings"]] == [
        ["agent", "root filesystem", "WIDENED", "may now write to its root filesystem"],
        ["agent", "limits", "WIDENED", "may now use memory: 1g, was 512m"],
    ]
