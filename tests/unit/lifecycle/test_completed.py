"""Which runs of the record count as completed for a plan."""

from __future__ import annotations

from pathlib import Path
from types import MappingProxyType

import pytest
from msgspec import structs

from sandboxrun.backend.completed import completed as completed_in
from sandboxrun.evidence.errors import EvidenceError
from sandboxrun.evidence.folder import RunFolder
from sandboxrun.evidence.index import Digests, Index
from sandboxrun.evidence.store import NAME, ChainEntry, Store
from sandboxrun.spec.project import DeclaredSandbox
from sandboxrun.spec.state import Ending, How
from tests.unit.plan.world import PROJECT, declared, profile

AGENT = declared("agent")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(project_directory=tmp_path)


def record(
    store: Store, run: str, how: How = How.EXITED, *, like: DeclaredSandbox = AGENT, project: str = PROJECT
) -> ChainEntry:
    with store.recording(run, like.name) as folder:
        assert isinstance(folder, RunFolder)

        def index(previous: str | None) -> Index:
            return Index(
                run=run,
                project=project,
                sandbox=like.address,
                container_id="c1",
                container_name=like.name,
                ending=Ending(how=how, exit_code=7),
                finished_at="2026-01-01T00:00:00Z",
                captured_at="2026-01-01T00:00:01Z",
                digests=Digests(spec=like.spec.digest, inputs="i"),
                labels=MappingProxyType({}),
                kept=folder.close_parts(),
                previous=previous,
            )

        return store.finish(folder, index)


def seen(store: Store) -> list[tuple[str, str, int | None, str]]:
    """Run, outcome, exit code and spec of each, by sandbox."""
    found = completed_in(profile(AGENT, declared("other")), store, compare=False)
    return [(r.run, r.outcome, r.exit_code, spec) for specs in found.values() for spec, r in specs.items()]


def test_the_last_run_of_the_declared_spec_that_came_to_an_end_of_its_own_counts(store: Store) -> None:
    assert seen(store) == []
    record(store, "run-1", How.FAILED)
    record(store, "run-2", How.TIMEOUT)
    record(store, "run-3", How.KILLED)
    record(store, "run-4", like=declared("agent", mem_limit=64 << 20))
    record(store, "run-5", like=declared("stranger"))
    record(store, "run-6", project="another")
    assert seen(store) == [("run-2", "timeout", 7, AGENT.spec.digest)]


def test_where_the_newest_run_decides_no_earlier_index_is_read(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(20):
        record(store, f"run-{number}")
    asked: list[str] = []
    index = Store.index

    def counted(self: Store, entry: ChainEntry) -> Index:
        asked.append(entry.run)
        return index(self, entry)

    monkeypatch.setattr(Store, "index", counted)
    assert [run for run, *_ in seen(store)] == asked == ["run-19"]


def test_a_line_that_somebody_repeats_is_looked_at_once(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    last = record(store, "run-1")
    with (store.path / NAME).open("ab") as file:
        file.write(last.to_line() * 20)
    asked: list[str] = []

    def lost(self: Store, entry: ChainEntry) -> Index:
        asked.append(entry.run)
        raise EvidenceError("changed")

    monkeypatch.setattr(Store, "index", lost)
    assert seen(store) == [] and asked == ["run-1"]


def test_a_run_whose_evidence_was_changed_does_not_count(store: Store) -> None:
    record(store, "run-1")
    last = record(store, "run-2", How.FAILED)
    (store.path / last.folder / "index.json").write_bytes(b"{}")
    assert seen(store) == [("run-1", "exited", 7, AGENT.spec.digest)]


def test_a_run_that_another_user_recorded_does_not_count(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = record(store, "run-1")
    assert store.is_own(entry) and not store.is_own(structs.replace(entry, seal=None))
    monkeypatch.setenv("XDG_STATE_HOME", str(store.project_directory / "another"))
    assert seen(store) == []
