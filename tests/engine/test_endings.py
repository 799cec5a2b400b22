"""How a run ended, as its evidence says: by the engine's own memory of it, whatever the code and whoever asks."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import docker
import pytest

from sandboxrun import SandboxService, Settings
from sandboxrun.data import Data
from tests.conftest import Cli, until
from tests.engine.own_engine import OwnEngine

TRAP = "trap 'exit {}' TERM; echo ready; while :; do sleep 0.1; done"
AWAY = "trap 'exit 0' USR1; echo ready; while :; do sleep 0.1; done"


class Agents(Data):
    """A project whose sandboxes run shell scripts in busybox."""

    cli: Cli
    client: docker.DockerClient
    project: str

    def write(self, **scripts: str | dict[str, Any]) -> None:
        """The profile: a script for each sandbox, or its options."""
        base = {"image": "sandboxrun/busybox:latest", "network_mode": "none", "stop_grace_period": "1s"}
        sandboxes = {
            name: {**base, **(told if isinstance(told, dict) else {"command": ["sh", "-c", told]})}
            for name, told in scripts.items()
        }
        (self.cli.cwd / "sandbox.yaml").write_text(json.dumps({"name": self.project, "sandboxes": sandboxes}))

    def start(self, **scripts: str | dict[str, Any]) -> None:
        """Apply them, and leave them to themselves."""
        self.write(**scripts)
        assert self.cli("apply", "-y", "-q").code == 0

    def id(self, name: str) -> str:
        """The container of a sandbox, whatever its name."""
        (found,) = self.client.api.containers(all=True, filters={"label": [f"sandboxrun.project={self.project}",
                                                                          f"sandboxrun.sandbox={name}"]})  # fmt: skip
        return str(found["Id"])

    def state(self, name: str) -> Mapping[str, Any]:
        """What inspect says of it."""
        found: Mapping[str, Any] = self.client.api.inspect_container(self.id(name))["State"]
        return found

    def ready(self, name: str) -> None:
        """Wait until its script has printed something."""
        until(lambda: bool(self.client.api.logs(self.id(name))))

    def end(self, name: str) -> None:
        """Wait until it does not run."""
        until(lambda: not self.state(name)["Running"])

    def endings(self) -> dict[str, tuple[str, int | None]]:
        """How the runs ended whose evidence is here, by sandbox: the last one of each."""
        found = {}
        for path in sorted((self.cli.cwd / ".sandboxrun/evidence").glob("*/index.json")):
            index = json.loads(path.read_text())
            found[index["sandbox"]] = (index["ending"]["how"], index["ending"]["exit_code"])
        return found

    def planned(self) -> list[str]:
        """The sandboxes that a plan would make."""
        plan = json.loads(self.cli("plan", "--json").out)
        return sorted(c["address"] for c in plan["resource_changes"] if "create" in c["change"]["actions"])


@pytest.fixture
def agents(cli: Cli, engine_client: docker.DockerClient, project: str, busybox: str) -> Iterator[Agents]:
    made = Agents(cli=cli, client=engine_client, project=project)
    yield made
    if (cli.cwd / "sandbox.yaml").exists():
        cli("destroy", "-y", "-q")


@pytest.fixture
def quiet(cli: Cli, own_engine: OwnEngine, project: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Agents]:
    """Agents on an engine of their own: it remembers 256 events, which are soon gone on one that others use, and it may
    die."""
    monkeypatch.setenv("DOCKER_HOST", own_engine.host)
    with contextlib.closing(own_engine.client()) as client:
        yield Agents(cli=cli, client=client, project=project)


# -- an end by itself is no kill ---------------------------------------------------------------------------------------


@contextlib.contextmanager
def held(path: str, word: bytes, until: Callable[[], None]) -> Iterator[str]:
    """A socket that leads to the engine at `path`, and lets no request with `word` in its first line pass before
    `until` returns."""
    with contextlib.ExitStack() as cleanup:
        import tempfile

        folder = cleanup.enter_context(tempfile.TemporaryDirectory(dir="/tmp"))
        listener = cleanup.enter_context(socket.socket(socket.AF_UNIX))
        listener.bind(f"{folder}/s")
        listener.listen(64)

        def pump(source: socket.socket, target: socket.socket, up: bool) -> None:
            with contextlib.suppress(OSError):
                while data := source.recv(65536):
                    if up and word in data.split(b"\r\n")[0]:
                        until()
                    target.sendall(data)
            with contextlib.suppress(OSError):
                target.shutdown(socket.SHUT_WR)

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    client, _ = listener.accept()
                    engine = socket.socket(socket.AF_UNIX)
                    engine.connect(path)
                    threading.Thread(target=pump, args=(client, engine, True), daemon=True).start()
                    threading.Thread(target=pump, args=(engine, client, False), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        yield f"unix://{folder}/s"


@pytest.mark.parametrize(("code", "how"), [(0, "exited"), (3, "failed"), (143, "failed"), (137, "failed")])
def test_what_ended_before_the_stop_of_a_destroy_came(
    quiet: Agents, own_engine: OwnEngine, code: int, how: str
) -> None:
    agents, engine_host = quiet, own_engine.host
    agents.start(a=f"echo begin; sleep 1; exit {code}")
    with held(engine_host.removeprefix("unix://"), b"/stop", lambda: agents.end("a")) as host:
        assert agents.cli("destroy", "-y", "-q", env={"DOCKER_HOST": host}).code == 0
    assert agents.endings() == {"a": (how, code)}
    assert agents.planned() == []


@pytest.mark.parametrize("code", [0, 3])
def test_what_ended_before_the_stop_of_its_timeout_came(agents: Agents, engine_host: str, code: int) -> None:
    agents.write(a={"command": ["sh", "-c", f"sleep 2; exit {code}"], "init": False})  # a timeout that `run` enforces
    with held(engine_host.removeprefix("unix://"), b"/stop", lambda: agents.end("a")) as host:
        ran = agents.cli("run", "a", "--timeout", "1s", env={"DOCKER_HOST": host})
    assert ran.code == code and "timeout" not in ran.err
    assert agents.endings() == {"a": ("exited" if code == 0 else "failed", code)}


def test_what_ended_before_a_forwarded_signal_came(agents: Agents, engine_host: str) -> None:
    agents.write(a="echo ready; sleep 2; exit 4")
    with held(engine_host.removeprefix("unix://"), b"/kill", lambda: agents.end("a")) as host:
        process = agents.cli.start("run", "a", env={"DOCKER_HOST": host})
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGTERM)
        assert agents.cli.finish(process).code == 4
    assert agents.endings() == {"a": ("failed", 4)}


# -- a kill is no end by itself ----------------------------------------------------------------------------------------


def test_who_is_stopped_by_hand_has_not_done_its_task(quiet: Agents) -> None:
    quiet.start(
        traps=TRAP.format(0),
        stopped="echo ready; sleep 60",
        killed="echo ready; sleep 60",
        paused="echo ready; sleep 60",
    )
    for name in ("traps", "stopped", "killed", "paused"):
        quiet.ready(name)
    quiet.client.api.stop(quiet.id("traps"))
    quiet.client.api.stop(quiet.id("stopped"))
    quiet.client.api.kill(quiet.id("killed"))
    quiet.client.api.pause(quiet.id("paused"))
    note = "stopped by somebody else; it does not count as done"
    assert note in quiet.cli("plan").out
    assert quiet.cli("destroy", "-y", "-q").code == 0
    assert quiet.endings() == {
        "traps": ("killed", 0),
        "stopped": ("killed", 143),
        "killed": ("killed", 137),
        "paused": ("killed", 143),
    }
    assert quiet.planned() == ["killed", "paused", "stopped", "traps"]


def test_a_service_knows_who_ended_its_sandbox_though_the_engine_forgets(quiet: Agents, own_engine: OwnEngine) -> None:
    settings = Settings(docker_host=own_engine.host, default_image="sandboxrun/busybox:latest", network_mode="none")
    with SandboxService(settings, project=quiet.project, directory=quiet.cli.cwd) as service:
        sandbox = service.create("a", command=["sleep", "600"])
        sandbox.start()
        quiet.client.api.kill(sandbox.container_id)
        assert sandbox.wait(60) == 137
        for n in range(300):  # more events than an engine remembers
            quiet.client.api.tag("sandboxrun/busybox:latest", "sandboxrun/events", str(n % 2))
        sandbox.remove()
    assert quiet.endings() == {"a": ("killed", 137)}


def test_what_a_run_saw_of_a_sandbox_that_somebody_removed_is_kept(agents: Agents) -> None:
    """With the volume of its workspace taken away, and without its agent's changes, which nobody has seen."""
    (agents.cli.cwd / "work").mkdir()
    copied = {"source": "work", "access": "copy", "target": "/workspace"}
    agents.write(
        a={"command": ["sh", "-c", "echo seen; sleep 600"], "workspace": copied},
        b={"command": ["sh", "-c", AWAY], "depends_on": ["a"]},
    )
    process = agents.cli.start("run", "b")
    assert process.stdout is not None
    assert {process.stdout.readline().split()[-1] for _ in range(2)} == {"seen", "ready"}
    agents.client.api.remove_container(agents.id("a"), force=True)
    agents.client.api.kill(agents.id("b"), signal="USR1")
    ran = agents.cli.finish(process)
    assert ran.code == 0 and agents.endings() == {"a": ("killed", 137), "b": ("exited", 0)}, ran.err
    (folder,) = (agents.cli.cwd / ".sandboxrun/evidence").glob("*-a-run-*")
    assert (folder / "stdout.log").read_text() == "seen\n"
    missing = {m["part"]: m["reason"] for m in json.loads((folder / "index.json").read_text())["missing"]}
    assert "removed before its evidence was saved" in missing["workspace"]


