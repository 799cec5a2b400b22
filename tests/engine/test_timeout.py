"""`lifetime.timeout` holds although nothing of sandboxrun runs, and whatever the agent does to be let alone.

Every test ends the process that started the sandboxes before their time is over, and reads how they ended afterwards.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from collections.abc import Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import docker
import pytest

from sandboxrun import SandboxService, Settings
from sandboxrun.spec import labels
from sandboxrun.spec.state import Ended, Running
from tests.conftest import Cli, until
from tests.engine.counting import counting
from tests.engine.own_engine import OwnEngine

TIMEOUT = 6  # seconds: on a machine that is busy, all of what is tried has to be under way by then
GRACE = 1
AGENTS = {
    "sleeps": "sleep 600",
    "deaf": "trap '' TERM INT HUP; while :; do sleep 1; done",
    "forks": "(setsid sh -c 'trap \"\" TERM; while :; do sleep 1; done' &); (sleep 600 &); sleep 600",
    "leaves": "for i in 1 2 3; do (setsid sleep 600 &); done; setsid sh -c 'while :; do sleep 1; done' & wait",
    "stops": "kill -STOP $$; sleep 600",
    "attacks": (
        "trap '' TERM INT HUP QUIT 62 63; echo renamed > /proc/self/comm; "
        "for s in STOP KILL TERM INT HUP QUIT 62 63; do kill -$s 1; done; "
        "for f in environ mem maps root exe cwd fd syscall; do "
        "(cat /proc/1/$f || ls /proc/1/$f/) >/dev/null 2>&1 && echo read $f; done; "
        "(echo x > /proc/1/comm) 2>/dev/null && echo renamed; renice 19 1 2>/dev/null; "
        "echo tried; while :; do sleep 1; done"
    ),
}
FORGERS = {
    "forges": "exit 124",
    "errs": "exit 3",
    "dies": "kill -KILL $$",
}


def _profile(project: str, scripts: Mapping[str, str], **options: Any) -> dict[str, Any]:
    base = {
        "image": "sandboxrun/busybox:latest",
        "network_mode": "none",
        "lifetime": {"timeout": f"{TIMEOUT}s"},
        "stop_grace_period": f"{GRACE}s",
        **options,
    }
    sandboxes = {name: {**base, "command": ["sh", "-c", script]} for name, script in scripts.items()}
    return {"name": project, "sandboxes": sandboxes}


def _write(cli: Cli, project: str, scripts: Mapping[str, str], **options: Any) -> None:
    (cli.cwd / "sandbox.yaml").write_text(json.dumps(_profile(project, scripts, **options)))


def _containers(client: docker.DockerClient, project: str) -> dict[str, dict[str, Any]]:
    """What inspect says of each sandbox of the project, by its address."""
    listed = client.api.containers(all=True, filters={"label": f"{labels.PROJECT}={project}"})
    found = (client.api.inspect_container(one["Id"]) for one in listed)
    return {one["Config"]["Labels"][labels.SANDBOX]: one for one in found}


def _until_all_ended(client: docker.DockerClient, project: str) -> dict[str, dict[str, Any]]:
    until(lambda: not any(one["State"]["Running"] for one in _containers(client, project).values()))
    return _containers(client, project)


def _endings(directory: Path) -> dict[str, tuple[str, int]]:
    found = {}
    for path in sorted((directory / ".sandboxrun/evidence").glob("*/index.json")):
        index = json.loads(path.read_text())
        found[index["sandbox"]] = (index["ending"]["how"], index["ending"]["exit_code"])
    return found


def test_it_holds_whatever_the_agent_does(project: str, cli: Cli, engine_client: docker.DockerClient) -> None:
    _write(cli, project, {**AGENTS, **FORGERS})
    assert (applied := cli("apply", "-y", "-q")).code == 0, applied.err  # and that process is gone now
    found = _until_all_ended(engine_client, project)
    for name in AGENTS:
        state, entrypoint = found[name]["State"], found[name]["Config"]["Entrypoint"]
        assert state["ExitCode"] == 124, (name, state)
        assert entrypoint[0] == "/.sandboxrun/init" and found[name]["HostConfig"]["Init"] is False
    log = engine_client.api.logs(found["attacks"]["Id"]).decode()
    assert log.splitlines() == ["tried"]
    planned = cli("plan")
    assert planned.code == 0, planned.err
    assert planned.out.count("stopped after its timeout") == len(AGENTS)
    assert cli("apply", "-y", "-q").code == 0
    ends = _endings(cli.cwd)
    # nobody watched: whose code may be a signal's is only known while the engine remembers its end, 256 events long
    assert ends.pop("dies") in (("failed", 137), ("unknown", 137))
    assert (ends.pop("forges"), ends.pop("errs")) == (("failed", 124), ("failed", 3))
    assert {name: how for name, (how, _) in ends.items()} == dict.fromkeys(AGENTS, "timeout")
    assert _containers(engine_client, project) == {}


TELLS = "trap 'echo told' TERM; while :; do sleep 0.1; done"


@pytest.mark.parametrize("command", ["run -q", "wait -q", "apply -y -q", "reap"])
def test_the_command_is_told_once(command: str, project: str, cli: Cli, engine_client: docker.DockerClient) -> None:
    """Whoever watches leaves it to PID 1: at a second signal many programs drop what they do at the first."""
    _write(cli, project, {"agent": TELLS}, lifetime={"timeout": "2s"}, stop_grace_period="6s")
    if command != "run -q":
        assert (applied := cli("apply", "-y", "-q")).code == 0, applied.err
        (made,) = _containers(engine_client, project).values()
        until(lambda: engine_client.api.logs(made["Id"], stderr=False) == b"told\n")
    done = cli(*command.split())
    if command in ("run -q", "wait -q"):
        assert done.code == 124, done.err
    else:
        assert done.code == 0, done.err
        assert _containers(engine_client, project)["agent"]["State"]["Running"]
        _until_all_ended(engine_client, project)
    assert cli("apply", "-y", "-q").code == 0  # takes the evidence, where nobody has
    assert cli("logs", "agent").out == "told\n"
    assert _endings(cli.cwd)["agent"] == ("timeout", 124)


@pytest.mark.parametrize(("command", "others"), [("run -q", "reap --watch"), ("apply -y --wait", "reap --watch wait")])
def test_the_command_is_told_of_its_ttl_once(
    command: str, others: str, project: str, cli: Cli, engine_client: docker.DockerClient
) -> None:
    """By who made it; whoever waits or collects beside that sends it nothing."""
    _write(cli, project, {"agent": TELLS}, lifetime={"ttl": "6s"}, stop_grace_period="3s")
    maker = cli.start(*command.split())
    until(lambda: engine_client.api.containers(filters={"label": f"{labels.PROJECT}={project}"}))
    beside = [cli.start("reap", "--project", project, "--watch", "--json")]
    beside += [cli.start("wait", "-q")] if "wait" in others else []
    made = cli.finish(maker)
    assert made.code != 0, made.err
    for one in beside[1:]:
        assert cli.finish(one).code != 0
    os.kill(beside[0].pid, signal.SIGTERM)
    reaped = cli.finish(beside[0])  # which may collect it, once it has ended
    assert reaped.code == 0, reaped.err
    assert cli("logs", "agent").out == "told\n"
    assert _endings(cli.cwd)["agent"][0] == "timeout"


def test_who_comes_to_a_ttl_after_somebody_elses_signal_sends_none(
    project: str, cli: Cli, engine_client: docker.DockerClient
) -> None:
    """Of those that wait and reap, the first one ends a background sandbox; here somebody else was first of all."""
    _write(cli, project, {"agent": TELLS}, lifetime={"ttl": "4s"}, stop_grace_period="10s")
    assert cli("apply", "-y", "-q").code == 0
    beside = [cli.start("wait", "-q"), cli.start("reap", "--project", project, "--watch", "--json")]
    (made,) = _containers(engine_client, project).values()
    engine_client.api.kill(made["Id"], "TERM")
    until(lambda: engine_client.api.logs(made["Id"], stderr=False) == b"told\n")
    time.sleep(4 + 4)  # its ttl, and longer than any of them listens for another's signal
    assert engine_client.api.logs(made["Id"], stderr=False) == b"told\n"
    assert [one.poll() for one in beside] == [None, None]
    engine_client.api.kill(made["Id"], "KILL")
    assert cli.finish(beside[0]).code != 0
    until(lambda: not _containers(engine_client, project))
    os.kill(beside[1].pid, signal.SIGTERM)
    assert cli.finish(beside[1]).code == 0


def test_code_output_and_terminal_are_the_commands_own(project: str, cli: Cli) -> None:
    scripts = {
        "code": "echo out; echo err >&2; exit 7",
        "signal": "kill -TERM $$",
        "orphans": "(sleep 0.1 &); exec true",
        "group": "test \"$(cut -d' ' -f8 /proc/self/stat)\" = \"$(cut -d' ' -f5 /proc/self/stat)\"",
    }
    _write(cli, project, scripts, lifetime={"timeout": "5m"})
    profile = json.loads((cli.cwd / "sandbox.yaml").read_text())
    profile["sandboxes"]["group"]["tty"] = True  # the foreground group is the command's
    (cli.cwd / "sandbox.yaml").write_text(json.dumps(profile))
    cli("run", "-q")
    ends = _endings(cli.cwd)
    assert ends == {"code": ("failed", 7), "signal": ("failed", 143), "orphans": ("exited", 0), "group": ("exited", 0)}
    (folder,) = (cli.cwd / ".sandboxrun/evidence").glob("*-code-*")
    assert ((folder / "stdout.log").read_text(), (folder / "stderr.log").read_text()) == ("out\n", "err\n")
    assert json.loads((folder / "changes.json").read_text()) == []


def test_a_command_that_is_not_there_does_not_replace_what_runs(
    project: str, cli: Cli, engine_client: docker.DockerClient
) -> None:
    _write(cli, project, {"agent": "sleep 600"}, lifetime={"timeout": "5m"})
    assert cli("apply", "-y", "-q").code == 0
    before = _containers(engine_client, project)["agent"]["Id"]
    profile = _profile(project, {"agent": "true"}, lifetime={"timeout": "5m"})
    profile["sandboxes"]["agent"]["command"] = ["nothing-of-the-kind"]
    (cli.cwd / "sandbox.yaml").write_text(json.dumps(profile))
    tried = cli("apply", "-y")
    assert tried.code == 1 and "its command could not be started (exit code 127)" in tried.err
    assert _containers(engine_client, project)["agent"]["Id"] == before
    assert cli("destroy", "-y").code == 0


def test_a_file_that_is_no_program_is_not_said_to_be_missing(project: str, cli: Cli) -> None:
    profile = _profile(project, {"agent": "true"})
    profile["sandboxes"]["agent"]["command"] = ["/etc/passwd"]
    (cli.cwd / "sandbox.yaml").write_text(json.dumps(profile))
    tried = cli("run")
    assert tried.code == 125 and "agent: not started (exit 126): /etc/passwd: not executable" in tried.err


def test_plan_warns_where_it_needs_a_watcher_and_replaces_for_another_one(
    project: str, cli: Cli, engine_client: docker.DockerClient
) -> None:
    _write(cli, project, {"agent": "sleep 600"}, init=False)
    planned = cli("plan")
    assert "agent: timeout needs a watcher here: init is false, so its command is PID 1" in planned.err + planned.out
    _write(cli, project, {"agent": "sleep 600"}, lifetime={"timeout": "5m"})
    assert cli("apply", "-y", "-q").code == 0
    before = _containers(engine_client, project)["agent"]["Id"]
    again = cli("plan", "--detailed-exitcode")
    assert again.code == 0, again.out
    _write(cli, project, {"agent": "sleep 600"}, lifetime={"timeout": "6m"})
    planned = cli("plan")
    assert "needs a watcher" not in planned.out + planned.err
    assert "lifetime:  # forces replacement, its PID 1 holds the timeout it was started with" in planned.out
    assert cli("apply", "-y", "-q").code == 0
    after = _containers(engine_client, project)["agent"]
    assert after["Id"] != before and f"timeout={360 * 10**9}" in after["Config"]["Entrypoint"]
    assert cli("destroy", "-y").code == 0


def test_a_signal_through_the_engine_reaches_the_command(
    project: str, cli: Cli, engine_client: docker.DockerClient
) -> None:
    scripts = {"agent": "trap 'echo got; exit 9' USR1; echo ready; while :; do sleep 0.1; done"}
    _write(cli, project, scripts, lifetime={"timeout": "5m"})
    assert cli("apply", "-y", "-q").code == 0
    id = _containers(engine_client, project)["agent"]["Id"]
    until(lambda: b"ready" in engine_client.api.logs(id))
    engine_client.api.kill(id, "USR1")
    assert engine_client.api.wait(id)["StatusCode"] == 9
    assert cli("destroy", "-y").code == 0


def test_a_pause_for_an_upload_does_not_count(project: str, tmp_path: Path, busybox: str, engine_host: str) -> None:
    settings = Settings(docker_host=engine_host, default_image=busybox, network_mode="none")
    with SandboxService(settings, project=project, directory=tmp_path) as service:
        timeout, until = timedelta(seconds=15), timedelta(seconds=17)
        made = service.create("a", command=["sleep", "600"], lifetime={"timeout": "15s"}, stop_grace_period="1s")
        service.start(made)
        state = service.engine.state(made.id)
        assert isinstance(state, Running)
        with service.paused(made):
            began = service.engine.clock()
            while service.engine.clock() < state.started + until:
                time.sleep(0.1)
        assert began < state.started + timeout, "the machine was too slow for this to show anything"
        service.engine.wait(made.id, timeout=60)
        ended = service.engine.state(made.id)
        assert isinstance(ended, Ended) and ended.exit_code == 124 and ended.finished is not None
        assert ended.finished >= state.started + until + timedelta(seconds=1)
        service.remove(made)


# -- the volume that the init is in ---------------------------------------------------------------------------------


def test_the_init_is_there_once_for_all_and_again_where_somebody_removed_it(
    project: str, cli: Cli, own_engine: OwnEngine
) -> None:
    _write(cli, project, {"agent": "exit 3"}, lifetime={"timeout": "5m"})
    host = {"DOCKER_HOST": own_engine.host}
    several = [cli.start("run", env=host) for _ in range(3)]  # on an engine that has none yet
    assert [cli.finish(process).code for process in several] == [3, 3, 3]
    with contextlib.closing(own_engine.client()) as client:

        def there() -> list[str]:
            names = [one["Name"] for one in client.api.volumes()["Volumes"]]
            return sorted((name for name in names if name.startswith(labels.INIT_VOLUME)), key=len)

        mark, filled = there()
        assert filled.startswith(f"{mark}-")
        for name in (filled, mark):
            client.api.remove_volume(name)
        assert cli("run", env=host).code == 3
        mark, filled = there()
        client.api.remove_volume(filled)
        failed = cli("run", env=host)
        assert failed.code == 125 and f"something changed the volume {filled}" in failed.err, failed.err
        assert client.api.inspect_volume(filled)["Labels"] == {labels.INIT: mark}  # the engine made it again, empty
        assert cli("run", env=host).code == 3
        assert client.api.containers(all=True) == []


def test_the_engine_is_asked_for_the_init_once(project: str, cli: Cli, engine_host: str, tmp_path: Path) -> None:
    if not engine_host.startswith("unix://"):
        pytest.skip("requests are counted on a local socket only")
    _write(cli, project, dict.fromkeys("abcd", "sleep 600"), lifetime={"timeout": "5m"})
    with counting(engine_host.removeprefix("unix://"), tmp_path) as counted:
        assert cli("apply", "-y", "-q", "--host", counted.host).code == 0
        assert counted.take()["GET /volumes/*"] == 1
    assert cli("destroy", "-y", "-q").code == 0


# -- an engine that goes away meanwhile -----------------------------------------------------------------------------


@pytest.fixture
def surviving(make_engine: Any) -> Iterator[OwnEngine]:
    """An engine whose containers run on without it."""
    yield make_engine("--live-restore")


def test_it_holds_while_the_engine_is_away(project: str, cli: Cli, surviving: OwnEngine) -> None:
    _write(cli, project, {"away": AGENTS["deaf"], "back": AGENTS["forks"]})
    profile = json.loads((cli.cwd / "sandbox.yaml").read_text())
    for name, after in (("away", "12s"), ("back", "20s")):  # the engine is killed before, however busy the machine
        profile["sandboxes"][name]["lifetime"] = {"timeout": after}
    (cli.cwd / "sandbox.yaml").write_text(json.dumps(profile))
    host = {"DOCKER_HOST": surviving.host}
    assert (applied := cli("apply", "-y", "-q", env=host)).code == 0, applied.err
    client = surviving.client()
    process = Path(f"/proc/{_containers(client, project)['away']['State']['Pid']}")
    client.close()
    assert process.exists()
    surviving.kill()
    until(lambda: not process.exists())  # its time is over while nobody is there to see it
    surviving.start()
    client = surviving.client()
    found = _until_all_ended(client, project)
    client.close()
    codes = {name: one["State"]["ExitCode"] for name, one in found.items()}
    lost = codes["away"] == 255  # newer engines lose the code of what ended while they were away
    assert codes == {"away": 255 if lost else 124, "back": 124}
    assert (again := cli("apply", "-y", "-q", env=host)).code == 0, again.err
    endings = {name: how for name, (how, _) in _endings(cli.cwd).items()}
    assert endings == {"away": "engine_lost" if lost else "timeout", "back": "timeout"}
