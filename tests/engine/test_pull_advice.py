"""What is advised where an image can't be had."""

from __future__ import annotations

from pathlib import Path

from tests.conftest import Cli

NOWHERE = "127.0.0.1:9/no/such:image"


def test_a_run_without_a_profile_points_to_the_option(cli: Cli, tmp_path: Path, project: str) -> None:
    folder = tmp_path / project
    folder.mkdir()
    ran = cli("run", "--base", "offline", "--image", NOWHERE, "--", "true", cwd=folder)
    assert ran.code == 125
    [told] = [line for line in ran.err.splitlines() if line.startswith("error: ")]
    assert told.startswith(f"error: pulling image {NOWHERE}: ")
    assert "help: name an image that is on the engine or that it can pull with --image IMAGE, or" in ran.err


def test_a_profile_is_told_of_its_pull_policy(cli: Cli, tmp_path: Path, project: str) -> None:
    text = f"name: {project}\nsandboxes: {{a: {{image: '{NOWHERE}', network_mode: none}}}}\n"
    (tmp_path / "sandbox.yaml").write_text(text)
    planned = cli("plan")
    assert f"+ image {NOWHERE} will be pulled (the registry could not be asked: " in planned.out
    assert f"warning: a: the image {NOWHERE} can't be pulled: the registry could not be asked: " in planned.err
    ran = cli("run", "a")
    assert ran.code == 125
    assert ran.err.endswith(
        "  help: check the name, or `docker login`; to use an image that is on the engine set pull_policy: "
        "missing or never\n"
    )