def test_a_signal_that_means_something_else_and_codes_of_its_own(quiet: Agents) -> None:
    quiet.start(
        told="trap 'echo reloaded' USR1; echo ready; sleep 2 & wait; wait; exit 0",
        restarted="echo ready; sleep 1; exit 0",
        c143="exit 143",
        c137="exit 137",
        c255="exit 255",
        itself="kill -TERM $$",
    )
    quiet.ready("told")
    quiet.client.api.kill(quiet.id("told"), "USR1")
    quiet.client.api.restart(quiet.id("restarted"))
    for name in ("told", "restarted", "c143", "c137", "c255", "itself"):
        quiet.end(name)
    assert quiet.cli("apply", "-y", "-q").code == 0
    assert quiet.endings() == {
        "told": ("exited", 0),
        "restarted": ("exited", 0),
        "c143": ("failed", 143),
        "c137": ("failed", 137),
        "c255": ("failed", 255),
        "itself": ("failed", 143),
    }
    assert quiet.planned() == []


# -- an engine that goes away ------------------------------------------------------------------------------------------


def test_an_engine_that_is_killed_and_started_again(quiet: Agents, own_engine: OwnEngine) -> None:
    quiet.start(
        traps=TRAP.format(0),
        sleeps="echo ready; sleep 600",
        away=AWAY,
        before="exit 0",
        taken="exit 5",
    )
    for name in ("traps", "sleeps", "away"):
        quiet.ready(name)
    for name in ("before", "taken"):
        quiet.end(name)
    assert quiet.cli("apply", "-y", "-q", "--target", "taken").code == 0  # its evidence is here before
    agent = quiet.cli.start("run", "sleeps")
    assert agent.stdout is not None and agent.stdout.readline() == "ready\n"
    away = int(quiet.state("away")["Pid"])
    own_engine.kill()
    ran = quiet.cli.finish(agent)
    assert ran.code == 125 and "Traceback" not in ran.err
    os.kill(away, signal.SIGUSR1)  # it ends while no engine looks
    until(lambda: not Path(f"/proc/{away}").exists())
    own_engine.start()
    plan = quiet.cli("plan").out
    assert "lost (the engine was restarted while it ran); it does not count as done" in plan
    waited = quiet.cli("wait", "sleeps", "traps", "away", "before")
    assert waited.code == 125, waited
    quiet.start(after="exit 143")
    quiet.end("after")
    quiet.write(
        traps=TRAP.format(0), sleeps="echo ready; sleep 600", away=AWAY, before="exit 0", taken="exit 5",
        after="exit 143",
    )  # fmt: skip
    assert quiet.cli("destroy", "-y", "-q").code == 0
    found = quiet.endings()
    # the engine may have lost its code as well, or have learnt it before it says that it was restarted
    assert found.pop("away") in (("unknown", 0), ("engine_lost", 0), ("engine_lost", 255))
    assert found == {
        "traps": ("engine_lost", 0),
        "sleeps": ("engine_lost", 143),
        "before": ("unknown", 0),
        "taken": ("failed", 5),
        "after": ("failed", 143),
    }
    assert quiet.planned() == ["away", "before", "sleeps", "traps"]


