"""Real clients in a sandbox, and the hosts they want: those allowed are reached through the gateway, nobody else is."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import docker
import pytest
from msgspec import structs

from sandboxrun.backend.docker import facts
from sandboxrun.data import Data
from sandboxrun.errors import ApplyError, PlanError
from sandboxrun.plan.changes import Action
from sandboxrun.spec.types import freeze
from tests.engine.outside import DENIED, FAR, NAMES, Outside, open_outside, why_not
from tests.engine.world import World, change, open_world

AUTHORITY = "/run/configs/authority"
TRUST = ("CURL_CA_BUNDLE", "SSL_CERT_FILE", "GIT_SSL_CAINFO", "PIP_CERT", "NODE_EXTRA_CA_CERTS", "npm_config_cafile")


LISTED = ("*.example.com:443", "api.example.com:80", "*.models.example.org:443")


class Inside(Data):
    """A running sandbox with its outside."""

    world: World
    outside: Outside
    directory: Path
    earlier: int = 0  # requests of other tests
    options: Mapping[str, Any] = freeze({})

    def egress(self, *allow: str) -> dict[str, Any]:
        return {"allow": list(allow), "private_networks": [self.outside.subnet], "resolvers": [self.outside.names_at]}

    def profile(self, **options: Any) -> Any:
        sandbox = {
            "network_mode": "bridge",
            "egress": self.egress(*LISTED),
            "configs": ["authority"],
            "environment": {**dict.fromkeys(TRUST, AUTHORITY), "HOME": "/tmp"},
            "pids_limit": 200,
            **self.options,
            **options,
        }
        return self.world.profile({"a": sandbox}, configs={"authority": {"file": "./ca.pem"}})

    def run(self, *argv: str) -> tuple[int, str]:
        (id,) = self.world.ids(self.profile()).values()
        return self.world.run(id, *argv)

    def sh(self, script: str) -> tuple[int, str]:
        return self.run("sh", "-c", script)

    def gateway(self, client: docker.DockerClient) -> Any:
        return client.containers.get(f"{self.world.project}-a.gateway")

    def address(self) -> str:
        """The gateway's, where the sandbox sees it."""
        (id,) = self.world.ids(self.profile()).values()
        (server,) = self.world.engine.inspect_container(id)["HostConfig"]["Dns"]
        return str(server)

    def requests(self, client: docker.DockerClient) -> list[dict[str, Any]]:
        lines = self.gateway(client).logs(stdout=True, stderr=False).splitlines()
        return [record for record in map(json.loads, lines) if record["event"] == "request"][self.earlier :]

    def recorded(self, client: docker.DockerClient, host: str) -> dict[str, Any]:
        """The last request to that host, once there is one: an engine writes what it reads in time, and a connection
        that ends later than a refusal is recorded after it."""
        until = time.monotonic() + 30
        while not (found := [record for record in self.requests(client) if record["host"] == host]):
            assert time.monotonic() < until, self.requests(client)
            time.sleep(0.05)
        return found[-1]


def open_inside(host: str, project: str, folder: Path, image: str, **options: Any) -> Iterator[Inside]:
    """A sandbox with these options besides its own, and its outside."""
    if reason := why_not():
        (pytest.fail if os.environ.get("CI") else pytest.skip)(reason)
    with open_outside(folder) as outside, open_world(host, project, folder, image) as world:
        inside = Inside(world=world, outside=outside, directory=folder, options=options)
        world.apply(inside.profile())
        yield inside
        world.destroy(inside.profile())


@pytest.fixture(scope="module")
def shared(
    engine_host: str, run_id: str, agent_image: str, gateway_image: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Inside]:
    yield from open_inside(engine_host, f"{run_id}-clients", tmp_path_factory.mktemp("outside"), agent_image)


@pytest.fixture
def inside(shared: Inside, engine_client: docker.DockerClient) -> Inside:
    """A sandbox that tests leave as it is."""
    shared.outside.seen.clear()
    shared.outside.names.asked.clear()
    return structs.replace(shared, earlier=len(shared.requests(engine_client)))


@pytest.fixture
def own(engine_host: str, project: str, agent_image: str, gateway_image: str, tmp_path: Path) -> Iterator[Inside]:
    """One of the test's own."""
    yield from open_inside(engine_host, project, tmp_path, agent_image)


# -- clients


def test_curl(inside: Inside) -> None:
    assert inside.run("curl", "-sS", "https://api.example.com/data") == (0, "served\n")
    assert inside.run("curl", "-sS", "http://api.example.com/data") == (0, "served\n")
    assert inside.run("curl", "-sS", "https://a.models.example.org/data") == (0, "served\n")
    assert inside.run("curl", "-sS", "--data", "words", "https://api.example.com/") == (0, "words")
    hosts = [host for host, _, _ in inside.outside.seen]
    assert hosts == ["api.example.com", "api.example.com", "a.models.example.org", "api.example.com"]


