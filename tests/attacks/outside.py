"""Attacks with a network, run in a world of their own: caged first, then weak; and what each server saw meanwhile."""

from __future__ import annotations

import ipaddress
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import docker

from sandboxrun.backend.docker.client import Engine, connect
from sandboxrun.data import Data
from sandboxrun.lifecycle import apply as converge
from tests.attacks.cages import Cages, Ran
from tests.attacks.shipping import COMMAND, NAME, archive, controlled, said_by
from tests.attacks.weak import CAPABILITIES, tar_of
from tests.attacks.world import ALLOWED, HOST, IMAGE, NAMES, TCP, World

GATEWAY_PORT = 443
# A neighbour that would talk to anybody.
NEIGHBOUR = ["python3", "-c", """
import socket
sock = socket.create_server(("0.0.0.0", 8080))
while True:
    peer, _ = sock.accept()
    peer.sendall(b"served by a neighbour")
    peer.close()
"""]  # fmt: skip
EGRESS: Mapping[str, Any] = {
    "allow": {"allow": list(ALLOWED), "resolvers": [NAMES]},
    "open": {"mode": "open", "resolvers": [NAMES]},
}


class Saw(Data):
    """What got to the servers of the world: connections, datagrams, names asked for."""

    reached: Mapping[str, int]
    datagrams: tuple[bytes, ...]
    asked: tuple[str, ...]


class Outside(Data):
    """`caged` and `weak` are what the attacks said; `saw_caged` and `saw_weak` what the world saw of them.

    `saw_unfiltered` is what a host that filters no paths saw of the one attack that is run there too.
    """

    caged: Mapping[str, str]
    weak: Mapping[str, str]
    saw_caged: Saw
    saw_weak: Saw
    saw_unfiltered: Saw
    records: Mapping[str, bytes]  # egress.jsonl of each cage
    ran: Mapping[str, Ran]


def look_outside(world: World, directory: Path) -> Outside:
    """Run all of them."""
    with connect(world.engine.host) as engine, closing(world.engine.client()) as client:
        hosts = f"{HOST} {_bridge(client)}"
        with _neighbour(engine, directory) as beside:
            cages = Cages(engine=engine, project="attacks", directory=directory, image=IMAGE)
            variables = {"HOST_ADDRESSES": hosts, "HOST_SOCKET": "none", **beside}
            ran = cages.run({name: {"egress": egress, "environment": variables} for name, egress in EGRESS.items()})
        saw_caged = _saw(world)
        saw_unfiltered = _unfiltered(world, engine, directory)
        weak = _weak(client, hosts)
    caged = {name: said for one in ran.values() for name, said in said_by(one.output).items()}
    records = {name: one.kept("egress.jsonl") for name, one in ran.items()}
    return Outside(
        caged=caged,
        weak=weak,
        saw_caged=saw_caged,
        saw_weak=_saw(world),
        saw_unfiltered=saw_unfiltered,
        records=records,
        ran=ran,
    )


def _unfiltered(world: World, engine: Engine, directory: Path) -> Saw:
    """Shouts at a host that takes packets from senders to whom no way leads back."""
    (folder := directory / "unfiltered").mkdir()
    cages = Cages(engine=engine, project="unfiltered", directory=folder, image=IMAGE)
    world.filter_paths(0)
    try:
        cages.run({"shout": {"egress": EGRESS["allow"], "command": [*COMMAND, "", "shout_to_the_host"]}})
    finally:
        world.filter_paths(2)
    return _saw(world)


def _saw(world: World) -> Saw:
    saw = Saw(reached=dict(world.reached), datagrams=tuple(world.datagrams), asked=tuple(world.names.asked))
    world.reached = Counter()
    world.datagrams.clear()
    world.names.asked.clear()
    return saw


def _bridge(client: docker.DockerClient) -> str:
    """The host's address on the engine's own bridge: the first, unless somebody said otherwise."""
    config = client.networks.get("bridge").attrs["IPAM"]["Config"][0]
    return str(config.get("Gateway") or ipaddress.ip_network(config["Subnet"])[1])


@contextmanager
def _neighbour(engine: Engine, directory: Path) -> Iterator[Mapping[str, str]]:
    """Another project's sandbox, with a gateway that lets it go anywhere; where it is."""
    folder = directory / "neighbour"
    folder.mkdir()
    cages = Cages(engine=engine, project="neighbour", directory=folder, image=IMAGE)
    profile = cages.profile({"other": {"egress": EGRESS["open"], "command": NEIGHBOUR}})
    converge.apply(engine, profile, cages.store, settings=converge.ApplySettings())
    try:
        (own,) = _addresses(engine, "neighbour-other")
        yield {
            "NEIGHBOUR": own,
            "NEIGHBOUR_GATEWAY": " ".join(_addresses(engine, "neighbour-other.gateway")),
            "NEIGHBOUR_PORT": str(GATEWAY_PORT),
        }
    finally:
        converge.destroy(engine, profile, cages.store, settings=converge.ApplySettings())


def _addresses(engine: Engine, container: str) -> list[str]:
    networks = engine.inspect_container(container)["NetworkSettings"]["Networks"]
    return sorted(network["IPAddress"] for network in networks.values())


def _weak(client: docker.DockerClient, hosts: str) -> Mapping[str, str]:
    """What they say on the engine's own bridge, with a gateway that trusts everybody."""
    bridge = hosts.split()[1]
    names = [one.name for one in controlled(*EGRESS)]
    other = client.containers.run(IMAGE, NEIGHBOUR, detach=True, init=True)
    try:
        other.reload()
        variables = {
            "GATEWAY": bridge, "HOST_ADDRESSES": hosts, "WEAK": "1",
            "NEIGHBOUR": other.attrs["NetworkSettings"]["IPAddress"], "NEIGHBOUR_GATEWAY": bridge,
            "NEIGHBOUR_PORT": str(TCP),
        }  # fmt: skip
        network = client.networks.create("weak")  # with the engine's own resolver, as any network of one's own has
        weak = client.containers.create(
            IMAGE, ["python3", f"/{NAME}", "", *names], user="0:0", init=True, environment=variables, dns=[NAMES],
            cap_add=CAPABILITIES, security_opt=["seccomp=unconfined"], mem_limit="1g", pids_limit=1000,
            network="bridge",
        )  # fmt: skip
        network.connect(weak)
        weak.put_archive("/", tar_of({NAME: archive()}))
        weak.start()
        weak.wait(timeout=240)
        output = weak.logs()
        return said_by(output)
    finally:
        for container in client.containers.list(all=True, ignore_removed=True):
            container.remove(force=True)
