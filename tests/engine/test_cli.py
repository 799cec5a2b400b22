"""The command line on a real engine, in processes of its own: output, messages and exit codes."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import docker
import pytest

from tests.conftest import Cli, until
from tests.engine.forwarders import Cutting

SLEEPER = "trap 'exit 5' TERM; echo up; while :; do sleep 0.1; done"


@pytest.fixture
def profile(tmp_path: Path, project: str, busybox: str) -> Path:
    """A project of four: one that runs on (twice), one that fails, one that takes too much memory, one that ends."""
    (tmp_path / "sandbox.yaml").write_text(
        f"""
name: {project}
variables:
  memory: {{type: string, default: 32m}}
sandboxes:
  agent:
    for_each: [lint, tests]
    image: {busybox}
    network_mode: none
    mem_limit: "{{{{ memory }}}}"
    stop_grace_period: 2s
    command: [sh, -c, "{SLEEPER}"]
  bad:
    image: {busybox}
    network_mode: none
    command: [sh, -c, "echo out; echo err >&2; exit 4"]
  hog:
    image: {busybox}
    network_mode: none
    mem_limit: 16m
    # A busy engine (20.10) misses what happens in a container's first and last moments.
    command: [sh, -c, "sleep 1; tail /dev/zero; sleep 1; exit 137"]
  good:
    image: {busybox}
    network_mode: none
    command: [sh, -c, "printf 'a\\\\033[2Jb\\\\n'"]
