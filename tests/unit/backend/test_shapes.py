"""An engine, or what is before it, that answers with other JSON types, values or archives than it must: each is refused
by name, or read, and none is a bug."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from copy import deepcopy
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandboxrun.backend.docker import calls, looking
from sandboxrun.backend.docker.client import Archive, Engine, Stream
from sandboxrun.backend.docker.codec import (
    addresses_of,
    encode,
    image_config,
    observe,
    observe_companion,
    observe_network,
    observe_volume,
    read_document,
    taken_by,
)
from sandboxrun.backend.docker.facts import engine_facts
from sandboxrun.backend.docker.lock import claim_of
from sandboxrun.backend.docker.reviewing import subject_of
from sandboxrun.backend.errors import EngineError
from sandboxrun.errors import SandboxrunError
from sandboxrun.spec.names import Names
from sandboxrun.spec.option import OwnAddresses
from sandboxrun.spec.spec import SandboxSpec
from tests.unit.backend.test_facts import INFO, VERSION
from tests.unit.plan.world import profile
from tests.unit.spec.echo import as_inspect
from tests.unit.spec.values import specs

NAMES = Names(project="p")
ADDRESSES = OwnAddresses.of("10.231.0.8/29")
POOLS = {"DefaultAddressPools": [{"Base": "10.0.0.0/16", "Size": 24}]}
ID = "a" * 64
NETWORK = {
    "Id": ID,
    "Name": "bridge",
    "Created": "2026-01-01T00:00:00Z",
    "Internal": False,
    "Options": {"a": "b"},
    "IPAM": {"Config": [{"Subnet": "172.17.0.0/16", "Gateway": "172.17.0.1"}]},
    "Containers": {ID: {"Name": "x"}},
    "Labels": {"sandboxrun.project": "p"},
}
VOLUME = {"Name": "v", "CreatedAt": "2026-01-01T00:00:00Z", "Options": None, "Labels": {"sandboxrun.lock": "p"}}
LISTED = {
    "Id": ID,
    "Names": ["/x"],
    "State": "running",
    "ImageID": f"sha256:{ID}",
    "Labels": {"sandboxrun.role": "gateway"},
    "Mounts": [{"Type": "bind", "Source": "/a", "Destination": "/b", "RW": True}],
    "NetworkSettings": {"Networks": {"n": None}},
}
IMAGE = {
    "Id": f"sha256:{ID}",
    "RepoDigests": [f"a@sha256:{ID}"],
    "Config": {"Cmd": ["a"], "Env": ["A=b"], "Entrypoint": None, "Volumes": {"/v": {}}, "User": "1", "Labels": {}},
}
ANSWERS: dict[str, tuple[Any, calls.Shape, Callable[[Any], object]]] = {
    "version": (VERSION, calls.VERSION, lambda said: engine_facts(said, INFO, ())),
    "info": ({**INFO, **POOLS}, calls.INFO, lambda said: engine_facts(VERSION, said, ())),
    "networks": ([NETWORK], [calls.NETWORK], lambda said: (engine_facts(VERSION, INFO, said), taken_by(said))),
    "network": (NETWORK, calls.NETWORK, observe_network),
    "volume": (VOLUME, calls.VOLUME, lambda said: (observe_volume(said), claim_of(said))),
    "listed": (LISTED, calls.LISTED, lambda said: observe_companion(said, NAMES)),
    "image": (IMAGE, calls.IMAGE, image_config),
}
WRONG = (None, 5, -1, 10**30, 1.5, True, "", "x", "\ud800", [], [5], [None], ["x"], [[]], {}, {"x": 5}, {"x": None})


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The ways to all that is in an answer."""
    yield path
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, one in inner:
        yield from places(one, (*path, name))


def changed(value: Any, path: tuple[Any, ...], to: Any) -> Any:
    """The answer with that at the end of the way."""
    if not path:
        return to
    value = at = deepcopy(value)
    for name in path[:-1]:
        at = at[name]
    at[path[-1]] = to
    return value


def refused_or_read(answer: Any, shape: calls.Shape, read: Callable[[Any], object]) -> None:
    if isinstance(answer, list if isinstance(shape, list) else dict) and not calls.unfit(answer, shape):
        try:
            read(answer)
        except SandboxrunError as error:
            assert str(error)  # by name: nothing else may come out of it


def test_a_lock_that_the_engine_is_just_removing_is_old() -> None:
    claim = claim_of({**VOLUME, "CreatedAt": "0001-01-01T00:00:00Z"})
    assert claim.is_dead(lambda: datetime(2026, 1, 1, tzinfo=UTC))
    with pytest.raises(EngineError, match="reading a lock: the engine does not tell when it made the volume v"):
        claim_of({**VOLUME, "CreatedAt": ""})


@pytest.mark.parametrize("what", ANSWERS)
def test_whatever_is_in_an_answer_is_refused_or_read(what: str) -> None:
    answer, shape, read = ANSWERS[what]
    assert calls.unfit(answer, shape) == ""
    read(answer)
    for path in places(answer):
        for wrong in WRONG:
            refused_or_read(changed(answer, path, wrong), shape, read)


