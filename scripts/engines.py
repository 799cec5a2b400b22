"""The engine tests on newer engines than the machine's own: `make test-engines ENGINES="docker-28 podman-5"`.

Usage: python -m scripts.engines [NAME...] [-- PYTEST ARGUMENT...]

Each engine comes from packages of a newer Debian, unpacked as a system of its own below `.cache/engines`; it runs on
that system's programs (see enter.py), its own state below SANDBOXRUN_DEV_STATE, in a network namespace of its own, in
which the tests run too: their loopback is the engine's. Started here, stopped here, by its id; whatever a run that was
killed left is removed by the next. The images are those of the machine's own engine.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from types import MappingProxyType
from typing import ClassVar
from xml.etree import ElementTree

import docker

from sandboxrun.gateway.image import reference
from scripts import debian, engine, image, system
from scripts.daemon import Daemon, DaemonError
from scripts.enter import NAME_SERVER

FOLDER = system.CACHE / "engines"
STATE = engine.OURS.root / "engines"
ENTER = Path(__file__).with_name("enter.py")
# A mirror's copy of sid may be older than the week for which its signature is valid.
_STALE = '--aptopt=Acquire::Check-Valid-Until "false"'


@dataclasses.dataclass(frozen=True, kw_only=True)
class Kind:
    """Where an engine comes from: the suite, its packages, whether it is Podman; and what is tested on it."""

    suite: str
    packages: tuple[str, ...]
    podman: bool = False
    options: tuple[str, ...] = ()
    tests: tuple[str, ...] = ("tests/engine", "tests/attacks")


_DOCKER = ("docker.io", "iptables", "ca-certificates", "procps")  # it lists processes by ps
_PODMAN = ("podman", "catatonit", "crun", "netavark", "aardvark-dns", "nftables")
KINDS: Mapping[str, Kind] = MappingProxyType(
    {
        "docker-26": Kind(suite="trixie", packages=(*_DOCKER, *_PODMAN)),
        "docker-28": Kind(suite="sid", packages=_DOCKER),
        # Images in containerd's own store, as Docker 29 has them where it is installed afresh.
        "docker-28-containerd": Kind(suite="sid", packages=_DOCKER, options=("--feature=containerd-snapshotter=true",)),
        # A plan refuses it, so that no more than what it is refused for can be tested.
        "podman-5": Kind(
            suite="trixie", packages=(*_DOCKER, *_PODMAN), podman=True, tests=("tests/engine/test_controls.py",)
        ),
    }
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Podman(Daemon):
    """Podman's service of the Docker API. What it starts names the same folder, so it is found by it."""

    programs: ClassVar[tuple[str, ...]] = ("podman", "conmon", "netavark", "aardvark-dns")

    def _command(self) -> list[str]:
        return [
            "env", f"CONTAINERS_CONF={self.root}/containers.conf",
            "podman", f"--root={self.root}/data", f"--runroot={self.root}/exec", "--cgroup-manager=cgroupfs",
            "system", "service", "--time=0", self.endpoint,
        ]  # fmt: skip

    def _spawn(self) -> subprocess.Popen[bytes]:
        (self.root / "containers.conf").write_text(_containers_conf(self.root))
        process = super()._spawn()
        self._pidfile.write_text(str(process.pid))
        return process


