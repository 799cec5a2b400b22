"""The review of what runs: a container of somebody else's, and sandboxes as they are now, by the rules for files."""

from __future__ import annotations

import json
from pathlib import Path

import docker

from sandboxrun.audit.rules.image import below_floors
from tests.conftest import Cli


def found(out: str, name: str) -> set[str]:
    """The rules that found something in a container or sandbox."""
    return {one["rule"] for one in json.loads(out)["findings"] if one["sandboxes"] == [name]}


def test_any_container_is_judged(cli: Cli, engine_client: docker.DockerClient, project: str, busybox: str) -> None:
    weak = engine_client.containers.run(
        busybox, ["sleep", "60"], name=f"{project}-weak", detach=True, pid_mode="host", cap_add=["NET_ADMIN"],
        security_opt=["seccomp=unconfined"], volumes=["/var/run/docker.sock:/d.sock:ro", "/etc:/h:ro"],
        environment={"DB_PASSWORD": "hunter2hunter"}, ports={"80/tcp": None}, restart_policy={"Name": "always"},
    )  # fmt: skip
    try:
        ran = cli("audit", "--all-containers", "--json")
    finally:
        weak.remove(force=True)
    assert ran.code == 1, ran.err
    wanted = "103 105 106 108 111 120 201 205 211 302 316 319 401 403 404 407 409 501".split()
    assert {f"SBX{number}" for number in wanted} <= found(ran.out, f"{project}-weak")
    versions = {one["Name"]: one["Version"] for one in engine_client.version()["Components"]}
    assert found(ran.out, "the engine") == {rule.id for rule, _, _ in below_floors(versions)}


def test_a_sandbox_that_runs_is_as_its_profile_says(cli: Cli, tmp_path: Path, project: str, busybox: str) -> None:
    (tmp_path / "sandbox.yaml").write_text(
        f"name: {project}\nsandboxes:\n  a: {{image: '{busybox}', network_mode: none, command: [sleep, '60']}}\n"
    )
    try:
        assert cli("apply", "-y", "-q").code == 0
        ran = cli("audit", "--running", "--json")
        assert found(ran.out, "a") == {"SBX602"}  # the image of the tests has no version
    finally:
        cli("destroy", "-y", "-q")


def test_a_profile_beside_what_runs(cli: Cli, tmp_path: Path, project: str, busybox: str) -> None:
    path = tmp_path / "sandbox.yaml"
    start = f"name: {project}\nsandboxes:\n  a: {{image: '{busybox}', network_mode: none, command: [sleep, '60']"
    path.write_text(start + "}\n")
    try:
        assert cli("apply", "-y", "-q").code == 0
        same = cli("diff", "running", "sandbox.yaml", "--fail-on-widening")
        path.write_text(start + ", read_only: false, cpus: 0.5}\n")
        wider = cli("diff", "running", "sandbox.yaml", "--fail-on-widening")
        narrower = cli("diff", "sandbox.yaml", "running")
    finally:
        cli("destroy", "-y", "-q")
    assert (same.code, same.out) == (0, "Privileges: unchanged, in 1 sandbox.\n")
    assert wider.code == 1
    assert "+ WIDENED  root filesystem: a may now write to its root filesystem  sandbox.yaml:3:" in wider.out
    assert "- NARROWED limits: a may only use CPUs: 0.5, was 1" in wider.out
    assert "- NARROWED root filesystem: a may no longer write to its root filesystem" in narrower.out
    assert "+ WIDENED  limits: a may now use CPUs: 1, was 0.5" in narrower.out


def test_what_is_kept_stopped_is_not_compared_as_what_runs(
    cli: Cli, tmp_path: Path, project: str, busybox: str
) -> None:
    path = tmp_path / "sandbox.yaml"
    start = f"name: {project}\nsandboxes:\n  a:\n    image: '{busybox}'\n    network_mode: none\n"
    path.write_text(f"{start}    lifetime: {{on_complete: keep}}\n    command: ['true']\n")
    try:
        assert cli("apply", "--wait", "-y", "-q").code == 0
        path.write_text(f"{start}    lifetime: {{on_complete: keep}}\n    command: [sleep, '60']\n")
        assert cli("apply", "-y", "-q").code == 0
        assert "kept" in cli("plan").out
        one = cli("diff", "running", "sandbox.yaml")
        other = cli("diff", "sandbox.yaml", "running", "--fail-on-widening")
    finally:
        cli("destroy", "-y", "-q")
    assert one.out == other.out == "Privileges: unchanged, in 1 sandbox.\n"
    assert other.code == 0