"""
    )
    return tmp_path


@pytest.fixture
def destroyed(profile: Path, cli: Cli) -> Iterator[None]:
    """After the test, what it applied is taken away."""
    yield
    ran = cli("destroy", "-y", "-q")
    assert ran.code == 0, ran.err


@pytest.fixture
def lint(profile: Path, cli: Cli, destroyed: None) -> str:
    """agent["lint"] is applied and runs; its address."""
    address = 'agent["lint"]'
    ran = cli("apply", "-y", "-q", "--target", address)
    assert ran.code == 0, ran.err
    return address


def wait_for(process: subprocess.Popen[str], text: str) -> None:
    """Read what the process prints until `text` has come."""
    assert process.stdout is not None
    seen = ""
    while text not in seen:
        line = process.stdout.readline()
        assert line, f"ended without {text!r}: {seen}"
        seen += line


# -- plan and apply


def test_plan_and_its_exit_codes(profile: Path, cli: Cli, project: str) -> None:
    plain = cli("plan")
    assert (plain.code, plain.err) == (0, "")
    assert plain.out.endswith("\nPlan: 5 to add, 0 to change, 0 to destroy.\n")
    assert cli("plan", "--detailed-exitcode").code == 2
    assert cli("plan", "--detailed-exitcode", "--target", "nobody").code == 1
    assert json.loads(cli("plan", "--json").out)["summary"] == {"add": 5, "change": 0, "destroy": 0}
    assert cli("plan", "--format", "markdown").out.startswith(f"<!-- sandboxrun plan {project} -->\n")
    assert cli("plan", "--format", "github").out.endswith(
        "\n::notice title=sandboxrun::Plan: 5 to add, 0 to change, 0 to destroy.\n"
    )
    assert cli("plan", "--destroy").out == f"Nothing to destroy. The engine has nothing of {project}.\n"
    clash = cli("plan", "--destroy", "--rerun")
    assert (clash.code, clash.err) == (
        2,
        "error: --destroy removes everything: it can be combined with --target only\n",
    )


def test_targets(profile: Path, cli: Cli) -> None:
    assert "2 to add" in cli("plan", "--target", "agent").out
    assert "1 to add" in cli("plan", "--target", 'agent["tests"]').out
    wrong = cli("plan", "--target", "agnet")
    assert (wrong.code, wrong.err) == (
        2,
        'error: there is no sandbox "agnet"\n  help: did you mean "agent"?\n',
    )


def test_apply_asks_and_without_a_terminal_changes_nothing(
    profile: Path, cli: Cli, project: str, engine_client: docker.DockerClient
) -> None:
    ran = cli("apply")
    assert ran.code == 2
    assert ran.err == (
        "error: apply asks for confirmation, but there is no terminal\n"
        "  help: nothing was changed; review the plan above, then pass --yes\n"
    )
    assert "Plan: 5 to add" in ran.out
    assert (
        engine_client.containers.list(all=True, filters={"label": f"sandboxrun.project={project}"}, ignore_removed=True)
        == []
    )


def test_the_whole_way(profile: Path, cli: Cli, destroyed: None) -> None:
    """apply, ps, logs, wait, another apply, destroy."""
    never = cli("logs", "good", "bad")
    assert (never.code, never.out) == (1, "")
    assert never.err.startswith("error: bad, good: no container, and no evidence of a run\n")
    assert cli("logs").code == 0  # nobody was named
    applied = cli("apply", "-y")
    assert (applied.code, applied.out.splitlines()[-1]) == (0, "Done: 5 added, 0 changed, 0 destroyed.")
    assert sorted(line.partition(":")[0] for line in applied.err.splitlines()) == [
        'agent["lint"]',
        'agent["tests"]',
        "bad",
        "good",
        "hog",
    ]
    waited = cli("wait", "bad", "hog", "good")
    assert (waited.code, waited.out) == (4, "SANDBOX  EXIT CODE\nbad      4\nhog      137\ngood     0\n")
    listed = {line["address"]: line for line in json.loads(cli("ps", "--json").out)}
    assert {address: line["state"] for address, line in listed.items()} == {
        'agent["lint"]': "running",
        'agent["tests"]': "running",
        "bad": "exited 4",
        "hog": "out of memory",
        "good": "exited 0",
    }
    assert (listed["hog"]["memory"], listed["hog"]["cpus"], listed["hog"]["differs"]) == (16 * 2**20, 1.0, "")
    table = cli("ps", "agent").out.splitlines()
    assert table[0].split() == ["SANDBOX", "STATE", "SINCE", "IMAGE", "MEMORY", "CPUS", "HEALTH", "DIFFERS"]
    assert [line.split()[:2] for line in table[1:]] == [['agent["lint"]', "running"], ['agent["tests"]', "running"]]
    assert cli("logs", "good").out == "a\x1b[2Jb\n"  # to a pipe: as the agent wrote it
    assert cli("logs", "good", "--raw").out == "a\x1b[2Jb\n"
    again = cli("apply", "-y")
    assert again.out.splitlines()[-1] == "Done: 0 added, 0 changed, 3 destroyed."
    assert re.search(r"^bad: failed with exit 4, after .*\n    evidence: +\.sandboxrun/evidence/\S+$", again.out, re.M)
    assert re.search(r"^hog: killed for exceeding its memory limit of 16m \(exit 137\), after", again.out, re.M)
    nothing = cli("apply", "-y")
    assert nothing.code == 0 and "No changes. What runs matches the profile" in nothing.out
    gone = cli("logs", "bad", "good")
    assert gone.out == "bad  | out\ngood | a\\x1b[2Jb\n"
    assert "bad  | err\n" in gone.err and "bad has been torn down; this is from its evidence, " in gone.err
    assert cli("ps", "-a", "bad").out.splitlines()[0].split() == ["SANDBOX", "ENDED", "WHEN", "RAN", "EVIDENCE"]
    everything = json.loads(cli("ps", "-a", "--json", "bad").out)
    assert [(line["state"], line["exit_code"], line["container"]) for line in everything] == [("failed 4", 4, None)]
    assert (Path(everything[0]["evidence"]) / "index.json").is_file()
    assert cli("wait", "bad").code == 4  # from the record


def test_a_change_is_made_in_place_and_drift_is_seen(
    profile: Path, cli: Cli, lint: str, project: str, engine_client: docker.DockerClient
) -> None:
    changed = cli("apply", "-y", "--var", "memory=48m", "--target", lint)
    assert changed.code == 0 and changed.err.startswith(f"{lint}: updated mem_limit, memswap_limit (")
    engine_client.containers.get(f"{project}-agent-lint").update(mem_limit="64m", memswap_limit="64m")
    shown = json.loads(cli("ps", "--json", "--var", "memory=48m").out)
    assert [line["differs"] for line in shown] == ["drift: mem_limit, memswap_limit"]
    assert [line["differs"] for line in json.loads(cli("ps", "--json").out)] == [
        "profile changed: mem_limit, memswap_limit"
    ]
    looked = cli("plan", "--refresh-only", "--detailed-exitcode", "--var", "memory=48m")
    assert looked.code == 2 and '~ mem_limit:     "48m" -> "64m"' in looked.out
    replaced = cli("apply", "-y", "--var", "memory=48m", "--target", lint, "--replace", lint)
    assert replaced.out.splitlines()[-1] == "Done: 1 added, 0 changed, 1 destroyed."


def test_a_saved_plan_is_carried_out_once(profile: Path, cli: Cli, destroyed: None) -> None:
    saved = cli("plan", "--out", "it.plan", "--target", "good", "--var", "memory=40m")
    assert (saved.code, saved.err) == (0, "saved: `sandboxrun apply it.plan` carries out exactly this\n")
    mixed = cli("apply", "it.plan", "--target", "bad", "-y")
    assert mixed.code == 2 and mixed.err.startswith("error: a saved plan cannot be combined with --file, ")
    assert cli("apply", "it.plan", "-y").out.endswith("Done: 1 added, 0 changed, 0 destroyed.\n")
    stale = cli("apply", "it.plan", "-y")
    assert stale.code == 1 and stale.err.startswith("error: the saved plan is stale: ")


def test_json_lines(profile: Path, cli: Cli, destroyed: None) -> None:
    ran = cli("apply", "-y", "--json", "--wait", "--target", "bad")
    lines = [json.loads(line) for line in ran.out.splitlines()]
    assert (ran.code, ran.err) == (4, "")
    assert [line["type"] for line in lines][:2] == ["version", "planned_change"]
    [ended] = [line["run"] for line in lines if line["type"] == "run_ended"]
    assert (ended["sandbox"], ended["outcome"], ended["exit_code"]) == ("bad", "failed", 4)


def test_apply_wait_passes_the_agents_code_on(profile: Path, cli: Cli, destroyed: None) -> None:
    assert cli("apply", "-y", "-q", "--wait", "--target", "good").code == 0
    ran = cli("apply", "-y", "--wait", "--target", "bad", "--target", "good")
    assert ran.code == 4
    assert ran.out.splitlines()[-1] == "good exited with 0 in an earlier run; --rerun runs it again"
    patience = cli("apply", "-y", "--wait", "--wait-timeout", "0.2s", "--target", 'agent["lint"]')
    assert patience.code == 124
    assert patience.err.endswith(
        'error: after 0.2 seconds these still run: agent["lint"]\n  help: wait longer, or destroy them\n'
    )
    assert cli("apply", "-y", "--wait", "--target", "nobody").code == 125


def test_a_signal_ends_a_wait_and_the_sandboxes_go_on(profile: Path, cli: Cli, destroyed: None) -> None:
    process = cli.start("apply", "-y", "--wait", "--target", 'agent["lint"]', "--json")
    wait_for(process, '"apply_complete"')
    process.send_signal(signal.SIGTERM)
    ran = cli.finish(process)
    assert ran.code == 143
    assert "Stopping after the current steps" in ran.err
    assert [line["state"] for line in json.loads(cli("ps", "--json").out)] == ["running"]


# -- run


def test_run_without_a_profile(tmp_path: Path, cli: Cli, busybox: str, project: str) -> None:
    """The newcomer's line, with an image that is there: nothing is left, and the copy is what was in the folder."""
    folder = tmp_path / project
    folder.mkdir()
    (folder / "file.txt").write_text("hello\n")
    ran = cli(
        "run", "--image", busybox, "--base", "offline", "--", "sh", "-c", "cat file.txt; id -u; exit 3", cwd=folder
    )
    assert (ran.code, ran.out) == (3, "hello\n1000\n"), ran.err
    assert re.match(r"offline: failed with exit 3, after .*\n    evidence: +\S+\n    patch: ", ran.err)
    bare = cli(
        "run", "--base", "offline", "--image", busybox, "--no-workspace", "--user", "77:88", "--", "id", cwd=folder
    )
    assert (bare.code, bare.out) == (0, "uid=77 gid=88 groups=88\n")