def test_curl_where_it_may_not(inside: Inside, engine_client: docker.DockerClient) -> None:
    """A name that is not listed does not exist."""
    denied = f"curl.{DENIED}"  # no other test's: a name is recorded once in five seconds
    for scheme in ("https", "http"):
        code, text = inside.run("curl", "-sS", f"{scheme}://{denied}/data")
        assert (code, "Could not resolve host" in text) == (6, True), text
    assert inside.outside.seen == [] and inside.outside.names.asked == []
    record = inside.recorded(engine_client, denied)
    assert (record["host"], record["protocol"], record["reason"]) == (denied, "dns", "host")


def test_plain_requests_are_told_why(inside: Inside) -> None:
    code, text = inside.run("curl", "-sS", "-H", f"Host: {DENIED}", "http://api.example.com/data")
    assert (code, text) == (
        0,
        f"sandboxrun: denied: {DENIED}:80\nto permit it, list it under egress: allow: in the sandbox's profile\n",
    )
    assert inside.outside.seen == []


def test_python(inside: Inside) -> None:
    script = "import sys, urllib.request as u; print(u.urlopen(sys.argv[1], timeout=20).read().decode(), end='')"
    assert inside.run("python3", "-c", script, "https://api.example.com/data") == (0, "served\n")
    assert inside.run("python3", "-c", script, "http://api.example.com/data") == (0, "served\n")
    code, text = inside.run("python3", "-c", script, f"https://{DENIED}/data")
    assert code == 1 and "Name or service not known" in text


FETCH = "fetch(process.argv[1]).then(a => a.text()).then(t => process.stdout.write(t))"
GET = "require('https').get(process.argv[1], a => a.pipe(process.stdout))"


@pytest.mark.parametrize("script", [FETCH, GET])
def test_node(inside: Inside, script: str) -> None:
    """Without any setting: its own fetch never asks for a proxy."""
    assert inside.run("node", "-e", script, "https://api.example.com/data") == (0, "served\n")
    code, text = inside.run("node", "-e", script, f"https://{DENIED}/data")
    assert code == 1 and "ENOTFOUND" in text


def test_git(inside: Inside) -> None:
    code, text = inside.sh("cd /tmp && git clone -q https://git.example.com/repo.git && cat repo/README")
    assert (code, text) == (0, "a repository\n")
    code, text = inside.sh(f"cd /tmp && git clone -q https://{DENIED}/repo.git other")
    assert code == 128 and "Could not resolve host" in text


def test_pip(inside: Inside, engine_client: docker.DockerClient) -> None:
    denied = f"pip.{DENIED}"  # no other test's: a name is recorded once in five seconds
    pip = "python3 $(ls /usr/share/python-wheels/pip-*.whl | head -1)/pip --disable-pip-version-check -q install"
    code, text = inside.sh(
        f"{pip} --no-cache-dir --target /tmp/py --index-url https://pypi.example.com/simple demo"
        " && PYTHONPATH=/tmp/py python3 -m demo"
    )
    assert (code, text) == (0, "demo of python\n")
    code, text = inside.sh(f"{pip} --retries 0 --target /tmp/no --index-url https://{denied}/simple demo")
    assert code == 1 and "No matching distribution" in text
    assert inside.recorded(engine_client, denied)["reason"] == "host" and denied not in inside.outside.names.asked


@pytest.mark.skipif(not Path("/usr/lib/node_modules/npm").is_dir(), reason="this machine has no npm to bring along")
def test_npm(own: Inside) -> None:
    shutil.copytree("/usr/lib/node_modules/npm", own.directory / "npm", symlinks=True)
    own.world.apply(own.profile(volumes=["./npm:/npm:ro"]))
    npm = "node /npm/bin/npm-cli.js --cache /tmp/cache --no-audit --no-fund --fetch-retries=0 --no-update-notifier"
    code, text = own.sh(
        f"mkdir -p /tmp/p && cd /tmp/p && {npm} --silent --registry https://npm.example.com/ install demo && node -e"
        " 'require(\"demo\")'"
    )
    assert (code, text) == (0, "demo of node\n")
    code, text = own.sh(f"cd /tmp/p && {npm} --registry https://{DENIED}/ install other")
    assert code == 1 and "ENOTFOUND" in text


# -- what gets to nobody


