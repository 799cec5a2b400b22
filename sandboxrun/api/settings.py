"""What a program that starts sandboxes says of them: by its environment (the engine, whether to sandbox, the defaults),
and by the arguments of its calls.

Owns the variables' names, their checks, the default spec, and the profile that a call declares. Talks to no engine
before `connect`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec import field, structs

from sandboxrun.data import Data
from sandboxrun.errors import MapNode, Problems, Scalar, UsageError, did_you_mean, node_of
from sandboxrun.profile.templates import MARKS
from sandboxrun.spec.project import DeclaredSandbox, Profile
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
        from sandboxrun.backend.docker.transport import resolve

        env = os.environ if env is None else env
        problems = Problems()
        values: dict[str, Any] = {"environment": freeze(dict(env))}
        for name, (setting, read, help) in _VARIABLES.items():
            if (text := env.get(name)) is None:
                continue
            values[setting] = read(text)
            if values[setting] is None:
                problems.add(f'{name} is "{text[:80]}"', help=help)
        for name in (
            "DOCKER_SOCKET",
            "DOCKER_HOST",
        ):  # each by itself: neither hides that the other makes no sense
            if env.get(name):
                try:
                    resolve(None, {name: env[name]})
                except UsageError as error:
                    problems.extend(error.diagnostics)
        problems.check(UsageError)
        if socket := env.get("DOCKER_SOCKET"):
            values["docker_socket"] = Path(os.path.abspath(socket.removeprefix("unix://")))
        return cls(docker_host=env.get("DOCKER_HOST") or None, **values)

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
        from sandboxrun.profile.layers import merge_option

        check_options(overrides)
        problems = Problems()
        # over the closed defaults of those that merge, as in a profile: adding a tmpfs keeps /tmp
        merged = {key: merge_option(BY_KEY[key], [node_of(v)]) for key, v in {**self.options, **overrides}.items()}
        entries = tuple((Scalar(value=key, text=key), node) for key, node in merged.items() if node is not None)
        spec = parse_spec(MapNode(entries=entries), problems)
        problems.check(UsageError)
        assert spec is not None
        return spec

    def connect(self, host: str | None = None, *, parallelism: int = 8) -> Engine:
        """The engine at `host`, else the one these settings name, after it has answered. Raises UsageError,
        EngineError."""
        from sandboxrun.backend.docker.client import connect

        named = {"DOCKER_HOST": self.docker_host} if self.docker_host is not None else {}
        if self.docker_socket is not None:
            named = {"DOCKER_SOCKET": str(self.docker_socket)}
        others = {k: v for k, v in self.environment.items() if k not in ("DOCKER_SOCKET", "DOCKER_HOST")}
        return connect(host, parallelism=parallelism, env={**others, **named} if named else self.environment)


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
            found = Problems()
            try:
                BY_KEY[key].type.parse(node_of(value), found)
            except TypeError as error:
                found.add(str(error), help="give texts, numbers, lists and mappings")
            problems.extend(structs.replace(d, message=f"{key}: {d.message}") for d in found.diagnostics)
    problems.check(UsageError)


# -- single variables: the setting of each, how its text is read (None: it can't be), and what to write instead


def _image(text: str) -> str | None:
    problems = Problems()
    BY_KEY["image"].type.parse(node_of(text), problems)
    return None if problems else text


def _number(text: str, form: str, least: float) -> float | None:
    return float(text) if re.fullmatch(form, text) and float(text) >= least else None


_VARIABLES: Mapping[str, tuple[str, Callable[[str], Any], str]] = {
    "SANDBOX_ENABLED": (
        "sandbox_enabled",
        lambda text: _WORDS.get(text.lower()),
        "write true or false (or 1, 0, yes, no)",
    ),
    "SANDBOX_DEFAULT_IMAGE": ("default_image", _image, "write an image reference, such as node:20-alpine"),
    "SANDBOX_DEFAULT_MEMORY_MB": (
        "default_memory_mb",
        lambda text: int(text) if _number(text, r"[0-9]{1,9}", LEAST_MEMORY_MB) is not None else None,
        f"write a whole number of megabytes, {LEAST_MEMORY_MB} or more, such as 512",
    ),
    "SANDBOX_DEFAULT_CPU_LIMIT": (
        "default_cpu_limit",
        lambda text: _number(text, r"[0-9]{1,5}(\.[0-9]{1,9})?", 0.01),
        "write a number of CPUs, 0.01 or more, such as 1.5",
    ),
    "SANDBOX_NETWORK_MODE": (
        "network_mode",
        lambda text: text if text in ("bridge", "none") else None,
        "write bridge (a network of its own, public hosts through a gateway) or none",
    ),
}


# -- From a Python call's arguments to a profile of one sandbox

_SECRET = "SANDBOXRUN_API_SECRET_"


class Declared(Data, unshown=("environment",)):
    """One sandbox as a program declared it. `environment` holds the secrets' values, which no file or label does."""

    profile: Profile
    sandbox: DeclaredSandbox
    environment: Mapping[str, str]


