from __future__ import annotations

import io
import os
import stat
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given
from hypothesis import strategies as st

from sandboxrun.evidence.export import Exported, ExportLimits, Kind, TarError, TarReader, export
from sandboxrun.evidence.folder import Folder, RunFolder
from sandboxrun.evidence.index import room_of
from sandboxrun.evidence.masking import Masker
from tests.conftest import examples

BLOCK = 512


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[RunFolder]:
    (tmp_path / "run").mkdir()
    with Folder.at(tmp_path / "run") as opened:
        yield RunFolder(opened, "run")


def member(name: str, kind: bytes = tarfile.REGTYPE, content: bytes = b"", link: str = "", mode: int = 0o644) -> bytes:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.mode, info.size = kind, link, mode, len(content)
    return info.tobuf(tarfile.PAX_FORMAT) + content + bytes(-len(content) % BLOCK)


def taken(folder: RunFolder, *members: bytes, limits: ExportLimits | None = None) -> Exported:
    data = b"".join(members) + bytes(2 * BLOCK)
    chunks = (data[at : at + 700] for at in range(0, len(data), 700))
    return export(chunks, folder, part="artifact /r", under="artifacts", limits=limits)


def on_disk(folder: RunFolder) -> dict[str, bytes]:
    return {str(p.relative_to(folder.path)): p.read_bytes() for p in folder.path.rglob("*") if p.is_file()}


def test_files_and_directories_are_taken_with_our_own_modes(folder: RunFolder) -> None:
    done = taken(folder, member("r", tarfile.DIRTYPE), member("r/a.txt", content=b"hello", mode=0o777))
    assert on_disk(folder) == {"artifacts/r/a.txt": b"hello"}
    assert [(k.path, k.bytes, k.truncated) for k in done.kept] == [("artifacts/r/a.txt", 5, False)]
    assert (done.refused, done.missing) == ((), ())
    assert stat.S_IMODE((folder.path / "artifacts/r/a.txt").stat().st_mode) == 0o600
    assert stat.S_IMODE((folder.path / "artifacts/r").stat().st_mode) == 0o700


HOSTILE = [
    (member("r/l", tarfile.SYMTYPE, link="/etc/passwd"), "r/l", "a symlink"),
    (member("r/h", tarfile.LNKTYPE, link="r/ok"), "r/h", "a hard link"),
    (member("r/f", tarfile.FIFOTYPE), "r/f", "a fifo"),
    (member("r/c", tarfile.CHRTYPE), "r/c", "a device"),
    (member("r/b", tarfile.BLKTYPE), "r/b", "a device"),
    (member("r/s", tarfile.GNUTYPE_SPARSE), "r/s", "a sparse file"),
    (member("r/?", b"V"), "r/?", "a member of an unknown kind"),
    (member("/abs", content=b"x"), "/abs", "an absolute name"),
    (member("r/../../up", content=b"x"), "r/../../up", 'a name with ".."'),
    (member("..", tarfile.DIRTYPE), "../", 'a name with ".."'),
    (member("r//x", content=b"x"), "r//x", "a name with an empty or dot component"),
    (member("r/./x", content=b"x"), "r/./x", "a name with an empty or dot component"),
    (member("r/\x1b[2J", content=b"x"), "r/\\x1b[2J", "a name with control or undecodable characters"),
    (member("r/\udcff", content=b"x"), "r/\\udcff", "a name with control or undecodable characters"),
    (member("r/" + "n" * 256, content=b"x"), "r/" + "n" * 256, "a name that is too long"),
    (member("/".join("d" * 40), content=b"x"), "/".join("d" * 40), "nested too deep"),
    (member("r/suid", content=b"x", mode=0o4755), "r/suid", "a setuid or setgid file"),
    (member("r/sgid", content=b"x", mode=0o2755), "r/sgid", "a setuid or setgid file"),
    (member("r/ok", content=b"again"), "r/ok", "a second member of that name"),
    (member("r/ok/below", content=b"x"), "r/ok/below", "a second member of that name"),
    (member("r/dir", content=b"x"), "r/dir", "a second member of that name"),
    (member("r", content=b"x"), "r", "a second member of that name"),
    (member("r/OK", content=b"x"), "r/OK", "a name that some file systems treat as equal to another one here"),
    (member("r/.git/config", content=b"x"), "r/.git", "a repository: git on the host would run what is in it"),
    (member("r/.git", content=b"x"), "r/.git", "a repository: git on the host would run what is in it"),
    (member("r/a/GIT~1/x/y", content=b"x"), "r/a/GIT~1", "a repository: git on the host would run what is in it"),
    (member("r/bare/head", content=b"x"), "r/bare/head", "a repository: git on the host would run what is in it"),
    (member("r/big", content=b"x" * 2000), "r/big", "larger than 1500 bytes"),
]


