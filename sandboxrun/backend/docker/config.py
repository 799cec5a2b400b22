"""Which engine to talk to, and the user's registry credentials, as the docker command keeps them.

Owns the order in which settings count: --host, DOCKER_SOCKET, DOCKER_HOST, DOCKER_CONTEXT, the docker command's
current context, the usual socket. docker-py is asked only about a configuration that holds credentials: its import
takes a while, and it looks for contexts below the current folder when there is no config.json.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from msgspec import structs

from sandboxrun.backend.errors import EngineError
from sandboxrun.data import Data
from sandboxrun.errors import Diagnostic, UsageError, printable
from sandboxrun.profile.files import read_regular

DEFAULT = "unix:///var/run/docker.sock"
LARGEST = 8 << 20  # bytes of one of its files


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
    """The endpoint that `host` (--host) or the settings in `env` name. Raises UsageError for an invalid one."""
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
            # a missing port is docker-py's own default: 2375, or 2376 with TLS
            return Endpoint(url=f"tcp://{rest.rstrip('/')}", origin=origin, tls=_tls(scheme, env))
        case "ssh" if rest:
            return Endpoint(url=address, origin=origin)
    message = f"{origin} is not an engine's address: {address}"
    help = "write unix:///path/to/docker.sock, tcp://host:port or ssh://user@host"
    raise UsageError(Diagnostic(message=message, help=help))


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
    """What the docker command keeps of a context: contexts/meta/<sha256 of its name>/meta.json, and tls beside it."""
    if name == "default":
        return Endpoint(url=DEFAULT, origin=f"{origin} (default)")
    key = hashlib.sha256(name.encode()).hexdigest()
    folder = config_folder(env) / "contexts"
    try:
        meta = json.loads(read_regular(folder / "meta" / key / "meta.json", LARGEST))
        docker = meta["Endpoints"]["docker"]
        address, skip = str(docker["Host"]), bool(docker.get("SkipTLSVerify"))
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        message = f'the docker context "{name}" (from {origin}) cannot be read'
        help = "`docker context ls` lists those there are"
        raise UsageError(Diagnostic(message=message, help=help)) from error
    found = _endpoint(address, f'docker context "{name}"', {})
    files = folder / "tls" / key / "docker"
    if not found.url.startswith("tcp://") or not (files.is_dir() or skip):
        return found
    return structs.replace(found, tls=_tls_files(files, verify=not skip))


def config_folder(env: Mapping[str, str]) -> Path:
    """The docker command's configuration folder: DOCKER_CONFIG, or ~/.docker."""
    if env.get("DOCKER_CONFIG"):
        return Path(env["DOCKER_CONFIG"])
    return Path(env.get("HOME") or "~").expanduser() / ".docker"


def read_config(env: Mapping[str, str]) -> Mapping[str, Any]:
    """The docker command's config.json; empty when there is none. Raises ValueError when it is not a JSON object."""
    path = config_folder(env) / "config.json"
    try:
        value = json.loads(read_regular(path, LARGEST))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path} is not a JSON object")
    return value


def registry_auth(ref: str, env: Mapping[str, str] | None = None) -> dict[str, str]:
    """The header that lets the engine act as the user at the registry of `ref`; empty without credentials.

    Raises EngineError when credentials are configured and cannot be read: going on without them would
    tell the user that an image of theirs does not exist.
    """
    operation = f"reading the credentials for image {ref}"
    env = os.environ if env is None else env
    try:
        config = read_config(env)
    except ValueError as error:
        raise EngineError(operation, printable(str(error))) from error
    if not any(config.get(key) for key in ("auths", "credsStore", "credHelpers")):
        return {}
    import warnings

    from docker import auth, errors

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what matters of them is raised
            registry, _ = auth.resolve_repository_name(ref.partition("@")[0])
            found = auth.AuthConfig.load_config(None, dict(config)).resolve_authconfig(registry)
    except errors.DockerException as error:
        raise EngineError(operation, printable(str(error))) from error
    return {"X-Registry-Auth": auth.encode_header(found).decode("ascii")} if found else {}
