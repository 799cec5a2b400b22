"""Whatever an engine's labels hold: what is not a project's own is not taken for it, and nothing of it is a crash."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandboxrun.backend.docker.codec import encode, observe, observe_companion, observe_network, observe_volume
from sandboxrun.backend.docker.observe import IDENTITY, is_own, is_own_container
from sandboxrun.backend.owner import decode as decode_owner
from sandboxrun.errors import SandboxrunError
from sandboxrun.plan.changes import compare
from sandboxrun.plan.planner import make_destroy_plan
from sandboxrun.spec import labels
from sandboxrun.spec.names import Names
from sandboxrun.spec.spec import SandboxSpec, settle
from sandboxrun.spec.state import ImageConfig, own_labels, parse_time
from tests.conftest import examples
from tests.unit.plan.world import profile, snapshot
from tests.unit.spec.echo import as_inspect

NAMES = Names(project="p")
SPEC = settle(SandboxSpec(image="a", network_mode="none"))
OWN = own_labels(project="p", address="s", run="0" * 32, spec=SPEC)
KNOWN = {SPEC.label: SPEC}
ALL = {
    **OWN,
    labels.PLAN_DIGEST: "sha256:" + "1" * 64,
    labels.DEADLINE: "2026-01-01T00:00:00Z",
    labels.OWNER: '{"kernel": "k", "pid": 1, "started": 1, "who": "a"}',
    labels.ONE_OFF: "1",
    labels.WORKSPACE: '{"source": "/w", "target": "/workspace", "protected": []}',
    labels.SECRETS: "[]",
    labels.CONFIGS: '[["a", "a", null, null, 256, null]]',
    labels.GATEWAY: "172.16.0.2",
}
DEEP = "[" * 100_000
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
WEIRD = st.one_of(
    st.sampled_from(
        ["", "null", "{}", "[]", DEEP, "9" * 5000, "\ud800", "\x00", "1e999", "9999-12-31T23:59:59-23:59", "0001-01-01"]
    ),
    st.text(max_size=20),
    JSON.map(json.dumps),
)


def listed(own: Any, state: str = "running") -> dict[str, Any]:
    return {"Id": "c" * 64, "Names": ["/x"], "Labels": own, "State": state}


def test_what_sandboxrun_makes_is_the_projects() -> None:
    assert is_own_container(listed(OWN), "p", ()) and is_own_container(listed(OWN), "p", (), KNOWN)
    assert is_own_container(listed({**OWN, labels.ONE_OFF: "1"}), "p", ("other", "sandboxrun.gateway.digest"))
    companion = {name: OWN[name] for name in (labels.PROJECT, labels.SANDBOX, labels.RUN)}
    assert is_own_container(listed({**companion, labels.ROLE: "gateway"}), "p", ())
    assert is_own_container(listed({labels.PROJECT: "p", labels.ROLE: "courier"}, "created"), "p", ())
    other = '{"from_a_newer_version":1}'
    digest = "sha256:" + "4c7ce0bd2b5e0b9b5a8e6d0b0c0f1b1f" * 2
    assert not is_own_container(listed({**OWN, labels.SPEC: other, labels.SPEC_DIGEST: digest}), "p", ())


@pytest.mark.parametrize("missing", [labels.PROJECT, labels.SANDBOX, labels.RUN, labels.SPEC, labels.SPEC_DIGEST])
@pytest.mark.parametrize("value", [None, "", "x", DEEP, 3, ["x"]], ids=repr)
def test_a_sandbox_without_one_of_its_labels_is_somebody_elses(missing: str, value: Any) -> None:
    own = {name: text for name, text in OWN.items() if name != missing}
    if value is not None and not (missing == labels.SANDBOX and value not in ("", 3) and value != ["x"]):
        own[missing] = value
    elif value is not None:
        return  # any text is an address
    assert not is_own_container(listed(own), "p", ()) and not is_own_container(listed(own), "p", (), KNOWN)


@pytest.mark.parametrize("inherited", sorted(IDENTITY))
def test_labels_that_an_image_gives_are_nobodys(inherited: str) -> None:
    """A copy of a sandbox, made with docker commit, has all labels of the original."""
    assert not is_own_container(listed(OWN), "p", (inherited,))
    assert not is_own_container(listed(OWN), "p", (inherited,), KNOWN)


@pytest.mark.parametrize(
    ("role", "state"), [("courier", "running"), ("courier", "exited"), ("keeper", "running"), ("", "created")]
)
def test_a_role_alone_makes_nothing_ours(role: str, state: str) -> None:
    assert not is_own_container(listed({labels.PROJECT: "p", labels.ROLE: role}, state), "p", ())


@pytest.mark.parametrize("key", [labels.NETWORK, labels.VOLUME])
def test_networks_and_volumes(key: str) -> None:
    def check(found: Any, project: str) -> bool:
        return is_own(found, key, project)

    shared = {labels.PROJECT: "p", key: "data", labels.CONFIG: "sha256:" + "0" * 64}
    own = {labels.PROJECT: "p", labels.SANDBOX: "s", labels.RUN: "0" * 32, key: "p-s.x"}
    assert check({"Name": "anything", "Labels": shared}, "p") and check({"Name": "p-s.x", "Labels": own}, "p")
    assert not check({"Name": "anything", "Labels": shared}, "q")
    assert not check({"Name": "another", "Labels": own}, "p")
    for labelled in (shared, own):
        for gone in labelled:
            left = {name: text for name, text in labelled.items() if name != gone}
            assert gone == labels.RUN or not check({"Name": "p-s.x", "Labels": left}, "p")
    for found in ({labels.PROJECT: "p"}, {labels.PROJECT: "p", key: "data"}, None, [], "p", {labels.PROJECT: 3}):
        assert not check({"Name": "data", "Labels": found}, "p")


@examples(60)
@given(own=st.dictionaries(st.sampled_from(sorted(ALL)), WEIRD), state=JSON, more=JSON)
def test_no_label_is_a_crash(own: Mapping[str, str], state: Any, more: Any) -> None:
    """Of a container whose labels are believed too: its spec can be read, compared and shown."""
    payload = encode(SPEC, name="p-s", names=NAMES, own_labels={**ALL, **own})
    inspect = as_inspect(payload, SPEC, name="p-s", names=NAMES)
    seen = observe(inspect, NAMES, ImageConfig())
    compare(SPEC, seen, None)
    json.dumps(seen.spec.shown)
    make_destroy_plan(profile(), snapshot(seen))
    decode_owner(seen.owner or "")
    for found in (own, more):
        is_own_container(listed(found, state), "p", ())
        observe_companion(listed(found), NAMES)
        answer = {"Id": "n", "Name": "n", "Labels": found}
        assert all(isinstance(is_own(answer, key, "p"), bool) for key in (labels.NETWORK, labels.VOLUME))
        observe_network(answer)
        observe_volume(answer)
    inspect["Config"]["Labels"] = more
    observe(inspect, NAMES, ImageConfig())


@examples(60)
@given(where=st.sampled_from(["Config", "HostConfig", "Mounts", "NetworkSettings", "State"]), value=JSON)
def test_an_answer_that_no_engine_gives_is_told_by_name(where: str, value: Any) -> None:
    payload = encode(SPEC, name="p-s", names=NAMES, own_labels=OWN)
    inspect = {**as_inspect(payload, SPEC, name="p-s", names=NAMES), where: value}
    try:
        observe(inspect, NAMES, ImageConfig())
    except SandboxrunError as error:
        assert error.diagnostics[0].message.startswith("the engine's answer about container p-s cannot be read (")


@given(text=WEIRD)
def test_times_and_owners_are_read_or_not(text: str) -> None:
    parse_time(text)
    owner = decode_owner(text)
    assert owner is None or not owner.is_gone
    for pid in (-1, 0, 2**31, "1e400"):
        assert decode_owner(json.dumps({"kernel": "k", "pid": pid, "started": 1, "who": "w"})) is None
