from __future__ import annotations

import hashlib
import io
import os
import socket
import tarfile
from pathlib import Path

import pytest

from sandboxrun.evidence.index import EvidenceError
from sandboxrun.evidence.store import Store
from sandboxrun.evidence.workspace import (
    LEADING,
    WorkspaceLimits,
    baseline_of,
    content_now,
    open_workspace,
    pack,
    stage_workspace,
    staged_content,
)


def packed(source: Path, **options: object) -> dict[str, tarfile.TarInfo]:
    buffer = io.BytesIO()
    pack(source, buffer, **{"uid": 1000, "gid": 1001, **options})  # type: ignore[arg-type]
    buffer.seek(0)
    with tarfile.open(fileobj=buffer, mode="r:") as tar:
        root, *members = tar.getmembers()
        assert (root.name, root.isdir(), root.uid, root.gid) == (LEADING, True, 1000, 1001)
        return {info.name.removeprefix(f"{LEADING}/"): info for info in members}


def test_everything_goes_along_owned_by_the_agent(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir(mode=0o500)
    (tmp_path / "run.sh").write_bytes(b"#!")
    (tmp_path / "run.sh").chmod(0o4555)
    (tmp_path / ("long" * 40)).write_bytes(b"")
    (tmp_path / "ünï").write_bytes(b"u")
    Path(os.fsdecode(bytes(tmp_path) + b"/\xff")).write_bytes(b"raw")
    os.symlink("run.sh", tmp_path / "link")
    (tmp_path / ".sandboxrun").mkdir()
    (tmp_path / ".sandboxrun/evidence").write_bytes(b"x")
    found = packed(tmp_path)
    assert set(found) == {"sub", "run.sh", "long" * 40, "ünï", "\udcff", "link"}
    assert {(i.uid, i.gid) for i in found.values()} == {(1000, 1001)}
    assert (found["run.sh"].mode, found["sub"].mode, found["link"].linkname) == (0o755, 0o700, "run.sh")
    assert {i.uname for i in found.values()} == {""}


def test_links_are_text_and_go_along_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    links = {"a/up": "../b", "a/out": "../../../../b", "abs": "/etc", "self": ".", "loop": "loop", "gone": "nothing"}
    links |= {"chain": "abs", "raw": os.fsdecode(b"\xff\n"), "long": "x/" * 200}
    for name, target in links.items():
        os.symlink(target, tmp_path / name)
    found = packed(tmp_path)
    assert {name: info.linkname for name, info in found.items() if info.issym()} == links
    assert set(found) == {*links, "a"}


def test_patterns_leave_out_paths_and_names(tmp_path: Path) -> None:
    for path in ("node_modules/x", "deep/node_modules/y", "a.log", "build/keep", "src/build"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(b"")
    found = packed(tmp_path, exclude=["node_modules", "*.log", "src/*"])
    assert set(found) == {"deep", "build", "build/keep", "src"}


def test_what_is_too_large_is_refused(tmp_path: Path) -> None:
    for n in range(4):
        (tmp_path / f"f{n}").write_bytes(b"x" * 100)
    with pytest.raises(EvidenceError, match="holds more than 3 files"):
        packed(tmp_path, limits=WorkspaceLimits(files=3))
    with pytest.raises(EvidenceError, match="holds more than 399 bytes"):
        packed(tmp_path, limits=WorkspaceLimits(bytes=399))
    assert len(packed(tmp_path, limits=WorkspaceLimits(files=4, bytes=400))) == 4
    with pytest.raises(EvidenceError, match="is not a directory"):
        packed(tmp_path / "f0")


def test_special_files_are_left_out_and_listed(tmp_path: Path) -> None:
    (tmp_path / "deep/er").mkdir(parents=True)
    (tmp_path / "deep/keep").write_text("")
    os.mkfifo(tmp_path / "deep/er/pipe")
    (tmp_path / "cache").mkdir()
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "sock"))
        done = pack(tmp_path, io.BytesIO(), uid=0, gid=0, exclude=["cache"])
        assert set(packed(tmp_path, exclude=["cache"])) == {"deep", "deep/er", "deep/keep"}
    assert [(one.path, one.kind) for one in done.left_out] == [("deep/er/pipe", "fifo"), ("sock", "socket")]
    assert done.partial == {"deep", "deep/er"}