def test_an_engine_that_is_shut_down_in_order(quiet: Agents, own_engine: OwnEngine) -> None:
    quiet.start(traps=TRAP.format(0), sleeps="echo ready; sleep 600")
    for name in ("traps", "sleeps"):
        quiet.ready(name)
    agent = quiet.cli.start("run", "sleeps")
    assert agent.stdout is not None and agent.stdout.readline() == "ready\n"
    own_engine.stop()
    assert quiet.cli.finish(agent).code != 0
    own_engine.start()
    assert quiet.cli("destroy", "-y", "-q").code == 0
    found = quiet.endings()
    assert set(found) == {"traps", "sleeps"} and {how for how, _ in found.values()} <= {
        "unknown",
        "engine_lost",
        "killed",
    }
    assert quiet.planned() == ["sleeps", "traps"]


# -- what happens inside is told beside --------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [0, 5])
def test_a_child_that_is_killed_for_memory(agents: Agents, code: int, tmp_path: Path) -> None:
    script = f"sleep 1; sh -c 'tail /dev/zero' || echo too big; sleep 1; exit {code}"
    agents.write(a={"command": ["sh", "-c", script], "mem_limit": "16m"})
    ran = agents.cli("run", "a")
    said = "completed (exit 0); " if code == 0 else "failed with exit 5: "
    assert (ran.code, ran.out) == (code, "too big\n")
    assert f"a: {said}a process in it was killed for memory, after" in ran.err
    assert agents.endings() == {"a": ("exited" if code == 0 else "failed", code)}
    assert agents.planned() == []
