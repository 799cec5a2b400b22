"""Secrets lie in memory, in a file that one user can read, and nowhere else while the sandbox lives or after."""

from __future__ import annotations

import contextlib
import io
import os
import stat
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker
import pytest

from sandboxrun.backend.docker import making
from sandboxrun.errors import ApplyError
from sandboxrun.gateway.image import reference
from sandboxrun.lifecycle.job import apply_and_wait
from sandboxrun.spec import labels as own
from tests.engine.own_engine import OwnEngine
from tests.engine.world import World, open_world

VALUE = "correct-horse-battery-staple-7"
FORMS = (VALUE, VALUE[::-1], VALUE.encode().hex())


@pytest.fixture
def world(engine_host: str, project: str, tmp_path: Path, busybox: str) -> Iterator[World]:
    home = tmp_path / "home"
    home.mkdir()
    with open_world(engine_host, project, home, busybox) as opened:
        opened.environment["KEY"] = VALUE
        yield opened


SECRETS = {"secrets": {"key": {"environment": "KEY"}}}


def test_a_secret_is_a_file_in_memory_that_the_agent_alone_reads(world: World) -> None:
    profile = world.profile({"a": {"secrets": ["key"], "user": "1234:77"}}, **SECRETS)
    world.apply(profile)
    container = world.ids(profile)["a"]
    assert world.run(container, "cat", "/run/secrets/key") == (0, VALUE)
    assert world.run(container, "stat", "-c", "%a %u %g", "/run/secrets/key") == (0, "400 1234 77\n")
    assert "tmpfs /run/secrets tmpfs ro" in world.run(container, "cat", "/proc/mounts")[1]
    assert world.run(container, "cat", "/run/secrets/key", user="77:77")[0] != 0
    for script in ("touch /run/secrets/x", "rm -f /run/secrets/key", "chmod 444 /run/secrets/key"):
        assert "Read-only" in world.run(container, "sh", "-c", f"{script} 2>&1", user="0")[1]


def test_nothing_that_the_engine_shows_holds_it(world: World, engine_client: docker.DockerClient) -> None:
    profile = world.profile({"a": {"secrets": ["key"], "command": ["sh", "-c", "sleep 600"]}}, **SECRETS)
    plan = world.apply(profile)
    shown = [str(plan), *map(str, world.events), repr(profile)]
    shown += [str(engine_client.api.inspect_container(row["Id"])) for row in world.engine.containers()
              if (row.get("Labels") or {}).get(own.PROJECT) == world.project]  # fmt: skip
    shown += [str(volume) for volume in world.engine.volumes(labels={own.PROJECT: world.project})]
    assert len(shown) > 5 and not any(form in text for text in shown for form in FORMS)


def test_the_keeper_can_not_read_what_it_holds(world: World) -> None:
    profile = world.profile({"a": {"secrets": ["key"]}}, **SECRETS)
    world.apply(profile)
    (keeper,) = world.engine.containers(names=[f"{world.project}-a.keeper"])
    code, said = world.run(str(keeper["Id"]), "python3", "-c", "print(open('/held/secrets/key').read())")
    assert code != 0 and "PermissionError" in said and VALUE not in said
    assert world.engine.inspect_container(str(keeper["Id"]))["HostConfig"]["NetworkMode"] == "none"


def test_it_is_gone_with_the_sandbox_and_its_evidence_has_none_of_it(world: World) -> None:
    command = ["sh", "-c", "k=$(cat /run/secrets/key); echo $k; echo $k | base64; echo $k | rev >&2; touch /tmp/$k"]
    profile = world.profile({"a": {"secrets": ["key"], "command": command}}, **SECRETS)
    waited = apply_and_wait(world.engine, profile, world.store, settings=world._settings())
    assert waited.exit_code == 0
    assert world.engine.containers(labels={own.PROJECT: world.project}) == ()
    assert world.engine.volumes(labels={own.PROJECT: world.project}) == ()
    for path in (world.directory / ".sandboxrun").rglob("*"):
        assert not any(form in str(path) for form in FORMS)
        if path.is_file():
            assert not any(form.encode() in path.read_bytes() for form in FORMS), path


