"""The fixtures themselves, on a real engine: what the other tests stand on."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping

import docker
import docker.errors
import pytest

from tests.engine.leftovers import sweep
from tests.engine.own_engine import OwnEngine
from tests.engine.registry import LocalRegistry


def test_both_images_run_as_the_agent_user(engine_client: docker.DockerClient, busybox: str, agent_image: str) -> None:
    for name in (busybox, agent_image):
        out = engine_client.containers.run(
            name, ["sh", "-c", "id -un; id -u; cd ~ && pwd && touch here"], user="agent", remove=True
        )
        assert out == b"agent\n1000\n/home/agent\n"


def test_the_agent_image_has_the_tools(engine_client: docker.DockerClient, agent_image: str) -> None:
    script = "node -e 'console.log(6*7)' && python3 -c 'import asyncio' && git --version && curl --version | head -1"
    out = engine_client.containers.run(agent_image, ["sh", "-c", script], remove=True).decode()
    assert out.startswith("42\ngit version ") and "\ncurl " in out


def test_the_agent_image_tells_nothing_of_the_machine_it_was_built_on(
    engine_client: docker.DockerClient, agent_image: str
) -> None:
    script = "ls -A /etc/apt/sources.list.d; cat /etc/apt/sources.list 2>/dev/null; true"
    assert engine_client.containers.run(agent_image, ["sh", "-c", script], remove=True) == b""


def test_leftovers_are_found_by_name_and_by_label_and_removed(
    engine_client: docker.DockerClient, busybox: str, project: str, labels: Mapping[str, str]
) -> None:
    engine_client.networks.create(f"{project}-net")
    engine_client.volumes.create(f"{project}-vol")
    container = engine_client.containers.create(busybox, ["true"], labels=labels)
    assert sweep(engine_client, project) == [
        f"container {container.name} (created)",
        f"network {project}-net",
        f"volume {project}-vol",
    ]
    assert sweep(engine_client, project) == []


def test_an_own_engine_is_killed_and_started_again(own_engine: OwnEngine, engine_client: docker.DockerClient) -> None:
    with contextlib.closing(own_engine.client()) as client:
        # With an init the container heeds the SIGTERM that the next start sends; without one that takes ten seconds.
        container = client.containers.run("sandboxrun/busybox:latest", ["sleep", "600"], init=True, detach=True)
        client.networks.create("mine")
        own_engine.kill()
        with pytest.raises(Exception, match="Connection"):
            client.ping()
        own_engine.start()
        container.reload()
        assert (container.status, container.attrs["State"]["ExitCode"]) == ("exited", 143)
        assert client.networks.list(names=["mine"])
    with pytest.raises(docker.errors.NotFound):
        engine_client.containers.get(container.id)


def test_an_own_engine_stops_and_leaves_nothing(make_engine: Callable[..., OwnEngine]) -> None:
    engine = make_engine("--default-address-pool=base=10.201.0.0/24,size=26")
    with contextlib.closing(engine.client()) as client:
        client.containers.run("sandboxrun/busybox:latest", ["sleep", "600"], detach=True)
        engine.kill()
    pid = engine.daemon.pid
    engine.stop()
    assert pid is None and engine.daemon.pid is None
    assert list(engine.daemon._processes()) == []
    assert engine.daemon._mounts() == []


def test_a_tag_in_the_registry_moves(registry: LocalRegistry, engine_client: docker.DockerClient) -> None:
    first = registry.publish("moving", files={"release": b"1"})
    image = engine_client.images.pull(registry.ref("moving"))
    assert image.attrs["RepoDigests"] == [f"{registry.address}/moving@{first}"]
    second = registry.publish("moving", files={"release": b"2"})
    assert second != first
    assert engine_client.images.get_registry_data(registry.ref("moving")).id == second
    # The engine's own copy went with the push of the second: the first is still to be had by its digest.
    engine_client.images.pull(f"{registry.address}/moving@{first}")
    registry.remove_pulled()
    assert not [i for i in engine_client.images.list(all=True) if str(i.attrs["RepoDigests"]).count(registry.address)]
