"""Every example does what its README says, on a real engine; each is run as a project of its own in a copy."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from msgspec import field

from sandboxrun.data import Data
from tests.conftest import Cli, Ran
from tests.engine.outside import open_outside, why_not

CHECKOUT = Path(__file__).resolve().parents[2]
EXAMPLES = CHECKOUT / "examples"


class Example(Data):
    """A command line, and what must come of it.

    By sandbox: `ends` is how each ended as its evidence has it, `printed` the whole of its stdout there, `artifacts` a
    part of a file's text by the file's path there.
    """

    command: tuple[str, ...]
    ends: Mapping[str, str]
    code: int = 0
    printed: Mapping[str, str] = field(default_factory=dict)
    artifacts: Mapping[str, Mapping[str, str]] = field(default_factory=dict)


CASES: Mapping[str, Example] = {
    "offline": Example(
        command=("run",),
        ends={"reader": "exited"},
        printed={"reader": "monday.md: 9 words\ntuesday.md: 10 words\nnothing can be sent: ENETUNREACH\n"},
        artifacts={"reader": {"artifacts/workspace/summary.json": '"monday.md": 9'}},
    ),
    "matrix": Example(
        command=("apply", "--wait", "--yes"),
        ends=dict.fromkeys(("prepare", 'check["names"]', 'check["links"]', 'check["lengths"]'), "exited"),
        printed={
            "prepare": "inventory: prepare: 2 pages, 0 faults\n",
            'check["links"]': "inventory: links: 2 pages, 0 faults\n",
        },
    ),
    "extends": Example(
        command=("run",),
        ends={"reviewer": "exited", "writer": "exited"},
        printed={
            "reviewer": "team research, task review, user 1000\n"
            "open files 1024, core 0, file size unlimited\nnetworks lo\n",
            "writer": "team research, task write, user 1000\nopen files 1024, core 0, file size 1048576\nnetworks lo\n",
        },
    ),
}
ELSEWHERE = {"demo", "python-api", "pipelines", "allowlist", "reaper"}  # these have tests of their own


def test_every_example_is_tested() -> None:
    folders = {path.name for path in EXAMPLES.iterdir() if path.is_dir()}
    assert folders == CASES.keys() | ELSEWHERE
    assert all((EXAMPLES / name / "README.md").is_file() for name in folders)


PROFILES = sorted(path for path in EXAMPLES.rglob("*.yaml") if path.name != "compose.yaml")


@pytest.mark.parametrize("profile", PROFILES, ids=lambda path: str(path.relative_to(EXAMPLES)))
def test_an_editor_finds_the_schema(profile: Path) -> None:
    named = re.match(r"# yaml-language-server: \$schema=(\S+)\n", profile.read_text())
    assert named is not None
    assert (profile.parent / named[1]).resolve() == CHECKOUT / "schemas" / "sandbox.schema.json"


@pytest.mark.parametrize("name", CASES)
def test_example(name: str, cli: Cli, project: str, agent_image: str, tmp_path: Path) -> None:
    folder = copied(name, tmp_path, project)
    case = CASES[name]
    ran = cli(*case.command, "--var", f"image={agent_image}", cwd=folder)
    assert ran.code == case.code, said(ran)
    kept = evidence(folder)
    assert {address: index["ending"]["how"] for address, (_, index) in kept.items()} == case.ends, said(ran)
    for address, text in case.printed.items():
        assert (kept[address][0] / "stdout.log").read_text() == text
    for address, files in case.artifacts.items():
        for path, part in files.items():
            assert part in (kept[address][0] / path).read_text()


def test_the_matrix_runs_only_what_has_not_run(cli: Cli, project: str, agent_image: str, tmp_path: Path) -> None:
    folder = copied("matrix", tmp_path, project)
    image = ("--var", f"image={agent_image}")
    first = cli("apply", "--wait", "--yes", *image, "--var", 'tasks=["names"]', cwd=folder)
    assert first.code == 0, said(first)
    again = ("--var", 'tasks=["names", "links"]', "--var", "notify=true")
    second = cli("apply", "--wait", "--yes", *image, *again, cwd=folder)
    assert second.code == 0, said(second)
    runs = sorted(index["sandbox"] for _, index in all_evidence(folder))
    assert runs == ['check["links"]', 'check["names"]', "notify", "prepare"]


def test_the_matrix_refuses_a_value_that_its_variable_does_not_take(cli: Cli, project: str, tmp_path: Path) -> None:
    folder = copied("matrix", tmp_path, project)
    ran = cli("validate", "--var", "project=In ventory", cwd=folder)
    assert ran.code == 1
    assert "project" in ran.err and "[a-z]+" in ran.err


ONE_HOST = """sandboxes:
  caller: {configs: [authority], environment: {NODE_EXTRA_CA_CERTS: /run/configs/authority}}
