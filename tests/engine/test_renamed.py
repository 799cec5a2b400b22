"""A container that somebody renames while it runs is still its sandbox's, whoever waits for it."""

from __future__ import annotations

import json
from pathlib import Path

import docker
import pytest
from docker.models.containers import Container

from sandboxrun import SandboxService, Settings
from tests.conftest import Cli, until

WAITS = "echo up; while [ ! -e /tmp/go ]; do sleep 0.1; done; echo done; exit 3"


def renamed(client: docker.DockerClient, project: str, container: str | None = None) -> Container:
    """The one container of the project that runs, renamed."""
    found = client.containers.get(container) if container is not None else None
    filters = {"label": f"sandboxrun.project={project}", "status": "running"}
    if found is None:
        until(lambda: client.containers.list(filters=filters, ignore_removed=True))
        (found,) = client.containers.list(filters=filters, ignore_removed=True)
    found.rename(f"{project}-elsewhere")
    return found


@pytest.mark.parametrize("command", [["run", "agent"], ["apply", "--wait", "-y"]], ids=["run", "apply"])
def test_whoever_waits_for_it_collects_it(
    command: list[str], cli: Cli, project: str, busybox: str, tmp_path: Path, engine_client: docker.DockerClient
) -> None:
    agent = {"image": busybox, "network_mode": "none", "command": ["sh", "-c", WAITS], "workspace": "."}
    (tmp_path / "sandbox.yaml").write_text(json.dumps({"name": project, "sandboxes": {"agent": agent}}))
    process = cli.start(*command)
    container = renamed(engine_client, project)
    listed = json.loads(cli("ps", "--json").out)
    assert [(one["address"], one["state"]) for one in listed] == [("agent", "running")]
    assert container.exec_run(["touch", "/tmp/go"]).exit_code == 0
    ran = cli.finish(process)
    assert ran.code == 3, ran.out + ran.err
    (folder,) = (tmp_path / ".sandboxrun/evidence").glob("*/index.json")
    assert f"-{project}-agent-" in folder.parent.name and "done" in (folder.parent / "stdout.log").read_text()
    assert json.loads(folder.read_text())["container_name"].startswith(f"{project}-agent")


def test_a_program_that_holds_it_goes_on(
    project: str, busybox: str, tmp_path: Path, engine_host: str, engine_client: docker.DockerClient
) -> None:
    settings = Settings(docker_host=engine_host, default_image=busybox, network_mode="none")
    with SandboxService(settings, project=project, directory=tmp_path) as service:
        made = service.create("agent", command=["sh", "-c", WAITS])
        made.start()
        renamed(engine_client, project, made.container_id)
        assert service.get("agent").container_id == made.container_id
        assert made.exec(["touch", "/tmp/go"], timeout=60).exit_code == 0
        assert made.wait() == 3
        captured = made.remove()
    assert captured is not None and captured.folder is not None and f"-{project}-agent-" in captured.folder.name