@given(specs, st.data())
def test_whatever_is_in_the_answer_about_a_container_is_refused_or_read(spec: SandboxSpec, data: st.DataObject) -> None:
    body = encode(spec, name="p-s", names=NAMES, own_labels={}, own_addresses=ADDRESSES)
    answer = as_inspect(body, spec, name="p-s", names=NAMES)
    assert calls.unfit(answer, calls.CONTAINER) == ""
    path = data.draw(st.sampled_from([*places(answer)]))

    def read(said: Any) -> None:
        observed = observe(said, NAMES, None)
        subject_of(said, {})
        read_document(said)
        addresses_of(said)
        assert observed.document is said

    refused_or_read(changed(answer, path, data.draw(st.sampled_from(WRONG))), calls.CONTAINER, read)


def test_whatever_an_engine_leaves_out_of_a_container_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Engine, "image_config", lambda self, reference: None)
    engine, spec = Engine(None), SandboxSpec(image="a", network_mode="none")  # type: ignore[arg-type]
    whole = as_inspect(encode(spec, name="p-s", names=NAMES, own_labels={}), spec, name="p-s", names=NAMES)
    for path in places(whole):
        for wrong in (None, "", "x", 0, False, [], {}) if path else ({},):
            answer = changed(whole, path, wrong)
            if calls.unfit(answer, calls.CONTAINER) or answer.get("Id", whole["Id"]) != whole["Id"]:
                continue  # such an answer is refused before anybody reads it
            monkeypatch.setattr(Engine, "inspect_container", lambda self, id, said=answer: said)
            engine._has_tty("a")
            engine.addresses("a")
            with suppress(SandboxrunError):
                looking.observe_one(engine, profile(), "a")


@pytest.mark.parametrize(
    ("value", "shape", "fault"),
    [
        ({"Components": 5}, calls.VERSION, "Components is not a list"),
        ({"Components": [None]}, calls.VERSION, "Components.0 is missing"),
        ({"HostConfig": {"Memory": "1g"}}, calls.CONTAINER, "HostConfig.Memory is not a whole number"),
        ({"HostConfig": {"Tmpfs": {"/a": 5}}}, calls.CONTAINER, "HostConfig.Tmpfs./a is not a text"),
        ({"State": []}, calls.CONTAINER, "State is not an object"),
        ([{"Name": "a"}, {}], [calls.VOLUME], "1.Name is missing"),
        ({"NetworkSettings": {"Networks": {"a": None}}, "Config": None, "Else": 5}, calls.CONTAINER, ""),
    ],
)
def test_the_fault_names_the_field(value: Any, shape: calls.Shape, fault: str) -> None:
    assert calls.unfit(value, shape) == fault


# -- A file out of a container


def tar_of(kind: bytes, content: bytes = b"") -> bytes:
    with tarfile.open(fileobj=(buffer := io.BytesIO()), mode="w") as tar:
        info = tarfile.TarInfo("passwd")
        info.size, info.type, info.linkname = len(content), kind, "elsewhere"
        tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def engine_sending(data: bytes, monkeypatch: pytest.MonkeyPatch) -> Engine:
    def get_archive(self: Engine, id: str, path: str) -> Archive:
        return Archive(stat={}, stream=Stream(iter([data[:700], data[700:]]), lambda: None))

    monkeypatch.setattr(Engine, "get_archive", get_archive)
    return Engine(None)  # type: ignore[arg-type]


WHOLE = tar_of(tarfile.REGTYPE, b"root:x:0:0\n" * 100)


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (WHOLE, b"root:x:0:0\n" * 100),
        (tar_of(tarfile.SYMTYPE), b""),
        (tar_of(tarfile.DIRTYPE), b""),
        (bytes(10240), b""),
        (b"", "reading /etc/passwd of container a: the engine's tar: the stream ends in the middle of the archive"),
        (WHOLE[:700], "the stream ends in the middle of the archive"),
        (b"x" * 10240, "a number that is not one"),
        (WHOLE[:90] + b"x" + WHOLE[91:], "a header's checksum is wrong"),
    ],
)
def test_a_file_whose_archive_is_none(data: bytes, found: bytes | str, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = engine_sending(data, monkeypatch)
    if isinstance(found, bytes):
        assert engine.read_file("a", "/etc/passwd", most=1 << 20) == found
    else:
        with pytest.raises(EngineError, match=found):
            engine.read_file("a", "/etc/passwd", most=1 << 20)
    if data:
        assert engine.read_file("a", "/etc/passwd", most=5) is None


@given(st.binary(max_size=1200), st.integers(0, len(WHOLE)))
def test_a_file_out_of_any_bytes(data: bytes, at: int) -> None:
    with pytest.MonkeyPatch.context() as patched:
        engine = engine_sending(WHOLE[:at] + data + WHOLE[at + len(data) :], patched)
        try:
            assert isinstance(engine.read_file("a", "/etc/passwd", most=1 << 20), bytes)
        except EngineError:
            return
