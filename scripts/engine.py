"""The engine for `make demo` and `make test`: use the one that answers, else start one, and stop just that one.

Usage: python -m scripts.engine start|stop|status

The engine is looked for where sandboxrun looks for it: DOCKER_SOCKET, DOCKER_HOST (with DOCKER_TLS_VERIFY and
DOCKER_CERT_PATH), the docker command's context, the default socket. Where none answers and none was named, Debian's
packages are installed and dockerd is started on the default socket, its files below SANDBOXRUN_DEV_STATE (by default
/var/lib/sandboxrun-dev).
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from scripts import system
from scripts.daemon import Daemon, DaemonError, answers, listens

if TYPE_CHECKING:
    import docker

    from sandboxrun.backend.docker.transport import Endpoint

DEFAULT_SOCKET = Path("/var/run/docker.sock")
OURS = Daemon(root=Path(os.environ.get("SANDBOXRUN_DEV_STATE", "/var/lib/sandboxrun-dev")), socket=DEFAULT_SOCKET)


class NoEngine(Exception):
    """No engine answers; the text is the reason."""


def client(timeout: float = 60) -> docker.DockerClient:
    """A client of the engine that is to be used. Raises NoEngine."""
    import docker  # here, so that `stop` and `clean` work without the virtual environment
    import docker.errors
    import requests

    from sandboxrun.backend.docker.docker_py import tls_config

    at = _resolved()
    try:
        found = docker.DockerClient(base_url=at.url, tls=tls_config(at.tls), version="auto", timeout=timeout)
        found.ping()
    except (docker.errors.DockerException, requests.RequestException) as error:
        raise NoEngine(str(error)) from error
    return found


def endpoint() -> str:
    """The engine's address as DOCKER_HOST takes it, for messages and for processes started by tests."""
    return _resolved().url


def _resolved() -> Endpoint:
    """By sandboxrun's own rule: tests that looked at another engine than the one it uses would prove nothing."""
    from sandboxrun.backend.docker.transport import resolve
    from sandboxrun.errors import UsageError

    try:
        return resolve(None, os.environ)
    except UsageError as error:
        system.fail(str(error).removeprefix("error: "))


def start() -> None:
    """See that an engine answers."""
    try:
        _tell(client())
        return
    except NoEngine as error:
        reason = str(error)
    _refuse_unless_ours_to_start(reason)
    if system.program("dockerd") is None or system.program("iptables") is None:
        system.say("No engine answers: installing the packages docker.io, iptables and ca-certificates")
        system.install("docker.io", "iptables", "ca-certificates")
    if Path("/run/systemd/system").exists():
        system.say("Starting the system's engine: systemctl start docker")
        subprocess.run(["systemctl", "start", "docker"], check=False)
    elif not answers(DEFAULT_SOCKET):  # installing the package may have started it
        system.say(f"Starting dockerd on {DEFAULT_SOCKET}, its files in {OURS.root}; `make engine-stop` stops it")
        _start_ours()
    status()


def stop() -> None:
    """Stop the engine that `start` started; any other is left alone."""
    if OURS.pid is None:
        system.say("No engine was started from here: nothing to stop")
        return
    if not system.is_root():
        system.fail(f"dockerd {OURS.pid} belongs to root; run this as root")
    system.say(f"Stopping dockerd {OURS.pid}")
    OURS.stop()


def clean() -> None:
    """Stop it and remove its files, images included."""
    stop()
    if OURS.root.exists() and system.is_root():
        system.say(f"Removing {OURS.root}")
        shutil.rmtree(OURS.root)


def status() -> None:
    """Say which engine answers; ends with 1 where none does."""
    try:
        _tell(client())
    except NoEngine as error:
        system.fail(f"no engine answers at {endpoint()}: {error}")
    if OURS.pid is not None:
        system.say(f"It was started from here: dockerd {OURS.pid}, files in {OURS.root}")


def _refuse_unless_ours_to_start(reason: str) -> None:
    for name in ("DOCKER_HOST", "DOCKER_SOCKET", "DOCKER_CONTEXT"):
        if os.environ.get(name):
            system.fail(f"{name} is set, but no engine answers there: {reason}\nstart that engine, or unset {name}")
    if not system.is_root():
        system.fail(
            f"no engine answers at {DEFAULT_SOCKET}: {reason}\n"
            "start Docker and see that you may use it (`docker info`), set DOCKER_HOST to another engine,\n"
            "or start one as root: sudo .venv/bin/python -m scripts.engine start"
        )
    if listens(DEFAULT_SOCKET):
        system.fail(f"a process listens at {DEFAULT_SOCKET} but gives no good answer: {reason}\nstop or mend it first")


def _start_ours() -> None:
    try:
        OURS.start()
    except (DaemonError, FileNotFoundError) as error:
        system.fail(str(error))


def _tell(found: docker.DockerClient) -> None:
    version = found.version()
    system.say(f"Using the engine at {endpoint()}: {version['Version']}, API {version['ApiVersion']}")


def main(arguments: list[str]) -> None:
    """Run one subcommand."""
    commands = {"start": start, "stop": stop, "status": status, "clean": clean}
    if len(arguments) != 1 or arguments[0] not in commands:
        system.fail(f"usage: python -m scripts.engine {'|'.join(commands)}")
    commands[arguments[0]]()


if __name__ == "__main__":
    main(sys.argv[1:])
