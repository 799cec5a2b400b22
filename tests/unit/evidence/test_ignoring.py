"""What git tracks and ignores, compared with git's own answers; and a patch in the two parts that come of it."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given
from hypothesis import strategies as st

from sandboxrun.evidence.ignoring import Apart, Ignoring, Tracked, tracked_in
from sandboxrun.evidence.patch import PatchLimits, make_patch
from tests.conftest import examples
from tests.unit.evidence.test_patch import GIT, Tree, archived, packed, read, write

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="there is no git")
ENVIRONMENT = {
    **GIT,
    **{f"GIT_{who}_{what}": "a@example.com" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")},
}


def git(at: Path, *arguments: str, input: str | None = None, check: bool = True) -> str:
    command = ["git", "-C", str(at), *arguments]
    done = subprocess.run(command, env=ENVIRONMENT, input=input, capture_output=True, text=True, check=False)
    assert not check or done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    top = tmp_path_factory.mktemp("ignoring")
    git(top, "init", "-q")
    return top


COMPONENTS = st.sampled_from(["a", "b", "ab", "a*", "*b", "**", "?", "[ab]", "[!a]", "[^b]", r"\*", "a.b", "*.b", "*"])
LINES = st.builds(
    "{}{}{}{}".format,
    st.sampled_from(["", "!", ""]),
    st.sampled_from(["", "/"]),
    st.lists(COMPONENTS, min_size=1, max_size=3).map("/".join),
    st.sampled_from(["", "/", " ", r"\ "]),
)
PATHS = st.lists(st.sampled_from(["a", "b", "ab", "a.b", "*"]), min_size=1, max_size=4).map("/".join)


@examples(60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    files=st.dictionaries(st.sampled_from(["", "a", "a/b"]), st.lists(LINES, max_size=4), max_size=3),
    paths=st.lists(PATHS, min_size=1, max_size=12, unique=True),
)
def test_paths_are_ignored_as_git_ignores_them(empty: Path, files: dict[str, list[str]], paths: list[str]) -> None:
    for directory in ("a", "a/b"):
        (empty / directory).mkdir(parents=True, exist_ok=True)
    for directory in ("", "a", "a/b"):
        text = "".join(f"{line}\n" for line in files.get(directory, ()))
        (empty / directory / ".gitignore").write_text(text)
    files_only = [path for path in paths if not (empty / path).is_dir()]
    said = git(empty, "check-ignore", "--no-index", "-z", "--stdin", input="\0".join(files_only), check=False)
    ours = Ignoring([(d, "".join(f"{line}\n" for line in lines).encode()) for d, lines in files.items()])
    assert {path for path in files_only if ours.ignores(path)} == set(filter(None, said.split("\0")))


@pytest.mark.parametrize(
    ("text", "ignored", "kept"),
    [
        ("# a\n\n  \nb\r\n", ["b", "x/b"], ["# a", "a"]),
        ("build/\n!build/keep\n", ["build/x", "build/keep", "a/build/y"], ["build"]),
        ("*.log\n!keep.log\n", ["a.log", "x/b.log"], ["keep.log", "x/keep.log"]),
        ("/top\na/**/z\n", ["top", "a/z", "a/b/c/z"], ["x/top", "b/a/z"]),
        (r"\#x" + "\n" + r"\!y" + "\n" + "trailing \nkept\\ \n", ["#x", "!y", "trailing", "kept "], ["kept"]),
        ("[z-a]\n[\nx[\n", [], ["b"]),
    ],
)
def test_patterns_of_every_kind(text: str, ignored: list[str], kept: list[str]) -> None:
    ours = Ignoring([("", text.encode())])
    assert [ours.ignores(path) for path in ignored] == [True] * len(ignored)
    assert [ours.ignores(path) for path in kept] == [False] * len(kept)


def test_hostile_patterns_take_no_time() -> None:
    line = "a*" * 400 + "b"
    ours = Ignoring([("", f"{line}\n{'**/a/' * 150}b\n".encode())])
    assert not ours.ignores("a" * 255) and not ours.ignores("a/" * 200 + "c")
    many = Ignoring([("", b"*x\n" * 5_001)])
    assert many.exhausted and not many.ignores("x")
    most = Ignoring([("", b"*x\n" * 5_000)])
    assert not any(most.ignores(f"d{n}/y") for n in range(400)) and most.exhausted


@pytest.mark.parametrize("version", [2, 3, 4])
def test_an_index_lists_what_git_lists(tmp_path: Path, version: int) -> None:
    names = ["a", "b/" + "long" * 60, "b/c", "d e", "ü", *(f"many/{n:05}" for n in range(300))]
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", "-A")
    if version == 3:
        (tmp_path / "intended").touch()
        git(tmp_path, "add", "--intent-to-add", "intended")
    git(tmp_path, "update-index", "--index-version", str(version))
    data = (tmp_path / ".git/index").read_bytes()
    assert struct.unpack_from(">I", data, 4)[0] == version
    found = tracked_in(data)
    assert found is not None and found.files == set(git(tmp_path, "ls-files", "-z").split("\0")) - {""}


def test_an_index_that_cannot_be_relied_on_is_none(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", "a")
    good = (tmp_path / ".git/index").read_bytes()
    assert tracked_in(good) == Tracked(files=frozenset({"a"}))
    for bad in (b"", b"DIRC", good[:-1], good[:30], b"X" + good[1:], good[:8] + b"\xff\xff\xff\xff" + good[12:]):
        assert tracked_in(bad) is None
    unhashed = good[:8] + b"\xff\xff\xff\xff" + good[12:-20] + bytes(20)
    assert tracked_in(unhashed) is None
    git(tmp_path, "update-index", "--split-index")
    assert tracked_in((tmp_path / ".git/index").read_bytes()) is None


# -- A patch in two parts

SOURCE: Tree = {
    ".gitignore": ("f", b"*.log\nnode_modules/\n/forced\n"),
    "code.py": ("f", b"one\n"),
    "forced": ("f", b"tracked although it is ignored\n"),
    "node_modules/dep/index.js": ("f", b"dep\n"),
    "notes.txt": ("f", b"not committed\n"),
    "old.log": ("f", b"log\n"),
}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    top = write(SOURCE, tmp_path / "source")
    git(top, "init", "-q", "-b", "main")
    git(top, "add", ".gitignore", "code.py")
    git(top, "add", "-f", "forced")
    git(top, "commit", "-q", "-m", "x")
    return top


def _changed(source: Path, **changes: bytes | None) -> Tree:
    tree = read(source)
    for path, content in changes.items():
        tree.pop(path, None)
        if content is not None:
            tree[path] = ("f", content)
    return tree


def _apply(patch: bytes, at: Path) -> None:
    git(at, "apply", "-", input=patch.decode())


CHANGES: dict[str, bytes | None] = {
    "code.py": b"two\n",
    "forced": b"changed\n",
    "new.py": b"new\n",
    "new.log": b"ignored\n",
    "node_modules/dep/index.js": b"patched\n",
    "node_modules/other/x.js": b"new\n",
    "notes.txt": None,
    "old.log": b"longer log\n",
}


def test_a_clone_takes_the_one_part_and_the_source_both(source: Path, tmp_path: Path) -> None:
    after = _changed(source, **CHANGES)
    patch = make_patch(packed(source), archived(after))
    assert patch.paths == ("code.py", "forced", "new.py")
    assert patch.untracked_paths == (
        "new.log", "node_modules/dep/index.js", "node_modules/other/x.js", "notes.txt", "old.log",
    )  # fmt: skip
    clone = tmp_path / "clone"
    git(source, "clone", "-q", ".", str(clone))
    _apply(patch.data, clone)
    assert (clone / "code.py").read_text() == "two\n" and (clone / "new.py").exists()
    _apply(patch.data, source)
    _apply(patch.untracked, source)
    without = {path: entry for path, entry in after.items() if not path.startswith(".git/")}
    assert {path: entry for path, entry in read(source).items() if not path.startswith(".git/")} == without


def test_without_an_index_the_patterns_decide(source: Path) -> None:
    shutil.rmtree(source / ".git")
    patch = make_patch(packed(source), archived(_changed(source, **CHANGES)))
    assert patch.paths == ("code.py", "new.py", "notes.txt") and "forced" in patch.untracked_paths


def test_without_git_all_is_in_one_patch(tmp_path: Path) -> None:
    top = write({"a": ("f", b"1\n")}, tmp_path / "plain")
    patch = make_patch(packed(top), archived({"a": ("f", b"2\n"), "b.log": ("f", b"x\n")}))
    assert (patch.paths, patch.untracked, patch.untracked_paths) == (("a", "b.log"), b"", ())


def test_what_the_agent_ignores_is_not_ignored(source: Path) -> None:
    """The agent's own .gitignore would move its changes out of sight of a reviewer who looks at the one part."""
    patch = make_patch(packed(source), archived(_changed(source, **{".gitignore": b"*\n", "evil.py": b"x\n"})))
    assert patch.paths == (".gitignore", "evil.py")


def test_what_lies_above_or_below_an_untracked_path_goes_along(source: Path, tmp_path: Path) -> None:
    changes: dict[str, bytes | None] = {"notes.txt": None, "notes.txt/inside": b"a directory now\n"}
    after = _changed(source, **changes)
    patch = make_patch(packed(source), archived(after))
    assert (patch.paths, patch.untracked_paths) == ((), ("notes.txt", "notes.txt/inside"))
    _apply(patch.untracked, source)
    assert (source / "notes.txt/inside").exists()


def test_the_part_for_a_clone_has_the_room_first(source: Path) -> None:
    noise = {f"node_modules/a{n}": os.urandom(3_000) for n in range(10)}
    after = _changed(source, **{**noise, "zz.py": b"wanted\n"})
    patch = make_patch(packed(source), archived(after), limits=PatchLimits(patch_bytes=10_000))
    assert patch.paths == ("zz.py",) and patch.left_out


def test_a_submodules_files_stay_in_the_first_part() -> None:
    apart = Apart(Tracked(files=frozenset({"a"}), whole=frozenset({"sub"})), Ignoring([]))
    assert not apart.has("sub/file", existed=True) and apart.has("other", existed=True)
    assert not apart.has("other", existed=False)