def _containers_conf(root: Path) -> str:
    """Without default limits Podman takes the most that the kernel has, and fails where that is not allowed."""
    files, processes = (resource.getrlimit(which)[1] for which in (resource.RLIMIT_NOFILE, resource.RLIMIT_NPROC))
    return f"""\
[containers]
default_ulimits = ["nofile={files}:{files}", "nproc={processes}:{processes}"]
log_driver = "k8s-file"

[engine]
events_logger = "file"
events_logfile_path = "{root}/events.log"
tmp_dir = "{root}/tmp"
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Result:
    """How the tests on one engine ended; `failures` are pairs of a test and what it said."""

    name: str
    version: str
    api: str
    passed: int
    failed: int
    skipped: int
    failures: tuple[tuple[str, str], ...]


@contextlib.contextmanager
def running(name: str) -> Iterator[Daemon]:
    """The engine of this name, started; gone after it. Raises DaemonError."""
    kind = KINDS[name]
    root = system_root(kind)
    state = STATE / name
    with system.locked(STATE / f"{name}.lock"):
        daemon = _daemon(kind, root, state)
        _remove(daemon)  # of a run that was killed
        try:
            system.say(f"Starting {name}, its files in {state}")
            daemon.start()
            yield daemon
        finally:
            _remove(daemon)


def system_root(kind: Kind) -> Path:
    """The folder with the engine's system, made where it is missing."""
    wanted = hashlib.sha256(" ".join(kind.packages).encode()).hexdigest()[:8]
    target = FOLDER / f"{kind.suite}-{wanted}"
    with system.locked(FOLDER / "lock"):
        if not target.exists():
            system.say(f"Making a system of Debian {kind.suite} with {', '.join(kind.packages)}: about a minute")
            fresh = target.with_name(f"{target.name}.new")
            shutil.rmtree(fresh, ignore_errors=True)
            if wrong := debian.bootstrap(fresh, debian.sources_of(kind.suite), kind.packages, _STALE):
                system.fail(f"{wrong}the system of {kind.suite} could not be made; its output is above")
            fresh.rename(target)
    return target


def _daemon(kind: Kind, root: Path, state: Path) -> Daemon:
    enter = [sys.executable, str(ENTER), str(root), str(state / "scratch")]
    # Podman takes a control group of version 2 beside those of version 1 for a host of version 2.
    unified = Path("/sys/fs/cgroup/unified")
    if kind.podman and unified.is_mount():
        enter += ["--without", str(unified)]
    made = Podman if kind.podman else Daemon
    return made(root=state, socket=state / "engine.sock", enter=(*enter, "--"), options=kind.options)


def _remove(daemon: Daemon) -> None:
    daemon.stop()
    if daemon.root.exists():
        shutil.rmtree(daemon.root)


def load_images(daemon: Daemon) -> None:
    """Put the images that the machine's own engine has from here onto this one."""
    with contextlib.closing(engine.client(timeout=600)) as source, contextlib.closing(_client(daemon)) as target:
        tags = [t for t in (image.AGENT, image.BUSYBOX, image.HAPROXY, reference()) if image.present(source, t)]
        system.say(f"Loading {', '.join(tags)}")
        for tag in tags:
            target.images.load(source.images.get(tag).save(named=tag))


# A way out, as any machine has one, and the address of a name server that refuses (see enter.py): one that never
# answers would be waited for.
_OUTSIDE = (
    "link add name out0 type veth peer name out1",
    f"address add {NAME_SERVER}/24 dev out0",
    "link set dev out0 up",
    "link set dev out1 up",
    "route add default via 198.51.100.1",
)


def give_outside(daemon: Daemon) -> None:
    """Let the engine's network namespace have what a machine has."""
    for words in _OUTSIDE:
        subprocess.run(["nsenter", f"--net=/proc/{daemon.pid}/ns/net", "ip", *words.split()], check=True)


def _client(daemon: Daemon) -> docker.DockerClient:
    return docker.DockerClient(base_url=daemon.endpoint, version="auto", timeout=600)


def _fetch() -> None:
    """What tests take from packages: in an engine's own network they could not."""
    for package in ("busybox-static", "docker-registry"):
        system.unpacked(package)
    # Not every Debian has gVisor, or these versions of clients; the tests say so.
    for package in ("runsc", *chain.from_iterable(system.CLIENTS.values())):
        with contextlib.suppress(SystemExit):
            system.unpacked(package)