def test_run_several(profile: Path, cli: Cli) -> None:
    ran = cli("run", "good", "bad")
    assert ran.code == 4
    assert sorted(ran.out.splitlines()) == ["bad  | out", "good | a\\x1b[2Jb"]
    assert "bad  | err\n" in ran.err
    briefly = cli("run", "good", "bad", "-q").err
    assert "good: " not in briefly and "bad: failed with exit 4" in briefly
    assert briefly.endswith("2 sandboxes: 1 passed, 1 failed\n")
    one = cli("run", "bad", "-q", "--", "echo", "in its place")
    assert (one.code, one.out, one.err) == (0, "in its place\n", "")
    told = cli("run", "bad", "--json")
    [run] = json.loads(told.out)["runs"]
    assert (told.code, run["sandbox"], run["outcome"], run["exit_code"]) == (4, "bad", "failed", 4)
    assert told.err.startswith(("out\nerr\n", "err\nout\n"))
    which = cli("run", "--", "ls")
    assert which.code == 125
    assert which.err == (
        'error: which sandbox is to run the command? The profile has agent["lint"], agent["tests"], bad, hog, good\n'
        "  help: name it before --\n"
    )
    no_terminal = cli("run", "-i", "good")
    assert (no_terminal.code, no_terminal.err.splitlines()[0]) == (
        125,
        "error: --interactive needs a terminal as standard input",
    )
    image = cli("run", "good", "--image", "other")
    assert image.code == 125 and image.err.startswith("error: --image, --user and --no-workspace are for a run in a")


