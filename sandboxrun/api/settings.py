"""What its environment tells a program that starts sandboxes: the engine, whether to sandbox, the defaults.

Owns the variables' names, their checks, and the default spec. Talks to no engine before `connect`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec import field, structs

from sandboxrun.data import Data
from sandboxrun.errors import Problems, UsageError, did_you_mean
from sandboxrun.source import MapNode, Scalar, node_of
from sandboxrun.spec.spec import BY_KEY, NOT_OFFERED, ROWS, SandboxSpec, parse_spec
from sandboxrun.spec.types import freeze

if TYPE_CHECKING:
    from sandboxrun.backend.docker.client import Engine

LEAST_MEMORY_MB = 6  # the engine refuses less
_WORDS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}


class Settings(Data, unshown=("environment",), uncompared=("environment",)):
    """The settings, checked. Made by hand they need no environment; `from_environment` reads one.

    `docker_socket` (a path) goes before `docker_host` (unix://, tcp:// or ssh://); with neither, the docker command's
    own settings in `environment` decide. `sandbox_enabled` False makes `AgentSpawner` start plain processes.
    `default_memory_mb` is in MiB, `default_cpu_limit` in CPUs, `network_mode` is `bridge` (a network of the project's
    own) or `none`. `environment` is what names without a value in a sandbox's `environment` take theirs from.
    """

    docker_socket: Path | None = None
    docker_host: str | None = None
    sandbox_enabled: bool = True
    default_image: str = "node:20-alpine"
    default_memory_mb: int = 512
    default_cpu_limit: float = 1.0
    network_mode: str = "bridge"
    environment: Mapping[str, str] = field(default_factory=lambda: freeze(dict(os.environ)))

    @classmethod
    def from_environment(cls, env: Mapping[str, str] | None = None) -> Settings:
        """The settings of `env` (the process's own when left out). Raises UsageError naming every wrong variable.

        DOCKER_SOCKET and DOCKER_HOST: as the docker command has them, empty is unset. SANDBOX_ENABLED: true, 1, yes,
        false, 0 or no; unset is true, so that a forgotten variable never takes the sandbox away.
        SANDBOX_DEFAULT_IMAGE, SANDBOX_DEFAULT_MEMORY_MB (whole MiB, 6 or more), SANDBOX_DEFAULT_CPU_LIMIT (CPUs, above
        0), SANDBOX_NETWORK_MODE (bridge or none): empty or senseless is an error, never the default.
        """
        env = os.environ if env is None else env
        problems = Problems()
        values: dict[str, Any] = {"environment": freeze(dict(env))}
        for name, (setting, read) in _VARIABLES.items():
            if (text := env.get(name)) is None:
                continue
            try:
                values[setting] = read(text)
            except ValueError as error:
                problems.add(f'{name} is "{text[:80]}"', help=str(error))
        _check_endpoint(env, problems)
        problems.check(UsageError)
        return cls(
            docker_socket=_socket_path(env.get("DOCKER_SOCKET")), docker_host=env.get("DOCKER_HOST") or None, **values
        )

    @property
    def options(self) -> dict[str, Any]:
        """The defaults as a profile writes them."""
        return {
            "image": self.default_image,
            "mem_limit": f"{self.default_memory_mb}m",
            "cpus": self.default_cpu_limit,
            "network_mode": self.network_mode,
        }

    def spec(self, **overrides: Any) -> SandboxSpec:
        """The default sandbox, with `overrides` in a profile's form (`mem_limit="1g"`, `tmpfs=["/scratch"]`).

        Everything else is closed: a non-root user (1000:1000), no capabilities, a read-only root, and never removed by
        the engine itself. None takes an option's default. Raises UsageError, all faults at once.
        """
        check_options(overrides)
        problems = Problems()
        spec = parse_spec(_merged({**self.options, **overrides}), problems)
        problems.check(UsageError)
        assert spec is not None
        return spec

    def connect(self, *, parallelism: int = 8) -> Engine:
        """The engine these settings name, after it has answered. Raises UsageError, EngineError."""
        from sandboxrun.backend.docker.client import connect

        env = dict(self.environment)
        if self.docker_socket is not None or self.docker_host is not None:
            env.pop("DOCKER_SOCKET", None)
            env.pop("DOCKER_HOST", None)
        if self.docker_socket is not None:
            env["DOCKER_SOCKET"] = str(self.docker_socket)
        elif self.docker_host is not None:
            env["DOCKER_HOST"] = self.docker_host
        return connect(parallelism=parallelism, env=env)


def check_options(options: Mapping[str, Any]) -> None:
    """Raise UsageError naming every option that there is not, and every value that its option does not take.

    The loader would find the same; but it points to places in a file, and here there is none.
    """
    problems = Problems()
    known = [row.key for row in ROWS if row.settable]
    for key, value in options.items():
        if key in NOT_OFFERED:
            problems.add(f'"{key}" is not offered', help=NOT_OFFERED[key])
        elif key not in known:
            help = did_you_mean(key, known) or "the options are listed by: sandboxrun explain"
            problems.add(f'a sandbox has no option "{key}"', help=help)
        elif value is not None:
            _check_value(key, value, problems)
    problems.check(UsageError)


def _check_value(key: str, value: Any, problems: Problems) -> None:
    found = Problems()
    try:
        BY_KEY[key].type.parse(node_of(value), found)
    except TypeError as error:
        found.add(str(error), help="give texts, numbers, lists and mappings")
    problems.extend(structs.replace(d, message=f"{key}: {d.message}") for d in found.diagnostics)


def _merged(options: Mapping[str, Any]) -> MapNode:
    """The options over the closed defaults of those that merge, as in a profile: adding a tmpfs keeps /tmp."""
    from sandboxrun.profile.layers import merge_option

    entries = []
    for key, value in options.items():
        merged = merge_option(BY_KEY[key], [node_of(value)])
        if merged is not None:
            entries.append((Scalar(value=key, text=key), merged))
    return MapNode(entries=tuple(entries))


# -- single variables --------------------------------------------------------------------------------------------


def _read_flag(text: str) -> bool:
    if text.lower() not in _WORDS:
        raise ValueError("write true or false (or 1, 0, yes, no)")
    return _WORDS[text.lower()]


def _read_image(text: str) -> str:
    problems = Problems()
    BY_KEY["image"].type.parse(node_of(text), problems)
    if problems:
        raise ValueError("write an image reference, such as node:20-alpine")
    return text


def _read_memory(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,9}", text) or int(text) < LEAST_MEMORY_MB:
        raise ValueError(f"write a whole number of megabytes, {LEAST_MEMORY_MB} or more, such as 512")
    return int(text)


def _read_cpus(text: str) -> float:
    if not re.fullmatch(r"[0-9]{1,5}(\.[0-9]{1,9})?", text) or float(text) < 0.01:
        raise ValueError("write a number of CPUs, 0.01 or more, such as 1.5")
    return float(text)


def _read_network(text: str) -> str:
    if text not in ("bridge", "none"):
        raise ValueError("write bridge (a network of its own, public hosts through a gateway) or none")
    return text


_VARIABLES: Mapping[str, tuple[str, Callable[[str], Any]]] = {
    "SANDBOX_ENABLED": ("sandbox_enabled", _read_flag),
    "SANDBOX_DEFAULT_IMAGE": ("default_image", _read_image),
    "SANDBOX_DEFAULT_MEMORY_MB": ("default_memory_mb", _read_memory),
    "SANDBOX_DEFAULT_CPU_LIMIT": ("default_cpu_limit", _read_cpus),
    "SANDBOX_NETWORK_MODE": ("network_mode", _read_network),
}


def _check_endpoint(env: Mapping[str, str], problems: Problems) -> None:
    """Each of the two by itself: DOCKER_SOCKET in force must not hide a DOCKER_HOST that makes no sense."""
    from sandboxrun.backend.docker.transport import resolve

    for name in ("DOCKER_SOCKET", "DOCKER_HOST"):
        if env.get(name):
            try:
                resolve(None, {name: env[name]})
            except UsageError as error:
                problems.extend(error.diagnostics)


def _socket_path(text: str | None) -> Path | None:
    return Path(os.path.abspath(text.removeprefix("unix://"))) if text and "\0" not in text else None
