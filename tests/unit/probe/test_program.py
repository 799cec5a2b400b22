"""The program itself: its files, that they are what the source gives, what it is told, and that it does as told."""

from __future__ import annotations

import shutil
import ssl
import stat
import struct
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from sandboxrun.probe.network import client_hello, question, requests
from sandboxrun.probe.program import (
    ProbeError,
    architecture,
    arguments,
    command,
    complete,
    parse,
    program,
    swap,
    taken_memory,
)
from sandboxrun.probe.verdicts import Phase, Seen
from sandboxrun.spec.option_types import CLOSED, PUBLIC, Egress
from sandboxrun.spec.records import Attachment, Ulimit
from sandboxrun.spec.types import freeze
from scripts import probe
from tests.unit.probe.seeing import context

MIB = 1 << 20
HERE = "x86_64"
INITIAL_PIDS = "pid:[4026531836]"


def run(argv: Sequence[str | Path], *told: str) -> tuple[int, Seen]:
    """Run a program; its exit code and what it printed."""
    ran = subprocess.run([*argv, *told], capture_output=True, timeout=60, check=False)
    return ran.returncode, parse(ran.stdout)


@pytest.fixture(params=["x86_64", "aarch64"])
def runnable(request: pytest.FixtureRequest) -> list[str | Path]:
    """The command that runs the program of an architecture here."""
    path = program(request.param)
    machine = subprocess.run(["uname", "-m"], capture_output=True, text=True, check=True).stdout.strip()
    if machine == request.param:
        return [path]
    emulator = shutil.which(f"qemu-{request.param}-static") or shutil.which(f"qemu-{request.param}")
    if emulator is None:
        pytest.skip(f"neither this machine nor an emulator runs {request.param}")
    return [emulator, path]


# -- the files ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["x86_64", "aarch64"])
def test_the_file_needs_nothing(name: str) -> None:
    data = program(name).read_bytes()
    assert data[:5] == b"\x7fELF\x02"
    kind, machine = struct.unpack_from("<HH", data, 16)
    assert (kind, machine) == (2, {"x86_64": 62, "aarch64": 183}[name])  # at a fixed place, for that machine
    at, size, count = struct.unpack_from("<Q", data, 32)[0], *struct.unpack_from("<HH", data, 54)
    segments = [struct.unpack_from("<I", data, at + i * size)[0] for i in range(count)]
    assert 1 in segments
    assert not {2, 3} & set(segments)  # neither a dynamic section nor an interpreter
    assert len(data) < 64 * 1024
    assert program(name).stat().st_mode & stat.S_IXUSR


@pytest.mark.parametrize("name", ["x86_64", "aarch64"])
def test_the_file_is_what_the_source_gives(name: str, tmp_path: Path) -> None:
    version = probe.compiler_version(name)
    if version is None:
        pytest.skip(f"no compiler for {name}")
    probe.build(name, tmp_path / "built")
    if version == probe.recorded()[name]:
        assert (tmp_path / "built").read_bytes() == program(name).read_bytes(), "run `make probe`"
    elif name == HERE:
        for told in (["identify"], ["processes", "most=3"], ["memory", "bytes=8192"], ["nonsense"]):
            assert run([tmp_path / "built"], *told) == run([program(name)], *told)


def test_names_of_architectures() -> None:
    assert [architecture(name) for name in ("amd64", "x86_64", "arm64", "arm64/v8", "aarch64")] == [
        "x86_64",
        "x86_64",
        "aarch64",
        "aarch64",
        "aarch64",
    ]
    with pytest.raises(ProbeError) as error:
        program("riscv64")
    assert str(error.value) == (
        'error: there is no probe program for images of the architecture "riscv64"\n'
        "  help: it is built for aarch64 and x86_64"
    )


# -- what it does ---------------------------------------------------------------------------------------------------


def test_it_says_who_it_is(runnable: list[str | Path]) -> None:
    code, seen = run(runnable, "identify")
    assert code == 0
    assert int(seen["raised"]["uid"]) >= 0


def test_a_copy_of_it_shows_that_it_ran(runnable: list[str | Path]) -> None:
    assert run(runnable, "exit")[0] == 42


def test_it_forks_as_often_as_told_and_leaves_nobody(runnable: list[str | Path]) -> None:
    code, seen = run(runnable, "processes", "most=5")
    assert (code, seen["processes"], complete(seen)) == (0, {"made": "5", "last": "ok"}, True)


def test_it_takes_as_much_memory_as_told(runnable: list[str | Path]) -> None:
    code, seen = run(runnable, "memory", "bytes=1048576")
    assert (code, seen["memory"]["taken"], complete(seen)) == (0, "1048576", True)


