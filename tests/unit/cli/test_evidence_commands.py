"""`sandboxrun evidence`: without an engine, without a profile."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from sandboxrun.evidence.store import ChainEntry, Reading, Store, last_line, seal_of
from tests.unit.evidence.stores import record

from .conftest import Say


@pytest.fixture
def runs(here: Path) -> list[ChainEntry]:
    store = Store(project_directory=here)
    return [record(store, f"run-{n}-of-them", sandbox=name) for n, name in enumerate(("plain", 'agent["a"]', "plain"))]


def test_verify_prints_what_was_compared_and_the_last_line(say: Say, here: Path, runs: list[ChainEntry]) -> None:
    digest = last_line(Store(project_directory=here))
    said = say("evidence", "verify")
    assert (said.code, said.err) == (0, "")
    assert said.out == f"3 runs with 6 files, 48 B; all as recorded; 3 seals valid\nlast line: {digest}\n"
    one = say("evidence", "verify", "agent", "--last-line", digest or "")
    assert one.out.startswith("1 run with 2 files, 16 B; all as recorded; 3 seals valid\n") and one.code == 0


def test_verify_names_what_differs(say: Say, here: Path, runs: list[ChainEntry]) -> None:
    (here / ".sandboxrun/evidence" / runs[0].folder / "stdout.log").write_bytes(b"\x1b[31mother")
    (here / ".sandboxrun/evidence" / "foreign\x1b[0m").mkdir()
    said = say("evidence", "verify", "--last-line", "0" * 64)
    assert (said.code, said.err) == (1, "")
    assert said.out.splitlines()[:-1] == [
        f"{runs[0].folder}: stdout.log was changed",
        f"no line of the chain has the digest {'0' * 64}: its end is missing, or it was rewritten",
        "foreign\\x1b[0m: not recorded in the chain (an unfinished capture, or put there)",
        "3 runs with 5 files, 45 B; 3 problems found; 3 seals valid",
    ]
    found = json.loads(say("evidence", "verify", "--json").out)
    assert not found["as_recorded"] and found["runs"] == 3
    assert found["problems"][0] == {"folder": runs[0].folder, "problem": "stdout.log was changed"}


def test_seals_that_could_not_be_checked_have_an_exit_code(
    say: Say, runs: list[ChainEntry], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "other"))
    said = say("evidence", "verify")
    assert said.code == 3 and "3 seals not checked" in said.out
    assert "the seals were not checked: there is no key that can be trusted at" in said.err
    said = say("evidence", "verify", "--without-seals")
    assert (said.code, said.err) == (0, "")


def test_without_this_users_seal_it_says_how_the_rest_is_checked(
    say: Say, runs: list[ChainEntry], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "other"))
    seal_of(b"")  # another user, who has a key
    said = say("evidence", "verify")
    assert said.code == 1 and "line 1 is not sealed with this user's key" in said.out
    assert "3 lines without this user's seal\n  help: let its user check it, or pass --without-seals" in said.err
    assert json.loads(say("evidence", "verify", "--json").out)["foreign"] == 3
    assert say("evidence", "verify", "--without-seals").code == 0


def test_without_a_chain_it_is_an_error(say: Say, here: Path, runs: list[ChainEntry]) -> None:
    moved = here / "moved"
    shutil.move(here / ".sandboxrun" / "evidence", moved)
    said = say("evidence", "verify")
    assert said.code == 1 and "there is no evidence in" in said.err
    assert say("evidence", "verify", "--dir", moved).code == 0
    (moved / "chain.jsonl").unlink()
    said = say("evidence", "verify", "--dir", moved)
    assert said.code == 1 and "moved has no chain.jsonl: nothing in it can be checked" in said.err


def test_show_prints_one_run(say: Say, here: Path, runs: list[ChainEntry]) -> None:
    said = say("evidence", "show", "last")
    assert (said.code, said.err) == (0, "")
    assert said.out.splitlines() == [
        "plain: completed (exit 0)",
        "    run:      run-2-of-them of project demo",
        "    ended:    2026-01-01T00:00:00Z",
        "    saved:    2026-01-01T00:00:01Z",
        "    spec:     s",
        "    seal:     valid",
        f"    evidence: {here}/.sandboxrun/evidence/{runs[2].folder}",
        "",
        "FILE              SIZE",
        "artifacts/deep/x  13 B",
        "stdout.log        3 B",
    ]
    assert say("evidence", "show", "run-2-").out == say("evidence", "show", "plain").out == said.out
    found = json.loads(say("evidence", "show", "agent", "--json").out)
    assert found["line"]["run"] == found["index"]["run"] == "run-1-of-them" and found["sealed"] is True


def test_show_of_a_record_that_cannot_be_relied_on_fails(say: Say, here: Path, runs: list[ChainEntry]) -> None:
    (here / ".sandboxrun/evidence" / runs[0].folder / "index.json").write_bytes(b"{}")
    said = say("evidence", "show", "run-0-of")
    assert said.code == 1 and "index.json is not the index that was recorded" in said.out
    said = say("evidence", "show", "nobody")
    assert said.code == 1 and 'no run "nobody" is recorded' in said.err


def test_prune_shows_what_goes_and_asks(say: Say, here: Path, runs: list[ChainEntry]) -> None:
    said = say("evidence", "prune", "--keep", "2", "--dry-run")
    heads, row, _, *rest = said.out.splitlines()
    assert (said.code, said.err, heads.split()) == (0, "", ["RUN", "SANDBOX", "SIZE", "REASON"])
    assert row.startswith(f"{runs[0].folder}  plain") and row.endswith("project demo has 2 newer runs")
    assert [line.partition(",")[0] for line in rest] == ["1 run to remove"]
    said = say("evidence", "prune", "--keep", "2")
    assert said.code == 2 and "prune asks for confirmation, but there is no terminal" in said.err
    assert (here / ".sandboxrun/evidence" / runs[0].folder).exists()
    said = say("evidence", "prune", "--keep", "2", "-y")
    assert said.code == 0 and said.err.startswith("1 run removed, ")
    assert not (here / ".sandboxrun/evidence" / runs[0].folder).exists()
    said = say("evidence", "verify")
    assert said.code == 0 and "2 runs with 4 files, 32 B; all as recorded; 1 run removed earlier; 4 seals" in said.out
    said = say("evidence", "show", "run-0-of")
    assert said.code == 0 and "    removed: project demo has 2 newer runs (" in said.out
    assert say("evidence", "prune", "--keep", "2", "-y").out == "Nothing to remove.\n"


def test_prune_wants_to_know_what_to_remove(say: Say, runs: list[ChainEntry]) -> None:
    said = say("evidence", "prune", "-y")
    assert said.code == 2 and "nothing says what to remove" in said.err
    assert '"5 stones" is not a size, such as 512m or 5g' in say("evidence", "prune", "--max-size", "5 stones").err
    assert say("evidence", "prune", "--keep", "0").code == 2
    said = say("evidence", "prune", "--keep", "1", "--json")
    assert said.code == 2 and "--json cannot ask for confirmation" in said.err


@pytest.mark.parametrize(
    ("command", "option"),
    [
        (("evidence", "prune", "-y"), "--older-than"),
        (("evidence", "prune", "-y"), "--max-size"),
        (("reap",), "--older-than"),
        (("reap",), "--evidence-older-than"),
        (("reap",), "--evidence-max-size"),
    ],
)
@pytest.mark.parametrize("value", ["30", "1.5"])
def test_what_is_removed_is_measured_in_a_unit(
    say: Say, here: Path, runs: list[ChainEntry], command: tuple[str, ...], option: str, value: str
) -> None:
    """30 days were meant, and 30 seconds of evidence would have stayed."""
    said = say(*command, option, value)
    units = ("b", "m", "g") if "size" in option else ("m", "h", "d")
    first, second, last = (value + unit for unit in units)
    assert said.code == 2
    assert f'"{value}" has no unit: write {first}, {second} or {last}' in said.err
    assert len([*here.glob(".sandboxrun/evidence/*/index.json")]) == len(runs)


def test_nothing_needs_no_unit(say: Say, runs: list[ChainEntry]) -> None:
    assert say("evidence", "prune", "--older-than", "0", "--dry-run").code == 0
    assert say("evidence", "prune", "--older-than", "0", "--max-size", "0", "--dry-run").code in (0, 1)


def test_what_stays_above_the_limit_is_a_failure(say: Say, here: Path, runs: list[ChainEntry]) -> None:
    assert (
        say("evidence", "hold", "agent", "--reason", "for the audit").err == 'run run-1-of-them of agent["a"] is held\n'
    )
    found = say("evidence", "prune", "--max-size", "1b", "-y", "--json")
    told = json.loads(found.out)
    assert found.code == 1 and told["over"] > 0 and told["held"] == 1
    assert [removal["run"] for removal in told["removed"]] == ["run-0-of-them"]
    assert "    held:     for the audit (" in say("evidence", "show", "agent").out
    assert say("evidence", "release", "agent").code == 0
    assert say("evidence", "prune", "--max-size", "1b", "-y").code == 1  # the newest stays
    assert say("evidence", "release", "agent").code == 1


def test_prune_says_what_stays_and_why(
    say: Say, runs: list[ChainEntry], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    say("evidence", "hold", "run-0-of", "--reason", "x")
    assert say("evidence", "prune", "--keep", "2", "--dry-run").out == (
        "Nothing to remove.\n1 run stays because of a hold.\n"
    )
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "other"))
    assert say("evidence", "prune", "--keep", "1", "--dry-run").out == (
        "Nothing to remove.\n3 runs stay: another user or machine saved them.\n"
    )


# -- The commands that read it where the engine is away

PROFILE = "name: demo\nsandboxes:\n  plain: {image: example}\n  agent: {image: example}\n"
AWAY = "unix:///nonexistent/engine.sock"


def test_ps_lists_the_recorded_runs_without_an_engine(say: Say, here: Path, runs: list[ChainEntry]) -> None:
    (here / "sandbox.yaml").write_text(PROFILE)
    said = say("ps", "-a", "--host", AWAY)
    assert said.code == 0 and "only runs recorded in the evidence are listed" in said.err
    heads, *rows = (line.split() for line in said.out.splitlines())
    assert heads == ["SANDBOX", "ENDED", "WHEN", "RAN", "EVIDENCE"]
    assert sorted((row[0], row[-1]) for row in rows) == sorted((entry.sandbox, entry.folder) for entry in runs)
    assert {row["run"] for row in json.loads(say("ps", "-a", "--json", "plain", "--host", AWAY).out)} == {
        runs[0].run, runs[2].run,
    }  # fmt: skip
    said = say("ps", "--host", AWAY)
    assert said.code == 1 and said.out == "" and "connecting to the engine" in said.err


def test_of_too_many_runs_ps_lists_the_newest(
    say: Say, here: Path, runs: list[ChainEntry], monkeypatch: pytest.MonkeyPatch
) -> None:
    (here / "sandbox.yaml").write_text(PROFILE)
    monkeypatch.setattr("sandboxrun.cli.commands.ps._LISTED", 2)
    said = say("ps", "-a", "--json", "--host", AWAY)
    assert {row["run"] for row in json.loads(said.out)} == {runs[1].run, runs[2].run}
    assert "warning: only the newest 2 of 3 recorded runs are listed\n" in said.err
    said = say("ps", "-a", "--json", "plain", "--host", AWAY)
    assert {row["run"] for row in json.loads(said.out)} == {runs[0].run, runs[2].run} and "newest" not in said.err


def test_ps_reads_no_more_than_it_may(
    say: Say, here: Path, runs: list[ChainEntry], monkeypatch: pytest.MonkeyPatch
) -> None:
    (here / "sandbox.yaml").write_text(PROFILE)
    _, two, three = (here / ".sandboxrun/evidence" / run.folder / "index.json" for run in runs)
    monkeypatch.setattr(Reading.__init__, "__defaults__", (three.stat().st_size + 1,))
    os.truncate(two, 1 << 40)  # as large a one is not read anyway
    said = say("ps", "-a", "--json", "--host", AWAY)
    assert {row["run"]: row["state"] for row in json.loads(said.out)} == {
        runs[0].run: "exited (evidence not read)",
        runs[1].run: "exited (evidence lost)",
        runs[2].run: "exited 0",
    }
    assert "warning: not all evidence was read: it is too large\n" in said.err


def test_logs_shows_no_more_sandboxes_than_it_may(
    say: Say, here: Path, runs: list[ChainEntry], monkeypatch: pytest.MonkeyPatch
) -> None:
    (here / "sandbox.yaml").write_text("name: demo\nsandboxes:\n  plain: {image: example}\n")
    record(Store(project_directory=here), "run-3-of-them", sandbox="other")
    monkeypatch.setattr("sandboxrun.cli.commands.logs._SHOWN", 1)
    said = say("logs", "--host", AWAY)
    assert said.out.splitlines() == ["plain | log", "other | log"]
    assert "warning: the evidence has the output of 3 sandboxes: only 2 are shown\n" in said.err
    assert "only 2" not in say("logs", "agent", "--host", AWAY).err


def test_ps_lists_a_removed_run_by_its_lines(say: Say, here: Path, runs: list[ChainEntry]) -> None:
    (here / "sandbox.yaml").write_text(PROFILE)
    say("evidence", "prune", "--keep", "2", "-y")
    first = say("ps", "-a", "plain", "--host", AWAY).out.splitlines()[1].split()
    assert (first[:3], first[-1]) == (["plain", "exited", "0"], "removed")


def test_logs_shows_what_the_evidence_has_without_an_engine(say: Say, here: Path, runs: list[ChainEntry]) -> None:
    (here / "sandbox.yaml").write_text(PROFILE)
    said = say("logs", "plain", "--host", AWAY)
    assert (said.code, said.out) == (0, "log")
    assert "only what the evidence has is shown" in said.err
    assert f"plain may be on the engine again; this is from its evidence, {runs[2].folder}" in said.err
    assert say("logs", "-f", "plain", "--host", AWAY).code == 1
    shutil.rmtree(here / ".sandboxrun")
    assert say("logs", "plain", "--host", AWAY).code == 1
