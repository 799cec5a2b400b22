"""Gateways and keepers on a real engine: confined, there before their sandbox starts, repaired, and gone with it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker
import pytest

from sandboxrun.backend.docker.client import Engine
from sandboxrun.errors import ApplyError, PlanError
from sandboxrun.evidence.index import Index
from sandboxrun.plan import operations as op
from sandboxrun.plan.changes import Action, Reason
from tests.conftest import until
from tests.engine.world import World, change, open_world

OPEN = {"network_mode": "bridge", "egress": "open"}
KILLED = "the gateway was killed: its last records may be missing"
VALUE = "a value that stands nowhere on a disk 7c1e"
KEEPS = {"secrets": ["token"]}
TOKEN = {"token": {"environment": "TOKEN"}}


@pytest.fixture
def world(engine_host: str, project: str, tmp_path: Path, busybox: str) -> Iterator[World]:
    with open_world(engine_host, project, tmp_path, busybox) as opened:
        opened.environment["TOKEN"] = VALUE
        yield opened


def allow(*hosts: str) -> dict[str, Any]:
    return {"network_mode": "bridge", "egress": {"allow": list(hosts)}}


def asking(world: World, container: str, host: str) -> str:
    """What a shell with no more than nc does to ask the gateway for a host."""
    request = f"GET / HTTP/1.1\\r\\nHost: {host}\\r\\nConnection: close\\r\\n\\r\\n"
    return f"printf '{request}' | nc -w 5 {name_server(world, container)} 80"


def name_server(world: World, container: str) -> str:
    """The sandbox's, which is its gateway."""
    (address,) = world.engine.inspect_container(container)["HostConfig"]["Dns"]
    return str(address)


def gateway(world: World, client: docker.DockerClient, role: str = "gateway") -> Any:
    return client.containers.get(f"{world.project}-a.{role}")


def said(container: Any) -> list[dict[str, Any]]:
    return [json.loads(line) for line in container.logs(stdout=True, stderr=False).splitlines()]


def evidence(world: World) -> tuple[Index, Path]:
    (entry,) = world.store.entries(world.project)
    return world.store.index(entry), world.store.path / entry.folder


def test_a_gateway_is_confined_whatever_it_is_asked(world: World, engine_client: docker.DockerClient) -> None:
    world.apply(world.profile({"a": allow("api.example.com:443")}))
    attrs = gateway(world, engine_client).attrs
    host = attrs["HostConfig"]
    assert attrs["Config"]["User"] == "65532:65532"
    assert (host["CapDrop"], host["CapAdd"], host["Privileged"]) == (["ALL"], None, False)
    assert host["ReadonlyRootfs"] and host["PidsLimit"] == 64 and host["Memory"] == host["MemorySwap"]
    assert "no-new-privileges=true" in host["SecurityOpt"] and any(
        o.startswith("seccomp={") for o in host["SecurityOpt"]
    )
    top = subprocess.run(["cat", f"/proc/{attrs['State']['Pid']}/status"], capture_output=True, text=True, check=False)
    if top.returncode == 0:  # the engine is on this machine
        assert "CapEff:\t0000000000000000" in top.stdout and "NoNewPrivs:\t1" in top.stdout
    code, _ = gateway(world, engine_client).exec_run(["sh", "-c", "echo x > /etc/sandboxrun/rules.json"])
    assert code != 0


def test_another_list_is_served_by_the_same_gateway_beside_the_same_sandbox(
    world: World, engine_client: docker.DockerClient
) -> None:
    first = world.profile({"a": allow("api.example.com:443")})
    world.apply(first)
    before, served = world.ids(first), gateway(world, engine_client)
    then = world.profile({"a": allow("api.example.com:443", "*.example.org:443")})
    assert change(world.plan(then), "a").action is Action.UPDATE
    world.apply(then)
    assert world.ids(then) == before
    assert gateway(world, engine_client).id == served.id
    events = said(served)
    assert [e["event"] for e in events] == ["ready", "rules"]
    assert events[0]["digest"] != events[1]["digest"]
    assert world.plan(then).empty