def test_run_ends_in_time(profile: Path, cli: Cli) -> None:
    ran = cli("run", 'agent["lint"]', "--timeout", "5s")  # by when it has to be up, also on a busy machine
    assert (ran.code, ran.out) == (124, "up\n")
    said = ran.err.removeprefix("Terminated\n")  # the shell's word, where its child got the signal first
    assert said.startswith('agent["lint"]: stopped after its timeout of 5s (exit 124), after ')
    killed = cli("run", "hog", "-q")
    assert killed.code == 137 and "hog: killed for exceeding its memory limit" in killed.err


def test_run_forwards_signals(profile: Path, cli: Cli) -> None:
    process = cli.start("run", 'agent["lint"]')
    wait_for(process, "up\n")
    process.send_signal(signal.SIGTERM)
    ran = cli.finish(process)
    assert ran.code == 5  # what its own trap says
    told, ended, *_ = ran.err.splitlines()
    assert told.startswith("Stopping: sent SIGTERM to what runs, waiting for it to end.")
    assert ended.startswith('agent["lint"]: stopped before its end (exit 5), after ')


def test_the_second_signal_ends_what_does_not_listen(profile: Path, cli: Cli) -> None:
    process = cli.start("run", "good", "--", "sh", "-c", "trap '' INT TERM; echo up; while :; do sleep 0.1; done")
    wait_for(process, "up\n")
    process.send_signal(signal.SIGINT)
    assert process.stderr is not None and process.stderr.readline().startswith("Stopping: sent SIGINT")
    process.send_signal(signal.SIGINT)
    ran = cli.finish(process)
    assert ran.code == 137 and ran.err.startswith("Killing what still runs, and saving its evidence.")


# -- logs, exec and wait


def test_logs_follow_until_the_end(profile: Path, cli: Cli, lint: str) -> None:
    process = cli.start("logs", "-f", "agent")
    wait_for(process, "up\n")
    assert cli("destroy", "-y", "-q", "--target", "agent").code == 0
    assert cli.finish(process).code == 0


def test_logs_tail_and_timestamps(profile: Path, cli: Cli, lint: str) -> None:
    until(lambda: cli("logs", "agent").out == "up\n")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT[\d:.]+Z up\n", cli("logs", "--timestamps", "agent").out)
    assert cli("logs", "--tail", "0", "agent").out == ""
    wrong = cli("logs", "agnet")
    assert (wrong.code, wrong.err) == (2, 'error: there is no sandbox "agnet"\n  help: did you mean "agent"?\n')


