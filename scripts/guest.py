"""What runs in the emulated machine of machine.py: takes commands from its host, line by line over a virtio port.

Usage, inside: python -m scripts.guest serve | start-engine | stop-engine | load-images. Standard library only.
"""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from scripts.daemon import Daemon, listens

PORT = "sandboxrun"
DISK = Path("/disk")  # the only file system that outlives a reboot
SOCKET = DISK / "engine/docker.sock"
_CONTAINERD = Path("/run/containerd.sock")
_PID = Path("/run/containerd.pid")
_GROUPS = Path("/sys/fs/cgroup")
_ENGINE = Daemon(root=DISK / "engine", socket=SOCKET, options=(f"--containerd={_CONTAINERD}",))
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def serve() -> None:
    """Say which boot this is, then do what each line asks, one after the other."""
    with _port().open("r+b", buffering=0) as port:
        _write(port.fileno(), {"boot": BOOT_ID.read_text().strip()})
        lines = os.fdopen(os.dup(port.fileno()), "rb")
        while line := lines.readline():
            _write(port.fileno(), _done(json.loads(line)))


def _port() -> Path:
    """The kernel makes it a moment after its driver is loaded."""
    while True:
        for name in Path("/sys/class/virtio-ports").glob("*/name"):
            if name.read_text().strip() == PORT:
                return Path("/dev") / name.parent.name
        time.sleep(0.05)


def _write(fd: int, answer: dict[str, Any]) -> None:
    left = json.dumps(answer).encode() + b"\n"
    while left:
        left = left[os.write(fd, left) :]


def _ask_engine(method: str, path: str, body: bytes | None = None) -> Any:
    """What the engine says; None where it does not answer, or with nothing."""
    connection = http.client.HTTPConnection("engine", timeout=300)
    connection.sock = socket.socket(socket.AF_UNIX)
    try:
        connection.sock.connect(str(SOCKET))
        connection.request(method, path, body)
        return json.loads(connection.getresponse().read())
    except (OSError, ValueError, http.client.HTTPException):
        return None
    finally:
        connection.close()


def _done(asked: dict[str, Any]) -> dict[str, Any]:
    """Run a command, to its end or, where a file for its output is named, beside others."""
    if asked.get("engine"):
        return {"answer": _ask_engine(*asked["engine"])}
    environment = {**os.environ, **asked["env"]}
    if asked["log"]:
        with open(asked["log"], "wb") as log:
            started = subprocess.Popen(
                asked["argv"], cwd=asked["cwd"], env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True,
            )  # fmt: skip
        return {"pid": started.pid}
    try:
        ran = subprocess.run(
            asked["argv"], cwd=asked["cwd"], env=environment, stdin=subprocess.DEVNULL, capture_output=True,
            timeout=asked["timeout"], check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        return {"code": -1, "out": "", "err": f"{asked['argv']}: {error}"}
    out, err = (text.decode(errors="replace") for text in (ran.stdout, ran.stderr))
    return {"code": ran.returncode, "out": out, "err": err}


def start_engine() -> None:
    """containerd first, as a distribution's units do: the one that dockerd starts itself has 15 s to answer. In a
    control group of its own, since one in the root takes the machine for one without limits of swap."""
    (_GROUPS / "cgroup.subtree_control").write_text("+cpu +cpuset +io +memory +pids")
    (_GROUPS / "engine").mkdir(exist_ok=True)
    (_GROUPS / "engine/cgroup.procs").write_text(str(os.getpid()))
    command = ["containerd", f"--address={_CONTAINERD}", f"--root={DISK}/containerd", "--state=/run/containerd"]
    config = Path("/run/containerd.toml")
    config.write_text('version = 2\ndisabled_plugins = ["io.containerd.grpc.v1.cri"]\n')
    with open("/run/containerd.log", "ab") as log:
        process = subprocess.Popen(
            [*command, f"--config={config}"], stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )
    _PID.write_text(str(process.pid))
    while not listens(_CONTAINERD):
        if process.poll() is not None:
            sys.exit(Path("/run/containerd.log").read_text()[-2000:])
        time.sleep(0.1)
    _ENGINE.start(within=240)


def stop_engine() -> None:
    """In order, dockerd first; nothing of it holds the disk any more."""
    _ENGINE.stop()
    pid = int(_PID.read_text())
    os.kill(pid, signal.SIGTERM)
    while Path(f"/proc/{pid}").exists():
        time.sleep(0.1)


def load_images() -> None:
    """Those in the tars on the disk."""
    for tar in DISK.glob("*.tar"):
        _ask_engine("POST", "/images/load?quiet=1", tar.read_bytes())


def main(arguments: list[str]) -> None:
    """Do as the usage says."""
    commands = {
        "serve": serve,
        "start-engine": start_engine,
        "stop-engine": stop_engine,
        "load-images": load_images,
    }
    commands[arguments[0]]()


if __name__ == "__main__":
    main(sys.argv[1:])
