"""The verdict cache: knows what it saw, and nothing that has changed since."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from sandboxrun.profile.cache import VerdictCache, inputs_key
from sandboxrun.source import SourceFile


@pytest.fixture
def cache(tmp_path: Path) -> VerdictCache:
    return VerdictCache({"XDG_CACHE_HOME": str(tmp_path.parent / f"{tmp_path.name}-cache")})


def write(path: Path, text: str) -> SourceFile:
    path.write_text(text)
    return SourceFile(name=str(path), text=text.removeprefix("\ufeff"))


KEY = inputs_key((), (), {}, None)


def test_it_knows_what_it_learned(cache: VerdictCache, tmp_path: Path) -> None:
    path = tmp_path / "sandbox.yaml"
    file = write(path, "\ufeffsandboxes: {}")
    assert cache.knows([path], KEY) is None
    cache.learn([path], KEY, {path: file}, ["agent"])
    assert cache.knows([path], KEY) == ("agent",)
    assert cache.directory.stat().st_mode & 0o777 == 0o700


def test_any_change_makes_it_forget(cache: VerdictCache, tmp_path: Path) -> None:
    path, base, absent = tmp_path / "sandbox.yaml", tmp_path / "base.yaml", tmp_path / "absent.env"
    read = {path: write(path, "a"), base: write(base, "b"), absent: None}
    cache.learn([path], KEY, read, [])
    assert cache.knows([path], KEY) == ()
    assert cache.knows([path], inputs_key(("a=1",), (), {}, None)) is None
    assert cache.knows([path], inputs_key((), (), {"SANDBOXRUN_VAR_a": "1"}, None)) is None
    assert cache.knows([path], inputs_key((), (), {"OTHER": "1"}, None)) == ()
    for changed, text in ((base, "c"), (absent, "")):
        before = changed.read_text() if changed.exists() else None
        changed.write_text(text)
        assert cache.knows([path], KEY) is None
        changed.unlink() if before is None else changed.write_text(before)
        assert cache.knows([path], KEY) == ()


def test_what_was_read_is_covered_by_its_texts(cache: VerdictCache, tmp_path: Path) -> None:
    path, base = tmp_path / "sandbox.yaml", tmp_path / "base.yaml"
    read = {path: write(path, "a"), base: write(base, "b")}
    assert not cache.covers([path], KEY, read)
    cache.learn([path], KEY, read, [])
    path.write_text("changed since")
    assert cache.covers([path], KEY, read)
    assert not cache.covers([path], KEY, {path: SourceFile(name="x", text="changed since"), base: read[base]})
    assert not cache.covers([path], KEY, {path: read[path]})
    assert not cache.covers([path], inputs_key(("a=1",), (), {}, None), read)
    cache.directory.chmod(0o755)
    assert not cache.covers([path], KEY, read)


def test_what_was_judged_counts_and_not_what_stands_there_now(cache: VerdictCache, tmp_path: Path) -> None:
    path = tmp_path / "sandbox.yaml"
    file = write(path, "good")
    path.write_text("bad")
    cache.learn([path], KEY, {path: file}, [])
    assert cache.knows([path], KEY) is None


def test_a_directory_that_others_can_write_to_is_not_trusted(cache: VerdictCache, tmp_path: Path) -> None:
    path = tmp_path / "sandbox.yaml"
    file = write(path, "a")
    cache.learn([path], KEY, {path: file}, [])
    cache.directory.chmod(0o770)
    assert cache.knows([path], KEY) is None


def test_a_broken_entry_and_a_place_that_cannot_be_written_are_not_known(cache: VerdictCache, tmp_path: Path) -> None:
    path = tmp_path / "sandbox.yaml"
    file = write(path, "a")
    cache.learn([path], KEY, {path: file}, [])
    (entry,) = cache.directory.iterdir()
    for broken in ("", "[]", '{"files": 1}', '{"files": {"/": "x"}, "addresses": []}'):
        entry.write_text(broken)
        assert cache.knows([path], KEY) is None
    (tmp_path / "file").write_text("")
    nowhere = VerdictCache({"XDG_CACHE_HOME": str(tmp_path / "file")})
    nowhere.learn([path], KEY, {path: file}, [])
    assert nowhere.knows([path], KEY) is None


def test_it_does_not_import_what_it_saves() -> None:
    code = (
        "import sys, sandboxrun.profile.cache\n"
        "print([name for name in ('yaml', 'jinja2', 'jsonschema_rs', 'docker', 'rich') if name in sys.modules])"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown.strip() == "[]"
