from __future__ import annotations

import io
import os
import socket
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given
from hypothesis import strategies as st

from sandboxrun.evidence import patch as linediff
from sandboxrun.evidence.index import EvidenceError
from sandboxrun.evidence.parts import _below
from sandboxrun.evidence.patch import Budget, Patch, PatchLimits, TreeLimits, hunks, is_git, link_fault, make_patch
from sandboxrun.evidence.workspace import pack
from tests.conftest import examples

# A tree: path → (kind, content); kinds: "f" file, "x" executable, "l" symlink.
Tree = dict[str, tuple[str, bytes]]
GIT = {"GIT_CONFIG_NOSYSTEM": "1", "HOME": "/nonexistent", "PATH": os.environ["PATH"], "GIT_CEILING_DIRECTORIES": "/"}


def write(tree: Tree, base: Path) -> Path:
    base.mkdir()
    for path, (kind, content) in tree.items():
        file = base / path
        file.parent.mkdir(parents=True, exist_ok=True)
        if kind == "l":
            os.symlink(content, bytes(file))
        else:
            file.write_bytes(content)
            file.chmod(0o755 if kind == "x" else 0o644)
    return base


def read(base: Path) -> Tree:
    found: Tree = {}
    for folder, directories, files in os.walk(base):
        for name in [*directories, *files]:
            full = Path(folder, name)
            path = str(full.relative_to(base))
            if full.is_symlink():
                found[path] = ("l", os.readlink(bytes(full)))
            elif full.is_file():
                found[path] = ("x" if full.stat().st_mode & 0o100 else "f", full.read_bytes())
    return found


def packed(base: Path) -> io.BytesIO:
    buffer = io.BytesIO()
    pack(base, buffer, uid=1000, gid=1000)
    return buffer


