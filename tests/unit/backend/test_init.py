"""The init of sandboxes with a timeout: its files, that they are what the source gives, what it is told, read back."""

from __future__ import annotations

import stat
import struct
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from sandboxrun.backend.docker.codec import decode, encode, state_of
from sandboxrun.backend.docker.fields import held_by_init
from sandboxrun.backend.docker.making import init_program
from sandboxrun.backend.docker.reviewing import subject_of
from sandboxrun.plan.preflight import needs_watcher, watched_timeouts
from sandboxrun.spec.names import Names
from sandboxrun.spec.records import Lifetime
from sandboxrun.spec.spec import SandboxSpec
from sandboxrun.spec.state import Ended, History, How, ImageConfig, Offers, StoppedBy, decide, without_inherited
from sandboxrun.spec.types import SECOND
from scripts import probe
from tests.unit.plan.world import declared

NAMES = Names(project="review")
VOLUME = "sandboxrun-init-0123456789abcdef-0123456789abcdef"
IMAGE = ImageConfig(id="sha256:" + "1" * 64, entrypoint=("/entry", "-x"), command=("serve",))
BARE = ImageConfig(id="sha256:" + "2" * 64)
OFFERS = Offers(api_version="1.51", architecture="x86_64", default_runtime="runc")


def timed(**options: Any) -> SandboxSpec:
    return SandboxSpec(image="node:20", network_mode="none", lifetime=Lifetime(timeout=90 * SECOND), **options)


def shown(body: dict[str, Any], **more: Any) -> dict[str, Any]:
    """The engine's answer about what was made with `body`."""
    mounts = [
        {"Type": m["Type"], "Name": m["Source"], "Destination": m["Target"], "RW": not m["ReadOnly"]}
        for m in body["HostConfig"].get("Mounts", ())
    ]
    config = {key: value for key, value in body.items() if key != "HostConfig"}
    return {"Id": "a" * 64, "Name": "/x", "Config": config, "HostConfig": body["HostConfig"], "Mounts": mounts, **more}


def made(spec: SandboxSpec, image: ImageConfig = IMAGE) -> dict[str, Any]:
    return encode(spec, name="x", names=NAMES, own_labels={}, image=image, init_volume=VOLUME)


# -- the files ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["x86_64", "aarch64"])
def test_the_file_needs_nothing(name: str) -> None:
    data = init_program(name)
    assert data[:5] == b"\x7fELF\x02"
    kind, machine = struct.unpack_from("<HH", data, 16)
    assert (kind, machine) == (2, {"x86_64": 62, "aarch64": 183}[name])
    at, size, count = struct.unpack_from("<Q", data, 32)[0], *struct.unpack_from("<HH", data, 54)
    segments = [struct.unpack_from("<I", data, at + i * size)[0] for i in range(count)]
    assert not {2, 3} & set(segments)  # neither a dynamic section nor an interpreter
    assert len(data) < 16 * 1024


@pytest.mark.parametrize("name", ["x86_64", "aarch64"])
def test_the_file_is_what_the_source_gives(name: str, tmp_path: Path) -> None:
    version = probe.compiler_version(name)
    if version is None or version != probe.recorded("init")[name]:
        pytest.skip(f"not the compiler that made it: {version}")
    probe.build(name, tmp_path / "built", "init")
    assert (tmp_path / "built").read_bytes() == init_program(name), "run `make probe`"


def test_it_runs_as_pid_1_only(tmp_path: Path) -> None:
    path = tmp_path / "init"
    path.write_bytes(init_program("x86_64"))
    path.chmod(stat.S_IXUSR | stat.S_IRUSR)
    ran = subprocess.run([path, "timeout=1", "grace=1", "--", "true"], capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stderr) == (125, "sandboxrun: init: it must be PID 1 of a sandbox\n")


# -- what it is told, and read back ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "entrypoint", "command"),
    [
        ({}, ["/entry", "-x"], ["serve"]),
        ({"command": ("a", "b")}, ["/entry", "-x"], ["a", "b"]),
        ({"command": ()}, ["/entry", "-x"], []),
        ({"entrypoint": ("/other",)}, ["/other"], []),
        ({"entrypoint": ("/other",), "command": ("a",)}, ["/other"], ["a"]),
        ({"entrypoint": ()}, [], ["serve"]),
        ({"entrypoint": (), "command": ("a",)}, [], ["a"]),
    ],
)
def test_entry_point_and_command_are_as_without_it(
    options: dict[str, Any], entrypoint: list[str], command: list[str]
) -> None:
    spec = timed(stop_grace_period=3 * SECOND, **options)
    body = made(spec)
    told = ["/.sandboxrun/init", f"timeout={90 * SECOND}", f"grace={3 * SECOND}", "--"]
    assert (body["Entrypoint"], body["Cmd"]) == ([*told, *entrypoint], command)
    assert body["HostConfig"]["Init"] is False
    live = decode(shown(body), NAMES, spec)
    assert (live.init, live.lifetime, live.volumes) == (True, spec.lifetime, ())
    less = without_inherited(live, IMAGE)
    want = without_inherited(spec, IMAGE)
    assert (less.entrypoint or (), less.command) == (want.entrypoint or (), want.command)