def test_exec(profile: Path, cli: Cli, lint: str) -> None:
    ran = cli("exec", lint, "--", "sh", "-c", "id -u; echo err >&2; exit 9")
    assert (ran.code, ran.out, ran.err) == (9, "1000\n", "err\n")
    assert cli("exec", "agent", "sh", "-c", "echo plain").out == "plain\n"
    assert cli("exec", "-i", "agent", "--", "cat", input="typed\n").out == "typed\n"
    assert cli("exec", "-w", "/tmp", "-e", "A=b", "agent", "--", "sh", "-c", "echo $A; pwd").out == "b\n/tmp\n"
    root = cli("exec", "--user", "0", "agent", "--", "id", "-u")
    assert (root.code, root.out) == (0, "0\n")
    assert root.err == (
        "warning: running as root instead of the sandbox's own user\n"
        "  help: leave --user out: the profile's user is what was reviewed\n"
    )
    missing = cli("exec", "bad", "--", "ls")
    assert (missing.code, missing.err) == (
        125,
        "error: bad is not running\n"
        "  help: `sandboxrun ps` lists what is running; apply starts it, with --rerun one that has ended\n",
    )
    no_terminal = cli("exec", "-t", "agent", "--", "ls")
    assert (no_terminal.code, no_terminal.err) == (
        125,
        "error: --tty needs --interactive, and a terminal as standard input\n",
    )


def test_an_exec_that_is_interrupted_says_what_runs_on(profile: Path, cli: Cli, lint: str) -> None:
    process = cli.start("exec", "agent", "--", "sh", "-c", "echo up; exec sleep 20")
    wait_for(process, "up\n")
    process.send_signal(signal.SIGINT)
    ran = cli.finish(process)
    assert (ran.code, ran.err) == (
        130,
        f"warning: the command may still run in {lint}\n"
        "  help: with -it, Ctrl-C ends the command itself\ninterrupted\n",
    )


def test_exec_wants_one_sandbox(profile: Path, cli: Cli, lint: str) -> None:
    assert cli("apply", "-y", "-q", "--target", "agent").code == 0
    several = cli("exec", "agent", "--", "ls")
    assert (several.code, several.err) == (
        125,
        'error: "agent" means several running sandboxes: agent["lint"], agent["tests"]\n  help: name one of them\n',
    )


def test_exec_in_a_paused_sandbox_says_what_resumes_it(
    profile: Path, cli: Cli, lint: str, project: str, engine_client: docker.DockerClient
) -> None:
    engine_client.containers.get(f"{project}-agent-lint").pause()
    paused = cli("exec", "agent", "--", "id", "-u")
    assert (paused.code, paused.err) == (125, f"error: {lint} is paused\n  help: apply resumes it\n")
    assert cli("apply", "-y", "-q", "--target", lint).code == 0
    assert cli("exec", "agent", "--", "id", "-u").out == "1000\n"