def archived(tree: Tree, *extra: tarfile.TarInfo) -> Iterator[bytes]:
    """The tree as an engine streams it: below one component, odd chunk sizes."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        top = tarfile.TarInfo("work")
        top.type = tarfile.DIRTYPE
        tar.addfile(top)
        for path, (kind, content) in tree.items():
            info = tarfile.TarInfo(f"work/{path}")
            if kind == "l":
                info.type, info.linkname = tarfile.SYMTYPE, content.decode("utf-8", "surrogateescape")
                tar.addfile(info)
            else:
                info.size, info.mode = len(content), 0o755 if kind == "x" else 0o644
                tar.addfile(info, io.BytesIO(content))
        for info in extra:
            tar.addfile(info)
    data = buffer.getvalue()
    yield from (data[at : at + 1000] for at in range(0, len(data), 1000))


def patch_of(before: Tree, after: Tree, tmp: Path, *extra: tarfile.TarInfo, limits: PatchLimits | None = None) -> Patch:
    return make_patch(packed(write(before, tmp / "before")), archived(after, *extra), limits=limits)


def applied(before: Tree, patch: bytes, tmp: Path) -> Tree:
    """What `git apply` makes of `before` in a directory that only this test wrote."""
    base = write(before, tmp / "clean")
    if patch:
        done = subprocess.run(
            ["git", "apply", "--whitespace=nowarn", "-"], cwd=base, input=patch, capture_output=True, env=GIT
        )
        assert done.returncode == 0, done.stderr.decode() + patch.decode("utf-8", "backslashreplace")
    return read(base)


CASES: list[tuple[Tree, Tree]] = [
    ({"a": ("f", b"1\n2\n")}, {"a": ("f", b"1\n2\n")}),
    ({"a": ("f", b"1\n2\n")}, {"a": ("f", b"1\n3\n")}),
    ({"a": ("f", b"x")}, {"a": ("f", b"x\n")}),
    ({"a": ("f", b"x\n")}, {"a": ("f", b"x")}),
    ({"a": ("f", b"x\ny")}, {"a": ("f", b"z\ny")}),
    ({}, {"new/deep/file": ("f", b"hello\n"), "empty": ("f", b"")}),
    ({"gone": ("f", b"hello\n"), "empty": ("f", b""), "d/e": ("x", b"1")}, {}),
    ({"a": ("f", b"x\n")}, {"a": ("x", b"x\n")}),
    ({"a": ("x", b"x\n")}, {"a": ("f", b"y\n")}),
    ({"a": ("f", b"")}, {"a": ("f", b"text\n")}),
    ({"a": ("f", b"text\n")}, {"a": ("f", b"")}),
    ({"b": ("f", b"\0\1\2")}, {"b": ("f", bytes(range(256)) * 9)}),
    ({"b": ("f", b"\0\1\2")}, {}),
    ({"b": ("f", b"\0\1\2")}, {"b": ("f", b"text\n")}),
    ({"b": ("f", b"text\n")}, {"b": ("x", b"\0")}),
    ({}, {"with space": ("f", b"1\n"), "tab\there": ("f", b"2\n"), 'quo"te\\n': ("f", b"3"), "naïve ☃": ("f", b"4\n")}),
    ({"trailing ": ("f", b"1\n"), " leading": ("f", b"")}, {"trailing ": ("f", b"2\n"), " leading": ("x", b"")}),
    ({"new\nline": ("f", b"1\n")}, {"new\nline": ("f", b"2\n")}),
    ({"l": ("l", b"a"), "a": ("f", b"a")}, {"l": ("l", b"b"), "a": ("f", b"a")}),
    ({"l": ("l", b"a"), "a": ("f", b"1")}, {"l": ("f", b"a"), "a": ("f", b"1")}),
    ({"l": ("f", b"a"), "a": ("f", b"1")}, {"l": ("l", b"a"), "a": ("f", b"1")}),
    ({"d/x": ("f", b"1\n"), "d/y": ("f", b"1\n")}, {"d": ("f", b"now a file\n")}),
    ({"d": ("f", b"a file\n")}, {"d/x": ("f", b"now below\n")}),
    ({"d/x": ("f", b"1\n"), "e/x": ("f", b"1\n")}, {"d": ("l", b"e"), "e/x": ("f", b"1\n")}),
    ({"d": ("l", b"e"), "e/x": ("f", b"1\n")}, {"d/x": ("f", b"1\n"), "e/x": ("f", b"1\n")}),
    ({"crlf": ("f", b"1\r\n2\r\n")}, {"crlf": ("f", b"1\r\n2\n")}),
    ({"sub/l": ("l", b"../a"), "a": ("f", b"1")}, {"sub/m": ("l", b"../a"), "a": ("f", b"1")}),
    # Links of the source that lead out, or nowhere, or to each other: kept, removed, and replaced by anything else.
    ({"l": ("l", b"/etc"), "m": ("l", b"../../x")}, {"l": ("l", b"/etc"), "m": ("l", b"../../x"), "n": ("f", b"1")}),
    ({"l": ("l", b"/etc"), "m": ("l", b"../x"), "n": ("l", b"d/../../x")}, {}),
    ({"l": ("l", b"/etc"), "m": ("l", b"gone")}, {"l": ("f", b"1\n"), "m": ("x", b"1\n")}),
    ({"l": ("l", b"/work/a"), "a": ("f", b"1")}, {"l": ("l", b"a"), "a": ("f", b"1")}),
    ({"l": ("l", b"/etc"), "m": ("l", b"gone")}, {"l/hosts": ("f", b"1\n"), "m/x/y": ("f", b"1\n")}),
    ({"d/" * 40 + "x": ("f", b"1"), "d/" * 40 + "y": ("f", b"1")}, {"d/" * 40 + "x": ("f", b"2")}),  # the user's own
    ({"a": ("l", b"b"), "b": ("l", b"/c")}, {"a": ("l", b"c"), "b": ("l", b"/c"), "c": ("f", b"")}),
]


@pytest.mark.parametrize(("before", "after"), CASES, ids=range(len(CASES)))
def test_git_applies_the_patch_and_gives_the_tree_that_was_exported(before: Tree, after: Tree, tmp_path: Path) -> None:
    patch = patch_of(before, after, tmp_path)
    assert applied(before, patch.data, tmp_path) == after
    assert patch.left_out == ()
    assert bool(patch.data) == (before != after)


def test_the_text_of_a_patch(tmp_path: Path) -> None:
    before: Tree = {"run me.sh": ("f", b"".join(b"%d\n" % n for n in range(1, 11))), "old": ("f", b"gone\n")}
    after: Tree = {"run me.sh": ("x", before["run me.sh"][1].replace(b"5\n", b"five\n"))}
    assert patch_of(before, after, tmp_path).data == (
        b"diff --git a/old b/old\n"
        b"deleted file mode 100644\n"
        b"index 286c5f5776916d7d7d5849988ca9d83e722cf9c2..0000000000000000000000000000000000000000\n"
        b"--- a/old\n"
        b"+++ /dev/null\n"
        b"@@ -1,1 +0,0 @@\n"
        b"-gone\n"
        b"diff --git a/run me.sh b/run me.sh\n"
        b"old mode 100644\n"
        b"new mode 100755\n"
        b"index f00c965d8307308469e537302baa73048488f162..33011fd77b7414b66200a64a0024dab6d1924191\n"
        b"--- a/run me.sh\t\n"
        b"+++ b/run me.sh\t\n"
        b"@@ -2,7 +2,7 @@\n"
        b" 2\n 3\n 4\n-5\n+five\n 6\n 7\n 8\n"
    )


# Names that could clash on disk (a file and a directory of one name) are kept apart by their depth.
name = st.text(st.characters(blacklist_categories=("Cs",), blacklist_characters="\0/"), min_size=1, max_size=6).filter(
    lambda n: n not in (".", "..") and not is_git(n) and n != ".sandboxrun" and len(n.encode()) < 200
)
content = st.one_of(
    st.binary(max_size=300),
    st.lists(st.sampled_from([b"a\n", b"b\n", b"c\n", b"\n", b"a b\r\n", b"-\n", b"@@\n"]), max_size=40).map(b"".join),
    st.lists(st.sampled_from([b"a\n", b"b\n", b"c"]), max_size=20).map(b"".join),
)
kinds = st.tuples(st.sampled_from("ffx"), content)
trees = st.dictionaries(
    st.one_of(name.map("t{}".format), st.tuples(name, name).map(lambda p: f"d{p[0]}/f{p[1]}")), kinds, max_size=5
)


@st.composite
def changes(draw: st.DrawFn) -> tuple[Tree, Tree]:
    before = draw(trees)
    after = {path: draw(st.one_of(st.just(value), kinds)) for path, value in before.items() if draw(st.integers(0, 3))}
    return before, {**after, **draw(trees)}


@examples(60, suppress_health_check=list(HealthCheck))
@given(changes())
@example(({}, {"d /f0": ("f", b"")}))
@example(({"d /f0": ("f", b"a\n")}, {"d /f0": ("f", b"b\n"), "e /a b": ("x", b"\0")}))
def test_any_change_survives_git_apply(tmp_path_factory: pytest.TempPathFactory, change: tuple[Tree, Tree]) -> None:
    before, after = change
    tmp = tmp_path_factory.mktemp("change")
    patch = patch_of(before, after, tmp)
    assert applied(before, patch.data, tmp) == after


lines = st.lists(st.sampled_from([b"a\n", b"b\n", b"c\n", b"d\n"]), max_size=60).map(b"".join)


@examples(150)
@given(lines, lines, st.sampled_from([b"", b"x", b"y"]), st.integers(0, 400))
def test_hunks_give_the_new_text_whatever_the_budget(old: bytes, new: bytes, end: bytes, steps: int) -> None:
    new += end
    assert _patched(old, hunks(old, new, Budget(steps))) == new


def _patched(old: bytes, body: bytes) -> bytes:
    """Apply hunks by the rules of the format."""
    source = [line + b"\n" for line in old.split(b"\n")]
    source[-1] = source[-1][:-1]
    out: list[bytes] = []
    at = 0
    for line in [piece + b"\n" for piece in body.split(b"\n")][:-1]:
        if line.startswith(b"@@"):
            start, count = (int(n) for n in line.split()[1][1:].split(b","))
            begin = start - 1 if count else start
            out += source[at:begin]
            at = begin
        elif line.startswith(b"\\"):
            out[-1] = out[-1].removesuffix(b"\n")
        elif line[:1] in (b" ", b"-"):
            assert source[at].removesuffix(b"\n") == line[1:-1]
            if line[:1] == b" ":
                out.append(line[1:])
            at += 1
        else:
            out.append(line[1:])
    return b"".join(out + source[at:])


def test_texts_made_to_be_slow_take_bounded_steps() -> None:
    budget = Budget()
    old = b"".join(b"%d\n" % (n % 7) for n in range(40_000))
    new = b"".join(b"%d\n" % (n % 5) for n in range(40_000))
    before = budget.left
    assert _patched(old, hunks(old, new, budget)) == new
    assert before - budget.left < 3_000_000
    spent = Budget(0)
    assert _patched(old, hunks(old, new, spent)) == new


def test_a_text_of_very_many_lines_is_replaced_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linediff, "_MOST_LINES", 10)
    old, new = b"same\n" + b"a\n" * 20 + b"end", b"same\n" + b"b\n" * 30 + b"end"
    assert hunks(old, new, Budget()) == (
        b"@@ -1,22 +1,32 @@\n-same\n" + b"-a\n" * 20 + b"-end\n\\ No newline at end of file\n"
        b"+same\n" + b"+b\n" * 30 + b"+end\n\\ No newline at end of file\n"
    )


def test_what_lies_in_git_is_listed_by_hash_and_never_in_the_patch(tmp_path: Path) -> None:
    before: Tree = {".git/config": ("f", b"[core]\n"), ".git/HEAD": ("f", b"ref\n"), "a": ("f", b"1\n")}
    after: Tree = {
        ".git/config": ("f", b"[core]\nfsmonitor = evil\n"),
        ".git/hooks/pre-commit": ("x", b"#!/bin/sh\n"),
        "sub/.GIT/config": ("f", b"x"),
        "git~1/x": ("f", b"x"),
        "a": ("f", b"1\n"),
    }
    patch = patch_of(before, after, tmp_path)
    assert patch.data == b""
    assert [(c.path, c.before is None, c.after is None) for c in patch.git_changes] == [
        (".git/HEAD", False, True),
        (".git/config", False, False),
        (".git/hooks/pre-commit", True, False),
        ("git~1/x", True, False),
        ("sub/.GIT/config", True, False),
    ]


@pytest.mark.parametrize(
    "path", [".git", "a/.git/x", ".GiT/x", ".git. ./x", ".git::$INDEX_ALLOCATION", "git~1", "a\\.git"]
)
def test_names_that_are_git_somewhere(path: str) -> None:
    assert is_git(path)


@pytest.mark.parametrize("path", [".gitignore", "git", "a.git", ".github/x", "git~2"])
def test_names_that_are_not(path: str) -> None:
    assert not is_git(path)


def info(path: str, kind: bytes, link: str = "", mode: int = 0o644) -> tarfile.TarInfo:
    member = tarfile.TarInfo(f"work/{path}")
    member.type, member.linkname, member.mode = kind, link, mode
    return member


def test_what_cannot_be_in_a_patch_is_left_out_by_name_and_changes_nothing(tmp_path: Path) -> None:
    before: Tree = {"a": ("f", b"1\n"), "keep": ("f", b"k\n")}
    extra = (
        info("a", tarfile.FIFOTYPE),
        info("dev", tarfile.CHRTYPE),
        info("out", tarfile.SYMTYPE, "/etc/passwd"),
        info("up", tarfile.SYMTYPE, "../x"),
        info("via", tarfile.SYMTYPE, "d/../../x"),
        info(".gitmodules", tarfile.SYMTYPE, "keep"),
        info("hard", tarfile.LNKTYPE, "work/nothing"),
        info("../escape", tarfile.REGTYPE),
        info("x//y", tarfile.REGTYPE),
    )
    patch = patch_of(before, {"keep": ("f", b"k\n")}, tmp_path, *extra)
    assert patch.data == b""
    assert {refused.path: refused.reason for refused in patch.left_out} == {
        "a": "a fifo",
        "dev": "a device",
        "out": "a symlink to an absolute path",
        "up": "a symlink that leads out of the workspace",
        "via": 'a symlink with ".." inside its target',
        ".gitmodules": "a symlink named .gitmodules",
        "hard": "a hard link to a file that was not saved",
        "../escape": 'a name with ".."',
        "x//y": "a name with an empty or dot component",
    }


def test_a_hard_link_is_the_same_content_again(tmp_path: Path) -> None:
    before: Tree = {"a": ("f", b"1\n"), "b": ("f", b"2\n")}
    after: Tree = {"a": ("f", b"1\n"), "b": ("f", b"new\n")}
    patch = patch_of(
        before, after, tmp_path, info("a2", tarfile.LNKTYPE, "work/a"), info("b2", tarfile.LNKTYPE, "work/b")
    )
    assert applied(before, patch.data, tmp_path) == {**after, "a2": ("f", b"1\n"), "b2": ("f", b"new\n")}


def test_a_stream_that_ends_early_gives_no_patch_at_all(tmp_path: Path) -> None:
    baseline = packed(write({"a": ("f", b"1\n"), "b": ("f", b"2\n")}, tmp_path / "before"))
    chunks = list(archived({"a": ("f", b"1\n"), "b": ("f", b"2\n" * 5000)}))
    with pytest.raises(EvidenceError, match="the stream ends in the middle"):
        make_patch(baseline, chunks[:3])


def test_an_archive_that_does_not_say_that_it_ends_gives_no_patch(tmp_path: Path) -> None:
    """An engine that fails in the middle of one may end the answer as if that were all: between two files, too."""
    tree: Tree = {"a": ("f", b"a"), "b": ("f", b"b")}
    before = packed(write(tree, tmp_path / "before"))
    whole = b"".join(archived(tree))
    ends = len(whole.rstrip(b"\0")) + (-len(whole.rstrip(b"\0")) % 512)
    assert make_patch(before, [whole]).data == make_patch(before, [whole[: ends + 512]]).data == b""
    for end in range(0, ends + 1, 512):
        with pytest.raises(EvidenceError, match="the stream ends in the middle"):
            make_patch(before, [whole[:end]])
    with pytest.raises(EvidenceError, match="the engine's archive of it is empty"):
        make_patch(before, [bytes(1024)])


def test_limits(tmp_path: Path) -> None:
    after: Tree = {"big": ("f", b"x" * 3000), "small": ("f", b"y\n"), "random": ("f", os.urandom(900) + b"\0")}
    limits = PatchLimits(tree=TreeLimits(file_bytes=2000), patch_bytes=800)
    patch = patch_of({"gone": ("f", b"1\n")}, after, tmp_path, limits=limits)
    assert {refused.path for refused in patch.left_out} == {"big", "random"}
    assert len(patch.paths) == 2
    baseline = packed(tmp_path / "before")
    for bound in (TreeLimits(files=2), TreeLimits(bytes=10, files=1)):
        with pytest.raises(EvidenceError):
            make_patch(baseline, archived(after), limits=PatchLimits(tree=bound))
    with pytest.raises(EvidenceError, match="ran out of time"):
        make_patch(baseline, archived(after), deadline=0.0)


def test_what_was_excluded_when_packing_is_excluded_from_the_patch(tmp_path: Path) -> None:
    base = write({"a": ("f", b"1\n"), "node_modules/x": ("f", b"1\n")}, tmp_path / "before")
    buffer = io.BytesIO()
    pack(base, buffer, uid=0, gid=0, exclude=["node_modules", "*.log"])
    after: Tree = {"a": ("f", b"1\n"), "node_modules/y": ("f", b"2\n"), "d/z.log": ("f", b"3\n")}
    assert make_patch(buffer, archived(after), exclude=["node_modules", "*.log"]).data == b""


def test_what_is_new_below_an_artifact_is_kept_there_alone(tmp_path: Path) -> None:
    base = write({"report/old": ("f", b"1\n"), "report.md": ("f", b"1\n")}, tmp_path / "before")
    after: Tree = {
        "report/old": ("f", b"2\n"),
        "report/new": ("f", b"3\n"),
        "report.md": ("f", b"4\n"),
        "reports": ("f", b"5\n"),
        "summary": ("f", b"6\n"),
    }
    patch = make_patch(packed(base), archived(after), artifacts=["report", "summary"])
    assert [line for line in patch.data.decode().splitlines() if line.startswith("diff")] == [
        "diff --git a/report.md b/report.md",
        "diff --git a/report/old b/report/old",
        "diff --git a/reports b/reports",
    ]
    assert (len(patch.paths), patch.left_out) == (3, ())


@pytest.mark.parametrize(
    ("paths", "below"),
    [
        (["/workspace/report", "/workspace/a/../b/"], ["report", "b"]),
        (["/workspace", "/", "/workspaces/x", "/tmp/x", "/workspace/.."], []),
        (["/workspace/..x"], ["..x"]),
    ],
)
def test_which_artifacts_lie_in_the_workspace(paths: list[str], below: list[str]) -> None:
    assert list(_below("/workspace/", paths)) == below


def test_directories_too_deep_are_told_once(tmp_path: Path) -> None:
    """Without a file in them too: what lies deeper than paths can name, the engine leaves out in silence."""
    made = []
    for depth in (31, 32, 33, 34, 200):
        info = tarfile.TarInfo("/".join(["work", *["d"] * depth]))
        info.type = tarfile.DIRTYPE
        made.append(info)
    patch = patch_of({}, {}, tmp_path, *made)
    assert [(one.path, one.reason) for one in patch.left_out] == [
        ("/".join(["d"] * 33), "a directory: nested too deep")
    ]


@pytest.mark.parametrize(
    ("path", "target", "stays"),
    [
        ("a", "b", True),
        ("a", "./b/c", True),
        ("a/b", "..", True),
        ("a/b/c", "../../d", True),
        ("a", "..", False),
        ("a", "../x", False),
        ("a", "", False),
        ("a", "/x", False),
        ("d/a", "b/../../../x", False),
        ("d/a", "b/..", False),
    ],
)
def test_links_that_stay(path: str, target: str, stays: bool) -> None:
    assert (link_fault(path, target) is None) is stays


@pytest.mark.parametrize(
    ("after", "left_out"),
    [
        ({"sock": ("f", b"1\n")}, {"sock": "the source has a socket of that name, which was not copied"}),
        ({"sock/x": ("f", b"1\n")}, {"sock/x": "sock is not a directory in the source, and stays"}),
        (
            {"kept": ("f", b"1\n")},
            {"kept": "the source has a directory of that name, not all of which is in the copy or the patch"},
        ),
        (
            {"deep": ("l", b"kept")},
            {"deep": "the source has a directory of that name, not all of which is in the copy or the patch"},
        ),
        ({"empty": ("f", b"1\n"), "cache/x": ("f", b"excluded")}, {}),
        ({"big/x": ("f", b"1\n")}, {"big": "the patch would be larger than 3000 bytes", "big/x": None}),
        ({"loop/x": ("f", b"1\n"), "to-loop/x": ("f", b"1\n")}, {"loop/x": None, "to-loop/x": None}),
        ({"old": ("f", b"1\n")}, {"old": None}),
    ],
)
def test_the_patch_applies_to_where_it_came_from(after: Tree, left_out: dict[str, str | None], tmp_path: Path) -> None:
    """Whatever the source has that the copy had not, or that could not be put into the patch."""
    base = write({"deep/er/cache/x": ("f", b"1"), "kept/x.log": ("f", b"1"), "cache/y": ("f", b"1")}, tmp_path / "it")
    (base / "big").write_bytes(os.urandom(4000).hex().encode())
    (base / "old").mkdir()
    (base / "old/x").write_bytes(os.urandom(4000).hex().encode())
    (base / "empty").mkdir()
    (base / "same").write_text("before\n")
    os.symlink("./loop/x", base / "loop")
    os.symlink("./loop", base / "to-loop")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(base / "sock"))
        buffer = io.BytesIO()
        exclude = ["cache", "*.log"]
        done = pack(base, buffer, uid=0, gid=0, exclude=exclude)
        patch = make_patch(
            buffer,
            archived({**after, "same": ("f", b"after\n")}),
            exclude=exclude,
            left_out=done.left_out,
            partial=done.partial,
            limits=PatchLimits(patch_bytes=3000),
        )
        told = {one.path: one.reason for one in patch.left_out}
        assert {path: told.get(path) if reason else None for path, reason in left_out.items()} == left_out
        assert set(left_out) <= set(told) and set(told) <= {*left_out, "big", "old/x"}
        for check in (["--check"], []):
            git = ["git", "apply", "--whitespace=nowarn", *check, "-"]
            subprocess.run(git, cwd=base, input=patch.data, check=True, env=GIT)
    assert (base / "same").read_text() == "after\n"
    assert (base / "cache/y").is_file() and (base / "deep/er/cache/x").is_file() and (base / "kept/x.log").is_file()


def test_a_link_named_gitmodules_is_never_in_a_patch(tmp_path: Path) -> None:
    before: Tree = {".gitmodules": ("l", b"a"), "a": ("f", b"1\n")}
    patch = patch_of(before, {"a": ("f", b"2\n")}, tmp_path)
    assert [(one.path, one.reason) for one in patch.left_out] == [(".gitmodules", "a symlink named .gitmodules")]
    assert applied(before, patch.data, tmp_path) == {**before, "a": ("f", b"2\n")}


def test_a_patch_of_what_lies_in_a_submodule_applies_to_the_whole(tmp_path: Path) -> None:
    base = write({"a": ("f", b"1\n"), "sub/b": ("f", b"1\n"), "other/c": ("f", b"1\n")}, tmp_path / "it")
    for words in (["init", "-q"], ["init", "-q", "sub"], ["init", "-q", "--separate-git-dir=.git/o", "other"]):
        subprocess.run(["git", *words], cwd=base, check=True, env=GIT)
    after: Tree = {"a": ("f", b"2\n"), "sub/b": ("f", b"2\n"), "sub/new": ("f", b"2\n"), "other/c": ("f", b"2\n")}
    patch = make_patch(packed(base), archived(after))
    subprocess.run(["git", "apply", "--check", "-"], cwd=base, input=patch.data, check=True, env=GIT)
    subprocess.run(["git", "apply", "-"], cwd=base, input=patch.data, check=True, env=GIT)
    assert {path: kind for path, kind in read(base).items() if ".git" not in path.split("/")} == after
