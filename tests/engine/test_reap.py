"""The reaper on a real engine: what killed processes leave is collected, with the right ending, and nothing is left."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from datetime import UTC, datetime, timedelta, tzinfo
from pathlib import Path
from typing import Any

import docker
import pytest

from sandboxrun.backend.docker import calls, lease
from sandboxrun.backend.docker.client import connect
from sandboxrun.backend.owner import this_process
from sandboxrun.spec import labels
from tests.conftest import Cli, until
from tests.engine.own_engine import OwnEngine

FOREVER = ["sh", "-c", "echo ready; exec sleep 600"]


def write(cli: Cli, project: str, **sandboxes: dict[str, Any]) -> None:
    base = {"image": "sandboxrun/busybox:latest", "network_mode": "none", "stop_grace_period": "1s", "command": FOREVER}
    merged = {name: {k: v for k, v in {**base, **own}.items() if v is not None} for name, own in sandboxes.items()}
    (cli.cwd / "sandbox.yaml").write_text(json.dumps({"name": project, "sandboxes": merged}))


def endings(cli: Cli) -> dict[str, str]:
    found = {}
    for path in (cli.cwd / ".sandboxrun/evidence").glob("*/index.json"):
        index = json.loads(path.read_text())
        found[index["sandbox"]] = index["ending"]["how"]
    return found


def there(client: docker.DockerClient, project: str) -> list[Any]:
    own = {"label": f"sandboxrun.project={project}"}
    return [*client.api.containers(all=True, filters=own), *client.api.networks(filters=own)]


def test_a_killed_run_is_collected_by_anybody_anywhere(
    cli: Cli, engine_client: docker.DockerClient, project: str, busybox: str, tmp_path: Path
) -> None:
    write(cli, project, wired={"network_mode": None, "egress": {"allow": ["example.com:443"]}}, plain={})
    process = cli.start("run", "wired", "plain")
    assert process.stdout is not None
    said = [next((line for line in process.stdout if "ready" in line), "ended") for _ in range(2)]
    assert sorted(line.split()[0] for line in said) == ["plain", "wired"], process.stderr and process.stderr.read()
    assert cli("reap").code == 0 and len(there(engine_client, project)) >= 4  # its owner lives
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    reapers = [cli.start("reap", "--project", project, "--json", cwd=elsewhere) for _ in range(2)]
    results = [cli.finish(reaper) for reaper in reapers]
    assert [result.code for result in results] == [0, 0], [result.err for result in results]
    told = [one for result in results for one in json.loads(result.out)["reaped"]]
    assert sorted((one["sandbox"], one["reason"]) for one in told) == [("plain", "owner_gone"), ("wired", "owner_gone")]
    assert endings(cli) == {"plain": "killed", "wired": "killed"}
    (log,) = (cli.cwd / ".sandboxrun/evidence").glob("*plain*/stdout.log")
    assert log.read_text() == "ready\n"
    assert there(engine_client, project) == []
    assert cli("evidence", "verify", "--dir", cli.cwd / ".sandboxrun/evidence").code == 0


def test_what_an_apply_made_is_collected_once_nobody_waits_for_it(
    cli: Cli, engine_client: docker.DockerClient, project: str, busybox: str
) -> None:
    write(cli, project, agent={})
    first = cli.start("apply", "-y", "--wait")
    until(lambda: first.poll() is None and [one["State"] for one in there(engine_client, project)] == ["running"])
    assert cli("reap").code == 0 and len(there(engine_client, project)) == 1  # its owner lives
    second = cli.start("apply", "-y", "--wait")
    lease = there(engine_client, project)[0]["Labels"]["sandboxrun.lease"]
    mine = {"label": f"sandboxrun.lease={lease}"}
    until(lambda: second.poll() is None and engine_client.api.volumes(filters=mine)["Volumes"])
    _kill(first)
    assert cli("reap").code == 0 and len(there(engine_client, project)) == 1  # another one waits for it
    _kill(second)
    ran = cli("reap", "--json")
    (one,) = json.loads(ran.out)["reaped"]
    assert (ran.code, one["sandbox"], one["reason"]) == (0, "agent", "owner_gone")
    assert (endings(cli), there(engine_client, project)) == ({"agent": "killed"}, [])
    assert not engine_client.api.volumes(filters=mine)["Volumes"]


def _kill(process: subprocess.Popen[str]) -> None:
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def test_another_users_sandbox_stays_until_there_is_a_place_for_its_evidence(
    cli: Cli, engine_client: docker.DockerClient, project: str, busybox: str, tmp_path: Path
) -> None:
    write(cli, project, agent={"command": ["sh", "-c", "exit 3"]})
    assert cli("apply", "-y", "-q").code == 0
    until(lambda: there(engine_client, project)[0]["State"] == "exited")
    stranger = {"XDG_STATE_HOME": str(tmp_path / "stranger")}
    refused = cli("reap", "--project", project, env=stranger)
    assert refused.code == 1 and f"error: could not reap {project}/agent: " in refused.err
    assert f"it was made in {cli.cwd}" in refused.err and len(there(engine_client, project)) == 1
    place = tmp_path / "kept"
    assert cli("reap", "--project", project, "--evidence-dir", place, env=stranger).code == 0
    assert there(engine_client, project) == [] and endings(cli) == {}
    (index,) = place.glob("*/index.json")
    assert json.loads(index.read_text())["ending"]["exit_code"] == 3


@pytest.mark.parametrize("at", ["stop", "evidence", "remove"])
def test_a_killed_reaper_is_followed_by_the_next(
    cli: Cli, engine_client: docker.DockerClient, project: str, busybox: str, at: str
) -> None:
    write(cli, project, **{f"s{n}": {"lifetime": {"timeout": "1s"}, "init": False} for n in range(4)})
    assert cli("apply", "-y", "-q").code == 0
    until(lambda: "would reap 4" in cli("reap", "--dry-run").out.lower())
    reaper = cli.start("reap", "-v", "--parallelism", "1")
    assert reaper.stderr is not None
    with contextlib.suppress(ValueError):
        while (line := reaper.stderr.readline()) and {"stop": "stopp", "evidence": "evid", "remove": "remov"}[
            at
        ] not in line:
            pass
    os.killpg(reaper.pid, signal.SIGKILL)
    reaper.wait()
    assert cli("reap").code == 0
    assert endings(cli) == dict.fromkeys((f"s{n}" for n in range(4)), "timeout")
    assert there(engine_client, project) == []


def test_a_watching_reaper_collects_what_ends_and_what_loses_its_owner(
    cli: Cli, engine_client: docker.DockerClient, project: str, busybox: str, tmp_path: Path
) -> None:
    write(cli, project, quick={"command": ["sh", "-c", "exit 3"]}, late={"lifetime": {"timeout": "2s"}}, owned={})
    metrics = tmp_path / "metrics"
    reaper = cli.start("reap", "--project", project, "--watch", "--json", "--metrics-file", metrics)
    assert reaper.stderr is not None and "Following the engine" in reaper.stderr.readline()
    assert cli("apply", "-y", "-q", "--target", "quick", "--target", "late").code == 0
    run = cli.start("run", "owned")
    until(lambda: run.stdout is not None and "ready" in run.stdout.readline())
    os.killpg(run.pid, signal.SIGKILL)
    until(lambda: endings(cli) == {"quick": "failed", "late": "timeout", "owned": "killed"})
    until(lambda: there(engine_client, project) == [])
    until(lambda: 'reaped_total{reason="owner_gone"} 1.0' in metrics.read_text())
    os.kill(reaper.pid, signal.SIGTERM)
    result = cli.finish(reaper)
    assert result.code == 0 and "error" not in result.err, result.err
    told = {one["sandbox"]: one["reason"] for one in map(json.loads, result.out.splitlines())}
    assert told == {"quick": "failed", "late": "timeout", "owned": "owner_gone"}


@pytest.mark.parametrize("count", [pytest.param(50, marks=pytest.mark.full), 12])
def test_many_that_end_at_once_leave_their_evidence_and_nothing_else(
    cli: Cli, engine_client: docker.DockerClient, project: str, busybox: str, count: int
) -> None:
    """They end when one file is made in a directory that they all look at; the reaper watches."""
    (cli.cwd / "here").mkdir()
    script = "until [ -e /here/now ]; do sleep 0.2; done; exit {}"
    ends = {f"s{n}": n % 2 * 3 for n in range(count)}
    shared = [{"type": "bind", "source": "./here", "target": "/here", "read_only": True}]
    write(cli, project, **{s: {"command": ["sh", "-c", script.format(c)], "volumes": shared} for s, c in ends.items()})
    reaper = cli.start("reap", "--project", project, "--watch", "--json")
    assert reaper.stderr is not None and "Following the engine" in reaper.stderr.readline()
    assert cli("apply", "-y", "-q", "--parallelism", "8").code == 0
    assert len(there(engine_client, project)) == count
    (cli.cwd / "here" / "now").touch()
    until(lambda: len(endings(cli)) == count)
    until(lambda: there(engine_client, project) == [])
    os.kill(reaper.pid, signal.SIGTERM)
    result = cli.finish(reaper)
    assert result.code == 0 and "error" not in result.err, result.err
    assert endings(cli) == {name: "failed" if code else "exited" for name, code in ends.items()}
    assert sorted(json.loads(line)["sandbox"] for line in result.out.splitlines()) == sorted(ends)
    assert cli("evidence", "verify", "--dir", cli.cwd / ".sandboxrun/evidence").code == 0
    assert engine_client.api.volumes(filters={"label": f"{labels.PROJECT}={project}"})["Volumes"] in (None, [])


@pytest.mark.parametrize("how", ["stop", pytest.param("kill", marks=pytest.mark.full)])
def test_a_watching_reaper_outlives_the_engine(how: str, cli: Cli, own_engine: OwnEngine, project: str) -> None:
    """What ends while it is away is found when it is back, and what starts then is followed."""
    host = {"DOCKER_HOST": own_engine.host}
    write(cli, project, early={}, late={"command": ["sh", "-c", "exit 3"]})
    reaper = cli.start("reap", "--project", project, "--watch", "--json", env=host)
    assert reaper.stderr is not None and "Following the engine" in reaper.stderr.readline()
    assert cli("apply", "-y", "-q", "--target", "early", env=host).code == 0
    getattr(own_engine, how)()
    said = ""
    while "error" not in said:
        line = reaper.stderr.readline()
        assert line, said  # it ended
        said += line
    own_engine.start()
    until(lambda: endings(cli), "what the engine's restart ended was not reaped")
    assert endings(cli)["early"] in ("engine_lost", "unknown", "killed")
    assert cli("apply", "-y", "-q", "--target", "late", env=host).code == 0
    until(lambda: endings(cli).get("late") == "failed", "what ended after it was not reaped")
    with contextlib.closing(own_engine.client()) as client:
        until(lambda: there(client, project) == [])
    os.kill(reaper.pid, signal.SIGTERM)
    result = cli.finish(reaper)
    assert result.code == 0, result.err
    assert [json.loads(line)["sandbox"] for line in result.out.splitlines()] == ["early", "late"]


def test_a_watching_reaper_removes_old_evidence(cli: Cli, project: str, busybox: str) -> None:
    write(cli, project, agent={"command": ["true"]})
    assert [cli("run", "-q").code for _ in range(2)] == [0, 0]
    saved = cli.cwd / ".sandboxrun/evidence"
    assert len([*saved.glob("*/index.json")]) == 2
    reaper = cli.start("reap", "--watch", "--evidence-older-than", "0s")
    until(lambda: len([*saved.glob("*/index.json")]) == 1)  # the newest of a project stays
    os.kill(reaper.pid, signal.SIGTERM)
    result = cli.finish(reaper)
    assert result.code == 0 and "1 run removed" in result.err, result.err
    assert cli("evidence", "verify").code == 0


@pytest.mark.parametrize("ahead", [0, 600, -600], ids=["same clock", "ten minutes ahead", "ten minutes behind"])
def test_a_lease_is_renewed_and_taken_away_and_a_dead_one_swept(
    engine_host: str, monkeypatch: pytest.MonkeyPatch, ahead: int
) -> None:
    """By the engine's clock alone: this machine's may differ."""

    class Clock(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> Clock:
            return cls.fromtimestamp(time.time(), tz)

    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + ahead)
    monkeypatch.setattr(lease, "datetime", Clock)
    monkeypatch.setattr(calls, "datetime", Clock, raising=False)
    with connect(engine_host) as engine:
        leases = lease.Leases(engine, renewed=0.05)

        def volumes() -> set[str]:
            found = engine.volumes(labels={labels.LEASE: leases.token})
            return {str(one["Name"]) for one in found}

        long_ago = datetime(2020, 1, 1, tzinfo=UTC)
        with leases.held() as token, leases.held():
            until(volumes)
            assert lease.living(engine, {"a": (token, long_ago), "b": ("other", long_ago)}) == {"a"}
            first = volumes()
            until(lambda: volumes() and not volumes() & first)
            lease.sweep(engine)
            assert volumes()
            monkeypatch.setattr(lease, "LASTS", timedelta(seconds=-10))
            assert lease.living(engine, {"a": (token, long_ago)}) == set()
        assert volumes() == set()
        monkeypatch.setattr(lease, "LASTS", timedelta(seconds=180))
        assert lease.living(engine, {"c": ("none", engine.clock())}) == {"c"}  # it was made just now
        gone = json.dumps({**json.loads(this_process().encode()), "started": 1})
        own = {labels.LEASE: leases.token, f"{labels.LEASE}.owner": gone}
        engine.create_volume({"Name": f"sandboxrun-lease-{leases.token}-dead", "Labels": own})
        lease.sweep(engine)
        assert volumes() == set()
