from __future__ import annotations

import json
from pathlib import Path
from types import MappingProxyType
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from sandboxrun.evidence.index import (
    ROOM,
    ROOM_FOR_REFUSED,
    Digests,
    EvidenceError,
    Index,
    Kept,
    MissingPart,
    RefusedName,
    Revision,
    Usage,
    indented,
    room_of,
)
from sandboxrun.spec.state import Ending, How

SCHEMA = json.loads(Path(__file__, "../../../../schemas/evidence.schema.json").resolve().read_bytes())

FULL = Index(
    run="r1",
    project="demo",
    sandbox='agent["a"]',
    container_id="c1",
    container_name="demo-agent-a",
    ending=Ending(how=How.OOM, exit_code=137, signal=9, oom_killed=True, detail="x"),
    created_at="2026-01-01T00:00:00.123456789Z",
    started_at="2026-01-01T00:00:01Z",
    finished_at="2026-01-01T00:00:02Z",
    captured_at="2026-01-01T00:00:03.5Z",
    ran_seconds=1.0,
    capture_seconds=0.25,
    digests=Digests(spec="s", inputs="i", profile="p", plan="l", image="sha256:1", repo_digests=("a@sha256:2",)),
    engine=MappingProxyType({"version": "20.10"}),
    tool_version="0.1.0",
    git=Revision(commit="0" * 40, branch="main", dirty=False),
    job=MappingProxyType({"system": "gitlab", "id": "4"}),
    labels=MappingProxyType({"a": "b"}),
    patched_paths=3,
    usage=Usage(samples=2, cpu_seconds=1.5, memory_peak_bytes=10),
    kept=(Kept(path="logs/a", sha256="0" * 64, bytes=1, truncated=True),),
    missing=(MissingPart(part="logs", reason="r"),),
    refused=(RefusedName(part="artifact /x", path="l", reason="a symlink"),),
    refused_total=1,
    previous="f" * 64,
)
LEAST = Index(
    run="r1",
    project="",
    sandbox="",
    container_id="",
    container_name="",
    ending=Ending(how=How.NOT_STARTED),
    captured_at="2026-01-01T00:00:03Z",
)


def test_the_schema_is_one() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


@pytest.mark.parametrize("index", [FULL, LEAST])
def test_an_index_survives_its_file_and_fits_the_schema(index: Index) -> None:
    data = index.to_json()
    jsonschema.Draft202012Validator(SCHEMA).validate(json.loads(data))
    assert Index.from_json(data) == index


@pytest.mark.parametrize("how", How)
def test_the_schema_knows_every_end(how: How) -> None:
    assert how.value in SCHEMA["properties"]["ending"]["properties"]["how"]["enum"]


def test_the_schema_has_every_field_and_no_other() -> None:
    def fields(kind: type) -> set[str]:
        return set(kind.__struct_fields__)

    top = SCHEMA["properties"]
    assert set(top) == fields(Index) | {"format_version"}
    assert set(top["ending"]["properties"]) == fields(Ending)
    assert set(top["digests"]["properties"]) == fields(Digests)
    assert set(top["usage"]["oneOf"][1]["properties"]) == fields(Usage)
    assert set(top["git"]["oneOf"][1]["properties"]) == fields(Revision)
    for name, kind in (("kept", Kept), ("missing", MissingPart), ("refused", RefusedName)):
        assert set(top[name]["items"]["properties"]) == fields(kind)


def test_a_later_index_of_the_same_format_can_be_read() -> None:
    body = {**json.loads(FULL.to_json()), "format_version": "1.7", "later": 1}
    assert Index.from_json(json.dumps(body).encode()) == FULL


def test_an_index_of_the_first_format_is_read() -> None:
    body = json.loads(FULL.to_json())
    for key in ("tool_version", "git", "job"):
        del body[key]
    body["format_version"] = "1.0"
    jsonschema.Draft202012Validator(SCHEMA).validate(body)
    read = Index.from_json(json.dumps(body).encode())
    assert (read.tool_version, read.git, read.job, read.kept) == ("", None, None, FULL.kept)


def test_bytes_of_a_name_that_are_not_text_survive() -> None:
    odd = structs.replace(FULL, missing=(MissingPart(part="logs", reason="\udcff: no such file"),))
    assert Index.from_json(odd.to_json()) == odd


@pytest.mark.parametrize("data", [b"", b"[]", b"{}", b'{"format_version": "1.0"}', b"\xff", b"null", b"[" * 100_000])
def test_what_is_no_index_is_an_error(data: bytes) -> None:
    with pytest.raises(EvidenceError, match="not an evidence index"):
        Index.from_json(data)


def test_another_format_is_an_error_that_says_so() -> None:
    body = {**json.loads(FULL.to_json()), "format_version": "2.0"}
    with pytest.raises(EvidenceError, match=r"has format 2\.0, this sandboxrun reads 1\.1"):
        Index.from_json(json.dumps(body).encode())


@pytest.mark.parametrize("name", ["x", ",", "\u00e9" * 512, "," * 1024])
def test_an_index_can_be_read_whatever_names_it_has_room_for(name: str) -> None:
    kept = Kept(path=name, sha256="0" * 64, bytes=1 << 60)
    refused = RefusedName(part="artifact /x", path=name, reason="a name with an empty or dot component")
    full = structs.replace(
        FULL,
        kept=(kept,) * (ROOM // room_of(name)),
        refused=(refused,) * min(1_000, ROOM_FOR_REFUSED // room_of(name)),
    )
    assert Index.from_json(full.to_json()) == full


@pytest.mark.parametrize("data", [b" " * (41 << 20), b"[%s]" % (b'"",' * 600_000)])
def test_an_index_that_takes_too_much_memory_is_refused(data: bytes) -> None:
    with pytest.raises(EvidenceError, match="is larger than 40 MiB or has more than 524288 values"):
        Index.from_json(data)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=8),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(st.characters(), max_size=4), inner),
        max_leaves=12,
    )
)
def test_indented_json_is_what_the_standard_library_makes(value: Any) -> None:
    assert indented(value) == json.dumps(value, indent=2) + "\n"
    plain = json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
    assert indented(value, sort_keys=True, ensure_ascii=False) == plain
