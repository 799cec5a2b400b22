"""The reaper's container recipe in examples/reaper: built without any package index, and at work on the engine that it
is given the socket of."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker
import pytest
import yaml

from sandboxrun.spec import labels
from tests.conftest import Cli, until
from tests.engine.wheels import wheels_of

RECIPE = Path(__file__).resolve().parents[2] / "examples" / "reaper"
BASE = """\
FROM {agent}
RUN python3 -m venv /opt/venv
ENV PATH=/opt/venv/bin:/usr/bin:/bin PIP_NO_INDEX=1 PIP_FIND_LINKS=/wheels
COPY wheels /wheels
"""
ASK = "from urllib.request import urlopen; print(urlopen('http://127.0.0.1:9464/metrics').read().decode())"
READ = "import glob, json; print(json.dumps([json.load(open(at)) for at in glob.glob('/evidence/*/index.json')]))"

pytestmark = pytest.mark.full


def build(client: docker.DockerClient, name: str, files: dict[str, bytes], **arguments: str) -> str:
    context = io.BytesIO()
    with tarfile.open(fileobj=context, mode="w") as tar:
        for path, data in files.items():
            member = tarfile.TarInfo(path)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    context.seek(0)
    image, _ = client.images.build(
        fileobj=context, custom_context=True, tag=name, buildargs=arguments, network_mode="none", rm=True, forcerm=True
    )
    return str(image.id)


@pytest.fixture
def reaper_image(engine_client: docker.DockerClient, agent_image: str, project: str) -> Iterator[str]:
    """The recipe's image, on one that has python and the wheels of this checkout."""
    here = "{}.{}".format(*sys.version_info)
    said = engine_client.containers.run(agent_image, ["python3", "-V"], network_mode="none", remove=True).decode()
    if not said.startswith(f"Python {here}."):
        pytest.skip(f"the wheels made here are for Python {here}, and {agent_image} has {said.strip()}")
    base, name = f"{project}-base", f"{project}-reaper"
    wheels = {f"wheels/{file}": data for file, data in wheels_of("sandboxrun", "metrics").items()}
    made: list[str] = []
    try:
        made.append(build(engine_client, base, {"Dockerfile": BASE.format(agent=agent_image).encode(), **wheels}))
        made.append(build(engine_client, name, {"Dockerfile": (RECIPE / "Dockerfile").read_bytes()}, BASE=base))
        yield name
    finally:
        for image in reversed(made):
            engine_client.images.remove(image, force=True)


def evidence_in(container: Any) -> dict[str, dict[str, Any]]:
    """The indexes in it, by sandbox. Read inside: Docker 28 copies nothing out of what has its socket in /var/run."""
    code, printed = container.exec_run(["python3", "-c", READ])
    assert code == 0, printed
    return {index["sandbox"]: index for index in json.loads(printed)}


def test_it_reaps_what_a_dead_job_left(
    cli: Cli, engine_client: docker.DockerClient, engine_host: str, project: str, busybox: str, reaper_image: str
) -> None:
    """As compose.yaml runs it, but for one project: others are at work on this engine."""
    service = yaml.safe_load((RECIPE / "compose.yaml").read_text())["services"]["reaper"]
    image = engine_client.images.get(reaper_image)
    given = [*image.attrs["Config"]["Entrypoint"], *image.attrs["Config"]["Cmd"]]
    at = given.index("--all")
    given[at : at + 1] = ["--project", project]
    socket = engine_host.removeprefix("unix://")
    volumes = {f"{project}-state": "/var/lib/sandboxrun", f"{project}-evidence": "/evidence"}
    binds = {socket: "/var/run/docker.sock", **volumes}
    assert {one.partition(":")[2] for one in service["volumes"]} == set(binds.values())
    script = "echo ready; exec sleep 600"
    sandbox = {"image": busybox, "network_mode": "none", "stop_grace_period": "1s", "command": ["sh", "-c", script]}
    (cli.cwd / "sandbox.yaml").write_text(json.dumps({"name": project, "sandboxes": {"agent": sandbox}}))
    with contextlib.ExitStack() as stack:
        for name in volumes:
            stack.callback(engine_client.volumes.create(name, labels={"sandboxrun.test": project}).remove)
        container = engine_client.containers.run(
            reaper_image,
            entrypoint=given,
            command=[],
            detach=True,
            name=f"{project}-reaper",
            pid_mode=service["pid"],
            cap_drop=service["cap_drop"],
            security_opt=service["security_opt"],
            network_mode="none",  # what listens in it is asked from inside
            volumes={source: {"bind": target} for source, target in binds.items()},
        )
        stack.callback(container.remove, force=True)

        def said() -> str:
            container.reload()
            text: str = container.logs().decode()
            assert container.status == "running", text
            return text

        until(lambda: "Following the engine" in said())
        job = cli.start("run", "agent")
        assert job.stdout is not None and "ready" in job.stdout.readline()
        assert evidence_in(container) == {}
        os.killpg(job.pid, signal.SIGKILL)
        job.wait()
        until(lambda: "Reaped" in said())
        own = {"label": f"{labels.PROJECT}={project}"}
        until(lambda: engine_client.api.containers(all=True, filters=own) == [])
        assert evidence_in(container)["agent"]["ending"]["how"] == "killed"
        metrics = container.exec_run(["python3", "-c", ASK]).output.decode()
        assert 'sandboxrun_reaped_total{reason="owner_gone"} 1.0' in metrics, metrics
        container.kill("SIGTERM")
        assert container.wait(timeout=120)["StatusCode"] == 0, container.logs().decode()
