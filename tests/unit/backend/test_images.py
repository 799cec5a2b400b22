"""References as the pull call wants them, and the user's credentials."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest

from sandboxrun.backend.docker.client import split_reference
from sandboxrun.backend.docker.transport import registry_auth
from sandboxrun.backend.errors import EngineError

DIGEST = "sha256:" + "a" * 64


@pytest.mark.parametrize(
    ("ref", "name", "tag"),
    [
        ("node", "node", "latest"),
        ("node:20-alpine", "node", "20-alpine"),
        ("registry.example.com:5000/a/b", "registry.example.com:5000/a/b", "latest"),
        ("registry.example.com:5000/a/b:1", "registry.example.com:5000/a/b", "1"),
        (f"node@{DIGEST}", "node", DIGEST),
        (f"registry.example.com:5000/a:1@{DIGEST}", "registry.example.com:5000/a", DIGEST),
        ("[::1]:5000/a:2", "[::1]:5000/a", "2"),
    ],
)
def test_split_reference(ref: str, name: str, tag: str) -> None:
    assert split_reference(ref) == (name, tag)


def config(folder: Path, value: object) -> dict[str, str]:
    (folder / "config.json").write_text(value if isinstance(value, str) else json.dumps(value))
    return {"DOCKER_CONFIG": str(folder)}


def test_no_configuration_no_credentials(tmp_path: Path) -> None:
    assert registry_auth("registry.example.com/a", {"DOCKER_CONFIG": str(tmp_path)}) == {}
    assert registry_auth("registry.example.com/a", config(tmp_path, {"auths": {}})) == {}


def test_credentials_go_to_their_registry_only(tmp_path: Path) -> None:
    secret = base64.b64encode(b"me:secret").decode()
    env = config(tmp_path, {"auths": {"registry.example.com:5000": {"auth": secret}}})
    header = registry_auth(f"registry.example.com:5000/a/b:1@{DIGEST}", env)["X-Registry-Auth"]
    assert json.loads(base64.urlsafe_b64decode(header)) == {
        "username": "me",
        "password": "secret",
        "email": None,
        "serveraddress": "registry.example.com:5000",
    }
    assert registry_auth("other.example.com/a", env) == {}


@pytest.mark.parametrize("text", ["{", "[]", '"x"'])
def test_a_broken_configuration_is_an_error(tmp_path: Path, text: str) -> None:
    with pytest.raises(EngineError, match=r"reading the credentials for image a/b: .*config\.json"):
        registry_auth("a/b", config(tmp_path, text))


def test_a_missing_credential_helper_is_an_error(tmp_path: Path) -> None:
    env = config(tmp_path, {"credHelpers": {"registry.example.com": "none-such"}})
    with pytest.raises(EngineError, match=r"reading the credentials for image registry\.example\.com/a: "):
        registry_auth("registry.example.com/a", env)
