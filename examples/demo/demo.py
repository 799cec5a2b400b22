"""`make demo`: three agents in sandboxes, each with another end; the commands are those that a user would type.

Usage: demo.py [--folder FOLDER] [--project NAME]

Makes a small git repository in FOLDER (`.cache/demo` of the checkout), has an agent mend a copy of it, has another
killed for its memory and a third ended by its timeout, and looks at what is kept and that nothing stays on the
engine. Ends with 1 when anything is not as it should be. The folder is made anew each time.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
CHECKOUT = HERE.parents[1]
PROJECT = "sandboxrun-demo"
# Whoever runs the demo may have git set up in ways of their own, or not at all.
GIT = {
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_CONFIG_NOSYSTEM": "1",
    "LC_ALL": "C.UTF-8",
    **{f"GIT_{who}_NAME": "Demo" for who in ("AUTHOR", "COMMITTER")},
    **{f"GIT_{who}_EMAIL": "demo@example.com" for who in ("AUTHOR", "COMMITTER")},
}


class Demo:
    """The folder, the commands run in it, and what was not as expected."""

    def __init__(self, folder: Path, project: str) -> None:
        self.folder, self.project = folder, project
        self.faults: list[str] = []
        self._environment = {k: v for k, v in os.environ.items() if not k.startswith("SANDBOXRUN_VAR_")} | GIT

    def run(self, *command: str, code: int = 0) -> str:
        """Print a command as a user types it, run it, and show its output as it comes; the output.

        `sandboxrun` is this checkout's, run by this very Python.
        """
        print(f"$ {' '.join(command)}", flush=True)
        head = [sys.executable, "-m", "sandboxrun"] if command[0] == "sandboxrun" else [command[0]]
        process = subprocess.Popen(
            [*head, *command[1:]],
            cwd=self.folder,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
            errors="backslashreplace",
        )
        lines = []
        assert process.stdout is not None
        with process:
            for line in process.stdout:
                lines.append(line)
                print(line, end="", flush=True)
        if code != 0 or process.returncode != 0:
            print(f"(exit code {process.returncode})")
        self.expect(process.returncode == code, f"{' '.join(command)} ended with {process.returncode}, not {code}")
        return "".join(lines)

    def quietly(self, *command: str) -> None:
        """Run a command of the preparations; its output is shown only when it fails."""
        head = [sys.executable, "-m", "sandboxrun"] if command[0] == "sandboxrun" else [command[0]]
        ran = subprocess.run(
            [*head, *command[1:]], cwd=self.folder, env=self._environment, capture_output=True, text=True, check=False
        )
        if ran.returncode != 0:
            sys.exit(f"{' '.join(command)} failed:\n{ran.stdout}{ran.stderr}")

    def expect(self, holds: bool, otherwise: str) -> None:
        """Note what is not as it should be; the demo goes on, so that all is seen."""
        if not holds:
            self.faults.append(otherwise)
            print(f"NOT AS EXPECTED: {otherwise}", flush=True)

    def evidence(self, sandbox: str) -> tuple[Path, dict[str, Any]]:
        """A sandbox's newest evidence: its folder below the demo's, and its index. A demo without it cannot go on."""
        found = sorted((self.folder / ".sandboxrun" / "evidence").glob(f"*-{sandbox}-*"))
        if not found:
            sys.exit(f"there is no evidence of {sandbox} in {self.folder / '.sandboxrun' / 'evidence'}")
        index: dict[str, Any] = json.loads((found[-1] / "index.json").read_text())
        return found[-1].relative_to(self.folder), index


def tell(text: str) -> None:
    """What a person reads between the commands."""
    print(f"\n# {text}", flush=True)


def prepare(demo: Demo) -> None:
    """A folder of its own, as a user's project: a git repository, a profile, the agents' programs."""
    shutil.rmtree(demo.folder, ignore_errors=True)
    shutil.copytree(HERE, demo.folder, ignore=shutil.ignore_patterns("demo.py", "__pycache__", ".sandboxrun"))
    profile = demo.folder / "sandbox.yaml"
    profile.write_text(re.sub(r"(?m)^name: .*$", f"name: {demo.project}", profile.read_text()))
    for command in (["init", "--quiet"], ["add", "."], ["commit", "--quiet", "--message", "Baskets and receipts"]):
        demo.quietly("git", "-C", "project", *command)
    demo.quietly("sandboxrun", "destroy", "--yes")  # what a demo left that was killed in the middle


def fixer(demo: Demo) -> Path:
    """The agent that does its work; the folder of its evidence."""
    tell("fixer mends a copy of the repository; no network, 512 MB, one CPU, not root")
    said = demo.run("sandboxrun", "run", "fixer")
    demo.expect("2 failed" in said and "all passed" in said, "fixer should mend two failing tests")
    folder, index = demo.evidence("fixer")
    tell("The container is gone. What is kept of it:")
    demo.run("ls", "-x", str(folder))
    kept = {item["path"] for item in index["kept"]}
    for path in ("workspace.patch", "stdout.log", "usage.jsonl", "artifacts/workspace/report/fixes.md"):
        demo.expect(path in kept, f"{path} should be in the evidence of fixer: {index['missing']}")
    demo.expect(index["ending"]["how"] == "exited", "fixer should have ended by itself")
    print(f"(index.json: {summary(index)})")
    tell("The repository is as it was, and takes the patch:")
    patch = f"../{folder / 'workspace.patch'}"
    status = demo.run("git", "-C", "project", "status")
    demo.expect("working tree clean" in status, "the repository should not have changed")
    demo.run("git", "-C", "project", "apply", "--check", "--stat", patch)
    return folder


def summary(index: dict[str, Any]) -> str:
    """How a run ended and what it used, on one line."""
    ending, usage = index["ending"], index["usage"] or {}
    peak = (usage.get("memory_peak_bytes") or 0) / (1 << 20)
    used = f"{usage.get('cpu_seconds') or 0:.2f} s of CPU, at most {peak:.0f} MB seen"
    return f"{ending['how']}, exit code {ending['exit_code']}, after {index['ran_seconds']:.1f} s, {used}"


def hog_and_slow(demo: Demo) -> None:
    """The agents that are ended."""
    tell("hog takes memory without end, slow works for an hour; the exit code is the first one's")
    said = demo.run("sandboxrun", "run", "hog", "slow", code=137)
    # Two end what is past its timeout, whichever is first: the sandbox's init (124), and run (143).
    expected = {"hog": (("oom", 137),), "slow": (("timeout", 124), ("timeout", 143))}
    for sandbox, endings in expected.items():
        _, index = demo.evidence(sandbox)
        ended = (index["ending"]["how"], index["ending"]["exit_code"])
        demo.expect(ended in endings, f"{sandbox} should have ended as {endings[0]}, not {ended}")
    demo.expect("hog: killed for exceeding its memory limit" in said, "run should say why hog was killed")
    demo.expect("slow: stopped after its timeout" in said, "run should say why slow was ended")


def nothing_left(demo: Demo) -> None:
    """Look at the engine itself, without sandboxrun."""
    sys.path.insert(0, str(CHECKOUT))  # `scripts` is no installed package
    from scripts import engine

    api = engine.client().api
    mine = {"label": f"sandboxrun.project={demo.project}"}
    left = [
        *(f"container {one['Names'][0]}" for one in api.containers(all=True, filters=mine)),
        *(f"network {one['Name']}" for one in api.networks(filters=mine)),
        *(f"volume {one['Name']}" for one in api.volumes(filters=mine)["Volumes"] or []),
    ]
    demo.expect(not left, f"the engine still has {', '.join(left)}")
    if not left:
        tell("The engine, asked without sandboxrun: no container, network or volume of the project is left.")


def main() -> int:
    """Run the demo; the exit code."""
    parser = argparse.ArgumentParser(description="Three agents, three ends, and what is kept of them.")
    parser.add_argument("--folder", type=Path, default=CHECKOUT / ".cache" / "demo", help="where to work; made anew")
    parser.add_argument("--project", default=PROJECT, help="what names the containers")
    given = parser.parse_args()
    began = time.monotonic()
    demo = Demo(given.folder.resolve(), given.project)
    prepare(demo)
    tell(f"A git repository with failing tests, and a profile of three agents beside it, in {demo.folder}")
    demo.run("sandboxrun", "validate")
    tell("What apply or run would do for one of them:")
    demo.run("sandboxrun", "plan", "--target", "fixer")
    folder = fixer(demo)
    hog_and_slow(demo)
    tell("Nothing runs any more, and nothing is left to remove:")
    demo.run("sandboxrun", "ps")
    demo.run("sandboxrun", "destroy", "--yes")
    nothing_left(demo)
    tell(f"Done in {time.monotonic() - began:.0f} s. To look at:")
    for what, where in (
        ("profile", "sandbox.yaml"),
        ("evidence", ".sandboxrun/evidence"),
        ("patch", folder / "workspace.patch"),
        ("report", folder / "artifacts/workspace/report/fixes.md"),
    ):
        print(f"  {what:<9} {demo.folder / where}")
    return 1 if demo.faults else 0


if __name__ == "__main__":
    sys.exit(main())
