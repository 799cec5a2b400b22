"""Which engine the settings name."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest

from sandboxrun.backend.docker.client import connect
from sandboxrun.backend.docker.transport import DEFAULT, Tls, resolve, ssh_command
from sandboxrun.backend.errors import EngineUnreachable
from sandboxrun.errors import UsageError


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A docker configuration folder with two contexts, `far` (TLS) and `near`."""
    folder = tmp_path / "docker"
    for name, host, skip in (("far", "tcp://engine.example.com:2376", False), ("near", "unix:///run/near.sock", False)):
        key = hashlib.sha256(name.encode()).hexdigest()
        meta = folder / "contexts" / "meta" / key
        meta.mkdir(parents=True)
        endpoint = {"Host": host, "SkipTLSVerify": skip}
        (meta / "meta.json").write_text(json.dumps({"Name": name, "Metadata": {}, "Endpoints": {"docker": endpoint}}))
        if host.startswith("tcp"):
            tls = folder / "contexts" / "tls" / key / "docker"
            tls.mkdir(parents=True)
            for file in ("ca.pem", "cert.pem", "key.pem"):
                (tls / file).write_text("x")
    return folder


@pytest.mark.parametrize(
    ("host", "env", "url", "origin"),
    [
        (None, {}, DEFAULT, "the default"),
        (None, {"DOCKER_HOST": "", "DOCKER_SOCKET": "", "DOCKER_CONTEXT": ""}, DEFAULT, "the default"),
        ("unix:///a.sock", {"DOCKER_SOCKET": "/b", "DOCKER_HOST": "unix:///c"}, "unix:///a.sock", "the host given"),
        ("/a.sock", {}, "unix:///a.sock", "the host given"),
        (None, {"DOCKER_SOCKET": "/b", "DOCKER_HOST": "unix:///c"}, "unix:///b", "DOCKER_SOCKET"),
        (None, {"DOCKER_SOCKET": "unix:///b"}, "unix:///b", "DOCKER_SOCKET"),
        (None, {"DOCKER_HOST": "unix:///c", "DOCKER_CONTEXT": "near"}, "unix:///c", "DOCKER_HOST"),
        (None, {"DOCKER_HOST": "tcp://h.example.com:1/"}, "tcp://h.example.com:1", "DOCKER_HOST"),
        (None, {"DOCKER_HOST": "ssh://me@h.example.com"}, "ssh://me@h.example.com", "DOCKER_HOST"),
        (None, {"DOCKER_CONTEXT": "near"}, "unix:///run/near.sock", 'docker context "near"'),
        (None, {"DOCKER_CONTEXT": "default"}, DEFAULT, "DOCKER_CONTEXT (default)"),
    ],
)
def test_order(home: Path, host: str | None, env: dict[str, str], url: str, origin: str) -> None:
    endpoint = resolve(host, {"DOCKER_CONFIG": str(home), **env})
    assert (endpoint.url, endpoint.origin, endpoint.tls) == (url, origin, None)
    assert str(endpoint) == f"{url} (from {origin})"


def test_the_current_context(home: Path) -> None:
    (home / "config.json").write_text('{"currentContext": "far"}')
    endpoint = resolve(None, {"DOCKER_CONFIG": str(home)})
    assert (endpoint.url, endpoint.origin) == ("tcp://engine.example.com:2376", 'docker context "far"')
    key = hashlib.sha256(b"far").hexdigest()
    folder = home / "contexts" / "tls" / key / "docker"
    assert endpoint.tls == Tls(
        ca=folder / "ca.pem", certificate=folder / "cert.pem", key=folder / "key.pem", verify=True
    )
    assert resolve(None, {"DOCKER_CONFIG": str(home), "DOCKER_CONTEXT": "near"}).url == "unix:///run/near.sock"


def test_the_configuration_below_the_home_folder(home: Path) -> None:
    home.rename(home.with_name(".docker"))
    (home.with_name(".docker") / "config.json").write_text('{"currentContext": "near"}')
    assert resolve(None, {"HOME": str(home.parent)}).url == "unix:///run/near.sock"