def test_an_engine_says_by_itself_that_there_is_no_command() -> None:
    body = made(timed(), BARE)
    assert "Entrypoint" not in body and body["HostConfig"]["Init"] is True


def test_a_review_sees_the_sandboxs_own() -> None:
    subject = subject_of(shown(made(timed(command=("a", "b")))), {})
    assert (subject.entrypoint, subject.command, subject.mounts) == (("/entry", "-x"), ("a", "b"), ())


@pytest.mark.parametrize("change", ["writable", "elsewhere", "gone", "told"])
def test_what_is_not_as_it_was_made_does_not_count(change: str) -> None:
    spec = timed(command=("a",))
    answer = shown(made(spec))
    if change == "writable":
        answer["Mounts"][0]["RW"] = True
    elif change == "elsewhere":
        answer["Mounts"][0]["Name"] = "somebodys"
    elif change == "gone":
        answer["Mounts"] = []
    else:
        answer["Config"]["Entrypoint"][1] = "timeout=1e9"
    assert held_by_init(answer) is None
    live = decode(answer, NAMES, spec)
    assert live.lifetime.timeout is None  # the read-back refuses it


def test_the_engines_answer_says_which_timeout_holds() -> None:
    spec = timed(command=("a",))
    answer = shown(made(spec), State={"Status": "exited", "ExitCode": 124, "StartedAt": "2026-01-01T00:00:00Z"})
    state = state_of(answer)
    assert isinstance(state, Ended) and state.limit == 90
    recorded = SandboxSpec(image="node:20", network_mode="none", lifetime=Lifetime(timeout=5 * SECOND, ttl=SECOND))
    assert decode(answer, NAMES, recorded).lifetime == Lifetime(timeout=90 * SECOND, ttl=SECOND)


# -- how it ended ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "ran", "limit", "how"),
    [
        (124, 90.0, 90.0, How.TIMEOUT),
        (124, 95.0, 90.0, How.TIMEOUT),
        (124, 88.5, 90.0, How.TIMEOUT),
        (124, 60.0, 90.0, How.FAILED),
        (124, 1.2, 2.0, How.TIMEOUT),
        (124, 0.2, 2.0, How.FAILED),
        (124, -3000.0, 90.0, How.FAILED),  # the clock was set back
        (0, 90.0, 90.0, How.EXITED),
        (143, 90.0, 90.0, How.FAILED),
        (124, 90.0, None, How.FAILED),
    ],
)
def test_code_and_times_must_agree(code: int, ran: float, limit: float | None, how: How) -> None:
    started = datetime(2026, 1, 1, 10, tzinfo=UTC)
    finished = started + timedelta(seconds=ran)
    state = Ended(exit_code=code, oom=False, started=started, finished=finished, limit=limit)
    history = History(started=True, died=True)
    assert decide(state, stopped_by=StoppedBy.ITSELF, watched=True, history=history).how is how
    if how is How.TIMEOUT:  # whoever asks, and when
        assert decide(state, history=History(known=False)).how is how
        assert decide(state, stopped_by=StoppedBy.TIMEOUT, history=history).how is how


# -- where it can't be used -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "offers", "why"),
    [
        ({}, {}, ""),
        ({"runtime": "crun"}, {}, ""),
        ({"init": False}, {}, "init is false, so its command is PID 1"),
        ({"restart": "on-failure:3"}, {}, "with restart: on-failure:3 every start would have the whole time again"),
        ({"cap_add": ("CHOWN", "SYS_PTRACE")}, {}, "with SYS_PTRACE it could stop its PID 1"),
        ({"runtime": "runsc"}, {}, "sandboxrun's init is not tested under the runtime runsc"),
        ({}, {"default_runtime": "kata"}, "sandboxrun's init is not tested under the runtime kata"),
        ({}, {"podman": True}, "sandboxrun's init is not tested under Podman"),
        ({}, {"architecture": "riscv64"}, "sandboxrun's init is not built for riscv64"),
    ],
)
def test_where_a_timeout_needs_a_watcher(options: dict[str, Any], offers: dict[str, Any], why: str) -> None:
    found = structs.replace(OFFERS, **offers)
    assert needs_watcher(timed(**options), found) == why
    assert needs_watcher(SandboxSpec(image="node:20", **options), found) == ""
    one = structs.replace(declared("a", image="node:20"), spec=timed(**options))
    told = [d.message for d in watched_timeouts([one], found)]
    assert told == ([f"a: timeout needs a watcher here: {why}"] if why else [])