@pytest.mark.parametrize(("data", "name", "reason"), HOSTILE, ids=[reason + name[:9] for _, name, reason in HOSTILE])
def test_each_kind_of_hostile_member_is_refused_and_the_rest_kept(
    folder: RunFolder, data: bytes, name: str, reason: str
) -> None:
    before, after = member("r/ok", content=b"before"), member("r/rest", content=b"after")
    directory = member("r/dir", tarfile.DIRTYPE)
    done = taken(folder, before, directory, data, after, limits=ExportLimits(file_bytes=1500))
    assert [(r.path, r.reason) for r in done.refused] == [(name, reason)]
    assert on_disk(folder) == {"artifacts/r/ok": b"before", "artifacts/r/rest": b"after"}
    assert done.refused_total == 1 and done.missing == ()


@pytest.mark.parametrize("name", ["r/ü", "r/日本/日本", "r/ü.txt", "r/日本"])
def test_a_file_whose_name_has_no_ascii_is_a_file(name: str) -> None:
    path = f"path={name}\n".encode()
    length = next(n for n in range(1, 99) if len(f"{n} ".encode() + path) == n)
    record = f"{length} ".encode() + path
    before = tarfile.TarInfo("PaxHeaders.0")
    before.type, before.size = tarfile.XHDTYPE, len(record)
    short = tarfile.TarInfo("x")
    short.size = 1
    header = bytearray(short.tobuf(tarfile.USTAR_FORMAT))
    ascii = "".join(c for c in name if c.isascii()).encode()  # all that Go, and so an engine, puts into the header
    header[:100] = ascii.ljust(100, b"\0")
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    data = before.tobuf(tarfile.USTAR_FORMAT) + record.ljust(BLOCK, b"\0") + bytes(header) + b"1".ljust(BLOCK, b"\0")
    reader = TarReader([data, bytes(2 * BLOCK)])
    assert [(m.name, m.kind, b"".join(reader.content())) for m in reader] == [(name, Kind.FILE, b"1")]


def test_a_pax_sparse_file_is_refused(folder: RunFolder) -> None:
    info = tarfile.TarInfo("r/sparse")
    info.size, info.pax_headers = 4, {"GNU.sparse.major": "1", "GNU.sparse.name": "r/other"}
    done = taken(folder, info.tobuf(tarfile.PAX_FORMAT) + b"data" + bytes(BLOCK - 4))
    assert [r.reason for r in done.refused] == ["a sparse file"] and on_disk(folder) == {}


def test_all_files_together_have_a_limit(folder: RunFolder) -> None:
    many = [member(f"r/{n}", content=b"x" * 400) for n in range(4)]
    done = taken(folder, *many, limits=ExportLimits(bytes=1000))
    assert len(done.kept) == 2
    assert {r.reason for r in done.refused} == {"all files together are larger than 1000 bytes"}


def test_too_many_files_end_the_export_and_it_says_so(folder: RunFolder) -> None:
    done = taken(folder, *(member(f"r/{n}", content=b"x") for n in range(9)), limits=ExportLimits(files=3))
    assert len(done.kept) == 3 and [m.reason for m in done.missing] == ["incomplete: more than 3 files"]


