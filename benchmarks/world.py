"""What the benchmarks run in: a folder, names and labels of their own, the engine that answers, and what is there to
compare with.

Owns the setting up and the cleaning up: whatever happens, nothing that carries this run's labels stays.
"""

from __future__ import annotations

import compileall
import contextlib
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from uuid import uuid4

from benchmarks import raw
from benchmarks.raw import Connection
from benchmarks.timing import BenchmarkError, Program
from sandboxrun.data import Data
from scripts.engine import endpoint

HERE = Path(__file__).resolve().parent
IMAGE = os.environ.get("SANDBOXRUN_TEST_IMAGE", "sandboxrun/busybox:latest")
LABEL = "sandboxrun.bench"
PROJECT = "sandboxrun.project"
WORKERS = 4  # more gain nothing on two cores: the engine is the limit

SANDBOX = """\
  s-{number}:
    image: {image}
    command: {command}
    network_mode: none
    mem_limit: 64m
"""

SERVICE = """\
  s-{number}:
    image: {image}
    command: [sleep, "100000"]
    network_mode: none
    user: "1000:1000"
    mem_limit: 64m
    memswap_limit: 64m
    cpus: 1
    pids_limit: 256
    read_only: true
    init: true
    cap_drop: [ALL]
    security_opt: ["no-new-privileges:true"]
    tmpfs: ["/tmp:rw,noexec,nosuid,nodev,size=64m,mode=1777"]
    logging: {{driver: local}}
"""


class Compose(Data):
    """docker compose, where there is one."""

    argv: tuple[str, ...]
    version: str


class World(Data):
    """One run of the benchmarks."""

    folder: Path
    socket: str
    engine: str
    token: str
    env: Mapping[str, str]
    compose: Compose | None

    # -- programs ---------------------------------------------------------------------------------------------

    def python(self, name: str, *arguments: str) -> Program:
        """A Python program."""
        return Program(name=name, argv=(sys.executable, *arguments), env=self.env, directory=self.folder)

    def sandboxrun(self, name: str, *arguments: str, directory: Path | None = None) -> Program:
        """sandboxrun as it is installed beside this interpreter, else as a module."""
        script = Path(sys.executable).with_name("sandboxrun")
        argv = (str(script),) if script.exists() else (sys.executable, "-m", "sandboxrun")
        return Program(name=name, argv=(*argv, *arguments), env=self.env, directory=directory or self.folder)

    def raw(self, name: str, command: str, *arguments: str) -> Program:
        """A program of the floor."""
        return self.python(name, str(HERE / "raw.py"), command, self.socket, *arguments)

    def composed(self, name: str, file: Path, *arguments: str) -> Program | None:
        """docker compose, if there is one."""
        if self.compose is None:
            return None
        argv = (*self.compose.argv, "--project-name", self.project("c"), "--file", str(file), *arguments)
        return Program(name=name, argv=argv, env=self.env, directory=self.folder)

    # -- files ------------------------------------------------------------------------------------------------

    def project(self, part: str) -> str:
        """A project's name of this run."""
        return f"bench-{self.token}-{part}"

    def profile(self, part: str, count: int = 1, command: str = '[sleep, "100000"]') -> Path:
        """A profile of `count` sandboxes, written out as a Compose file's must be, in a folder of its own."""
        path = self.folder / part / "sandbox.yaml"
        path.parent.mkdir(exist_ok=True)
        sandboxes = "".join(SANDBOX.format(number=n, image=IMAGE, command=command) for n in range(count))
        path.write_text(f"name: {self.project(part)}\nsandboxes:\n{sandboxes}")
        return path

    def compose_file(self, count: int) -> Path:
        """The same sandboxes as services."""
        path = self.folder / f"compose-{count}.yaml"
        services = "".join(SERVICE.format(number=number, image=IMAGE) for number in range(count))
        path.write_text(f"services:\n{services}")
        return path

    def payloads(self, profile: Path) -> Path:
        """What sandboxrun would have the engine create for `profile`, for the floor to create the same."""
        from sandboxrun.backend.docker.codec import encode
        from sandboxrun.profile.loader import load
        from sandboxrun.spec.state import own_labels

        loaded = load([profile])
        containers = []
        for sandbox in loaded.sandboxes:
            labels = own_labels(project="raw", address=sandbox.address, run="r", spec=sandbox.spec)
            named = {name.replace("sandboxrun.", "raw."): value for name, value in labels.items()}
            body = encode(sandbox.spec, name=sandbox.name, names=loaded.names, own_labels={**named, LABEL: self.token})
            containers.append({"name": f"raw-{sandbox.name}", "body": body})
        path = profile.with_name(f"payloads-{len(containers)}.json")
        path.write_text(json.dumps(containers))
        return path

    # -- the end ----------------------------------------------------------------------------------------------

    def labels(self, connection: Connection) -> list[str]:
        """What everything of this run carries, one of them each."""
        filters = raw.quoted({"label": [PROJECT]})
        there = [
            *connection.json("GET", f"/containers/json?all=1&filters={filters}"),
            *connection.json("GET", f"/networks?filters={filters}"),
            *(connection.json("GET", f"/volumes?filters={filters}")["Volumes"] or ()),
        ]
        projects = sorted({f"{PROJECT}={o['Labels'][PROJECT]}" for o in there})
        mine = [label for label in projects if label.startswith(f"{PROJECT}={self.project('')}")]
        return [f"{LABEL}={self.token}", f"com.docker.compose.project={self.project('c')}", *mine]

    def clean(self) -> None:
        """Remove all of it from the engine."""
        connection = raw.Connection(self.socket)
        for label in self.labels(connection):
            raw.in_parallel(self.socket, WORKERS, raw.ids(connection, label), _remove)
            filters = raw.quoted({"label": [label]})
            for network in connection.json("GET", f"/networks?filters={filters}"):
                connection.request("DELETE", f"/networks/{network['Id']}")
            for volume in connection.json("GET", f"/volumes?filters={filters}")["Volumes"] or ():
                connection.request("DELETE", f"/volumes/{volume['Name']}")
        connection.close()