def test_every_file_that_cannot_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "b", "d/c"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    opened = os.open

    def refuse(path: object, flags: int, *args: object, **options: object) -> int:
        if path in ("a", "d"):
            raise PermissionError(13, "Permission denied")
        if path == "b":
            raise FileNotFoundError(2, "gone meanwhile")
        return opened(path, flags, *args, **options)  # type: ignore[call-overload, no-any-return]

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(EvidenceError) as caught:
        packed(tmp_path)
    assert [d.message for d in caught.value.diagnostics] == [
        f"the workspace {tmp_path}: a cannot be read: Permission denied",
        f"the workspace {tmp_path}: d cannot be read: Permission denied",
    ]


def test_nesting_has_a_bound(tmp_path: Path) -> None:
    deep = tmp_path
    for _ in range(110):
        deep = deep / "d"
    deep.mkdir(parents=True)
    with pytest.raises(EvidenceError, match="nested too deep"):
        packed(tmp_path)


def test_a_staged_workspace_waits_for_whoever_captures_the_run(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "a").write_bytes(b"1")
    os.mkfifo(source / "pipe")
    store = Store(project_directory=tmp_path)
    with pytest.raises(EvidenceError, match="no workspace is staged"):
        open_workspace(store, "run-1")
    done = stage_workspace(store, "run-1", source, uid=1, gid=1, engine="e", exclude=["*.log"])
    assert stage_workspace(store, "run-1", source, uid=1, gid=1, engine="e", exclude=["*.log"]) == done
    with open_workspace(store, "run-1") as tar:
        assert hashlib.sha256(tar.read()).hexdigest() == done.sha256
    with store.staging("run-1") as staging:
        whole, baseline = baseline_of(staging)
        whole.close()
        assert baseline == done
        assert baseline.exclude == ("*.log",) and [one.path for one in baseline.left_out] == ["pipe"]
        with staging.append("workspace.tar") as tar:
            tar.write(b"more")
        with pytest.raises(EvidenceError, match="is not what was packed"):
            baseline_of(staging)
        staging.write("workspace.json", b"{}")
        with pytest.raises(EvidenceError, match="cannot be read"):
            baseline_of(staging)
    store.unstage("run-1")
    with pytest.raises(FileNotFoundError), store.staging("run-1"):
        raise AssertionError("not reached")


def content(source: Path, **options: object) -> str:
    return pack(source, io.BytesIO(), **{"uid": 1, "gid": 1, **options}).content  # type: ignore[arg-type]


def test_the_contents_digest_is_of_what_an_agent_sees(tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "sub").mkdir(parents=True)
    (source / "sub/a").write_text("1")
    (source / ".git").mkdir()
    before = content(source)
    os.utime(source / "sub/a", (1, 1))
    (source / ".git/index").write_text("x")
    (source / ".sandboxrun").mkdir()
    assert content(source, uid=7, gid=8) == before
    seen = {before}
    changes = [
        lambda: (source / "sub/a").write_text("2"),
        lambda: (source / "sub/a").chmod(0o755),
        lambda: (source / "sub/a").rename(source / "sub/b"),
        lambda: (source / "empty").mkdir(),
        lambda: (source / "link").symlink_to("sub"),
        lambda: ((source / "link").unlink(), (source / "link").symlink_to("empty")),
        lambda: (source / "gitignore.log").write_text(""),
    ]
    for change in changes:
        change()
        assert content(source) not in seen
        seen.add(content(source))
    assert content(source, exclude=["*.log"]) in seen


def test_what_is_staged_is_what_is_there_now(tmp_path: Path) -> None:
    store = Store(project_directory=tmp_path, root=Path("out[1]/evidence"))
    (tmp_path / "a").write_text("1")
    staged = stage_workspace(store, "run", tmp_path, uid=1, gid=1, engine="e", exclude=["*.log"]).content
    assert staged_content(store, "run") == staged == content_now(store, tmp_path, ["*.log"])
    (tmp_path / "x.log").write_text("left out by its pattern")
    (tmp_path / "out[1]/evidence").mkdir(parents=True, exist_ok=True)
    folder = content_now(store, tmp_path, ["*.log"])
    (tmp_path / "out[1]/evidence/r").write_text("the evidence of other runs is none of it")
    assert folder == content_now(store, tmp_path, ["*.log"])
    (tmp_path / "a").write_text("2")
    assert content_now(store, tmp_path, ["*.log"]) != folder
    assert staged_content(store, "other") == ""
    assert content_now(store, tmp_path / "gone", []) is None