def test_wait_gives_up(profile: Path, cli: Cli, lint: str) -> None:
    ran = cli("wait", "agent", "--timeout", "0.2")
    assert (ran.code, ran.out, ran.err) == (
        124,
        "",
        'error: after 0.2 seconds these still run: agent["lint"]\n  help: wait longer, or destroy them\n',
    )
    never = cli("wait", "good")
    assert (never.code, never.out) == (125, "SANDBOX  EXIT CODE\ngood     never ran\n")
    assert cli("wait", "good", "--json").out == '{\n  "good": null\n}\n'
    cli("run", "-q", "good")
    assert cli("wait", "good").code == 0
    (profile / "sandbox.yaml").write_text((profile / "sandbox.yaml").read_text().replace("printf 'a", "printf 'c"))
    other = cli("wait", "good")
    assert (other.code, other.out) == (125, "SANDBOX  EXIT CODE\ngood     has not run with this spec\n")


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("sysctls", "{net.ipv4.nosuch: 1}", "the sysctl net.ipv4.nosuch can't be set to 1: no such file or directory"),
        ("sysctls", "[kernel.msgmax=lots]", "the sysctl kernel.msgmax can't be set to lots: invalid argument"),
        ("user", "nosuch", ".*unable to find user nosuch.*"),
        ("user", "'1000:nosuch'", ".*nable to find group nosuch.*"),
        ("group_add", "[nosuch]", ".*nable to find group nosuch.*"),
        ("working_dir", "/etc/passwd", ".*annot mkdir.*"),
    ],
)
def test_what_the_runtime_refuses_is_said_at_its_line(
    option: str, value: str, message: str, cli: Cli, tmp_path: Path, project: str, busybox: str
) -> None:
    more = "" if option == "working_dir" else "    working_dir: /tmp\n"
    (tmp_path / "sandbox.yaml").write_text(
        f"name: {project}\nsandboxes:\n  a:\n    image: {busybox}\n    command: [sleep, '9']\n"
        f"    network_mode: none\n    {option}: {value}\n{more}"
    )
    ran = cli("run", "-q", cwd=tmp_path)
    assert ran.code == 125
    assert re.search(rf"(?m)^sandbox\.yaml:7:\d+: error: a: {message}$", ran.err), ran.err


# -- terminals


