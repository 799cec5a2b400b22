"""Which engine to talk to, and the connection to it.

Owns the order in which settings count: --host, DOCKER_SOCKET, DOCKER_HOST, DOCKER_CONTEXT, the docker command's
current context, the usual socket. Must not ask the engine anything itself beyond whether it is there.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from msgspec import structs

from sandboxrun.backend.docker.client import Engine
from sandboxrun.backend.docker.credentials import LARGEST, config_folder, read_config
from sandboxrun.backend.docker.transport import Transport, Unreachable
from sandboxrun.backend.errors import EngineError, EngineTimeout, EngineUnreachable, Unsupported
from sandboxrun.data import Data
from sandboxrun.errors import Diagnostic, UsageError
from sandboxrun.profile.files import read_regular

DEFAULT = "unix:///var/run/docker.sock"


class Tls(Data):
    """The files for a connection with TLS; `verify` False accepts any certificate."""

    ca: Path | None
    certificate: Path | None
    key: Path | None
    verify: bool


class Endpoint(Data):
    """Where an engine is: a URL (unix, tcp or ssh), the setting it came from, and TLS for tcp."""

    url: str
    origin: str
    tls: Tls | None = None

    def __str__(self) -> str:
        return f"{self.url} (from {self.origin})"


def resolve(host: str | None, env: Mapping[str, str]) -> Endpoint:
    """The endpoint that `host` (--host) or the settings in `env` name. Raises UsageError for one that has no sense."""
    if host:
        return _endpoint(host, "--host", env)
    if env.get("DOCKER_SOCKET"):
        return _endpoint(_socket(env["DOCKER_SOCKET"]), "DOCKER_SOCKET", env)
    if env.get("DOCKER_HOST"):
        return _endpoint(env["DOCKER_HOST"], "DOCKER_HOST", env)
    if env.get("DOCKER_CONTEXT"):
        return _context(env["DOCKER_CONTEXT"], "DOCKER_CONTEXT", env)
    try:
        current = read_config(env).get("currentContext")
    except ValueError as error:
        raise UsageError(Diagnostic(message=str(error), help="fix the file, or pass --host")) from error
    if current:
        return _context(str(current), "the docker command's current context", env)
    return Endpoint(url=DEFAULT, origin="the default")


def _socket(value: str) -> str:
    if value.startswith("unix://"):
        return value
    if "://" in value:
        help = "for another address, set DOCKER_HOST"
        raise UsageError(Diagnostic(message=f"DOCKER_SOCKET is not a path: {value}", help=help))
    return f"unix://{os.path.abspath(value)}"


def _endpoint(address: str, origin: str, env: Mapping[str, str]) -> Endpoint:
    """An address as users write it, checked."""
    if address.startswith("/"):
        address = f"unix://{address}"
    scheme, _, rest = address.partition("://")
    match scheme:
        case "unix" if rest.startswith("/"):
            return Endpoint(url=address, origin=origin)
        case "tcp" | "http" | "https" if rest.rstrip("/"):
            return Endpoint(url=_tcp(rest), origin=origin, tls=_tls(scheme, env))
        case "ssh" if rest:
            return Endpoint(url=address, origin=origin)
    message = f"{origin} is not an engine's address: {address}"
    help = "write unix:///path/to/docker.sock, tcp://host:port or ssh://user@host"
    raise UsageError(Diagnostic(message=message, help=help))


def _tcp(rest: str) -> str:
    """tcp://host:port; a missing port is told by docker-py's own default (2375, or 2376 with TLS)."""
    return f"tcp://{rest.rstrip('/')}"


def _tls(scheme: str, env: Mapping[str, str]) -> Tls | None:
    """TLS as the docker command decides it: DOCKER_TLS_VERIFY or DOCKER_TLS, files in DOCKER_CERT_PATH."""
    verify = bool(env.get("DOCKER_TLS_VERIFY"))
    if not verify and not env.get("DOCKER_TLS") and scheme != "https":
        return None
    folder = Path(env["DOCKER_CERT_PATH"]) if env.get("DOCKER_CERT_PATH") else config_folder(env)
    return _tls_files(folder, verify=verify or scheme == "https")


