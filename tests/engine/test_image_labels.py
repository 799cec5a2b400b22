"""An image's labels go to its containers: one that carries sandboxrun's own is refused before anything runs, and what
others run of one, or label by hand, is not taken for the project's."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import docker
import pytest

from sandboxrun.errors import PlanError
from tests.conftest import Cli
from tests.engine.world import open_world


@pytest.fixture
def image(engine_client: docker.DockerClient, project: str, busybox: str) -> Iterator[str]:
    """An image that would have its containers taken for helpers of sandboxrun's."""
    container = engine_client.api.create_container(busybox, "true", name=f"{project}-made")
    try:
        changes = ["LABEL sandboxrun.role=courier", "LABEL sandboxrun.one-off=1", "LABEL other=1"]
        made = engine_client.api.commit(container["Id"], f"{project}/labels", changes=changes)
    finally:
        engine_client.api.remove_container(container["Id"])
    yield f"{project}/labels:latest"
    engine_client.images.remove(made["Id"], force=True)


def test_labels_of_sandboxruns_own_are_refused_in_the_plan(
    engine_host: str, project: str, tmp_path: Path, image: str
) -> None:
    with open_world(engine_host, project, tmp_path, image) as world, pytest.raises(PlanError) as caught:
        world.plan(world.profile({"a": {}}))
    (fault,) = caught.value.diagnostics
    assert fault.message == (
        f"a: the image {image} has labels that are sandboxrun's own: sandboxrun.one-off, sandboxrun.role"
    )


@pytest.fixture
def labelled(engine_client: docker.DockerClient, project: str, busybox: str) -> Iterator[Callable[..., str]]:
    """Makes images with labels; they are gone after the test."""
    api, made = engine_client.api, []

    def make(labels: Mapping[str, str]) -> str:
        container = api.create_container(busybox, "true")
        try:
            changes = [f"LABEL {name}={json.dumps(value)}" for name, value in labels.items()]
            made.append(api.commit(container["Id"], f"{project}/made{len(made)}", changes=changes)["Id"])
        finally:
            api.remove_container(container["Id"])
        return f"{project}/made{len(made) - 1}:latest"

    yield make
    for id in made:
        engine_client.images.remove(id, force=True)


def test_labels_that_stand_in_for_what_events_tell_are_refused_in_the_plan(
    cli: Cli, engine_client: docker.DockerClient, project: str, labelled: Callable[..., str]
) -> None:
    """An engine puts a container's labels over what it tells of its end: who knows of that end by the events alone,
    another job, say, took a failure for a success."""
    image = labelled({"exitCode": "0", "signal": "15", "name": "other"})
    (cli.cwd / "sandbox.yaml").write_text(
        f"name: {project}\nsandboxes: {{a: {{image: '{image}', command: ['false'], network_mode: none}}}}\n"
    )
    ran = cli("run", "a")
    assert ran.code == 125
    assert f"a: the image {image} has labels that hide how a sandbox ended: exitCode, signal\n" in ran.err
    # what is refused for it: the engine's own event of such an end
    api = engine_client.api
    id = api.create_container(image, ["sh", "-c", "exit 3"], name=f"{project}-by-hand")["Id"]
    try:
        api.start(id)
        assert api.wait(id)["StatusCode"] == 3
        events = api.events(since=0, until=int(time.time()) + 2, filters={"container": id, "event": "die"}, decode=True)
        assert next(events)["Actor"]["Attributes"]["exitCode"] == "0"
    finally:
        api.remove_container(id, force=True)


SANDBOXES = (
    "{ok: {image: sandboxrun/busybox:latest, network_mode: none, command: [sleep, '300'], stop_grace_period: 1s}}"
)


def test_containers_of_images_with_our_labels_are_nobodys_business(
    cli: Cli, engine_client: docker.DockerClient, project: str, labelled: Callable[..., str]
) -> None:
    """Whatever they are called and whichever labels their image has, a copy of all labels of a sandbox among them."""
    (cli.cwd / "sandbox.yaml").write_text(f"name: {project}\nsandboxes: {SANDBOXES}\n")
    assert cli("apply", "-y", "-q").code == 0
    api = engine_client.api
    copied = api.inspect_container(f"{project}-ok")["Config"]["Labels"]
    base = {"sandboxrun.project": project}
    kinds = {
        "bare": {**base, "sandboxrun.sandbox": "s"},
        "copy": copied,
        "old": {**copied, "sandboxrun.ttl-deadline": "2020-01-01T00:00:00Z"},
        "orphan": {**copied, "sandboxrun.one-off": "1", "sandboxrun.owner": "[" * 2000},
        "courier": {**base, "sandboxrun.role": "courier"},
        "gateway": {**copied, "sandboxrun.role": "gateway"},
    }
    ids = {}
    for kind, own in kinds.items():
        found = api.create_container(labelled(own), ["sleep", "300"], name=f"{project}-{kind}")
        ids[kind] = found["Id"]
        if kind != "courier":
            api.start(found["Id"])
    # by hand: not one of them is as sandboxrun makes them
    for name, own in {"hand": base, "half": {**copied, "sandboxrun.spec-digest": "sha256:0"}}.items():
        ids[name] = api.create_container(labelled({}), ["sleep", "300"], name=f"{project}-{name}", labels=own)["Id"]
        api.start(ids[name])
    api.create_volume(f"{project}_data", labels=base)
    api.create_network(f"{project}_net", labels={**base, "sandboxrun.network": "net"})
    try:
        for command in (
            ["plan"],
            ["apply", "-y"],
            ["ps"],
            ["verify", "ok", "--running"],
            ["logs", "ok"],
            ["destroy", "-y"],
            ["apply", "-y"],
            ["apply", "-y", "--replace", "ok"],
            ["destroy", "-y"],
        ):
            ran = cli(*command)
            assert ran.code == 0, (command, ran)
        states = {name: api.inspect_container(id)["State"]["Status"] for name, id in ids.items()}
        assert states == {name: "created" if name == "courier" else "running" for name in ids}
        assert [v["Name"] for v in api.volumes(filters={"name": f"{project}_data"})["Volumes"]] == [f"{project}_data"]
        assert [n["Name"] for n in api.networks(names=[f"{project}_net"])] == [f"{project}_net"]
    finally:
        for id in ids.values():
            api.remove_container(id, force=True)
        api.remove_volume(f"{project}_data")
        api.remove_network(f"{project}_net")


def test_what_stands_in_the_way_with_our_label_is_not_replaced(
    cli: Cli, engine_client: docker.DockerClient, project: str, labelled: Callable[..., str]
) -> None:
    (cli.cwd / "sandbox.yaml").write_text(f"name: {project}\nsandboxes: {SANDBOXES}\n")
    image = labelled({"sandboxrun.project": project, "sandboxrun.sandbox": "ok"})
    id = engine_client.api.create_container(image, ["sleep", "300"], name=f"{project}-ok")["Id"]
    try:
        ran = cli("apply", "-y")
        message = (
            f"the container {project}-ok exists and is not this project's (it has its label, but sandboxrun did not"
        )
        assert ran.code == 1 and message in ran.err
        assert engine_client.api.inspect_container(id)["State"]["Status"] == "created"
    finally:
        engine_client.api.remove_container(id)
