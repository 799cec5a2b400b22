"""The egress gateway beside squid, both between two network namespaces with the same rules, client and host.

Owns their setting up. Both check the destination's name and resolve it themselves; squid does not look into tunnels,
and has to be asked for each.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from msgspec import structs

from benchmarks.table import Result, compared
from benchmarks.timing import BenchmarkError, Program, in_turns
from benchmarks.traffic import HOST
from benchmarks.world import HERE, World
from sandboxrun.data import Data
from sandboxrun.gateway.image import build_context
from sandboxrun.gateway.rules import rules_document
from sandboxrun.spec.option_types import Egress
from scripts import haproxy, system
from scripts.spaces import Space, impossible

SERVER = "198.41.0.10"  # public by its number; it stands in a namespace of this run
PORTS = {"gateway": 0, "squid": 3129}  # 0: those of the hosts
TARGETS = {"plain": 1.3}  # each request's name is resolved and its address judged again
READY_SECONDS = 20.0
_LIBRARIES = ("libecap3", "libltdl7")  # of squid's, those that a machine without it mostly lacks
_SQUID = """\
http_port 127.0.0.1:{port}
acl allowed dstdomain {host}
acl inside dst 127.0.0.0/8 10.0.0.0/8 169.254.0.0/16 172.16.0.0/12 192.168.0.0/16
acl ports port 443 80
http_access deny inside
http_access allow allowed ports
http_access deny all
dns_nameservers {server}
cache deny all
access_log stdio:{folder}/access.log squid
cache_log /dev/null
pid_filename none
coredump_dir {folder}
workers 1
pinger_enable off
shutdown_lifetime 0 seconds
cache_mem 8 MB
"""


class Proxy(Data):
    """A running gateway or proxy, and how long it took to take connections."""

    name: str
    process: subprocess.Popen[bytes]
    ready: float

    @property
    def port(self) -> int:
        """Where it is asked on loopback."""
        return PORTS[self.name]

    @property
    def cpu(self) -> float:
        """Seconds of CPU so far."""
        return sum(int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) for pid in self._processes) / 1e9

    @property
    def memory(self) -> int:
        """Resident bytes of its own."""
        return sum(
            int(line.split()[1]) * 1024
            for pid in self._processes
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
            if line.startswith("Private_")
        )

    @property
    def _processes(self) -> list[int]:
        pid = self.process.pid
        return [pid, *map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())]


def gateway(world: World, count: int, rounds: int) -> Iterator[Result]:
    """Tunnels, plain requests and bulk, one after the other and side by side."""
    if reason := impossible():
        print(f"the gateway is not measured: {reason}", file=sys.stderr)
        return
    try:
        haproxy.ensure()
        squids = _squid(world)
    except SystemExit as error:  # no such package here
        print(f"the gateway is not measured: {error}", file=sys.stderr)
        return
    both = _ours(world), squids
    with _between() as inner, contextlib.ExitStack() as stack:
        starts = [tuple(_ready(world, inner, both)) for _ in range(rounds)]
        ready = [statistics.median(times) for times in zip(*starts, strict=True)]
        ours, squid = (stack.enter_context(_started(world, inner, what)) for what in both)
        for title, kind, number, side in (
            ("a tunnel and a ClientHello", "tunnel", count, 1),
            ("the same, 16 side by side", "tunnel", count, 16),
            ("a plain request", "plain", count, 1),
            ("plain requests on one connection", "kept", count, 1),
            ("64 MB through a tunnel", "bulk", 1, 1),
        ):
            yield from _compared(world, inner, (ours, squid), f"gateway: {title}", kind, number, side, rounds)
        yield _figure("gateway: until it takes connections", ready[0] * 1000, ready[1] * 1000, "ms")
        yield _figure("gateway: its own memory", ours.memory / 1e6, squid.memory / 1e6, "MB", target=1)


def _ready(world: World, inner: Space, both: Sequence[tuple[str, list[str], dict[str, str]]]) -> Iterator[float]:
    """How long each takes to take connections, started for this alone."""
    for what in both:
        with _started(world, inner, what) as proxy:
            yield proxy.ready


def _compared(
    world: World, inner: Space, proxies: Sequence[Proxy], title: str, kind: str, count: int, side: int, rounds: int
) -> Iterator[Result]:
    programs = [
        Program(
            name=f"{proxy.name}, {count}",
            argv=(*inner.command, sys.executable, str(HERE / "traffic.py"),
                  "load", str(proxy.port), kind, str(count), str(side)),
            env=world.env,
            directory=world.folder,
        )
        for proxy in proxies
    ]  # fmt: skip
    before = [proxy.cpu for proxy in proxies]
    ours, squid = in_turns(programs, rounds)
    used = [proxy.cpu - earlier for proxy, earlier in zip(proxies, before, strict=True)]
    result = compared(title, ours, squid, TARGETS.get(kind, 1.0))
    yield structs.replace(result, cpu=used[0] / used[1] if used[1] else None)


def _figure(measure: str, ours: float, squids: float, unit: str, target: float | None = None) -> Result:
    return Result(
        measure=measure, a="gateway", a_ms=ours, b="squid", b_ms=squids, ratio=ours / squids, target=target, unit=unit
    )


@contextlib.contextmanager
def _between() -> Iterator[Space]:
    """The namespace of proxies and client; beside it one with the host."""
    with Space() as inner, Space() as outer:
        inner.ip("link", "add", "out", "type", "veth", "peer", "name", "in", "netns", str(outer.pid))
        for space, name, address in ((inner, "out", "10.77.0.1/30"), (outer, "in", "10.77.0.2/30")):
            space.ip("addr", "add", address, "dev", name)
            space.ip("link", "set", name, "up")
        inner.ip("route", "add", "default", "via", "10.77.0.2")
        outer.ip("addr", "add", f"{SERVER}/32", "dev", "lo")
        command = [*outer.command, sys.executable, str(HERE / "traffic.py"), "serve", SERVER]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as host:
            try:
                assert host.stdout is not None and host.stdout.readline() == b"ready\n"
                yield inner
            finally:
                host.kill()


def _ours(world: World) -> tuple[str, list[str], dict[str, str]]:
    """The program as its image has it."""
    import io
    import tarfile

    folder = world.folder / "gateway"
    with tarfile.open(fileobj=io.BytesIO(build_context("x"))) as tar:
        tar.extractall(folder, filter="data")
    (home,) = folder.glob("usr/lib/*")
    subprocess.run(
        [sys.executable, "-I", "-m", "compileall", "-q", "--invalidation-mode", "unchecked-hash", str(home)], check=True
    )
    egress = Egress(allow=(f"{HOST}:443", f"{HOST}:80"), resolvers=(SERVER,))
    rules = folder / "rules.json"
    rules.write_bytes(rules_document(egress, sandbox="bench", run="r", records=1 << 40))
    (folder / "run").mkdir()
    # Debian's Python where there is one: what the image is built on, and not what this process happens to run on
    python = "/usr/bin/python3" if Path("/usr/bin/python3").exists() else sys.executable
    command = [python, "-I", "-S", "-B", str(home), "serve", "--at", "127.0.0.1", "--rules", str(rules)]
    return "gateway", [*command, "--run", str(folder / "run")], {"PATH": haproxy.PATH}


def _squid(world: World) -> tuple[str, list[str], dict[str, str]]:
    """squid, from the system's package; it runs as a user of its own."""
    folder = world.folder / "squid"
    folder.mkdir()
    program, libraries = system.program("squid"), ""
    if program is None:
        root = system.unpacked("squid")
        program = str(root / "usr/sbin/squid")
        found = [path for name in _LIBRARIES for path in system.unpacked(name).rglob("lib*.so.*")]
        libraries = os.pathsep.join(sorted({str(path.parent) for path in found}))
        (folder / "errors").mkdir()  # its texts are in a package of their own; no error is asked for here
        mime = next(system.unpacked("squid-common").rglob("mime.conf"))
        extra = f"error_directory {folder}/errors\nmime_table {mime}\nicon_directory {folder}\n"
        extra += f"unlinkd_program {next(root.rglob('unlinkd'))}\n"
    else:
        extra = ""
    config = folder / "squid.conf"
    config.write_text(_SQUID.format(port=PORTS["squid"], host=HOST, server=SERVER, folder=folder) + extra)
    for path in (world.folder, folder):
        path.chmod(0o777)
    return "squid", [program, "-N", "-f", str(config)], {"LD_LIBRARY_PATH": libraries} if libraries else {}