def _tls_files(folder: Path, *, verify: bool) -> Tls:
    def file(name: str) -> Path | None:
        return folder / name if (folder / name).is_file() else None

    return Tls(ca=file("ca.pem"), certificate=file("cert.pem"), key=file("key.pem"), verify=verify)


def _context(name: str, origin: str, env: Mapping[str, str]) -> Endpoint:
    """What the docker command keeps of a context: contexts/meta/<sha256 of its name>/meta.json, and tls beside it.

    Read here rather than through docker-py: its import costs more than a plan, and it looks below the current
    folder when there is no config.json.
    """
    if name == "default":
        return Endpoint(url=DEFAULT, origin=f"{origin} (default)")
    import hashlib
    import json

    key = hashlib.sha256(name.encode()).hexdigest()
    folder = config_folder(env) / "contexts"
    try:
        meta = json.loads(read_regular(folder / "meta" / key / "meta.json", LARGEST))
        docker = meta["Endpoints"]["docker"]
        address, skip = str(docker["Host"]), bool(docker.get("SkipTLSVerify"))
    except (OSError, ValueError, KeyError, TypeError) as error:
        message = f'the docker context "{name}" (from {origin}) cannot be read'
        help = "`docker context ls` lists those there are"
        raise UsageError(Diagnostic(message=message, help=help)) from error
    found = _endpoint(address, f'docker context "{name}"', {})
    files = folder / "tls" / key / "docker"
    if not found.url.startswith("tcp://") or not (files.is_dir() or skip):
        return found
    return structs.replace(found, tls=_tls_files(files, verify=not skip))


def open_transport(endpoint: Endpoint, *, parallelism: int) -> Transport:
    """What carries requests to `endpoint`. Nothing is sent yet. Raises UsageError, Unsupported."""
    if endpoint.url.startswith("unix://"):
        from sandboxrun.backend.docker.dial import dial_unix
        from sandboxrun.backend.docker.local import LocalTransport

        return LocalTransport(endpoint, dial_unix(endpoint.url.removeprefix("unix://")), parallelism=parallelism)
    from sandboxrun.backend.docker.docker_py import DockerPyTransport

    if endpoint.url.startswith("tcp://"):
        return DockerPyTransport(endpoint, parallelism=parallelism)
    from sandboxrun.backend.docker.dial import dial_ssh

    try:
        dial = dial_ssh(endpoint.url)
    except ValueError as error:
        raise UsageError(Diagnostic(message=f"{endpoint.origin}: {error}")) from error
    return DockerPyTransport(endpoint, dial, parallelism=parallelism)


def import_ahead() -> None:
    """Import docker-py beside what comes before the first change, for commands that will change the engine."""
    from importlib import import_module

    from sandboxrun.threads import begin

    carrier = "sandboxrun.backend.docker.docker_py"
    begin(lambda: import_module(carrier), name="import", failed=lambda error: None)  # raised anew where it is used


def connect(host: str | None = None, *, parallelism: int = 4, env: Mapping[str, str] | None = None) -> Engine:
    """The engine that `host` or the environment names, after it has answered once.

    `parallelism`: how many threads will use it at once. Raises UsageError (settings that make no sense),
    EngineUnreachable (naming the endpoint and where it came from), Unsupported (an engine that is too old).
    """
    endpoint = resolve(host, os.environ if env is None else env)
    engine = Engine(open_transport(endpoint, parallelism=parallelism))
    try:
        _ = engine.api_version
    except (EngineUnreachable, EngineTimeout) as error:
        engine.close()
        help = _help(endpoint, error)
        raise EngineUnreachable(f"connecting to the engine at {endpoint}", error.cause, help=help) from error
    except BaseException:
        engine.close()
        raise
    return engine


def _help(endpoint: Endpoint, error: EngineError) -> str:
    [diagnostic] = error.diagnostics
    if endpoint.url.startswith("ssh://") and not isinstance(error.__cause__, Unreachable):
        return "what ssh says stands above; on the other machine, `docker system dial-stdio` must work for this user"
    return diagnostic.help or "start the engine, or name another one with --host or DOCKER_HOST"


__all__ = ["Endpoint", "Tls", "Unsupported", "connect", "open_transport", "resolve"]