def test_listed_names_lead_to_the_gateway_and_no_others_exist(inside: Inside) -> None:
    assert inside.sh("env | grep -ci proxy") == (1, "0\n")
    gateway = inside.address()
    for name in ("api.example.com", "x.y.models.example.org"):
        assert inside.sh(f"getent ahostsv4 {name} | head -1 | cut -d' ' -f1") == (0, f"{gateway}\n")
    for name in (f"secret.{DENIED}", "models.example.org", "host.docker.internal"):
        assert inside.run("getent", "ahosts", name)[0] == 2
    assert inside.outside.names.asked == [] and inside.outside.seen == []


def test_a_question_sent_to_any_name_server_gets_no_answer_from_outside(inside: Inside) -> None:
    script = (
        "import socket, sys\n"
        "q = b'\\0\\7\\1\\0\\0\\1\\0\\0\\0\\0\\0\\0\\6secret\\7example\\3net\\0\\0\\1\\0\\1'\n"
        "for host in sys.argv[1:]:\n"
        "    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(1)\n"
        "    try:\n"
        "        s.sendto(q, (host, 53)); r = s.recv(512)\n"
        "        print(host, 'no' if r[3] & 15 and r[6:8] == b'\\0\\0' else r)\n"
        "    except OSError as error:\n"
        "        print(host, 'no')\n"
    )
    hosts = f"127.0.0.1 127.0.0.11 {inside.address()} {inside.outside.names_at}"
    code, text = inside.sh(f'python3 -c "$1" {hosts}'.replace('"$1"', f'"$(cat <<"X"\n{script}X\n)"'))
    assert code == 0 and len(text.splitlines()) == 4
    assert all(line.endswith(" no") for line in text.splitlines()), text
    assert inside.outside.names.asked == []


def test_only_allowed_names_are_asked_for(inside: Inside) -> None:
    for name in (DENIED, f"data-that-leaves.{DENIED}", "x.y.z.example.net", "models.example.org"):
        inside.run("curl", "-sS", f"https://{name}/")
    assert inside.outside.names.asked == []
    inside.run("curl", "-sS", "https://api.example.com/data")
    assert set(inside.outside.names.asked) == {"api.example.com"}


def test_addresses_are_not_reached(inside: Inside) -> None:
    for port in (80, 443):
        code, _ = inside.run("curl", "-sS", "--max-time", "5", f"http://{inside.outside.server}:{port}/")
        assert code in (7, 28)
    code, text = inside.run("curl", "-sS", "-H", f"Host: {inside.outside.server}", "http://api.example.com/data")
    assert text.startswith("sandboxrun: denied: ?:80\n")
    assert inside.outside.seen == []


def test_an_allowed_name_that_leads_to_metadata(inside: Inside, engine_client: docker.DockerClient) -> None:
    code, _ = inside.run("curl", "-sS", f"https://{FAR}/latest/meta-data")
    assert code == 35
    record = inside.recorded(engine_client, FAR)
    assert (record["host"], record["address"], record["reason"]) == (FAR, "169.254.169.254", "reserved")


def test_tls_that_names_another_host(inside: Inside, engine_client: docker.DockerClient) -> None:
    code, _ = inside.run("curl", "-sS", "--connect-to", f"{DENIED}:443:api.example.com:443", f"https://{DENIED}/data")
    assert code == 35 and inside.outside.seen == []
    record = inside.recorded(engine_client, DENIED)
    assert (record["host"], record["reason"], record["sent"]) == (DENIED, "host", 0)


CONFINED = """
import os
for pid in filter(str.isdigit, os.listdir("/proc")):
    if pid != str(os.getpid()):
        s = dict(line.split(":\\t", 1) for line in open(f"/proc/{pid}/status").read().splitlines())
        print(s["Name"], s["Uid"].split()[1], s["CapEff"], s["NoNewPrivs"], s["Seccomp"])
"""


def test_it_is_confined(inside: Inside, engine_client: docker.DockerClient) -> None:
    gateway = inside.gateway(engine_client)
    host = gateway.attrs["HostConfig"]
    assert (host["ReadonlyRootfs"], host["CapDrop"], host["CapAdd"]) == (True, ["ALL"], None)
    found = sorted(gateway.exec_run(["python3", "-c", CONFINED]).output.decode().splitlines())
    assert found == [f"{name} 65532 {'0' * 16} 1 2" for name in ("haproxy", "python3")]


# -- an engine that asks no gateway for names: they stand in the hosts file


