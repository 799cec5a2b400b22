"""Fixtures of the attacks: those of the engine tests, and what the attacks of each cage said. Each cage runs once."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import docker
import pytest

from sandboxrun.backend.docker.client import connect
from tests.attacks.cages import CLOSED, Cages
from tests.attacks.outside import Outside, look_outside
from tests.attacks.places import Bench, Copied, Shared, look_at_copied, look_at_shared
from tests.attacks.shipping import controlled, said_by
from tests.attacks.weak import beside_a_host, run_weak
from tests.attacks.world import open_world
from tests.engine.conftest import (  # noqa: F401 (pytest finds fixtures by their names here)
    _nothing_left,
    agent_image,
    busybox,
    cli,
    engine_client,
    engine_host,
    gateway_image,
    labels,
    project,
    run_id,
)
from tests.engine.leftovers import TEST_LABEL
from tests.engine.own_engine import why_impossible


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whatever lies here talks to an engine, as in tests/engine."""
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.engine)
            if "outside" in getattr(item, "fixturenames", ()):
                item.add_marker(pytest.mark.own_engine)


@pytest.fixture(scope="session")
def cages(engine_host: str, run_id: str, tmp_path_factory: pytest.TempPathFactory, agent_image: str) -> Iterator[Cages]:  # noqa: F811
    """A project for the caged ones."""
    with connect(engine_host) as engine:
        yield Cages(
            engine=engine, project=f"{run_id}-attacks", directory=tmp_path_factory.mktemp("attacks"), image=agent_image
        )


@pytest.fixture(scope="session")
def caged(cages: Cages) -> Mapping[str, str]:
    """What the attacks said from within a sandbox without a network, by their names."""
    ran = cages.run(CLOSED)
    return {name: said for one in ran.values() for name, said in said_by(one.output).items()}


@pytest.fixture(scope="session")
def uncaged(engine_client: docker.DockerClient, run_id: str, agent_image: str) -> Mapping[str, str]:  # noqa: F811
    """What they said in the weak sandbox."""
    mark, own = f"{run_id}-weak", {TEST_LABEL: run_id}
    names = [one.name for one in controlled(*CLOSED)]
    with beside_a_host(engine_client, agent_image, mark, own) as host:
        return run_weak(host, agent_image, mark, own, names)


@pytest.fixture(scope="session")
def outside(
    engine_client: docker.DockerClient,  # noqa: F811
    tmp_path_factory: pytest.TempPathFactory,
    agent_image: str,  # noqa: F811
    gateway_image: str,  # noqa: F811
) -> Outside:
    """What the attacks with a network said, in their cages and in the weak sandbox, and what reached whom."""
    if reason := why_impossible():
        (pytest.fail if os.environ.get("CI") else pytest.skip)(reason)
    with open_world(engine_client, agent_image) as world:
        return look_outside(world, tmp_path_factory.mktemp("outside"))


@pytest.fixture(scope="session")
def bench(cages: Cages, engine_client: docker.DockerClient, run_id: str, agent_image: str) -> Bench:  # noqa: F811
    """Where attacks on workspaces run."""
    own = {TEST_LABEL: run_id}
    return Bench(engine=cages.engine, client=engine_client, image=agent_image, mark=run_id, labels=own)


@pytest.fixture(scope="session")
def shared(bench: Bench, tmp_path_factory: pytest.TempPathFactory) -> Shared:
    """What became of a workspace of access rw."""
    if not bench.engine.shares_filesystem():
        pytest.skip("the engine does not see this machine's files: rw is impossible there")
    return look_at_shared(bench, tmp_path_factory.mktemp("shared"))


@pytest.fixture(scope="session")
def copied(bench: Bench, tmp_path_factory: pytest.TempPathFactory) -> Copied:
    """What became of workspaces of access copy."""
    return look_at_copied(bench, tmp_path_factory.mktemp("copied"))
