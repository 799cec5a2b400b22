"""An image's VOLUMEs: nothing of an image is writable and unbounded unless the profile says so."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import docker
import pytest

from sandboxrun.errors import ApplyError, PlanError
from sandboxrun.spec.records import Mount
from tests.engine.registry import LocalRegistry
from tests.engine.world import World, open_world

FAULT = "declares VOLUME /data and /var/lib/x: writable, and without a bound"


@pytest.fixture
def image(engine_client: docker.DockerClient, project: str, busybox: str) -> Iterator[str]:
    """An image with two VOLUMEs."""
    container = engine_client.api.create_container(busybox, "true", name=f"{project}-made")
    try:
        changes = ['VOLUME ["/data", "/var/lib/x/"]']
        made = engine_client.api.commit(container["Id"], f"{project}/volumes", changes=changes)
    finally:
        engine_client.api.remove_container(container["Id"])
    yield f"{project}/volumes:latest"
    engine_client.images.remove(made["Id"], force=True)


@pytest.fixture
def world(engine_host: str, project: str, tmp_path: Path, image: str) -> Iterator[World]:
    with open_world(engine_host, project, tmp_path, image) as opened:
        yield opened


def anonymous(world: World) -> list[str]:
    return [str(volume["Name"]) for volume in world.engine.volumes() if len(str(volume["Name"])) == 64]


@pytest.mark.parametrize("options", [{}, {"tmpfs": ["/data/cache"]}, {"tmpfs": ["/var/lib"], "read_only": False}])
def test_volumes_that_nothing_is_mounted_over_are_refused_in_the_plan(world: World, options: dict[str, object]) -> None:
    with pytest.raises(PlanError, match=FAULT) as caught:
        world.plan(world.profile({"a": options}))
    (fault,) = caught.value.diagnostics
    assert fault.help == 'write tmpfs: ["/data:size=64m", "/var/lib/x:size=64m"], or mount a volume there'


def test_what_is_mounted_over_them_is_all_there_is(world: World) -> None:
    before = anonymous(world)
    (world.directory / "src").mkdir()
    options = {
        "tmpfs": ["/data:size=1m"],
        "workspace": {"source": "src", "target": "/var/lib/x"},
        "secrets": ["key"],
    }
    profile = world.profile({"a": options}, secrets={"key": {"environment": "KEY"}})
    world.environment["KEY"] = "value"
    world.apply(profile)
    observed = world.observed(profile, "a")
    assert {mount["Type"] for mount in observed.document["Mounts"] if mount["Destination"] == "/data"} <= {"tmpfs"}
    code, said = world.run(observed.id, "dd", "if=/dev/zero", "of=/data/x", "bs=1M", "count=2")
    assert code != 0 and "No space left" in said
    assert world.plan(profile).empty
    world.destroy(profile)
    assert anonymous(world) == before  # no courier of it left one either


def test_one_that_the_engine_made_is_seen(world: World) -> None:
    """A container whose image has gained a VOLUME behind our back: the read-back shows it."""
    profile = world.profile({"a": {"tmpfs": ["/data", "/var/lib/x"]}})
    world.apply(profile)
    observed = world.observed(profile, "a")
    more = {"Type": "volume", "Name": "c" * 64, "Source": "/c", "Destination": "/data", "RW": True}
    from sandboxrun.backend.docker.codec import observe

    seen = observe({**observed.document, "Mounts": [more]}, profile.names, None)
    assert seen.spec.volumes == (Mount(type="volume", source=f"engine:{'c' * 64}", target="/data"),)


def test_an_image_that_is_pulled_with_volumes_is_refused_before_it_runs(
    world: World, registry: LocalRegistry, project: str, engine_client: docker.DockerClient
) -> None:
    ref = registry.ref(project)
    registry.publish(project, files={"x": b"1"}, volumes=("/data", "/var/lib/x"))
    before = anonymous(world)
    profile = world.profile({"a": {"image": ref}})
    try:
        assert "+ sandbox a" in str(world.plan(profile))
        with pytest.raises(ApplyError, match=FAULT):
            world.apply(profile)
    finally:
        engine_client.images.remove(ref, force=True)
    assert world.ids(profile) == {}
    assert anonymous(world) == before
