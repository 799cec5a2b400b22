"""The deliberately weak sandbox: root with capabilities, no filter, nothing read-only, limits far away.

Beside it stands a container in the host's place, so that nothing which the weak sandbox reaches is the machine's.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import docker

from tests.attacks.shipping import NAME, archive, said_by

# In the host's place: an abstract socket, and an engine's socket by its usual name.
HOST = """
import os, socket, time
one = socket.socket(socket.AF_UNIX); one.bind("\\0" + os.environ["HOST_SOCKET"]); one.listen()
two = socket.socket(socket.AF_UNIX); two.bind("/run/shared/docker.sock"); two.listen()
print("ready", flush=True)
time.sleep(600)
"""
SECONDS = 240
SECRET = "correct-horse-7391-battery"  # what stands for one
# Not ALL: an engine that lacks one itself then starts nothing.
CAPABILITIES = ["SYS_ADMIN", "SYS_PTRACE", "SYS_MODULE", "SYS_BOOT", "SYS_TIME", "SYS_NICE", "SYS_CHROOT", "SYSLOG",
                "DAC_READ_SEARCH", "NET_ADMIN", "NET_RAW", "MKNOD", "SYS_PACCT"]  # fmt: skip


@contextmanager
def beside_a_host(client: docker.DockerClient, image: str, mark: str, labels: Mapping[str, str]) -> Iterator[Any]:
    """The container in the host's place; it is gone afterwards, with its volume."""
    shared = client.volumes.create(f"{mark}-shared", labels=dict(labels))
    host = client.containers.create(
        image, ["python3", "-c", HOST], name=f"{mark}-host", network_mode="none", init=True, labels=dict(labels),
        environment={"HOST_SOCKET": mark}, volumes={shared.name: {"bind": "/run/shared"}},
    )  # fmt: skip
    try:
        host.start()
        assert next(iter(host.logs(stream=True, follow=True))) == b"ready\n"
        yield host
    finally:
        host.remove(force=True, v=True)
        shared.remove(force=True)


def run_weak(
    host: Any,
    image: str,
    mark: str,
    labels: Mapping[str, str],
    names: Sequence[str],
    *,
    files: Mapping[str, bytes | None] | None = None,
    binds: Sequence[str] = (),
    then: Callable[[Any], None] | None = None,
) -> Mapping[str, str]:
    """What the attacks named say in a weak sandbox beside that host; `then` looks at it when it has ended.

    `files` are put into it by their paths, None for a directory.
    """
    api = host.client.api
    confined = api.create_host_config(
        cap_add=CAPABILITIES, security_opt=["seccomp=unconfined"], mem_limit="1g", pids_limit=1000, init=True,
        network_mode=f"container:{host.id}", pid_mode=f"container:{host.id}",
        binds=[f"{mark}-shared:/run/shared", *binds],
    )  # fmt: skip
    made = api.create_container(
        image, ["python3", f"/{NAME}", "", *names], name=f"{mark}-weak", labels=dict(labels), user="0:0",
        environment={"HOST_SOCKET": mark, "KEY": SECRET},
        host_config={**confined, "MaskedPaths": [], "ReadonlyPaths": []},
    )  # fmt: skip
    weak = host.client.containers.get(made["Id"])
    try:
        weak.put_archive("/", tar_of({NAME: archive(), "run/secrets/key": SECRET.encode(), **(files or {})}))
        weak.start()
        weak.wait(timeout=SECONDS)
        if then is not None:
            then(weak)
        return said_by(weak.logs(stdout=True, stderr=True))
    finally:
        weak.remove(force=True, v=True)


def tar_of(files: Mapping[str, bytes | None]) -> bytes:
    """Files and directories (None) by their paths."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.mode = 0o755
            if content is None:
                info.type = tarfile.DIRTYPE
            info.size = len(content or b"")
            tar.addfile(info, io.BytesIO(content or b""))
    return buffer.getvalue()