def test_names_are_found_where_the_gateway_is_not_asked(
    own: Inside, engine_client: docker.DockerClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(facts, "hands_names", lambda version: False)
    egress = own.egress("api.example.com:443", "api.example.com:80")
    listed = own.profile(egress=egress)
    own.world.destroy(listed)
    own.world.apply(listed, rerun=True)
    assert own.world.plan(listed).empty  # read back as it was asked
    (id,) = own.world.ids(listed).values()
    gateway = own.gateway(engine_client)
    try:
        os.kill(gateway.attrs["State"]["Pid"], signal.SIGSTOP)  # the name server; HAProxy goes on
        assert own.world.run(id, "curl", "-sS", "https://api.example.com/data") == (0, "served\n")
        assert own.world.run(id, "node", "-e", FETCH, "https://api.example.com/data") == (0, "served\n")
    finally:
        os.kill(gateway.attrs["State"]["Pid"], signal.SIGCONT)
    assert own.world.run(id, "curl", "-sS", f"https://{DENIED}/data")[0] == 6
    fewer = own.profile(egress=own.egress("api.example.com:443"))
    assert change(own.world.apply(fewer), "a").action is Action.UPDATE
    other = own.profile(egress=own.egress("git.example.com:443"))
    assert change(own.world.plan(other), "a").action is Action.REPLACE
    with pytest.raises(PlanError, match=r"\*.example.com:443 can't work"):
        own.world.plan(own.profile())
    own.world.apply(fewer)


# -- beside it: networks without a gateway, and the metadata address on one that ends nowhere

ROUTE = """
import errno, socket
for address in ("169.254.169.254", "192.0.2.1"):
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.connect((address, 80))
    print(sock.getsockname()[0])
try:
    socket.create_connection(("169.254.169.254", 80), timeout=30)
except OSError as error:
    print(errno.errorcode[error.errno])
"""


def test_metadata_ends_on_a_network_of_its_own(
    engine_host: str, project: str, agent_image: str, tmp_path: Path
) -> None:
    sink = {
        "internal": True,
        "subnet": "169.254.169.248/29",
        "driver_opts": {"com.docker.network.bridge.inhibit_ipv4": "true"},
    }
    with open_world(engine_host, project, tmp_path, agent_image) as world:
        options = {"network_mode": "bridge", "networks": ["outside", "sink"]}
        profile = world.profile({"a": options}, networks={"outside": {}, "sink": sink})
        try:
            world.apply(profile)
        except ApplyError as error:
            if "overlap" not in str(error):
                raise
            pytest.skip("another network of this engine has the range")
        code, text = world.run(world.ids(profile)["a"], "python3", "-c", ROUTE)
        assert code == 0
        metadata, elsewhere, how = text.split()
        assert metadata.startswith("169.254.169.") and not elsewhere.startswith("169.254.")
        assert how == "EHOSTUNREACH"
        assert "169.254.169." not in Path("/proc/net/fib_trie").read_text()  # the host keeps its own way there
        world.destroy(profile)


# -- its life


def test_a_changed_list_holds_at_once_and_the_agent_runs_on(own: Inside) -> None:
    before = own.world.ids(own.profile())
    assert own.run("curl", "-sS", "https://api.example.com/data") == (0, "served\n")
    changed = own.profile(egress=own.egress(f"{DENIED}:443"))
    plan = own.world.apply(changed)
    assert change(plan, "a").action is Action.UPDATE
    assert own.world.ids(changed) == before
    (id,) = before.values()
    assert own.world.run(id, "curl", "-sS", f"https://{DENIED}/data") == (0, "served\n")
    code, text = own.world.run(id, "curl", "-sS", "https://api.example.com/data")
    assert code == 6 and "Could not resolve" in text
    own.world.apply(own.profile())


def test_a_gateway_that_is_gone_leaves_no_way_out(own: Inside, engine_client: docker.DockerClient) -> None:
    own.gateway(engine_client).kill()
    code, text = own.run("curl", "-sS", "--max-time", "5", "https://api.example.com/data")
    assert code in (6, 7, 28) and "served" not in text
    for name in NAMES:
        own.run("curl", "-sS", "--max-time", "2", f"https://{name}/")
    assert own.outside.seen == [] and own.outside.names.asked == []


def test_what_was_asked_for_is_in_the_evidence(own: Inside) -> None:
    own.run("curl", "-sS", "https://api.example.com/data")
    own.run("curl", "-sS", f"https://{DENIED}/data")
    own.world.destroy(own.profile())
    (entry,) = own.world.store.entries(own.world.project)
    lines = (own.world.store.path / entry.folder / "egress.jsonl").read_text().splitlines()
    told = [(r["host"], r["port"], r["verdict"]) for r in map(json.loads, lines) if r["event"] == "request"]
    assert told == [("api.example.com", 443, "allowed"), (DENIED, 0, "denied")]
