"""A second engine for one test, which it may stop, kill and start: files, socket and network apart from any other."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import docker

from sandboxrun.data import Data
from scripts import image, system
from scripts.daemon import Daemon

ENTER = system.REPOSITORY / "scripts/enter.py"


class OwnEngine(Data):
    """A private dockerd in a network namespace of its own; the busybox image is on it."""

    daemon: Daemon
    holder: subprocess.Popen[bytes]

    @property
    def host(self) -> str:
        """Its address, for DOCKER_HOST and --host."""
        return self.daemon.endpoint

    def client(self, timeout: float = 60) -> docker.DockerClient:
        """A docker-py client of this engine; close it."""
        return docker.DockerClient(base_url=self.host, version="auto", timeout=timeout)

    def start(self) -> None:
        """Start it (again) and wait until it answers."""
        self.daemon.start()

    def stop(self) -> None:
        """An orderly stop: containers are stopped, the daemon is gone when this returns."""
        self.daemon.stop()

    def kill(self) -> None:
        """SIGKILL the daemon: its containers run on until the next start, which stops them (SIGTERM, 10 s, SIGKILL)."""
        self.daemon.kill()

    def close(self) -> None:
        """Stop it and remove all it had. The namespace goes with its last process."""
        self.daemon.stop()
        self.holder.kill()
        self.holder.wait()
        shutil.rmtree(self.daemon.root)


def open_engine(*options: str, mounts: str | None = None) -> OwnEngine:
    """A started engine; `options` are added to dockerd's, `mounts` is a shell command that changes what is mounted
    where it runs, and nowhere else. Where SANDBOXRUN_DEV_SYSTEM names a Debian, it is that one's dockerd.

    Needs root and dockerd.
    """
    apart = ["unshare", "--mount", "--", "sh", "-c", f'{mounts} && exec "$@"', "sh"] if mounts is not None else []
    # A short path: a socket's may have 107 characters, and containerd's lie three folders deeper.
    root = Path(tempfile.mkdtemp(prefix="sandboxrun-engine-", dir="/tmp"))
    root.chmod(0o711)  # users that it maps have to get to their own below
    if of := os.environ.get("SANDBOXRUN_DEV_SYSTEM"):
        apart += [sys.executable, str(ENTER), of, str(root / "scratch"), "--keep-network", "--"]
    holder = _namespace()
    daemon = Daemon(
        root=root,
        socket=root / "docker.sock",
        enter=("nsenter", f"--net=/proc/{holder.pid}/ns/net", "--", *apart),
        options=options,
    )
    engine = OwnEngine(daemon=daemon, holder=holder)
    try:
        engine.start()
        with contextlib.closing(engine.client()) as client:
            image.import_busybox(client)
    except BaseException:
        engine.close()
        raise
    return engine


def _namespace() -> subprocess.Popen[bytes]:
    """A process that does nothing but hold a new network namespace open, over restarts of the daemon."""
    holder = subprocess.Popen(["unshare", "--net", "--", "sleep", "infinity"], stdin=subprocess.DEVNULL)
    deadline = time.monotonic() + 30
    while os.readlink(f"/proc/{holder.pid}/ns/net") == os.readlink("/proc/self/ns/net"):
        if holder.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError("unshare gave no network namespace")
        time.sleep(0.01)
    return holder


def why_impossible() -> str | None:
    """Why this machine cannot run a second engine; None where it can."""
    if not system.is_root():
        return "a second engine needs root"
    missing = [name for name in ("dockerd", "nsenter", "unshare") if system.program(name) is None]
    return f"a second engine needs {', '.join(missing)}" if missing else None
