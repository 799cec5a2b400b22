"""The record that a spec has run counts only when this user wrote it."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from sandboxrun.evidence import store as seal
from sandboxrun.evidence.errors import EvidenceError
from sandboxrun.evidence.store import ChainEntry
from sandboxrun.spec.state import How

ENTRY = ChainEntry(
    run="r1",
    project="p",
    sandbox="a",
    folder="f",
    index_sha256="0" * 64,
    previous=None,
    spec="sha256:1",
    inputs="sha256:2",
    outcome=How.EXITED,
    finished_at=None,
)


@pytest.fixture(autouse=True)
def _state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))


def _sealed(entry: ChainEntry) -> ChainEntry:
    return structs.replace(entry, seal=seal.seal_of(entry.body))


def test_a_sealed_line_is_known_again_after_reading() -> None:
    line = _sealed(ENTRY).to_line()
    read = ChainEntry.from_line(line)
    assert read.seal is not None
    assert seal.is_sealed(read.body, read.seal)


@pytest.mark.parametrize("field", ["run", "project", "sandbox", "folder", "index_sha256", "spec", "finished_at"])
def test_a_changed_field_breaks_the_seal(field: str) -> None:
    changed = structs.replace(_sealed(ENTRY), **{field: "other"})
    assert not seal.is_sealed(changed.body, changed.seal)


@pytest.mark.parametrize("text", ["\u00e9" * 64, "\\ud800", "\\u0000", "0" * 1000])
def test_any_text_may_stand_where_the_seal_is(text: str) -> None:
    line = _sealed(ENTRY).to_line().replace(_sealed(ENTRY).seal.encode(), text.encode())  # type: ignore[union-attr]
    read = ChainEntry.from_line(line)
    assert not seal.is_sealed(read.body, read.seal)


@given(st.text(st.characters() | st.sampled_from('\x7f\ud800\U0001f600\\"')))
def test_a_line_is_written_as_the_standard_library_does_and_read_again(text: str) -> None:
    entry = structs.replace(ENTRY, sandbox=text, seal=text)
    plain = json.dumps(msgspec.to_builtins(entry), separators=(",", ":")).encode()
    assert entry.to_line() == plain + b"\n" and ChainEntry.from_line(plain) == entry


@given(st.binary(max_size=9) | st.text("ab\n", max_size=12).map(str.encode), st.sampled_from([b"", b"a", b"ab"]))
def test_the_lines_of_a_chain_from_either_end(data: bytes, needle: bytes) -> None:
    *lines, torn = data.split(b"\n")
    found = [line for line in lines if needle in line]
    assert list(seal.lines_of(data, needle)) == found and seal.torn_end(data) == torn
    assert list(seal.lines_of(data, needle, backwards=True)) == found[::-1]


def test_a_line_without_a_seal_or_with_another_users_is_not_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs = _sealed(ENTRY)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "other"))
    assert not seal.is_sealed(theirs.body, theirs.seal)
    _sealed(ENTRY)
    assert not seal.is_sealed(theirs.body, theirs.seal)
    assert not seal.is_sealed(ENTRY.body, None)


def test_without_a_place_for_the_key_there_is_no_seal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    assert not seal.is_sealed(b"x", "0" * 64)
    with pytest.raises(EvidenceError, match=f"the state directory {tmp_path}/file/sandboxrun can't be used"):
        seal.seal_of(b"x")


def test_the_key_is_the_users_alone_and_made_once(tmp_path: Path) -> None:
    found: list[str | None] = []
    workers = [threading.Thread(target=lambda: found.append(seal.seal_of(b"x"))) for _ in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(set(found)) == 1 and found[0] is not None
    assert seal.key_path().stat().st_mode & 0o777 == 0o600
    assert [p.name for p in seal.key_path().parent.iterdir()] == ["seal.key"]