def test_rules_that_a_gateway_refuses_fail_at_once_and_the_old_ones_stay(
    world: World, engine_client: docker.DockerClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sandboxrun.backend.docker import companions as gateways

    whole, profile = gateways.rules_tar, world.profile({"a": allow("a.example.com:443")})
    world.apply(profile)
    changed = world.profile({"a": allow("b.example.com:443")})
    with monkeypatch.context() as patched, pytest.raises(ApplyError, match="not a rules document") as caught:
        patched.setattr(gateways, "rules_tar", lambda document: whole(document[:-9]))  # cut short
        patched.setattr(gateways, "PATIENCE", 600.0)  # longer than a test may last
        world.apply(changed)
    assert "it may serve by its old rules still" in str(caught.value)
    assert [e["event"] for e in said(gateway(world, engine_client))] == ["ready", "rules-refused"]
    world.apply(changed)
    assert world.plan(changed).empty


def test_rules_of_an_apply_that_was_not_finished_are_not_taken_for_those_recorded(
    world: World, engine_client: docker.DockerClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or else a profile that is taken back would seem to hold, while the gateway serves by the wider list."""
    narrow, wide = (world.profile({"a": allow(*hosts)}) for hosts in (["a.example.com:443"], ["*.example.com:443"]))
    world.apply(narrow)
    before = world.ids(narrow)

    def killed(*args: Any) -> None:
        raise ApplyError("killed", help="")

    with monkeypatch.context() as patched, pytest.raises(ApplyError, match="killed"):
        patched.setattr("sandboxrun.backend.docker.perform.record_update", killed)
        world.apply(wide)
    for profile in (narrow, wide):
        assert change(world.plan(profile), "a").action is Action.UPDATE
    world.apply(narrow)
    assert world.plan(narrow).empty and world.ids(narrow) == before
    serving = gateway(world, engine_client)
    assert [e["event"] for e in said(serving)] == ["ready", "rules", "rules"]
    rules = b"".join(serving.get_archive("/etc/sandboxrun/rules.json")[0])
    assert b'"a.example.com:443"' in rules and b"*.example.com" not in rules


def test_a_gateway_that_died_cuts_the_sandbox_off_and_the_next_apply_brings_it_back(
    world: World, engine_client: docker.DockerClient
) -> None:
    profile = world.profile({"a": OPEN})
    world.apply(profile)
    sandbox = world.ids(profile)["a"]
    ask = ("sh", "-c", asking(world, sandbox, "169.254.169.254"))
    assert "403" in world.run(sandbox, *ask)[1]
    gateway(world, engine_client).kill()
    assert "403" not in world.run(sandbox, *ask)[1]
    found = change(world.plan(profile), "a")
    assert (found.action, found.reason) == (Action.UPDATE, Reason.DRIFTED)
    world.apply(profile)
    assert world.ids(profile)["a"] == sandbox
    assert "403" in world.run(sandbox, *ask)[1]
    gateway(world, engine_client).remove(force=True)
    world.apply(profile)
    assert world.ids(profile)["a"] == sandbox
    assert "403" in world.run(sandbox, *ask)[1]


def test_a_gateway_that_somebody_moved_or_paused_is_brought_back(
    world: World, engine_client: docker.DockerClient
) -> None:
    profile = world.profile({"a": OPEN})
    world.apply(profile)
    sandbox, served = world.ids(profile)["a"], gateway(world, engine_client)
    ask = ("sh", "-c", asking(world, sandbox, "169.254.169.254"))
    inside, outside = (engine_client.networks.get(f"{world.project}{name}") for name in ("-a.net", "_egress"))

    def move() -> None:
        inside.disconnect(served.id, force=True)
        engine_client.networks.get("bridge").connect(served.id)

    def remove() -> None:
        outside.disconnect(served.id, force=True)
        outside.remove()

    for meddle in (move, served.pause, remove):
        meddle()
        assert change(world.plan(profile), "a").reason is Reason.DRIFTED
        world.apply(profile)
        assert world.plan(profile).empty and world.ids(profile)["a"] == sandbox
        served.reload()
        assert set(served.attrs["NetworkSettings"]["Networks"]) == {f"{world.project}-a.net", f"{world.project}_egress"}
        assert "403" in world.run(sandbox, *ask)[1]
    assert [record["event"] for record in said(served)].count("stopped") == 3  # each time its records were whole


def test_a_gateway_is_made_anew_where_its_sandbox_took_the_place_of_another(
    world: World, engine_client: docker.DockerClient
) -> None:
    world.apply(world.profile({"a": OPEN}))
    profile = world.profile({"a": {**OPEN, "environment": {"A": "b"}}})
    world.apply(profile)
    sandbox = world.ids(profile)["a"]
    (made,) = engine_client.containers.list(
        filters={"name": f"^/{world.project}-a.next-.*gateway"}, ignore_removed=True
    )
    made.remove(force=True)
    world.apply(profile)
    assert world.plan(profile).empty and world.ids(profile)["a"] == sandbox
    assert "403" in world.run(sandbox, "sh", "-c", asking(world, sandbox, "169.254.169.254"))[1]


def test_a_gateway_that_an_apply_left_half_made_is_made_anew(world: World, engine_client: docker.DockerClient) -> None:
    profile = world.profile({"a": OPEN})
    world.apply(profile)
    before, name = world.ids(profile), f"{world.project}-a.gateway"
    whole = engine_client.containers.get(name)
    labels, image = whole.labels, whole.image.id
    whole.remove(force=True)
    engine_client.containers.create(image, ["keep"], name=name, labels=labels, network_mode="none")
    world.apply(profile)
    assert world.ids(profile) == before
    assert world.plan(profile).empty
    assert engine_client.containers.get(name).attrs["Args"][-4] == "--at"


def test_nobody_else_joins_the_network_of_a_sandbox_and_its_gateway(world: World) -> None:
    world.apply(world.profile({"one": allow("example.org:443")}))
    network = {"n": {"external": True, "name": f"{world.project}-one.net"}}
    both = {"one": allow("example.org:443"), "two": {"networks": ["n"], "network_mode": None}}
    message = rf"the network {world.project}-one.net .*it is that of the sandbox one and its gateway alone"
    with pytest.raises(PlanError, match=message):
        world.plan(world.profile(both, networks=network))
    with pytest.raises(PlanError, match=message):
        world.apply(world.profile(both, networks=network))


def test_a_network_that_somebody_joined_it_to_is_left_again(world: World, engine_client: docker.DockerClient) -> None:
    profile = world.profile({"a": OPEN})
    world.apply(profile)
    before = world.ids(profile)
    engine_client.networks.get("bridge").connect(before["a"])
    found = change(world.plan(profile), "a")
    assert (found.action, [d.key for d in found.drift]) == (Action.UPDATE, ["networks"])
    world.apply(profile)
    assert world.ids(profile) == before and world.plan(profile).empty
    attached = world.engine.inspect_container(before["a"])["NetworkSettings"]["Networks"]
    assert list(attached) == [f"{world.project}-a.net"]


def test_requests_are_kept_as_evidence(world: World) -> None:
    profile = world.profile({"a": allow("api.example.com:80")})
    world.apply(profile)
    sandbox = world.ids(profile)["a"]
    asked = ("169.254.169.254", "denied.example.org", "denied.example.org")
    world.run(sandbox, "sh", "-c", "; ".join(asking(world, sandbox, host) for host in asked))
    world.run(sandbox, "nslookup", "unlisted.example.org")
    world.destroy(profile)
    index, folder = evidence(world)
    assert index.egress is not None
    assert (index.egress.allowed, index.egress.denied) == (0, 4)
    assert index.egress.denied_targets == ("169.254.169.254:80", "denied.example.org:80", "unlisted.example.org")
    records = [json.loads(line) for line in (folder / "egress.jsonl").read_bytes().splitlines()]
    requests = [r for r in records if r["event"] == "request"]
    assert [(r["sandbox"], r["method"], r["host"], r["verdict"]) for r in requests] == [
        ("a", "GET", "169.254.169.254", "denied"),
        ("a", "GET", "denied.example.org", "denied"),
        ("a", "GET", "denied.example.org", "denied"),
        ("a", "", "unlisted.example.org", "denied"),
    ]
    assert any(kept.path == "egress.jsonl" for kept in index.kept)
    assert not any(missing.part == "egress" for missing in index.missing)


def test_a_gateway_that_ended_before_its_sandbox_is_told(world: World, engine_client: docker.DockerClient) -> None:
    profile = world.profile({"a": OPEN})
    world.apply(profile)
    gateway(world, engine_client).kill()
    world.destroy(profile)
    assert [m.reason for m in evidence(world)[0].missing if m.part == "egress"] == [
        "the gateway ended before the sandbox (exit 137): it reached nothing then",
        KILLED,
    ]


def test_a_gateway_that_is_killed_while_it_stops_is_told(
    world: World, engine_client: docker.DockerClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sandboxrun.evidence.parts._GRACE", 1)
    profile = world.profile({"a": OPEN})
    world.apply(profile)
    os.kill(gateway(world, engine_client).attrs["State"]["Pid"], signal.SIGSTOP)  # it does not heed the engine's TERM
    world.destroy(profile)
    assert [m.reason for m in evidence(world)[0].missing if m.part == "egress"] == [KILLED]


def test_a_gateway_that_is_gone_is_told_with_its_records(world: World, engine_client: docker.DockerClient) -> None:
    profile = world.profile({"a": OPEN})
    world.apply(profile)
    gateway(world, engine_client).remove(force=True)
    world.destroy(profile)
    (missing,) = [m for m in evidence(world)[0].missing if m.part == "egress"]
    assert missing.reason == "its gateway is gone, and the records with it"


def test_a_gateway_that_does_not_serve_lets_no_sandbox_start(
    world: World, engine_client: docker.DockerClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sandboxrun.backend.docker import companions as gateways

    whole = gateways.rules_tar
    monkeypatch.setattr(gateways, "rules_tar", lambda document: whole(document[:-9]))  # cut short
    with pytest.raises(ApplyError, match="its gateway does not serve by its rules"):
        world.apply(world.profile({"a": OPEN}))
    own = {"sandboxrun.project": world.project}
    assert (
        engine_client.containers.list(
            all=True, filters={"label": f"sandboxrun.project={world.project}"}, ignore_removed=True
        )
        == []
    )
    assert world.engine.networks(labels=own) == () and world.engine.volumes(labels=own) == ()
    assert tuple(world.store.entries(world.project)) == ()


def test_the_gateway_answers_for_all_names_and_the_host_does_not_answer(world: World) -> None:
    profile = world.profile({"a": OPEN})
    world.apply(profile)
    container = world.ids(profile)["a"]
    code, output = world.run(container, "nslookup", "example.com")
    assert code == 0 and name_server(world, container) in output, output
    assert world.run(container, "nslookup", "localhost.")[0] != 0
    attached = world.engine.inspect_container(container)["NetworkSettings"]["Networks"]
    (settings,) = attached.values()
    bridge = settings["Gateway"] or settings["IPAddress"].rpartition(".")[0] + ".1"
    code, output = world.run(container, "ping", "-c", "1", "-W", "1", bridge)
    assert code != 0, output


def test_hundreds_of_networks_fit(world: World) -> None:
    """As many as an engine's own pools hold, and more."""
    names = [f"n{number}" for number in range(40)]
    made: list[str] = []
    from sandboxrun.backend.docker.codec import taken_by
    from sandboxrun.gateway.subnets import candidates

    try:
        for name in names:
            subnet = next(candidates(name, taken_by(world.engine.networks())))
            made.append(
                world.engine.create_network(
                    {
                        "Name": f"{world.project}-{name}",
                        "Driver": "bridge",
                        "Internal": True,
                        "IPAM": {"Config": [{"Subnet": subnet}]},
                        "Labels": {"sandboxrun.test": world.project},
                    }
                )
            )
        assert len(set(made)) == len(names)
    finally:
        for network in made:
            world.engine.remove_network(network)


def test_secrets_lie_in_memory_and_are_the_users_alone(world: World, engine_client: docker.DockerClient) -> None:
    profile = world.profile({"a": KEEPS}, secrets=TOKEN)
    world.apply(profile)
    container = world.ids(profile)["a"]
    assert world.run(container, "cat", "/run/secrets/token") == (0, VALUE)
    assert world.run(container, "stat", "-c", "%a %u %g", "/run/secrets/token")[1].split() == ["400", "1000", "1000"]
    assert "tmpfs on /run/secrets type tmpfs (ro," in world.run(container, "mount")[1]
    assert world.run(container, "cat", "/run/secrets/token", user="2000:2000")[0] != 0
    keeper = gateway(world, engine_client, "keeper")
    assert keeper.attrs["HostConfig"]["NetworkMode"] == "none"
    assert keeper.exec_run(["cat", "/held/secrets/token"])[0] != 0
    everything = json.dumps([world.engine.inspect_container(c) for c in (container, keeper.id)])
    everything += json.dumps(world.engine.volumes(labels={"sandboxrun.project": world.project}))
    assert VALUE not in everything and VALUE not in str(world.plan(profile))
    world.destroy(profile)
    for path in evidence(world)[1].rglob("*"):
        assert not path.is_file() or VALUE.encode() not in path.read_bytes(), path


def test_secrets_are_gone_with_their_keeper(world: World, engine_client: docker.DockerClient) -> None:
    profile = world.profile({"a": {**KEEPS, "command": ["true"]}}, secrets=TOKEN)
    world.apply(profile)
    engine_client.containers.get(f"{world.project}-a").wait()
    gateway(world, engine_client, "keeper").kill()
    volume = world.engine.volume(f"{world.project}-a.secrets")
    assert volume is not None
    place = Path(volume["Mountpoint"])
    if place.exists():  # the engine is on this machine
        assert list(place.iterdir()) == []
    world.apply(profile)
    assert [type(s) for s in world.plan(profile).operations if isinstance(s, op.StartKeeper)] == []


def test_without_resolvers_the_engines_own_is_asked(world: World, engine_client: docker.DockerClient) -> None:
    """It knows a neighbour of the gateway by name, which is nobody that a sandbox may reach."""
    profile = world.profile({"a": OPEN})
    world.apply(profile)
    sandbox, outside = world.ids(profile)["a"], f"{world.project}_egress"
    busybox = world.engine.inspect_container(sandbox)["Image"]
    api = engine_client.api
    aliased = api.create_networking_config({outside: api.create_endpoint_config(aliases=["near.example.com"])})
    near = api.create_container(
        busybox, ["sleep", "60"], name=f"{world.project}-near", networking_config=aliased,
        host_config=api.create_host_config(network_mode=outside),
    )  # fmt: skip
    try:
        api.start(near["Id"])
        code, output = world.run(sandbox, "sh", "-c", asking(world, sandbox, "near.example.com"))
        assert "denied: near.example.com:80" in output, (code, output)
        serving = gateway(world, engine_client)
        until(lambda: [r for r in said(serving) if r["event"] == "request"])  # an engine writes what it reads in time
        asked = [r for r in said(serving) if r["event"] == "request"]
        assert [(r["host"], r["reason"]) for r in asked] == [("near.example.com", "reserved")]
        assert asked[0]["address"] in json.dumps(api.inspect_container(near["Id"])["NetworkSettings"]["Networks"])
    finally:
        api.remove_container(near["Id"], force=True)


@pytest.mark.parametrize("role", ["gateway", "keeper"])
def test_volumes_that_a_companions_image_declares_go_with_it(
    role: str, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.environment["KEY"] = "correct-horse"
    profile = world.profile(
        {"a": {**allow("a.example.com:443"), "secrets": ["key"]}}, secrets={"key": {"environment": "KEY"}}
    )
    create, left = Engine.create_container, list[str]()

    def declaring(engine: Engine, name: str, payload: Any, **more: Any) -> Any:
        volumes: dict[str, Any] = {"Volumes": {"/data": {}}} if name.endswith(f".{role}") else {}
        made = create(engine, name, {**payload, **volumes}, **more)
        if volumes:
            mounts = engine.inspect_container(made.id)["Mounts"]
            left.extend(mount["Name"] for mount in mounts if mount["Destination"] == "/data")
        return made

    with monkeypatch.context() as patch, pytest.raises(ApplyError, match=f"{role} of a: .*Mounts"):
        patch.setattr(Engine, "create_container", declaring)
        world.apply(profile)
    assert len(left) == 1 and world.engine.volume(left[0]) is None
