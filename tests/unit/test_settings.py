"""Settings from the environment, and what a Python call declares."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import pytest

from sandboxrun import AgentSession, AgentSpawner, Sandbox, SandboxService, Settings
from sandboxrun.api.settings import declare
from sandboxrun.errors import UsageError
from sandboxrun.spec.types import freeze

NOBODY = cast(Any, None)  # whose argument is refused before anything of it is asked


def test_nothing_set_is_the_default_sandbox_and_sandboxing_is_on() -> None:
    settings = Settings.from_environment({})
    assert settings == Settings()
    assert settings.sandbox_enabled is True
    spec = settings.spec()
    assert (spec.image, spec.mem_limit, spec.cpus) == ("node:20-alpine", 512 * 1024**2, 1.0)
    assert (spec.user, spec.network_mode, spec.auto_remove) == ("1000:1000", "bridge", False)
    assert (spec.cap_drop, spec.read_only, spec.memswap_limit) == (("ALL",), True, 512 * 1024**2)


def test_every_variable_counts() -> None:
    env = {
        "DOCKER_SOCKET": "/run/engine.sock",
        "DOCKER_HOST": "tcp://engine.example.com:2375",
        "SANDBOX_ENABLED": "No",
        "SANDBOX_DEFAULT_IMAGE": "example.com/agent:1",
        "SANDBOX_DEFAULT_MEMORY_MB": "256",
        "SANDBOX_DEFAULT_CPU_LIMIT": "0.5",
        "SANDBOX_NETWORK_MODE": "none",
    }
    settings = Settings.from_environment(env)
    assert settings == Settings(
        docker_socket=Path("/run/engine.sock"),
        docker_host="tcp://engine.example.com:2375",
        sandbox_enabled=False,
        default_image="example.com/agent:1",
        default_memory_mb=256,
        default_cpu_limit=0.5,
        network_mode="none",
    )
    spec = settings.spec()
    assert (spec.image, spec.mem_limit, spec.cpus) == ("example.com/agent:1", 256 * 1024**2, 0.5)
    assert (spec.network_mode, dict(spec.networks)) == ("none", {})


@pytest.mark.parametrize(
    ("text", "enabled"), [("true", True), ("1", True), ("YES", True), ("false", False), ("0", False), ("no", False)]
)
def test_the_words_for_on_and_off(text: str, enabled: bool) -> None:
    assert Settings.from_environment({"SANDBOX_ENABLED": text}).sandbox_enabled is enabled


def test_every_wrong_value_is_told_at_once() -> None:
    env = {
        "DOCKER_SOCKET": "tcp://engine.example.com",
        "DOCKER_HOST": "engine",
        "SANDBOX_ENABLED": "",
        "SANDBOX_DEFAULT_IMAGE": "not an image",
        "SANDBOX_DEFAULT_MEMORY_MB": "512m",
        "SANDBOX_DEFAULT_CPU_LIMIT": "0",
        "SANDBOX_NETWORK_MODE": "host",
    }
    with pytest.raises(UsageError) as caught:
        Settings.from_environment(env)
    assert str(caught.value) == textwrap.dedent(
        """\
        error: DOCKER_HOST is not an engine's address: engine
          help: write unix:///path/to/docker.sock, tcp://host:port or ssh://user@host
        error: DOCKER_SOCKET is not a path: tcp://engine.example.com
          help: for another address, set DOCKER_HOST
        error: SANDBOX_DEFAULT_CPU_LIMIT is "0"
          help: write a number of CPUs, 0.01 or more, such as 1.5
        error: SANDBOX_DEFAULT_IMAGE is "not an image"
          help: write an image reference, such as node:20-alpine
        error: SANDBOX_DEFAULT_MEMORY_MB is "512m"
          help: write a whole number of megabytes, 6 or more, such as 512
        error: SANDBOX_ENABLED is ""
          help: write true or false (or 1, 0, yes, no)
        error: SANDBOX_NETWORK_MODE is "host"
          help: write bridge (a network of its own, public hosts through a gateway) or none"""
    )


@pytest.mark.parametrize("text", ["5", "-512", "1e3", "512.5", " 512", "٥١٢", ""])
def test_memory_is_a_whole_number_of_megabytes(text: str) -> None:
    with pytest.raises(UsageError, match="SANDBOX_DEFAULT_MEMORY_MB"):
        Settings.from_environment({"SANDBOX_DEFAULT_MEMORY_MB": text})


@pytest.mark.parametrize("text", ["nan", "inf", "-1", "0.001", "1,5", "1e1", ""])
def test_a_cpu_limit_is_a_plain_number(text: str) -> None:
    with pytest.raises(UsageError, match="SANDBOX_DEFAULT_CPU_LIMIT"):
        Settings.from_environment({"SANDBOX_DEFAULT_CPU_LIMIT": text})


def test_an_empty_engine_variable_is_unset_as_for_docker() -> None:
    settings = Settings.from_environment({"DOCKER_HOST": "", "DOCKER_SOCKET": ""})
    assert (settings.docker_host, settings.docker_socket) == (None, None)


def test_the_socket_may_be_a_unix_url_or_relative() -> None:
    assert Settings.from_environment({"DOCKER_SOCKET": "unix:///run/a.sock"}).docker_socket == Path("/run/a.sock")
    assert Settings.from_environment({"DOCKER_SOCKET": "a.sock"}).docker_socket == Path.cwd() / "a.sock"


def test_the_socket_goes_before_the_host(tmp_path: Path) -> None:
    settings = Settings(docker_socket=tmp_path / "none.sock", docker_host="tcp://127.0.0.1:1")
    with pytest.raises(Exception, match=r"none\.sock \(from DOCKER_SOCKET\)"):
        settings.connect()


def test_given_settings_go_before_the_environment(tmp_path: Path) -> None:
    environment = freeze({"DOCKER_SOCKET": str(tmp_path / "other.sock")})
    settings = Settings(docker_host=f"unix://{tmp_path}/mine.sock", environment=environment)
    with pytest.raises(Exception, match=r"mine\.sock \(from DOCKER_HOST\)"):
        settings.connect()


def test_overrides_are_in_a_profiles_form_and_merge_like_one() -> None:
    spec = Settings().spec(mem_limit="1g", tmpfs=["/scratch"], ulimits={"nofile": 10}, pids_limit=None)
    assert spec.mem_limit == 1024**3
    assert sorted(spec.tmpfs) == ["/scratch", "/tmp"]
    assert sorted(spec.ulimits) == ["core", "nofile"]
    assert spec.pids_limit == 256


def test_wrong_overrides_are_told_at_once() -> None:
    with pytest.raises(UsageError) as caught:
        Settings().spec(mem_limt="1g", privileged=True)
    assert [d.message for d in caught.value.diagnostics] == [
        '"privileged" is not offered',
        'a sandbox has no option "mem_limt"',
    ]
    with pytest.raises(UsageError) as caught:
        Settings().spec(mem_limit="lots", cpus=b"1", user=type)
    assert [d.message for d in caught.value.diagnostics] == [
        "cpus: expected a number of CPUs, such as 1.5, found a list",
        'mem_limit: expected a size, such as 512m, 1.5g or a number of bytes, found the text "lots"',
        "user: type has no form in a profile: <class 'type'>",
    ]


def test_the_environment_is_not_shown() -> None:
    assert "hunter2" not in repr(Settings.from_environment({"TOKEN": "hunter2"}))


# -- declaring ---------------------------------------------------------------------------------------------------


def test_what_a_program_passes_is_never_a_template(tmp_path: Path) -> None:
    command = ["echo", "{{ 7 * 7 }}", "{% for %}", "{# x"]
    made = declare("p", tmp_path, "a", {"command": command, "environment": {"A": "{{ b }}"}})
    assert made.sandbox.spec.command == tuple(command)
    assert dict(made.sandbox.spec.environment) == {"A": "{{ b }}"}


def test_secrets_are_in_no_option(tmp_path: Path) -> None:
    made = declare("p", tmp_path, "a", {"image": "i"}, secrets={"key": "hunter2 {{ x }}"})
    assert [ref.file_name for ref in made.sandbox.spec.secrets] == ["key"]
    assert "hunter2" not in repr(made)
    assert list(made.environment.values()) == ["hunter2 {{ x }}"]


def test_a_name_without_a_value_takes_the_callers(tmp_path: Path) -> None:
    made = declare("p", tmp_path, "a", {"environment": {"A": None, "B": None}}, environment={"A": "1"})
    assert dict(made.sandbox.spec.environment) == {"A": "1"}


def test_what_has_no_form_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="object has no form in a profile"):
        declare("p", tmp_path, "a", {"command": [object()]})


def test_an_unknown_option_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match='no option "memory_limit"'):
        declare("p", tmp_path, "a", {"memory_limit": "1g"})


@pytest.mark.parametrize("secrets", [["api_key"], ("api_key",), "api_key"])
def test_secrets_that_have_no_values(tmp_path: Path, secrets: Any) -> None:
    """A profile names them in a list."""
    with pytest.raises(UsageError, match=r"^error: secrets must be a mapping from names to values\n  help: such as \{"):
        declare("p", tmp_path, "a", {"command": ["true"]}, secrets=secrets)


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda wrong: AgentSpawner.spawn(NOBODY, ["true"], workspace=".", timeout=wrong), "timeout"),
        (lambda wrong: AgentSession.wait(NOBODY, wrong), "timeout"),
        (lambda wrong: AgentSession.kill(NOBODY, wrong), "grace"),
        (lambda wrong: Sandbox.exec(NOBODY, ["true"], timeout=wrong), "timeout"),
        (lambda wrong: Sandbox.wait(NOBODY, wrong), "timeout"),
        (lambda wrong: SandboxService.stop(NOBODY, NOBODY, wrong), "timeout"),
    ],
)
@pytest.mark.parametrize("wrong", ["30m", timedelta(minutes=30)])
def test_a_time_is_a_number_of_seconds(call: Callable[[Any], object], name: str, wrong: object) -> None:
    """Some would fail in a thread only, where nobody sees that there is no timeout."""
    with pytest.raises(UsageError, match=f"^error: {name} must be a number of seconds, not "):
        call(wrong)


@pytest.mark.parametrize("value", [None, b"x", 5])
def test_a_secret_that_is_no_text(tmp_path: Path, value: Any) -> None:
    """None above all, as of a variable of the caller's that is not set; what it is stays out of the message."""
    with pytest.raises(UsageError, match=r"^error: the secret api_key is not a text\n  help: pass its value as a str$"):
        declare("p", tmp_path, "a", {"command": ["true"]}, secrets={"api_key": value})
