"""Evidence, seals, saved plans and labels that an earlier commit made are read as they were."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sandboxrun.errors import PlanError
from sandboxrun.evidence.checking import verify_chain
from sandboxrun.evidence.folder import state_path
from sandboxrun.evidence.store import Store
from sandboxrun.lifecycle.saved import read_saved
from sandboxrun.spec import labels
from sandboxrun.spec.state import from_label
from tests import before


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    return Store(project_directory=before.project(tmp_path, monkeypatch))


def test_the_chain_is_whole_and_the_records_are_read(store: Store) -> None:
    assert verify_chain(store) == ()
    found = store.entries("house-before")
    assert [(e.sandbox, e.outcome, store.index(e).ending.exit_code) for e in found] == [
        ("plain", "exited", 0),
        ("copied", "exited", 0),
        ("failing", "failed", 3),
    ]
    copied = store.index(found[1])
    assert copied.patched_paths == 1 and copied.egress is not None
    with store.open(found[1], "workspace.patch") as file:
        assert b"+more\n" in file.read()
    with store.open(found[1], "artifacts/workspace/report/summary.txt") as file:
        assert file.read() == b"done\n"


def test_the_records_count_as_this_users_with_their_key_alone(store: Store) -> None:
    entries = store.entries()
    assert len(entries) == 3 and all(store.is_own(entry) for entry in entries)
    (state_path() / "seal.key").write_bytes(bytes(32))
    assert not any(store.is_own(entry) for entry in entries)


def test_a_saved_plan_is_read_and_one_of_another_format_is_refused_by_name(tmp_path: Path) -> None:
    path = before.plan(tmp_path)
    saved = read_saved(path)
    planned = [(change["address"], list(change["change"]["actions"])) for change in saved.plan["resource_changes"]]
    assert (saved.project, planned) == ("house-planned", [("later", ["create"])])
    assert saved.files == (path.parent / "sandbox.yaml",)
    path.write_text(path.read_text().replace('"format_version": "1.0"', '"format_version": "0.9"', 1))
    with pytest.raises(PlanError, match=r"saved\.plan has format 0\.9, made by sandboxrun 0\.1\.0"):
        read_saved(path)


def test_the_spec_in_a_label_is_read() -> None:
    _, found = before.running("review")
    spec = from_label(found[labels.SPEC])
    assert spec is not None and spec.command == ("sleep", "600") and spec.environment == {"MODE": "quiet"}
    assert found[labels.SPEC_DIGEST] in spec.digests
    old, new = json.loads(found[labels.SPEC]), json.loads(spec.label)
    assert {key: new[key] for key in old} == old  # options that are newer may have joined
