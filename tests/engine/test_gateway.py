"""Real clients in a sandbox, and the hosts they want: those allowed are reached through the gateway, nobody else is."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker
import pytest

from sandboxrun.data import Data
from sandboxrun.plan.changes import Action
from tests.engine.outside import DENIED, FAR, NAMES, Outside, open_outside, why_not
from tests.engine.world import World, change, open_world

AUTHORITY = "/run/configs/authority"
TRUST = ("CURL_CA_BUNDLE", "SSL_CERT_FILE", "GIT_SSL_CAINFO", "PIP_CERT", "NODE_EXTRA_CA_CERTS", "npm_config_cafile")


class Inside(Data):
    """A running sandbox with its outside."""

    world: World
    outside: Outside
    directory: Path

    def egress(self, *allow: str) -> dict[str, Any]:
        return {"allow": list(allow), "private_networks": [self.outside.subnet], "resolvers": [self.outside.names_at]}

    def profile(self, **options: Any) -> Any:
        sandbox = {
            "network_mode": "bridge",
            "egress": self.egress("*.example.com:443", "api.example.com:80", "*.models.example.org:443"),
            "configs": ["authority"],
            "environment": {**dict.fromkeys(TRUST, AUTHORITY), "HOME": "/tmp"},
            "pids_limit": 200,
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

    def requests(self, client: docker.DockerClient) -> list[dict[str, Any]]:
        lines = self.gateway(client).logs(stdout=True, stderr=False).splitlines()
        return [record for record in map(json.loads, lines) if record["event"] == "request"]


def _open(host: str, project: str, folder: Path, image: str) -> Iterator[Inside]:
    if reason := why_not():
        (pytest.fail if os.environ.get("CI") else pytest.skip)(reason)
    with open_outside(folder) as outside, open_world(host, project, folder, image) as world:
        inside = Inside(world=world, outside=outside, directory=folder)
        world.apply(inside.profile())
        yield inside
        world.destroy(inside.profile())


@pytest.fixture(scope="module")
def shared(
    engine_host: str, run_id: str, agent_image: str, gateway_image: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Inside]:
    yield from _open(engine_host, f"{run_id}-clients", tmp_path_factory.mktemp("outside"), agent_image)


@pytest.fixture
def inside(shared: Inside) -> Inside:
    """A sandbox that tests leave as it is."""
    shared.outside.seen.clear()
    shared.outside.names.asked.clear()
    return shared


@pytest.fixture
def own(engine_host: str, project: str, agent_image: str, gateway_image: str, tmp_path: Path) -> Iterator[Inside]:
    """One of the test's own."""
    yield from _open(engine_host, project, tmp_path, agent_image)


# -- clients


def test_curl(inside: Inside) -> None:
    assert inside.run("curl", "-sS", "https://api.example.com/data") == (0, "served\n")
    assert inside.run("curl", "-sS", "http://api.example.com/data") == (0, "served\n")
    assert inside.run("curl", "-sS", "https://a.models.example.org/data") == (0, "served\n")
    assert inside.run("curl", "-sS", "--data", "words", "https://api.example.com/") == (0, "words")
    hosts = [host for host, _, _ in inside.outside.seen]
    assert hosts == ["api.example.com", "api.example.com", "a.models.example.org", "api.example.com"]


def test_curl_where_it_may_not(inside: Inside) -> None:
    code, text = inside.run("curl", "-sS", f"https://{DENIED}/data")
    assert (code, "403" in text) == (56, True), text
    code, text = inside.run("curl", "-sS", f"http://{DENIED}/data")
    assert (code, text) == (
        0,
        f"sandboxrun: denied: {DENIED}:80 is not allowed\n"
        "to permit it, list it under egress: allow: in the sandbox's profile\n",
    )
    assert inside.outside.seen == [] and inside.outside.names.asked == []


def test_python(inside: Inside) -> None:
    script = "import sys, urllib.request as u; print(u.urlopen(sys.argv[1], timeout=20).read().decode(), end='')"
    assert inside.run("python3", "-c", script, "https://api.example.com/data") == (0, "served\n")
    assert inside.run("python3", "-c", script, "http://api.example.com/data") == (0, "served\n")
    code, text = inside.run("python3", "-c", script, f"https://{DENIED}/data")
    assert code == 1 and f"Tunnel connection failed: 403 {DENIED}:443 is not allowed" in text


NODE = """
const http = require("http"), https = require("https"), tls = require("tls");
const proxy = new URL(process.env.HTTPS_PROXY), host = process.argv[1];
http.request({host: proxy.hostname, port: proxy.port, method: "CONNECT", path: `${host}:443`})
  .on("connect", (answer, socket) => {
    if (answer.statusCode !== 200) { console.log(answer.statusCode, answer.statusMessage); process.exit(3); }
    const createConnection = () => tls.connect({socket, servername: host});
    https.get({host, path: "/data", createConnection}, (got) => got.pipe(process.stdout));
  }).end();
"""


def test_node(inside: Inside) -> None:
    assert inside.run("node", "-e", NODE, "api.example.com") == (0, "served\n")
    assert inside.run("node", "-e", NODE, DENIED) == (3, f"403 {DENIED}:443 is not allowed\n")