def test_it_is_stubborn(runnable: list[str | Path]) -> None:
    process = subprocess.Popen([*runnable, "stubborn", "seconds=1"], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline().startswith(b"stubborn.begin")
    process.terminate()
    rest, _ = process.communicate(timeout=60)
    assert parse(rest)["stubborn"] == {"outlived": "yes"}
    assert process.returncode == 0


@pytest.mark.parametrize("told", [[], ["nonsense"], ["battery2"]])
def test_it_does_nothing_untold(runnable: list[str | Path], told: list[str]) -> None:
    assert run(runnable, *told) == (2, {})


@pytest.mark.skipif(str(Path("/proc/self/ns/pid").readlink()) != INITIAL_PIDS, reason="this is a container")
def test_it_tries_nothing_on_the_host(runnable: list[str | Path]) -> None:
    assert run(runnable, "battery", "weak=1") == (3, {})


# -- what it is told ------------------------------------------------------------------------------------------------


def told(phase: Phase = Phase.BATTERY, *, weak: bool = False, **changed: object) -> dict[str, list[str]]:
    """The arguments by key."""
    found: dict[str, list[str]] = {}
    name, *rest = arguments(phase, context(**changed), weak=weak)
    assert name == phase.value
    for argument in rest:
        key, _, value = argument.partition("=")
        found.setdefault(key, []).append(value)
    return found


def test_the_command_is_the_program_where_it_stands() -> None:
    argv = command(Phase.STUBBORN, context())
    assert argv == ("/run/configs/sandboxrun-probe", "stubborn", "seconds=8")


def test_the_battery_is_told_what_is_declared() -> None:
    found = told(hosts=("192.0.2.9",), neighbours=("10.231.0.11", "10.231.0.12"))
    assert found["weak"] == ["0"]
    assert found["tmpfs"] == ["67108864:/tmp", "67108864:/dev/shm"]
    assert found["noexec"] == ["/tmp"]
    assert (found["nofile"], found["core"], found["burn"]) == (["200"], ["0"], ["2"])
    assert (found["host"], found["neighbour"]) == (["192.0.2.9"], ["10.231.0.11", "10.231.0.12"])
    assert (found["secrets"], found["git"]) == (["/run/secrets"], ["/workspace/.git"])
    assert found["gateway"] == ["10.231.0.2"]
    assert found["names"] == ["1"]


def test_the_weak_one_has_places_of_its_own_and_no_gateway() -> None:
    found = told(weak=True)
    assert found["weak"] == ["1"]
    assert (found["secrets"], found["git"]) == (["/sandboxrun-weak/secrets"], ["/sandboxrun-weak/.git"])
    assert not {"gateway", "request"} & found.keys()


def test_what_is_not_there_is_not_looked_for() -> None:
    found = told(spec={"secrets": (), "workspace": None, "egress": CLOSED, "cpus": 0.0, "tmpfs": freeze({})})
    assert not {"secrets", "git", "burn", "request", "noexec"} & found.keys()
    assert found["tmpfs"] == ["67108864:/dev/shm"]


def test_name_servers_of_ones_own_networks_are_not_bothered() -> None:
    assert "names" not in told(spec={"egress": None, "networks": freeze({"team": Attachment()})})


def test_limits_without_bound_are_not_told() -> None:
    limits = freeze({"nofile": Ulimit(soft=-1, hard=-1)})
    assert not {"nofile", "core"} & told(spec={"ulimits": limits}).keys()


def test_what_uses_something_up_uses_little() -> None:
    large = context(spec={"mem_limit": 64 << 30, "pids_limit": 30000})
    assert arguments(Phase.MEMORY, large) == ("memory", f"bytes={96 * MIB}")
    assert arguments(Phase.PROCESSES, large) == ("processes", "most=96")
    small = context(spec={"mem_limit": 16 * MIB, "pids_limit": 10})
    assert arguments(Phase.MEMORY, small) == ("memory", f"bytes={48 * MIB}")
    assert arguments(Phase.PROCESSES, small) == ("processes", "most=42")


def test_swap_is_taken_as_well() -> None:
    with_swap = context(spec={"mem_limit": 16 * MIB, "memswap_limit": 24 * MIB})
    assert (swap(with_swap), taken_memory(with_swap)) == (8 * MIB, 56 * MIB)
    assert swap(context(spec={"mem_limit": 16 * MIB, "memswap_limit": -1})) is None


# -- what the gateway is asked --------------------------------------------------------------------------------------


def asked(egress: Egress, **changed: object) -> dict[str, list[str]]:
    """Kind and destination by group."""
    found: dict[str, list[str]] = {}
    for request in requests(context(spec={"egress": egress}, **changed)):
        found.setdefault(request.group, []).append(f"{request.kind} {request.host}:{request.port}")
    return found


def test_what_is_allowed_is_asked_for_in_every_way() -> None:
    name, tls, plain = "dns api.example.com:53", "tls api.example.com:443", "http api.example.com:80"
    assert asked(Egress(allow=("api.example.com:443",)))["allowed"] == [name, tls]
    assert asked(Egress(allow=("api.example.com:80",)))["allowed"] == [name, plain]
    assert asked(Egress(allow=("api.example.com:443", "api.example.com:80")))["allowed"] == [name, tls, plain]
    wild = "sandboxrun-probe.models.example.org"
    assert asked(Egress(allow=("*.models.example.org:8443",)))["allowed"] == [
        f"dns {wild}:53",
        f"tls {wild}:8443",
        f"http {wild}:8443",
    ]
    assert asked(PUBLIC)["allowed"] == ["dns example.com:53", "tls example.com:443", "http example.com:80"]
    assert requests(context(spec={"egress": CLOSED})) == ()


def test_a_port_whose_protocol_says_no_host_is_asked_by_name_alone() -> None:
    found = asked(Egress(allow=("ssh.example.com:22",)))
    assert found["allowed"] == ["dns ssh.example.com:53"]
    assert {one.partition(" ")[0] for group in found if group != "ports" for one in found[group]} == {"dns"}


def test_nothing_is_asked_in_vain_that_the_list_allows() -> None:
    found = asked(Egress(allow=("api.example.com:22", "api.example.com:443", "xapi.example.com:22")))
    assert "tls api.example.com:22" not in found["ports"] and "tls api.example.com:8443" in found["ports"]
    assert not [one for one in found["hosts"] if " xapi.example.com:" in one]
    assert "tls denied.sandboxrun.invalid:443" in found["hosts"] and "dns example.com:53" in found["hosts"]
    wild = asked(Egress(allow=("*.example.com:8080",)))
    assert not [one for one in wild["ports"] if one.endswith(":8080")]


def test_private_networks_that_are_opened_are_not_asked_in_vain() -> None:
    closed = asked(Egress(allow=("api.example.com:443",)), hosts=("192.0.2.9",))["private"]
    assert "tls 10.0.0.1:443" in closed and "tls 192.0.2.9:443" in closed
    opened = asked(Egress(allow=("api.example.com:443",), private_networks=("10.0.0.0/8",)))["private"]
    assert "tls 10.0.0.1:443" not in opened and "tls 192.168.0.1:443" in opened


def test_open_egress_refuses_what_is_not_public() -> None:
    found = asked(PUBLIC)
    groups = {"allowed", "ports", "metadata", "inner", "private", "addresses", "spelling", "host-field"}
    assert found.keys() == groups
    assert "tls example.com:8443" in found["ports"]
    assert not [one for one in asked(Egress(mode="open", ports=(8443,)))["ports"] if one.endswith(":8443")]


def test_a_question_and_a_hello() -> None:
    assert question("api.example.com.").hex() == (
        "0021534201000001000000000000" + "03617069076578616d706c6503636f6d00" + "00010001"
    )
    hello = client_hello("api.example.com")
    assert hello[:3] == b"\x16\3\1" and int.from_bytes(hello[3:5]) == len(hello) - 5
    assert hello[5] == 1 and int.from_bytes(hello[6:9]) == len(hello) - 9
    server = ssl.MemoryBIO()
    server.write(hello)
    wanted = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    names: list[str | None] = []
    wanted.sni_callback = lambda _, name, __: names.append(name)
    with pytest.raises(ssl.SSLError):  # it has no certificate
        wanted.wrap_bio(server, ssl.MemoryBIO(), server_side=True).do_handshake()
    assert names == ["api.example.com"]


def test_arguments_have_three_parts_and_fit() -> None:
    listed = Egress(allow=("*.models.example.org:8443", "api.example.com:443"))
    for given in (context(hosts=("192.0.2.9",)), context(spec={"egress": listed}), context(spec={"egress": PUBLIC})):
        for request in requests(given):
            assert request.argument.count("|") == 2
            assert len(request.argument) < 1400 and len(request.data) <= 600
            assert len(request.name) < 160
    many = tuple(f"192.0.2.{n}" for n in range(6))
    assert len(requests(context(hosts=many, spec={"egress": listed}))) <= 96
    assert (
        sum(request.kind == "dns" for request in requests(context(spec={"egress": Egress(allow=("a.b.c:22",))}))) <= 64
    )
