"""Fixtures of the engine tests: the engine, its images, a project of one's own, and nothing left behind.

A test names what it makes after `project`, or labels it with `labels`; whatever of that is still on the engine
after the test is removed, and the test fails.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import docker
import pytest

from sandboxrun import Settings
from sandboxrun.backend.docker.client import connect
from sandboxrun.gateway.image import build, reference
from scripts import engine, image
from tests.conftest import Cli
from tests.engine.chaos import Project
from tests.engine.leftovers import TEST_LABEL, sweep
from tests.engine.own_engine import OwnEngine, open_engine, why_impossible
from tests.engine.registry import LocalRegistry, open_registry
from tests.engine.world import World, open_world


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whatever lies here talks to an engine: `-m "not engine"` leaves it out.

    What starts engines of its own says nothing of the engine that DOCKER_HOST names: `-m "not own_engine"`.
    """
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.engine)
        if "make_engine" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.own_engine)


@pytest.fixture(scope="session")
def engine_client() -> Iterator[docker.DockerClient]:
    """A docker-py client of the engine under test, to look at what sandboxrun made. No engine is a failure."""
    try:
        client = engine.client()
    except engine.NoEngine as error:
        pytest.fail(f"no engine answers at {engine.endpoint()} ({error}); `make engine` starts one")
    yield client
    client.close()


@pytest.fixture(scope="session")
def engine_host(engine_client: docker.DockerClient) -> str:
    """The engine's address as DOCKER_HOST and --host take it."""
    return engine.endpoint()


@pytest.fixture(scope="session")
def busybox(engine_client: docker.DockerClient) -> str:
    """The reference of a 2 MB image with a shell and a user `agent` (1000)."""
    return _image(engine_client, image.BUSYBOX)


@pytest.fixture(scope="session")
def agent_image(engine_client: docker.DockerClient) -> str:
    """The reference of an image with node, python, git, curl, a C compiler and a user `agent` (1000)."""
    return _image(engine_client, image.AGENT)


@pytest.fixture(scope="session", autouse=True)
def gateway_image(engine_client: docker.DockerClient, engine_host: str) -> str:
    """The reference of the gateways' image. Its name tells the program's version: a changed one is built here."""
    name = reference()
    if not image.present(engine_client, name):
        _image(engine_client, image.HAPROXY)
        with connect(engine_host) as built:
            build(built, image.HAPROXY)
    return name


@pytest.fixture(scope="session")
def run_id(engine_client: docker.DockerClient) -> Iterator[str]:
    """This run's part of every name it gives. What a test's own check could not see is caught at the end."""
    mark = f"t{uuid.uuid4().hex[:10]}"
    yield mark
    if left := sweep(engine_client, mark):
        pytest.fail(f"the run left on the engine: {'; '.join(left)}")


@pytest.fixture
def project(run_id: str) -> str:
    """A project name that no other test has; also a fit prefix for anything a test makes by hand."""
    return f"{run_id}-{uuid.uuid4().hex[:8]}"


@pytest.fixture
def labels(project: str) -> Mapping[str, str]:
    """Labels for objects that a test makes by hand under any name, so that they count as its own."""
    return {TEST_LABEL: project}


@pytest.fixture(autouse=True)
def _nothing_left(engine_client: docker.DockerClient, project: str) -> Iterator[None]:
    """After the test: no container, network or volume of its project, else it fails (and they are removed)."""
    yield
    if left := sweep(engine_client, project):
        pytest.fail(f"the test left on the engine: {'; '.join(left)}")


@pytest.fixture
def cli(_nothing_left: None, cli: Cli) -> Cli:
    """The command line; what of it still runs is killed before the engine is checked for leftovers."""
    return cli


@pytest.fixture
def make_engine() -> Iterator[Callable[..., OwnEngine]]:
    """Starts private engines, with further options for dockerd if given; all are gone after the test."""
    if reason := why_impossible():
        # A pipeline must not pass by leaving these out; a developer without root may.
        (pytest.fail if os.environ.get("CI") else pytest.skip)(reason)
    opened: list[OwnEngine] = []

    def make(*options: str) -> OwnEngine:
        opened.append(open_engine(*options))
        return opened[-1]

    yield make
    for one in opened:
        one.close()


@pytest.fixture
def own_engine(make_engine: Callable[..., OwnEngine]) -> OwnEngine:
    """A private engine that the test may stop, kill and start."""
    return make_engine()


@pytest.fixture(scope="session")
def registry(engine_client: docker.DockerClient, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalRegistry]:
    """An image registry on loopback; images pulled from it are removed at the end."""
    opened = open_registry(engine_client, tmp_path_factory.mktemp("registry"))
    yield opened
    opened.remove_pulled()
    opened.stop()


def _image(client: docker.DockerClient, name: str) -> str:
    if not image.present(client, name):
        pytest.fail(f"the engine has no image {name}; `make image` makes it")
    return name


@pytest.fixture
def world(engine_host: str, project: str, tmp_path: Path, busybox: str) -> Iterator[World]:
    """Sandboxes of this test's own that sleep in busybox, without a network."""
    with open_world(engine_host, project, tmp_path, busybox) as opened:
        yield opened


@pytest.fixture
def settings(engine_host: str, busybox: str) -> Settings:
    """Sandboxes of busybox, without a network."""
    return Settings(docker_host=engine_host, default_image=busybox, network_mode="none")


@pytest.fixture
def chaos(project: str, tmp_path: Path, engine_host: str, busybox: str) -> Iterator[Project]:
    """A project whose commands are killed at chosen calls."""
    made = Project(name=project, directory=tmp_path, host=engine_host, image=busybox)
    yield made
    made.destroy()