def test_a_sandbox_that_is_restarted_has_its_secrets_still(world: World, engine_client: docker.DockerClient) -> None:
    profile = world.profile({"a": {"secrets": ["key"], "restart": "on-failure:2"}}, **SECRETS)
    world.apply(profile)
    container = world.ids(profile)["a"]
    engine_client.containers.get(container).restart(timeout=0)
    assert world.run(container, "cat", "/run/secrets/key") == (0, VALUE)


def test_no_file_of_the_engine_ever_has_it(own_engine: OwnEngine, project: str, tmp_path: Path) -> None:
    """Looked for while the sandbox runs, in everything that the engine has on its disk."""
    with contextlib.closing(own_engine.client()) as client:
        _stand_in(client)
    with open_world(own_engine.host, project, tmp_path, "sandboxrun/busybox:latest") as world:
        world.environment["KEY"] = VALUE
        profile = world.profile({"a": {"secrets": ["key"], "configs": ["c"]}}, **SECRETS,
                                configs={"c": {"content": "a config of no secrecy"}})  # fmt: skip
        world.apply(profile)
        assert world.run(world.ids(profile)["a"], "cat", "/run/secrets/key") == (0, VALUE)
        assert _holding(own_engine.daemon.root, b"a config of no secrecy")  # what is on the disk is found
        assert _holding(own_engine.daemon.root, VALUE.encode()) == []
        world.destroy(profile)
        assert _holding(own_engine.daemon.root, VALUE.encode()) == []


def _stand_in(client: docker.DockerClient) -> None:
    """The keeper's image on an engine that has nothing with Python: all that it does is to wait."""
    recipe = b'FROM sandboxrun/busybox:latest\nENTRYPOINT ["sh", "-c", "trap exit TERM; sleep 600 & wait"]\n'
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        entry = tarfile.TarInfo("Dockerfile")
        entry.size = len(recipe)
        tar.addfile(entry, io.BytesIO(recipe))
    client.images.build(fileobj=io.BytesIO(buffer.getvalue()), custom_context=True, tag=reference())


def _holding(root: Path, value: bytes) -> list[str]:
    """The files below `root`, on its own file system, that hold the value."""
    device, found = root.stat().st_dev, []
    for above, folders, files in os.walk(root):
        folders[:] = [name for name in folders if os.lstat(os.path.join(above, name)).st_dev == device]
        for name in files:
            path = Path(above, name)
            status = path.lstat()
            if stat.S_ISREG(status.st_mode) and status.st_dev == device and value in path.read_bytes():
                found.append(str(path))
    return found


_KEPT: dict[str, dict[str, Any]] = {
    "secrets": {"secrets": ["key"]},
    "configs": {"configs": ["text"]},  # on the engine's disk
    "workspace": {"workspace": {"source": ".", "size": "4m"}},
}


@pytest.mark.parametrize(
    ("how", "part"), [("keeper", "secrets"), ("keeper", "workspace"), *(("engine", part) for part in _KEPT)]
)
def test_what_did_not_arrive_or_is_gone_again_keeps_the_sandbox_from_starting(
    how: str, part: str, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its keeper was killed, or an engine took an upload and did nothing: the agent would have found nothing, and the
    patch would have said that it removed every file."""
    (world.directory / "dir").mkdir()
    (world.directory / "dir/file").write_text("x")
    profile = world.profile({"a": _KEPT[part]}, **SECRETS, configs={"text": {"content": "x"}})
    check = making.check_tmpfs

    def kill(sandbox: Any, container: str, session: Any) -> None:
        """The last thing that is looked at before."""
        check(sandbox, container, session)
        for keeper in world.engine.containers(names=[f"{world.project}-a.keeper"]):
            world.engine.kill_container(str(keeper["Id"]), "KILL")
            world.engine.wait_container(str(keeper["Id"]))

    with monkeypatch.context() as patch:
        if how == "engine":
            patch.setattr(type(world.engine), "put_archive", lambda *_: None)
        else:
            patch.setattr(making, "check_tmpfs", kill)
        with pytest.raises(ApplyError, match="was put there and is gone"):
            world.apply(profile)
    assert world.ids(profile) == {}
    world.apply(profile)
    assert list(world.ids(profile)) == ["a"]
