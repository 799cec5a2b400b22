"""Every option on a real engine: made, read back, changed as its row says, read back again."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from msgspec import field

from sandboxrun.data import Data
from sandboxrun.plan.changes import Action, compare
from sandboxrun.spec.option import Effect, value_of
from sandboxrun.spec.project import Profile
from sandboxrun.spec.spec import BY_KEY, ROWS
from sandboxrun.spec.state import without_inherited
from tests.engine.world import World, change, open_world

UNSET = object()


class Walk(Data):
    """One walk over a row: it is made with `first`, changed to `then`. `also` are options that both have, `top` keys
    of the profile's top level. `action` is what the change must ask of the engine; the row's effect when left out."""

    first: Any
    then: Any
    also: Mapping[str, Any] = field(default_factory=dict)
    top: Mapping[str, Any] = field(default_factory=dict)
    action: Action | None = None


REMOVED = Action.REPLACE  # the engine reads 0 and "" as "unchanged", so removing such a limit is a replacement
# Two workers may be at it side by side.
PREFIX = f"10.251.{77 + int(os.environ.get('PYTEST_XDIST_WORKER', 'gw0').removeprefix('gw'))}"
NETWORKS = {"networks": {"one": {"subnet": f"{PREFIX}.0/28"}, "two": {}}}
BRIDGE = {"network_mode": "bridge"}
SECRET = {"secrets": {"a": {"environment": "A"}, "b": {"environment": "B"}}}
CONFIG = {"configs": {"a": {"content": "1"}, "b": {"content": "2"}}}

WALKS: Mapping[str, tuple[Walk, ...]] = {
    "image": (Walk(first="sandboxrun/busybox:latest", then="sandboxrun/agent:latest"),),
    "command": (Walk(first=["sleep", "500"], then="sleep 400"),),
    "entrypoint": (
        Walk(first=["sleep"], then=["/bin/sleep"], also={"command": ["300"]}),
        Walk(first=["env"], then=UNSET),
        Walk(first=[], then=["env"]),
    ),
    "user": (Walk(first="1234", then="agent:agent"),),
    "working_dir": (Walk(first="/tmp", then="/home"), Walk(first="/tmp", then=UNSET)),
    "environment": (Walk(first={"A": "1", "B": "x=y z"}, then=["A=2"]), Walk(first={"A": ""}, then=UNSET)),
    "init": (Walk(first=False, then=True),),
    "tty": (Walk(first=True, then=UNSET),),
    "stdin_open": (Walk(first=True, then=False),),
    "stop_signal": (Walk(first="SIGINT", then="SIGKILL"), Walk(first="SIGINT", then=UNSET)),
    "stop_grace_period": (Walk(first="2s", then="2s500ms"),),
    "restart": (Walk(first="on-failure:3", then="no"), Walk(first="no", then="on-failure")),
    "healthcheck": (
        Walk(
            first={"test": ["CMD", "true"], "interval": "30s", "timeout": "5s", "retries": 2, "start_period": "1s"},
            then={"test": "true", "interval": "1m"},
        ),
        Walk(first={"disable": True}, then=UNSET),
    ),
    "hostname": (Walk(first="first", then="second.example"), Walk(first="first", then=UNSET)),
    "labels": (Walk(first={"a": "1", "b": ""}, then={"a": "2"}), Walk(first=["a=1"], then=UNSET)),
    "platform": (Walk(first=UNSET, then="linux/{arch}"),),
    "runtime": (Walk(first="runc", then="io.containerd.runc.v2"),),
    "logging": (
        Walk(first={"driver": "json-file", "options": {"max-size": "1m"}}, then={"driver": "local"}),
        Walk(first={"options": {"max-size": "1m", "max-file": "2"}}, then=UNSET),
    ),
    "group_add": (Walk(first=[2000, "agent"], then=["2000"]),),
    "mem_limit": (
        Walk(first="128m", then="64m"),
        Walk(first="64m", then="1g"),
        Walk(first="64m", then=0, action=REMOVED),
    ),
    "memswap_limit": (Walk(first="600m", then="700m"), Walk(first="600m", then=-1), Walk(first=-1, then=UNSET)),
    "mem_reservation": (Walk(first="32m", then="64m"), Walk(first="32m", then=UNSET, action=REMOVED)),
    "cpus": (Walk(first=0.5, then="0.25"), Walk(first=0.5, then=0, action=REMOVED), Walk(first=0, then=1.5)),
    "cpu_shares": (Walk(first=512, then=256), Walk(first=512, then=UNSET, action=REMOVED)),
    "cpuset": (Walk(first="0", then="0-1"), Walk(first="0", then=UNSET, action=REMOVED)),
    "pids_limit": (Walk(first=64, then=32), Walk(first=64, then=-1), Walk(first=0, then=64)),
    "ulimits": (Walk(first={"nofile": {"soft": 100, "hard": 200}, "stack": 8388608}, then={"nofile": 50}),),
    "shm_size": (Walk(first="1m", then="2m"),),
    "oom_score_adj": (Walk(first=500, then=UNSET),),
    "devices": (
        Walk(first=["/dev/zero:/dev/nil:r"], then=["/dev/zero:/dev/nil:rw"]),
        Walk(first=["/dev/zero"], then=[]),
    ),
    "read_only": (Walk(first=False, then=True),),
    "cap_drop": (Walk(first=["NET_RAW", "CAP_KILL"], then=[]),),
    "cap_add": (Walk(first=["NET_BIND_SERVICE", "chown"], then=["CHOWN"]), Walk(first=["KILL"], then=[])),
    "security_opt": (
        Walk(first=["no-new-privileges:false"], then=UNSET),
        Walk(first=["seccomp=unconfined"], then=['seccomp={"defaultAction":"SCMP_ACT_ALLOW"}']),
        Walk(first=["seccomp=engine"], then=["seccomp=debug"]),
    ),
    "userns_mode": (Walk(first="host", then=UNSET),),
    "ipc": (Walk(first="shareable", then="none"), Walk(first="none", then="private")),
    "sysctls": (Walk(first={"kernel.msgmax": 8000}, then=["kernel.msgmax=9000"]),),
    "tmpfs": (Walk(first=["/tmp:size=1m,exec", "/x"], then=["/x:mode=700,uid=1000"]),),
    "volumes": (
        Walk(first=["data:/data"], then=["data:/data:ro", "./:/src:ro"], top={"volumes": {"data": {}}}),
        Walk(first=["./sub:/src"], then=[]),
    ),
    "workspace": (
        Walk(first={"access": "copy"}, then={"access": "ro"}),
        Walk(first={"source": "sub", "access": "rw", "target": "/w"}, then={"access": "copy", "target": "/w"}),
        Walk(
            first={"source": "sub", "access": "rw"},
            then={"source": "sub", "access": "rw", "writable": [".git", "Makefile"]},
        ),
        Walk(first={"source": "sub", "size": "2m"}, then={"source": "sub", "size": "4m"}),
        Walk(first=".", then=UNSET),
    ),
    "secrets": (
        Walk(first=["a"], then=[{"source": "a", "target": "c", "uid": 0, "gid": 5, "mode": "0440"}, "b"], top=SECRET),
        Walk(first=["a"], then=UNSET, top=SECRET),
    ),
    "configs": (Walk(first=["a", "b"], then=["b"], top=CONFIG), Walk(first=["a"], then=[], top=CONFIG)),
    "network_mode": (Walk(first="none", then="bridge"), Walk(first="bridge", then="none")),
    "networks": (
        Walk(first=["one"], then=["two"], also=BRIDGE, top=NETWORKS),
        Walk(
            first=["one", "two"],
            then={"one": {"aliases": ["x"], "ipv4_address": f"{PREFIX}.9"}},
            also=BRIDGE,
            top=NETWORKS,
        ),
        Walk(first={"one": {"aliases": ["x"]}}, then=UNSET, also=BRIDGE, top=NETWORKS, action=REMOVED),
    ),
    "egress": (
        Walk(first={"allow": ["a.example.com:443"]}, then={"allow": ["*.example.org:8443"]}, also=BRIDGE),
        Walk(first="open", then={"allow": ["a.example.com:443"], "private_networks": ["10.1.0.0/16"]}, also=BRIDGE),
        Walk(first="open", then="none", also=BRIDGE, action=REMOVED),
        Walk(first="open", then={"mode": "open", "resolvers": ["192.0.2.53"]}, also=BRIDGE, action=REMOVED),
    ),
    "dns": (Walk(first="127.0.0.1", then=["192.0.2.1", "::1"]),),
    "dns_search": (Walk(first="example.com", then=["example.org"]),),
    "dns_opt": (Walk(first=["timeout:2"], then=["timeout:3"]),),
    "extra_hosts": (Walk(first={"a.example.com": "192.0.2.1"}, then=["a.example.com:::1", "b=192.0.2.2"]),),
    # Nothing on the engine differs: the change is recorded beside it, and the sandbox keeps running.
    "pull_policy": (Walk(first="never", then="missing"),),
    "lifetime": (
        Walk(first={"timeout": "1h"}, then={"timeout": "1h", "idle": "1h"}),
        Walk(first={"timeout": "1h"}, then={"timeout": "2h"}, action=Action.REPLACE),  # PID 1 holds the first one
    ),
    "evidence": (Walk(first={"artifacts": ["/tmp/a"]}, then={"patch": False, "usage_every": "2s"}),),
}

LEFT_OUT = {
    "gpus": "no machine of the tests has one",
    "storage_opt": "the engine's file system has no quotas",
    "annotations": "needs API 1.43",
    "depends_on": "has two sandboxes; tested by test_plan_apply",
}


def test_every_option_is_walked() -> None:
    settable = {row.key for row in ROWS if row.settable}
    assert settable == WALKS.keys() | LEFT_OUT.keys()
    assert not WALKS.keys() & LEFT_OUT.keys()


@pytest.fixture
def world(engine_host: str, project: str, tmp_path: Path, busybox: str, agent_image: str) -> Iterator[World]:
    (tmp_path / "file").write_text("content")
    (tmp_path / "sub").mkdir()  # what a sandbox may write to lies apart from its evidence
    with open_world(engine_host, project, tmp_path, busybox) as opened:
        opened.environment |= {"A": "secret of a", "B": "secret of b"}
        yield opened


CASES = [
    pytest.param(key, walk, id=f"{key}-{number}") for key, walks in WALKS.items() for number, walk in enumerate(walks)
]


@pytest.mark.parametrize(("key", "walk"), CASES)
def test_an_option_is_enforced_and_changed_as_its_row_says(key: str, walk: Walk, world: World) -> None:
    first, then = _profile(world, key, walk, walk.first), _profile(world, key, walk, walk.then)
    assert change(world.apply(first), "a").action is Action.CREATE
    _is_as_declared(world, first, key)
    before = world.ids(first)["a"]

    changed = change(world.plan(then), "a")
    assert key in {d.key for d in changed.differences}
    assert not changed.drift
    assert changed.action is (walk.action or _action(key))

    world.apply(then)
    _is_as_declared(world, then, key)
    assert (world.ids(then)["a"] == before) is (changed.action is Action.UPDATE)

    world.destroy(then)
    assert world.snapshot(then).sandboxes == ()


def _profile(world: World, key: str, walk: Walk, value: Any) -> Profile:
    options = dict(walk.also)
    if value is not UNSET:
        arch = {"x86_64": "amd64", "aarch64": "arm64"}.get(str(world.engine.info()["Architecture"]), "amd64")
        options[key] = value.format(arch=arch) if key == "platform" else value
    return world.profile({"a": options}, **walk.top)


def _action(key: str) -> Action:
    return Action.REPLACE if BY_KEY[key].effect is Effect.REPLACE else Action.UPDATE


def _is_as_declared(world: World, profile: Profile, key: str) -> None:
    """By the planner's eyes, by value, and by what a whole plan says."""
    snapshot = world.snapshot(profile)
    (observed,) = snapshot.sandboxes
    (declared,) = profile.sandboxes
    image = snapshot.images[declared.spec.image]
    row = BY_KEY[key]
    assert compare(declared.spec, observed, image) == ()
    wanted = value_of(without_inherited(declared.spec, image.config), row)
    if wanted is not None:
        assert value_of(observed.spec, row) == wanted
    assert world.plan(profile).empty, str(world.plan(profile))