configs:
  authority: {file: ca.pem}
"""


@pytest.mark.usefixtures("gateway_image")
@pytest.mark.parametrize("known", [True, False], ids=["its host", "a host that nobody knows"])
def test_the_allowlist_lets_out_to_one_host(
    known: bool, cli: Cli, project: str, agent_image: str, tmp_path: Path
) -> None:
    if reason := why_not():
        (pytest.fail if os.environ.get("CI") else pytest.skip)(reason)
    host = "api.example.com" if known else "nobody.example.com"
    folder = copied("allowlist", tmp_path, project)
    with open_outside(folder) as outside:
        (folder / "trust.yaml").write_text(ONE_HOST)
        files = ("-f", "sandbox.yaml", "-f", "trust.yaml")
        values = {
            "image": agent_image,
            "host": host,
            "private_networks": outside.subnet,
            "resolvers": outside.names_at,
        }
        options = [part for name, value in values.items() for part in ("--var", f"{name}={value}")]
        ran = cli("run", *files, *options, cwd=folder)
        asked = [(name, path) for name, _, path in outside.seen]
    kept = evidence(folder)["caller"][0]
    assert (ran.code, asked) == ((0, [(host, "/")]) if known else (1, [])), said(ran)
    printed = (kept / "stdout.log").read_text().replace("ENETUNREACH", "EHOSTUNREACH")  # the former on newer engines
    first, *others = printed.splitlines()
    assert first.startswith(f"{host}:443: {'answered 404' if known else 'E'}")
    assert others == [
        f"{host}:22: ECONNREFUSED",
        "paste.example.net:443: ENOTFOUND",
        "169.254.169.254:80: EHOSTUNREACH",
        "192.0.2.1:443: EHOSTUNREACH",
    ]
    allowed = "1 request allowed" if known else "1 request allowed (1 found no host)"
    assert f"egress:   {allowed}, 1 refused: paste.example.net" in ran.out + ran.err


@pytest.mark.usefixtures("agent_image")
def test_demo(cli: Cli, project: str, tmp_path: Path) -> None:
    """Run twice: the second starts from what the first left."""
    for _ in range(2):
        ran = script(EXAMPLES / "demo" / "demo.py", "--folder", tmp_path / "demo", "--project", project)
        assert ran.code == 0, said(ran)
        assert "NOT AS EXPECTED" not in ran.out
        assert len(ran.out.splitlines()) <= 90, ran.out
    for path in re.findall(rf"^  \w+ +({re.escape(str(tmp_path))}\S+)$", ran.out, re.MULTILINE):
        assert Path(path).exists()
    repository = tmp_path / "demo" / "project"
    assert shell("python3 -m unittest -q", repository, {}).code == 1
    (patch,) = (tmp_path / "demo" / ".sandboxrun" / "evidence").glob("*/workspace.patch")
    assert shell(f"git apply {patch}", repository, {}).code == 0
    assert shell("python3 -m unittest -q", repository, {}).code == 0, "what the agent changed mends the tests"


def test_demo_says_what_is_not_as_expected(cli: Cli, project: str, tmp_path: Path) -> None:
    """An engine that is not there: the demo must not end well."""
    ran = script(
        EXAMPLES / "demo" / "demo.py",
        *("--folder", tmp_path / "demo", "--project", project),
        env={"DOCKER_HOST": f"unix://{tmp_path}/none.sock"},
    )
    assert ran.code == 1
    assert "none.sock" in ran.err


# -- Python ------------------------------------------------------------------------------------------------------


def test_python_by_hand(project: str, agent_image: str, tmp_path: Path) -> None:
    ran = python_example("by_hand.py", project, tmp_path, SANDBOX_DEFAULT_IMAGE=agent_image)
    assert ran.code == 0, said(ran)
    *said_first, kept = ran.out.splitlines()
    assert said_first == [
        "state: running",
        "exit code: 0",
        *("words: 9 monday.md", "10 tuesday.md", "19 total"),
        "elsewhere: touch: cannot touch '/etc/mine': Read-only file system",
        "state: removed",
    ]
    # A run that is over within the engine's second may have no sample of its usage.
    assert kept.replace("usage.jsonl, ", "") == (
        "kept: changes.json, inspect.json, profile.yaml, stderr.log, stdout.log, workspace.patch"
    )
    assert evidence(tmp_path)["counter"][1]["ending"]["how"] == "killed"


def test_python_orchestrate(project: str, agent_image: str, tmp_path: Path) -> None:
    ran = python_example("orchestrate.py", project, tmp_path, SANDBOX_DEFAULT_IMAGE=agent_image)
    assert ran.code == 0, said(ran)
    assert ran.out.splitlines() == [
        "lister: completed, exited, exit code 0",
        *("  monday.md", "  tuesday.md"),
        "failing: failed, failed, exit code 3",
        "  something is wrong",
        "endless: timed_out, timeout, exit code 124",
        "editor: completed, exited, exit code 0",
        "  its patch: +Looked at.",
    ]
    ends = {name: index["ending"]["how"] for name, (_, index) in evidence(tmp_path).items()}
    assert ends == {"lister": "exited", "failing": "failed", "endless": "timeout", "editor": "exited"}
    notes = EXAMPLES / "python-api" / "notes" / "monday.md"
    assert "Looked at" not in notes.read_text(), "it worked on a copy"


def test_python_orchestrate_without_sandboxes(project: str, tmp_path: Path) -> None:
    ran = python_example("orchestrate.py", project, tmp_path, SANDBOX_ENABLED="false", DOCKER_HOST="unix:///nowhere")
    assert ran.code == 0, said(ran)
    assert "endless: timed_out, timeout, exit code 124" in ran.out.splitlines()
    assert not list(tmp_path.iterdir())


def python_example(name: str, project: str, folder: Path, **env: str) -> Ran:
    return ended([sys.executable, str(EXAMPLES / "python-api" / name), project], folder, env)


# -- pipelines ---------------------------------------------------------------------------------------------------

# What cannot be done here, by how it begins: no package registry, no pull request to comment on.
NOT_HERE = ("pip install", "gh pr comment")


def github_lines() -> list[str]:
    job = yaml.safe_load((EXAMPLES / "pipelines" / "github-actions.yml").read_text())["jobs"]["agents"]
    return [step["run"] for step in job["steps"] if "run" in step]


def gitlab_lines() -> list[str]:
    job = yaml.safe_load((EXAMPLES / "pipelines" / "gitlab-ci.yml").read_text())["agents"]
    return [*job["before_script"], *job["script"], *job["after_script"]]


def published(name: str) -> str:
    """The folder that the pipeline keeps."""
    document = yaml.safe_load((EXAMPLES / "pipelines" / name).read_text())
    if name == "gitlab-ci.yml":
        return str(document["agents"]["artifacts"]["paths"][0])
    (upload,) = [s for s in document["jobs"]["agents"]["steps"] if "upload-artifact" in s.get("uses", "")]
    assert upload["with"]["include-hidden-files"] is True and upload["if"] == "always()"
    return str(upload["with"]["path"])


@pytest.mark.parametrize(("name", "lines"), [("github-actions.yml", github_lines()), ("gitlab-ci.yml", gitlab_lines())])
def test_pipeline(name: str, lines: list[str], cli: Cli, project: str, agent_image: str, tmp_path: Path) -> None:
    """Its lines, in a checkout of the matrix."""
    folder = copied("matrix", tmp_path, project)
    environment = runner(tmp_path, agent_image)
    here = [line for line in lines if not line.startswith(NOT_HERE)]
    assert len(here) >= 4
    for line in here:
        ran = shell(line, folder, environment)
        assert ran.code == 0, f"{line}\n{said(ran)}"
    plans = [p for p in (tmp_path / "temp" / "plan.md", folder / "plan.md") if p.exists()]
    assert len(plans) == 1 and "4 to add" in plans[0].read_text()
    assert len(list((folder / published(name)).glob("*/index.json"))) == 4


@pytest.mark.parametrize("lines", [github_lines(), gitlab_lines()], ids=["github", "gitlab"])
def test_pipeline_of_an_agent_that_fails(
    lines: list[str], cli: Cli, project: str, agent_image: str, tmp_path: Path
) -> None:
    """The job's exit code is the agent's, and the evidence of what failed is kept."""
    folder = copied("matrix", tmp_path, project)
    (folder / "project" / "stock.md").write_text("# Stock\n\nSee [nowhere](nowhere.md).\n")
    environment = {**runner(tmp_path, agent_image), "SANDBOXRUN_VAR_tasks": "links"}
    codes = {line: shell(line, folder, environment).code for line in lines if not line.startswith(NOT_HERE)}
    assert {line: code for line, code in codes.items() if code != 0} == {
        line: 1 for line in lines if line.startswith("sandboxrun apply")
    }
    kept, index = evidence(folder)['check["links"]']
    assert (index["ending"]["how"], index["ending"]["exit_code"]) == ("failed", 1)
    assert "stock.md: no page nowhere.md" in (kept / "stdout.log").read_text()


def runner(tmp_path: Path, image: str) -> Mapping[str, str]:
    """What a pipeline's machine gives: `sandboxrun` on the path, a folder for temporary files, a summary."""
    for name in ("bin", "temp"):
        (tmp_path / name).mkdir()
    command = tmp_path / "bin" / "sandboxrun"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m sandboxrun "$@"\n')
    command.chmod(0o755)
    return {
        "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
        "RUNNER_TEMP": str(tmp_path / "temp"),
        "GITHUB_STEP_SUMMARY": str(tmp_path / "temp" / "summary.md"),
        "SANDBOXRUN_VAR_image": image,
    }


