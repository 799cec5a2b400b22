"""Sandboxes and what they depend on: a dependency that fails, with its own code, and one that outlives what needs it.
Evidence of all that ran, and nothing left."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from sandboxrun.errors import ApplyError, ExitCode
from sandboxrun.lifecycle import run as oneoff
from sandboxrun.lifecycle.job import apply_and_wait, wait_for
from sandboxrun.lifecycle.run import code_of
from sandboxrun.plan.planner import Options
from sandboxrun.spec.project import Profile
from sandboxrun.spec.state import How
from tests.conftest import Cli, Ran
from tests.engine.world import World

COMPLETED = {"condition": "service_completed_successfully"}


def chain(world: World, prepare: str = "echo no; exit 3") -> Profile:
    """`last` needs `main` needs `prepare`; `other` stands alone."""
    return world.profile(
        {
            "last": {"command": ["true"], "depends_on": {"main": {"condition": "service_started"}}},
            "main": {"command": ["true"], "depends_on": {"prepare": COMPLETED}},
            "other": {"command": ["sh", "-c", "sleep 1; exit 0"]},
            "prepare": {"command": ["sh", "-c", prepare]},
        }
    )


NOT_STARTED = {
    "last": "not started: main was not started",
    "main": "not started: prepare exited with 3",
}


def test_apply_and_wait_gives_the_dependencys_code(world: World) -> None:
    profile = chain(world)
    waited = apply_and_wait(world.engine, profile, world.store)
    assert [r.address for r in waited.results] == ["last", "main", "other", "prepare"]
    assert {r.address: r.note for r in waited.results if r.blocked} == NOT_STARTED
    assert waited.exit_code == 3
    ends = {r.address: r.evidence.index.ending.how for r in waited.results if r.evidence and r.evidence.index}
    assert ends == {"other": How.EXITED, "prepare": How.FAILED}
    assert world.ids(profile) == {}
    assert world.engine.volumes(labels={"sandboxrun.project": world.project}) == ()

    again = apply_and_wait(world.engine, profile, world.store)  # the record says how it ended
    assert (again.exit_code, again.codes) == (3, (0, 3))
    assert {address: record and record.exit_code for address, record in again.earlier.items()} == {
        "other": 0,
        "prepare": 3,
    }
    assert {r.address: r.note for r in again.results} == {
        "last": "not started: main was not started",
        "main": "not started: prepare exited with 3 in an earlier run",
    }


def test_a_target_brings_its_dependency_along(world: World) -> None:
    profile = chain(world)
    waited = apply_and_wait(world.engine, profile, world.store, options=Options(targets=("main",)))
    assert [(r.address, r.blocked) for r in waited.results] == [("main", True), ("prepare", False)]
    assert waited.exit_code == 3
    assert world.ids(profile) == {}


def test_run_gives_the_dependencys_code(world: World) -> None:
    profile = chain(world)
    results = oneoff.run(world.engine, profile, world.store, profile.sandboxes)
    assert {r.address: r.note for r in results if r.blocked} == NOT_STARTED
    assert [r.exit_code for r in results if not r.blocked] == [0, 3]
    assert code_of(results) == 3
    assert world.ids(profile) == {}


def test_a_plain_apply_fails_and_leaves_the_evidence_to_the_next(world: World) -> None:
    profile = chain(world)
    with pytest.raises(ApplyError) as raised:
        world.apply(profile)
    assert [d.message for d in raised.value.diagnostics] == ["main needs prepare, which exited with 3"]
    assert raised.value.exit_code == ExitCode.ERROR
    assert set(world.ids(profile)) == {"other", "prepare"}


def test_another_fault_beside_it_is_the_error(world: World) -> None:
    profile = world.profile(
        {
            "main": {"depends_on": {"prepare": COMPLETED}},
            "prepare": {"command": ["false"]},
            "broken": {"command": ["/no/such/program"], "init": False},
        }
    )
    with pytest.raises(ApplyError, match="/no/such/program") as raised:
        oneoff.run(world.engine, profile, world.store, profile.sandboxes)
    assert raised.value.exit_code == ExitCode.NOT_RUN
    assert world.ids(profile) == {}


@pytest.mark.parametrize("code", [0, 7])
def test_what_ended_past_its_timeout_is_told_as_that(world: World, code: int) -> None:
    """Whoever stopped it: the engine shows how long it ran, and nobody may take its code for the agent's own."""
    trap = f"trap 'exit {code}' TERM; sleep 30 & wait"
    profile = world.profile({"slow": {"command": ["sh", "-c", trap], "lifetime": {"timeout": "1s"}}})
    world.apply(profile)

    wait_for(world.engine, profile, world.store, profile.sandboxes)
    assert dict(wait_for(world.engine, profile, world.store, profile.sandboxes)) == {"slow": ExitCode.TIMEOUT}
    (change,) = world.plan(profile).pending
    assert (change.note, change.reason.value) == ("stopped after its timeout", "delete_because_timeout")
    world.apply(profile)
    (done,) = world.plan(profile).changes
    assert done.note.startswith("timed out in run ")
    assert dict(wait_for(world.engine, profile, world.store, profile.sandboxes)) == {"slow": ExitCode.TIMEOUT}