@contextlib.contextmanager
def _started(world: World, inner: Space, what: tuple[str, list[str], dict[str, str]]) -> Iterator[Proxy]:
    """Start a proxy and wait until it takes connections."""
    name, command, env = what
    for left in (world.folder / name / "run").glob("*"):  # of the one before
        shutil.rmtree(left) if left.is_dir() else left.unlink()
    records = world.folder / f"{name}.records"
    began = time.perf_counter()
    with records.open("wb") as output:
        # the process that is started becomes the proxy: nsenter replaces itself
        process = subprocess.Popen(
            [*inner.command, *command], stdout=output, stderr=subprocess.STDOUT, env={**world.env, **env}
        )
    try:
        ready = _until_ready(inner, name, process, began, records)
        yield Proxy(name=name, process=process, ready=ready)
    finally:
        process.terminate()
        process.wait()


def _until_ready(inner: Space, name: str, process: subprocess.Popen[bytes], began: float, records: Path) -> float:
    while time.perf_counter() - began < READY_SECONDS and process.poll() is None:
        with contextlib.suppress(OSError):
            inner.connect("127.0.0.1", PORTS[name] or 443).close()
            return time.perf_counter() - began
        time.sleep(0.002)
    raise BenchmarkError(f"{name} does not take connections: {records.read_text(errors='replace')[-1000:]}")