class OnTerminal:
    """The command line on a terminal of its own."""

    def __init__(self, cwd: Path, arguments: Sequence[str]) -> None:
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.chdir(cwd)
            os.execv(sys.executable, [sys.executable, "-m", "sandboxrun", *arguments])
        self.seen = b""

    def expect(self, text: bytes) -> None:
        """Read until `text` has come after what was seen before."""
        start = len(self.seen)
        end = time.monotonic() + 120
        while text not in self.seen[start:]:
            assert time.monotonic() < end and self._read(1.0), f"no {text!r} in {self.seen[start:]!r}"

    def insist(self, keys: bytes, text: bytes) -> None:
        """Type it again and again until `text` comes."""
        start = len(self.seen)
        end = time.monotonic() + 120
        while text not in self.seen[start:]:
            self.type(keys)
            assert time.monotonic() < end and self._read(1.0), f"no {text!r} in {self.seen[start:]!r}"

    def type(self, keys: bytes) -> None:
        os.write(self.fd, keys)

    def resize(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def end(self) -> int:
        """Read to the end; the exit code."""
        while self._read(60.0):
            pass
        _, status = os.waitpid(self.pid, 0)
        self.pid = 0
        return os.waitstatus_to_exitcode(status)

    def close(self) -> None:
        if self.pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        os.close(self.fd)

    def _read(self, seconds: float) -> bool:
        """Whether it goes on."""
        if not select.select([self.fd], [], [], seconds)[0]:
            return True
        try:
            data = os.read(self.fd, 65536)
        except OSError:  # the other side has gone
            return False
        self.seen += data
        return bool(data)


OpenTerminal = Callable[..., OnTerminal]


@pytest.fixture
def on_terminal(_nothing_left: None, profile: Path) -> Iterator[OpenTerminal]:
    opened: list[OnTerminal] = []

    def start(*arguments: str) -> OnTerminal:
        opened.append(OnTerminal(profile, arguments))
        return opened[-1]

    yield start
    for one in opened:
        one.close()


@pytest.mark.parametrize("command", ["run", "exec"])
def test_a_terminal_whose_connection_is_cut_is_no_silent_end(
    command: str, on_terminal: OpenTerminal, cli: Cli, engine_host: str, destroyed: None
) -> None:
    if command == "exec":
        assert cli("apply", "-y", "-q", "--target", 'agent["lint"]').code == 0
    name, options = ("good", ["-i"]) if command == "run" else ('agent["lint"]', ["-it"])
    forwarder = Cutting(engine_host.removeprefix("unix://"))
    try:
        words = ("sh", "-c", "echo begun; sleep 4; echo so on; exit 7")
        asked = on_terminal(command, "--host", f"tcp://{forwarder.address}", *options, name, "--", *words)
        asked.expect(b"begun")
        assert forwarder.cut(b"/attach" if command == "run" else b"")
        assert asked.end() == 7
    finally:
        forwarder.close()
    said = b"so on" if command == "run" else b"the connection to the terminal ended and the command still runs"
    assert said in asked.seen


def test_apply_asks_on_a_terminal(on_terminal: OpenTerminal, profile: Path, cli: Cli, destroyed: None) -> None:
    declining = on_terminal("apply", "--target", "good")
    declining.expect(b"Carry this out? [y/N]: ")
    declining.type(b"n\n")
    assert declining.end() == 1 and b"Nothing was changed." in declining.seen
    giving_up = on_terminal("apply", "--target", "good")
    giving_up.expect(b"Carry this out? [y/N]: ")
    time.sleep(0.3)  # until it reads
    giving_up.type(b"\x03")
    assert giving_up.end() == 130 and b"interrupted" in giving_up.seen
    accepting = on_terminal("apply", "--target", "good")
    accepting.expect(b"Carry this out? [y/N]: ")
    accepting.type(b"y\n")
    assert accepting.end() == 0 and b"Done: 1 added, 0 changed, 0 destroyed." in accepting.seen
    destroying = on_terminal("destroy")
    destroying.expect(b"Remove all of this? [y/N]: ")
    destroying.type(b"y\n")
    assert destroying.end() == 0


def test_an_interactive_run_has_a_terminal_of_the_right_size(on_terminal: OpenTerminal, profile: Path) -> None:
    running = on_terminal("run", "-i", "good", "--", "sh")
    running.resize(31, 99)
    running.expect(b"$ ")
    running.type(b"stty size\r")
    running.expect(b"31 99")
    running.resize(40, 120)
    running.insist(b"stty size\r", b"40 120")
    running.type(b"exit 6\r")
    assert running.end() == 6


def test_exec_on_a_terminal(on_terminal: OpenTerminal, profile: Path, cli: Cli, lint: str) -> None:
    running = on_terminal("exec", "-it", "agent", "sh")
    running.expect(b"$ ")
    running.type(b"tty; exit 3\r")
    running.expect(b"/dev/")
    assert running.end() == 3


# -- doctor


def test_doctor(profile: Path, cli: Cli, project: str, tmp_path: Path) -> None:
    ran = cli("doctor")
    assert (ran.code, ran.err) == (0, "")
    names = [line.split()[0] for line in ran.out.splitlines() if line]
    assert names[:4] == ["engine", "API", "system", "machine"] and {"gateway", "broadcasts"} <= set(names)
    assert ran.out.endswith(f"\nproject {project}: every option of its 5 sandboxes can be enforced here\n")
    (tmp_path / "more.yaml").write_text("name: demo\nsandboxes: {a: {image: example, runtime: nosuch}}\n")
    bad = cli("doctor", "-f", "more.yaml")
    assert bad.code == 1
    assert bad.out.endswith("\nproject demo: 1 option of its 1 sandbox can't be enforced here\n")
    assert bad.err.startswith("more.yaml:2:") and 'the engine has no runtime "nosuch"' in bad.err
    told = json.loads(cli("doctor", "-f", "more.yaml", "--json").out)
    assert told["profile"]["enforceable"] is False and told["engine"]["api_in_use"]
    assert told["host_filters_paths"] in (True, False, None)
    empty = tmp_path / "empty"
    empty.mkdir()
    bare = cli("doctor", cwd=empty)
    assert (bare.code, bare.err) == (0, "\nThere is no profile here to check against it: pass one with --file.\n")


def test_doctor_without_an_engine(tmp_path: Path, cli: Cli) -> None:
    socket = tmp_path / "no.sock"
    ran = cli("doctor", env={"DOCKER_HOST": f"unix://{socket}", "DOCKER_SOCKET": ""})
    assert (ran.code, ran.err) == (1, "")
    assert ran.out.splitlines()[0] == (
        f"no engine: connecting to the engine at unix://{socket} (from DOCKER_HOST): there is no socket {socket}"
    )
    assert f"  DOCKER_HOST                unix://{socket}   <- this one" in ran.out.splitlines()
    told = json.loads(cli("doctor", "--json", "--host", f"unix://{socket}").out)
    assert (told["engine"], told["origin"]) == (None, "--host")
