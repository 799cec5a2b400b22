"""An image's labels go to its containers: one that carries sandboxrun's own is refused before anything runs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import docker
import pytest

from sandboxrun.errors import PlanError
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
