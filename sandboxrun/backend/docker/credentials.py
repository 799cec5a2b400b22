"""The user's registry credentials, as the docker command keeps them.

Owns when docker-py is asked for them: only for a configuration that holds any, since importing it takes a while.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sandboxrun.errors import printable
from sandboxrun.profile.files import read_regular

LARGEST = 8 << 20  # bytes of one of its files


def config_folder(env: Mapping[str, str]) -> Path:
    """The docker command's configuration folder: DOCKER_CONFIG, or ~/.docker."""
    if env.get("DOCKER_CONFIG"):
        return Path(env["DOCKER_CONFIG"])
    return Path(env.get("HOME") or "~").expanduser() / ".docker"


def read_config(env: Mapping[str, str]) -> Mapping[str, Any]:
    """The docker command's config.json; empty when there is none. Raises ValueError when it is not a JSON object."""
    import json

    path = config_folder(env) / "config.json"
    try:
        value = json.loads(read_regular(path, LARGEST))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path} is not a JSON object")
    return value


def registry_auth(ref: str, env: Mapping[str, str] | None = None) -> dict[str, str]:
    """The header that lets the engine act as the user at the registry of `ref`; empty without credentials.

    Raises EngineError when credentials are configured and cannot be read: going on without them would
    tell the user that an image of theirs does not exist.
    """
    from sandboxrun.backend.errors import EngineError

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
