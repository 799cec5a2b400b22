"""A tmpfs over a directory of the image has the declared mode, or is refused by name."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator

import docker
import pytest

from sandboxrun.backend.docker.client import connect
from sandboxrun.backend.docker.making import file_mode
from sandboxrun.backend.errors import NotFound
from tests.conftest import Cli


@pytest.fixture(scope="module")
def image(engine_client: docker.DockerClient, busybox: str, run_id: str) -> Iterator[str]:
    """An image of a shell, with directories of other modes and owners than a tmpfs declares."""
    made = engine_client.containers.create(busybox, name=f"{run_id}-tmpfs")
    exported = io.BytesIO(b"".join(made.export()))
    made.remove()
    buffer = io.BytesIO()
    with tarfile.open(fileobj=exported) as old, tarfile.open(fileobj=buffer, mode="w") as new:
        for member in old:
            if member.name.split("/")[0] in ("bin", "lib", "lib64", "usr"):
                new.addfile(member, old.extractfile(member) if member.isreg() else None)
        for name, mode, owner in [("tmp", 0o755, 0), ("owned", 0o700, 7), ("open", 0o1777, 0)]:
            info = tarfile.TarInfo(name)
            info.type, info.mode, info.uid, info.gid = tarfile.DIRTYPE, mode, owner, owner
            new.addfile(info)
        link = tarfile.TarInfo("link")
        link.type, link.linkname = tarfile.SYMTYPE, "owned"
        new.addfile(link)
    name = f"{run_id}/tmpfs:1"
    engine_client.api.import_image_from_data(buffer.getvalue(), repository=f"{run_id}/tmpfs", tag="1")
    yield name
    engine_client.images.remove(name)


@pytest.fixture(scope="module")
def keeps(engine_client: docker.DockerClient, image: str) -> bool:
    """Whether this engine's runtime lets the declared mode win."""
    told = engine_client.containers.run(
        image, ["stat", "-c", "%a", "/tmp"], tmpfs={"/tmp": "mode=1777"}, network_mode="none", remove=True
    )
    return bool(told == b"1777\n")


def profile(cli: Cli, project: str, image: str, options: str, command: str) -> None:
    argv = json.dumps(["sh", "-c", command])
    (cli.cwd / "sandbox.yaml").write_text(
        f"name: {project}\nsandboxes:\n  a:\n    image: {image}\n    egress: none\n{options}    command: {argv}\n"
    )


def test_the_default_tmp_is_writable_or_refused(cli: Cli, project: str, image: str, keeps: bool) -> None:
    profile(cli, project, image, "", "touch /tmp/x && echo written")
    ran = cli("run")
    if keeps:
        assert (ran.code, ran.out) == (0, "written\n")
    else:
        said = "a: the tmpfs /tmp is declared with mode=1777, and the runtime runc "
        assert (ran.code, ran.out) == (125, "") and said in ran.err
        assert "gives it the mode of the directory below it, 0755" in ran.err
        assert "declare mode=0755 with uid and gid of the user" in ran.err


@pytest.mark.parametrize(
    ("tmpfs", "seen", "wrong"),
    [
        ("/tmp:mode=0755,uid=1000,gid=1000", "755 1000 1000 /tmp", None),
        ("/open:mode=1777", "1777 0 0 /open", None),
        ("/none/at/all:mode=0770,uid=5,gid=1000", "770 5 1000 /none/at/all", None),
        ("/tmp", "755 0 0 /tmp", None),
        ("/owned:mode=0755", "755 0 0 /owned", "/owned is declared with mode=0755"),
        ("/link:mode=1777", "1777 0 0 /owned", "/link is declared with mode=1777"),
        ("/open:mode=0700,uid=1000", "700 1000 0 /open", "/open is declared with mode=0700"),
    ],
)
def test_what_is_declared_is_what_is_there(
    tmpfs: str, seen: str, wrong: str | None, cli: Cli, project: str, image: str, keeps: bool
) -> None:
    more = "" if tmpfs.startswith("/tmp") else ', "/tmp:mode=0755"'
    profile(cli, project, image, f'    tmpfs: ["{tmpfs}"{more}]\n', f"stat -c '%a %u %g %n' {seen.split()[-1]}")
    ran = cli("run")
    if wrong is None or keeps:
        assert (ran.code, ran.out) == (0, f"{seen}\n"), ran.err
    else:
        assert (ran.code, ran.out) == (125, "") and wrong in ran.err, ran.err


def test_one_on_another_is_new_at_every_start(cli: Cli, project: str, image: str) -> None:
    profile(
        cli,
        project,
        image,
        '    tmpfs: ["/open:mode=1777", "/open/in:mode=0700,uid=1000", "/tmp:mode=0755"]\n',
        "stat -c %a /open/in",
    )
    assert cli("run").out == "700\n"


def test_a_directory_of_the_workspace_counts_as_the_images(cli: Cli, project: str, image: str, keeps: bool) -> None:
    (cli.cwd / "ws/cache").mkdir(parents=True)
    (cli.cwd / "ws/cache").chmod(0o755)
    options = '    workspace: {source: ws}\n    tmpfs: ["/workspace/cache:mode=1777", "/tmp:mode=0755"]\n'
    profile(cli, project, image, options, "stat -c %a /workspace/cache")
    ran = cli("run")
    assert ran.out == ("1777\n" if keeps else "") and ("tmpfs /workspace/cache is declared" in ran.err) != keeps


def test_a_directory_that_the_runtime_made_is_there_when_it_starts_again(
    cli: Cli, project: str, image: str, keeps: bool
) -> None:
    options = '    restart: on-failure:1\n    tmpfs: ["/made:mode=1777", "/tmp:mode=0755"]\n'
    profile(cli, project, image, options, "stat -c %a /made; exit 3")
    ran = cli("run")
    assert ("tmpfs /made is declared with mode=1777" in ran.err) != keeps, ran.err


def test_verify_says_that_it_does_not_hold(cli: Cli, project: str, image: str, keeps: bool) -> None:
    profile(cli, project, image, "", "true")
    ran = cli("verify", "--json", timeout=300)
    (sandbox,) = json.loads(ran.out)["sandboxes"]
    (found,) = (one for one in sandbox["findings"] if one["control"] == "tmpfs-mode")
    assert found["verdict"] == ("holds" if keeps else "does_not_hold")
    assert found["seen"].startswith(f"/tmp: {'a' if keeps else 'no'} file could be made")


def test_what_an_archive_says_of_a_path(
    engine_host: str, engine_client: docker.DockerClient, image: str, project: str
) -> None:
    made = engine_client.containers.create(image, "true", name=project)
    with connect(engine_host) as engine:
        modes = [
            file_mode(int(engine.stat_archive(str(made.id), path)["mode"])) for path in ("/tmp", "/owned", "/open")
        ]
        assert modes == [0o755, 0o700, 0o1777]
        assert engine.stat_archive(str(made.id), "/link")["linkTarget"] == "/owned"
        with pytest.raises(NotFound):
            engine.stat_archive(str(made.id), "/nothing/there")
    made.remove()