def test_names_that_the_index_has_no_room_for_end_the_export(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sandboxrun.evidence.folder.ROOM", 3 * room_of("artifacts/r/,,,,,,0"))
    done = taken(RunFolder(folder.folder, "run"), *(member(f"r/,,,,,,{n}", content=b"x") for n in range(9)))
    assert len(done.kept) == 3 and [m.reason for m in done.missing] == [
        "incomplete: the names of all files are more than the index has room for"
    ]


def test_endless_members_that_are_refused_end_too(folder: RunFolder) -> None:
    def endless() -> Iterator[bytes]:
        while True:
            yield member("r/l", tarfile.SYMTYPE, link="x")

    done = export(endless(), folder, part="a", under="artifacts", limits=ExportLimits(files=5, refused=7))
    assert len(done.refused) == 7 and done.refused_total > 7
    assert [m.reason for m in done.missing] == ["incomplete: too many members"]


def test_an_endless_file_ends_at_the_limit_and_leaves_nothing(folder: RunFolder) -> None:
    info = tarfile.TarInfo("r/endless")
    info.size = 1 << 40

    def endless() -> Iterator[bytes]:
        yield info.tobuf(tarfile.GNU_FORMAT)
        while True:
            yield bytes(1 << 16)

    limits = ExportLimits(bytes=1 << 20, file_bytes=1 << 50, skipped_bytes=1 << 20, files=10, refused=10)
    refused = export(endless(), folder, part="a", under="artifacts", limits=limits)
    assert [r.reason for r in refused.refused] == ["all files together are larger than 1 MiB"]
    assert [m.reason for m in refused.missing] == ["incomplete: the stream is longer than the limits allow"]
    assert on_disk(folder) == {}


def test_a_stream_that_breaks_off_keeps_what_was_whole(folder: RunFolder) -> None:
    whole, torn = member("r/a", content=b"a"), member("r/b", content=b"b" * 900)
    done = export([whole, torn[:700]], folder, part="a", under="artifacts")
    assert on_disk(folder) == {"artifacts/r/a": b"a"}
    assert [m.reason for m in done.missing] == ["incomplete: the stream ends in the middle of the archive"]


def test_the_deadline_ends_it(folder: RunFolder) -> None:
    done = export([member("r/a")], folder, part="a", under="artifacts", deadline=time.monotonic() - 1)
    assert [m.reason for m in done.missing] == ["incomplete: ran out of time"]


def test_a_secret_in_a_file_is_noted_and_left(folder: RunFolder) -> None:
    data = member("r/a", content=b"token hunter22\n") + member("r/b", content=b"none")
    done = export([data, bytes(1024)], folder, part="a", under="x", masker=Masker(["hunter22"]))
    assert {k.path: k.sensitive for k in done.kept} == {"x/r/a": True, "x/r/b": False}


def test_a_secret_in_a_name_is_refused(folder: RunFolder) -> None:
    data = member("r/is-hunter22", content=b"x") + member("r/b", content=b"none")
    done = export([data, bytes(1024)], folder, part="a", under="x", masker=Masker(["hunter22"]))
    assert [r.reason for r in done.refused] == ["a name that holds a secret"]
    assert set(on_disk(folder)) == {"x/r/b"}


def test_a_repository_is_refused_once(folder: RunFolder) -> None:
    done = taken(folder, member("r/.git", tarfile.DIRTYPE), *(member(f"r/.git/{n}", content=b"x") for n in range(9)))
    assert [r.path for r in done.refused] == ["r/.git"] and done.refused_total == 1 and on_disk(folder) == {}


def test_a_symlink_planted_in_the_folder_is_not_followed(folder: RunFolder, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    os.symlink(tmp_path / "outside", folder.path / "artifacts")
    done = taken(folder, member("a", content=b"x"))
    assert list((tmp_path / "outside").iterdir()) == [] and len(done.refused) == 1


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"not a tar" * 100, "a number that is not one"),
        (b"\0" * 148 + b"0000001\0" + bytes(400), "checksum"),
        (b"", "ends in the middle"),
        (member("x"), "ends in the middle"),  # without the archive's own end
        (member("x")[:300], "ends in the middle"),
        (member("x", b"x", b"9999999999 path=x\n"), "cut short"),
        (member("x", b"x", b"path=x\n"), "without a length"),
        (member("x", b"x", b"14 size=-0x1\n") + member("y"), "cut short"),
        (member("x", b"x", b"11 size=-1\n") + member("y"), "size that is not a number"),
        (b"".join(member("x", b"L", b"long") for _ in range(20)), "too many extension headers"),
        (member("x", b"x", b"0 a=b\n"), "cut short"),
    ],
)
def test_what_is_not_a_tar_archive_is_an_error(data: bytes, message: str) -> None:
    with pytest.raises(TarError, match=message):
        list(TarReader([data]))


