"""`sandboxrun evidence`: without an engine, without a profile."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from sandboxrun.evidence.store import Entry, Store, last_line
from tests.unit.evidence.stores import record

from .conftest import Say


@pytest.fixture
def runs(here: Path) -> list[Entry]:
    store = Store(project_directory=here)
    return [record(store, f"run-{n}-of-them", sandbox=name) for n, name in enumerate(("plain", 'agent["a"]', "plain"))]


def test_verify_prints_what_was_compared_and_the_last_line(say: Say, here: Path, runs: list[Entry]) -> None:
    digest = last_line(Store(project_directory=here))
    said = say("evidence", "verify")
    assert (said.code, said.err) == (0, "")
    assert said.out == f"3 runs with 6 files, 48 B; all as recorded; 3 seals valid\nlast line: {digest}\n"
    one = say("evidence", "verify", "agent", "--last-line", digest or "")
    assert one.out.startswith("1 run with 2 files, 16 B; all as recorded; 3 seals valid\n") and one.code == 0


def test_verify_names_what_differs(say: Say, here: Path, runs: list[Entry]) -> None:
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
    say: Say, runs: list[Entry], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "other"))
    said = say("evidence", "verify")
    assert said.code == 3 and "3 seals not checked" in said.out
    assert "the seals were not checked: there is no key that can be trusted at" in said.err
    said = say("evidence", "verify", "--without-seals")
    assert (said.code, said.err) == (0, "")


def test_without_a_chain_it_is_an_error(say: Say, here: Path, runs: list[Entry]) -> None:
    moved = here / "moved"
    shutil.move(here / ".sandboxrun" / "evidence", moved)
    said = say("evidence", "verify")
    assert said.code == 1 and "there is no evidence in" in said.err
    assert say("evidence", "verify", "--dir", moved).code == 0
    (moved / "chain.jsonl").unlink()
    said = say("evidence", "verify", "--dir", moved)
    assert said.code == 1 and "moved has no chain.jsonl: nothing in it can be checked" in said.err


def test_show_prints_one_run(say: Say, here: Path, runs: list[Entry]) -> None:
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


def test_show_of_a_record_that_cannot_be_relied_on_fails(say: Say, here: Path, runs: list[Entry]) -> None:
    (here / ".sandboxrun/evidence" / runs[0].folder / "index.json").write_bytes(b"{}")
    said = say("evidence", "show", "run-0-of")
    assert said.code == 1 and "index.json is not the index that was recorded" in said.out
    said = say("evidence", "show", "nobody")
    assert said.code == 1 and 'no run "nobody" is recorded' in said.err