# -- a dependency that outlives what needs it

FOREVER = {"command": ["sleep", "1000"]}
ENDED = "the run ended"


@pytest.fixture
def run(cli: Cli, project: str, busybox: str) -> Callable[..., Ran]:
    """`sandboxrun run --json` of these sandboxes; fails when it has not ended after a minute, of the 1000 s that a
    dependency takes."""

    def run(sandboxes: Mapping[str, Any], *arguments: str) -> Ran:
        base = {"image": busybox, "network_mode": "none"}
        merged = {name: base | dict(options) for name, options in sandboxes.items()}
        (cli.cwd / "sandbox.yaml").write_text(json.dumps({"name": project, "sandboxes": merged}))
        return cli.finish(cli.start("run", "--json", *arguments), timeout=60)

    return run


def ends(ran: Ran) -> dict[str, tuple[str, str]]:
    """Outcome and note, by sandbox."""
    return {told["sandbox"]: (told["outcome"], told["note"]) for told in json.loads(ran.out)["runs"]}


@pytest.mark.parametrize("code", [0, 5])
def test_a_run_ends_with_what_was_named(run: Callable[..., Ran], code: int) -> None:
    chain = {
        "app": {"command": ["sh", "-c", f"exit {code}"], "depends_on": ["web", "early"]},
        "web": {**FOREVER, "depends_on": ["db"]},
        "db": FOREVER,
        "early": {"command": ["sh", "-c", "exit 3"]},
    }
    ran = run(chain, "app")
    assert ran.code == code
    killed = ("killed", ENDED)
    assert ends(ran) == {
        "app": ("failed" if code else "exited", ""),
        "web": killed,
        "db": killed,
        "early": ("failed", ""),
    }


def test_several_are_waited_for(run: Callable[..., Ran]) -> None:
    both = {
        "short": {"command": ["true"], "depends_on": ["db"]},
        "long": {"command": ["sh", "-c", "sleep 2; exit 4"]},
        "db": FOREVER,
    }
    ran = run(both, "short", "long")
    assert (ran.code, ends(ran)["db"]) == (4, ("killed", ENDED))


def test_options_of_a_run_are_for_what_was_named(run: Callable[..., Ran]) -> None:
    ran = run(
        {"app": {"command": ["true"], "depends_on": ["db"]}, "db": FOREVER},
        "app",
        "--timeout",
        "1s",
        "--",
        "sleep",
        "30",
    )
    assert ran.code == ExitCode.TIMEOUT
    assert ends(ran) == {"app": ("timeout", "past its timeout of 1s"), "db": ("killed", ENDED)}


@pytest.mark.parametrize(
    "app",
    [
        pytest.param({"command": ["/no/such/program"], "init": False, "depends_on": ["db"]}, id="not started"),
        pytest.param({"depends_on": {"db": COMPLETED}, "workspace": {"source": ".", "size": "1m"}}, id="not filled"),
    ],
)
def test_what_could_not_be_made_ends_the_run_too(
    run: Callable[..., Ran], world: World, tmp_path: Path, app: dict[str, Any]
) -> None:
    (tmp_path / "large").write_bytes(bytes(2 << 20))
    ran = run({"app": app, "db": FOREVER}, "app")
    assert ran.code == ExitCode.NOT_RUN
    assert "error: app: " in ran.err
    kept = [world.store.index(entry) for entry in world.store.entries()]
    ends_of_db = [index.ending.detail for index in kept if index.sandbox == "db"]
    assert ends_of_db == [ENDED] or ("workspace" in app and not ends_of_db)  # it may not have been started by then
    assert (ends(ran) if ran.out else {}) == ({"db": ("killed", ENDED)} if ends_of_db else {})  # the run reports it
    assert world.engine.containers(labels={"sandboxrun.project": world.project}) == ()


def test_an_interrupt_does_not_change_how_it_had_ended(cli: Cli, project: str, busybox: str, tmp_path: Path) -> None:
    base = {"image": busybox, "network_mode": "none"}
    stubborn = "trap 'echo stopping; sleep 3' TERM; sleep 1000 & wait"
    sandboxes = {
        "app": {**base, "command": ["true"], "depends_on": ["db"]},
        "db": {**base, "command": ["sh", "-c", stubborn]},
    }
    (tmp_path / "sandbox.yaml").write_text(json.dumps({"name": project, "sandboxes": sandboxes}))
    process = cli.start("run", "app")
    assert process.stdout is not None
    assert process.stdout.readline() == "db  | stopping\n"
    process.send_signal(signal.SIGINT)
    ran = cli.finish(process, timeout=60)
    assert ran.err.splitlines()[1].startswith("app: completed (exit 0), ")