def test_an_extension_header_has_a_bound() -> None:
    info = tarfile.TarInfo("x")
    info.type, info.size = b"x", 1 << 30
    with pytest.raises(TarError, match="too long"):
        list(TarReader([info.tobuf(tarfile.GNU_FORMAT), *([bytes(1 << 16)] * 3)]))


names = st.lists(st.sampled_from(["a", "b", "é", "..", ".", "", "x" * 120, "\x07"]), min_size=1, max_size=4).map(
    "/".join
)
types = [
    tarfile.REGTYPE,
    tarfile.DIRTYPE,
    tarfile.SYMTYPE,
    tarfile.LNKTYPE,
    tarfile.FIFOTYPE,
    tarfile.CHRTYPE,
    b"S",
    b"Q",
]
members = st.builds(member, names, st.sampled_from(types), st.binary(max_size=600), names, st.integers(0, 0o7777))


@examples(150, suppress_health_check=list(HealthCheck))
@given(
    st.lists(members, max_size=6).map(b"".join),
    st.lists(st.tuples(st.integers(0, 4000), st.integers(0, 255)), max_size=3),
    st.integers(1, 900),
)
def test_no_stream_escapes_raises_or_leaves_what_is_not_listed(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, flips: list[tuple[int, int]], size: int
) -> None:
    broken = bytearray(data + bytes(1024))
    for at, value in flips:
        broken[at % len(broken)] = value
    base = tmp_path_factory.mktemp("export")
    (base / "run").mkdir()
    with Folder.at(base / "run") as opened:
        into = RunFolder(opened, "run")
        chunks = [bytes(broken[at : at + size]) for at in range(0, len(broken), size)]
        done = export(chunks, into, part="p", under="artifacts", limits=ExportLimits(bytes=1000, files=3, refused=2))
    kept = {k.path: k.bytes for k in done.kept}
    assert {str(p.relative_to(base / "run")): p.stat().st_size for p in base.rglob("*") if not p.is_dir()} == kept
    assert all(stat.S_ISREG(p.lstat().st_mode) or stat.S_ISDIR(p.lstat().st_mode) for p in base.rglob("*"))
    assert sum(kept.values()) <= 1000 and len(kept) <= 3 and len(done.refused) <= 2


@examples(80)
@given(
    st.lists(
        st.tuples(
            st.text(st.characters(blacklist_characters="\0", blacklist_categories=("Cs",)), min_size=1),
            st.binary(max_size=1200),
        ),
        max_size=4,
    ),
    st.sampled_from([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT]),
)
def test_reads_what_tarfile_writes(files: list[tuple[str, bytes]], form: int) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as tar:
        for name, content in files:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    reader = TarReader([buffer.getvalue()])
    found = [(m.name, m.kind, b"".join(reader.content()) if m.size else b"") for m in reader]
    expected = [(info.name, info.name, content) for info, (_, content) in zip(_infos(buffer), files, strict=True)]
    assert [(name.rstrip("/"), content) for name, _, content in found if not name.endswith("/")] == [
        (name, content) for (name, _, content), (raw, _) in zip(expected, files, strict=True) if not raw.endswith("/")
    ]
    assert all(kind in (Kind.FILE, Kind.DIRECTORY) for _, kind, _ in found)


def _infos(buffer: io.BytesIO) -> list[tarfile.TarInfo]:
    buffer.seek(0)
    with tarfile.open(fileobj=buffer) as tar:
        return tar.getmembers()
