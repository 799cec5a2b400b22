"""On a real engine: what means the same is no change, every value arrives, and a profile has one meaning."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import docker
import pytest

from sandboxrun.backend.docker.codec import encode
from sandboxrun.errors import PlanError
from sandboxrun.plan.changes import Action, Reason
from sandboxrun.spec.project import Profile
from tests.engine.world import World, change, open_world
from tests.spellings import SPELLINGS


@pytest.fixture
def world(engine_host: str, project: str, tmp_path: Path, busybox: str) -> Iterator[World]:
    (tmp_path / "sub").mkdir()
    (tmp_path / "a.json").write_text('{"defaultAction": "SCMP_ACT_ALLOW"}')
    with open_world(engine_host, project, tmp_path, busybox) as opened:
        opened.environment |= {"A": "secret of a", "B": "secret of b"}
        yield opened


NOT_HERE = {
    "gpus": "no machine of the tests has one",
    "storage_opt": "the engine's file system has no quotas",
    "annotations": "needs API 1.43",
    "depends_on": "has two sandboxes",
    "pull_policy": "asks a registry",
    "network_mode": "the networks and egress below say it",
    "entrypoint": "the command below would run it: see the tests of image and profile",
}
OWN: dict[str, tuple[Any, ...]] = {  # the table's would not run here, or not beside the others
    "image": ("sandboxrun/busybox:latest", "sandboxrun/busybox"),
    "command": ("sleep 600", ["sleep", 600]),
    "platform": ("linux/{arch}", "Linux/{other}", "{arch}", "{other}"),
    "healthcheck": ({"test": "true"}, {"test": ["CMD-SHELL", "true"], "interval": "30s", "retries": "3"}),
    "group_add": ([1, 2, "agent"], ["agent", "2", "1"], [2, "01", "agent"]),
    "cpuset": ("0-1", "0,1", "1,0"),
    "restart": ("no", False),
    "security_opt": (["seccomp=debug", "label=disable"], ["label:disable", "no-new-privileges", "seccomp:debug"]),
    "tmpfs": SPELLINGS["tmpfs"][0].same,
    "sysctls": ({"kernel.msgmax": 9000, "kernel.msgmnb": 9001}, ["kernel/msgmnb=9001", "kernel.msgmax=9000"]),
    "workspace": SPELLINGS["workspace"][0].same,
    "ulimits": ({"nofile": 1024}, {"nofile": {"soft": 1024, "hard": "1024"}}),
    "devices": SPELLINGS["devices"][0].same[:2],
    "memswap_limit": ("unlimited", -1, "-1"),
    "volumes": (
        ["data:/data:ro", "./sub:/src:ro"],
        [{"type": "bind", "source": "sub", "target": "/src", "read_only": True}, "data:/data:ro"],
    ),
}
QUIET = [key for key in SPELLINGS if key not in {*NOT_HERE, "networks", "dns", "egress"}]


def _spelled(key: str) -> tuple[Any, ...]:
    same = OWN.get(key, SPELLINGS[key][0].same)
    return tuple(value for value in same if value is not None)


def _nth(keys: list[str], number: int) -> dict[str, Any]:
    return {key: (every := _spelled(key))[number % len(every)] for key in keys}


@pytest.mark.parametrize(
    ("keys", "also"),
    [
        (QUIET, {"network_mode": "none"}),
        (["networks", "dns"], {"network_mode": "bridge"}),
        (["egress"], {"network_mode": "bridge"}),
    ],
    ids=["quiet", "joined", "egress"],
)
def test_another_spelling_is_no_change(keys: list[str], also: dict[str, Any], world: World) -> None:
    arch, other = {"x86_64": ("amd64", "x86_64"), "aarch64": ("arm64", "aarch64")}[
        str(world.engine.info()["Architecture"])
    ]
    top = {name: value for key in keys for one in SPELLINGS[key][:1] for name, value in one.top.items()}
    most = max(len(_spelled(key)) for key in keys)
    profiles = []
    for number in range(most):
        options = {**also, **_nth(keys, number)}
        if "platform" in options:
            options["platform"] = str(options["platform"]).format(arch=arch, other=other)
        profiles.append(world.profile({"a": options}, **top))
    world.apply(profiles[0])
    for profile in profiles:
        plan = world.plan(profile)
        assert plan.empty, str(plan)
    assert len({profile.sandboxes[0].spec.digest for profile in profiles}) == 1


def test_the_tables_of_this_file_are_of_spelled_options() -> None:
    assert NOT_HERE.keys() < SPELLINGS.keys()
    assert OWN.keys() <= set(QUIET)


def test_every_label_reaches_the_engine_or_is_refused_by_name(world: World) -> None:
    labels = ["label=user:root", "label=type:svirt_apache_t"]
    profile = world.profile({"a": {"security_opt": labels}})
    with created(world, profile) as inspect:
        given = inspect["HostConfig"]["SecurityOpt"]
    assert [item for item in given if item.startswith("label")] == labels
    if "name=selinux" in world.engine.info()["SecurityOptions"]:
        assert not world.plan(profile).empty
        return
    with pytest.raises(PlanError) as caught:
        world.plan(profile)
    faults = [fault.message for fault in caught.value.diagnostics]
    assert [part in fault for part, fault in zip(("label=user", "label=type"), faults, strict=True)] == [True, True]


@contextmanager
def created(world: World, profile: Profile) -> Iterator[Mapping[str, Any]]:
    """What an engine shows of the profile's only sandbox, made by its payload alone and never started."""
    (sandbox,) = profile.sandboxes
    image = world.engine.image_config(sandbox.spec.image)
    payload = encode(sandbox.spec, name=sandbox.name, names=profile.names, own_labels={}, image=image)
    made = world.engine.create_container(f"{sandbox.name}-made", payload)
    try:
        yield world.engine.inspect_container(made.id)
    finally:
        world.engine.remove_container(made.id, force=True, volumes=True)