# -- helpers -----------------------------------------------------------------------------------------------------


def copied(name: str, tmp_path: Path, project: str) -> Path:
    """A copy of an example whose project has the test's own name."""
    folder = tmp_path / name
    shutil.copytree(EXAMPLES / name, folder, ignore=shutil.ignore_patterns(".sandboxrun", "__pycache__"))
    profile = folder / "sandbox.yaml"
    text, count = re.subn(r"(?m)^name: \S+$", f"name: {project}", profile.read_text())
    assert count == 1
    profile.write_text(text)
    return folder


def all_evidence(folder: Path) -> list[tuple[Path, dict[str, Any]]]:
    """All runs' folders with their indexes."""
    found = sorted((folder / ".sandboxrun" / "evidence").glob("*/index.json"))
    return [(path.parent, json.loads(path.read_text())) for path in found]


def evidence(folder: Path) -> dict[str, tuple[Path, dict[str, Any]]]:
    """The same by sandbox; each must have run once."""
    found = all_evidence(folder)
    by_address = {index["sandbox"]: (path, index) for path, index in found}
    assert len(by_address) == len(found)
    missing = [one for _, index in found for one in index["missing"] if one["part"] != "usage"]  # most are too short
    assert missing == []
    return by_address


def script(path: Path, *arguments: str | Path, env: Mapping[str, str] | None = None) -> Ran:
    """Run one of the examples' own programs with this Python."""
    return ended([sys.executable, str(path), *map(str, arguments)], path.parent, env or {})


def shell(line: str, folder: Path, env: Mapping[str, str]) -> Ran:
    """A pipeline's line, as its runner gives it to a shell."""
    return ended(["bash", "-euo", "pipefail", "-c", line], folder, env)


def ended(command: list[str], folder: Path, env: Mapping[str, str]) -> Ran:
    ran = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, **env},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    return Ran(code=ran.returncode, out=ran.stdout, err=ran.stderr)


def said(ran: Ran) -> str:
    """For a failure's message."""
    return f"exit code {ran.code}\n{ran.out}\n{ran.err}"