def test_tls_from_the_environment(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("x")
    env = {"DOCKER_HOST": "tcp://h.example.com:2376", "DOCKER_CERT_PATH": str(tmp_path)}
    assert resolve(None, env).tls is None
    told = resolve(None, {**env, "DOCKER_TLS_VERIFY": "1"}).tls
    assert told == Tls(ca=tmp_path / "ca.pem", certificate=None, key=None, verify=True)
    lax = resolve(None, {**env, "DOCKER_TLS": "1"}).tls
    assert lax is not None and not lax.verify
    assert resolve("unix:///a", {**env, "DOCKER_TLS_VERIFY": "1"}).tls is None


@pytest.mark.parametrize(
    ("host", "env", "message"),
    [
        ("localhost:2375", {}, "the host given is not an engine's address: localhost:2375"),
        ("unix://relative", {}, "the host given is not an engine's address: unix://relative"),
        ("tcp://", {}, "the host given is not an engine's address: tcp://"),
        ("npipe:////./pipe/x", {}, "the host given is not an engine's address: npipe:////./pipe/x"),
        (None, {"DOCKER_HOST": "ssh://"}, "DOCKER_HOST is not an engine's address: ssh://"),
        (None, {"DOCKER_SOCKET": "tcp://a:1"}, "DOCKER_SOCKET is not a path: tcp://a:1"),
        (None, {"DOCKER_CONTEXT": "gone"}, 'the docker context "gone" (from DOCKER_CONTEXT) cannot be read'),
        ("ssh://-oProxyCommand=x", {}, "the host given: an ssh address has the form ssh://[user@]host[:port]"),
    ],
)
def test_settings_that_make_no_sense(tmp_path: Path, host: str | None, env: dict[str, str], message: str) -> None:
    with pytest.raises(UsageError) as raised:
        connect(host, env={"DOCKER_CONFIG": str(tmp_path), **env})
    assert raised.value.diagnostics[0].message == message


def test_a_broken_configuration(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UsageError, match=r"config\.json cannot be read"):
        resolve(None, {"DOCKER_CONFIG": str(tmp_path)})
    (tmp_path / "config.json").unlink()
    os.mkfifo(tmp_path / "config.json")
    with pytest.raises(UsageError, match=r"config\.json cannot be read: .*not a regular file"):
        resolve(None, {"DOCKER_CONFIG": str(tmp_path)})


def test_ssh_commands() -> None:
    plain = ("ssh", "-o", "ConnectTimeout=30", "-T", "--", "engine.example.com", "docker", "system", "dial-stdio")
    assert ssh_command("ssh://engine.example.com") == plain
    assert ssh_command("ssh://me@engine.example.com:22")[4:8] == ("-l", "me", "-p", "22")
    other = ssh_command("ssh://engine.example.com/run/other.sock")
    assert other[-5:] == ("docker", "--host", "unix:///run/other.sock", "system", "dial-stdio")


@pytest.mark.parametrize("url", ["ssh://me:secret@h", "ssh://h?x", "ssh://me@", "tcp://h", "ssh://h:notaport"])
def test_ssh_addresses_that_make_no_sense(url: str) -> None:
    with pytest.raises(ValueError):
        ssh_command(url)


def test_no_socket(tmp_path: Path) -> None:
    path = tmp_path / "none.sock"
    with pytest.raises(EngineUnreachable) as raised:
        connect(env={"DOCKER_SOCKET": str(path), "HOME": str(tmp_path)})
    assert str(raised.value) == (
        f"error: connecting to the engine at unix://{path} (from DOCKER_SOCKET): there is no socket {path}\n"
        "  help: start the engine, or set DOCKER_HOST to its address"
    )


def test_nothing_listens(tmp_path: Path) -> None:
    import socket

    path = tmp_path / "left.sock"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    with pytest.raises(EngineUnreachable, match="nothing listens on"):
        connect(str(path))


def test_what_is_no_socket(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("")
    for other in (path, tmp_path):
        with pytest.raises(EngineUnreachable, match=f"{other} is not a socket"):
            connect(str(other))
