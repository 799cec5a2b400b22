"""Finding and removing what a test left on the engine: whatever carries its label or its name, nothing else."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import docker
import docker.errors

TEST_LABEL = "sandboxrun.test"


def sweep(client: docker.DockerClient, mark: str) -> list[str]:
    """Remove every container, network and volume that holds `mark` in its name or a label; returns what they were.

    Containers first, since they hold the others. `mark` is unique to a run, so nobody else's object can match.
    """
    api = client.api
    found: list[str] = []
    for row in _marked(api.containers(all=True), mark):
        found.append(f"container {_name(row)} ({row['State']})")
        with contextlib.suppress(docker.errors.NotFound):
            api.remove_container(row["Id"], force=True, v=True)
    for row in _marked(api.networks(), mark):
        found.append(f"network {_name(row)}")
        with contextlib.suppress(docker.errors.NotFound):
            api.remove_network(row["Id"])
    for row in _marked(api.volumes()["Volumes"] or [], mark):
        found.append(f"volume {_name(row)}")
        with contextlib.suppress(docker.errors.NotFound):
            api.remove_volume(row["Name"])
    return found


def _marked(rows: list[Mapping[str, Any]], mark: str) -> Iterator[Mapping[str, Any]]:
    for row in rows:
        texts = [_name(row), *(row.get("Labels") or {}).values()]
        if any(mark in text for text in texts):
            yield row


def _name(row: Mapping[str, Any]) -> str:
    """A container has a list of names with a slash, the others have one name."""
    return str(row["Name"]) if "Name" in row else str((row.get("Names") or [row["Id"]])[0]).lstrip("/")
