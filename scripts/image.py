"""Images made on this machine from Debian's packages, for engines that can reach no image registry.

Usage: python -m scripts.image [--rebuild]

- `sandboxrun/agent:latest`, about 470 MB: node, python, git, curl and a C compiler on Debian. It stands in for
  node:20-alpine where that cannot be pulled; an image of your own under this name is used as it is. One made here of
  other packages is made anew.
- `sandboxrun/busybox:latest`, 2 MB: one static busybox, for tests that need no more.
- `sandboxrun/haproxy:latest`, about 150 MB: python and HAProxy on Debian, which gateways are made on.
- `sandboxrun/gateway:<digest>`: the gateway's companion on that, as `sandboxrun gateway build` makes it.

The first two have a user `agent` with uid 1000 and a home, and leave USER unset as node:20-alpine does.
"""

from __future__ import annotations

import io
import shlex
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Mapping
from pathlib import Path

import docker
import docker.errors

from scripts import debian, engine, system

AGENT = "sandboxrun/agent:latest"
BUSYBOX = "sandboxrun/busybox:latest"
HAPROXY = "sandboxrun/haproxy:latest"

_PACKAGES = ("nodejs", "python3", "python3-venv", "git", "gcc", "libc6-dev", "make", "ca-certificates", "curl")
_MADE_OF = "packages"  # no label of sandboxrun's own: containers inherit it
_PATH = "ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_PASSWD = "agent:x:1000:1000::/home/agent:/bin/sh"
_GROUP = "agent:x:1000:"


def ensure(client: docker.DockerClient, *, rebuild: bool = False) -> None:
    """See that the images are on the engine."""
    with system.locked(system.CACHE / "image.lock"):
        for name, build in ((BUSYBOX, import_busybox), (AGENT, import_agent), (HAPROXY, import_haproxy)):
            if present(client, name) and (name != AGENT or _is_current(client)) and not rebuild:
                system.say(f"Using the image {name} that the engine has")
            else:
                build(client)
        build_gateway()


def build_gateway() -> None:
    """Build the gateway's image where the engine lacks the one of this program."""
    from sandboxrun.backend.docker.client import connect
    from sandboxrun.gateway import image

    with connect(engine.endpoint()) as built_on:
        name = image.reference()
        if built_on.image(name) is not None:
            system.say(f"Using the image {name} that the engine has")
        else:
            system.say(f"Building the image {name}")
            image.build(built_on, HAPROXY)


def present(client: docker.DockerClient, name: str) -> bool:
    """Whether the engine has it."""
    try:
        client.images.get(name)
    except docker.errors.ImageNotFound:
        return False
    return True


def _is_current(client: docker.DockerClient) -> bool:
    """Whether the agent image is somebody's own, or made of the packages it has today.

    Before it was labelled, one made here could be told by how it was made: by an import.
    """
    image, packages = client.images.get(AGENT), " ".join(_PACKAGES)
    made_of = (image.labels or {}).get(_MADE_OF)
    own = made_of is None and not str(image.attrs.get("Comment") or "").startswith("Imported from")
    return own or bool(made_of == packages)


def import_agent(client: docker.DockerClient) -> None:
    """Bootstrap a small Debian with the agent's tools and import it."""
    system.say(f"Building the image {AGENT} from the system's packages ({', '.join(_PACKAGES)}): about a minute")
    with tempfile.TemporaryDirectory(dir=system.CACHE) as folder:
        archive = Path(folder) / "agent.tar"
        _bootstrap(archive)
        made_of = f'LABEL {_MADE_OF}="{" ".join(_PACKAGES)}"'
        _import(client, AGENT, archive.read_bytes(), made_of, command='["node"]')


def import_haproxy(client: docker.DockerClient) -> None:
    """Bootstrap a small Debian with HAProxy and Python and import it."""
    system.say(f"Building the image {HAPROXY} from the system's packages: about half a minute")
    with tempfile.TemporaryDirectory(dir=system.CACHE) as folder:
        archive = Path(folder) / "haproxy.tar"
        if wrong := debian.bootstrap(archive, debian.own_sources(), ("haproxy", "python3")):
            system.fail(f"{wrong}the image could not be built; tag one of your own as {HAPROXY} instead")
        _import(client, HAPROXY, archive.read_bytes(), "USER 0", command='["haproxy"]')


def import_busybox(client: docker.DockerClient, name: str = BUSYBOX, extra: Mapping[str, bytes] | None = None) -> str:
    """Import the busybox image, with `extra` files (path to content) if given. Returns the image id."""
    system.say(f"Importing the image {name}")
    return _import(client, name, busybox_archive(extra or {}), command='["sh"]')


def busybox_archive(extra: Mapping[str, bytes]) -> bytes:
    """A root file system as a tar: busybox, a link for each of its commands, users, homes, /tmp."""
    (binary,) = [p for p in system.unpacked("busybox-static").rglob("bin/busybox") if p.is_file()]
    commands = subprocess.run([binary, "--list"], capture_output=True, text=True, check=True).stdout.split()
    files = {
        "etc/passwd": f"root:x:0:0::/root:/bin/sh\n{_PASSWD}\n".encode(),
        "etc/group": f"root:x:0:\n{_GROUP}\n".encode(),
        **extra,
    }
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for path, mode, owner in (("tmp", 0o1777, 0), ("root", 0o700, 0), ("home/agent", 0o755, 1000)):
            _add(tar, path, tarfile.DIRTYPE, mode=mode, owner=owner)
        _add(tar, "bin/busybox", tarfile.REGTYPE, content=binary.read_bytes(), mode=0o755)
        for command in commands:
            if command != "busybox":
                _add(tar, f"bin/{command}", tarfile.SYMTYPE, link="busybox")
        for path, content in files.items():
            _add(tar, path, tarfile.REGTYPE, content=content)
    return buffer.getvalue()


def _add(
    tar: tarfile.TarFile,
    path: str,
    kind: bytes,
    *,
    content: bytes = b"",
    mode: int = 0o644,
    owner: int = 0,
    link: str = "",
) -> None:
    entry = tarfile.TarInfo(path)
    entry.type, entry.mode, entry.size, entry.linkname = kind, mode, len(content), link
    entry.uid = entry.gid = owner
    tar.addfile(entry, io.BytesIO(content))


def _bootstrap(archive: Path) -> None:
    users = "; ".join(
        [
            f'echo {shlex.quote(_PASSWD)} >>"$1/etc/passwd"',
            f'echo {shlex.quote(_GROUP)} >>"$1/etc/group"',
            'mkdir -p "$1/home/agent" && chown 1000:1000 "$1/home/agent"',
            'rm -f "$1"/etc/apt/sources.list.d/*',  # the machine's mirrors are none of the image's business
        ]
    )
    if wrong := debian.bootstrap(archive, debian.own_sources(), _PACKAGES, f"--customize-hook={users}"):
        system.fail(f"{wrong}the image could not be built; tag one of your own as {AGENT} instead")


def _import(client: docker.DockerClient, name: str, archive: bytes, *changes: str, command: str) -> str:
    repository, _, tag = name.rpartition(":")
    answer = client.api.import_image_from_data(archive, repository, tag, changes=[_PATH, f"CMD {command}", *changes])
    try:
        return str(client.images.get(name).id)
    except docker.errors.ImageNotFound:
        system.fail(f"the engine did not apply the image {name}: {answer}")


def main(arguments: list[str]) -> None:
    """Make what is missing; with --rebuild, all anew."""
    ensure(engine.client(timeout=600), rebuild="--rebuild" in arguments)


if __name__ == "__main__":
    main(sys.argv[1:])
