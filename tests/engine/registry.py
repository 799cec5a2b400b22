"""An image registry on loopback, for tests of pulls, digests and tags that move."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import docker
from msgspec import field

from sandboxrun.data import Data
from scripts import image, system

_CONFIG = """\
version: 0.1
log: {{level: warn, accesslog: {{disabled: true}}}}
storage: {{filesystem: {{rootdirectory: {root}/blobs}}, delete: {{enabled: true}}}}
http: {{addr: "{address}"}}
"""


class LocalRegistry(Data):
    """A running registry. Engines take plain http on 127.0.0.1; `address` is host and port."""

    address: str
    client: docker.DockerClient
    process: subprocess.Popen[bytes]
    made: set[str] = field(default_factory=set)  # ids of what was published

    def ref(self, repository: str, tag: str = "latest") -> str:
        """An image reference in this registry."""
        return f"{self.address}/{repository}:{tag}"

    def publish(
        self,
        repository: str,
        tag: str = "latest",
        *,
        files: Mapping[str, bytes] | None = None,
        volumes: Sequence[str] = (),
    ) -> str:
        """Push a busybox image with these extra files and VOLUMEs under a tag, moving the tag if it was there. Returns
        its digest.

        The engine keeps no copy: the next use really pulls.
        """
        ref = self.ref(repository, tag)
        image.import_busybox(self.client, ref, files)
        try:
            if volumes:
                made = self.client.api.create_container(ref, "true")
                self.client.api.commit(made["Id"], ref, changes=[f"VOLUME {path}" for path in volumes])
                self.client.api.remove_container(made["Id"], v=True)
            self.made.add(str(self.client.images.get(ref).id))
            return self._push(ref)
        finally:
            self.client.images.remove(ref, force=True)

    def remove_pulled(self) -> None:
        """Remove from the engine every image that came from here: tagged, known by digest only, or by neither once
        its tag has moved."""
        for row in self.client.api.images(all=True):
            names = [*(row.get("RepoTags") or []), *(row.get("RepoDigests") or [])]
            unnamed = row["Id"] in self.made and all(name.startswith("<none>") for name in names)
            if unnamed or any(name.startswith(f"{self.address}/") for name in names):
                self.client.images.remove(row["Id"], force=True)

    def stop(self) -> None:
        """Stop it for good, as a registry that is down."""
        self.process.terminate()
        self.process.wait(timeout=30)

    def _push(self, ref: str) -> str:
        digest = None
        for line in self.client.images.push(ref, stream=True, decode=True):
            if "error" in line:
                raise RuntimeError(f"push of {ref}: {line['error']}")
            digest = line.get("aux", {}).get("Digest", digest)
        # With images in containerd's store none is told: an image's id is the digest of its manifest there.
        return str(digest or self.client.images.get(ref).id)


def open_registry(client: docker.DockerClient, folder: Path) -> LocalRegistry:
    """Start a registry on a free port of loopback, its blobs below `folder`."""
    binary = system.unpacked("docker-registry") / "usr/bin/docker-registry"
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    address = f"127.0.0.1:{port}"
    config = folder / "registry.yml"
    config.write_text(_CONFIG.format(root=folder, address=address))
    log = folder / "registry.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [binary, "serve", config], env=_environment(), stdin=subprocess.DEVNULL, stdout=output, stderr=output
        )
    _wait_until_it_listens(port, process, log)
    return LocalRegistry(address=address, client=client, process=process)


def _environment() -> dict[str, str]:
    """Without REGISTRY_*, which would overrule the configuration."""
    return {name: value for name, value in os.environ.items() if not name.startswith("REGISTRY_")}


def _wait_until_it_listens(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 30
    while process.poll() is None and time.monotonic() < deadline:
        with socket.socket() as connection:
            if connection.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    process.kill()
    process.wait()
    raise RuntimeError(f"the registry did not start:\n{log.read_text(errors='replace')}")
