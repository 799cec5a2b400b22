"""`lifetime.on_complete: keep` on a real engine: what stays, how the next one is made, and what removes it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import docker
import docker.errors
import pytest

from sandboxrun import SandboxEvent, SandboxService
from tests.conftest import Cli


def written(project: str, image: str, path: Path, said: str, **lifetime: Any) -> None:
    sandbox = {
        "image": image,
        "user": "1000:1000",
        "command": ["sh", "-c", f"echo {said}; cat /run/secrets/key; echo {said} >/workspace/made; exit 3"],
        "workspace": {"source": "files", "access": "copy"},
        "network_mode": "none",
        "restart": "no",
        "secrets": ["key"],
        "lifetime": {"on_complete": "keep_on_failure", **lifetime},
    }
    secrets = {"key": {"environment": "KEY"}}
    path.write_text(json.dumps({"name": project, "sandboxes": {"agent": sandbox}, "secrets": secrets}))


def test_a_failed_one_stays_to_be_looked_at_until_it_is_destroyed(
    project: str, busybox: str, tmp_path: Path, cli: Cli, engine_client: docker.DockerClient
) -> None:
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "there").write_text("x")
    path, env = tmp_path / "sandbox.yaml", {"KEY": "s3cret-value"}
    written(project, busybox, path, "first", keep_for="2h")
    waited = cli("apply", "--wait", "--yes", env=env)
    assert waited.code == 3, waited.err
    assert "kept for 2h as" in waited.out and "`sandboxrun destroy` removes it" in waited.out

    (first,) = json.loads(cli("ps", "--json", env=env).out)
    assert first["differs"].startswith("kept until ")
    kept = engine_client.containers.get(first["container"])
    assert kept.name.endswith(f".kept-{first['run'][:12]}")
    assert b"first\n" in b"".join(kept.get_archive("/workspace/made")[0])
    with pytest.raises(docker.errors.NotFound):  # what lay in memory is gone
        kept.get_archive("/run/secrets/key")
    assert [
        c.name for c in engine_client.containers.list(all=True, ignore_removed=True) if c.name.startswith(project)
    ] == [kept.name]

    assert "No changes" in cli("plan", env=env).out
    written(project, busybox, path, "second")
    again = cli("apply", "--wait", "--yes", env=env)
    assert again.code == 3, again.err
    two = json.loads(cli("ps", "--json", env=env).out)
    assert len(two) == 2 and all(one["differs"].startswith("kept") for one in two)
    assert len([*(tmp_path / ".sandboxrun" / "evidence").glob("*-agent-*")]) == 2

    destroyed = cli("destroy", "--yes", env=env)
    assert destroyed.code == 0, destroyed.err
    assert json.loads(cli("ps", "--json", env=env).out) == []
    assert len([*(tmp_path / ".sandboxrun" / "evidence").glob("*-agent-*")]) == 2


def test_a_program_is_told_what_happens(project: str, busybox: str, tmp_path: Path) -> None:
    told = list[SandboxEvent]()

    def hear(event: SandboxEvent) -> None:
        told.append(event)
        raise ValueError("a callback that fails")

    with SandboxService(project=project, directory=tmp_path, on_event=hear) as service:
        ends = {"image": busybox, "user": "1000:1000", "network_mode": "none", "command": ["sh", "-c", "exit 3"]}
        made = service.create("a", **ends, lifetime={"on_complete": "keep"})
        made.start()
        assert made.wait() == 3
        assert service.finish(made) is not None
        assert made.kept and [type(event).__name__ for event in told] == [
            "SandboxCreated",
            "SandboxStarted",
            "SandboxEnded",
            "SandboxCaptured",
            "SandboxKept",
        ]
        again = service.create("a", **ends)  # beside the one that is kept
        service.remove(again)
        service.remove(made)
        assert [type(event).__name__ for event in told[5:]] == ["SandboxCreated", "SandboxRemoved", "SandboxRemoved"]
        assert len(service.event_errors) == len(told)