@pytest.fixture
def entry(engine_client: docker.DockerClient, project: str, busybox: str) -> Iterator[str]:
    """An image with an entry point and a command."""
    container = engine_client.api.create_container(busybox, "true", name=f"{project}-made")
    try:
        changes = ['ENTRYPOINT ["/bin/sh", "-c"]', 'CMD ["sleep 3600"]', "WORKDIR /tmp", "ENV A=1"]
        made = engine_client.api.commit(container["Id"], f"{project}/entry", tag="1", changes=changes)
    finally:
        engine_client.api.remove_container(container["Id"])
    yield f"{project}/entry:1"
    engine_client.images.remove(made["Id"], force=True)


SHELL = ["/bin/sh", "-c"]


@pytest.mark.parametrize(
    ("options", "entrypoint", "command"),
    [
        ({"command": None}, SHELL, ["sleep 3600"]),
        ({"entrypoint": SHELL, "command": None}, SHELL, None),
        ({"command": []}, SHELL, None),
        ({"entrypoint": ["sleep"], "command": ["9"]}, ["sleep"], ["9"]),
        ({"entrypoint": [], "command": ["sleep", "9"]}, None, ["sleep", "9"]),
        ({"entrypoint": [], "command": None}, None, ["sleep 3600"]),
    ],
    ids=["neither", "entrypoint", "no-command", "both", "no-entrypoint", "no-entrypoint-image-command"],
)
def test_a_profile_means_one_command_line_beside_a_running_sandbox_and_in_a_fresh_one(
    options: dict[str, Any], entrypoint: list[str] | None, command: list[str] | None, entry: str, world: World
) -> None:
    """Made and not started: not all of these would run for long."""
    first = world.profile({"a": {"image": entry, "command": None}})
    world.apply(first)
    wanted = world.profile({"a": {"image": entry, **options}})
    found = change(world.plan(wanted), "a")
    same = (entrypoint, command) == (SHELL, ["sleep 3600"])
    assert found.action is (Action.NONE if same else Action.REPLACE), found
    world.destroy(first)
    with created(world, wanted) as inspect:
        config = inspect["Config"]
    assert (config["Entrypoint"] or None, config["Cmd"] or None) == (entrypoint, command)


def test_what_is_equal_to_the_image_is_no_change_and_what_is_taken_away_is_one(entry: str, world: World) -> None:
    plain = world.profile({"a": {"image": entry, "command": None}})
    world.apply(plain)
    equal = {"command": ["sleep 3600"], "working_dir": "/tmp", "environment": {"A": "1"}, "stop_signal": "SIGTERM"}
    assert world.plan(world.profile({"a": {"image": entry, **equal}})).empty
    explicit = world.profile({"a": {"image": entry, "entrypoint": SHELL, "command": ["sleep 3600"]}})
    assert world.plan(explicit).empty
    world.apply(explicit, replace=("a",))
    assert world.plan(explicit).empty and world.plan(plain).empty
    assert change(
        world.plan(world.profile({"a": {"image": entry, "entrypoint": SHELL, "command": None}})), "a"
    ).differences


def test_a_paused_sandbox_goes_on(world: World) -> None:
    profile = world.profile({"a": {}})
    world.apply(profile)
    before = world.ids(profile)["a"]
    world.engine.pause_container(before)
    found = change(world.plan(profile), "a")
    assert (found.action, found.reason, [d.key for d in found.drift]) == (Action.UPDATE, Reason.DRIFTED, ["paused"])
    world.apply(world.profile({"a": {"mem_limit": "256m"}}))
    state = world.engine.inspect_container(before)["State"]
    assert (state["Status"], state["Paused"]) == ("running", False)
    assert world.ids(profile)["a"] == before
    assert world.plan(world.profile({"a": {"mem_limit": "256m"}})).empty
