"""The privilege diff against reality: where it says WIDENED, what `verify` sees from inside is another thing; where it
says nothing, it is the same."""

from __future__ import annotations

import json
import os
from pathlib import Path

import docker

from sandboxrun.audit.diff import compare, side_of
from sandboxrun.probe.controls import BY_ID
from sandboxrun.profile.loader import load
from sandboxrun.spec.privilege import AXES, Way
from tests.conftest import Cli
from tests.engine.world import leads_nowhere

PROFILE = """\
name: {project}
secrets: {{api_key: {{file: key}}}}
sandboxes:
  closed: {{image: '{image}', command: ['true'], network_mode: none}}
  wide:
    image: '{image}'
    command: ['true']
    network_mode: bridge
    egress: open
    cap_add: [NET_RAW]
    user: root
    group_add: ['4']
    read_only: false
    security_opt: [seccomp=unconfined, 'no-new-privileges:false']
    tmpfs: ['/tmp:exec,size=128m']
    volumes: ['./out:/out']
    devices: [{device}]
    secrets: [api_key]
    pids_limit: 1000
    mem_limit: 1g
    cpus: 2
    ulimits: {{nofile: 8192, core: -1}}
"""
DEVICE = next((path for path in ("/dev/fuse", "/dev/net/tun", "/dev/kvm") if os.path.exists(path)), "/dev/full")
# The controls that look at what an axis is about. The others have none, or no value that this engine is sure to take.
SEEN = {
    "capabilities": ["capabilities"],
    "system calls": ["seccomp", "tracing", "own-namespaces", "mounting", "keys", "machine"],
    "confinement": ["no-new-privileges"],
    "user": ["user"],
    "groups": ["groups"],
    "devices": ["devices"],
    "root filesystem": ["root", "writable-mounts"],
    "mounts": ["writable-mounts"],
    "tmpfs": ["noexec", "tmpfs-size"],
    "network": ["routes", "gateway-addresses"],
    "limits": ["memory-limit", "pids-limit", "cpu-quota", "open-files", "ulimits"],
    "secrets": ["secrets-mode", "secrets-memory"],
}
UNCHANGED = ["masked-paths", "propagation", "engine-sockets", "null-device", "descriptors"]


def test_the_axes_and_controls_are_there() -> None:
    assert SEEN.keys() <= {axis.name for axis in AXES}
    assert {*UNCHANGED, *(control for controls in SEEN.values() for control in controls)} <= BY_ID.keys()


def test_what_is_wider_is_seen_from_inside(
    engine_client: docker.DockerClient, cli: Cli, tmp_path: Path, project: str, busybox: str
) -> None:
    path = tmp_path / "sandbox.yaml"
    path.write_text(PROFILE.format(project=project, image=busybox, device=DEVICE))
    (tmp_path / "key").write_text("a-key-of-some-length")
    (tmp_path / "out").mkdir()
    profile = load([path])
    closed, wide = (side_of(sandbox, profile) for sandbox in profile.sandboxes)
    widened = {axis for axis, step in compare(closed, wide) if step.way is Way.WIDENED}
    assert SEEN.keys() <= widened
    assert not any(step.way is Way.WIDENED for axis, step in compare(wide, closed) if axis in SEEN)

    found = json.loads(cli("verify", "--json").out)
    by_name = {one["sandbox"]: {f["control"]: f for f in one["findings"]} for one in found["sandboxes"]}
    told = {name: {key: (f["verdict"], f["seen"]) for key, f in every.items()} for name, every in by_name.items()}
    same = [(axis, key) for axis in SEEN for key in SEEN[axis] if told["closed"][key] == told["wide"][key]]
    expected = [("devices", "devices")] if DEVICE == "/dev/full" else []  # which every container has
    if leads_nowhere(engine_client):
        expected.append(("network", "routes"))
    assert same == expected
    assert {key for key in UNCHANGED if told["closed"][key] != told["wide"][key]} == set()
    assert {key: seen for key, seen in told["wide"].items() if seen[0] in ("does_not_hold", "inconclusive")} == {}
