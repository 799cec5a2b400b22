"""The gateway's image on a real engine: built from what the engine has, named by its content, confined."""

from __future__ import annotations

import io
import re
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import docker
import pytest

from sandboxrun.backend.docker import codec
from sandboxrun.backend.docker.client import Engine, connect
from sandboxrun.backend.docker.companions import low_ports_closed
from sandboxrun.backend.errors import EngineError, EngineUnreachable
from sandboxrun.errors import SandboxrunError
from sandboxrun.gateway import image
from scripts.image import HAPROXY
from tests.conftest import Cli, until


@pytest.fixture
def engine(engine_host: str) -> Iterator[Engine]:
    with connect(engine_host) as opened:
        yield opened


@pytest.fixture
def tag(project: str, engine_client: docker.DockerClient) -> Iterator[str]:
    """A name for an image of the test's own, which is gone afterwards."""
    name = f"{project}:latest"
    yield name
    for found in engine_client.images.list(project):
        engine_client.images.remove(found.id, force=True)


def context(recipe: str, **files: bytes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in {"Dockerfile": recipe.encode(), **files}.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def test_an_image_is_built_from_a_context(
    engine: Engine, engine_client: docker.DockerClient, busybox: str, tag: str
) -> None:
    told: list[str] = []
    id = engine.build_image(
        context(f"FROM {busybox}\nCOPY file /file\n", file=b"x"),
        tag,
        labels={"sandboxrun.test": "a b"},
        progress=lambda entry: told.append(str(entry.get("stream", ""))),
    )
    found = engine_client.images.get(tag)
    assert found.id == id and found.labels["sandboxrun.test"] == "a b"
    assert any("COPY file" in line for line in told)


@pytest.mark.parametrize(
    ("recipe", "cause"),
    [
        ("FROM {busybox}\nCOPY none /none\n", "none"),
        ("FROM {busybox}\nRUN false\n", "returned a non-zero code"),
        ("NONSENSE\n", "NONSENSE"),
    ],
)
def test_what_cannot_be_built_is_told(
    engine: Engine, engine_client: docker.DockerClient, busybox: str, tag: str, recipe: str, cause: str
) -> None:
    with pytest.raises(EngineError, match=cause) as caught:
        engine.build_image(context(recipe.format(busybox=busybox)), tag)
    assert caught.value.operation == f"building image {tag}"
    assert engine.image(tag) is None


def test_a_base_without_python_is_told(engine: Engine, busybox: str) -> None:
    with pytest.raises(SandboxrunError) as caught:
        image.build(engine, busybox)
    assert caught.value.diagnostics[0].help == (
        f"{busybox} must have Python 3.11 or newer as python3, and HAProxy 2.6 or newer if it can't be installed"
    )


def test_a_base_with_volumes_is_refused(engine: Engine, engine_client: docker.DockerClient, tag: str) -> None:
    """Each gateway would get one that the engine makes unasked: it would be made, and then refused for it."""
    engine.build_image(context(f"FROM {HAPROXY}\nVOLUME /var/lib/a /b\n"), tag)
    with pytest.raises(SandboxrunError, match="it declares /b, /var/lib/a as VOLUME"):
        image.build(engine, tag)


def test_the_command_prints_its_name(cli: Cli, gateway_image: str) -> None:
    ran = cli("gateway", "build")
    assert (ran.code, ran.out, ran.err) == (0, f"{gateway_image}\n", "")
    again = cli("gateway", "build", "--from", HAPROXY)
    assert (again.code, again.out) == (0, f"{gateway_image}\n")
    assert again.err == f"building {gateway_image} on {HAPROXY}\n"


def test_a_base_that_is_nowhere(cli: Cli, project: str) -> None:
    ran = cli("gateway", "build", "--from", f"127.0.0.1:1/{project}:none")
    assert ran.code == 1 and ran.out == ""
    help = "name an image that the engine has, with Python 3.11 and HAProxy 2.6 or newer in it (--from IMAGE)"
    assert f"help: {help}\n" in ran.err


def test_doctor_says_whether_it_is_there(cli: Cli, gateway_image: str, tmp_path: Path) -> None:
    out = cli("doctor", cwd=tmp_path).out
    assert re.search(r"^low ports +open to gateways", out, re.M)
    assert re.search(rf"^gateway +image {gateway_image}, HAProxy [0-9]+\.[0-9]", out, re.M)


def test_how_it_runs(engine_client: docker.DockerClient, gateway_image: str) -> None:
    config = engine_client.images.get(gateway_image).attrs["Config"]
    assert config["User"] == "65532:65532"
    assert config["Entrypoint"][:4] == ["python3", "-I", "-S", "-B"]
    haproxy = config["Labels"]["sandboxrun.gateway.haproxy"]
    assert config["Labels"]["sandboxrun.gateway.digest"] == image.image_digest(haproxy)


@pytest.mark.parametrize(
    ("sysctls", "why"),
    [
        ({}, None),
        ({"net.ipv4.ip_unprivileged_port_start": "1024"}, "port 53: Permission denied"),
        ({"net.ipv4.no_such_setting": "0"}, "no_such_setting"),
    ],
)
def test_whether_low_ports_are_open_is_tried(
    engine: Engine, gateway_image: str, monkeypatch: pytest.MonkeyPatch, sysctls: dict[str, str], why: str | None
) -> None:
    for name, value in sysctls.items():
        monkeypatch.setitem(codec._GATEWAY_SYSCTLS, name, value)
    said = low_ports_closed(engine, gateway_image)
    assert (said is None) if why is None else (said is not None and why in said)
    left = _checking(engine)  # one of another test, which asks the same engine, goes too
    until(lambda: not left & _checking(engine))


def test_what_tries_it_is_removed_again_where_the_answer_to_making_it_is_lost(
    engine: Engine, gateway_image: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, made = Engine.create_container, list[str]()

    def create_container(self: Engine, name: str, payload: Mapping[str, object], **more: str | None) -> None:
        made.append(real(self, name, payload, **more).id)
        raise EngineUnreachable("creating", "the connection was lost", maybe_done=True)

    monkeypatch.setattr(Engine, "create_container", create_container)
    assert low_ports_closed(engine, gateway_image) == "the connection was lost"
    assert len(made) == 1 and not _checking(engine) & set(made)


def _checking(engine: Engine) -> set[str]:
    return {str(c["Id"]) for c in engine.containers() if "sandboxrun-check-" in str(c["Names"])}