def tests(name: str, daemon: Daemon, arguments: Sequence[str]) -> Result:
    """Run the engine tests in the engine's network namespace. Their output goes to a file as well as here."""
    with contextlib.closing(_client(daemon)) as client:
        told = client.version()
    version, api = str(told["Version"]), str(told["ApiVersion"])
    system.say(f"Testing {name}: version {version}, API {api}")
    report = FOLDER / f"{name}.xml"
    report.unlink(missing_ok=True)
    dropped = ("DOCKER_SOCKET", "DOCKER_CONTEXT", "DOCKER_TLS_VERIFY", "DOCKER_TLS", "DOCKER_CERT_PATH")
    environment = {k: v for k, v in os.environ.items() if k not in dropped} | {"DOCKER_HOST": daemon.endpoint}
    # The engines that tests start themselves are of the same kind.
    environment["SANDBOXRUN_DEV_SYSTEM"] = str(system_root(KINDS[name]))
    command = [
        "nsenter", f"--net=/proc/{daemon.pid}/ns/net", "--",
        sys.executable, "-m", "pytest", *KINDS[name].tests, f"--junitxml={report}",
        *arguments,
    ]  # fmt: skip
    subprocess.run(command, cwd=system.REPOSITORY, env=environment, stdin=subprocess.DEVNULL, check=False)
    return _result(name, version, api, report)


def _result(name: str, version: str, api: str, report: Path) -> Result:
    if not report.exists():
        nothing = (("pytest", "ended without a report"),)
        return Result(name=name, version=version, api=api, passed=0, failed=1, skipped=0, failures=nothing)
    cases = list(ElementTree.parse(report).getroot().iter("testcase"))
    failures = [
        (_title(case), _said(wrong)) for case in cases for wrong in (*case.iter("failure"), *case.iter("error"))
    ]
    skipped = sum(case.find("skipped") is not None for case in cases)
    failed = len({title for title, _ in failures})
    return Result(
        name=name, version=version, api=api, passed=len(cases) - failed - skipped, failed=failed, skipped=skipped,
        failures=tuple(failures),
    )  # fmt: skip


def _title(case: ElementTree.Element) -> str:
    return f"{case.get('classname', '').rpartition('.')[2]}::{case.get('name', '')}"


def _said(wrong: ElementTree.Element) -> str:
    return " ".join((wrong.get("message") or wrong.text or "").split())[:400]


def table(results: Sequence[Result]) -> str:
    """What is printed at the end."""
    rows = [("ENGINE", "VERSION", "API", "PASSED", "FAILED", "SKIPPED")]
    rows += [(r.name, r.version, r.api, str(r.passed), str(r.failed), str(r.skipped)) for r in results]
    widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))]
    lines = ["  ".join(word.ljust(width) for word, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    lines += [f"{result.name}: {title}: {said}" for result in results for title, said in result.failures]
    totals = [sum(counts) for counts in zip(*((r.passed, r.failed, r.skipped) for r in results), strict=True)]
    return "\n".join([*lines, "{} passed, {} failed, {} skipped".format(*totals)])


def main(arguments: list[str]) -> None:
    """Test the named engines, or all; ends with 1 where a test failed."""
    split = arguments.index("--") if "--" in arguments else len(arguments)
    names, further = arguments[:split] or list(KINDS), arguments[split + 1 :]
    if unknown := [name for name in names if name not in KINDS]:
        system.fail(f"no engine is called {', '.join(unknown)}; there are {', '.join(KINDS)}")
    if not system.is_root():
        system.fail("engines of one's own need root")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by SIGTERM"))
    _fetch()
    results = []
    try:
        for name in names:
            with running(name) as daemon:
                load_images(daemon)
                give_outside(daemon)
                results.append(tests(name, daemon, further))
    except DaemonError as error:
        system.fail(str(error))
    finally:
        if results:
            print(table(results), flush=True)
    sys.exit(any(result.failed for result in results))


if __name__ == "__main__":
    main(sys.argv[1:])