def test_git(inside: Inside) -> None:
    code, text = inside.sh("cd /tmp && git clone -q https://git.example.com/repo.git && cat repo/README")
    assert (code, text) == (0, "a repository\n")
    code, text = inside.sh(f"cd /tmp && git clone -q https://{DENIED}/repo.git other")
    assert code == 128 and "403" in text


def test_pip(inside: Inside, engine_client: docker.DockerClient) -> None:
    pip = "python3 $(ls /usr/share/python-wheels/pip-*.whl | head -1)/pip --disable-pip-version-check -q install"
    code, text = inside.sh(
        f"{pip} --no-cache-dir --target /tmp/py --index-url https://pypi.example.com/simple demo"
        " && PYTHONPATH=/tmp/py python3 -m demo"
    )
    assert (code, text) == (0, "demo of python\n")
    code, text = inside.sh(f"{pip} --retries 0 --target /tmp/no --index-url https://{DENIED}/simple demo")
    assert code == 1 and "No matching distribution" in text
    assert (inside.requests(engine_client)[-1]["host"], DENIED in inside.outside.names.asked) == (DENIED, False)


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
    assert code == 1 and "403" in text


# -- what gets to nobody


@pytest.mark.parametrize(
    "script",
    [
        pytest.param("getent hosts api.example.com", marks=pytest.mark.full),
        f"getent hosts secret.{DENIED}",
        "curl -sS --noproxy '*' --max-time 5 https://api.example.com/data",
        "env -u HTTPS_PROXY -u https_proxy -u ALL_PROXY -u all_proxy curl -sS --max-time 5 https://api.example.com/data",
    ],
)
def test_names_are_not_resolved_inside(inside: Inside, script: str) -> None:
    code, text = inside.sh(script)
    assert code != 0 and "served" not in text
    assert inside.outside.names.asked == [] and inside.outside.seen == []


def test_a_question_sent_to_any_name_server_gets_no_answer(inside: Inside) -> None:
    """Newer engines' own resolver, 127.0.0.11, says at once that it failed; older ones say nothing."""
    script = (
        "import socket, sys\n"
        "q = b'\\0\\7\\1\\0\\0\\1\\0\\0\\0\\0\\0\\0\\6secret\\7example\\3com\\0\\0\\1\\0\\1'\n"
        "for host in sys.argv[1:]:\n"
        "    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(1)\n"
        "    try:\n"
        "        s.sendto(q, (host, 53)); r = s.recv(512)\n"
        "        print(host, 'no' if r[3] & 15 and r[6:8] == b'\\0\\0' else r)\n"
        "    except OSError as error:\n"
        "        print(host, 'no')\n"
    )
    gateway = "$(echo $HTTP_PROXY | sed 's,.*//,,; s,:.*,,')"
    hosts = f"127.0.0.1 127.0.0.11 {gateway} {inside.outside.names_at}"
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


def test_addresses_are_not_reached_without_the_gateway(inside: Inside) -> None:
    for port in (80, 443):
        code, _ = inside.run(
            "curl", "-sS", "--noproxy", "*", "--max-time", "5", f"http://{inside.outside.server}:{port}/"
        )
        assert code in (7, 28)
    code, text = inside.run("curl", "-sS", f"http://{inside.outside.server}/data")
    assert "is an address" in text
    assert inside.outside.seen == []


def test_an_allowed_name_that_leads_to_metadata(inside: Inside, engine_client: docker.DockerClient) -> None:
    code, text = inside.run("curl", "-sS", f"https://{FAR}/latest/meta-data")
    assert code == 56 and "403" in text
    record = inside.requests(engine_client)[-1]
    assert (record["host"], record["address"], record["reason"]) == (FAR, "169.254.169.254", "reserved")


def test_tls_that_names_another_host_than_its_tunnel(inside: Inside, engine_client: docker.DockerClient) -> None:
    code, _ = inside.run("curl", "-sS", "--connect-to", f"{DENIED}:443:api.example.com:443", f"https://{DENIED}/data")
    assert code != 0 and inside.outside.seen == []
    record = inside.requests(engine_client)[-1]
    assert (record["host"], record["reason"], record["sent"]) == ("api.example.com", "sni", 0)


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
    assert code == 56 and "403" in text
    own.world.apply(own.profile())


def test_a_gateway_that_is_gone_leaves_no_way_out(own: Inside, engine_client: docker.DockerClient) -> None:
    own.gateway(engine_client).kill()
    code, text = own.run("curl", "-sS", "--max-time", "5", "https://api.example.com/data")
    assert code in (5, 7, 28) and "served" not in text
    for name in NAMES:
        own.run("curl", "-sS", "--noproxy", "*", "--max-time", "2", f"https://{name}/")
    assert own.outside.seen == [] and own.outside.names.asked == []


def test_what_was_asked_for_is_in_the_evidence(own: Inside) -> None:
    own.run("curl", "-sS", "https://api.example.com/data")
    own.run("curl", "-sS", f"https://{DENIED}/data")
    own.world.destroy(own.profile())
    (entry,) = own.world.store.entries(own.world.project)
    lines = (own.world.store.path / entry.folder / "egress.jsonl").read_text().splitlines()
    told = [(r["host"], r["port"], r["verdict"]) for r in map(json.loads, lines) if r["event"] == "request"]
    assert told == [("api.example.com", 443, "allowed"), (DENIED, 443, "denied")]