def declare(
    project: str,
    directory: Path,
    name: str,
    options: Mapping[str, Any],
    *,
    secrets: Mapping[str, str] | None = None,
    environment: Mapping[str, str] | None = None,
) -> Declared:
    """The profile of one sandbox. `options` are a profile's, in its form; None leaves an option at its default.

    `secrets` become files under /run/secrets; `environment` gives values to names without one. Raises UsageError
    for an option that there is not or that does not take its value, ProfileError for what does not fit together.
    """
    from sandboxrun.profile.loader import load_data
    from sandboxrun.profile.variables import Inputs

    given = {key: _plain(value) for key, value in options.items() if value is not None}
    check_options(given)
    texts: dict[str, str] = {}
    if not isinstance(secrets, Mapping | None):  # as in a profile, which only names them
        raise UsageError("secrets must be a mapping from names to values", help='such as {"api_key": "the key itself"}')
    for key, value in (secrets or {}).items():
        if not isinstance(value, str):  # None, as of a variable that is not set, would be a file without it
            raise UsageError(f"the secret {key} is not a text", help="pass its value as a str")
    values = {f"{_SECRET}{number}": value for number, value in enumerate((secrets or {}).values())}
    if secrets:
        given["secrets"] = [*given.get("secrets", ()), *secrets]
    data: dict[str, Any] = {"name": project, "sandboxes": {name: _literal(given, texts)}}
    if secrets:
        data["secrets"] = {key: {"environment": at} for key, at in zip(secrets, values, strict=True)}
    if texts:
        data["variables"] = {key: {"type": "string"} for key in texts}
    inputs = Inputs(values=texts, environment=environment or {})
    profile = load_data(data, directory=directory, inputs=inputs, allow_outside=True)  # a program's own word, no file's
    return Declared(profile=profile, sandbox=profile.sandboxes[0], environment=values)


def check_seconds(name: str, value: object) -> None:
    """Raise UsageError for what is not a number of seconds, such as a profile's `30m`. It would fail later, in a thread
    where nobody sees it, and nothing would ever end what it was to end."""
    if value is not None and not isinstance(value, Real):
        raise UsageError(f"{name} must be a number of seconds, not {value!r}", help="such as 1800 for half an hour")


def _plain(value: Any) -> Any:
    """Paths as texts, everything else as it is."""
    match value:
        case os.PathLike():
            return os.fspath(value)
        case Mapping():
            return {str(key): _plain(item) for key, item in value.items()}
        case list() | tuple() | set() | frozenset():
            return [_plain(item) for item in value]
    return value


def _literal(value: Any, texts: dict[str, str]) -> Any:
    """`value` with each text that would be read as a template made a variable that holds it."""
    match value:
        case str() if MARKS.search(value) is not None:
            key = f"text{len(texts)}"
            texts[key] = value
            return f"{{{{ {key} }}}}"
        case dict():
            return {key: _literal(item, texts) for key, item in value.items()}
        case list():
            return [_literal(item, texts) for item in value]
    return value


def workspace_option(workspace: Path | str, access: str, target: str) -> dict[str, str]:
    """The workspace option of a directory. Raises UsageError when it is none, or `access` is not copy, rw or ro."""
    path = Path(os.path.abspath(workspace))
    if not os.path.isdir(path):
        raise UsageError(f"the workspace {path} is not a directory", help="give the directory the agent works on")
    if access not in ("copy", "rw", "ro"):
        raise UsageError(f'a workspace has no access "{access}"', help="choose copy, rw or ro")
    return {"source": str(path), "target": target, "access": access}
