"""The reaper's systemd units and container recipe: their syntax, and that the command line in them is one."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import click
import pytest
import yaml

from sandboxrun.cli.main import root

HERE = Path(__file__).resolve().parents[3] / "examples" / "reaper"
UNITS = sorted(HERE.glob("*.service"))


def parsed(arguments: list[str]) -> None:
    """Raises UsageError for what is no command line."""
    group = root()
    name, command, rest = group.resolve_command(click.Context(group), arguments)
    assert command is not None
    command.make_context(name, rest)


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_a_unit_starts_a_command_that_exists(unit: Path) -> None:
    (line,) = re.findall(r"^ExecStart=(.*)$", unit.read_text(), re.MULTILINE)
    program, *arguments = shlex.split(line)
    assert program.endswith("/sandboxrun")
    parsed(arguments)


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_systemd_accepts_the_unit(unit: Path, tmp_path: Path) -> None:
    if (analyze := shutil.which("systemd-analyze")) is None:
        pytest.skip("there is no systemd-analyze")
    here = tmp_path / unit.name  # it wants a program that is there, and the engine's unit
    here.write_text(re.sub(r"(?m)^ExecStart=\S+", "ExecStart=/bin/true", unit.read_text()))
    (tmp_path / "docker.service").write_text("[Service]\nExecStart=/bin/true\n")
    done = subprocess.run(
        [analyze, "verify", "--man=no", str(here)],
        capture_output=True,
        text=True,
        env={"SYSTEMD_UNIT_PATH": f"{tmp_path}:", "XDG_RUNTIME_DIR": str(tmp_path)},
    )
    assert (done.returncode, unit.name in done.stderr) == (0, False), done.stderr


def test_the_container_runs_the_reaper() -> None:
    recipe = (HERE / "Dockerfile").read_text()
    words = [word for line in re.findall(r"^(?:ENTRYPOINT|CMD) (\[.*\])$", recipe, re.MULTILINE)
             for word in yaml.safe_load(line)]  # fmt: skip
    assert words[0] == "sandboxrun"
    parsed(words[1:])
    assert yaml.safe_load((HERE / "compose.yaml").read_text())["services"]["reaper"]["pid"] == "host"