def _remove(connection: raw.Connection, container: str) -> None:
    with contextlib.suppress(RuntimeError):  # it went by itself meanwhile
        connection.request("DELETE", f"/containers/{container}?force=1&v=1")


@contextlib.contextmanager
def world() -> Iterator[World]:
    """Set up; cleaned up at the end. Raises BenchmarkError when no engine answers on a local socket."""
    path = _socket()
    with contextlib.redirect_stdout(io.StringIO()):  # without bytecode, starting takes four times as long
        compileall.compile_dir(HERE.parent / "sandboxrun", quiet=2)
    with tempfile.TemporaryDirectory(prefix="sandboxrun-bench-") as folder:
        made = World(
            folder=Path(folder),
            socket=path,
            engine=_engine(path),
            token=uuid4().hex[:8],
            env=_environment(folder, path),
            compose=_compose(),
        )
        try:
            yield made
        finally:
            made.clean()


def _socket() -> str:
    host = endpoint()
    if not host.startswith("unix://"):
        raise BenchmarkError(f"the floor speaks to a local socket only, and the engine is at {host}")
    return host.removeprefix("unix://")


def _engine(path: str) -> str:
    try:
        connection = raw.Connection(path)
        found: dict[str, Any] = connection.json("GET", "/version")
        connection.json("GET", f"/images/{IMAGE}/json")
    except (OSError, RuntimeError) as error:
        raise BenchmarkError(f"the engine at {path}: {error}; see `make engine image`") from error
    return f"engine {found['Version']}, API {found['ApiVersion']}, {os.cpu_count()} CPUs"


def _environment(folder: str, path: str) -> dict[str, str]:
    """The programs' environment: this one's, with caches and keys of their own, and bytecode as users have it."""
    own = {key: str(Path(folder, key.lower())) for key in ("XDG_CACHE_HOME", "XDG_STATE_HOME", "XDG_DATA_HOME")}
    dropped = ("PYTHONDONTWRITEBYTECODE", "DOCKER_SOCKET", "DOCKER_CONTEXT")
    kept = {key: value for key, value in os.environ.items() if key not in dropped}
    paths = os.pathsep.join(filter(None, (str(HERE.parent), kept.get("PYTHONPATH"))))
    return {**kept, **own, "DOCKER_HOST": f"unix://{path}", "PYTHONPATH": paths}


def _compose() -> Compose | None:
    """$COMPOSE, `docker compose` or `docker-compose`: the first that tells its version."""
    named = os.environ.get("COMPOSE")
    candidates = [(named,)] if named else [("docker", "compose"), ("docker-compose",)]
    for argv in candidates:
        if shutil.which(argv[0]) is None:
            continue
        told = subprocess.run([*argv, "version", "--short"], capture_output=True, text=True)
        if told.returncode == 0 and told.stdout.strip():
            return Compose(argv=argv, version=told.stdout.strip())
    return None
